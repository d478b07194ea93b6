//! `vmm boot` where there is KVM.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};
use vmm_core::arm::{Mpidr, PhysicalAddress};
use vmm_core::inspect::{Memory, OutsideOfRam};

use super::{Args, OnReset};
use crate::cli::interrupt::Interrupt;
use crate::cli::{Exit, listen_for_debuggers, tell};
use crate::conductor::{self, Conductor, End, Quiesced, Reason};
use crate::console::{self, Console, Where};
use crate::gdb;
use crate::kvm::{Clock, Gic, KvmVcpu, debug_registers};
use crate::lab::{caller_types, lent_listener};
use crate::machine::{self, Blob, Guest, Machine, PowerOff, Tally, Told};

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
}

/// Boots the guest, and again after each reset that it shall survive.
pub(in crate::cli) fn run(args: &Args) -> Result<Exit, Error> {
    let guest = read_guest(args)?;
    let console = open_console(&args.console)?;
    let debuggers = open_to_debuggers(args)?;
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

/// Where debuggers come in. In the lab those who connect at the caller come to a socket that this process was given.
fn open_to_debuggers(args: &Args) -> Result<Option<gdb::Listener>, Error> {
    let Some(place) = &args.gdb else {
        return Ok(None);
    };
    let listener = match lent_listener() {
        Some(listener) => gdb::Listener::Lent(listener),
        None => listen_for_debuggers(place).map_err(Error::Debugger)?,
    };
    Ok(Some(listener))
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
        let debugging = debuggers.map(|listener| Debugging {
            listener,
            wait: args.gdb_wait,
        });
        let exit = once(machine, console, debugging, interrupt, deadline)?;
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

/// How debuggers come to the guest.
struct Debugging<'l> {
    listener: &'l gdb::Listener,
    /// Nothing runs before one of them says so.
    wait: bool,
}

/// What of the machine a debugger sees beside its vCPUs.
struct Surroundings {
    memory: Mapped,
    gic: Gic,
    mpidrs: Vec<Mpidr>,
    time: Mutex<Time>,
}

/// The guest's counter.
struct Time {
    clock: Clock,
    /// What it read when it was stopped.
    stopped: Option<u64>,
}

impl Surroundings {
    fn time(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl gdb::Around for Surroundings {
    fn ram(&self) -> &dyn gdb::Ram {
        &self.memory
    }

    fn stop_time(&self) {
        let mut time = self.time();
        if time.stopped.is_none() {
            time.stopped = time.clock.now();
        }
    }

    fn start_time(&self) {
        let mut time = self.time();
        if let Some(counter) = time.stopped.take()
            && let Err(error) = time.clock.set(counter)
        {
            tracing::debug!("the guest's counter could not be stopped: {error}");
        }
    }

    fn interrupts(&self, cpu: usize) -> Result<(u32, u32), String> {
        let told = self.gic.interrupts(self.mpidrs[cpu]);
        told.map(|interrupts| (interrupts.pending, interrupts.active))
            .map_err(|error| error.to_string())
    }

    fn interface(&self, cpu: usize) -> Result<(u8, u8), String> {
        let told = self.gic.interface(self.mpidrs[cpu]);
        told.map(|interface| (interface.mask, interface.running))
            .map_err(|error| error.to_string())
    }
}

/// The guest's memory, under which its code runs.
struct Mapped(Arc<GuestMemoryMmap>);

impl Memory for Mapped {
    fn read(&self, at: PhysicalAddress, into: &mut [u8]) -> Result<(), OutsideOfRam> {
        let bytes = into.len();
        self.0
            .read_slice(into, GuestAddress(at.0))
            .map_err(|_| OutsideOfRam { at, bytes })
    }

    fn ram(&self) -> Vec<Range<PhysicalAddress>> {
        let range = |region: &GuestRegionMmap| {
            let start = region.start_addr().0;
            PhysicalAddress(start)..PhysicalAddress(start + region.len())
        };
        self.0.iter().map(range).collect()
    }
}

impl gdb::Ram for Mapped {
    fn write(&self, at: PhysicalAddress, bytes: &[u8]) -> Result<(), OutsideOfRam> {
        let outside = OutsideOfRam {
            at,
            bytes: bytes.len(),
        };
        let slice = self.0.get_slice(GuestAddress(at.0), bytes.len());
        let slice = slice.map_err(|_| outside)?;
        slice.copy_from(bytes);
        crate::kvm::make_visible(&slice);
        Ok(())
    }
}

/// One life of the guest.
fn once(
    machine: Machine,
    console: &Console,
    debugging: Option<Debugging<'_>>,
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
            let around = Surroundings {
                memory: Mapped(memory),
                gic,
                mpidrs,
                time: Mutex::new(Time {
                    clock,
                    stopped: None,
                }),
            };
            debugged(&debugging, &conductor, &around, deadline)?
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

/// Lets the guest run with whoever debugs it.
fn debugged(
    debugging: &Debugging<'_>,
    conductor: &Conductor<KvmVcpu>,
    around: &Surroundings,
    deadline: Option<Instant>,
) -> Result<Option<End<crate::kvm::Error>>, Error> {
    let (breakpoints, watchpoints) = debug_registers().map_err(crate::kvm::Error::from)?;
    let limits = gdb::DebugRegisters {
        breakpoints: breakpoints as usize,
        watchpoints: watchpoints as usize,
    };
    let work = || {
        if !debugging.wait {
            conductor.run();
        }
        conductor.wait(deadline)
    };
    gdb::serve(debugging.listener, conductor, around, limits, work)
        .map_err(|error| Error::Debugger(format!("cannot serve debuggers: {error}")))
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
