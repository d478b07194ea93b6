//! What came of a matrix: its cells and their runs as plain data, and that in the words of people and of machines.
//!
//! `text` and `html` are for people, `kernel` says of one kernel what its stop path does right and wrong, `ktap`, `tap`, `junit` and serde (as JSON, of
//! which docs/matrix.schema.json is the schema) are for machines.

mod html;
mod junit;
mod kernel;
mod ktap;
mod merge;
mod tap;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::evidence::{Evidence, order};
use crate::matrix::{Cell, Plan};
use crate::oracle::Rule;

pub use html::{Tell, html};
pub use junit::junit;
pub use kernel::of_kernel;
pub use ktap::ktap;
pub use merge::MergeError;
pub use tap::tap13;
pub use text::{line, summary};

/// The version of the JSON and of the journal's lines.
pub const FORMAT: u32 = 1;

/// What became of a rule in one run: as `vmm run --json` prints it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RuleSaid {
    /// The rule.
    pub rule: String,
    /// upheld, broken, not exercised, inconclusive.
    pub verdict: String,
    /// The CPU that it was broken for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u16>,
    /// The guest time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_us: Option<u64>,
    /// The event that broke it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<usize>,
    /// In words and numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl RuleSaid {
    fn is_broken(&self) -> bool {
        self.verdict == "broken"
    }

    fn is_inconclusive(&self) -> bool {
        self.verdict == "inconclusive"
    }

    /// How it was broken.
    fn breach(&self) -> String {
        let mut words = format!("{}: ", self.rule);
        if let (Some(cpu), Some(at_us)) = (self.cpu, self.at_us) {
            words += &match self.event {
                Some(event) => format!("CPU {cpu}, {at_us} us, event {event}: "),
                None => format!("CPU {cpu}, at the end: "),
            };
        }
        words + self.text.as_deref().unwrap_or_default()
    }
}

/// The verdicts of one run: of what `vmm run --json` prints, what a report has.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Judged {
    /// The protocol that it was judged by.
    pub protocol: String,
    /// The schedule that repeats it, if there is one.
    pub schedule: Option<String>,
    /// Whether the scenario alone decided on the order.
    pub directed: bool,
    /// The rules that were expected to be broken.
    pub expected: Vec<String>,
    /// Those that were to be put to the test, and were not.
    pub untested: Vec<String>,
    /// All rules.
    pub rules: Vec<RuleSaid>,
}

impl Judged {
    fn broken(&self) -> BTreeSet<&str> {
        let broken = self.rules.iter().filter(|rule| rule.is_broken());
        broken.map(|rule| &*rule.rule).collect()
    }

    fn is_open(&self) -> bool {
        !self.untested.is_empty() || self.rules.iter().any(RuleSaid::is_inconclusive)
    }

    /// What two runs of one cell have in common, if they differ in nothing that counts.
    fn verdicts(&self) -> Vec<(&str, &str)> {
        let rules = self.rules.iter();
        rules.map(|said| (&*said.rule, &*said.verdict)).collect()
    }
}

/// What came of one run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Came {
    /// It was judged.
    Judged(Judged),
    /// This host, or this kernel, has not what it takes; what that is.
    CannotRun(String),
    /// There is no verdict, and neither the guest nor the scenario is at fault; why.
    Failed(String),
}

/// One run of a cell.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Run {
    /// Which of the cell's runs, from 1.
    pub run: u64,
    /// Its seed.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// The command that repeats it.
    pub repeat: String,
    /// Its evidence, below the folder of the report.
    pub evidence: Option<String>,
    /// What came of it.
    pub came: Came,
}

/// How a cell stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// A rule was broken that was not to be, or the other way round.
    Surprise,
    /// Its runs differ in their verdicts.
    Flaky,
    /// Something is left open.
    Inconclusive,
    /// There is no verdict.
    Failed,
    /// It was not run, or not as often as it was to be.
    NotRun,
    /// It cannot be run here.
    CannotRun,
    /// As expected.
    AsExpected,
}

impl Standing {
    /// All of them, the worst first.
    pub const ALL: [Self; 7] = [
        Self::Surprise,
        Self::Flaky,
        Self::Inconclusive,
        Self::Failed,
        Self::NotRun,
        Self::CannotRun,
        Self::AsExpected,
    ];

