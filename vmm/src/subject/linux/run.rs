//! One run of Linux on KVM, from nothing to its evidence.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use guest_abi::protocol::{Protocol, Word};
use vmm_core::arm::{CpuId, CpuSet, Mpidr};
use vmm_core::era::{self, Era};
use vmm_core::evidence::{Event, Evidence, Judged, Onward, Pstore, Setting, StopKind};
use vmm_core::inspect::{InspectError, Kernel, ramoops_text};
use vmm_core::model::climbed;
use vmm_core::pl011::Symbol;
use vmm_core::scenario::{Driver, Scenario};

use super::capture::with_capture;
use super::guest::{Functions, Watch, places};
use super::live::{Around, Live};
use super::tap::{ACKNOWLEDGE, Tap};
use super::{Files, Insight, MEMORY, Unfit, place, plan, reset};
use crate::conductor::{self, Conductor, Next, Reason, Trap};
use crate::gdb;
use crate::kvm::{self, Clock, Gic, KvmVcpu};
use crate::machine::{self, Blob, Format, Guest, Machine, PowerOff, Ram, Tally, Uart};
use crate::subject::{Debug, Hear};

/// What keeps a run from its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the host said.
        source: std::io::Error,
    },
    /// Linux cannot do it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] machine::Error),
    /// The threads.
    #[error(transparent)]
    Conductor(#[from] conductor::Error),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// It has not placed itself where it did before.
    #[error(
        "the kernel lies {now:#x} above where it was linked, and did {before:#x} in a boot with the same seed: a debugger would be misled"
    )]
    Elsewhere {
        /// There.
        before: u64,
        /// Here.
        now: u64,
    },
    /// Debuggers.
    #[error(transparent)]
    Debuggers(#[from] gdb::ServeError),
    /// What memory does not tell.
    #[error("{0}")]
    Inspect(#[from] InspectError),
    /// Nor what its own symbols could tell.
    #[error("{0}; where the kernel's own symbols are missing, --vmlinux FILE gives them")]
    NoKallsyms(InspectError),
    /// The initramfs of the capture kernel.
    #[error("cannot put the capture kernel into the initramfs: {0}")]
    Archive(std::io::Error),
    /// init cannot do what it is told.
    #[error("the init of {kernel}: {complaint}")]
    Init {
        /// The kernel's file.
        kernel: String,
        /// What it says.
        complaint: String,
    },
    /// init never asked.
    #[error("{kernel} did not come as far as our init: {why}; it said: {said}")]
    NoInit {
        /// The kernel's file.
        kernel: String,
        /// What happened instead.
        why: &'static str,
        /// Its last words on the console.
        said: String,
    },
    /// Nothing is kept.
    #[error(
        "--warm-reset: {0} has set up no ramoops; CONFIG_PSTORE_RAM and CONFIG_PSTORE_CONSOLE bring it"
    )]
    NoRamoops(String),
    /// After a warm reset.
    #[error("after the warm reset {kernel} did not show what pstore has: {why}; it said: {said}")]
    NoPstore {
        /// The kernel's file.
        kernel: String,
        /// What happened instead.
        why: &'static str,
        /// Its last words on the console.
        said: String,
    },
    /// Too few debug registers.
    #[error(
        "CPU {cpu} is to be trapped at {needs} instructions, and this host's KVM has {has} hardware breakpoints; a scenario with fewer \
         points of one CPU may do"
    )]
    Breakpoints {
        /// The CPU.
        cpu: usize,
        /// What the host has.
        has: usize,
        /// What the scenario takes.
        needs: usize,
    },
    /// The guest went away in the middle.
    #[error("a vCPU's thread is gone")]
    Gone,
    /// Somebody outside ended it.
    #[error("stopped by signal {0}")]
    Signal(i32),
}

/// How it is run.
pub struct Options<'a> {
    /// What stands behind `linux:`.
    pub name: &'a str,
    /// Its files.
    pub files: &'a Files,
    /// Its vmlinux, whose symbols are preferred to those that the kernel has with it.
    pub vmlinux: Option<&'a Path>,
    /// The table that it is judged by, whatever its symbols say.
    pub judged_as: Option<&'static Protocol>,
    /// Where its ack lies, whatever its table says.
    pub ack: Option<Word>,
    /// What the guest takes for chance.
    pub seed: u64,
    /// The capture kernel, where it is not the kernel itself.
    pub capture: Option<&'a Path>,
    /// What is reserved for it, in MiB.
    pub crashkernel: u32,
    /// Whether another kernel is started around the same memory, to see what pstore has for it.
    pub warm_reset: bool,
    /// When to give up.
    pub deadline: Instant,
    /// The kind of host, for the evidence.
    pub host: &'static str,
    /// How it is debugged.
    pub debug: Option<Debug<'a>>,
    /// Hears of it as it happens.
    pub hear: &'a mut dyn Hear,
}

