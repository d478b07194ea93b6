//! One run of one cell.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser as _;
use serde::Deserialize;
use vmm_core::choose::Directed;
use vmm_core::matrix::{By, Cell, Kind};
use vmm_core::model;
use vmm_core::oracle::judge;
use vmm_core::report::{Came, Judged, Run};
use vmm_core::scenario::Outcome;

use crate::cli::judge::{json, write};
use crate::cli::run::Conditions;
use crate::cli::{Cli, Verb};
use crate::lab::{self, Ended, Ground, Needs, Stopper};

use super::Args;

/// How much longer than its own `--timeout` a run may take: its kernel is read, its evidence written.
const BEYOND: Duration = Duration::from_secs(60);

/// What is to be run.
pub(super) struct Job<'a> {
    pub(super) cell: &'a Cell,
    /// Which of the cell's runs, from 1.
    pub(super) run: u64,
}

/// Why a run has no result, not even that it failed.
#[derive(Debug)]
pub(super) enum Lost {
    /// It was ended by a signal that was meant for all.
    Stopped,
    /// The place where it ran is gone.
    Ground(lab::Error),
}

/// Where the evidence of a cell's run goes, below the folder of the matrix.
pub(super) fn evidence_of(cell: &str, run: u64) -> String {
    format!("cells/{cell}/run-{run}")
}

impl Job<'_> {
    /// The seeds of a cell's runs follow each other, as those of `vmm run --repeat` do.
    fn seed(&self, args: &Args) -> u64 {
        args.seed.wrapping_add(self.run - 1)
    }

    /// Where its evidence goes, below the folder of the matrix.
    fn evidence(&self) -> String {
        evidence_of(&self.cell.name(), self.run)
    }

    /// What a person types to repeat it.
    fn repeat(&self, args: &Args) -> Vec<String> {
        let cell = self.cell;
        let mut words = vec!["vmm".to_owned()];
        let model = cell.kind == Kind::Model;
        words.push(if model { "explore" } else { "run" }.to_owned());
        words.push(cell.given.clone());
        words.extend(Conditions::typed(cell.own, cell.scenario.conditions()).words());
        words.extend(["--subject".to_owned(), cell.subject()]);
        if model {
            words.extend(["--strategy", "directed"].map(str::to_owned));
            return words;
        }
        words.extend(["--seed".to_owned(), self.seed(args).to_string()]);
        match (cell.kind, &cell.by, args.swap) {
            (Kind::Linux, ..) => words.extend(args.of_linux()),
            (Kind::Payload, By::Protocol(protocol), Some(swap)) if swap.fits(protocol) => {
                words.extend(["--swap".to_owned(), swap.to_string()]);
            }
            _ => {}
        }
        words
    }

    /// The command line that runs it.
    fn command(&self, args: &Args, folder: Option<&Path>) -> Vec<OsString> {
        let mut words = self.repeat(args);
        words.extend(["--json", "--quiet", "--timeout"].map(str::to_owned));
        words.push(args.timeout.to_string());
        let mut words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        if let Some(folder) = folder {
            words.extend(["--out".into(), folder.join(self.evidence()).into()]);
        }
        if let (Kind::Payload, Some(payload)) = (self.cell.kind, &args.payload) {
            words.extend(["--payload".into(), payload.into()]);
        }
        words
    }

    /// What that needs of a lab, with what has to be added to it there. Nothing for the model.
    pub(super) fn needs(
        &self,
        args: &Args,
        folder: Option<&Path>,
    ) -> Result<Option<(Vec<OsString>, Needs)>, String> {
        if self.cell.kind == Kind::Model {
            return Ok(None);
        }
        let mut command = self.command(args, folder);
        let cli = Cli::try_parse_from(&command).expect("what is typed here is right");
        let Verb::Run(run) = cli.verb else {
            unreachable!("a cell on KVM is run by `vmm run`");
        };
        let (needs, more) = run.needs()?;
        command.extend(more);
        Ok(Some((command, needs)))
    }

    /// Runs it.
    pub(super) fn perform(
        &self,
        args: &Args,
        folder: Option<&Path>,
        ground: Option<&Ground>,
        stopper: &Stopper,
    ) -> Result<Run, Lost> {
        if stopper.asked().is_some() {
            return Err(Lost::Stopped);
        }
        let begun = Instant::now();
        let came = match ground {
            Some(ground) if self.cell.kind != Kind::Model => {
                self.on_kvm(args, folder, ground, stopper)?
            }
            _ => self.in_model(folder),
        };
        let kept = args.out.is_some() && matches!(came, Came::Judged(_));
        let mut repeat = self.repeat(args).join(" ");
        if let Came::Judged(Judged {
            schedule: Some(schedule),
            ..
        }) = &came
        {
            repeat += &format!(" --schedule {schedule}");
        }
        Ok(Run {
            run: self.run,
            seed: self.seed(args),
            seconds: begun.elapsed().as_secs_f64(),
            repeat,
            evidence: kept.then(|| self.evidence()),
            came,
        })
    }

    fn in_model(&self, folder: Option<&Path>) -> Came {
        let By::Protocol(protocol) = self.cell.by else {
            unreachable!("the model has no kernel");
        };
        let scenario = &self.cell.scenario;
        let run = match model::run(scenario, protocol, &mut Directed) {
            Ok(run) => run,
            Err(unfit) => return Came::CannotRun(unfit.to_string()),
        };
        let verdicts = judge(&run.evidence);
        if let Some(folder) = folder
            && let Err(why) = write(&folder.join(self.evidence()), &run.evidence)
        {
            return Came::Failed(why);
        }
        let came = Outcome::of(scenario, &run.evidence, &verdicts);
        let said = json(&run.evidence, &verdicts, &came);
        Came::Judged(serde_json::from_value(said).expect("a report has what a run prints"))
    }

    fn on_kvm(
        &self,
        args: &Args,
        folder: Option<&Path>,
        ground: &Ground,
        stopper: &Stopper,
    ) -> Result<Came, Lost> {
        let (command, needs) = match self.needs(args, folder) {
            Ok(needs) => needs.expect("it is not of the model"),
            Err(why) => return Ok(Came::Failed(why)),
        };
        if let Some(folder) = folder
            && let Err(why) = prepare(&folder.join(self.evidence()))
        {
            return Ok(Came::Failed(why));
        }
        let patience = Duration::from_secs(args.timeout) + BEYOND;
        let output = ground.run(&command, &needs, stopper, patience);
        if stopper.asked().is_some() {
            return Err(Lost::Stopped);
        }
        let output = match output {
            Ok(output) => output,
            Err(error @ lab::Error::Lost { .. }) => return Err(Lost::Ground(error)),
            Err(error) => return Ok(Came::Failed(error.to_string())),
        };
        Ok(came(&output))
    }
}

