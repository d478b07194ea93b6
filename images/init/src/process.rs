//! Children, as PID 1 has them: its own, and every orphan of the guest.

use std::ffi::CStr;
use std::fmt;
use std::io::{Read, Write};
use std::process::{Child, Command};

use rustix::process::{WaitOptions, WaitStatus, wait};
use rustix::thread::set_name;

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

/// Starts a command.
pub(crate) fn spawn(command: &mut Command) -> Result<Child, Error> {
    command.spawn().map_err(|source| Error::Spawn {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })
}

/// Runs a command to its end with the console as its input and output, and reaps whatever else ends meanwhile.
pub(crate) fn run(command: &mut Command) -> Result<Outcome, Error> {
    let child = spawn(command)?;
    Ok(first_of(&[child.id()])?.1)
}

/// Waits for the byte by which a child says that it has begun.
pub(crate) fn begun(child: &mut Child, what: impl FnOnce() -> String) -> Result<(), Error> {
    let mut says = child.stdout.take().expect("its output is a pipe");
    says.read_exact(&mut [0])
        .map_err(|_| Error::NotBegun { what: what() })
}

/// Gives this process the name that the kernel's reports call it by.
pub(crate) fn call_itself(name: &CStr) {
    set_name(name).expect("a string that ends is all that the kernel asks for");
}

/// Says to whoever started this process that it has begun.
pub(crate) fn say_begun() {
    let mut stdout = std::io::stdout();
    // Nobody listens any more where PID 1 has given up already.
    let _ = stdout.write_all(b".").and_then(|()| stdout.flush());
}

/// Waits until one of these children ends, and reaps whatever else ends meanwhile.
pub(crate) fn first_of(children: &[u32]) -> Result<(u32, Outcome), Error> {
    loop {
        // Not Child::wait: orphans are handed to PID 1, and would stay zombies.
        let (pid, status) = match wait(WaitOptions::empty()) {
            Ok(ended) => ended.expect("without NOHANG, wait comes back with a child"),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(Error::Wait(error)),
        };
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        if children.contains(&pid)
            && let Some(outcome) = Outcome::of(status)
        {
            return Ok((pid, outcome));
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
