//! `vmm boot` where there is KVM.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Args, GdbWait, OnReset};
use crate::cli::interrupt::Interrupt;
use crate::cli::{Exit, debuggers, tell};
use crate::conductor::{self, Conductor, End, Next, Quiesced, Reason, Stopper};
use crate::console::{self, Console, Where};
use crate::gdb;
use crate::kvm::KvmVcpu;
use crate::lab::caller_types;
use crate::machine::{self, Blob, Guest, Machine, PowerOff, Ram, Tally, Told};
use crate::subject::{linux, payload};
use crate::vcpu::{Owner, Traps, Vcpu as _};

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
    #[error(transparent)]
    Place(#[from] Box<linux::Error>),
}

/// Boots the guest, and again after each reset that it shall survive.
pub(in crate::cli) fn run(args: &Args) -> Result<Exit, Error> {
    let guest = read_guest(args)?;
    let console = open_console(&args.console)?;
    let place = args.gdb.as_ref();
    let debuggers = place.map(debuggers::here).transpose();
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
    debuggers: Option<&gdb::Entrance>,
    interrupt: &Interrupt,
) -> Result<Exit, Error> {
    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let placed = match debuggers {
        Some(_) => match place(args, interrupt)? {
            Ok(placed) => placed,
            Err(linux::Error::Signal(signal)) => return Ok(Exit::Signal(signal)),
            Err(error) => return Err(Box::new(error).into()),
        },
        None => None,
    };
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
        let debugging = debuggers.map(|entrance| gdb::Debugging {
            entrance,
            waits: args.gdb_wait == Some(GdbWait::Reset),
            telling: None,
        });
        let exit = once(
            args,
            machine,
            console,
            debugging,
            placed.as_ref(),
            interrupt,
            deadline,
        )?;
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
    placed: Option<&gdb::Placed>,
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
                placed,
            };
            let waits = args.gdb_wait == Some(GdbWait::Placed);
            let entry = placed.and_then(|placed| Some((placed, placed.entry?)));
            if let Some((_, entry)) = entry {
                trap_at(&conductor, entry)?;
            }
            let work = || {
                conductor.run();
                match entry {
                    Some((placed, _)) => come(&conductor, placed, waits, deadline),
                    None => conductor.wait(deadline),
                }
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

/// Has the first vCPU trapped where its kernel lies if it lies where another boot has told.
fn trap_at(conductor: &Conductor<KvmVcpu>, entry: u64) -> Result<(), Error> {
    let traps = Traps {
        breakpoints: vec![entry],
        ..Traps::default()
    };
    let trapped = conductor.on(0, move |vcpu| vcpu.trap_on(Owner::Scenario, &traps));
    trapped.transpose()?;
    Ok(())
}

/// Waits for the end, and sees the kernel come where it is expected.
fn come(
    conductor: &Conductor<KvmVcpu>,
    placed: &gdb::Placed,
    waits: bool,
    deadline: Option<Instant>,
) -> Option<End<crate::kvm::Error>> {
    // A year is for ever.
    let limit = deadline.unwrap_or_else(|| conductor.now() + Duration::from_secs(365 * 86400));
    if let Next::Trapped(vcpu, _) = conductor.next_trap(limit) {
        placed.come();
        if waits {
            conductor.show(vcpu);
        }
        // A thread that is gone has told how the run ends.
        let _ = conductor.on(vcpu, |vcpu| {
            vcpu.trap_on(Owner::Scenario, &Traps::default())
        });
        conductor.thaw(vcpu);
    }
    conductor.wait(deadline)
}

/// Boots a kernel that may move itself a first time, so that a debugger knows its symbols before the second one begins.
/// The second `Result` is of that boot.
fn place(
    args: &Args,
    interrupt: &Interrupt,
) -> Result<Result<Option<gdb::Placed>, linux::Error>, Error> {
    let guest = read_guest(args)?;
    let linux = guest.is_image();
    let waits = args.gdb_wait == Some(GdbWait::Placed);
    let stays = args
        .cmdline
        .split_whitespace()
        .any(|word| word == "nokaslr");
    if !linux && waits {
        let why = "--gdb-wait=placed is for kernels that place themselves; --gdb-wait is meant";
        return Err(Error::Debugger(why.to_owned()));
    }
    if !linux || stays && !waits {
        return Ok(Ok(None));
    }
    tell("a first boot finds where the kernel will lie");
    let watch = |stopper: Stopper<KvmVcpu>| {
        interrupt.calls(Box::new(move |signal| stopper.stop(Reason::Signal(signal))))
    };
    let placed = linux::place(guest, args.cpus, args.seed, watch);
    match &placed {
        Ok(Some(gdb::Placed { base, entry, .. })) => {
            tell(&format!(
                "it will lie {:#x} above where it was linked",
                base.offset
            ));
            if waits && entry.is_none() {
                tell("it has no symbols with it: nothing can wait at start_kernel");
            }
        }
        Ok(None) => tell("it does not say (VMCOREINFO): a debugger will not know its symbols"),
        Err(_) => {}
    }
    Ok(placed)
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
