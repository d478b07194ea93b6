//! What crashes the kernel, or ends it.

use std::convert::Infallible;
use std::fmt;
use std::io::{Read, Write};
use std::process::{ChildStdin, Command, Stdio};

use crate::cpus::{number, pin};
use crate::end::End;
use crate::knobs::{open, put};
use crate::process::{begun, call_itself, say_begun};
use crate::{Error, mounts, process};

/// The first argument of a process that pulls a trigger; the trigger is the second.
pub(crate) const ROLE: &str = "trigger";

/// What is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Act {
    /// PID 1 exits: `panic()` with nothing printed before it.
    Exit,
    /// `c` to /proc/sysrq-trigger: a line of its own, then `panic()`.
    SysrqC,
    /// LKDTM's PANIC: a line of its own, then `panic()`.
    Panic,
    /// LKDTM's PANIC_STOP_IRQOFF: `panic()` inside of `stop_machine()`, where all other CPUs have interrupts masked. The last CPU to
    /// come there panics, whichever was named.
    PanicStopIrqoff,
    /// LKDTM's HARDLOCKUP: the CPU turns in a circle with interrupts masked. Nothing else comes of it.
    Hardlockup,
    /// The same, and the hard-lockup detector panics on the CPU before it, which finds it after few seconds.
    LockupDetector,
    /// `reboot(RB_AUTOBOOT)`, without a panic.
    Reboot,
}

const LKDTM: &str = "/sys/kernel/debug/provoke-crash/DIRECT";

impl Act {
    const ALL: [Self; 7] = [
        Self::Exit,
        Self::SysrqC,
        Self::Panic,
        Self::PanicStopIrqoff,
        Self::Hardlockup,
        Self::LockupDetector,
        Self::Reboot,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::SysrqC => "sysrq-c",
            Self::Panic => "panic",
            Self::PanicStopIrqoff => "panic-stop-irqoff",
            Self::Hardlockup => "hardlockup",
            Self::LockupDetector => "lockup-detector",
            Self::Reboot => "reboot",
        }
    }

    /// All words, for a message.
    pub(crate) fn words() -> String {
        Self::ALL.map(Self::word).join(", ")
    }

    /// The file that it is done by, what is written there, and what a kernel without that file lacks.
    fn written(self) -> Option<(&'static str, &'static str, &'static str)> {
        let lkdtm = |text| Some((LKDTM, text, "the kernel has no CONFIG_LKDTM"));
        match self {
            Self::Exit | Self::Reboot => None,
            Self::SysrqC => Some((
                "/proc/sysrq-trigger",
                "c",
                "the kernel has no CONFIG_MAGIC_SYSRQ",
            )),
            Self::Panic => lkdtm("PANIC"),
            Self::PanicStopIrqoff => lkdtm("PANIC_STOP_IRQOFF"),
            Self::Hardlockup | Self::LockupDetector => lkdtm("HARDLOCKUP"),
        }
    }
}

/// What is done, and on which CPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Trigger {
    act: Act,
    cpu: u32,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.act.word(), self.cpu)
    }
}

/// The value of `init.trigger=`.
pub(crate) fn parse_all(list: &str) -> Result<Vec<Trigger>, Error> {
    let triggers: Vec<_> = list
        .split(',')
        .map(|word| Trigger::parse(word).ok_or_else(|| Error::UnknownTrigger(list.to_owned())))
        .collect::<Result<_, _>>()?;
    if triggers.iter().filter(|it| it.act == Act::Exit).count() > 1 {
        return Err(Error::TwoExits(list.to_owned()));
    }
    Ok(triggers)
}

/// Triggers that wait to be pulled.
pub(crate) struct Armed {
    /// PID 1 itself does it.
    exits: bool,
    /// Processes that do the others.
    children: Vec<(u32, Trigger)>,
    /// Their inputs, each of which waits for a byte.
    let_go: Vec<ChildStdin>,
}

