//! A guest that means harm: what a guest can do to its VMM, and its last word if it has lived through it.
//!
//! `hostile.do=accesses|flood|cpus|reset` on the command line says what.

use smccc::psci::{self, AffinityState, LowestAffinityLevel};
use smccc::{Hvc, hvc64};

use crate::arch::{self, FREE_RAM, MAPPED, PROBES, WALKS_ASTRAY};
use crate::checks::fail;
use crate::console::{self, println};
use crate::cpus::{CpuId, Mpidr};
use crate::platform::PlatformError;
use crate::time::{self, PATIENCE_WITH_OTHERS, wait_for};

/// What it does.
#[derive(Clone, Copy)]
pub(crate) enum Deed {
    /// Every kind of access to every device and to the holes around them.
    Accesses,
    /// All CPUs write to the console at once, and none looks whether it takes more.
    Flood,
    /// CPUs up and down, some by two others at once, some where there is no code; and whatever else can be called.
    Cpus,
    /// A few stray accesses and a reset: a loop, where the VMM starts it anew.
    Reset,
}

/// What the command line asks for, if anything.
pub(crate) fn asked_for(bootargs: &str) -> Option<Deed> {
    let deed = bootargs
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("hostile.do="))?;
    Some(match deed {
        "accesses" => Deed::Accesses,
        "flood" => Deed::Flood,
        "cpus" => Deed::Cpus,
        "reset" => Deed::Reset,
        other => panic!("hostile.do={other}: it is one of accesses, flood, cpus, reset"),
    })
}

/// Does it. Comes back when the guest is to power off.
pub(crate) fn run(deed: Deed, cpus: usize, ram_end: u64) -> Result<(), PlatformError> {
    time::enable_event_stream();
    // Whatever it makes the GIC do, no interrupt is to be taken.
    arch::mask_irq();
    arch::enable_probes();
    arch::map_everything();
    match deed {
        Deed::Accesses => accesses(cpus, ram_end),
        Deed::Flood => flood(cpus),
        Deed::Cpus => bring_up_and_down(cpus),
        Deed::Reset => reset(),
    }
    Ok(())
}

// The map of QEMU's `virt`: devices, the places of those that this machine lacks, and what lies between.
const PL011: u64 = 0x0900_0000;
const DISTRIBUTOR: u64 = 0x0800_0000;
const REDISTRIBUTORS: u64 = 0x080a_0000;
const REDISTRIBUTOR: u64 = 0x2_0000;
const HIGH_REDISTRIBUTORS: u64 = 0x40_0000_0000;

fn accesses(cpus: usize, ram_end: u64) {
    let mut tally = Tally::default();
    let of_own = REDISTRIBUTORS + cpus as u64 * REDISTRIBUTOR;
    let places = [
        0,
        0x1000,
        0x07ff_fff0,
        DISTRIBUTOR,
        DISTRIBUTOR + 4,
        DISTRIBUTOR + 0x80,
        DISTRIBUTOR + 0x403,
        DISTRIBUTOR + 0xf00,
        DISTRIBUTOR + 0x6100,
        DISTRIBUTOR + 0xfffc,
        0x0801_0000,
        0x0808_0000,
        REDISTRIBUTORS,
        REDISTRIBUTORS + 8,
        REDISTRIBUTORS + 0x1_0080,
        of_own - 4,
        of_own,
        PL011 - 4,
        PL011 + 0x1000 - 4,
        PL011 + 0x1000,
        0x0901_0000,
        0x0a00_0000,
        0x1000_0000,
        0x3eff_0000,
        0x3fff_f000,
        FREE_RAM + 0x1000,
        ram_end - 0x1000,
        // Across the end of RAM.
        ram_end - 4,
        ram_end - 1,
        ram_end,
        ram_end + 0x1001,
        0xffff_fff8,
        0x1_0000_0000,
        HIGH_REDISTRIBUTORS,
        HIGH_REDISTRIBUTORS + 0x0400_0000,
        MAPPED / 2 - 8,
        // The walk itself goes astray.
        WALKS_ASTRAY[0],
        WALKS_ASTRAY[1],
        WALKS_ASTRAY[2],
        WALKS_ASTRAY[3],
        // Not mapped at all.
        MAPPED,
        u64::MAX - 0xfff,
    ];
    for place in places {
        tally.all_at(place);
    }
    for offset in (0..0x1000).step_by(4) {
        // Its registers, its identification, and here and there between them.
        if !(0x60..0xfe0).contains(&offset) || offset % 0x40 == 0 {
            tally.all_at(PL011 + offset);
        }
    }
    tally.all_at(PL011 + 0x31);
    console::restore();
    let Tally { done, faulted } = tally;
    println!("hostile: {done} accesses, {faulted} of them faulted");
}

/// How many there were.
#[derive(Default)]
struct Tally {
    done: u64,
    faulted: u64,
}

impl Tally {
    fn all_at(&mut self, address: u64) {
        for probe in PROBES {
            // Ones and zeros in turn, so that what one turns on another turns off again.
            let value = if self.done.is_multiple_of(2) {
                u64::MAX
            } else {
                0
            };
            self.done += 1;
            self.faulted += u64::from(probe.run(address, value).is_some());
        }
    }
}

/// How many bytes each CPU writes in a flood: an exit each, of 0.2 ms in an emulated host.
const FLOOD: usize = 5000;

