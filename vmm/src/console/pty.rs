//! A console on a pseudo-terminal of its own, which a terminal program opens as it would open a serial port.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::relay::{self, Outside};

/// A new pseudo-terminal: our side, the other side, and the other side's name. It becomes nobody's controlling terminal by this.
pub fn open() -> io::Result<(File, File, PathBuf)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let path = PathBuf::from(OsStr::from_bytes(name.as_bytes()));
    let theirs = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits() as i32)
        .open(&path)?;
    Ok((ours.into(), theirs, path))
}

/// The console's.
#[derive(Debug)]
pub(super) struct Pty {
    ours: File,
    path: PathBuf,
    /// Tells of every open(2) of the other side: our side alone shows only that nobody has it open any more.
    opens: OwnedFd,
    heard: bool,
    typed: bool,
}

impl Pty {
    pub(super) fn open() -> io::Result<Self> {
        let (ours, theirs, path) = open()?;
        // As it is, it would send back what the guest says, as if somebody had typed that. The modes stay when it is closed.
        let mut modes = tcgetattr(&theirs)?;
        modes.make_raw();
        tcsetattr(&theirs, OptionalActions::Now, &modes)?;
        drop(theirs);
        fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        let opens = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&opens, &path, WatchFlags::OPEN)?;
        let mut pty = Self {
            ours,
            path,
            opens,
            heard: false,
            typed: false,
        };
        pty.look()?;
        Ok(pty)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Outside for Pty {
    fn news(&self) -> BorrowedFd<'_> {
        self.opens.as_fd()
    }

    fn look(&mut self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4 << 10];
        let mut events = inotify::Reader::new(&self.opens, &mut buffer);
        loop {
            match events.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if !relay::hung_up(&self.ours)? {
            self.heard = true;
            self.typed = true;
        }
        Ok(())
    }

    fn hearer(&self) -> Option<BorrowedFd<'_>> {
        self.heard.then_some(self.ours.as_fd())
    }

    fn lose_hearer(&mut self) {
        self.heard = false;
    }

    fn typist(&self) -> Option<BorrowedFd<'_>> {
        self.typed.then_some(self.ours.as_fd())
    }

    fn lose_typist(&mut self) {
        self.typed = false;
    }

    fn close(&mut self) {}
}
