//! A command's process, and the processes that it has started, its own children's children too.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid,
};

use crate::line::{Line, deadline, late, listen};

/// A command's process. Dropped before its end it is killed.
pub(crate) struct Process {
    child: Child,
    /// The command line, for messages.
    pub(crate) line: String,
    pub(crate) mark: Marked,
}

impl Process {
    pub(crate) fn new(child: Child, line: String, mark: Marked) -> Self {
        Self { child, line, mark }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child of ours takes a signal");
    }

    /// Waits until a signal has stopped it.
    pub(crate) fn wait_until_stopped(&self) -> Result<(), String> {
        let pid = Pid::from_child(&self.child);
        let (tell, told) = mpsc::channel();
        // Nothing that could be polled tells of a stop. If none comes, this thread ends with the process.
        std::thread::spawn(move || {
            let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let _ = tell.send(waitid(WaitId::Pid(pid), options));
        });
        let left = deadline().saturating_duration_since(Instant::now());
        match told.recv_timeout(left) {
            Ok(Ok(Some(status))) if status.stopped() => Ok(()),
            Ok(other) => Err(format!("it was not stopped but ended ({other:?})")),
            Err(_) => Err(format!("no signal stopped it {}", late())),
        }
    }

    /// Waits until it has ended and all that it said has come: its exit code, or 128 and the number of the signal that killed it.
    pub(crate) fn end(&mut self, said: &mut [&mut Line]) -> Result<i32, String> {
        let until = deadline();
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())
            .expect("a child that nobody has waited for");
        loop {
            let status = self.child.try_wait().expect("a child can be waited for");
            let all_said = said.iter().all(|line| line.ended());
            if let (Some(status), true) = (status, all_said) {
                let signal = || 128 + status.signal().unwrap_or(0);
                return Ok(status.code().unwrap_or_else(signal));
            }
            let running = status.is_none();
            let its_end = running.then(|| PollFd::new(&process, PollFlags::IN));
            if !listen(said, its_end, until) {
                return Err(if running {
                    format!("it did not end {}", late())
                } else {
                    format!(
                        "it has ended, but what it wrote to was not closed {}: these run still: {:?}",
                        late(),
                        self.mark.alive()
                    )
                });
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Does nothing to one that was waited for.
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

const NAME: &str = "HOLDPOINT_TEST_MARK";

/// A mark in the environment that a command's descendants inherit.
#[derive(Clone, Debug)]
pub struct Marked(String);

impl Marked {
    /// A mark that no other test has.
    pub fn fresh() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// The variable and its value.
    pub fn variable(&self) -> (&'static str, &str) {
        (NAME, &self.0)
    }

    /// The processes that bear the mark and are no zombies.
    pub fn alive(&self) -> Vec<Pid> {
        let mark = format!("{NAME}={}", self.0);
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                // A process that has ended has no environment any more.
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment
                    .split(|&byte| byte == 0)
                    .any(|variable| variable == mark.as_bytes())
            })
            .filter_map(Pid::from_raw)
            .collect()
    }

    /// Waits until none is left; says which are, when the time is up.
    pub fn wait_until_gone(&self, seconds: i64) -> Result<(), Vec<Pid>> {
        for pid in self.alive() {
            // Gone in between is gone.
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            let patience = Timespec {
                tv_sec: seconds,
                tv_nsec: 0,
            };
            let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience));
            if ended != Ok(1) {
                return Err(self.alive());
            }
        }
        match self.alive() {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        }
    }
}
