//! The gate that every vCPU thread passes before it enters the guest.
//!
//! One mutex, one condition variable, and a seat a vCPU. The order that makes a kick impossible to lose:
//!
//! - the conductor writes its wish under the lock, and then, still under the lock, kicks the seats that are in the guest;
//! - a thread forgets its kick first and reads the wish afterwards, under the lock.
//!
//! So a kick that is forgotten was for a wish that is read. The test at the end has shuttle look for a schedule in which
//! this is not so.

use std::time::Instant;

use super::sync::{Condvar, Mutex, MutexGuard};
use crate::vcpu::Kick;

/// What the conductor wants of every thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wish {
    Run,
    Hold,
    Leave,
}

/// Where a thread is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// It has not come to the gate yet.
    Starting,
    /// It may be in the guest, or on its way there or back.
    Guest,
    /// It waits at the gate with no access pending.
    Gate,
    /// It will not touch its vCPU again.
    Gone,
}

struct Seat<J> {
    place: Place,
    kick: Option<Box<dyn Kick>>,
    job: Option<J>,
}

/// How far the run is.
enum Run<E> {
    Going,
    Ended(E),
    /// Ended, and its end was taken by [`Gate::ended`].
    Told,
}

struct State<J, E> {
    wish: Wish,
    seats: Vec<Seat<J>>,
    run: Run<E>,
}

/// What a thread does next.
pub(super) enum Order<J> {
    /// Enter the guest.
    Run,
    /// Finish the pending access, then come back.
    Settle,
    /// Do this with the vCPU, then come back.
    Do(J),
    /// Drop the vCPU and end.
    Leave,
}

/// The gate, with jobs `J` that a waiting thread can be given and an end `E` of the run.
pub(super) struct Gate<J, E> {
    state: Mutex<State<J, E>>,
    changed: Condvar,
}

impl<J, E> Gate<J, E> {
    /// A gate with so many seats, shut: threads wait until [`open`](Gate::open).
    pub(super) fn new(seats: usize) -> Self {
        let seats = (0..seats)
            .map(|_| Seat {
                place: Place::Starting,
                kick: None,
                job: None,
            })
            .collect();
        let state = State {
            wish: Wish::Hold,
            seats,
            run: Run::Going,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J, E>> {
        // A thread that panics under this lock is a fault of ours; the others must still be told to leave.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<J, E>>) -> MutexGuard<'a, State<J, E>> {
        self.changed
            .wait(state)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    // The threads' side.

    /// A thread takes its seat.
    pub(super) fn sit(&self, seat: usize, kick: Box<dyn Kick>) {
        self.lock().seats[seat].kick = Some(kick);
    }

    /// Waits for what the thread shall do next. `settled` says that no access is pending. The caller has forgotten its
    /// kick just before.
    pub(super) fn next(&self, seat: usize, settled: bool) -> Order<J> {
        let mut state = self.lock();
        loop {
            match state.wish {
                Wish::Leave => return Order::Leave,
                Wish::Run => {
                    state.seats[seat].place = Place::Guest;
                    return Order::Run;
                }
                Wish::Hold if !settled => return Order::Settle,
                Wish::Hold => {
                    if let Some(job) = state.seats[seat].job.take() {
                        return Order::Do(job);
                    }
                    if state.seats[seat].place != Place::Gate {
                        state.seats[seat].place = Place::Gate;
                        self.changed.notify_all();
                    }
                    state = self.wait(state);
                }
            }
        }
    }

    /// The thread will not touch its vCPU again.
    pub(super) fn leave(&self, seat: usize) {
        let mut state = self.lock();
        state.seats[seat].place = Place::Gone;
        state.seats[seat].job = None;
        self.changed.notify_all();
    }

    // The conductor's side.

    /// Lets every vCPU run, unless the run has ended.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        if state.wish == Wish::Hold && matches!(state.run, Run::Going) {
            state.wish = Wish::Run;
            self.changed.notify_all();
        }
    }

    /// Brings every vCPU out of the guest, and returns when all wait at the gate, or are gone.
    pub(super) fn hold(&self) {
        let mut state = self.lock();
        Self::wish_hold(&mut state);
        while state
            .seats
            .iter()
            .any(|seat| !matches!(seat.place, Place::Gate | Place::Gone))
        {
            state = self.wait(state);
        }
    }

    /// Tells every thread to end.
    pub(super) fn dismiss(&self) {
        let mut state = self.lock();
        state.wish = Wish::Leave;
        Self::kick_those_in_guest(&state);
        self.changed.notify_all();
    }

    /// Gives a held thread a job; one that is gone drops it.
    pub(super) fn give(&self, seat: usize, job: J) {
        let mut state = self.lock();
        assert_eq!(state.wish, Wish::Hold, "a job is given to a held vCPU only");
        if state.seats[seat].place != Place::Gone {
            state.seats[seat].job = Some(job);
            self.changed.notify_all();
        }
    }

    /// Ends the run: nothing enters the guest any more. The first end stands.
    pub(super) fn end(&self, end: E) {
        let mut state = self.lock();
        if matches!(state.run, Run::Going) {
            state.run = Run::Ended(end);
            Self::wish_hold(&mut state);
            self.changed.notify_all();
        }
    }

    /// Waits for the end of the run, or for the deadline.
    pub(super) fn ended(&self, deadline: Option<Instant>) -> Option<E> {
        let mut state = self.lock();
        loop {
            if matches!(state.run, Run::Ended(_)) {
                let Run::Ended(end) = std::mem::replace(&mut state.run, Run::Told) else {
                    unreachable!()
                };
                return Some(end);
            }
            state = match deadline {
                None => self.wait(state),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    let (state, _) = self
                        .changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(|poisoned| poisoned.into_inner());
                    state
                }
            };
        }
    }

