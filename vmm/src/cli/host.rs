//! `vmm host`.

use std::io::{self, Write};

use serde_json::json;
use vmm_core::host::rows;

use super::{Exit, complain};

/// Say what this machine offers and lacks
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Exit {
    let kvm = crate::host::probe();
    let rows = rows(std::env::consts::ARCH, &kvm);
    let mut out = io::stdout().lock();
    let written = if args.json {
        let report = json!({ "format": 1, "architecture": std::env::consts::ARCH, "kvm": kvm, "rows": rows });
        writeln!(out, "{report:#}")
    } else {
        let wide = rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
        rows.iter().try_for_each(|row| {
            let mark = if row.enough { "+" } else { "-" };
            writeln!(
                out,
                "{mark} {:wide$}  {}  (for {})",
                row.what, row.found, row.needed_for
            )
        })
    };
    written.map_or_else(|error| complain(&error), |()| Exit::Expected)
}
