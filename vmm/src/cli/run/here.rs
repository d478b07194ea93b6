//! `vmm run` where there is KVM.

use std::fmt;
use std::time::{Duration, Instant};

use guest_abi::protocol::Protocol;
use vmm_core::choose::{Choose, Directed, Replay, Schedule};
use vmm_core::evidence::{Event, Evidence, Places, Rows, Setting, What, without_repeats};
use vmm_core::oracle::{Breach, Rule, Verdict, Verdicts, judge};
use vmm_core::scenario::{Hold, Outcome, Scenario};

use super::{Args, Subject, Wanted};
use crate::cli::Exit;
use crate::cli::debug::{Recorded, Tale};
use crate::cli::interrupt::{Interrupt, Watching};
use crate::cli::judge::{
    json, names, outcome, print_verdicts, print_witnesses, write, write_trace,
};
use crate::cli::stdout::print;
use crate::conductor::{Reason, Stopper};
use crate::kvm::KvmVcpu;
use crate::lab::inside;
use crate::subject::{Debug, Hear, linux, payload};

/// How a run is debugged, and the tale that is told of it.
pub(in crate::cli) type Debugged<'a> = (Debug<'a>, &'a Tale);

/// Runs what the command line asks for, one run after the other.
pub(in crate::cli) fn run(args: &Args, debugged: Option<Debugged<'_>>) -> Result<Exit, String> {
    let wanted = args.wanted()?;
    let interrupt =
        Interrupt::watch().map_err(|error| format!("cannot watch for signals: {error}"))?;
    let begun = Instant::now();
    let (mut made, mut surprises) = (0, 0);
    let mut worst = Exit::Expected;
    let runs = wanted.subjects.iter().flat_map(|subject| {
        (0..args.repeat).map(move |number| (subject, args.seed.wrapping_add(number)))
    });
    for (subject, seed) in runs {
        let exit = match one(args, &wanted, subject, seed, &interrupt, debugged) {
            Ok(as_expected) => {
                made += 1;
                surprises += u64::from(!as_expected);
                if as_expected {
                    Exit::Expected
                } else {
                    Exit::Surprise
                }
            }
            Err(Failed::Here(why)) => {
                print(&format!(
                    "{:<24} {:<13} cannot run here: {why}\n",
                    wanted.scenario.name,
                    name_of(subject)
                ));
                Exit::CannotRunHere
            }
            Err(Failed::Signal(signal)) => return Ok(Exit::Signal(signal)),
            Err(Failed::Unfit(why)) => {
                if args.json {
                    print(&format!("{}\n", serde_json::json!({ "cannot_run": why })));
                }
                return Err(why);
            }
            Err(Failed::Error(error)) => return Err(error),
        };
        worst = match (worst, exit) {
            (Exit::Surprise, _) | (_, Exit::Surprise) => Exit::Surprise,
            // Several runs of which some cannot be made here are as good as those that can.
            (_, Exit::CannotRunHere) if wanted.subjects.len() > 1 => worst,
            (_, exit) => exit,
        };
    }
    if made > 1 && args.repeat > 1 && !args.json {
        print(&format!(
            "{made} runs, {surprises} surprises, {:.1} verdicts a second\n",
            made as f64 / begun.elapsed().as_secs_f64()
        ));
    }
    Ok(worst)
}

/// Whether there is one run alone, which is then told from its first event on.
fn is_one(args: &Args, wanted: &Wanted) -> bool {
    wanted.subjects.len() == 1 && args.repeat == 1
}

/// Why there is no verdict.
enum Failed {
    Here(String),
    Signal(i32),
    /// This kernel cannot do it.
    Unfit(String),
    Error(String),
}

impl From<String> for Failed {
    fn from(error: String) -> Self {
        Failed::Error(error)
    }
}

impl From<payload::Error> for Failed {
    fn from(error: payload::Error) -> Self {
        match error {
            payload::Error::Unfit(unfit) if unfit.is_of_a_host() => Failed::Here(unfit.to_string()),
            payload::Error::Signal(signal) => Failed::Signal(signal),
            error => Failed::Error(error.to_string()),
        }
    }
}

impl From<linux::Error> for Failed {
    fn from(error: linux::Error) -> Self {
        match error {
            linux::Error::Signal(signal) => Failed::Signal(signal),
            // Its init has said what this kernel lacks.
            error @ linux::Error::Init { .. } => Failed::Unfit(error.to_string()),
            linux::Error::Unfit(unfit) => Failed::Unfit(unfit.to_string()),
            error => Failed::Error(error.to_string()),
        }
    }
}

/// What a run's line says of its subject.
fn name_of(subject: &Subject) -> &str {
    match subject {
        Subject::Payload(protocol) => protocol.name,
        Subject::Linux { name, .. } => name,
    }
}

