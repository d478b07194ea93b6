//! The console: what carries bytes between the PL011 and files of the host, a thread each way.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use vmm_core::console::marks::Unmark;
use vmm_core::pl011::Symbol;

use super::uart::{Outgoing, Uart};

/// The host's ends of a console.
#[derive(Debug)]
pub struct Console {
    /// What the guest says goes here.
    pub output: File,
    /// What the guest hears comes from here, if from anywhere.
    pub input: Option<Input>,
}

/// What a guest hears.
#[derive(Debug)]
pub struct Input {
    /// Where it comes from.
    pub file: File,
    /// Whether breaks are marked in it ([`vmm_core::console::marks`]).
    pub marked: bool,
}

/// Called when the output takes no more.
pub type OnLost = Box<dyn FnOnce() + Send>;

/// What POSIX lets a pipe take in one go once it is writable (`PIPE_BUF`): more could block.
const WRITE_MOST: usize = 4096;

/// A console at work.
pub struct Outlet {
    uart: Arc<Uart>,
    writer: JoinHandle<io::Result<()>>,
    reader: Option<JoinHandle<()>>,
    exits: Arc<Exits>,
}

/// Lets the threads out of their waits on files.
#[derive(Debug)]
struct Exits {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Exits {
    fn open(event: &OwnedFd) {
        // An eventfd takes 2^64 - 2 of these before it would block.
        let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
    }
}

impl Outlet {
    pub(super) fn start(console: Console, uart: &Arc<Uart>, on_lost: OnLost) -> io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC);
        let exits = Arc::new(Exits {
            reader: event()?,
            writer: event()?,
        });
        let writer = {
            let (uart, exits, mut output) = (Arc::clone(uart), Arc::clone(&exits), console.output);
            std::thread::Builder::new()
                .name("console-out".into())
                .spawn(move || {
                    let result = write_out(&uart, &exits, &mut output);
                    if result.is_err() {
                        on_lost();
                        uart.deafen();
                    }
                    result
                })?
        };
        let mut outlet = Self {
            uart: Arc::clone(uart),
            writer,
            reader: None,
            exits,
        };
        if let Some(mut input) = console.input {
            let (uart, exits) = (Arc::clone(uart), Arc::clone(&outlet.exits));
            let reader = std::thread::Builder::new()
                .name("console-in".into())
                .spawn(move || {
                    if let Err(error) = read_in(&uart, &exits, &mut input) {
                        tracing::warn!("console input ended: {error}");
                    }
                    // Its end looks as if more were there, until it is read.
                    uart.idle();
                });
            match reader {
                Ok(reader) => outlet.reader = Some(reader),
                Err(error) => {
                    // The writer's own failure would be the lesser news.
                    let _ = outlet.finish();
                    return Err(error);
                }
            }
        }
        Ok(outlet)
    }

    /// What makes the console drop, from now on and also at the end, what can't be written at once.
    pub fn hurry(&self) -> impl Fn() + Send + use<> {
        let exits = Arc::clone(&self.exits);
        move || Exits::open(&exits.writer)
    }

    /// Writes out what is left, and ends the threads.
    pub fn finish(self) -> io::Result<()> {
        self.uart.close();
        Exits::open(&self.exits.reader);
        if let Some(reader) = self.reader {
            reader.join().expect("the console's reader does not panic");
        }
        self.writer
            .join()
            .expect("the console's writer does not panic")
    }
}

/// Waits until the file is ready. False when the way out opened first, or patience ran out.
fn ready(
    file: &File,
    flags: PollFlags,
    exit: Option<&OwnedFd>,
    patience: Option<&Timespec>,
) -> io::Result<bool> {
    let mut wanted = vec![PollFd::from_borrowed_fd(file.as_fd(), flags)];
    wanted.extend(exit.map(|exit| PollFd::new(exit, PollFlags::IN)));
    loop {
        match poll(&mut wanted, patience) {
            Ok(_) => {
                let out = wanted.get(1).is_some_and(|exit| !exit.revents().is_empty());
                return Ok(!wanted[0].revents().is_empty() && !out);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What `poll` calls "at once".
const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

fn write_out(uart: &Uart, exits: &Exits, output: &mut File) -> io::Result<()> {
    while let Outgoing::Bytes(bytes) = uart.take() {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // Once the way out is open, only what can be written without waiting is written.
            if !ready(output, PollFlags::OUT, Some(&exits.writer), None)?
                && !ready(output, PollFlags::OUT, None, Some(&NOW))?
            {
                uart.deafen();
                return Ok(());
            }
            let chunk = &rest[..rest.len().min(WRITE_MOST)];
            match output.write(chunk) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// The end of the input is not the end of the run: there is nothing more to hear, that is all.
fn read_in(uart: &Uart, exits: &Exits, input: &mut Input) -> io::Result<()> {
    let mut buffer = [0; 64];
    let mut marks = Unmark::default();
    loop {
        // No more is taken out of the file than the guest takes now: what is left when the guest resets itself is for its next life.
        if !ready(&input.file, PollFlags::IN, Some(&exits.reader), None)? {
            return Ok(());
        }
        let room = uart.room().min(buffer.len());
        if room == 0 {
            return Ok(());
        }
        match input.file.read(&mut buffer[..room]) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                let bytes = buffer[..read].iter().copied();
                if input.marked {
                    uart.receive(bytes.filter_map(|byte| marks.next(byte)));
                } else {
                    uart.receive(bytes.map(Symbol::Byte));
                }
                if !ready(&input.file, PollFlags::IN, None, Some(&NOW))? {
                    uart.idle();
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Write};
    use std::os::fd::OwnedFd;
    use std::sync::{Arc, mpsc};

    use vmm_core::pl011::spec::{Interrupt, LineControl, Register};

    use super::{Console, Input};
    use crate::deadline::Deadline;
    use crate::machine::uart::Uart;
    use crate::vcpu::Width;

    /// What Linux does, which waits for the receive timeout when fewer characters than the FIFO's level have come.
    #[test]
    fn the_guest_is_told_of_the_last_characters_before_the_end_of_the_input() {
        let _in_time = Deadline::set();
        let (levels, level) = mpsc::channel();
        let uart = Arc::new(Uart::new(Box::new(move |up| levels.send(up).unwrap())));
        for (register, value) in [
            (Register::LcrH, LineControl::FEN.bits()),
            (Register::Imsc, (Interrupt::RX | Interrupt::RT).bits()),
        ] {
            uart.write(register.offset(), Width::Word, value.into());
        }
        let (input, mut typed) = io::pipe().unwrap();
        typed.write_all(b"bye").unwrap();
        drop(typed);
        let console = Console {
            output: File::create("/dev/null").unwrap(),
            input: Some(Input {
                file: OwnedFd::from(input).into(),
                marked: false,
            }),
        };
        let outlet = uart.connect(console, Box::new(|| {})).expect("two threads");
        assert!(level.recv().unwrap());
        let heard = [(); 3].map(|()| uart.read(Register::Dr.offset(), Width::Word) as u8);
        assert_eq!(&heard, b"bye");
        outlet.finish().unwrap();
    }
}
