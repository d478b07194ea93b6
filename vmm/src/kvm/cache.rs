//! Instructions that were written as data.

use std::arch::asm;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// The shortest line of a cache (Arm ARM DDI 0487, D24.2.35 `CTR_EL0`: four words).
const LINE: usize = 16;

/// Has every processor execute what now stands in these bytes (DDI 0487, B2.7.4.2).
pub fn make_visible<B: BitmapSlice>(bytes: &VolatileSlice<'_, B>) {
    let first = bytes.ptr_guard().as_ptr() as usize;
    let lines = || (first & !(LINE - 1)..first + bytes.len()).step_by(LINE);
    for line in lines() {
        // SAFETY: it cleans the line of an address that is mapped, and changes nothing. Linux lets user space (SCTLR_EL1.UCI).
        unsafe { asm!("dc cvau, {}", in(reg) line) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish") };
    for line in lines() {
        // SAFETY: as above.
        unsafe { asm!("ic ivau, {}", in(reg) line) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb") };
}
