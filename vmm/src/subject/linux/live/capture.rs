//! The capture kernel: the sender goes to it, and what the others do from then on.

use guest_abi::note::NOTE_BYTES;
use guest_abi::point::Point;
use vmm_core::arm::CpuId;
use vmm_core::evidence::{End, Event, Note, Onward, Seen, What};

use super::sender::STOPS;
use super::{Live, STAND};
use crate::conductor::Next;
use crate::subject::linux::capture::{Handed, brought};
use crate::subject::linux::run::Error;
use crate::subject::linux::tap::Stage;

impl Live<'_> {
    /// A CPU enters `machine_kexec()`. From there on its code is another kernel's.
    pub(super) fn leaves(&mut self, cpu: usize) -> Result<(), Error> {
        self.look(cpu)?;
        self.logged(cpu)?;
        // The capture kernel has ramoops, too, and begins it anew.
        let ramoops = self.around.ramoops.as_ref();
        self.ramoops = ramoops.map(|zone| self.around.ram.bytes(zone));
        self.say(cpu, Seen::Trapped, What::Goes(Onward::Kexec));
        self.capture = Some(cpu);
        self.around.tap.forget_words();
        let quiesced = self.conductor.quiesce();
        for other in 0..self.cpus.len() {
            self.pending(other)?;
            if other == cpu || self.cpus[other].rests {
                self.give_up(other)?;
            }
        }
        drop(quiesced);
        Ok(())
    }

    /// Which stops are pending on a CPU: KVM keeps them while it is powered off.
    fn pending(&mut self, cpu: usize) -> Result<(), Error> {
        let pending = self.around.gic.interrupts(self.around.mpidrs[cpu])?.pending;
        for sgi in STOPS.map(|sgi| sgi as u8) {
            if pending >> sgi & 1 == 1 {
                self.say(cpu, Seen::Quiesce, What::Pending { sgi });
            }
        }
        Ok(())
    }

    /// This CPU runs the capture kernel, or will if that brings it up: nothing of it is trapped any more.
    pub(super) fn give_up(&mut self, cpu: usize) -> Result<(), Error> {
        self.cpus[cpu].gone = true;
        self.cpus[cpu].spots.clear();
        self.around.tap.capture(cpu);
        self.arm(cpu)
    }

    /// The capture kernel has come further.
    pub(super) fn captured(&mut self, cpu: usize, sender: usize) -> Result<(), Error> {
        let (stage, said) = self.around.tap.stage();
        match stage {
            Some(Stage::Up) => self.capture_up(sender)?,
            Some(Stage::Written) => self.handed(sender),
            Some(Stage::Done) => self.brought(&said, None)?,
            // What follows is no more than how it gets along with that.
            Some(Stage::Complains(line)) => self.brought(&said, Some(&line))?,
            None => {}
        }
        self.conductor.thaw(cpu);
        Ok(())
    }

    /// Whoever is let go when it is up has the time to come to rest before it goes on, if it is one that stops at all.
    fn capture_up(&mut self, sender: usize) -> Result<(), Error> {
        self.say(sender, Seen::Told, What::CaptureUp);
        let held = |live: &Self| -> Vec<usize> {
            let cpus = live.cpus.iter().enumerate();
            let held = cpus.filter(|(_, own)| own.held.is_some());
            held.map(|(cpu, _)| cpu).collect()
        };
        let before = held(self);
        self.comes(sender, Point::CaptureUp)?;
        let still = held(self);
        let freed = before.iter().filter(|cpu| !still.contains(cpu));
        let freed: Vec<usize> = freed.copied().collect();
        let limit = (self.conductor.now() + STAND).min(self.around.deadline);
        while self.over.is_none() && !freed.iter().all(|cpu| self.cpus[*cpu].rests) {
            match self.conductor.next_trap(limit) {
                Next::Trapped(other, trap) => self.trapped(other, trap)?,
                Next::Late => break,
                Next::Ended => self.ended()?,
            }
        }
        Ok(())
    }

    /// What it says of the notes and the log.
    fn handed(&mut self, sender: usize) {
        match Handed::find(self.around.ram) {
            Ok(handed) => {
                for cpu in 0..self.cpus.len() {
                    self.noted(cpu);
                }
                self.vmcore_notes(sender, handed.notes);
                self.dmesg = Some(handed.dmesg);
            }
            Err(what) => {
                let why = format!("what it hands over cannot be read: {what}");
                self.say(sender, Seen::Told, What::CaptureFails(why.into()));
            }
        }
    }

    /// Whether the capture kernel waits for a CPU that cannot come.
    pub(super) fn look_at_capture(&mut self) -> Result<(), Error> {
        let (_, said) = self.around.tap.stage();
        if let Some((cpu, None)) = brought(&said).pop()
            && self.takes_old_stop(cpu)?.is_some()
        {
            self.brought(&said, None)?;
        }
        Ok(())
    }

    /// The stop's SGI that was pending on a CPU when the sender left and is active now: it was taken by the capture kernel, which takes it
    /// for its own, and whose handler does not come back.
    fn takes_old_stop(&self, cpu: CpuId) -> Result<Option<u8>, Error> {
        let quiesced = self.conductor.quiesce();
        let mpidr = self.around.mpidrs[cpu.index()];
        let active = self.around.gic.interrupts(mpidr)?.active;
        drop(quiesced);
        let pending = self.events.iter().filter(|event| event.cpu == cpu);
        let mut pending = pending.filter_map(|event| match event.what {
            What::Pending { sgi } => Some(sgi),
            _ => None,
        });
        Ok(pending.find(|sgi| active >> sgi & 1 == 1))
    }

    /// What came of the CPUs that it was to bring online, one of which its log may complain of. That is the end.
    fn brought(&mut self, said: &[u8], complaint: Option<&str>) -> Result<(), Error> {
        self.over = Some(End::Complete);
        for (cpu, outcome) in brought(said) {
            let why = match (outcome, complaint) {
                (Some(Ok(())), _) => None,
                (Some(Err(why)), None) => Some(why),
                (_, Some(complaint)) => Some(complaint.to_owned()),
                (None, None) => Some("it does not come back".to_owned()),
            };
            let why = match (why, self.takes_old_stop(cpu)?) {
                (Some(why), Some(sgi)) => Some(format!(
                    "it takes the stop that was pending on it (SGI {sgi}); {why}"
                )),
                (why, _) => why,
            };
            let what = match why {
                None => What::ComesUp,
                Some(why) => {
                    What::CaptureFails(format!("CPU {cpu} is not brought online: {why}").into())
                }
            };
            self.say(cpu.index(), Seen::Told, what);
        }
        Ok(())
    }

    /// A vmcore's notes do not say whose they are, and empty ones are left out (Linux fs/proc/vmcore.c, merge_note_headers_elf64()): each
    /// belongs to the CPU that has it in memory, and those that nobody has belong to those that have others, in their order.
    fn vmcore_notes(&mut self, sender: usize, mut notes: Vec<Note>) {
        let known: Vec<(usize, Note)> = self.watch.notes().collect();
        let mut strange = Vec::new();
        for (cpu, in_memory) in known {
            match notes.iter().position(|note| *note == in_memory) {
                Some(at) => self.vmcore_note(cpu, notes.remove(at)),
                None => strange.push(cpu),
            }
        }
        let mut notes = notes.into_iter();
        for cpu in strange {
            self.vmcore_note(cpu, notes.next().unwrap_or(Note([0; NOTE_BYTES])));
        }
        let more = notes.count();
        if more > 0 {
            let why = format!("its vmcore has {more} notes that are not in memory");
            self.say(sender, Seen::Told, What::CaptureFails(why.into()));
        }
    }

    fn vmcore_note(&mut self, cpu: usize, note: Note) {
        self.tell(Event {
            at_us: self.now(),
            cpu: CpuId(cpu as u16),
            seen: Seen::Told,
            masks: None,
            what: What::CaptureNote(note.into()),
        });
    }

    /// The capture kernel has ended the run before it has handed over what it was to.
    pub(super) fn capture_ended(&mut self, how: &str) {
        let Some(sender) = self.capture else {
            return;
        };
        let why = match self.around.tap.capture_panicked() {
            Some(why) => format!("it panicked: {why}"),
            None => format!("{how}; it said: {}", self.around.tap.last_words()),
        };
        self.say(sender, Seen::Trapped, What::CaptureFails(why.into()));
        self.over = Some(End::Complete);
    }
}
