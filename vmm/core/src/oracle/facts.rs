//! What is known in the middle of a run, folded from its events.

use std::sync::Arc;

use guest_abi::protocol::{FAILED, Request, STOPPING, Word};

use super::console::Console;
use crate::arm::{CpuId, CpuSet};
use crate::evidence::{
    Event, Hand, Interrupt, Note, NoteState, Onward, Places, Regs, Setting, StopKind, Until, What,
};

/// The grace of a ladder without a rung of its own that asks by interrupt.
const GRACE_US: u64 = 1_000_000;

/// What does not change in a run.
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) plain_ack: Word,
    pub(super) crash_ack: Word,
    pub(super) places: Places,
    /// The rungs as the subject counts them.
    pub(super) rungs: Vec<(Request, u64)>,
    /// The IRQ rung as the subject counts it; 1 s where there is none.
    pub(super) grace_us: u64,
    pub(super) ack_located: bool,
    pub(super) capture: bool,
}

impl Fixed {
    pub(super) fn new(setting: &Setting, places: Places) -> Self {
        let irq = setting
            .rungs
            .iter()
            .find(|(request, _)| *request == Request::Irq);
        Self {
            plain_ack: setting.protocol.plain_ack,
            crash_ack: setting.protocol.crash_ack,
            places,
            rungs: setting.rungs.clone(),
            grace_us: irq.map_or(GRACE_US, |(_, us)| *us),
            ack_located: setting.ack_located,
            capture: setting.capture,
        }
    }
}

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) fixed: Arc<Fixed>,
    pub(super) known: Known,
    /// The time of the last event: for people, and not part of what is known.
    pub(super) now: u64,
}

/// What is known of the run so far.
#[derive(Clone, Debug, Hash)]
pub(super) struct Known {
    pub(super) cpus: Vec<Cpu>,
    pub(super) callers: CpuSet,
    pub(super) climbs: Vec<Climb>,
    pub(super) first_request: Option<u64>,
    pub(super) console: Console,
    pub(super) left_for_capture: bool,
    pub(super) capture_up: bool,
    pub(super) capture_failed: bool,
    /// The machine was reset: what was not done by then is nobody's fault.
    pub(super) reset: bool,
}

/// Where a CPU rests.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Rest {
    Parked,
    Off,
    Unplugged,
}

/// What is known of one CPU.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Cpu {
    /// Online at the start or come up since.
    pub(super) up: bool,
    /// Its bit in the online mask was cleared by hot-unplug, by a redirect or by its own self-stop.
    pub(super) left: bool,
    pub(super) self_stops: bool,
    pub(super) in_section: bool,
    pub(super) acked: bool,
    pub(super) rest: Option<Rest>,
    pub(super) asked_plain: bool,
    pub(super) asked_crash: bool,
    /// The registers that its first stop interrupt met.
    pub(super) interrupted: Option<Interrupted>,
    pub(super) note: Option<Arc<Note>>,
    /// Its note when the sender left for the capture kernel.
    pub(super) note_then: Option<Arc<Note>>,
    pub(super) hold: Option<Hold>,
    pub(super) released_at: Option<u64>,
    /// No grace could have freed it, and it was stopped in the section, or a ladder ended while it was there.
    pub(super) lost_in_section: bool,
}

/// The meeting of a CPU with its first stop interrupt.
#[derive(Clone, Debug)]
pub(super) struct Interrupted {
    pub(super) regs: Option<Arc<Regs>>,
}

// Registers of one run differ in their pc or in their sp.
impl std::hash::Hash for Interrupted {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.regs
            .as_ref()
            .map(|regs| (regs.pc, regs.sp, regs.pstate))
            .hash(state);
    }
}

/// A hold in force.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Hold {
    pub(super) since: u64,
    pub(super) until: Until,
}

/// One CPU on its ladder.
#[derive(Clone, Debug, Hash)]
pub(super) struct Climb {
    pub(super) cpu: CpuId,
    pub(super) stop: StopKind,
    pub(super) since: u64,
    pub(super) others: CpuSet,
    pub(super) running: bool,
    pub(super) announced: u32,
    pub(super) asked: bool,
    pub(super) irq_at: Option<u64>,
    pub(super) irq_out: bool,
    pub(super) reading: Option<Reading>,
    pub(super) failed: CpuSet,
    pub(super) held_us: u64,
    pub(super) returned: bool,
}

