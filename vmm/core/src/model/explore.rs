//! Every order of steps, over states instead of runs.
//!
//! Two things keep that small, and docs/oracle.md argues why neither loses a verdict:
//!
//! - *States are remembered.* A state is the machine's and the oracle's: if two runs come to the same one, nothing
//!   that follows can tell them apart, nor can their verdicts. Remembered are fingerprints of 128 bits.
//! - *Private steps are taken at once* ([`Reduction::PrivateSteps`]): if the next step of a CPU touches nothing that
//!   any other CPU may still touch, it commutes with all that they can do, and every order is the same as one in
//!   which it comes first. This is a persistent set of one (Godefroid, LNCS 1032, chapter 4), found from what the
//!   activations on each stack can still touch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use guest_abi::protocol::{Protocol, Request, Step};

use super::cpu::{At, By, Handling, Mask};
use super::stop::StopAt;
use super::task::{Act, Panicking};
use super::{Model, Unfit, rungs};
use crate::choose::{Actor, Taken};
use crate::evidence::{End, Interrupt};
use crate::oracle::Rule;
use crate::scenario::{Does, Scenario};

/// How orders are spared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reduction {
    /// Not at all: every order of every step.
    None,
    /// Steps that commute with all that others may still do are taken at once.
    PrivateSteps,
}

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// States to remember at most.
    pub states: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { states: 20_000_000 }
    }
}

/// How an outcome was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The choices that lead to it.
    pub taken: Taken,
}

/// What an exploration saw.
#[derive(Clone, Debug, Default)]
pub struct Explored {
    /// States with more than one move; without reduction all states.
    pub states: u64,
    /// Steps taken between them.
    pub steps: u64,
    /// Schedules that these stand for; it stops counting at the largest number.
    pub schedules: u128,
    /// By set of broken rules at the end of a run, the first run that broke them.
    pub outcomes: BTreeMap<BTreeSet<Rule>, Found>,
    /// The rules that some run put to the test.
    pub exercised: BTreeSet<Rule>,
    /// Runs that came to their end, or to a state that was known.
    pub schedules_so_far: u64,
    /// Whether all was seen, or the exploration was given up.
    pub complete: bool,
}

impl Explored {
    /// The rules that some run breaks.
    pub fn broken(&self) -> BTreeSet<Rule> {
        self.outcomes.keys().flatten().copied().collect()
    }

    /// A run that breaks this rule, among those with the fewest broken rules.
    pub fn witness(&self, rule: Rule) -> Option<&Found> {
        let breaking = self
            .outcomes
            .iter()
            .filter(|(broken, _)| broken.contains(&rule));
        breaking
            .min_by_key(|(broken, found)| (broken.len(), found.taken.deviations.len()))
            .map(|(_, found)| found)
    }
}

struct Frame {
    model: Option<Model>,
    fingerprint: u128,
    moves: Vec<Actor>,
    next: usize,
    schedules: u128,
    // Decisions before this frame.
    path: usize,
}

/// Explores a scenario under a protocol; `progress` hears now and then how far it is, and says whether to go on.
pub fn explore(
    scenario: &Scenario,
    protocol: &Protocol,
    reduction: Reduction,
    limits: Limits,
    progress: &mut dyn FnMut(&Explored) -> bool,
) -> Result<Explored, Unfit> {
    let mut model = Model::new(scenario, protocol)?;
    model.begin();
    let mut seen: HashMap<u128, u128> = HashMap::new();
    let mut explored = Explored {
        complete: true,
        ..Explored::default()
    };
    // Who moved at each decision of the present path, and which answer that was.
    let mut path: Vec<(Actor, u32)> = Vec::new();
    let mut frames: Vec<Frame> = Vec::new();
    let mut arrived = Some(model);
    loop {
        if let Some(mut model) = arrived.take() {
            let moves = advance(&mut model, reduction, &mut path, &mut explored);
            explored.exercised.extend(model.oracle.exercised());
            if moves.is_empty() {
                let verdicts = model.oracle.finish(&End::Complete);
                explored.exercised.extend(verdicts.exercised());
                explored
                    .outcomes
                    .entry(verdicts.broken())
                    .or_insert_with(|| Found {
                        taken: taken(&path),
                    });
                explored.schedules_so_far += 1;
                add(&mut frames, &mut explored, 1);
            } else {
                let fingerprint = model.fingerprint();
                if let Some(schedules) = seen.get(&fingerprint) {
                    explored.schedules_so_far += 1;
                    add(&mut frames, &mut explored, *schedules);
                } else if seen.len() >= limits.states {
                    explored.complete = false;
                } else {
                    // In the map from the start, so that a cycle would be found out: there is none.
                    seen.insert(fingerprint, 0);
                    explored.states += 1;
                    if explored.states.is_multiple_of(4096) && !progress(&explored) {
                        explored.complete = false;
                        return Ok(explored);
                    }
                    frames.push(Frame {
                        model: Some(model),
                        fingerprint,
                        moves,
                        next: 0,
                        schedules: 0,
                        path: path.len(),
                    });
                }
            }
        }
        let Some(frame) = frames.last_mut() else {
            break;
        };
        path.truncate(frame.path);
        let Some(actor) = frame.moves.get(frame.next).copied() else {
            seen.insert(frame.fingerprint, frame.schedules);
            let schedules = frame.schedules;
            frames.pop();
            add(&mut frames, &mut explored, schedules);
            continue;
        };
        let answer = frame.next as u32;
        frame.next += 1;
        let last = frame.next == frame.moves.len();
        let model = if last {
            frame.model.take()
        } else {
            frame.model.clone()
        };
        let mut model = model.expect("the model is there until its last move");
        if frame.moves.len() > 1 {
            path.push((actor, answer));
        }
        model.take(actor);
        explored.steps += 1;
        arrived = Some(model);
    }
    Ok(explored)
}

