//! What every CPU must be able to take, in every state of masking.
//!
//! The states are those of a kernel with pseudo-NMIs: nothing masked; PSTATE.I set, which keeps
//! everything out; ICC_PMR_EL1 at the priority of IRQs, which keeps IRQs out and lets pseudo-NMIs in.
//! That an interrupt was kept out is only shown while it is pending, so every check waits for that
//! first. Where it is kept out is seen in ISR_EL1: what PSTATE.I masks is signalled to the CPU, what
//! ICC_PMR_EL1 masks stays in the GIC.

use core::fmt::{self, Display, Formatter};
use core::sync::atomic::Ordering;

use arm_gic::IntId;

use crate::arch;
use crate::console::println;
use crate::cpus::CpuId;
use crate::exceptions::reset;
use crate::gic::{self, MaskedIrqs, PMR_IRQ_OFF, Sgi};
use crate::time::{self, PATIENCE, wait_for};

/// An interrupt that a CPU can have raised for itself.
#[derive(Clone, Copy)]
enum Source {
    /// The virtual timer's, with this INTID.
    Timer(IntId),
    /// An SGI.
    Sgi(Sgi),
}

impl Source {
    fn intid(self) -> IntId {
        match self {
            Self::Timer(intid) => intid,
            Self::Sgi(sgi) => sgi.intid(),
        }
    }

    fn raise(self, cpu: CpuId) {
        match self {
            Self::Timer(_) => time::start_timer(),
            Self::Sgi(sgi) => ask_for(sgi, cpu),
        }
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::Timer(_) => f.write_str("the virtual timer's interrupt"),
            Self::Sgi(Sgi::Nmi) => f.write_str("a pseudo-NMI"),
            Self::Sgi(_) => f.write_str("an SGI"),
        }
    }
}

/// What keeps interrupts out while one is raised.
#[derive(Clone, Copy)]
enum Masking {
    Nothing,
    Pstate,
    Pmr,
}

impl Display for Masking {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("unmasked"),
            Self::Pstate => f.write_str("masked by PSTATE.I"),
            Self::Pmr => write!(f, "masked by ICC_PMR_EL1 {PMR_IRQ_OFF:#x}"),
        }
    }
}

/// One interrupt, raised once on this CPU.
struct Check {
    cpu: CpuId,
    source: Source,
    masking: Masking,
    taken_before: u32,
}

impl Display for Check {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{}, {}", self.source, self.masking)
    }
}

/// Checks this CPU. A check that fails ends the run.
pub(crate) fn run(cpu: CpuId, timer: IntId) {
    let (timer, irq, nmi) = (
        Source::Timer(timer),
        Source::Sgi(Sgi::Irq),
        Source::Sgi(Sgi::Nmi),
    );
    for source in [timer, irq, nmi] {
        takes(cpu, source);
        keeps_out_by_pstate(cpu, source);
    }
    for source in [timer, irq] {
        keeps_out_by_pmr(cpu, source);
    }
}

/// With nothing masked, the interrupt is taken.
fn takes(cpu: CpuId, source: Source) {
    Check::raise(cpu, source, Masking::Nothing).expect_taken();
}

/// With PSTATE.I set, the interrupt is signalled but not taken until PSTATE.I is clear again.
fn keeps_out_by_pstate(cpu: CpuId, source: Source) {
    arch::mask_irq();
    let check = Check::raise(cpu, source, Masking::Pstate);
    if !wait_for(PATIENCE, || gic::is_signalled() || check.times_taken() != 0) {
        check.fail(format_args!(
            "ISR_EL1 did not show it within {PATIENCE} s of guest time"
        ));
    }
    check.expect_kept_out();
    arch::unmask_irq();
    check.expect_taken();
}

/// With IRQs masked by ICC_PMR_EL1, the interrupt stays in the GIC, a pseudo-NMI overtakes it, and
/// it is taken when the mask is lifted.
fn keeps_out_by_pmr(cpu: CpuId, source: Source) {
    let masked = MaskedIrqs::mask();
    let check = Check::raise(cpu, source, Masking::Pmr);
    let pending = || gic::pending() == Some(source.intid());
    if !wait_for(PATIENCE, || pending() || check.times_taken() != 0) {
        check.fail(format_args!(
            "not pending within {PATIENCE} s of guest time"
        ));
    }
    check.expect_kept_out();
    if gic::is_signalled() {
        check.fail("signalled to the CPU all the same, as ISR_EL1 shows");
    }
    Check::raise(cpu, Source::Sgi(Sgi::Nmi), Masking::Pmr).expect_taken();
    check.expect_kept_out();
    masked.restore();
    check.expect_taken();
}

impl Check {
    fn raise(cpu: CpuId, source: Source, masking: Masking) -> Self {
        let taken_before = cpu.shared().taken(source.intid());
        source.raise(cpu);
        Self {
            cpu,
            source,
            masking,
            taken_before,
        }
    }

    fn times_taken(&self) -> u32 {
        self.cpu.shared().taken(self.source.intid()) - self.taken_before
    }

    fn expect_taken(&self) {
        if !wait_for(PATIENCE, || self.times_taken() != 0) {
            let pending = gic::pending();
            self.fail(format_args!(
                "not taken within {PATIENCE} s of guest time; ICC_HPPIR1_EL1 says {pending:?}"
            ));
        }
        let times = self.times_taken();
        if times != 1 {
            self.fail(format_args!("raised once and taken {times} times"));
        }
    }

    fn expect_kept_out(&self) {
        if self.times_taken() != 0 {
            self.fail("taken all the same");
        }
        let pending = gic::pending();
        if pending != Some(self.source.intid()) {
            self.fail(format_args!(
                "no longer pending; ICC_HPPIR1_EL1 says {pending:?}"
            ));
        }
    }

    fn fail(&self, why: impl Display) -> ! {
        fail(self, why)
    }
}

/// Has an SGI sent to this CPU: by the boot CPU, so that it comes from outside; to the boot CPU by
/// itself.
fn ask_for(sgi: Sgi, cpu: CpuId) {
    if cpu == CpuId::BOOT {
        gic::send(sgi, cpu);
    } else {
        cpu.shared()
            .asked
            .fetch_or(1 << sgi as u32, Ordering::Release);
        arch::sev();
    }
}

/// Sends a CPU the SGIs that it has asked for.
pub(crate) fn answer(cpu: CpuId) {
    let asked = cpu.shared().asked.swap(0, Ordering::Acquire);
    for sgi in [Sgi::Irq, Sgi::Nmi] {
        if asked & 1 << sgi as u32 != 0 {
            gic::send(sgi, cpu);
        }
    }
}

/// Says which check of which CPU failed, and ends the run.
pub(crate) fn fail(check: impl Display, why: impl Display) -> ! {
    println!("{}: check failed: {check}: {why}", CpuId::current());
    reset()
}