/// What was true when a sender read who is left.
#[derive(Clone, Debug, Hash)]
pub(super) struct Reading {
    pub(super) acked: CpuSet,
    pub(super) stopped: CpuSet,
    pub(super) present: CpuSet,
}

impl Cpu {
    /// Whether it has acked, or rests.
    pub(super) fn stopped(&self) -> bool {
        self.acked || self.rest.is_some()
    }

    /// Whether a stop is owed for it: it is up, and has not left by another way.
    pub(super) fn present(&self) -> bool {
        self.up && !self.left
    }

    pub(super) fn note_state(&self) -> NoteState {
        self.note
            .as_ref()
            .map_or(NoteState::Empty, |note| note.state())
    }
}

impl Known {
    pub(super) fn cpu(&self, cpu: CpuId) -> &Cpu {
        &self.cpus[cpu.index()]
    }

    pub(super) fn climb(&self, cpu: CpuId) -> Option<&Climb> {
        self.climbs.iter().find(|climb| climb.cpu == cpu)
    }

    pub(super) fn with(&self, which: impl Fn(&Cpu) -> bool) -> CpuSet {
        let those = self.cpus.iter().enumerate().filter(|(_, cpu)| which(cpu));
        those.map(|(at, _)| CpuId(at as u16)).collect()
    }

    pub(super) fn crash_climbed(&self) -> bool {
        self.climbs
            .iter()
            .any(|climb| climb.stop == StopKind::Crash)
    }
}

impl Facts {
    pub(super) fn new(fixed: Arc<Fixed>, setting: &Setting) -> Self {
        let cpu = |at| Cpu {
            up: setting.online.contains(CpuId(at)),
            ..Cpu::default()
        };
        let known = Known {
            cpus: (0..setting.cpus).map(cpu).collect(),
            callers: CpuSet::new(),
            climbs: Vec::new(),
            first_request: None,
            console: Console::default(),
            left_for_capture: false,
            capture_up: false,
            capture_failed: false,
            reset: false,
        };
        Self {
            fixed,
            known,
            now: 0,
        }
    }

    /// Whether this store is the ack of its CPU: the store of its own handler to where the table says.
    pub(super) fn is_ack(&self, cpu: CpuId, word: Word, by: Hand) -> bool {
        let known = self.known.cpu(cpu);
        let plain = known.asked_plain && word == self.fixed.plain_ack;
        let crash = known.asked_crash && word == self.fixed.crash_ack;
        by == Hand::Handler && (plain || crash)
    }

    /// Whether the CPU's hold, if it was held, has ended or is to end sooner than `limit` microseconds after the
    /// first request.
    pub(super) fn free_before(&self, cpu: CpuId, limit: u64) -> bool {
        let Some(request) = self.known.first_request else {
            return true;
        };
        let cpu = self.known.cpu(cpu);
        match cpu.hold {
            Some(Hold {
                until: Until::AfterRequest(us),
                ..
            }) => us < limit,
            Some(_) => false,
            None => cpu
                .released_at
                .is_none_or(|at| at < request.saturating_add(limit)),
        }
    }

