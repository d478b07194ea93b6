//! The kernel's files that are there to be written to.

use std::fs::{File, OpenOptions};
use std::io::Write;

use crate::Error;

/// Writes a text to a file of the kernel's.
pub(crate) fn put(
    path: &'static str,
    text: &'static str,
    needs: &'static str,
) -> Result<(), Error> {
    open(path, needs)?
        .write_all(text.as_bytes())
        .map_err(|source| Error::Write { path, text, source })
}

/// Opens a file of the kernel's for writing.
pub(crate) fn open(path: &'static str, needs: &'static str) -> Result<File, Error> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|source| Error::Open {
            path,
            needs,
            source,
        })
}
