//! The device tree that tells the guest what it has.

use std::ops::Range;

use vm_fdt::{FdtWriter, FdtWriterResult};
use vmm_core::arm::{IntId, Mpidr};

use super::map;

/// What of a machine differs from run to run.
#[derive(Clone, Debug)]
pub(crate) struct Board<'a> {
    /// The CPUs, in the order of their vCPUs, as KVM numbered them.
    pub(crate) cpus: &'a [Mpidr],
    /// Bytes of RAM.
    pub(crate) memory: u64,
    /// The kernel's command line.
    pub(crate) cmdline: &'a str,
    /// Where the initrd lies.
    pub(crate) initrd: Option<Range<u64>>,
    /// What Linux draws its randomness from.
    pub(crate) seeds: Seeds,
    /// The RAM that is ramoops'.
    pub(crate) ramoops: Option<Range<u64>>,
}

/// What Linux takes from /chosen for its first randomness. Where the CPU has no RNDR and these are the same, so is the
/// place of the kernel (KASLR).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Seeds {
    /// `kaslr-seed`.
    pub(crate) kaslr: u64,
    /// `rng-seed`.
    pub(crate) rng: [u8; 32],
}

const PHANDLE_GIC: u32 = 1;
const PHANDLE_CLOCK: u32 = 2;

/// The clock that UARTCLK and PCLK hang on, as QEMU's `virt` has it. Baud rates follow from it; nothing waits for them.
const UART_CLOCK_HZ: u32 = 24_000_000;

/// Trigger type in an interrupt specifier's third cell (Devicetree bindings, `arm,gic-v3.yaml`).
const LEVEL_HIGH: u32 = 4;

/// Writes the tree.
///
/// # Errors
///
/// When it can't be represented, which only a command line with a NUL in it can bring about.
pub(crate) fn write(board: &Board<'_>) -> FdtWriterResult<Vec<u8>> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    // Linux shows both strings; "dummy-virt" makes it take a machine without a board file for granted.
    fdt.property_string("model", "holdpoint")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", PHANDLE_GIC)?;
    chosen(&mut fdt, board)?;
    memory(&mut fdt, board.memory)?;
    if let Some(range) = &board.ramoops {
        ramoops(&mut fdt, range)?;
    }
    cpus(&mut fdt, board.cpus)?;
    psci(&mut fdt)?;
    timer(&mut fdt)?;
    gic(&mut fdt, board.cpus.len())?;
    clock(&mut fdt)?;
    uart(&mut fdt)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn chosen(fdt: &mut FdtWriter, board: &Board<'_>) -> FdtWriterResult<()> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", board.cmdline)?;
    fdt.property_string("stdout-path", &format!("/pl011@{:x}", map::UART.start))?;
    fdt.property_u64("kaslr-seed", board.seeds.kaslr)?;
    fdt.property("rng-seed", &board.seeds.rng)?;
    if let Some(initrd) = &board.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start)?;
        fdt.property_u64("linux,initrd-end", initrd.end)?;
    }
    fdt.end_node(node)
}

fn memory(fdt: &mut FdtWriter, bytes: u64) -> FdtWriterResult<()> {
    let node = fdt.begin_node(&format!("memory@{:x}", map::RAM.start))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[map::RAM.start, bytes])?;
    fdt.end_node(node)
}

/// Devicetree bindings, `reserved-memory/ramoops.yaml`.
fn ramoops(fdt: &mut FdtWriter, range: &Range<u64>) -> FdtWriterResult<()> {
    // MEM_TYPE_NORMAL (fs/pstore/ram_core.c): any other type goes past the cache that we read through, on hosts without FEAT_S2FWB.
    const NORMAL: u32 = 2;
    let parent = fdt.begin_node("reserved-memory")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let node = fdt.begin_node(&format!("ramoops@{:x}", range.start))?;
    fdt.property_string("compatible", "ramoops")?;
    fdt.property_array_u64("reg", &[range.start, range.end - range.start])?;
    fdt.property_u32("record-size", map::RAMOOPS_RECORD as u32)?;
    fdt.property_u32("console-size", map::RAMOOPS_CONSOLE as u32)?;
    fdt.property_u32("mem-type", NORMAL)?;
    fdt.end_node(node)?;
    fdt.end_node(parent)
}

fn cpus(fdt: &mut FdtWriter, cpus: &[Mpidr]) -> FdtWriterResult<()> {
    let node = fdt.begin_node("cpus")?;
    // One cell as long as no CPU has an Aff3 (Devicetree bindings, `arm/cpus.yaml`): some readers know no other.
    let wide = cpus.iter().any(|mpidr| mpidr.bits() > u64::from(u32::MAX));
    fdt.property_u32("#address-cells", if wide { 2 } else { 1 })?;
    fdt.property_u32("#size-cells", 0)?;
    for mpidr in cpus {
        let bits = mpidr.bits();
        let cpu = fdt.begin_node(&format!("cpu@{bits:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        if wide {
            fdt.property_u64("reg", bits)?;
        } else {
            fdt.property("reg", &bits.to_be_bytes()[4..])?;
        }
        fdt.property_string("enable-method", "psci")?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(node)
}

fn psci(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list(
        "compatible",
        vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()],
    )?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

fn interrupts(fdt: &mut FdtWriter, intids: &[IntId]) -> FdtWriterResult<()> {
    let cells: Vec<u32> = intids
        .iter()
        .flat_map(|intid| {
            let [kind, number] = intid.specifier();
            [kind, number, LEVEL_HIGH]
        })
        .collect();
    fdt.property_array_u32("interrupts", &cells)
}

fn timer(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    interrupts(fdt, &map::TIMER_IRQS)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn gic(fdt: &mut FdtWriter, cpus: usize) -> FdtWriterResult<()> {
    let node = fdt.begin_node(&format!(
        "interrupt-controller@{:x}",
        map::GIC_DISTRIBUTOR.start
    ))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 0)?;
    let redistributors = map::redistributors(cpus);
    fdt.property_u32("#redistributor-regions", redistributors.len() as u32)?;
    let reg: Vec<u64> = std::iter::once(map::GIC_DISTRIBUTOR)
        .chain(redistributors)
        .flat_map(|region| [region.start, region.end - region.start])
        .collect();
    fdt.property_array_u64("reg", &reg)?;
    fdt.property_phandle(PHANDLE_GIC)?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", UART_CLOCK_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(PHANDLE_CLOCK)?;
    fdt.end_node(node)
}

fn uart(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node(&format!("pl011@{:x}", map::UART.start))?;
    fdt.property_string_list(
        "compatible",
        vec!["arm,pl011".into(), "arm,primecell".into()],
    )?;
    fdt.property_array_u64("reg", &[map::UART.start, map::UART.end - map::UART.start])?;
    interrupts(fdt, &[map::UART_IRQ])?;
    fdt.property_array_u32("clocks", &[PHANDLE_CLOCK, PHANDLE_CLOCK])?;
    fdt.property_string_list("clock-names", vec!["uartclk".into(), "apb_pclk".into()])?;
    fdt.end_node(node)
}
