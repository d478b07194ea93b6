//! The course of the payload: the boot CPU's, and that of the CPUs it starts.

use core::sync::atomic::{AtomicU32, Ordering};

use arm_gic::IntId;
use arm_gic::gicv3::GicRedistributor;
use arm_sysregs::el1::accessors::read_id_aa64isar0_el1;
use smccc::Hvc;
use smccc::psci::{self, AffinityState, LowestAffinityLevel};

use crate::arch;
use crate::checks::{self, fail};
use crate::console::{self, println};
use crate::cpus::{CpuId, MAX_CPUS, Mpidr, Stage};
use crate::debuggee;
use crate::gic::{self, Sgi};
use crate::hostile;
use crate::platform::{Platform, PlatformError};
use crate::stop;
use crate::time::{self, PATIENCE_WITH_OTHERS, wait_for};

/// How many CPUs compete for the console lock when they power off. All of them at once would have
/// most wait for a CPU that the host does not run: of 130 on 2 emulated host CPUs some wait longer
/// than `time::PATIENCE`.
const COMPETITORS: usize = 4;

/// How many CPUs have come online: counted by the CPUs themselves, with an LSE atomic.
static ONLINE: AtomicU32 = AtomicU32::new(0);

/// What aarch64-rt's entry calls, with the MMU on, on the CPU that boots.
pub(crate) fn boot_cpu(x0: u64, _x1: u64, _x2: u64, _x3: u64) -> ! {
    arch::set_cpu_index(CpuId::BOOT.index());
    assert!(
        read_id_aa64isar0_el1().atomic() != 0,
        "this CPU has no FEAT_LSE; the payload is built for Armv8.1 or later (QEMU: -cpu neoverse-n1)"
    );
    match run(x0) {
        Ok(()) => {
            let error = psci::system_off::<Hvc>();
            panic!("PSCI SYSTEM_OFF returned {error:?}");
        }
        Err(error) => panic!("{error}"),
    }
}

fn run(x0: u64) -> Result<(), PlatformError> {
    let platform = Platform::read(x0)?;
    console::set_base(platform.pl011()?);
    platform.check_psci_conduit()?;
    let timer = platform.virtual_timer()?;
    let cpus = number_cpus(&platform)?;
    if stop::is_asked_for() {
        return stop::run(&platform, cpus);
    }
    if let Some(deed) = hostile::asked_for(platform.bootargs()) {
        return hostile::run(deed, cpus, platform.ram_end()?);
    }
    debuggee::look_for(platform.bootargs());
    let (distributor, regions) = platform.gic()?;
    println!(
        "hello from CPU 0 of {cpus}; GICv3 at {:#x}, counter at {} kHz",
        distributor.base,
        time::frequency() / 1000
    );

    let (mut distributor, found) = arch::gic(distributor, regions);
    let mut redistributors = [const { None }; MAX_CPUS];
    for redistributor in found {
        let mpidr = Mpidr::new(redistributor.typer().core_mpidr());
        // A GIC may have more redistributors than the device tree has CPUs.
        if let Some(cpu) = (0..cpus).find(|&cpu| CpuId::new(cpu).shared().mpidr() == mpidr) {
            redistributors[cpu] = Some(redistributor);
        }
    }
    gic::set_up_distributor(&mut distributor);

    // One at a time, as Linux does it, and each CPU sleeps when its checks are done: so no more than
    // two CPUs compete for the host's, however many there are, and the lines come in order.
    for (cpu, redistributor) in redistributors.into_iter().take(cpus).enumerate() {
        let cpu = CpuId::new(cpu);
        let Some(redistributor) = redistributor else {
            let mpidr = cpu.shared().mpidr();
            panic!("no redistributor's GICR_TYPER names {cpu}, {mpidr}");
        };
        if cpu == CpuId::BOOT {
            come_online(cpu, redistributor, timer);
        } else {
            start(cpu, redistributor, timer);
        }
    }

    let online = ONLINE.load(Ordering::Acquire);
    if online as usize != cpus {
        fail(
            "LSE atomics",
            format_args!("{cpus} CPUs counted themselves as {online}"),
        );
    }
    if debuggee::is_asked_for() {
        debuggee::run(CpuId::BOOT);
    }
    power_off_others(cpus);
    println!("{cpus} CPUs, all checks passed");
    Ok(())
}

