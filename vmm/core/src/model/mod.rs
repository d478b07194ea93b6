//! The stop path as a machine that can be explored.
//!
//! CPUs take turns, one step at a time, in sequentially consistent memory; a step is what no other CPU can look
//! into. A CPU that can take an interrupt takes it at its next step, so a late interrupt is a CPU that is not
//! run. Time stands still while anybody runs: it passes, to the next deadline, when nobody can, or when the
//! schedule leaves a CPU unrun that could, which a scenario allows so many times. Every free decision, who takes
//! the next step and whether time passes, goes through `choose`.
//!
//! The rooms: `cpu` (interrupts and the stop handler), `stop` (the ladder), `console` (printk and the drivers),
//! `task` (panic, restart and what else a CPU does), `text` (where the model's code would lie), `explore`.

mod console;
mod cpu;
mod explore;
mod stop;
mod task;
mod text;

use std::convert::Infallible;
use std::sync::Arc;

use guest_abi::point::Point;
use guest_abi::protocol::{Protocol, Request, Stop, WithoutNmi};

pub use explore::{Explored, Found, Limits, Reduction, explore};

use crate::arm::{CpuId, CpuSet};
use crate::choose::{Actor, Choose, Moves, Origin, Schedule, Taken, drive};
use crate::evidence::{
    End, Event, Evidence, Manner, Masks, Note, Seen, Setting, StopKind, Until, What,
};
use crate::oracle::Oracle;
use crate::scenario::{Does, HoldUntil, Passing, Scenario};
use console::Nbcon;
use cpu::{Cpu, Mask};
use task::Act;

/// The version of the model: a schedule of another one is stale.
pub const VERSION: &str = "model 1";

/// The model's masks are words of this size.
pub const MAX_CPUS: u16 = 8;

/// Why a scenario cannot be modelled.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// It has too many CPUs.
    #[error("{name} has {cpus} CPUs; the model has at most {MAX_CPUS}")]
    Cpus {
        /// The scenario.
        name: String,
        /// Its CPUs.
        cpus: u16,
    },
}

/// What does not change in a run.
#[derive(Debug)]
struct Fixed {
    scenario: Scenario,
    protocol: Protocol,
    // Where a CPU must come for a hold to end or a task to begin.
    passings: Vec<Passing>,
    // Whether somebody sends NMIs that are no stop.
    foreign: bool,
    setting: Setting,
}

/// What changes.
#[derive(Clone, Debug, Hash)]
struct State {
    now: u64,
    cpus: Vec<Cpu>,
    online: u8,
    online_count: i8,
    stop_mask: u8,
    counter: i8,
    // crash_stop, or cpus_stopped before it.
    crash_flag: bool,
    stop_in_progress: bool,
    panic_cpu: Option<u8>,
    // system_state <= SYSTEM_RUNNING
    running: bool,
    reset: bool,
    first_request: Option<u64>,
    port: Option<u8>,
    sem: Option<u8>,
    sem_waiter: Option<u8>,
    // console_owner: the owner of the semaphore while it writes, when a waiter may spin for it.
    sem_writes: bool,
    records: Vec<Arc<str>>,
    shown: u8,
    nbcon: Nbcon,
    // By number in `passings`.
    passed: u32,
    // By number in the scenario's holds: those that have not begun.
    holds: u32,
    delays: u8,
}

/// The machine in the middle of a run.
#[derive(Clone, Debug)]
pub struct Model {
    fixed: Arc<Fixed>,
    state: State,
    // Who moved last: it orders the moves, and changes nothing else.
    current: usize,
    oracle: Oracle,
    events: Option<Vec<Event>>,
}

/// A rung that is climbed on this machine, and how it asks there.
#[derive(Clone, Copy, Debug)]
struct Climbed {
    asks: Request,
    sgi: Option<u8>,
    budget_us: u64,
    heading: Option<&'static str>,
}

/// The rungs that this machine has.
fn rungs(stop: &Stop, scenario: &Scenario) -> Vec<Climbed> {
    let climbed = |rung: &guest_abi::protocol::Rung| {
        let asks = match (rung.request, rung.without_nmi) {
            (Request::Nmi, WithoutNmi::Skipped) if !scenario.pseudo_nmi => return None,
            (Request::Nmi, WithoutNmi::Irq) if !scenario.pseudo_nmi => Request::Irq,
            (Request::Sdei, _) if !scenario.sdei => return None,
            (request, _) => request,
        };
        Some(Climbed {
            asks,
            sgi: rung.sgi,
            budget_us: u64::from(rung.budget_us),
            heading: rung.heading,
        })
    };
    stop.ladder.is.iter().filter_map(climbed).collect()
}