/// Arms all triggers.
pub(crate) fn arm(triggers: &[Trigger]) -> Result<Armed, Error> {
    if triggers
        .iter()
        .any(|it| it.act.written().is_some_and(|(path, ..)| path == LKDTM))
    {
        mounts::debugfs()?;
    }
    let (own, others): (Vec<_>, Vec<_>) = triggers.iter().partition(|it| it.act == Act::Exit);
    let mut armed = Armed {
        exits: !own.is_empty(),
        children: Vec::new(),
        let_go: Vec::new(),
    };
    for &trigger in others {
        let mut child = process::spawn(
            Command::new("/proc/self/exe")
                .args([ROLE, &trigger.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        )?;
        begun(&mut child, || trigger.to_string())?;
        let input = child.stdin.take().expect("its input is a pipe");
        armed.let_go.push(input);
        armed.children.push((child.id(), trigger));
    }
    if let Some(exit) = own.first() {
        pin(exit.cpu)?;
    }
    Ok(armed)
}

impl Armed {
    /// Pulls them together. Comes back only with what the kernel survived.
    pub(crate) fn pull(self) -> Result<Error, Error> {
        for mut input in self.let_go {
            // One that has ended already is what is waited for below.
            let _ = input.write_all(b".");
        }
        if self.exits {
            std::process::exit(0);
        }
        let ids: Vec<_> = self.children.iter().map(|it| it.0).collect();
        let (id, outcome) = process::first_of(&ids)?;
        let trigger = (self.children.into_iter())
            .find(|it| it.0 == id)
            .expect("it is one of these")
            .1;
        Ok(Error::Survived { trigger, outcome })
    }
}

impl Trigger {
    /// Reads `TRIGGER@CPU`.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        let (act, cpu) = word.split_once('@')?;
        Some(Self {
            act: Act::ALL.into_iter().find(|it| it.word() == act)?,
            cpu: number(cpu)?,
        })
    }

    /// Does it, as a process of its own, once its input has a byte. Comes back only with what went wrong.
    pub(crate) fn serve(self) -> Error {
        match self.arm_and_pull() {
            Err(error) => error,
        }
    }

    fn arm_and_pull(self) -> Result<Infallible, Error> {
        call_itself(c"trigger");
        pin(self.cpu)?;
        if self.act == Act::LockupDetector {
            let needs = "the kernel has no CONFIG_HARDLOCKUP_DETECTOR";
            // In seconds. One would do, but a loaded host keeps other CPUs from running for as long.
            put("/proc/sys/kernel/watchdog_thresh", "3", needs)?;
            put("/proc/sys/kernel/hardlockup_panic", "1", needs)?;
        }
        let file = self
            .act
            .written()
            .map(|(path, text, needs)| open(path, needs).map(|file| (file, path, text)))
            .transpose()?;
        say_begun();
        if std::io::stdin().read_exact(&mut [0]).is_err() {
            // PID 1 has given up, and its error is not to be buried under a crash.
            std::process::exit(0);
        }
        match file {
            Some((mut file, path, text)) => match file.write_all(text.as_bytes()) {
                Ok(()) => std::process::exit(0),
                Err(source) => Err(Error::Write { path, text, source }),
            },
            None => Err(Error::Reboot(End::Reboot.now())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trigger_is_read_as_it_is_written() {
        for act in Act::ALL {
            let trigger = Trigger { act, cpu: 2 };
            assert_eq!(Trigger::parse(&trigger.to_string()), Some(trigger));
        }
    }

    #[test]
    fn several_are_pulled_together() {
        let triggers = parse_all("hardlockup@1,sysrq-c@3").unwrap();
        assert_eq!(
            triggers,
            [
                Trigger {
                    act: Act::Hardlockup,
                    cpu: 1
                },
                Trigger {
                    act: Act::SysrqC,
                    cpu: 3
                }
            ]
        );
    }

    #[test]
    fn what_is_none_is_named() {
        for list in ["", "exit", "exit@", "boom@1", "exit@x", "exit@1,", "@1"] {
            let error = parse_all(list).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("init.trigger={list}: it is TRIGGER@CPU")),
                "{error}"
            );
            assert!(
                error.ends_with("one of exit, sysrq-c, panic, panic-stop-irqoff, hardlockup, lockup-detector, reboot"),
                "{error}"
            );
        }
        assert_eq!(
            parse_all("exit@1,exit@2").unwrap_err().to_string(),
            "init.trigger=exit@1,exit@2: PID 1 can exit once only"
        );
    }
}
