//! Signals that end a run, or have it pause.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::{Handle, Signals};

use crate::console::terminal;

type Stop = Box<dyn Fn(i32) + Send>;

#[derive(Default)]
struct State {
    came: Option<i32>,
    stop: Option<Stop>,
}

impl State {
    fn take(&mut self, signal: i32) {
        self.came = Some(signal);
        if let Some(stop) = &self.stop {
            stop(signal);
        }
    }
}

/// Watches for the signals by which people and systems end a program, or stop it and let it go on, until it is dropped.
pub(super) struct Interrupt {
    state: Arc<Mutex<State>>,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Interrupt {
    pub(super) fn watch() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT])?;
        let handle = signals.handle();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in signals.forever() {
                    match signal {
                        SIGTSTP => terminal::stop(),
                        SIGCONT => terminal::resume(),
                        _ => lock(&shared).take(signal),
                    }
                }
            })?;
        Ok(Self {
            state,
            handle,
            thread: Some(thread),
        })
    }

    /// Calls `stop` with a signal that has come or comes while the guard lives.
    pub(super) fn calls(&self, stop: Stop) -> Watching<'_> {
        let mut state = lock(&self.state);
        if let Some(signal) = state.came {
            stop(signal);
        }
        state.stop = Some(stop);
        Watching(self)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("what a signal calls does not panic")
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .expect("the thread that waits for signals does not panic");
        }
    }
}

/// While it lives, signals are passed on.
pub(super) struct Watching<'a>(&'a Interrupt);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).stop = None;
    }
}
