//! The verbs. This room alone prints and exits.

mod boot;
mod exit;
mod host;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::Exit;

/// Holds arm64 vCPUs at chosen points, lets the guest crash, and judges how it stops.
#[derive(Parser)]
#[command(name = "vmm", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What means the same for every verb.
#[derive(clap::Args)]
struct Global {
    /// Run in the lab even where this host has arm64 KVM
    #[arg(long, global = true, conflicts_with = "no_lab")]
    lab: bool,
    /// Refuse to run in the lab
    #[arg(long, global = true)]
    no_lab: bool,
    /// Say more on standard error (-vv: still more); VMM_LOG=FILTER says it finer
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Verb {
    Boot(boot::Args),
    Host(host::Args),
}

/// Parses the command line, runs the verb, prints what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let _ = (cli.global.lab, cli.global.no_lab, cli.global.verbose);
    let exit = match cli.verb {
        Verb::Boot(args) => boot::main(args),
        Verb::Host(args) => host::main(args),
    };
    exit.into()
}
