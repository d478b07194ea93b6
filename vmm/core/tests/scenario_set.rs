//! Every scenario under every protocol: as it is directed, and in every order.

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use guest_abi::protocol::{PROTOCOLS, Protocol};
use support::{family, kept, names, scenario, scenarios};
use vmm_core::choose::{Directed, Exhaustive, Random, Schedule, shrink};
use vmm_core::evidence::Evidence;
use vmm_core::model::{self, Explored, Limits, Reduction};
use vmm_core::oracle::{Rule, judge};
use vmm_core::scenario::Scenario;

/// A fault that is found is shown by a schedule of at most so many deviations.
const DEVIATIONS: usize = 20;

fn explored(scenario: &Scenario, protocol: &Protocol, reduction: Reduction) -> Explored {
    let explored = model::explore(
        scenario,
        protocol,
        reduction,
        Limits::default(),
        &mut |_| true,
    );
    explored.expect("the scenario fits the model")
}

/// Each scenario, and each of its variants that the model has CPUs for.
fn scenarios_and_variants() -> Vec<Scenario> {
    let all = scenarios().into_iter().flat_map(|scenario| {
        let family = family(&scenario.name);
        std::iter::once(family.own).chain(family.variants)
    });
    all.filter(|scenario| scenario.cpus <= model::MAX_CPUS)
        .collect()
}

#[test]
fn every_scenario_says_what_it_expects_of_every_protocol() {
    for scenario in scenarios_and_variants() {
        for protocol in PROTOCOLS {
            assert!(
                scenario.expect.contains_key(protocol.name),
                "{}: {}",
                scenario.name,
                protocol.name
            );
        }
    }
}

#[test]
fn directed_runs_break_exactly_what_is_expected() {
    for scenario in scenarios_and_variants() {
        for protocol in PROTOCOLS {
            let run = model::run(&scenario, protocol, &mut Directed).expect("it fits the model");
            let verdicts = judge(&run.evidence);
            assert_eq!(
                names(&verdicts.broken()),
                names(&scenario.expected(protocol.name)),
                "{} with {} under {}",
                scenario.name,
                scenario.conditions(),
                protocol.name
            );
            let untested: BTreeSet<Rule> = scenario
                .exercises
                .difference(&verdicts.exercised())
                .copied()
                .collect();
            assert_eq!(
                names(&untested),
                "",
                "{} with {} under {}: not exercised",
                scenario.name,
                scenario.conditions(),
                protocol.name
            );
        }
    }
}

#[test]
fn every_order_breaks_exactly_what_is_expected_and_each_fault_has_a_short_schedule() {
    let mut table = String::from(
        "# scenario protocol states schedules; kept by vmm/core/tests/scenario_set.rs\n",
    );
    for scenario in scenarios() {
        for protocol in PROTOCOLS {
            let explored = explored(&scenario, protocol, Reduction::PrivateSteps);
            let at = format!("{} {}", scenario.name, protocol.name);
            assert!(explored.complete, "{at}");
            assert_eq!(
                names(&explored.broken()),
                names(&scenario.expected_of_exploration(protocol.name)),
                "{at}"
            );
            writeln!(table, "{at} {} {}", explored.states, explored.schedules)
                .expect("a String takes all");
            for rule in explored.broken() {
                let found = explored
                    .witness(rule)
                    .expect("a broken rule has a run that breaks it");
                let breaks = |evidence: &Evidence| judge(evidence).broken().contains(&rule);
                let small = shrink(found.taken.clone(), |mut segments| {
                    let run =
                        model::run(&scenario, protocol, &mut segments).expect("it fits the model");
                    breaks(&run.evidence).then_some(run.taken)
                });
                let schedule = Schedule::new(model::origin(&scenario, protocol), &small);
                assert!(
                    schedule.deviations() <= DEVIATIONS,
                    "{at}: {rule} needs {schedule}"
                );
                let schedule: Schedule = schedule
                    .to_string()
                    .parse()
                    .expect("a schedule reads its own text");
                let mut strategy = schedule
                    .replay(&model::origin(&scenario, protocol))
                    .expect("it belongs here");
                let run =
                    model::run(&scenario, protocol, &mut strategy).expect("it fits the model");
                assert_eq!(strategy.fitted(), Ok(()), "{at}: {rule}");
                assert!(
                    breaks(&run.evidence),
                    "{at}: {rule} is not broken by {schedule}"
                );
            }
        }
    }
    kept("vmm/core/tests/explored.txt", &table);
}

