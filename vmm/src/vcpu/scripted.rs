//! A vCPU that follows a script, for tests on any machine.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use vmm_core::evidence::Regs;

use super::{Detached, Entry, Exit, Kick, Owner, Register, Shared, Standing, Traps, Vcpu};

/// What it does when it is run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Act {
    /// It leaves so.
    Leave(Exit),
    /// It stays in the guest until it is kicked, once or for ever.
    Stay,
    /// The host fails.
    Fail,
    /// Our code panics.
    #[cfg(test)]
    Panic,
}

/// The failure of [`Act::Fail`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the script says that the host fails")]
pub(crate) struct ScriptedFailure;

/// What a test sees of it.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// How it was entered, in order; a settling entry is one too.
    pub(crate) entries: Arc<Mutex<Vec<Entry>>>,
    /// How many times its thread sat down in the guest for good, to wait for a kick.
    pub(crate) stays: Arc<AtomicUsize>,
    /// Set when it is dropped.
    pub(crate) dropped: Arc<AtomicUsize>,
    /// Its registers; one that was never set is zero.
    pub(crate) registers: Arc<Mutex<Vec<(Register, u128)>>>,
    /// What it is to leave for, by whom.
    pub(crate) traps: Arc<Mutex<Shared>>,
}

/// The script; after its last act the vCPU stays.
pub(crate) struct Script {
    acts: VecDeque<Act>,
    seen: Seen,
}

impl Script {
    pub(crate) fn new(acts: impl IntoIterator<Item = Act>) -> (Self, Seen) {
        let seen = Seen::default();
        (
            Self {
                acts: acts.into_iter().collect(),
                seen: seen.clone(),
            },
            seen,
        )
    }
}

#[derive(Default)]
struct Signal {
    kicked: Mutex<bool>,
    came: Condvar,
}

/// Kicks it.
pub(crate) struct ScriptedKick(Arc<Signal>);

impl Kick for ScriptedKick {
    fn kick(&self) {
        *self.0.kicked.lock().unwrap() = true;
        self.0.came.notify_all();
    }
}

/// The vCPU on its thread.
pub(crate) struct Scripted {
    script: Script,
    signal: Arc<Signal>,
}

impl Detached for Script {
    type Vcpu = Scripted;

    fn attach(self) -> (Scripted, ScriptedKick) {
        let signal = Arc::<Signal>::default();
        (
            Scripted {
                script: self,
                signal: Arc::clone(&signal),
            },
            ScriptedKick(signal),
        )
    }
}

impl Vcpu for Scripted {
    type Error = ScriptedFailure;
    type Kick = ScriptedKick;

    fn run(&mut self, entry: Entry) -> Result<Exit, ScriptedFailure> {
        self.script.seen.entries.lock().unwrap().push(entry);
        match self.script.acts.pop_front().unwrap_or(Act::Stay) {
            Act::Leave(exit) => {
                if let Exit::Stepped { .. } = exit {
                    let mut registers = self.script.seen.registers.lock().unwrap();
                    let pc = registers.iter_mut().find(|(set, _)| *set == Register::Pc);
                    if let Some((_, pc)) = pc {
                        *pc += 4;
                    }
                }
                Ok(exit)
            }
            Act::Fail => Err(ScriptedFailure),
            #[cfg(test)]
            Act::Panic => panic!("the script says so"),
            Act::Stay => {
                self.script.seen.stays.fetch_add(1, Ordering::SeqCst);
                let mut kicked = self.signal.kicked.lock().unwrap();
                while !*kicked {
                    kicked = self.signal.came.wait(kicked).unwrap();
                }
                Ok(Exit::Kicked)
            }
        }
    }

    fn forget_kick(&mut self) {
        *self.signal.kicked.lock().unwrap() = false;
    }

    fn settle(&mut self, entry: Entry) -> Result<(), ScriptedFailure> {
        self.script.seen.entries.lock().unwrap().push(entry);
        Ok(())
    }

    fn standing(&mut self) -> Result<Standing, ScriptedFailure> {
        Ok(Standing {
            pc: 0x4020_0000,
            pstate: 0x3c5,
            off: false,
        })
    }

    fn registers(&mut self) -> Result<Regs, ScriptedFailure> {
        Ok(Regs {
            x: [0; 31],
            sp: 0,
            pc: 0x4020_0000,
            pstate: 0x3c5,
        })
    }

    fn register(&mut self, register: Register) -> Result<u128, ScriptedFailure> {
        let registers = self.script.seen.registers.lock().unwrap();
        let value = registers.iter().rev().find(|(set, _)| *set == register);
        Ok(value.map_or(0, |(_, value)| *value))
    }

    fn set_register(&mut self, register: Register, value: u128) -> Result<(), ScriptedFailure> {
        let mut registers = self.script.seen.registers.lock().unwrap();
        registers.retain(|(set, _)| *set != register);
        registers.push((register, value));
        Ok(())
    }

    fn trap_on(&mut self, owner: Owner, traps: &Traps) -> Result<(), ScriptedFailure> {
        self.script.seen.traps.lock().unwrap().set(owner, traps);
        Ok(())
    }

    fn left(&self, breakpoints: usize, watchpoints: usize) -> (usize, usize) {
        (breakpoints, watchpoints)
    }

    fn power_off(&mut self) -> Result<(), ScriptedFailure> {
        Ok(())
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.script.seen.dropped.fetch_add(1, Ordering::SeqCst);
    }
}
