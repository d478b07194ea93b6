//! `vmm lab`, and how any verb gets into the lab.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use signal_hook::consts::SIGKILL;

use super::{Exit, complain, debuggers, tell};
use crate::console::{Console, Where};
use crate::gdb;
use crate::lab::{self, Ended, Needs, Request};

/// Look into the emulated arm64 machine in which verbs run where this one has no arm64 KVM
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Open a shell in the lab, or run one command there
    Shell {
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Boot one lab and lend it to the verbs that find its socket in VMM_LAB_SOCKET, until SIGTERM or the end of a pipe on
    /// standard input
    Serve {
        /// Where; only you will be able to connect
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// What the verbs may use together, in MiB
        #[arg(long, value_name = "MIB", default_value_t = 2048)]
        memory: u32,
    },
    /// What the lab's first process runs
    #[command(hide = true)]
    Agent {
        /// What verbs may use together, in bytes
        memory: u64,
    },
}

pub(super) fn main(args: Args) -> Exit {
    match args.action {
        Action::Shell { command } => carry_out(&Request::Shell(command), None, None),
        Action::Serve { socket, memory } => {
            let ready = || println!("{}", socket.display());
            lab::serve(&socket, u64::from(memory) << 20, ready)
                .map_or_else(|error| failed(&error), |()| Exit::Expected)
        }
        Action::Agent { memory } => {
            lab::agent(memory).map_or_else(|error| complain(&error), |()| Exit::Expected)
        }
    }
}

/// Runs the verb of this command line in the lab, with more arguments than were typed.
pub(super) fn run(
    needs: Needs,
    more: Vec<OsString>,
    console: Option<&Where>,
    debugger: Option<&gdb::Where>,
) -> Exit {
    let request = Request::Verb(env::args_os().chain(more).collect(), needs);
    let entrance = match debugger.map(debuggers::at).transpose() {
        Ok(entrance) => entrance,
        Err(error) => {
            eprintln!("vmm: {error}");
            return Exit::HostOrUsage;
        }
    };
    match console.map(|place| Console::open(place, tell)).transpose() {
        Ok(console) => carry_out(&request, console, entrance),
        Err(error) => complain(&error),
    }
}

/// Ends as what runs in the lab ends, also by a signal.
fn carry_out(
    request: &Request,
    console: Option<Console>,
    debuggers: Option<gdb::Entrance>,
) -> Exit {
    match lab::run(request, console, debuggers) {
        Ok(Ended::Exit(code)) => Exit::Passed(code),
        // Nobody here has sent that, and whoever runs a verb has not asked where.
        Ok(Ended::Signal(SIGKILL)) if matches!(request, Request::Verb(..)) => {
            eprintln!(
                "vmm: the lab's side of this verb was killed, by somebody or for want of memory"
            );
            Exit::HostOrUsage
        }
        Ok(Ended::Crashed { signal, log }) if matches!(request, Request::Verb(..)) => {
            eprintln!("vmm: the lab's side of this verb crashed (signal {signal})");
            match log.trim_end() {
                "" => eprintln!("  the lab's kernel logged nothing meanwhile"),
                log => eprintln!(
                    "  the lab's kernel logged meanwhile:\n  {}",
                    log.replace('\n', "\n  ")
                ),
            }
            Exit::HostOrUsage
        }
        Ok(Ended::Signal(signal) | Ended::Crashed { signal, .. }) => Exit::Signal(signal),
        Err(error) => failed(&error),
    }
}

fn failed(error: &lab::Error) -> Exit {
    let exit = complain(error);
    error.signal().map_or(exit, Exit::Signal)
}
