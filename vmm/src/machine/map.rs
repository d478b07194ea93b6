//! Where things lie in the guest's physical address space: the map of QEMU's `virt` machine, which test kernels expect.
//!
//! docs/memory-map.md tells it in prose, and a test holds the two together.

use std::ops::Range;

use guest_abi::memory_map::{HIGH_REDISTRIBUTORS_BASE, PL011_BASE, RAM_BASE};
use vmm_core::arm::IntId;

/// 1 KiB.
pub(crate) const KIB: u64 = 1 << 10;
/// 1 MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// 1 GiB.
pub(crate) const GIB: u64 = 1 << 30;

/// The GIC's distributor (GICv3 IHI 0069, 12.8: 64 KiB).
pub(crate) const GIC_DISTRIBUTOR: Range<u64> = 0x0800_0000..0x0801_0000;
/// The redistributors of the first 123 CPUs.
pub(crate) const GIC_REDISTRIBUTORS: Range<u64> = 0x080a_0000..0x0900_0000;
/// The PL011.
pub(crate) const UART: Range<u64> = PL011_BASE..PL011_BASE + 4 * KIB;
/// The RAM, of which the guest has as much as it is given.
pub(crate) const RAM: Range<u64> = RAM_BASE..256 * GIB;
/// The redistributors of all further CPUs, behind the RAM.
pub(crate) const GIC_REDISTRIBUTORS_HIGH: Range<u64> =
    HIGH_REDISTRIBUTORS_BASE..HIGH_REDISTRIBUTORS_BASE + 64 * MIB;

/// Two frames of 64 KiB: RD_base and SGI_base (GICv3 IHI 0069, 12.10).
pub(crate) const GIC_REDISTRIBUTOR_SIZE: u64 = 128 * KIB;

/// The PL011's interrupt.
pub(crate) const UART_IRQ: IntId = IntId::spi(1);

/// The four timers of `arm,armv8-timer`: secure physical, non-secure physical, virtual, hypervisor. The second and the
/// third are the INTIDs that KVM gives its timers by default.
pub(crate) const TIMER_IRQS: [IntId; 4] = [
    IntId::ppi(13),
    IntId::ppi(14),
    IntId::ppi(11),
    IntId::ppi(10),
];

/// Where the device tree goes: the first bytes of RAM, so that it is found there too by what ignores x0.
pub(crate) const DTB: Range<u64> = RAM.start..RAM.start + DTB_SIZE;
/// How large a device tree may be.
pub(crate) const DTB_SIZE: u64 = 512 * KIB;
/// Where a flat binary goes (facts of kvm-unit-tests: linked at this offset, headerless).
pub(crate) const FLAT: u64 = RAM.start + 512 * KIB;
/// What an Image's text_offset counts from: 2 MiB aligned (Documentation/arch/arm64/booting.rst, 4), behind the device tree.
pub(crate) const IMAGE_BASE: u64 = RAM.start + 2 * MIB;
/// An initrd ends at the end of RAM or here: it must lie in the 1 GiB window that covers the kernel (booting.rst, 4).
pub(crate) const WINDOW_END: u64 = RAM.start + GIB;

/// What ramoops gets, at the end of RAM, in a guest that has it: zones for dumps, then the console's.
pub(crate) const RAMOOPS_SIZE: u64 = 512 * KIB;
/// A dump's zone.
pub(crate) const RAMOOPS_RECORD: u64 = 64 * KIB;
/// The console's zone, at the end.
pub(crate) const RAMOOPS_CONSOLE: u64 = 256 * KIB;

/// How many redistributors the first region holds.
const REDISTRIBUTORS_LOW_MOST: u64 =
    (GIC_REDISTRIBUTORS.end - GIC_REDISTRIBUTORS.start) / GIC_REDISTRIBUTOR_SIZE;

/// As many vCPUs as the two regions of redistributors hold.
pub(crate) const CPUS_MOST: usize = (REDISTRIBUTORS_LOW_MOST
    + (GIC_REDISTRIBUTORS_HIGH.end - GIC_REDISTRIBUTORS_HIGH.start) / GIC_REDISTRIBUTOR_SIZE)
    as usize;

/// The redistributor regions that so many CPUs need, in the order of their use.
pub(crate) fn redistributors(cpus: usize) -> Vec<Range<u64>> {
    let cpus = cpus as u64;
    let region = |base: u64, count: u64| base..base + count * GIC_REDISTRIBUTOR_SIZE;
    let low = cpus.min(REDISTRIBUTORS_LOW_MOST);
    let mut regions = vec![region(GIC_REDISTRIBUTORS.start, low)];
    if cpus > low {
        regions.push(region(GIC_REDISTRIBUTORS_HIGH.start, cpus - low));
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::{CPUS_MOST, GIC_REDISTRIBUTORS, GIC_REDISTRIBUTORS_HIGH, RAM, redistributors};

    #[test]
    fn redistributors_spill_into_the_high_region_beyond_123_cpus() {
        let high = GIC_REDISTRIBUTORS_HIGH.start;
        assert_eq!(redistributors(1), vec![0x080a_0000..0x080c_0000]);
        assert_eq!(redistributors(123), vec![GIC_REDISTRIBUTORS]);
        assert_eq!(
            redistributors(124),
            vec![GIC_REDISTRIBUTORS, high..high + 0x2_0000]
        );
        assert!(
            redistributors(512)[1].end <= GIC_REDISTRIBUTORS_HIGH.end,
            "KVM's most fit"
        );
        assert_eq!(
            redistributors(CPUS_MOST)[1].end,
            GIC_REDISTRIBUTORS_HIGH.end
        );
        assert!(high >= RAM.end, "the high region lies behind any RAM");
    }

    /// docs/memory-map.md is read by people who will not read this file.
    #[test]
    fn the_document_says_the_same() {
        let document = include_str!("../../../docs/memory-map.md");
        let hex = |at: u64| format!("{:#x}", at);
        let rows = [
            (super::GIC_DISTRIBUTOR, "GICv3 distributor"),
            (GIC_REDISTRIBUTORS, "GICv3 redistributors, CPUs 0 to 122"),
            (super::UART, "PL011"),
            (RAM, "RAM"),
            (super::DTB, "device tree"),
            (
                GIC_REDISTRIBUTORS_HIGH,
                "GICv3 redistributors, CPUs 123 to 511",
            ),
        ];
        for (range, what) in rows {
            let row = format!("| {} | {} | {what} |", hex(range.start), hex(range.end));
            assert!(
                document.contains(&row),
                "docs/memory-map.md lacks the row\n{row}"
            );
        }
        let points = [
            (super::FLAT, "a flat binary"),
            (super::IMAGE_BASE, "an Image's text_offset counts from here"),
            (super::WINDOW_END, "an initrd ends here at the latest"),
        ];
        for (at, what) in points {
            let row = format!("| {} | {what} |", hex(at));
            assert!(
                document.contains(&row),
                "docs/memory-map.md lacks the row\n{row}"
            );
        }
        let interrupts = [
            (super::UART_IRQ, "PL011"),
            (super::TIMER_IRQS[1], "physical timer"),
            (super::TIMER_IRQS[2], "virtual timer"),
        ];
        for (intid, what) in interrupts {
            let row = format!("| {} | {intid} | {what} |", intid.number());
            assert!(
                document.contains(&row),
                "docs/memory-map.md lacks the row\n{row}"
            );
        }
    }
}
