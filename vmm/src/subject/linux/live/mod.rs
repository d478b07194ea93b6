//! A Linux guest from init's question to its end: who is trapped where, who is held, and what is seen.

mod holds;
mod sender;

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_abi::point::Point;
use guest_abi::protocol::{Protocol, Request};
use vmm_core::arm::{CpuId, CpuSet};
use vmm_core::evidence::{
    End, Event, Hand, Interrupt, Manner, Masks, Onward, PlaceKind, Places, Regs, Seen, StopKind,
    What,
};
use vmm_core::inspect::{InspectError, Kernel};
use vmm_core::scenario::{Does, Hold, HoldUntil, Passing, Scenario};

use crate::conductor::{self, Conductor, Next, Stepped, Trap};
use crate::kvm::{self, Clock, KvmVcpu};
use crate::subject::Hear;
use crate::subject::linux::guest::{self, Functions, Ram, Watch};
use crate::subject::linux::plan::passings;
use crate::subject::linux::run::{Error, ended};
use crate::subject::linux::tap::{self, Tap};
use crate::vcpu::{Traps, Vcpu as _};
use sender::STOPS;

/// What lies around the vCPUs.
pub(in crate::subject::linux) struct Around<'a> {
    pub(super) ram: &'a Ram,
    pub(super) kernel: &'a Kernel<'a, Ram>,
    pub(super) functions: Functions,
    pub(super) tap: &'a Tap,
    pub(super) clock: Clock,
    pub(super) protocol: &'static Protocol,
    pub(super) deadline: Instant,
    pub(super) places: Places,
}

/// Why a vCPU is trapped at an instruction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Spot {
    /// `panic()`.
    Panics,
    /// A stop is called.
    Calls(StopKind),
    /// An IPI is sent.
    Sends,
    /// A stop has been sent; the stack pointer tells this call from another one.
    Sent(u64),
    /// Something is printed.
    Says,
    /// The stop returns; the stack pointer tells this call from another one.
    Returns(u64),
    /// `console_flush_on_panic()`, and its end.
    Flushes,
    Flushed(u64),
    /// The handler of every IPI.
    Handles,
    /// `panic_smp_self_stop()`.
    SelfStops,
    /// A point of the scenario.
    Comes(Point),
    /// Where it is held.
    Spins,
}

#[derive(Clone, Debug)]
struct Held {
    hold: Hold,
    /// Its registers, where it spins.
    regs: Option<Arc<Regs>>,
}

/// A stop that a CPU is in.
#[derive(Clone, Debug)]
struct Call {
    /// The last request, and whom it went to.
    sent: Option<(Request, CpuSet)>,
    /// The rung that is being climbed, and since when.
    rung: Option<(Request, u64)>,
    returned: bool,
}

#[derive(Clone, Debug, Default)]
struct Cpu {
    spots: Vec<(u64, Spot)>,
    /// Its program counter and stack pointer, where its spot has been dealt with and the instruction was not executed: an
    /// interrupt came first.
    passed: Option<(u64, u64)>,
    /// It is kept at its spot until this has come.
    awaits: Option<Passing>,
    held: Option<Held>,
    hand: Option<Hand>,
    handles_stop: bool,
    rests: bool,
    /// It spins with interrupts masked.
    masks_irqs: bool,
    call: Option<Call>,
    panicked: bool,
}

/// The sender stands still behind a request until those who can have taken it. Its rungs are counted in turns, and a loaded host
/// must not use them up while nobody else runs.
#[derive(Clone, Debug)]
struct Stand {
    sender: usize,
    /// Who is to take the request before it goes on.
    awaited: CpuSet,
    /// Whose holds end meanwhile, and when that is in the guest's time.
    freed: Option<(CpuSet, u64)>,
    /// The guest's time when it began; none passes beyond the end of the holds.
    since: u64,
    /// When it ends in any case.
    limit: Instant,
}

/// A stand ends after so long although somebody has not taken the request: it will be the sender's to say so.
const STAND: Duration = Duration::from_secs(5);

/// When nobody has been trapped for so long it is looked at why.
const QUIET: Duration = Duration::from_secs(3);

