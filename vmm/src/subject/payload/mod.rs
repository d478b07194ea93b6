//! The payload: a guest that stops by a protocol's table, one step at a time.
//!
//! Every step of it begins with a ring of the doorbell (`guest_abi::mailbox`), so that a run is a choice of who takes the
//! next step, as it is in the model: `steps` offers the moves and takes them on KVM, `watch` reads what a step changed in
//! guest memory, `tap` stands in front of the bus, `image` knows the payload's symbols.

mod config;
mod image;
#[cfg(target_arch = "aarch64")]
mod insight;
#[cfg(target_arch = "aarch64")]
mod run;
#[cfg(target_arch = "aarch64")]
mod steps;
mod tap;
mod watch;

pub use config::{Budget, Swap, check};
pub use image::{Image, ImageError, find};
#[cfg(target_arch = "aarch64")]
pub use insight::Insight;
#[cfg(target_arch = "aarch64")]
pub use run::{Error, Options, Run, origin, run};

use vmm_core::evidence::StopKind;
use vmm_core::scenario::Scenario;

use guest_abi::mailbox;
use guest_abi::protocol::Protocol;

/// The payload's RAM, in bytes.
pub const MEMORY: u64 = 64 << 20;

/// The version of what a schedule of the payload belongs to.
pub const VERSION: &str = "payload 1";

/// What the payload cannot do on any host, or not on this one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// Too many CPUs.
    #[error(
        "{name} has {cpus} CPUs; the payload has at most {}",
        mailbox::MAX_CPUS
    )]
    Cpus {
        /// The scenario.
        name: String,
        /// Its CPUs.
        cpus: u16,
    },
    /// Late stores.
    #[error("{0} has stores become visible late, and only the model can make that")]
    LateStores(String),
    /// Two tasks.
    #[error("{name} gives CPU {cpu} more than one task; the payload does one")]
    Tasks {
        /// The scenario.
        name: String,
        /// The CPU.
        cpu: u16,
    },
    /// A spin that ends where nothing follows.
    #[error(
        "{name} lets CPU {cpu} go from its spin at masked, where it has nothing to go on to; `until = \"never\"` is meant"
    )]
    Spin {
        /// The scenario.
        name: String,
        /// The CPU.
        cpu: u16,
    },
    /// A spin on a host that cannot hold one.
    #[error("a CPU is to spin, and this host's KVM has no hardware breakpoints")]
    NoBreakpoints,
    /// A rung that this host does not have.
    #[error("the ladder came to its rung by SDEI, and this host has no SDEI")]
    NoSdei,
}

impl Unfit {
    /// Whether another host, or no host but the model, could do it; otherwise the scenario is wrong.
    pub fn is_of_a_host(&self) -> bool {
        matches!(
            self,
            Unfit::NoSdei | Unfit::LateStores(_) | Unfit::NoBreakpoints
        )
    }
}

/// The table's rungs that are climbed on a machine like the scenario's, as the evidence tells them.
fn rungs(protocol: &Protocol, scenario: &Scenario) -> Vec<(guest_abi::protocol::Request, u64)> {
    let stop = match scenario.stop {
        StopKind::Plain => &protocol.plain,
        StopKind::Crash => &protocol.crash,
    };
    vmm_core::model::climbed(stop, scenario)
}
