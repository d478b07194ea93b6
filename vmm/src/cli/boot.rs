//! `vmm boot`.

#[cfg(target_arch = "aarch64")]
mod interrupt;
#[cfg(target_arch = "aarch64")]
mod run;

use std::path::PathBuf;
use std::str::FromStr;

use super::{Exit, size};
use crate::lab::Needs;
use crate::machine::Format;

#[cfg(target_arch = "aarch64")]
pub(super) use run::run;

/// Boot an arm64 guest on KVM
///
/// The guest has a GICv3, a PL011 and the memory map of QEMU's `virt`; it ends by PSCI.
#[derive(clap::Args)]
#[command(after_help = Exit::TABLE)]
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
    /// Where the PL011 goes: stdio or file:PATH
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
    /// What the guest's kaslr-seed and rng-seed are drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Args {
    /// What it needs of a lab.
    pub(super) fn needs(&self) -> Needs {
        let console = match &self.console {
            Where::File(path) => Some(path.clone()),
            Where::Stdio => None,
        };
        Needs {
            inputs: std::iter::once(&self.kernel)
                .chain(&self.initrd)
                .cloned()
                .collect(),
            outputs: self.dump_dtb.iter().cloned().chain(console).collect(),
            stdin: self.console == Where::Stdio,
            memory: self.memory,
        }
    }
}

/// What a reset by the guest does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum OnReset {
    /// End the run, exit 3
    Stop,
    /// Start anew, with cleared RAM
    Restart,
}

/// Where a console goes.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Where {
    Stdio,
    File(PathBuf),
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(Where::Stdio),
            Some(("file", path)) if !path.is_empty() => Ok(Where::File(path.into())),
            _ => Err("a console is stdio or file:PATH".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Where;

    #[test]
    fn consoles() {
        assert_eq!("stdio".parse(), Ok(Where::Stdio));
        assert_eq!("file:a:b".parse(), Ok(Where::File("a:b".into())));
        for wrong in ["", "file:", "file", "tty"] {
            assert!(wrong.parse::<Where>().is_err(), "{wrong}");
        }
    }
}
