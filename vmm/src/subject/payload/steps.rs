//! The payload as a machine whose steps are chosen: who can move, and what a move does, as in the model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_abi::mailbox::{self, Condition, Ring, Tell, Why};
use guest_abi::point::Point;
use guest_abi::protocol::Request;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_core::arm::{CpuId, CpuSet, Mpidr};
use vmm_core::choose::{Actor, Moves, draw};
use vmm_core::evidence::{
    Event, Hand, Interrupt, Manner, Masks, Onward, PlaceKind, Places, Seen, StopKind, Until, What,
};
use vmm_core::scenario::{HoldUntil, Passing, Scenario};

use super::run::Error;
use super::tap::Tap;
use super::watch::{self, Memory, Watch};
use super::{Image, Unfit, config};
use crate::conductor::{Quiesced, Stepped, Trap};
use crate::kvm::{self, Clock, Gic, KvmVcpu};
use crate::subject::{Hear, StopAt};
use crate::vcpu::{Owner, Traps, Vcpu as _, Watched};

/// A vCPU that takes longer from one ring to the next than this does not come to it: a step takes some milliseconds, on an
/// emulated host under load some tenths of a second.
const STEP: Duration = Duration::from_secs(30);

/// The SGI of `IPI_CPU_BACKTRACE`, the only one that the payload sends and that is no stop.
const BACKTRACE_SGI: u8 = 6;

impl Memory for GuestMemoryMmap {
    fn read(&self, at: u64, bytes: &mut [u8]) {
        self.read_slice(bytes, GuestAddress(at))
            .expect("what the payload's file places lies in RAM");
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.write_slice(bytes, GuestAddress(at))
            .expect("what the payload's file places lies in RAM");
    }
}

/// Where a CPU stands.
#[derive(Clone, Debug)]
struct Stand {
    ring: Ring,
    conditions: Vec<Condition>,
    /// When its wait ends by itself, in microseconds of guest time: for the counter's value that it waits for.
    deadline: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    number: usize,
    manner: Manner,
    nest: u8,
}

#[derive(Clone, Debug, Default)]
struct Cpu {
    /// None once it has come to rest, or if it never was started.
    stand: Option<Stand>,
    /// It waits to begin its task.
    task: Option<Option<Passing>>,
    pending: u32,
    hold: Option<Held>,
    /// Handlers that it is in.
    nest: u8,
    /// Rings until the handler that it is in returns.
    returns_in: u8,
    unrun: bool,
    /// It has gone on behind the ring's own instructions, and is held there.
    beyond: bool,
    hand: Option<Hand>,
    parked: bool,
    /// Where it has a breakpoint.
    spins_at: Option<u64>,
}

/// What lies around the vCPUs.
pub(super) struct Around {
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) image: Image,
    pub(super) mpidrs: Vec<Mpidr>,
    pub(super) clock: Clock,
    pub(super) gic: Gic,
    pub(super) tap: Arc<Tap>,
    /// Whether guest time is what the host's clock makes it.
    pub(super) real_time: bool,
    /// What decides at which instruction a wedged CPU spins.
    pub(super) seed: u64,
    /// The words of acks that a CPU's watchpoints suffice for.
    pub(super) watched: Vec<Watched>,
    /// When to give up.
    pub(super) deadline: Instant,
    /// Where a debugger is to look.
    pub(super) stop_at: Option<StopAt>,
}

/// The payload between two steps.
pub(super) struct Steps<'a> {
    scenario: &'a Scenario,
    quiesced: Quiesced<'a, KvmVcpu>,
    around: Around,
    watch: Watch,
    /// Where watchpoints saw the last step store.
    stored: Vec<u64>,
    cpus: Vec<Cpu>,
    priorities: [u8; 16],
    current: usize,
    now: u64,
    /// The guest's counter while nobody runs.
    counter: Option<u64>,
    first_request: Option<u64>,
    passings: Vec<(Passing, bool)>,
    holds: Vec<bool>,
    delays: u8,
    reset: bool,
    events: Vec<Event>,
    hear: &'a mut dyn Hear,
}

