//! `vmm judge`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use vmm_core::evidence::{Evidence, Files, MetLine, NAMES, OPTIONAL, Witnesses};
use vmm_core::oracle::{ROWS, Rule, Verdict, Verdicts, judge, trace};
use vmm_core::scenario::{Outcome, Scenario};
use vmm_core::story::{Story, chrome_trace};

use super::Exit;
use super::stdout::print;

/// Judge an evidence folder anew
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder that `--out` of another verb left
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Write the run as trace events, which Perfetto's viewer opens (docs/trace.md)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the verdicts without the trace
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn main(args: Args) -> Exit {
    let evidence = match read(&args.dir) {
        Ok(evidence) => evidence,
        Err(error) => {
            eprintln!("vmm: {error}");
            return Exit::HostOrUsage;
        }
    };
    let verdicts = judge(&evidence);
    let came = match compare(&evidence, &verdicts) {
        Ok(came) => came,
        Err(error) => {
            eprintln!("vmm: {}: {error}", args.dir.display());
            return Exit::HostOrUsage;
        }
    };
    if let Some(path) = &args.trace
        && let Err(error) = write_trace(path, &evidence, &verdicts)
    {
        eprintln!("vmm: {error}");
        return Exit::HostOrUsage;
    }
    if args.json {
        print(&format!("{}\n", json(&evidence, &verdicts, &came)));
    } else {
        print_run(&evidence, &verdicts, args.quiet);
        print(&format!("{}\n", outcome(&came.broken, &came.expected)));
        print_witnesses(&evidence);
    }
    if came.is_as_expected() {
        Exit::Expected
    } else {
        Exit::Surprise
    }
}

/// Reads a folder's own files.
pub(super) fn read(dir: &Path) -> Result<Evidence, String> {
    let mut files = Files::new();
    for name in NAMES.into_iter().chain(OPTIONAL) {
        let path = dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => files.insert(name.to_owned(), bytes),
            // What is missing, the folder's reader names.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
    }
    Evidence::from_files(&files).map_err(|error| format!("{}: {error}", dir.display()))
}

/// Writes a folder's files.
pub(super) fn write(dir: &Path, evidence: &Evidence) -> Result<(), String> {
    let wrong = |path: &Path, error| format!("cannot write {}: {error}", path.display());
    std::fs::create_dir_all(dir).map_err(|error| wrong(dir, error))?;
    let files = evidence.to_files();
    // Those of another run that was kept here.
    for name in OPTIONAL
        .into_iter()
        .filter(|name| !files.contains_key(*name))
    {
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("cannot remove {}: {error}", path.display()));
            }
            _ => {}
        }
    }
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::write(&path, bytes).map_err(|error| wrong(&path, error))?;
    }
    Ok(())
}

/// Writes a run as trace events.
pub(super) fn write_trace(
    path: &Path,
    evidence: &Evidence,
    verdicts: &Verdicts,
) -> Result<(), String> {
    let trace = chrome_trace(&Story::of(evidence, verdicts));
    let text = serde_json::to_string(&trace).expect("a trace is plain data") + "\n";
    std::fs::write(path, text)
        .map_err(|error| format!("cannot write the trace {}: {error}", path.display()))
}

/// What came of the run, by the scenario in the folder.
fn compare(evidence: &Evidence, verdicts: &Verdicts) -> Result<Outcome, String> {
    let scenario =
        Scenario::parse("scenario.toml", &evidence.scenario).map_err(|error| error.to_string())?;
    Ok(Outcome::of(&scenario, evidence, verdicts))
}

/// The trace, and a line for each rule.
pub(super) fn print_run(evidence: &Evidence, verdicts: &Verdicts, quiet: bool) {
    if !quiet {
        print(&trace(evidence, verdicts));
        print("\n");
    }
    print_verdicts(verdicts);
}

