//! One verb in the lab, as its caller sees it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::carry::Carrier;
use super::contents::{Checked, Contents};
use super::debugger::{Door, Word};
use super::frame::{CHUNK, Channel, Ended, FileOp, Hash, Program, Size, Start, ToAgent, ToHost};
use super::place::{INSIDE, TERMINALS};
use super::session::{Session, Told, Verb};
use super::survey::Survey;
use super::terminal;
use super::window::Window;
use super::{Error, memory};
use crate::console::{self, Attached, Console};
use crate::gdb::Entrance;

/// How long a verb may take to end after it was asked to by a signal. A guest that is being stopped, with its console written out,
/// took 2 s at most on a loaded machine.
const TO_END: Duration = Duration::from_secs(30);

/// What a verb is to the lab.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Files that it reads; one that is missing is missing there too.
    pub inputs: Vec<PathBuf>,
    /// Files that it writes, or folders that it fills.
    pub outputs: Vec<PathBuf>,
    /// Whether it reads standard input.
    pub stdin: bool,
    /// The memory of its guests, in bytes.
    pub memory: u64,
    /// Whether debuggers may connect to it.
    pub debugger: bool,
}

/// What runs in the lab.
#[derive(Clone, Debug)]
pub enum Request {
    /// A verb of this program: the arguments, its own name first, as they were typed, and what it needs.
    Verb(Vec<OsString>, Needs),
    /// A command of the lab itself, with its own file tree; a shell on a terminal where there is none.
    Shell(Vec<OsString>),
}

/// The standard streams of a verb.
pub struct Streams {
    /// What it may read.
    pub stdin: Box<dyn Read + Send>,
    /// What it prints.
    pub stdout: Box<dyn Write + Send>,
    /// What it prints beside that.
    pub stderr: Box<dyn Write + Send>,
}

impl Streams {
    /// This process's own.
    pub fn own() -> Self {
        Self {
            stdin: Box::new(io::stdin()),
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
        }
    }

    /// With a console in place of standard input and output.
    fn with(console: &Console) -> Result<Self, console::Error> {
        let mut streams = Self::own();
        streams.stdout = Box::new(console.output()?);
        if let Some(input) = console.input()? {
            streams.stdin = Box::new(input.file);
        }
        Ok(streams)
    }
}

/// What the thread that attends a verb waits for.
enum Event {
    Told(Told),
    /// This process got a signal.
    Signal(i32),
    Resized(Size),
    /// Somebody waits until all that was sent so far has arrived.
    Settle(Sender<()>),
    /// Our own side of a file failed.
    Broken(Error),
}

/// Passes on what happens to the caller while its verb runs; false when it does not run any more.
#[derive(Clone)]
pub(super) struct Interrupter(Sender<Event>);

impl Interrupter {
    pub(super) fn signal(&self, signal: i32) -> bool {
        self.0.send(Event::Signal(signal)).is_ok()
    }

    /// Stops it, and returns when it has been told. Its process group is an orphaned one, in which SIGTSTP would do nothing.
    pub(super) fn stop(&self) -> bool {
        let (told, tells) = mpsc::channel();
        self.signal(SIGSTOP) && self.0.send(Event::Settle(told)).is_ok() && tells.recv().is_ok()
    }

    fn resized(&self, size: Size) -> bool {
        self.0.send(Event::Resized(size)).is_ok()
    }
}

/// Hands the signals that this process gets to the verb that runs. One that comes when the verb has ended does what it does by default.
fn forward_signals(verb: Interrupter) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            let told = match signal {
                SIGWINCH => terminal::size().is_none_or(|size| verb.resized(size)),
                SIGTSTP => {
                    // The verb rests while its caller does.
                    let told = verb.stop();
                    console::terminal::stop();
                    told
                }
                SIGCONT => {
                    console::terminal::resume();
                    verb.signal(SIGCONT)
                }
                _ => verb.signal(signal),
            };
            if !told {
                let _ = emulate_default_handler(signal);
            }
        }
    });
    Ok(())
}

impl Session {
    /// Runs a verb to its end.
    pub fn run(&self, request: &Request, streams: Streams) -> Result<Ended, Error> {
        self.start(Prepared::new(request)?, streams)?.wait()
    }

