//! What came of a run, next to what its scenario expects of it.

use std::collections::BTreeSet;

use super::Scenario;
use crate::evidence::Evidence;
use crate::oracle::{Rule, Verdicts};

/// What came of a run, next to what its scenario expects of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// Whether the scenario alone decided on the order of the run.
    pub directed: bool,
    /// The rules that were broken.
    pub broken: BTreeSet<Rule>,
    /// Those that were expected to be.
    pub expected: BTreeSet<Rule>,
    /// Those that the scenario has to put to the test, and this run did not.
    pub untested: BTreeSet<Rule>,
    /// Those about which nothing can be said.
    pub inconclusive: BTreeSet<Rule>,
}

impl Outcome {
    /// Compares a run's verdicts with its scenario.
    pub fn of(scenario: &Scenario, evidence: &Evidence, verdicts: &Verdicts) -> Self {
        let protocol = &evidence.setting.protocol.name;
        let broken = verdicts.broken();
        let directed = is_directed(scenario, evidence);
        // A run that nothing directs may break what some order breaks, and what it did break is then as expected.
        let expected = match directed {
            true if evidence.setting.capture => scenario.expected_with_capture(protocol),
            true => scenario.expected(protocol),
            false => {
                let some_order = scenario.expected_of_exploration(protocol);
                broken.intersection(&some_order).copied().collect()
            }
        };
        // A schedule that leaves the directed path may leave what the scenario is there for, too.
        let untested = match directed {
            true => (scenario.exercises.difference(&verdicts.exercised()))
                .copied()
                .collect(),
            false => BTreeSet::new(),
        };
        Self {
            directed,
            expected,
            untested,
            inconclusive: verdicts.inconclusive(),
            broken,
        }
    }

    /// Whether nothing is left open, and just those rules were broken that were expected to be.
    pub fn is_as_expected(&self) -> bool {
        self.broken == self.expected && self.untested.is_empty() && self.inconclusive.is_empty()
    }
}

/// Whether the scenario alone decided on the order of the run: its schedule has no choice of its own, or, where there is none because
/// the guest ran freely, no two CPUs come as they like.
fn is_directed(scenario: &Scenario, evidence: &Evidence) -> bool {
    match &evidence.setting.schedule {
        Some(schedule) => schedule.ends_with(':'),
        None => scenario.orders_its_cpus(),
    }
}
