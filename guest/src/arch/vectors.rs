//! The exception vectors of a CPU that stops by a protocol: they save all that a crash note holds.

use core::arch::{asm, global_asm};

use crate::stop;

/// The registers of what was interrupted, as Linux' `pt_regs` begins: x0 to x30, sp, pc, pstate.
#[repr(C)]
pub(crate) struct Frame {
    pub(crate) x: [u64; 31],
    pub(crate) sp: u64,
    pub(crate) pc: u64,
    pub(crate) pstate: u64,
}

// Arm ARM DDI 0487, D1.3.1.5: sixteen entries of 128 bytes; at 0x200 those of the current level with its own stack pointer,
// synchronous first, then IRQ.
global_asm!(
    ".pushsection .text.stop_vectors, \"ax\"",
    ".balign 2048",
    ".global stop_vectors",
    "stop_vectors:",
    ".rept 5",
    "b stop_unexpected_entry",
    ".balign 128",
    ".endr",
    "b el1h_64_irq",
    ".balign 128",
    ".rept 10",
    "b stop_unexpected_entry",
    ".balign 128",
    ".endr",
    ".global el1h_64_irq",
    ".type el1h_64_irq, %function",
    "el1h_64_irq:",
    "sub sp, sp, #272",
    "stp x0, x1, [sp, #0]",
    "stp x2, x3, [sp, #16]",
    "stp x4, x5, [sp, #32]",
    "stp x6, x7, [sp, #48]",
    "stp x8, x9, [sp, #64]",
    "stp x10, x11, [sp, #80]",
    "stp x12, x13, [sp, #96]",
    "stp x14, x15, [sp, #112]",
    "stp x16, x17, [sp, #128]",
    "stp x18, x19, [sp, #144]",
    "stp x20, x21, [sp, #160]",
    "stp x22, x23, [sp, #176]",
    "stp x24, x25, [sp, #192]",
    "stp x26, x27, [sp, #208]",
    "stp x28, x29, [sp, #224]",
    "add x0, sp, #272",
    "stp x30, x0, [sp, #240]",
    "mrs x0, elr_el1",
    "mrs x1, spsr_el1",
    "stp x0, x1, [sp, #256]",
    "mov x0, sp",
    "bl do_handle_IPI",
    "ldp x0, x1, [sp, #256]",
    "msr elr_el1, x0",
    "msr spsr_el1, x1",
    "ldp x0, x1, [sp, #0]",
    "ldp x2, x3, [sp, #16]",
    "ldp x4, x5, [sp, #32]",
    "ldp x6, x7, [sp, #48]",
    "ldp x8, x9, [sp, #64]",
    "ldp x10, x11, [sp, #80]",
    "ldp x12, x13, [sp, #96]",
    "ldp x14, x15, [sp, #112]",
    "ldp x16, x17, [sp, #128]",
    "ldp x18, x19, [sp, #144]",
    "ldp x20, x21, [sp, #160]",
    "ldp x22, x23, [sp, #176]",
    "ldp x24, x25, [sp, #192]",
    "ldp x26, x27, [sp, #208]",
    "ldp x28, x29, [sp, #224]",
    "ldr x30, [sp, #240]",
    "add sp, sp, #272",
    "eret",
    ".size el1h_64_irq, . - el1h_64_irq",
    ".type stop_unexpected_entry, %function",
    "stop_unexpected_entry:",
    "mrs x0, esr_el1",
    "mrs x1, elr_el1",
    "mrs x2, far_el1",
    "b stop_unexpected",
    ".size stop_unexpected_entry, . - stop_unexpected_entry",
    ".popsection",
);

// A loop in which every instruction leaves another set of registers: x0 to x30 and the flags.
global_asm!(
    ".pushsection .text.wedged, \"ax\"",
    ".global wedged",
    ".type wedged, %function",
    "wedged:",
    "movz x30, #0x6c64",
    "movk x30, #0x9e37, lsl #16",
    "madd x30, x0, x30, x30",
    "1:",
    ".irp r, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29",
    "adds x\\r, x\\r, x30",
    "eor x\\r, x\\r, x0, ror #13",
    "ror x30, x30, #7",
    "subs xzr, x\\r, x30",
    ".endr",
    "add x0, x0, x30, lsr #3",
    "b 1b",
    ".size wedged, . - wedged",
    ".popsection",
);

