//! Running the command as a user would.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::ioctl_fionbio;
use rustix::process::Signal;

use crate::Marked;
use crate::line::{Line, deadline, late, listen, type_into};
use crate::processes::Process;

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

    /// The same of a `vmm` that lies elsewhere, or of a program that is used with it.
    pub fn at<I, S>(program: &Path, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(program);
        let name = program.file_name().unwrap_or(program.as_os_str());
        let mut line = name.to_string_lossy().into_owned();
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
    ///
    /// # Panics
    ///
    /// When it can't be started.
    pub fn start(mut self) -> Running {
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `make vmm` builds it", self.line));
        let input = child.stdin.take().map(OwnedFd::from);
        let output = child.stdout.take().expect("it is piped");
        let errors = child.stderr.take().expect("it is piped");
        Running {
            input: input.map(|input| {
                ioctl_fionbio(&input, true).expect("a pipe of ours");
                File::from(input)
            }),
            output: Line::new(output),
            errors: Line::new(errors),
            process: Process::new(child, self.line, self.mark),
        }
    }
}

/// A command that runs. Dropped before its end, as by a test that fails, it is killed.
pub struct Running {
    process: Process,
    input: Option<File>,
    output: Line,
    errors: Line,
}

impl Running {
    /// The mark that its descendants bear.
    pub fn mark(&self) -> Marked {
        self.process.mark.clone()
    }

    /// Reads on until these words have come, behind those that were waited for before.
    ///
    /// # Panics
    ///
    /// When they do not come.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) {
        let until = deadline();
        while !self.output.finds(words) {
            let why = match () {
                () if self.output.ended() && self.errors.ended() => {
                    "before the output's end".to_owned()
                }
                () if listen(&mut [&mut self.output, &mut self.errors], None, until) => continue,
                () => late(),
            };
            panic!("{words:?} did not come {why}:\n{}", self.story());
        }
    }

    /// The same of what it says on standard error.
    ///
    /// # Panics
    ///
    /// When they do not come.
    #[track_caller]
    pub fn wait_for_complaint(&mut self, words: &str) {
        let until = deadline();
        while !self.errors.finds(words) {
            let more = !(self.output.ended() && self.errors.ended())
                && listen(&mut [&mut self.output, &mut self.errors], None, until);
            assert!(more, "{words:?} did not come:\n{}", self.story());
        }
    }

    /// What it has said so far.
    fn story(&self) -> String {
        format!(
            "$ {}\n{}\n--- stderr\n{}",
            self.process.line,
            self.output.text(),
            self.errors.text()
        )
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Types something.
    ///
    /// # Panics
    ///
    /// When it does not read its input.
    #[track_caller]
    pub fn type_in(&mut self, bytes: &[u8]) {
        let input = self.input.as_ref().expect("it has an input");
        let typed = type_into(input, bytes, &mut [&mut self.output, &mut self.errors]);
        if let Err(problem) = typed {
            panic!("{problem}:\n{}", self.story());
        }
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end, or leaves somebody behind who has its output open.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        let ended = self.process.end(&mut [&mut self.output, &mut self.errors]);
        let outcome = Outcome {
            line: self.process.line.clone(),
            code: *ended.as_ref().unwrap_or(&-1),
            stdout: self.output.text(),
            stderr: self.errors.text(),
        };
        if let Err(problem) = ended {
            panic!("{problem}:\n{}", outcome.story());
        }
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
        self.lend(Vmm::new(arguments))
    }

    /// The same of another command, of which vmm is a part.
    pub fn lend(&self, command: Vmm) -> Vmm {
        match self.serving {
            Some(_) => command.env("VMM_LAB_SOCKET", &self.socket),
            None => command,
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
