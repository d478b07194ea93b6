//! The emulated arm64 machine: its process and its console.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::contents::Contents;
use super::image::Image;
use super::{Error, PROCESSORS, memory};
use crate::sys::spawn;

const PROGRAM: &str = "qemu-system-aarch64";

/// Whether the emulator is in PATH.
pub(super) fn installed() -> Result<(), Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(PROGRAM).is_file());
    if found {
        Ok(())
    } else {
        Err(Error::NoQemu { program: PROGRAM })
    }
}

/// How much of the machine's console is kept.
const TAIL: usize = 8 << 10;

/// A machine that runs. Dropping it kills it.
pub(super) struct Qemu {
    process: OwnedFd,
    console: Arc<Mutex<VecDeque<u8>>>,
    /// Lives exactly as long as the process, which the kernel ties to it.
    keeper: Option<JoinHandle<io::Result<ExitStatus>>>,
}

impl Qemu {
    /// Starts a machine in which verbs may use this much memory together and which has these contents; the stream is the other end of its
    /// agent's port.
    pub(super) fn start(
        image: &Image,
        memory: u64,
        contents: &Contents,
    ) -> Result<(Self, UnixStream), Error> {
        let initrd = image.initrd(contents)?;
        let (ours, theirs) = UnixStream::pair().map_err(Error::Start)?;
        let (console, writer) = io::pipe().map_err(Error::Start)?;
        let mut command = Command::new(PROGRAM);
        command.args(arguments(
            image,
            memory,
            initrd.as_raw_fd(),
            theirs.as_raw_fd(),
        ));
        command.stdin(Stdio::null());
        command
            .stdout(writer.try_clone().map_err(Error::Start)?)
            .stderr(writer);
        spawn::tie_to_parent(&mut command, vec![initrd, OwnedFd::from(theirs)]);
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let (started, starts) = mpsc::channel();
        let keeper = thread::Builder::new()
            .name("qemu".to_owned())
            .spawn({
                let tail = Arc::clone(&tail);
                move || {
                    let child = command.spawn();
                    // It holds our copies of the machine's ends.
                    drop(command);
                    keep(child?, console, &tail, &started)
                }
            })
            .map_err(Error::Start)?;
        match starts.recv() {
            Ok(process) => Ok((
                Self {
                    process,
                    console: tail,
                    keeper: Some(keeper),
                },
                ours,
            )),
            Err(mpsc::RecvError) => Err(match keeper.join() {
                Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                    Error::NoQemu { program: PROGRAM }
                }
                Ok(Err(error)) => Error::Start(error),
                Ok(Ok(status)) => Error::Start(io::Error::other(status.to_string())),
                Err(panic) => std::panic::resume_unwind(panic),
            }),
        }
    }

    /// Tells how the machine ended and what it last said. One whose port is closed is about to end; one that does not is killed.
    pub(super) fn end(mut self) -> String {
        let patience = Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        if let Err(error) = poll(
            &mut [PollFd::new(&self.process, PollFlags::IN)],
            Some(&patience),
        ) {
            tracing::warn!("cannot wait for QEMU: {error}");
        }
        let ended = match self.kill() {
            Some(Ok(status)) => format!("QEMU ended ({status})"),
            Some(Err(error)) => format!("QEMU is lost ({error})"),
            None => "QEMU ended".to_owned(),
        };
        let console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = console.as_slices();
        format!("{ended}{}", quote(&[front, back].concat()))
    }

    /// A process that has ended by itself keeps its own status.
    fn kill(&mut self) -> Option<io::Result<ExitStatus>> {
        let keeper = self.keeper.take()?;
        if let Err(error) = pidfd_send_signal(&self.process, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!("cannot kill QEMU: {error}");
        }
        Some(
            keeper
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Keeps the end of the console until the machine ends.
fn keep(
    mut child: Child,
    mut console: PipeReader,
    tail: &Mutex<VecDeque<u8>>,
    started: &mpsc::Sender<OwnedFd>,
) -> io::Result<ExitStatus> {
    match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(process) => drop(started.send(process)),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            return Err(error.into());
        }
    }
    let mut buffer = [0; 1 << 10];
    loop {
        let count = console.read(&mut buffer)?;
        if count == 0 {
            return child.wait();
        }
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(&buffer[..count]);
        let surplus = tail.len().saturating_sub(TAIL);
        tail.drain(..surplus);
    }
}

fn arguments(image: &Image, memory: u64, initrd: i32, port: i32) -> Vec<OsString> {
    let fixed = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "virt,virtualization=on,gic-version=3",
        // Offers no FEAT_WFxT: under a CPU model that does, KVM traps each of the guest's WFET and the guest crawls.
        "-cpu",
        "neoverse-n1",
        "-serial",
        "stdio",
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtserialport,chardev=agent",
    ];
    let mut arguments: Vec<OsString> = fixed.into_iter().map(OsString::from).collect();
    let machine = memory::of_machine(memory).div_ceil(1 << 20);
    arguments.extend(["-m".into(), format!("{machine}M").into()]);
    arguments.extend(["-smp".into(), PROCESSORS.to_string().into()]);
    // What follows the two dashes are the arguments of PID 1.
    let command_line = format!("console=ttyAMA0 quiet panic=-1 -- lab agent {memory}");
    arguments.extend(["-append".into(), command_line.into()]);
    arguments.extend([
        "-chardev".into(),
        format!("socket,id=agent,fd={port}").into(),
    ]);
    arguments.extend(["-kernel".into(), image.kernel.clone().into()]);
    arguments.extend(["-initrd".into(), format!("/proc/self/fd/{initrd}").into()]);
    arguments
}

/// The console's last lines, indented below the sentence that they belong to.
fn quote(console: &[u8]) -> String {
    const LINES: usize = 32;
    let text = String::from_utf8_lossy(console).replace(|c: char| c.is_control() && c != '\n', "");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!("; the end of its console:\n  {}", last.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_quoted_from_its_end_without_control_characters() {
        assert_eq!(quote(b"\n\n"), "");
        let console: String = (1..=40)
            .map(|line| format!("line \x1b{line}\r\n"))
            .collect();
        let quoted = quote(console.as_bytes());
        assert!(
            quoted.starts_with("; the end of its console:\n  line 9\n"),
            "{quoted}"
        );
        assert!(quoted.ends_with("\n  line 40"), "{quoted}");
    }
}
