//! Scenarios on the payload, on real KVM: every one under every protocol, as its file expects.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Command};

use e2e::{Lab, Vmm, payload, read, root};
use libtest_mimic::Trial;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use crate::SharedLab;

/// Orders that payload and model are compared on in `make test`, for each of these.
const COMPARED: [(&str, &str); 4] = [
    ("any-crash-3", "irq-then-nmi"),
    ("any-give-up-3", "nmi-only"),
    ("any-two-panics-3", "v1-proposal"),
    ("any-restart-panic-3", "irq-then-nmi"),
];
const ORDERS: u32 = 80;

pub(crate) fn trials(lab: &SharedLab) -> Vec<Trial> {
    let mut trials: Vec<Trial> = scenarios()
        .into_iter()
        .map(|name| {
            let test = name.clone();
            lab.trial(format!("run::{name}"), move |lab| {
                every_protocol(lab, &test)
            })
        })
        .collect();
    for name in scenarios() {
        let test = name.clone();
        let trial = lab.trial(format!("run::fifty_times_{name}"), move |lab| {
            fifty_times(lab, &test);
        });
        trials.push(trial.with_ignored_flag(true));
    }
    for (scenario, protocol) in COMPARED {
        let test = move |lab: &Lab| agrees_with_the_model(lab, scenario, protocol);
        let name = format!("run::model_and_payload_agree_on_{scenario}_{protocol}");
        trials.push(lab.trial(name, test));
    }
    trials.extend([
        lab.trial("run::notes_are_true_to_the_bit", |lab| {
            notes_are_true_to_the_bit(lab, 1);
        }),
        lab.trial("run::notes_are_true_to_the_bit_ten_thousand_times", |lab| {
            (1..11).for_each(|thousand| notes_are_true_to_the_bit(lab, 1_000 * thousand));
        })
        .with_ignored_flag(true),
        lab.trial("run::swapped_steps_are_caught", swapped_steps_are_caught),
        lab.trial("run::in_real_time", in_real_time),
        lab.trial(
            "run::the_evidence_is_judged_alike",
            the_evidence_is_judged_alike,
        ),
        lab.trial(
            "run::a_payload_that_crashes_or_loops",
            a_payload_that_crashes_or_loops,
        ),
        lab.trial(
            "run::acks_are_caught_at_their_store",
            acks_are_caught_at_their_store,
        ),
        lab.trial("run::what_cannot_be_run", what_cannot_be_run),
    ]);
    trials
}

/// The scenarios of the tree.
fn scenarios() -> Vec<String> {
    let folder = fs::read_dir(root().join("tests/scenarios")).expect("the scenarios are there");
    let mut names: Vec<String> = folder
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn every_protocol(lab: &Lab, scenario: &str) {
    as_expected(lab, scenario, 1);
}

/// Half of them with both host cores loaded.
fn fifty_times(lab: &Lab, scenario: &str) {
    as_expected(lab, scenario, 25);
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut busy: Vec<Child> = (0..cores)
        .map(|_| {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
        })
        .collect::<Result<_, _>>()
        .expect("a shell starts");
    let loaded = catch_unwind(AssertUnwindSafe(|| as_expected(lab, scenario, 25)));
    for busy in &mut busy {
        busy.kill().expect("it is ours");
        busy.wait().expect("it is ours");
    }
    if let Err(panic) = loaded {
        resume_unwind(panic);
    }
}

/// Every protocol, so many times.
fn as_expected(lab: &Lab, scenario: &str, times: usize) {
    let repeat = times.to_string();
    let outcome = lab
        .vmm(["run", scenario, "--json", "--repeat", &repeat])
        .run()
        .exits(0);
    // A protocol that cannot run here says so; every other one is a line of JSON.
    let lines = outcome.stdout.lines();
    let (json, refused): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with('{'));
    assert_eq!(json.len() + refused.len(), 6 * times, "{}", outcome.story());
    if scenario == "late-stores" {
        let only = |line: &&str| line.contains("only the model can make that");
        assert!(refused.iter().all(only) && json.is_empty());
        return;
    }
    for line in json {
        let run: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(run["as_expected"], true, "{run:#}");
    }
    for line in refused {
        assert!(line.contains("this host has no SDEI"), "{line}");
    }
}

