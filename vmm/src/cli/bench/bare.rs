//! The least that KVM takes: what a VMM's own time is measured against, and a VM of spinning vCPUs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_core::host::Need;

use super::GUEST_MEMORY;
use crate::kvm::{self, Bare, GicRegions, Loose};
use crate::machine::map;
use crate::vcpu::{Detached, Entry, Exit, Vcpu};

/// Why there is no such VM.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Error {
    #[error("no memory for a guest: {0}")]
    Memory(vm_memory::mmap::FromRangesError),
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    #[error("the bare guest's first exit is {0:?}, not its store")]
    Exit(Exit),
}

/// Says `b` on the PL011 and powers off.
pub(super) const SAY: &[u32] = &[
    0xd2a1_2002, // mov x2, #0x9000000
    0x5280_0c41, // mov w1, #'b'
    0x3900_0041, // strb w1, [x2]
    0x5280_0100, // mov w0, #0x8            PSCI SYSTEM_OFF (DEN 0022, 5.1.9)
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0002, // hvc #0
];

/// How often [`READS`] reads.
pub(super) const COUNT: u32 = 5000;

/// Says `b` on the PL011, reads UARTFR (PL011 TRM DDI 0183, 3.3.3) [`COUNT`] times, says `e` and powers off.
pub(super) const READS: &[u32] = &[
    0xd2a1_2002,              // mov x2, #0x9000000
    0x5280_0c41,              // mov w1, #'b'
    0x3900_0041,              // strb w1, [x2]
    0x5280_0003 | COUNT << 5, // mov w3, #COUNT
    0xb940_1844,              // ldr w4, [x2, #0x18]
    0x7100_0463,              // subs w3, w3, #1
    0x54ff_ffc1,              // b.ne .-8
    0x5280_0ca1,              // mov w1, #'e'
    0x3900_0041,              // strb w1, [x2]
    0x5280_0100,              // mov w0, #0x8
    0x72b0_8000,              // movk w0, #0x8400, lsl #16
    0xd400_0002,              // hvc #0
];

/// Wakes every CPU of the list that x0 leads to, which a zero ends, by PSCI CPU_ON (DEN 0022, 5.1.4); all of them then spin on the
/// last instruction.
pub(super) const SPIN: &[u32] = &[
    0xaa00_03f3, // mov x19, x0
    0xf840_8661, // ldr x1, [x19], #8
    0xb400_00c1, // cbz x1, .+24
    0x1000_00a2, // adr x2, .+20
    0x5280_0060, // mov w0, #0x3
    0x72b8_8000, // movk w0, #0xc400, lsl #16
    0xd400_0002, // hvc #0
    0x17ff_fffa, // b .-24
    0x1400_0000, // b .
];

/// Where the list of the other CPUs lies.
const LIST: u64 = map::IMAGE_BASE;

/// Creates a VM and whatever it takes to run these instructions.
pub(super) fn create(code: &[u32], vcpus: usize) -> Result<Vec<Loose>, Error> {
    let ranges = [(GuestAddress(map::RAM.start), GUEST_MEMORY as usize)];
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).map_err(Error::Memory)?);
    let top = map::RAM.start + GUEST_MEMORY;
    let peopled = Bare::new(Arc::clone(&memory), Need { vcpus, top })?.people(vcpus)?;
    let mpidrs = peopled.mpidrs()?;
    let vm = peopled.with_gic(&GicRegions {
        distributor: map::GIC_DISTRIBUTOR,
        redistributors: map::redistributors(vcpus),
    })?;
    let code = code.iter().flat_map(|word| word.to_le_bytes());
    let list = mpidrs[1..].iter().map(|mpidr| mpidr.bits()).chain([0]);
    let list = list.flat_map(u64::to_le_bytes);
    for (at, bytes) in [
        (map::FLAT, code.collect()),
        (LIST, list.collect::<Vec<_>>()),
    ] {
        memory
            .write_slice(&bytes, GuestAddress(at))
            .expect("both lie in the RAM");
    }
    vm.start_at(map::FLAT, LIST)?;
    let (vcpus, _) = vm.into_parts();
    Ok(vcpus)
}

/// How long it takes to create a VM with one vCPU and to have it execute its first instructions.
pub(super) fn measure() -> Result<Duration, Error> {
    let start = Instant::now();
    let vcpu = create(SAY, 1)?.pop().expect("one vCPU was asked for");
    let (mut vcpu, _) = vcpu.attach();
    match vcpu.run(Entry::Continue)? {
        Exit::Write { .. } => Ok(start.elapsed()),
        other => Err(Error::Exit(other)),
    }
}
