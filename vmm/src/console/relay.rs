//! Carries bytes between a guest and whoever is connected outside, who may come and go.
//!
//! A client that is there gets everything, at its own speed: a slow one slows the guest's console down. While nobody is there the last of
//! what the guest says is kept for the next.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::pipe::{PIPE_BUF, PipeFlags, fcntl_setpipe_size, pipe_with};

/// As much is kept of what the guest says to nobody: the last of it.
const KEPT: usize = 64 << 10;

/// As much as an unprivileged process may have a pipe hold (pipe(7), /proc/sys/fs/pipe-max-size).
const PIPE_SIZE: usize = 1 << 20;

/// A pipe that holds much: what is typed waits in it for a guest that does not read yet.
pub(super) fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // A user who has many pipes gets no more than the usual 64 KiB.
    let _ = fcntl_setpipe_size(&writer, PIPE_SIZE);
    Ok((reader.into(), writer.into()))
}

/// What `poll` calls "at once".
const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Whether the other side has been closed.
pub(super) fn hung_up(side: &impl AsFd) -> io::Result<bool> {
    let mut fd = [PollFd::new(side, PollFlags::empty())];
    poll(&mut fd, Some(&NOW))?;
    Ok(fd[0].revents().contains(PollFlags::HUP))
}

/// Where clients come from. Its files do not block.
pub(super) trait Outside: Send {
    /// Becomes readable when somebody may have come.
    fn news(&self) -> BorrowedFd<'_>;
    /// Looks who has come.
    fn look(&mut self) -> io::Result<()>;
    /// Who hears what the guest says.
    fn hearer(&self) -> Option<BorrowedFd<'_>>;
    /// It does not any more.
    fn lose_hearer(&mut self);
    /// Who types.
    fn typist(&self) -> Option<BorrowedFd<'_>>;
    /// There is no more to come from this one.
    fn lose_typist(&mut self);
    /// The run is over, and nobody may come any more.
    fn close(&mut self);
}

/// A relay at work.
#[derive(Debug)]
pub(super) struct Relay {
    thread: Option<JoinHandle<()>>,
    hurry: OwnedFd,
}

impl Relay {
    /// Starts it; it ends some time after the guest's output has ended.
    pub(super) fn start(
        outside: impl Outside + 'static,
        from_guest: File,
        to_guest: File,
    ) -> io::Result<Self> {
        let hurry = eventfd(0, EventfdFlags::CLOEXEC)?;
        let mut relaying = Relaying {
            outside,
            from_guest,
            to_guest,
            hurry: hurry.try_clone()?,
            hurried: false,
            over: false,
            said: VecDeque::new(),
            typed: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                if let Err(error) = relaying.run() {
                    tracing::warn!("the console's clients are lost: {error}");
                }
            })?;
        Ok(Self {
            thread: Some(thread),
            hurry,
        })
    }

    /// What keeps it from waiting for a client that takes nothing.
    pub(super) fn hurry(&self) -> impl Fn() + Send + use<> {
        let hurry = self.hurry.try_clone();
        move || {
            if let Ok(hurry) = &hurry {
                open(hurry);
            }
        }
    }

    /// Waits until the last words are out. The output's other end has been closed.
    pub(super) fn finish(mut self) {
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Also dropped while a panic unwinds.
            let _ = thread.join();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        open(&self.hurry);
        self.join();
    }
}

