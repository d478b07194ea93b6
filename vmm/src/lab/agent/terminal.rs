//! A pseudo-terminal of the lab.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::super::frame::Size;

/// The agent's side and the verb's side.
pub(super) fn open(size: Size) -> io::Result<(File, File)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    // Opened by an agent that leads no session, it becomes nobody's controlling terminal by this.
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(OsStr::from_bytes(name.as_bytes()))?;
    let ours = File::from(ours);
    resize(&ours, size)?;
    Ok((ours, theirs))
}

/// Gives it another size; the programs on it are told by SIGWINCH.
pub(super) fn resize(ours: &File, size: Size) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(ours, size)?)
}
