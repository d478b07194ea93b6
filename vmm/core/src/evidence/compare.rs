//! Two runs of one schedule on two subjects: the same things in the same order?

use std::fmt;

use super::{Event, Evidence, What};

/// Where two runs part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parting {
    /// The number of the event, from 0.
    pub at: usize,
    /// What the first run has there, in words.
    pub first: Option<String>,
    /// What the second one has.
    pub second: Option<String>,
}

impl fmt::Display for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |side: &Option<String>| side.clone().unwrap_or_else(|| "its end".to_owned());
        let (first, second) = (text(&self.first), text(&self.second));
        write!(f, "at event {}: {first}; and {second}", self.at)
    }
}

/// The first event at which two runs part. What two subjects cannot have in common is left out: addresses, the values of
/// registers, what a CPU masks beside the event, how it was seen.
pub fn parting(first: &Evidence, second: &Evidence) -> Option<Parting> {
    let (first, second) = (order(first), order(second));
    let most = first.len().max(second.len());
    let at = (0..most).find(|at| first.get(*at) != second.get(*at))?;
    Some(Parting {
        at,
        first: first.get(at).cloned(),
        second: second.get(at).cloned(),
    })
}

/// What happened in a run, in order and in words, without what two runs cannot have in common.
pub fn order(run: &Evidence) -> Vec<String> {
    run.events.iter().map(words).collect()
}

fn words(event: &Event) -> String {
    let what = match &event.what {
        What::Takes { by, .. } => format!("takes {by:?}"),
        What::Notes(note) => format!("note {}", note.state()),
        What::Wire(bytes) => format!("wire \"{}\"", bytes.escape_ascii()),
        what => format!("{what:?}"),
    };
    format!("{} us CPU {} {what}", event.at_us, event.cpu)
}