/// The rungs that are climbed on a machine like the scenario's, and their microseconds.
pub fn climbed(stop: &Stop, scenario: &Scenario) -> Vec<(Request, u64)> {
    rungs(stop, scenario)
        .iter()
        .map(|rung| (rung.asks, rung.budget_us))
        .collect()
}

fn bit(cpu: usize) -> u8 {
    1 << cpu
}

fn set(bits: u8) -> CpuSet {
    CpuSet::from_bits(u64::from(bits))
}

/// What one run showed and chose.
#[derive(Clone, Debug)]
pub struct Run {
    /// The evidence.
    pub evidence: Evidence,
    /// What was chosen.
    pub taken: Taken,
}

/// What a schedule of this scenario and protocol belongs to.
pub fn origin(scenario: &Scenario, protocol: &Protocol) -> Origin {
    let (scenario, protocol) = (scenario.to_string(), protocol.to_string());
    Origin::of(&[VERSION, &scenario, &protocol])
}

/// Whether the model can do it.
pub fn fits(scenario: &Scenario) -> Result<(), Unfit> {
    if scenario.cpus > MAX_CPUS {
        return Err(Unfit::Cpus {
            name: scenario.name.clone(),
            cpus: scenario.cpus,
        });
    }
    Ok(())
}

/// Runs the model once, to its end.
pub fn run(
    scenario: &Scenario,
    protocol: &Protocol,
    strategy: &mut dyn Choose,
) -> Result<Run, Unfit> {
    let mut model = Model::new(scenario, protocol)?;
    model.events = Some(Vec::new());
    model.begin();
    let (taken, Ok(())) = drive(&mut model, strategy);
    let mut setting = model.fixed.setting.clone();
    setting.schedule = Some(Schedule::new(origin(scenario, protocol), &taken).to_string());
    let evidence = Evidence {
        setting,
        events: model.events.unwrap_or_default(),
        places: text::places(),
        end: End::Complete,
        scenario: scenario.to_string(),
        pstore: None,
        dmesg: None,
    };
    Ok(Run { evidence, taken })
}

impl Moves for Model {
    type Error = Infallible;

    fn moves(&self) -> Vec<Actor> {
        Model::moves(self)
    }

    fn take(&mut self, actor: Actor) -> Result<(), Infallible> {
        Model::take(self, actor);
        Ok(())
    }
}