/// What a run showed.
pub(in crate::subject::linux) struct Story {
    pub(super) events: Vec<Event>,
    pub(super) places: Places,
    /// How long rungs took that ran out.
    pub(super) rungs: Vec<(Request, u64)>,
}

/// The guest.
pub(in crate::subject::linux) struct Live<'a> {
    scenario: &'a Scenario,
    conductor: &'a Conductor<KvmVcpu>,
    around: Around<'a>,
    watch: Watch,
    cpus: Vec<Cpu>,
    /// The virtual interrupt number of SGI 0.
    ipi_base: Option<u64>,
    passed: Vec<Passing>,
    first_request: Option<u64>,
    stand: Option<Stand>,
    /// What is added to the guest's time: the time of stands is given back, and holds that end in them are as long as they should be.
    shift: i64,
    loglevel: u32,
    rungs: Vec<(Request, u64)>,
    began: Instant,
    began_us: Option<u64>,
    over: Option<End>,
    events: Vec<Event>,
    hear: &'a mut dyn Hear,
}

impl<'a> Live<'a> {
    /// The guest waits for init's answer, and all its vCPUs are held.
    pub(super) fn new(
        scenario: &'a Scenario,
        conductor: &'a Conductor<KvmVcpu>,
        around: Around<'a>,
        watch: Watch,
        hear: &'a mut dyn Hear,
    ) -> Result<Self, Error> {
        let loglevel = match around.kernel.symbol("console_printk") {
            Ok(at) => around.kernel.space.u32("console_printk", at)?,
            // What `quiet` sets.
            Err(InspectError::NoSymbol { .. }) => 4,
            Err(error) => return Err(error.into()),
        };
        let began_us = around.clock.now_us();
        around.tap.record();
        let inside = around.tap.inside();
        let mut live = Self {
            scenario,
            conductor,
            around,
            watch,
            cpus: vec![Cpu::default(); usize::from(scenario.cpus)],
            ipi_base: None,
            passed: Vec::new(),
            first_request: None,
            stand: None,
            shift: 0,
            loglevel,
            rungs: Vec::new(),
            began: Instant::now(),
            began_us,
            over: None,
            events: Vec::new(),
            hear,
        };
        for cpu in inside {
            live.say(cpu, Seen::Quiesce, What::Enters);
        }
        for cpu in 0..live.cpus.len() {
            live.cpus[cpu].spots = live.first_spots(cpu)?;
        }
        for task in &scenario.tasks {
            live.cpus[task.cpu.index()].masks_irqs |= task.does == Does::MaskIrqs;
        }
        let waits = live.scenario.tasks.iter().any(|task| task.after.is_some());
        if !waits {
            live.catch_at_console();
        }
        Ok(live)
    }

    fn first_spots(&self, cpu: usize) -> Result<Vec<(u64, Spot)>, Error> {
        let functions = &self.around.functions;
        let mut spots = vec![
            (functions.panic, Spot::Panics),
            (functions.plain_stop, Spot::Calls(StopKind::Plain)),
            (functions.handler, Spot::Handles),
            (functions.self_stop, Spot::SelfStops),
        ];
        spots.extend(
            functions
                .crash_stop
                .map(|at| (at, Spot::Calls(StopKind::Crash))),
        );
        spots.extend(self.points_of(cpu)?);
        Ok(spots)
    }

    /// The scenario's points of this CPU that are entries of functions.
    fn points_of(&self, cpu: usize) -> Result<Vec<(u64, Spot)>, Error> {
        let mut spots = Vec::new();
        for passing in passings(self.scenario) {
            if passing.cpu.index() == cpu
                && let Some(at) = guest::entry(self.around.kernel, passing.at)?
            {
                spots.push((at, Spot::Comes(passing.at)));
            }
        }
        Ok(spots)
    }

    /// Sets every vCPU's traps.
    pub(super) fn arm_all(&self) -> Result<(), Error> {
        (0..self.cpus.len()).try_for_each(|cpu| self.arm(cpu))
    }

