//! The caller's terminal, while a terminal of the lab stands behind it.

use std::io;

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::frame::Size;

/// A terminal in raw mode; every key, Ctrl-C too, goes to the lab. As before when this is dropped.
pub(super) struct Raw(Termios);

impl Raw {
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(stdin(), OptionalActions::Flush, &self.0) {
            tracing::warn!("cannot restore the terminal: {error}");
        }
    }
}

/// The size of the terminal that is both standard input and standard output, if it is one.
pub(super) fn size() -> Option<Size> {
    if !isatty(stdin()) || !isatty(stdout()) {
        return None;
    }
    let size = tcgetwinsize(stdout()).ok()?;
    Some(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}