/// By a watchpoint on the word that each protocol has for them.
fn acks_are_caught_at_their_store(lab: &Lab) {
    for (protocol, word) in [
        ("irq-only", "counter"),
        ("irq-then-nmi", "online-mask"),
        ("v1-corrected", "stop-mask"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let subject = format!("payload:{protocol}");
        lab.vmm([
            "run",
            "v1-5-unplug",
            "--subject",
            &subject,
            "--out",
            "evidence",
        ])
        .within(folder.path())
        .run()
        .exits(0)
        .says(", 4 of ");
        let events = fs::read_to_string(folder.path().join("evidence/events.txt")).unwrap();
        let clears: Vec<&str> = events
            .lines()
            .filter(|line| line.contains(" clears word="))
            .collect();
        let acks = format!("clears word={word} by=handler");
        assert!(clears.iter().any(|line| line.contains(&acks)), "{events}");
        assert!(
            clears.iter().all(|line| line.contains(" trapped ")),
            "{clears:#?}"
        );
    }
}

fn agrees_with_the_model(lab: &Lab, scenario: &str, protocol: &str) {
    let subject = format!("payload:{protocol}");
    let orders = ORDERS.to_string();
    let outcome = lab
        .vmm([
            "explore",
            scenario,
            "--subject",
            &subject,
            "--strategy",
            "random",
            "--runs",
            &orders,
            "--against-model",
            "--json",
        ])
        .run()
        .exits(0);
    let seen: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(seen["compared"], ORDERS, "{seen:#}");
    assert_eq!(seen["parted"], serde_json::Value::Null, "{seen:#}");
}

/// Eight CPUs a run spin, each at another instruction: 1,000 in all.
fn notes_are_true_to_the_bit(lab: &Lab, seed: u64) {
    let (runs, seed) = (125, seed.to_string());
    let repeat = runs.to_string();
    let arguments = ["run", "wedged-anywhere", "--subject", "payload:nmi-only"];
    let more = ["--seed", &seed, "--repeat", &repeat, "--json"];
    let outcome = lab.vmm(arguments.iter().chain(&more)).run().exits(0);
    let upheld = |line: &&str| {
        let run: serde_json::Value = serde_json::from_str(line).unwrap();
        let rules = run["rules"].as_array().unwrap();
        let note_true = rules
            .iter()
            .find(|rule| rule["rule"] == "note-true")
            .unwrap();
        note_true["verdict"] == "upheld"
    };
    assert_eq!(outcome.stdout.lines().filter(upheld).count(), runs);
}

/// A payload that takes two steps of its table in the wrong order is caught by the rule that docs/oracle.md names for it.
fn swapped_steps_are_caught(lab: &Lab) {
    for (scenario, protocol, swap, rules) in [
        (
            "idle-crash",
            "irq-then-nmi",
            "crash:2",
            &["ack-after-save"][..],
        ),
        ("idle-crash", "v1-corrected", "crash:2", &["ack-after-save"]),
        ("idle-crash", "irq-only", "crash:1", &["ack-after-save"]),
        (
            "v1-2b-note-twice",
            "irq-then-nmi",
            "crash:1",
            &["note-true", "note-once"],
        ),
        (
            "e1-nmi-after-ack",
            "irq-nmi-sdei",
            "plain:1",
            &["stays-stopped"],
        ),
    ] {
        let subject = format!("payload:{protocol}");
        let arguments = ["run", scenario, "--subject", &subject, "--swap", swap];
        let outcome = lab
            .vmm(arguments.iter().chain(&["--repeat", "5", "--json"]))
            .run()
            .exits(1);
        assert_eq!(outcome.stdout.lines().count(), 5);
        for line in outcome.stdout.lines() {
            let run: serde_json::Value = serde_json::from_str(line).unwrap();
            let broken: Vec<&str> = run["rules"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|rule| rule["verdict"] == "broken")
                .map(|rule| rule["rule"].as_str().unwrap())
                .collect();
            assert_eq!(broken, rules, "{scenario} {protocol} {swap}: {run:#}");
        }
    }
}

/// Guest time that is given back, and guest time that is the host's, give the same verdicts.
fn in_real_time(lab: &Lab) {
    for (scenario, protocol) in [
        ("console-locked", "nmi-only"),
        ("console-locked", "irq-then-nmi"),
        ("console-locked-forever", "irq-then-nmi"),
    ] {
        let subject = format!("payload:{protocol}");
        let arguments = ["run", scenario, "--subject", &subject, "--json"];
        let rules = |more: &[&str]| {
            let outcome = lab.vmm(arguments.iter().chain(more)).run().exits(0);
            let run: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
            run["rules"].clone()
        };
        assert_eq!(rules(&[]), rules(&["--real-time"]), "{scenario} {protocol}");
    }
}

fn the_evidence_is_judged_alike(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("evidence");
    let arguments = ["run", "console-locked", "--subject", "payload:nmi-only"];
    let run = lab
        .vmm(
            arguments
                .iter()
                .chain(&["--out", "evidence", "--trace", "run.json"]),
        )
        .within(folder.path())
        .run()
        .exits(0)
        .says("spared             broken         CPU 1")
        .says("console-intact     broken")
        .says("repeat: vmm run console-locked --subject payload:nmi-only --seed 1 --schedule 1:");
    let again = folder.path().join("judged.json");
    let trace = ["--trace", again.to_str().unwrap()];
    let judged = Vmm::new(["judge", out.to_str().unwrap()].iter().chain(&trace));
    let judged = judged.run().exits(0);
    // What came out of the lab is what is made of the evidence here.
    let traces =
        ["run.json", "judged.json"].map(|name| fs::read_to_string(folder.path().join(name)));
    let [run_trace, judged_trace] = traces.map(Result::unwrap);
    assert_eq!(run_trace, judged_trace);
    read("trace.py", &[], &run_trace);
    let verdicts = |text: &str| -> Vec<String> {
        let rules = text.lines().filter(|line| {
            ["upheld", "broken ", "not exercised"]
                .iter()
                .any(|word| line.get(19..).is_some_and(|rest| rest.starts_with(word)))
        });
        rules.map(str::to_owned).collect()
    };
    assert_eq!(verdicts(&run.stdout), verdicts(&judged.stdout));
    assert_eq!(verdicts(&run.stdout).len(), 13);
}

/// Writes a payload of which one function begins with this instruction.
fn damaged(at: &Path, function: &str, instruction: u32) {
    let mut bytes = fs::read(payload()).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(function));
    let address = symbol.expect("the payload has this function").address();
    let section = file
        .sections()
        .find(|section| (section.address()..section.address() + section.size()).contains(&address))
        .unwrap();
    let offset = section.file_range().unwrap().0 + address - section.address();
    let offset = usize::try_from(offset).unwrap();
    bytes[offset..offset + 4].copy_from_slice(&instruction.to_le_bytes());
    fs::write(at, bytes).unwrap();
}

