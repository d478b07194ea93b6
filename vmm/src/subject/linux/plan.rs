//! A scenario as Linux can do it: what its command line tells init, and where its points are.

use std::fmt::Write as _;

use guest_abi::point::{InLinux, Point};
use guest_abi::protocol::Request;
use vmm_core::arm::{CpuId, CpuSet};
use vmm_core::evidence::{Manner, Onward, StopKind};
use vmm_core::scenario::{Cause, Does, HoldUntil, Passing, Scenario, Task};

use super::tap::Catch;

/// A kernel's RAM, in bytes: Debian's kernels boot in half of it.
pub const MEMORY: u64 = 512 << 20;

/// What is reserved for a capture kernel, in MiB, if nothing else is said.
pub const CRASHKERNEL: u32 = 128;

/// What makes a PL011 an nbcon console (drivers/tty/serial/amba-pl011.c).
pub(super) const NBCON: &str = "pl011_console_write_atomic";

/// What Linux cannot be made to do by our init and from outside.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// A task that init has no word for.
    #[error(
        "{name} has CPU {cpu} do what a Linux guest's init has no word for; payload:PROTOCOL can"
    )]
    Task {
        /// The scenario.
        name: String,
        /// The CPU.
        cpu: CpuId,
    },
    /// A point that Linux has not, or not in this manner.
    #[error(
        "{name} needs the point {at}, and in Linux nothing can be caught there; payload:PROTOCOL can"
    )]
    Point {
        /// The scenario.
        name: String,
        /// The point.
        at: Point,
    },
    /// Two that send.
    #[error(
        "{0} has one CPU panic and another one restart, and in Linux only one sender can be followed; payload:PROTOCOL can"
    )]
    TwoSenders(String),
    /// CPUs that are down.
    #[error(
        "{0} begins with CPUs offline, which a Linux guest's init has no word for; payload:PROTOCOL can"
    )]
    Offline(String),
    /// A property of the machine.
    #[error(
        "{name} needs {what}, which a Linux guest on KVM does not have; payload:PROTOCOL or model can"
    )]
    Machine {
        /// The scenario.
        name: String,
        /// What.
        what: &'static str,
    },
    /// A console driver.
    #[error(
        "{0} is about an nbcon console, and the PL011's driver of this kernel is none: it has no {NBCON}(), which came with Linux 6.15"
    )]
    Driver(String),
    /// The kernel lacks the symbol.
    #[error(
        "the kernel has no symbol for the point {at} (of {names}), so that nothing can be caught there"
    )]
    NoSymbol {
        /// The point.
        at: Point,
        /// What was looked for.
        names: String,
    },
}

/// Where a point is, before the kernel's symbols are known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Where {
    /// At the tap.
    Console(Catch),
    /// At the entry of this function, behind the middle of a record at the tap.
    Behind(&'static str),
    /// At the entry of the first of these functions that there is.
    Entry(&'static [&'static str]),
    /// In the circle of this function.
    Circle(&'static str),
    /// Where the sender says that it stops the others.
    Announces,
    /// Where it writes the SGI of a rung.
    Asks(Request),
    /// Behind that.
    Polls(Request),
    /// Where a stop request is handled.
    Handles,
    /// Before the store of the ack.
    Acks,
    /// Before the store of the count of those that are online.
    Counts,
    /// On the way to its rest with nothing left to be seen of it.
    Rests,
    /// In the capture kernel's user space.
    CaptureUp,
}

/// Where Linux passes a point, if it can be caught there. What several places of Linux pass, or other code as well, is caught where it
/// is known what it is for.
pub(super) fn place(point: Point) -> Option<Where> {
    match point {
        Point::Announce => return Some(Where::Announces),
        Point::IrqSend => return Some(Where::Asks(Request::Irq)),
        Point::NmiSend => return Some(Where::Asks(Request::Nmi)),
        Point::IrqWait => return Some(Where::Polls(Request::Irq)),
        Point::NmiWait => return Some(Where::Polls(Request::Nmi)),
        Point::IrqOpen => return Some(Where::Handles),
        Point::Ack => return Some(Where::Acks),
        Point::Count => return Some(Where::Counts),
        Point::Rest => return Some(Where::Rests),
        Point::CaptureUp => return Some(Where::CaptureUp),
        _ => {}
    }
    point.linux().iter().find_map(|place| match place {
        InLinux::Entry(names) => Some(Where::Entry(names)),
        InLinux::CircleOf(name) => Some(Where::Circle(name)),
        InLinux::ControlWrite(1) => Some(Where::Console(Catch::Locked)),
        InLinux::ControlWrite(_) => Some(Where::Console(Catch::Unlock)),
        InLinux::MidRecord => Some(Where::Console(Catch::Middle)),
        InLinux::EntryMidRecord(name) => Some(Where::Behind(name)),
        _ => None,
    })
}

/// Whether a CPU can be seen to come there.
pub fn can_come_to(point: Point) -> bool {
    place(point).is_some()
}

