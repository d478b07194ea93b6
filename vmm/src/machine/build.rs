//! From a person's wish to a machine that can run.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_core::host::Need;

use super::fdt::{self, Board};
use super::layout::Layout;
use super::uart::Uart;
use super::{Bus, Error, Guest, Tally, check_cpus, map, seeds};
use crate::kvm::{Bare, Clock, Gic, GicRegions, Loose};
use vmm_core::arm::Mpidr;

/// A machine, ready to run.
pub struct Machine {
    /// Its vCPUs.
    pub vcpus: Vec<Loose>,
    /// Its devices.
    pub bus: Arc<Bus>,
    /// The device that wants a console.
    pub uart: Arc<Uart>,
    /// Its memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// The affinity of each vCPU.
    pub mpidrs: Vec<Mpidr>,
    /// Its counter.
    pub clock: Clock,
    /// Its interrupt controller.
    pub gic: Gic,
    /// Where ramoops keeps the console.
    pub ramoops_console: Option<Range<u64>>,
}

/// Who sees a vCPU power itself off by PSCI.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PowerOff {
    /// KVM alone.
    InKvm,
    /// The conductor, too.
    Told,
}

impl Machine {
    /// Builds it: nothing of the guest has run yet. Its stray accesses are counted in `strays`.
    pub fn build(
        guest: Guest,
        cpus: usize,
        seed: u64,
        dump_dtb: Option<&Path>,
        power_off: PowerOff,
        strays: &Arc<Tally>,
    ) -> Result<Self, Error> {
        check_cpus(cpus)?;
        let layout = Layout::plan(guest)?;
        let memory = Arc::new(memory(layout.memory)?);
        Self::around(memory, &layout, cpus, seed, dump_dtb, power_off, strays)
    }

    /// Builds another one around the memory of one that has ended: a reset that keeps the RAM. KVM does not reset a VM's GIC
    /// when its vCPUs are initialised again. PSCI's SYSTEM_RESET is a cold reset (DEN 0022, 5.11); that RAM outlives it is our
    /// deviation.
    pub fn reset(
        memory: Arc<GuestMemoryMmap>,
        guest: Guest,
        cpus: usize,
        seed: u64,
        strays: &Arc<Tally>,
    ) -> Result<Self, Error> {
        check_cpus(cpus)?;
        let layout = Layout::plan(guest)?;
        Self::around(memory, &layout, cpus, seed, None, PowerOff::InKvm, strays)
    }

    fn around(
        memory: Arc<GuestMemoryMmap>,
        layout: &Layout,
        cpus: usize,
        seed: u64,
        dump_dtb: Option<&Path>,
        power_off: PowerOff,
        strays: &Arc<Tally>,
    ) -> Result<Self, Error> {
        let redistributors = map::redistributors(cpus);
        let ends = redistributors
            .iter()
            .map(|region| region.end)
            .chain([map::RAM.start + layout.memory]);
        let top = ends.max().expect("RAM at least");
        let bare = Bare::new(Arc::clone(&memory), Need { vcpus: cpus, top })?;
        if power_off == PowerOff::Told {
            bare.tell_power_off()?;
        }
        let peopled = bare.people(cpus)?;
        let mpidrs = peopled.mpidrs()?;
        let vm = peopled.with_gic(&GicRegions {
            distributor: map::GIC_DISTRIBUTOR,
            redistributors,
        })?;

        let dtb = fdt::write(&Board {
            cpus: &mpidrs,
            memory: layout.memory,
            cmdline: &layout.cmdline,
            initrd: layout.initrd.as_ref().map(|(range, _)| range.clone()),
            seeds: seeds(seed),
            ramoops: layout.ramoops.clone(),
        })?;
        if let Some(path) = dump_dtb {
            fs::write(path, &dtb).map_err(|source| Error::DumpDtb {
                path: path.display().to_string(),
                source,
            })?;
        }
        load(&memory, layout, &dtb);
        vm.start_at(layout.kernel.entry, layout.dtb)?;

        let wire = vm.wire(map::UART_IRQ);
        let uart = Arc::new(Uart::new(Box::new(move |up| {
            // The wire of a VM that exists is there; a failure is ours.
            wire.set(up)
                .expect("KVM takes the level of a wire that it has");
        })));
        let bus = Arc::new(Bus::new(Arc::clone(&uart), Arc::clone(strays)));
        let clock = vm.clock();
        let (vcpus, gic) = vm.into_parts();
        Ok(Self {
            vcpus,
            bus,
            uart,
            memory,
            mpidrs,
            clock,
            gic,
            ramoops_console: (layout.ramoops.as_ref())
                .map(|range| range.end - map::RAMOOPS_CONSOLE..range.end),
        })
    }
}

fn memory(size: u64) -> Result<GuestMemoryMmap, Error> {
    let refused = |source: Box<dyn std::error::Error + Send + Sync>| Error::Memory { size, source };
    let bytes = usize::try_from(size).map_err(|error| refused(error.into()))?;
    GuestMemoryMmap::from_ranges(&[(GuestAddress(map::RAM.start), bytes)])
        .map_err(|error| refused(error.into()))
}

/// What one thread copies at a time: some huge pages.
const PIECE: usize = 4 << 20;

fn load(memory: &GuestMemoryMmap, layout: &Layout, dtb: &[u8]) {
    assert!(
        dtb.len() as u64 <= map::DTB_SIZE,
        "512 CPUs' device tree fits"
    );
    let kernel = layout
        .kernel
        .segments
        .iter()
        .map(|(at, bytes)| (*at, bytes.as_slice()));
    let initrd = layout
        .initrd
        .iter()
        .map(|(range, bytes)| (range.start, bytes.as_slice()));
    // The second one is where x0 points, the same place but for flat binaries.
    let dtbs = [(map::DTB.start, dtb), (layout.dtb, dtb)];
    // What takes the time is not the copying but the faults on fresh pages, and those go well side by side.
    let pieces: Vec<(u64, &[u8])> = kernel
        .chain(initrd)
        .chain(dtbs)
        .flat_map(|(at, bytes)| (at..).step_by(PIECE).zip(bytes.chunks(PIECE)))
        .collect();
    let next = AtomicUsize::new(0);
    let copy = || {
        while let Some((at, piece)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            memory
                .write_slice(piece, GuestAddress(*at))
                .expect("the layout keeps to the RAM");
        }
    };
    thread::scope(|scope| {
        scope.spawn(copy);
        copy();
    });
}
