//! A stub for debuggers that speak GDB's remote protocol (GDB manual, appendix E), on every vCPU of a guest.
//!
//! All vCPUs are out of the guest while a debugger looks, and go on when it says so or goes away. Which of them run is the conductor's
//! business ([`Debugged`](crate::conductor::Debugged)); packets are gdbstub's. Ours is what is between: registers and what they are
//! called (`arch`), memory through the guest's own tables (`memory`), debug registers and what they are for (`target`), a step that
//! does not end in an interrupt's vector (`step`), and the words behind `monitor`.

mod arch;
mod memory;
mod monitor;
mod place;
mod session;
mod step;
mod target;

pub use memory::Ram;
pub use place::{Client, Listener, Where, receive};
pub use session::serve;

/// How many debug registers each vCPU has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DebugRegisters {
    /// For breakpoints.
    pub breakpoints: usize,
    /// For watchpoints.
    pub watchpoints: usize,
}

/// What of a machine is around its vCPUs.
pub trait Around: Sync {
    /// Its memory.
    fn ram(&self) -> &dyn Ram;

    /// Its counter stands still from here on, where the host can do that: a kernel that is looked at for minutes shall not find its CPUs
    /// locked up. All vCPUs are out of the guest.
    fn stop_time(&self);

    /// It goes on from where it was stopped. All vCPUs are out of the guest.
    fn start_time(&self);

    /// The private interrupts that are pending on a CPU, and those that are active, a bit each. All vCPUs are out of the guest.
    fn interrupts(&self, cpu: usize) -> Result<(u32, u32), String>;

    /// `ICC_PMR_EL1` and `ICC_RPR_EL1` of a CPU. All vCPUs are out of the guest.
    fn interface(&self, cpu: usize) -> Result<(u8, u8), String>;
}
