//! A debugger's hold on all vCPUs.

use super::{Conductor, Halt, Trap};
use crate::vcpu::Vcpu;

impl<V: Vcpu + 'static> Conductor<V> {
    /// Brings every vCPU out of the guest, with no access pending, for a debugger; they run again when that is dropped.
    pub fn debug(&self) -> Debugged<'_, V> {
        self.gate.hold();
        Debugged { conductor: self }
    }

    /// Has a debugger get back the vCPUs that it let in, now or the next time.
    pub fn ask_back(&self) {
        self.gate.ask();
    }
}

/// While it lives no vCPU runs but those that it lets in.
pub struct Debugged<'a, V: Vcpu + 'static> {
    conductor: &'a Conductor<V>,
}

impl<V: Vcpu + 'static> Debugged<'_, V> {
    /// How many vCPUs there are.
    pub fn vcpus(&self) -> usize {
        self.conductor.threads.len()
    }

    /// Lets these vCPUs into the guest until one of them is trapped, somebody [asks](Conductor::ask_back) or the run ends; all are out of
    /// the guest then, with no access pending.
    pub fn run(&self, vcpus: &[usize]) -> Halt<Trap> {
        self.conductor.gate.run_until_halt(vcpus)
    }

    /// Does something with a vCPU on its own thread, and waits for the answer; `None` when the thread is gone.
    pub fn on<T: Send + 'static>(
        &self,
        vcpu: usize,
        job: impl FnOnce(&mut V) -> T + Send + 'static,
    ) -> Option<T> {
        self.conductor.on(vcpu, job)
    }
}

impl<V: Vcpu + 'static> Drop for Debugged<'_, V> {
    fn drop(&mut self) {
        self.conductor.gate.open();
    }
}
