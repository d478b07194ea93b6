//! A scenario in the words of the mailbox.

use guest_abi::mailbox::{self, Job};
use guest_abi::point::Point;
use guest_abi::protocol::{PROTOCOLS, Protocol};
use vmm_core::evidence::{Manner, Onward, StopKind};
use vmm_core::scenario::{Does, Driver, Scenario};

use super::Unfit;

/// What the VMM writes into the mailbox before the payload's first instruction: all words before the slots.
pub(super) fn words(scenario: &Scenario, protocol: &Protocol) -> Vec<u64> {
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
    words[mailbox::CPUS_AT] = scenario.cpus.into();
    words[mailbox::OFFLINE_AT] = scenario.offline.iter().map(|cpu| 1 << cpu.index()).sum();
    for task in &scenario.tasks {
        let job = match task.does {
            Does::Panic => Job::Panic,
            Does::Restart => Job::Restart,
            Does::Talk(records) => Job::Talk(records),
            Does::Unplug => Job::Unplug,
            Does::Online => Job::Online,
            Does::Nmi(cpu) => Job::Nmi(cpu.index() as u8),
            Does::MaskIrqs => Job::MaskIrqs,
            Does::MaskDaif => Job::MaskDaif,
        };
        words[mailbox::TASKS_AT + mailbox::TASKS * task.cpu.index()] = job.word();
    }
    words
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
    let polls = [
        Point::ConsoleLocked,
        Point::ConsoleMid,
        Point::ConsoleUnlock,
    ];
    let stalls = scenario
        .holds
        .iter()
        .filter(|hold| hold.manner == Manner::Stall);
    match stalls.into_iter().find(|hold| !polls.contains(&hold.at)) {
        Some(hold) => Err(Unfit::Stall {
            name: name(),
            cpu: hold.cpu.0,
            point: hold.at.to_string(),
        }),
        None => Ok(()),
    }
}
