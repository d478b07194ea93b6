//! Where a kernel will lie, before it does: KASLR moves it by an offset that its seed and its size decide (Linux
//! arch/arm64/kernel/pi/kaslr_early.c), so that another boot of the same guest tells.

use std::sync::Arc;
use std::time::Duration;

use vmm_core::inspect::{InspectError, KernelSpace, Symbols, Vmcoreinfo};

use super::run::Error;
use crate::conductor::{self, Conductor, Stopper};
use crate::gdb::{Base, Placed};
use crate::kvm::KvmVcpu;
use crate::machine::{Guest, Machine, PowerOff, Ram, Tally};

/// A kernel that has not said where it lies by then, in time of its own, will not.
const LIMIT: Duration = Duration::from_secs(60);

/// How long it runs from one look to the next.
const STRETCH: Duration = Duration::from_millis(200);

/// Boots a guest until its kernel says where it lies, and throws it away; `None` if it never says. `watch` is told what ends it from
/// outside.
pub fn place<G>(
    guest: Guest,
    cpus: usize,
    seed: u64,
    watch: impl FnOnce(Stopper<KvmVcpu>) -> G,
) -> Result<Option<Placed>, Error> {
    let strays = Arc::new(Tally::default());
    let machine = Machine::build(guest, cpus, seed, None, PowerOff::InKvm, &strays)?;
    // Nobody reads what it says.
    machine.uart.deafen();
    let conductor = Conductor::start(machine.vcpus, &machine.bus)?;
    let _watching = watch(conductor.stopper());
    let ram = Ram(machine.memory);
    conductor.run();
    let limit = conductor.now() + LIMIT;
    let placed = loop {
        let stretch = conductor.now() + STRETCH;
        let over = conductor.wait(Some(stretch));
        let quiesced = conductor.quiesce();
        match (Vmcoreinfo::find(&ram), over) {
            (Ok(info), _) => break Some(placed(&ram, &info)?),
            (Err(InspectError::NoVmcoreinfo { .. }), None) if conductor.now() < limit => {}
            (_, Some(conductor::End::Asked(conductor::Reason::Signal(signal)))) => {
                return Err(Error::Signal(signal));
            }
            (_, Some(conductor::End::Failed { error, .. })) => return Err(error.into()),
            (Err(_), _) => break None,
        }
        drop(quiesced);
    };
    conductor.finish();
    Ok(placed)
}

fn placed(ram: &Ram, info: &Vmcoreinfo) -> Result<Placed, InspectError> {
    // A kernel without its own symbols can't be stopped at them, and is debugged all the same.
    let symbols = symbols(ram, info).ok();
    let address = |name| Some(symbols.as_ref()?.address(name).ok()?.0);
    let base = Base {
        offset: info.kernel_offset()?,
        text: address("_text"),
    };
    Ok(Placed::new(base, address("start_kernel")))
}

/// The symbols that a kernel has with it.
pub(super) fn symbols(ram: &Ram, info: &Vmcoreinfo) -> Result<Symbols, InspectError> {
    let space = KernelSpace::new(ram, info)?;
    Symbols::read(&space, info)
}
