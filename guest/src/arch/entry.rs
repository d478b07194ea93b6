//! Where CPUs enter: the boot CPU by aarch64-rt's entry, the others by PSCI CPU_ON, all of them by
//! the exception vectors.
//!
//! The MMU and the caches are on before any Rust code runs. That is not for speed: with the MMU off
//! the payload's stores would bypass the cache through which the VMM reads guest memory, and its
//! atomics could fault (Arm ARM DDI 0487, ESR_ELx: "unsupported Exclusive or Atomic access").

use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use aarch64_paging::descriptor::El1Attributes;
use aarch64_paging::mair::{Mair, MairAttribute, NormalMemory};
use aarch64_rt::{
    ExceptionHandlers, InitialPagetable, RegisterStateRef, entry, exception_handlers,
    initial_pagetable, start_core,
};
use arm_sysregs::el1::accessors::read_esr_el1;
use guest_abi::memory_map::{HIGH_REDISTRIBUTORS_BASE, RAM_BASE};
use smccc::Hvc;
use smccc::psci;

use super::probes;
use super::statics::SECONDARY_STACKS;
use crate::cpus::Mpidr;
use crate::exceptions;

const MAIR: Mair = Mair::EMPTY
    .with_attribute(0, MairAttribute::DEVICE_NGNRE)
    .with_attribute(
        1,
        MairAttribute::normal(
            NormalMemory::WriteBackNonTransientReadWriteAllocate,
            NormalMemory::WriteBackNonTransientReadWriteAllocate,
        ),
    );

pub(super) const DEVICE: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ATTRIBUTE_INDEX_0)
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::PXN)
    .union(El1Attributes::UXN);

pub(super) const MEMORY: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ATTRIBUTE_INDEX_1)
    .union(El1Attributes::INNER_SHAREABLE)
    .union(El1Attributes::ACCESSED);

/// What one entry of the table maps: a block of the first level, with 4 KiB granules.
pub(super) const BLOCK: usize = 1 << 30;

/// An identity map. The blocks are larger than what lies in them, which is harmless: the payload
/// touches nothing but its image, its device tree and the devices that the tree names.
const fn identity_map() -> InitialPagetable {
    let ram = RAM_BASE as usize;
    let high = HIGH_REDISTRIBUTORS_BASE as usize;
    let mut table = [0; 512];
    table[0] = DEVICE.bits();
    table[ram / BLOCK] = MEMORY.bits() | ram;
    table[high / BLOCK] = DEVICE.bits() | high;
    InitialPagetable(table)
}

initial_pagetable!(identity_map(), MAIR.0);
exception_handlers!(Exceptions);
entry!(crate::boot::boot_cpu);

struct Exceptions;

impl ExceptionHandlers for Exceptions {
    extern "C" fn irq_current(_: RegisterStateRef) {
        exceptions::irq();
    }

    extern "C" fn sync_current(mut state: RegisterStateRef) {
        if probes::skip(&mut state, read_esr_el1().bits()) {
            return;
        }
        exceptions::unexpected("synchronous exception", &state);
    }

    extern "C" fn fiq_current(state: RegisterStateRef) {
        exceptions::unexpected("FIQ", &state);
    }

    extern "C" fn serror_current(state: RegisterStateRef) {
        exceptions::unexpected("SError", &state);
    }
}

/// Powers up the CPU of this MPIDR by PSCI CPU_ON, on a stack of its own, where it runs `course`.
pub(crate) fn start_cpu<F>(mpidr: Mpidr, course: F) -> Result<(), psci::Error>
where
    F: FnOnce() + Send + 'static,
{
    static STACKS_IN_USE: AtomicUsize = AtomicUsize::new(0);
    let stack = SECONDARY_STACKS.get(STACKS_IN_USE.fetch_add(1, Ordering::Relaxed));
    // SAFETY: the counter hands out each stack once, `get` refuses one that does not exist, and the
    // table that both CPUs use maps it.
    unsafe { start_core::<Hvc, _, _>(mpidr.bits(), stack, course) }
}

// Where a CPU powers itself off at once: PSCI CPU_OFF (DEN 0022, 5.1.3), with the MMU off and no stack.
global_asm!(
    ".pushsection .text.off_at_once, \"ax\"",
    ".global off_at_once",
    "off_at_once:",
    "mov w0, #0x84000000",
    "orr w0, w0, #2",
    "hvc #0",
    "b .",
    ".popsection",
);

/// The address of code with which a CPU started by PSCI CPU_ON is off again at once.
pub(crate) fn off_at_once() -> u64 {
    unsafe extern "C" {
        safe fn off_at_once();
    }
    off_at_once as *const () as u64
}
