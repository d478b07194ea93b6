//! Numbers from the manuals and the kernel's words for CPUs, as types: no bare integer stands for one.

mod cpus;
mod intid;
mod mpidr;
pub mod psci;

pub use cpus::{CpuId, CpuSet, ParseCpuSetError};
pub use intid::IntId;
pub use mpidr::Mpidr;
