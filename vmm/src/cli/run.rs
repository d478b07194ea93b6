//! `vmm run`.

mod conditions;
#[cfg(target_arch = "aarch64")]
mod here;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use guest_abi::protocol::{PROTOCOLS, Protocol, Word};
use vmm_core::evidence::{Onward, StopKind};
use vmm_core::scenario::Scenario;

pub(super) use conditions::Conditions;

use super::{Exit, scenarios};
use crate::lab::Needs;
use crate::subject::StopAt;
use crate::subject::linux::{self, Files};
use crate::subject::payload::{self, Swap};

#[cfg(target_arch = "aarch64")]
pub(super) use here::run;

/// Run a scenario on KVM and judge it
#[derive(clap::Args)]
#[command(after_help = Exit::TABLE)]
pub(super) struct Args {
    /// A scenario's name, or a path that ends in .toml
    #[arg(value_name = "SCENARIO")]
    scenario: String,
    /// What is run: payload:PROTOCOL, linux:NAME (a guest of images/manifest.toml) or linux:PATH (an Image; with a slash in it);
    /// the payload under each of the six protocols if not given
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    #[command(flatten)]
    conditions: Conditions,
    /// Repeat the run with this schedule, instead of that which the scenario's holds direct
    #[arg(long, value_name = "S")]
    schedule: Option<String>,
    /// Keep the evidence
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write the run as trace events, which Perfetto's viewer opens (docs/trace.md)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// What decides at which instruction a wedged CPU spins
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Run so many times, each with the next seed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    /// Have the payload swap step N of its handler and the next one, counted from 1 (crash:N, plain:N), and see the oracle notice
    #[arg(long, value_name = "STEP", value_parser = swap)]
    swap: Option<Swap>,
    /// Leave guest time to the host's clock: a rung of a second then takes one
    #[arg(long)]
    real_time: bool,
    /// Give up after so many seconds: what is not known by then is inconclusive
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// The payload, where it shall not be looked for
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// The vmlinux of the Linux kernel that is run: its symbols are preferred to those that the kernel has with it
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,
    /// Judge a Linux kernel by the table of this protocol, whatever its symbols say
    #[arg(long = "as", value_name = "PROTOCOL", value_parser = named)]
    judged_as: Option<&'static Protocol>,
    /// Where a stopping CPU of a Linux kernel acks (online-mask, online-count, stop-mask, counter), whatever its symbols say
    #[arg(long, value_name = "WORD", value_parser = word)]
    ack: Option<Word>,
    /// What a panicking Linux kernel goes on to where the scenario has it leave for a capture kernel: a guest's NAME or a PATH; the kernel
    /// itself if not given
    #[arg(long, value_name = "KERNEL")]
    capture: Option<String>,
    /// How many MiB a Linux kernel reserves for its capture kernel [default: 128]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=256))]
    crashkernel: Option<u32>,
    /// After the run start the Linux kernel again around the same memory, and see what pstore has for it
    #[arg(long)]
    warm_reset: bool,
    /// The Linux kernel, where it shall not be looked for
    #[arg(long, value_name = "FILE", hide = true)]
    kernel: Option<PathBuf>,
    /// The capture kernel, where it shall not be looked for
    #[arg(long, value_name = "FILE", hide = true)]
    capture_kernel: Option<PathBuf>,
    /// The initramfs of a Linux guest, where it shall not be looked for
    #[arg(long, value_name = "FILE", hide = true)]
    initramfs: Option<PathBuf>,
    /// Print JSON, a line a run
    #[arg(long)]
    json: bool,
    /// Print no trace; of several runs, the verdicts alone
    #[arg(short, long)]
    quiet: bool,
}

/// What a verb that runs the payload needs of a lab, and the argument that names the payload there.
pub(super) fn payload_needs(
    scenario: &str,
    payload: Option<&Path>,
    outputs: Vec<PathBuf>,
) -> Result<(Needs, Vec<OsString>), String> {
    let (path, more) = match payload {
        Some(path) => (path.to_owned(), Vec::new()),
        None => {
            let path = payload::find().map_err(|error| error.to_string())?;
            (path.clone(), vec!["--payload".into(), path.into()])
        }
    };
    let mut inputs = vec![path];
    if scenario.ends_with(".toml") {
        inputs.push(PathBuf::from(scenario));
    }
    let needs = Needs {
        inputs,
        stdin: false,
        outputs,
        memory: payload::MEMORY,
        debugger: false,
    };
    Ok((needs, more))
}