/// Gives each CPU of the device tree its number, and says how many there are.
fn number_cpus(platform: &Platform) -> Result<usize, PlatformError> {
    let own = Mpidr::current();
    CpuId::BOOT.shared().set_mpidr(own);
    let mut cpus = 1;
    let mut own_is_listed = false;
    for mpidr in platform.mpidrs()? {
        let mpidr = mpidr?;
        if mpidr == own {
            own_is_listed = true;
        } else {
            CpuId::new(cpus).shared().set_mpidr(mpidr);
            cpus += 1;
        }
    }
    assert!(
        own_is_listed,
        "the device tree lacks the CPU that boots, {own}"
    );
    Ok(cpus)
}

/// What every CPU does first: it sets itself up, and checks what it can take.
fn come_online(cpu: CpuId, mut redistributor: GicRedistributor, timer: IntId) {
    time::enable_event_stream();
    if let Err(error) = gic::set_up_cpu(&mut redistributor, timer) {
        panic!("cannot set up the redistributor of {cpu}: {error}");
    }
    ONLINE.fetch_add(1, Ordering::AcqRel);
    cpu.shared().set_stage(Stage::Online);

    let mpidr = Mpidr::current();
    if mpidr != cpu.shared().mpidr() {
        fail(
            "MPIDR_EL1",
            format_args!("{mpidr}, but the device tree has {}", cpu.shared().mpidr()),
        );
    }
    checks::run(cpu, timer);
    println!("{cpu}, {mpidr}: timer, SGI and pseudo-NMI taken");
    cpu.shared().set_stage(Stage::Checked);
    arch::sev();
}

/// Starts another CPU, and serves it until its checks have passed.
fn start(cpu: CpuId, redistributor: GicRedistributor<'static>, timer: IntId) {
    let started = arch::start_cpu(cpu.shared().mpidr(), move || {
        arch::set_cpu_index(cpu.index());
        come_online(cpu, redistributor, timer);
        if debuggee::is_asked_for() {
            debuggee::run(cpu);
        }
        wait_for_power_off(cpu);
        println!("{cpu} off");
        let error = psci::cpu_off::<Hvc>();
        panic!("PSCI CPU_OFF returned {error:?}");
    });
    if let Err(error) = started {
        fail(format_args!("PSCI CPU_ON of {cpu}"), error);
    }
    let checked = wait_for(PATIENCE_WITH_OTHERS, || {
        checks::answer(cpu);
        cpu.shared().stage() == Stage::Checked
    });
    if !checked {
        let stage = cpu.shared().stage();
        fail(
            format_args!("start of {cpu}"),
            format_args!(
                "it came no further than {stage:?} in {PATIENCE_WITH_OTHERS} s of guest time"
            ),
        );
    }
}

/// Sleeps until the boot CPU says to power off. The boot CPU sees to it that this ends.
fn wait_for_power_off(cpu: CpuId) {
    loop {
        // With PSTATE.I set an interrupt that comes between the look and the WFI ends the WFI.
        arch::mask_irq();
        if cpu.shared().taken(Sgi::PowerOff.intid()) != 0 {
            break;
        }
        arm_gic::wfi();
        arch::unmask_irq();
    }
    arch::unmask_irq();
}

/// Has all other CPUs power themselves off, a few at a time, who compete for the console.
fn power_off_others(cpus: usize) {
    for first in (1..cpus).step_by(COMPETITORS) {
        let group = (first..cpus.min(first + COMPETITORS)).map(CpuId::new);
        for cpu in group.clone() {
            gic::send(Sgi::PowerOff, cpu);
        }
        for cpu in group {
            let mpidr = cpu.shared().mpidr().bits();
            let info = || psci::affinity_info::<Hvc>(mpidr, LowestAffinityLevel::All);
            if !wait_for(PATIENCE_WITH_OTHERS, || info() == Ok(AffinityState::Off)) {
                fail(
                    format_args!("power-off of {cpu}"),
                    format_args!(
                        "AFFINITY_INFO is {:?} after {PATIENCE_WITH_OTHERS} s of guest time",
                        info()
                    ),
                );
            }
        }
    }
}
