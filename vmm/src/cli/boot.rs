//! `vmm boot`.

#[cfg(target_arch = "aarch64")]
mod run;

use std::path::PathBuf;

use super::{Exit, debuggers, size};
use crate::console::{self, Where};
use crate::gdb;
use crate::lab::Needs;
use crate::machine::Format;

#[cfg(target_arch = "aarch64")]
pub(super) use run::run;

/// Boot an arm64 guest on KVM
///
/// The guest has a GICv3, a PL011 and the memory map of QEMU's `virt`; it ends by PSCI.
#[derive(clap::Args)]
#[command(after_help = format!("{}\n\nOn a terminal: {}. Should vmm itself be killed by SIGKILL the terminal stays raw: type `stty sane`.", Exit::TABLE, console::HELP))]
pub(super) struct Args {
    /// The kernel
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// What the kernel is, where it shall not be guessed
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// An initrd for it
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(
        long,
        value_name = "STR",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    cmdline: String,
    /// How many vCPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: usize,
    /// How much RAM: a number and K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size::parse)]
    memory: u64,
    /// Where the PL011 goes: stdio, file:PATH, pty (a new one) or unix:PATH (a socket, for one client at a time)
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    console: Where,
    /// What a reset by the guest does
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_reset: OnReset,
    /// Write the guest's device tree here
    #[arg(long, value_name = "FILE")]
    dump_dtb: Option<PathBuf>,
    /// End a guest that is still there after so many seconds
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Let debuggers connect: PORT or ADDR:PORT, or unix:PATH, a socket for this user alone
    ///
    /// One at a time; `target remote` is gdb's word for it. Whoever is connected has all vCPUs, and the guest goes on when it leaves.
    #[arg(long, value_name = "WHERE")]
    gdb: Option<gdb::Where>,

    /// Let the guest run no further than this before a debugger says so; without a word, nothing of it
    #[arg(long, value_name = "WHEN", requires = "gdb", num_args = 0..=1, require_equals = true, default_missing_value = "reset")]
    gdb_wait: Option<GdbWait>,

    /// Let --gdb listen at an address that other machines can reach: whoever connects there reads and writes all of the guest, unasked
    #[arg(long, requires = "gdb")]
    gdb_open: bool,

    /// What the guest's kaslr-seed and rng-seed are drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Args {
    /// Where its console goes, unless that is a file: such a one is an output as others are.
    pub(super) fn console(&self) -> Option<&Where> {
        match &self.console {
            Where::File(_) => None,
            place => Some(place),
        }
    }

    /// Where debuggers come in.
    pub(super) fn debugger(&self) -> Option<&gdb::Where> {
        self.gdb.as_ref()
    }

    /// What the parser can't see.
    pub(super) fn check(&self) -> Result<(), String> {
        let place = self.gdb.as_ref();
        place.map_or(Ok(()), |place| debuggers::check(place, self.gdb_open))
    }

    /// What it needs of a lab.
    pub(super) fn needs(&self) -> Needs {
        let console = match &self.console {
            Where::File(path) => Some(path.clone()),
            Where::Stdio | Where::Pty | Where::Unix(_) => None,
        };
        Needs {
            inputs: std::iter::once(&self.kernel)
                .chain(&self.initrd)
                .cloned()
                .collect(),
            stdin: console.is_none(),
            outputs: self.dump_dtb.iter().cloned().chain(console).collect(),
            memory: self.memory,
            debugger: self.gdb.is_some(),
        }
    }
}

/// How far a guest runs before it waits for a debugger.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum GdbWait {
    /// Before its first instruction
    Reset,
    /// When its kernel lies where it stays: at start_kernel
    Placed,
}

/// What a reset by the guest does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum OnReset {
    /// End the run, exit 3
    Stop,
    /// Read the files again and start anew, with cleared RAM
    Restart,
}
