//! `vmm explore --subject payload:P`, where there is KVM.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use guest_abi::protocol::Protocol;
use vmm_core::choose::{Choose, Directed, Pct, Random};
use vmm_core::evidence::{Event, Evidence, Places, Setting, parting};
use vmm_core::model;
use vmm_core::oracle::{Rule, judge};
use vmm_core::scenario::Scenario;

use super::{Args, Strategy};
use crate::cli::Exit;
use crate::cli::interrupt::{Interrupt, Watching};
use crate::cli::judge::{names, outcome, print_run, write};
use crate::cli::run::protocol;
use crate::cli::stdout::print;
use crate::conductor::{Reason, Stopper};
use crate::kvm::KvmVcpu;
use crate::lab::inside;
use crate::subject::Hear;
use crate::subject::payload::{self, Error, Options};

/// A run has so long: it takes some tenths of a second.
const RUN: Duration = Duration::from_secs(120);

/// Hears nothing but the signal that ends it all.
struct Deaf<'a> {
    interrupt: &'a Interrupt,
    watching: Option<Watching<'a>>,
}

impl Hear for Deaf<'_> {
    fn starts(&mut self, stopper: Stopper<KvmVcpu>, _: &dyn std::fmt::Display) {
        let stop = move |signal| stopper.stop(Reason::Signal(signal));
        self.watching = Some(self.interrupt.calls(Box::new(stop)));
    }

    fn begins(&mut self, _: &Setting, _: &Places) {}

    fn event(&mut self, _: &Event) {}
}

/// What the runs showed.
#[derive(Default)]
struct Seen {
    runs: u64,
    broken: BTreeSet<Rule>,
    exercised: BTreeSet<Rule>,
    inconclusive: Option<String>,
    // By rule, the schedule of the first run that broke it.
    witnesses: Vec<(Rule, Evidence)>,
    compared: u64,
    parted: Option<String>,
}

pub(super) fn explore(args: &Args, scenario: &Scenario) -> Result<Exit, String> {
    let subject = args.subject.as_deref().unwrap_or_default();
    let protocol = protocol(subject)?;
    let interrupt =
        Interrupt::watch().map_err(|error| format!("cannot watch for signals: {error}"))?;
    let path = match &args.payload {
        Some(path) => path.clone(),
        None => payload::find().map_err(|error| error.to_string())?,
    };
    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let strategy = strategies(args, scenario, protocol)?;
    let runs = match args.strategy {
        Strategy::Directed => 1,
        _ => args.runs,
    };
    let mut seen = Seen::default();
    for number in 0..runs {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            seen.inconclusive = Some(format!("given up after {number} of {runs} runs"));
            break;
        }
        let mut deaf = Deaf {
            interrupt: &interrupt,
            watching: None,
        };
        let options = Options {
            payload: &path,
            real_time: false,
            seed: args.seed,
            swap: None,
            deadline: Instant::now() + RUN,
            host: if inside() { "kvm in the lab" } else { "kvm" },
            debug: None,
            hear: &mut deaf,
        };
        let run = match payload::run(scenario, protocol, &mut *strategy(number), options) {
            Ok(run) => run,
            Err(Error::Signal(signal)) => return Ok(Exit::Signal(signal)),
            Err(error @ Error::Unfit(_)) => {
                print(&format!(
                    "{:<24} {:<13} cannot run here: {error}\n",
                    scenario.name, protocol.name
                ));
                return Ok(Exit::CannotRunHere);
            }
            Err(error) => return Err(error.to_string()),
        };
        if args.against_model {
            let twin = model::run(scenario, protocol, &mut *strategy(number))
                .map_err(|error| error.to_string())?;
            compare(&mut seen, &run.evidence, &twin.evidence);
        }
        learn(&mut seen, &run.evidence);
    }
    report(args, scenario, protocol, &seen)
}

type Strategies = Box<dyn Fn(u64) -> Box<dyn Choose>>;