fn a_payload_that_crashes_or_loops(lab: &Lab) {
    const BRANCH_TO_ITSELF: u32 = 0x1400_0000;
    const UNDEFINED: u32 = 0;
    let folder = tempfile::tempdir().unwrap();
    damaged(
        &folder.path().join("loops"),
        "do_handle_IPI",
        BRANCH_TO_ITSELF,
    );
    damaged(&folder.path().join("crashes"), "do_handle_IPI", UNDEFINED);
    let run = |payload: &str| {
        let arguments = ["run", "idle-crash", "--subject", "payload:irq-then-nmi"];
        let more = ["--payload", payload, "--timeout", "20", "-q"];
        lab.vmm(arguments.iter().chain(&more))
            .within(folder.path())
            .run()
            .exits(1)
    };
    run("loops")
        .says("inconclusive: CPU 1 did not come to its next point")
        .says("do_handle_IPI");
    run("crashes").says("inconclusive: the payload reset itself");
}

fn what_cannot_be_run(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(root().join("tests/scenarios/console-locked.toml")).unwrap();
    let edited = text.replace(
        "at = \"console-mid\"\nmanner",
        "at = \"console-count\"\nmanner",
    );
    assert_ne!(edited, text);
    fs::write(folder.path().join("stall.toml"), edited).unwrap();
    for (arguments, words) in [
        (
            &["run", "stall.toml"][..],
            "stall.toml:22: hold[0].manner: a CPU can be stalled only where it polls the UART",
        ),
        (&["run", "no-such"], "there is no scenario `no-such`"),
        (
            &["run", "idle-crash", "--subject", "payload:nmi"],
            "there is no protocol `nmi`",
        ),
        (
            &["run", "idle-crash", "--subject", "linux"],
            "payload:PROTOCOL, linux:NAME or linux:PATH is meant",
        ),
        (
            &["run", "idle-crash", "--out", "here"],
            "add --subject payload:P",
        ),
        (
            &["run", "idle-crash", "--payload", "missing"],
            "cannot read missing",
        ),
        (
            &["run", "idle-crash", "--payload", "stall.toml"],
            "is no payload",
        ),
    ] {
        lab.vmm(arguments)
            .within(folder.path())
            .run()
            .exits(2)
            .complains(words);
    }
}