/// What is run once.
#[derive(Clone)]
#[cfg_attr(
    not(target_arch = "aarch64"),
    expect(dead_code, reason = "what is checked here is used where there is KVM")
)]
pub(super) enum Subject {
    /// The payload, which does this protocol.
    Payload(&'static Protocol),
    /// A kernel.
    Linux { name: String, files: Files },
}

/// What a command line means.
#[cfg_attr(
    not(target_arch = "aarch64"),
    expect(dead_code, reason = "what is checked here is used where there is KVM")
)]
pub(super) struct Wanted {
    scenario: Scenario,
    subjects: Vec<Subject>,
    /// Where the payload is, if it is run.
    payload: PathBuf,
    /// Where the capture kernel is, if it is another one.
    capture: Option<PathBuf>,
}

impl Args {
    /// What it needs of a lab, and the arguments that name its files there.
    pub(super) fn needs(&self) -> Result<(Needs, Vec<OsString>), String> {
        let wanted = self.wanted()?;
        let Some(Subject::Linux { files, .. }) = wanted.subjects.first() else {
            return payload_needs(&self.scenario, self.payload.as_deref(), self.outputs());
        };
        let mut inputs = vec![files.kernel.clone(), files.initramfs.clone()];
        inputs.extend(self.vmlinux.clone());
        inputs.extend(wanted.capture.clone());
        if self.scenario.ends_with(".toml") {
            inputs.push(PathBuf::from(&self.scenario));
        }
        let needs = Needs {
            inputs,
            stdin: false,
            outputs: self.outputs(),
            memory: linux::MEMORY,
            debugger: false,
        };
        let named = [
            ("--kernel", &files.kernel),
            ("--initramfs", &files.initramfs),
        ];
        let capture = wanted.capture.iter().map(|path| ("--capture-kernel", path));
        let more = named
            .into_iter()
            .chain(capture)
            .flat_map(|(option, path)| [OsString::from(option), path.into()]);
        Ok((needs, more.collect()))
    }