    /// Starts a verb, and the threads that serve it.
    pub(super) fn start(&self, prepared: Prepared, streams: Streams) -> Result<Running, Error> {
        let (events, inbox) = mpsc::channel();
        let told = events.clone();
        let verb = Arc::new(self.verb(Box::new(move |word| drop(told.send(Event::Told(word)))))?);
        let files = {
            let (verb, events) = (Arc::clone(&verb), events.clone());
            let mut carrier = Some(Carrier::new(&prepared.start.outputs));
            Sink::new(move |step: FileOp| {
                let length = step.length();
                if let Some(writing) = &mut carrier
                    && let Err(error) = writing.step(step)
                {
                    let _ = events.send(Event::Broken(error));
                    carrier = None;
                }
                if length > 0 {
                    verb.send(ToAgent::Credit(Channel::Files, length));
                }
            })
        };
        let running = Running {
            stdout: print(&verb, Channel::Stdout, streams.stdout),
            stderr: print(&verb, Channel::Stderr, streams.stderr),
            windows: Arc::new(Windows {
                stdin: Window::new(),
                contents: Window::new(),
            }),
            stdin: prepared.start.stdin.then_some(streams.stdin),
            contents: prepared.contents,
            terminal: None,
            entrance: None,
            door: None,
            verb,
            events,
            inbox,
            files,
        };
        running.verb.send(ToAgent::Start(Box::new(prepared.start)));
        Ok(running)
    }

    /// The same on behalf of this whole process: its signals are the verb's.
    pub(super) fn run_for_process(
        &self,
        prepared: Prepared,
        console: Option<Console>,
        debuggers: Option<Entrance>,
    ) -> Result<Ended, Error> {
        let shell = prepared.start.terminal.is_some();
        let streams = match &console {
            Some(console) => Streams::with(console)?,
            None => Streams::own(),
        };
        let mut running = self.start(prepared, streams)?;
        forward_signals(running.interrupter()).map_err(Error::Signals)?;
        running.entrance = debuggers;
        running.terminal = match &console {
            Some(console) => console.attach()?,
            None if shell => Some(Attached::bare()?),
            None => None,
        };
        let ended = running.wait();
        if let Some(console) = console {
            console.finish();
        }
        ended
    }
}

/// A request with all that is known about it before a lab is there.
pub(super) struct Prepared {
    pub(super) start: Start,
    pub(super) contents: Contents,
}

impl Prepared {
    pub(super) fn new(request: &Request) -> Result<Self, Error> {
        match request {
            Request::Verb(args, needs) => {
                let cwd = env::current_dir().map_err(Error::Folder)?;
                let program = env::current_exe().map_err(Error::Program)?;
                Self::verb(args, needs, &cwd, &program)
            }
            Request::Shell(args) => Ok(Self::shell(args)),
        }
    }

    pub(super) fn verb(
        args: &[OsString],
        needs: &Needs,
        cwd: &Path,
        program: &Path,
    ) -> Result<Self, Error> {
        let mut survey = Survey::new(cwd, program, &needs.inputs, &needs.outputs)?;
        let start = Start {
            program: Program::Vmm(program.into()),
            args: args.to_vec(),
            env: environment(),
            cwd: cwd.into(),
            umask: own_umask(),
            stdin: needs.stdin,
            terminal: None,
            debugger: needs.debugger,
            memory: memory::of_verb(needs.memory, survey.length()),
            outputs: std::mem::take(&mut survey.outputs),
            nodes: Vec::new(),
        };
        let contents = std::mem::take(&mut survey.contents);
        Ok(Self {
            start: Start {
                nodes: survey.into_nodes(),
                ..start
            },
            contents,
        })
    }

    fn shell(args: &[OsString]) -> Self {
        const BUSYBOX: &str = "/bin/busybox";
        let terminal = if args.is_empty() {
            terminal::size()
        } else {
            None
        };
        let command = if args.is_empty() {
            &[OsString::from("sh")]
        } else {
            args
        };
        let start = Start {
            program: Program::Lab(BUSYBOX.into()),
            args: [OsString::from("busybox")]
                .iter()
                .chain(command)
                .cloned()
                .collect(),
            env: environment(),
            cwd: "/".into(),
            umask: own_umask(),
            stdin: true,
            terminal,
            debugger: false,
            memory: memory::of_verb(0, 0),
            nodes: Vec::new(),
            outputs: Vec::new(),
        };
        Self {
            start,
            contents: Contents::new(),
        }
    }
}

