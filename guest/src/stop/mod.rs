//! Stops by a protocol's table, step by step: the twin, on a real machine, of the model in vmm-core.
//!
//! Every step begins with a ring of the doorbell (`ring`), at which the VMM keeps the CPU out of the guest until it shall take the
//! step; one CPU runs at a time. What a step does, and in which order, is the model's: `ladder` is the sender, `handler` the CPU
//! that stops, `printk` and `console` the log and its drivers, `panic` and `tasks` what the scenario has a CPU do.

pub(crate) mod console;
pub(crate) mod handler;
pub(crate) mod ladder;
pub(crate) mod panic;
pub(crate) mod printk;
mod ring;
pub(crate) mod tasks;
mod words;

use core::sync::atomic::Ordering;

use arm_gic::IntId;
use arm_gic::gicv3::{GicCpuInterface, GicError, GicRedistributor};
use arm_sysregs::el1::accessors::write_icc_ctlr_el1;
use arm_sysregs::el1::registers::IccCtlrEl1;
use guest_abi::mailbox::{self, Job};
use guest_abi::protocol::{PROTOCOLS, Protocol, Request, Rung, Stop, WithoutNmi};

pub(crate) use handler::interrupted;
pub(crate) use ring::Mask;

use crate::arch::{self, MAILBOX, ONLINE_COUNT, ONLINE_MASK};
use crate::cpus::{CpuId, MAX_CPUS, Mpidr};
use crate::gic::{self, PRIORITY_IRQ, PRIORITY_NMI};
use crate::platform::{Platform, PlatformError};

/// A step happens while no other CPU runs, and the VMM reads memory between steps.
const ORDER: Ordering = Ordering::Relaxed;

/// The SGI of `IPI_CPU_BACKTRACE`.
const BACKTRACE: u8 = 6;

fn word(at: usize) -> u64 {
    MAILBOX[at].load(ORDER)
}

fn flag(flag: u64) -> bool {
    word(mailbox::FLAGS_AT) & flag != 0
}

/// Whether the VMM asks for it.
pub(crate) fn is_asked_for() -> bool {
    word(mailbox::MAGIC_AT) == mailbox::MAGIC
}

fn protocol() -> &'static Protocol {
    PROTOCOLS[word(mailbox::PROTOCOL_AT) as usize % PROTOCOLS.len()]
}

fn table(crash: bool) -> &'static Stop {
    if crash {
        &protocol().crash
    } else {
        &protocol().plain
    }
}

fn cpus() -> usize {
    word(mailbox::CPUS_AT) as usize
}

fn own() -> usize {
    CpuId::current().index()
}

fn job(cpu: usize) -> Option<Job> {
    Job::of(word(mailbox::TASKS_AT + mailbox::TASKS * cpu))
}

/// How a rung asks on this machine, if it is climbed.
fn asks(rung: &Rung) -> Option<Request> {
    match (rung.request, rung.without_nmi) {
        (Request::Nmi, WithoutNmi::Skipped) if !flag(mailbox::PSEUDO_NMI) => None,
        (Request::Nmi, WithoutNmi::Irq) if !flag(mailbox::PSEUDO_NMI) => Some(Request::Irq),
        (Request::Sdei, _) if !flag(mailbox::SDEI) => None,
        (request, _) => Some(request),
    }
}

/// The rungs that this machine has.
fn rungs(stop: &'static Stop) -> impl Iterator<Item = (Request, &'static Rung)> {
    let rungs = stop.ladder.is.iter();
    rungs.filter_map(|rung| Some((asks(rung)?, rung)))
}

/// How an SGI arrives on this machine.
fn arrives_as(sgi: u8) -> Request {
    if sgi == BACKTRACE && flag(mailbox::PSEUDO_NMI) {
        return Request::Nmi;
    }
    let found = [table(false), table(true)]
        .into_iter()
        .flat_map(rungs)
        .find(|(_, rung)| rung.sgi == Some(sgi));
    found.map_or(Request::Irq, |(request, _)| request)
}

