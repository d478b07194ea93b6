//! The oracle: what any stop owes its user, and whether this one gave it.
//!
//! Thirteen rules, each a function of what was known and what happened ([`rules`]); what is known is folded
//! from the events alone ([`facts`]). The oracle reads from a protocol's table only where the ack lives, so that
//! no protocol is excused by its own table. docs/oracle.md explains the rules one by one.

mod console;
mod facts;
mod rules;

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use facts::{Facts, Fixed};
use rules::Said;
pub use rules::{ROWS, Row, Rule};

use crate::arm::CpuId;
use crate::evidence::{End, Event, Evidence, Places, Setting, Trace};

/// How a rule was broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Breach {
    /// The CPU that it was broken for.
    pub cpu: CpuId,
    /// The guest time.
    pub at_us: u64,
    /// The event that broke it, counted from 0; none where the run's end did.
    pub event: Option<usize>,
    /// In words and numbers.
    pub text: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu, at_us, text, ..
        } = self;
        match self.event {
            Some(event) => write!(f, "CPU {cpu}, {at_us} us, event {event}: {text}"),
            None => write!(f, "CPU {cpu}, at the end: {text}"),
        }
    }
}

/// What became of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It was put to the test and held.
    Upheld,
    /// It was broken.
    Broken(Breach),
    /// Nothing put it to the test; the words say what was missing.
    NotExercised(&'static str),
    /// It cannot be said; the words say why.
    Inconclusive(String),
}

impl Verdict {
    /// The word.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Upheld => "upheld",
            Verdict::Broken(_) => "broken",
            Verdict::NotExercised(_) => "not exercised",
            Verdict::Inconclusive(_) => "inconclusive",
        }
    }
}

/// The verdicts of a run, by rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdicts(pub Vec<(Rule, Verdict)>);

impl Verdicts {
    /// The rules that were broken.
    pub fn broken(&self) -> BTreeSet<Rule> {
        self.those(|verdict| matches!(verdict, Verdict::Broken(_)))
    }

    /// The rules that were put to the test.
    pub fn exercised(&self) -> BTreeSet<Rule> {
        self.those(|verdict| matches!(verdict, Verdict::Broken(_) | Verdict::Upheld))
    }

    /// The rules about which nothing can be said.
    pub fn inconclusive(&self) -> BTreeSet<Rule> {
        self.those(|verdict| matches!(verdict, Verdict::Inconclusive(_)))
    }

    fn those(&self, which: impl Fn(&Verdict) -> bool) -> BTreeSet<Rule> {
        self.0
            .iter()
            .filter(|(_, verdict)| which(verdict))
            .map(|(rule, _)| *rule)
            .collect()
    }
}

/// What one rule has shown so far.
#[derive(Clone, Debug, Default)]
struct Standing {
    kept: bool,
    broken: Option<Breach>,
}

/// The oracle in the middle of a run: it sees one event after the other.
///
/// Two oracles are alike in their hash if they have found the same rules broken and no further event could make
/// them differ: that is what lets the explorer forget how it came to a state.
#[derive(Clone, Debug)]
pub struct Oracle {
    facts: Facts,
    standings: [Standing; ROWS.len()],
    events: usize,
}

impl Hash for Oracle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.facts.known.hash(state);
        for standing in &self.standings {
            standing.broken.is_some().hash(state);
        }
    }
}

impl Oracle {
    /// An oracle that has seen nothing yet.
    pub fn new(setting: &Setting, places: &Places) -> Self {
        let fixed = Arc::new(Fixed::new(setting, places.clone()));
        Self {
            facts: Facts::new(fixed, setting),
            standings: Default::default(),
            events: 0,
        }
    }

    /// Takes the next event.
    pub fn see(&mut self, event: &Event) {
        for (row, standing) in ROWS.iter().zip(&mut self.standings) {
            Self::note(
                standing,
                (row.seen)(&self.facts, event),
                event.at_us,
                Some(self.events),
            );
        }
        self.facts.see(event);
        self.events += 1;
    }

    /// The rules put to the test so far.
    pub fn exercised(&self) -> BTreeSet<Rule> {
        let tested = |standing: &Standing| standing.kept || standing.broken.is_some();
        let tested = ROWS
            .iter()
            .zip(&self.standings)
            .filter(|(_, standing)| tested(standing));
        tested.map(|(row, _)| row.rule).collect()
    }

    /// The verdicts of a run that ends here.
    pub fn finish(mut self, end: &End) -> Verdicts {
        if *end == End::Complete {
            for (row, standing) in ROWS.iter().zip(&mut self.standings) {
                Self::note(standing, (row.ended)(&self.facts), self.facts.now, None);
            }
        }
        let verdict = |(row, standing): (&Row, Standing)| {
            let verdict = match (standing, end) {
                (
                    Standing {
                        broken: Some(breach),
                        ..
                    },
                    _,
                ) => Verdict::Broken(breach),
                (_, End::CutShort(why)) => Verdict::Inconclusive(why.clone()),
                _ if row.needs_ack && !self.facts.fixed.ack_located => {
                    Verdict::Inconclusive("the ack cannot be located in this kernel".to_owned())
                }
                (Standing { kept: true, .. }, _) => Verdict::Upheld,
                _ => Verdict::NotExercised(row.missing),
            };
            (row.rule, verdict)
        };
        Verdicts(ROWS.iter().zip(self.standings).map(verdict).collect())
    }

    fn note(standing: &mut Standing, said: Said, at_us: u64, event: Option<usize>) {
        match said {
            Said::Nothing => {}
            Said::Kept => standing.kept = true,
            Said::Broken(cpu, text) => {
                standing.broken.get_or_insert(Breach {
                    cpu,
                    at_us,
                    event,
                    text,
                });
            }
        }
    }
}

/// Judges a run by its evidence alone.
pub fn judge(evidence: &Evidence) -> Verdicts {
    let mut oracle = Oracle::new(&evidence.setting, &evidence.places);
    for event in &evidence.events {
        oracle.see(event);
    }
    oracle.finish(&evidence.end)
}

/// The trace of a run, with the broken rules under the events that broke them.
pub fn trace(evidence: &Evidence, verdicts: &Verdicts) -> String {
    let mut trace = Trace::new(evidence);
    for (rule, verdict) in &verdicts.0 {
        if let Verdict::Broken(breach) = verdict
            && let Some(event) = breach.event
        {
            trace.mark(
                event,
                format!("{rule}: CPU {}: {}", breach.cpu, breach.text),
            );
        }
    }
    trace.to_string()
}
