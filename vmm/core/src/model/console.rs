//! printk and the console drivers.

use std::sync::Arc;

use guest_abi::point::Point;
use guest_abi::protocol::{RETRY_NMI, RETRY_SDEI, Request, STOPPING};

use super::cpu::Mask;
use super::task::Act;
use super::{Model, set, stop};
use crate::evidence::What;
use crate::scenario::Driver;

/// What a record says.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Say {
    Header,
    Stopping,
    Retry(Request, u8),
    Failed(u8),
    End,
    Talk(u8),
    Backtrace,
}

/// Where `vprintk_emit()` is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Printing {
    Store(Say),
    TrySem,
    Spin { saved: Mask },
}

/// Where a driver of the old kind is in a record.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Emitting {
    at: EmitAt,
    record: u8,
    locked: bool,
    // By the last flush, which is not the owner of console_sem.
    last: bool,
    saved: Mask,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum EmitAt {
    Lock,
    FirstHalf,
    SecondHalf,
    Unlock,
    Count,
}

/// The nbcon state: owner, unsafe, and who waits for a hand-over.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Nbcon {
    owner: Option<u8>,
    is_unsafe: bool,
    waits: Option<u8>,
    // The wire is in the middle of a line.
    cut: bool,
}

/// Where nbcon's thread is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct ThreadWriting {
    at: ThreadAt,
    record: u8,
    saved: Mask,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum ThreadAt {
    Lock,
    Acquire,
    EnterFirst,
    FirstHalf,
    LeaveFirst,
    EnterSecond,
    SecondHalf,
    LeaveSecond,
    Release,
    Unlock,
}

/// Where the panicking CPU of nbcon is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct PanicWriting {
    at: PanicAt,
    hostile: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum PanicAt {
    Acquire,
    Wait(u64),
    Write,
    Release,
}

/// How long a panicking CPU waits for a hand-over (`nbcon_context_try_acquire_handover()`, 2 ms in panic).
const HANDOVER_US: u64 = 2000;

impl Printing {
    pub(super) fn step(self) -> u64 {
        match self {
            Printing::Store(_) => 0,
            Printing::TrySem => 1,
            Printing::Spin { .. } => 2,
        }
    }

    pub(super) fn point(self) -> Option<Point> {
        matches!(self, Printing::Spin { .. }).then_some(Point::ConsoleSpin)
    }

    /// Whether its next step stores a record that lists CPUs.
    pub(super) fn lists(self) -> bool {
        matches!(self, Printing::Store(Say::Retry(..) | Say::Failed(_)))
    }
}

impl Emitting {
    pub(super) fn step(self) -> u64 {
        self.at as u64
    }

    pub(super) fn point(self) -> Option<Point> {
        Some(match self.at {
            EmitAt::Lock => Point::ConsoleLock,
            EmitAt::FirstHalf => Point::ConsoleLocked,
            EmitAt::SecondHalf => Point::ConsoleMid,
            EmitAt::Unlock => Point::ConsoleUnlock,
            EmitAt::Count => Point::ConsoleCount,
        })
    }
}

impl ThreadWriting {
    pub(super) fn step(self) -> u64 {
        self.at as u64
    }

    pub(super) fn point(self) -> Option<Point> {
        match self.at {
            ThreadAt::Lock => Some(Point::ConsoleLock),
            ThreadAt::FirstHalf => Some(Point::ConsoleLocked),
            ThreadAt::LeaveFirst => Some(Point::ConsoleMid),
            ThreadAt::EnterSecond => Some(Point::ConsoleSafe),
            ThreadAt::LeaveSecond => Some(Point::ConsoleUnlock),
            ThreadAt::Release => Some(Point::ConsoleCount),
            _ => None,
        }
    }
}

impl PanicWriting {
    pub(super) fn new(hostile: bool) -> Self {
        Self {
            at: PanicAt::Acquire,
            hostile,
        }
    }

    pub(super) fn step(self) -> u64 {
        match self.at {
            PanicAt::Acquire => 0,
            PanicAt::Wait(_) => 1,
            PanicAt::Write => 2,
            PanicAt::Release => 3,
        }
    }

