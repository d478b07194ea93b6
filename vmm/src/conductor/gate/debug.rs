//! The gate for a debugger, which has all vCPUs out of the guest, and lets them go on until there is something to be looked at.
//!
//! Whoever else moves vCPUs goes on with them: while a debugger has them nobody gets past [`Gate::undisturbed`], no deadline comes
//! nearer, and a trap that was meant for somebody else waits.

use std::time::{Duration, Instant};

use super::{Gate, Place, Run, State};

/// Why vCPUs that a debugger let go on are out again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Halt<T> {
    /// This one was trapped for the debugger.
    Trapped(usize, T),
    /// This one was to take a step, and was trapped for somebody else.
    Kept(usize),
    /// This one is to be looked at, says whoever moves the vCPUs.
    Shown(usize),
    /// Somebody asked for it.
    Asked,
    /// The run has ended.
    Ended,
}

/// What a debugger has to do with the gate.
pub(super) struct Debug<T> {
    /// Since when all vCPUs are out, for one that is there or for one that shall come.
    halted: Option<Instant>,
    /// How long that was, in all, before.
    away: Duration,
    /// Why they are.
    why: Option<Halt<T>>,
    /// Whether one is there.
    present: bool,
    /// It shall have back what it let go on.
    asked: bool,
}

impl<T> Default for Debug<T> {
    fn default() -> Self {
        Self {
            halted: None,
            away: Duration::ZERO,
            why: None,
            present: false,
            asked: false,
        }
    }
}

impl<T> Debug<T> {
    pub(super) fn is_halted(&self) -> bool {
        self.halted.is_some()
    }

    /// The time without that for which vCPUs were halted.
    pub(super) fn now(&self) -> Instant {
        self.halted.unwrap_or_else(Instant::now) - self.away
    }
}

impl<J, T, E> Gate<J, T, E> {
    /// Something has trapped the vCPU for the debugger, which has all of them from now on.
    pub(in crate::conductor) fn trap_for_debugger(&self, seat: usize, trap: T) {
        self.halt_with(&mut self.lock(), Halt::Trapped(seat, trap));
    }

    pub(super) fn halt_with(&self, state: &mut State<J, T, E>, why: Halt<T>) {
        // What halts them a second time is forgotten: such a vCPU stands before what it was trapped at, and comes to it again.
        if !state.debug.is_halted() {
            state.debug.why = Some(why);
            self.halt_all(state);
        }
    }

    fn halt_all(&self, state: &mut State<J, T, E>) {
        state.debug.halted.get_or_insert_with(Instant::now);
        Self::kick_those_in_guest(state);
        self.changed.notify_all();
    }

    fn go_on(&self, state: &mut State<J, T, E>) {
        if let Some(since) = state.debug.halted.take() {
            state.debug.away += since.elapsed();
        }
        self.wake_all();
        self.changed.notify_all();
    }

    /// Keeps all vCPUs out until a debugger has come and said that they may go on.
    pub(in crate::conductor) fn await_debugger(&self) {
        self.halt_all(&mut self.lock());
    }

    /// Has a debugger look at this vCPU now, or when one comes.
    pub(in crate::conductor) fn show(&self, seat: usize) {
        self.halt_with(&mut self.lock(), Halt::Shown(seat));
    }

    /// As [`show`](Gate::show), if there is a debugger; returns when it has seen it.
    pub(in crate::conductor) fn show_if_present(&self, seat: usize) {
        let mut state = self.lock();
        if state.debug.present {
            self.halt_with(&mut state, Halt::Shown(seat));
        }
        while state.is_halted() {
            state = self.wait(state);
        }
    }

    /// A debugger comes: it has all vCPUs when this returns.
    pub(in crate::conductor) fn come(&self) {
        let mut state = self.lock();
        state.debug.present = true;
        self.halt_all(&mut state);
        while !state.are_out() {
            state = self.wait(state);
        }
    }

    /// It leaves, and all go on.
    pub(in crate::conductor) fn go(&self) {
        let mut state = self.lock();
        for seat in &mut state.seats {
            seat.kept = false;
        }
        let debug = &mut state.debug;
        (debug.present, debug.asked, debug.why) = (false, false, None);
        self.go_on(&mut state);
    }

    /// Lets these vCPUs go on, of which some are to take a step each, as far as whoever moves them does so, too, until one of them is
    /// trapped for the debugger, somebody [asks](Gate::ask) or the run ends; all are out of the guest then.
    pub(in crate::conductor) fn run_until_halt(&self, seats: &[usize], steps: &[usize]) -> Halt<T> {
        let mut state = self.lock();
        for (at, seat) in state.seats.iter_mut().enumerate() {
            seat.kept = !seats.contains(&at);
            seat.steps = steps.contains(&at);
        }
        state.debug.why = None;
        if matches!(state.run, Run::Going) && !state.debug.asked {
            self.go_on(&mut state);
        }
        let halt = loop {
            if let Some(why) = state.debug.why.take() {
                break why;
            }
            if !matches!(state.run, Run::Going) {
                break Halt::Ended;
            }
            if std::mem::take(&mut state.debug.asked) {
                break Halt::Asked;
            }
            state = self.wait(state);
        };
        self.halt_all(&mut state);
        while !state.are_out() {
            state = self.wait(state);
        }
        for seat in &mut state.seats {
            seat.steps = false;
        }
        halt
    }

    /// Has those halt that a debugger let go on, now or the next time.
    pub(in crate::conductor) fn ask(&self) {
        self.lock().debug.asked = true;
        self.changed.notify_all();
    }

    /// Whether this vCPU stays where it is although a debugger lets it go on: whoever moves it does not.
    pub(in crate::conductor) fn stays(&self, seat: usize) -> bool {
        !self.lock().may_enter(seat)
    }

    /// Gives a thread a job while a debugger has it; one that is gone drops it.
    pub(in crate::conductor) fn give_for_debugger(&self, seat: usize, job: J) {
        let mut state = self.lock();
        assert!(
            state.debug.is_halted(),
            "a debugger gives jobs to what it has"
        );
        self.add_job(&mut state, seat, job);
    }
}

impl<J, T, E> State<J, T, E> {
    pub(super) fn are_out(&self) -> bool {
        let mut seats = self.seats.iter();
        seats.all(|seat| matches!(seat.place, Place::Gate | Place::Gone))
    }
}
