//! Names for KVM_GET_ONE_REG and KVM_SET_ONE_REG (KVM API, 4.68).

use std::mem::offset_of;

use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_ARM64_SYSREG_CRM_SHIFT,
    KVM_REG_ARM64_SYSREG_CRN_SHIFT, KVM_REG_ARM64_SYSREG_OP0_SHIFT, KVM_REG_ARM64_SYSREG_OP1_SHIFT,
    KVM_REG_ARM64_SYSREG_OP2_SHIFT, KVM_REG_SIZE_U64, kvm_regs, user_pt_regs,
};

/// A 64-bit register of a vCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Reg(u64);

impl Reg {
    pub(super) const PC: Self = Self::core(offset_of!(user_pt_regs, pc));
    pub(super) const PSTATE: Self = Self::core(offset_of!(user_pt_regs, pstate));
    pub(super) const X0: Self = Self::core(offset_of!(user_pt_regs, regs));
    /// The stack pointer at EL1 (`user_pt_regs` has that of EL0).
    pub(super) const SP_EL1: Self = Self::core(offset_of!(kvm_regs, sp_el1));
    pub(super) const ELR_EL1: Self = Self::core(offset_of!(kvm_regs, elr_el1));
    pub(super) const SPSR_EL1: Self = Self::core(offset_of!(kvm_regs, spsr));
    pub(super) const SCTLR_EL1: Self = Self::system(3, 0, 1, 0, 0);
    pub(super) const ESR_EL1: Self = Self::system(3, 0, 5, 2, 0);
    pub(super) const VBAR_EL1: Self = Self::system(3, 0, 12, 0, 0);
    /// `MPIDR_EL1` (Arm ARM DDI 0487, D24.2.123).
    pub(super) const MPIDR_EL1: Self = Self::system(3, 0, 0, 0, 5);

    /// A core register, which KVM numbers by its offset in `struct kvm_regs`, counted in 32-bit words. That struct
    /// starts with `user_pt_regs`.
    const fn core(offset: usize) -> Self {
        Self(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset as u64 / 4))
    }

    /// One of x0 to x30.
    pub(super) const fn x(number: usize) -> Self {
        Self::core(offset_of!(user_pt_regs, regs) + 8 * number)
    }

    /// A system register by the fields of its MRS.
    const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> Self {
        Self(
            KVM_REG_ARM64
                | KVM_REG_SIZE_U64
                | KVM_REG_ARM64_SYSREG as u64
                | op0 << KVM_REG_ARM64_SYSREG_OP0_SHIFT
                | op1 << KVM_REG_ARM64_SYSREG_OP1_SHIFT
                | crn << KVM_REG_ARM64_SYSREG_CRN_SHIFT
                | crm << KVM_REG_ARM64_SYSREG_CRM_SHIFT
                | op2 << KVM_REG_ARM64_SYSREG_OP2_SHIFT,
        )
    }

    pub(super) const fn id(self) -> u64 {
        self.0
    }
}
