//! The console as a line between machines: raw, so that nothing is echoed, translated or waited for.

use std::fs::{File, OpenOptions};

use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};

use crate::Error;

const CONSOLE: &str = "/dev/console";

/// Has a raw console for as long as this takes.
pub(crate) fn raw<T>(talk: impl FnOnce(&mut File) -> std::io::Result<T>) -> Result<T, Error> {
    let failed = |source| Error::Console {
        path: CONSOLE,
        source,
    };
    let mut console = (OpenOptions::new().read(true).write(true))
        .open(CONSOLE)
        .map_err(failed)?;
    let before = tcgetattr(&console).map_err(|errno| failed(errno.into()))?;
    let mut raw = before.clone();
    raw.make_raw();
    // These would make the driver set up its UART anew (Linux drivers/tty/serial/serial_core.c, uart_set_termios()).
    raw.control_modes = before.control_modes;
    let set = |console: &File, modes| {
        tcsetattr(console, OptionalActions::Now, modes).map_err(|errno| failed(errno.into()))
    };
    set(&console, &raw)?;
    let talked = talk(&mut console);
    // What is still to be sent was written for a raw one.
    tcdrain(&console).map_err(|errno| failed(errno.into()))?;
    set(&console, &before)?;
    talked.map_err(failed)
}
