//! A look into the vGIC. Every vCPU must be out of KVM_RUN.

use std::sync::Arc;

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, kvm_device_attr,
};
use kvm_ioctls::DeviceFd;
use vmm_core::arm::Mpidr;

use super::error::Error;

/// The SGIs and PPIs of a CPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interrupts {
    /// Those that are pending, a bit each.
    pub pending: u32,
    /// Those that are active.
    pub active: u32,
}

/// The vGIC. A copy is the same one.
#[derive(Clone)]
pub struct Gic(Arc<DeviceFd>);

/// The CPU interface of a CPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interface {
    /// `ICC_PMR_EL1`: interrupts of this priority and of lower ones (higher numbers) are masked.
    pub mask: u8,
    /// `ICC_RPR_EL1`, from the active priorities: that of what is being handled, 0xff for nothing.
    pub running: u8,
}

// Op0, Op1, CRn, CRm and Op2 of each, as an MSR has them (Devices/arm-vgic-v3.rst).
const ICC_PMR_EL1: u64 = 3 << 14 | 4 << 7 | 6 << 3;
const ICC_AP0R0_EL1: u64 = 3 << 14 | 12 << 7 | 8 << 3 | 4;
const ICC_AP1R0_EL1: u64 = 3 << 14 | 12 << 7 | 9 << 3;
/// KVM's CPU interface has 32 levels of priority, in the upper five bits (arch/arm64/kvm/vgic/vgic-v3.c).
const PRIORITY_SHIFT: u32 = 3;

// GICv3 IHI 0069, 12.10: the frame of SGIs and PPIs lies 64 KiB behind the redistributor's first.
const GICR_ISPENDR0: u64 = 0x1_0200;
const GICR_ISACTIVER0: u64 = 0x1_0300;
const GICR_IPRIORITYR: u64 = 0x1_0400;

impl Gic {
    pub(super) fn new(device: DeviceFd) -> Self {
        Self(Arc::new(device))
    }

    /// What is pending and active on a CPU.
    pub fn interrupts(&self, cpu: Mpidr) -> Result<Interrupts, Error> {
        Ok(Interrupts {
            pending: self.redistributor(cpu, GICR_ISPENDR0)?,
            active: self.redistributor(cpu, GICR_ISACTIVER0)?,
        })
    }

    /// The priorities of a CPU's SGIs.
    pub fn priorities(&self, cpu: Mpidr) -> Result<[u8; 16], Error> {
        let mut priorities = [0; 16];
        for (four, priorities) in priorities.chunks_exact_mut(4).enumerate() {
            let word = self.redistributor(cpu, GICR_IPRIORITYR + 4 * four as u64)?;
            priorities.copy_from_slice(&word.to_le_bytes());
        }
        Ok(priorities)
    }

    /// What its CPU interface lets through.
    pub fn interface(&self, cpu: Mpidr) -> Result<Interface, Error> {
        let active = self.system(cpu, ICC_AP0R0_EL1)? | self.system(cpu, ICC_AP1R0_EL1)?;
        Ok(Interface {
            mask: self.system(cpu, ICC_PMR_EL1)? as u8,
            running: match active as u32 {
                0 => 0xff,
                active => (active.trailing_zeros() << PRIORITY_SHIFT) as u8,
            },
        })
    }

    fn system(&self, cpu: Mpidr, register: u64) -> Result<u64, Error> {
        let mut value = 0_u64;
        let mut attribute = kvm_device_attr {
            group: KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
            // Devices/arm-vgic-v3.rst: the affinity in 63:32, the register in 15:0.
            attr: cpu.packed() << 32 | register,
            addr: std::ptr::from_mut(&mut value) as u64,
            flags: 0,
        };
        // SAFETY: KVM writes 64 bits for this group, and `value` outlives the call.
        unsafe { self.0.get_device_attr(&mut attribute) }.map_err(Error::ioctl(format!(
            "read register {register:#x} of the CPU interface of {cpu}"
        )))?;
        Ok(value)
    }

    fn redistributor(&self, cpu: Mpidr, offset: u64) -> Result<u32, Error> {
        let mut value = 0_u32;
        let mut attribute = kvm_device_attr {
            group: KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
            // Devices/arm-vgic-v3.rst: the affinity in 63:32, the offset in 31:0.
            attr: cpu.packed() << 32 | offset,
            addr: std::ptr::from_mut(&mut value) as u64,
            flags: 0,
        };
        // SAFETY: KVM writes 32 bits for this group, and `value` outlives the call.
        unsafe { self.0.get_device_attr(&mut attribute) }.map_err(Error::ioctl(format!(
            "read offset {offset:#x} of the redistributor of {cpu}"
        )))?;
        Ok(value)
    }
}
