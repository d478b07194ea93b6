//! The gate that every vCPU thread passes before it enters the guest.
//!
//! One mutex, one condition variable, and a seat a vCPU. The order that makes a kick impossible to lose:
//!
//! - the conductor writes its wish under the lock, and then, still under the lock, kicks the seats that are in the guest;
//! - a thread forgets its kick first and reads the wish afterwards, under the lock.
//!
//! So a kick that is forgotten was for a wish that is read. The test at the end has shuttle look for a schedule in which
//! this is not so.

mod debug;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use debug::Debug;
pub use debug::Halt;

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

struct Seat<J, T> {
    place: Place,
    kick: Option<Box<dyn Kick>>,
    /// What it is to do at the gate, in order: a debugger may come while the conductor has something done.
    jobs: VecDeque<J>,
    /// It may enter the guest although all are held.
    pass: bool,
    /// It stays at the gate whatever the others may.
    frozen: bool,
    /// What it was trapped by, and which trap of all that was; until it gets a pass it stays at the gate whatever the others may.
    trap: Option<(u64, T)>,
    /// A debugger keeps it at the gate while others run.
    kept: bool,
    /// A debugger has it take one step: what traps it meanwhile is to be known there before anybody else looks at it.
    steps: bool,
}

/// How far the run is.
enum Run<E> {
    Going,
    Ended(E),
    /// Ended, and its end was taken by [`Gate::ended`].
    Told,
}

struct State<J, T, E> {
    wish: Wish,
    seats: Vec<Seat<J, T>>,
    run: Run<E>,
    /// Traps so far.
    traps: u64,
    debug: Debug<T>,
}

impl<J, T, E> State<J, T, E> {
    /// Whether a thread that gets a job comes to do it.
    fn is_kept(&self, seat: usize) -> bool {
        let own = &self.seats[seat];
        self.wish != Wish::Run || own.frozen || own.trap.is_some()
    }

    /// Whether it may enter the guest if no debugger has something against it.
    fn may_enter(&self, seat: usize) -> bool {
        self.seats[seat].pass || !self.is_kept(seat)
    }

    /// Whether whoever moves vCPUs has to wait: a debugger has them.
    fn is_halted(&self) -> bool {
        self.debug.is_halted() && matches!(self.run, Run::Going)
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stepped<T> {
    /// The vCPU was trapped.
    Trapped(T),
    /// It was not within the time that it had, and is out of the guest.
    Late,
    /// The run has ended.
    Ended,
}

/// How a vCPU came to be kept out of the guest alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Frozen<T> {
    /// It is now.
    Now,
    /// It was trapped meanwhile, which nobody has been told.
    Trapped(T),
    /// It was before: who let it go would let it go too early for somebody else.
    Before,
}

/// What came first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next<T> {
    /// This vCPU was trapped.
    Trapped(usize, T),
    /// None was within the time.
    Late,
    /// The run has ended.
    Ended,
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

/// The gate, with jobs `J` that a waiting thread can be given, traps `T` that bring one there, and an end `E` of the run.
pub(super) struct Gate<J, T, E> {
    state: Mutex<State<J, T, E>>,
    /// For the conductor: a thread has come to the gate or gone, or the run has ended.
    changed: Condvar,
    /// For the thread of each seat: there is something to do. One each, for a step is for one of them.
    wake: Vec<Condvar>,
}

impl<J, T, E> Gate<J, T, E> {
    /// A gate with so many seats, shut: threads wait until [`open`](Gate::open).
    pub(super) fn new(seats: usize) -> Self {
        let wake = (0..seats).map(|_| Condvar::new()).collect();
        let seats = (0..seats)
            .map(|_| Seat {
                place: Place::Starting,
                kick: None,
                jobs: VecDeque::new(),
                pass: false,
                frozen: false,
                trap: None,
                kept: false,
                steps: false,
            })
            .collect();
        let state = State {
            wish: Wish::Hold,
            seats,
            run: Run::Going,
            traps: 0,
            debug: Debug::default(),
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            wake,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J, T, E>> {
        // A thread that panics under this lock is a fault of ours; the others must still be told to leave.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<J, T, E>>) -> MutexGuard<'a, State<J, T, E>> {
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
            let wish = match state.wish {
                Wish::Leave => Wish::Leave,
                _ if state.debug.is_halted() || state.seats[seat].kept => Wish::Hold,
                _ if state.may_enter(seat) => Wish::Run,
                _ => Wish::Hold,
            };
            match wish {
                Wish::Leave => return Order::Leave,
                Wish::Run => {
                    state.seats[seat].place = Place::Guest;
                    return Order::Run;
                }
                Wish::Hold if !settled => return Order::Settle,
                Wish::Hold => {
                    if let Some(job) = state.seats[seat].jobs.pop_front() {
                        return Order::Do(job);
                    }
                    if state.seats[seat].place != Place::Gate {
                        state.seats[seat].place = Place::Gate;
                        self.changed.notify_all();
                    }
                    state = self.wake[seat]
                        .wait(state)
                        .unwrap_or_else(|poisoned| poisoned.into_inner());
                }
            }
        }
    }

    fn wake_all(&self) {
        for wake in &self.wake {
            wake.notify_all();
        }
    }

    /// Something has trapped the vCPU: at its next look the thread stays at the gate.
    pub(super) fn trap(&self, seat: usize, trap: T) {
        let mut state = self.lock();
        state.seats[seat].pass = false;
        state.seats[seat].trap = Some((state.traps, trap));
        state.traps += 1;
        if state.seats[seat].steps {
            self.halt_with(&mut state, Halt::Kept(seat));
        }
    }

    /// The thread will not touch its vCPU again.
    pub(super) fn leave(&self, seat: usize) {
        let mut state = self.lock();
        let own = &mut state.seats[seat];
        (own.place, own.pass) = (Place::Gone, false);
        own.jobs.clear();
        self.changed.notify_all();
    }

    // The conductor's side.

    /// Lets every vCPU run, unless the run has ended.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        if state.wish == Wish::Hold && matches!(state.run, Run::Going) {
            state.wish = Wish::Run;
            self.wake_all();
        }
    }