    fn on<T: Send + 'static>(
        &self,
        cpu: usize,
        job: impl FnOnce(&mut KvmVcpu) -> Result<T, kvm::Error> + Send + 'static,
    ) -> Result<T, Error> {
        Ok(self.conductor.on(cpu, job).ok_or(Error::Gone)??)
    }

    /// Sets the traps of a vCPU that is held.
    fn arm(&self, cpu: usize) -> Result<(), Error> {
        let mut breakpoints: Vec<u64> = self.cpus[cpu].spots.iter().map(|(at, _)| *at).collect();
        breakpoints.sort_unstable();
        breakpoints.dedup();
        let traps = Traps {
            breakpoints,
            watchpoints: self.watch.watched(),
            step: false,
        };
        self.on(cpu, move |vcpu| vcpu.trap_on(&traps))
    }

    /// Has a vCPU execute the instruction at which it is trapped, and nothing else; false if an interrupt came first.
    fn step_over(&mut self, cpu: usize) -> Result<bool, Error> {
        let traps = Traps {
            step: true,
            ..Traps::default()
        };
        self.on(cpu, move |vcpu| vcpu.trap_on(&traps))?;
        let executed = match self.conductor.step(cpu, self.around.deadline) {
            Stepped::Trapped(Trap::Stepped) => {
                let pc = self.on(cpu, |vcpu| vcpu.registers())?.pc;
                !self.around.functions.vectors.contains(&pc)
            }
            // It powers itself off by the instruction that it was to execute, or stores to a device: either way it was executed.
            Stepped::Trapped(_) => true,
            Stepped::Late | Stepped::Ended => return Ok(true),
        };
        self.arm(cpu)?;
        Ok(executed)
    }

    /// Lets a vCPU go on from where it is trapped.
    fn pass(&mut self, cpu: usize, regs: &Regs) -> Result<(), Error> {
        let executed = self.step_over(cpu)?;
        self.cpus[cpu].passed = (!executed).then_some((regs.pc, regs.sp));
        self.conductor.thaw(cpu);
        Ok(())
    }

    /// The guest's clock since init's question.
    fn clock(&self) -> u64 {
        let guest = self
            .began_us
            .zip(self.around.clock.now_us())
            .map(|(began, now)| now.saturating_sub(began));
        guest.unwrap_or_else(|| self.began.elapsed().as_micros() as u64)
    }

    /// The time of an event.
    fn now(&self) -> u64 {
        let now = self.clock().saturating_add_signed(self.shift);
        match &self.stand {
            Some(Stand { since, freed, .. }) => {
                now.min(freed.as_ref().map_or(*since, |(_, until)| *until))
            }
            None => now,
        }
    }

    fn say(&mut self, cpu: usize, seen: Seen, what: What) {
        self.say_with(cpu, seen, None, what);
    }

    fn say_with(&mut self, cpu: usize, seen: Seen, masks: Option<Masks>, what: What) {
        let event = Event {
            at_us: self.now(),
            cpu: CpuId(cpu as u16),
            seen,
            masks,
            what,
        };
        self.hear.event(&event);
        self.events.push(event);
    }

    /// Follows the guest to its end.
    pub(super) fn drive(&mut self) -> Result<End, Error> {
        while self.over.is_none() {
            let next = match &self.stand {
                Some(stand) => Some(stand.limit),
                None => self.next_release(),
            };
            let deadline = next
                .unwrap_or_else(|| Instant::now() + QUIET)
                .min(self.around.deadline);
            match self.conductor.next_trap(deadline) {
                Next::Trapped(cpu, trap) => {
                    self.trapped(cpu, trap)?;
                    self.stand_or_go_on()?;
                }
                Next::Late if Instant::now() >= self.around.deadline => {
                    self.look(0)?;
                    let at: Vec<String> = self.standings();
                    let why = format!(
                        "the run had not ended when its time was up (--timeout); {}",
                        at.join("; ")
                    );
                    self.over = Some(End::CutShort(why));
                }
                Next::Late if self.stand.is_some() => self.stand_or_go_on()?,
                Next::Late if next.is_some() => self.release_in_time()?,
                Next::Late => self.look_for_deadlock()?,
                Next::Ended => self.ended()?,
            }
        }
        Ok(self.over.clone().expect("the loop ends when it is over"))
    }

    /// Whether the sender waits for a CPU that is held for ever, and does so for ever, too: its message waits in
    /// console_trylock_spinning() (Linux kernel/printk/printk.c) for the owner of the console.
    fn look_for_deadlock(&mut self) -> Result<(), Error> {
        self.look(0)?;
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

    fn standings(&self) -> Vec<String> {
        let quiesced = self.conductor.quiesce();
        let places = &self.around.places;
        let standings = quiesced.standings().into_iter().enumerate();
        standings
            .filter_map(|(cpu, standing)| {
                let standing = standing?.ok()?;
                let at = places.describe(standing.pc);
                (!standing.off).then(|| format!("CPU {cpu} at {at}"))
            })
            .collect()
    }

    fn ended(&mut self) -> Result<(), Error> {
        let how = ended(self.conductor)?;
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

    /// What has come to memory and over the wire since the last look. The log first: no byte of a record is sent before it is stored.
    fn look(&mut self, cpu: usize) -> Result<(), Error> {
        let seen = self.around.tap.take();
        if !seen.is_empty() {
            self.logged(cpu)?;
        }
        for (cpu, seen) in seen {
            let what = match seen {
                tap::Seen::Enters => What::Enters,
                tap::Seen::Wire(bytes) => What::Wire(bytes.into()),
                tap::Seen::Leaves => What::Leaves,
            };
            self.say(cpu, Seen::Trapped, what);
        }
        self.noted(cpu);
        Ok(())
    }

    fn logged(&mut self, cpu: usize) -> Result<(), Error> {
        let panicked = self.cpus.iter().any(|cpu| cpu.panicked);
        // The ring does not say which CPU stored a record. In a stop it is the sender: the others may no longer.
        let sender = self
            .cpus
            .iter()
            .position(|cpu| cpu.call.is_some() || cpu.panicked);
        let cpu = sender.unwrap_or(cpu);
        for (level, text) in self.watch.records(self.around.kernel)? {
            let what = What::Logs {
                level,
                text: text.into(),
                // panic() lets the console show all (console_verbose()).
                shown: panicked || u32::from(level) < self.loglevel,
            };
            self.say(cpu, Seen::Quiesce, what);
        }
        Ok(())
    }

    fn noted(&mut self, cpu: usize) {
        if let Some(note) = self.watch.note(self.around.ram, cpu) {
            self.say(cpu, Seen::Quiesce, What::Notes(Arc::new(note)));
        }
    }

    fn trapped(&mut self, cpu: usize, trap: Trap) -> Result<(), Error> {
        match trap {
            Trap::Breakpoint => self.at_spot(cpu),
            Trap::Watchpoint { .. } => {
                self.look(cpu)?;
                self.step_over(cpu)?;
                let hand = self.cpus[cpu].hand;
                for (whose, word) in self.watch.cleared(self.around.ram, CpuId(cpu as u16)) {
                    // What a sender does with the words that it fills is nobody's ack.
                    if let Some(by) = hand {
                        self.say(whose.index(), Seen::Trapped, What::Clears { word, by });
                    }
                }
                self.conductor.thaw(cpu);
                Ok(())
            }
            Trap::Tapped => {
                self.look(cpu)?;
                let point = self.caught(cpu);
                match point {
                    Some(point) => self.comes(cpu, point),
                    None => {
                        self.conductor.thaw(cpu);
                        Ok(())
                    }
                }
            }
            Trap::Off => {
                self.look(cpu)?;
                self.cpus[cpu].rests = true;
                self.say(cpu, Seen::Trapped, What::PowersOff);
                self.conductor.thaw(cpu);
                Ok(())
            }
            Trap::Stepped => {
                self.conductor.thaw(cpu);
                Ok(())
            }
        }
    }

    fn at_spot(&mut self, cpu: usize) -> Result<(), Error> {
        let regs = self.on(cpu, |vcpu| vcpu.registers())?;
        if self.cpus[cpu].passed.take() == Some((regs.pc, regs.sp)) {
            return self.pass(cpu, &regs);
        }
        let spots: Vec<Spot> = self.cpus[cpu]
            .spots
            .iter()
            .filter(|(at, _)| *at == regs.pc)
            .map(|(_, spot)| *spot)
            .collect();
        if spots.contains(&Spot::Spins) {
            // Once more: a pending interrupt that its masks let in comes first.
            self.conductor.thaw(cpu);
            return Ok(());
        }
        for spot in spots {
            self.happens(cpu, spot, &regs)?;
        }
        let own = &self.cpus[cpu];
        let stands = self.stand.as_ref().is_some_and(|stand| stand.sender == cpu);
        let stays = own.awaits.is_some() || own.held.is_some() || stands;
        if self.over.is_none() && !stays {
            self.pass(cpu, &regs)?;
        } else if own
            .held
            .as_ref()
            .is_some_and(|held| held.hold.manner == Manner::Spin)
        {
            self.conductor.thaw(cpu);
        }
        Ok(())
    }

    fn happens(&mut self, cpu: usize, spot: Spot, regs: &Regs) -> Result<(), Error> {
        match spot {
            Spot::Panics => {
                self.look(cpu)?;
                self.cpus[cpu].panicked = true;
                self.come_as_sender(cpu, Does::Panic);
            }
            Spot::Calls(stop) => self.calls(cpu, stop, regs)?,
            Spot::Sends => self.sends(cpu, regs)?,
            Spot::Sent(sp) if sp == regs.sp => self.sent(cpu),
            Spot::Sent(_) => {}
            Spot::Says => self.says(cpu, regs)?,
            Spot::Returns(sp) if sp == regs.sp => self.returns(cpu)?,
            Spot::Returns(_) => {}
            Spot::Flushes => {
                let back = (regs.x[30], Spot::Flushed(regs.sp));
                self.cpus[cpu]
                    .spots
                    .retain(|(_, spot)| !matches!(spot, Spot::Flushed(_)));
                self.cpus[cpu].spots.push(back);
            }
            Spot::Flushed(sp) if sp == regs.sp => self.flushed(cpu)?,
            Spot::Flushed(_) => {}
            Spot::Handles => self.handles(cpu, regs)?,
            Spot::SelfStops => {
                self.look(cpu)?;
                self.cpus[cpu].hand = Some(Hand::SelfStop);
                self.say(cpu, Seen::Trapped, What::SelfStops);
            }
            Spot::Comes(point) => self.comes(cpu, point)?,
            Spot::Spins => {}
        }
        Ok(())
    }

    fn handles(&mut self, cpu: usize, regs: &Regs) -> Result<(), Error> {
        let base = match self.ipi_base {
            Some(base) => base,
            // No stop has been sent.
            None => return Ok(()),
        };
        let sgi = (regs.x[0] & u64::from(u32::MAX)).wrapping_sub(base);
        if !STOPS.contains(&sgi) {
            return Ok(());
        }
        self.look(cpu)?;
        let own = &mut self.cpus[cpu];
        let first = !std::mem::replace(&mut own.handles_stop, true);
        own.hand = Some(Hand::Handler);
        let met = match own.held.as_ref().filter(|_| first) {
            Some(held) => held.regs.clone(),
            None => None,
        };
        if first {
            own.spots.retain(|(_, spot)| *spot != Spot::Spins);
            self.arm(cpu)?;
        }
        let by = Interrupt::Stop(self.via(sgi));
        self.say(cpu, Seen::Trapped, What::Takes { by, regs: met });
        // Its hold has ended by that: it will not come back.
        self.cpus[cpu].held = None;
        Ok(())
    }

    /// The last look.
    pub(super) fn finish(mut self) -> Result<Story, Error> {
        self.look(0)?;
        for cpu in 0..self.cpus.len() {
            self.noted(cpu);
        }
        let quiesced = self.conductor.quiesce();
        let standings = quiesced.standings();
        drop(quiesced);
        for (cpu, standing) in standings.into_iter().enumerate() {
            let Some(Ok(standing)) = standing else {
                continue;
            };
            let place = self.around.places.at(standing.pc);
            let in_path = place.is_some_and(|place| place.kind == PlaceKind::StopPath);
            let masked = standing.pstate >> 6 & 0xf == 0xf;
            if self.cpus[cpu].hand.is_some() && !standing.off && in_path && masked {
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
            rungs: self.rungs,
        })
    }
}
