//! `vmm host`.

use super::Exit;

/// Say what this machine offers and lacks
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> Exit {
    let _ = args.json;
    Exit::Expected
}