/// One run: prints it, and says whether it went as expected.
fn one(
    args: &Args,
    wanted: &Wanted,
    subject: &Subject,
    seed: u64,
    interrupt: &Interrupt,
    debugged: Option<Debugged<'_>>,
) -> Result<bool, Failed> {
    let mut hearer = Hearer {
        interrupt,
        watching: None,
        rows: None,
        tale: debugged.map(|(_, tale)| tale),
        shown: !args.quiet && !args.json && is_one(args, wanted),
    };
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let host = if inside() { "kvm in the lab" } else { "kvm" };
    let (debug, tale) = (
        debugged.map(|(debug, _)| debug),
        debugged.map(|(_, tale)| tale),
    );
    let mut reset = None;
    let evidence = match subject {
        Subject::Payload(protocol) => {
            let options = payload::Options {
                payload: &wanted.payload,
                real_time: args.real_time,
                seed,
                swap: args.swap,
                deadline,
                host,
                debug,
                hear: &mut hearer,
            };
            of_payload(args, &wanted.scenario, protocol, options, tale)?
        }
        Subject::Linux { name, files } => {
            let options = linux::Options {
                name,
                files,
                vmlinux: args.vmlinux.as_deref(),
                judged_as: args.judged_as,
                ack: args.ack,
                capture: wanted.capture.as_deref(),
                crashkernel: args.crashkernel.unwrap_or(linux::CRASHKERNEL),
                warm_reset: args.warm_reset,
                seed,
                deadline,
                host,
                debug,
                hear: &mut hearer,
            };
            let ran = linux::run(&wanted.scenario, options)?;
            reset = ran.reset;
            ran.evidence
        }
    };
    let verdicts = judge(&evidence);
    if let Some(dir) = &args.out {
        write(dir, &evidence)?;
    }
    if let Some(path) = &args.trace {
        write_trace(path, &evidence, &verdicts)?;
    }
    let as_expected = report(args, wanted, subject, &evidence, &verdicts);
    match reset {
        Some(error) => Err(error.into()),
        None => Ok(as_expected),
    }
}

fn of_payload(
    args: &Args,
    scenario: &Scenario,
    protocol: &'static Protocol,
    options: payload::Options<'_>,
    tale: Option<&Tale>,
) -> Result<Evidence, Failed> {
    let go = |strategy: &mut dyn Choose| match tale {
        Some(tale) => {
            tale.chooses(payload::origin(scenario, protocol));
            let mut strategy = Recorded { strategy, tale };
            payload::run(scenario, protocol, &mut strategy, options)
        }
        None => payload::run(scenario, protocol, strategy, options),
    };
    let Some(text) = &args.schedule else {
        return Ok(go(&mut Directed)?.evidence);
    };
    let mut replay = replay(text, scenario, protocol)?;
    let run = go(&mut replay)?;
    let fitted = replay.fitted();
    fitted.map_err(|error| format!("--schedule: {error}"))?;
    Ok(run.evidence)
}

fn replay(text: &str, scenario: &Scenario, protocol: &Protocol) -> Result<Replay, String> {
    let schedule: Schedule = text
        .parse()
        .map_err(|error| format!("--schedule: {error}"))?;
    schedule
        .replay(&payload::origin(scenario, protocol))
        .map_err(|error| format!("--schedule: {error}"))
}

fn report(
    args: &Args,
    wanted: &Wanted,
    subject: &Subject,
    evidence: &Evidence,
    verdicts: &Verdicts,
) -> bool {
    let scenario = &wanted.scenario;
    let came = Outcome::of(scenario, evidence, verdicts);
    let as_expected = came.is_as_expected();
    if args.json {
        print(&format!("{}\n", json(evidence, verdicts, &came)));
        return as_expected;
    }
    let alone = is_one(args, wanted);
    if !args.quiet && alone {
        print("\n");
        print_verdicts(verdicts);
    }
    let mut line = format!(
        "{:<24} {:<13} {}",
        scenario.name,
        name_of(subject),
        outcome(&came.broken, &came.expected)
    );
    if !came.untested.is_empty() {
        let untested = names(&came.untested);
        line += &format!("; inconclusive: {untested} not exercised");
        line += &never_came(scenario, evidence);
    }
    if let Some(why) = verdicts.0.iter().find_map(|(_, verdict)| match verdict {
        Verdict::Inconclusive(why) => Some(why),
        _ => None,
    }) {
        line += &format!("; inconclusive: {why}");
    }
    print(&format!("{line}\n"));
    // What it takes to believe it, where no trace has told it.
    if args.quiet == alone {
        for (rule, verdict) in &verdicts.0 {
            if let Verdict::Broken(breach) = verdict {
                print(&format!("    {rule}: {breach}\n"));
                if let Some(shown) = shown_by(*rule, breach, evidence) {
                    print(&format!("        {shown}\n"));
                }
            }
        }
    }
    if alone || !args.quiet {
        print_witnesses(evidence);
    }
    if !as_expected || !args.quiet && alone {
        let setting = &evidence.setting;
        let mut more = String::new();
        match subject {
            Subject::Payload(_) => {
                if let Some(swap) = args.swap {
                    more += &format!(" --swap {swap}");
                }
                more += " --schedule ";
                more += setting.schedule.as_deref().unwrap_or_default();
            }
            Subject::Linux { .. } => {
                if args.warm_reset {
                    more += " --warm-reset";
                }
                if let Some(path) = &args.vmlinux {
                    more += &format!(" --vmlinux {}", path.display());
                }
                if let Some(protocol) = args.judged_as {
                    more += &format!(" --as {}", protocol.name);
                }
                if let Some(word) = args.ack {
                    more += &format!(" --ack {word}");
                }
            }
        }
        print(&format!(
            "repeat: vmm run {}{} --subject {} --seed {}{more}\n",
            args.scenario,
            args.conditions,
            setting.subject,
            setting.seed.unwrap_or_default(),
        ));
    }
    as_expected
}