/// What came of a run.
pub struct Ran {
    /// What it showed.
    pub evidence: Evidence,
    /// What was wrong with the warm reset behind it.
    pub reset: Option<Error>,
}

/// Functions that CONFIG_ARM64_PSEUDO_NMI brings (arch/arm64/kernel/cpufeature.c).
const PSEUDO_NMI: [&str; 2] = ["can_use_gic_priorities", "early_enable_pseudo_nmi"];

/// Runs a scenario once, in a new VM.
pub fn run(scenario: &Scenario, mut options: Options<'_>) -> Result<Ran, Error> {
    plan::check(scenario)?;
    let (breakpoints, _) = kvm::debug_registers().map_err(kvm::Error::from)?;
    let mut guest = guest(
        options.files,
        plan::command_line(scenario, options.crashkernel),
    )?;
    if scenario.after == Onward::Kexec {
        capture(&mut guest, options.capture)?;
    }
    let cpus = usize::from(scenario.cpus);
    let placed = match options.debug {
        Some(debug) if debug.by.waits => {
            let watch = |stopper| {
                options
                    .hear
                    .starts(stopper, &"a first boot finds where the kernel will lie")
            };
            place(guest.clone(), cpus, options.seed, watch)?
        }
        _ => None,
    };
    let strays = Arc::new(Tally::default());
    let machine = Machine::build(guest, cpus, options.seed, None, PowerOff::Told, &strays)?;
    // Nobody listens at its other end: the tap has every byte.
    machine.uart.deafen();
    let uart = Arc::clone(&machine.uart);
    let tap = Arc::new(Tap::new(cpus));
    let bus = Arc::new(
        machine
            .bus
            .tapped(Arc::clone(&tap) as Arc<dyn machine::Tap>),
    );
    let conductor = Conductor::start(machine.vcpus, &bus)?;
    options.hear.starts(
        conductor.stopper(),
        &format_args!("{}: booting", options.files.kernel.display()),
    );
    let ram = Ram(machine.memory);
    let zone = machine.ramoops_console;
    let debug = options.debug;
    let surroundings = match debug {
        Some(_) => Some(gdb::Surroundings {
            insight: Box::new(Insight::new(ram.clone(), scenario.cpus, vmlinux(&options)?)),
            ram: ram.clone(),
            gic: machine.gic.clone(),
            mpidrs: machine.mpidrs.clone(),
            clock: machine.clock.clone(),
            placed: placed.as_ref(),
        }),
        None => None,
    };
    let parts = Parts {
        ram: &ram,
        tap: &tap,
        uart: &uart,
        zone: zone.clone(),
        clock: machine.clock,
        gic: machine.gic,
        mpidrs: machine.mpidrs,
        breakpoints: breakpoints as usize,
        placed: placed.as_ref(),
    };
    let follow = || follow(scenario, &mut options, &conductor, parts);
    let (mut evidence, before) = match debug.zip(surroundings) {
        Some((debug, surroundings)) => debug.by.serve(&conductor, surroundings, follow)?,
        None => follow(),
    }?;
    conductor.finish();
    let (pstore, reset) = pstore(&ram, zone, before, &mut options)?;
    evidence.pstore = pstore;
    Ok(Ran { evidence, reset })
}

/// The machine without its vCPUs.
struct Parts<'a> {
    ram: &'a Ram,
    tap: &'a Tap,
    uart: &'a Arc<Uart>,
    /// Where ramoops keeps the console.
    zone: Option<Range<u64>>,
    clock: Clock,
    gic: Gic,
    mpidrs: Vec<Mpidr>,
    breakpoints: usize,
    placed: Option<&'a gdb::Placed>,
}

fn vmlinux(options: &Options<'_>) -> Result<Option<Vec<u8>>, Error> {
    let bytes = options.vmlinux.map(|path| Ok(read(path)?.bytes));
    bytes.transpose()
}

