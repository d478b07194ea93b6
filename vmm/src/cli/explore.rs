//! `vmm explore`.

#[cfg(target_arch = "aarch64")]
mod payload;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use guest_abi::protocol::{PROTOCOLS, Protocol};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vmm_core::choose::{Choose, Directed, Pct, Random, Schedule, Taken, shrink};
use vmm_core::evidence::Evidence;
use vmm_core::model::{self, Explored, Limits, Reduction};
use vmm_core::oracle::{Rule, Verdicts, judge};
use vmm_core::scenario::{self, Scenario};

use super::judge::{json, names, outcome, print_run, write};
use super::stdout::print;
use super::{Exit, run, scenarios};
use crate::lab::Needs;

/// Try the orders in which a stop can happen, and judge each
#[derive(clap::Args)]
pub(super) struct Args {
    /// A scenario's name, or a path that ends in .toml
    #[arg(value_name = "SCENARIO")]
    scenario: String,
    /// The stop protocol; all six if neither this nor --subject is given
    #[arg(long, value_name = "P", conflicts_with = "subject")]
    protocol: Option<String>,
    /// What is explored: model:PROTOCOL, or payload:PROTOCOL on KVM
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    #[command(flatten)]
    conditions: run::Conditions,
    /// How orders are chosen
    #[arg(long, value_enum, default_value_t = Strategy::Exhaustive, conflicts_with = "schedule")]
    strategy: Strategy,
    /// Where random and pct begin to draw
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Runs of random and pct
    #[arg(long, value_name = "N", default_value_t = 1000)]
    runs: u64,
    /// The depth of the faults that pct looks for
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    depth: u32,
    /// Repeat this run alone
    #[arg(long, value_name = "S")]
    schedule: Option<String>,
    /// Take each order of the payload in the model, too, and compare what happens
    #[arg(long)]
    against_model: bool,
    /// The payload, where it shall not be looked for
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// Take no order for the same as another
    #[arg(long)]
    no_reduction: bool,
    /// Keep the evidence of the run that is shown
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the verdict alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Strategy {
    /// Every order
    Exhaustive,
    /// Orders drawn uniformly
    Random,
    /// Orders drawn by random priorities
    Pct,
    /// The one order that the scenario's holds direct
    Directed,
}

impl Args {
    /// Whether it wants KVM.
    fn is_of_payload(&self) -> bool {
        let subject = self.subject.as_deref().unwrap_or_default();
        subject.starts_with("payload:")
    }

    /// What it needs of a lab, if KVM at all, and the argument that names the payload there.
    pub(super) fn needs(&self) -> Result<Option<(Needs, Vec<OsString>)>, String> {
        if !self.is_of_payload() {
            return match self.against_model {
                true => Err("--against-model is for --subject payload:P".to_owned()),
                false => Ok(None),
            };
        }
        if self.strategy == Strategy::Exhaustive && self.schedule.is_none() {
            return Err("the payload's orders are too many to see all; add --strategy random, pct or directed".to_owned());
        }
        let outputs = self.out.iter().cloned().collect();
        run::payload_needs(&self.scenario, self.payload.as_deref(), outputs).map(Some)
    }
}

pub(super) fn main(args: Args) -> Exit {
    match explore(&args) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("vmm: {error}");
            Exit::HostOrUsage
        }
    }
}

/// What became of one protocol.
struct Outcome {
    broken: BTreeSet<Rule>,
    exercised: BTreeSet<Rule>,
    expected: BTreeSet<Rule>,
    // By rule, a run that breaks it.
    witnesses: Vec<(Rule, Taken)>,
    complete: bool,
    counts: String,
    states: Option<u64>,
    schedules: u128,
}

