//! The kernel's virtual memory, from what VMCOREINFO says alone: no vCPU's registers are needed.

use super::walk::{Granule, Tables, Translation, WalkFault};
use super::{InspectError, Memory, Vmcoreinfo};
use crate::arm::{KernelVa, PhysicalAddress};

/// The kernel's half of the address space, as its own tables map it.
pub struct KernelSpace<'m, M: Memory + ?Sized> {
    memory: &'m M,
    tables: Tables,
}

impl<'m, M: Memory + ?Sized> KernelSpace<'m, M> {
    /// The space below `swapper_pg_dir`, which the kernel's own mapping of that table must bear out.
    pub fn new(memory: &'m M, info: &Vmcoreinfo) -> Result<Self, InspectError> {
        let page = info.page_size()?;
        let bad_page = || InspectError::BadLine {
            key: "PAGESIZE".to_owned(),
            value: page.to_string(),
            wanted: "a granule",
        };
        let granule = Granule::of_bytes(page).ok_or_else(bad_page)?;
        let input_bits = input_bits(info, granule)?;
        let root = info.symbol("swapper_pg_dir")?;
        // The image is mapped as a whole: arch/arm64/include/asm/memory.h, __kimg_to_phys().
        let at = PhysicalAddress(root.0.wrapping_sub(info.number("kimage_voffset")?));
        let space = Self {
            memory,
            tables: Tables {
                root: at,
                granule,
                input_bits,
                // Linux has 52-bit addresses with these granules only where it sets TCR_EL1.DS, and sets it only for
                // them (CONFIG_ARM64_LPA2, in 6.9).
                lpa2: input_bits > 48 && granule != Granule::K64,
                top_byte_ignored: false,
            },
        };
        let mapped = space.translate(root)?.at;
        if mapped != at {
            return Err(InspectError::Damaged {
                object: "swapper_pg_dir".to_owned(),
                what: format!("it maps itself to {mapped}, and kimage_voffset says {at}"),
            });
        }
        Ok(space)
    }

    /// Translates an address of the kernel.
    pub fn translate(&self, va: KernelVa) -> Result<Translation, InspectError> {
        let walked = if va.is_upper() {
            self.tables.walk(self.memory, va)
        } else {
            Err(WalkFault::LowerHalf)
        };
        walked.map_err(|fault| InspectError::Walk { va, fault })
    }

    /// Fills `into` with an object's bytes, across pages that need not be neighbours.
    pub fn read(&self, object: &str, va: KernelVa, into: &mut [u8]) -> Result<(), InspectError> {
        let mut done = 0;
        while done < into.len() {
            let named = |error| InspectError::Unreadable {
                object: object.to_owned(),
                error: Box::new(error),
            };
            let here = self.translate(va.plus(done as u64)).map_err(named)?;
            let rest = usize::try_from(here.rest).unwrap_or(usize::MAX);
            let piece = &mut into[done..];
            let bytes = rest.min(piece.len());
            self.memory
                .read(here.at, &mut piece[..bytes])
                .map_err(|outside| InspectError::Outside {
                    object: object.to_owned(),
                    outside,
                })?;
            done += bytes;
        }
        Ok(())
    }

    /// Bytes of an object whose size the program knows.
    pub fn array<const BYTES: usize>(
        &self,
        object: &str,
        va: KernelVa,
    ) -> Result<[u8; BYTES], InspectError> {
        let mut bytes = [0; BYTES];
        self.read(object, va, &mut bytes)?;
        Ok(bytes)
    }

    /// A little-endian word of 32 bits.
    pub fn u32(&self, object: &str, va: KernelVa) -> Result<u32, InspectError> {
        self.array(object, va).map(u32::from_le_bytes)
    }

    /// A little-endian word of 64 bits.
    pub fn u64(&self, object: &str, va: KernelVa) -> Result<u64, InspectError> {
        self.array(object, va).map(u64::from_le_bytes)
    }
}

/// Bits of a virtual address that `swapper_pg_dir` resolves, counted from its first entry.
fn input_bits(info: &Vmcoreinfo, granule: Granule) -> Result<u32, InspectError> {
    // A kernel built for 52 bits with pages of 64 KiB has a table for 52 on every CPU: one with 48 bits enters it at an
    // offset (arch/arm64/include/asm/assembler.h, offset_ttbr1), so that the size it was built for is right. With the
    // other granules such a kernel folds levels, and T1SZ tells (in VMCOREINFO since Linux 5.9).
    let (key, bits) = if granule == Granule::K64 {
        ("VA_BITS", info.number("VA_BITS")?)
    } else {
        match info.number("TCR_EL1_T1SZ") {
            Ok(size) => ("TCR_EL1_T1SZ", 64u64.wrapping_sub(size)),
            Err(InspectError::NoLine { .. }) => ("VA_BITS", info.number("VA_BITS")?),
            Err(error) => return Err(error),
        }
    };
    // CONFIG_ARM64_VA_BITS is 36, 39, 42, 47, 48 or 52.
    match u32::try_from(bits) {
        Ok(bits @ 36..=52) => Ok(bits),
        _ => Err(InspectError::BadLine {
            key: format!("NUMBER({key})"),
            value: info.line(&format!("NUMBER({key})"))?.to_owned(),
            wanted: "the size of an address space of 36 to 52 bits",
        }),
    }
}
