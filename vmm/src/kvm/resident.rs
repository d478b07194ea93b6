//! A VM that never runs, so that there always is one.

use kvm_ioctls::VmFd;

use super::probe::{broken, open};
use vmm_core::host::NoKvm;

/// While it lives, no VM is the host's first or last.
///
/// With the first VM Linux enables the calls that save and load a vCPU's registers when its thread is switched, and with the last one
/// it disables them (`preempt_notifier_inc` and `_dec`, Linux virt/kvm/kvm_main.c). Both patch the scheduler's code, and an emulated
/// processor may go on with a stale translation of it (docs/findings.md, 5).
#[derive(Debug)]
pub struct Resident {
    _vm: VmFd,
}

impl Resident {
    /// Moves in.
    pub fn new() -> Result<Self, NoKvm> {
        let kvm = open()?;
        let bits = kvm.get_host_ipa_limit().unsigned_abs();
        let vm = kvm.create_vm_with_ipa_size(bits).map_err(broken)?;
        Ok(Self { _vm: vm })
    }
}
