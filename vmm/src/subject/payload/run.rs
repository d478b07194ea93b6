//! One run of the payload on KVM, from nothing to its evidence.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_abi::protocol::Protocol;
use vm_memory::GuestMemoryMmap;
use vmm_core::arm::CpuSet;
use vmm_core::choose::{Choose, Origin, Schedule, Taken, drive};
use vmm_core::evidence::{End, Evidence, Regs, Setting};
use vmm_core::scenario::Scenario;

use super::steps::{Around, Steps};
use super::tap::Tap;
use super::watch::{self, Memory as _};
use super::{Budget, Image, ImageError, Insight, MEMORY, Swap, Unfit, VERSION, config, rungs};
use crate::conductor::{self, Conductor, Reason};
use crate::gdb;
use crate::kvm::{self, KvmVcpu};
use crate::machine::{self, Blob, Format, Guest, Machine, PowerOff, Ram, Tally};
use crate::subject::{Debug, Hear};

/// What keeps a run from its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the host said.
        source: std::io::Error,
    },
    /// It is no payload.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The payload cannot do it.
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
    /// Debuggers.
    #[error(transparent)]
    Debuggers(#[from] gdb::ServeError),
    /// It never came to the first step.
    #[error("vCPUs {missing} did not come to their first step within {} s; {said}", BOOT.as_secs())]
    Boot {
        /// Who.
        missing: CpuSet,
        /// The last words on the wire.
        said: String,
    },
    /// A step did not end.
    #[error("CPU {cpu} did not come to its next point after {after}: it stands at {at}")]
    Late {
        /// The CPU.
        cpu: usize,
        /// Its last point.
        after: String,
        /// Where it is.
        at: String,
        /// Its registers.
        registers: Box<Regs>,
    },
    /// The doorbell was rung with nonsense.
    #[error("CPU {cpu} rang the doorbell with {word:#x}, which is no ring")]
    Ring {
        /// The CPU.
        cpu: usize,
        /// The value.
        word: u64,
    },
    /// The guest or somebody outside ended it.
    #[error("the run ended before its time")]
    Ended,
    /// Somebody outside ended it.
    #[error("stopped by signal {0}")]
    Signal(i32),
}

/// What one run showed and chose.
#[derive(Clone, Debug)]
pub struct Run {
    /// The evidence.
    pub evidence: Evidence,
    /// What was chosen.
    pub taken: Taken,
}

/// How it is run.
pub struct Options<'a> {
    /// The payload's file.
    pub payload: &'a Path,
    /// Whether guest time is what the host's clock makes it.
    pub real_time: bool,
    /// What decides at which instruction a wedged CPU spins.
    pub seed: u64,
    /// Steps of the payload's handler, not of the table that it is judged by, that change places.
    pub swap: Option<Swap>,
    /// When to give up.
    pub deadline: Instant,
    /// The kind of host, for the evidence.
    pub host: &'static str,
    /// How it is debugged.
    pub debug: Option<Debug<'a>>,
    /// Hears of it as it happens.
    pub hear: &'a mut dyn Hear,
}

/// The payload is ready some tenths of a second after its start, with 64 CPUs on an emulated host some seconds.
const BOOT: Duration = Duration::from_secs(120);

/// What a schedule of this scenario and protocol belongs to.
pub fn origin(scenario: &Scenario, protocol: &Protocol) -> Origin {
    let (scenario, protocol) = (scenario.to_string(), protocol.to_string());
    Origin::of(&[VERSION, &scenario, &protocol])
}

/// Runs a scenario once, in a new VM.
pub fn run(
    scenario: &Scenario,
    protocol: &'static Protocol,
    strategy: &mut dyn Choose,
    options: Options<'_>,
) -> Result<Run, Error> {
    config::check(scenario)?;
    let budget = Budget::of(scenario, kvm::debug_registers().map_err(kvm::Error::from)?);
    budget.check()?;
    let name = options.payload.display().to_string();
    let bytes = fs::read(options.payload).map_err(|source| Error::Read {
        path: name.clone(),
        source,
    })?;
    let image = Image::read(options.payload, &bytes)?;
    let guest = Guest {
        kernel: Blob { name, bytes },
        format: Some(Format::Elf),
        initrd: None,
        cmdline: String::new(),
        memory: MEMORY,
        ramoops: false,
    };
    let cpus = usize::from(scenario.cpus);
    let strays = Arc::new(Tally::default());
    let machine = Machine::build(guest, cpus, 0, None, PowerOff::Told, &strays)?;
    let words = config::words(scenario, protocol, options.swap);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let memory: &GuestMemoryMmap = &machine.memory;
    memory.write(image.statics.mailbox, &bytes);

    let tap = Arc::new(Tap::default());
    let bus = Arc::new(
        machine
            .bus
            .tapped(Arc::clone(&tap) as Arc<dyn machine::Tap>),
    );
    let conductor = Conductor::start(machine.vcpus, &bus)?;
    options.hear.starts(conductor.stopper(), &budget);
    let debug = options.debug;
    let surroundings = debug.map(|_| gdb::Surroundings {
        ram: Ram(Arc::clone(&machine.memory)),
        gic: machine.gic.clone(),
        mpidrs: machine.mpidrs.clone(),
        clock: machine.clock.clone(),
        insight: Box::new(Insight::new(
            image.clone(),
            Ram(Arc::clone(&machine.memory)),
            scenario.cpus,
        )),
        placed: None,
    });
    let around = Around {
        watched: (budget.watched().iter())
            .map(|word| watch::watched(&image.statics, *word))
            .collect(),
        memory: machine.memory,
        image,
        mpidrs: machine.mpidrs,
        clock: machine.clock,
        gic: machine.gic,
        tap,
        real_time: options.real_time,
        deadline: options.deadline,
        seed: options.seed,
        stop_at: debug.and_then(|debug| debug.stop_at),
    };
    let follow = || follow(scenario, protocol, strategy, options, &conductor, around);
    let run = match debug.zip(surroundings) {
        Some((debug, surroundings)) => debug.by.serve(&conductor, surroundings, follow)?,
        None => follow(),
    };
    conductor.finish();
    run
}

