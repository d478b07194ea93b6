//! A debugger's way to a verb in the lab: it connects here, and its bytes go there and back.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, eventfd};

use super::Error;
use super::frame::{CHUNK, Channel, ToAgent};
use super::session::Verb;
use super::window::Window;
use crate::gdb::{Client, Entrance, receive};

/// What comes from the verb.
pub(super) enum Word {
    Bytes(Vec<u8>),
    /// It has closed the connection.
    Close,
}

/// Receives debuggers until it is dropped.
pub(super) struct Door {
    shared: Arc<Shared>,
    given: Option<Sender<Word>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    over: OwnedFd,
    window: Window,
    client: Mutex<Option<Arc<Client>>>,
}

impl Shared {
    fn client(&self) -> MutexGuard<'_, Option<Arc<Client>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Door {
    pub(super) fn open(entrance: Entrance, verb: &Arc<Verb>) -> Result<Self, Error> {
        entrance.open().map_err(Error::Debugger)?;
        let shared = Arc::new(Shared {
            over: eventfd(0, EventfdFlags::CLOEXEC)
                .map_err(|error| Error::Debugger(error.into()))?,
            window: Window::new(),
            client: Mutex::default(),
        });
        let (closed, closes) = mpsc::channel();
        let (given, words) = mpsc::channel();
        let writing = {
            let (shared, verb) = (Arc::clone(&shared), Arc::clone(verb));
            thread::spawn(move || write(&shared, &verb, &words, &closed))
        };
        let receiving = {
            let (shared, verb) = (Arc::clone(&shared), Arc::downgrade(verb));
            thread::spawn(move || {
                let closes = Arc::new(Mutex::new(closes));
                let received = entrance.open().and_then(|listener| {
                    receive(listener, &shared.over, |client| {
                        admit(client, &shared, &verb, &closes);
                    })
                });
                if let Err(error) = received {
                    tracing::warn!("no more debuggers are listened for: {error}");
                }
            })
        };
        Ok(Self {
            shared,
            given: Some(given),
            threads: vec![writing, receiving],
        })
    }

    pub(super) fn give(&self, word: Word) {
        if let Some(given) = &self.given {
            // The thread takes until nobody gives.
            let _ = given.send(word);
        }
    }

    pub(super) fn grant(&self, bytes: u32) {
        self.shared.window.grant(bytes as usize);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // What was given is written first: it may be how the guest ended.
        self.given = None;
        // An eventfd takes more of these than there are.
        let _ = rustix::io::write(&self.shared.over, &1_u64.to_ne_bytes());
        self.shared.window.close();
        for thread in self.threads.drain(..) {
            // Its panic, if any, has been printed.
            let _ = thread.join();
        }
        if let Some(client) = self.shared.client().take() {
            client.hang_up();
        }
    }
}

fn write(shared: &Shared, verb: &Verb, words: &Receiver<Word>, closed: &Sender<()>) {
    for word in words {
        let client = shared.client().clone();
        match word {
            Word::Bytes(bytes) => {
                if let Some(mut stream) = client.and_then(|client| client.stream().ok()) {
                    // One that has gone reads nothing; its reader finds out.
                    let _ = stream.write_all(&bytes);
                }
                verb.send(ToAgent::Credit(Channel::Debugger, bytes.len() as u32));
            }
            Word::Close => {
                if let Some(client) = client {
                    client.hang_up();
                }
                // Its reader waits for that, if there is one.
                let _ = closed.send(());
            }
        }
    }
}

fn admit(
    client: Client,
    shared: &Arc<Shared>,
    verb: &Weak<Verb>,
    closes: &Arc<Mutex<Receiver<()>>>,
) {
    let mut present = shared.client();
    if present.is_some() {
        client.refuse();
        return;
    }
    let Ok(stream) = client.stream() else { return };
    *present = Some(Arc::new(client));
    drop(present);
    let (shared, verb, closes) = (Arc::clone(shared), Weak::clone(verb), Arc::clone(closes));
    // It is not waited for: at the end the connection may be with somebody who never closes it.
    thread::spawn(move || {
        read(stream, &shared.window, &verb);
        // The connection's other half in the lab must be gone before there is another one.
        let closes = closes.lock().unwrap_or_else(PoisonError::into_inner);
        if closes.recv().is_ok() {
            *shared.client() = None;
        }
    });
}

fn read(mut stream: File, window: &Window, verb: &Weak<Verb>) {
    let send = |message| verb.upgrade().map(|verb| verb.send(message));
    while let Some(most) = window.take(CHUNK) {
        let mut bytes = vec![0; most];
        let count = stream.read(&mut bytes).unwrap_or(0);
        window.grant(most - count);
        if count == 0 {
            break;
        }
        bytes.truncate(count);
        send(ToAgent::Bytes(Channel::Debugger, bytes));
    }
    send(ToAgent::Close(Channel::Debugger));
}
