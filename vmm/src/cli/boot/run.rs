//! `vmm boot` where there is KVM.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::interrupt::Interrupt;
use super::{Args, OnReset, Where};
use crate::cli::Exit;
use crate::conductor::{self, Conductor, End, Quiesced, Reason};
use crate::kvm::KvmVcpu;
use crate::machine::{self, Blob, Console, Guest, Input, Machine, Tally, Told};

/// Why a guest could not be booted.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Error {
    #[error("cannot {operation} {path}: {source}")]
    File {
        operation: &'static str,
        path: String,
        source: io::Error,
    },
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
    #[error("cannot use the standard streams as a console: {0}")]
    Stdio(io::Error),
    #[error("the console takes no more output: {0}")]
    Console(io::Error),
    #[error(transparent)]
    Machine(#[from] machine::Error),
    #[error(transparent)]
    Conductor(#[from] conductor::Error),
    #[error(transparent)]
    Kvm(#[from] crate::kvm::Error),
}

/// Boots the guest, and again after each reset that it shall survive.
pub(in crate::cli) fn run(args: &Args) -> Result<Exit, Error> {
    let guest = Guest {
        kernel: read("read kernel", &args.kernel)?,
        format: args.format,
        initrd: args
            .initrd
            .as_deref()
            .map(|path| read("read initrd", path))
            .transpose()?,
        cmdline: args.cmdline.clone(),
        memory: args.memory,
    };
    let interrupt = Interrupt::watch().map_err(Error::Signals)?;
    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let output = output(&args.console)?;
    let (strays, resets) = (Arc::new(Tally::default()), Tally::default());
    let exit = loop {
        let machine = Machine::build(
            guest.clone(),
            args.cpus,
            args.seed,
            args.dump_dtb.as_deref(),
            &strays,
        )?;
        let console = Console {
            output: output.try_clone().map_err(Error::Stdio)?,
            input: input(&args.console)?,
        };
        let exit = once(machine, console, &interrupt, deadline)?;
        match exit {
            Exit::GuestReset if args.on_reset == OnReset::Restart => match resets.add() {
                Told::Yes => eprintln!("vmm: the guest reset itself: again"),
                Told::NoLonger => eprintln!("vmm: more resets: counted, but no longer told of"),
                Told::No => {}
            },
            Exit::GuestReset => eprintln!("vmm: the guest reset itself"),
            Exit::Expected => tracing::info!("the guest powered off"),
            _ => {}
        }
        if exit != Exit::GuestReset || args.on_reset == OnReset::Stop {
            break exit;
        }
    };
    if let Some(count) = strays.untold() {
        tracing::warn!("{count} stray accesses in all");
    }
    if let Some(count) = resets.untold() {
        eprintln!("vmm: the guest reset itself {count} times in all");
    }
    Ok(exit)
}

/// One life of the guest.
fn once(
    machine: Machine,
    console: Console,
    interrupt: &Interrupt,
    deadline: Option<Instant>,
) -> Result<Exit, Error> {
    let Machine { vcpus, bus, uart } = machine;
    let conductor = Conductor::start(vcpus, &bus)?;
    let lost = conductor.stopper();
    let outlet = uart.connect(console, Box::new(move || lost.stop(Reason::ConsoleLost)))?;
    let (stopper, hurry) = (conductor.stopper(), outlet.hurry());
    let watching = interrupt.calls(Box::new(move |signal| {
        stopper.stop(Reason::Signal(signal));
        hurry();
    }));
    conductor.run();
    let end = conductor.wait(deadline);
    let exit = match end {
        Some(End::PowerOff) => Ok(Exit::Expected),
        Some(End::Reset) => Ok(Exit::GuestReset),
        Some(End::Asked(Reason::Signal(signal))) => Ok(Exit::Signal(signal)),
        // Why is what the console's end says below.
        Some(End::Asked(Reason::ConsoleLost) | End::Panicked) => Ok(Exit::HostOrUsage),
        Some(End::Failed { error, .. }) => Err(error.into()),
        None => {
            report_standings(&conductor.quiesce());
            Ok(Exit::TimedOut)
        }
    };
    conductor.finish();
    let written = outlet.finish();
    drop(watching);
    written.map_err(Error::Console)?;
    exit
}

fn report_standings(quiesced: &Quiesced<'_, KvmVcpu>) {
    eprintln!("vmm: the guest had not ended when its time was up (--timeout); its vCPUs:");
    for (index, standing) in quiesced.standings().into_iter().enumerate() {
        match standing {
            Some(Ok(standing)) => eprintln!("vmm:   vCPU {index}: {standing}"),
            Some(Err(error)) => eprintln!("vmm:   vCPU {index}: {error}"),
            None => eprintln!("vmm:   vCPU {index}: its thread is gone"),
        }
    }
}

fn read(operation: &'static str, path: &Path) -> Result<Blob, Error> {
    let name = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => Ok(Blob { name, bytes }),
        Err(source) => Err(Error::File {
            operation,
            path: name,
            source,
        }),
    }
}

fn output(console: &Where) -> Result<File, Error> {
    match console {
        Where::Stdio => duplicate(&io::stdout()),
        Where::File(path) => File::create(path).map_err(|source| Error::File {
            operation: "create console file",
            path: path.display().to_string(),
            source,
        }),
    }
}

fn input(console: &Where) -> Result<Option<Input>, Error> {
    match console {
        Where::Stdio => duplicate(&io::stdin()).map(|file| {
            Some(Input {
                file,
                marked: false,
            })
        }),
        Where::File(_) => Ok(None),
    }
}

fn duplicate(stream: &impl AsFd) -> Result<File, Error> {
    let fd: OwnedFd = stream.as_fd().try_clone_to_owned().map_err(Error::Stdio)?;
    Ok(File::from(fd))
}
