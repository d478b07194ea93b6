//! Where a debugger comes in.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{Shutdown, shutdown, sockopt};

use crate::console::socket::Listener as UnixListener;

/// Where a debugger is listened for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Where {
    /// At this address.
    Tcp(SocketAddr),
    /// At this socket.
    Unix(PathBuf),
}

impl Where {
    /// Whether nobody on another machine can get there.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let port = text.strip_prefix(':').unwrap_or(text).parse().map(local);
        port.or_else(|_| text.parse())
            .map(Self::Tcp)
            .map_err(|_| "a debugger comes in at PORT, ADDR:PORT or unix:PATH".to_owned())
    }
}

/// Where debuggers come in once there is something for them. One that comes earlier finds nobody and tries again, as `target remote`
/// does; to one that is let in too early nobody answers in time.
pub struct Entrance {
    kind: Kind,
    tell: fn(&str),
    listener: OnceLock<Listener>,
}

enum Kind {
    At(Where),
    /// At a socket whose other end belongs to the lab's agent, which waits for a word before it lets debuggers in.
    Lent(Mutex<Option<std::os::unix::net::UnixListener>>),
}

impl Entrance {
    /// It can be opened at this place, as far as that can be seen before. Who comes in is told where.
    pub fn at(place: &Where, tell: fn(&str)) -> io::Result<Self> {
        drop(Listener::bind(place)?);
        Ok(Self::new(Kind::At(place.clone()), tell))
    }

    /// The same at a socket that was inherited from the lab's agent.
    pub fn lent(listener: std::os::unix::net::UnixListener, tell: fn(&str)) -> Self {
        Self::new(Kind::Lent(Mutex::new(Some(listener))), tell)
    }

    fn new(kind: Kind, tell: fn(&str)) -> Self {
        Self {
            kind,
            tell,
            listener: OnceLock::new(),
        }
    }

    /// Opens it, the first time.
    pub fn open(&self) -> io::Result<&Listener> {
        if let Some(listener) = self.listener.get() {
            return Ok(listener);
        }
        let listener = match &self.kind {
            Kind::At(place) => {
                let listener = Listener::bind(place)?;
                (self.tell)(&format!("debuggers connect to {}", listener.address()?));
                listener
            }
            Kind::Lent(lent) => {
                let lent = lent.lock().unwrap_or_else(PoisonError::into_inner).take();
                let lent = lent.ok_or(io::ErrorKind::AddrInUse)?;
                // The agent has come before all debuggers.
                lent.accept()?.0.write_all(&[READY])?;
                Listener::Lent(lent)
            }
        };
        Ok(self.listener.get_or_init(|| listener))
    }
}

/// What the lab's agent waits for.
pub const READY: u8 = b'!';

/// Listens for debuggers.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a socket to which only this user may connect.
    Unix(UnixListener),
    /// At a socket that somebody else has bound.
    Lent(std::os::unix::net::UnixListener),
}

impl Listener {
    fn bind(place: &Where) -> io::Result<Self> {
        match place {
            Where::Tcp(address) => TcpListener::bind(address).map(Self::Tcp),
            Where::Unix(path) => UnixListener::bind(path).map(Self::Unix),
        }
    }

    fn address(&self) -> io::Result<String> {
        Ok(match self {
            Self::Tcp(listener) => listener.local_addr()?.to_string(),
            Self::Unix(listener) => listener.path().display().to_string(),
            Self::Lent(_) => "the caller's".to_owned(),
        })
    }

    fn accept(&self) -> io::Result<Client> {
        let stream: OwnedFd = match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                // Each packet waits for its answer.
                stream.set_nodelay(true)?;
                stream.into()
            }
            Self::Unix(listener) => listener.socket().accept()?.0.into(),
            Self::Lent(listener) => listener.accept()?.0.into(),
        };
        Ok(Client::new(stream.into()))
    }
}

/// Takes one client after the other, until the other descriptor is readable.
pub fn receive(
    listener: &Listener,
    over: &impl AsFd,
    mut take: impl FnMut(Client),
) -> io::Result<()> {
    loop {
        let mut ready = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(over, PollFlags::IN),
        ];
        poll(&mut ready, None)?;
        if !ready[1].revents().is_empty() {
            return Ok(());
        }
        match listener.accept() {
            Ok(client) => take(client),
            // It has gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.socket().as_fd(),
            Self::Lent(listener) => listener.as_fd(),
        }
    }
}

/// One that has connected.
#[derive(Debug)]
pub struct Client(File);

impl Client {
    pub(super) fn new(stream: File) -> Self {
        Self(stream)
    }

    /// The stream to and from it.
    pub fn stream(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// Ends its connection, for all that read and write it.
    pub fn hang_up(&self) {
        // It may be gone already.
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    /// Tells it that there is another one, as an error to its first packet (GDB manual, "Standard Replies").
    pub fn refuse(self) {
        thread::spawn(move || {
            let mut stream = &self.0;
            // What was not read when a socket is closed takes with it what was written.
            let first = sockopt::set_socket_timeout(stream, sockopt::Timeout::Recv, Some(FIRST))
                .is_ok()
                && stream.read(&mut [0; 4096]).is_ok();
            if first {
                let words = "E.another debugger is connected";
                let sum = words.bytes().fold(0_u8, u8::wrapping_add);
                // It may be gone by now.
                let _ = stream.write_all(format!("+${words}#{sum:02x}").as_bytes());
            }
            self.hang_up();
        });
    }
}

/// A debugger speaks first, and at once.
const FIRST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_loopback() {
        let local = |port| Where::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!("1234".parse(), Ok(local(1234)));
        assert_eq!(":1234".parse(), Ok(local(1234)));
        assert!(local(1).is_local());
    }

    #[test]
    fn other_addresses_are_told_apart() {
        let open: Where = "0.0.0.0:1234".parse().unwrap();
        assert!(!open.is_local());
        let own: Where = "[::1]:1".parse().unwrap();
        assert!(own.is_local());
        let socket = "unix:a/b".parse();
        assert_eq!(socket, Ok(Where::Unix("a/b".into())));
        for wrong in ["", "unix:", "port", "1.2.3.4", "70000"] {
            assert!(wrong.parse::<Where>().is_err(), "{wrong}");
        }
    }
}
