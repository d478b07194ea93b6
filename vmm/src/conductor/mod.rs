//! Who may move: the one place from which vCPUs are run, held and released.
//!
//! Each vCPU has one thread and belongs to it; everything else asks the conductor. Its first primitive is
//! [`Conductor::quiesce`]: every thread out of `KVM_RUN`, every access finished. State that KVM guards by that (the vGIC,
//! the counter offset, MP_STATE) is reached through [`Quiesced`] alone.

mod debug;
mod gate;
mod sync;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, PoisonError, mpsc};
use std::time::{Duration, Instant};

pub use debug::Debugged;
pub use gate::{Frozen, Halt, Next, Stepped};
use gate::{Gate, Order};

use crate::machine::Bus;
use crate::vcpu::{Detached, Entry, Exit, Owners, Standing, Vcpu};

/// How a run ends.
#[derive(Debug, Eq, PartialEq)]
pub enum End<E> {
    /// The guest asked for SYSTEM_OFF.
    PowerOff,
    /// The guest asked for SYSTEM_RESET.
    Reset,
    /// Somebody outside asked, for this reason.
    Asked(Reason),
    /// The host failed a vCPU.
    Failed {
        /// Its index.
        vcpu: usize,
        /// What the host said.
        error: E,
    },
    /// A vCPU's thread panicked: a fault of ours. [`Conductor::finish`] passes the panic on.
    Panicked,
}

/// Why somebody outside ended the run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// This signal came.
    Signal(i32),
    /// The console can take no more bytes: what the guest says would be lost.
    ConsoleLost,
}

/// What takes a vCPU out of the guest and keeps it out until its next step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trap {
    /// The bus' tap says so.
    Tapped,
    /// A breakpoint.
    Breakpoint,
    /// A watchpoint.
    Watchpoint {
        /// The virtual address that it reaches for.
        address: u64,
    },
    /// It has executed the one instruction that it was let go for.
    Stepped,
    /// It has powered itself off.
    Off,
}

type Job<V> = Box<dyn FnOnce(&mut V) + Send>;
/// What a vCPU that a debugger has take steps does when it is trapped for it: goes on at once, or is out. On its own thread.
pub type GoesOn<V> = Box<dyn FnMut(&mut V, Trap) -> Result<bool, <V as Vcpu>::Error> + Send>;
/// That of each vCPU, if it has any.
type Steps<V> = Vec<sync::Mutex<Option<GoesOn<V>>>>;
type Shared<V> = Gate<Job<V>, Trap, End<<V as Vcpu>::Error>>;

/// What the conductor's own work can meet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No thread for a vCPU.
    #[error(
        "cannot start the thread of vCPU {vcpu}: {source}; fewer vCPUs (--cpus) or a higher limit (ulimit -u) help"
    )]
    Thread {
        /// Its index.
        vcpu: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The threads of a guest's vCPUs.
///
/// However it goes away, the threads are told to leave, and joined.
pub struct Conductor<V: Vcpu + 'static> {
    gate: Arc<Shared<V>>,
    steps: Arc<Steps<V>>,
    threads: Vec<sync::thread::JoinHandle<()>>,
}