/// What a verb gets of the caller's environment, and what tells it where it is.
fn environment() -> Vec<(OsString, OsString)> {
    const PASSED: [&str; 7] = [
        "COLUMNS",
        "LANG",
        "LINES",
        "NO_COLOR",
        "RUST_BACKTRACE",
        "TERM",
        "VMM_LOG",
    ];
    let passed = PASSED
        .iter()
        .filter_map(|name| Some((OsString::from(name), env::var_os(name)?)));
    let mut environment: Vec<_> = passed.collect();
    environment.push((INSIDE.into(), "1".into()));
    environment.push(("PATH".into(), "/bin:/sbin".into()));
    let streams = [
        ("stdin", io::stdin().is_terminal()),
        ("stdout", io::stdout().is_terminal()),
        ("stderr", io::stderr().is_terminal()),
    ];
    let terminals: Vec<&str> = streams
        .into_iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| name)
        .collect();
    environment.push((TERMINALS.into(), terminals.join(",").into()));
    environment
}

/// umask(2) can only be read by setting it, which other threads would notice; /proc has it too, since Linux 4.7.
fn own_umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let octal = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    octal
        .and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok())
        .unwrap_or(0o022)
}

/// A verb in the lab and the threads that serve it here.
pub(super) struct Running {
    verb: Arc<Verb>,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    contents: Contents,
    stdin: Option<Box<dyn Read + Send>>,
    windows: Arc<Windows>,
    stdout: Sink<Vec<u8>>,
    stderr: Sink<Vec<u8>>,
    files: Sink<FileOp>,
    terminal: Option<Attached>,
    /// Where debuggers come in when the verb answers them.
    entrance: Option<Entrance>,
    door: Option<Door>,
}

struct Windows {
    stdin: Window,
    contents: Window,
}

/// A thread that writes what it is given.
struct Sink<T> {
    given: Sender<T>,
    thread: JoinHandle<()>,
}

