//! One verb, from its start to its last word.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use signal_hook::consts::{SIGBUS, SIGILL, SIGSEGV};

use super::super::frame::{CHUNK, Channel, Ended, Frame, Program, Start, ToAgent, ToHost};
use super::super::place::DEBUGGER;
use super::super::window::Window;
use super::debugger::{self, Post};
use super::group::Group;
use super::journal::Journal;
use super::outputs::Outputs;
use super::pace::Pace;
use super::view::View;
use super::{Grounds, terminal};
use crate::sys::spawn::{self, Surroundings, Tree};

/// What a verb prints comes this promptly.
const GAP: Duration = Duration::from_millis(5);

/// What a verb's thread waits for.
pub(super) enum Event {
    /// The host says.
    Asked(ToAgent),
    /// The verb's first process ended.
    Exited,
    /// And all that it wrote is on its way.
    Drained(io::Result<()>),
}

pub(super) struct Verb<'a> {
    pub(super) number: u32,
    pub(super) out: Sender<Frame<ToHost>>,
    pub(super) grounds: &'a Grounds,
    pub(super) events: Sender<Event>,
    pub(super) inbox: Receiver<Event>,
}

/// Why a verb did not come to its own end.
enum Failure {
    /// Nobody waits for it.
    Cancelled,
    /// A signal came before it was started; it ends as it would have by that signal.
    Signalled(i32),
    /// In words.
    Told(String),
}

/// Says what was being done when an error came.
fn doing(what: &str) -> impl FnOnce(io::Error) -> Failure + '_ {
    move |error| Failure::Told(format!("{what}: {error}"))
}

