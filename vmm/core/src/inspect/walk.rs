//! The walk of stage 1 translation tables, as the Arm ARM has it (DDI 0487, D8.2 and D8.3).
//!
//! Granules of 4, 16 and 64 KiB; virtual addresses of up to 52 bits in both halves; output addresses of 48 bits, or of
//! 52 with FEAT_LPA (64 KiB granule) and FEAT_LPA2 (TCR_EL1.DS).

use std::fmt;

use super::{InspectError, Memory};
use crate::arm::{KernelVa, PhysicalAddress};

/// The registers that say where a walk begins and what shape the tables have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TranslationRegisters {
    /// TTBR0_EL1: the lower half, user space.
    pub ttbr0: u64,
    /// TTBR1_EL1: the upper half, the kernel.
    pub ttbr1: u64,
    /// TCR_EL1.
    pub tcr: u64,
}

/// The unit of translation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Granule {
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

impl Granule {
    /// The granule of so many bytes.
    pub fn of_bytes(bytes: u64) -> Option<Self> {
        [Self::K4, Self::K16, Self::K64]
            .into_iter()
            .find(|granule| granule.bytes() == bytes)
    }

    /// Bytes of a page.
    pub fn bytes(self) -> u64 {
        1 << self.bits()
    }

    fn bits(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }

    /// Bits of the address that one level resolves: a table fills a page with descriptors of 8 bytes.
    fn stride(self) -> u32 {
        self.bits() - 3
    }

    /// The first level at which a descriptor may be a block (DDI 0487, table D8-20 and its neighbours).
    fn first_block_level(self, lpa2: bool) -> i32 {
        match (self, lpa2) {
            (Self::K4, true) => 0,
            (Self::K4, false) | (Self::K16, true) => 1,
            (Self::K16, false) => 2,
            // With FEAT_LPA a block of 4 TiB; without it the encoding is reserved, and Linux makes none.
            (Self::K64, _) => 1,
        }
    }
}

/// One half of the address space.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tables {
    /// The table of the first level.
    pub root: PhysicalAddress,
    /// The granule.
    pub granule: Granule,
    /// Bits of a virtual address that are translated: 64 less T0SZ or T1SZ.
    pub input_bits: u32,
    /// Whether descriptors have the format of FEAT_LPA2 (TCR_EL1.DS).
    pub lpa2: bool,
    /// Whether the top byte of an address is ignored (TCR_EL1.TBI0, TBI1).
    pub top_byte_ignored: bool,
}

/// What a walk ends with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Translation {
    /// The output address.
    pub at: PhysicalAddress,
    /// Bytes from the output address to the end of its page or block.
    pub rest: u64,
    /// The level of the last descriptor, -1 to 3.
    pub level: i32,
    /// The last descriptor.
    pub descriptor: u64,
}

impl Translation {
    /// Whether the entry is one of a contiguous set. Each of them holds its own output address, so that the walk has no
    /// use for it; a TLB has.
    pub fn is_contiguous(&self) -> bool {
        self.descriptor & 1 << 52 != 0
    }
}

/// Why an address has no translation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WalkFault {
    /// The bits above those that are translated are not all as bit 55 is.
    NotCanonical {
        /// Bits that are translated.
        input_bits: u32,
    },
    /// Not an address of the kernel: bit 55 is clear.
    LowerHalf,
    /// TCR_EL1.EPD0 or EPD1 turns walks of this half off.
    Disabled,
    /// TCR_EL1 holds a value that the architecture does not have.
    BadControl {
        /// The register.
        tcr: u64,
    },
    /// A descriptor is not valid: nothing is mapped there.
    Invalid {
        /// The level, -1 to 3.
        level: i32,
        /// Where the descriptor lies.
        at: PhysicalAddress,
        /// The descriptor.
        descriptor: u64,
    },
    /// A descriptor has a form that its level does not have.
    Reserved {
        /// The level, -1 to 3.
        level: i32,
        /// Where the descriptor lies.
        at: PhysicalAddress,
        /// The descriptor.
        descriptor: u64,
    },
    /// A table lies outside of RAM.
    TableOutside {
        /// The level, -1 to 3.
        level: i32,
        /// Where the descriptor would lie.
        at: PhysicalAddress,
    },
}

impl fmt::Display for WalkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCanonical { input_bits } => {
                write!(f, "not an address of {input_bits} bits")
            }
            Self::LowerHalf => f.write_str("not an address of the kernel"),
            Self::Disabled => f.write_str("TCR_EL1 turns walks of this half off"),
            Self::BadControl { tcr } => write!(f, "TCR_EL1 {tcr:#x} describes no tables"),
            Self::Invalid {
                level,
                at,
                descriptor,
            } => write!(
                f,
                "not mapped: the descriptor {descriptor:#x} of level {level} at {at} is not valid"
            ),
            Self::Reserved {
                level,
                at,
                descriptor,
            } => write!(
                f,
                "the descriptor {descriptor:#x} at {at} is none of level {level}"
            ),
            Self::TableOutside { level, at } => {
                write!(f, "the table of level {level} has no RAM at {at}")
            }
        }
    }
}