fn add(frames: &mut [Frame], explored: &mut Explored, schedules: u128) {
    let sum = frames
        .last_mut()
        .map_or(&mut explored.schedules, |frame| &mut frame.schedules);
    *sum = sum.saturating_add(schedules);
}

/// Takes the steps that need no branch; the moves of the state where one is needed.
fn advance(
    model: &mut Model,
    reduction: Reduction,
    path: &mut Vec<(Actor, u32)>,
    explored: &mut Explored,
) -> Vec<Actor> {
    loop {
        let moves = model.moves();
        if reduction == Reduction::None {
            return moves;
        }
        let pick = match moves.len() {
            0 => return moves,
            1 => 0,
            _ => match moves.iter().position(|actor| model.is_private(*actor)) {
                Some(pick) => {
                    path.push((moves[pick], pick as u32));
                    pick
                }
                None => return moves,
            },
        };
        model.take(moves[pick]);
        explored.steps += 1;
    }
}

fn taken(path: &[(Actor, u32)]) -> Taken {
    let deviations = path
        .iter()
        .enumerate()
        .filter(|(_, (_, answer))| *answer != 0);
    Taken {
        actors: path.iter().map(|(actor, _)| *actor).collect(),
        deviations: deviations
            .map(|(at, (_, answer))| (at as u32, *answer))
            .collect(),
        decisions: path.len() as u32,
    }
}

/// What a step touches, or what a CPU may still touch.
type Touch = u8;
const CONSOLE: Touch = 1;
/// Stores of CPUs that stop or come and go: they commute with each other.
const ACK_STORE: Touch = 2;
/// What senders do with masks and counts.
const ACK_READ: Touch = 4;
const FLAG_STORE: Touch = 8;
const FLAG_READ: Touch = 16;
const SEND: Touch = 32;
/// Could be interrupted instead.
const RECEIVE: Touch = 64;
const ALL: Touch = CONSOLE | ACK_STORE | ACK_READ | FLAG_STORE | FLAG_READ | SEND;

/// What does not commute with a step that touches this.
fn against(touches: Touch) -> Touch {
    let rules = [
        (CONSOLE, CONSOLE),
        (ACK_STORE, ACK_READ),
        (ACK_READ, ACK_STORE | ACK_READ),
        (FLAG_STORE, FLAG_STORE | FLAG_READ),
        (FLAG_READ, FLAG_STORE),
        (SEND, SEND),
        (RECEIVE, SEND),
    ];
    rules
        .iter()
        .filter(|(touch, _)| touches & touch != 0)
        .fold(0, |sum, (_, against)| sum | against)
}

