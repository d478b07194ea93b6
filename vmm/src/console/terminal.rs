//! The caller's terminal in raw mode, and how it comes back.
//!
//! It comes back when the guard is dropped, when anything panics, and while the process is stopped. Nobody is left to do it after SIGKILL.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic;
use std::sync::{Mutex, MutexGuard, Once, PoisonError, TryLockError};

use rustix::process::getpgrp;
use rustix::termios::{
    OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcgetpgrp, tcsetattr,
};
use signal_hook::consts::SIGTSTP;
use signal_hook::low_level::emulate_default_handler;

/// What becomes of a line's end that is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lines {
    /// What the terminal makes of it: a return is added, as people have it set. So do our own messages look right, and guests that print no
    /// returns, and the return that Linux prints is one too many, which does nothing. QEMU does it so.
    AsTheyWere,
    /// Nothing: a terminal behind this one has done all that is to be done.
    Raw,
}

/// A terminal in raw mode: every key, Ctrl-C too, is what it is and no more. As before when this is dropped. There is one at a time.
#[derive(Debug)]
pub struct Raw(());

#[derive(Debug)]
struct Held {
    terminal: OwnedFd,
    before: Termios,
    raw: Termios,
}

static HELD: Mutex<Option<Held>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<Held>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    /// From the background, where the terminal is somebody else's, this would stop the process (SIGTTOU).
    fn set(&self, modes: &Termios) {
        // A terminal that is not ours to control has no foreground that would matter.
        let ours = tcgetpgrp(&self.terminal).map_or(true, |group| group == getpgrp());
        // At once: a terminal on which nobody looks would keep output, and us, for ever.
        if ours && let Err(error) = tcsetattr(&self.terminal, OptionalActions::Now, modes) {
            tracing::debug!("cannot set the terminal's modes: {error}");
        }
    }
}

impl Raw {
    /// What was typed before is kept.
    pub fn enter(terminal: impl AsFd, lines: Lines) -> io::Result<Self> {
        restore_on_panic();
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        if lines == Lines::AsTheyWere {
            raw.output_modes = before.output_modes;
        }
        let entered = Held {
            terminal: terminal.as_fd().try_clone_to_owned()?,
            before,
            raw,
        };
        let mut held = held();
        assert!(held.is_none(), "one terminal at a time");
        entered.set(&entered.raw);
        *held = Some(entered);
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(held) = held().take() {
            // What was typed for the guest and not read is not for the shell.
            let _ = tcflush(&held.terminal, QueueSelector::IFlush);
            held.set(&held.before);
        }
    }
}

/// Stops this process as SIGTSTP does by default, with the terminal as it was. When it goes on, [`resume`] has to be called.
pub fn stop() {
    if let Some(held) = &*held() {
        held.set(&held.before);
    }
    let _ = emulate_default_handler(SIGTSTP);
}

/// The process goes on (SIGCONT), after [`stop`] or after a SIGSTOP, behind which a shell may have set modes of its own.
pub fn resume() {
    if let Some(held) = &*held() {
        held.set(&held.raw);
    }
}

/// A panic's message shall be readable, and whatever comes of the panic, nobody may be left with a raw terminal.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let held = match HELD.try_lock() {
                Ok(held) => Some(held),
                Err(TryLockError::Poisoned(held)) => Some(held.into_inner()),
                // It is being set at this moment, perhaps by the thread that panics.
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(Some(held)) = held.as_deref() {
                held.set(&held.before);
            }
            drop(held);
            report(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::termios::{LocalModes, OutputModes, tcgetattr};

    use super::{Lines, Raw};
    use crate::console::pty;

    /// In one test: there is one terminal at a time.
    #[test]
    fn it_comes_back_by_drop_and_by_panic() {
        let (_ours, theirs, _) = pty::open().unwrap();
        let cooked = || {
            let modes = tcgetattr(&theirs).unwrap();
            let both = LocalModes::ICANON | LocalModes::ISIG;
            assert!(modes.local_modes.contains(both) || !modes.local_modes.intersects(both));
            modes.local_modes.contains(both)
        };
        let returns = || {
            tcgetattr(&theirs)
                .unwrap()
                .output_modes
                .contains(OutputModes::OPOST)
        };
        assert!(cooked());

        let raw = Raw::enter(&theirs, Lines::AsTheyWere).unwrap();
        assert!(!cooked() && returns());
        drop(raw);
        assert!(cooked());

        let raw = Raw::enter(&theirs, Lines::Raw).unwrap();
        assert!(!cooked() && !returns());
        // The guard lives on, in this thread.
        thread::spawn(|| panic!("on purpose")).join().unwrap_err();
        assert!(cooked() && returns());
        drop(raw);
        assert!(cooked());
    }
}
