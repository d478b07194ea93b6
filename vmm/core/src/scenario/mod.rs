//! Scenarios: a row each, in TOML. docs/scenarios.md explains the keys.
//!
//! A scenario says which CPUs there are, what makes them stop, who is held where and for how long, which rules
//! that must put to the test, and which of them each protocol is expected to break.

mod family;
mod outcome;
mod parse;
mod print;

use std::collections::{BTreeMap, BTreeSet};

use guest_abi::point::Point;

pub use family::{Conditions, Family};
pub use outcome::Outcome;

use crate::arm::{CpuId, CpuSet};
use crate::evidence::{Manner, Onward, StopKind};
use crate::oracle::Rule;

/// The version of the format.
pub const FORMAT: i64 = 1;

/// A scenario has at most so many CPUs.
pub const MAX_CPUS: u16 = 64;

/// A scenario.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scenario {
    /// Its name: lower case, digits and hyphens.
    pub name: String,
    /// Why it is there.
    pub why: String,
    /// Where that is said.
    pub source: String,
    /// CPUs of the guest.
    pub cpus: u16,
    /// CPUs that are not up at the start.
    pub offline: CpuSet,
    /// Whether the guest has pseudo-NMIs.
    pub pseudo_nmi: bool,
    /// Whether the firmware has SDEI.
    pub sdei: bool,
    /// Whether a stopped CPU can power off.
    pub can_die: bool,
    /// Whether stores become visible late, where nothing orders them. Only the model can make that.
    pub late_stores: bool,
    /// The stop that a panic calls.
    pub stop: StopKind,
    /// Where the panic goes afterwards.
    pub after: Onward,
    /// How the console driver meets a lock that is taken.
    pub driver: Driver,
    /// What CPUs do; the others idle.
    pub tasks: Vec<Task>,
    /// Who is held.
    pub holds: Vec<Hold>,
    /// What it must put to the test, under every protocol.
    pub exercises: BTreeSet<Rule>,
    /// By protocol, the exact set of rules that the run breaks as the holds direct it.
    pub expect: BTreeMap<String, BTreeSet<Rule>>,
    /// What comes of it where there is a capture kernel.
    pub capture: Capture,
    /// How it is explored.
    pub explore: Explore,
}

/// What a capture kernel is to do, and what comes of that. Only Linux has one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Capture {
    /// CPUs that it is to bring online.
    pub online: CpuSet,
    /// By protocol, the exact set of rules that a run with a capture kernel breaks. Empty: the same as without.
    pub expect: BTreeMap<String, BTreeSet<Rule>>,
}

/// How a scenario is explored: over all orders of its CPUs' steps.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Explore {
    /// How many times a CPU that could run may be left unrun while time passes.
    pub delays: u8,
    /// By protocol, the rules that some order breaks. Empty: the same as the directed run.
    pub expect: BTreeMap<String, BTreeSet<Rule>>,
}

/// How the console driver meets a lock that is taken.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Driver {
    /// In panic it tries the lock and writes nothing without it: the seed's geni driver.
    GiveUp,
    /// In panic it tries the lock and writes without it: PL011 up to 6.14.
    WriteAnyway,
    /// An owner, unsafe sections, hand-over, and a hostile takeover at the very end: nbcon.
    Nbcon,
}

/// What a CPU does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Task {
    /// The CPU.
    pub cpu: CpuId,
    /// What.
    pub does: Does,
    /// Where another CPU must have come first.
    pub after: Option<Passing>,
}

/// What a CPU does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Does {
    /// Panics.
    Panic(Cause),
    /// Restarts the machine.
    Restart,
    /// Stores so many records.
    Talk(u8),
    /// Goes down by hot-unplug.
    Unplug,
    /// Comes online.
    Online,
    /// Sends an NMI that is no stop to this CPU, from an interrupt: masked till then.
    Nmi(CpuId),
    /// Spins with interrupts masked.
    MaskIrqs,
    /// Spins with all of DAIF masked.
    MaskDaif,
}

/// What a CPU panics for. It makes a difference to Linux alone, by what comes before `panic()`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// It is told to.
    Told,
    /// It finds the next CPU locked up. Each CPU looks after the next one, and the last after the first (Linux
    /// kernel/watchdog_buddy.c).
    Lockup,
}

/// A CPU at a point.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Passing {
    /// The CPU.
    pub cpu: CpuId,
    /// The point.
    pub at: Point,
}

/// A hold.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Hold {
    /// Who.
    pub cpu: CpuId,
    /// Where.
    pub at: Point,
    /// How.
    pub manner: Manner,
    /// Till when.
    pub until: HoldUntil,
}

/// When a hold ends.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HoldUntil {
    /// So many milliseconds of guest time after the first stop request.
    AfterRequest(u32),
    /// When a CPU comes to a point.
    Passing(Passing),
    /// Never.
    Never,
}

impl Scenario {
    /// What this protocol is expected to break as the holds direct it; nothing where the scenario is silent.
    pub fn expected(&self, protocol: &str) -> BTreeSet<Rule> {
        self.expect.get(protocol).cloned().unwrap_or_default()
    }

    /// What it breaks under this protocol where there is a capture kernel.
    pub fn expected_with_capture(&self, protocol: &str) -> BTreeSet<Rule> {
        let expect = self.capture.expect.get(protocol).cloned();
        expect.unwrap_or_else(|| self.expected(protocol))
    }

    /// Whether it says in which order its CPUs come. Otherwise only a subject that moves one CPU after the other has an order that is
    /// always the same.
    pub fn orders_its_cpus(&self) -> bool {
        let masks = |task: &&Task| matches!(task.does, Does::MaskIrqs | Does::MaskDaif);
        let moving = self.tasks.iter().filter(|task| !masks(task));
        let waits = self.tasks.iter().any(|task| task.after.is_some());
        moving.count() < 2 || waits || !self.holds.is_empty()
    }

    /// What some order of steps is expected to break.
    pub fn expected_of_exploration(&self, protocol: &str) -> BTreeSet<Rule> {
        self.explore
            .expect
            .get(protocol)
            .cloned()
            .unwrap_or_else(|| self.expected(protocol))
    }
}