/// A line for each rule.
pub(super) fn print_verdicts(verdicts: &Verdicts) {
    for (rule, verdict) in &verdicts.0 {
        let why = match verdict {
            Verdict::Upheld => String::new(),
            Verdict::Broken(breach) => breach.to_string(),
            Verdict::NotExercised(missing) => (*missing).to_owned(),
            Verdict::Inconclusive(why) => why.clone(),
        };
        print(&format!(
            "{}\n",
            format!("{:<18} {:<14} {why}", rule.name(), verdict.name()).trim_end()
        ));
    }
}

/// What became of the line of the console that the stop met, if it met one.
pub(super) fn print_witnesses(evidence: &Evidence) {
    if let Some(line) = MetLine::of(&evidence.events) {
        print(&format!("    the line that the stop met: {line}\n"));
    }
    if let Some(witnesses) = Witnesses::of(evidence) {
        for line in witnesses.to_string().lines() {
            print(&format!("    {line}\n"));
        }
    }
}

/// The words for a set of rules.
pub(super) fn names(rules: &BTreeSet<Rule>) -> String {
    if rules.is_empty() {
        return "nothing".to_owned();
    }
    rules
        .iter()
        .map(|rule| rule.name())
        .collect::<Vec<_>>()
        .join(", ")
}

/// How what was broken compares with what was expected.
pub(super) fn outcome(broken: &BTreeSet<Rule>, expected: &BTreeSet<Rule>) -> String {
    if broken == expected {
        return format!("as expected: {} broken", names(broken));
    }
    let only = |a: &BTreeSet<Rule>, b: &BTreeSet<Rule>| names(&a.difference(b).copied().collect());
    format!(
        "surprise: {} broken, not expected: {}, expected and not broken: {}",
        names(broken),
        only(broken, expected),
        only(expected, broken)
    )
}

/// A run's verdicts as JSON.
pub(super) fn json(evidence: &Evidence, verdicts: &Verdicts, came: &Outcome) -> serde_json::Value {
    let rules: Vec<serde_json::Value> = verdicts
        .0
        .iter()
        .map(|(rule, verdict)| {
            let mut value = serde_json::json!({ "rule": rule.name(), "verdict": verdict.name() });
            match verdict {
                Verdict::Upheld => {}
                Verdict::Broken(breach) => {
                    value["cpu"] = breach.cpu.0.into();
                    value["at_us"] = breach.at_us.into();
                    value["event"] = breach.event.into();
                    value["text"] = breach.text.clone().into();
                }
                Verdict::NotExercised(why) => value["text"] = (*why).into(),
                Verdict::Inconclusive(why) => value["text"] = why.clone().into(),
            }
            value
        })
        .collect();
    assert_eq!(rules.len(), ROWS.len());
    let words =
        |rules: &BTreeSet<Rule>| -> Vec<&str> { rules.iter().map(|rule| rule.name()).collect() };
    let met_line = MetLine::of(&evidence.events).map(|line| {
        let parts = line.parts().map(|(cpu, bytes)| serde_json::json!({ "cpu": cpu.0, "text": bytes.escape_ascii().to_string() }));
        serde_json::json!({ "parts": parts.collect::<Vec<_>>(), "ended": line.is_ended() })
    });
    let witnesses = Witnesses::of(evidence).map(|witnesses| {
        let whole: BTreeMap<_, _> = witnesses.whole().map(|(witness, whole)| (witness.name(), whole)).collect();
        let not_whole = witnesses.not_whole().map(|(text, has)| {
            let has: BTreeMap<_, _> = has.map(|(witness, has)| (witness.name(), has.word())).collect();
            serde_json::json!({ "text": text, "has": has })
        });
        serde_json::json!({ "records": witnesses.records(), "whole": whole, "not_whole": not_whole.collect::<Vec<_>>() })
    });
    serde_json::json!({
        "format": vmm_core::evidence::FORMAT,
        "scenario": evidence.setting.scenario,
        "subject": evidence.setting.subject,
        "protocol": evidence.setting.protocol.name,
        "schedule": evidence.setting.schedule,
        "directed": came.directed,
        "as_expected": came.is_as_expected(),
        "expected": words(&came.expected),
        "untested": words(&came.untested),
        "rules": rules,
        "met_line": met_line,
        "witnesses": witnesses,
    })
}
