//! A Linux guest from init's question to its end: who is trapped where, who is held, and what is seen.

mod capture;
mod end;
mod holds;
mod sender;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_abi::point::Point;
use guest_abi::protocol::{Protocol, Request, Word};
use vmm_core::arm::{CpuId, CpuSet, KernelVa, Mpidr};
use vmm_core::evidence::{
    End, Event, Hand, Interrupt, Manner, Masks, Places, Regs, Seen, StopKind, What,
};
use vmm_core::inspect::{InspectError, Kernel};
use vmm_core::scenario::{Cause, Does, Hold, Passing, Scenario};

use crate::conductor::{Conductor, Frozen, Next, Stepped, Trap};
use crate::kvm::{self, Clock, Gic, KvmVcpu};
use crate::machine::Ram;
use crate::subject::linux::guest::{self, Functions, Watch};
use crate::subject::linux::plan::{self, Where, passings};
use crate::subject::linux::run::Error;
use crate::subject::linux::tap::{self, Tap};
use crate::subject::{Hear, StopAt};
use crate::vcpu::{Owner, Traps, Vcpu as _};
use sender::STOPS;

/// What lies around the vCPUs.
pub(in crate::subject::linux) struct Around<'a> {
    pub(super) ram: &'a Ram,
    pub(super) kernel: &'a Kernel<'a, Ram>,
    pub(super) functions: Functions,
    pub(super) tap: &'a Tap,
    pub(super) clock: Clock,
    pub(super) gic: Gic,
    pub(super) mpidrs: Vec<Mpidr>,
    /// Where ramoops keeps the console.
    pub(super) ramoops: Option<Range<u64>>,
    /// Hardware breakpoints of a vCPU.
    pub(super) breakpoints: usize,
    pub(super) protocol: &'static Protocol,
    pub(super) deadline: Instant,
    pub(super) places: Places,
    /// Where a debugger is to look.
    pub(super) stop_at: Option<StopAt>,
}

/// Why a vCPU is trapped at an instruction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Spot {
    /// `panic()`.
    Panics,
    /// It has masked its interrupts, after `panic()`'s first few instructions.
    Masks,
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
    /// `machine_kexec()`.
    Leaves,
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
    /// That it climbs, until it is seen to.
    climb: Option<What>,
    /// The last request, and whom it went to.
    sent: Option<(Request, CpuSet)>,
    /// The rung that is being climbed, and when it ends.
    rung: Option<(Request, u64)>,
    returned: bool,
}

#[derive(Clone, Debug, Default)]
struct Cpu {
    spots: Vec<(u64, Spot)>,
    /// Its program counter and stack pointer, where its spot has been dealt with and the instruction was not executed: an
    /// interrupt came first.
    passed: Option<(u64, u64)>,
    /// It is kept at its spot until all of these have come.
    awaits: Vec<Passing>,
    held: Option<Held>,
    hand: Option<Hand>,
    handles_stop: bool,
    /// The request that it has taken last.
    took: Option<Request>,
    rests: bool,
    /// Where it has cleared itself.
    cleared: Vec<Word>,
    /// It spins with interrupts masked.
    masks_irqs: bool,
    call: Option<Call>,
    panicked: bool,
    /// It runs another kernel, or will.
    gone: bool,
    /// What of PSTATE is masked beyond what the CPU masks itself.
    kept_masked: u64,
}

/// The sender stands still behind a request until those who can have taken it. Its rungs are counted in turns, and a loaded host
/// must not use them up while nobody else runs.
#[derive(Clone, Debug)]
struct Stand {
    sender: usize,
    /// Who is to take the request before it goes on.
    awaited: CpuSet,
    /// Whose holds end meanwhile, and when that is.
    freed: Option<(CpuSet, u64)>,
    /// What they are to take.
    via: Request,
    /// When it ends in any case.
    limit: Instant,
}

/// A stand ends after so long although somebody has not taken the request: it will be the sender's to say so.
const STAND: Duration = Duration::from_secs(5);

