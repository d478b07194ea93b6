//! `vmm boot` where there is KVM.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Args, OnReset};
use crate::cli::interrupt::Interrupt;
use crate::cli::{Exit, debuggers, tell};
use crate::conductor::{self, Conductor, End, Quiesced, Reason};
use crate::console::{self, Console, Where};
use crate::gdb;
use crate::kvm::KvmVcpu;
use crate::lab::caller_types;
use crate::machine::{self, Blob, Guest, Machine, PowerOff, Ram, Tally, Told};
use crate::subject::{linux, payload};

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
    #[error(transparent)]
    Console(#[from] console::Error),
    #[error("the console takes no more output: {0}")]
    ConsoleLost(io::Error),
    #[error(transparent)]
    Machine(#[from] machine::Error),
    #[error(transparent)]
    Conductor(#[from] conductor::Error),
    #[error(transparent)]
    Kvm(#[from] crate::kvm::Error),
    #[error("{0}")]
    Debugger(String),
    #[error(transparent)]
    Serve(#[from] gdb::ServeError),
}

/// Boots the guest, and again after each reset that it shall survive.
pub(in crate::cli) fn run(args: &Args) -> Result<Exit, Error> {
    let guest = read_guest(args)?;
    let console = open_console(&args.console)?;
    let place = args.gdb.as_ref();
    let debuggers = place.map(debuggers::open).transpose();
    let debuggers = debuggers.map_err(Error::Debugger)?;
    let interrupt = Interrupt::watch().map_err(Error::Signals)?;
    let attached = console.attach()?;
    let end = lives(args, guest, &console, debuggers.as_ref(), &interrupt);
    drop(attached);
    // A client may take its time with the last words, but not longer than the person who started all this.
    let hurry = console.hurry();
    let _watching = interrupt.calls(Box::new(move |_| hurry()));
    console.finish();
    end
}

/// Where the guest's console goes. In the lab its terminal or listener is at the caller, and here are streams to it.
fn open_console(place: &Where) -> Result<Console, console::Error> {
    match caller_types() {
        Some(typed) if !matches!(place, Where::File(_)) => {
            Console::streams(typed && *place == Where::Stdio, tell)
        }
        _ => Console::open(place, tell),
    }
}

fn lives(
    args: &Args,
    mut guest: Guest,
    console: &Console,
    debuggers: Option<&gdb::Listener>,
    interrupt: &Interrupt,
) -> Result<Exit, Error> {
    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (strays, resets) = (Arc::new(Tally::default()), Tally::default());
    let exit = loop {
        let machine = Machine::build(
            guest,
            args.cpus,
            args.seed,
            args.dump_dtb.as_deref(),
            PowerOff::InKvm,
            &strays,
        )?;
        let debugging = debuggers.map(|listener| gdb::Debugging {
            listener,
            waits: args.gdb_wait,
            telling: None,
        });
        let exit = once(args, machine, console, debugging, interrupt, deadline)?;
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
        // While the guest runs its files are not held: they are larger than all else that this process needs.
        guest = read_guest(args)?;
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
    args: &Args,
    machine: Machine,
    console: &Console,
    debugging: Option<gdb::Debugging<'_>>,
    interrupt: &Interrupt,
    deadline: Option<Instant>,
) -> Result<Exit, Error> {
    let ends = machine::Console {
        output: console.output().map_err(console::Error::from)?,
        input: console.input().map_err(console::Error::from)?.map(|input| {
            let console::Input { file, marked } = input;
            machine::Input { file, marked }
        }),
    };
    let Machine {
        vcpus,
        bus,
        uart,
        memory,
        gic,
        mpidrs,
        clock,
        ..
    } = machine;
    let conductor = Conductor::start(vcpus, &bus)?;
    let lost = conductor.stopper();
    let outlet = uart.connect(ends, Box::new(move || lost.stop(Reason::ConsoleLost)))?;
    let (stopper, hurry, hurry_clients) = (conductor.stopper(), outlet.hurry(), console.hurry());
    let watching = interrupt.calls(Box::new(move |signal| {
        stopper.stop(Reason::Signal(signal));
        hurry();
        hurry_clients();
    }));
    let end = match debugging {
        None => {
            conductor.run();
            conductor.wait(deadline)
        }
        Some(debugging) => {
            let ram = Ram(memory);
            let around = gdb::Surroundings {
                insight: insight(args, &ram, mpidrs.len())?,
                ram,
                gic,
                mpidrs,
                clock,
            };
            let work = || {
                conductor.run();
                conductor.wait(deadline)
            };
            debugging.serve(&conductor, around, work)?
        }
    };
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
    written.map_err(Error::ConsoleLost)?;
    exit
}

/// Who knows what the guest's memory says of its stop path: the payload is an ELF file, all else is a kernel.
fn insight(args: &Args, ram: &Ram, cpus: usize) -> Result<Box<dyn gdb::Insight>, Error> {
    let cpus = cpus as u16;
    let kernel = read("read kernel", &args.kernel)?;
    Ok(match payload::Image::read(&args.kernel, &kernel.bytes) {
        Ok(image) => Box::new(payload::Insight::new(image, ram.clone(), cpus)),
        Err(_) => Box::new(linux::Insight::new(ram.clone(), cpus, None)),
    })
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

fn read_guest(args: &Args) -> Result<Guest, Error> {
    Ok(Guest {
        kernel: read("read kernel", &args.kernel)?,
        format: args.format,
        initrd: args
            .initrd
            .as_deref()
            .map(|path| read("read initrd", path))
            .transpose()?,
        cmdline: args.cmdline.clone(),
        memory: args.memory,
        ramoops: false,
    })
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
