//! A pseudo-terminal of the lab.

use std::fs::File;
use std::io;

use rustix::termios::{Winsize, tcsetwinsize};

use super::super::frame::Size;
use crate::console::pty;

/// The agent's side and the verb's side.
pub(super) fn open(size: Size) -> io::Result<(File, File)> {
    let (ours, theirs, _) = pty::open()?;
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
