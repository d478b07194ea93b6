//! What is put to the test on KVM: how to boot it, and what its points are.

#[cfg_attr(
    not(target_arch = "aarch64"),
    expect(dead_code, reason = "only arm64 has a KVM that runs it")
)]
pub mod payload;

#[cfg_attr(
    not(target_arch = "aarch64"),
    expect(dead_code, reason = "only arm64 has a KVM that runs it")
)]
pub mod linux;

use std::str::FromStr;

use guest_abi::point::Point;
use vmm_core::arm::CpuId;
#[cfg(target_arch = "aarch64")]
use vmm_core::evidence::{Event, Places, Setting};

/// How a run is debugged.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub struct Debug<'a> {
    /// How debuggers come to it.
    pub by: crate::gdb::Debugging<'a>,
    /// Where it is to be looked at.
    pub stop_at: Option<StopAt>,
}

/// A point at which a debugger is to look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StopAt {
    /// Of this CPU; of any, if none is named.
    pub cpu: Option<CpuId>,
    /// The point.
    pub at: Point,
}

impl StopAt {
    /// Whether it is this one.
    pub fn is(&self, cpu: usize, at: Point) -> bool {
        self.at == at && self.cpu.is_none_or(|own| own.index() == cpu)
    }
}

impl FromStr for StopAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (cpu, name) = match text.split_once(':') {
            Some((cpu, name)) => match cpu.parse() {
                Ok(cpu) => (Some(CpuId(cpu)), name),
                Err(_) => return Err(format!("`{cpu}` is no CPU: POINT or CPU:POINT is meant")),
            },
            None => (None, text),
        };
        match Point::named(name) {
            Some(at) => Ok(Self { cpu, at }),
            None => Err(format!(
                "there is no point `{name}`; docs/scenarios.md lists them"
            )),
        }
    }
}

/// Hears of a run as it happens.
#[cfg(target_arch = "aarch64")]
pub trait Hear {
    /// The vCPUs are there; `stopper` ends the run from outside. What is to be said of the run before its first event is `about`.
    fn starts(
        &mut self,
        stopper: crate::conductor::Stopper<crate::kvm::KvmVcpu>,
        about: &dyn std::fmt::Display,
    );
    /// The guest has booted.
    fn begins(&mut self, setting: &Setting, places: &Places);
    /// Something has happened.
    fn event(&mut self, event: &Event);
}
