//! A run as somebody would tell it: what each CPU was doing, who asked whom to stop and when that arrived, what the masks held, what came
//! over the wire and by whom, and whether the notes are true.
//!
//! It is folded from the evidence, and it decides nothing: the report draws it (`report`), and `chrome` makes a trace of it. A place in
//! it is the number of an event, since a payload's whole stop may take no guest time at all; each event has its time.

mod chrome;
mod lanes;
mod notes;
mod wire;

pub use chrome::{ChromeTrace, chrome_trace};
pub use lanes::{Doing, Lane};
pub use notes::{Met, NoteStory, Register};
pub use wire::{Line, Record, Wire};

use guest_abi::protocol::Request;

use crate::arm::CpuId;
use crate::evidence::{End, Event, Evidence, What, request_word, say};
use crate::oracle::{Breach, Rule, Verdict, Verdicts};

/// What holds from one event on until another one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Span<T> {
    /// The event that began it.
    pub from: usize,
    /// The event that ended it; the number of events if none did.
    pub to: usize,
    /// What it is.
    pub is: T,
}

/// One event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Moment {
    /// Guest time in microseconds.
    pub at_us: u64,
    /// Whose event it is.
    pub cpu: CpuId,
    /// In words.
    pub said: String,
    /// Whether it is of the console alone: of these there are many, and few of them matter.
    pub is_console: bool,
}

/// A rung of a ladder, from the request until it had run out or was no longer needed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rung {
    /// Who climbs.
    pub sender: CpuId,
    /// How it asks.
    pub via: Request,
    /// How long it is, as the subject counts it.
    pub us: Option<u64>,
    /// Whether it ran out.
    pub ran_out: bool,
}

/// A stop request on its way to one CPU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Arrow {
    /// The event that sent it.
    pub sent: usize,
    /// Who did.
    pub sender: CpuId,
    /// How it asks.
    pub via: Request,
    /// Whom.
    pub to: CpuId,
    /// The event in which it is taken, if it ever is.
    pub taken: Option<usize>,
}

impl Arrow {
    /// `irq`, `nmi`, `sdei`.
    pub fn word(&self) -> &'static str {
        request_word(self.via)
    }
}

impl Rung {
    /// `irq`, `nmi`, `sdei`.
    pub fn word(&self) -> &'static str {
        request_word(self.via)
    }
}

/// A run as somebody would tell it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Story {
    /// What it is of: scenario and subject.
    pub title: String,
    /// What happened, in order.
    pub moments: Vec<Moment>,
    /// A CPU each.
    pub lanes: Vec<Lane>,
    /// The ladder.
    pub rungs: Vec<Span<Rung>>,
    /// The requests.
    pub arrows: Vec<Arrow>,
    /// The rules that were broken.
    pub broken: Vec<(Rule, Breach)>,
    /// The console's wire.
    pub wire: Wire,
    /// The notes, by CPU; none where the run has none at all.
    pub notes: Vec<NoteStory>,
    /// Why the run was cut short, if it was.
    pub cut_short: Option<String>,
}

impl Story {
    /// Who climbs a ladder, in the order in which they begin.
    pub fn senders(&self) -> Vec<CpuId> {
        let mut senders = Vec::new();
        for rung in &self.rungs {
            if !senders.contains(&rung.is.sender) {
                senders.push(rung.is.sender);
            }
        }
        senders
    }

    /// The story of this evidence, with these verdicts.
    pub fn of(evidence: &Evidence, verdicts: &Verdicts) -> Self {
        let setting = &evidence.setting;
        let broken = verdicts.0.iter().filter_map(|(rule, verdict)| {
            let Verdict::Broken(breach) = verdict else {
                return None;
            };
            Some((*rule, breach.clone()))
        });
        Self {
            title: format!("{} on {}", setting.scenario, setting.subject),
            moments: evidence
                .events
                .iter()
                .map(|event| moment(evidence, event))
                .collect(),
            lanes: lanes::of(evidence),
            rungs: rungs(evidence),
            arrows: arrows(&evidence.events),
            broken: broken.collect(),
            wire: Wire::of(&evidence.events),
            notes: notes::of(evidence),
            cut_short: match &evidence.end {
                End::Complete => None,
                End::CutShort(why) => Some(why.clone()),
            },
        }
    }
}

fn moment(evidence: &Evidence, event: &Event) -> Moment {
    Moment {
        at_us: event.at_us,
        cpu: event.cpu,
        said: say(&evidence.places, &event.what),
        is_console: matches!(
            event.what,
            What::Logs { .. } | What::Wire(_) | What::Enters | What::Leaves
        ),
    }
}

fn rungs(evidence: &Evidence) -> Vec<Span<Rung>> {
    let events = &evidence.events;
    let mut rungs = Vec::new();
    for (from, event) in events.iter().enumerate() {
        let What::Requests { via, .. } = event.what else {
            continue;
        };
        let rest = events.iter().enumerate().skip(from + 1);
        let ends = rest
            .filter(|(_, later)| later.cpu == event.cpu)
            .find(|(_, later)| {
                matches!(&later.what, What::RungOut(out) if *out == via)
                    || matches!(later.what, What::Requests { .. } | What::Returns)
            });
        let us = evidence.setting.rungs.iter().find(|(rung, _)| *rung == via);
        rungs.push(Span {
            from,
            to: ends.map_or(events.len(), |(to, _)| to),
            is: Rung {
                sender: event.cpu,
                via,
                us: us.map(|(_, us)| *us),
                ran_out: ends.is_some_and(|(_, end)| matches!(end.what, What::RungOut(_))),
            },
        });
    }
    rungs
}

fn arrows(events: &[Event]) -> Vec<Arrow> {
    use crate::evidence::Interrupt;
    let mut arrows: Vec<Arrow> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        match &event.what {
            What::Requests { via, to } => arrows.extend(to.iter().map(|to| Arrow {
                sent: at,
                sender: event.cpu,
                via: *via,
                to,
                taken: None,
            })),
            What::Takes {
                by: Interrupt::Stop(via),
                ..
            } => {
                // An SGI that was sent twice and not taken between is taken once: by the older of the two.
                let arrives = |arrow: &&mut Arrow| {
                    arrow.to == event.cpu && arrow.via == *via && arrow.taken.is_none()
                };
                if let Some(arrow) = arrows.iter_mut().find(arrives) {
                    arrow.taken = Some(at);
                }
            }
            _ => {}
        }
    }
    arrows
}
