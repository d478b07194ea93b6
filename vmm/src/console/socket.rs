//! A console on a socket: one client at a time.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use super::relay::{self, Outside};

/// A listener to which only this user may connect. Its file goes with it.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens; a file that was left by somebody who was killed is replaced.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            match UnixStream::connect(path) {
                Ok(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "somebody serves there already",
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path)?;
                }
                Err(error) => return Err(error),
            }
        }
        let address = SocketAddrUnix::new(path)?;
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // Linux gives the file the socket's mode, less the umask (net/unix/af_unix.c, `unix_bind_bsd`): there is no moment at which others
        // may connect.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &address)?;
        let listener = Self {
            listener: UnixListener::from(socket),
            path: path.to_owned(),
        };
        listen(&listener.listener, 16)?;
        Ok(listener)
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For accepting.
    pub fn socket(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// As many clients may have left something to read behind. Each holds no more than a socket does.
const LEFT_BEHIND: usize = 16;

/// The console's.
#[derive(Debug)]
pub(super) struct Socket {
    listener: Option<Listener>,
    /// Who is connected.
    client: Option<UnixStream>,
    /// Who has typed something that was not read yet, in their order; the client is the last, if it still may type.
    typists: VecDeque<UnixStream>,
}

impl Socket {
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let listener = Listener::bind(path)?;
        listener.socket().set_nonblocking(true)?;
        Ok(Self {
            listener: Some(listener),
            client: None,
            typists: VecDeque::new(),
        })
    }
}

impl Outside for Socket {
    fn news(&self) -> BorrowedFd<'_> {
        let listener = self.listener.as_ref();
        listener
            .expect("news are asked for until it is closed")
            .socket()
            .as_fd()
    }

    fn look(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        let mut client = match listener.socket().accept() {
            Ok((client, _)) => client,
            // It has gone already.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::ConnectionAborted
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        client.set_nonblocking(true)?;
        // The one before may have left in order to make room for this one.
        if let Some(before) = &self.client
            && relay::hung_up(before)?
        {
            self.client = None;
        }
        if self.client.is_some() || self.typists.len() >= LEFT_BEHIND {
            // It may have gone without waiting for the answer.
            let _ = client.write_all(b"vmm: somebody else is connected to this console\r\n");
            return Ok(());
        }
        self.typists.push_back(client.try_clone()?);
        self.client = Some(client);
        Ok(())
    }

    fn hearer(&self) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().map(AsFd::as_fd)
    }

    fn lose_hearer(&mut self) {
        self.client = None;
    }

    fn typist(&self) -> Option<BorrowedFd<'_>> {
        self.typists.front().map(AsFd::as_fd)
    }

    fn lose_typist(&mut self) {
        self.typists.pop_front();
    }

    fn close(&mut self) {
        self.listener = None;
    }
}
