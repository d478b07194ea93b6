//! The races that the rounds of review found, each with a schedule that reaches it.

mod support;

use std::fmt::Write as _;

use guest_abi::protocol::{FAILED, Protocol, Request, Word};
use support::{kept, scenario};
use vmm_core::arm::CpuId;
use vmm_core::choose::{Random, Schedule, Segments, Taken, shrink};
use vmm_core::evidence::{Event, Evidence, Hand, Onward, What};
use vmm_core::model::{self, Limits, Reduction};
use vmm_core::oracle::{Rule, judge};

/// An edge: where to look for it, and how to know it.
struct Edge {
    name: &'static str,
    scenario: &'static str,
    protocol: &'static str,
    reached: fn(&Evidence) -> bool,
}

fn breaks(evidence: &Evidence, rule: Rule) -> bool {
    judge(evidence).broken().contains(&rule)
}

/// The place of the first event that is so, after a place.
fn after(evidence: &Evidence, from: usize, is: impl Fn(&Event) -> bool) -> Option<usize> {
    evidence
        .events
        .iter()
        .skip(from)
        .position(is)
        .map(|at| at + from)
}

const EDGES: [Edge; 13] = [
    Edge {
        name: "V1-1",
        scenario: "any-kexec-3",
        protocol: "v1-proposal",
        // The sender has left for the capture kernel, and then a note is written.
        reached: |evidence| {
            let left = after(evidence, 0, |event| event.what == What::Goes(Onward::Kexec));
            let late = left.and_then(|left| {
                after(evidence, left, |event| matches!(event.what, What::Notes(_)))
            });
            late.is_some() && breaks(evidence, Rule::AckAfterSave)
        },
    },
    Edge {
        name: "V1-2a",
        scenario: "any-kexec-3",
        protocol: "v1-proposal",
        reached: |evidence| breaks(evidence, Rule::NoteTrue) && !breaks(evidence, Rule::NoteOnce),
    },
    Edge {
        name: "V1-2b",
        scenario: "any-kexec-3",
        protocol: "v1-proposal",
        reached: |evidence| breaks(evidence, Rule::NoteOnce),
    },
    Edge {
        name: "V1-3",
        scenario: "any-restart-panic-plain-3",
        protocol: "v1-proposal",
        reached: |evidence| breaks(evidence, Rule::OneSender),
    },
    Edge {
        name: "V1-4",
        scenario: "any-two-panics-3",
        protocol: "v1-proposal",
        // The CPU that stopped itself is named.
        reached: |evidence| names_one_that(evidence, |event| event.what == What::Parks),
    },
    Edge {
        name: "V1-5",
        scenario: "any-unplug-3",
        protocol: "v1-proposal",
        reached: |evidence| names_one_that(evidence, |event| event.what == What::Unplugs),
    },
    Edge {
        name: "V1-6",
        scenario: "any-plain-3",
        protocol: "v1-proposal",
        // The stop has returned; then a CPU that it took for stopped goes offline, still open to NMIs.
        reached: |evidence| {
            let returned = after(evidence, 0, |event| event.what == What::Returns);
            let offline = |event: &Event| {
                let clears = What::Clears {
                    word: Word::OnlineMask,
                    by: Hand::Handler,
                };
                event.what == clears && event.masks.is_some_and(|masks| masks.daif == 0)
            };
            returned
                .and_then(|returned| after(evidence, returned, offline))
                .is_some()
        },
    },
    Edge {
        name: "E1",
        scenario: "any-nmi-plain-3",
        protocol: "irq-then-nmi",
        reached: |evidence| breaks(evidence, Rule::StaysStopped),
    },
    Edge {
        name: "E2",
        scenario: "any-restart-panic-3",
        protocol: "irq-then-nmi",
        reached: |evidence| breaks(evidence, Rule::StoppedOnReturn),
    },
    Edge {
        name: "E3",
        scenario: "any-two-panics-3",
        protocol: "irq-then-nmi",
        reached: |evidence| breaks(evidence, Rule::AckAfterSave),
    },
    Edge {
        name: "E4",
        scenario: "any-kexec-3",
        protocol: "irq-then-nmi",
        reached: |evidence| breaks(evidence, Rule::NoteTrue),
    },
    Edge {
        name: "E5",
        scenario: "any-online-3",
        protocol: "irq-then-nmi",
        // A CPU that the first rung did not ask is asked by the NMI rung, and no rule is broken.
        reached: |evidence| {
            let asks = |event: &Event, request| match &event.what {
                What::Requests { via, to } => *via == request && to.contains(CpuId(2)),
                _ => false,
            };
            after(evidence, 0, |event| asks(event, Request::Nmi)).is_some()
                && after(evidence, 0, |event| asks(event, Request::Irq)).is_none()
                && judge(evidence).broken().is_empty()
        },
    },
    Edge {
        name: "E6",
        scenario: "e6-not-run",
        protocol: "irq-then-nmi",
        // Named in `failed`, it stops after the sender has left, and no rule is broken.
        reached: |evidence| {
            let failed = |event: &Event| matches!(&event.what, What::Logs { text, .. } if text.starts_with(FAILED));
            let said = after(evidence, 0, failed);
            let left = said.and_then(|said| {
                after(evidence, said, |event| {
                    event.what == What::Goes(Onward::Kexec)
                })
            });
            let late =
                left.and_then(|left| after(evidence, left, |event| event.what == What::PowersOff));
            late.is_some() && judge(evidence).broken().is_empty()
        },
    },
];