impl Verb<'_> {
    pub(super) fn run(self, start: Start) {
        match self.to_its_end(start) {
            Ok(ended) => self.say(ToHost::Ended(ended)),
            Err(Failure::Signalled(signal)) => self.say(ToHost::Ended(Ended::Signal(signal))),
            Err(Failure::Told(why)) => self.say(ToHost::Failed(why)),
            Err(Failure::Cancelled) => false,
        };
    }

    fn to_its_end(&self, start: Start) -> Result<Ended, Failure> {
        let _admission = self.grounds.admit(start.memory).map_err(|free| {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            Failure::Told(format!(
                "it needs {} MiB, and {} MiB of the lab's memory are free",
                mib(start.memory),
                mib(free)
            ))
        })?;
        self.receive_contents(&start)?;
        let outputs: Vec<PathBuf> = start.outputs.iter().map(PathBuf::from).collect();
        let root = self.grounds.verbs.join(self.number.to_string());
        let view = View::plant(root, &start.nodes, &outputs, &self.grounds.store)
            .map_err(doing("cannot lay out its files"))?;
        let name = format!("verb-{}", self.number);
        let group = self
            .grounds
            .isolation
            .as_ref()
            .map(|isolation| isolation.groups.join(name));
        let group = Arc::new(Group::new(group).map_err(doing("cannot make its control group"))?);
        let files = Arc::new(Window::new());
        let outputs = self
            .watch(&view, outputs, &files)
            .map_err(doing("cannot watch its output files"))?;
        let program = start.program.path();
        // Of a machine that is not the verbs' own, the log says nothing of them.
        let journal = self
            .grounds
            .isolation
            .as_ref()
            .map(|_| Journal::open())
            .transpose()
            .map_err(doing("cannot open the kernel's log"))?;
        let started = self.start(&start, &view, &group);
        let mut running = started.map_err(doing(&format!("cannot start {}", program.display())))?;
        running.windows.push((Channel::Files, files));
        let status = self.attend(running, &group, outputs)?;
        Ok(ended_as(status, journal))
    }

    fn watch(
        &self,
        view: &View,
        outputs: Vec<PathBuf>,
        window: &Arc<Window>,
    ) -> io::Result<Outputs> {
        let (number, out) = (self.number, self.out.clone());
        let sink = move |step| out.send(Frame::Verb(number, ToHost::File(step))).is_ok();
        Outputs::watch(
            view.root().to_owned(),
            outputs,
            Arc::clone(window),
            Box::new(sink),
        )
    }

    /// Asks for the contents that the store lacks and takes them in.
    fn receive_contents(&self, start: &Start) -> Result<(), Failure> {
        let lacking = self.grounds.store.lacking(&start.nodes);
        self.say(ToHost::Lacks(
            lacking.iter().map(|(hash, _)| *hash).collect(),
        ));
        let mut arrival = self
            .grounds
            .store
            .arrival(&format!("arrival-{}", self.number), lacking);
        let failed = doing("cannot store its input files");
        loop {
            match self.inbox.recv() {
                Ok(Event::Asked(ToAgent::Bytes(Channel::Contents, bytes))) => {
                    if let Err(error) = arrival.take(&bytes) {
                        return Err(failed(error));
                    }
                    self.say(ToHost::Credit(Channel::Contents, bytes.len() as u32));
                }
                Ok(Event::Asked(ToAgent::Close(Channel::Contents))) => {
                    return arrival.finish().map_err(failed);
                }
                Ok(Event::Asked(ToAgent::Signal(signal))) => {
                    return Err(Failure::Signalled(signal));
                }
                Ok(Event::Asked(ToAgent::Cancel)) | Err(_) => return Err(Failure::Cancelled),
                Ok(_) => {}
            }
        }
    }

    /// Starts the verb's process and the threads that carry its streams.
    fn start(&self, start: &Start, view: &View, group: &Group) -> io::Result<Running> {
        let mut command = Command::new(start.program.path());
        if let Some((name, arguments)) = start.args.split_first() {
            command.arg0(name).args(arguments);
        }
        command
            .env_clear()
            .envs(start.env.iter().map(|(name, value)| (name, value)));
        let tree = match (&start.program, &self.grounds.isolation) {
            (Program::Vmm(program), Some(isolation)) => {
                view.install(&isolation.program, program)?;
                Some(tree(view, &start.cwd)?)
            }
            (Program::Vmm(_), None) => {
                command.current_dir(view.real(&start.cwd));
                None
            }
            (Program::Lab(_), _) => {
                command.current_dir(&start.cwd);
                None
            }
        };
        let terminal = start.terminal.map(terminal::open).transpose()?;
        let post = (start.debugger)
            .then(|| Post::new(self.number))
            .transpose()?;
        if let Some(post) = &post {
            command.env(DEBUGGER, post.listener.as_raw_fd().to_string());
        }
        let address = post.as_ref().map(Post::address);
        spawn::surround(
            &mut command,
            Surroundings {
                group: group.door()?,
                tree,
                umask: start.umask,
                terminal: terminal.is_some(),
                inherited: post.map(|post| post.listener),
            },
        );
        let mut running = match terminal {
            Some((ours, theirs)) => self.start_on_terminal(command, ours, theirs)?,
            None => self.start_on_pipes(command, start.stdin)?,
        };
        if let Some(address) = address {
            let window = Arc::new(Window::new());
            let out = self.out.clone();
            running.debugger = Some(Post::serve(address, self.number, out, Arc::clone(&window)));
            running.windows.push((Channel::Debugger, window));
        }
        Ok(running)
    }

    fn start_on_terminal(
        &self,
        mut command: Command,
        ours: File,
        theirs: File,
    ) -> io::Result<Running> {
        command
            .stdin(theirs.try_clone()?)
            .stdout(theirs.try_clone()?)
            .stderr(theirs);
        let child = command.spawn()?;
        // The command still holds the verb's side; the end of the terminal shows only when nobody does.
        drop(command);
        let stdin = self.feed(ours.try_clone()?);
        let mut running = Running {
            child,
            stdin: Some(stdin),
            windows: Vec::new(),
            pumps: Vec::new(),
            terminal: None,
            debugger: None,
        };
        self.drain(&mut running, Channel::Stdout, ours.try_clone()?);
        running.terminal = Some(ours);
        Ok(running)
    }

    fn start_on_pipes(&self, mut command: Command, stdin: bool) -> io::Result<Running> {
        command.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().map(|pipe| self.feed(pipe));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut running = Running {
            child,
            stdin,
            windows: Vec::new(),
            pumps: Vec::new(),
            terminal: None,
            debugger: None,
        };
        if let Some(pipe) = stdout {
            self.drain(&mut running, Channel::Stdout, pipe);
        }
        if let Some(pipe) = stderr {
            self.drain(&mut running, Channel::Stderr, pipe);
        }
        Ok(running)
    }

    /// Writes what comes to the verb's standard input, as fast as the verb takes it.
    fn feed(&self, mut pipe: impl Write + Send + 'static) -> Sender<Vec<u8>> {
        let (bytes, inbox) = mpsc::channel::<Vec<u8>>();
        let (number, out) = (self.number, self.out.clone());
        thread::spawn(move || {
            for bytes in inbox {
                let word = match pipe.write_all(&bytes) {
                    Ok(()) => ToHost::Credit(Channel::Stdin, bytes.len() as u32),
                    Err(_) => ToHost::Close(Channel::Stdin),
                };
                let closed = matches!(word, ToHost::Close(_));
                if out.send(Frame::Verb(number, word)).is_err() || closed {
                    return;
                }
            }
        });
        bytes
    }

    /// Sends what comes from the verb, as fast as the host takes it.
    fn drain(
        &self,
        running: &mut Running,
        channel: Channel,
        mut pipe: impl Read + AsFd + Send + 'static,
    ) {
        let window = Arc::new(Window::new());
        running.windows.push((channel, Arc::clone(&window)));
        let (number, out) = (self.number, self.out.clone());
        running.pumps.push(thread::spawn(move || {
            let mut pace = Pace::new(GAP);
            while let Some(most) = window.take(CHUNK) {
                let readable = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], None);
                debug_assert!(readable.is_ok(), "a descriptor of ours: {readable:?}");
                thread::sleep(pace.left());
                let mut bytes = vec![0; most];
                // A terminal whose other side is closed says EIO, a pipe says 0.
                let count = pipe.read(&mut bytes).unwrap_or(0);
                if count == 0 {
                    return;
                }
                pace.sent(count);
                window.grant(most - count);
                bytes.truncate(count);
                if out
                    .send(Frame::Verb(number, ToHost::Bytes(channel, bytes)))
                    .is_err()
                {
                    return;
                }
            }
        }));
    }

    /// Attends the verb to its end.
    fn attend(
        &self,
        mut running: Running,
        group: &Arc<Group>,
        outputs: Outputs,
    ) -> Result<ExitStatus, Failure> {
        let leader = Pid::from_child(&running.child);
        self.await_exit(leader);
        let (until, ended) = io::pipe().map_err(doing("cannot make a pipe"))?;
        let follower = thread::spawn(move || outputs.follow(&until));
        let mut unfinished = Some((follower, ended));
        let mut status = None;
        let mut cancelled = false;
        loop {
            match self.inbox.recv().unwrap_or(Event::Asked(ToAgent::Cancel)) {
                Event::Asked(ToAgent::Cancel) => {
                    cancelled = true;
                    running
                        .windows
                        .iter()
                        .for_each(|(_, window)| window.close());
                    if status.is_none() {
                        group.kill(leader).map_err(doing("cannot kill it"))?;
                    }
                }
                Event::Asked(message) => running.obey(message, status.is_none().then_some(leader)),
                Event::Exited => {
                    // Nothing that it started outlives it; and its number is not given away before it is waited for.
                    group
                        .kill(leader)
                        .map_err(doing("cannot kill what it started"))?;
                    status = Some(running.child.wait().map_err(doing("cannot wait for it"))?);
                    if let Some((follower, ended)) = unfinished.take() {
                        self.finish(
                            Arc::clone(group),
                            std::mem::take(&mut running.pumps),
                            follower,
                            ended,
                        );
                    }
                }
                Event::Drained(drained) => {
                    drained.map_err(doing("cannot follow its output files"))?;
                    return match status {
                        Some(status) if !cancelled => Ok(status),
                        _ => Err(Failure::Cancelled),
                    };
                }
            }
        }
    }

    /// Tells the inbox when the process has ended, and leaves it to be waited for.
    fn await_exit(&self, process: Pid) {
        let events = self.events.clone();
        thread::spawn(move || {
            let waited = waitid(
                WaitId::Pid(process),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            );
            debug_assert!(
                waited.is_ok(),
                "a child that nobody else waits for: {waited:?}"
            );
            let _ = events.send(Event::Exited);
        });
    }

    /// Waits, aside, until all that the verb wrote is on its way.
    fn finish(
        &self,
        group: Arc<Group>,
        pumps: Vec<JoinHandle<()>>,
        follower: JoinHandle<io::Result<()>>,
        ended: io::PipeWriter,
    ) {
        let events = self.events.clone();
        thread::spawn(move || {
            let emptied = group.wait_empty();
            drop(group);
            drop(ended);
            let drained = follower
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for pump in pumps {
                let _ = pump.join();
            }
            let _ = events.send(Event::Drained(emptied.and(drained)));
        });
    }

    /// False when the host is gone.
    fn say(&self, word: ToHost) -> bool {
        self.out.send(Frame::Verb(self.number, word)).is_ok()
    }
}

