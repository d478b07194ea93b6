//! The caller's terminal, while a terminal of the lab stands behind it.

use rustix::stdio::{stdin, stdout};
use rustix::termios::{isatty, tcgetwinsize};

use super::frame::Size;

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