impl<V: Vcpu + 'static> Conductor<V> {
    /// Starts a thread for each vCPU. None enters the guest before [`run`](Conductor::run).
    pub fn start<D>(vcpus: Vec<D>, bus: &Arc<Bus>) -> Result<Self, Error>
    where
        D: Detached<Vcpu = V>,
    {
        let mut conductor = Self {
            gate: Arc::new(Gate::new(vcpus.len())),
            steps: Arc::new(vcpus.iter().map(|_| sync::Mutex::default()).collect()),
            threads: Vec::new(),
        };
        for (seat, vcpu) in vcpus.into_iter().enumerate() {
            let gate = Arc::clone(&conductor.gate);
            let steps = Arc::clone(&conductor.steps);
            let bus = Arc::clone(bus);
            let started = sync::thread::Builder::new()
                .name(format!("vcpu{seat}"))
                .spawn(move || {
                    // A panic of ours must not leave the conductor waiting for this seat.
                    let caught = catch_unwind(AssertUnwindSafe(|| {
                        drive(seat, vcpu, &bus, &gate, &steps[seat])
                    }));
                    if caught.is_err() {
                        gate.end(End::Panicked);
                    }
                    gate.leave(seat);
                    if let Err(panic) = caught {
                        resume_unwind(panic);
                    }
                });
            match started {
                Ok(thread) => conductor.threads.push(thread),
                Err(source) => return Err(Error::Thread { vcpu: seat, source }),
            }
        }
        Ok(conductor)
    }

    /// The time by which its deadlines are counted: it stands still while a debugger has the vCPUs.
    pub fn now(&self) -> Instant {
        self.gate.now()
    }

    /// Lets every vCPU run, unless the run has ended.
    pub fn run(&self) {
        self.gate.open();
    }

    /// Waits for the end of the run; `None` when the deadline came first. From its end on no vCPU runs.
    pub fn wait(&self, deadline: Option<Instant>) -> Option<End<V::Error>> {
        self.gate.ended(deadline)
    }

    /// Brings every vCPU thread out of `KVM_RUN` with no access pending, until the guard is dropped.
    pub fn quiesce(&self) -> Quiesced<'_, V> {
        self.gate.hold();
        Quiesced { conductor: self }
    }

    /// Waits until each of these vCPUs is out of the guest by a trap; those that are not when the deadline comes or the run ends.
    pub fn trapped(&self, vcpus: &[usize], deadline: Instant) -> Vec<usize> {
        self.gate.trapped(vcpus, deadline)
    }

    /// Waits for the vCPU that is trapped first while all run. It stays out of the guest, and no other does, until it is
    /// [let go](Conductor::thaw).
    pub fn next_trap(&self, deadline: Instant) -> Next<Trap> {
        self.gate.next_trap(deadline)
    }

    /// Brings one vCPU out of the guest with no access pending, and keeps it there, until it is [let go](Conductor::thaw). If it was
    /// trapped meanwhile, by what: [`next_trap`](Conductor::next_trap) does not tell that any more.
    pub fn freeze(&self, vcpu: usize) -> Frozen<Trap> {
        self.gate.freeze(vcpu)
    }

    /// Lets a vCPU go on that was trapped or frozen.
    pub fn thaw(&self, vcpu: usize) {
        self.gate.thaw(vcpu);
    }

    /// Lets a vCPU that was trapped or frozen into the guest until it is trapped or the deadline comes; it stays out of it then.
    pub fn step(&self, vcpu: usize, deadline: Instant) -> Stepped<Trap> {
        self.gate.step(vcpu, deadline)
    }

    /// Does something with a vCPU that was trapped or frozen, on its own thread, and waits for the answer; `None` when the thread is
    /// gone.
    pub fn on<T: Send + 'static>(
        &self,
        seat: usize,
        job: impl FnOnce(&mut V) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.gate.give(
            seat,
            Box::new(move |vcpu| {
                // The receiver waits below.
                let _ = answer.send(job(vcpu));
            }),
        );
        // A seat that is gone drops the job, and with it the sender.
        answered.recv().ok()
    }

    /// What ends this run from another thread.
    pub fn stopper(&self) -> Stopper<V> {
        Stopper {
            gate: Arc::clone(&self.gate),
        }
    }

    /// Ends every thread and joins it; a panic in one of them goes on here.
    pub fn finish(mut self) {
        self.gate.dismiss();
        // All of them first: what is left of a drain that a panic ends is dropped, and a dropped handle joins nobody.
        let joined: Vec<_> = self.threads.drain(..).map(|thread| thread.join()).collect();
        if let Some(panic) = joined.into_iter().find_map(Result::err) {
            resume_unwind(panic);
        }
    }
}

impl<V: Vcpu + 'static> Drop for Conductor<V> {
    fn drop(&mut self) {
        self.gate.dismiss();
        for thread in self.threads.drain(..) {
            // Its panic, if any, has been printed; there is no place left to pass it to.
            let _ = thread.join();
        }
    }
}

/// While it lives, every vCPU waits at the gate.
pub struct Quiesced<'a, V: Vcpu + 'static> {
    conductor: &'a Conductor<V>,
}

impl<V: Vcpu + 'static> Quiesced<'_, V> {
    /// Where each vCPU stands; `None` for one whose thread is gone.
    pub fn standings(&self) -> Vec<Option<Result<Standing, V::Error>>> {
        (0..self.conductor.threads.len())
            .map(|seat| self.on(seat, |vcpu| vcpu.standing()))
            .collect()
    }

    /// Lets one vCPU into the guest until it is trapped, with no access pending, or the deadline comes.
    pub fn step(&self, vcpu: usize, deadline: Instant) -> Stepped<Trap> {
        self.conductor.gate.step(vcpu, deadline)
    }