impl<'a> Steps<'a> {
    /// The payload has booted: every started vCPU has rung that it is ready, and is held.
    pub(super) fn new(
        scenario: &'a Scenario,
        quiesced: Quiesced<'a, KvmVcpu>,
        around: Around,
        hear: &'a mut dyn Hear,
    ) -> Result<Self, Error> {
        let mut passings: Vec<(Passing, bool)> = Vec::new();
        let ends = scenario.holds.iter().filter_map(|hold| match hold.until {
            HoldUntil::Passing(passing) => Some(passing),
            HoldUntil::AfterRequest(_) | HoldUntil::Never => None,
        });
        for passing in ends.chain(scenario.tasks.iter().filter_map(|task| task.after)) {
            if !passings.iter().any(|(known, _)| *known == passing) {
                passings.push((passing, false));
            }
        }
        let task = |cpu: u16| scenario.tasks.iter().find(|task| task.cpu.0 == cpu);
        let cpus = (0..scenario.cpus).map(|cpu| Cpu {
            task: task(cpu).map(|task| task.after),
            ..Cpu::default()
        });
        let memory: &GuestMemoryMmap = &around.memory;
        let mut steps = Self {
            scenario,
            watch: Watch::new(memory, around.image.statics, scenario.cpus, scenario.driver),
            stored: Vec::new(),
            cpus: cpus.collect(),
            priorities: around.gic.priorities(around.mpidrs[0])?,
            current: 0,
            now: 0,
            counter: if around.real_time {
                None
            } else {
                around.clock.now()
            },
            first_request: None,
            passings,
            holds: vec![true; scenario.holds.len()],
            delays: scenario.explore.delays,
            reset: false,
            events: Vec::new(),
            quiesced,
            around,
            hear,
        };
        steps.around.tap.take();
        for cpu in 0..steps.cpus.len() {
            steps.arm(cpu, true)?;
            let id = CpuId(cpu as u16);
            if !scenario.offline.contains(id) || steps.cpus[cpu].task.is_some() {
                steps.walk(cpu)?;
            }
        }
        for cpu in 0..steps.cpus.len() {
            steps.arrive(cpu)?;
        }
        Ok(steps)
    }

    /// It is over: if there is a debugger it looks at what is left.
    pub(super) fn show_end(&self) {
        self.quiesced.show_if_debugged(self.current);
    }

    /// What happened. The last look is at those that came to rest: are they there?
    pub(super) fn finish(mut self) -> Result<(Vec<Event>, Places), Error> {
        for cpu in 0..self.cpus.len() {
            if !self.cpus[cpu].parked {
                continue;
            }
            let registers = self.registers(cpu)?;
            let kind = self
                .around
                .image
                .places
                .at(registers.pc)
                .map(|place| place.kind);
            let masked = registers.pstate >> 6 & 0xf == 0xf;
            if kind != Some(PlaceKind::StopPath) || !masked {
                let at = self.around.image.places.describe(registers.pc);
                let text = format!("{at}, PSTATE {:#x}, after it parked", registers.pstate);
                self.say(cpu, Seen::Quiesce, What::Runs(text.into()));
            }
        }
        Ok((self.events, self.around.image.places))
    }

    /// What happened until something went wrong.
    pub(super) fn cut_short(self) -> (Vec<Event>, Places) {
        (self.events, self.around.image.places)
    }

    fn registers(&self, cpu: usize) -> Result<vmm_core::evidence::Regs, Error> {
        self.on(cpu, |vcpu| vcpu.registers())
    }

    /// The registers that an interrupt meets when the CPU goes on: those of now, or of behind the two instructions that let it in.
    fn interrupted_at(&self, cpu: usize) -> Result<vmm_core::evidence::Regs, Error> {
        let mut registers = self.registers(cpu)?;
        let opens = self.cpus[cpu]
            .stand
            .as_ref()
            .is_some_and(|stand| stand.ring.opens);
        if opens && !self.cpus[cpu].beyond {
            registers.pc += 4 * mailbox::OPENING;
            registers.pstate &= !(0xf << 6);
        }
        Ok(registers)
    }

