//! Reading and typing, with an end to every wait.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};

/// Longer than anything takes on a machine that is busy with other things: its end is a failure of the test, with all
/// that was seen.
const PATIENCE: Duration = Duration::from_secs(400);

/// The end of a wait that begins now.
pub(crate) fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// For the message of a wait that came to that end.
pub(crate) fn late() -> String {
    format!("within {} s", PATIENCE.as_secs())
}

/// Something that is read, and perhaps typed into, with a memory of what came: a terminal, a socket, an end of a pipe.
pub struct Line {
    file: File,
    seen: Vec<u8>,
    /// How much of that has been waited for.
    past: usize,
    ended: bool,
}

impl Line {
    /// The file is nobody else's: from here on it does not block.
    ///
    /// # Panics
    ///
    /// When it can't be told not to.
    pub fn new(file: impl Into<OwnedFd>) -> Self {
        let file = file.into();
        ioctl_fionbio(&file, true).expect("a descriptor of ours");
        Self {
            file: file.into(),
            seen: Vec::new(),
            past: 0,
            ended: false,
        }
    }

    /// All that came.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Whether the other side is gone.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// The file, for asking and setting what it has beside bytes.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether these words have come, behind those that were found before.
    pub(crate) fn finds(&mut self, words: &str) -> bool {
        let rest = &self.seen[self.past..];
        let found = rest
            .windows(words.len())
            .position(|at| at == words.as_bytes());
        self.past += found.map_or(0, |at| at + words.len());
        found.is_some()
    }

    /// Reads until these words have come, behind those that were waited for before.
    ///
    /// # Panics
    ///
    /// When they do not come.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) {
        let until = deadline();
        while !self.finds(words) {
            let why = match () {
                () if self.ended => "before the other side was gone".to_owned(),
                () if listen(&mut [self], None, until) => continue,
                () => late(),
            };
            panic!("{words:?} did not come {why}:\n{}", self.text());
        }
    }

    /// Reads until the other side is gone; all that came.
    ///
    /// # Panics
    ///
    /// When it stays.
    #[track_caller]
    pub fn to_its_end(&mut self) -> String {
        let until = deadline();
        while !self.ended {
            let more = listen(&mut [self], None, until);
            assert!(more, "there was no end {}:\n{}", late(), self.text());
        }
        self.text()
    }

    /// Types something.
    ///
    /// # Panics
    ///
    /// When nobody takes it.
    #[track_caller]
    pub fn type_in(&mut self, bytes: &[u8]) {
        let typed = self.file.try_clone().expect("descriptors are left");
        if let Err(problem) = type_into(&typed, bytes, &mut [self]) {
            panic!("{problem}:\n{}", self.text());
        }
    }

    /// Takes what is there.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        match self.file.read(&mut buffer) {
            Ok(count) => {
                self.seen.extend(&buffer[..count]);
                self.ended = count == 0;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A terminal whose other side is closed says EIO.
            Err(_) => self.ended = true,
        }
    }
}

/// Reads what comes on these lines until something has come or ended, or what else is waited for has happened: the caller
/// looks what it was. False when nothing did before the deadline.
pub(crate) fn listen(lines: &mut [&mut Line], also: Option<PollFd<'_>>, until: Instant) -> bool {
    let open: Vec<_> = (0..lines.len()).filter(|&at| !lines[at].ended).collect();
    let mut wanted: Vec<_> = open
        .iter()
        .map(|&at| PollFd::new(&lines[at].file, PollFlags::IN))
        .chain(also)
        .collect();
    let happened = loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("some minutes");
        match poll(&mut wanted, Some(&left)) {
            Ok(count) => break count > 0,
            Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    };
    let ready: Vec<_> = open
        .iter()
        .zip(&wanted)
        .filter(|(_, fd)| !fd.revents().is_empty())
        .map(|(&at, _)| at)
        .collect();
    for at in ready {
        lines[at].read();
    }
    happened
}

/// Types into a file that does not block, and reads meanwhile what comes: whoever types and does not read may wait for
/// somebody who waits to be read.
pub(crate) fn type_into(
    mut file: &File,
    bytes: &[u8],
    lines: &mut [&mut Line],
) -> Result<(), String> {
    let until = deadline();
    let mut rest = bytes;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !listen(lines, Some(PollFd::new(file, PollFlags::OUT)), until) {
                    let taken = bytes.len() - rest.len();
                    return Err(format!(
                        "{taken} of {} bytes were taken {}",
                        bytes.len(),
                        late()
                    ));
                }
            }
            Err(error) => return Err(format!("nobody takes what is typed ({error})")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::{Line, listen};

    #[test]
    fn words_are_found_in_their_order_and_only_once() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut line = Line::new(ours);
        theirs.write_all(b"one two ").unwrap();
        line.wait_for("one");
        theirs.write_all(b"one").unwrap();
        drop(theirs);
        line.wait_for("one");
        assert_eq!(line.to_its_end(), "one two one");
        assert!(!line.finds("one"));
    }

    #[test]
    fn more_is_typed_than_anybody_has_taken_yet() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let mut line = Line::new(ours);
        let echo = std::thread::spawn(move || {
            let (mut from, mut to) = (&theirs, &theirs);
            std::io::copy(&mut from, &mut to).unwrap()
        });
        let much = "0123456789".repeat(100_000);
        line.type_in(much.as_bytes());
        line.type_in(b"end");
        line.wait_for("end");
        assert_eq!(line.text().len(), much.len() + 3);
        drop(line);
        assert_eq!(echo.join().unwrap(), much.len() as u64 + 3);
    }

    #[test]
    fn a_wait_ends_with_its_deadline_and_with_the_other_side() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let mut line = Line::new(ours);
        assert!(!listen(&mut [&mut line], None, Instant::now()));
        drop(theirs);
        let gone = std::panic::catch_unwind(move || line.wait_for("words")).unwrap_err();
        let message = gone.downcast::<String>().unwrap();
        assert!(
            message.contains("before the other side was gone"),
            "{message}"
        );
    }
}
