//! Numbers from the manuals and the kernel's words for CPUs, as types: no bare integer stands for one.

mod address;
mod cpus;
mod exception;
mod intid;
mod mpidr;
pub mod psci;

pub use address::{KernelVa, PhysicalAddress};
pub use cpus::{CpuId, CpuSet, ParseCpuSetError};
pub use exception::{Taken, take_to_el1};
pub use intid::IntId;
pub use mpidr::Mpidr;
