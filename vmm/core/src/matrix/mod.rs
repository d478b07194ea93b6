//! A matrix: many scenarios, on many subjects, under many conditions, as one file declares them. docs/matrix.md explains the keys.
//!
//! `parse` reads the declaration, this module makes cells of it, `pairwise` thins them out, `filter` and `shard` take some of
//! them. What came of a cell is the business of `report`.

mod filter;
mod pairwise;
mod parse;
mod shard;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use guest_abi::protocol::{Protocol, Request};

pub use filter::{Filter, FilterError};
pub use pairwise::Coverage;
pub use shard::{Shard, ShardError};

use crate::document::Words;
use crate::evidence::StopKind;
use crate::scenario::{Conditions, Family, Scenario};

/// The version of the format.
pub const FORMAT: i64 = 1;

/// What a cell runs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// The model.
    Model,
    /// The payload on KVM.
    Payload,
    /// A kernel on KVM.
    Linux,
}

impl Words for Kind {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Kind::Model, "model"),
        (Kind::Payload, "payload"),
        (Kind::Linux, "linux"),
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Kind::WORDS.iter().find(|(kind, _)| kind == self);
        f.write_str(word.expect("every kind has its word").1)
    }
}

/// What a subject stops by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum By {
    /// The table of a protocol: model and payload.
    Protocol(&'static Protocol),
    /// A kernel, by the name of a guest or by its path.
    Kernel(String),
}

impl By {
    /// As it stands in a cell's name: of a path the last part.
    fn name(&self) -> &str {
        match self {
            By::Protocol(protocol) => protocol.name,
            By::Kernel(kernel) => kernel.rsplit('/').next().unwrap_or(kernel),
        }
    }
}

/// The axes, by the names that a filter knows.
pub const AXES: [&str; 6] = ["scenario", "subject", "by", "cpus", "pseudo-nmi", "stop"];

/// One run of the matrix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cell {
    /// Its place in the whole matrix, from 0.
    pub place: usize,
    /// The scenario as the declaration has it: a name, or a path.
    pub given: String,
    /// What its file says are its own conditions.
    pub own: Conditions,
    /// The scenario, under the conditions of this cell.
    pub scenario: Scenario,
    /// What is run.
    pub kind: Kind,
    /// What that stops by.
    pub by: By,
}

impl Cell {
    /// Its name, which is the same in every run of every matrix that has it.
    pub fn name(&self) -> String {
        let (scenario, conditions) = (&self.scenario.name, self.scenario.conditions());
        format!("{scenario}/{}/{}/{conditions}", self.kind, self.by.name())
    }

    /// Its value on each of the [`AXES`].
    pub fn axes(&self) -> [String; AXES.len()] {
        let conditions = self.scenario.conditions();
        let pseudo_nmi = if conditions.pseudo_nmi { "on" } else { "off" };
        let stop = match conditions.stop {
            StopKind::Plain => "plain",
            StopKind::Crash => "crash",
        };
        [
            self.scenario.name.clone(),
            self.kind.to_string(),
            self.by.name().to_owned(),
            conditions.cpus.to_string(),
            pseudo_nmi.to_owned(),
            stop.to_owned(),
        ]
    }

    /// The subject in the grammar of the command line.
    pub fn subject(&self) -> String {
        match &self.by {
            By::Protocol(protocol) => format!("{}:{}", self.kind, protocol.name),
            By::Kernel(kernel) => format!("{}:{kernel}", self.kind),
        }
    }

    /// What it is expected to cost, in tenths of a second of one CPU (docs/measurements.md): by this the work is shared out, and nothing
    /// is decided.
    pub fn cost(&self) -> u64 {
        let cpus = u64::from(self.scenario.cpus);
        match self.kind {
            Kind::Model => 1,
            Kind::Payload => 3 + cpus / 4,
            Kind::Linux => 50 + 3 * cpus,
        }
    }
}

/// The values of an axis that a scenario has its own value on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Value<T> {
    Own,
    Is(T),
}

impl<T: Copy> Value<T> {
    fn or(&self, own: T) -> T {
        match self {
            Value::Own => own,
            Value::Is(value) => *value,
        }
    }
}

/// A part of a matrix: every combination of its values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Set {
    pub(crate) scenarios: Vec<String>,
    pub(crate) subjects: Vec<Kind>,
    pub(crate) protocols: Vec<&'static Protocol>,
    pub(crate) kernels: Vec<String>,
    pub(crate) cpus: Vec<Value<u16>>,
    pub(crate) pseudo_nmi: Vec<Value<bool>>,
    pub(crate) stop: Vec<Value<StopKind>>,
    pub(crate) pairwise: bool,
}

/// A matrix, as it is declared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Matrix {
    /// Its parts.
    pub sets: Vec<Set>,
}

/// What a matrix is made of, beside its declaration.
pub struct Parts<'a> {
    /// Finds a scenario.
    pub family: &'a dyn Fn(&str) -> Result<Family, String>,
    /// Whether such a subject can do it; otherwise why not.
    pub fits: &'a dyn Fn(Kind, &Scenario) -> Result<(), String>,
}

/// Why a matrix cannot be run.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MatrixError {
    /// A scenario cannot be found, or is wrong.
    #[error("{0}")]
    Scenario(String),
    /// Two cells of one name.
    #[error("the cell {cell} is there twice: in set {first} and in set {second}, counted from 1")]
    Twice {
        /// Its name.
        cell: String,
        /// The set that has it.
        first: usize,
        /// The set that has it too.
        second: usize,
    },
    /// No cell.
    #[error("the matrix is empty: {left_out}")]
    Empty {
        /// What became of its combinations.
        left_out: String,
    },
}