    pub(super) fn waits_until(self) -> Option<u64> {
        match self.at {
            PanicAt::Wait(deadline) => Some(deadline),
            _ => None,
        }
    }
}

impl Model {
    /// Calls printk.
    pub(super) fn print(&mut self, cpu: usize, say: Say) {
        self.push(cpu, Act::Print(Printing::Store(say)));
    }

    /// Stores a record in the log ring.
    pub(super) fn store(&mut self, cpu: usize, say: Say) {
        let (level, text): (u8, Arc<str>) = match say {
            Say::Header => (0, "Kernel panic - not syncing: held".into()),
            Say::Stopping => (2, STOPPING.into()),
            Say::Retry(Request::Sdei, mask) => (6, format!("{RETRY_SDEI}{}", set(mask)).into()),
            Say::Retry(_, mask) => (6, format!("{RETRY_NMI}{}", set(mask)).into()),
            Say::Failed(mask) => (4, stop::failed_text(mask).into()),
            Say::End => (0, "---[ end Kernel panic - not syncing: held ]---".into()),
            Say::Talk(left) => (6, format!("CPU {cpu} talks, {left} to go").into()),
            Say::Backtrace => (6, format!("NMI backtrace for cpu {cpu}").into()),
        };
        self.state.records.push(text.clone());
        self.say(
            cpu,
            What::Logs {
                level,
                text,
                shown: true,
            },
        );
    }

    /// Whether another CPU panics: since Linux 5.18 all others then leave the console alone.
    fn other_panics(&self, cpu: usize) -> bool {
        self.state
            .panic_cpu
            .is_some_and(|panics| usize::from(panics) != cpu)
    }

    fn left(&self) -> bool {
        usize::from(self.state.shown) < self.state.records.len()
    }

    pub(super) fn print_ready(&self, cpu: usize, printing: Printing) -> bool {
        match printing {
            Printing::Spin { .. } => self.state.sem == Some(cpu as u8),
            _ => true,
        }
    }

    pub(super) fn printing(&mut self, cpu: usize, printing: Printing) {
        match printing {
            Printing::Store(say) => {
                self.store(cpu, say);
                let panics = self.state.panic_cpu == Some(cpu as u8);
                let next = match self.fixed.scenario.driver {
                    Driver::GiveUp | Driver::WriteAnyway => Act::Print(Printing::TrySem),
                    Driver::Nbcon if panics => Act::Atomic(PanicWriting::new(false)),
                    Driver::Nbcon => {
                        let saved = self.state.cpus[cpu].mask;
                        self.mask(cpu, Mask::Irqs);
                        Act::Thread(ThreadWriting {
                            at: ThreadAt::Lock,
                            record: 0,
                            saved,
                        })
                    }
                };
                self.becomes(cpu, next);
            }
            Printing::TrySem => {
                let panicking = self.state.panic_cpu.is_some();
                if self.state.sem.is_none() && !self.other_panics(cpu) {
                    self.state.sem = Some(cpu as u8);
                    self.becomes(cpu, Act::Drain);
                } else if !panicking && self.state.sem_writes && self.state.sem_waiter.is_none() {
                    // console_trylock_spinning(); not once a panic is in progress, for the owner may be stopped.
                    self.state.sem_waiter = Some(cpu as u8);
                    let saved = self.state.cpus[cpu].mask;
                    self.mask(cpu, Mask::Irqs);
                    self.becomes(cpu, Act::Print(Printing::Spin { saved }));
                } else {
                    self.state.cpus[cpu].stack.pop();
                }
            }
            Printing::Spin { saved } => {
                self.state.cpus[cpu].mask = saved;
                self.becomes(cpu, Act::Drain);
            }
        }
    }

    /// `console_unlock()`: writes what is left, then gives the semaphore up.
    pub(super) fn drain(&mut self, cpu: usize) {
        if self.left() && !self.other_panics(cpu) {
            self.begin_emit(cpu, false);
        } else {
            self.state.sem = None;
            self.state.cpus[cpu].stack.pop();
        }
    }

