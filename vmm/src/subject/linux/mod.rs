//! Linux: a real arm64 kernel under the conductor.
//!
//! Unlike the payload it runs freely, and is trapped where the scenario or the oracle needs it: at the entries of functions by
//! breakpoints, at the words in which acks are seen by watchpoints, at the console by the tap. What it did is read from its
//! memory. `plan` says what Linux can do of a scenario, `files` finds kernels, `guest` reads a kernel's memory, `live` follows
//! it from init's question on, `run` is a run from nothing to its evidence, `capture` is what a capture kernel needs and hands over,
//! `reset` is what comes after a warm reset.

mod capture;
mod files;
#[cfg(target_arch = "aarch64")]
mod guest;
#[cfg(target_arch = "aarch64")]
mod insight;
#[cfg(target_arch = "aarch64")]
mod kaslr;
#[cfg(target_arch = "aarch64")]
mod live;
mod plan;
#[cfg(target_arch = "aarch64")]
mod reset;
#[cfg(target_arch = "aarch64")]
mod run;
mod tap;

pub use files::{Files, FilesError, kernel};
#[cfg(target_arch = "aarch64")]
pub use insight::Insight;
#[cfg(target_arch = "aarch64")]
pub use kaslr::place;
pub use plan::{CRASHKERNEL, MEMORY, Unfit, can_come_to, check};
#[cfg(target_arch = "aarch64")]
pub use run::{Error, Options, Ran, run};
