//! Numbers from the manuals, as types: no bare integer stands for an affinity or an interrupt.

mod intid;
mod mpidr;

pub use intid::IntId;
pub use mpidr::Mpidr;
