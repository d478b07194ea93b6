//! A scenario in the words of the mailbox.

use std::fmt;

use guest_abi::mailbox::{self, Job};
use guest_abi::point::Point;
use guest_abi::protocol::{PROTOCOLS, Protocol, Word};
use vmm_core::arm::{CpuId, CpuSet};
use vmm_core::evidence::{Manner, Onward, StopKind};
use vmm_core::scenario::{Does, Driver, Hold, HoldUntil, Scenario, Task};

use super::Unfit;

/// What the VMM writes into the mailbox before the payload's first instruction: all words before the slots.
pub(super) fn words(scenario: &Scenario, protocol: &Protocol, swap: Option<Swap>) -> Vec<u64> {
    let mut words = vec![0; mailbox::SLOTS_AT];
    words[mailbox::MAGIC_AT] = mailbox::MAGIC;
    let number = PROTOCOLS.iter().position(|known| *known == protocol);
    words[mailbox::PROTOCOL_AT] = number.expect("a protocol is one of the tables") as u64;
    let flags = [
        (scenario.pseudo_nmi, mailbox::PSEUDO_NMI),
        (scenario.can_die, mailbox::CAN_DIE),
        (scenario.stop == StopKind::Crash, mailbox::CRASH_STOP),
        (scenario.sdei, mailbox::SDEI),
    ];
    words[mailbox::FLAGS_AT] = flags.iter().filter(|flag| flag.0).map(|flag| flag.1).sum();
    words[mailbox::AFTER_AT] = match scenario.after {
        Onward::PanicEnd => mailbox::AFTER_PANIC_END,
        Onward::Kexec => mailbox::AFTER_KEXEC,
        Onward::Reset => mailbox::AFTER_RESET,
    };
    words[mailbox::DRIVER_AT] = match scenario.driver {
        Driver::GiveUp => mailbox::DRIVER_GIVE_UP,
        Driver::WriteAnyway => mailbox::DRIVER_WRITE_ANYWAY,
        Driver::Nbcon => mailbox::DRIVER_NBCON,
    };
    for (at, stop) in [&protocol.plain, &protocol.crash].into_iter().enumerate() {
        let mut steps = stop.handler.is.to_vec();
        if let Some(swap) = swap.filter(|swap| usize::from(swap.stop == StopKind::Crash) == at) {
            steps.swap(swap.first, swap.first + 1);
        }
        words[mailbox::HANDLERS_AT + at] = mailbox::steps_word(&steps);
    }
    words[mailbox::CPUS_AT] = scenario.cpus.into();
    words[mailbox::OFFLINE_AT] = scenario.offline.iter().map(|cpu| 1 << cpu.index()).sum();
    for task in &scenario.tasks {
        let job = match task.does {
            Does::Panic(_) => Job::Panic,
            Does::Restart => Job::Restart,
            Does::Talk(records) => Job::Talk(records),
            Does::Unplug => Job::Unplug,
            Does::Online => Job::Online,
            Does::Nmi(cpu) => Job::Nmi(cpu.index() as u8),
            Does::MaskIrqs if is_wedged(scenario, task.cpu) => Job::Wedge,
            Does::MaskIrqs => Job::MaskIrqs,
            Does::MaskDaif => Job::MaskDaif,
        };
        words[mailbox::TASKS_AT + mailbox::TASKS * task.cpu.index()] = job.word();
    }
    words
}

/// Whether a CPU is to spin at one instruction of the many that it could be at.
pub(super) fn is_wedged(scenario: &Scenario, cpu: CpuId) -> bool {
    let masks = |task: &Task| task.cpu == cpu && task.does == Does::MaskIrqs;
    scenario.tasks.iter().any(masks) && scenario.holds.iter().any(|hold| spins(hold, cpu))
}

fn spins(hold: &Hold, cpu: CpuId) -> bool {
    (hold.cpu, hold.at, hold.manner) == (cpu, Point::Masked, Manner::Spin)
}