/// Takes away what a run that was not finished has left, and has the folder's own folder there: what runs in the lab makes no more than
/// one.
fn prepare(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(format!("cannot remove {}: {error}", folder.display()));
        }
        _ => {}
    }
    let above = folder.parent().unwrap_or(folder);
    fs::create_dir_all(above).map_err(|error| format!("cannot make {}: {error}", above.display()))
}

/// A line that `vmm run --json` prints.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Judged(Judged),
    Unfit { cannot_run: String },
}

/// What came of a run, by how its verb ended and what that said.
fn came(output: &lab::Output) -> Came {
    let complaint = || output.stderr.trim().trim_start_matches("vmm: ").to_owned();
    let said = output
        .stdout
        .lines()
        .find_map(|line| serde_json::from_str(line).ok());
    match (&output.ended, said) {
        (Ended::Exit(0 | 1), Some(Said::Judged(judged))) => Came::Judged(judged),
        (Ended::Exit(77), _) => {
            let why = output.stdout.split_once("cannot run here: ");
            Came::CannotRun(why.map_or_else(complaint, |(_, why)| why.trim().to_owned()))
        }
        (Ended::Exit(_), Some(Said::Unfit { cannot_run })) => Came::CannotRun(cannot_run),
        (Ended::Exit(_), _) if !complaint().is_empty() => Came::Failed(complaint()),
        (ended, _) => Came::Failed(format!("the run ended by {ended:?}, and said nothing")),
    }
}
