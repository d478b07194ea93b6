//! Evidence: what a run showed, as plain data. It is all that the oracle ever sees.
//!
//! The model, the payload and Linux end in the same [`Evidence`]; docs/evidence.md describes the folder that
//! keeps it. An event says what a CPU did, when in guest time, and how it was seen.

mod compare;
mod folder;
mod line;
mod note;
mod place;
mod trace;
mod wire;
mod witness;

use std::sync::Arc;

use guest_abi::point::Point;
use guest_abi::protocol::{Protocol, Request, Word};

pub use compare::{Parting, order, parting};
pub use folder::{EvidenceError, Files, NAMES, OPTIONAL};
pub use line::LineError;
pub(crate) use line::{manner_word, request_word};
pub use note::{Note, NoteState, Regs};
pub use place::{Place, PlaceKind, Places};
pub(crate) use trace::{Columns, say};
pub use trace::{Rows, Trace};
pub use wire::{MetLine, without_prefix, without_repeats};
pub use witness::{Has, Witness, Witnesses};

use crate::arm::{CpuId, CpuSet};

/// The version of the folder's format.
pub const FORMAT: u32 = 1;

/// What a run showed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// What ran, and under which conditions.
    pub setting: Setting,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// What lies where in the guest's text, as far as the rules ask.
    pub places: Places,
    /// How the run ended.
    pub end: End,
    /// The scenario, as it was read.
    pub scenario: String,
    /// What is kept over a warm reset, where the guest has a place for that.
    pub pstore: Option<Pstore>,
    /// The log as a capture kernel read it from its vmcore, if one did.
    pub dmesg: Option<Vec<u8>>,
}

/// The console as pstore keeps it (ramoops).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pstore {
    /// As it lay in memory at the end of the run.
    pub console: Vec<u8>,
    /// As another kernel found it after a warm reset, if there was one.
    pub found: Option<Vec<u8>>,
}

/// What ran, and under which conditions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    /// The subject in the grammar of the command line: `model:irq-only`, `linux:PATH`.
    pub subject: String,
    /// The table that the run is judged by.
    pub protocol: Judged,
    /// The scenario's name.
    pub scenario: String,
    /// Our version.
    pub version: String,
    /// The kind of host: `model`, `kvm`, `kvm in the lab`.
    pub host: String,
    /// The kernel's build id.
    pub build_id: Option<String>,
    /// The seed of the run's choices.
    pub seed: Option<u64>,
    /// The schedule that repeats the run.
    pub schedule: Option<String>,
    /// CPUs of the guest.
    pub cpus: u16,
    /// Who was online at the start.
    pub online: CpuSet,
    /// Whether the guest has pseudo-NMIs.
    pub pseudo_nmi: bool,
    /// The rungs of the ladder as the subject counts them: of udelay turns at the measured rate, or deadlines.
    pub rungs: Vec<(Request, u64)>,
    /// Whether the ack could be located in this kernel.
    pub ack_located: bool,
    /// Whether a capture kernel is loaded.
    pub capture: bool,
}

/// What the judge reads from a protocol's table: where the ack lives. The rest is kept for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judged {
    /// The protocol's name.
    pub name: String,
    /// The ack of the plain stop.
    pub plain_ack: Word,
    /// The ack of the crash stop.
    pub crash_ack: Word,
    /// The whole table as text.
    pub table: String,
}

impl From<&Protocol> for Judged {
    fn from(protocol: &Protocol) -> Self {
        Self {
            name: protocol.name.to_owned(),
            plain_ack: protocol.plain.ack.is,
            crash_ack: protocol.crash.ack.is,
            table: protocol.to_string(),
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// Nothing more could happen, or the guest reached its end.
    Complete,
    /// We stopped it: a deadline of ours, a point never reached. The words say which.
    CutShort(String),
}

/// What one CPU did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Guest time in microseconds.
    pub at_us: u64,
    /// The CPU.
    pub cpu: CpuId,
    /// How it was seen.
    pub seen: Seen,
    /// What the CPU masked, where the subject knows.
    pub masks: Option<Masks>,
    /// What it did.
    pub what: What,
}

/// How an event was seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    /// The guest told it.
    Told,
    /// A trap caught it as it happened.
    Trapped,
    /// It was read in a stopped machine.
    Quiesce,
}

/// PSTATE.DAIF and ICC_PMR_EL1 of a CPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Masks {
    /// D, A, I, F as bits 3 to 0.
    pub daif: u8,
    /// The priority mask.
    pub pmr: u8,
}