/// A verb's process and what feeds it and is fed by it.
struct Running {
    child: Child,
    stdin: Option<Sender<Vec<u8>>>,
    windows: Vec<(Channel, Arc<Window>)>,
    pumps: Vec<JoinHandle<()>>,
    terminal: Option<File>,
    debugger: Option<Sender<debugger::Word>>,
}

impl Running {
    /// Does what the host asks; `leader` leads the verb's process group while it lives.
    fn obey(&mut self, message: ToAgent, leader: Option<Pid>) {
        match message {
            ToAgent::Bytes(Channel::Stdin, bytes) => {
                // A verb that has closed its standard input has told the host already.
                let _ = self.stdin.as_ref().map(|stdin| stdin.send(bytes));
            }
            ToAgent::Close(Channel::Stdin) => self.stdin = None,
            ToAgent::Bytes(Channel::Debugger, bytes) => {
                self.to_debugger(debugger::Word::Bytes(bytes));
            }
            ToAgent::Close(Channel::Debugger) => self.to_debugger(debugger::Word::Close),
            ToAgent::Close(channel) => self.windows(channel).for_each(|window| window.close()),
            ToAgent::Credit(channel, bytes) => self
                .windows(channel)
                .for_each(|window| window.grant(bytes as usize)),
            ToAgent::Signal(number) => {
                if let (Some(leader), Some(signal)) = (leader, Signal::from_named_raw(number))
                    && let Err(error) = kill_process_group(leader, signal)
                {
                    tracing::warn!("cannot send signal {number}: {error}");
                }
            }
            ToAgent::Resize(size) => {
                if let Some(Err(error)) = self
                    .terminal
                    .as_ref()
                    .map(|terminal| terminal::resize(terminal, size))
                {
                    tracing::warn!("cannot resize the terminal: {error}");
                }
            }
            ToAgent::Start(_) | ToAgent::Bytes(..) | ToAgent::Cancel => {
                tracing::warn!("a word that has no place here: {message:?}");
            }
        }
    }