/// Boots the other CPUs and does what the mailbox says. Does not come back.
pub(crate) fn run(platform: &Platform, found: usize) -> Result<(), PlatformError> {
    let cpus = cpus();
    assert!(
        cpus <= found,
        "the mailbox has {cpus} CPUs, the device tree {found}"
    );
    let offline = word(mailbox::OFFLINE_AT);
    for cpu in (0..cpus).filter(|cpu| offline >> cpu & 1 == 0) {
        ONLINE_MASK.0[0].fetch_or(1 << cpu, ORDER);
        ONLINE_COUNT.fetch_add(1, ORDER);
    }
    let (distributor, regions) = platform.gic()?;
    let (mut distributor, redistributors) = arch::gic(distributor, regions);
    let mut own = [const { None }; MAX_CPUS];
    for redistributor in redistributors {
        let mpidr = Mpidr::new(redistributor.typer().core_mpidr());
        if let Some(cpu) = (0..cpus).find(|&cpu| CpuId::new(cpu).shared().mpidr() == mpidr) {
            own[cpu] = Some(redistributor);
        }
    }
    gic::set_up_distributor(&mut distributor);
    for (cpu, redistributor) in own.into_iter().take(cpus).enumerate().rev() {
        let Some(redistributor) = redistributor else {
            panic!("no redistributor's GICR_TYPER names CPU {cpu}");
        };
        if offline >> cpu & 1 == 1 && job(cpu).is_none() {
            continue;
        }
        let cpu = CpuId::new(cpu);
        if cpu == CpuId::BOOT {
            come_up(cpu, redistributor);
        }
        let started = arch::start_cpu(cpu.shared().mpidr(), move || {
            arch::set_cpu_index(cpu.index());
            come_up(cpu, redistributor);
        });
        if let Err(error) = started {
            panic!("PSCI CPU_ON of {cpu}: {error:?}");
        }
    }
    unreachable!("CPU 0 is the last of them")
}

/// The life of a CPU.
fn come_up(cpu: CpuId, mut redistributor: GicRedistributor) -> ! {
    arch::mask_daif();
    arch::use_stop_vectors();
    if let Err(error) = set_up_gic(&mut redistributor) {
        panic!("cannot set up the redistributor of {cpu}: {error}");
    }
    ring::ready(match job(cpu.index()) {
        // Whoever sends a backtrace NMI does so from an interrupt of its own.
        Some(Job::MaskIrqs | Job::Wedge | Job::Nmi(_)) => Mask::Irqs,
        Some(Job::MaskDaif | Job::Online) => Mask::All,
        _ => Mask::Open,
    });
    tasks::run(job(cpu.index()))
}

fn set_up_gic(redistributor: &mut GicRedistributor) -> Result<(), GicError> {
    match redistributor.mark_core_awake() {
        // KVM's redistributors never sleep.
        Ok(()) | Err(GicError::AlreadyAwake) => {}
        Err(error) => return Err(error),
    }
    redistributor.configure_default_settings();
    for sgi in 0..8 {
        let priority = match arrives_as(sgi) {
            Request::Nmi => PRIORITY_NMI,
            Request::Irq | Request::Sdei => PRIORITY_IRQ,
        };
        let intid = IntId::sgi(sgi.into());
        redistributor.set_interrupt_priority(intid, priority)?;
        redistributor.enable_interrupt(intid, true)?;
    }
    redistributor.wait_for_pending_write();
    GicCpuInterface::enable_system_register_el1();
    // EOImode 0, as in a Linux that was entered at EL1: a stop interrupt, whose handler never ends, stays active.
    write_icc_ctlr_el1(IccCtlrEl1::empty());
    GicCpuInterface::enable_group1(true);
    arch::isb();
    Ok(())
}
