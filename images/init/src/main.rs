//! PID 1 of a Linux guest: mounts what every program expects, runs the command that the kernel's command line names, says how it ended,
//! and ends the guest.
//!
//! `init.talk=CPUS` starts a talker on each of these CPUs (`1`, `0,2-3`), which writes long records to the kernel's log for ever.
//! `init.run=COMMAND` is what busybox's shell is to run, in double quotes if it holds a blank; with neither it nor a trigger there is a
//! shell on the console. `init.trigger=TRIGGER@CPU` then crashes or ends the kernel from that CPU; several, with commas between, all
//! at once ([`trigger::Act`]). `init.end=poweroff|reboot|halt|shell` is what comes then, `poweroff` if nothing is said.
//!
//! With `init.answer`, a word without a value, PID 1 writes the byte ENQ (0x05) to the console when all of this is ready and the
//! triggers are armed, or after `init.run` where there are none, and goes on when it reads the byte ACK (0x06) there. Others are
//! ignored.
//!
//! `init.capture=CMDLINE` loads /capture/Image and /capture/initrd as the capture kernel, with this command line, before anything else is
//! done. With `init.vmcore` this is that kernel: PID 1 brings the CPUs of `init.online=` online and hands over what /proc/vmcore
//! holds ([`vmcore`]).
//!
//! A talker has begun, and a trigger is armed, before anything that comes later is started. Each is a process of its own, so that
//! PID 1 is the one thread of its group and dies where it stands: only `exit` is done by PID 1 itself.
//!
//! Its last word on the console is `init: exit CODE` or `init: killed by signal N`, which a caller can wait for.

#![deny(unsafe_code)]

mod answer;
mod capture;
mod cmdline;
mod console;
mod cpus;
mod end;
mod knobs;
mod mounts;
mod printer;
mod process;
#[expect(unsafe_code, reason = "what no crate wraps")]
mod sys;
mod talker;
mod trigger;
mod vmcore;

use std::process::{Command, ExitCode};

use cmdline::Parameters;
use cpus::Cpus;
use end::End;
use trigger::Trigger;

/// What PID 1 could not do.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot mount {kind} on {target}: {source}")]
    Mount {
        kind: &'static str,
        target: &'static str,
        source: rustix::io::Errno,
    },
    #[error("cannot read /proc/cmdline: {0}")]
    Cmdline(std::io::Error),
    #[error("init.end={0}: it is one of poweroff, reboot, halt, shell")]
    UnknownEnd(String),
    #[error("cannot run {program}: {source}")]
    Spawn {
        program: String,
        source: std::io::Error,
    },
    #[error("cannot wait for a child: {0}")]
    Wait(rustix::io::Errno),
    #[error("init.talk={0}: it is a list of CPUs, such as 1 or 0,2-3")]
    UnknownCpus(String),
    #[error(
        "init.trigger={0}: it is TRIGGER@CPU, several of them with commas between; TRIGGER is one of {words}",
        words = trigger::Act::words()
    )]
    UnknownTrigger(String),
    #[error("init.trigger={0}: PID 1 can exit once only")]
    TwoExits(String),
    #[error("cannot move to CPU {cpu}: {source}; is it online?")]
    Pin { cpu: u32, source: rustix::io::Errno },
    #[error(
        "cannot move the thread that writes to the console to CPUs {cpus:?}: {source}; are they online?"
    )]
    PinPrinter {
        cpus: Vec<u32>,
        source: rustix::io::Errno,
    },
    #[error("cannot keep the console's UART awake by {control}: {source}")]
    Awake {
        control: String,
        source: std::io::Error,
    },
    #[error("cannot look for the threads that write to the console in /proc: {0}")]
    Processes(std::io::Error),
    #[error("cannot open {path}: {source}; {needs}")]
    Open {
        path: &'static str,
        needs: &'static str,
        source: std::io::Error,
    },
    #[error("cannot write {text:?} to {path}: {source}")]
    Write {
        path: &'static str,
        text: &'static str,
        source: std::io::Error,
    },
    #[error("{what} did not begin (see above)")]
    NotBegun { what: String },
    #[error("the kernel survived {trigger} ({outcome})")]
    Survived {
        trigger: Trigger,
        outcome: process::Outcome,
    },
    #[error(
        "cannot talk over {path}: {source}; init.answer and init.vmcore need a console that is a terminal, such as console=ttyAMA0"
    )]
    Console {
        path: &'static str,
        source: std::io::Error,
    },
    #[error("the console ended before it answered: init.answer waits for ACK (0x06)")]
    NoAnswer,
    #[error("cannot load the capture kernel: {0}")]
    Capture(#[from] capture::Error),
    #[error("cannot hand over /proc/vmcore: {0}")]
    Vmcore(#[from] vmcore::Error),
    #[error("init.online={0}: it is a list of CPUs, such as 1 or 0,2-3")]
    UnknownOnline(String),
    #[error("cannot reboot: {0}")]
    Reboot(rustix::io::Errno),
    #[error("{0:?}: PID 1 starts its children as talk CPU, or trigger TRIGGER@CPU")]
    UnknownRole(Vec<String>),
}

fn main() -> ExitCode {
    // The kernel hands words of its command line that it does not know to PID 1 as arguments.
    if std::process::id() == 1 {
        pid1()
    }
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let error = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [talker::ROLE, cpu] => match cpu.parse() {
            Ok(cpu) => talker::talk(cpu),
            Err(_) => Error::UnknownCpus(cpu.to_owned()),
        },
        [trigger::ROLE, word] => match Trigger::parse(word) {
            Some(trigger) => trigger.serve(),
            None => Error::UnknownTrigger(word.to_owned()),
        },
        _ => Error::UnknownRole(arguments),
    };
    eprintln!("init: {error}");
    ExitCode::FAILURE
}