    fn wish_hold(state: &mut State<J, E>) {
        if state.wish == Wish::Run {
            state.wish = Wish::Hold;
            Self::kick_those_in_guest(state);
        }
    }

    fn kick_those_in_guest(state: &State<J, E>) {
        for seat in &state.seats {
            if let (Place::Guest, Some(kick)) = (seat.place, &seat.kick) {
                kick.kick();
            }
        }
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod tests {
    //! A guest that never leaves by itself: only a kick brings it back, as `KVM_RUN` on a guest that spins.

    use std::sync::Arc;

    use shuttle::sync::{Condvar, Mutex};
    use shuttle::{check_dfs, check_pct, check_random, thread};

    use super::{Gate, Order};
    use crate::vcpu::Kick;

    /// immediate_exit and the signal in one: a kick is remembered until it is forgotten.
    #[derive(Default)]
    struct Cpu {
        kicked: Mutex<bool>,
        signal: Condvar,
    }

    impl Cpu {
        fn run(&self) {
            let mut kicked = self.kicked.lock().unwrap();
            while !*kicked {
                kicked = self.signal.wait(kicked).unwrap();
            }
        }

        fn forget(&self) {
            *self.kicked.lock().unwrap() = false;
        }
    }

    struct Signal(Arc<Cpu>);

    impl Kick for Signal {
        fn kick(&self) {
            *self.0.kicked.lock().unwrap() = true;
            self.0.signal.notify_all();
        }
    }

    /// When a thread forgets its kick: the right moment, and the wrong one that looks as good.
    #[derive(Clone, Copy, PartialEq)]
    enum Forgets {
        BeforeItLooks,
        AfterItLooked,
    }

    fn vcpu(gate: &Gate<(), ()>, seat: usize, forgets: Forgets) {
        let cpu = Arc::new(Cpu::default());
        gate.sit(seat, Box::new(Signal(Arc::clone(&cpu))));
        let mut settled = true;
        loop {
            if forgets == Forgets::BeforeItLooks {
                cpu.forget();
            }
            match gate.next(seat, settled) {
                Order::Run => {
                    if forgets == Forgets::AfterItLooked {
                        cpu.forget();
                    }
                    cpu.run();
                    settled = false;
                }
                Order::Settle => settled = true,
                Order::Do(()) => {}
                Order::Leave => break,
            }
        }
        gate.leave(seat);
    }

    /// Open, hold, open again, dismiss: a lost kick leaves a thread in the guest for ever, which shuttle reports as a
    /// deadlock.
    fn run_hold_run_leave(vcpus: usize, forgets: Forgets) {
        let gate = Arc::new(Gate::new(vcpus));
        let threads: Vec<_> = (0..vcpus)
            .map(|seat| {
                let gate = Arc::clone(&gate);
                thread::spawn(move || vcpu(&gate, seat, forgets))
            })
            .collect();
        gate.open();
        gate.hold();
        gate.give(0, ());
        gate.open();
        gate.dismiss();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn no_kick_is_lost_in_random_schedules() {
        check_random(|| run_hold_run_leave(2, Forgets::BeforeItLooks), 2_000);
    }

    #[test]
    fn no_kick_is_lost_in_pct_schedules() {
        check_pct(|| run_hold_run_leave(3, Forgets::BeforeItLooks), 1_000, 3);
    }

    #[test]
    fn no_kick_is_lost_in_the_first_schedules_of_an_exhaustive_search() {
        check_dfs(
            || run_hold_run_leave(1, Forgets::BeforeItLooks),
            Some(5_000),
        );
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_thread_that_forgets_after_it_looked_loses_one() {
        check_random(|| run_hold_run_leave(2, Forgets::AfterItLooked), 2_000);
    }
}
