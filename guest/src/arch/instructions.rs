//! Single instructions that no crate offers, or not in this form.
//!
//! Those that mask or unmask interrupts are compiler barriers too (no `nomem`): what stands inside
//! a masked section may not be moved out of it. arm-sysregs' accessors are none.

use core::arch::asm;

/// Masks IRQs by PSTATE.I: neither IRQs nor pseudo-NMIs get in.
pub(crate) fn mask_irq() {
    // SAFETY: masking interrupts breaks no memory rule.
    unsafe { asm!("msr DAIFSet, #2", options(nostack, preserves_flags)) }
}

/// Clears PSTATE.I; what then gets in is for ICC_PMR_EL1 to say.
pub(crate) fn unmask_irq() {
    // SAFETY: the vectors are set before Rust code runs, and the handlers touch atomics only.
    unsafe { asm!("msr DAIFClr, #2", options(nostack, preserves_flags)) }
}

/// ICC_PMR_EL1: only interrupts of a priority below it are signalled.
pub(crate) fn pmr() -> u8 {
    let value: u64;
    // SAFETY: reading the priority mask has no side effect.
    unsafe { asm!("mrs {}, ICC_PMR_EL1", out(reg) value, options(nostack, preserves_flags)) }
    value as u8
}

/// Writes ICC_PMR_EL1. The write is self-synchronising (GIC IHI 0069, "ICC_PMR_EL1").
#[inline(always)]
pub(crate) fn set_pmr(value: u8) {
    // SAFETY: as for `mask_irq` and `unmask_irq`.
    unsafe {
        asm!("msr ICC_PMR_EL1, {}", in(reg) u64::from(value), options(nostack, preserves_flags));
    }
}

/// Makes this CPU's earlier stores visible to the CPUs that a following SGI reaches.
pub(crate) fn dsb_ishst() {
    // SAFETY: a barrier breaks no memory rule.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) }
}

/// Waits until earlier writes to system registers have taken effect.
pub(crate) fn isb() {
    // SAFETY: a barrier breaks no memory rule.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
}

/// Waits for an event: another CPU's `sev`, the event stream, the return from an interrupt.
pub(crate) fn wfe() {
    // SAFETY: waiting breaks no memory rule.
    unsafe { asm!("wfe", options(nostack, preserves_flags)) }
}

/// Sends an event to every CPU, once this CPU's earlier stores are visible to them.
pub(crate) fn sev() {
    // SAFETY: neither a barrier nor an event breaks a memory rule.
    unsafe { asm!("dsb ishst", "sev", options(nostack, preserves_flags)) }
}

/// Lets this CPU find its own index again, in TPIDR_EL1.
pub(crate) fn set_cpu_index(index: usize) {
    // SAFETY: nothing but `cpus::current` reads TPIDR_EL1, and that checks its bounds.
    unsafe { asm!("msr TPIDR_EL1, {}", in(reg) index, options(nostack, preserves_flags)) }
}
