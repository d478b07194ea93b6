//! What a CPU does when nobody interrupts it, and the stack of it.

use guest_abi::point::Point;

use super::console::{Emitting, PanicWriting, Printing, Say, ThreadWriting};
use super::cpu::{At, By, Handling, Mask};
use super::stop::{Climbing, StopAt};
use super::text::{self, Function};
use super::{Model, bit};
use crate::evidence::{Hand, Note, Onward, StopKind, What};
use crate::scenario::{Does, Driver};

/// One activation: what a CPU does, and where in it it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Act {
    /// Waits for an interrupt.
    Idle,
    /// Waits to begin a task of the scenario.
    Task { task: u8 },
    /// Stores records.
    Talk { left: u8 },
    /// `panic()`.
    Panic(Panicking),
    /// `machine_restart()`.
    Restart { called: bool },
    /// Goes down by hot-unplug.
    Unplug { at: u8 },
    /// Comes online.
    Online { at: u8 },
    /// Spins for ever.
    Spin,
    /// Has left for the capture kernel.
    Gone,
    /// Climbs the ladder.
    Stop(Climbing),
    /// `vprintk_emit()`.
    Print(Printing),
    /// `console_unlock()`.
    Drain,
    /// Writes one record by a driver of the old kind.
    Emit(Emitting),
    /// `console_flush_on_panic()`.
    LastFlush { begun: bool },
    /// Writes records as nbcon's thread.
    Thread(ThreadWriting),
    /// Writes records as the panicking CPU of nbcon.
    Atomic(PanicWriting),
    /// Its stop handler.
    Handler(Handling),
    /// The handler of an NMI that is no stop.
    Foreign { at: u8, saved: Mask },
    /// Parked, or off.
    Parked,
}

/// Where `panic()` is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Panicking {
    Entered,
    Headed,
    Called,
    Saved,
    Stopped,
    Ended,
    Flushed,
}

impl Act {
    /// The moment at which a wait ends by itself.
    pub(super) fn deadline(self) -> Option<u64> {
        match self {
            Act::Stop(climbing) if climbing.at == StopAt::Wait => Some(climbing.deadline),
            Act::Atomic(writing) => writing.waits_until(),
            _ => None,
        }
    }

    /// Where its code lies.
    pub(super) fn place(self) -> (Function, u64) {
        match self {
            Act::Idle => (Function::Idle, 0),
            Act::Task { .. } => (Function::Task, 0),
            Act::Talk { left } => (Function::Task, 1 + u64::from(left)),
            Act::Spin => (Function::Task, 20),
            Act::Unplug { at } => (Function::Task, 21 + u64::from(at)),
            Act::Online { at } => (Function::Task, 26 + u64::from(at)),
            Act::Gone => (Function::CrashKexec, 1),
            Act::Panic(at) => (Function::Panic, at as u64),
            Act::Restart { called } => (Function::Panic, 20 + u64::from(called)),
            Act::LastFlush { begun } => (Function::Panic, 30 + u64::from(begun)),
            Act::Stop(climbing) => (
                Function::StopCaller,
                climbing.at as u64 + 16 * u64::from(climbing.rung),
            ),
            Act::Print(printing) => (Function::Printk, printing.step()),
            Act::Drain => (Function::Printk, 8),
            Act::Emit(emitting) => (Function::Section, emitting.step()),
            Act::Thread(writing) => (Function::Section, 16 + writing.step()),
            Act::Atomic(writing) => (Function::Section, 32 + writing.step()),
            Act::Handler(handling) => handling.place(),
            Act::Foreign { at, .. } => (Function::ForeignHandler, u64::from(at)),
            Act::Parked => (Function::StopHandler, 40),
        }
    }

    /// The point of an activation that needs no table to know it.
    pub(super) fn own_point(self) -> Option<Point> {
        match self {
            Act::Panic(Panicking::Saved) => Some(Point::Kexec),
            Act::LastFlush { begun: false } => Some(Point::LastFlush),
            Act::Unplug { at: 1 } => Some(Point::Count),
            Act::Print(printing) => printing.point(),
            Act::Emit(emitting) => emitting.point(),
            Act::Thread(writing) => writing.point(),
            _ => None,
        }
    }
}