    fn to_debugger(&self, word: debugger::Word) {
        // The thread takes until nobody tells it anything.
        let _ = self.debugger.as_ref().map(|debugger| debugger.send(word));
    }

    fn windows(&self, channel: Channel) -> impl Iterator<Item = &Window> {
        self.windows
            .iter()
            .filter(move |(has, _)| *has == channel)
            .map(|(_, window)| &**window)
    }
}

/// The tree that the view holds, and the lab's own folders in it.
fn tree(view: &View, cwd: &OsStr) -> io::Result<Tree> {
    let path = |path: &OsStr| CString::new(path.as_bytes()).map_err(io::Error::from);
    let own = ["/dev", "/proc", "/sys"].map(OsStr::new);
    let mounts = own.map(|folder| Ok((path(folder)?, path(view.real(folder).as_os_str())?)));
    Ok(Tree {
        root: path(view.root().as_os_str())?,
        cwd: path(cwd)?,
        mounts: mounts.into_iter().collect::<io::Result<_>>()?,
    })
}

fn ended_as(status: ExitStatus, journal: Option<Journal>) -> Ended {
    match (status.code(), status.signal().unwrap_or_default()) {
        (Some(code), _) => Ended::Exit(code as u8),
        // No person sends these: something of ours or of the lab's is broken.
        (None, signal @ (SIGSEGV | SIGBUS | SIGILL)) => Ended::Crashed {
            signal,
            log: journal.map(Journal::read).unwrap_or_default(),
        },
        (None, signal) => Ended::Signal(signal),
    }
}

impl Program {
    fn path(&self) -> &Path {
        let (Self::Vmm(path) | Self::Lab(path)) = self;
        Path::new(path)
    }
}
