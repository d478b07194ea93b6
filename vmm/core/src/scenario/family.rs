//! A scenario and its variants: the same on more or fewer CPUs, without pseudo-NMIs, by the other stop.
//!
//! A variant is a row of the scenario's own file, for what a protocol breaks may be another set under other conditions, and is
//! data there as everywhere. To run, it is a scenario like any other.

use std::fmt;

use super::Scenario;
use crate::evidence::StopKind;

/// Under which conditions a scenario is run.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Conditions {
    /// CPUs of the guest.
    pub cpus: u16,
    /// Whether it has pseudo-NMIs.
    pub pseudo_nmi: bool,
    /// The stop that a panic calls.
    pub stop: StopKind,
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nmi = if self.pseudo_nmi { "nmi" } else { "no-nmi" };
        let stop = match self.stop {
            StopKind::Plain => "plain",
            StopKind::Crash => "crash",
        };
        write!(f, "{}cpus-{nmi}-{stop}", self.cpus)
    }
}

/// A scenario and its variants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Family {
    /// The scenario itself.
    pub own: Scenario,
    /// The same under other conditions, with what is expected then.
    pub variants: Vec<Scenario>,
}

impl Family {
    /// The scenario under these conditions, if its file says what is expected of it then.
    pub fn under(&self, conditions: Conditions) -> Option<&Scenario> {
        self.all()
            .find(|scenario| scenario.conditions() == conditions)
    }

    /// The scenario itself and its variants.
    pub fn all(&self) -> impl Iterator<Item = &Scenario> {
        std::iter::once(&self.own).chain(&self.variants)
    }
}

impl Scenario {
    /// Under which conditions it is run.
    pub fn conditions(&self) -> Conditions {
        Conditions {
            cpus: self.cpus,
            pseudo_nmi: self.pseudo_nmi,
            stop: self.stop,
        }
    }
}