/// Goes round in that loop for ever.
pub(crate) fn wedged(seed: u64) -> ! {
    unsafe extern "C" {
        safe fn wedged(seed: u64) -> !;
    }
    wedged(seed)
}

/// Has this CPU take its exceptions there.
pub(crate) fn use_stop_vectors() {
    unsafe extern "C" {
        safe fn stop_vectors();
    }
    let table = stop_vectors as *const () as u64;
    // SAFETY: the table above serves every exception.
    unsafe { asm!("msr VBAR_EL1, {}", "isb", in(reg) table, options(nostack, preserves_flags)) }
}

#[unsafe(no_mangle)]
extern "C" fn do_handle_IPI(frame: &mut Frame) {
    stop::interrupted(frame);
}

#[unsafe(no_mangle)]
extern "C" fn stop_unexpected(esr: u64, elr: u64, far: u64) -> ! {
    panic!("unexpected exception: ESR {esr:#x}, ELR {elr:#x}, FAR {far:#x}")
}

/// The caller's registers as they are here, with the address of this place in it. Inlined, so that the place is the caller's.
#[inline(always)]
pub(crate) fn own_registers() -> Frame {
    let mut frame = Frame {
        x: [0; 31],
        sp: 0,
        pc: 0,
        pstate: 0,
    };
    // SAFETY: stores registers into `frame`, and writes but two scratch registers.
    unsafe {
        asm!(
            "stp x0, x1, [{at}, #0]",
            "stp x2, x3, [{at}, #16]",
            "stp x4, x5, [{at}, #32]",
            "stp x6, x7, [{at}, #48]",
            "stp x8, x9, [{at}, #64]",
            "stp x10, x11, [{at}, #80]",
            "stp x12, x13, [{at}, #96]",
            "stp x14, x15, [{at}, #112]",
            "stp x16, x17, [{at}, #128]",
            "stp x18, x19, [{at}, #144]",
            "stp x20, x21, [{at}, #160]",
            "stp x22, x23, [{at}, #176]",
            "stp x24, x25, [{at}, #192]",
            "stp x26, x27, [{at}, #208]",
            "stp x28, x29, [{at}, #224]",
            "mov {scratch}, sp",
            "stp x30, {scratch}, [{at}, #240]",
            "adr {scratch}, .",
            "str {scratch}, [{at}, #256]",
            "mrs {scratch}, DAIF",
            // Linux fakes the same of it (arch/arm64/include/asm/kexec.h, crash_setup_regs()): EL1h and what is masked.
            "orr {scratch}, {scratch}, #4",
            "orr {scratch}, {scratch}, #1",
            "str {scratch}, [{at}, #264]",
            at = in(reg) &raw mut frame,
            scratch = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
    frame
}

/// Stores to the doorbell. Inlined, so that what interrupts the CPU there interrupts the caller.
#[inline(always)]
pub(crate) fn ring(doorbell: u64, word: u64) {
    // SAFETY: the page is mapped as a device, and nothing of Rust lies there.
    unsafe {
        asm!("str {word}, [{at}]", at = in(reg) doorbell, word = in(reg) word, options(nostack, preserves_flags));
    }
}

/// The same, and then, with nothing in between, `guest_abi::mailbox::OPENING` instructions that unmask. Until the last of them
/// PSTATE.I keeps everything out.
#[inline(always)]
pub(crate) fn ring_and_open(doorbell: u64, word: u64, pmr: u8) {
    // SAFETY: as for `ring`; the vectors are set, and the handlers touch atomics only.
    unsafe {
        asm!(
            "msr DAIFSet, #2",
            "str {word}, [{at}]",
            "msr ICC_PMR_EL1, {pmr}",
            "msr DAIFClr, #0xf",
            at = in(reg) doorbell,
            word = in(reg) word,
            pmr = in(reg) u64::from(pmr),
            options(nostack, preserves_flags),
        );
    }
}

/// Masks all of DAIF.
#[inline(always)]
pub(crate) fn mask_daif() {
    // SAFETY: masking interrupts breaks no memory rule.
    unsafe { asm!("msr DAIFSet, #0xf", options(nostack, preserves_flags)) }
}

/// Waits for an event, then for an interrupt: one turn of the loop of a parked CPU.
#[inline(always)]
pub(crate) fn wait_parked() {
    // SAFETY: waiting breaks no memory rule.
    unsafe { asm!("wfe", "wfi", options(nostack, preserves_flags)) }
}
