//! What lies at addresses that the boot protocol or the device tree names: the tree, the devices.

use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use arm_gic::UniqueMmioPointer;
use arm_gic::gicv3::registers::GicrSgi;
use arm_gic::gicv3::{GicDistributor, GicRedistributor, GicRedistributorIterator};
use dtoolkit::error::FdtParseError;
use dtoolkit::fdt::Fdt;
use guest_abi::memory_map::{HIGH_REDISTRIBUTORS_BASE, RAM_BASE};

use super::entry::BLOCK;
use crate::platform::Region;

/// Reads the device tree at this address.
pub(crate) fn fdt_at(address: u64) -> Result<Fdt<'static>, FdtParseError> {
    // SAFETY: the boot protocol puts the tree there, nobody writes to it, and the parser checks its
    // magic, version and sizes before it follows anything.
    unsafe { Fdt::from_raw(address as *const u8) }
}

/// A pointer to a device's registers. Panics unless the identity map has devices there.
#[inline(always)]
fn registers<T>(region: Region) -> NonNull<T> {
    let Region { base, size } = region;
    let end = base.saturating_add(size.max(size_of::<T>() as u64));
    let high = HIGH_REDISTRIBUTORS_BASE..=HIGH_REDISTRIBUTORS_BASE + BLOCK as u64;
    assert!(
        end <= RAM_BASE || (high.contains(&base) && high.contains(&end)),
        "the device tree has a device at {base:#x}, where the payload maps none"
    );
    NonNull::new(base as *mut T).expect("the device tree has a device at address 0")
}

/// The GIC's distributor, and the redistributors of all its regions. To be called once.
///
/// The redistributors are found as firmware finds them: by walking each region until one says
/// GICR_TYPER.Last (GIC IHI 0069, "GICR_TYPER").
pub(crate) fn gic(
    distributor: Region,
    regions: impl Iterator<Item = Region>,
) -> (
    GicDistributor<'static>,
    impl Iterator<Item = GicRedistributor<'static>>,
) {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    assert!(
        !TAKEN.swap(true, Ordering::Relaxed),
        "the GIC has been taken already"
    );

    // SAFETY: the registers are mapped as a device, and `TAKEN` keeps this pointer the only one.
    let distributor = unsafe { UniqueMmioPointer::new(registers(distributor)) };
    let redistributors = regions.flat_map(|region| {
        let first = registers(region);
        // SAFETY: as above; should no redistributor end the walk, `take` does so at the region's end.
        let walk = unsafe { GicRedistributorIterator::new(first) };
        walk.unwrap_or_else(|error| panic!("redistributors at {:#x}: {error}", region.base))
            .take(region.size as usize / size_of::<GicrSgi>())
    });
    (GicDistributor::new(distributor), redistributors)
}

const PAGE: u64 = 4096;

/// A device of 16-bit registers in one page.
pub(crate) struct DeviceRegisters {
    base: usize,
}

impl DeviceRegisters {
    /// The device at `base`.
    #[inline(always)]
    pub(crate) fn at(base: u64) -> Self {
        let page: NonNull<u16> = registers(Region { base, size: PAGE });
        Self {
            base: page.as_ptr() as usize,
        }
    }

    #[inline(always)]
    fn register(&self, offset: usize) -> usize {
        assert!(
            offset < PAGE as usize && offset.is_multiple_of(2),
            "no register lies at offset {offset:#x}"
        );
        self.base + offset
    }

    // The accesses are instructions, not volatile accesses of Rust, because a compiler may choose a
    // load or store with write-back for those. Such an access gives KVM no valid syndrome to emulate
    // it by (Arm ARM DDI 0487, ESR_ELx.ISV).

    /// Reads the register at `offset`.
    #[inline(always)]
    pub(crate) fn read(&self, offset: usize) -> u16 {
        let register = self.register(offset);
        let value: u32;
        // SAFETY: the page is mapped as a device; to read a register touches no memory of Rust.
        unsafe {
            asm!("ldrh {:w}, [{}]", out(reg) value, in(reg) register, options(nostack, preserves_flags));
        }
        value as u16
    }

    /// Writes the register at `offset`.
    #[inline(always)]
    pub(crate) fn write(&self, offset: usize, value: u16) {
        let register = self.register(offset);
        let value = u32::from(value);
        // SAFETY: the page is mapped as a device; the only one driven this way, the PL011, does no DMA.
        unsafe {
            asm!("strh {:w}, [{}]", in(reg) value, in(reg) register, options(nostack, preserves_flags));
        }
    }
}
