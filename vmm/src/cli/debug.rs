//! `vmm debug`.

#[cfg(target_arch = "aarch64")]
mod tale;

use std::ffi::OsString;

#[cfg(target_arch = "aarch64")]
pub(super) use tale::{Recorded, Tale};

use super::{Exit, debuggers, run};
use crate::gdb;
use crate::lab::Needs;
use crate::subject::StopAt;

/// Run a scenario on KVM with a debugger
///
/// The scenario waits until a debugger has come and said `continue`. Both move the vCPUs: one that the scenario holds stays where it is,
/// and whoever is connected sees it there. When the scenario is over its guest can still be looked at; the verdict comes when the debugger
/// leaves. docs/debugging.md shows a session.
#[derive(clap::Args)]
#[group(skip)]
#[command(after_help = Exit::TABLE)]
pub(super) struct Args {
    /// Where debuggers connect: PORT or ADDR:PORT, or unix:PATH, a socket for this user alone
    #[arg(long, value_name = "WHERE", default_value = "1234")]
    gdb: gdb::Where,
    /// Let --gdb listen at an address that other machines can reach: whoever connects there reads and writes all of the guest, unasked
    #[arg(long)]
    gdb_open: bool,
    /// Do not wait for a debugger before the first instruction, but when a CPU (or this one) comes to this point
    #[arg(long, value_name = "[CPU:]POINT")]
    stop_at: Option<StopAt>,
    #[command(flatten)]
    run: run::Args,
}

impl Args {
    /// Where debuggers come in.
    pub(super) fn debugger(&self) -> &gdb::Where {
        &self.gdb
    }

    /// What it needs of a lab, and the arguments that name its files there.
    pub(super) fn needs(&self) -> Result<(Needs, Vec<OsString>), String> {
        debuggers::check(&self.gdb, self.gdb_open)?;
        self.run.check_debugged(self.stop_at)?;
        let (needs, more) = self.run.needs()?;
        let needs = Needs {
            debugger: true,
            ..needs
        };
        Ok((needs, more))
    }
}

/// Runs the scenario, whoever debugs it.
#[cfg(target_arch = "aarch64")]
pub(super) fn run(args: &Args) -> Result<Exit, String> {
    use crate::subject::Debug;

    let entrance = debuggers::here(&args.gdb)?;
    let tale = Tale::default();
    let debug = Debug {
        by: gdb::Debugging {
            entrance: &entrance,
            waits: args.stop_at.is_none(),
            telling: Some(&tale),
        },
        stop_at: args.stop_at,
    };
    run::run(&args.run, Some((debug, &tale)))
}
