//! The host's end of a console: the standard streams, with keys of its own where they are a terminal; a file; a pseudo-terminal; a socket.
//!
//! Terminals and listeners stay on the host, and what is behind them gets plain files: the machine, if it runs here, or the lab's port, if
//! the verb runs there.

mod keyboard;
pub mod pty;
mod relay;
pub mod socket;
pub mod terminal;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::termios::isatty;
use vmm_core::console::keys;

use self::keyboard::Keyboard;
use self::pty::Pty;
use self::relay::Relay;
use self::socket::Socket;
use self::terminal::{Lines, Raw};

/// Where a console goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Where {
    /// To the standard streams.
    Stdio,
    /// Into a file; nothing can be typed.
    File(PathBuf),
    /// To a new pseudo-terminal.
    Pty,
    /// To whoever connects to this socket.
    Unix(PathBuf),
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(Where::Stdio),
            None if text == "pty" => Ok(Where::Pty),
            Some(("file", path)) if !path.is_empty() => Ok(Where::File(path.into())),
            Some(("unix", path)) if !path.is_empty() => Ok(Where::Unix(path.into())),
            _ => Err("a console is stdio, file:PATH, pty or unix:PATH".to_owned()),
        }
    }
}

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("cannot create console file {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A socket.
    #[error("cannot make the console's socket {}: {source}", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pseudo-terminal.
    #[error("cannot open a pseudo-terminal for the console: {0}")]
    Pty(io::Error),
    /// The caller's terminal.
    #[error("cannot switch the terminal to raw mode: {0}")]
    Terminal(io::Error),
    /// Pipes, threads, the standard streams.
    #[error("cannot open the console: {0}")]
    Open(#[from] io::Error),
}

/// Says one line to the person who started the program.
pub type Tell = fn(&str);

/// What a guest hears.
#[derive(Debug)]
pub struct Input {
    /// Where it comes from. Its end is not the end of the run.
    pub file: File,
    /// Whether breaks are marked in it ([`vmm_core::console::marks`]).
    pub marked: bool,
}

/// A console's host end.
#[derive(Debug)]
pub struct Console {
    output: File,
    input: Option<Input>,
    /// Where a keyboard puts what is typed; only a terminal has one.
    keys: Option<File>,
    relay: Option<Relay>,
    tell: Tell,
}

impl Console {
    /// Opens it. Where it can be found is told, if that is elsewhere.
    pub fn open(place: &Where, tell: Tell) -> Result<Self, Error> {
        match place {
            Where::Stdio if isatty(io::stdin()) => {
                let (typed, keys) = relay::pipe()?;
                let mut console = Self::plain(duplicate(&io::stdout())?, Some(typed), tell);
                console.input.as_mut().expect("it has one").marked = true;
                console.keys = Some(keys);
                Ok(console)
            }
            Where::Stdio => Self::streams(false, tell),
            Where::File(path) => {
                let file = File::create(path).map_err(|source| Error::File {
                    path: path.clone(),
                    source,
                })?;
                Ok(Self::plain(file, None, tell))
            }
            Where::Pty => {
                let pty = Pty::open().map_err(Error::Pty)?;
                let path = pty.path().to_owned();
                Ok(Self::relayed(pty, &path, tell)?)
            }
            Where::Unix(path) => {
                let socket = Socket::bind(path).map_err(|source| Error::Socket {
                    path: path.clone(),
                    source,
                })?;
                Ok(Self::relayed(socket, path, tell)?)
            }
        }
    }

    /// The standard streams as they are.
    pub fn streams(marked: bool, tell: Tell) -> Result<Self, Error> {
        let mut console = Self::plain(
            duplicate(&io::stdout())?,
            Some(duplicate(&io::stdin())?),
            tell,
        );
        console.input.as_mut().expect("it has one").marked = marked;
        Ok(console)
    }

    fn plain(output: File, input: Option<File>, tell: Tell) -> Self {
        Self {
            output,
            input: input.map(|file| Input {
                file,
                marked: false,
            }),
            keys: None,
            relay: None,
            tell,
        }
    }

    fn relayed(
        outside: impl relay::Outside + 'static,
        path: &Path,
        tell: Tell,
    ) -> io::Result<Self> {
        let (from_guest, output) = relay::pipe()?;
        let (input, to_guest) = relay::pipe()?;
        let relay = Relay::start(outside, from_guest, to_guest)?;
        tell(&format!("console on {}", path.display()));
        Ok(Self {
            relay: Some(relay),
            ..Self::plain(output, Some(input), tell)
        })
    }

    /// What the guest says goes here.
    pub fn output(&self) -> io::Result<File> {
        self.output.try_clone()
    }

    /// What the guest hears.
    pub fn input(&self) -> io::Result<Option<Input>> {
        let clone = |input: &Input| {
            Ok(Input {
                file: input.file.try_clone()?,
                marked: input.marked,
            })
        };
        self.input.as_ref().map(clone).transpose()
    }

    /// Takes hold of the terminal, if it is on one. Whoever calls this watches for the signals that end programs, so that they end this one
    /// in order.
    pub fn attach(&self) -> Result<Option<Attached>, Error> {
        let Some(keys) = &self.keys else {
            return Ok(None);
        };
        let raw = Raw::enter(io::stdin(), Lines::AsTheyWere).map_err(Error::Terminal)?;
        let keyboard = Keyboard::start(duplicate(&io::stdin())?, keys.try_clone()?, self.tell)?;
        (self.tell)("Ctrl-A H for help");
        Ok(Some(Attached {
            _keyboard: Some(keyboard),
            _raw: raw,
        }))
    }

    /// What lets a client that takes nothing more be left behind, now and at the end.
    pub fn hurry(&self) -> impl Fn() + Send + use<> {
        let hurry = self.relay.as_ref().map(Relay::hurry);
        move || hurry.iter().for_each(|hurry| hurry())
    }

    /// Waits until whoever is connected has got the guest's last words. All clones of the output have been dropped.
    pub fn finish(self) {
        let Self { output, relay, .. } = self;
        drop(output);
        if let Some(relay) = relay {
            relay.finish();
        }
    }
}

/// A terminal in our hands. As before when this is dropped.
pub struct Attached {
    // In this order: what is typed once the terminal is the shell's again is the shell's.
    _keyboard: Option<Keyboard>,
    _raw: Raw,
}

impl Attached {
    /// The caller's terminal with every key and every byte passed on as it is.
    pub fn bare() -> Result<Self, Error> {
        Ok(Self {
            _keyboard: None,
            _raw: Raw::enter(io::stdin(), Lines::Raw).map_err(Error::Terminal)?,
        })
    }
}

fn duplicate(stream: &impl AsFd) -> io::Result<File> {
    let fd: OwnedFd = stream.as_fd().try_clone_to_owned()?;
    Ok(File::from(fd))
}

/// For `--help`.
pub const HELP: &str = keys::HELP;

#[cfg(test)]
mod tests {
    use super::Where;

    #[test]
    fn consoles() {
        assert_eq!("stdio".parse(), Ok(Where::Stdio));
        assert_eq!("pty".parse(), Ok(Where::Pty));
        assert_eq!("file:a:b".parse(), Ok(Where::File("a:b".into())));
        assert_eq!("unix:a".parse(), Ok(Where::Unix("a".into())));
        for wrong in ["", "file:", "file", "unix:", "unix", "pty:", "tty"] {
            assert!(wrong.parse::<Where>().is_err(), "{wrong}");
        }
    }
}
