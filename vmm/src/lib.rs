//! Holdpoint: holds an arm64 vCPU at a chosen point, lets the rest of the guest crash, and judges how it stops.
//!
//! ARCHITECTURE.md is the map of the rooms and of who may import whom.

pub mod cli;
pub mod conductor;
pub mod console;
#[cfg(test)]
mod deadline;
pub mod gdb;
pub mod host;
#[cfg(target_arch = "aarch64")]
pub mod kvm;
pub mod lab;
#[cfg_attr(
    not(target_arch = "aarch64"),
    allow(dead_code, reason = "elsewhere only its tests use all of it")
)]
pub mod machine;
pub mod subject;
mod sys;
pub mod vcpu;
