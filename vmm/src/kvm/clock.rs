//! The guest's counter.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvm_ioctls::VmFd;

use super::error::Error;
use super::ioctl;

/// The virtual and the physical counter of a VM, which move together. A copy is the same clock.
#[derive(Clone)]
pub struct Clock {
    vm: Arc<VmFd>,
    state: Arc<Mutex<State>>,
}

struct State {
    /// How far they lag behind the host's; none where KVM has no say in it (Linux before 6.4).
    offset: Option<u64>,
    /// What they read while they stand still.
    stopped: Option<u64>,
}

impl State {
    fn now(&self) -> Option<u64> {
        let offset = self.offset?;
        Some(match self.stopped {
            Some(counter) => counter,
            None => ioctl::host_counter().wrapping_sub(offset),
        })
    }
}

impl Clock {
    pub(super) fn new(vm: Arc<VmFd>, offset: Option<u64>) -> Self {
        let state = State {
            offset,
            stopped: None,
        };
        Self {
            vm,
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the guest reads now; none where that cannot be known.
    pub fn now(&self) -> Option<u64> {
        self.state().now()
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
    pub fn set(&self, counter: u64) -> Result<(), Error> {
        let mut state = self.state();
        self.set_in(&mut state, counter)?;
        if let Some(stopped) = &mut state.stopped {
            *stopped = counter;
        }
        Ok(())
    }

    fn set_in(&self, state: &mut State, counter: u64) -> Result<(), Error> {
        let offset = ioctl::host_counter().wrapping_sub(counter);
        ioctl::set_counter_offset(&self.vm, offset)
            .map_err(Error::ioctl("set the counter offset"))?;
        state.offset = Some(offset);
        Ok(())
    }

    /// It stands still from now on, where that can be known and set. Every vCPU must stay out of KVM_RUN until it
    /// [goes on](Clock::go_on).
    pub fn stop(&self) {
        let mut state = self.state();
        state.stopped = state.now();
    }

    /// It goes on from what it read when it was stopped.
    pub fn go_on(&self) -> Result<(), Error> {
        let mut state = self.state();
        match state.stopped.take() {
            Some(counter) => self.set_in(&mut state, counter),
            None => Ok(()),
        }
    }
}
