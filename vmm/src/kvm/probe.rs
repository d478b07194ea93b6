//! What this host's KVM offers.

use std::fs::OpenOptions;

use kvm_bindings::{
    KVM_ARM_VM_SMCCC_CTRL, KVM_ARM_VM_SMCCC_FILTER, KVM_CAP_COUNTER_OFFSET, KVM_CREATE_DEVICE_TEST,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{Kvm, VmFd};
use vmm_core::host::{KvmOffer, Lack, NoKvm};

const DEVICE: &str = "/dev/kvm";

/// Asks KVM what it can do.
pub fn probe() -> Result<KvmOffer, NoKvm> {
    let kvm = open()?;
    let bits = kvm.get_host_ipa_limit().unsigned_abs();
    let vm = kvm.create_vm_with_ipa_size(bits).map_err(broken)?;
    Ok(offer(&kvm, &vm))
}

/// The hardware breakpoints of a vCPU, and its watchpoints.
pub fn debug_registers() -> Result<(u32, u32), Lack> {
    let kvm = open().map_err(Lack::Kvm)?;
    let (breakpoints, watchpoints) = (kvm.get_guest_debug_hw_bps(), kvm.get_guest_debug_hw_wps());
    Ok((breakpoints.unsigned_abs(), watchpoints.unsigned_abs()))
}

/// Opens it.
pub(super) fn open() -> Result<Kvm, NoKvm> {
    OpenOptions::new().read(true).write(true).open(DEVICE)?;
    Kvm::new().map_err(broken)
}

pub(super) fn broken(error: kvm_ioctls::Error) -> NoKvm {
    NoKvm::Broken(error.to_string())
}

/// What it can do, some of which only a VM tells.
pub(super) fn offer(kvm: &Kvm, vm: &VmFd) -> KvmOffer {
    KvmOffer {
        api_version: kvm.get_api_version(),
        gicv3: has_gicv3(vm),
        ipa_bits: kvm.get_host_ipa_limit().unsigned_abs(),
        breakpoints: kvm.get_guest_debug_hw_bps().unsigned_abs(),
        watchpoints: kvm.get_guest_debug_hw_wps().unsigned_abs(),
        counter_offset: vm.check_extension_raw(KVM_CAP_COUNTER_OFFSET.into()) > 0,
        smccc_filter: vm
            .has_device_attr(&kvm_device_attr {
                group: KVM_ARM_VM_SMCCC_CTRL,
                attr: KVM_ARM_VM_SMCCC_FILTER.into(),
                ..Default::default()
            })
            .is_ok(),
        vcpus: kvm.get_max_vcpus(),
    }
}

/// Asks without creating one.
fn has_gicv3(vm: &VmFd) -> bool {
    let mut device = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        fd: 0,
        flags: KVM_CREATE_DEVICE_TEST,
    };
    // kvm-ioctls takes what comes back for a file descriptor; a test makes none, and fd stays 0, which is not ours to
    // close.
    vm.create_device(&mut device).map(std::mem::forget).is_ok()
}
