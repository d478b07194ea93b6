//! Debuggers come and go: one at a time has the guest.

#[cfg(feature = "fuzzing")]
mod fuzz;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

#[cfg(feature = "fuzzing")]
pub use fuzz::{RAM, Writes, fuzz};
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};
use rustix::event::{EventfdFlags, eventfd};
use signal_hook::consts::SIGTERM;

use super::dialect::Dialect;
use super::place::{Client, receive};
use super::target::{Error, Guest, interrupted};
use super::{Around, DebugRegisters, Listener};
use crate::conductor::{Conductor, Reason};
use crate::vcpu::Vcpu;

/// Serves debuggers while the work is done.
pub fn serve<V: Vcpu + 'static, R>(
    listener: &Listener,
    conductor: &Conductor<V>,
    around: &dyn Around,
    limits: DebugRegisters,
    work: impl FnOnce() -> R,
) -> io::Result<R> {
    let server = Server {
        conductor,
        around,
        limits,
        over: eventfd(0, EventfdFlags::CLOEXEC)?,
        present: Mutex::default(),
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(error) = server.accept(scope, listener) {
                tracing::warn!("no more debuggers are listened for: {error}");
            }
        });
        // Also when the work panics: the threads that serve are waited for.
        let _over = Over(&server);
        Ok(work())
    })
}

struct Server<'s, V: Vcpu + 'static> {
    conductor: &'s Conductor<V>,
    around: &'s dyn Around,
    limits: DebugRegisters,
    /// Readable when the work is done.
    over: OwnedFd,
    present: Mutex<Present>,
}

/// Who is there.
#[derive(Default)]
struct Present {
    over: bool,
    session: Option<Sender<Event>>,
}

/// What a session waits for.
enum Event {
    Bytes(Vec<u8>),
    /// The debugger has gone.
    Gone,
    /// The work is done.
    Over,
}

/// Ends the serving when it is dropped.
struct Over<'s, V: Vcpu + 'static>(&'s Server<'s, V>);

impl<V: Vcpu + 'static> Drop for Over<'_, V> {
    fn drop(&mut self) {
        let mut present = self.0.present();
        present.over = true;
        // An eventfd takes more of these than there are.
        let _ = rustix::io::write(&self.0.over, &1_u64.to_ne_bytes());
        if let Some(session) = &present.session {
            // It may be ending by itself.
            let _ = session.send(Event::Over);
            self.0.conductor.ask_back();
        }
    }
}

