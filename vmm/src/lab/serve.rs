//! Lends one lab to other processes of this user, by a socket.
//!
//! A client speaks to the server as it would speak to the agent. The server gives its verbs numbers of the lab and passes
//! everything else on as it is: the credit that bounds a stream runs from end to end.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use rustix::fs::{FileType, fstat};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Error;
use super::frame::{self, Frame, FrameError, Hello, ToAgent, ToHost};
use super::session::{Session, Told};
use super::wire;
use crate::console::socket::Listener;

/// Why serving ends.
enum End {
    /// Somebody asked for it.
    Asked,
    Lost(String),
}

/// Boots a lab whose verbs may use this much memory together and lends it until a signal asks for the end or, where standard input is
/// a pipe, until that is closed. `ready` is called when clients are welcome.
pub fn serve(socket: &Path, memory: u64, ready: impl FnOnce()) -> Result<(), Error> {
    let failed = |source| Error::Socket {
        path: socket.to_owned(),
        source,
    };
    let listener = Listener::bind(socket).map_err(failed)?;
    let accepting = listener.socket().try_clone().map_err(failed)?;
    let (ends, end) = mpsc::channel();
    end_by_signal(ends.clone()).map_err(Error::Signals)?;
    end_with_stdin(ends.clone()).map_err(failed)?;
    let session = Arc::new(Session::boot(memory)?);
    // A verb that is never started, by which to hear of the lab's end.
    let _listening = session.verb(Box::new(move |told| {
        if let Told::Lost(why) = told {
            let _ = ends.send(End::Lost(why));
        }
    }))?;
    thread::spawn(move || {
        for client in accepting.incoming() {
            let session = Arc::clone(&session);
            thread::spawn(move || {
                if let Err(error) = client
                    .map_err(FrameError::Port)
                    .and_then(|client| attend(client, &session))
                {
                    tracing::debug!("a client: {error}");
                }
            });
        }
    });
    ready();
    match end.recv() {
        Ok(End::Lost(why)) => Err(Error::Lost { why }),
        Ok(End::Asked) | Err(_) => Ok(()),
    }
}

fn end_by_signal(ends: Sender<End>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _ = ends.send(End::Asked);
        }
    });
    Ok(())
}

/// Only a pipe: a server in the background has a terminal that it must not read, or /dev/null.
fn end_with_stdin(ends: Sender<End>) -> io::Result<()> {
    if FileType::from_raw_mode(fstat(rustix::stdio::stdin())?.st_mode) != FileType::Fifo {
        return Ok(());
    }
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = ends.send(End::Asked);
    });
    Ok(())
}

/// Serves a client until it leaves; its verbs leave with it.
fn attend(mut client: UnixStream, session: &Session) -> Result<(), FrameError> {
    let (out, frames) = mpsc::channel::<Frame<ToHost>>();
    let writing = client.try_clone()?;
    thread::spawn(move || drop(wire::write_all(writing, &frames)));
    let _ = out.send(Frame::Hello(Hello::ours()));
    let mut verbs = HashMap::new();
    while let Some(frame) = frame::read::<ToAgent>(&mut client)? {
        match frame {
            Frame::Hello(theirs) if theirs == Hello::ours() => {}
            // It finds out by our own.
            Frame::Hello(_) => return Ok(()),
            Frame::Ping => drop(out.send(Frame::Pong)),
            Frame::Pong | Frame::Lost(_) => {}
            Frame::Verb(number, message) => {
                if let ToAgent::Start(_) = message {
                    let told = out.clone();
                    let verb = session.verb(Box::new(move |word| {
                        drop(told.send(match word {
                            Told::Word(word) => Frame::Verb(number, word),
                            Told::Lost(why) => Frame::Lost(why),
                        }));
                    }));
                    match verb {
                        Ok(verb) => drop(verbs.insert(number, verb)),
                        Err(error) => drop(out.send(Frame::Lost(error.to_string()))),
                    }
                }
                if let Some(verb) = verbs.get(&number) {
                    verb.send(message);
                }
            }
        }
    }
    Ok(())
}