/// The first line that a panic prints.
const PANIC_BEGIN: &str = "Kernel panic - not syncing";

/// PSTATE.I and .F (Arm ARM DDI 0487, C5.2.2).
const MASKS: u64 = 0b11 << 6;

/// When nobody has been trapped for so long it is looked at why.
const QUIET: Duration = Duration::from_secs(3);

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
    /// Whether CPUs are caught at the console: not before the one that waits for that has come, for it may print on its way.
    catches: bool,
    /// Levels below this were shown on the console at the last look.
    loglevel: u32,
    first_request: Option<u64>,
    stand: Option<Stand>,
    /// What is added to the guest's clock.
    shift: i64,
    /// The time of an event is no later than this. While a CPU is in its stop time is counted in its own unit: a rung that runs out has
    /// lasted its budget, whatever the host's clock says, and what is printed between two rungs lasts nothing.
    ceiling: Option<u64>,
    /// What CPUs in a stop are about to store in the log.
    says: Vec<(usize, &'static str)>,
    began: Instant,
    began_us: Option<u64>,
    /// Who has left for the capture kernel.
    capture: Option<usize>,
    /// What ramoops held when the capture kernel had not begun.
    ramoops: Option<Vec<u8>>,
    /// The log as the capture kernel has read it.
    dmesg: Option<Vec<u8>>,
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
            catches: false,
            loglevel: 0,
            first_request: None,
            stand: None,
            shift: 0,
            ceiling: None,
            says: Vec::new(),
            began: Instant::now(),
            began_us,
            capture: None,
            ramoops: None,
            dmesg: None,
            over: None,
            events: Vec::new(),
            hear,
        };
        live.loglevel = live.loglevel_now()?;
        for cpu in inside {
            live.say(cpu, Seen::Quiesce, What::Enters);
        }
        for cpu in 0..live.cpus.len() {
            live.cpus[cpu].spots = live.first_spots(cpu)?;
        }
        for task in &scenario.tasks {
            live.cpus[task.cpu.index()].masks_irqs |= task.does == Does::MaskIrqs;
        }
        live.catches = !live.scenario.tasks.iter().any(|task| task.after.is_some());
        live.catch_at_console();
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
        let finds = |does| does == Does::Panic(Cause::Lockup);
        if (self.scenario.tasks.iter()).any(|task| task.cpu.index() == cpu && finds(task.does)) {
            spots.extend(functions.nmi_panic.map(|at| (at, Spot::Panics)));
        }
        spots.extend(self.points_of(cpu)?);
        Ok(spots)
    }

    /// The scenario's points of this CPU that are entries of functions, wherever it comes there from.
    fn points_of(&self, cpu: usize) -> Result<Vec<(u64, Spot)>, Error> {
        let mut spots = Vec::new();
        for passing in self.passings() {
            if passing.cpu.index() == cpu
                && let Some(at) = guest::entry(self.around.kernel, passing.at)?
                && !matches!(plan::place(passing.at), Some(Where::Behind(_)))
            {
                spots.push((at, Spot::Comes(passing.at)));
            }
        }
        Ok(spots)
    }

    /// The points that the scenario waits for, and those at which a debugger is to look.
    fn passings(&self) -> Vec<Passing> {
        let mut passings = passings(self.scenario);
        if let Some(StopAt { cpu, at }) = self.around.stop_at {
            let cpus = (0..self.scenario.cpus).map(CpuId);
            let shown = cpus.filter(|own| cpu.is_none_or(|cpu| cpu == *own));
            passings.extend(shown.map(|cpu| Passing { cpu, at }));
        }
        passings
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
        if self.cpus[cpu].gone {
            return self.on(cpu, |vcpu| vcpu.trap_on(Owner::Scenario, &Traps::default()));
        }
        let mut breakpoints: Vec<u64> = self.cpus[cpu].spots.iter().map(|(at, _)| *at).collect();
        breakpoints.sort_unstable();
        breakpoints.dedup();
        let (has, needs) = (self.around.breakpoints, breakpoints.len());
        if needs > has {
            return Err(Error::Breakpoints { cpu, has, needs });
        }
        let traps = Traps {
            breakpoints,
            watchpoints: self.watch.watched(),
            ..Traps::default()
        };
        self.on(cpu, move |vcpu| vcpu.trap_on(Owner::Scenario, &traps))
    }

    /// Has a vCPU execute the instruction at which it is trapped, and nothing else; false if an interrupt came first.
    fn step_over(&mut self, cpu: usize) -> Result<bool, Error> {
        let before = self.on(cpu, |vcpu| vcpu.registers())?;
        let masks = self.masks_for_step(cpu, &before)?;
        if masks != 0 {
            self.on(cpu, move |vcpu| vcpu.set_pstate(before.pstate | masks))?;
        }
        let traps = Traps {
            step: true,
            ..Traps::default()
        };
        self.on(cpu, move |vcpu| vcpu.trap_on(Owner::Scenario, &traps))?;
        let executed = match self.conductor.step(cpu, self.around.deadline) {
            Stepped::Trapped(Trap::Stepped) => {
                let after = self.on(cpu, |vcpu| vcpu.registers())?;
                if masks != 0 {
                    self.on(cpu, move |vcpu| vcpu.set_pstate(after.pstate & !masks))?;
                }
                !self.around.functions.vectors.contains(&after.pc)
            }
            // It powers itself off by the instruction that it was to execute, or stores to a device: either way it was executed.
            Stepped::Trapped(_) => true,
            Stepped::Late | Stepped::Ended => return Ok(true),
        };
        self.arm(cpu)?;
        Ok(executed)
    }

    /// What is masked beyond what the CPU masks while it takes a step: otherwise a timer that ticks faster than a step is taken would keep it
    /// from its instruction for ever. Where a stop is handled nothing is: which of the stop's requests comes first is what is to be seen.
    fn masks_for_step(&self, cpu: usize, regs: &Regs) -> Result<u64, Error> {
        // MSR DAIFSet and DAIFClr, whose immediate is in bits 11 to 8 (C6.2, MSR (immediate)).
        const MSR_DAIF: u32 = 0xd503_40df;
        let instruction = self
            .around
            .kernel
            .space
            .u32("an instruction", KernelVa(regs.pc))?;
        let sets_masks = instruction & 0xffff_f0df == MSR_DAIF;
        if self.cpus[cpu].hand.is_some() || sets_masks {
            return Ok(0);
        }
        Ok(MASKS & !regs.pstate)
    }

    /// A CPU at the entry of `panic()` takes no more interrupts, a few instructions before it masks them itself. It may have stood there
    /// for long, so that one is pending, and a handler that prints, of a stall say, would wait for a console whose owner is held.
    fn keep_masked(&mut self, cpu: usize, regs: &Regs) -> Result<(), Error> {
        let functions = &self.around.functions;
        let Some(masked) = functions.masked.filter(|_| regs.pc == functions.panic) else {
            return Ok(());
        };
        let own = &mut self.cpus[cpu];
        own.kept_masked = MASKS & !regs.pstate;
        own.spots.retain(|(_, spot)| *spot != Spot::Panics);
        own.spots.push((masked, Spot::Masks));
        let pstate = regs.pstate | MASKS;
        self.on(cpu, move |vcpu| vcpu.set_pstate(pstate))
    }

    /// It has masked them itself: with pseudo-NMIs by ICC_PMR_EL1, so that PSTATE is to be as it was, and in PSTATE otherwise.
    fn unmask(&mut self, cpu: usize, regs: &Regs) -> Result<(), Error> {
        let own = &mut self.cpus[cpu];
        own.spots.retain(|(_, spot)| *spot != Spot::Masks);
        let kept = std::mem::take(&mut own.kept_masked);
        if kept == 0 || !self.scenario.pseudo_nmi {
            return Ok(());
        }
        let pstate = regs.pstate & !kept;
        self.on(cpu, move |vcpu| vcpu.set_pstate(pstate))
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
        self.ceiling.map_or(now, |ceiling| now.min(ceiling))
    }

    /// From now on it is this time, and it goes on to the ceiling.
    fn set_time(&mut self, now: u64, ceiling: Option<u64>) {
        self.shift = now.cast_signed() - self.clock().cast_signed();
        self.ceiling = ceiling;
    }

    fn say(&mut self, cpu: usize, seen: Seen, what: What) {
        let event = Event {
            at_us: self.now(),
            cpu: CpuId(cpu as u16),
            seen,
            masks: None,
            what,
        };
        self.tell(event);
    }

    fn tell(&mut self, event: Event) {
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
                .unwrap_or_else(|| self.conductor.now() + QUIET)
                .min(self.around.deadline);
            match self.conductor.next_trap(deadline) {
                Next::Trapped(cpu, trap) => {
                    self.trapped(cpu, trap)?;
                    self.stand_or_go_on()?;
                }
                Next::Late if self.conductor.now() >= self.around.deadline => {
                    self.look(0)?;
                    let at: Vec<String> = self.standings();
                    let what = match self.capture {
                        Some(_) => "the capture kernel has not said what it found",
                        None => "the run had not ended",
                    };
                    let why = format!("{what} when the time was up (--timeout); {}", at.join("; "));
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
        let loglevel = self.loglevel_now()?;
        // The ring does not say which CPU stored a record. In a stop it is the sender: the others may no longer.
        let sender = self.who_panics()?.or_else(|| {
            let mut cpus = self.cpus.iter();
            cpus.position(|cpu| cpu.call.is_some() || cpu.panicked)
        });
        let other = sender.unwrap_or(cpu);
        let stops = sender.is_some();
        for (level, text) in self.watch.records(self.around.kernel, stops)? {
            // panic() raises the level before it says so. What came before may have been passed over by then.
            if text.starts_with(PANIC_BEGIN) {
                self.loglevel = loglevel;
            }
            let told = self.says.iter().position(|(_, words)| text.contains(words));
            let cpu = told.map_or(other, |at| self.says.remove(at).0);
            let what = What::Logs {
                level,
                text: text.into(),
                shown: u32::from(level) < self.loglevel,
            };
            self.say(cpu, Seen::Quiesce, what);
        }
        self.loglevel = loglevel;
        Ok(())
    }

    /// Who came first of those that panic.
    fn who_panics(&self) -> Result<Option<usize>, Error> {
        match self.around.kernel.panic_cpu() {
            Ok(cpu) => Ok(cpu.map(CpuId::index)),
            Err(InspectError::NoSymbol { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Levels below this are shown on the console; panic() has all shown (console_verbose()).
    fn loglevel_now(&self) -> Result<u32, Error> {
        const QUIET: u32 = 4;
        const VERBOSE: u32 = 15;
        match self.around.kernel.symbol("console_printk") {
            Ok(at) => Ok(self.around.kernel.space.u32("console_printk", at)?),
            Err(InspectError::NoSymbol { .. }) => {
                let panicked = self.cpus.iter().any(|cpu| cpu.panicked);
                Ok(if panicked { VERBOSE } else { QUIET })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn noted(&mut self, cpu: usize) {
        if let Some(note) = self.watch.note(self.around.ram, cpu) {
            self.say(cpu, Seen::Quiesce, What::Notes(Arc::new(note)));
        }
    }

    /// Who climbs a ladder now.
    fn sender(&self) -> Option<usize> {
        let calls = |cpu: &Cpu| cpu.call.as_ref().is_some_and(|call| !call.returned);
        self.cpus.iter().position(calls)
    }

    fn trapped(&mut self, cpu: usize, trap: Trap) -> Result<(), Error> {
        match trap {
            Trap::Breakpoint => self.at_spot(cpu),
            Trap::Watchpoint { address } => {
                self.look(cpu)?;
                if self.cpus[cpu].hand == Some(Hand::Handler) {
                    if self.watch.is_in(self.stop_of().ack.is, address) {
                        self.passes(cpu, Where::Acks)?;
                    }
                    if self.watch.is_in(Word::OnlineCount, address) {
                        self.passes(cpu, Where::Counts)?;
                    }
                    if self.cpus[cpu].held.is_some() {
                        return Ok(());
                    }
                }
                self.store(cpu)
            }
            Trap::Tapped => {
                if let Some(sender) = self.capture
                    && self.cpus[cpu].gone
                {
                    return self.captured(cpu, sender);
                }
                self.look(cpu)?;
                let point = self.caught(cpu);
                match (point, point.and_then(plan::place)) {
                    (Some(point), Some(Where::Behind(_))) => self.catch_behind(cpu, point),
                    (Some(point), _) => self.comes(cpu, point),
                    (None, _) => {
                        self.conductor.thaw(cpu);
                        Ok(())
                    }
                }
            }
            Trap::Off => {
                self.look(cpu)?;
                self.cpus[cpu].rests = true;
                self.say(cpu, Seen::Trapped, What::PowersOff);
                if self.capture.is_some() {
                    self.give_up(cpu)?;
                }
                self.conductor.thaw(cpu);
                self.passes(cpu, Where::Rests)
            }
            Trap::Stepped => {
                self.conductor.thaw(cpu);
                Ok(())
            }
        }
    }

    /// Lets a vCPU do the store that a watchpoint has caught, and says what came of it.
    fn store(&mut self, cpu: usize) -> Result<(), Error> {
        // What the sender has read before this store comes before it: it may be trapped behind its look already.
        let sender = self.sender().filter(|sender| *sender != cpu);
        let frozen = match sender.map(|sender| self.conductor.freeze(sender)) {
            Some(Frozen::Now) => sender,
            Some(Frozen::Trapped(trap)) => {
                self.trapped(sender.expect("it was frozen"), trap)?;
                None
            }
            // It stands, is held, or it is what it does that has this store done.
            Some(Frozen::Before) | None => None,
        };
        self.step_over(cpu)?;
        let hand = self.cpus[cpu].hand;
        let cleared = self.watch.cleared(self.around.ram, CpuId(cpu as u16));
        for (whose, word) in &cleared {
            // What a sender does with the words that it fills is nobody's ack.
            if let Some(by) = hand {
                let what = What::Clears { word: *word, by };
                self.say(whose.index(), Seen::Trapped, what);
            }
        }
        if let Some(sender) = frozen {
            self.conductor.thaw(sender);
        }
        let ack = self.stop_of().ack.is;
        let own = &mut self.cpus[cpu];
        own.cleared.extend(cleared.iter().map(|(_, word)| *word));
        let offline = own.cleared.contains(&Word::OnlineCount);
        let parks = match hand {
            Some(Hand::SelfStop) => offline,
            Some(_) => {
                self.scenario.stop == StopKind::Plain && offline && own.cleared.contains(&ack)
            }
            None => false,
        };
        if parks && self.follow_to_park(cpu)? {
            self.cpus[cpu].rests = true;
            self.say(cpu, Seen::Trapped, What::Parks);
            self.conductor.thaw(cpu);
            return self.passes(cpu, Where::Rests);
        }
        self.conductor.thaw(cpu);
        Ok(())
    }

    /// Has a vCPU that has nothing left to do but to park go on to where it does, with everything masked; false if something else came.
    fn follow_to_park(&mut self, cpu: usize) -> Result<bool, Error> {
        const MOST: usize = 1000;
        // WFE and WFI (Arm ARM DDI 0487, C6.2): cpu_park_loop() has both. They are not executed: a vCPU in WFI comes back with the next
        // interrupt, which may be none.
        const WAITS: [u32; 2] = [0xd503_205f, 0xd503_207f];
        for _ in 0..MOST {
            let regs = self.on(cpu, |vcpu| vcpu.registers())?;
            let next = self
                .around
                .kernel
                .space
                .u32("an instruction", KernelVa(regs.pc))?;
            if regs.pstate >> 6 & 0xf == 0xf && WAITS.contains(&next) {
                return Ok(true);
            }
            if !self.step_over(cpu)? {
                break;
            }
        }
        Ok(false)
    }

    /// Has a vCPU that is at the entry of a function that turns in a circle go on into that circle.
    fn enter_circle(&mut self, cpu: usize, entry: &Regs) -> Result<(), Error> {
        let place = self.around.places.at(entry.pc);
        let body = place.map_or(entry.pc..entry.pc + 4, |place| place.start..place.end);
        const MOST: usize = 1000;
        let mut seen = vec![entry.pc];
        while seen.len() < MOST
            && (self.step_over(cpu)? || self.come_back(cpu, *seen.last().expect("one at least"))?)
        {
            let pc = self.on(cpu, |vcpu| vcpu.registers())?.pc;
            if body.contains(&pc) && seen.contains(&pc) {
                break;
            }
            seen.push(pc);
        }
        Ok(())
    }

    /// Lets a vCPU go on in the interrupt that came before the instruction at `pc`, until it is back there.
    fn come_back(&mut self, cpu: usize, pc: u64) -> Result<bool, Error> {
        let traps = Traps {
            breakpoints: vec![pc],
            ..Traps::default()
        };
        self.on(cpu, move |vcpu| vcpu.trap_on(Owner::Scenario, &traps))?;
        let stepped = self.conductor.step(cpu, self.around.deadline);
        Ok(stepped == Stepped::Trapped(Trap::Breakpoint))
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
            if self.cpus[cpu].held.is_some() {
                break;
            }
        }
        let own = &self.cpus[cpu];
        let stands = self.stand.as_ref().is_some_and(|stand| stand.sender == cpu);
        let stays = !own.awaits.is_empty() || own.held.is_some() || stands;
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
                self.logged(cpu)?;
                self.cpus[cpu].panicked = true;
                self.keep_masked(cpu, regs)?;
                self.come_as_sender(cpu, |does| matches!(does, Does::Panic(_)));
            }
            Spot::Masks => self.unmask(cpu, regs)?,
            Spot::Calls(stop) => self.calls(cpu, stop, regs)?,
            Spot::Sends => self.sends(cpu, regs)?,
            Spot::Sent(sp) if sp == regs.sp => self.sent(cpu)?,
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
            Spot::Leaves => self.leaves(cpu)?,
            Spot::Handles => self.handles(cpu, regs)?,
            Spot::SelfStops => {
                self.unmask(cpu, regs)?;
                self.look(cpu)?;
                self.cpus[cpu].hand = Some(Hand::SelfStop);
                self.say(cpu, Seen::Trapped, What::SelfStops);
            }
            Spot::Comes(point) => {
                let circle = matches!(plan::place(point), Some(Where::Circle(_)));
                if circle && !self.has_passed(cpu, point) {
                    self.enter_circle(cpu, regs)?;
                }
                self.comes(cpu, point)?;
            }
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
        let via = self.via(sgi);
        self.cpus[cpu].took = Some(via);
        let by = Interrupt::Stop(via);
        let masks = self.interrupted(cpu)?;
        self.tell(Event {
            at_us: self.now(),
            cpu: CpuId(cpu as u16),
            seen: Seen::Trapped,
            masks,
            what: What::Takes { by, regs: met },
        });
        // Its hold has ended by that: it will not come back.
        self.cpus[cpu].held = None;
        match via {
            Request::Irq => self.passes(cpu, Where::Handles),
            Request::Nmi | Request::Sdei => Ok(()),
        }
    }

    /// What the code masked that a CPU has interrupted.
    fn interrupted(&self, cpu: usize) -> Result<Option<Masks>, Error> {
        let interrupted = match self.around.kernel.interrupted(CpuId(cpu as u16)) {
            Ok(interrupted) => interrupted,
            Err(InspectError::NoSymbol { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(interrupted.and_then(|interrupted| {
            Some(Masks {
                daif: (interrupted.pstate >> 6 & 0xf) as u8,
                pmr: interrupted.pmr.filter(|_| self.scenario.pseudo_nmi)?,
            })
        }))
    }
}
