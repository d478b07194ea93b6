//! Running the command as a user would.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use wait_timeout::ChildExt;

use crate::Marked;

/// Longer than anything takes on a machine that is busy with other things: its end is a failure of the test, with all
/// that the command had said.
pub(crate) const PATIENCE: Duration = Duration::from_secs(400);

/// The top of the tree.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies in the tree").to_owned()
}

/// A command line of `vmm`, to be run.
pub struct Vmm {
    command: Command,
    line: String,
    mark: Marked,
}

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub line: String,
    /// Its exit code, or 128 and the number of the signal that killed it.
    pub code: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Outcome {
    /// All of it, for a failing test.
    pub fn story(&self) -> String {
        let Self {
            line,
            code,
            stdout,
            stderr,
        } = self;
        format!("$ {line}\n{stdout}\n--- stderr\n{stderr}\n--- exit code {code}")
    }

    /// # Panics
    ///
    /// When the exit code is another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "exit code {code} was wanted:\n{}",
            self.story()
        );
        self
    }

    /// # Panics
    ///
    /// When standard output lacks the words.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(
            self.stdout.contains(words),
            "{words:?} is not in the output:\n{}",
            self.story()
        );
        self
    }

    /// # Panics
    ///
    /// When standard error lacks the words.
    #[track_caller]
    pub fn complains(self, words: &str) -> Self {
        assert!(
            self.stderr.contains(words),
            "{words:?} is not in the complaint:\n{}",
            self.story()
        );
        self
    }
}

impl Vmm {
    /// `vmm` with these arguments and nothing on standard input.
    pub fn new<I, S>(arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self::at(&root().join("target/release/vmm"), arguments)
    }

    /// The same of a `vmm` that lies elsewhere.
    pub fn at<I, S>(program: &Path, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(program);
        let mut line = "vmm".to_owned();
        for argument in arguments {
            let argument = argument.as_ref();
            let _ = write!(line, " {}", argument.to_string_lossy());
            command.arg(argument);
        }
        let mark = Marked::fresh();
        let (name, value) = mark.variable();
        command
            .env(name, value)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            command,
            line,
            mark,
        }
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in this folder.
    pub fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Gives it a standard input that stays open.
    pub fn with_input(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// For running it in another way.
    pub(crate) fn into_parts(self) -> (Command, String, Marked) {
        (self.command, self.line, self.mark)
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome {
        self.start().end()
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `make vmm` builds it", self.line));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut complaints = child.stderr.take().expect("it is piped");
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What could be read counts.
            let _ = complaints.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Running {
            child,
            input,
            output: Some(output),
            seen: String::new(),
            stderr: Some(stderr),
            line: self.line,
            mark: self.mark,
        }
    }
}

/// A command that runs.
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<BufReader<std::process::ChildStdout>>,
    seen: String,
    stderr: Option<JoinHandle<String>>,
    line: String,
    mark: Marked,
}

impl Running {
    /// The mark that its descendants bear.
    pub fn mark(&self) -> Marked {
        self.mark.clone()
    }

    /// Reads on until a line with these words has come.
    ///
    /// # Panics
    ///
    /// When the output ends first.
    pub fn wait_for(&mut self, words: &str) {
        let output = self.output.as_mut().expect("it still runs");
        loop {
            let mut line = Vec::new();
            let read = output
                .read_until(b'\n', &mut line)
                .expect("its output can be read");
            let line = String::from_utf8_lossy(&line);
            self.seen.push_str(&line);
            if line.contains(words) {
                return;
            }
            if read == 0 {
                let complaint = self
                    .stderr
                    .take()
                    .map(|thread| thread.join().expect("reading does not panic"));
                let complaint = complaint.unwrap_or_default();
                panic!(
                    "the output of {} ended without {words:?}:\n{}\n--- stderr\n{complaint}",
                    self.line, self.seen
                );
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a process of ours takes a signal");
    }

    /// Types something.
    pub fn type_in(&mut self, bytes: &[u8]) {
        self.input
            .as_mut()
            .expect("it has an input")
            .write_all(bytes)
            .expect("it reads its input");
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Waits for its end.
    pub fn end(mut self) -> Outcome {
        let mut output = self.output.take().expect("it is read once");
        let rest = std::thread::spawn(move || {
            let mut rest = Vec::new();
            let _ = output.read_to_end(&mut rest);
            String::from_utf8_lossy(&rest).into_owned()
        });
        let status = self
            .child
            .wait_timeout(PATIENCE)
            .expect("a child can be waited for");
        let late = status.is_none();
        let status = status.unwrap_or_else(|| {
            let _ = self.child.kill();
            self.child.wait().expect("a killed child ends")
        });
        let outcome = Outcome {
            line: self.line,
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: self.seen + &rest.join().expect("reading does not panic"),
            stderr: self
                .stderr
                .expect("it is read once")
                .join()
                .expect("reading does not panic"),
        };
        assert!(
            !late,
            "it was still there after {PATIENCE:?}:\n{}",
            outcome.story()
        );
        outcome
    }
}

/// One boot of the lab for many commands; nothing where this machine has arm64 KVM.
pub struct Lab {
    serving: Option<Running>,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Lab {
    /// Starts it.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("lab");
        let native = cfg!(target_arch = "aarch64") && Path::new("/dev/kvm").exists();
        let serving = (!native).then(|| {
            let socket = socket.as_os_str();
            let serve = [
                OsStr::new("lab"),
                OsStr::new("serve"),
                OsStr::new("--socket"),
                socket,
            ];
            let mut running = Vmm::new(serve).with_input().start();
            running.wait_for(&socket.to_string_lossy());
            running
        });
        Self {
            serving,
            socket,
            _folder: folder,
        }
    }

    /// Whether there is one.
    pub fn emulated(&self) -> bool {
        self.serving.is_some()
    }

    /// A command that runs in it.
    pub fn vmm<I, S>(&self, arguments: I) -> Vmm
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let vmm = Vmm::new(arguments);
        match self.serving {
            Some(_) => vmm.env("VMM_LAB_SOCKET", &self.socket),
            None => vmm,
        }
    }

    /// A script of the shell that runs where verbs run; its `$VMM` is the command there.
    pub fn shell(&self, script: &str) -> Vmm {
        match self.serving {
            // The lab's own `vmm` is its first process (images: tools/initramfs.sh).
            Some(_) => self.vmm([
                "lab",
                "shell",
                "--",
                "sh",
                "-c",
                &format!("VMM=/init; {script}"),
            ]),
            None => Vmm::at(Path::new("/bin/sh"), ["-c", script])
                .env("VMM", root().join("target/release/vmm")),
        }
    }

    /// Ends it.
    pub fn end(self) -> Option<Outcome> {
        let mut serving = self.serving?;
        serving.end_input();
        Some(serving.end())
    }
}
