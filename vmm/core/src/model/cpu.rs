//! A CPU: what it masks, what is pending, and the handler that stops it.

use std::sync::Arc;

use guest_abi::point::Point;
use guest_abi::protocol::{Order, Request, Step, Stop, Word};

use super::task::Act;
use super::text::{self, Function};
use super::{Model, bit, rungs};
use crate::evidence::{Hand, Interrupt, Manner, Note, StopKind, What};
use crate::scenario::Does;

/// What a CPU keeps out. SDEI has a mask of its own.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Mask {
    /// Nothing.
    Open,
    /// Interrupts, not pseudo-NMIs.
    Irqs,
    /// Both.
    All,
}

impl Mask {
    /// PSTATE.DAIF and ICC_PMR_EL1: with pseudo-NMIs `local_irq_disable()` lowers the priority mask and leaves
    /// DAIF alone; without, it sets DAIF.I. Values since Linux 6.11 (drivers/irqchip/irq-gic-v3.c, GICD_CTLR.DS
    /// set as KVM has it).
    pub(super) fn registers(self, pseudo_nmi: bool) -> (u8, u8) {
        match (self, pseudo_nmi) {
            (Mask::Open, true) => (0, 0xe0),
            (Mask::Irqs, true) => (0, 0xc0),
            (Mask::Open, false) => (0, 0xf0),
            (Mask::Irqs, false) => (0b0010, 0xf0),
            (Mask::All, _) => (0b1111, 0xf0),
        }
    }
}

/// A hold in force, on the activation at this depth of the stack.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Held {
    pub(super) number: u8,
    pub(super) depth: u8,
    pub(super) manner: Manner,
}

/// A CPU. Its stack holds what it does, the innermost last; an interrupt puts its handler on top.
#[derive(Clone, Debug, Hash)]
pub(super) struct Cpu {
    pub(super) stack: Vec<Act>,
    pub(super) mask: Mask,
    pub(super) sdei_masked: bool,
    pub(super) pending: u8,
    pub(super) note: Option<Arc<Note>>,
    pub(super) late_note: Option<Arc<Note>>,
    pub(super) hold: Option<Held>,
    /// Time passed while it could have run, and it has not run since.
    pub(super) unrun: bool,
    pub(super) off: bool,
}

/// Pending interrupts, as bits.
const SGI2: u8 = 1;
const SGI3: u8 = 2;
const FOREIGN: u8 = 4;
const SDEI: u8 = 8;

/// What made a CPU run its stop handler.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum By {
    Request(Request),
    SelfStop,
}

/// Where a CPU is in its stop handler.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Handling {
    pub(super) by: By,
    /// Which handler; none where the flag has not been read yet.
    pub(super) kind: Option<StopKind>,
    pub(super) at: At,
}

/// Where in the handler.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum At {
    /// At the vector: nothing is unmasked.
    Entry,
    /// Past `gic_unmask_pnmis()`.
    Open,
    /// At a step of the table, and within it.
    Step(u8, u8),
}

impl Cpu {
    pub(super) fn idle() -> Self {
        Self {
            stack: vec![Act::Idle],
            mask: Mask::Open,
            sdei_masked: false,
            pending: 0,
            note: None,
            late_note: None,
            hold: None,
            unrun: false,
            off: false,
        }
    }
}

impl Model {
    /// Makes an interrupt pending.
    pub(super) fn pend(&mut self, cpu: usize, request: Request, sgi: Option<u8>) {
        self.state.cpus[cpu].pending |= match (request, sgi) {
            (Request::Sdei, _) => SDEI,
            (_, Some(2)) => SGI2,
            (_, _) => SGI3,
        };
    }

    pub(super) fn pend_foreign(&mut self, cpu: usize) {
        self.state.cpus[cpu].pending |= FOREIGN;
    }

