//! Running the command on a terminal, as a person would.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::line::Line;
use crate::processes::Process;
use crate::{Marked, Outcome, Vmm};

/// A command on a terminal of its own. Dropped before its end, as by a test that fails, it is killed.
pub struct OnTerminal {
    /// The terminal.
    pub terminal: Line,
    process: Process,
}

impl OnTerminal {
    /// Starts a command as the leader of a session on a new terminal.
    ///
    /// # Panics
    ///
    /// When this machine gives none.
    pub fn start(vmm: Vmm) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pseudo-terminal");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it is ours");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        let theirs = File::options()
            .read(true)
            .write(true)
            .open(Path::new(OsStr::from_bytes(name.as_bytes())))
            .expect("it can be opened");
        let (plain, line, mark) = vmm.into_parts();
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(plain.get_program())
            .args(plain.get_args());
        for (name, value) in plain.get_envs() {
            command.env(
                name,
                value.expect("the tests set variables and remove none"),
            );
        }
        if let Some(folder) = plain.get_current_dir() {
            command.current_dir(folder);
        }
        let stdio = || Stdio::from(theirs.try_clone().expect("descriptors are left"));
        let child = command
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap_or_else(|error| panic!("setsid: {error}"));
        Self {
            terminal: Line::new(ours),
            process: Process::new(child, line, mark),
        }
    }

    /// Whether every key goes to the command as it is.
    ///
    /// # Panics
    ///
    /// When the terminal is neither as it was nor in raw mode.
    pub fn is_raw(&self) -> bool {
        // Our side shows the modes of the other one (Linux tty_ioctl.c, `tty_mode_ioctl`).
        let modes = tcgetattr(self.terminal.file()).expect("a terminal has modes");
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        let on = modes.local_modes & cooked;
        assert!(on == cooked || on.is_empty(), "half raw: {on:?}");
        on.is_empty()
    }

    /// The mark that its descendants bear.
    pub fn mark(&self) -> Marked {
        self.process.mark.clone()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until a signal has stopped it.
    ///
    /// # Panics
    ///
    /// When it ends instead, or goes on.
    #[track_caller]
    pub fn wait_until_stopped(&self) {
        if let Err(problem) = self.process.wait_until_stopped() {
            panic!("{problem}:\n{}", self.terminal.text());
        }
    }

    /// Waits for its end; the terminal is as it was.
    ///
    /// # Panics
    ///
    /// When it does not end, leaves somebody behind who has the terminal open, or leaves the terminal raw.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        let ended = self.process.end(&mut [&mut self.terminal]);
        let raw = self.is_raw();
        let outcome = Outcome {
            line: self.process.line.clone(),
            code: *ended.as_ref().unwrap_or(&-1),
            stdout: self.terminal.text(),
            stderr: String::new(),
        };
        if let Err(problem) = ended {
            panic!("{problem}:\n{}", outcome.story());
        }
        assert!(!raw, "the terminal is still raw:\n{}", outcome.story());
        outcome
    }
}