impl Masks {
    /// Whether the CPU takes no IRQ: PSTATE.I is set, or the priority mask is below that with which Linux lets IRQs in (GIC_PRIO_IRQON).
    pub fn irqs_off(self) -> bool {
        const PSTATE_I: u8 = 2;
        const GIC_PRIO_IRQON: u8 = 0xe0;
        self.daif & PSTATE_I != 0 || self.pmr < GIC_PRIO_IRQON
    }
}

/// Which stop.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum StopKind {
    /// `smp_send_stop()`.
    Plain,
    /// `crash_smp_send_stop()`.
    Crash,
}

/// Where a caller goes after its stop.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Onward {
    /// Into the capture kernel.
    Kexec,
    /// Into reset.
    Reset,
    /// To the loop at the end of `panic()`.
    PanicEnd,
}

/// What interrupts a CPU.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Interrupt {
    /// A stop request.
    Stop(Request),
    /// An NMI that asks for something else: backtrace, perf, kgdb.
    Foreign,
}

/// Whose store clears a CPU in a word.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Hand {
    /// The CPU's own stop handler.
    Handler,
    /// `panic_smp_self_stop()` on the CPU itself.
    SelfStop,
    /// Hot-unplug.
    Hotplug,
    /// The redirect of a panic to another CPU.
    Redirect,
}

/// The manner of a hold.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Manner {
    /// The UART answers this CPU that it is full: the CPU spins inside the section.
    Stall,
    /// The CPU stays at one instruction and takes what its masks allow.
    Spin,
    /// The CPU does not execute.
    Freeze,
}

/// When a hold is to end.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Until {
    /// So many microseconds after the first stop request.
    AfterRequest(u64),
    /// At an event.
    Event,
    /// Never.
    Never,
}

/// What a CPU did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum What {
    /// Calls a stop.
    Calls(StopKind),
    /// Passes the guard and climbs a ladder.
    Climbs {
        /// Which stop.
        stop: StopKind,
        /// The others that are online.
        others: CpuSet,
        /// Whether `system_state` <= SYSTEM_RUNNING.
        running: bool,
    },
    /// Reads who is left, for a list or a later rung.
    Reads(CpuSet),
    /// Asks CPUs to stop.
    Requests {
        /// How.
        via: Request,
        /// Whom.
        to: CpuSet,
    },
    /// A rung has run out.
    RungOut(Request),
    /// The stop returns.
    Returns,
    /// The caller goes on.
    Goes(Onward),
    /// Stores a record in the log ring.
    Logs {
        /// Its level.
        level: u8,
        /// Its text, without the newline.
        text: Arc<str>,
        /// Whether the console has to show it.
        shown: bool,
    },
    /// Writes bytes to the console's wire.
    Wire(Arc<[u8]>),
    /// The last flush that the kernel promises is over.
    Flushed,
    /// Takes an interrupt.
    Takes {
        /// Which.
        by: Interrupt,
        /// The registers that it interrupts.
        regs: Option<Arc<Regs>>,
    },
    /// Enters the console driver's critical section.
    Enters,
    /// Leaves it.
    Leaves,
    /// Its crash note changes in memory.
    Notes(Arc<Note>),
    /// Its bit or its share of a word is cleared.
    Clears {
        /// Where.
        word: Word,
        /// By whom.
        by: Hand,
    },
    /// Begins to stop itself.
    SelfStops,
    /// Rests in the park loop.
    Parks,
    /// Rests powered off.
    PowersOff,
    /// This SGI is active on it: it was taken, and its handler has not come back.
    Active {
        /// Its INTID.
        sgi: u8,
        /// Its priority; a lower one is more urgent (GICv3 IHI 0069, 4.8).
        priority: u8,
    },
    /// This SGI is pending on it: it was sent, and has not been taken.
    Pending {
        /// Its INTID.
        sgi: u8,
    },
    /// Is gone by hot-unplug.
    Unplugs,
    /// Has come online.
    ComesUp,
    /// Is held.
    Holds {
        /// Where.
        at: Option<Point>,
        /// How.
        manner: Manner,
        /// Till when.
        until: Until,
    },
    /// Is let go.
    Releases,
    /// Runs something that is not its way to rest.
    Runs(Arc<str>),
    /// A capture kernel has reached user space.
    CaptureUp,
    /// The capture kernel's vmcore shows this note.
    CaptureNote(Arc<Note>),
    /// The capture kernel does not come up, or cannot do what it is for.
    CaptureFails(Arc<str>),
}