    /// The words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Surprise => "surprise",
            Self::Flaky => "flaky",
            Self::Inconclusive => "inconclusive",
            Self::Failed => "failed",
            Self::NotRun => "not run",
            Self::CannotRun => "cannot run here",
            Self::AsExpected => "as expected",
        }
    }

    /// Whether nobody has to look at it.
    pub fn is_good(self) -> bool {
        matches!(self, Self::AsExpected | Self::CannotRun)
    }
}

/// Where two runs of one cell part.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Parted {
    /// The two runs, by number.
    pub runs: [u64; 2],
    /// The first event in which they differ, counted from 0.
    pub event: usize,
    /// What happened in the first one, from a little before that on.
    pub first: Vec<String>,
    /// What happened in the second.
    pub second: Vec<String>,
}

/// How many events before and behind the place where two runs part are told.
const AROUND: (usize, usize) = (4, 8);

impl Parted {
    /// Compares the evidence of two runs; nothing if the same things happened in the same order.
    pub fn of(runs: [u64; 2], first: &Evidence, second: &Evidence) -> Option<Self> {
        let event = crate::evidence::parting(first, second)?.at;
        let around = |run: &Evidence| -> Vec<String> {
            let (before, behind) = AROUND;
            let order = order(run).into_iter().enumerate();
            let near = order
                .skip(event.saturating_sub(before))
                .take(before.min(event) + behind);
            near.map(|(at, words)| format!("{at}: {words}")).collect()
        };
        Some(Self {
            runs,
            event,
            first: around(first),
            second: around(second),
        })
    }
}

/// A cell and its runs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CellReport {
    /// Its name.
    pub name: String,
    /// Its place in the whole matrix, from 0.
    pub place: usize,
    /// Its scenario.
    pub scenario: String,
    /// Why that scenario is there.
    pub why: String,
    /// model, payload or linux.
    pub subject: String,
    /// The protocol, or the kernel.
    pub by: String,
    /// CPUs of the guest.
    pub cpus: u16,
    /// Whether the guest has pseudo-NMIs.
    pub pseudo_nmi: bool,
    /// plain or crash.
    pub stop: String,
    /// How it stands.
    pub standing: Standing,
    /// Its runs.
    pub runs: Vec<Run>,
    /// Of a flaky cell, where two of its runs part.
    pub parted: Option<Parted>,
}

impl CellReport {
    /// A cell with what came of it so far, of so many runs that are wanted.
    pub fn new(cell: &Cell, runs: Vec<Run>, wanted: u64, strict: bool) -> Self {
        let [scenario, subject, by, _, _, stop] = cell.axes();
        Self {
            name: cell.name(),
            place: cell.place,
            scenario,
            why: cell.scenario.why.clone(),
            subject,
            by,
            cpus: cell.scenario.cpus,
            pseudo_nmi: cell.scenario.pseudo_nmi,
            stop,
            standing: standing(&runs, wanted, strict),
            runs,
            parted: None,
        }
    }

    /// How long its runs took together.
    fn seconds(&self) -> f64 {
        self.runs.iter().fold(0.0, |sum, run| sum + run.seconds)
    }

    /// The verdicts of its runs.
    fn judged(&self) -> impl Iterator<Item = (&Run, &Judged)> {
        self.runs.iter().filter_map(|run| match &run.came {
            Came::Judged(judged) => Some((run, judged)),
            Came::CannotRun(_) | Came::Failed(_) => None,
        })
    }

    /// Two runs whose verdicts differ, by their place among the runs.
    pub fn differing(&self) -> Option<(&Run, &Run)> {
        let mut judged = self.judged();
        let (first, verdicts) = judged.next()?;
        let other = judged.find(|(_, other)| other.verdicts() != verdicts.verdicts());
        other.map(|(other, _)| (first, other))
    }
}

/// How a cell stands after these runs. Strictly, whatever a scenario expects, no rule may be broken.
pub fn standing(runs: &[Run], wanted: u64, strict: bool) -> Standing {
    let mut all = Vec::new();
    for run in runs {
        match &run.came {
            Came::Failed(_) => return Standing::Failed,
            Came::CannotRun(_) => return Standing::CannotRun,
            Came::Judged(judged) => all.push(judged),
        }
    }
    let surprises = |judged: &&&Judged| {
        let broken = judged.broken();
        let expected: BTreeSet<&str> = judged.expected.iter().map(|rule| &**rule).collect();
        if strict {
            !broken.is_empty()
        } else {
            broken != expected
        }
    };
    // Where nothing directs a run, its order is not to be the same each time.
    let directed = all.iter().all(|judged| judged.directed);
    let differ = all
        .windows(2)
        .any(|two| two[0].verdicts() != two[1].verdicts());
    if directed && differ {
        Standing::Flaky
    } else if all.iter().any(|judged| surprises(&judged)) {
        Standing::Surprise
    } else if all.iter().any(|judged| judged.is_open()) {
        Standing::Inconclusive
    } else if (all.len() as u64) < wanted {
        Standing::NotRun
    } else {
        Standing::AsExpected
    }
}