    fn on<T: Send + 'static>(
        &self,
        cpu: usize,
        job: impl FnOnce(&mut KvmVcpu) -> Result<T, kvm::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.quiesced.on(cpu, job).ok_or(Error::Ended)?;
        Ok(done?)
    }

    fn say(&mut self, cpu: usize, seen: Seen, what: What) {
        let masks = self.cpus[cpu].stand.as_ref().map(|stand| Masks {
            daif: stand.ring.daif,
            pmr: stand.ring.pmr,
        });
        let event = Event {
            at_us: self.now,
            cpu: CpuId(cpu as u16),
            seen,
            masks,
            what,
        };
        self.hear.event(&event);
        self.events.push(event);
    }

    /// The point at which a CPU stands.
    fn point(&self, cpu: usize) -> Option<Point> {
        self.cpus[cpu].stand.as_ref()?.ring.point
    }

    /// The interrupt that the CPU takes when it is let go: its SGI.
    fn deliverable(&self, cpu: usize) -> Option<u8> {
        let c = &self.cpus[cpu];
        let ring = c.stand.as_ref()?.ring;
        if ring.daif & 0b0010 != 0 {
            return None;
        }
        // The higher priority first, and the lower INTID among equals (GICv3, IHI 0069, 4.8).
        let pending = (0..16_u8).filter(|sgi| c.pending >> sgi & 1 == 1);
        pending
            .map(|sgi| (self.priorities[usize::from(sgi)], sgi))
            .filter(|(priority, _)| *priority < ring.pmr)
            .min()
            .map(|(_, sgi)| sgi)
    }

    fn can_move(&self, cpu: usize) -> bool {
        let c = &self.cpus[cpu];
        let Some(stand) = &c.stand else { return false };
        if c.hold.is_some_and(|hold| hold.manner == Manner::Freeze) {
            return false;
        }
        if self.deliverable(cpu).is_some() {
            return true;
        }
        if c.hold.is_some_and(|hold| hold.nest == c.nest) {
            return false;
        }
        if let Some(Some(after)) = c.task {
            return self.has_passed(&after);
        }
        let memory: &GuestMemoryMmap = &self.around.memory;
        let time = stand.deadline.is_some_and(|(_, at)| self.now >= at);
        let any = || {
            stand
                .conditions
                .iter()
                .any(|condition| memory.holds(*condition))
        };
        stand.ring.why == Why::Step && (stand.conditions.is_empty() || time || any())
    }

    fn has_passed(&self, passing: &Passing) -> bool {
        self.passings
            .iter()
            .any(|(known, passed)| known == passing && *passed)
    }

    /// Lets a CPU go from where it stands to its next stand, and says what came of it.
    fn walk(&mut self, cpu: usize) -> Result<(), Error> {
        let sgi = self.deliverable(cpu);
        let regs = match sgi {
            Some(_) => Some(self.interrupted_at(cpu)?),
            None => None,
        };
        let stalled = self.cpus[cpu]
            .hold
            .is_some_and(|hold| hold.manner == Manner::Stall);
        self.around.tap.stall(stalled.then_some(cpu));
        let trapped = self.step(cpu)?;
        let (ring, wire) = self.around.tap.take();
        match (trapped, ring) {
            // It polls a UART that stays full, or stands where it spins.
            (Trap::Tapped, None) | (Trap::Breakpoint, _) => {
                self.cpus[cpu].beyond = true;
                return Ok(());
            }
            (Trap::Off, _) => {
                let what = match self.cpus[cpu].hand {
                    Some(Hand::Hotplug) => What::Unplugs,
                    _ => What::PowersOff,
                };
                self.changed(cpu, wire);
                self.say(cpu, Seen::Trapped, what);
                self.cpus[cpu].stand = None;
                return Ok(());
            }
            (Trap::Tapped, Some(_)) => {}
            (Trap::Watchpoint { .. } | Trap::Stepped, _) => {
                unreachable!(
                    "nothing is watched behind the first store, and nothing is stepped: {trapped:?}"
                )
            }
        }
        let word = ring.expect("it has rung");
        let ring = Ring::of(word).ok_or(Error::Ring { cpu, word })?;
        self.arrived_at(cpu, ring, sgi, regs, wire)
    }

    fn arrived_at(
        &mut self,
        cpu: usize,
        ring: Ring,
        sgi: Option<u8>,
        regs: Option<vmm_core::evidence::Regs>,
        wire: Vec<u8>,
    ) -> Result<(), Error> {
        let id = CpuId(cpu as u16);
        let memory = Arc::clone(&self.around.memory);
        let (conditions, told) = watch::slot(&*memory, self.around.image.statics.mailbox, id);
        let before = self.cpus[cpu].stand.take();
        let deadline = conditions.iter().find_map(|condition| match *condition {
            Condition::Counter(ticks, us) => Some((ticks, us)),
            _ => None,
        });
        // The same wait again ends when it would have ended.
        let deadline = deadline.map(|(ticks, us)| {
            let same = before.as_ref().and_then(|stand| stand.deadline);
            let at = same.filter(|(known, _)| *known == ticks);
            (ticks, at.map_or(self.now + us, |(_, at)| at))
        });
        self.cpus[cpu].beyond = false;
        self.cpus[cpu].stand = Some(Stand {
            ring,
            conditions,
            deadline,
        });
        if self.cpus[cpu].returns_in > 0 {
            self.cpus[cpu].returns_in -= 1;
            self.cpus[cpu].nest -= u8::from(self.cpus[cpu].returns_in == 0);
        }
        let by = match (ring.point, sgi) {
            (Some(Point::IrqTaken), _) => Some(Interrupt::Stop(Request::Irq)),
            (Some(Point::NmiTaken), _) => Some(Interrupt::Stop(Request::Nmi)),
            (_, Some(BACKTRACE_SGI)) => Some(Interrupt::Foreign),
            _ => None,
        };
        if let Some(by) = by {
            self.takes(cpu, by, regs)?;
        }
        for tell in &told {
            self.told(cpu, *tell);
        }
        self.changed(cpu, wire);
        let c = &mut self.cpus[cpu];
        match ring.point {
            Some(Point::IrqTaken | Point::NmiTaken) => c.hand = Some(Hand::Handler),
            Some(Point::SelfStop) => c.hand = Some(Hand::SelfStop),
            Some(Point::Unplug) => c.hand = Some(Hand::Hotplug),
            _ => {}
        }
        match ring.why {
            Why::Step | Why::Idle | Why::Ready => {}
            Why::Parked => {
                self.say(cpu, Seen::Told, What::Parks);
                self.cpus[cpu].stand = None;
                self.cpus[cpu].parked = true;
            }
            Why::NoSuchRung => return Err(Unfit::NoSdei.into()),
        }
        let sent = told.iter().any(|tell| matches!(tell, Tell::Requests(..)));
        if sent || self.sends_nmi(cpu) {
            for target in 0..self.cpus.len() {
                self.look_at_pending(target)?;
            }
        }
        Ok(())
    }

    /// Whether the CPU's task is to send an NMI that is no stop.
    fn sends_nmi(&self, cpu: usize) -> bool {
        self.scenario.tasks.iter().any(|task| {
            task.cpu.index() == cpu && matches!(task.does, vmm_core::scenario::Does::Nmi(_))
        })
    }

    fn look_at_pending(&mut self, cpu: usize) -> Result<(), Error> {
        let interrupts = self.around.gic.interrupts(self.around.mpidrs[cpu])?;
        self.cpus[cpu].pending = interrupts.pending & 0xffff;
        Ok(())
    }

    fn takes(
        &mut self,
        cpu: usize,
        by: Interrupt,
        regs: Option<vmm_core::evidence::Regs>,
    ) -> Result<(), Error> {
        self.look_at_pending(cpu)?;
        let c = &mut self.cpus[cpu];
        c.nest += 1;
        if by == Interrupt::Foreign {
            // It rings before the two things that it does, and then the interrupted ring is rung again.
            c.returns_in = 2;
        }
        let regs = regs.map(Arc::new);
        self.say(cpu, Seen::Trapped, What::Takes { by, regs });
        Ok(())
    }

    fn told(&mut self, cpu: usize, tell: Tell) {
        let kind = |crash| {
            if crash {
                StopKind::Crash
            } else {
                StopKind::Plain
            }
        };
        let what = match tell {
            Tell::Calls { crash } => What::Calls(kind(crash)),
            Tell::Climbs {
                crash,
                running,
                others,
            } => What::Climbs {
                stop: kind(crash),
                others: CpuSet::from_bits(others),
                running,
            },
            Tell::Reads(mask) => What::Reads(CpuSet::from_bits(mask)),
            Tell::Requests(via, to) => {
                self.first_request.get_or_insert(self.now);
                What::Requests {
                    via,
                    to: CpuSet::from_bits(to),
                }
            }
            Tell::RungOut(via) => What::RungOut(via),
            Tell::Returns => What::Returns,
            Tell::Goes(onward) => {
                let onward = match onward {
                    mailbox::AFTER_KEXEC => Onward::Kexec,
                    mailbox::AFTER_RESET => Onward::Reset,
                    _ => Onward::PanicEnd,
                };
                self.reset |= onward == Onward::Reset;
                What::Goes(onward)
            }
            Tell::Flushed => What::Flushed,
            Tell::SelfStops => What::SelfStops,
        };
        self.say(cpu, Seen::Told, what);
    }

    /// What the last step changed in memory and on the wire.
    fn changed(&mut self, cpu: usize, wire: Vec<u8>) {
        let memory = Arc::clone(&self.around.memory);
        let hand = self.cpus[cpu].hand;
        let id = CpuId(cpu as u16);
        for (whose, what) in self.watch.changes(&*memory, id, hand, wire) {
            let seen = match &what {
                What::Wire(_) => Seen::Trapped,
                What::Clears { word, .. }
                    if self.stored.contains(&self.watch.watched(*word).address) =>
                {
                    Seen::Trapped
                }
                _ => Seen::Quiesce,
            };
            self.say(whose.index(), seen, what);
        }
    }

    /// Sets a CPU's debug registers: its breakpoint if it has one, and its watchpoints or none.
    fn arm(&self, cpu: usize, watching: bool) -> Result<(), Error> {
        let traps = Traps {
            breakpoints: self.cpus[cpu].spins_at.into_iter().collect(),
            watchpoints: if watching {
                self.around.watched.clone()
            } else {
                Vec::new()
            },
            ..Traps::default()
        };
        self.on(cpu, move |vcpu| vcpu.trap_on(Owner::Scenario, &traps))
    }

    /// Lets one vCPU into the guest until something other than a watched store ends its step.
    fn step(&mut self, cpu: usize) -> Result<Trap, Error> {
        self.stored.clear();
        let trap = self.enter(cpu)?;
        let Trap::Watchpoint { address } = trap else {
            return Ok(trap);
        };
        self.stored.push(address);
        // It stands before the store. A step stores to one watched word, and nobody else runs meanwhile.
        self.arm(cpu, false)?;
        let trap = self.enter(cpu)?;
        self.arm(cpu, true)?;
        Ok(trap)
    }

    /// Lets one vCPU into the guest, with the counter where it stood when the last one came out.
    fn enter(&mut self, cpu: usize) -> Result<Trap, Error> {
        if let Some(counter) = self.counter {
            self.around.clock.set(counter)?;
        }
        let stepped = {
            let deadline = self.around.deadline.min(self.quiesced.now() + STEP);
            self.quiesced.step(cpu, deadline)
        };
        if self.counter.is_some() {
            self.counter = self.around.clock.now();
        }
        match stepped {
            Stepped::Trapped(trap) => Ok(trap),
            Stepped::Late => {
                let registers = self.registers(cpu)?;
                let last = self.point(cpu);
                Err(Error::Late {
                    cpu,
                    after: last.map_or("its last ring".to_owned(), |point| point.to_string()),
                    at: self.around.image.places.describe(registers.pc),
                    registers: Box::new(registers),
                })
            }
            Stepped::Ended => {
                // The last step's words are still to be read: a reset is what a run may end in.
                let memory = Arc::clone(&self.around.memory);
                let mailbox = self.around.image.statics.mailbox;
                let (_, told) = watch::slot(&*memory, mailbox, CpuId(cpu as u16));
                for tell in told {
                    self.told(cpu, tell);
                }
                let (_, wire) = self.around.tap.take();
                self.changed(cpu, wire);
                Err(Error::Ended)
            }
        }
    }

    /// A CPU has come to where it is: that may end holds, and begin one.
    fn arrive(&mut self, cpu: usize) -> Result<(), Error> {
        if let Some(point) = self.point(cpu) {
            for (passing, passed) in &mut self.passings {
                *passed |= passing.cpu.index() == cpu && passing.at == point;
            }
            let begins = |(number, hold): &(usize, &vmm_core::scenario::Hold)| {
                hold.cpu.index() == cpu && hold.at == point && self.holds[*number]
            };
            let found = self.scenario.holds.iter().enumerate().find(begins);
            if let (Some((number, hold)), None) = (found, self.cpus[cpu].hold) {
                self.begin_hold(cpu, number, *hold)?;
            }
            if (self.around.stop_at).is_some_and(|stop_at| stop_at.is(cpu, point)) {
                self.quiesced.show(cpu);
            }
        }
        self.release()
    }

    fn begin_hold(
        &mut self,
        cpu: usize,
        number: usize,
        hold: vmm_core::scenario::Hold,
    ) -> Result<(), Error> {
        self.holds[number] = false;
        self.cpus[cpu].hold = Some(Held {
            number,
            manner: hold.manner,
            nest: self.cpus[cpu].nest,
        });
        let until = match hold.until {
            HoldUntil::AfterRequest(ms) => Until::AfterRequest(u64::from(ms) * 1000),
            HoldUntil::Passing(_) => Until::Event,
            HoldUntil::Never => Until::Never,
        };
        let holds = What::Holds {
            at: Some(hold.at),
            manner: hold.manner,
            until,
        };
        self.say(cpu, Seen::Trapped, holds);
        if hold.manner == Manner::Spin {
            let pc = match self.instruction_to_spin_at(cpu) {
                Some(pc) => pc,
                None => self.interrupted_at(cpu)?.pc,
            };
            self.cpus[cpu].spins_at = Some(pc);
            self.arm(cpu, true)?;
        }
        if hold.manner != Manner::Freeze && self.deliverable(cpu).is_none() {
            // Now it really spins: in the driver's loop, or at its one instruction.
            self.walk(cpu)?;
        }
        Ok(())
    }

    /// The instruction of its endless loop that a wedged CPU is to spin at, as the seed has it.
    fn instruction_to_spin_at(&self, cpu: usize) -> Option<u64> {
        if !config::is_wedged(self.scenario, CpuId(cpu as u16)) {
            return None;
        }
        let places = &self.around.image.places.0;
        let place = places.iter().find(|place| place.name == "wedged")?;
        let instruction = draw(self.around.seed, cpu as u64, (place.end - place.start) / 4);
        Some(place.start + 4 * instruction)
    }

    /// Lets go whoever is held for something that has come.
    fn release(&mut self) -> Result<(), Error> {
        for cpu in 0..self.cpus.len() {
            let Some(held) = self.cpus[cpu].hold else {
                continue;
            };
            let over = match self.scenario.holds[held.number].until {
                HoldUntil::Never => false,
                HoldUntil::Passing(passing) => self.has_passed(&passing),
                HoldUntil::AfterRequest(ms) => self
                    .first_request
                    .is_some_and(|at| self.now >= at + u64::from(ms) * 1000),
            };
            if over {
                self.cpus[cpu].hold = None;
                if held.manner == Manner::Spin {
                    self.cpus[cpu].spins_at = None;
                    self.arm(cpu, true)?;
                }
                self.say(cpu, Seen::Trapped, What::Releases);
            }
        }
        Ok(())
    }

    /// The next moment at which something ends by itself.
    fn deadline(&self) -> Option<u64> {
        let waits = self
            .cpus
            .iter()
            .filter_map(|cpu| Some(cpu.stand.as_ref()?.deadline?.1));
        let holds = self.cpus.iter().filter_map(|cpu| {
            let HoldUntil::AfterRequest(ms) = self.scenario.holds[cpu.hold?.number].until else {
                return None;
            };
            Some(self.first_request? + u64::from(ms) * 1000)
        });
        waits.chain(holds).filter(|at| *at > self.now).min()
    }

    /// Time passes to the next deadline. Who is held and could still take what was sent is run once more, and seen not to.
    fn pass_time(&mut self) -> Result<(), Error> {
        let deadline = self.deadline().expect("time passes only to a deadline");
        for cpu in 0..self.cpus.len() {
            if self.can_move(cpu) && !self.cpus[cpu].unrun {
                self.delays -= 1;
                self.cpus[cpu].unrun = true;
                let at = self.point(cpu);
                let holds = What::Holds {
                    at,
                    manner: Manner::Freeze,
                    until: Until::Event,
                };
                self.say(cpu, Seen::Trapped, holds);
                continue;
            }
            let c = &self.cpus[cpu];
            let spins = c
                .hold
                .is_some_and(|hold| hold.manner != Manner::Freeze && hold.nest == c.nest);
            if spins && c.pending != 0 {
                self.walk(cpu)?;
            }
        }
        self.now = deadline;
        let counter = self.cpus.iter().filter_map(|cpu| {
            let (ticks, at) = cpu.stand.as_ref()?.deadline?;
            (at <= deadline).then_some(ticks)
        });
        if let Some(ticks) = counter.max() {
            match &mut self.counter {
                Some(counter) => *counter = ticks.max(*counter),
                None => self.wait_for_counter(ticks)?,
            }
        }
        self.release()
    }

    /// Lets the host's clock bring the guest's counter there.
    fn wait_for_counter(&self, ticks: u64) -> Result<(), Error> {
        while let Some(left) = self.around.clock.until(ticks) {
            if self.quiesced.ended_within(left) {
                return Err(Error::Ended);
            }
        }
        Ok(())
    }
}