impl<T: Send + 'static> Sink<T> {
    fn new(mut write: impl FnMut(T) + Send + 'static) -> Self {
        let (given, inbox) = mpsc::channel();
        let thread = thread::spawn(move || inbox.into_iter().for_each(&mut write));
        Self { given, thread }
    }

    fn give(&self, item: T) {
        // The thread takes until nobody gives.
        let _ = self.given.send(item);
    }

    fn finish(self) {
        drop(self.given);
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

impl Running {
    /// By which signals reach it from another thread.
    pub(super) fn interrupter(&self) -> Interrupter {
        Interrupter(self.events.clone())
    }

    /// Attends the verb to its end and writes out all that has come by then, also when the lab was lost.
    pub(super) fn wait(mut self) -> Result<Ended, Error> {
        let ended = self.attend();
        self.terminal = None;
        self.door = None;
        // Without a receiver signals do what they do by default: whoever waits for a stuck reader of our output can end that.
        drop(self.inbox);
        self.windows.stdin.close();
        self.windows.contents.close();
        self.stdout.finish();
        self.stderr.finish();
        self.files.finish();
        ended
    }

    fn attend(&mut self) -> Result<Ended, Error> {
        let mut asked: Option<(i32, Instant)> = None;
        loop {
            let event = match asked {
                None => self
                    .inbox
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                Some((_, until)) => self
                    .inbox
                    .recv_timeout(until.saturating_duration_since(Instant::now())),
            };
            match (event, asked) {
                (Err(_), asked) => {
                    let signal = asked.map_or(SIGTERM, |(signal, _)| signal);
                    return Err(Error::Stubborn {
                        signal,
                        seconds: TO_END.as_secs(),
                    });
                }
                (Ok(Event::Signal(signal @ (SIGINT | SIGTERM | SIGHUP | SIGQUIT))), Some(_)) => {
                    return Err(Error::Killed { signal });
                }
                (Ok(Event::Signal(signal)), _) => {
                    if !matches!(signal, SIGSTOP | SIGCONT) {
                        asked = Some((signal, Instant::now() + TO_END));
                    }
                    self.verb.send(ToAgent::Signal(signal));
                }
                (Ok(Event::Resized(size)), _) => self.verb.send(ToAgent::Resize(size)),
                (Ok(Event::Settle(settled)), _) => {
                    self.verb.settle();
                    let _ = settled.send(());
                }
                (Ok(Event::Broken(error)), _) => return Err(error),
                (Ok(Event::Told(Told::Lost(why))), _) => return Err(Error::Lost { why }),
                (Ok(Event::Told(Told::Word(word))), _) => {
                    if let Some(ended) = self.hear(word) {
                        return ended;
                    }
                }
            }
        }
    }

    fn hear(&mut self, word: ToHost) -> Option<Result<Ended, Error>> {
        match word {
            ToHost::Lacks(lacking) => self.feed(lacking),
            ToHost::Bytes(Channel::Stdout, bytes) => self.stdout.give(bytes),
            ToHost::Bytes(Channel::Stderr, bytes) => self.stderr.give(bytes),
            ToHost::File(step) => self.files.give(step),
            ToHost::Credit(Channel::Stdin, bytes) => self.windows.stdin.grant(bytes as usize),
            ToHost::Credit(Channel::Contents, bytes) => self.windows.contents.grant(bytes as usize),
            ToHost::Close(Channel::Stdin) => self.windows.stdin.close(),
            ToHost::Debuggable => {
                if let Some(entrance) = self.entrance.take() {
                    match Door::open(entrance, &self.verb) {
                        Ok(door) => self.door = Some(door),
                        Err(error) => return Some(Err(error)),
                    }
                }
            }
            ToHost::Bytes(Channel::Debugger, bytes) => self.to_debugger(Word::Bytes(bytes)),
            ToHost::Close(Channel::Debugger) => self.to_debugger(Word::Close),
            ToHost::Credit(Channel::Debugger, bytes) => {
                if let Some(door) = &self.door {
                    door.grant(bytes);
                }
            }
            ToHost::Ended(ended) => return Some(Ok(ended)),
            ToHost::Failed(why) => return Some(Err(Error::Failed { why })),
            ToHost::Bytes(..) | ToHost::Credit(..) | ToHost::Close(_) => {
                return Some(Err(Error::Nonsense("a channel that flows the other way")));
            }
        }
        None
    }

    fn to_debugger(&self, word: Word) {
        if let Some(door) = &self.door {
            door.give(word);
        }
    }

    /// Sends the contents that the lab lacks, then what comes from standard input. This thread is not waited for: it may be reading a
    /// terminal on which nobody types.
    fn feed(&mut self, lacking: Vec<Hash>) {
        let contents: Vec<_> = lacking
            .into_iter()
            .map(|hash| (hash, self.contents.remove(&hash)))
            .collect();
        let (verb, events) = (Arc::downgrade(&self.verb), self.events.clone());
        let windows = Arc::clone(&self.windows);
        let stdin = self.stdin.take();
        let send = move |message| verb.upgrade().map(|verb| verb.send(message));
        thread::spawn(move || {
            for (hash, content) in contents {
                let sent = match content {
                    Some((path, length)) => {
                        Checked::open(&path, length, hash).and_then(|mut content| {
                            send_content(&mut content, &windows.contents, &send)
                        })
                    }
                    None => Err(Error::Nonsense("a content that the verb does not have")),
                };
                if let Err(error) = sent {
                    let _ = events.send(Event::Broken(error));
                    return;
                }
            }
            send(ToAgent::Close(Channel::Contents));
            let Some(mut stdin) = stdin else { return };
            while let Some(most) = windows.stdin.take(CHUNK) {
                let mut bytes = vec![0; most];
                let count = stdin.read(&mut bytes).unwrap_or(0);
                if count == 0 {
                    send(ToAgent::Close(Channel::Stdin));
                    return;
                }
                windows.stdin.grant(most - count);
                bytes.truncate(count);
                send(ToAgent::Bytes(Channel::Stdin, bytes));
            }
        });
    }
}

fn send_content(
    content: &mut Checked,
    window: &Window,
    send: &impl Fn(ToAgent) -> Option<()>,
) -> Result<(), Error> {
    while let Some(most) = window.take(CHUNK) {
        let mut bytes = vec![0; most];
        let count = content.read(&mut bytes)?;
        window.grant(most - count);
        if count == 0 {
            break;
        }
        bytes.truncate(count);
        send(ToAgent::Bytes(Channel::Contents, bytes));
    }
    Ok(())
}

/// Prints what comes; when nobody reads it any more, the verb finds its end of the pipe broken, as it would here.
fn print(verb: &Arc<Verb>, channel: Channel, mut to: Box<dyn Write + Send>) -> Sink<Vec<u8>> {
    let verb = Arc::clone(verb);
    let mut broken = false;
    Sink::new(move |bytes: Vec<u8>| {
        if broken {
            return;
        }
        match to.write_all(&bytes).and_then(|()| to.flush()) {
            Ok(()) => verb.send(ToAgent::Credit(channel, bytes.len() as u32)),
            Err(error) => {
                tracing::debug!("cannot write {channel:?}: {error}");
                broken = true;
                verb.send(ToAgent::Close(channel));
            }
        }
    })
}