    /// What a run that is debugged can't be.
    pub(super) fn check_debugged(&self, stop_at: Option<StopAt>) -> Result<(), String> {
        let wanted = self.wanted()?;
        let [subject] = &wanted.subjects[..] else {
            return Err(
                "one subject is debugged at a time: --subject payload:P or linux:NAME".to_owned(),
            );
        };
        let given = [("--repeat", self.repeat > 1), ("--json", self.json)];
        if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
            return Err(format!("{option} is not for a run that somebody debugs"));
        }
        match (subject, stop_at) {
            (Subject::Linux { .. }, Some(StopAt { at, .. })) if !linux::can_come_to(at) => {
                Err(format!(
                    "--stop-at {at}: in Linux nothing can be caught there; payload:PROTOCOL can"
                ))
            }
            _ => Ok(()),
        }
    }

    /// What it leaves.
    fn outputs(&self) -> Vec<PathBuf> {
        self.out.iter().chain(&self.trace).cloned().collect()
    }

    /// What is meant, or what is wrong with it, before anything runs.
    fn wanted(&self) -> Result<Wanted, String> {
        let scenario = self.conditions.of(&scenarios::family(&self.scenario)?)?;
        let subjects = match &self.subject {
            None => PROTOCOLS.map(Subject::Payload).to_vec(),
            Some(subject) => vec![self.subject(subject)?],
        };
        let of_one_run = [
            ("--schedule", self.schedule.is_some()),
            ("--out", self.out.is_some()),
            ("--trace", self.trace.is_some()),
        ];
        if let Some((option, _)) = of_one_run.iter().find(|(_, given)| *given)
            && subjects.len() > 1
        {
            return Err(format!("{option} is for one run; add --subject payload:P"));
        }
        if let Some((option, _)) = of_one_run[1..].iter().find(|(_, given)| *given)
            && self.repeat > 1
        {
            return Err(format!("{option} keeps one run, and --repeat makes more"));
        }
        let mut payload = PathBuf::new();
        let mut capture = None;
        if let [Subject::Linux { .. }] = subjects[..] {
            linux::check(&scenario).map_err(|unfit| unfit.to_string())?;
            let leaves = scenario.after == Onward::Kexec;
            let given = [
                ("--capture", self.capture.is_some()),
                ("--crashkernel", self.crashkernel.is_some()),
            ];
            if let Some((option, _)) = given.iter().find(|(_, given)| *given && !leaves) {
                return Err(format!(
                    "{option} is for scenarios that go on to a capture kernel (after = \"kexec\"), and {} does not",
                    scenario.name
                ));
            }
            if self.warm_reset && leaves {
                return Err(format!(
                    "--warm-reset: {} goes on to a capture kernel, which begins pstore's console anew",
                    scenario.name
                ));
            }
            capture = match (&self.capture, &self.capture_kernel) {
                (None, _) => None,
                (Some(_), Some(path)) => Some(path.clone()),
                (Some(what), None) => Some(linux::kernel(what).map_err(|error| error.to_string())?),
            };
            let given = [
                ("--schedule", self.schedule.is_some()),
                ("--swap", self.swap.is_some()),
                ("--real-time", self.real_time),
                ("--payload", self.payload.is_some()),
            ];
            if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
                return Err(format!(
                    "{option} is for the payload, and this is a Linux kernel"
                ));
            }
        } else {
            payload::check(&scenario)
                .or_else(|unfit| unfit.is_of_a_host().then_some(()).ok_or(unfit))
                .map_err(|unfit| unfit.to_string())?;
            let given = [
                ("--as", self.judged_as.is_some()),
                ("--ack", self.ack.is_some()),
                ("--vmlinux", self.vmlinux.is_some()),
                ("--warm-reset", self.warm_reset),
                ("--capture", self.capture.is_some()),
                ("--crashkernel", self.crashkernel.is_some()),
            ];
            if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
                return Err(format!(
                    "{option} is for a Linux kernel; --subject linux:NAME or linux:PATH is meant"
                ));
            }
            payload = match &self.payload {
                Some(path) => path.clone(),
                None => payload::find().map_err(|error| error.to_string())?,
            };
        }
        let protocols = subjects.iter().filter_map(|subject| match subject {
            Subject::Payload(protocol) => Some(*protocol),
            Subject::Linux { .. } => None,
        });
        if let Some(swap) = self.swap
            && let Some(protocol) = protocols.clone().find(|protocol| !swap.fits(protocol))
        {
            let name = protocol.name;
            return Err(format!(
                "--swap: the handler of {name} has no two such steps before its last"
            ));
        }
        Ok(Wanted {
            scenario,
            subjects,
            payload,
            capture,
        })
    }

    fn subject(&self, subject: &str) -> Result<Subject, String> {
        let Some(name) = subject.strip_prefix("linux:") else {
            if !subject.starts_with("payload:") {
                return Err(format!(
                    "`{subject}` cannot be run; payload:PROTOCOL, linux:NAME or linux:PATH is meant"
                ));
            }
            return protocol(subject).map(Subject::Payload);
        };
        let files = match (&self.kernel, &self.initramfs) {
            (Some(kernel), Some(initramfs)) => Files {
                kernel: kernel.clone(),
                initramfs: initramfs.clone(),
            },
            _ => Files::find(name).map_err(|error| error.to_string())?,
        };
        Ok(Subject::Linux {
            name: name.to_owned(),
            files,
        })
    }
}

pub(super) fn swap(text: &str) -> Result<Swap, String> {
    let meant = "crash:N or plain:N is meant, N from 1";
    let (stop, number) = text.split_once(':').ok_or(meant)?;
    let stop = match stop {
        "crash" => StopKind::Crash,
        "plain" => StopKind::Plain,
        _ => return Err(meant.to_owned()),
    };
    let number: usize = number.parse().map_err(|_| meant)?;
    let first = number.checked_sub(1).ok_or(meant)?;
    Ok(Swap { stop, first })
}

/// The protocol of `payload:P`.
pub(super) fn protocol(subject: &str) -> Result<&'static Protocol, String> {
    let name = subject
        .strip_prefix("payload:")
        .ok_or_else(|| format!("`{subject}` cannot be explored; payload:PROTOCOL is meant"))?;
    named(name)
}

fn word(name: &str) -> Result<Word, String> {
    let known = Word::ALL.map(Word::name).join(", ");
    let found = Word::ALL.into_iter().find(|word| word.name() == name);
    found.ok_or_else(|| format!("an ack lies in one of {known}"))
}

fn named(name: &str) -> Result<&'static Protocol, String> {
    let known = PROTOCOLS.map(|protocol| protocol.name).join(", ");
    Protocol::named(name).ok_or_else(|| format!("there is no protocol `{name}`; there are {known}"))
}
