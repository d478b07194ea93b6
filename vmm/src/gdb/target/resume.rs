//! How vCPUs that a debugger lets go on come back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::multithread::{
    MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume,
    MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep,
    MultiThreadSingleStepOps,
};

use super::stepper::Stepper;
use super::{Error, Guest, Hold, tid, vcpu_of};
use crate::conductor::{GoesOn, Halt, Trap};
use crate::vcpu::{Register, Traps, Vcpu};

fn lock(stepper: &Mutex<Stepper>) -> MutexGuard<'_, Stepper> {
    stepper.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a vCPU come back to this instruction, whatever it takes before it.
fn spinner<V: Vcpu>(at: u64) -> GoesOn<V> {
    Box::new(move |vcpu, trap| {
        Ok(trap == Trap::Breakpoint && vcpu.register(Register::Pc)? as u64 == at)
    })
}

/// What a vCPU shall do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    Continue,
    Step,
    /// Steps until it leaves these addresses.
    Range(u64, u64),
    Stay,
}

impl<V: Vcpu + 'static> Guest<'_, V> {
    fn action(&self, vcpu: usize) -> Action {
        self.actions[vcpu].unwrap_or(self.others)
    }

    fn act(&mut self, tid: Tid, action: Action) {
        if let Some(asked) = self.actions.get_mut(vcpu_of(tid)) {
            *asked = Some(action);
        }
    }

    /// Lets vCPUs go on as was asked for; why they are out again, or `None` if that was only asked for.
    pub(in crate::gdb) fn go_on(&mut self) -> Result<Option<MultiThreadStopReason<u64>>, Error> {
        loop {
            if let Some(stop) = self.go_on_once()? {
                return Ok(stop);
            }
        }
    }

    /// `None` if a step ended in its range.
    fn go_on_once(&mut self) -> Result<Option<Option<MultiThreadStopReason<u64>>>, Error> {
        let mut steps = Vec::new();
        let mut go_on = Vec::new();
        // Whose steps are where they were to come.
        let mut over = Vec::new();
        let mut running = Vec::new();
        // Whether one that is to take a step can't alone: who holds it, or has others go on before it, lets it do so in time.
        let mut waits = false;
        for vcpu in 0..self.vcpus() {
            let action = self.action(vcpu);
            match (self.held.get(&vcpu), action) {
                (None, _) => {}
                // What is held takes no step.
                (Some(_), Action::Step | Action::Range(..)) => {
                    over.push(vcpu);
                    break;
                }
                (Some(Hold::Freeze), _) | (Some(_), Action::Stay) => continue,
                (Some(&Hold::Spin(at)), Action::Continue) => {
                    let mut traps = self.traps(false);
                    if !traps.breakpoints.contains(&at) {
                        traps.breakpoints.push(at);
                    }
                    self.set(vcpu, traps)?;
                    go_on.push((vcpu, spinner(at)));
                    running.push(vcpu);
                    continue;
                }
            }
            match action {
                Action::Stay => continue,
                Action::Continue => self.set(vcpu, self.traps(false))?,
                Action::Step | Action::Range(..) if self.debugged.stays(vcpu) => {
                    waits = true;
                    self.set(vcpu, self.traps(true))?;
                }
                Action::Step | Action::Range(..) => {
                    let Some(stepper) = self.begin_steps(vcpu)? else {
                        over.push(vcpu);
                        break;
                    };
                    steps.push((vcpu, stepper));
                }
            }
            running.push(vcpu);
        }
        if let Some(&vcpu) = over.first() {
            for (stepping, stepper) in steps {
                self.end_steps(stepping, stepper)?;
            }
            return Ok(Some(Some(trapped(tid(vcpu)))));
        }
        if waits {
            for vcpu in 0..self.vcpus() {
                if !running.contains(&vcpu) && !self.held.contains_key(&vcpu) {
                    self.set(vcpu, self.traps(false))?;
                    running.push(vcpu);
                }
            }
        }
        for (vcpu, stepper) in &steps {
            let stepper = Arc::clone(stepper);
            let goes_on: GoesOn<V> = Box::new(move |vcpu, trap| lock(&stepper).goes_on(vcpu, trap));
            go_on.push((*vcpu, goes_on));
        }
        let stepping: Vec<usize> = steps.iter().map(|(vcpu, _)| *vcpu).collect();
        let brks = self.write_brks()?;
        self.around.start_time();
        let halt = self.debugged.run(&running, &stepping, go_on);
        self.around.stop_time();
        self.take_brks_back(brks);
        if halt == Halt::Ended {
            return Ok(Some(Some(MultiThreadStopReason::Exited(0))));
        }
        for (vcpu, stepper) in steps {
            if self.end_steps(vcpu, stepper)? {
                over.push(vcpu);
            }
        }
        let (vcpu, trap) = match halt {
            Halt::Trapped(vcpu, trap) => (vcpu, trap),
            Halt::Shown(vcpu) => return Ok(Some(Some(trapped(tid(vcpu))))),
            // What it was trapped by came behind the instruction, or before it.
            Halt::Kept(vcpu) => return Ok(over.contains(&vcpu).then(|| Some(trapped(tid(vcpu))))),
            // A step that has come to its end meanwhile is not taken again.
            Halt::Asked | Halt::Ended => {
                return Ok(Some(over.first().map(|vcpu| trapped(tid(*vcpu)))));
            }
        };
        let tid = tid(vcpu);
        let stop = match trap {
            _ if over.contains(&vcpu) => trapped(tid),
            Trap::Stepped => return Ok(self.stepped(vcpu)?.map(Some)),
            Trap::Breakpoint => {
                let pc = self.pc(vcpu)?;
                if self.hard.contains(&pc) {
                    MultiThreadStopReason::HwBreak(tid)
                } else {
                    MultiThreadStopReason::SwBreak(tid)
                }
            }
            Trap::Watchpoint { address } => match self.nearest(address) {
                Some(watch) => watch.hit(tid, address),
                None => trapped(tid),
            },
            Trap::Tapped | Trap::Off => trapped(tid),
        };
        Ok(Some(Some(stop)))
    }

