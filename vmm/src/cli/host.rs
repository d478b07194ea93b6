//! `vmm host`.

use std::env::consts::ARCH;
use std::io::{self, Write};

use serde_json::json;
use vmm_core::host::{Need, Place, Row, VerbPlace, places, rows};

use super::{Exit, complain};
use crate::lab;

/// Say what this machine offers and lacks
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Exit {
    let kvm = crate::host::probe();
    let rows = rows(ARCH, &kvm);
    let suffices = kvm
        .as_ref()
        .map_err(|lack| lack.to_string())
        .and_then(|offer| offer.suffices(Need::LEAST).map_err(|lack| lack.to_string()));
    let places = places(
        suffices,
        lab::available().map_err(|error| error.to_string()),
    );
    let mut out = io::stdout().lock();
    let written = if args.json {
        let report =
            json!({ "format": 1, "architecture": ARCH, "kvm": kvm, "rows": rows, "verbs": places });
        writeln!(out, "{report:#}")
    } else {
        print(&mut out, &rows, &places)
    };
    written.map_or_else(|error| complain(&error), |()| Exit::Expected)
}

fn print(out: &mut impl Write, rows: &[Row], places: &[VerbPlace]) -> io::Result<()> {
    let wide = rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
    for row in rows {
        let mark = if row.enough { '+' } else { '-' };
        writeln!(
            out,
            "{mark} {:wide$}  {}  (for {})",
            row.what, row.found, row.needed_for
        )?;
    }
    writeln!(out)?;
    for VerbPlace { verb, place, why } in places {
        let place = match place {
            Place::Here => "runs here",
            Place::Lab => "runs in the lab",
            Place::Nowhere => "can't run",
        };
        let why = why
            .as_ref()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        writeln!(out, "vmm {verb} {place}{why}")?;
    }
    Ok(())
}
