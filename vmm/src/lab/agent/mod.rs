//! The lab's end of the port: starts verbs, feeds them, and tells the host what they write and how they end.
//!
//! One thread reads the port and never waits for anything else; one writes it; each verb has a few of its own.

mod debugger;
mod group;
mod journal;
mod outputs;
mod pace;
mod store;
mod terminal;
mod verb;
mod view;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::frame::{self, Frame, FrameError, Hello, ToAgent, ToHost};
use store::Store;
use verb::Event;

/// Why the agent stopped serving.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The port carried something else than frames.
    #[error("the port to the host: {0}")]
    Port(#[from] FrameError),
    /// The host is another build.
    #[error("the host's vmm is build {theirs}, the lab's is {}", frame::BUILD)]
    Stranger { theirs: String },
    /// Its own files.
    #[error("cannot prepare {}: {source}", path.display())]
    Prepare { path: PathBuf, source: io::Error },
}

/// The machine that verbs run on.
pub(super) struct Grounds {
    /// Holds a folder for each verb.
    verbs: PathBuf,
    store: Store,
    /// What gives each verb a file tree and a control group of its own. Without it, and without root's rights, verbs share the agent's
    /// file tree: so the tests of this room run on any machine.
    isolation: Option<Isolation>,
    memory: Mutex<u64>,
}

struct Isolation {
    /// A copy of this program beside the verbs' folders, so that it can be linked into each one's file tree.
    program: PathBuf,
    /// The control group below which each verb gets its own.
    groups: PathBuf,
}

impl Grounds {
    /// `folder` is on one file system, for what verbs read and write; `memory` is what they may use together.
    pub(super) fn new(folder: &Path, groups: Option<&Path>, memory: u64) -> Result<Self, Error> {
        let isolate = |groups: &Path| -> io::Result<Isolation> {
            let program = folder.join("vmm");
            fs::copy("/proc/self/exe", &program)?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o555))?;
            Ok(Isolation {
                program,
                groups: groups.to_owned(),
            })
        };
        let prepare = || -> io::Result<Self> {
            let verbs = folder.join("verbs");
            fs::create_dir_all(&verbs)?;
            let store = Store::new(folder.join("store"))?;
            let isolation = groups.map(isolate).transpose()?;
            Ok(Self {
                verbs,
                store,
                isolation,
                memory: Mutex::new(memory),
            })
        };
        prepare().map_err(|source| Error::Prepare {
            path: folder.to_owned(),
            source,
        })
    }

    /// Sets memory apart for a verb, or says how much there is.
    fn admit(&self, memory: u64) -> Result<Admission<'_>, u64> {
        let mut free = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(memory).ok_or(*free)?;
        Ok(Admission {
            grounds: self,
            memory,
        })
    }
}

/// Memory set apart for one verb.
struct Admission<'a> {
    grounds: &'a Grounds,
    memory: u64,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        *self
            .grounds
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += self.memory;
    }
}

/// Serves the host until it closes the port. Verbs that still run then are killed.
pub(super) fn serve(
    mut from: impl Read,
    to: impl Write + Send + 'static,
    grounds: Grounds,
) -> Result<(), Error> {
    let grounds = Arc::new(grounds);
    let (out, frames) = mpsc::channel();
    let writer = thread::spawn(move || super::wire::write_all(to, &frames));
    let _ = out.send(Frame::Hello(Hello::ours()));
    let mut verbs = Verbs::default();
    let served = serve_frames(&mut from, &out, &grounds, &mut verbs);
    for events in verbs.events.into_values() {
        let _ = events.send(Event::Asked(ToAgent::Cancel));
    }
    for thread in verbs.threads {
        let _ = thread.join();
    }
    drop(out);
    match writer.join() {
        Ok(Err(error)) => tracing::debug!("the port to the host: {error}"),
        Ok(Ok(())) => {}
        Err(panic) => std::panic::resume_unwind(panic),
    }
    served
}

#[derive(Default)]
struct Verbs {
    events: HashMap<u32, Sender<Event>>,
    threads: Vec<thread::JoinHandle<()>>,
}

fn serve_frames(
    from: &mut impl Read,
    out: &Sender<Frame<ToHost>>,
    grounds: &Arc<Grounds>,
    verbs: &mut Verbs,
) -> Result<(), Error> {
    while let Some(frame) = frame::read::<ToAgent>(from)? {
        match frame {
            Frame::Hello(theirs) if theirs == Hello::ours() => {}
            Frame::Hello(theirs) => {
                return Err(Error::Stranger {
                    theirs: theirs.build,
                });
            }
            Frame::Ping => drop(out.send(Frame::Pong)),
            Frame::Pong | Frame::Lost(_) => {}
            Frame::Verb(number, ToAgent::Start(start)) => {
                verbs.threads.retain(|thread| !thread.is_finished());
                let (events, inbox) = mpsc::channel();
                verbs.events.insert(number, events.clone());
                let (out, grounds) = (out.clone(), Arc::clone(grounds));
                verbs.threads.push(thread::spawn(move || {
                    let verb = verb::Verb {
                        number,
                        out,
                        grounds: &grounds,
                        events,
                        inbox,
                    };
                    verb.run(*start);
                }));
            }
            Frame::Verb(number, message) => {
                let gone = verbs
                    .events
                    .get(&number)
                    .is_none_or(|events| events.send(Event::Asked(message)).is_err());
                if gone {
                    verbs.events.remove(&number);
                }
            }
        }
    }
    Ok(())
}
