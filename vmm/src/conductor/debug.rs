//! A debugger's hold on all vCPUs.

use std::sync::{PoisonError, mpsc};

use super::{Conductor, GoesOn, Halt, Quiesced, Trap};
use crate::vcpu::Vcpu;

impl<V: Vcpu + 'static> Conductor<V> {
    /// Brings every vCPU out of the guest, with no access pending, for a debugger, of which there is one at a time. Whoever else moves
    /// vCPUs waits. They go on when that is dropped.
    pub fn debug(&self) -> Debugged<'_, V> {
        self.gate.come();
        Debugged { conductor: self }
    }

    /// Has a debugger get back the vCPUs that it let go on, now or the next time.
    pub fn ask_back(&self) {
        self.gate.ask();
    }

    /// Lets no vCPU go on until a debugger has come, and lets it.
    pub fn await_debugger(&self) {
        self.gate.await_debugger();
    }

    /// Has a debugger look at this vCPU before anything goes on, now or when one comes.
    pub fn show(&self, vcpu: usize) {
        self.gate.show(vcpu);
    }

    /// Has a debugger look at this vCPU if one is there; returns when it has let it go on.
    pub fn show_if_debugged(&self, vcpu: usize) {
        self.gate.show_if_present(vcpu);
    }
}

impl<V: Vcpu + 'static> Quiesced<'_, V> {
    /// Has a debugger look at this vCPU before anything goes on, now or when one comes.
    pub fn show(&self, vcpu: usize) {
        self.conductor.show(vcpu);
    }

    /// Has a debugger look at this vCPU if one is there; returns when it has let it go on.
    pub fn show_if_debugged(&self, vcpu: usize) {
        self.conductor.show_if_debugged(vcpu);
    }
}

/// While it lives no vCPU runs but those that it lets go on.
pub struct Debugged<'a, V: Vcpu + 'static> {
    conductor: &'a Conductor<V>,
}

impl<V: Vcpu + 'static> Debugged<'_, V> {
    /// How many vCPUs there are.
    pub fn vcpus(&self) -> usize {
        self.conductor.threads.len()
    }

    /// Lets these vCPUs go on, of which some take steps, until one of them is trapped for the debugger, and does not go on at once as some
    /// know to, somebody [asks](Conductor::ask_back) or the run ends; all are out of the guest then, with no access pending.
    pub fn run(
        &self,
        vcpus: &[usize],
        steps: &[usize],
        go_on: Vec<(usize, GoesOn<V>)>,
    ) -> Halt<Trap> {
        let set = |vcpu: usize, goes_on| {
            let mut steps = self.conductor.steps[vcpu]
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *steps = goes_on;
        };
        for (vcpu, goes_on) in go_on {
            set(vcpu, Some(goes_on));
        }
        let halt = self.conductor.gate.run_until_halt(vcpus, steps);
        for vcpu in 0..self.vcpus() {
            set(vcpu, None);
        }
        halt
    }

    /// Whether a vCPU would stay where it is if it were let go on alone: it is held, or it is not its turn.
    pub fn stays(&self, vcpu: usize) -> bool {
        self.conductor.gate.stays(vcpu)
    }

    /// Does something with a vCPU on its own thread, and waits for the answer; `None` when the thread is gone.
    pub fn on<T: Send + 'static>(
        &self,
        vcpu: usize,
        job: impl FnOnce(&mut V) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.conductor.gate.give_for_debugger(
            vcpu,
            Box::new(move |vcpu| {
                // The receiver waits below.
                let _ = answer.send(job(vcpu));
            }),
        );
        answered.recv().ok()
    }
}

impl<V: Vcpu + 'static> Drop for Debugged<'_, V> {
    fn drop(&mut self) {
        self.conductor.gate.go();
    }
}