fn strategies(args: &Args, scenario: &Scenario, protocol: &Protocol) -> Result<Strategies, String> {
    let (seed, depth) = (args.seed, args.depth);
    Ok(match args.strategy {
        Strategy::Random => Box::new(move |run| Box::new(Random::new(seed.wrapping_add(run)))),
        Strategy::Pct => {
            // The model has the same decisions as long as nothing else happens.
            let run = model::run(scenario, protocol, &mut Directed);
            let decisions = u64::from(run.map_err(|error| error.to_string())?.taken.decisions);
            Box::new(move |run| Box::new(Pct::new(seed.wrapping_add(run), depth, decisions)))
        }
        Strategy::Directed | Strategy::Exhaustive => Box::new(|_| Box::new(Directed)),
    })
}

fn compare(seen: &mut Seen, payload: &Evidence, model: &Evidence) {
    seen.compared += 1;
    if seen.parted.is_some() {
        return;
    }
    let schedule = |run: &Evidence| run.setting.schedule.clone().unwrap_or_default();
    let difference = parting(payload, model)
        .map(|parting| format!("payload and model part {parting}"))
        .or_else(|| {
            let (payload, model) = (judge(payload).broken(), judge(model).broken());
            (payload != model).then(|| {
                format!(
                    "the payload breaks {}, the model {}",
                    names(&payload),
                    names(&model)
                )
            })
        });
    seen.parted = difference.map(|difference| {
        let (payload, model) = (schedule(payload), schedule(model));
        format!("{difference} (payload schedule {payload}, model schedule {model})")
    });
}

fn learn(seen: &mut Seen, evidence: &Evidence) {
    let verdicts = judge(evidence);
    seen.runs += 1;
    seen.exercised.extend(verdicts.exercised());
    if let vmm_core::evidence::End::CutShort(why) = &evidence.end {
        seen.inconclusive.get_or_insert(why.clone());
    }
    for rule in verdicts.broken() {
        if seen.broken.insert(rule) {
            seen.witnesses.push((rule, evidence.clone()));
        }
    }
}

fn report(
    args: &Args,
    scenario: &Scenario,
    protocol: &Protocol,
    seen: &Seen,
) -> Result<Exit, String> {
    let expected = match args.strategy {
        Strategy::Directed => scenario.expected(protocol.name),
        // Drawing proves nothing about what it did not draw.
        _ => seen
            .broken
            .intersection(&scenario.expected_of_exploration(protocol.name))
            .copied()
            .collect(),
    };
    let as_expected =
        seen.broken == expected && seen.inconclusive.is_none() && seen.parted.is_none();
    for (rule, evidence) in &seen.witnesses {
        let schedule = evidence.setting.schedule.as_deref().unwrap_or_default();
        if !args.quiet && !args.json {
            print(&format!(
                "{rule} is broken by {} under {}:\n",
                scenario.name, protocol.name
            ));
            print_run(evidence, &judge(evidence), false);
            print(&format!(
                "repeat: vmm run {}{} --subject payload:{} --schedule {schedule}\n\n",
                args.scenario, args.conditions, protocol.name
            ));
        }
    }
    if let (Some(dir), Some((_, evidence))) = (&args.out, seen.witnesses.first()) {
        write(dir, evidence)?;
    }
    if args.json {
        let list = |rules: &BTreeSet<Rule>| -> Vec<&str> {
            rules.iter().map(|rule| rule.name()).collect()
        };
        let value = serde_json::json!({
            "format": 1,
            "scenario": scenario.name,
            "subject": format!("payload:{}", protocol.name),
            "as_expected": as_expected,
            "broken": list(&seen.broken),
            "exercised": list(&seen.exercised),
            "runs": seen.runs,
            "compared": seen.compared,
            "parted": seen.parted,
            "inconclusive": seen.inconclusive,
        });
        print(&format!("{value}\n"));
    } else {
        let mut line = format!(
            "{:<24} {:<13} {}",
            scenario.name,
            protocol.name,
            outcome(&seen.broken, &expected)
        );
        if let Some(why) = &seen.inconclusive {
            line += &format!("; inconclusive: {why}");
        }
        if args.against_model {
            line += &match &seen.parted {
                None => format!("; the model does the same in {} of them", seen.compared),
                Some(difference) => format!("; surprise: {difference}"),
            };
        }
        print(&format!("{line} ({} runs on KVM)\n", seen.runs));
    }
    Ok(if as_expected {
        Exit::Expected
    } else {
        Exit::Surprise
    })
}
