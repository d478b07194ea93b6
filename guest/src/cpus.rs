//! The CPUs: what each of them shares with the others.

use core::fmt::{self, Display, Formatter};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use arm_gic::IntId;
use arm_sysregs::el1::accessors::{read_mpidr_el1, read_tpidr_el1};

/// As many as KVM allows in one VM.
pub(crate) const MAX_CPUS: usize = 512;

/// SGIs and PPIs.
const PRIVATE_INTIDS: usize = 32;

/// More often than any interrupt is raised on a CPU in a run.
const STORM: u32 = 1000;

/// A CPU's logical number, as Linux counts: 0 boots, the others follow in the device tree's order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuId(usize);

impl CpuId {
    /// The CPU that boots.
    pub(crate) const BOOT: Self = Self(0);

    /// The CPU of this number. Panics if there can be none.
    pub(crate) fn new(index: usize) -> Self {
        assert!(
            index < MAX_CPUS,
            "CPU {index} is beyond the payload's {MAX_CPUS} CPUs"
        );
        Self(index)
    }

    /// The CPU that runs this, once it has written its number to TPIDR_EL1.
    pub(crate) fn current() -> Self {
        Self(read_tpidr_el1().threadid() as usize % MAX_CPUS)
    }

    pub(crate) fn index(self) -> usize {
        self.0
    }

    /// What this CPU shares.
    pub(crate) fn shared(self) -> &'static Cpu {
        &CPUS[self.0]
    }
}

impl Display for CpuId {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "CPU {}", self.0)
    }
}

/// The affinity fields of an MPIDR_EL1, the name of a CPU towards PSCI and the GIC.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mpidr(u64);

impl Mpidr {
    /// Keeps Aff3 to Aff0 of these bits.
    pub(crate) const fn new(bits: u64) -> Self {
        Self(bits & 0xff_00ff_ffff)
    }

    /// That of the CPU that runs this.
    pub(crate) fn current() -> Self {
        Self::new(read_mpidr_el1().bits())
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

impl Display for Mpidr {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "MPIDR {:#x}", self.0)
    }
}

/// How far a CPU has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    /// It has not run yet.
    Off,
    /// Its interrupt controller is set up.
    Online,
    /// Its checks have passed.
    Checked,
}

/// What a CPU shares with the others, and with its own interrupt handler.
pub(crate) struct Cpu {
    mpidr: AtomicU64,
    stage: AtomicU8,
    /// How many interrupts of each SGI and PPI it has taken.
    taken: [AtomicU32; PRIVATE_INTIDS],
    /// The SGIs that it asks the boot CPU for, one bit each.
    pub(crate) asked: AtomicU32,
}

static CPUS: [Cpu; MAX_CPUS] = [const {
    Cpu {
        mpidr: AtomicU64::new(0),
        stage: AtomicU8::new(Stage::Off as u8),
        taken: [const { AtomicU32::new(0) }; PRIVATE_INTIDS],
        asked: AtomicU32::new(0),
    }
}; MAX_CPUS];

impl Cpu {
    /// Its MPIDR, as the device tree gives it.
    pub(crate) fn mpidr(&self) -> Mpidr {
        Mpidr(self.mpidr.load(Ordering::Relaxed))
    }

    pub(crate) fn set_mpidr(&self, mpidr: Mpidr) {
        self.mpidr.store(mpidr.0, Ordering::Relaxed);
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            stage if stage == Stage::Off as u8 => Stage::Off,
            stage if stage == Stage::Online as u8 => Stage::Online,
            _ => Stage::Checked,
        }
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }

    /// How often it has taken this SGI or PPI.
    pub(crate) fn taken(&self, intid: IntId) -> u32 {
        self.counter(intid).load(Ordering::Acquire)
    }

    /// Counts an SGI or PPI that it takes. Panics if it takes one that is raised a few times in a
    /// run again and again: such a CPU gets nowhere, and notices no deadline.
    pub(crate) fn count(&self, intid: IntId) {
        let before = self.counter(intid).fetch_add(1, Ordering::Release);
        assert!(
            before < STORM,
            "{intid:?} is taken for ever: its source does not fall silent"
        );
    }

    fn counter(&self, intid: IntId) -> &AtomicU32 {
        match self.taken.get(intid.raw_value() as usize) {
            Some(counter) => counter,
            None => panic!("{intid:?} is neither an SGI nor a PPI, and no other is enabled"),
        }
    }
}
