//! How a run ends, and the last look at its guest.

use vmm_core::evidence::{End, Event, Onward, PlaceKind, Places, Seen, What};
use vmm_core::inspect::InspectError;
use vmm_core::scenario::HoldUntil;

use super::sender::STOPS;
use super::{Cpu, Live};
use crate::conductor;
use crate::subject::linux::run::{Error, ended};

/// What a run showed.
pub(in crate::subject::linux) struct Story {
    pub(in crate::subject::linux) events: Vec<Event>,
    pub(in crate::subject::linux) places: Places,
    /// Ramoops' zone before a capture kernel began it anew.
    pub(in crate::subject::linux) ramoops: Option<Vec<u8>>,
    /// The log as the capture kernel has read it.
    pub(in crate::subject::linux) dmesg: Option<Vec<u8>>,
}

impl Live<'_> {
    /// Whether the sender waits for a CPU that is held for ever, and does so for ever, too: its message waits in
    /// console_trylock_spinning() (Linux kernel/printk/printk.c) for the owner of the console.
    pub(super) fn look_for_deadlock(&mut self) -> Result<(), Error> {
        self.look(0)?;
        if self.capture.is_some() {
            return self.look_at_capture();
        }
        let calls = |cpu: &Cpu| cpu.call.as_ref().is_some_and(|call| !call.returned);
        let holds = |cpu: &Cpu| {
            let held = cpu.held.as_ref();
            held.is_some_and(|held| held.hold.until == HoldUntil::Never)
        };
        if !self.cpus.iter().any(calls) || !self.cpus.iter().any(holds) {
            return Ok(());
        }
        let waits = match self.around.kernel.console() {
            Ok(console) => console.waiter,
            Err(InspectError::NoSymbol { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        let inside = self.around.tap.inside();
        if waits && inside.iter().any(|cpu| holds(&self.cpus[*cpu])) {
            self.over = Some(End::Complete);
        }
        Ok(())
    }

    pub(super) fn standings(&self) -> Vec<String> {
        let quiesced = self.conductor.quiesce();
        let places = &self.around.places;
        let standings = quiesced.standings().into_iter().enumerate();
        standings
            .filter_map(|(cpu, standing)| {
                let standing = standing?.ok()?;
                if self.cpus[cpu].gone && !standing.off {
                    let words = self.around.tap.last_words();
                    return Some(format!("CPU {cpu} is in it, and it said: {words}"));
                }
                let at = places.describe(standing.pc);
                (!standing.off).then(|| format!("CPU {cpu} at {at}"))
            })
            .collect()
    }

    pub(super) fn ended(&mut self) -> Result<(), Error> {
        let how = ended(self.conductor)?;
        if self.capture.is_some() {
            self.capture_ended(match how {
                conductor::End::Reset => "it reset the machine",
                _ => "it powered the machine off",
            });
            return Ok(());
        }
        let sender = self.cpus.iter().position(|cpu| cpu.call.is_some());
        self.look(sender.unwrap_or(0))?;
        match how {
            conductor::End::Reset => {
                self.say(
                    sender.unwrap_or(0),
                    Seen::Trapped,
                    What::Goes(Onward::Reset),
                );
                self.over = Some(End::Complete);
            }
            _ => self.over = Some(End::CutShort("the guest powered itself off".to_owned())),
        }
        Ok(())
    }

    /// Which stop is active on a CPU. The handler of a stop does not come back.
    fn active(&mut self, cpu: usize) -> Result<(), Error> {
        let (gic, mpidr) = (&self.around.gic, self.around.mpidrs[cpu]);
        let active = gic.interrupts(mpidr)?.active;
        let priorities = gic.priorities(mpidr)?;
        for sgi in STOPS.map(|sgi| sgi as u8) {
            if active >> sgi & 1 == 1 {
                let priority = priorities[usize::from(sgi)];
                self.say(cpu, Seen::Quiesce, What::Active { sgi, priority });
            }
        }
        Ok(())
    }

    /// The last look.
    pub(in crate::subject::linux) fn finish(mut self) -> Result<Story, Error> {
        let quiesced = self.conductor.quiesce();
        self.look(0)?;
        self.around.kernel.log()?.damage(self.watch.cpus())?;
        for cpu in 0..self.cpus.len() {
            self.noted(cpu);
        }
        let standings = quiesced.standings();
        for cpu in 0..self.cpus.len() {
            self.active(cpu)?;
        }
        for (cpu, standing) in standings.into_iter().enumerate() {
            let Some(Ok(standing)) = standing else {
                continue;
            };
            let place = self.around.places.at(standing.pc);
            let in_path = place.is_some_and(|place| place.kind == PlaceKind::StopPath);
            let masked = standing.pstate >> 6 & 0xf == 0xf;
            let own = &self.cpus[cpu];
            if own.hand.is_some() && !own.rests && !standing.off && in_path && masked {
                self.say(cpu, Seen::Quiesce, What::Parks);
            }
        }
        let pcs: Vec<u64> = self
            .events
            .iter()
            .filter_map(|event| match &event.what {
                What::Notes(note) => Some(note.regs().pc),
                What::Takes {
                    regs: Some(regs), ..
                } => Some(regs.pc),
                _ => None,
            })
            .collect();
        let mut places = self.around.places;
        places.0.retain(|place| {
            place.kind != PlaceKind::Other
                || pcs.iter().any(|pc| place.start <= *pc && *pc < place.end)
        });
        Ok(Story {
            events: self.events,
            places,
            ramoops: self.ramoops,
            dmesg: self.dmesg,
        })
    }
}
