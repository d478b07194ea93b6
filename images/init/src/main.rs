//! PID 1 of a Linux guest: mounts what every program expects, runs the command that the kernel's command line names, says how it ended,
//! and ends the guest.
//!
//! `init.run=COMMAND` is what busybox's shell is to run, in double quotes if it holds a blank; without it there is a shell on the
//! console. `init.end=poweroff|reboot|halt|shell` is what comes then, `poweroff` if nothing is said.
//!
//! Its last word on the console is `init: exit CODE` or `init: killed by signal N`, which a caller can wait for.

#![forbid(unsafe_code)]

mod cmdline;
mod end;
mod mounts;
mod process;

use std::process::Command;

use cmdline::Parameters;
use end::End;

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
}

fn main() {
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
    if let Some(command) = parameters.run {
        println!(
            "init: {}",
            process::run(Command::new("/bin/sh").args(["-c", command]))?
        );
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