impl TranslationRegisters {
    /// The tables of the half that the address lies in.
    pub fn tables(&self, va: KernelVa) -> Result<Tables, WalkFault> {
        let bit = |n: u32| self.tcr >> n & 1 != 0;
        let field = |n: u32, bits: u32| self.tcr >> n & ((1 << bits) - 1);
        let bad = WalkFault::BadControl { tcr: self.tcr };
        // TG0 and TG1 number the granules differently (DDI 0487, D24.2, TCR_EL1).
        let (ttbr, size, granule, disabled, top_byte_ignored) = if va.is_upper() {
            let granule = match field(30, 2) {
                1 => Granule::K16,
                2 => Granule::K4,
                3 => Granule::K64,
                _ => return Err(bad),
            };
            (self.ttbr1, field(16, 6), granule, bit(23), bit(38))
        } else {
            let granule = match field(14, 2) {
                0 => Granule::K4,
                1 => Granule::K64,
                2 => Granule::K16,
                _ => return Err(bad),
            };
            (self.ttbr0, field(0, 6), granule, bit(7), bit(37))
        };
        if disabled {
            return Err(WalkFault::Disabled);
        }
        let lpa2 = bit(59) && granule != Granule::K64;
        // At least 12 with 52-bit addresses, else 16; at most 39 (the 48 of FEAT_TTST is nothing that Linux uses).
        let least = if lpa2 || granule == Granule::K64 {
            12
        } else {
            16
        };
        if !(least..=39).contains(&size) {
            return Err(bad);
        }
        let mut tables = Tables {
            root: PhysicalAddress(0),
            granule,
            input_bits: 64 - size as u32,
            lpa2,
            top_byte_ignored,
        };
        // BADDR ends above CnP and below the ASID; where addresses have 52 bits, its bits 5:2 are the address's 51:48,
        // and the table is aligned to 64 bytes at least.
        let wide = lpa2 || granule == Granule::K64;
        let align = if wide {
            tables.root_bytes().max(64)
        } else {
            tables.root_bytes()
        };
        let high = if wide { (ttbr >> 2 & 0xf) << 48 } else { 0 };
        tables.root = PhysicalAddress(ttbr & 0xffff_ffff_ffff & !(align - 1) | high);
        Ok(tables)
    }

    /// Translates an address of either half.
    pub fn translate(
        &self,
        memory: &(impl Memory + ?Sized),
        va: KernelVa,
    ) -> Result<Translation, InspectError> {
        self.tables(va)
            .and_then(|tables| tables.walk(memory, va))
            .map_err(|fault| InspectError::Walk { va, fault })
    }
}

impl Tables {
    /// Levels, the last of which is 3.
    fn levels(&self) -> u32 {
        (self.input_bits - self.granule.bits()).div_ceil(self.granule.stride())
    }

    /// The first table resolves what the others leave, and may be smaller than a page.
    fn root_bytes(&self) -> u64 {
        let others = self.granule.bits() + self.granule.stride() * (self.levels() - 1);
        8 << (self.input_bits - others)
    }

    /// The address in a descriptor, down to a bit.
    fn output(&self, descriptor: u64, lowest: u32) -> u64 {
        let field = |high: u32| descriptor & ((1 << (high + 1)) - 1) & !((1 << lowest) - 1);
        match (self.granule, self.lpa2) {
            (Granule::K64, _) => field(47) | (descriptor >> 12 & 0xf) << 48,
            (_, true) => field(49) | (descriptor >> 8 & 0x3) << 50,
            (_, false) => field(47),
        }
    }

    /// Translates an address of this half.
    pub fn walk(
        &self,
        memory: &(impl Memory + ?Sized),
        va: KernelVa,
    ) -> Result<Translation, WalkFault> {
        let top = if self.top_byte_ignored { 56 } else { 64 };
        // Bit 55 down to the highest translated bit, and the top byte if it counts, are the sign.
        let sign = if va.is_upper() { u64::MAX } else { 0 };
        let above = (va.0 ^ sign) << (64 - top) >> (64 - top) >> self.input_bits;
        if above != 0 {
            let input_bits = self.input_bits;
            return Err(WalkFault::NotCanonical { input_bits });
        }
        let mut table = self.root.0;
        let mut bits = self.input_bits;
        for left in (0..self.levels()).rev() {
            let level = 3 - left as i32;
            let lowest = self.granule.bits() + self.granule.stride() * left;
            let index = va.0 << (64 - bits) >> (64 - bits) >> lowest;
            let at = PhysicalAddress(table + 8 * index);
            let mut descriptor = [0; 8];
            memory
                .read(at, &mut descriptor)
                .map_err(|_| WalkFault::TableOutside { level, at })?;
            let descriptor = u64::from_le_bytes(descriptor);
            // Bit 0: valid. Bit 1: a table, or at level 3 a page; clear it is a block, which level 3 has not.
            if descriptor & 1 == 0 {
                return Err(WalkFault::Invalid {
                    level,
                    at,
                    descriptor,
                });
            }
            let is_table = descriptor & 2 != 0;
            if level < 3 && is_table {
                table = self.output(descriptor, self.granule.bits());
                bits = lowest;
                continue;
            }
            if is_table != (level == 3) || level < self.granule.first_block_level(self.lpa2) {
                return Err(WalkFault::Reserved {
                    level,
                    at,
                    descriptor,
                });
            }
            let inside = va.0 & ((1 << lowest) - 1);
            return Ok(Translation {
                at: PhysicalAddress(self.output(descriptor, lowest) + inside),
                rest: (1 << lowest) - inside,
                level,
                descriptor,
            });
        }
        unreachable!("level 3 has no tables")
    }
}