    /// How an SGI arrives on this machine.
    fn arrives_as(&self, sgi: u8) -> Request {
        let protocol = &self.fixed.protocol;
        let ladders =
            [&protocol.plain, &protocol.crash].map(|stop| rungs(stop, &self.fixed.scenario));
        let rung = ladders.iter().flatten().find(|rung| rung.sgi == Some(sgi));
        rung.map_or(Request::Irq, |rung| rung.asks)
    }

    /// The interrupt that the CPU takes at its next step.
    pub(super) fn deliverable(&self, cpu: usize) -> Option<(u8, Interrupt)> {
        let c = &self.state.cpus[cpu];
        if c.pending == 0 {
            return None;
        }
        if c.pending & SDEI != 0 && !c.sdei_masked {
            return Some((SDEI, Interrupt::Stop(Request::Sdei)));
        }
        let passes = |request: Request| match request {
            Request::Nmi => c.mask != Mask::All,
            Request::Irq => c.mask == Mask::Open,
            Request::Sdei => false,
        };
        // The higher priority first, and the lower INTID among equals (GICv3, IHI 0069, 4.8): a pending NMI
        // overtakes a pending interrupt.
        let foreign = if self.fixed.scenario.pseudo_nmi {
            Request::Nmi
        } else {
            Request::Irq
        };
        let pending = [(SGI2, 2), (SGI3, 3)]
            .into_iter()
            .filter(|(bit, _)| c.pending & bit != 0)
            .map(|(bit, sgi)| {
                let request = self.arrives_as(sgi);
                (bit, request, Interrupt::Stop(request))
            });
        let foreign = (c.pending & FOREIGN != 0).then_some((FOREIGN, foreign, Interrupt::Foreign));
        let taken = pending
            .chain(foreign)
            .filter(|(_, request, _)| passes(*request));
        let first = taken.min_by_key(|(_, request, _)| *request != Request::Nmi);
        first.map(|(bit, _, interrupt)| (bit, interrupt))
    }

    /// Whether a CPU can take a step.
    pub(super) fn can_move(&self, cpu: usize) -> bool {
        let c = &self.state.cpus[cpu];
        if c.off || c.hold.is_some_and(|hold| hold.manner == Manner::Freeze) {
            return false;
        }
        if self.deliverable(cpu).is_some() {
            return true;
        }
        let held = c
            .hold
            .is_some_and(|hold| usize::from(hold.depth) == c.stack.len());
        !held && c.stack.last().is_some_and(|act| self.ready(cpu, *act))
    }

    /// One step: an interrupt if one can be taken, else what the CPU is doing.
    pub(super) fn step(&mut self, cpu: usize) {
        match self.deliverable(cpu) {
            Some((pending, by)) => self.interrupt(cpu, pending, by),
            None => self.act(cpu),
        }
    }

    fn interrupt(&mut self, cpu: usize, pending: u8, by: Interrupt) {
        let depth = self.state.cpus[cpu].stack.len();
        let regs = text::regs(cpu, self.pc(cpu, depth - 1), depth);
        let told_by_flag = self.fixed.protocol.told_by_flag.is;
        let c = &mut self.state.cpus[cpu];
        c.pending &= !pending;
        let saved = c.mask;
        c.mask = Mask::All;
        c.stack.push(match by {
            Interrupt::Foreign => Act::Foreign { at: 0, saved },
            Interrupt::Stop(request) => {
                let kind = match pending {
                    SGI2 if !told_by_flag => Some(StopKind::Plain),
                    SGI3 if !told_by_flag => Some(StopKind::Crash),
                    _ => None,
                };
                Act::Handler(Handling {
                    by: By::Request(request),
                    kind,
                    at: At::Entry,
                })
            }
        });
        self.say(
            cpu,
            What::Takes {
                by,
                regs: Some(Arc::new(regs)),
            },
        );
    }

    /// The address of the activation at this depth.
    fn pc(&self, cpu: usize, at: usize) -> u64 {
        let (function, step) = self.state.cpus[cpu].stack[at].place();
        text::address(function, step)
    }