/// Follows the payload from its first instruction to its evidence.
fn follow(
    scenario: &Scenario,
    protocol: &'static Protocol,
    strategy: &mut dyn Choose,
    options: Options<'_>,
    conductor: &Conductor<KvmVcpu>,
    around: Around,
) -> Result<Run, Error> {
    let mut setting = setting(scenario, protocol, &around.image, &options);
    let cpus = usize::from(scenario.cpus);
    let started: Vec<usize> = (0..cpus).filter(|cpu| starts(scenario, *cpu)).collect();
    conductor.run();
    let missing = conductor.trapped(&started, options.deadline.min(conductor.now() + BOOT));
    if !missing.is_empty() {
        return Err(ended(conductor).unwrap_or_else(|| Error::Boot {
            missing: missing
                .iter()
                .map(|cpu| vmm_core::arm::CpuId(*cpu as u16))
                .collect(),
            said: said(&around.tap.take().1),
        }));
    }
    options.hear.begins(&setting, &around.image.places);
    let mut steps = Steps::new(scenario, conductor.quiesce(), around, options.hear)?;
    let (taken, end) = drive(&mut steps, strategy);
    steps.show_end();
    let (events, places, end) = match end {
        Ok(()) => {
            let (events, places) = steps.finish()?;
            (events, places, End::Complete)
        }
        // What a guest does wrong is evidence; what the host does is not.
        Err(error @ (Error::Late { .. } | Error::Ring { .. } | Error::Ended)) => {
            let said = match error {
                Error::Ended => match ended(conductor) {
                    Some(error) => return Err(error),
                    None => "the payload reset itself".to_owned(),
                },
                Error::Late { ref registers, .. } => format!("{error}; {registers:x?}"),
                error => error.to_string(),
            };
            let (events, places) = steps.cut_short();
            (events, places, End::CutShort(said))
        }
        Err(error) => return Err(error),
    };
    setting.schedule = Some(Schedule::new(origin(scenario, protocol), &taken).to_string());
    let evidence = Evidence {
        setting,
        events,
        places,
        end,
        scenario: scenario.to_string(),
        pstore: None,
        dmesg: None,
    };
    Ok(Run { evidence, taken })
}

/// Whether the payload starts this CPU.
fn starts(scenario: &Scenario, cpu: usize) -> bool {
    let down = scenario
        .offline
        .iter()
        .any(|offline| offline.index() == cpu);
    !down || scenario.tasks.iter().any(|task| task.cpu.index() == cpu)
}

/// Why the run ended from outside, if it did.
fn ended(conductor: &Conductor<KvmVcpu>) -> Option<Error> {
    match conductor.wait(Some(conductor.now()))? {
        conductor::End::Asked(Reason::Signal(signal)) => Some(Error::Signal(signal)),
        conductor::End::Failed { error, .. } => Some(error.into()),
        _ => None,
    }
}

/// The last words of a payload.
fn said(wire: &[u8]) -> String {
    match String::from_utf8_lossy(wire).trim() {
        "" => "it said nothing".to_owned(),
        words => format!("it said: {words}"),
    }
}

fn setting(
    scenario: &Scenario,
    protocol: &'static Protocol,
    image: &Image,
    options: &Options<'_>,
) -> Setting {
    let online = CpuSet::first(scenario.cpus);
    let offline = |cpu: &vmm_core::arm::CpuId| scenario.offline.contains(*cpu);
    Setting {
        subject: format!("payload:{}", protocol.name),
        protocol: protocol.into(),
        scenario: scenario.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: options.host.to_owned(),
        build_id: image.build_id.clone(),
        seed: Some(options.seed),
        schedule: None,
        cpus: scenario.cpus,
        online: online.iter().filter(|cpu| !offline(cpu)).collect(),
        pseudo_nmi: scenario.pseudo_nmi,
        rungs: rungs(protocol, scenario),
        ack_located: true,
        capture: false,
    }
}
