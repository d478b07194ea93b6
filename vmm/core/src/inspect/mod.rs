//! Bytes of a guest's memory become facts about its kernel (docs/inspect.md). Nothing here trusts a byte: damaged memory
//! gives an error that names the object, never a panic and never a loop without a bound.

mod facts;
mod kallsyms;
mod ksymtab;
mod memory;
mod printk;
mod ramoops;
mod space;
#[cfg(test)]
mod tests;
mod vmcoreinfo;
mod vmlinux;
mod walk;

pub use facts::{ConsoleFacts, Interrupted, Kernel, StopFacts, SystemState};
pub use kallsyms::{Form, Symbol, SymbolOffset, Symbols};
pub use ksymtab::Exports;
pub use memory::{Memory, OutsideOfRam};
pub use printk::{Caller, Gap, GapReason, LogReader, LogRing, Record, RecordState};
pub use ramoops::ramoops_text;
pub use space::KernelSpace;
pub use vmcoreinfo::Vmcoreinfo;
pub use vmlinux::VmlinuxError;
pub use walk::{Granule, Tables, Translation, TranslationRegisters, WalkFault};

use crate::arm::{KernelVa, PhysicalAddress};

/// Why a fact can't be had from memory.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InspectError {
    /// The object lies, at least partly, where there is no RAM.
    #[error("{object}: {outside}")]
    Outside {
        /// What was read.
        object: String,
        /// Where.
        outside: OutsideOfRam,
    },
    /// No VMCOREINFO in RAM.
    #[error(
        "no VMCOREINFO in {scanned} pages of RAM{}: let the kernel reach its initcalls, and build it with \
         CONFIG_VMCORE_INFO (CONFIG_CRASH_CORE up to 6.8)",
        rejected(candidates)
    )]
    NoVmcoreinfo {
        /// Pages that were looked at.
        scanned: u64,
        /// What looked like one, and what was wrong with it.
        candidates: Vec<(PhysicalAddress, String)>,
    },
    /// A line of VMCOREINFO that this kernel does not have.
    #[error("VMCOREINFO has no line {key}=")]
    NoLine {
        /// What stands before the equals sign.
        key: String,
    },
    /// A line of VMCOREINFO that does not say what it should.
    #[error("VMCOREINFO says {key}={value}, which is not {wanted}")]
    BadLine {
        /// What stands before the equals sign.
        key: String,
        /// What stands behind it.
        value: String,
        /// What should.
        wanted: &'static str,
    },
    /// An address without a translation.
    #[error("{va}: {fault}")]
    Walk {
        /// The address.
        va: KernelVa,
        /// Where the walk ended.
        fault: WalkFault,
    },
    /// An object whose address can't be translated.
    #[error("{object}: {error}")]
    Unreadable {
        /// What was read.
        object: String,
        /// Why it can't be.
        error: Box<InspectError>,
    },
    /// A symbol that the kernel does not show.
    #[error(
        "the kernel has no symbol {name}: variables are in kallsyms only with CONFIG_KALLSYMS_ALL, and without it only those \
         that are exported can be found; a vmlinux of the same build has all"
    )]
    NoSymbol {
        /// Its name.
        name: String,
    },
    /// Statics of several files share the name.
    #[error("the kernel has {times} symbols {name}")]
    AmbiguousSymbol {
        /// Their name.
        name: String,
        /// How many there are.
        times: usize,
    },
    /// The file is not the running kernel's vmlinux.
    #[error("the vmlinux is of no use: {error}")]
    Vmlinux {
        /// Why.
        error: VmlinuxError,
    },
    /// The distance from a symbol is no number.
    #[error("{place}: what follows the plus sign is no number: write symbol+0x10 or symbol+16")]
    BadOffset {
        /// Symbol and distance.
        place: String,
    },
    /// Bytes that no intact kernel has there.
    #[error("{object} is damaged, or of a layout that is not known: {what}")]
    Damaged {
        /// What was read.
        object: String,
        /// What is wrong with it.
        what: String,
    },
}

fn rejected(candidates: &[(PhysicalAddress, String)]) -> String {
    let one = |(at, why): &(PhysicalAddress, String)| format!("; at {at} {why}");
    candidates.iter().map(one).collect()
}