/// The holds that never began, in words.
fn never_came(scenario: &Scenario, evidence: &Evidence) -> String {
    let began = |hold: &Hold| {
        evidence.events.iter().any(|event| {
            let held = matches!(event.what, What::Holds { at, .. } if at == Some(hold.at));
            event.cpu == hold.cpu && held
        })
    };
    let missing = scenario.holds.iter().filter(|hold| !began(hold));
    missing
        .map(|hold| format!("; CPU {} never came to {}", hold.cpu, hold.at))
        .collect()
}

/// The registers or the words that a broken rule is about.
fn shown_by(rule: Rule, breach: &Breach, evidence: &Evidence) -> Option<String> {
    let own = evidence
        .events
        .iter()
        .filter(|event| event.cpu == breach.cpu);
    match rule {
        Rule::AckAfterSave | Rule::NoteTrue | Rule::NoteOnce => {
            let met = own.clone().find_map(|event| match &event.what {
                What::Takes { regs, .. } => Some(regs.as_ref()),
                _ => None,
            });
            let before = |at: &usize| breach.event.is_none_or(|breach| *at < breach);
            let events = evidence.events.iter().enumerate();
            let note = events
                .filter(|(at, event)| event.cpu == breach.cpu && before(at))
                .filter_map(|(_, event)| match &event.what {
                    What::Notes(note) => Some(note),
                    _ => None,
                })
                .next_back();
            let met = match met {
                None => "never interrupted".to_owned(),
                Some(None) => "interrupted, and its registers were not read".to_owned(),
                Some(Some(regs)) => {
                    let at = evidence.places.describe(regs.pc);
                    format!("interrupted at {at} with sp {:#x}", regs.sp)
                }
            };
            let note = note.map_or("empty".to_owned(), |note| {
                let regs = note.regs();
                let at = evidence.places.describe(regs.pc);
                format!("{}, pc {at}, sp {:#x}", note.state(), regs.sp)
            });
            Some(format!("CPU {}: {met}; its note then: {note}", breach.cpu))
        }
        // The line that the stop met shows it.
        Rule::Spared | Rule::ConsoleIntact => None,
        _ => {
            let said: Vec<&str> = own
                .filter_map(|event| match &event.what {
                    What::Logs { text, .. } => Some(&**text),
                    _ => None,
                })
                .collect();
            Some(match said.last() {
                Some(text) => format!(
                    "CPU {} last said: \"{}\"",
                    breach.cpu,
                    without_repeats(text)
                ),
                None => format!("CPU {} said nothing", breach.cpu),
            })
        }
    }
}

/// Prints the trace as it happens, and passes signals on.
struct Hearer<'a> {
    interrupt: &'a Interrupt,
    watching: Option<Watching<'a>>,
    rows: Option<Rows>,
    tale: Option<&'a Tale>,
    shown: bool,
}

impl Hear for Hearer<'_> {
    fn starts(&mut self, stopper: Stopper<KvmVcpu>, about: &dyn fmt::Display) {
        if self.shown {
            print(&format!("{about}\n"));
        }
        let stop = move |signal| stopper.stop(Reason::Signal(signal));
        // The one for a run before goes first: it takes with it what is called.
        self.watching = None;
        self.watching = Some(self.interrupt.calls(Box::new(stop)));
    }

    fn begins(&mut self, setting: &Setting, places: &Places) {
        if let Some(tale) = self.tale {
            tale.begins(setting, places);
        }
        if self.shown {
            let judged = &setting.protocol;
            if judged.name == "unknown" {
                print(&format!("judged without a table: {}\n", judged.table));
            }
            self.rows = Some(Rows::new(setting, places));
            print(&format!("{}\n", Rows::header()));
        }
    }

    fn event(&mut self, event: &Event) {
        if let Some(tale) = self.tale {
            tale.event(event);
        }
        if let Some(rows) = &mut self.rows {
            print(&format!("{}\n", rows.row(event)));
        }
    }
}
