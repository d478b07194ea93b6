//! Standard output, for verbs that print much.

use std::io::{ErrorKind, Write as _};

/// Prints a text. A reader that has gone away (`vmm … | head`) ends the program as SIGPIPE would.
pub(super) fn print(text: &str) {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(128 + 13),
        Err(error) => {
            eprintln!("vmm: cannot write to standard output: {error}");
            std::process::exit(2);
        }
    }
}
