//! `vmm bench`: the figures of `make bench`, measured where KVM is.
//!
//! Times come from the clock here, and nowhere else: no test may depend on one.

#[cfg(target_arch = "aarch64")]
mod bare;
#[cfg(target_arch = "aarch64")]
mod child;
#[cfg(any(target_arch = "aarch64", test))]
mod memory;
#[cfg(target_arch = "aarch64")]
mod quiesce;
#[cfg(target_arch = "aarch64")]
mod run;
#[cfg(target_arch = "aarch64")]
mod stub;
#[cfg(any(target_arch = "aarch64", test))]
mod table;

use std::fs;
use std::path::PathBuf;

use crate::lab::Needs;

#[cfg(target_arch = "aarch64")]
pub(super) use run::run;

/// The RAM of every guest that is measured, in bytes.
const GUEST_MEMORY: u64 = 512 << 20;

/// Measure this machine's KVM, this program and, for comparison, QEMU (for `make bench`)
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// All figures, as a table
    All(All),
    /// Create a VM with one vCPU by nothing but the ioctls that this takes, run it to its first exit and print how many nanoseconds
    /// that took
    Bare,
}

#[derive(clap::Args)]
struct All {
    /// A stock Linux
    #[arg(long, value_name = "FILE")]
    linux: PathBuf,
    /// A Linux that is built from source (`make kernels`)
    #[arg(long, value_name = "FILE")]
    built: PathBuf,
    /// The initrd of both, whose PID 1 is the project's init
    #[arg(long, value_name = "FILE")]
    initrd: PathBuf,
    /// The bare-metal payload
    #[arg(long, value_name = "FILE")]
    payload: PathBuf,
    /// A folder with qemu-system-aarch64 for arm64, the libraries that it needs and their loader, ld.so
    #[arg(long, value_name = "FOLDER")]
    peer: Option<PathBuf>,
    /// How often each figure is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// Only the figures with these words in their names
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
}

impl Args {
    /// What it needs of a lab.
    pub(super) fn needs(&self) -> Needs {
        let What::All(all) = &self.what else {
            return Needs::default();
        };
        let folder = all.peer.iter().flat_map(fs::read_dir).flatten();
        let peer = folder.flatten().map(|entry| entry.path());
        let guest = [&all.linux, &all.built, &all.initrd, &all.payload];
        Needs {
            inputs: guest.into_iter().cloned().chain(peer).collect(),
            memory: GUEST_MEMORY,
            ..Needs::default()
        }
    }
}