/// Why combinations were left out.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeftOut {
    /// The reason.
    pub why: String,
    /// How many.
    pub count: usize,
}

/// What of all pairs of values the cells of a thinned set cover.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Covered {
    /// Cells that are left.
    pub cells: usize,
    /// Of so many.
    pub of: usize,
    /// Pairs that are covered, which are all that can be.
    pub pairs: usize,
    /// Pairs that cannot be.
    pub impossible: usize,
}

/// What came of a matrix.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// The version of the format.
    pub format: u32,
    /// Ours.
    pub version: String,
    /// What the declaration is called.
    pub matrix: String,
    /// Whether no rule may be broken, whatever is expected.
    pub strict: bool,
    /// The part of the matrix that this is, if it is one.
    pub shard: Option<String>,
    /// Runs a cell.
    pub repeat: u64,
    /// How many cells stand how.
    pub counts: BTreeMap<Standing, usize>,
    /// The cells, in the matrix's order.
    pub cells: Vec<CellReport>,
    /// Combinations that cannot be.
    pub left_out: Vec<LeftOut>,
    /// Of sets that were thinned out.
    pub coverage: Vec<Covered>,
}

/// What a report is of.
#[derive(Clone, Debug)]
pub struct About {
    /// What the declaration is called.
    pub matrix: String,
    /// Whether no rule may be broken.
    pub strict: bool,
    /// The part of it.
    pub shard: Option<String>,
    /// Runs a cell.
    pub repeat: u64,
}

impl Report {
    /// The report of a plan's cells.
    pub fn new(about: About, plan: &Plan, cells: Vec<CellReport>) -> Self {
        let mut counts = BTreeMap::new();
        for cell in &cells {
            *counts.entry(cell.standing).or_default() += 1;
        }
        let left_out = plan.left_out.iter().map(|(why, count)| LeftOut {
            why: why.clone(),
            count: *count,
        });
        let coverage = plan.coverage.iter().map(|coverage| Covered {
            cells: coverage.cells,
            of: coverage.of,
            pairs: coverage.pairs,
            impossible: coverage.impossible,
        });
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            matrix: about.matrix,
            strict: about.strict,
            shard: about.shard,
            repeat: about.repeat,
            counts,
            cells,
            left_out: left_out.collect(),
            coverage: coverage.collect(),
        }
    }

    /// How many cells stand so.
    pub fn count(&self, standing: Standing) -> usize {
        self.counts.get(&standing).copied().unwrap_or_default()
    }

    /// Cells by scenario, as they come.
    fn scenarios(&self) -> Vec<(&str, Vec<&CellReport>)> {
        let mut scenarios: Vec<(&str, Vec<&CellReport>)> = Vec::new();
        for cell in &self.cells {
            match scenarios
                .iter_mut()
                .find(|(name, _)| *name == cell.scenario)
            {
                Some((_, cells)) => cells.push(cell),
                None => scenarios.push((&cell.scenario, vec![cell])),
            }
        }
        scenarios
    }

    /// What the first run of a rule that was broken says of it, by rule in the oracle's order.
    fn broken(&self, rule: Rule) -> Vec<(&CellReport, &Run, &RuleSaid)> {
        let cells = self.cells.iter().filter_map(|cell| {
            cell.judged().find_map(|(run, judged)| {
                let said = judged.rules.iter().find(|said| said.rule == rule.name())?;
                said.is_broken().then_some((cell, run, said))
            })
        });
        cells.collect()
    }

    /// What to tell `git bisect run`: a rule broken anywhere makes the commit bad (1); what left anything open, it has to skip (125).
    pub fn bisect(&self) -> u8 {
        if Rule::ALL.iter().any(|rule| !self.broken(*rule).is_empty()) {
            1
        } else if self.count(Standing::AsExpected) == 0
            || self.cells.iter().any(|cell| !cell.standing.is_good())
        {
            125
        } else {
            0
        }
    }
}
