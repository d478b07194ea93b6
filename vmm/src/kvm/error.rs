//! What the host's KVM can refuse.

use std::io;

use vmm_core::host::Lack;

/// An operation on KVM that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the host does not have.
    #[error(transparent)]
    Lack(#[from] Lack),
    /// An ioctl.
    #[error("KVM: cannot {operation}: {source}")]
    Ioctl {
        /// What was to be done, and to what.
        operation: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// KVM_RUN left in a way that we don't know how to answer.
    #[error("KVM: vCPU {vcpu} left with {exit} at pc {pc:#x}")]
    Exit {
        /// Its index.
        vcpu: usize,
        /// How it left.
        exit: String,
        /// Where it was.
        pc: u64,
    },
}

impl Error {
    pub(super) fn ioctl(operation: impl Into<String>) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Ioctl {
            operation,
            source: io::Error::from_raw_os_error(source.errno()),
        }
    }
}
