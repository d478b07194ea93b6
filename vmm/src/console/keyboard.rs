//! Reads the keys of a terminal in raw mode, and passes on what is the guest's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};
use vmm_core::console::keys::{self, Key, Keys};
use vmm_core::console::marks;

use super::Tell;

/// Read in one go. Marked it is twice as long at most, and still no more than a writable pipe takes without waiting (`PIPE_BUF`).
const MOST: usize = 2048;

/// A thread that reads the keys, until this is dropped.
#[derive(Debug)]
pub(super) struct Keyboard {
    exit: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Keyboard {
    /// What is the guest's goes into the pipe, with breaks marked.
    pub(super) fn start(mut terminal: File, mut guest: File, tell: Tell) -> io::Result<Self> {
        let exit = eventfd(0, EventfdFlags::CLOEXEC)?;
        let exits = exit.try_clone()?;
        let thread = std::thread::Builder::new()
            .name("keyboard".into())
            .spawn(move || {
                if let Err(error) = read(&mut terminal, &mut guest, &exits, tell) {
                    // A terminal that has hung up sends SIGHUP too, which ends the run.
                    tracing::debug!("the keyboard ended: {error}");
                }
            })?;
        Ok(Self {
            exit,
            thread: Some(thread),
        })
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        // An eventfd takes 2^64 - 2 of these before it would block.
        let _ = rustix::io::write(&self.exit, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // Also dropped while a panic unwinds.
            let _ = thread.join();
        }
    }
}

fn read(terminal: &mut File, guest: &mut File, exit: &OwnedFd, tell: Tell) -> io::Result<()> {
    let mut keys = Keys::default();
    let mut buffer = [0; MOST];
    while ready(terminal, PollFlags::IN, exit)? {
        let count = match terminal.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut typed = Vec::with_capacity(2 * MOST);
        for key in buffer[..count].iter().flat_map(|&byte| keys.press(byte)) {
            match key {
                Key::Byte(byte) => marks::push_byte(byte, &mut typed),
                Key::Break => typed.extend(marks::BREAK),
                // What Ctrl-C does where it is not the guest's: whoever watches for signals ends the run.
                Key::Quit => kill_process(getpid(), Signal::INT)?,
                Key::Help => tell(keys::HELP),
            }
        }
        // Only behind as much as the pipe holds (1 MiB), pasted into a guest that reads none of it, does Ctrl-A X wait here.
        for part in typed.chunks(rustix::pipe::PIPE_BUF) {
            if !ready(guest, PollFlags::OUT, exit)? {
                return Ok(());
            }
            guest.write_all(part)?;
        }
    }
    Ok(())
}

/// Waits for a file; false when the way out opened.
fn ready(file: &File, flags: PollFlags, exit: &OwnedFd) -> io::Result<bool> {
    let mut wanted = [PollFd::new(file, flags), PollFd::new(exit, PollFlags::IN)];
    loop {
        match poll(&mut wanted, None) {
            Ok(_) => return Ok(wanted[1].revents().is_empty()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
