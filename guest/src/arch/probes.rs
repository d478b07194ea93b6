//! Accesses that may fault, one instruction each: whatever comes of it, the CPU goes on behind it.

use core::arch::asm;

use aarch64_paging::descriptor::El1Attributes;
use aarch64_rt::RegisterStateRef;
use guest_abi::memory_map::{PL011_BASE, RAM_BASE};

use super::entry::{BLOCK, DEVICE, MEMORY};

/// The first address in RAM that holds nothing of the payload's: memory.ld says where its image and its stacks end.
pub(crate) const FREE_RAM: u64 = 0x4200_0000;

/// One instruction.
pub(crate) struct Probe(fn(u64, u64) -> u64);

impl Probe {
    /// Runs it on this address, with `value` in its data registers. Gives ESR_EL1 if it faulted.
    ///
    /// Panics if the address is the payload's own.
    pub(crate) fn run(&self, address: u64, value: u64) -> Option<u64> {
        // No access is longer than 32 bytes, but DC ZVA reaches to the end and the start of a block, 2 KiB at most.
        const REACH: u64 = 2048;
        assert!(
            !(RAM_BASE - REACH..FREE_RAM + REACH).contains(&address),
            "{address:#x} is the payload's own"
        );
        let esr = (self.0)(address, value);
        (esr != 0).then_some(esr)
    }
}

// TPIDR_EL0, which nothing else uses, says to the exception handler where this CPU goes on after a fault, and what it
// faulted with to the CPU.
macro_rules! probes {
    ($($instruction:literal)*) => {
        /// All of them. `{a}` is the address; x2 to x5 hold data, and so do v2 and v3.
        pub(crate) static PROBES: &[Probe] = &[$(Probe(
            |address, value| {
                let esr: u64;
                // SAFETY: `Probe::run` keeps the address off everything that Rust knows, `skip` brings the CPU to the
                // label after a fault, and what the instruction may change is declared. The payload is compiled
                // without vector registers.
                unsafe {
                    asm!(
                        ".arch_extension fp",
                        ".arch_extension simd",
                        ".arch_extension lse",
                        "adr {esr}, 3f",
                        "msr TPIDR_EL0, {esr}",
                        $instruction,
                        "msr TPIDR_EL0, xzr",
                        "3:",
                        "mrs {esr}, TPIDR_EL0",
                        "msr TPIDR_EL0, xzr",
                        a = inout(reg) address => _,
                        esr = out(reg) esr,
                        inout("x2") value => _,
                        inout("x3") value => _,
                        inout("x4") value => _,
                        inout("x5") value => _,
                        out("x30") _,
                    );
                }
                esr
            },
        )),*];
    };
}

probes! {
    "ldrb w2, [{a}]"
    "ldrh w2, [{a}]"
    "ldr w2, [{a}]"
    "ldr x2, [{a}]"
    "ldrsb x2, [{a}]"
    "ldrsw x2, [{a}]"
    "strb w2, [{a}]"
    "strh w2, [{a}]"
    "str w2, [{a}]"
    "str x2, [{a}]"
    "ldar x2, [{a}]"
    "stlr x2, [{a}]"
    // What follows gives no syndrome to emulate it by (Arm ARM DDI 0487, ESR_ELx, ISS.ISV).
    "ldp w2, w3, [{a}]"
    "ldp x2, x3, [{a}]"
    "stp w2, w3, [{a}]"
    "stp x2, x3, [{a}]"
    "ldr x2, [{a}], #8"
    "ldr w2, [{a}, #4]!"
    "str x2, [{a}], #-8"
    "strb w2, [{a}, #1]!"
    "ldr q2, [{a}]"
    "str q2, [{a}]"
    "ldp q2, q3, [{a}]"
    "st1 {{v2.16b, v3.16b}}, [{a}]"
    "ld1 {{v2.b}}[3], [{a}]"
    "ldxr x2, [{a}]"
    "stxr w3, x2, [{a}]"
    "ldxp x2, x3, [{a}]"
    "ldadd x2, x3, [{a}]"
    "swpb w2, w3, [{a}]"
    "cas w2, w3, [{a}]"
    "casp x2, x3, x4, x5, [{a}]"
    // Neither loads nor stores, and yet they go to an address.
    "dc zva, {a}"
    "dc civac, {a}"
    "dc cvau, {a}"
    "ic ivau, {a}"
    "prfm pldl1keep, [{a}]"
    "at s1e1r, {a}"
    // The last of all, because its fault is one of the fetch.
    "blr {a}"
}

