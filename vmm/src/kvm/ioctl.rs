//! The ioctl that kvm-ioctls lacks.

use kvm_bindings::{KVMIO, kvm_arm_counter_offset};
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::{errno, ioctl_iow_nr};

ioctl_iow_nr!(
    KVM_ARM_SET_COUNTER_OFFSET,
    KVMIO,
    0xb5,
    kvm_arm_counter_offset
);

/// Sets how far the guest's counters lag behind the host's (KVM API, 4.139). Wants every vCPU out of KVM_RUN.
pub(super) fn set_counter_offset(vm: &VmFd, offset: u64) -> Result<(), errno::Error> {
    let offset = kvm_arm_counter_offset {
        counter_offset: offset,
        reserved: 0,
    };
    // SAFETY: `vm` is a VM's file descriptor, and the kernel only reads the struct, which outlives the call.
    let result = unsafe { ioctl_with_ref(vm, KVM_ARM_SET_COUNTER_OFFSET(), &offset) };
    if result == 0 {
        Ok(())
    } else {
        Err(errno::Error::last())
    }
}

/// The host's virtual counter, `CNTVCT_EL0` (Arm ARM DDI 0487, D24.10.31), which Linux lets user space read.
pub(super) fn host_counter() -> u64 {
    let count;
    // SAFETY: reads a register that is always accessible at EL0 under Linux, and touches nothing else.
    unsafe {
        std::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack, preserves_flags))
    };
    count
}

/// How often it counts in a second, `CNTFRQ_EL0` (Arm ARM DDI 0487, D24.10.1).
pub(super) fn counter_frequency() -> u64 {
    let frequency;
    // SAFETY: reads a register that is always accessible at EL0 under Linux, and touches nothing else.
    unsafe {
        std::arch::asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack, preserves_flags))
    };
    frequency
}
