//! `vmm boot`.

use std::path::PathBuf;

use super::Exit;

/// Boot an arm64 guest
#[derive(clap::Args)]
pub(super) struct Args {
    /// The kernel: an arm64 Image (plain or gzip), an ELF file or a flat binary
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
}

pub(super) fn main(args: Args) -> Exit {
    eprintln!("vmm: cannot boot {}: not built yet", args.kernel.display());
    Exit::HostOrUsage
}
