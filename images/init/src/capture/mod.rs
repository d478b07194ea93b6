//! The capture kernel, which the kernel goes to when it panics: loaded into the memory that `crashkernel=` has reserved.
//!
//! kexec_file_load(2) is given files, and the kernel does the rest. Where a kernel has only kexec_load(2), as Debian's, the parts are made
//! here: [`vmcore`](elfcorehdr) headers, a device tree, and a few instructions that enter the kernel with it.

mod elfcorehdr;
mod parts;
mod tree;

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::sys;

/// Where whoever made the initramfs has put it.
const KERNEL: &str = "/capture/Image";
const INITRD: &str = "/capture/initrd";

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{0:?} is no command line: it has a NUL in it")]
    Cmdline(String),
    #[error(
        "this kernel has neither kexec_file_load(2) nor kexec_load(2): it needs CONFIG_KEXEC_FILE or CONFIG_KEXEC"
    )]
    None,
    #[error("it does not fit into what crashkernel= reserves{0}")]
    Room(String),
    #[error("{KERNEL} is not a kernel that it can load: {0}")]
    Kernel(String),
    #[error("{path} is not what was expected: {what}")]
    Strange { path: String, what: String },
    #[error("{call}: {source}")]
    Refused {
        call: &'static str,
        source: io::Error,
    },
}

fn read(path: &str) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// Loads it.
pub(crate) fn load(cmdline: &str) -> Result<(), Error> {
    let open = |path: &str| {
        File::open(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })
    };
    let (kernel, initrd) = (open(KERNEL)?, open(INITRD)?);
    let text = CString::new(cmdline).map_err(|_| Error::Cmdline(cmdline.to_owned()))?;
    let Err(source) = sys::kexec_file_load(kernel.as_fd(), initrd.as_fd(), &text) else {
        return Ok(());
    };
    // What kexec_locate_mem_hole() and the loaders of arch/arm64/kernel/kexec_image.c come back with.
    match Errno::from_io_error(&source) {
        Some(Errno::NOSYS) => load_parts(cmdline),
        Some(errno @ (Errno::ADDRNOTAVAIL | Errno::NOMEM)) => {
            Err(Error::Room(format!(": {errno}")))
        }
        Some(errno @ (Errno::NOEXEC | Errno::INVAL)) => Err(Error::Kernel(errno.to_string())),
        _ => Err(Error::Refused {
            call: "kexec_file_load(2)",
            source,
        }),
    }
}

fn load_parts(cmdline: &str) -> Result<(), Error> {
    let parts = parts::Parts::make(cmdline)?;
    sys::kexec_load(parts.entry(), &parts.segments()).map_err(|source| {
        match Errno::from_io_error(&source) {
            Some(Errno::NOSYS) => Error::None,
            Some(errno @ (Errno::ADDRNOTAVAIL | Errno::NOMEM)) => Error::Room(format!(": {errno}")),
            _ => Error::Refused {
                call: "kexec_load(2)",
                source,
            },
        }
    })
}
