//! `vmm run`.

#[cfg(target_arch = "aarch64")]
mod here;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use guest_abi::protocol::{PROTOCOLS, Protocol};
use vmm_core::evidence::StopKind;
use vmm_core::scenario::Scenario;

use super::{Exit, scenarios};
use crate::lab::Needs;
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
    /// What is run: payload:PROTOCOL; the payload under each of the six protocols if not given
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Repeat the run with this schedule, instead of that which the scenario's holds direct
    #[arg(long, value_name = "S")]
    schedule: Option<String>,
    /// Keep the evidence
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
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
    /// Print JSON, a line a run
    #[arg(long)]
    json: bool,
    /// Print the verdict alone
    #[arg(short, long)]
    quiet: bool,
}

/// What a verb that runs the payload needs of a lab, and the argument that names the payload there.
pub(super) fn payload_needs(
    scenario: &str,
    payload: Option<&Path>,
    out: Option<&Path>,
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
        outputs: out.map(Path::to_owned).into_iter().collect(),
        memory: payload::MEMORY,
    };
    Ok((needs, more))
}

/// What a command line means.
#[cfg_attr(
    not(target_arch = "aarch64"),
    expect(dead_code, reason = "what is checked here is used where there is KVM")
)]
pub(super) struct Wanted {
    scenario: Scenario,
    protocols: Vec<&'static Protocol>,
    payload: PathBuf,
}

impl Args {
    /// What it needs of a lab, and the argument that names the payload there.
    pub(super) fn needs(&self) -> Result<(Needs, Vec<OsString>), String> {
        let _ = self.wanted()?;
        payload_needs(&self.scenario, self.payload.as_deref(), self.out.as_deref())
    }

    /// What is meant, or what is wrong with it, before anything runs.
    fn wanted(&self) -> Result<Wanted, String> {
        let scenario = scenarios::find(&self.scenario)?;
        payload::check(&scenario)
            .or_else(|unfit| unfit.is_of_a_host().then_some(()).ok_or(unfit))
            .map_err(|unfit| unfit.to_string())?;
        let protocols = match &self.subject {
            None => PROTOCOLS.to_vec(),
            Some(subject) => vec![protocol(subject)?],
        };
        if protocols.len() > 1 && (self.schedule.is_some() || self.out.is_some()) {
            return Err("--schedule and --out are for one run; add --subject payload:P".to_owned());
        }
        if let Some(swap) = self.swap
            && let Some(protocol) = protocols.iter().find(|protocol| !swap.fits(protocol))
        {
            let name = protocol.name;
            return Err(format!(
                "--swap: the handler of {name} has no two such steps before its last"
            ));
        }
        if self.repeat > 1 && self.out.is_some() {
            return Err("--out keeps one run, and --repeat makes more".to_owned());
        }
        let payload = match &self.payload {
            Some(path) => path.clone(),
            None => payload::find().map_err(|error| error.to_string())?,
        };
        Ok(Wanted {
            scenario,
            protocols,
            payload,
        })
    }
}

fn swap(text: &str) -> Result<Swap, String> {
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
        .ok_or_else(|| format!("`{subject}` cannot be run; payload:PROTOCOL is meant"))?;
    let known = PROTOCOLS.map(|protocol| protocol.name).join(", ");
    Protocol::named(name).ok_or_else(|| format!("there is no protocol `{name}`; there are {known}"))
}
