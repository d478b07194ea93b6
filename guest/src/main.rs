//! The bare-metal payload: what runs on the vCPUs where the project needs a guest whose every step it knows.
//!
//! It starts every CPU of the device tree, lets each take interrupts in every state of masking, and
//! powers off. How the run ended can be seen from outside:
//!
//! - PSCI SYSTEM_OFF: every check of every CPU passed.
//! - PSCI SYSTEM_RESET: a check failed, a wait ran out, or the payload panicked. The last lines on the
//!   PL011 say which CPU saw what.
//!
//! With `hostile.do=` on the command line it is a guest that means harm instead (`hostile`): it does to the VMM what a guest
//! can do, and powers off if it has lived through it.
//!
//! With a mailbox that says so it stops by a protocol instead (`stop`), step by step, as the VMM has it.
//!
//! On any target but bare metal this is an empty program, so that the workspace checks on the host.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
#![deny(unsafe_code)]

#[cfg(target_os = "none")]
#[allow(unsafe_code)]
mod arch;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod checks;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cpus;
#[cfg(target_os = "none")]
mod debuggee;
#[cfg(target_os = "none")]
mod exceptions;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod hostile;
#[cfg(target_os = "none")]
mod platform;
#[cfg(target_os = "none")]
mod stop;
#[cfg(target_os = "none")]
mod time;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("guest: this is the bare-metal payload: build it for aarch64-unknown-none-softfloat");
}
