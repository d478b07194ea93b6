//! Descriptors that this process was started with.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::sockopt::socket_acceptconn;

/// The listening socket with this number, if it is one that was inherited: whatever this process opens itself is closed on exec. Taken
/// once, for it then belongs to whoever took it.
pub(crate) fn listener(number: RawFd) -> Option<UnixListener> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if number <= 2 || TAKEN.swap(true, Ordering::SeqCst) {
        return None;
    }
    // SAFETY: it is used only to ask what it is, and given up below if it is not what was inherited.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let inherited = fcntl_getfd(&descriptor).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
        && socket_acceptconn(&descriptor).unwrap_or(false)
        && fcntl_setfd(&descriptor, FdFlags::CLOEXEC).is_ok();
    if !inherited {
        // Not ours to close.
        let _ = std::os::fd::IntoRawFd::into_raw_fd(descriptor);
        return None;
    }
    debug_assert_eq!(descriptor.as_raw_fd(), number);
    Some(descriptor.into())
}