impl Model {
    fn fingerprint(&self) -> u128 {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            self.state.hash(&mut hasher);
            self.oracle.hash(&mut hasher);
            u128::from(hasher.finish())
        };
        half(1) << 64 | half(2)
    }

    /// Whether this move commutes with all that the others may still do.
    fn is_private(&self, actor: Actor) -> bool {
        let Actor::Cpu(cpu) = actor else { return false };
        let cpu = cpu.index();
        // A CPU that was left unrun owes its release to the time at which it moves; a CPU that holds or tasks
        // wait for is watched at every step.
        let watched = self
            .fixed
            .passings
            .iter()
            .any(|passing| passing.cpu.index() == cpu)
            || self
                .fixed
                .scenario
                .holds
                .iter()
                .any(|hold| hold.cpu.index() == cpu);
        if watched || self.state.cpus[cpu].unrun || self.fixed.scenario.late_stores {
            return false;
        }
        let Some(touches) = self.touches(cpu) else {
            return false;
        };
        let against = against(touches);
        (0..self.state.cpus.len()).all(|other| other == cpu || self.may_touch(other) & against == 0)
    }

    /// Whether a request that somebody may send would be taken instead of the next step.
    fn interruptible(&self, cpu: usize) -> bool {
        let c = &self.state.cpus[cpu];
        let protocol = &self.fixed.protocol;
        let nmis = self.fixed.foreign
            || [&protocol.plain, &protocol.crash].iter().any(|stop| {
                rungs(stop, &self.fixed.scenario)
                    .iter()
                    .any(|rung| rung.asks == Request::Nmi)
            });
        c.mask == Mask::Open
            || c.mask == Mask::Irqs && nmis
            || self.fixed.scenario.sdei && !c.sdei_masked
    }

    /// What the next step of a CPU touches; none if it is not worth a closer look.
    fn touches(&self, cpu: usize) -> Option<Touch> {
        let act = *self.state.cpus[cpu].stack.last()?;
        if let Some((_, by)) = self.deliverable(cpu) {
            let console = matches!(act, Act::Emit(_) | Act::Thread(_) | Act::Atomic(_));
            let foreign = by == Interrupt::Foreign;
            return Some(RECEIVE | if console || foreign { CONSOLE } else { 0 });
        }
        let own = match act {
            Act::Talk { .. } | Act::Restart { called: false } | Act::Foreign { at: 1, .. } => 0,
            Act::Panic(Panicking::Entered) => FLAG_STORE | FLAG_READ,
            Act::Panic(
                Panicking::Headed | Panicking::Called | Panicking::Stopped | Panicking::Ended,
            ) => 0,
            Act::Print(printing) if printing.lists() => CONSOLE | ACK_READ,
            Act::Print(_) | Act::Drain | Act::Emit(_) | Act::LastFlush { .. } | Act::Thread(_) => {
                CONSOLE | FLAG_READ
            }
            Act::Foreign { .. } => CONSOLE,
            Act::Stop(climbing) => match climbing.at {
                StopAt::Entry => 0,
                StopAt::Guard | StopAt::MaskRead => ACK_READ | FLAG_STORE | FLAG_READ,
                StopAt::OwnBitOut | StopAt::RungMask | StopAt::Targets | StopAt::FailedRead => {
                    ACK_READ
                }
                StopAt::Announce => FLAG_READ,
                StopAt::Send | StopAt::Wait | StopAt::Return => return None,
            },
            Act::Handler(handling) => self.handler_touches(handling)?,
            _ => return None,
        };
        Some(own | if self.interruptible(cpu) { RECEIVE } else { 0 })
    }

    fn handler_touches(&self, handling: Handling) -> Option<Touch> {
        let self_stop = handling.by == By::SelfStop;
        let At::Step(at, _) = handling.at else {
            return if self_stop { None } else { Some(0) };
        };
        let (step, kind) = self.handler_step(handling, at);
        let reads_flag = if handling.kind.is_none() && kind.is_some() {
            FLAG_READ
        } else {
            0
        };
        let own = match step {
            Step::Save | Step::MaskIrqs | Step::MaskDaif => 0,
            Step::ClearStopMask | Step::DropCounter | Step::Offline => ACK_STORE,
            // A CPU that acked has stopped in everybody's eyes; one that stops itself stops here.
            Step::DieOrPark | Step::Park if !self_stop => 0,
            Step::DieOrPark | Step::Park => return None,
        };
        Some(own | reads_flag)
    }

    /// What a CPU may still touch until the end of the run.
    fn may_touch(&self, cpu: usize) -> Touch {
        let c = &self.state.cpus[cpu];
        if c.off {
            return 0;
        }
        let at_rest = c.stack.last() == Some(&Act::Parked);
        if at_rest && !self.interruptible(cpu) {
            return 0;
        }
        let foreign = if self.fixed.foreign { CONSOLE } else { 0 };
        let mut touches = ACK_STORE | FLAG_READ | foreign;
        for act in c.stack.iter().rev() {
            touches |= match act {
                Act::Idle | Act::Spin | Act::Gone | Act::Parked => 0,
                Act::Handler(_) => return touches,
                Act::Task { task } => match self.fixed.scenario.tasks[usize::from(*task)].does {
                    Does::Panic(_) | Does::Restart => ALL,
                    Does::Talk(_) => CONSOLE | FLAG_READ,
                    Does::Unplug | Does::Online => ACK_STORE,
                    Does::Nmi(_) => SEND,
                    Does::MaskIrqs | Does::MaskDaif => 0,
                },
                Act::Talk { .. }
                | Act::Print(_)
                | Act::Drain
                | Act::Emit(_)
                | Act::Thread(_)
                | Act::Foreign { .. } => CONSOLE | FLAG_READ,
                Act::Panic(_)
                | Act::Restart { .. }
                | Act::Stop(_)
                | Act::LastFlush { .. }
                | Act::Atomic(_) => ALL,
                Act::Unplug { .. } | Act::Online { .. } => ACK_STORE,
            };
        }
        touches
    }
}