    /// The time by which deadlines are counted.
    pub fn now(&self) -> Instant {
        self.conductor.now()
    }

    /// Lets so much time pass; true if the run has ended before.
    pub fn ended_within(&self, time: Duration) -> bool {
        self.conductor.gate.ends_within(time)
    }

    /// Does something with a vCPU on its own thread, and waits for the answer; `None` when the thread is gone.
    pub fn on<T: Send + 'static>(
        &self,
        seat: usize,
        job: impl FnOnce(&mut V) -> T + Send + 'static,
    ) -> Option<T> {
        self.conductor.on(seat, job)
    }
}

impl<V: Vcpu + 'static> Drop for Quiesced<'_, V> {
    fn drop(&mut self) {
        self.conductor.gate.open();
    }
}

/// Ends a run from another thread.
pub struct Stopper<V: Vcpu + 'static> {
    gate: Arc<Shared<V>>,
}

impl<V: Vcpu + 'static> Stopper<V> {
    /// Ends the run, unless it has ended already.
    pub fn stop(&self, reason: Reason) {
        self.gate.end(End::Asked(reason));
    }
}

/// The life of a vCPU's thread.
fn drive<D: Detached>(
    seat: usize,
    vcpu: D,
    bus: &Bus,
    gate: &Shared<D::Vcpu>,
    steps: &sync::Mutex<Option<GoesOn<D::Vcpu>>>,
) {
    let (mut vcpu, kick) = vcpu.attach();
    gate.sit(seat, Box::new(kick));
    let mut entry = Entry::Continue;
    let mut settled = true;
    loop {
        vcpu.forget_kick();
        let (mut trap, mut of) = (None, Owners::SCENARIO);
        let step = match gate.next(seat, settled) {
            Order::Leave => return,
            Order::Do(job) => {
                job(&mut vcpu);
                continue;
            }
            Order::Settle => vcpu
                .settle(std::mem::replace(&mut entry, Entry::Continue))
                .map(|()| {
                    settled = true;
                }),
            Order::Run => vcpu.run(entry).map(|exit| {
                (entry, settled) = match exit {
                    Exit::Read { address, width } => {
                        let access = bus.read(seat, address, width);
                        trap = access.trap.then_some(Trap::Tapped);
                        (access.answer.map_or(Entry::Abort, Entry::Answer), false)
                    }
                    Exit::Write {
                        address,
                        width,
                        value,
                    } => {
                        let access = bus.write(seat, address, width, value);
                        trap = access.trap.then_some(Trap::Tapped);
                        let entry = match access.answer {
                            Some(_) => Entry::Continue,
                            None => Entry::Abort,
                        };
                        (entry, false)
                    }
                    Exit::Breakpoint { of: owners } => {
                        (trap, of) = (Some(Trap::Breakpoint), owners);
                        (Entry::Continue, true)
                    }
                    Exit::Watchpoint {
                        address,
                        of: owners,
                    } => {
                        (trap, of) = (Some(Trap::Watchpoint { address }), owners);
                        (Entry::Continue, true)
                    }
                    Exit::Stepped { of: owners } => {
                        (trap, of) = (Some(Trap::Stepped), owners);
                        (Entry::Continue, true)
                    }
                    Exit::PowersItselfOff => {
                        trap = Some(Trap::Off);
                        (Entry::Continue, true)
                    }
                    Exit::NoSyndrome { address, iss } => {
                        bus.no_syndrome(address, iss);
                        (Entry::Abort, false)
                    }
                    Exit::Kicked => (Entry::Continue, true),
                    Exit::PowerOff => {
                        gate.end(End::PowerOff);
                        (Entry::Continue, true)
                    }
                    Exit::Reset => {
                        gate.end(End::Reset);
                        (Entry::Continue, true)
                    }
                };
            }),
        };
        let step = step.and_then(|()| match trap {
            Some(Trap::Off) => vcpu.power_off(),
            Some(trap) if of.debugger => {
                let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(goes_on) = &mut *steps {
                    of.debugger = !goes_on(&mut vcpu, trap)?;
                }
                Ok(())
            }
            _ => Ok(()),
        });
        if let Err(error) = step {
            gate.end(End::Failed { vcpu: seat, error });
            return;
        }
        if let Some(trap) = trap {
            // What is both's is the debugger's first: whoever moves vCPUs waits until it has been looked at.
            if of.debugger {
                gate.trap_for_debugger(seat, trap);
            }
            if of.scenario {
                gate.trap(seat, trap);
            }
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
