//! The addresses that the payload relies on before it has read the device tree.
//!
//! They are those of QEMU's `virt` machine, which the VMM follows. Everything else the payload
//! takes from the device tree.

/// Where RAM begins; the device tree lies here. All below it is devices.
pub const RAM_BASE: u64 = 0x4000_0000;

/// The PL011 that a panic prints on if the device tree could not be read.
pub const PL011_BASE: u64 = 0x0900_0000;

/// The redistributors that do not fit below the PL011: those of CPU 123 and up.
pub const HIGH_REDISTRIBUTORS_BASE: u64 = 0x40_0000_0000;

/// Where a CPU of the payload rings: one page, of which a 64-bit store to the first word counts. QEMU's `virt` has
/// nothing there.
pub const DOORBELL_BASE: u64 = 0x0b00_0000;
