//! The verbs. This room alone prints and exits.

mod bench;
mod boot;
mod completions;
mod debug;
mod debuggers;
mod exit;
mod explore;
mod host;
mod interrupt;
mod judge;
mod lab;
mod man;
mod matrix;
mod run;
mod scenarios;
mod size;
mod stdout;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::Exit;

use crate::console::Where;
use crate::gdb;
use crate::lab::{Needs, Place, Wish};

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
#[command(next_help_heading = "For every verb")]
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
    Explore(explore::Args),
    Run(run::Args),
    Debug(debug::Args),
    Matrix(matrix::Args),
    Report(matrix::ReportArgs),
    Host(host::Args),
    Lab(lab::Args),
    Judge(judge::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Man(man::Args),
    #[command(hide = true)]
    Bench(bench::Args),
}

impl Global {
    fn wish(&self) -> Wish {
        match (self.lab, self.no_lab) {
            (true, _) => Wish::Lab,
            (_, true) => Wish::Here,
            (false, false) => Wish::Any,
        }
    }
}

impl Verb {
    /// What it needs of a lab, if it is to run where KVM is.
    fn needs(&self, wish: Wish) -> Result<Option<(Needs, Vec<OsString>)>, String> {
        Ok(match self {
            Verb::Boot(args) => {
                args.check()?;
                Some((args.needs(), Vec::new()))
            }
            Verb::Run(args) => Some(args.needs()?),
            Verb::Debug(args) => Some(args.needs()?),
            Verb::Bench(args) => Some((args.needs(), Vec::new())),
            // It tells of this machine, unless somebody asks for the lab's.
            Verb::Host(_) => (wish == Wish::Lab).then(Default::default),
            Verb::Explore(args) => args.needs()?,
            // It sends its cells there itself.
            Verb::Judge(_) | Verb::Lab(_) | Verb::Matrix(_) | Verb::Report(_) => None,
            Verb::Completions(_) | Verb::Man(_) => None,
        })
    }
}

impl Verb {
    /// The console of its guest, if that stays with this process when the verb runs in the lab.
    fn console(&self) -> Option<&Where> {
        match self {
            Verb::Boot(args) => args.console(),
            _ => None,
        }
    }

    /// Where debuggers come in, which stays with this process too.
    fn debugger(&self) -> Option<&gdb::Where> {
        match self {
            Verb::Boot(args) => args.debugger(),
            Verb::Debug(args) => Some(args.debugger()),
            _ => None,
        }
    }
}

/// Parses the command line, runs the verb, here or in the lab, and prints what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.global.verbose);
    let wish = cli.global.wish();
    let needs = match cli.verb.needs(wish) {
        Ok(needs) => needs,
        Err(error) => {
            eprintln!("vmm: {error}");
            return Exit::HostOrUsage.into();
        }
    };
    if let Some((needs, more)) = needs {
        match Place::choose(wish, || crate::host::probe().map(drop)) {
            Ok(Place::Here) => {}
            Ok(Place::Lab) => {
                return lab::run(needs, more, cli.verb.console(), cli.verb.debugger()).into();
            }
            Err(lack) => {
                eprintln!("vmm: {lack}, and --no-lab keeps it out of the lab");
                return Exit::CannotRunHere.into();
            }
        }
    }
    let exit = match cli.verb {
        Verb::Boot(args) => boot(&args),
        Verb::Host(args) => host::main(&args),
        Verb::Lab(args) => lab::main(args),
        Verb::Explore(args) => explore::main(args),
        Verb::Run(args) => run_scenario(&args),
        Verb::Debug(args) => debug_scenario(&args),
        Verb::Judge(args) => judge::main(args),
        Verb::Matrix(args) => matrix::main(&args, wish),
        Verb::Report(args) => matrix::report(&args),
        Verb::Completions(args) => completions::main(&args),
        Verb::Man(args) => man::main(&args),
        Verb::Bench(args) => bench(&args),
    };
    exit.into()
}

#[cfg(target_arch = "aarch64")]
fn boot(args: &boot::Args) -> Exit {
    boot::run(args).unwrap_or_else(|error| complain(&error))
}

#[cfg(not(target_arch = "aarch64"))]
fn boot(_: &boot::Args) -> Exit {
    unreachable!("only arm64 has a KVM on which a verb runs outside the lab")
}

#[cfg(target_arch = "aarch64")]
fn run_scenario(args: &run::Args) -> Exit {
    run::run(args, None).unwrap_or_else(|error| {
        eprintln!("vmm: {error}");
        Exit::HostOrUsage
    })
}

#[cfg(not(target_arch = "aarch64"))]
fn run_scenario(_: &run::Args) -> Exit {
    unreachable!("only arm64 has a KVM on which a verb runs outside the lab")
}

#[cfg(target_arch = "aarch64")]
fn debug_scenario(args: &debug::Args) -> Exit {
    debug::run(args).unwrap_or_else(|error| {
        eprintln!("vmm: {error}");
        Exit::HostOrUsage
    })
}

#[cfg(not(target_arch = "aarch64"))]
fn debug_scenario(_: &debug::Args) -> Exit {
    unreachable!("only arm64 has a KVM on which a verb runs outside the lab")
}

#[cfg(target_arch = "aarch64")]
fn bench(args: &bench::Args) -> Exit {
    bench::run(args).unwrap_or_else(|error| complain(&error))
}

#[cfg(not(target_arch = "aarch64"))]
fn bench(_: &bench::Args) -> Exit {
    unreachable!("only arm64 has a KVM on which a verb runs outside the lab")
}

/// Prints an error, the only way that one is printed.
fn complain(error: &dyn std::error::Error) -> Exit {
    eprintln!("vmm: {error}");
    Exit::HostOrUsage
}

/// Says something to the person at the terminal.
fn tell(line: &str) {
    eprintln!("vmm: {line}");
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