fn flood(cpus: usize) {
    let pour = |letter: u8| {
        for count in 0..FLOOD {
            console::flood(if count % 80 == 79 { b'\n' } else { letter });
        }
    };
    for cpu in (1..cpus).map(CpuId::new) {
        let started = arch::start_cpu(cpu.shared().mpidr(), move || {
            arch::set_cpu_index(cpu.index());
            pour(b'a' + (cpu.index() % 26) as u8);
            off()
        });
        if let Err(error) = started {
            fail(format_args!("PSCI CPU_ON of {cpu}"), error);
        }
    }
    pour(b'a');
    (1..cpus).map(CpuId::new).for_each(wait_until_off);
    println!("\nhostile: {} bytes poured out", FLOOD * cpus);
}

/// How often CPUs are started, by each of two others.
const ROUNDS: u32 = 50;

fn bring_up_and_down(cpus: usize) {
    let mut starts = 0;
    let others = || (1..cpus).map(CpuId::new);
    for _ in 0..ROUNDS {
        for cpu in others() {
            start_for_nothing(cpu);
            wait_until_off(cpu);
            starts += 1;
        }
    }
    // CPU 1 and this one start the last CPU at the same time, again and again: one of them gets ALREADY_ON.
    if cpus > 2 {
        let last = CpuId::new(cpus - 1);
        let rival = CpuId::new(1);
        let started = arch::start_cpu(rival.shared().mpidr(), move || {
            arch::set_cpu_index(rival.index());
            for _ in 0..ROUNDS {
                start_for_nothing(last);
            }
            off()
        });
        if let Err(error) = started {
            fail(format_args!("PSCI CPU_ON of {rival}"), error);
        }
        for _ in 0..ROUNDS {
            start_for_nothing(last);
        }
        wait_until_off(rival);
        wait_until_off(last);
        starts += 2 * ROUNDS;
    }
    let own = Mpidr::current().bits();
    for (mpidr, wanted) in [
        (own, psci::Error::AlreadyOn),
        (cpus as u64, psci::Error::InvalidParameters),
        (0xff_00ff_ffff, psci::Error::InvalidParameters),
        (u64::MAX, psci::Error::InvalidParameters),
    ] {
        let answer = psci::cpu_on::<Hvc>(mpidr, arch::off_at_once(), 0);
        if answer != Err(wanted) {
            fail(
                format_args!("PSCI CPU_ON of {mpidr:#x}"),
                format_args!("{answer:?}"),
            );
        }
    }
    call_everything();
    // They never come back from there, and must not keep the machine from being turned off.
    for (cpu, entry) in others().zip([PL011, 0x0a00_0000, u64::MAX << 2]) {
        if let Err(error) = psci::cpu_on::<Hvc>(cpu.shared().mpidr().bits(), entry, 0) {
            fail(format_args!("PSCI CPU_ON of {cpu} at {entry:#x}"), error);
        }
    }
    println!("hostile: {starts} starts");
}

/// Starts a CPU that is off again at once, unless it still runs.
fn start_for_nothing(cpu: CpuId) {
    match psci::cpu_on::<Hvc>(cpu.shared().mpidr().bits(), arch::off_at_once(), 0) {
        Ok(()) | Err(psci::Error::AlreadyOn) => {}
        Err(error) => fail(format_args!("PSCI CPU_ON of {cpu}"), error),
    }
}

fn wait_until_off(cpu: CpuId) {
    let mpidr = cpu.shared().mpidr().bits();
    let info = || psci::affinity_info::<Hvc>(mpidr, LowestAffinityLevel::All);
    if !wait_for(PATIENCE_WITH_OTHERS, || info() == Ok(AffinityState::Off)) {
        fail(
            format_args!("power-off of {cpu}"),
            format_args!("{:?}", info()),
        );
    }
}

fn off() -> ! {
    let error = psci::cpu_off::<Hvc>();
    panic!("PSCI CPU_OFF returned {error:?}");
}

/// Calls every function number of every owner (SMCCC DEN 0028, 6.1) that is likely to be one, with senseless arguments;
/// but for those that end the CPU or the guest, or wait.
fn call_everything() {
    const ENDS_OR_WAITS: [u32; 8] = [
        0x01, // CPU_SUSPEND
        0x02, // CPU_OFF
        0x08, // SYSTEM_OFF
        0x09, // SYSTEM_RESET
        0x0c, // CPU_DEFAULT_SUSPEND
        0x0e, // SYSTEM_SUSPEND
        0x12, // SYSTEM_RESET2
        0x15, // SYSTEM_OFF2
    ];
    for owner in [0x00, 0x01, 0x04, 0x05, 0x06, 0x30, 0x3f] {
        for width in [0x8000_0000, 0xc000_0000, 0x0000_0000] {
            for number in (0..0x60).chain(0xff00..0xff04) {
                if owner == 4 && ENDS_OR_WAITS.contains(&number) {
                    continue;
                }
                let function = width | owner << 24 | number;
                let _ = hvc64(function, [u64::MAX - 0xfff; 17]);
            }
        }
    }
}

fn reset() {
    for probe in PROBES.iter().take(12) {
        let _ = probe.run(0x0a00_0000, 0);
    }
    println!("hostile: reset");
    let error = psci::system_reset::<Hvc>();
    panic!("PSCI SYSTEM_RESET returned {error:?}");
}
