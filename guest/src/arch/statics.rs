//! Statics that are found by name from outside, or that lie in a section of their own.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};

use aarch64_rt::Stack;
use guest_abi::mailbox::{self, NOBODY};

use crate::console::ConsoleLock;
use crate::cpus::MAX_CPUS;

/// The lock of the PL011: the number of the CPU that holds it, or `ConsoleLock::FREE`.
///
/// It keeps its name in the symbol table: whoever holds a CPU inside the console's critical section
/// must be able to see from outside whose section it is.
#[unsafe(no_mangle)]
pub(crate) static CONSOLE_LOCK: ConsoleLock = ConsoleLock::new();

/// 16 KiB, as Linux gives a thread on arm64.
type SecondaryStack = Stack<4>;

/// A stack for every CPU but the one that boots.
pub(super) struct SecondaryStacks(UnsafeCell<[SecondaryStack; MAX_CPUS - 1]>);

// SAFETY: only `SecondaryStacks::get` reaches the stacks, and it yields no reference.
unsafe impl Sync for SecondaryStacks {}

impl SecondaryStacks {
    /// The stack of this number. Panics if there are not so many.
    pub(super) fn get(&self, number: usize) -> *mut SecondaryStack {
        assert!(
            number < MAX_CPUS - 1,
            "all stacks of secondary CPUs are in use"
        );
        self.0.get().cast::<SecondaryStack>().wrapping_add(number)
    }
}

/// In a section that the entry code does not clear: clearing 8 MiB would cost every boot, and a
/// stack need not be zero.
#[unsafe(link_section = ".stack.secondary")]
pub(super) static SECONDARY_STACKS: SecondaryStacks = SecondaryStacks(UnsafeCell::new(
    [const { SecondaryStack::new() }; MAX_CPUS - 1],
));

/// What the VMM wants, and what the CPUs tell it (guest_abi::mailbox). Not in .bss: the VMM writes it before the entry code runs,
/// which clears that.
#[unsafe(export_name = "mailbox")]
#[unsafe(link_section = ".data.mailbox")]
pub(crate) static MAILBOX: [AtomicU64; mailbox::WORDS] =
    [const { AtomicU64::new(0) }; mailbox::WORDS];

/// A bitmap of CPUs as large as Linux has it with NR_CPUS = 4096.
#[repr(C, align(512))]
pub(crate) struct Mask(pub(crate) [AtomicU64; 64]);

impl Mask {
    const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; 64])
    }
}

#[unsafe(export_name = "__cpu_online_mask")]
pub(crate) static ONLINE_MASK: Mask = Mask::empty();
#[unsafe(export_name = "__num_online_cpus")]
pub(crate) static ONLINE_COUNT: AtomicI32 = AtomicI32::new(0);
#[unsafe(export_name = "stop_mask")]
pub(crate) static STOP_MASK: Mask = Mask::empty();
#[unsafe(export_name = "waiting_for_crash_ipi")]
pub(crate) static COUNTER: AtomicI32 = AtomicI32::new(0);
/// `crash_stop`, or `cpus_stopped` before it.
#[unsafe(export_name = "crash_stop")]
pub(crate) static CRASH_STOP: AtomicU32 = AtomicU32::new(0);
#[unsafe(export_name = "stop_in_progress")]
pub(crate) static STOP_IN_PROGRESS: AtomicU64 = AtomicU64::new(0);
#[unsafe(export_name = "panic_cpu")]
pub(crate) static PANIC_CPU: AtomicU32 = AtomicU32::new(NOBODY);
/// 0 while it is at most SYSTEM_RUNNING.
#[unsafe(export_name = "system_state")]
pub(crate) static SYSTEM_STATE: AtomicU32 = AtomicU32::new(0);
#[unsafe(export_name = "port_lock")]
pub(crate) static PORT_LOCK: AtomicU32 = AtomicU32::new(NOBODY);
/// The owner of `console_sem`.
#[unsafe(export_name = "console_sem")]
pub(crate) static CONSOLE_SEM: AtomicU32 = AtomicU32::new(NOBODY);
/// `console_owner`: 1 while the owner of `console_sem` writes and a waiter may spin for it.
#[unsafe(export_name = "console_owner")]
pub(crate) static CONSOLE_WRITES: AtomicU32 = AtomicU32::new(0);
#[unsafe(export_name = "console_waiter")]
pub(crate) static CONSOLE_WAITER: AtomicU32 = AtomicU32::new(NOBODY);
/// nbcon's owner, whether it is unsafe to take over, who waits for a hand-over, whether the wire is in the middle of a line.
#[unsafe(export_name = "nbcon_state")]
pub(crate) static NBCON: [AtomicU32; 4] = [
    AtomicU32::new(NOBODY),
    AtomicU32::new(0),
    AtomicU32::new(NOBODY),
    AtomicU32::new(0),
];

/// The crash notes.
#[unsafe(export_name = "crash_notes")]
pub(crate) static NOTES: [[AtomicU32; mailbox::NOTE_STRIDE as usize / 4]; mailbox::MAX_CPUS] =
    [const { [const { AtomicU32::new(0) }; mailbox::NOTE_STRIDE as usize / 4] }; mailbox::MAX_CPUS];

/// A record: its level, its length, its text four bytes a word.
pub(crate) type LogRecord = [AtomicU32; mailbox::LOG_RECORD_BYTES as usize / 4];

/// The log ring (guest_abi::mailbox::symbol::LOG).
#[repr(C)]
pub(crate) struct LogRing {
    pub(crate) count: AtomicU32,
    pub(crate) shown: AtomicU32,
    pub(crate) records: [LogRecord; mailbox::LOG_RECORDS],
}

#[unsafe(export_name = "log_ring")]
pub(crate) static LOG: LogRing = LogRing {
    count: AtomicU32::new(0),
    shown: AtomicU32::new(0),
    records: [const { [const { AtomicU32::new(0) }; mailbox::LOG_RECORD_BYTES as usize / 4] };
        mailbox::LOG_RECORDS],
};
