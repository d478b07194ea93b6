//! What this host offers.

use vmm_core::host::{KvmOffer, NoKvm};

/// Asks this host's KVM what it can do for arm64 guests.
#[cfg(target_arch = "aarch64")]
pub fn probe() -> Result<KvmOffer, NoKvm> {
    crate::kvm::probe()
}

/// Says that this host is another one.
#[cfg(not(target_arch = "aarch64"))]
pub fn probe() -> Result<KvmOffer, NoKvm> {
    Err(NoKvm::OtherArchitecture(std::env::consts::ARCH.to_owned()))
}
