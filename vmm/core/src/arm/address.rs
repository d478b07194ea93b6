//! Addresses of the guest, kept apart by what they are addresses of.

use std::fmt;

/// An address in guest physical memory.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PhysicalAddress(pub u64);

/// A virtual address of the guest's kernel. Its arithmetic is that of the machine: it wraps.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KernelVa(pub u64);

impl PhysicalAddress {
    /// The address so many bytes further on, if there is one.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl KernelVa {
    /// The address so many bytes further on.
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Whether TTBR1 translates it: bit 55 tells the halves apart (DDI 0487, D8.2.6).
    pub fn is_upper(self) -> bool {
        self.0 & 1 << 55 != 0
    }
}

impl fmt::Display for PhysicalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for KernelVa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}