    /// The step that the handler takes at `at`, and the kind that it then knows itself to be: steps that both
    /// handlers begin with are taken before the flag is read.
    pub(super) fn handler_step(&self, handling: Handling, at: u8) -> (Step, Option<StopKind>) {
        let steps = |kind: StopKind| self.stop_table(kind).handler.is;
        let at = usize::from(at);
        if let Some(kind) = handling.kind {
            return (steps(kind)[at], Some(kind));
        }
        let (plain, crash) = (steps(StopKind::Plain), steps(StopKind::Crash));
        if plain[at] == crash[at] {
            return (plain[at], None);
        }
        let kind = if self.state.crash_flag {
            StopKind::Crash
        } else {
            StopKind::Plain
        };
        (steps(kind)[at], Some(kind))
    }

    pub(super) fn handle(&mut self, cpu: usize, mut handling: Handling) {
        match handling.at {
            At::Entry => {
                if handling.by == By::SelfStop {
                    self.say(cpu, What::SelfStops);
                }
                let irq = handling.by == By::Request(Request::Irq);
                if irq && self.fixed.scenario.pseudo_nmi {
                    self.state.cpus[cpu].mask = Mask::Irqs;
                }
                handling.at = if irq { At::Open } else { At::Step(0, 0) };
            }
            At::Open => handling.at = At::Step(0, 0),
            At::Step(at, within) => {
                let (step, kind) = self.handler_step(handling, at);
                handling.kind = kind;
                if matches!(step, Step::DieOrPark | Step::Park) {
                    return self.rest(
                        cpu,
                        step == Step::DieOrPark && handling.by != By::Request(Request::Sdei),
                    );
                }
                let more = self.handler_does(cpu, handling, step, within);
                handling.at = if more {
                    At::Step(at, within + 1)
                } else {
                    At::Step(at + 1, 0)
                };
            }
        }
        *self.state.cpus[cpu]
            .stack
            .last_mut()
            .expect("the handler runs") = Act::Handler(handling);
    }

    /// Does a step of the handler, or a part of it; true if there is more of it.
    fn handler_does(&mut self, cpu: usize, handling: Handling, step: Step, within: u8) -> bool {
        let self_stop = handling.by == By::SelfStop;
        let hand = if self_stop {
            Hand::SelfStop
        } else {
            Hand::Handler
        };
        let table: &Stop = self.stop_table(handling.kind.unwrap_or(StopKind::Plain));
        let ordered = table.ack_order.is == Order::Full;
        match step {
            Step::Save => {
                let depth = self.state.cpus[cpu].stack.len() - 1;
                let regs = text::regs(cpu, self.pc(cpu, depth - 1), depth);
                let c = &mut self.state.cpus[cpu];
                let before = c.late_note.as_ref().or(c.note.as_ref());
                let note = if within == 0 {
                    Note::torn(&regs, before.map(|note| &**note))
                } else {
                    Note::complete(&regs)
                };
                let note = Arc::new(note);
                if self.fixed.scenario.late_stores {
                    c.late_note = Some(note);
                } else {
                    self.write_note(cpu, note);
                }
                return within == 0;
            }
            // A CPU that stops itself knows of no sender's mask.
            Step::ClearStopMask if self_stop => {}
            Step::ClearStopMask => {
                if ordered {
                    self.drain_stores(cpu);
                }
                if self.state.stop_mask & bit(cpu) != 0 {
                    self.state.stop_mask &= !bit(cpu);
                    self.say(
                        cpu,
                        What::Clears {
                            word: Word::StopMask,
                            by: hand,
                        },
                    );
                }
            }
            Step::DropCounter => {
                if ordered {
                    self.drain_stores(cpu);
                }
                self.state.counter -= 1;
                self.say(
                    cpu,
                    What::Clears {
                        word: Word::Counter,
                        by: hand,
                    },
                );
            }
            Step::Offline if within == 0 => return self.clear_online(cpu, hand),
            Step::Offline => self.drop_count(cpu, hand),
            Step::MaskIrqs => {
                let c = &mut self.state.cpus[cpu];
                c.mask = c.mask.max(Mask::Irqs);
            }
            Step::MaskDaif => self.state.cpus[cpu].mask = Mask::All,
            Step::DieOrPark | Step::Park => unreachable!("resting ends the handler"),
        }
        false
    }