impl Model {
    /// The machine before its first step.
    pub fn new(scenario: &Scenario, protocol: &Protocol) -> Result<Self, Unfit> {
        fits(scenario)?;
        let mut passings: Vec<Passing> = Vec::new();
        let ends = scenario.holds.iter().filter_map(|hold| match hold.until {
            HoldUntil::Passing(passing) => Some(passing),
            HoldUntil::AfterRequest(_) | HoldUntil::Never => None,
        });
        for passing in ends.chain(scenario.tasks.iter().filter_map(|task| task.after)) {
            if !passings.contains(&passing) {
                passings.push(passing);
            }
        }
        let online: u8 = (0..usize::from(scenario.cpus))
            .filter(|cpu| !scenario.offline.contains(CpuId(*cpu as u16)))
            .map(bit)
            .sum();
        let stop = match scenario.stop {
            StopKind::Plain => &protocol.plain,
            StopKind::Crash => &protocol.crash,
        };
        let setting = Setting {
            subject: format!("model:{}", protocol.name),
            protocol: protocol.into(),
            scenario: scenario.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: VERSION.to_owned(),
            build_id: None,
            seed: None,
            schedule: None,
            cpus: scenario.cpus,
            online: set(online),
            pseudo_nmi: scenario.pseudo_nmi,
            rungs: climbed(stop, scenario),
            ack_located: true,
            capture: false,
        };
        let oracle = Oracle::new(&setting, &text::places());
        let mut cpus: Vec<Cpu> = (0..scenario.cpus).map(|_| Cpu::idle()).collect();
        for (at, task) in scenario.tasks.iter().enumerate() {
            let cpu = &mut cpus[task.cpu.index()];
            cpu.stack.push(Act::Task { task: at as u8 });
            match task.does {
                // Whoever sends a backtrace NMI does so from an interrupt of its own.
                Does::MaskIrqs | Does::Nmi(_) => cpu.mask = Mask::Irqs,
                Does::MaskDaif | Does::Online => cpu.mask = Mask::All,
                _ => {}
            }
        }
        for cpu in scenario.offline.iter() {
            let cpu = &mut cpus[cpu.index()];
            cpu.mask = Mask::All;
            cpu.off = cpu.stack.len() == 1;
        }
        let state = State {
            now: 0,
            cpus,
            online,
            online_count: online.count_ones() as i8,
            stop_mask: 0,
            counter: 0,
            crash_flag: false,
            stop_in_progress: false,
            panic_cpu: None,
            running: true,
            reset: false,
            first_request: None,
            port: None,
            sem: None,
            sem_waiter: None,
            sem_writes: false,
            records: Vec::new(),
            shown: 0,
            nbcon: Nbcon::default(),
            passed: 0,
            holds: (1u32 << scenario.holds.len()) - 1,
            delays: scenario.explore.delays,
        };
        let foreign = scenario
            .tasks
            .iter()
            .any(|task| matches!(task.does, Does::Nmi(_)));
        let fixed = Fixed {
            scenario: scenario.clone(),
            protocol: *protocol,
            passings,
            foreign,
            setting,
        };
        Ok(Self {
            fixed: Arc::new(fixed),
            state,
            current: 0,
            oracle,
            events: None,
        })
    }

    /// Applies the holds that are in force from the start.
    fn begin(&mut self) {
        for cpu in 0..self.state.cpus.len() {
            self.arrive(cpu);
        }
    }

    fn stop_table(&self, kind: StopKind) -> &Stop {
        match kind {
            StopKind::Plain => &self.fixed.protocol.plain,
            StopKind::Crash => &self.fixed.protocol.crash,
        }
    }

    fn say(&mut self, cpu: usize, what: What) {
        let masks = self.state.cpus[cpu]
            .mask
            .registers(self.fixed.scenario.pseudo_nmi);
        let event = Event {
            at_us: self.state.now,
            cpu: CpuId(cpu as u16),
            seen: Seen::Told,
            masks: Some(Masks {
                daif: masks.0,
                pmr: masks.1,
            }),
            what,
        };
        self.oracle.see(&event);
        if let Some(events) = &mut self.events {
            events.push(event);
        }
    }

    /// Who can move, the default first: the CPU that moved last, then the others, those that were left unrun,
    /// late stores, and time.
    pub fn moves(&self) -> Vec<Actor> {
        let state = &self.state;
        if state.reset {
            return Vec::new();
        }
        let count = state.cpus.len();
        let order =
            std::iter::once(self.current).chain((0..count).filter(|cpu| *cpu != self.current));
        let can: Vec<usize> = order.filter(|cpu| self.can_move(*cpu)).collect();
        let unrun = |cpu: &&usize| state.cpus[**cpu].unrun;
        let cpu = |cpu: &usize| Actor::Cpu(CpuId(*cpu as u16));
        let mut moves: Vec<Actor> = can.iter().filter(|cpu| !unrun(cpu)).map(cpu).collect();
        moves.extend(can.iter().filter(unrun).map(cpu));
        let late = (0..count).filter(|cpu| state.cpus[*cpu].late_note.is_some());
        moves.extend(late.map(|cpu| Actor::Stores(CpuId(cpu as u16))));
        let charge = can.iter().filter(|cpu| !unrun(cpu)).count();
        if charge <= usize::from(state.delays) && self.deadline().is_some() {
            moves.push(Actor::Time);
        }
        moves
    }

    /// Takes a move of [`Model::moves`].
    pub fn take(&mut self, actor: Actor) {
        match actor {
            Actor::Cpu(cpu) => {
                let cpu = cpu.index();
                self.current = cpu;
                if std::mem::take(&mut self.state.cpus[cpu].unrun) {
                    self.say(cpu, What::Releases);
                }
                self.step(cpu);
                self.arrive(cpu);
            }
            Actor::Stores(cpu) => self.drain_stores(cpu.index()),
            Actor::Time => self.pass_time(),
        }
    }