/// Whether a CPU can be held there in this manner.
fn can_hold(place: Where, manner: Manner) -> bool {
    match place {
        Where::Console(_) => true,
        Where::Entry(_) | Where::Behind(_) | Where::Handles | Where::Circle(_) => {
            manner != Manner::Stall
        }
        Where::Announces | Where::Asks(_) | Where::Acks | Where::Counts => manner == Manner::Freeze,
        Where::Polls(_) | Where::Rests | Where::CaptureUp => false,
    }
}

/// Where the tap is to catch a CPU on its way to a place.
pub(super) fn caught_at(place: Where) -> Option<Catch> {
    match place {
        Where::Console(at) => Some(at),
        Where::Behind(_) => Some(Catch::Middle),
        _ => None,
    }
}

/// Every point that a scenario waits for, with its CPU.
pub(super) fn passings(scenario: &Scenario) -> Vec<Passing> {
    let mut passings: Vec<Passing> = Vec::new();
    let holds = scenario.holds.iter().flat_map(|hold| {
        let own = Passing {
            cpu: hold.cpu,
            at: hold.at,
        };
        let until = match hold.until {
            HoldUntil::Passing(passing) => Some(passing),
            HoldUntil::AfterRequest(_) | HoldUntil::Never => None,
        };
        [Some(own), until].into_iter().flatten()
    });
    // A CPU that masks its interrupts is to have done so before anybody panics.
    let masked = scenario.tasks.iter().filter_map(|task| {
        let cpu = task.cpu;
        let at = Point::Masked;
        (task.does == Does::MaskIrqs).then_some(Passing { cpu, at })
    });
    let after = scenario.tasks.iter().filter_map(|task| task.after);
    for passing in holds.chain(after).chain(masked) {
        if !passings.contains(&passing) {
            passings.push(passing);
        }
    }
    passings
}

/// Whether the CPU before it panics for it.
fn is_found(scenario: &Scenario, cpu: CpuId) -> bool {
    let before = |finder: CpuId| (finder.0 + 1) % scenario.cpus == cpu.0;
    let mut tasks = scenario.tasks.iter();
    tasks.any(|task| task.does == Does::Panic(Cause::Lockup) && before(task.cpu))
}

/// Whether Linux can do it, as far as that shows without a kernel.
pub fn check(scenario: &Scenario) -> Result<(), Unfit> {
    let name = || scenario.name.clone();
    if !scenario.offline.is_empty() {
        return Err(Unfit::Offline(name()));
    }
    // Of several that panic one sends.
    let does = |wanted: fn(&Does) -> bool| scenario.tasks.iter().any(|task| wanted(&task.does));
    if does(|does| *does == Does::Restart) && does(|does| matches!(does, Does::Panic(_))) {
        return Err(Unfit::TwoSenders(name()));
    }
    let machine = |what| Err(Unfit::Machine { name: name(), what });
    if scenario.sdei {
        return machine("firmware with SDEI");
    }
    if scenario.late_stores {
        return machine("stores that become visible late");
    }
    if !scenario.can_die {
        return machine("CPUs that cannot power off");
    }
    for task in &scenario.tasks {
        if !matches!(
            task.does,
            Does::Panic(_) | Does::Restart | Does::Talk(_) | Does::MaskIrqs
        ) {
            return Err(Unfit::Task {
                name: name(),
                cpu: task.cpu,
            });
        }
    }
    for Passing { cpu, at } in passings(scenario) {
        let place = place(at);
        let held = scenario
            .holds
            .iter()
            .find(|hold| (hold.cpu, hold.at) == (cpu, at));
        let fits = match (place, held) {
            (None, _) => false,
            (Some(place), Some(hold)) => can_hold(place, hold.manner),
            (Some(_), None) => true,
        };
        if !fits {
            return Err(Unfit::Point { name: name(), at });
        }
    }
    Ok(())
}

/// The function that is the last flush of the console in a panic. Before the end of panic nbcon takes over a console that is unsafe,
/// before a reset it does not.
pub(super) fn last_flush(scenario: &Scenario, nbcon: bool) -> &'static str {
    match scenario.after {
        Onward::PanicEnd if nbcon => "nbcon_atomic_flush_unsafe",
        _ => "console_flush_on_panic",
    }
}