impl Model {
    /// Whether what a CPU does can go on.
    pub(super) fn ready(&self, cpu: usize, act: Act) -> bool {
        let state = &self.state;
        match act {
            Act::Idle | Act::Spin | Act::Gone | Act::Parked => false,
            Act::Task { task } => {
                let after = self.fixed.scenario.tasks[usize::from(task)].after;
                after.is_none_or(|passing| self.has_passed(&passing))
            }
            Act::Stop(climbing) if climbing.at == StopAt::Wait => {
                state.now >= climbing.deadline || self.all_acked(cpu, climbing.kind)
            }
            Act::Print(printing) => self.print_ready(cpu, printing),
            Act::Emit(emitting) => self.emit_ready(cpu, emitting),
            Act::Thread(writing) => self.thread_ready(cpu, writing),
            Act::Atomic(writing) => self.atomic_ready(cpu, writing),
            _ => true,
        }
    }

    /// One step of what a CPU does.
    pub(super) fn act(&mut self, cpu: usize) {
        let act = *self.state.cpus[cpu]
            .stack
            .last()
            .expect("every CPU does something");
        match act {
            Act::Idle | Act::Spin | Act::Gone | Act::Parked => {
                unreachable!("{act:?} has no next step")
            }
            Act::Task { task } => {
                self.begin_task(cpu, self.fixed.scenario.tasks[usize::from(task)].does)
            }
            Act::Talk { left } => {
                if left == 1 {
                    self.state.cpus[cpu].stack.pop();
                } else {
                    self.becomes(cpu, Act::Talk { left: left - 1 });
                }
                self.print(cpu, Say::Talk(left));
            }
            Act::Panic(at) => self.panic(cpu, at),
            Act::Restart { called: false } => {
                self.becomes(cpu, Act::Restart { called: true });
                self.push(cpu, Act::Stop(Climbing::new(StopKind::Plain)));
            }
            Act::Restart { called: true } => self.go(cpu, Onward::Reset),
            Act::Unplug { at } => self.unplug(cpu, at),
            Act::Online { at } => self.come_online(cpu, at),
            Act::Stop(climbing) => self.climb(cpu, climbing),
            Act::Print(printing) => self.printing(cpu, printing),
            Act::Drain => self.drain(cpu),
            Act::Emit(emitting) => self.emit(cpu, emitting),
            Act::LastFlush { begun } => self.last_flush(cpu, begun),
            Act::Thread(writing) => self.thread_writes(cpu, writing),
            Act::Atomic(writing) => self.panic_writes(cpu, writing),
            Act::Handler(handling) => self.handle(cpu, handling),
            Act::Foreign { at: 0, saved } => {
                self.becomes(cpu, Act::Foreign { at: 1, saved });
                self.store(cpu, Say::Backtrace);
            }
            Act::Foreign { saved, .. } => {
                let cpu = &mut self.state.cpus[cpu];
                cpu.mask = saved;
                cpu.stack.pop();
            }
        }
    }

    pub(super) fn becomes(&mut self, cpu: usize, act: Act) {
        *self.state.cpus[cpu]
            .stack
            .last_mut()
            .expect("every CPU does something") = act;
    }

    pub(super) fn push(&mut self, cpu: usize, act: Act) {
        self.state.cpus[cpu].stack.push(act);
    }

    fn begin_task(&mut self, cpu: usize, does: Does) {
        match does {
            Does::Talk(left) => self.becomes(cpu, Act::Talk { left }),
            Does::Panic(_) => {
                // local_irq_disable() is the first thing that panic() does.
                self.mask(cpu, Mask::Irqs);
                self.becomes(cpu, Act::Panic(Panicking::Entered));
            }
            Does::Restart => {
                self.mask(cpu, Mask::Irqs);
                self.state.running = false;
                self.becomes(cpu, Act::Restart { called: false });
            }
            Does::Unplug => {
                self.mask(cpu, Mask::Irqs);
                self.becomes(cpu, Act::Unplug { at: 0 });
            }
            Does::Online => self.becomes(cpu, Act::Online { at: 0 }),
            Does::Nmi(to) => {
                let c = &mut self.state.cpus[cpu];
                c.mask = Mask::Open;
                c.stack.pop();
                self.pend_foreign(to.index());
            }
            Does::MaskIrqs | Does::MaskDaif => self.becomes(cpu, Act::Spin),
        }
    }

