//! How a thread is brought out of KVM_RUN: a signal whose handler, on that very thread, sets `immediate_exit`.
//!
//! A signal alone would be lost when it comes just before KVM_RUN. With the handler's store it is not: KVM looks at
//! `immediate_exit` once no signal can slip by any more (KVM API, 5., `immediate_exit`). Because the handler runs on
//! the vCPU's own thread, no other thread ever holds a pointer into its `kvm_run`.

use std::cell::Cell;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};

use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::vcpu::Kick;

thread_local! {
    /// This thread's `kvm_run.immediate_exit`, while it has a vCPU. Constant at start and without a destructor, so that
    /// a signal handler may read it at any moment.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

fn signal() -> libc::c_int {
    SIGRTMIN()
}

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `Bound` keeps the pointer valid as long as it stands in this thread's cell.
        let flag = unsafe { AtomicU8::from_ptr(flag) };
        flag.store(1, Ordering::SeqCst);
    }
}

/// Binds the calling thread's kicks to a vCPU's `immediate_exit`, until it is dropped.
#[derive(Debug)]
pub(super) struct Bound {
    flag: *mut u8,
    thread: Thread,
}

#[derive(Clone, Copy, Debug)]
struct Thread {
    process: libc::pid_t,
    id: libc::pid_t,
}

impl Bound {
    /// # Safety
    ///
    /// `flag` must stay valid, and be written only atomically or by the kernel, as long as the value lives. A `Bound` is
    /// not `Send`, so it is dropped on the thread that made it.
    pub(super) unsafe fn new(flag: *mut u8) -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            register_signal_handler(signal(), handle)
                .expect("SIGRTMIN is a signal that can be handled");
        });
        IMMEDIATE_EXIT.set(flag);
        // SAFETY: has no preconditions.
        let process = unsafe { libc::getpid() };
        // SAFETY: has no preconditions.
        let id = unsafe { libc::gettid() };
        Self {
            flag,
            thread: Thread { process, id },
        }
    }

    pub(super) fn kick(&self) -> KvmKick {
        KvmKick(self.thread)
    }

    /// Sets or forgets `immediate_exit`.
    pub(super) fn set(&self, value: bool) {
        // SAFETY: `new` was promised that it is valid.
        let flag = unsafe { AtomicU8::from_ptr(self.flag) };
        flag.store(value.into(), Ordering::SeqCst);
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

/// Kicks a thread out of KVM_RUN.
#[derive(Clone, Copy, Debug)]
pub struct KvmKick(Thread);

impl Kick for KvmKick {
    fn kick(&self) {
        let Thread { process, id } = self.0;
        // By thread id and not by pthread_t: once the thread has ended this does nothing, or wakes a thread of ours that
        // has no vCPU, where the other would be undefined.
        // SAFETY: sends a signal that the process handles.
        unsafe { libc::syscall(libc::SYS_tgkill, process, id, signal()) };
    }
}