/// Follows the guest from its first instruction to its evidence; what pstore has of it is not there yet, and ramoops' zone before a
/// capture kernel began it anew.
fn follow(
    scenario: &Scenario,
    options: &mut Options<'_>,
    conductor: &Conductor<KvmVcpu>,
    parts: Parts<'_>,
) -> Result<(Evidence, Option<Vec<u8>>), Error> {
    let Parts { ram, tap, uart, .. } = parts;
    conductor.run();
    let asking = asked(conductor, tap, options)?;
    let quiesced = conductor.quiesce();
    let kernel = match vmlinux(options)? {
        Some(bytes) => Kernel::with_vmlinux(ram, scenario.cpus, &bytes)?,
        None => Kernel::find(ram, scenario.cpus).map_err(|error| match error {
            InspectError::NoVmcoreinfo { .. } => Error::Inspect(error),
            error => Error::NoKallsyms(error),
        })?,
    };
    if let Some(placed) = parts.placed {
        let offset = kernel.info.kernel_offset()?;
        if offset != placed.base.offset {
            return Err(Error::Elsewhere {
                before: placed.base.offset,
                now: offset,
            });
        }
        placed.come();
    }
    let has = |name: &str| kernel.symbols.named(name).next().is_some();
    let nbcon = has(plan::NBCON);
    if scenario.driver == Driver::Nbcon && !nbcon {
        return Err(Unfit::Driver(scenario.name.clone()).into());
    }
    let judging = Judging::of(&kernel, options);
    // A kernel that is built without them does without, whatever its command line says.
    let has_nmi = PSEUDO_NMI.iter().any(|name| has(name));
    let scenario = &Scenario {
        pseudo_nmi: scenario.pseudo_nmi && has_nmi,
        ..scenario.clone()
    };
    let functions = Functions::find(&kernel, plan::last_flush(scenario, nbcon))?;
    let watch = Watch::new(ram, &kernel, scenario.cpus)?;
    let mut setting = setting(scenario, &judging, &kernel, &watch, options)?;
    let places = places(&kernel);
    options.hear.begins(&setting, &places);
    let around = Around {
        ram,
        kernel: &kernel,
        functions,
        tap,
        clock: parts.clock,
        gic: parts.gic,
        mpidrs: parts.mpidrs,
        ramoops: parts.zone,
        breakpoints: parts.breakpoints,
        protocol: judging.protocol,
        deadline: options.deadline,
        places,
        stop_at: options.debug.and_then(|debug| debug.stop_at),
    };
    let mut live = Live::new(scenario, conductor, around, watch, options.hear)?;
    live.arm_all()?;
    conductor.thaw(asking);
    drop(quiesced);
    // It waits for the guest to listen, which a guest that asked does; at the end of the run it is told that there is nobody.
    let answer = {
        let uart = Arc::clone(uart);
        std::thread::spawn(move || {
            uart.receive([Symbol::Byte(ACKNOWLEDGE)]);
            uart.idle();
        })
    };
    let driven = live.drive();
    // If there is a debugger it looks at what is left.
    conductor.show_if_debugged(asking);
    uart.close();
    if let Err(panic) = answer.join() {
        std::panic::resume_unwind(panic);
    }
    let end = driven?;
    let story = live.finish()?;
    setting.protocol = judging.settle(scenario.stop, &story.events);
    let before = story.ramoops;
    let evidence = Evidence {
        setting,
        events: story.events,
        places: story.places,
        end,
        scenario: scenario.to_string(),
        pstore: None,
        dmesg: story.dmesg,
    };
    Ok((evidence, before))
}

/// A kernel with our initramfs, and a place for ramoops.
pub(super) fn guest(files: &Files, cmdline: String) -> Result<Guest, Error> {
    Ok(Guest {
        kernel: read(&files.kernel)?,
        format: Some(Format::Image),
        initrd: Some(read(&files.initramfs)?),
        cmdline,
        memory: MEMORY,
        ramoops: true,
    })
}

/// Gives a guest a capture kernel.
fn capture(guest: &mut Guest, kernel: Option<&Path>) -> Result<(), Error> {
    let kernel = match kernel {
        Some(path) => read(path)?,
        None => guest.kernel.clone(),
    };
    let kernel = machine::unpacked(kernel)?;
    if let Some(initrd) = &mut guest.initrd {
        initrd.bytes = with_capture(&initrd.bytes, &kernel).map_err(Error::Archive)?;
    }
    Ok(())
}

/// The console as pstore keeps it, in memory or `before` a capture kernel began it anew, and what was wrong with the warm reset.
fn pstore(
    ram: &Ram,
    zone: Option<Range<u64>>,
    before: Option<Vec<u8>>,
    options: &mut Options<'_>,
) -> Result<(Option<Pstore>, Option<Error>), Error> {
    let mut console = None;
    if let Some(bytes) = before.or_else(|| zone.map(|zone| ram.bytes(&zone))) {
        match ramoops_text(&bytes) {
            Ok(text) => console = text,
            Err(damaged) => return Ok((None, Some(damaged.into()))),
        }
    }
    let Some(console) = console else {
        let nothing = || Error::NoRamoops(options.files.kernel.display().to_string());
        return Ok((None, options.warm_reset.then(nothing)));
    };
    let (found, wrong) = match options.warm_reset {
        true => match reset::found(Arc::clone(&ram.0), options) {
            Ok(found) => (Some(found), None),
            Err(error) => (None, Some(error)),
        },
        false => (None, None),
    };
    Ok((Some(Pstore { console, found }), wrong))
}

