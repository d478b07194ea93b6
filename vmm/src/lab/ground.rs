//! Verbs that another verb runs, several at a time: where KVM is at hand as processes of this machine, else in one lab. What they print
//! is kept, and they can be ended from outside.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::SIGTERM;

use super::frame::Ended;
use super::run::{Needs, Prepared, Request, Streams};
use super::session::Session;
use super::{Error, SOCKET, memory};
use crate::sys::spawn;

/// Where verbs run.
pub enum Ground {
    /// On this machine.
    Here,
    /// In a lab.
    Lab(Session),
}

/// How a verb ended, and what it printed.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub ended: Ended,
    /// Its standard output.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// What a verb needs of a lab's memory, in bytes.
pub fn memory_of(needs: &Needs) -> u64 {
    let length = |path: &PathBuf| path.metadata().map_or(0, |data| data.len());
    memory::of_verb(needs.memory, needs.inputs.iter().map(length).sum())
}

impl Ground {
    /// A lab in which verbs may use this much memory together: the one that is lent at a socket, or one of its own.
    pub fn lab(memory: u64) -> Result<Self, Error> {
        let session = match env::var_os(SOCKET) {
            Some(socket) => Session::connect(&PathBuf::from(socket))?,
            None => Session::boot(memory)?,
        };
        Ok(Self::Lab(session))
    }

    /// Runs a verb to its end, which it is asked for by SIGTERM when this long has passed.
    pub fn run(
        &self,
        args: &[OsString],
        needs: &Needs,
        stopper: &Stopper,
        patience: Duration,
    ) -> Result<Output, Error> {
        match self {
            Ground::Here => here(args, stopper, patience),
            Ground::Lab(session) => in_lab(session, args, needs, stopper, patience),
        }
    }
}

fn in_lab(
    session: &Session,
    args: &[OsString],
    needs: &Needs,
    stopper: &Stopper,
    patience: Duration,
) -> Result<Output, Error> {
    let (stdout, stderr) = (Kept::default(), Kept::default());
    let streams = Streams {
        stdin: Box::new(io::empty()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
    };
    let request = Request::Verb(args.to_vec(), needs.clone());
    let running = session.start(Prepared::new(&request)?, streams)?;
    let interrupter = running.interrupter();
    let signal = move |signal| {
        // One that has ended takes no signal.
        let _ = interrupter.signal(signal);
    };
    let ended = stopper.attend(signal, patience, || running.wait())?;
    Ok(Output {
        ended,
        stdout: stdout.text(),
        stderr: stderr.text(),
    })
}

fn here(args: &[OsString], stopper: &Stopper, patience: Duration) -> Result<Output, Error> {
    let program = env::current_exe().map_err(Error::Program)?;
    let mut command = Command::new(program);
    command
        .args(args.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // This thread waits for it, and so outlives it.
    spawn::tie_to_parent(&mut command, Vec::new());
    let mut child = command.spawn().map_err(Error::Child)?;
    let pid = Pid::from_child(&child);
    let signal = move |signal| {
        // It is not waited for before this can no longer be called, so that the number is its own.
        let signal = Signal::from_named_raw(signal).unwrap_or(Signal::TERM);
        let _ = kill_process(pid, signal);
    };
    let mut streams = (
        child.stdout.take().expect("it is piped"),
        child.stderr.take().expect("it is piped"),
    );
    let read = |stream: &mut dyn Read| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    };
    let read = stopper.attend(signal, patience, || {
        thread::scope(|scope| {
            let errors = scope.spawn(|| read(&mut streams.1));
            let output = read(&mut streams.0);
            let errors = errors
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, io::Error>((output?, errors?))
        })
    });
    let status = child.wait().map_err(Error::Child)?;
    let (stdout, stderr) = read.map_err(Error::Child)?;
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code as u8),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    };
    Ok(Output {
        ended,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// What a verb has printed.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Passing = Box<dyn Fn(i32) + Send>;

/// Ends all verbs that run.
#[derive(Clone, Default)]
pub struct Stopper(Arc<Mutex<Stopping>>);

#[derive(Default)]
struct Stopping {
    asked: Option<i32>,
    next: u64,
    running: HashMap<u64, Passing>,
}

impl Stopper {
    /// Passes a signal on to all that run, and to all that will.
    pub fn stop(&self, signal: i32) {
        let mut stopping = self.stopping();
        stopping.asked = Some(signal);
        stopping.running.values().for_each(|pass| pass(signal));
    }

    /// The signal that was passed on, if one was.
    pub fn asked(&self) -> Option<i32> {
        self.stopping().asked
    }

    fn stopping(&self) -> MutexGuard<'_, Stopping> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a verb, to which signals are passed on meanwhile, and SIGTERM when it has taken too long.
    fn attend<T>(
        &self,
        pass: impl Fn(i32) + Clone + Send + Sync + 'static,
        patience: Duration,
        wait: impl FnOnce() -> T,
    ) -> T {
        let number = {
            let mut stopping = self.stopping();
            if let Some(signal) = stopping.asked {
                pass(signal);
            }
            let number = stopping.next;
            stopping.next += 1;
            stopping.running.insert(number, Box::new(pass.clone()));
            number
        };
        let (end, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                    pass(SIGTERM);
                }
            });
            let waited = wait();
            drop(end);
            self.stopping().running.remove(&number);
            waited
        })
    }
}
