//! Running the command on a terminal, as a person would.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use wait_timeout::ChildExt;

use crate::vmm::PATIENCE;
use crate::{Marked, Outcome, Vmm};

/// Something that is read and typed into like a terminal, with a memory of what came.
pub struct Line {
    file: File,
    seen: Vec<u8>,
    /// How much of that has been waited for.
    past: usize,
}

impl Line {
    /// A terminal or a socket.
    pub fn new(file: File) -> Self {
        Self {
            file,
            seen: Vec::new(),
            past: 0,
        }
    }

    /// Reads until these words have come, behind those that were waited for before.
    ///
    /// # Panics
    ///
    /// When they do not come.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) {
        loop {
            let rest = &self.seen[self.past..];
            let found = rest
                .windows(words.len())
                .position(|at| at == words.as_bytes());
            if let Some(at) = found {
                self.past += at + words.len();
                return;
            }
            let more = self.read(PATIENCE.as_secs() as i64);
            assert!(more, "{words:?} did not come:\n{}", self.text());
        }
    }

    /// Reads what comes within so many seconds; false when nothing came or nothing will.
    fn read(&mut self, seconds: i64) -> bool {
        let patience = Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        let mut wanted = [PollFd::new(&self.file, PollFlags::IN)];
        if poll(&mut wanted, Some(&patience)) != Ok(1) {
            return false;
        }
        let mut buffer = [0; 4096];
        // A terminal whose other side is closed says EIO.
        let count = self.file.read(&mut buffer).unwrap_or(0);
        self.seen.extend(&buffer[..count]);
        count > 0
    }

    /// Reads what there is until nothing is left, or until the other side is gone.
    pub fn rest(&mut self) -> String {
        while self.read(0) {}
        self.text()
    }

    /// All that came.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Types something.
    ///
    /// # Panics
    ///
    /// When nobody is there to take it.
    pub fn type_in(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).expect("somebody reads it");
    }
}

/// A command on a terminal of its own.
pub struct OnTerminal {
    /// The terminal.
    pub terminal: Line,
    child: Child,
    line: String,
    mark: Marked,
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
            terminal: Line::new(ours.into()),
            child,
            line,
            mark,
        }
    }

    /// Whether every key goes to the command as it is.
    ///
    /// # Panics
    ///
    /// When the terminal is neither as it was nor in raw mode.
    pub fn is_raw(&self) -> bool {
        // Our side shows the modes of the other one (Linux tty_ioctl.c, `tty_mode_ioctl`).
        let modes = tcgetattr(&self.terminal.file).expect("a terminal has modes");
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        let on = modes.local_modes & cooked;
        assert!(on == cooked || on.is_empty(), "half raw: {on:?}");
        on.is_empty()
    }

    /// The mark that its descendants bear.
    pub fn mark(&self) -> Marked {
        self.mark.clone()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it takes a signal");
    }

    /// Waits until a signal has stopped it.
    ///
    /// # Panics
    ///
    /// When it ends instead.
    pub fn wait_until_stopped(&self) {
        let pid = WaitId::Pid(Pid::from_child(&self.child));
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(pid, options)
            .expect("it is our child")
            .expect("without NOHANG there is a status");
        assert!(status.stopped(), "it has ended:\n{}", self.terminal.text());
    }

    /// Waits for its end; the terminal is as it was.
    ///
    /// # Panics
    ///
    /// When it does not end, or leaves the terminal raw.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        let status = self
            .child
            .wait_timeout(PATIENCE)
            .expect("a child can be waited for");
        if status.is_none() {
            let _ = self.child.kill();
        }
        let raw = self.is_raw();
        let outcome = Outcome {
            line: self.line,
            code: status.map_or(-1, |status| {
                status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
            }),
            stdout: self.terminal.rest(),
            stderr: String::new(),
        };
        assert!(
            status.is_some(),
            "it was still there after {PATIENCE:?}:\n{}",
            outcome.story()
        );
        assert!(!raw, "the terminal is still raw:\n{}", outcome.story());
        outcome
    }
}