    pub(super) fn begin_emit(&mut self, cpu: usize, last: bool) {
        let saved = self.state.cpus[cpu].mask;
        self.mask(cpu, Mask::Irqs);
        let record = self.state.shown;
        self.state.sem_writes |= !last;
        self.push(
            cpu,
            Act::Emit(Emitting {
                at: EmitAt::Lock,
                record,
                locked: false,
                last,
                saved,
            }),
        );
    }

    fn halves(&self, record: u8) -> (&[u8], &[u8]) {
        let text = self.state.records[usize::from(record)].as_bytes();
        text.split_at(text.len() / 2)
    }

    /// In panic the drivers only try the lock (`oops_in_progress`).
    pub(super) fn emit_ready(&self, cpu: usize, emitting: Emitting) -> bool {
        emitting.at != EmitAt::Lock
            || self.state.port.is_none()
            || self.state.panic_cpu == Some(cpu as u8)
    }

    pub(super) fn emit(&mut self, cpu: usize, mut emitting: Emitting) {
        emitting.at = match emitting.at {
            EmitAt::Lock => {
                if self.state.port.is_none() {
                    self.state.port = Some(cpu as u8);
                    emitting.locked = true;
                    self.say(cpu, What::Enters);
                    EmitAt::FirstHalf
                } else if self.fixed.scenario.driver == Driver::GiveUp {
                    EmitAt::Count
                } else {
                    EmitAt::FirstHalf
                }
            }
            EmitAt::FirstHalf => {
                let half = self.halves(emitting.record).0.into();
                self.say(cpu, What::Wire(half));
                EmitAt::SecondHalf
            }
            EmitAt::SecondHalf => {
                let half = [self.halves(emitting.record).1, b"\n"].concat().into();
                self.say(cpu, What::Wire(half));
                EmitAt::Unlock
            }
            EmitAt::Unlock => {
                if emitting.locked {
                    self.state.port = None;
                    self.say(cpu, What::Leaves);
                }
                EmitAt::Count
            }
            EmitAt::Count => {
                self.state.shown = self.state.shown.max(emitting.record + 1);
                self.state.cpus[cpu].mask = emitting.saved;
                self.state.cpus[cpu].stack.pop();
                self.state.sem_writes &= emitting.last;
                if let Some(waiter) = self.state.sem_waiter.take_if(|_| !emitting.last) {
                    self.state.sem = Some(waiter);
                    let drain = self.state.cpus[cpu].stack.pop();
                    debug_assert_eq!(drain, Some(Act::Drain));
                }
                return;
            }
        };
        self.becomes(cpu, Act::Emit(emitting));
    }

    pub(super) fn thread_ready(&self, cpu: usize, writing: ThreadWriting) -> bool {
        match writing.at {
            ThreadAt::Lock => self.state.port.is_none() || !self.left() || self.other_panics(cpu),
            ThreadAt::Acquire => self.state.nbcon.owner.is_none() || self.other_panics(cpu),
            _ => true,
        }
    }

    /// Enters an unsafe section, if the console is still ours.
    fn enter_unsafe(&mut self, cpu: usize, next: ThreadAt) -> ThreadAt {
        if self.state.nbcon.owner != Some(cpu as u8) {
            return ThreadAt::Unlock;
        }
        self.state.nbcon.is_unsafe = true;
        self.say(cpu, What::Enters);
        next
    }

    /// Leaves it, and hands the console over if somebody waits. A CPU that has lost it to a hostile takeover
    /// leaves the section all the same.
    fn leave_unsafe(&mut self, cpu: usize, next: ThreadAt) -> ThreadAt {
        self.say(cpu, What::Leaves);
        if self.state.nbcon.owner != Some(cpu as u8) {
            return ThreadAt::Unlock;
        }
        self.state.nbcon.is_unsafe = false;
        match self.state.nbcon.waits.take() {
            Some(waiter) => {
                self.state.nbcon.owner = Some(waiter);
                ThreadAt::Unlock
            }
            None => next,
        }
    }