    fn drain_stores(&mut self, cpu: usize) {
        if let Some(note) = self.state.cpus[cpu].late_note.take() {
            self.write_note(cpu, note);
        }
    }

    fn write_note(&mut self, cpu: usize, note: Arc<Note>) {
        self.state.cpus[cpu].note = Some(note.clone());
        self.say(cpu, What::Notes(note));
    }

    /// The next moment at which something ends by itself.
    fn deadline(&self) -> Option<u64> {
        let state = &self.state;
        let waits = state
            .cpus
            .iter()
            .filter_map(|cpu| cpu.stack.last()?.deadline());
        let holds = state.cpus.iter().filter_map(|cpu| {
            let HoldUntil::AfterRequest(ms) =
                self.fixed.scenario.holds[usize::from(cpu.hold?.number)].until
            else {
                return None;
            };
            Some(state.first_request? + u64::from(ms) * 1000)
        });
        waits.chain(holds).filter(|at| *at > state.now).min()
    }

    fn pass_time(&mut self) {
        let deadline = self.deadline().expect("time passes only to a deadline");
        for cpu in 0..self.state.cpus.len() {
            if self.can_move(cpu) && !self.state.cpus[cpu].unrun {
                self.state.delays -= 1;
                self.state.cpus[cpu].unrun = true;
                let at = self.point(cpu);
                self.say(
                    cpu,
                    What::Holds {
                        at,
                        manner: Manner::Freeze,
                        until: Until::Event,
                    },
                );
            }
        }
        self.state.now = deadline;
        self.release();
    }

    /// A CPU has come to where it is: that may end holds, and begin one.
    fn arrive(&mut self, cpu: usize) {
        if let Some(point) = self.point(cpu) {
            let fixed = self.fixed.clone();
            let here = |passing: &Passing| passing.cpu.index() == cpu && passing.at == point;
            for (number, _) in fixed
                .passings
                .iter()
                .enumerate()
                .filter(|(_, passing)| here(passing))
            {
                self.state.passed |= 1 << number;
            }
            let begins = |(number, hold): &(usize, &crate::scenario::Hold)| {
                hold.cpu.index() == cpu && hold.at == point && self.state.holds & (1 << number) != 0
            };
            if let Some((number, hold)) = fixed.scenario.holds.iter().enumerate().find(begins)
                && self.state.cpus[cpu].hold.is_none()
            {
                self.state.holds &= !(1 << number);
                let depth = self.state.cpus[cpu].stack.len() as u8;
                self.state.cpus[cpu].hold = Some(cpu::Held {
                    number: number as u8,
                    depth,
                    manner: hold.manner,
                });
                let until = match hold.until {
                    HoldUntil::AfterRequest(ms) => Until::AfterRequest(u64::from(ms) * 1000),
                    HoldUntil::Passing(_) => Until::Event,
                    HoldUntil::Never => Until::Never,
                };
                self.say(
                    cpu,
                    What::Holds {
                        at: Some(point),
                        manner: hold.manner,
                        until,
                    },
                );
            }
        }
        self.release();
    }

    /// Lets go whoever is held for something that has come.
    fn release(&mut self) {
        for cpu in 0..self.state.cpus.len() {
            let Some(held) = self.state.cpus[cpu].hold else {
                continue;
            };
            let over = match self.fixed.scenario.holds[usize::from(held.number)].until {
                HoldUntil::Never => false,
                HoldUntil::Passing(passing) => self.has_passed(&passing),
                HoldUntil::AfterRequest(ms) => self
                    .state
                    .first_request
                    .is_some_and(|at| self.state.now >= at + u64::from(ms) * 1000),
            };
            if over {
                self.state.cpus[cpu].hold = None;
                self.say(cpu, What::Releases);
            }
        }
    }

    fn has_passed(&self, passing: &Passing) -> bool {
        let number = self
            .fixed
            .passings
            .iter()
            .position(|known| known == passing);
        number.is_some_and(|number| self.state.passed & (1 << number) != 0)
    }

    /// The point at which a CPU is: what it is about to do.
    fn point(&self, cpu: usize) -> Option<Point> {
        self.state.cpus[cpu]
            .stack
            .last()
            .and_then(|act| self.point_of(*act))
    }
}
