//! Credit: how many bytes the other side is ready to take on a channel.

use std::sync::{Condvar, Mutex, PoisonError};

/// What a channel may carry before the first byte has been taken at the other end. Large enough to keep a channel busy over
/// the way there and back, small enough that nobody minds what lies in queues.
pub(super) const WINDOW: usize = 512 << 10;

/// The sender's side of a channel.
pub(super) struct Window {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    credit: usize,
    open: bool,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                credit: WINDOW,
                open: true,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits for credit and takes at most this much of it; `None` once nothing more is wanted.
    pub(super) fn take(&self, most: usize) -> Option<usize> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .changed
            .wait_while(state, |state| state.open && state.credit == 0)
            .unwrap_or_else(PoisonError::into_inner);
        if !state.open {
            return None;
        }
        let taken = most.min(state.credit);
        state.credit -= taken;
        Some(taken)
    }

    /// More may be sent; also for credit that was taken and not used.
    pub(super) fn grant(&self, bytes: usize) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .credit += bytes;
        self.changed.notify_all();
    }

    /// Nothing more is wanted.
    pub(super) fn close(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open = false;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::deadline::Deadline;

    #[test]
    fn no_more_than_the_window_is_taken_without_a_grant() {
        let _in_time = Deadline::set();
        let window = Arc::new(Window::new());
        assert_eq!(window.take(WINDOW + 1), Some(WINDOW));
        let sender = thread::spawn({
            let window = Arc::clone(&window);
            move || window.take(100)
        });
        window.grant(7);
        assert_eq!(sender.join().unwrap(), Some(7));
    }

    #[test]
    fn a_sender_that_waits_learns_that_the_channel_closed() {
        let _in_time = Deadline::set();
        let window = Arc::new(Window::new());
        window.take(WINDOW);
        let sender = thread::spawn({
            let window = Arc::clone(&window);
            move || window.take(1)
        });
        window.close();
        assert_eq!(sender.join().unwrap(), None);
    }
}
