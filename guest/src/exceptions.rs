//! What exceptions lead to: interrupts are counted, everything else ends the run.

use core::fmt::Arguments;
use core::hint::spin_loop;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_rt::RegisterState;
use arm_gic::InterruptGroup;
use arm_gic::gicv3::GicCpuInterface;
use arm_sysregs::el1::accessors::{read_esr_el1, read_far_el1};
use smccc::Hvc;
use smccc::psci;

use crate::console;
use crate::cpus::{CpuId, Mpidr};
use crate::debuggee;
use crate::time::{self, Deadline, PATIENCE};

/// Takes the interrupt that is signalled, be it an IRQ or a pseudo-NMI.
pub(crate) fn irq() {
    let group = InterruptGroup::Group1;
    let Some(intid) = GicCpuInterface::get_and_acknowledge_interrupt(group) else {
        // Spurious: what was signalled is no longer pending (GIC IHI 0069, section 2.2.1).
        return;
    };
    if intid.is_ppi() {
        // The timer's is the only PPI that is enabled. Its level must fall before the interrupt
        // ends, or it would be taken again.
        time::stop_timer();
    }
    if !(intid.is_ppi() && debuggee::goes_on()) {
        CpuId::current().shared().count(intid);
    }
    GicCpuInterface::end_interrupt(intid, group);
}

/// Prints an exception that nothing in the payload expects, and resets.
pub(crate) fn unexpected(what: &str, state: &RegisterState) -> ! {
    let (esr, far) = (read_esr_el1().bits(), read_far_el1().bits());
    // RegisterState calls x30 `sp`.
    last_words(format_args!(
        "unexpected {what}: ESR {esr:#x}, ELR {:#x}, FAR {far:#x}, SPSR {:#x}, x29 {:#x}, x30 {:#x}, \
         x0 to x18 {:x?}",
        state.elr, state.spsr, state.fp, state.sp, state.registers,
    ))
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    last_words(format_args!("{info}"))
}

/// Prints without the lock, which may be held by a CPU that will never give it back, and resets.
fn last_words(words: Arguments) -> ! {
    static SPEAKER: AtomicU64 = AtomicU64::new(NOBODY);
    const NOBODY: u64 = u64::MAX;
    let mpidr = Mpidr::current();
    // The words of the first CPU are the ones that matter. No read-modify-write: a CPU without
    // FEAT_LSE has no instruction for the one that it would be, and that too must be told.
    match SPEAKER.load(Ordering::Relaxed) {
        NOBODY => {
            SPEAKER.store(mpidr.bits(), Ordering::Relaxed);
            console::print_without_lock(format_args!(
                "\npayload: {} ({mpidr}): {words}\n",
                CpuId::current(),
            ));
        }
        // It failed while it spoke.
        speaker if speaker == mpidr.bits() => {}
        // Another speaks, and will reset: give it the time.
        _ => {
            let deadline = Deadline::after(PATIENCE);
            while !deadline.has_passed() {
                spin_loop();
            }
        }
    }
    reset()
}

/// Ends the run by PSCI SYSTEM_RESET, the payload's sign of failure.
pub(crate) fn reset() -> ! {
    // An error cannot be told of any more: the CPU then stays here, for the VMM's timeout to find.
    let _ = psci::system_reset::<Hvc>();
    loop {
        spin_loop();
    }
}
