//! What the documents show is what the model does: traces, rules, points and scenarios in docs/ are written by
//! this test (HOLDPOINT_UPDATE=1) and compared by it.

mod support;

use std::fmt::Write as _;
use std::path::Path;

use guest_abi::point::Point;
use guest_abi::protocol::{PROTOCOLS, Protocol};
use support::{kept, scenario, scenarios};
use vmm_core::choose::{Schedule, Taken};
use vmm_core::model;
use vmm_core::oracle::{ROWS, judge, trace};

/// What a document leaves out of a trace: the wire, the sender's own use of the console, and the count that
/// follows the online mask.
fn left_out(line: &str) -> bool {
    let (cpu, event) = (
        line.get(10..14).unwrap_or_default(),
        line.get(15..).unwrap_or_default(),
    );
    event.starts_with("wire ")
        || event.starts_with("clears itself in online-count")
        || cpu == "   0" && event.contains(" the critical section")
}

/// A run as a document shows it: the command that repeats it, and its trace.
fn shown(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let [
        "$",
        "vmm",
        "explore",
        name,
        "--protocol",
        protocol,
        "--schedule",
        schedule,
    ] = words[..]
    else {
        panic!("a document shows `{command}`, which this test does not know");
    };
    let scenario = scenario(name);
    let protocol = Protocol::named(protocol).expect("the protocol is known");
    // The answers are the document's; what they belong to is brought up to date.
    let answers = schedule
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .split(',')
        .filter(|answer| !answer.is_empty());
    let answer = |answer: &str| {
        let (at, answer) = answer.split_once('=').expect("a schedule's answer");
        (
            at.parse().expect("a decision"),
            answer.parse().expect("an answer"),
        )
    };
    let taken = Taken {
        deviations: answers.map(answer).collect(),
        ..Taken::default()
    };
    let schedule: Schedule = Schedule::new(model::origin(&scenario, protocol), &taken);
    let mut strategy = schedule
        .replay(&model::origin(&scenario, protocol))
        .expect("it belongs here");
    let run = model::run(&scenario, protocol, &mut strategy).expect("it fits the model");
    assert_eq!(strategy.fitted(), Ok(()), "{command}");
    let mut text = format!(
        "$ vmm explore {name} --protocol {} --schedule {schedule}\n",
        protocol.name
    );
    let verdicts = judge(&run.evidence);
    for line in trace(&run.evidence, &verdicts)
        .lines()
        .filter(|line| !left_out(line))
    {
        writeln!(text, "{}", line.trim_end()).expect("a String takes all");
    }
    text
}

fn rules() -> String {
    let mut text = String::new();
    for row in &ROWS {
        writeln!(
            text,
            "- **{}**: {} Source: {}. Not exercised if {}.",
            row.rule, row.owes, row.source, row.missing
        )
        .expect("a String takes all");
    }
    text
}

fn points() -> String {
    let mut text = String::from(
        "| point | id | a CPU is caught there before | Linux |\n| --- | --- | --- | --- |\n",
    );
    for point in Point::ALL {
        let linux: Vec<String> = point
            .linux()
            .iter()
            .map(|place| format!("{place:?}"))
            .collect();
        writeln!(
            text,
            "| `{point}` | {} |{} | {} |",
            point.id(),
            point.meaning(),
            linux.join(", ")
        )
        .expect("a String takes all");
    }
    text
}

fn set() -> String {
    let mut text =
        String::from("| scenario | why | broken by the directed run | broken by some order |\n");
    text += "| --- | --- | --- | --- |\n";
    for scenario in scenarios() {
        let cell = |expected: &dyn Fn(&str) -> Vec<String>| {
            let by = PROTOCOLS
                .iter()
                .map(|protocol| (protocol.name, expected(protocol.name)));
            let by: Vec<String> = by
                .filter(|(_, rules)| !rules.is_empty())
                .map(|(name, rules)| format!("{name}: {}", rules.join(" ")))
                .collect();
            if by.is_empty() {
                "nothing".to_owned()
            } else {
                by.join("; ")
            }
        };
        let directed = cell(&|name| {
            scenario
                .expected(name)
                .iter()
                .map(|rule| rule.to_string())
                .collect()
        });
        let explored = cell(&|name| {
            scenario
                .expected_of_exploration(name)
                .iter()
                .map(|rule| rule.to_string())
                .collect()
        });
        let explored = if explored == directed {
            "the same".to_owned()
        } else {
            explored
        };
        writeln!(
            text,
            "| `{}` | {} | {directed} | {explored} |",
            scenario.name, scenario.why
        )
        .expect("a String takes all");
    }
    text
}

fn mutants() -> String {
    let mut text = String::from(
        "| rule | damages that break it | of these, caught by it alone |\n| --- | --- | --- |\n",
    );
    for line in include_str!("mutants.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        writeln!(text, "| {} |", line.replace(' ', " | ")).expect("a String takes all");
    }
    text
}

fn protocols() -> String {
    PROTOCOLS
        .iter()
        .map(|protocol| format!("```\n{protocol}```\n\n"))
        .collect()
}

fn reduction() -> String {
    let all = include_str!("reduction.txt")
        .lines()
        .last()
        .unwrap_or_default();
    let words: Vec<&str> = all.split(' ').collect();
    format!(
        "Over all scenarios of at most 3 CPUs but `any-two-talk-3`, under all protocols: {} states without the \
         reduction, {} with it.\n",
        words.get(3).unwrap_or(&"?"),
        words.get(4).unwrap_or(&"?")
    )
}

/// The document with its parts made anew: blocks that begin with `$ vmm explore`, and what stands between
/// `<!-- kept: NAME -->` and `<!-- end -->`.
fn renewed(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        writeln!(out, "{line}").expect("a String takes all");
        if line == "```"
            && lines
                .peek()
                .is_some_and(|next| next.starts_with("$ vmm explore"))
        {
            out += &shown(lines.next().expect("it was peeked"));
            while lines.peek().is_some_and(|line| *line != "```") {
                lines.next();
            }
            writeln!(out, "{}", lines.next().unwrap_or("```")).expect("a String takes all");
        } else if let Some(name) = line
            .strip_prefix("<!-- kept: ")
            .and_then(|rest| rest.strip_suffix(" -->"))
        {
            out += &match name {
                "rules" => rules(),
                "points" => points(),
                "scenarios" => set(),
                "mutants" => mutants(),
                "protocols" => protocols(),
                "reduction" => reduction(),
                _ => panic!("nobody keeps `{name}`"),
            };
            while lines.peek().is_some_and(|line| *line != "<!-- end -->") {
                lines.next();
            }
        }
    }
    out
}

#[test]
fn documents_show_what_the_model_does() {
    for file in [
        "docs/stop-path.md",
        "docs/oracle.md",
        "docs/findings.md",
        "docs/scenarios.md",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        kept(file, &renewed(&text));
    }
}
