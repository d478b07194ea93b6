//! Names for KVM_GET_ONE_REG and KVM_SET_ONE_REG (KVM API, 4.68).

use std::mem::offset_of;

use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_ARM64_SYSREG_CRM_SHIFT,
    KVM_REG_ARM64_SYSREG_CRN_SHIFT, KVM_REG_ARM64_SYSREG_OP0_SHIFT, KVM_REG_ARM64_SYSREG_OP1_SHIFT,
    KVM_REG_ARM64_SYSREG_OP2_SHIFT, KVM_REG_SIZE_MASK, KVM_REG_SIZE_SHIFT, KVM_REG_SIZE_U32,
    KVM_REG_SIZE_U64, KVM_REG_SIZE_U128, kvm_regs, user_fpsimd_state, user_pt_regs,
};

use crate::vcpu::System;

/// A register of a vCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Reg(u64);

impl Reg {
    pub(super) const PC: Self = Self::core(offset_of!(user_pt_regs, pc));
    pub(super) const PSTATE: Self = Self::core(offset_of!(user_pt_regs, pstate));
    pub(super) const X0: Self = Self::core(offset_of!(user_pt_regs, regs));
    /// The stack pointer at EL1 (`user_pt_regs` has that of EL0).
    pub(super) const SP_EL1: Self = Self::core(offset_of!(kvm_regs, sp_el1));
    pub(super) const SP_EL0: Self = Self::core(offset_of!(user_pt_regs, sp));
    pub(super) const ELR_EL1: Self = Self::core(offset_of!(kvm_regs, elr_el1));
    pub(super) const SPSR_EL1: Self = Self::core(offset_of!(kvm_regs, spsr));
    pub(super) const FPSR: Self =
        Self::floating(offset_of!(user_fpsimd_state, fpsr), KVM_REG_SIZE_U32);
    pub(super) const FPCR: Self =
        Self::floating(offset_of!(user_fpsimd_state, fpcr), KVM_REG_SIZE_U32);
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

    /// One of v0 to v31.
    pub(super) const fn v(number: usize) -> Self {
        Self::floating(
            offset_of!(user_fpsimd_state, vregs) + 16 * number,
            KVM_REG_SIZE_U128,
        )
    }

    const fn floating(offset: usize, size: u64) -> Self {
        let offset = (offset_of!(kvm_regs, fp_regs) + offset) as u64;
        Self(KVM_REG_ARM64 | size | KVM_REG_ARM_CORE as u64 | (offset / 4))
    }

    /// Of one of these.
    pub(super) const fn of(system: System) -> Self {
        match system {
            System::ElrEl1 => Self::ELR_EL1,
            System::SpsrEl1 => Self::SPSR_EL1,
            System::SpEl0 => Self::SP_EL0,
            System::SpEl1 => Self::SP_EL1,
            System::EsrEl1 => Self::ESR_EL1,
            System::FarEl1 => Self::system(3, 0, 6, 0, 0),
            System::VbarEl1 => Self::VBAR_EL1,
            System::Ttbr0El1 => Self::system(3, 0, 2, 0, 0),
            System::Ttbr1El1 => Self::system(3, 0, 2, 0, 1),
            System::TcrEl1 => Self::system(3, 0, 2, 0, 2),
            System::SctlrEl1 => Self::SCTLR_EL1,
            System::MairEl1 => Self::system(3, 0, 10, 2, 0),
            System::TpidrEl0 => Self::system(3, 3, 13, 0, 2),
            System::TpidrroEl0 => Self::system(3, 3, 13, 0, 3),
            System::TpidrEl1 => Self::system(3, 0, 13, 0, 4),
            System::ContextidrEl1 => Self::system(3, 0, 13, 0, 1),
            System::ParEl1 => Self::system(3, 0, 7, 4, 0),
            System::MdscrEl1 => Self::system(2, 0, 0, 2, 2),
            System::MpidrEl1 => Self::MPIDR_EL1,
            // KVM has the numbers of this one and of CNTV_CVAL_EL0 the wrong way round (KVM API, 4.68).
            System::CntvctEl0 => Self::system(3, 3, 14, 3, 2),
        }
    }

    /// In bytes.
    pub(super) const fn width(self) -> usize {
        1 << ((self.0 & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT)
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