    pub(super) fn see(&mut self, event: &Event) {
        let grace = self.fixed.grace_us;
        let beyond_grace = !self.free_before(event.cpu, grace);
        let left_in_section: Vec<usize> = match event.what {
            What::Returns => (0..self.known.cpus.len())
                .filter(|n| {
                    self.known.cpus[*n].in_section && !self.free_before(CpuId(*n as u16), grace)
                })
                .collect(),
            _ => Vec::new(),
        };
        let is_ack = match event.what {
            What::Clears { word, by } => self.is_ack(event.cpu, word, by),
            _ => false,
        };
        self.now = event.at_us;
        let known = &mut self.known;
        let n = event.cpu.index();
        let climb = known.climbs.iter_mut().find(|climb| climb.cpu == event.cpu);
        match &event.what {
            What::Calls(_) => known.callers.insert(event.cpu),
            What::Climbs {
                stop,
                others,
                running,
            } => known.climbs.push(Climb {
                cpu: event.cpu,
                stop: *stop,
                since: event.at_us,
                others: others.clone(),
                running: *running,
                announced: 0,
                asked: false,
                irq_at: None,
                irq_out: false,
                reading: None,
                failed: CpuSet::new(),
                held_us: 0,
                returned: false,
            }),
            What::Reads(_) => {
                let reading = Reading {
                    acked: known.with(|cpu| cpu.acked),
                    stopped: known.with(Cpu::stopped),
                    present: known.with(Cpu::present),
                };
                if let Some(climb) = known.climbs.iter_mut().find(|climb| climb.cpu == event.cpu) {
                    climb.reading = Some(reading);
                }
            }
            What::Requests { via, to } => {
                let stop = climb.map(|climb| {
                    climb.asked = true;
                    if *via == Request::Irq {
                        climb.irq_at = Some(event.at_us);
                    }
                    climb.stop
                });
                for cpu in to.iter() {
                    if let Some(cpu) = known.cpus.get_mut(cpu.index()) {
                        cpu.asked_plain |= stop == Some(StopKind::Plain);
                        cpu.asked_crash |= stop == Some(StopKind::Crash);
                    }
                }
                known.first_request.get_or_insert(event.at_us);
            }
            What::RungOut(via) => {
                if let Some(climb) = climb {
                    climb.irq_out |= *via == Request::Irq;
                }
            }
            What::Returns => {
                if let Some(climb) = climb {
                    climb.returned = true;
                    for cpu in left_in_section {
                        known.cpus[cpu].lost_in_section = true;
                    }
                }
            }
            What::Goes(onward) => {
                if *onward == Onward::Kexec {
                    known.left_for_capture = true;
                    for cpu in &mut known.cpus {
                        cpu.note_then = cpu.note.clone();
                    }
                }
                known.reset |= *onward == Onward::Reset;
            }
            What::Logs { text, shown, .. } => {
                if let Some(climb) = climb {
                    climb.announced += u32::from(&**text == STOPPING);
                    if let Some(list) = text.strip_prefix(FAILED) {
                        climb.failed = list.parse().unwrap_or_default();
                    }
                }
                if *shown {
                    known.console.owe(text.clone());
                }
            }
            What::Wire(bytes) => known.console.show(event.cpu, bytes),
            What::Flushed | What::CaptureNote(_) | What::Runs(_) => {}
            What::Takes {
                by: Interrupt::Stop(_),
                regs,
            } => {
                let cpu = &mut known.cpus[n];
                cpu.interrupted
                    .get_or_insert(Interrupted { regs: regs.clone() });
                cpu.lost_in_section |= cpu.in_section && beyond_grace;
            }
            What::Takes {
                by: Interrupt::Foreign,
                ..
            } => {}
            What::Enters => known.cpus[n].in_section = true,
            What::Leaves => known.cpus[n].in_section = false,
            What::Notes(note) => known.cpus[n].note = Some(note.clone()),
            What::Clears { by, word } => {
                let cpu = &mut known.cpus[n];
                cpu.acked |= is_ack;
                cpu.left |= *by != Hand::Handler && *word == Word::OnlineMask;
            }
            What::SelfStops => known.cpus[n].self_stops = true,
            What::Parks => known.cpus[n].rest = Some(Rest::Parked),
            What::PowersOff => known.cpus[n].rest = Some(Rest::Off),
            What::Unplugs => known.cpus[n].rest = Some(Rest::Unplugged),
            // Brought up by a capture kernel or by hotplug, a CPU begins anew: what was owed for it is over.
            What::ComesUp => {
                let cpu = &mut known.cpus[n];
                *cpu = Cpu {
                    up: true,
                    note: cpu.note.clone(),
                    note_then: cpu.note_then.clone(),
                    ..Cpu::default()
                };
            }
            What::Holds { until, .. } => {
                known.cpus[n].hold = Some(Hold {
                    since: event.at_us,
                    until: *until,
                })
            }
            What::Releases => {
                let cpu = &mut known.cpus[n];
                if let (Some(hold), Some(climb)) = (cpu.hold.take(), climb) {
                    let since = hold.since.max(climb.since);
                    climb.held_us = climb
                        .held_us
                        .saturating_add(event.at_us.saturating_sub(since));
                }
                cpu.released_at = Some(event.at_us);
            }
            What::CaptureUp => known.capture_up = true,
            What::CaptureFails(_) => known.capture_failed = true,
            // Witnesses beside `takes`, for people.
            What::Active { .. } | What::Pending { .. } => {}
        }
    }
}