fn open(event: &OwnedFd) {
    // An eventfd takes 2^64 - 2 of these before it would block.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

struct Relaying<O> {
    outside: O,
    from_guest: File,
    to_guest: File,
    hurry: OwnedFd,
    hurried: bool,
    /// The guest says nothing more.
    over: bool,
    said: VecDeque<u8>,
    typed: Vec<u8>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    Hurry,
    Hearer,
    ToGuest,
    Typist,
    News,
    FromGuest,
}

impl<O: Outside> Relaying<O> {
    fn run(&mut self) -> io::Result<()> {
        loop {
            if self.hurried && !self.said.is_empty() {
                self.leave_behind()?;
            }
            if self.over && (self.said.is_empty() || self.outside.hearer().is_none()) {
                return Ok(());
            }
            for (source, flags) in self.wait()? {
                match source {
                    Source::Hurry => self.hurried = true,
                    Source::Hearer => self.say(flags),
                    Source::ToGuest => self.type_to_guest(),
                    Source::Typist => self.hear_typist(),
                    Source::News => self.outside.look()?,
                    Source::FromGuest => self.hear_guest()?,
                }
            }
        }
    }

    /// In a hurry, a client that takes nothing now is there no more.
    fn leave_behind(&mut self) -> io::Result<()> {
        if let Some(hearer) = self.outside.hearer() {
            let mut fd = [PollFd::from_borrowed_fd(hearer, PollFlags::OUT)];
            poll(&mut fd, Some(&NOW))?;
            if fd[0].revents().is_empty() {
                self.outside.lose_hearer();
            }
        }
        Ok(())
    }

    /// Waits for one or more of the things that can happen now.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let hearer = self.outside.hearer();
        let mut wanted = Vec::new();
        let mut want =
            |source, fd, flags| wanted.push((source, PollFd::from_borrowed_fd(fd, flags)));
        if !self.hurried {
            want(Source::Hurry, self.hurry.as_fd(), PollFlags::IN);
        }
        // Before the news: what happened to a client that has gone must not be taken for what happens to the one that comes after it.
        if let Some(hearer) = hearer {
            // Without a flag it still tells when the client has gone.
            let flags = if self.said.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            want(Source::Hearer, hearer, flags);
        }
        if !self.over {
            if !self.typed.is_empty() {
                want(Source::ToGuest, self.to_guest.as_fd(), PollFlags::OUT);
            } else if let Some(typist) = self.outside.typist() {
                want(Source::Typist, typist, PollFlags::IN);
            }
            want(Source::News, self.outside.news(), PollFlags::IN);
            if self.said.is_empty() || hearer.is_none() {
                want(Source::FromGuest, self.from_guest.as_fd(), PollFlags::IN);
            }
        }
        let (sources, mut fds): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
        loop {
            match poll(&mut fds, None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let happened = sources.into_iter().zip(fds);
        Ok(happened
            .map(|(source, fd)| (source, fd.revents()))
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    fn hear_guest(&mut self) -> io::Result<()> {
        let mut buffer = [0; PIPE_BUF];
        match rustix::io::read(&self.from_guest, &mut buffer) {
            Ok(0) => {
                self.over = true;
                self.outside.close();
            }
            Ok(count) => {
                self.said.extend(&buffer[..count]);
                if self.outside.hearer().is_none() {
                    let too_many = self.said.len().saturating_sub(KEPT);
                    self.said.drain(..too_many);
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// To the client. What it has not taken when it goes is kept for the next one.
    fn say(&mut self, flags: PollFlags) {
        let Some(hearer) = self.outside.hearer() else {
            return;
        };
        if !flags.intersects(PollFlags::HUP | PollFlags::ERR) {
            match rustix::io::write(hearer, self.said.make_contiguous()) {
                Ok(count) => drop(self.said.drain(..count)),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.outside.lose_hearer(),
            }
        } else {
            self.outside.lose_hearer();
        }
    }

    fn hear_typist(&mut self) {
        let Some(typist) = self.outside.typist() else {
            return;
        };
        let mut buffer = [0; PIPE_BUF];
        match rustix::io::read(typist, &mut buffer) {
            Ok(0) => self.outside.lose_typist(),
            Ok(count) => self.typed.extend(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A pseudo-terminal that nobody has open any more says EIO.
            Err(_) => self.outside.lose_typist(),
        }
    }

    /// A writable pipe takes `PIPE_BUF` bytes without waiting. One that nobody reads any more belongs to a run that is over.
    fn type_to_guest(&mut self) {
        match rustix::io::write(&self.to_guest, &self.typed) {
            Ok(count) => drop(self.typed.drain(..count)),
            Err(Errno::INTR) => {}
            Err(_) => self.typed.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::{KEPT, Outside, Relay, pipe};
    use crate::console::socket::Socket;
    use crate::deadline::Deadline;
    use std::fs::File;
    use std::path::{Path, PathBuf};

    /// A relay to a socket, and the guest's ends.
    struct Rig {
        folder: tempfile::TempDir,
        output: File,
        input: File,
        // Behind these: it ends when the output has ended.
        relay: Relay,
        _in_time: Deadline,
    }

    impl Rig {
        fn new() -> Self {
            Self::after(|_, _| {})
        }

        /// After something has happened that the relay will find.
        fn after(what: impl FnOnce(&mut Socket, &Path)) -> Self {
            let in_time = Deadline::set();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("console");
            let mut socket = Socket::bind(&path).unwrap();
            what(&mut socket, &path);
            let ((from_guest, output), (input, to_guest)) = (pipe().unwrap(), pipe().unwrap());
            let relay = Relay::start(socket, from_guest, to_guest).unwrap();
            Self {
                folder,
                relay,
                output,
                input,
                _in_time: in_time,
            }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("console")
        }

        fn connect(&self) -> UnixStream {
            UnixStream::connect(self.path()).unwrap()
        }

        /// The guest hears this.
        fn hears(&mut self, text: &str) {
            let mut heard = vec![0; text.len()];
            self.input.read_exact(&mut heard).unwrap();
            assert_eq!(heard, text.as_bytes());
        }
    }

    #[test]
    fn the_last_of_what_was_said_to_nobody_is_for_the_next_client() {
        let mut rig = Rig::new();
        let said: Vec<u8> = (0..4 * KEPT).map(|n| (n / 1000) as u8).collect();
        rig.output.write_all(&said).unwrap();
        // Said to nobody, too: the first client leaves before, and has been heard of when the second one is.
        let mut client = rig.connect();
        client.write_all(b"a").unwrap();
        rig.hears("a");
        let mut got = vec![0; KEPT];
        client.read_exact(&mut got).unwrap();
        rig.output.write_all(b"!").unwrap();
        let Rig { relay, output, .. } = rig;
        drop(output);
        // All of it may be for this client, and then it is more than a socket holds: the relay ends only when it has been read.
        client.read_to_end(&mut got).unwrap();
        relay.finish();
        // It may have come before all of it was said, but never gets less than the last.
        assert!(got.len() > KEPT && [&said[..], b"!"].concat().ends_with(&got));
    }

    #[test]
    fn what_a_client_typed_before_it_left_is_heard_before_what_the_next_one_types() {
        let mut rig = Rig::new();
        let mut first = rig.connect();
        first.write_all(b"first ").unwrap();
        drop(first);
        rig.hears("first ");
        let mut second = rig.connect();
        second.write_all(b"second").unwrap();
        rig.hears("second");
    }

    #[test]
    fn a_client_that_comes_as_another_goes_hears() {
        let mut second = None;
        let mut rig = Rig::after(|socket, path| {
            let first = UnixStream::connect(path).unwrap();
            socket.look().unwrap();
            drop(first);
            second = Some(UnixStream::connect(path).unwrap());
        });
        let mut second = second.unwrap();
        second.write_all(b"a").unwrap();
        rig.hears("a");
        rig.output.write_all(b"answer").unwrap();
        let mut got = [0; 6];
        second.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"answer");
    }

    #[test]
    fn a_client_that_types_no_more_still_hears() {
        let mut rig = Rig::new();
        let mut client = rig.connect();
        client.write_all(b"only").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        rig.hears("only");
        rig.output.write_all(b"answer").unwrap();
        let Rig { relay, output, .. } = rig;
        drop(output);
        relay.finish();
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert_eq!(got, "answer");
    }

    #[test]
    fn a_client_that_hears_nothing_is_left_behind_in_a_hurry_and_the_file_is_gone() {
        let mut rig = Rig::new();
        let mut client = rig.connect();
        client.write_all(b"a").unwrap();
        rig.hears("a");
        // More than its socket holds, and less than the pipe behind which the guest would wait.
        rig.output.write_all(&vec![b'x'; 512 << 10]).unwrap();
        let path = rig.path();
        let Rig { relay, output, .. } = rig;
        drop(output);
        let hurry = relay.hurry();
        hurry();
        relay.finish();
        assert!(!path.exists());
    }
}
