//! Finding the processes that a command has started, its own children's children too.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

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