impl<'s, V: Vcpu + 'static> Server<'s, V> {
    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        listener: &Listener,
    ) -> io::Result<()> {
        receive(listener, &self.over, |client| {
            let mut present = self.present();
            if present.over || present.session.is_some() {
                client.refuse();
                return;
            }
            let (tell, told) = mpsc::channel();
            present.session = Some(tell.clone());
            drop(present);
            scope.spawn(move || {
                if let Err(error) = self.attend(&client, tell, told) {
                    tracing::debug!("a debugger's session ended: {error}");
                }
                client.hang_up();
                self.present().session = None;
            });
        })
    }

    /// One debugger, from its connection to its end.
    fn attend(
        &self,
        client: &Client,
        tell: Sender<Event>,
        told: Receiver<Event>,
    ) -> Result<(), String> {
        let stream = client.stream().map_err(|error| error.to_string())?;
        let wire = Wire {
            stream: client.stream().map_err(|error| error.to_string())?,
            waiting: Vec::new(),
        };
        let running = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                self.read(stream, &tell, &running);
            });
            let mut guest = Guest::new(self.conductor.debug(), self.around, self.limits);
            let mut inbox = Inbox {
                told,
                dialect: Dialect::default(),
                bytes: VecDeque::new(),
            };
            let ended = self.converse(wire, &mut guest, &mut inbox, &running);
            guest.let_go();
            // The reader ends by that.
            client.hang_up();
            ended.map_err(|error| error.to_string())
        })
    }

    fn read(&self, mut stream: File, tell: &Sender<Event>, running: &AtomicBool) {
        let mut buffer = [0; 4096];
        loop {
            let event = match stream.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => Event::Gone,
                Ok(count) => Event::Bytes(buffer[..count].to_vec()),
            };
            let gone = matches!(event, Event::Gone);
            // The session looks into its inbox after it has said that it lets vCPUs run, and this is said after something was put there:
            // one of the two sees the other.
            let heard = tell.send(event).is_ok();
            if running.load(Ordering::SeqCst) {
                self.conductor.ask_back();
            }
            if gone || !heard {
                return;
            }
        }
    }

    fn converse(
        &self,
        wire: Wire,
        guest: &mut Guest<'_, V>,
        inbox: &mut Inbox,
        running: &AtomicBool,
    ) -> Result<(), Broken> {
        let mut machine = GdbStub::new(wire).run_state_machine(guest)?;
        loop {
            machine = match machine {
                GdbStubStateMachine::Idle(stub) => match inbox.wait() {
                    Ok(byte) => {
                        guest.segments_by_distance = inbox.dialect.is_lldb();
                        stub.incoming_data(guest, byte)?
                    }
                    Err(_) => return Ok(()),
                },
                GdbStubStateMachine::Running(stub) => {
                    running.store(true, Ordering::SeqCst);
                    let machine = match inbox.look() {
                        Ok(Some(byte)) => stub.incoming_data(guest, byte)?,
                        Ok(None) => match guest.go_on()? {
                            Some(stop) => stub.report_stop(guest, stop)?,
                            None => stub.into(),
                        },
                        Err(End::Over) => {
                            stub.report_stop(guest, MultiThreadStopReason::Exited(0))?;
                            return Ok(());
                        }
                        Err(End::Gone) => return Ok(()),
                    };
                    running.store(false, Ordering::SeqCst);
                    machine
                }
                GdbStubStateMachine::CtrlCInterrupt(stub) => {
                    stub.interrupt_handled(guest, Some(interrupted()))?
                }
                GdbStubStateMachine::Disconnected(stub) => {
                    if matches!(stub.get_reason(), DisconnectReason::Kill) {
                        self.conductor.stopper().stop(Reason::Signal(SIGTERM));
                    }
                    return Ok(());
                }
            }
        }
    }
}

/// Why a session ended before its time.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Stub(String),
    #[error(transparent)]
    Guest(#[from] Error),
}

impl From<GdbStubError<Error, io::Error>> for Broken {
    fn from(error: GdbStubError<Error, io::Error>) -> Self {
        Self::Stub(error.to_string())
    }
}

/// What a debugger has sent.
struct Inbox {
    told: Receiver<Event>,
    dialect: Dialect,
    bytes: VecDeque<u8>,
}

/// Nothing more comes.
enum End {
    /// The debugger has gone.
    Gone,
    /// The work is done.
    Over,
}

impl Inbox {
    fn wait(&mut self) -> Result<u8, End> {
        loop {
            if let Some(byte) = self.bytes.pop_front() {
                return Ok(byte);
            }
            self.take(self.told.recv().map_err(|_| End::Gone)?)?;
        }
    }

    fn look(&mut self) -> Result<Option<u8>, End> {
        while self.bytes.is_empty() {
            match self.told.try_recv() {
                Ok(event) => self.take(event)?,
                Err(mpsc::TryRecvError::Empty) => return Ok(None),
                Err(mpsc::TryRecvError::Disconnected) => return Err(End::Gone),
            }
        }
        Ok(self.bytes.pop_front())
    }

    fn take(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Bytes(bytes) => {
                let bytes = bytes.into_iter().flat_map(|byte| self.dialect.hear(byte));
                self.bytes.extend(bytes);
                Ok(())
            }
            Event::Gone => Err(End::Gone),
            Event::Over => Err(End::Over),
        }
    }
}

/// To the debugger, a packet at a time.
struct Wire {
    stream: File,
    waiting: Vec<u8>,
}

impl Connection for Wire {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.waiting.push(byte);
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.waiting.extend(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.stream.write_all(&self.waiting);
        self.waiting.clear();
        written
    }
}
