//! A stub for debuggers that speak GDB's remote protocol (GDB manual, appendix E), on every vCPU of a guest.
//!
//! All vCPUs are out of the guest while a debugger looks, and go on when it says so or goes away. Which of them run is the conductor's
//! business ([`Debugged`](crate::conductor::Debugged)); packets are gdbstub's. Ours is what is between: registers and what they are
//! called (`arch`), memory through the guest's own tables (`memory`), debug registers and what they are for, and how vCPUs go on and come
//! back (`target`), a step that does not end in an interrupt's vector (`step`), the words behind `monitor`, and what LLDB says otherwise
//! than gdb (`dialect`).

mod arch;
mod dialect;
#[cfg(target_arch = "aarch64")]
mod machine;
mod memory;
mod monitor;
mod place;
mod session;
mod step;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_core::arm::CpuSet;
use vmm_core::evidence::{Note, NoteState};

#[cfg(target_arch = "aarch64")]
pub use machine::{Debugging, ServeError, Surroundings};
pub use memory::Ram;
pub use place::{Client, Entrance, Listener, READY, Where, receive};
pub use session::serve;
#[cfg(feature = "fuzzing")]
pub use session::{RAM, Writes, fuzz};

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
    fn ram(&self) -> &Arc<dyn Ram>;

    /// Its counter stands still from here on, where the host can do that: a kernel that is looked at for minutes shall not find its CPUs
    /// locked up. All vCPUs are out of the guest.
    fn stop_time(&self);

    /// It goes on from where it was stopped. All vCPUs are out of the guest.
    fn start_time(&self);

    /// The private interrupts that are pending on a CPU, and those that are active, a bit each. All vCPUs are out of the guest.
    fn interrupts(&self, cpu: usize) -> Result<(u32, u32), String>;

    /// `ICC_PMR_EL1` and `ICC_RPR_EL1` of a CPU. All vCPUs are out of the guest.
    fn interface(&self, cpu: usize) -> Result<(u8, u8), String>;

    /// What its memory says of the stop path.
    fn insight(&self) -> &dyn Insight;

    /// The scenario that moves its vCPUs, if one does.
    fn telling(&self) -> Option<&dyn Telling>;

    /// Where its kernel lies, as another boot has told.
    fn placed(&self) -> Option<&Placed>;
}

/// Where a kernel lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Base {
    /// How far above where it was linked.
    pub offset: u64,
    /// Its first byte, if it has symbols with it: `_text`, with which the first segment of its vmlinux begins.
    pub text: Option<u64>,
}

/// Where a kernel lies, as another boot of the same guest has told.
#[derive(Debug)]
pub struct Placed {
    /// Where.
    pub base: Base,
    /// `start_kernel()`, the first of its functions that is no longer about where it lies.
    pub entry: Option<u64>,
    came: AtomicBool,
}

impl Placed {
    /// It has not come there yet in this boot.
    pub fn new(base: Base, entry: Option<u64>) -> Self {
        Self {
            base,
            entry,
            came: AtomicBool::new(false),
        }
    }

    /// This boot has come to its entry: it lies there.
    pub fn come(&self) {
        self.came.store(true, Ordering::Relaxed);
    }

    fn has_come(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}

/// What a guest's memory says of its stop path, in words, or why it does not. All vCPUs are out of the guest.
pub trait Insight: Sync {
    /// Who has what of the console.
    fn lock(&self) -> Result<String, String>;

    /// Who is online, and who has not acked a stop.
    fn stop_mask(&self) -> Result<String, String>;

    /// The crash notes.
    fn notes(&self) -> Result<String, String>;

    /// The log.
    fn ring(&self) -> Result<String, String>;

    /// Where its kernel lies; `None` if it is none that moves itself.
    fn base(&self) -> Option<Result<Base, String>>;
}

/// A set of CPUs.
pub fn cpus(set: &CpuSet) -> String {
    match set.is_empty() {
        true => "none".to_owned(),
        false => set.to_string(),
    }
}

/// A crash note, whose program counter is called so.
pub fn note(note: &Note, at: &str) -> String {
    match note.state() {
        NoteState::Empty => NoteState::Empty.to_string(),
        state => format!("{state}, pc {at}, sp {:#x}", note.regs().sp),
    }
}

/// What a scenario has done so far, in words.
pub trait Telling: Sync {
    /// Its schedule.
    fn schedule(&self) -> String;

    /// What has happened.
    fn trace(&self) -> String;

    /// How a CPU is held, if it is.
    fn held(&self, cpu: usize) -> Option<String>;
}