    pub(super) fn mask(&mut self, cpu: usize, mask: Mask) {
        let cpu = &mut self.state.cpus[cpu];
        cpu.mask = cpu.mask.max(mask);
    }

    fn panic(&mut self, cpu: usize, at: Panicking) {
        let after = self.fixed.scenario.after;
        match at {
            Panicking::Entered => {
                if self.state.panic_cpu.is_some() {
                    let handling = Handling {
                        by: By::SelfStop,
                        kind: Some(StopKind::Plain),
                        at: At::Entry,
                    };
                    return self.becomes(cpu, Act::Handler(handling));
                }
                self.state.panic_cpu = Some(cpu as u8);
                self.becomes(cpu, Act::Panic(Panicking::Headed));
                self.print(cpu, Say::Header);
            }
            Panicking::Headed => {
                self.becomes(cpu, Act::Panic(Panicking::Called));
                self.push(cpu, Act::Stop(Climbing::new(self.fixed.scenario.stop)));
            }
            Panicking::Called if after == Onward::Kexec => {
                // machine_crash_shutdown() saves the sender's registers, as crash_setup_regs() took them.
                self.becomes(cpu, Act::Panic(Panicking::Saved));
                let depth = self.state.cpus[cpu].stack.len();
                let regs = text::regs(cpu, text::address(Function::CrashKexec, 0), depth);
                self.write_note(cpu, Note::complete(&regs).into());
            }
            Panicking::Called => self.becomes(cpu, Act::Panic(Panicking::Stopped)),
            Panicking::Saved => {
                self.becomes(cpu, Act::Gone);
                self.mask(cpu, Mask::All);
                self.go(cpu, Onward::Kexec);
            }
            Panicking::Stopped => {
                self.becomes(cpu, Act::Panic(Panicking::Ended));
                if after == Onward::PanicEnd {
                    self.print(cpu, Say::End);
                }
            }
            Panicking::Ended => {
                self.becomes(cpu, Act::Panic(Panicking::Flushed));
                self.push(cpu, Act::LastFlush { begun: false });
            }
            Panicking::Flushed => {
                // The loop at the end of panic() enables interrupts.
                self.becomes(cpu, Act::Spin);
                self.state.cpus[cpu].mask = Mask::Open;
                self.go(cpu, after);
            }
        }
    }

    fn go(&mut self, cpu: usize, onward: Onward) {
        self.state.reset |= onward == Onward::Reset;
        self.say(cpu, What::Goes(onward));
    }

    fn unplug(&mut self, cpu: usize, at: u8) {
        match at {
            0 if self.clear_online(cpu, Hand::Hotplug) => self.becomes(cpu, Act::Unplug { at: 1 }),
            0 => self.becomes(cpu, Act::Unplug { at: 2 }),
            1 => {
                self.drop_count(cpu, Hand::Hotplug);
                self.becomes(cpu, Act::Unplug { at: 2 });
            }
            _ => {
                let c = &mut self.state.cpus[cpu];
                c.stack = vec![Act::Parked];
                c.off = true;
                self.say(cpu, What::Unplugs);
            }
        }
    }

    fn come_online(&mut self, cpu: usize, at: u8) {
        match at {
            0 => {
                self.state.online |= bit(cpu);
                self.say(cpu, What::ComesUp);
                self.becomes(cpu, Act::Online { at: 1 });
            }
            _ => {
                self.state.online_count += 1;
                let c = &mut self.state.cpus[cpu];
                c.mask = Mask::Open;
                c.stack.pop();
            }
        }
    }

    /// The last flush that the kernel promises: it ignores `console_sem`. Only the end of panic without a reset
    /// reaches nbcon's unsafe takeover.
    fn last_flush(&mut self, cpu: usize, begun: bool) {
        let nbcon = self.fixed.scenario.driver == Driver::Nbcon;
        let left = usize::from(self.state.shown) < self.state.records.len();
        if nbcon && !begun {
            self.becomes(cpu, Act::LastFlush { begun: true });
            let hostile = self.fixed.scenario.after == Onward::PanicEnd;
            self.push(cpu, Act::Atomic(PanicWriting::new(hostile)));
        } else if !nbcon && left {
            self.becomes(cpu, Act::LastFlush { begun: true });
            self.begin_emit(cpu, true);
        } else {
            self.state.cpus[cpu].stack.pop();
            self.say(cpu, What::Flushed);
        }
    }
}
