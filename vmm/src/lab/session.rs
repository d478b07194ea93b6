//! One lab, from its boot to its end, with any number of verbs in it.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::contents::Contents;
use super::frame::{self, Frame, FrameError, Hello, ToAgent, ToHost};
use super::image::Image;
use super::qemu::Qemu;
use super::{Error, memory, wire};

/// How long a lab may take.
pub(super) struct Patience {
    /// To its first word.
    pub(super) hello: Duration,
    /// Between two looks at whether anything came.
    pub(super) beat: Duration,
    /// How many silent beats make it a lost one. Beats count only while this process runs: a host that was suspended, or a caller that
    /// was stopped, is not held against the lab.
    pub(super) beats: u32,
}

/// On an idle machine the first word comes after 3 s and an answer at once: a machine with thirty times the load is waited for.
const PATIENCE: Patience = Patience {
    hello: Duration::from_secs(120),
    beat: Duration::from_secs(1),
    beats: 90,
};

/// After so many silent beats the host asks, and then again.
const ASK_AFTER: u32 = 5;

/// A lab that answers. Dropping it ends it, and every verb in it.
pub struct Session {
    link: Arc<Link>,
    /// Nothing is ever sent: the watch ends when this is dropped.
    _watched: Sender<()>,
}

/// What comes about one verb.
pub(super) enum Told {
    Word(ToHost),
    /// The lab is gone; why.
    Lost(String),
}

type Sink = Box<dyn Fn(Told) + Send>;

/// What the threads of a session share.
struct Link {
    stream: UnixStream,
    out: Sender<Frame<ToAgent>>,
    /// Whether anything came since the last beat.
    heard: AtomicBool,
    state: Mutex<State>,
}

struct State {
    next: u32,
    verbs: HashMap<u32, Sink>,
    /// Who waits for an answer to a ping.
    asking: Vec<Sender<()>>,
    qemu: Option<Qemu>,
    /// Why it is gone, once it is.
    lost: Option<String>,
}

impl Session {
    /// Boots a lab in which verbs may use this much memory together.
    pub fn boot(memory: u64) -> Result<Self, Error> {
        Self::boot_with(memory, &Contents::new())
    }

    /// The same, with contents that its first verb will need.
    pub(super) fn boot_with(memory: u64, contents: &Contents) -> Result<Self, Error> {
        let image = Image::find()?;
        memory::check(memory::of_machine(memory))?;
        let (qemu, stream) = Qemu::start(&image, memory, contents)?;
        Self::over(stream, Some(qemu), PATIENCE)
    }

