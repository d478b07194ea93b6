//! The ladder, as the sender climbs it.

use guest_abi::point::Point;
use guest_abi::protocol::{Announced, FAILED, List, Request, SecondCaller, Word};

use super::console::Say;
use super::task::Act;
use super::{Climbed, Model, bit, rungs, set};
use crate::evidence::{StopKind, What};

/// Where a sender is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Climbing {
    pub(super) kind: StopKind,
    pub(super) at: StopAt,
    pub(super) rung: u8,
    /// The sender's own copy of a mask.
    pub(super) mask: u8,
    pub(super) first_mask: u8,
    pub(super) deadline: u64,
    /// `system_state` <= SYSTEM_RUNNING, as it read it.
    pub(super) running: bool,
}

/// What it does next.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum StopAt {
    Entry,
    Guard,
    MaskRead,
    OwnBitOut,
    Announce,
    RungMask,
    Targets,
    Send,
    Wait,
    FailedRead,
    Return,
}

impl Climbing {
    pub(super) fn new(kind: StopKind) -> Self {
        Self {
            kind,
            at: StopAt::Entry,
            rung: 0,
            mask: 0,
            first_mask: 0,
            deadline: 0,
            running: true,
        }
    }
}

impl Model {
    fn rung(&self, climbing: Climbing) -> Option<Climbed> {
        let rungs = rungs(self.stop_table(climbing.kind), &self.fixed.scenario);
        rungs.get(usize::from(climbing.rung)).copied()
    }

    pub(super) fn stop_point(&self, climbing: Climbing) -> Option<Point> {
        let asks = self.rung(climbing).map(|rung| rung.asks);
        match (climbing.at, asks) {
            (StopAt::Entry, _) => Some(Point::StopEntry),
            (StopAt::MaskRead, _) => Some(Point::MaskRead),
            (StopAt::Announce, _) => Some(Point::Announce),
            (StopAt::RungMask, Some(Request::Nmi)) => Some(Point::NmiMaskRead),
            (StopAt::Send, Some(Request::Irq)) => Some(Point::IrqSend),
            (StopAt::Send, Some(Request::Nmi)) => Some(Point::NmiSend),
            (StopAt::Send, Some(Request::Sdei)) => Some(Point::SdeiSend),
            (StopAt::Wait, Some(Request::Irq)) => Some(Point::IrqWait),
            (StopAt::Wait, Some(Request::Nmi)) => Some(Point::NmiWait),
            (StopAt::Wait, Some(Request::Sdei)) => Some(Point::SdeiWait),
            (StopAt::FailedRead, _) => Some(Point::FailedRead),
            (StopAt::Return, _) => Some(Point::StopReturn),
            _ => None,
        }
    }

    /// Whether the word that the sender polls says that all have stopped.
    pub(super) fn all_acked(&self, cpu: usize, kind: StopKind) -> bool {
        let state = &self.state;
        match self.stop_table(kind).polls.is {
            Word::OnlineMask | Word::OnlineCount => {
                state.online_count - i8::from(state.online & bit(cpu) != 0) <= 0
            }
            Word::StopMask => state.stop_mask == 0,
            Word::Counter => state.counter <= 0,
        }
    }

    fn list(&self, cpu: usize, climbing: Climbing, list: List) -> u8 {
        match list {
            List::FirstMask => climbing.first_mask,
            List::Online => self.state.online,
            List::OnlineOthers => self.state.online & !bit(cpu),
            List::StopMask => self.state.stop_mask,
        }
    }