impl Moves for Steps<'_> {
    type Error = Error;

    fn moves(&self) -> Vec<Actor> {
        if self.reset {
            return Vec::new();
        }
        let count = self.cpus.len();
        let order =
            std::iter::once(self.current).chain((0..count).filter(|cpu| *cpu != self.current));
        let can: Vec<usize> = order.filter(|cpu| self.can_move(*cpu)).collect();
        let unrun = |cpu: &&usize| self.cpus[**cpu].unrun;
        let cpu = |cpu: &usize| Actor::Cpu(CpuId(*cpu as u16));
        let mut moves: Vec<Actor> = can.iter().filter(|cpu| !unrun(cpu)).map(cpu).collect();
        moves.extend(can.iter().filter(unrun).map(cpu));
        let charge = can.iter().filter(|cpu| !unrun(cpu)).count();
        if charge <= usize::from(self.delays) && self.deadline().is_some() {
            moves.push(Actor::Time);
        }
        moves
    }

    fn take(&mut self, actor: Actor) -> Result<(), Error> {
        match actor {
            Actor::Cpu(cpu) => {
                let cpu = cpu.index();
                self.current = cpu;
                if std::mem::take(&mut self.cpus[cpu].unrun) {
                    self.say(cpu, Seen::Trapped, What::Releases);
                }
                if self.deliverable(cpu).is_none() {
                    self.cpus[cpu].task = None;
                }
                match self.walk(cpu) {
                    Err(Error::Ended) if self.reset => return Ok(()),
                    other => other?,
                }
                self.arrive(cpu)
            }
            Actor::Time => self.pass_time(),
            Actor::Stores(_) => unreachable!("no store of a real CPU is ours to delay"),
        }
    }
}