    /// Joins the lab that `vmm lab serve` offers at this socket.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket).map_err(|source| Error::Socket {
            path: socket.to_owned(),
            source,
        })?;
        Self::over(stream, None, PATIENCE)
    }

    pub(super) fn over(
        stream: UnixStream,
        qemu: Option<Qemu>,
        patience: Patience,
    ) -> Result<Self, Error> {
        let (out, frames) = mpsc::channel();
        let reading = stream.try_clone().map_err(Error::Start)?;
        let writing = stream.try_clone().map_err(Error::Start)?;
        let state = State {
            next: 0,
            verbs: HashMap::new(),
            asking: Vec::new(),
            qemu,
            lost: None,
        };
        let link = Arc::new(Link {
            stream,
            out,
            heard: AtomicBool::new(false),
            state: Mutex::new(state),
        });
        // A port that closes is noticed by the reader.
        thread::spawn(move || drop(wire::write_all(writing, &frames)));
        let (hello, hellos) = mpsc::channel();
        thread::spawn({
            let link = Arc::clone(&link);
            move || {
                let why = link.read(reading, &hello);
                link.lose(&why);
                // Dropping `hello` wakes whoever still waits for it, who then finds out why.
                drop(hello);
            }
        });
        let (watched, watch) = mpsc::channel();
        let session = Self {
            link: Arc::clone(&link),
            _watched: watched,
        };
        match hellos.recv_timeout(patience.hello) {
            Ok(theirs) if theirs == Hello::ours() => {}
            Ok(theirs) => {
                return Err(Error::Stale {
                    theirs: theirs.build,
                });
            }
            Err(RecvTimeoutError::Timeout) => {
                link.lose(&format!("it did not start within {:?}", patience.hello));
                return Err(link.lost());
            }
            Err(RecvTimeoutError::Disconnected) => return Err(link.lost()),
        }
        session.link.send(Frame::Hello(Hello::ours()));
        thread::spawn(move || {
            let mut silent = 0;
            while watch.recv_timeout(patience.beat) == Err(RecvTimeoutError::Timeout) {
                silent = if link.heard.swap(false, Ordering::Relaxed) {
                    0
                } else {
                    silent + 1
                };
                if silent == patience.beats {
                    link.lose(&format!("it was silent for {:?}", patience.beat * silent));
                    return;
                }
                if silent % ASK_AFTER == ASK_AFTER - 1 {
                    link.send(Frame::Ping);
                }
            }
        });
        Ok(session)
    }

    /// A new verb; what comes about it goes into the sink.
    pub(super) fn verb(&self, sink: Sink) -> Result<Verb, Error> {
        let mut state = self.link.state();
        if let Some(why) = &state.lost {
            return Err(Error::Lost { why: why.clone() });
        }
        let number = state.next;
        state.next += 1;
        state.verbs.insert(number, sink);
        Ok(Verb {
            number,
            link: Arc::clone(&self.link),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nothing in the lab is worth a farewell: what verbs wrote has come, or is not wanted.
        drop(self.link.state().qemu.take());
        let _ = self.link.stream.shutdown(Shutdown::Both);
    }
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, frame: Frame<ToAgent>) {
        // Nobody takes it any more: the reader is about to find out and to tell everybody.
        let _ = self.out.send(frame);
    }

    /// Reads until the end; why it ended.
    fn read(&self, mut stream: UnixStream, hello: &Sender<Hello>) -> String {
        loop {
            let frame = match frame::read::<ToHost>(&mut stream) {
                Ok(Some(frame)) => frame,
                Ok(None) => return "it closed its port".to_owned(),
                Err(FrameError::Port(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return "it closed its port".to_owned();
                }
                Err(error) => return error.to_string(),
            };
            self.heard.store(true, Ordering::Relaxed);
            match frame {
                Frame::Hello(theirs) => drop(hello.send(theirs)),
                Frame::Ping => self.send(Frame::Pong),
                Frame::Pong => self.state().asking.clear(),
                Frame::Lost(why) => return why,
                Frame::Verb(number, word) => {
                    let mut state = self.state();
                    if let ToHost::Ended(_) | ToHost::Failed(_) = word {
                        let sink = state.verbs.remove(&number);
                        drop(state);
                        sink.into_iter()
                            .for_each(|sink| sink(Told::Word(word.clone())));
                    } else if let Some(sink) = state.verbs.get(&number) {
                        sink(Told::Word(word));
                    }
                }
            }
        }
    }

    /// The lab is gone: finds out how QEMU ended, and tells every verb.
    fn lose(&self, why: &str) {
        let qemu = {
            let mut state = self.state();
            if state.lost.is_some() {
                return;
            }
            // From here on no verb is added.
            state.lost = Some(why.to_owned());
            state.qemu.take()
        };
        let _ = self.stream.shutdown(Shutdown::Both);
        let why = match qemu {
            Some(qemu) => format!("{why}; {}", qemu.end()),
            None => why.to_owned(),
        };
        let mut state = self.state();
        state.lost = Some(why.clone());
        let verbs = std::mem::take(&mut state.verbs);
        drop(state);
        verbs
            .into_values()
            .for_each(|sink| sink(Told::Lost(why.clone())));
    }

    fn lost(&self) -> Error {
        Error::Lost {
            why: self.state().lost.clone().unwrap_or_default(),
        }
    }
}

/// The host's hold on one verb. Dropping it before the verb's last word kills the verb.
pub(super) struct Verb {
    number: u32,
    link: Arc<Link>,
}

impl Verb {
    pub(super) fn send(&self, message: ToAgent) {
        self.link.send(Frame::Verb(self.number, message));
    }
}

impl Verb {
    /// Waits until the other side has read all that was sent so far. One that takes its time is not waited for.
    pub(super) fn settle(&self) {
        let (asking, answer) = mpsc::channel();
        self.link.state().asking.push(asking);
        self.link.send(Frame::Ping);
        // The answer is that the sender is dropped.
        let _ = answer.recv_timeout(Duration::from_secs(5));
    }
}

impl Drop for Verb {
    fn drop(&mut self) {
        if self.link.state().verbs.remove(&self.number).is_some() {
            self.send(ToAgent::Cancel);
        }
    }
}