/// Waits for init's question; the vCPU that asked.
fn asked(conductor: &Conductor<KvmVcpu>, tap: &Tap, options: &Options<'_>) -> Result<usize, Error> {
    let why = match conductor.next_trap(options.deadline) {
        Next::Trapped(cpu, Trap::Tapped) => return Ok(cpu),
        Next::Trapped(..) => "it powered a CPU off",
        Next::Late => "it took longer than it may (--timeout)",
        Next::Ended => match ended(conductor)? {
            conductor::End::Reset => "it reset itself",
            _ => "it powered itself off",
        },
    };
    let kernel = options.files.kernel.display().to_string();
    let said = tap.last_words();
    // It has come that far, and says what is wrong, a line of its own.
    match said.rsplit_once("init: ") {
        Some((_, complaint)) => Err(Error::Init {
            kernel,
            complaint: complaint.to_owned(),
        }),
        None => Err(Error::NoInit { kernel, why, said }),
    }
}

/// How the run ended from inside; what ended it from outside is an error.
pub(super) fn ended(conductor: &Conductor<KvmVcpu>) -> Result<conductor::End<kvm::Error>, Error> {
    match conductor.wait(Some(conductor.now())) {
        Some(conductor::End::Asked(Reason::Signal(signal))) => Err(Error::Signal(signal)),
        Some(conductor::End::Failed { error, .. }) => Err(error.into()),
        Some(end) => Ok(end),
        None => Err(Error::Gone),
    }
}

fn read(path: &Path) -> Result<Blob, Error> {
    let name = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => Ok(Blob { name, bytes }),
        Err(source) => Err(Error::Read { path: name, source }),
    }
}

/// What a kernel is judged by.
struct Judging {
    /// The table whose ladder it is expected to climb.
    protocol: &'static Protocol,
    /// All that have its symbols: what its CPUs do tells.
    candidates: Vec<&'static Protocol>,
    /// What goes into the evidence.
    judged: Judged,
    /// Whether its ack is known, wherever that lies.
    knows_ack: bool,
}

impl Judging {
    fn by(protocol: &'static Protocol) -> Self {
        Self {
            protocol,
            candidates: vec![protocol],
            judged: protocol.into(),
            knows_ack: true,
        }
    }

    fn of(kernel: &Kernel<'_, Ram>, options: &Options<'_>) -> Self {
        let mut judging = match (options.judged_as, Era::of(&kernel.symbols)) {
            (Some(protocol), _) | (None, Era::Told(protocol)) => Self::by(protocol),
            (None, Era::OneOf(candidates)) => Self {
                candidates: candidates.clone(),
                ..Self::by(candidates[0])
            },
            (None, Era::Unknown(unknown)) => {
                let newest = || Protocol::named("irq-then-nmi").expect("it is the mainline's");
                let protocol = unknown.candidates().last().copied().unwrap_or_else(newest);
                Self {
                    judged: Judged {
                        name: "unknown".to_owned(),
                        table: unknown.to_string(),
                        ..Judged::from(protocol)
                    },
                    knows_ack: false,
                    ..Self::by(protocol)
                }
            }
        };
        if let Some(word) = options.ack {
            judging.judged.plain_ack = word;
            judging.judged.crash_ack = word;
            judging.knows_ack = true;
        }
        judging
    }

    /// After the run: which of those with the same symbols it was.
    fn settle(self, stop: StopKind, events: &[Event]) -> Judged {
        match era::fitting(&self.candidates, stop, events)[..] {
            [only] if self.candidates.len() > 1 => only.into(),
            _ => self.judged,
        }
    }
}

fn setting(
    scenario: &Scenario,
    judging: &Judging,
    kernel: &Kernel<'_, Ram>,
    watch: &Watch,
    options: &Options<'_>,
) -> Result<Setting, Error> {
    let (stop, ack) = match scenario.stop {
        StopKind::Plain => (&judging.protocol.plain, judging.judged.plain_ack),
        StopKind::Crash => (&judging.protocol.crash, judging.judged.crash_ack),
    };
    let online: CpuSet = match kernel.online() {
        Ok(online) => online,
        Err(InspectError::NoSymbol { .. }) => (0..scenario.cpus).map(CpuId).collect(),
        Err(error) => return Err(error.into()),
    };
    Ok(Setting {
        subject: format!("linux:{}", options.name),
        protocol: judging.judged.clone(),
        scenario: scenario.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: options.host.to_owned(),
        build_id: kernel.info.build_id().map(str::to_owned),
        seed: Some(options.seed),
        schedule: None,
        cpus: scenario.cpus,
        online,
        pseudo_nmi: scenario.pseudo_nmi,
        rungs: climbed(stop, scenario),
        ack_located: judging.knows_ack && watch.has(ack),
        capture: scenario.after == Onward::Kexec,
    })
}
