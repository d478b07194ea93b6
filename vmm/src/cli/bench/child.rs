//! A VMM as a child, and when it says what.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};

/// Why a child told nothing.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Error {
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: io::Error },
    #[error("within {patience} s {0}", patience = PATIENCE.as_secs())]
    Late(String),
    #[error("to its end {0}")]
    Short(String),
}

/// Longer than any guest takes here.
const PATIENCE: Duration = Duration::from_secs(180);

/// A child that runs, until this is dropped.
pub(super) struct Running {
    program: String,
    child: Child,
    output: ChildStdout,
    /// What it complains of: shown only if it matters.
    complaints: File,
    said: Vec<u8>,
    start: Instant,
}

impl Running {
    /// Starts it; its times count from here.
    pub(super) fn start(mut command: Command) -> Result<Self, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |source| Error::Run {
            program: program.clone(),
            source,
        };
        let complaints = memfd_create("complaints", MemfdFlags::CLOEXEC)
            .map(File::from)
            .map_err(|error| failed(error.into()))?;
        let stderr = complaints.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(stderr);
        let start = Instant::now();
        let mut child = command.spawn().map_err(failed)?;
        let output = child.stdout.take().expect("it is piped");
        Ok(Self {
            program,
            child,
            output,
            complaints,
            said: Vec::new(),
            start,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads on until it has said something with these words in it, and tells when that was.
    pub(super) fn until(&mut self, words: &str) -> Result<Duration, Error> {
        let mut buffer = [0; 4 << 10];
        // Each byte is looked at once only: this shares the processors with what is measured.
        let mut searched = 0;
        while self.said.is_empty() || !contains(&self.said[searched..], words) {
            searched = self.said.len().saturating_sub(words.len());
            let read = self.read(&mut buffer).map_err(|source| Error::Run {
                program: self.program.clone(),
                source,
            })?;
            match read {
                None => return Err(Error::Late(self.silence(words))),
                Some(0) => return Err(Error::Short(self.silence(words))),
                Some(read) => self.said.extend_from_slice(&buffer[..read]),
            }
        }
        Ok(self.start.elapsed())
    }

    fn silence(&mut self, words: &str) -> String {
        let (said, complaints) = (self.said(), self.complaints());
        format!(
            "{} did not say {words:?}, but\n{said}\nand complained:\n{complaints}",
            self.program,
        )
    }

    /// All that it has complained of so far.
    pub(super) fn complaints(&mut self) -> String {
        let mut complaints = Vec::new();
        let read = self
            .complaints
            .rewind()
            .and_then(|()| self.complaints.read_to_end(&mut complaints));
        match read {
            Ok(_) => String::from_utf8_lossy(&complaints).into_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Reads what there is; `None` when patience has run out.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let left = PATIENCE.saturating_sub(self.start.elapsed());
        let patience = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(
            &mut [PollFd::new(&self.output, PollFlags::IN)],
            Some(&patience),
        )? {
            0 => Ok(None),
            _ => self.output.read(buffer).map(Some),
        }
    }

    /// All that it has said so far.
    pub(super) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }
}

fn contains(said: &[u8], words: &str) -> bool {
    words.is_empty()
        || said
            .windows(words.len())
            .any(|part| part == words.as_bytes())
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and all that is wanted of it has been had.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