    /// Brings every vCPU out of the guest, and returns when all wait at the gate, or are gone.
    pub(super) fn hold(&self) {
        let mut state = self.undisturbed();
        Self::wish_hold(&mut state);
        while !state.are_out() || state.is_halted() {
            state = self.wait(state);
        }
    }

    /// When no debugger has the vCPUs.
    fn undisturbed(&self) -> MutexGuard<'_, State<J, T, E>> {
        let mut state = self.lock();
        while state.is_halted() {
            state = self.wait(state);
        }
        state
    }

    /// The time by which deadlines are counted: while a debugger has the vCPUs it stands still.
    pub(super) fn now(&self) -> Instant {
        self.lock().debug.now()
    }

    /// Lets one vCPU of those held into the guest, until it is trapped or the deadline comes. Where it was held alone it still is
    /// afterwards.
    pub(super) fn step(&self, seat: usize, mut deadline: Instant) -> Stepped<T> {
        let mut state = self.undisturbed();
        assert!(state.is_kept(seat), "only a held vCPU takes a step");
        state.seats[seat].frozen |= state.wish == Wish::Run;
        if !matches!(state.run, Run::Going) {
            return Stepped::Ended;
        }
        let own = &mut state.seats[seat];
        (own.pass, own.trap) = (true, None);
        if own.place != Place::Gone {
            // It is on its way.
            own.place = Place::Guest;
        }
        self.wake[seat].notify_all();
        let mut late = false;
        loop {
            let own = &state.seats[seat];
            if !own.pass && own.place != Place::Guest && !state.is_halted() {
                break;
            }
            if own.kept && !late {
                // While a debugger keeps it from its step it can't be late.
                let since = state.debug.now();
                state = self.wait(state);
                deadline += state.debug.now().saturating_duration_since(since);
                continue;
            }
            let left = deadline.saturating_duration_since(state.debug.now());
            if left.is_zero() && !late {
                late = true;
                state.seats[seat].pass = false;
                Self::kick_those_in_guest(&state);
                continue;
            }
            state = if late {
                self.wait(state)
            } else {
                self.wait_until(state, left)
            };
        }
        let own = &mut state.seats[seat];
        own.pass = false;
        match own.trap.take() {
            Some((_, trap)) => Stepped::Trapped(trap),
            None if late && matches!(state.run, Run::Going) => Stepped::Late,
            None => Stepped::Ended,
        }
    }

    /// Waits until every vCPU of these has been trapped, the run has ended or the deadline has come; those that have not been trapped.
    pub(super) fn trapped(&self, seats: &[usize], deadline: Instant) -> Vec<usize> {
        let mut state = self.lock();
        loop {
            let missing: Vec<usize> = seats
                .iter()
                .copied()
                .filter(|seat| state.seats[*seat].trap.is_none())
                .collect();
            let left = deadline.saturating_duration_since(state.debug.now());
            let over = missing.is_empty() || left.is_zero() || !matches!(state.run, Run::Going);
            if over && !state.is_halted() {
                return missing;
            }
            state = self.wait_until(state, left);
        }
    }

    /// Waits for the vCPU that is trapped first of all that run, and keeps it out of the guest until it is [let go](Gate::thaw).
    pub(super) fn next_trap(&self, deadline: Instant) -> Next<T> {
        let mut state = self.lock();
        loop {
            if !matches!(state.run, Run::Going) {
                return Next::Ended;
            }
            let seats = state.seats.iter().enumerate();
            let first = seats
                .filter(|(_, seat)| seat.place == Place::Gate && !seat.frozen)
                .filter_map(|(at, seat)| Some((seat.trap.as_ref()?.0, at)))
                .min()
                .filter(|_| !state.is_halted());
            if let Some((_, at)) = first {
                let own = &mut state.seats[at];
                own.frozen = true;
                let (_, trap) = own.trap.take().expect("it was trapped");
                return Next::Trapped(at, trap);
            }
            let left = deadline.saturating_duration_since(state.debug.now());
            if left.is_zero() && !state.is_halted() {
                return Next::Late;
            }
            state = self.wait_until(state, left);
        }
    }

    /// Brings one vCPU out of the guest, and keeps it there until it is [let go](Gate::thaw); what it was trapped by, if nobody has been
    /// told that yet.
    pub(super) fn freeze(&self, seat: usize) -> Frozen<T> {
        let mut state = self.undisturbed();
        let own = &mut state.seats[seat];
        let before = std::mem::replace(&mut own.frozen, true);
        if let (Place::Guest, Some(kick)) = (own.place, &own.kick) {
            kick.kick();
        }
        while !matches!(state.seats[seat].place, Place::Gate | Place::Gone) || state.is_halted() {
            state = self.wait(state);
        }
        match state.seats[seat].trap.take() {
            Some((_, trap)) => Frozen::Trapped(trap),
            None if before => Frozen::Before,
            None => Frozen::Now,
        }
    }

    /// Lets a vCPU run again that was kept out of the guest alone.
    pub(super) fn thaw(&self, seat: usize) {
        let mut state = self.lock();
        state.seats[seat].frozen = false;
        self.wake[seat].notify_all();
    }

    /// Waits for so long; true if the run ends or has ended.
    pub(super) fn ends_within(&self, time: Duration) -> bool {
        let mut state = self.lock();
        let deadline = state.debug.now() + time;
        while matches!(state.run, Run::Going) {
            let left = deadline.saturating_duration_since(state.debug.now());
            if left.is_zero() && !state.is_halted() {
                return false;
            }
            state = self.wait_until(state, left);
        }
        true
    }

    /// Waits for a change, or for so long if nobody has the vCPUs meanwhile.
    fn wait_until<'a>(
        &self,
        state: MutexGuard<'a, State<J, T, E>>,
        left: Duration,
    ) -> MutexGuard<'a, State<J, T, E>> {
        if state.debug.is_halted() {
            self.wait(state)
        } else {
            self.wait_for(state, left)
        }
    }

    fn wait_for<'a>(
        &self,
        state: MutexGuard<'a, State<J, T, E>>,
        time: Duration,
    ) -> MutexGuard<'a, State<J, T, E>> {
        let (state, _) = self
            .changed
            .wait_timeout(state, time)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        state
    }

    /// Tells every thread to end.
    pub(super) fn dismiss(&self) {
        let mut state = self.lock();
        state.wish = Wish::Leave;
        Self::kick_those_in_guest(&state);
        self.changed.notify_all();
        self.wake_all();
    }

    /// Gives a held thread a job; one that is gone drops it.
    pub(super) fn give(&self, seat: usize, job: J) {
        let mut state = self.undisturbed();
        assert!(state.is_kept(seat), "a job is given to a held vCPU only");
        self.add_job(&mut state, seat, job);
    }

    fn add_job(&self, state: &mut State<J, T, E>, seat: usize, job: J) {
        if state.seats[seat].place != Place::Gone {
            state.seats[seat].jobs.push_back(job);
            self.wake[seat].notify_all();
        }
    }

    /// Ends the run: nothing enters the guest any more. The first end stands.
    pub(super) fn end(&self, end: E) {
        let mut state = self.lock();
        if matches!(state.run, Run::Going) {
            state.run = Run::Ended(end);
            for seat in &mut state.seats {
                seat.pass = false;
            }
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
                Some(_) if state.is_halted() => self.wait(state),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(state.debug.now())?;
                    self.wait_for(state, left)
                }
            };
        }
    }

    fn wish_hold(state: &mut State<J, T, E>) {
        if state.wish == Wish::Run {
            state.wish = Wish::Hold;
        }
        Self::kick_those_in_guest(state);
    }

    fn kick_those_in_guest(state: &State<J, T, E>) {
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

    use super::{Duration, Frozen, Gate, Halt, Instant, Next, Order, Stepped};
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

    fn spinning_vcpu(gate: &Gate<(), usize, ()>, seat: usize) {
        vcpu(gate, seat, Forgets::BeforeItLooks);
    }

    fn vcpu<T>(gate: &Gate<(), T, ()>, seat: usize, forgets: Forgets) {
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
        let gate = Arc::new(Gate::<(), (), ()>::new(vcpus));
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

    /// A guest whose every entry ends in a trap.
    fn trapped_vcpu(gate: &Gate<(), usize, ()>, seat: usize) {
        gate.sit(seat, Box::new(Signal(Arc::default())));
        let mut settled = true;
        loop {
            match gate.next(seat, settled) {
                Order::Run => {
                    settled = false;
                    gate.trap(seat, seat);
                }
                Order::Settle => settled = true,
                Order::Do(()) => {}
                Order::Leave => break,
            }
        }
        gate.leave(seat);
    }

    fn threads<G: Send + Sync + 'static>(
        gate: &Arc<G>,
        seats: usize,
        life: impl Fn(&G, usize) + Copy + Send + 'static,
    ) -> Vec<thread::JoinHandle<()>> {
        let start = |seat| {
            let gate = Arc::clone(gate);
            thread::spawn(move || life(&gate, seat))
        };
        (0..seats).map(start).collect()
    }

    /// All run until they are trapped; then each takes a step while the others wait.
    fn steps_are_for_one() {
        let gate = Arc::new(Gate::new(2));
        let threads = threads(&gate, 2, trapped_vcpu);
        let deadline = Instant::now() + Duration::from_secs(3600);
        gate.open();
        assert!(gate.trapped(&[0, 1], deadline).is_empty());
        gate.hold();
        for seat in [1, 0, 1] {
            assert_eq!(gate.step(seat, deadline), Stepped::Trapped(seat));
        }
        gate.dismiss();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    /// A vCPU that spins is out of the guest when its time is up.
    fn a_step_ends_in_time() {
        let gate = Arc::new(Gate::<(), (), ()>::new(1));
        let threads = threads(&gate, 1, |gate, seat| {
            vcpu(gate, seat, Forgets::BeforeItLooks);
        });
        gate.hold();
        assert_eq!(gate.step(0, Instant::now()), Stepped::Late);
        gate.give(0, ());
        gate.dismiss();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    /// All run; each that is trapped is told once, does a job, and goes on.
    fn traps_are_told_one_by_one() {
        let gate = Arc::new(Gate::new(2));
        let threads = threads(&gate, 2, trapped_vcpu);
        let deadline = Instant::now() + Duration::from_secs(3600);
        gate.open();
        for _ in 0..4 {
            let Next::Trapped(seat, trap) = gate.next_trap(deadline) else {
                panic!("each entry ends in a trap");
            };
            assert_eq!(seat, trap);
            gate.give(seat, ());
            gate.thaw(seat);
        }
        gate.dismiss();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    /// One of two that spin is taken out, while the other goes on, and let go again; then all are held.
    fn one_is_frozen_while_the_other_runs() {
        let gate = Arc::new(Gate::<(), (), ()>::new(2));
        let threads = threads(&gate, 2, |gate, seat| {
            vcpu(gate, seat, Forgets::BeforeItLooks);
        });
        gate.open();
        assert_eq!(gate.freeze(0), Frozen::Now);
        assert_eq!(gate.freeze(0), Frozen::Before);
        gate.give(0, ());
        gate.thaw(0);
        gate.hold();
        gate.dismiss();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    /// A guest whose every entry ends in a debugger's trap.
    fn vcpu_at_breakpoints(gate: &Gate<(), usize, ()>, seat: usize) {
        gate.sit(seat, Box::new(Signal(Arc::default())));
        let mut settled = true;
        loop {
            match gate.next(seat, settled) {
                Order::Run => {
                    settled = false;
                    gate.trap_for_debugger(seat, seat);
                }
                Order::Settle => settled = true,
                Order::Do(()) => {}
                Order::Leave => break,
            }
        }
        gate.leave(seat);
    }

    /// A debugger lets go on what is trapped at once, and what is not until somebody asks; when it has left all run.
    fn a_debugger_has_them_back() {
        let gate = Arc::new(Gate::new(2));
        let gates: Arc<Gate<(), usize, ()>> = Arc::clone(&gate);
        let threads = threads(&gates, 2, |gate, seat| match seat {
            0 => vcpu_at_breakpoints(gate, seat),
            _ => spinning_vcpu(gate, seat),
        });
        gate.await_debugger();
        gate.open();
        gate.come();
        assert_eq!(gate.run_until_halt(&[0, 1], &[]), Halt::Trapped(0, 0));
        let asking = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.ask())
        };
        assert_eq!(gate.run_until_halt(&[1], &[]), Halt::Asked);
        asking.join().unwrap();
        gate.give_for_debugger(1, ());
        gate.end(());
        assert_eq!(gate.run_until_halt(&[0, 1], &[]), Halt::Ended);
        gate.go();
        gate.dismiss();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    /// A scenario has one take steps while a debugger comes, looks and goes: it never is in the guest meanwhile, and no step is lost.
    fn a_scenario_waits_for_a_debugger() {
        let gate = Arc::new(Gate::new(2));
        let threads = threads(&gate, 2, trapped_vcpu);
        let debugger = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                gate.come();
                gate.give_for_debugger(0, ());
                let seen = gate.run_until_halt(&[0, 1], &[0]);
                assert!(matches!(seen, Halt::Kept(0) | Halt::Ended), "{seen:?}");
                gate.go();
            })
        };
        let deadline = Instant::now() + Duration::from_secs(3600);
        gate.hold();
        for seat in [1, 0, 0, 1, 0] {
            assert_eq!(gate.step(seat, deadline), Stepped::Trapped(seat));
            gate.give(seat, ());
        }
        gate.end(());
        gate.dismiss();
        debugger.join().unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_scenario_and_a_debugger_lose_nothing() {
        check_random(a_scenario_waits_for_a_debugger, 2_000);
    }

    #[test]
    fn a_debugger_loses_no_kick() {
        check_random(a_debugger_has_them_back, 2_000);
    }

    #[test]
    fn no_trap_is_lost_and_none_told_twice() {
        check_random(traps_are_told_one_by_one, 2_000);
    }

    #[test]
    fn a_frozen_vcpu_loses_no_kick() {
        check_random(one_is_frozen_while_the_other_runs, 2_000);
    }

    #[test]
    fn a_step_lets_one_vcpu_in() {
        check_random(steps_are_for_one, 2_000);
    }

    #[test]
    fn a_late_step_loses_no_kick() {
        check_random(a_step_ends_in_time, 2_000);
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
