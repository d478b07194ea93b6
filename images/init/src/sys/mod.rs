//! System calls that no crate wraps. The only place of this crate with `unsafe`.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::{ffi, io};

/// `struct kexec_segment` (include/uapi/linux/kexec.h): bytes of this process, and where in physical memory they go.
#[repr(C)]
pub(crate) struct Segment<'a> {
    buffer: *const u8,
    bytes: usize,
    at: u64,
    size: u64,
    lives: std::marker::PhantomData<&'a [u8]>,
}

impl<'a> Segment<'a> {
    /// Bytes that go to this address; what is left of their last page is zeroed. Both ends are page-aligned.
    pub(crate) fn new(bytes: &'a [u8], at: u64, page: u64) -> Self {
        Self {
            buffer: bytes.as_ptr(),
            bytes: bytes.len(),
            at,
            size: (bytes.len() as u64).next_multiple_of(page),
            lives: std::marker::PhantomData,
        }
    }
}

/// Has the kernel load a capture kernel from a file (kexec_file_load(2), KEXEC_FILE_ON_CRASH).
pub(crate) fn kexec_file_load(
    kernel: BorrowedFd<'_>,
    initrd: BorrowedFd<'_>,
    cmdline: &ffi::CStr,
) -> io::Result<()> {
    const ON_CRASH: libc::c_ulong = 2;
    let bytes = cmdline.to_bytes_with_nul().len() as libc::c_ulong;
    // SAFETY: the files are open, and the text has so many bytes; the kernel copies them and keeps no reference.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            bytes,
            cmdline.as_ptr(),
            ON_CRASH,
        )
    };
    outcome(returned)
}

/// Hands the kernel the parts of a capture kernel (kexec_load(2), KEXEC_ON_CRASH).
pub(crate) fn kexec_load(entry: u64, segments: &[Segment<'_>]) -> io::Result<()> {
    const ON_CRASH: libc::c_ulong = 1;
    /// EM_AARCH64 << 16.
    const AARCH64: libc::c_ulong = 183 << 16;
    // SAFETY: each segment borrows the bytes that it names; the kernel copies them and keeps no reference.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            entry,
            segments.len(),
            segments.as_ptr(),
            ON_CRASH | AARCH64,
        )
    };
    outcome(returned)
}

fn outcome(returned: libc::c_long) -> io::Result<()> {
    if returned == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