    pub(super) fn thread_writes(&mut self, cpu: usize, mut writing: ThreadWriting) {
        writing.at = match writing.at {
            ThreadAt::Lock if !self.left() || self.other_panics(cpu) => {
                self.state.cpus[cpu].mask = writing.saved;
                self.state.cpus[cpu].stack.pop();
                return;
            }
            ThreadAt::Lock => {
                self.state.port = Some(cpu as u8);
                ThreadAt::Acquire
            }
            ThreadAt::Acquire if self.other_panics(cpu) => ThreadAt::Unlock,
            ThreadAt::Acquire => {
                self.state.nbcon.owner = Some(cpu as u8);
                writing.record = self.state.shown;
                ThreadAt::EnterFirst
            }
            ThreadAt::EnterFirst => self.enter_unsafe(cpu, ThreadAt::FirstHalf),
            ThreadAt::FirstHalf => {
                let half = self.halves(writing.record).0.into();
                self.say(cpu, What::Wire(half));
                self.state.nbcon.cut = true;
                ThreadAt::LeaveFirst
            }
            ThreadAt::LeaveFirst => self.leave_unsafe(cpu, ThreadAt::EnterSecond),
            ThreadAt::EnterSecond => self.enter_unsafe(cpu, ThreadAt::SecondHalf),
            ThreadAt::SecondHalf => {
                let half = [self.halves(writing.record).1, b"\n"].concat().into();
                self.say(cpu, What::Wire(half));
                self.state.nbcon.cut = false;
                ThreadAt::LeaveSecond
            }
            ThreadAt::LeaveSecond => self.leave_unsafe(cpu, ThreadAt::Release),
            ThreadAt::Release => {
                if self.state.nbcon.owner == Some(cpu as u8) {
                    self.state.shown = self.state.shown.max(writing.record + 1);
                    self.state.nbcon.owner = None;
                }
                ThreadAt::Unlock
            }
            // Linux's thread takes a console that it has lost once more, to put the UART in order, which a panic has not kept it
            // from since Linux commit 571c1ea91a73 ("printk: nbcon: Allow reacquire during panic", in v6.17).
            ThreadAt::Unlock => {
                self.state.port = None;
                ThreadAt::Lock
            }
        };
        self.becomes(cpu, Act::Thread(writing));
    }

    pub(super) fn atomic_ready(&self, cpu: usize, writing: PanicWriting) -> bool {
        let PanicAt::Wait(deadline) = writing.at else {
            return true;
        };
        let nbcon = &self.state.nbcon;
        self.state.now >= deadline || !nbcon.is_unsafe || nbcon.owner == Some(cpu as u8)
    }

    pub(super) fn panic_writes(&mut self, cpu: usize, mut writing: PanicWriting) {
        let nbcon = &mut self.state.nbcon;
        let stuck = nbcon.is_unsafe && nbcon.owner.is_some_and(|owner| usize::from(owner) != cpu);
        writing.at = match writing.at {
            PanicAt::Acquire if usize::from(self.state.shown) >= self.state.records.len() => {
                self.state.cpus[cpu].stack.pop();
                return;
            }
            PanicAt::Acquire if stuck && !writing.hostile => {
                nbcon.waits = Some(cpu as u8);
                PanicAt::Wait(self.state.now + HANDOVER_US)
            }
            PanicAt::Wait(_) if stuck => {
                nbcon.waits = None;
                self.state.cpus[cpu].stack.pop();
                return;
            }
            PanicAt::Acquire | PanicAt::Wait(_) => {
                nbcon.owner = Some(cpu as u8);
                nbcon.waits = None;
                PanicAt::Write
            }
            PanicAt::Write => {
                nbcon.is_unsafe = true;
                // "console_line_ended": a cut line is ended first.
                let cut = std::mem::take(&mut nbcon.cut);
                let text = self.state.records[usize::from(self.state.shown)].clone();
                let line = [if cut { &b"\n"[..] } else { b"" }, text.as_bytes(), b"\n"].concat();
                self.say(cpu, What::Enters);
                self.say(cpu, What::Wire(line.into()));
                PanicAt::Release
            }
            PanicAt::Release => {
                nbcon.is_unsafe = false;
                nbcon.owner = None;
                self.state.shown += 1;
                self.say(cpu, What::Leaves);
                PanicAt::Acquire
            }
        };
        self.becomes(cpu, Act::Atomic(writing));
    }
}