    /// `cpumask_test_and_clear_cpu()`, fully ordered; true if the count is still to be dropped.
    pub(super) fn clear_online(&mut self, cpu: usize, by: Hand) -> bool {
        self.drain_stores(cpu);
        let was = self.state.online & bit(cpu) != 0;
        if was {
            self.state.online &= !bit(cpu);
            self.say(
                cpu,
                What::Clears {
                    word: Word::OnlineMask,
                    by,
                },
            );
        }
        was
    }

    pub(super) fn drop_count(&mut self, cpu: usize, by: Hand) {
        self.state.online_count -= 1;
        self.say(
            cpu,
            What::Clears {
                word: Word::OnlineCount,
                by,
            },
        );
    }

    fn rest(&mut self, cpu: usize, dies: bool) {
        self.drain_stores(cpu);
        let off = dies && self.fixed.scenario.can_die;
        let c = &mut self.state.cpus[cpu];
        c.stack = vec![Act::Parked];
        c.sdei_masked = true;
        c.off = off;
        self.say(cpu, if off { What::PowersOff } else { What::Parks });
    }

    pub(super) fn point_of(&self, act: Act) -> Option<Point> {
        match act {
            Act::Task { task } => match self.fixed.scenario.tasks[usize::from(task)].does {
                Does::Panic(_) => Some(Point::PanicEntry),
                Does::Restart => Some(Point::RestartEntry),
                Does::Unplug => Some(Point::Unplug),
                Does::Online => Some(Point::Online),
                Does::MaskIrqs | Does::MaskDaif => Some(Point::Masked),
                Does::Talk(_) | Does::Nmi(_) => None,
            },
            Act::Handler(handling) => self.handler_point(handling),
            Act::Stop(climbing) => self.stop_point(climbing),
            other => other.own_point(),
        }
    }

    fn handler_point(&self, handling: Handling) -> Option<Point> {
        let (at, within) = match (handling.at, handling.by) {
            (At::Entry, By::SelfStop) => return Some(Point::SelfStop),
            (At::Entry, By::Request(Request::Irq)) => return Some(Point::IrqTaken),
            (At::Entry, By::Request(Request::Nmi)) => return Some(Point::NmiTaken),
            (At::Entry, By::Request(Request::Sdei)) => return Some(Point::SdeiTaken),
            (At::Open, _) => return Some(Point::IrqOpen),
            (At::Step(at, within), _) => (at, within),
        };
        let (step, kind) = self.handler_step(handling, at);
        let ack = self.stop_table(kind.unwrap_or(StopKind::Plain)).ack.is;
        match (step, within) {
            (Step::Save, 0) => Some(Point::Save),
            (Step::Save, _) => Some(Point::SaveTorn),
            (Step::ClearStopMask | Step::DropCounter, _) => Some(Point::Ack),
            (Step::Offline, 0) => (ack == Word::OnlineMask).then_some(Point::Ack),
            (Step::Offline, _) => Some(Point::Count),
            (Step::MaskIrqs | Step::MaskDaif, _) => Some(Point::HandlerMask),
            (Step::DieOrPark | Step::Park, _) => Some(Point::Rest),
        }
    }
}

impl Handling {
    pub(super) fn place(self) -> (Function, u64) {
        let function = if self.by == By::SelfStop {
            Function::SelfStop
        } else {
            Function::StopHandler
        };
        let step = match self.at {
            At::Entry => 0,
            At::Open => 1,
            At::Step(at, within) => 2 + 2 * u64::from(at) + u64::from(within),
        };
        (function, step)
    }
}