fn explore(args: &Args) -> Result<Exit, String> {
    let family = scenarios::family(&args.scenario)?;
    let scenario = args.conditions.of(&family)?;
    #[cfg(target_arch = "aarch64")]
    if args.is_of_payload() {
        return payload::explore(args, &scenario);
    }
    let protocols = protocols(args)?;
    if let Some(schedule) = &args.schedule {
        let [protocol] = protocols.as_slice() else {
            return Err("a schedule belongs to one protocol; add --protocol P".to_owned());
        };
        return replay(args, &scenario, protocol, schedule);
    }
    if args.out.is_some() && protocols.len() != 1 {
        return Err("--out keeps one run; add --protocol P".to_owned());
    }
    let mut all_expected = true;
    let mut results = Vec::new();
    for protocol in &protocols {
        let outcome = one(args, &scenario, protocol)?;
        all_expected &= report(
            args,
            &scenario,
            protocol,
            &outcome,
            protocols.len() == 1,
            &mut results,
        )?;
    }
    if args.json {
        print(&format!(
            "{}\n",
            serde_json::json!({ "format": 1, "scenario": scenario.name, "protocols": results })
        ));
    }
    Ok(if all_expected {
        Exit::Expected
    } else {
        Exit::Surprise
    })
}

fn protocols(args: &Args) -> Result<Vec<&'static Protocol>, String> {
    let name = match (&args.protocol, &args.subject) {
        (Some(name), _) => name.as_str(),
        (None, Some(subject)) => subject.strip_prefix("model:").ok_or_else(|| {
            format!("`{subject}` cannot be explored; model:PROTOCOL or payload:PROTOCOL is meant")
        })?,
        (None, None) => return Ok(PROTOCOLS.to_vec()),
    };
    let known = PROTOCOLS.map(|protocol| protocol.name).join(", ");
    let protocol = Protocol::named(name)
        .ok_or_else(|| format!("there is no protocol `{name}`; there are {known}"))?;
    Ok(vec![protocol])
}

fn modelled(
    scenario: &Scenario,
    protocol: &Protocol,
    strategy: &mut dyn Choose,
) -> Result<(Evidence, Taken), String> {
    let run = model::run(scenario, protocol, strategy).map_err(|error| error.to_string())?;
    Ok((run.evidence, run.taken))
}

fn one(args: &Args, scenario: &Scenario, protocol: &Protocol) -> Result<Outcome, String> {
    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let progress = Progress::new(args, scenario, protocol);
    match args.strategy {
        Strategy::Exhaustive => exhaustive(args, scenario, protocol, &progress, deadline),
        Strategy::Directed => drawn(
            args,
            scenario,
            protocol,
            &progress,
            deadline,
            1,
            &mut |_| Box::new(Directed),
        ),
        Strategy::Random => {
            let mut strategy =
                |run| Box::new(Random::new(args.seed.wrapping_add(run))) as Box<dyn Choose>;
            drawn(
                args,
                scenario,
                protocol,
                &progress,
                deadline,
                args.runs,
                &mut strategy,
            )
        }
        Strategy::Pct => {
            let decisions = u64::from(modelled(scenario, protocol, &mut Directed)?.1.decisions);
            let mut strategy = |run| {
                Box::new(Pct::new(args.seed.wrapping_add(run), args.depth, decisions))
                    as Box<dyn Choose>
            };
            let mut outcome = drawn(
                args,
                scenario,
                protocol,
                &progress,
                deadline,
                args.runs,
                &mut strategy,
            )?;
            // Each CPU and time may be the one that moves.
            let bound = Pct::bound(u32::from(scenario.cpus) + 1, args.depth, decisions);
            outcome.counts += &format!(
                "; a run finds a fault of depth {} with probability >= {bound:.2e}",
                args.depth
            );
            Ok(outcome)
        }
    }
}

fn exhaustive(
    args: &Args,
    scenario: &Scenario,
    protocol: &Protocol,
    progress: &Progress,
    deadline: Option<Instant>,
) -> Result<Outcome, String> {
    let reduction = if args.no_reduction {
        Reduction::None
    } else {
        Reduction::PrivateSteps
    };
    let begun = Instant::now();
    let mut hear = |explored: &Explored| {
        progress.states(explored);
        deadline.is_none_or(|deadline| Instant::now() < deadline)
    };
    let explored = model::explore(scenario, protocol, reduction, Limits::default(), &mut hear)
        .map_err(|error| error.to_string())?;
    let witness = |rule: &Rule| Some((*rule, explored.witness(*rule)?.taken.clone()));
    Ok(Outcome {
        broken: explored.broken(),
        exercised: explored.exercised.clone(),
        expected: scenario.expected_of_exploration(protocol.name),
        witnesses: explored.broken().iter().filter_map(witness).collect(),
        complete: explored.complete,
        counts: format!(
            "{} states, {} schedules, {:.2} s",
            explored.states,
            explored.schedules,
            begun.elapsed().as_secs_f64()
        ),
        states: Some(explored.states),
        schedules: explored.schedules,
    })
}

