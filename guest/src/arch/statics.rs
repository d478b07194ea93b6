//! Statics that are found by name from outside, or that lie in a section of their own.

use core::cell::UnsafeCell;

use aarch64_rt::Stack;

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
