//! The processes of one verb, however they multiply.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group};

/// A control group (cgroup-v2) where there is one; the verb's process group alone otherwise.
pub(super) struct Group {
    folder: Option<PathBuf>,
}

impl Group {
    pub(super) fn new(folder: Option<PathBuf>) -> io::Result<Self> {
        if let Some(folder) = &folder {
            fs::create_dir(folder)?;
        }
        Ok(Self { folder })
    }

    /// What a child writes to in order to join.
    pub(super) fn door(&self) -> io::Result<Option<OwnedFd>> {
        let open = |folder: &PathBuf| {
            File::options()
                .write(true)
                .open(folder.join("cgroup.procs"))
        };
        Ok(self
            .folder
            .as_ref()
            .map(open)
            .transpose()?
            .map(OwnedFd::from))
    }

    /// Kills all of them; `leader` led the verb's process group.
    pub(super) fn kill(&self, leader: Pid) -> io::Result<()> {
        match &self.folder {
            Some(folder) => fs::write(folder.join("cgroup.kill"), "1"),
            None => match kill_process_group(leader, Signal::KILL) {
                Err(rustix::io::Errno::SRCH) => Ok(()),
                done => Ok(done?),
            },
        }
    }

    /// Waits until none is left. The kernel tells a change of `cgroup.events` as an urgent condition
    /// (Documentation/admin-guide/cgroup-v2.rst,
    /// "[Un]populated Notification").
    pub(super) fn wait_empty(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        loop {
            let mut events = File::open(folder.join("cgroup.events"))?;
            let mut text = String::new();
            events.read_to_string(&mut text)?;
            if text.lines().any(|line| line == "populated 0") {
                return Ok(());
            }
            poll(&mut [PollFd::new(&events, PollFlags::PRI)], None)?;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder
            && let Err(error) = fs::remove_dir(folder)
        {
            tracing::warn!("cannot remove {}: {error}", folder.display());
        }
    }
}