fn drawn(
    args: &Args,
    scenario: &Scenario,
    protocol: &Protocol,
    progress: &Progress,
    deadline: Option<Instant>,
    runs: u64,
    strategy: &mut dyn FnMut(u64) -> Box<dyn Choose>,
) -> Result<Outcome, String> {
    let directed = args.strategy == Strategy::Directed;
    let expected = match directed {
        true => scenario.expected(protocol.name),
        false => scenario.expected_of_exploration(protocol.name),
    };
    let mut outcome = Outcome {
        broken: BTreeSet::new(),
        exercised: BTreeSet::new(),
        expected,
        witnesses: Vec::new(),
        complete: true,
        counts: String::new(),
        states: None,
        schedules: 0,
    };
    for number in 0..runs {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            outcome.complete = false;
            break;
        }
        let (evidence, taken) = modelled(scenario, protocol, &mut *strategy(number))?;
        let verdicts = judge(&evidence);
        outcome.exercised.extend(verdicts.exercised());
        for rule in verdicts.broken() {
            if outcome.broken.insert(rule) {
                outcome.witnesses.push((rule, taken.clone()));
            }
        }
        outcome.schedules += 1;
        progress.runs(outcome.schedules);
    }
    outcome.counts = match directed {
        true => "the directed run".to_owned(),
        false => format!("{} runs from seed {}", outcome.schedules, args.seed),
    };
    // Drawing proves nothing about what it did not draw: what some order breaks may stay unseen.
    if !directed && outcome.broken.is_subset(&outcome.expected) {
        outcome.expected = outcome.broken.clone();
        outcome.exercised.extend(&scenario.exercises);
    }
    Ok(outcome)
}

/// Prints what became of a protocol; true if that was expected.
fn report(
    args: &Args,
    scenario: &Scenario,
    protocol: &Protocol,
    result: &Outcome,
    alone: bool,
    results: &mut Vec<serde_json::Value>,
) -> Result<bool, String> {
    let untested: BTreeSet<Rule> = scenario
        .exercises
        .difference(&result.exercised)
        .copied()
        .collect();
    let expected = result.broken == result.expected && untested.is_empty() && result.complete;
    let surprises = result
        .witnesses
        .iter()
        .filter(|(rule, _)| !result.expected.contains(rule));
    // One protocol alone is asked about for its traces, too.
    let shown: Vec<&(Rule, Taken)> = if alone {
        result.witnesses.iter().collect()
    } else {
        surprises.collect()
    };
    let mut schedules = Vec::new();
    for (rule, taken) in shown {
        let (evidence, verdicts, schedule) = shrunk(scenario, protocol, *rule, taken)?;
        if !args.quiet && !args.json {
            print(&format!(
                "{rule} is broken by {} under {}:\n",
                scenario.name, protocol.name
            ));
            print_run(&evidence, &verdicts, false);
            print(&format!(
                "repeat: {}\n\n",
                command(args, protocol, &schedule)
            ));
        }
        if let Some(dir) = &args.out
            && schedules.is_empty()
        {
            write(dir, &evidence)?;
        }
        schedules
            .push(serde_json::json!({ "rule": rule.name(), "schedule": schedule.to_string() }));
    }
    if let (Some(dir), true) = (&args.out, schedules.is_empty()) {
        write(dir, &modelled(scenario, protocol, &mut Directed)?.0)?;
    }
    if args.json {
        results.push(serde_json::json!({
            "protocol": protocol.name,
            "as_expected": expected,
            "complete": result.complete,
            "broken": result.broken.iter().map(|rule| rule.name()).collect::<Vec<_>>(),
            "not_exercised": untested.iter().map(|rule| rule.name()).collect::<Vec<_>>(),
            "states": result.states,
            "schedules": result.schedules.to_string(),
            "witnesses": schedules,
        }));
        return Ok(expected);
    }
    let mut line = format!(
        "{:<24} {:<13} {}",
        scenario.name,
        protocol.name,
        outcome(&result.broken, &result.expected)
    );
    if !untested.is_empty() {
        line += &format!("; inconclusive: {} not exercised", names(&untested));
    }
    if !result.complete {
        line += "; inconclusive: given up before the end";
    }
    print(&format!("{line} ({})\n", result.counts));
    Ok(expected)
}

