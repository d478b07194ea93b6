//! KVM on arm64: the ioctls and their unsafe. It knows no scenario, no device and no Linux.
//!
//! A guest is built in the only order that KVM takes, and a wrong order does not compile: [`Bare`] (memory) becomes
//! [`Peopled`] (vCPUs, whose MPIDRs can be read) becomes [`Vm`] (the vGIC, which wants all vCPUs to exist).

mod cache;
mod clock;
mod error;
mod gic;
mod ioctl;
mod kick;
mod probe;
mod reg;
mod resident;
mod vcpu;
mod vm;

pub use cache::make_visible;
pub use clock::Clock;
pub use error::Error;
pub use gic::{Gic, Interface, Interrupts};
pub use probe::{debug_registers, probe};
pub use resident::Resident;
pub use vcpu::{KvmKick, KvmVcpu, Loose};
pub use vm::{Bare, GicRegions, Peopled, Vm, Wire};