    /// Begins a vCPU's steps, on its own thread; `None` if that has them over already.
    fn begin_steps(&mut self, vcpu: usize) -> Result<Option<Arc<Mutex<Stepper>>>, Error> {
        let ram = Arc::clone(self.around.ram());
        let traps = self.traps(false);
        let mut stepper = Stepper::new(ram, traps, self.set[vcpu].clone());
        stepper.lets_interrupts_in = self.step_irq;
        if let Action::Range(start, end) = self.action(vcpu) {
            stepper.range = Some((start, end));
        }
        stepper.breakpoints_left = self.breakpoints_left(vcpu)?;
        let (begun, stepper) = self.on(vcpu, move |vcpu| Ok((stepper.begin(vcpu)?, stepper)))?;
        self.set[vcpu] = stepper.set.clone();
        Ok(begun.then(|| Arc::new(Mutex::new(stepper))))
    }

    /// Ends them, wherever they have come; whether that is where they were to come.
    fn end_steps(&mut self, vcpu: usize, stepper: Arc<Mutex<Stepper>>) -> Result<bool, Error> {
        let (is_over, set) = self.on(vcpu, move |vcpu| {
            let mut stepper = lock(&stepper);
            stepper.end(vcpu)?;
            Ok((stepper.is_over, stepper.set.clone()))
        })?;
        self.set[vcpu] = set;
        Ok(is_over)
    }

    /// A vCPU that was moved by somebody else has taken a step: `None` if it goes on in its range.
    fn stepped(&self, vcpu: usize) -> Result<Option<MultiThreadStopReason<u64>>, Error> {
        if let Action::Range(start, end) = self.action(vcpu)
            && (start..end).contains(&self.pc(vcpu)?)
        {
            return Ok(None);
        }
        Ok(Some(trapped(tid(vcpu))))
    }

    /// Takes all traps out of the vCPUs: they run on without a debugger.
    pub(in crate::gdb) fn let_go(mut self) {
        (self.hard, self.soft, self.watches) = (Vec::new(), Vec::new(), Vec::new());
        for vcpu in 0..self.vcpus() {
            if let Err(error) = self.set(vcpu, Traps::default()) {
                tracing::debug!("vCPU {vcpu} keeps its traps: {error}");
            }
        }
        self.around.start_time();
    }
}

fn trapped(tid: Tid) -> MultiThreadStopReason<u64> {
    MultiThreadStopReason::SignalWithThread {
        tid,
        signal: Signal::SIGTRAP,
    }
}

/// Halted because somebody wanted it.
pub(in crate::gdb) fn interrupted() -> MultiThreadStopReason<u64> {
    MultiThreadStopReason::Signal(Signal::SIGINT)
}

impl<V: Vcpu + 'static> MultiThreadResume for Guest<'_, V> {
    fn resume(&mut self) -> Result<(), Error> {
        // The session calls go_on().
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Error> {
        self.others = Action::Continue;
        self.actions.fill(None);
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Error> {
        self.act(tid, Action::Continue);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl<V: Vcpu + 'static> MultiThreadSingleStep for Guest<'_, V> {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Error> {
        self.act(tid, Action::Step);
        Ok(())
    }
}

impl<V: Vcpu + 'static> MultiThreadRangeStepping for Guest<'_, V> {
    fn set_resume_action_range_step(
        &mut self,
        tid: Tid,
        start: u64,
        end: u64,
    ) -> Result<(), Error> {
        self.act(tid, Action::Range(start, end));
        Ok(())
    }
}

impl<V: Vcpu + 'static> MultiThreadSchedulerLocking for Guest<'_, V> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Error> {
        self.others = Action::Stay;
        Ok(())
    }
}