/// The smallest run that still breaks the rule.
fn shrunk(
    scenario: &Scenario,
    protocol: &Protocol,
    rule: Rule,
    taken: &Taken,
) -> Result<(Evidence, Verdicts, Schedule), String> {
    let taken = shrink(taken.clone(), |mut segments| {
        let run = model::run(scenario, protocol, &mut segments).ok()?;
        judge(&run.evidence)
            .broken()
            .contains(&rule)
            .then_some(run.taken)
    });
    let schedule = Schedule::new(model::origin(scenario, protocol), &taken);
    let mut strategy = schedule
        .replay(&model::origin(scenario, protocol))
        .map_err(|error| error.to_string())?;
    let (evidence, _) = modelled(scenario, protocol, &mut strategy)?;
    strategy.fitted().map_err(|error| error.to_string())?;
    let verdicts = judge(&evidence);
    Ok((evidence, verdicts, schedule))
}

fn command(args: &Args, protocol: &Protocol, schedule: &Schedule) -> String {
    format!(
        "vmm explore {}{} --protocol {} --schedule {schedule}",
        args.scenario, args.conditions, protocol.name
    )
}

fn replay(
    args: &Args,
    scenario: &Scenario,
    protocol: &Protocol,
    schedule: &str,
) -> Result<Exit, String> {
    let schedule: Schedule = schedule
        .parse()
        .map_err(|error| format!("--schedule: {error}"))?;
    let mut strategy = schedule
        .replay(&model::origin(scenario, protocol))
        .map_err(|error| format!("--schedule: {error}"))?;
    let (evidence, _) = modelled(scenario, protocol, &mut strategy)?;
    strategy
        .fitted()
        .map_err(|error| format!("--schedule: {error}"))?;
    let verdicts = judge(&evidence);
    if let Some(dir) = &args.out {
        write(dir, &evidence)?;
    }
    let came = scenario::Outcome::of(scenario, &evidence, &verdicts);
    if args.json {
        print(&format!("{}\n", json(&evidence, &verdicts, &came)));
    } else {
        print_run(&evidence, &verdicts, args.quiet);
        print(&format!("repeat: {}\n", command(args, protocol, &schedule)));
    }
    Ok(if came.is_as_expected() {
        Exit::Expected
    } else {
        Exit::Surprise
    })
}

/// What a terminal sees while it waits; a pipe sees nothing of it.
struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

impl Progress {
    fn new(args: &Args, scenario: &Scenario, protocol: &Protocol) -> Self {
        let visible = std::io::stderr().is_terminal() && !args.quiet && !args.json;
        let target = if visible {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{spinner} {prefix}: {msg}")
            .expect("the template is right");
        bar.set_style(style);
        bar.set_prefix(format!("{} {}", scenario.name, protocol.name));
        Self {
            bar,
            begun: Instant::now(),
        }
    }

    fn rate(&self, count: u64) -> u64 {
        (count as f64 / self.begun.elapsed().as_secs_f64().max(0.001)) as u64
    }

    fn states(&self, explored: &Explored) {
        let (states, schedules) = (explored.states, explored.schedules_so_far);
        self.bar.set_message(format!(
            "{states} states, {schedules} schedules, {} states/s",
            self.rate(states)
        ));
        self.bar.tick();
    }

    fn runs(&self, runs: u128) {
        let rate = self.rate(u64::try_from(runs).unwrap_or(u64::MAX));
        self.bar.set_message(format!("{runs} schedules, {rate}/s"));
        self.bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
