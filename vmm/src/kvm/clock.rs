//! The guest's counter.

use std::sync::Arc;
use std::time::Duration;

use kvm_ioctls::VmFd;

use super::error::Error;
use super::ioctl;

/// The virtual and the physical counter of a VM, which move together.
pub struct Clock {
    vm: Arc<VmFd>,
    /// How far they lag behind the host's; none where KVM has no say in it (Linux before 6.4).
    offset: Option<u64>,
}

impl Clock {
    pub(super) fn new(vm: Arc<VmFd>, offset: Option<u64>) -> Self {
        Self { vm, offset }
    }

    /// What the guest reads now; none where that cannot be known.
    pub fn now(&self) -> Option<u64> {
        Some(ioctl::host_counter().wrapping_sub(self.offset?))
    }

    /// What the guest reads now, in microseconds.
    pub fn now_us(&self) -> Option<u64> {
        let ticks = u128::from(self.now()?) * 1_000_000;
        u64::try_from(ticks / u128::from(ioctl::counter_frequency())).ok()
    }

    /// How long it takes until the guest reads this; none if it does already, or if that cannot be known.
    pub fn until(&self, counter: u64) -> Option<Duration> {
        let left = counter.checked_sub(self.now()?).filter(|left| *left > 0)?;
        let seconds = left as f64 / ioctl::counter_frequency() as f64;
        Some(Duration::from_secs_f64(seconds))
    }

    /// Has the guest read this now. Every vCPU must be out of KVM_RUN.
    pub fn set(&mut self, counter: u64) -> Result<(), Error> {
        let offset = ioctl::host_counter().wrapping_sub(counter);
        ioctl::set_counter_offset(&self.vm, offset)
            .map_err(Error::ioctl("set the counter offset"))?;
        self.offset = Some(offset);
        Ok(())
    }
}