/// What a probe left for the handler of its exception; false if no probe is under way.
pub(super) fn skip(state: &mut RegisterStateRef, esr: u64) -> bool {
    let on: u64;
    // SAFETY: reading a thread register has no side effect.
    unsafe { asm!("mrs {}, TPIDR_EL0", out(reg) on, options(nostack, preserves_flags)) }
    if on == 0 {
        return false;
    }
    // SAFETY: nothing else uses the register.
    unsafe { asm!("msr TPIDR_EL0, {}", in(reg) esr, options(nostack, preserves_flags)) }
    // SAFETY: the address is the label behind the instruction of a probe, which expects to be continued there.
    unsafe { state.get_mut() }.elr = on as usize;
    true
}

/// Before its first probe a CPU says that none is under way: the register's value at reset is unknown. Lets it use the
/// vector registers too.
pub(crate) fn enable_probes() {
    // SAFETY: nothing else uses the register.
    unsafe { asm!("msr TPIDR_EL0, xzr", options(nostack, preserves_flags)) }
    // SAFETY: not to trap the vector registers (CPACR_EL1.FPEN) breaks no memory rule.
    unsafe {
        asm!("msr CPACR_EL1, {}", "isb", in(reg) 3_u64 << 20, options(nostack, preserves_flags))
    }
}

/// As far as a table of one level maps: 39 bits.
pub(crate) const MAPPED: u64 = (BLOCK as u64) << 9;

/// Addresses whose translation leads the table walk itself to a device or into a hole: the last entries of the table
/// say that a further table lies there.
pub(crate) const WALKS_ASTRAY: [u64; 4] = {
    let last = MAPPED - BLOCK as u64;
    [
        last,
        last - BLOCK as u64,
        last - 2 * BLOCK as u64,
        last - 3 * BLOCK as u64,
    ]
};

#[repr(C, align(4096))]
struct Table([usize; 512]);

/// The identity map of all addresses: RAM as it was, everything else as a device from which instructions are fetched,
/// which the payload's own map forbids.
static EVERYTHING: Table = {
    let device = DEVICE
        .difference(El1Attributes::PXN)
        .difference(El1Attributes::UXN)
        .bits();
    let further = El1Attributes::VALID.bits() | El1Attributes::TABLE_OR_PAGE.bits();
    let mut table = [0; 512];
    let mut entry = 0;
    while entry < table.len() {
        table[entry] = device | (entry * BLOCK);
        entry += 1;
    }
    table[RAM_BASE as usize / BLOCK] = MEMORY.bits() | RAM_BASE as usize;
    table[511] = further | PL011_BASE as usize;
    table[510] = further | 0x0800_0000; // the GIC's distributor
    table[509] = further | 0x0a00_0000; // nothing
    table[508] = further | 0xff_ffff_f000; // nothing, beyond any RAM
    Table(table)
};

/// From now on this CPU sees all addresses.
pub(crate) fn map_everything() {
    let table = &raw const EVERYTHING;
    // SAFETY: the map is the same where the payload lies, and more permissive elsewhere; no entry that was in use
    // changes what it leads to.
    unsafe {
        asm!(
            "dsb ish",
            "msr TTBR0_EL1, {}",
            "isb",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            in(reg) table,
            options(nostack, preserves_flags)
        );
    }
}