/// The debug registers that a run needs, and those that there are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Budget {
    /// The CPUs that spin: a breakpoint each, one at a time.
    pub spinning: CpuSet,
    /// The breakpoints of a CPU of this host.
    pub breakpoints: u32,
    /// Its watchpoints.
    pub watchpoints: u32,
}

/// The words that acks are seen in, the most telling first.
pub(super) const ACKS: [Word; 4] = [
    Word::StopMask,
    Word::Counter,
    Word::OnlineMask,
    Word::OnlineCount,
];

impl Budget {
    /// What a scenario needs on a host with so many breakpoints and watchpoints.
    pub fn of(scenario: &Scenario, (breakpoints, watchpoints): (u32, u32)) -> Self {
        let spins = |hold: &&Hold| hold.manner == Manner::Spin;
        let spinning = scenario.holds.iter().filter(spins).map(|hold| hold.cpu);
        Self {
            spinning: spinning.collect(),
            breakpoints,
            watchpoints,
        }
    }

    /// The words of acks that there are watchpoints for. The others are read after each step: a step is one store, so
    /// that this is as exact, and only the store itself is not caught.
    pub fn watched(&self) -> &'static [Word] {
        &ACKS[..ACKS.len().min(self.watchpoints as usize)]
    }

    /// Whether it suffices.
    pub fn check(&self) -> Result<(), Unfit> {
        if self.spinning.is_empty() || self.breakpoints > 0 {
            Ok(())
        } else {
            Err(Unfit::NoBreakpoints)
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (breakpoints, watchpoints) = (self.breakpoints, self.watchpoints);
        let watched = self.watched().len();
        if self.spinning.is_empty() {
            write!(f, "debug registers: none of {breakpoints} breakpoints")?;
        } else {
            let spinning = &self.spinning;
            write!(
                f,
                "debug registers: 1 of {breakpoints} breakpoints on CPUs {spinning}"
            )?;
        }
        write!(f, ", {watched} of {watchpoints} watchpoints on all")
    }
}

/// Two neighbouring steps of a handler in each other's place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Swap {
    /// Which handler.
    pub stop: StopKind,
    /// The first of the two, counted from 0. Neither may be the last, at which the CPU rests.
    pub first: usize,
}

impl fmt::Display for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stop = match self.stop {
            StopKind::Plain => "plain",
            StopKind::Crash => "crash",
        };
        write!(f, "{stop}:{}", self.first + 1)
    }
}

impl Swap {
    /// Whether the protocol has these two steps.
    pub fn fits(self, protocol: &Protocol) -> bool {
        let stop = match self.stop {
            StopKind::Plain => &protocol.plain,
            StopKind::Crash => &protocol.crash,
        };
        self.first + 2 < stop.handler.is.len()
    }
}

/// Whether the payload can do it.
pub fn check(scenario: &Scenario) -> Result<(), Unfit> {
    let name = || scenario.name.clone();
    if usize::from(scenario.cpus) > mailbox::MAX_CPUS {
        return Err(Unfit::Cpus {
            name: name(),
            cpus: scenario.cpus,
        });
    }
    if scenario.late_stores {
        return Err(Unfit::LateStores(name()));
    }
    for (at, task) in scenario.tasks.iter().enumerate() {
        if scenario.tasks[..at]
            .iter()
            .any(|other| other.cpu == task.cpu)
        {
            return Err(Unfit::Tasks {
                name: name(),
                cpu: task.cpu.0,
            });
        }
    }
    let endless = |hold: &&Hold| hold.until != HoldUntil::Never && spins(hold, hold.cpu);
    if let Some(hold) = scenario.holds.iter().find(endless)
        && is_wedged(scenario, hold.cpu)
    {
        return Err(Unfit::Spin {
            name: name(),
            cpu: hold.cpu.0,
        });
    }
    Ok(())
}