/// The kernel's command line, with so many MiB for a capture kernel if there is one.
pub(super) fn command_line(scenario: &Scenario, crashkernel: u32) -> String {
    let panics = |task: &Task| matches!(task.does, Does::Panic(_));
    // A panic stays where it is, or is followed by a reset at once (Linux kernel/panic.c, panic_timeout).
    let resets = scenario.after == Onward::Reset && scenario.tasks.iter().any(panics);
    let after = if resets { -1 } else { 0 };
    let mut line = format!("console=ttyAMA0 quiet printk.devkmsg=on panic={after} init.answer");
    let pseudo_nmi = if scenario.pseudo_nmi {
        " irqchip.gicv3_pseudo_nmi=1"
    } else {
        ""
    };
    line += pseudo_nmi;
    if scenario.after == Onward::Kexec {
        // It comes up on one CPU, as a capture kernel does that is not told otherwise, and ends the run if it cannot go on.
        let own = "console=ttyAMA0 quiet panic=-1 init.vmcore maxcpus=1";
        let online = list(&scenario.capture.online);
        let online = online.map_or(String::new(), |cpus| format!(" init.online={cpus}"));
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            " crashkernel={crashkernel}M init.capture=\"{own}{pseudo_nmi}{online}\""
        );
    } else if scenario.stop == StopKind::Crash {
        // So that a panic saves the registers of all CPUs although there is no capture kernel (Linux kernel/panic.c).
        line += " crash_kexec_post_notifiers";
    }
    let mut tasks = scenario.tasks.iter();
    if let Some(task) = tasks.find(|task| task.does == Does::Restart && task.cpu != CpuId(0)) {
        // A restart moves to this CPU, CPU 0 if nothing is said (migrate_to_reboot_cpu(), Linux kernel/reboot.c).
        // Writing to a string cannot fail.
        let _ = write!(line, " reboot=smp{}", task.cpu);
    }
    let talks = |task: &&Task| matches!(task.does, Does::Talk(_));
    let talkers = scenario.tasks.iter().filter(talks).map(|task| task.cpu);
    if let Some(talkers) = list(&talkers.collect()) {
        let _ = write!(line, " init.talk={talkers}");
    }
    let mut exits = 0;
    let triggers = scenario.tasks.iter().filter_map(|task| {
        let word = match task.does {
            // The one that prints nothing before it panics: a CPU that is held in the console keeps it from nothing. PID 1 can do it once.
            // The one that it finds has the word for that.
            Does::Panic(Cause::Lockup) => return None,
            Does::Panic(Cause::Told) if exits == 0 => {
                exits += 1;
                "exit"
            }
            Does::Panic(Cause::Told) => "panic",
            Does::Restart => "reboot",
            Does::MaskIrqs if is_found(scenario, task.cpu) => "lockup-detector",
            Does::MaskIrqs => "hardlockup",
            _ => return None,
        };
        Some(format!("{word}@{}", task.cpu))
    });
    let triggers: Vec<String> = triggers.collect();
    let _ = write!(line, " init.trigger={}", triggers.join(","));
    line
}

/// CPUs as init reads them, if there are any.
fn list(cpus: &CpuSet) -> Option<String> {
    let cpus: Vec<String> = cpus.iter().map(|cpu| cpu.to_string()).collect();
    (!cpus.is_empty()).then(|| cpus.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str) -> Scenario {
        let path = format!(
            "{}/../tests/scenarios/{name}.toml",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(path).unwrap();
        Scenario::parse(name, &text).unwrap()
    }

    #[test]
    fn init_is_told_who_talks_and_who_panics() {
        assert_eq!(
            command_line(&scenario("console-locked"), 0),
            "console=ttyAMA0 quiet printk.devkmsg=on panic=0 init.answer irqchip.gicv3_pseudo_nmi=1 \
             crash_kexec_post_notifiers init.talk=1 init.trigger=exit@0"
        );
        assert!(command_line(&scenario("any-restart-panic-3"), 0).contains(" reboot=smp2 "));
        // Nobody pulls the trigger of a panic that is the lockup's.
        assert!(
            command_line(&scenario("lockup-found"), 0)
                .ends_with("init.talk=2 init.trigger=lockup-detector@1")
        );
        // A panic is followed by a reset where the scenario says so.
        assert!(command_line(&scenario("console-nbcon-reset"), 0).contains(" panic=-1 "));
        assert!(command_line(&scenario("restart-stalled"), 0).contains(" panic=0 "));
        let plain = command_line(&scenario("idle-plain"), 0);
        assert!(!plain.contains("post_notifiers") && !plain.contains("init.talk"));
    }

    #[test]
    fn a_capture_kernel_is_told_which_cpus_to_bring_online() {
        let line = command_line(&scenario("online-again"), 96);
        let capture = " crashkernel=96M init.capture=\"console=ttyAMA0 quiet panic=-1 init.vmcore maxcpus=1 \
                       irqchip.gicv3_pseudo_nmi=1 init.online=1,2\" init.trigger=";
        assert!(line.contains(capture), "{line}");
        assert!(!line.contains("post_notifiers"));
    }

    #[test]
    fn the_last_flush_takes_over_an_nbcon_console_unless_a_reset_comes_first() {
        let (stays, resets) = (scenario("console-nbcon"), scenario("console-nbcon-reset"));
        assert_eq!(last_flush(&stays, true), "nbcon_atomic_flush_unsafe");
        assert_eq!(last_flush(&stays, false), "console_flush_on_panic");
        assert_eq!(last_flush(&resets, true), "console_flush_on_panic");
    }

    #[test]
    fn what_linux_cannot_do_is_named() {
        let refused = |name| check(&scenario(name)).unwrap_err().to_string();
        assert_eq!(check(&scenario("console-locked")), Ok(()));
        assert!(refused("e5-online-late").starts_with("e5-online-late begins with CPUs offline"));
        assert!(refused("late-stores").contains("stores that become visible late"));
        assert!(refused("wedged").contains("the point console-spin"));
        assert!(refused("v1-3-two-senders").contains("only one sender can be followed"));
    }
}