fn pid1() -> ! {
    let end = serve().unwrap_or_else(|error| {
        eprintln!("init: {error}");
        End::PowerOff
    });
    // Coming back would make the kernel panic ("Attempted to kill init!"), and that would be taken for the guest's own crash.
    let error = end.now();
    eprintln!("init: cannot {end}: {error}");
    loop {
        std::thread::park();
    }
}

/// Does the guest's work and says how the guest is to end.
fn serve() -> Result<End, Error> {
    mounts::mount_all()?;
    let text = std::fs::read_to_string("/proc/cmdline").map_err(Error::Cmdline)?;
    let parameters = Parameters::parse(&text);

    let end = match parameters.end {
        None => Some(End::PowerOff),
        Some("shell") => None,
        Some(word) => Some(End::from_word(word).ok_or_else(|| Error::UnknownEnd(word.to_owned()))?),
    };
    let talkers = match parameters.talk {
        None => Cpus::default(),
        Some(list) => Cpus::parse(list).ok_or_else(|| Error::UnknownCpus(list.to_owned()))?,
    };
    let triggers = match parameters.trigger {
        None => Vec::new(),
        Some(list) => trigger::parse_all(list)?,
    };

    if parameters.vmcore {
        let online = match parameters.online {
            None => Cpus::default(),
            Some(list) => Cpus::parse(list).ok_or_else(|| Error::UnknownOnline(list.to_owned()))?,
        };
        vmcore::hand_over(&online)?;
        return Ok(end.unwrap_or(End::PowerOff));
    }
    if let Some(cmdline) = parameters.capture {
        capture::load(cmdline)?;
    }

    talker::start(&talkers)?;
    if let Some(command) = parameters.run {
        println!(
            "init: {}",
            process::run(Command::new("/bin/sh").args(["-c", command]))?
        );
    }
    let armed = trigger::arm(&triggers)?;
    if parameters.answer {
        answer::wait()?;
    }
    if !triggers.is_empty() {
        return Err(armed.pull()?);
    }
    if parameters.run.is_none() || end.is_none() {
        println!("init: {}", process::run(&mut shell())?);
    }
    Ok(end.unwrap_or(End::PowerOff))
}

/// A shell with the console as its controlling terminal, so that Ctrl-C reaches what runs in it. /dev/console itself cannot be one;
/// busybox's cttyhack finds the device behind it.
fn shell() -> Command {
    let mut shell = Command::new("/bin/setsid");
    shell.args(["cttyhack", "sh"]);
    shell
}
