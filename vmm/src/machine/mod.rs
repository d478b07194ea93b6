//! What the guest sees: the memory map, the device tree, the loaded kernel, the devices and their wires.
//!
//! It does not know why a vCPU is held.

#[cfg(target_arch = "aarch64")]
mod build;
mod bus;
mod console;
mod fdt;
pub mod kernel;
pub mod layout;
mod listening;
pub(crate) mod map;
#[cfg(target_arch = "aarch64")]
mod ram;
mod tally;
mod tap;
mod uart;

use std::io;

use sha2::{Digest, Sha256};

#[cfg(target_arch = "aarch64")]
pub use build::{Machine, PowerOff};
pub use bus::{Access, Bus};
pub use console::{Console, Input, OnLost, Outlet};
pub use kernel::Format;
#[doc(hidden)]
#[cfg(feature = "fuzzing")]
pub use layout::fuzz;
pub use layout::{Blob, Guest};
#[cfg(target_arch = "aarch64")]
pub use ram::Ram;
pub use tally::{Tally, Told};
pub use tap::{Tap, Tapped};
pub use uart::Uart;

/// What can go wrong between a person's wish and a machine that runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest can't be laid out in its RAM.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// More vCPUs than interrupt controllers.
    #[error("--cpus {0}: a guest has 1 to {most}", most = map::CPUS_MOST)]
    Cpus(usize),
    /// The host has no room for the guest's RAM.
    #[error("no memory for the guest's RAM of {} MiB: {source}; less --memory helps", size >> 20)]
    Memory {
        /// Bytes.
        size: u64,
        /// What the host said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device tree.
    #[error("cannot describe the guest in a device tree: {0}")]
    Fdt(#[from] vm_fdt::Error),
    /// The device tree that was to be written to a file.
    #[error("cannot write the device tree to {path}: {source}")]
    DumpDtb {
        /// The file.
        path: String,
        /// What the host said.
        source: io::Error,
    },
    /// The console's threads.
    #[error("cannot start the console: {0}")]
    Console(io::Error),
    /// KVM.
    #[cfg(target_arch = "aarch64")]
    #[error(transparent)]
    Kvm(#[from] crate::kvm::Error),
}

/// Draws what the guest takes for chance from the run's seed.
fn seeds(seed: u64) -> fdt::Seeds {
    let draw = |what: &str| -> [u8; 32] {
        Sha256::new()
            .chain_update(what)
            .chain_update(seed.to_le_bytes())
            .finalize()
            .into()
    };
    let kaslr = draw("kaslr-seed");
    let kaslr = u64::from_le_bytes(*kaslr.first_chunk().expect("32 bytes hold 8"));
    fdt::Seeds {
        kaslr,
        rng: draw("rng-seed"),
    }
}

/// A kernel's file as it is to be loaded: unpacked, if it is packed.
pub fn unpacked(kernel: Blob) -> Result<Vec<u8>, Error> {
    let failed = |source| layout::Error::Kernel {
        path: kernel.name,
        source,
    };
    Ok(kernel::unpack(kernel.bytes).map_err(failed)?)
}

/// As many vCPUs as a guest can have.
pub(crate) fn check_cpus(cpus: usize) -> Result<(), Error> {
    if (1..=map::CPUS_MOST).contains(&cpus) {
        Ok(())
    } else {
        Err(Error::Cpus(cpus))
    }
}

#[cfg(test)]
mod damaged;
#[cfg(test)]
mod tests;