fn names_one_that(evidence: &Evidence, stopped: impl Fn(&Event) -> bool) -> bool {
    let Some(at) = after(evidence, 0, stopped) else {
        return false;
    };
    let cpu = evidence.events[at].cpu;
    let names = |event: &Event| match &event.what {
        What::Logs { text, .. } => text.strip_prefix(FAILED).is_some_and(|list| {
            list.parse::<vmm_core::arm::CpuSet>()
                .is_ok_and(|list| list.contains(cpu))
        }),
        _ => false,
    };
    after(evidence, at, names).is_some() && breaks(evidence, Rule::HonestList)
}

/// A small run that reaches the edge, from those that every order leads to and then from seeds.
fn search(edge: &Edge) -> String {
    let scenario = scenario(edge.scenario);
    let protocol = Protocol::named(edge.protocol).expect("the protocol is known");
    let try_run = |strategy: &mut dyn vmm_core::choose::Choose| -> Option<Taken> {
        let run = model::run(&scenario, protocol, strategy).expect("it fits the model");
        (edge.reached)(&run.evidence).then_some(run.taken)
    };
    let explored = model::explore(
        &scenario,
        protocol,
        Reduction::PrivateSteps,
        Limits::default(),
        &mut |_| true,
    );
    let outcomes = explored.expect("it fits the model").outcomes;
    let found = outcomes
        .values()
        .find_map(|found| try_run(&mut Segments::of(&found.taken)))
        .or_else(|| (0..200_000).find_map(|seed| try_run(&mut Random::new(seed))))
        .unwrap_or_else(|| panic!("no seed reaches {}", edge.name));
    let small = shrink(found, |mut segments| try_run(&mut segments));
    Schedule::new(model::origin(&scenario, protocol), &small).to_string()
}

const FILE: &str = "vmm/core/tests/edges.txt";

#[test]
fn every_edge_is_reached_by_its_schedule() {
    if std::env::var_os("HOLDPOINT_UPDATE").is_some() {
        let mut table =
            String::from("# edge scenario protocol schedule; kept by vmm/core/tests/edges.rs\n");
        for edge in &EDGES {
            writeln!(
                table,
                "{} {} {} {}",
                edge.name,
                edge.scenario,
                edge.protocol,
                search(edge)
            )
            .expect("a String takes all");
        }
        kept(FILE, &table);
        // The table of this build is the one before.
        return;
    }
    let table = include_str!("edges.txt");
    for edge in &EDGES {
        let line = table
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{} ", edge.name)));
        let line = line.unwrap_or_else(|| panic!("{FILE} has no schedule for {}", edge.name));
        let words: Vec<&str> = line.split(' ').collect();
        let [name, protocol, schedule] = words[..] else {
            panic!("{FILE}: {line}")
        };
        assert_eq!(
            (name, protocol),
            (edge.scenario, edge.protocol),
            "{}",
            edge.name
        );
        let scenario = scenario(name);
        let protocol = Protocol::named(protocol).expect("the protocol is known");
        let schedule: Schedule = schedule.parse().expect("the table holds schedules");
        assert!(schedule.deviations() <= 20, "{}: {schedule}", edge.name);
        let mut strategy = schedule
            .replay(&model::origin(&scenario, protocol))
            .unwrap_or_else(|error| {
                panic!("{}: {error}; HOLDPOINT_UPDATE=1 searches anew", edge.name)
            });
        let run = model::run(&scenario, protocol, &mut strategy).expect("it fits the model");
        assert_eq!(strategy.fitted(), Ok(()), "{}", edge.name);
        assert!(
            (edge.reached)(&run.evidence),
            "{}: {schedule} does not reach it",
            edge.name
        );
    }
}
