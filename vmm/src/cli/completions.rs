//! `vmm completions`.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Exit, complain};

/// Print what makes a shell complete this command
///
/// For bash: `vmm completions bash > ~/.local/share/bash-completion/completions/vmm`. `make install` puts those of bash, zsh
/// and fish in their places.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn main(args: &Args) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vmm", &mut script);
    io::stdout()
        .write_all(&script)
        .map_or_else(|error| complain(&error), |()| Exit::Expected)
}
