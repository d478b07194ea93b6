//! A debugger's connection to a verb, whose other end is at the host.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use super::super::frame::{CHUNK, Channel, Frame, ToHost};
use super::super::window::Window;
use crate::gdb::READY;

/// What the host says about it.
pub(super) enum Word {
    Bytes(Vec<u8>),
    Close,
}

/// A socket at which a verb shall listen, and what connects to it.
pub(super) struct Post {
    address: SocketAddr,
    /// The verb's.
    pub(super) listener: OwnedFd,
}

impl Post {
    /// A socket without a file, which goes when the verb does.
    pub(super) fn new(verb: u32) -> io::Result<Self> {
        let name = format!("vmm-debugger-{}-{verb}", std::process::id());
        let address = SocketAddr::from_abstract_name(name)?;
        let listener = UnixListener::bind_addr(&address)?.into();
        Ok(Self { address, listener })
    }

    /// Where a thread connects to, which is told what the host says.
    pub(super) fn serve(
        address: SocketAddr,
        verb: u32,
        out: Sender<Frame<ToHost>>,
        window: Arc<Window>,
    ) -> Sender<Word> {
        let (tell, told) = mpsc::channel();
        {
            let (address, out) = (address.clone(), out.clone());
            thread::spawn(move || herald(&address, verb, &out));
        }
        thread::spawn(move || pass_on(&address, verb, &out, &window, &told));
        tell
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address.clone()
    }
}

/// Waits until the verb lets debuggers in: it says so to the first one that connects.
fn herald(address: &SocketAddr, verb: u32, out: &Sender<Frame<ToHost>>) {
    let mut word = [0];
    let heard = UnixStream::connect_addr(address).and_then(|mut stream| stream.read(&mut word));
    // A verb that never does ends without a word.
    if matches!(heard, Ok(1)) && word == [READY] {
        // The host may be gone.
        let _ = out.send(Frame::Verb(verb, ToHost::Debuggable));
    }
}

fn pass_on(
    address: &SocketAddr,
    verb: u32,
    out: &Sender<Frame<ToHost>>,
    window: &Arc<Window>,
    told: &Receiver<Word>,
) {
    let say = |word| out.send(Frame::Verb(verb, word)).is_ok();
    let mut connection: Option<UnixStream> = None;
    for word in told {
        let heard = match word {
            Word::Bytes(bytes) => {
                if connection.is_none() {
                    connection = connect(address, verb, out, window);
                }
                if let Some(stream) = &mut connection {
                    // A verb that has closed it reads nothing more; the host is told by the reader.
                    let _ = stream.write_all(&bytes);
                }
                say(ToHost::Credit(Channel::Debugger, bytes.len() as u32))
            }
            Word::Close => match connection.take() {
                // Its reader says it, unless it has already.
                Some(stream) => {
                    let _ = stream.shutdown(Shutdown::Both);
                    true
                }
                None => say(ToHost::Close(Channel::Debugger)),
            },
        };
        if !heard {
            return;
        }
    }
}

/// Connects, and has what comes back sent to the host.
fn connect(
    address: &SocketAddr,
    verb: u32,
    out: &Sender<Frame<ToHost>>,
    window: &Arc<Window>,
) -> Option<UnixStream> {
    let connected = UnixStream::connect_addr(address);
    let both = connected.and_then(|stream| Ok((stream.try_clone()?, stream)));
    let (mut reading, stream) = match both {
        Ok(both) => both,
        Err(error) => {
            tracing::warn!("cannot connect a debugger: {error}");
            return None;
        }
    };
    let (out, window) = (out.clone(), Arc::clone(window));
    thread::spawn(move || {
        while let Some(most) = window.take(CHUNK) {
            let mut bytes = vec![0; most];
            let count = reading.read(&mut bytes).unwrap_or(0);
            window.grant(most - count);
            if count == 0 {
                break;
            }
            bytes.truncate(count);
            let word = ToHost::Bytes(Channel::Debugger, bytes);
            if out.send(Frame::Verb(verb, word)).is_err() {
                return;
            }
        }
        let _ = out.send(Frame::Verb(verb, ToHost::Close(Channel::Debugger)));
    });
    Some(stream)
}
