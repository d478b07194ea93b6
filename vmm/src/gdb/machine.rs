//! A machine of KVM around its vCPUs, as a debugger sees it.

use std::sync::Arc;

use vmm_core::arm::{Mpidr, PhysicalAddress};
use vmm_core::inspect::OutsideOfRam;

use super::{Around, DebugRegisters, Entrance, Insight, Placed, Telling, serve};
use crate::conductor::Conductor;
use crate::kvm::{Clock, Gic, KvmVcpu, debug_registers};
use crate::machine::Ram;

/// What of a machine is around its vCPUs.
pub struct Surroundings<'a> {
    /// Its RAM.
    pub ram: Ram,
    /// Its interrupt controller.
    pub gic: Gic,
    /// The affinity of each vCPU.
    pub mpidrs: Vec<Mpidr>,
    /// Its counter.
    pub clock: Clock,
    /// What its RAM says of the stop path.
    pub insight: Box<dyn Insight + 'a>,
    /// Where its kernel lies, as another boot has told.
    pub placed: Option<&'a Placed>,
}

/// How debuggers come to a machine.
#[derive(Clone, Copy)]
pub struct Debugging<'a> {
    /// Where.
    pub entrance: &'a Entrance,
    /// Whether nothing runs before one says so.
    pub waits: bool,
    /// The scenario that moves its vCPUs, if one does.
    pub telling: Option<&'a dyn Telling>,
}

/// Why debuggers can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The host does not say how many debug registers there are.
    #[error(transparent)]
    Registers(#[from] crate::kvm::Error),
    /// The host has no more of something.
    #[error("cannot serve debuggers: {0}")]
    Host(#[from] std::io::Error),
}

impl Debugging<'_> {
    /// Serves debuggers while the work is done.
    pub fn serve<R>(
        &self,
        conductor: &Conductor<KvmVcpu>,
        machine: Surroundings<'_>,
        work: impl FnOnce() -> R,
    ) -> Result<R, ServeError> {
        let (breakpoints, watchpoints) = debug_registers().map_err(crate::kvm::Error::from)?;
        let limits = DebugRegisters {
            breakpoints: breakpoints as usize,
            watchpoints: watchpoints as usize,
        };
        if self.waits {
            conductor.await_debugger();
        }
        let around = Debuggee {
            ram: Arc::new(machine.ram.clone()),
            machine,
            telling: self.telling,
        };
        let listener = self.entrance.open()?;
        Ok(serve(listener, conductor, &around, limits, work)?)
    }
}

/// A machine, and what moves its vCPUs.
struct Debuggee<'a> {
    ram: Arc<dyn super::Ram>,
    machine: Surroundings<'a>,
    telling: Option<&'a dyn Telling>,
}

impl Around for Debuggee<'_> {
    fn ram(&self) -> &Arc<dyn super::Ram> {
        &self.ram
    }

    fn stop_time(&self) {
        self.machine.clock.stop();
    }

    fn start_time(&self) {
        if let Err(error) = self.machine.clock.go_on() {
            tracing::debug!("the guest's counter could not be stopped: {error}");
        }
    }

    fn interrupts(&self, cpu: usize) -> Result<(u32, u32), String> {
        let told = self.machine.gic.interrupts(self.machine.mpidrs[cpu]);
        told.map(|interrupts| (interrupts.pending, interrupts.active))
            .map_err(|error| error.to_string())
    }

    fn interface(&self, cpu: usize) -> Result<(u8, u8), String> {
        let told = self.machine.gic.interface(self.machine.mpidrs[cpu]);
        told.map(|interface| (interface.mask, interface.running))
            .map_err(|error| error.to_string())
    }

    fn insight(&self) -> &dyn Insight {
        &*self.machine.insight
    }

    fn telling(&self) -> Option<&dyn Telling> {
        self.telling
    }

    fn placed(&self) -> Option<&Placed> {
        self.machine.placed
    }
}

impl super::Ram for Ram {
    fn write(&self, at: PhysicalAddress, bytes: &[u8]) -> Result<(), OutsideOfRam> {
        Ram::write(self, at, bytes)
    }
}