/// Acceptance of the design, in its own words.
#[test]
fn the_faults_of_the_seed_are_found_and_mended_where_they_should_be() {
    let broken = |name: &str, protocol: &str| {
        let scenario = scenario(name);
        let protocol = Protocol::named(protocol).expect("the protocol is known");
        explored(&scenario, protocol, Reduction::PrivateSteps).broken()
    };
    for rule in [Rule::Spared, Rule::ConsoleIntact] {
        assert!(broken("console-locked", "nmi-only").contains(&rule));
    }
    let found = [
        ("v1-1-empty-note", Rule::AckAfterSave, false),
        ("v1-2a-nested-nmi", Rule::NoteTrue, false),
        ("v1-2b-note-twice", Rule::NoteOnce, false),
        ("v1-3-two-senders", Rule::OneSender, true),
        ("v1-4-two-panics", Rule::HonestList, true),
        ("v1-5-unplug", Rule::HonestList, true),
        ("v1-4-two-panics", Rule::AckAfterSave, true), // E3
        ("e4-nmi-at-the-door", Rule::NoteTrue, true),  // E4
    ];
    for (scenario, rule, also_corrected) in found {
        assert!(
            broken(scenario, "v1-proposal").contains(&rule),
            "{scenario}: {rule}"
        );
        assert_eq!(
            broken(scenario, "v1-corrected").contains(&rule),
            also_corrected,
            "{scenario}: {rule}"
        );
    }
    for protocol in ["irq-only", "nmi-only"] {
        assert!(
            broken("v1-3-two-senders", protocol).contains(&Rule::OneSender),
            "{protocol}"
        );
        assert!(
            broken("v1-4-two-panics", protocol).contains(&Rule::HonestList),
            "{protocol}"
        );
    }
    // The two protocols of today, over all scenarios: nothing but the known edges and the findings.
    for scenario in scenarios() {
        for name in ["irq-then-nmi", "irq-nmi-sdei"] {
            let protocol = Protocol::named(name).expect("the protocol is known");
            let here = |scenarios: &[&str]| {
                scenarios.contains(&"*") || scenarios.contains(&scenario.name.as_str())
            };
            let known: BTreeSet<Rule> = KNOWN
                .iter()
                .filter(|(_, scenarios)| here(scenarios))
                .map(|(rule, _)| *rule)
                .collect();
            let broken = explored(&scenario, protocol, Reduction::PrivateSteps).broken();
            let surprises: BTreeSet<Rule> = broken.difference(&known).copied().collect();
            assert_eq!(names(&surprises), "", "{} under {name}", scenario.name);
        }
    }
}

/// What today's protocols break, and where.
const KNOWN: &[(Rule, &[&str])] = &[
    // E1, up to v7.2.
    (Rule::StaysStopped, &["e1-nmi-after-ack", "any-nmi-plain-3"]),
    // E2; and finding 3.
    (
        Rule::StoppedOnReturn,
        &[
            "e2-panic-in-restart",
            "v1-3-two-senders",
            "any-restart-panic-3",
            "any-restart-panic-plain-3",
            "any-online-3",
        ],
    ),
    // E3.
    (Rule::AckAfterSave, &["v1-4-two-panics", "any-two-panics-3"]),
    // E4, wherever an NMI may follow an interrupt.
    (Rule::NoteTrue, &["*"]),
    // Finding 1.
    (Rule::Bounded, &["restart-stalled"]),
    // Finding 2.
    (Rule::NoteOnce, &["any-sdei-3"]),
];

#[test]
fn the_reduction_loses_no_verdict() {
    let mut table = String::from(
        "# scenario protocol states-without states-with sets-of-broken-rules; kept by vmm/core/tests/scenario_set.rs\n",
    );
    let mut totals = (0, 0);
    for scenario in scenarios()
        .iter()
        .filter(|scenario| scenario.cpus <= 3 && scenario.name != "any-two-talk-3")
    {
        for protocol in PROTOCOLS {
            let without = explored(scenario, protocol, Reduction::None);
            let with = explored(scenario, protocol, Reduction::PrivateSteps);
            let at = format!("{} {}", scenario.name, protocol.name);
            let sets =
                |explored: &Explored| explored.outcomes.keys().map(names).collect::<Vec<_>>();
            assert_eq!(sets(&without), sets(&with), "{at}");
            assert_eq!(without.exercised, with.exercised, "{at}");
            assert!(without.schedules >= with.schedules, "{at}");
            totals = (totals.0 + without.states, totals.1 + with.states);
            writeln!(
                table,
                "{at} {} {} {}",
                without.states,
                with.states,
                with.outcomes.len()
            )
            .expect("a String takes all");
        }
    }
    writeln!(table, "all of them {} {}", totals.0, totals.1).expect("a String takes all");
    kept("vmm/core/tests/reduction.txt", &table);
}

const TWO_CPUS: &str = r#"
format = 1
name = "two"
why = "Small enough to make every run."
source = "none"
cpus = 2
stop = "crash"
after = "kexec"
[[trigger]]
cpu = 0
does = "panic"
"#;

#[test]
fn remembering_states_loses_no_verdict() {
    let scenario = Scenario::parse("two", TWO_CPUS).expect("it parses");
    for protocol in PROTOCOLS {
        let by_states = explored(&scenario, protocol, Reduction::None);
        let mut sets = BTreeSet::new();
        let mut runs = 0;
        let mut strategy = Exhaustive::default();
        while strategy.next_run() {
            let run = model::run(&scenario, protocol, &mut strategy).expect("it fits the model");
            sets.insert(judge(&run.evidence).broken());
            runs += 1;
            strategy.end_run();
        }
        assert_eq!(by_states.schedules, runs, "{}", protocol.name);
        assert!(
            sets.iter().eq(by_states.outcomes.keys()),
            "{}",
            protocol.name
        );
    }
}

#[test]
fn a_seed_repeats_its_run_and_its_schedule_too() {
    let scenario = scenario("any-crash-3");
    for protocol in PROTOCOLS {
        for seed in 0..50 {
            let run = |seed| {
                model::run(&scenario, protocol, &mut Random::new(seed)).expect("it fits the model")
            };
            let first = run(seed);
            assert_eq!(run(seed).evidence, first.evidence);
            let schedule = Schedule::new(model::origin(&scenario, protocol), &first.taken);
            let mut strategy = schedule
                .replay(&model::origin(&scenario, protocol))
                .expect("it belongs here");
            let again = model::run(&scenario, protocol, &mut strategy).expect("it fits the model");
            assert_eq!(again.evidence, first.evidence);
            let files = first.evidence.to_files();
            assert_eq!(
                Evidence::from_files(&files).expect("it reads its own files"),
                first.evidence
            );
        }
    }
}
