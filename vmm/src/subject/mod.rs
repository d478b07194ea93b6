//! What is put to the test on KVM: how to boot it, and what its points are.

#[cfg_attr(
    not(target_arch = "aarch64"),
    expect(dead_code, reason = "only arm64 has a KVM that runs it")
)]
pub mod payload;

#[cfg_attr(
    not(target_arch = "aarch64"),
    expect(dead_code, reason = "only arm64 has a KVM that runs it")
)]
pub mod linux;

#[cfg(target_arch = "aarch64")]
use vmm_core::evidence::{Event, Places, Setting};

/// Hears of a run as it happens.
#[cfg(target_arch = "aarch64")]
pub trait Hear {
    /// The vCPUs are there; `stopper` ends the run from outside. What is to be said of the run before its first event is `about`.
    fn starts(
        &mut self,
        stopper: crate::conductor::Stopper<crate::kvm::KvmVcpu>,
        about: &dyn std::fmt::Display,
    );
    /// The guest has booted.
    fn begins(&mut self, setting: &Setting, places: &Places);
    /// Something has happened.
    fn event(&mut self, event: &Event);
}