    pub(super) fn climb(&mut self, cpu: usize, mut climbing: Climbing) {
        let table = *self.stop_table(climbing.kind);
        let shared_mask = table.retries.is == List::StopMask;
        let mut says = None;
        climbing.at = match climbing.at {
            StopAt::Entry => {
                self.say(cpu, What::Calls(climbing.kind));
                StopAt::Guard
            }
            StopAt::Guard => self.guard(cpu, climbing.kind),
            StopAt::MaskRead => {
                let others = self.state.online & !bit(cpu);
                (climbing.mask, climbing.first_mask) = (others, others);
                let running = self.state.running;
                climbing.running = running;
                self.say(
                    cpu,
                    What::Climbs {
                        stop: climbing.kind,
                        others: set(others),
                        running,
                    },
                );
                if table.polls.is == Word::Counter {
                    self.state.counter = others.count_ones() as i8;
                }
                if shared_mask {
                    // Two statements on one global mask: another sender may come between them.
                    self.state.stop_mask = self.state.online;
                    StopAt::OwnBitOut
                } else {
                    self.say(cpu, What::Reads(set(others)));
                    StopAt::Announce
                }
            }
            StopAt::OwnBitOut => {
                self.state.stop_mask &= !bit(cpu);
                StopAt::Announce
            }
            StopAt::Announce => {
                if table.announced.is == Announced::Always || climbing.running {
                    says = Some(Say::Stopping);
                }
                if shared_mask {
                    StopAt::Targets
                } else {
                    StopAt::Send
                }
            }
            StopAt::RungMask => {
                if self.all_acked(cpu, climbing.kind) {
                    StopAt::Return
                } else {
                    climbing.mask = self.list(cpu, climbing, table.retries.is);
                    self.say(cpu, What::Reads(set(climbing.mask)));
                    let rung = self
                        .rung(climbing)
                        .expect("there is a rung to read the mask for");
                    says = rung.heading.map(|_| Say::Retry(rung.asks, climbing.mask));
                    if shared_mask {
                        StopAt::Targets
                    } else {
                        StopAt::Send
                    }
                }
            }
            StopAt::Targets => {
                climbing.mask = self.state.stop_mask;
                self.say(cpu, What::Reads(set(climbing.mask)));
                StopAt::Send
            }
            StopAt::Send => {
                let rung = self.rung(climbing).expect("there is a rung to send");
                for target in
                    (0..self.state.cpus.len()).filter(|target| climbing.mask & bit(*target) != 0)
                {
                    self.pend(target, rung.asks, rung.sgi);
                }
                self.state.first_request.get_or_insert(self.state.now);
                self.say(
                    cpu,
                    What::Requests {
                        via: rung.asks,
                        to: set(climbing.mask),
                    },
                );
                climbing.deadline = self.state.now + rung.budget_us;
                StopAt::Wait
            }
            StopAt::Wait if self.all_acked(cpu, climbing.kind) => StopAt::Return,
            StopAt::Wait => {
                let rung = self.rung(climbing).expect("there is a rung to wait for");
                self.say(cpu, What::RungOut(rung.asks));
                climbing.rung += 1;
                if self.rung(climbing).is_some() {
                    StopAt::RungMask
                } else {
                    StopAt::FailedRead
                }
            }
            StopAt::FailedRead => {
                if !self.all_acked(cpu, climbing.kind) {
                    climbing.mask = self.list(cpu, climbing, table.failed.is);
                    self.say(cpu, What::Reads(set(climbing.mask)));
                    says = Some(Say::Failed(climbing.mask));
                }
                StopAt::Return
            }
            StopAt::Return => {
                self.state.cpus[cpu].stack.pop();
                self.say(cpu, What::Returns);
                return;
            }
        };
        *self.state.cpus[cpu]
            .stack
            .last_mut()
            .expect("the sender runs") = Act::Stop(climbing);
        if let Some(says) = says {
            self.print(cpu, says);
        }
    }

    /// Who may climb. A crash stop since v1 goes through the plain stop and meets its guard too.
    fn guard(&mut self, cpu: usize, kind: StopKind) -> StopAt {
        if kind == StopKind::Crash {
            if self.state.crash_flag {
                return StopAt::Return;
            }
            self.state.crash_flag = true;
        }
        let own = i8::from(self.state.online & bit(cpu) != 0);
        if self.state.online_count - own == 0 {
            return StopAt::Return;
        }
        if self.fixed.protocol.plain.second_caller.is == SecondCaller::ReturnsAtOnce {
            if self.state.stop_in_progress {
                return StopAt::Return;
            }
            self.state.stop_in_progress = true;
        }
        StopAt::MaskRead
    }
}

/// The text of a list message.
pub(super) fn failed_text(mask: u8) -> String {
    format!("{FAILED}{}", set(mask))
}
