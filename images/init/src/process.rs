//! Children, as PID 1 has them: its own, and every orphan of the guest.

use std::fmt;
use std::process::Command;

use rustix::process::{WaitOptions, WaitStatus, wait};

use crate::Error;

/// How a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// With an exit code.
    Exit(i32),
    /// By a signal.
    Signal(i32),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

impl Outcome {
    /// None for a child that only stopped or went on.
    fn of(status: WaitStatus) -> Option<Self> {
        status
            .exit_status()
            .map(Self::Exit)
            .or_else(|| status.terminating_signal().map(Self::Signal))
    }
}

/// Runs a command to its end with the console as its input and output, and reaps whatever else ends meanwhile.
pub(crate) fn run(command: &mut Command) -> Result<Outcome, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command
        .spawn()
        .map_err(|source| Error::Spawn { program, source })?;
    loop {
        // Not Child::wait: orphans are handed to PID 1, and would stay zombies.
        let (pid, status) = match wait(WaitOptions::empty()) {
            Ok(ended) => ended.expect("without NOHANG, wait comes back with a child"),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(Error::Wait(error)),
        };
        if pid.as_raw_nonzero().get().unsigned_abs() == child.id()
            && let Some(outcome) = Outcome::of(status)
        {
            return Ok(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: wait() takes any child of the process, so two at once would take each other's.
    #[test]
    fn it_says_how_a_command_ended() {
        let shell = |script: &str| {
            run(Command::new("/bin/sh").args(["-c", script])).map(|outcome| outcome.to_string())
        };
        assert_eq!(shell("exit 3").unwrap(), "exit 3");
        assert_eq!(shell("kill -9 $$").unwrap(), "killed by signal 9");

        let error = run(&mut Command::new("/no/such/program")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot run /no/such/program: "),
            "{error}"
        );
    }
}
