//! The verbs. This room alone prints and exits.

mod boot;
mod exit;
mod host;
mod size;

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
    log(cli.global.verbose);
    let exit = match &cli.verb {
        Verb::Boot(args) => native(args),
        Verb::Host(args) => host::main(args),
    };
    exit.into()
}

#[cfg(target_arch = "aarch64")]
fn native(args: &boot::Args) -> Exit {
    boot::run(args).unwrap_or_else(|error| complain(&error))
}

#[cfg(not(target_arch = "aarch64"))]
fn native(_: &boot::Args) -> Exit {
    Exit::CannotRunHere
}

/// Prints an error, the only way that one is printed.
fn complain(error: &dyn std::error::Error) -> Exit {
    eprintln!("vmm: {error}");
    Exit::HostOrUsage
}

/// Traces to standard error, never to standard output, which belongs to consoles and results.
fn log(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = std::env::var("VMM_LOG").unwrap_or_else(|_| default.to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .without_time()
        .init();
}
