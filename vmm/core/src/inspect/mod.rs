//! Bytes of a guest's memory become facts about its kernel (docs/inspect.md). Nothing here trusts a byte: damaged memory
//! gives an error that names the object, never a panic and never a loop without a bound.

mod memory;
#[cfg(test)]
mod tests;
mod vmcoreinfo;

pub use memory::{Memory, OutsideOfRam};
pub use vmcoreinfo::Vmcoreinfo;

use crate::arm::PhysicalAddress;

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
}

fn rejected(candidates: &[(PhysicalAddress, String)]) -> String {
    let one = |(at, why): &(PhysicalAddress, String)| format!("; at {at} {why}");
    candidates.iter().map(one).collect()
}