/// The cells of a matrix, in an order that is always the same, and what became of the other combinations.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The cells.
    pub cells: Vec<Cell>,
    /// Combinations that cannot be, by the reason.
    pub left_out: BTreeMap<String, usize>,
    /// Of each set that was thinned out, what is left of it covers.
    pub coverage: Vec<Coverage>,
}

impl Plan {
    /// How many combinations were left out, and why.
    pub fn left_out_text(&self) -> String {
        left_out_text(&self.left_out)
    }
}

fn left_out_text(left_out: &BTreeMap<String, usize>) -> String {
    let sum: usize = left_out.values().sum();
    let mut text = match sum {
        0 => "no combination was left out".to_owned(),
        1 => "1 combination was left out".to_owned(),
        sum => format!("{sum} combinations were left out"),
    };
    for (why, count) in left_out {
        text += &format!("\n  {count:>4}  {why}");
    }
    text
}

impl Matrix {
    /// Makes its cells; all of its sets are thinned out if `pairwise` says so, and else those that say so themselves.
    pub fn plan(&self, parts: &Parts<'_>, pairwise: bool) -> Result<Plan, MatrixError> {
        let mut plan = Plan {
            cells: Vec::new(),
            left_out: BTreeMap::new(),
            coverage: Vec::new(),
        };
        let mut homes: BTreeMap<String, usize> = BTreeMap::new();
        for (at, set) in self.sets.iter().enumerate() {
            let mut cells = set.cells(parts, &mut plan.left_out)?;
            if pairwise || set.pairwise {
                let (kept, coverage) = pairwise::thin(cells);
                cells = kept;
                plan.coverage.push(coverage);
            }
            for cell in &cells {
                if let Some(first) = homes.insert(cell.name(), at + 1) {
                    return Err(MatrixError::Twice {
                        cell: cell.name(),
                        first,
                        second: at + 1,
                    });
                }
            }
            plan.cells.extend(cells);
        }
        for (place, cell) in plan.cells.iter_mut().enumerate() {
            cell.place = place;
        }
        if plan.cells.is_empty() {
            return Err(MatrixError::Empty {
                left_out: plan.left_out_text(),
            });
        }
        Ok(plan)
    }

    /// The same with this kernel in place of all others, and nothing that is no kernel.
    pub fn of_kernel(&self, kernel: &str) -> Self {
        let linux = |set: &&Set| set.subjects.contains(&Kind::Linux);
        let mut sets: Vec<Set> = self.sets.iter().filter(linux).cloned().collect();
        for set in &mut sets {
            set.subjects = vec![Kind::Linux];
            set.kernels = vec![kernel.to_owned()];
        }
        Self { sets }
    }
}

impl Set {
    fn cells(
        &self,
        parts: &Parts<'_>,
        left_out: &mut BTreeMap<String, usize>,
    ) -> Result<Vec<Cell>, MatrixError> {
        let mut cells = Vec::new();
        let mut there = BTreeSet::new();
        for given in &self.scenarios {
            let family = (parts.family)(given).map_err(MatrixError::Scenario)?;
            for (kind, by) in self
                .subjects
                .iter()
                .flat_map(|kind| self.stopping_by(*kind))
            {
                for conditions in self.conditions(family.own.conditions()) {
                    match fitting(parts, &family, kind, &by, conditions) {
                        Ok(scenario) => {
                            let cell = Cell {
                                place: 0,
                                given: given.clone(),
                                own: family.own.conditions(),
                                scenario: scenario.clone(),
                                kind,
                                by: by.clone(),
                            };
                            // What is a scenario's own can be among the values of the axis, too.
                            if there.insert(cell.name()) {
                                cells.push(cell);
                            }
                        }
                        Err(why) => *left_out.entry(why).or_default() += 1,
                    }
                }
            }
        }
        Ok(cells)
    }

    fn stopping_by(&self, kind: Kind) -> Vec<(Kind, By)> {
        match kind {
            Kind::Model | Kind::Payload => {
                let protocols = self.protocols.iter().copied();
                protocols.map(|by| (kind, By::Protocol(by))).collect()
            }
            Kind::Linux => {
                let kernels = self.kernels.iter().cloned();
                kernels.map(|by| (kind, By::Kernel(by))).collect()
            }
        }
    }

    fn conditions(&self, own: Conditions) -> Vec<Conditions> {
        let mut all = Vec::new();
        for cpus in &self.cpus {
            for pseudo_nmi in &self.pseudo_nmi {
                for stop in &self.stop {
                    let conditions = Conditions {
                        cpus: cpus.or(own.cpus),
                        pseudo_nmi: pseudo_nmi.or(own.pseudo_nmi),
                        stop: stop.or(own.stop),
                    };
                    if !all.contains(&conditions) {
                        all.push(conditions);
                    }
                }
            }
        }
        all
    }
}

/// The scenario under these conditions, if that can be; otherwise why not.
fn fitting<'a>(
    parts: &Parts<'_>,
    family: &'a Family,
    kind: Kind,
    by: &By,
    conditions: Conditions,
) -> Result<&'a Scenario, String> {
    let name = &family.own.name;
    let scenario = family
        .under(conditions)
        .ok_or_else(|| format!("{name} does not say what is expected under such conditions"))?;
    (parts.fits)(kind, scenario)?;
    if let (Kind::Payload, By::Protocol(protocol)) = (kind, by) {
        let stop = match scenario.stop {
            StopKind::Plain => &protocol.plain,
            StopKind::Crash => &protocol.crash,
        };
        let climbed = crate::model::climbed(stop, scenario);
        if climbed.iter().any(|(via, _)| *via == Request::Sdei) {
            return Err(format!(
                "{name} gives {} a rung by SDEI, and no KVM has SDEI; the model does",
                protocol.name
            ));
        }
    }
    Ok(scenario)
}
