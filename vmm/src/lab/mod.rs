//! The lab: an emulated arm64 machine with EL2, whose Linux has the KVM that this machine lacks.
//!
//! A verb that needs KVM runs there as it would run here: the host's `vmm` boots the machine with QEMU, the same `vmm`, built
//! for arm64, is its PID 1 and its agent, and both speak over one virtio-serial port. Verbs, their files, their streams and their
//! signals cross that port (`frame`); nothing else connects the two, no network and no shared folder.
//!
//! On the host: `place` decides whether the lab is needed, `session` is one lab, `run` one verb in it, `serve` lends a lab to other
//! processes, `ground` runs many verbs for another one. Inside: `pid1` and `agent`.

mod agent;
mod carry;
mod contents;
mod debugger;
mod frame;
mod ground;
mod image;
mod memory;
mod pid1;
mod place;
mod qemu;
mod run;
mod serve;
mod session;
mod survey;
mod terminal;
#[cfg(test)]
mod tests;
mod window;
mod wire;

use std::env;
use std::io;
use std::path::PathBuf;

use crate::console::{self, Console};
use crate::gdb::Entrance;

pub use frame::Ended;
#[doc(hidden)]
#[cfg(feature = "fuzzing")]
pub use frame::fuzz;
pub use ground::{Ground, Output, Stopper, memory_of};
pub use pid1::{Error as AgentError, main as agent};
pub use place::{Place, Wish, caller_types, inside, lent_listener};
pub use run::{Needs, Request, Streams};
pub use serve::serve;
pub use session::Session;

/// Why the lab could not do its part. None of these says anything about a guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No emulator.
    #[error(
        "the lab needs {program}, which is not installed (on Debian: apt install qemu-system-arm)"
    )]
    NoQemu {
        /// Its name.
        program: &'static str,
    },
    /// No image.
    #[error("no lab image (vmlinuz and initrd.cpio) in {}: `make lab` makes it, VMM_LAB_DIR says where it is", list(.folders))]
    NoImage {
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// An image of another build.
    #[error(
        "the lab is of another build of vmm ({theirs}, this one is {}): `make lab` makes it anew",
        frame::BUILD
    )]
    Stale {
        /// Its build.
        theirs: String,
    },
    /// The host is too small.
    #[error("the lab needs {needed} MiB of memory, and this machine has {free} MiB available")]
    Memory {
        /// In MiB.
        needed: u64,
        /// In MiB.
        free: u64,
    },
    /// QEMU, or what connects it.
    #[error("cannot start the lab: {0}")]
    Start(io::Error),
    /// It is no more.
    #[error("the lab is lost: {why}")]
    Lost {
        /// In words, with what its console said.
        why: String,
    },
    /// The agent could not run the verb.
    #[error("the lab cannot run it: {why}")]
    Failed {
        /// In words.
        why: String,
    },
    /// The other side broke the protocol.
    #[error("the lab sent {0}")]
    Nonsense(&'static str),
    /// An input.
    #[error("cannot read {}: {source}", path.display())]
    Input {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An input that has no content to copy.
    #[error("{} is not a regular file, and only those can be taken into the lab", path.display())]
    Irregular {
        /// Which.
        path: PathBuf,
    },
    /// An input that somebody writes.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// An output.
    #[error("cannot write {}: {source}", path.display())]
    Output {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The caller's working directory.
    #[error("cannot tell the working directory: {0}")]
    Folder(io::Error),
    /// This program's own path.
    #[error("cannot tell where this program is: {0}")]
    Program(io::Error),
    /// The caller's terminal, or what stands in its place.
    #[error(transparent)]
    Console(#[from] console::Error),
    /// A verb as a process of this machine.
    #[error("cannot run a verb: {0}")]
    Child(io::Error),
    /// What receives debuggers.
    #[error("cannot listen for a debugger: {0}")]
    Debugger(io::Error),
    /// Signal handlers.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// A server's socket.
    #[error("the lab's socket {}: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A second signal while the verb was ending.
    #[error("killed the lab before the verb had ended")]
    Killed {
        /// The second one.
        signal: i32,
    },
    /// The verb took no notice of a signal.
    #[error("the verb did not end within {seconds} s of signal {signal}: killed the lab")]
    Stubborn {
        /// The signal.
        signal: i32,
        /// How long it had.
        seconds: u64,
    },
}

impl Error {
    /// The signal that ended it all, if it was one.
    pub fn signal(&self) -> Option<i32> {
        match self {
            Self::Killed { signal } | Self::Stubborn { signal, .. } => Some(*signal),
            _ => None,
        }
    }
}

fn list(folders: &[PathBuf]) -> String {
    folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect::<Vec<_>>()
        .join(" or ")
}

/// Processors of a lab: that many guests at once are served as fast as they can be.
pub const PROCESSORS: usize = 2;

/// Names the socket of a lab that `vmm lab serve` offers; verbs then run there instead of in a lab of their own.
pub const SOCKET: &str = "VMM_LAB_SOCKET";

/// Runs a verb on behalf of this process: its standard streams are the verb's, and so are its signals. With a console that is the verb's
/// standard input and output.
pub fn run(
    request: &Request,
    console: Option<Console>,
    debuggers: Option<Entrance>,
) -> Result<Ended, Error> {
    let prepared = run::Prepared::new(request)?;
    let session = match env::var_os(SOCKET) {
        Some(socket) => Session::connect(&PathBuf::from(socket))?,
        None => Session::boot_with(prepared.start.memory, &prepared.contents)?,
    };
    session.run_for_process(prepared, console, debuggers)
}

/// Whether a lab could be booted on this machine: its emulator and its image are there.
pub fn available() -> Result<(), Error> {
    if env::var_os(SOCKET).is_some() {
        return Ok(());
    }
    qemu::installed()?;
    image::Image::find().map(drop)
}
