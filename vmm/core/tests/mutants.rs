//! The oracle, tested by mutation: evidence that was damaged and tables that were changed, each with the exact
//! set of rules that it breaks. No rule fires on the undamaged run.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use guest_abi::protocol::{
    Announced, List, PROTOCOLS, Protocol, Request, SecondCaller, Step, Word,
};
use support::{kept, names, scenario};
use vmm_core::arm::{CpuId, CpuSet};
use vmm_core::choose::Directed;
use vmm_core::evidence::*;
use vmm_core::model;
use vmm_core::oracle::{Rule, judge};

fn run(name: &str, protocol: &Protocol) -> Evidence {
    model::run(&scenario(name), protocol, &mut Directed)
        .expect("it fits the model")
        .evidence
}

fn named(name: &str) -> Protocol {
    *Protocol::named(name).expect("the protocol is known")
}

/// The place of the first event of a CPU that is so.
fn at(evidence: &Evidence, cpu: u16, is: impl Fn(&What) -> bool) -> usize {
    let found = evidence
        .events
        .iter()
        .position(|event| event.cpu == CpuId(cpu) && is(&event.what));
    found.expect("the undamaged run has such an event")
}

fn event(evidence: &Evidence, cpu: u16, what: What) -> Event {
    let at_us = evidence.events.last().map_or(0, |event| event.at_us);
    Event {
        at_us,
        cpu: CpuId(cpu),
        seen: Seen::Told,
        masks: None,
        what,
    }
}

/// Puts an event behind the one at a place.
fn insert(evidence: &mut Evidence, place: usize, cpu: u16, what: What) {
    let at_us = evidence.events[place].at_us;
    let event = Event {
        at_us,
        ..event(evidence, cpu, what)
    };
    evidence.events.insert(place + 1, event);
}

fn remove(evidence: &mut Evidence, cpu: u16, is: impl Fn(&What) -> bool) {
    let place = at(evidence, cpu, is);
    evidence.events.remove(place);
}

/// Moves an event of a CPU before another of its events.
fn move_before(
    evidence: &mut Evidence,
    cpu: u16,
    what: impl Fn(&What) -> bool,
    before: impl Fn(&What) -> bool,
) {
    let from = at(evidence, cpu, what);
    let event = evidence.events.remove(from);
    let to = at(evidence, cpu, before);
    evidence.events.insert(to, event);
}

fn change_note(evidence: &mut Evidence, cpu: u16, change: impl Fn(&mut Regs)) {
    let complete =
        |what: &What| matches!(what, What::Notes(note) if note.state() == NoteState::Complete);
    let place = at(evidence, cpu, complete);
    let What::Notes(note) = &evidence.events[place].what else {
        unreachable!("it is a note")
    };
    let mut regs = note.regs();
    change(&mut regs);
    evidence.events[place].what = What::Notes(Arc::new(Note::complete(&regs)));
}

fn change_text(evidence: &mut Evidence, begins: &str, to: impl Fn(&str) -> String) {
    for event in &mut evidence.events {
        match &mut event.what {
            What::Logs { text, .. } if text.starts_with(begins) => *text = to(text).into(),
            _ => {}
        }
    }
    // The wire shows what the log holds.
    let texts: Vec<String> = (evidence.events.iter())
        .filter_map(|event| match &event.what {
            What::Logs { text, .. } => Some(text.to_string()),
            _ => None,
        })
        .collect();
    rewrite_wire(evidence, &texts);
}

/// Makes the whole wire these lines, written by CPU 0 before the last flush ends.
fn rewrite_wire(evidence: &mut Evidence, lines: &[String]) {
    evidence
        .events
        .retain(|event| !matches!(event.what, What::Wire(_)));
    let flushed = at(evidence, 0, |what| *what == What::Flushed);
    let wire: String = lines.iter().map(|line| format!("{line}\n")).collect();
    insert(evidence, flushed - 1, 0, What::Wire(wire.as_bytes().into()));
}

type Damage = fn(&mut Evidence);

/// A mutant: what ran, how it was damaged, what that breaks.
struct Mutant {
    name: &'static str,
    scenario: &'static str,
    protocol: &'static str,
    damage: Damage,
    breaks: &'static [Rule],
}

fn acks(what: &What) -> bool {
    matches!(
        what,
        What::Clears {
            word: Word::OnlineMask,
            by: Hand::Handler
        }
    )
}

fn completes(what: &What) -> bool {
    matches!(what, What::Notes(note) if note.state() == NoteState::Complete)
}

fn says(text: &'static str) -> impl Fn(&What) -> bool {
    move |what| matches!(what, What::Logs { text: said, .. } if said.starts_with(text))
}

fn asks(request: Request) -> impl Fn(&What) -> bool {
    move |what| matches!(what, What::Requests { via, .. } if *via == request)
}

const FOREVER: &str = "console-locked-forever";
const LOCKED: &str = "console-locked";
const IDLE: &str = "idle-crash";
const NOW: &str = "irq-then-nmi";

const MUTANTS: &[Mutant] = &[
    // ack-after-save
    Mutant {
        name: "the ack comes before the note is complete",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| move_before(e, 1, acks, completes),
        breaks: &[Rule::AckAfterSave],
    },
    Mutant {
        name: "a note is never written",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            e.events
                .retain(|event| !(event.cpu == CpuId(2) && matches!(event.what, What::Notes(_))))
        },
        breaks: &[Rule::AckAfterSave],
    },
    Mutant {
        name: "a note stays torn",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| remove(e, 3, completes),
        breaks: &[Rule::AckAfterSave],
    },
    Mutant {
        name: "a CPU stops itself and rests without a note",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, |what| matches!(what, What::Climbs { .. }));
            e.events.retain(|event| event.cpu != CpuId(1));
            insert(e, place, 1, What::Parks);
            insert(
                e,
                place,
                1,
                What::Clears {
                    word: Word::OnlineMask,
                    by: Hand::SelfStop,
                },
            );
            insert(e, place, 1, What::SelfStops);
        },
        breaks: &[Rule::AckAfterSave],
    },
    // note-true
    Mutant {
        name: "one bit of x7 is wrong",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| change_note(e, 1, |regs| regs.x[7] ^= 1),
        breaks: &[Rule::NoteTrue],
    },
    Mutant {
        name: "the sp is another",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| change_note(e, 2, |regs| regs.sp += 16),
        breaks: &[Rule::NoteTrue],
    },
    Mutant {
        name: "the pc is in the handler, and the registers met are not known",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let handler = e
                .places
                .0
                .iter()
                .find(|place| place.kind == PlaceKind::StopPath)
                .expect("a place")
                .start;
            change_note(e, 1, |regs| regs.pc = handler);
            let place = at(e, 1, |what| matches!(what, What::Takes { .. }));
            e.events[place].what = What::Takes {
                by: Interrupt::Stop(Request::Irq),
                regs: None,
            };
        },
        breaks: &[Rule::NoteTrue],
    },
    Mutant {
        name: "a CPU held in the section has a note of elsewhere",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| {
            let idle = e
                .places
                .0
                .iter()
                .find(|place| place.name == "cpu_do_idle")
                .expect("a place")
                .start;
            change_note(e, 1, |regs| regs.pc = idle);
            let place = at(e, 1, |what| matches!(what, What::Takes { .. }));
            e.events[place].what = What::Takes {
                by: Interrupt::Stop(Request::Nmi),
                regs: None,
            };
        },
        breaks: &[Rule::NoteTrue],
    },
    Mutant {
        name: "the sender's note lies elsewhere",
        scenario: "idle-kexec",
        protocol: NOW,
        damage: |e| change_note(e, 0, |regs| regs.pc += 0x100),
        breaks: &[Rule::NoteTrue],
    },
    // note-once
    Mutant {
        name: "a note is zeroed later",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 1, |what| *what == What::PowersOff);
            insert(e, place, 1, What::Notes(Arc::new(Note([0; 424]))));
        },
        breaks: &[Rule::NoteOnce],
    },
    Mutant {
        name: "a note is torn again by a late store",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 1, |what| *what == What::PowersOff);
            let What::Notes(note) = &e.events[at(e, 1, completes)].what else {
                unreachable!("it is a note")
            };
            let mut bytes = note.0;
            bytes[0] = 0;
            insert(e, place, 1, What::Notes(Arc::new(Note(bytes))));
        },
        breaks: &[Rule::NoteOnce],
    },
    Mutant {
        name: "the pid of a complete note changes",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 2, |what| *what == What::PowersOff);
            let What::Notes(note) = &e.events[at(e, 2, completes)].what else {
                unreachable!("it is a note")
            };
            let mut bytes = note.0;
            bytes[guest_abi::note::PID_AT] ^= 1;
            insert(e, place, 2, What::Notes(Arc::new(Note(bytes))));
        },
        breaks: &[Rule::NoteOnce],
    },
    // spared
    Mutant {
        name: "the hold was to end after 300 ms",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| hold_until(e, Until::AfterRequest(300_000)),
        breaks: &[Rule::Spared, Rule::ConsoleIntact],
    },
    Mutant {
        name: "there was no hold",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| remove(e, 1, |what| matches!(what, What::Holds { .. })),
        breaks: &[Rule::Spared, Rule::ConsoleIntact],
    },
    Mutant {
        name: "the hold ended before the stop was requested, and the wire is whole",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 1, |what| matches!(what, What::Holds { .. }));
            insert(e, place, 1, What::Releases);
            whole_wire(e);
        },
        breaks: &[Rule::Spared],
    },
    Mutant {
        name: "the hold was to end at half of the grace, and the wire is whole",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| {
            hold_until(e, Until::AfterRequest(500_000));
            whole_wire(e);
        },
        breaks: &[Rule::Spared],
    },
    Mutant {
        name: "who was let go stays where it is, and is named",
        scenario: LOCKED,
        protocol: NOW,
        damage: |e| {
            let released = at(e, 1, |what| matches!(what, What::Releases));
            let rest = e.events.split_off(released + 1);
            e.events
                .extend(rest.into_iter().filter(|event| event.cpu != CpuId(1)));
            let returns = at(e, 0, |what| matches!(what, What::Returns));
            let named = What::Logs {
                level: 4,
                text: "SMP: failed to stop secondary CPUs 1".into(),
                shown: true,
            };
            insert(e, returns - 1, 0, named);
            whole_wire(e);
        },
        breaks: &[Rule::Spared],
    },
    // console-intact
    Mutant {
        name: "a byte of the wire is lost",
        scenario: LOCKED,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 1, |what| matches!(what, What::Wire(_)));
            let What::Wire(bytes) = &e.events[place].what else {
                unreachable!("it is the wire")
            };
            let cut: Arc<[u8]> = bytes[1..].into();
            e.events[place].what = What::Wire(cut);
        },
        breaks: &[Rule::ConsoleIntact],
    },
    Mutant {
        name: "two records change places",
        scenario: LOCKED,
        protocol: NOW,
        damage: |e| {
            let mut lines = log(e);
            lines.swap(0, 1);
            rewrite_wire(e, &lines);
        },
        breaks: &[Rule::ConsoleIntact],
    },
    Mutant {
        name: "another CPU's bytes stand in a line",
        scenario: LOCKED,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 1, |what| matches!(what, What::Wire(_)));
            insert(e, place, 2, What::Wire((*b"!").into()));
        },
        breaks: &[Rule::ConsoleIntact],
    },
    Mutant {
        name: "a whole line of two CPUs that is no record",
        scenario: LOCKED,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 1, says("CPU 1 talks"));
            insert(e, place, 2, What::Wire((*b"y\n").into()));
            insert(e, place, 3, What::Wire((*b"x").into()));
        },
        breaks: &[Rule::ConsoleIntact],
    },
    // ladder-order
    Mutant {
        name: "the NMI goes out early",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, asks(Request::Nmi));
            let early = e.events[at(e, 0, asks(Request::Irq))].at_us + 999_999;
            e.events[place].at_us = early;
        },
        breaks: &[Rule::LadderOrder],
    },
    Mutant {
        name: "the rung is not seen to run out",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| remove(e, 0, |what| *what == What::RungOut(Request::Irq)),
        breaks: &[Rule::LadderOrder],
    },
    Mutant {
        name: "the NMI goes to a CPU that had acked",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, asks(Request::Nmi));
            e.events[place].what = What::Requests {
                via: Request::Nmi,
                to: CpuSet::from_bits(0b110),
            };
        },
        breaks: &[Rule::LadderOrder],
    },
    // honest-list
    Mutant {
        name: "retry names a CPU that had stopped",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| change_text(e, "SMP: retry", |text| format!("{text}-2")),
        breaks: &[Rule::HonestList],
    },
    Mutant {
        name: "retry names the caller",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| change_text(e, "SMP: retry", |text| text.replace(" 1", " 0-1")),
        breaks: &[Rule::HonestList],
    },
    Mutant {
        name: "retry names nobody",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| change_text(e, "SMP: retry", |text| text.replace(" 1", " ")),
        breaks: &[Rule::HonestList],
    },
    Mutant {
        name: "failed ends in no list",
        scenario: "daif-masked",
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, says("SMP: failed"));
            let text = "SMP: failed to stop secondary CPUs none".into();
            e.events[place].what = What::Logs {
                level: 4,
                text,
                shown: false,
            };
        },
        breaks: &[Rule::HonestList, Rule::StoppedOnReturn],
    },
    // announced
    Mutant {
        name: "nothing is announced",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            remove(e, 0, says("SMP: stopping"));
            let lines = log(e);
            rewrite_wire(e, &lines);
        },
        breaks: &[Rule::Announced],
    },
    Mutant {
        name: "it is announced twice",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, says("SMP: stopping"));
            let what = e.events[place].what.clone();
            insert(e, place, 0, what);
            let lines = log(e);
            rewrite_wire(e, &lines);
        },
        breaks: &[Rule::Announced],
    },
    Mutant {
        name: "it is announced while the system goes down",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, |what| matches!(what, What::Climbs { .. }));
            if let What::Climbs { running, .. } = &mut e.events[place].what {
                *running = false;
            }
        },
        breaks: &[Rule::Announced],
    },
    Mutant {
        name: "somebody else announces",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, says("SMP: stopping"));
            e.events[place].cpu = CpuId(3);
        },
        breaks: &[Rule::Announced],
    },
    // stays-stopped
    Mutant {
        name: "a stopped CPU takes a backtrace NMI",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 1, acks);
            insert(
                e,
                place,
                1,
                What::Takes {
                    by: Interrupt::Foreign,
                    regs: None,
                },
            );
        },
        breaks: &[Rule::StaysStopped],
    },
    Mutant {
        name: "a parked CPU runs a timer",
        scenario: "idle-plain",
        protocol: NOW,
        damage: |e| {
            let place = at(e, 2, |what| *what == What::Parks);
            insert(e, place, 2, What::Runs("a timer".into()));
        },
        breaks: &[Rule::StaysStopped],
    },
    Mutant {
        name: "a stopped CPU writes to the console",
        scenario: "idle-plain",
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, |what| *what == What::Flushed);
            insert(e, place, 3, What::Wire((*b"late\n").into()));
        },
        breaks: &[Rule::StaysStopped],
    },
    // one-sender
    Mutant {
        name: "a second caller climbs",
        scenario: "e2-panic-in-restart",
        protocol: "irq-then-nmi",
        damage: |e| {
            let place = at(e, 0, |what| matches!(what, What::Calls(_)));
            let others = CpuSet::from_bits(0b110);
            insert(
                e,
                place,
                0,
                What::Climbs {
                    stop: StopKind::Crash,
                    others,
                    running: false,
                },
            );
        },
        breaks: &[Rule::OneSender, Rule::StoppedOnReturn],
    },
    Mutant {
        name: "a CPU that stopped itself had climbed",
        scenario: "any-two-panics-3",
        protocol: NOW,
        damage: |e| {
            // Behind its call of panic(), before it stops itself.
            let place = at(e, 0, |what| matches!(what, What::Climbs { .. }));
            insert(
                e,
                place,
                1,
                What::Climbs {
                    stop: StopKind::Crash,
                    others: CpuSet::from_bits(1),
                    running: true,
                },
            );
        },
        breaks: &[Rule::OneSender],
    },
    Mutant {
        name: "two call and nobody climbs",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, |what| matches!(what, What::Calls(_)));
            e.events.truncate(place + 1);
            insert(e, place, 1, What::Calls(StopKind::Crash));
        },
        breaks: &[Rule::OneSender],
    },
    // stopped-on-return
    Mutant {
        name: "a CPU acks only after the return",
        scenario: "idle-plain",
        protocol: NOW,
        damage: |e| {
            let last = at(e, 0, |what| *what == What::Returns);
            let mut late = Vec::new();
            for place in (0..last)
                .rev()
                .filter(|place| e.events[*place].cpu == CpuId(3))
                .collect::<Vec<_>>()
            {
                late.push(e.events.remove(place));
            }
            let place = at(e, 0, |what| *what == What::Returns);
            for event in late {
                e.events.insert(place + 1, event);
            }
        },
        breaks: &[Rule::StoppedOnReturn],
    },
    Mutant {
        name: "a CPU is never heard of again",
        scenario: "idle-plain",
        protocol: NOW,
        damage: |e| e.events.retain(|event| event.cpu != CpuId(2)),
        breaks: &[Rule::StoppedOnReturn],
    },
    Mutant {
        name: "failed is not said",
        scenario: "daif-masked",
        protocol: NOW,
        damage: |e| remove(e, 0, says("SMP: failed")),
        breaks: &[Rule::StoppedOnReturn],
    },
    // bounded
    Mutant {
        name: "the sender returns late",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, |what| *what == What::Returns);
            for event in &mut e.events[place..] {
                event.at_us += 1_100_000;
            }
        },
        breaks: &[Rule::Bounded],
    },
    Mutant {
        name: "the sender never returns",
        scenario: IDLE,
        protocol: NOW,
        damage: |e| {
            let place = at(e, 0, |what| *what == What::Returns);
            e.events.truncate(place);
        },
        breaks: &[Rule::Bounded],
    },
    Mutant {
        name: "the rungs were shorter than the wait",
        scenario: FOREVER,
        protocol: NOW,
        damage: |e| e.setting.rungs = vec![(Request::Irq, 900_000), (Request::Nmi, 10_000)],
        breaks: &[Rule::Bounded],
    },
    // capture-boots
    Mutant {
        name: "the capture kernel never comes up",
        scenario: "idle-kexec",
        protocol: NOW,
        damage: |e| e.setting.capture = true,
        breaks: &[Rule::CaptureBoots],
    },
    Mutant {
        name: "the vmcore shows another note",
        scenario: "idle-kexec",
        protocol: NOW,
        damage: |e| {
            let What::Notes(note) = &e.events[at(e, 1, completes)].what else {
                unreachable!("it is a note")
            };
            let mut regs = note.regs();
            regs.x[0] ^= 1;
            let other = event(e, 1, What::CaptureNote(Arc::new(Note::complete(&regs))));
            let up = event(e, 0, What::CaptureUp);
            e.events.extend([other, up]);
            e.setting.capture = true;
        },
        breaks: &[Rule::CaptureBoots],
    },
    Mutant {
        name: "the vmcore shows a note that nobody wrote",
        scenario: "idle-kexec",
        protocol: NOW,
        damage: |e| {
            let What::Notes(note) = e.events[at(e, 1, completes)].what.clone() else {
                unreachable!("it is a note")
            };
            e.events.retain(|event| event.cpu != CpuId(3));
            e.setting.cpus = 4;
            e.setting.online.remove(CpuId(3));
            let other = event(e, 3, What::CaptureNote(note));
            e.events.push(other);
        },
        breaks: &[Rule::CaptureBoots],
    },
];

fn log(evidence: &Evidence) -> Vec<String> {
    let texts = evidence
        .events
        .iter()
        .filter_map(|event| match &event.what {
            What::Logs { text, .. } => Some(text.to_string()),
            _ => None,
        });
    texts.collect()
}

fn whole_wire(evidence: &mut Evidence) {
    let lines = log(evidence);
    rewrite_wire(evidence, &lines);
}

fn hold_until(evidence: &mut Evidence, until: Until) {
    let place = at(evidence, 1, |what| matches!(what, What::Holds { .. }));
    if let What::Holds { until: was, .. } = &mut evidence.events[place].what {
        *was = until;
    }
}

#[test]
fn every_damage_breaks_exactly_its_rules() {
    let mut caught: BTreeMap<Rule, (usize, usize)> = BTreeMap::new();
    for mutant in MUTANTS {
        let mut evidence = run(mutant.scenario, &named(mutant.protocol));
        let undamaged = judge(&evidence).broken();
        let expected = scenario(mutant.scenario).expected(mutant.protocol);
        assert_eq!(undamaged, expected, "{}: undamaged", mutant.name);
        (mutant.damage)(&mut evidence);
        let broken = judge(&evidence).broken();
        assert_eq!(
            names(&broken),
            names(&mutant.breaks.iter().copied().collect()),
            "{}",
            mutant.name
        );
        // What was broken before the damage is not its work.
        let by_damage: Vec<Rule> = broken.difference(&undamaged).copied().collect();
        for rule in &by_damage {
            let (all, alone) = caught.entry(*rule).or_default();
            *all += 1;
            *alone += usize::from(by_damage.len() == 1);
        }
    }
    let mut table =
        String::from("# rule mutants caught-by-it-alone; kept by vmm/core/tests/mutants.rs\n");
    for rule in Rule::ALL {
        let (all, alone) = caught.get(rule).copied().unwrap_or_default();
        assert!(all >= 3, "{rule}: only {all} damages break it");
        assert!(alone >= 1, "{rule}: no damage is caught by it alone");
        writeln!(table, "{rule} {all} {alone}").expect("a String takes all");
    }
    kept("vmm/core/tests/mutants.txt", &table);
}

#[test]
fn no_rule_fires_on_an_undamaged_stop() {
    for name in ["idle-plain", "idle-crash", "idle-kexec"] {
        for protocol in PROTOCOLS
            .into_iter()
            .filter(|protocol| protocol.name != "v1-proposal")
        {
            assert_eq!(
                names(&judge(&run(name, protocol)).broken()),
                "",
                "{name} under {}",
                protocol.name
            );
        }
    }
}

/// Tables with one field changed, on the scenario that shows it.
#[test]
fn changed_tables_are_caught() {
    type Change = fn(&mut Protocol);
    let tables: &[(&str, &str, Change, &[Rule])] = &[
        (
            "ack before save",
            IDLE,
            |p| {
                p.crash.handler.is = &[Step::MaskDaif, Step::Offline, Step::Save, Step::DieOrPark];
            },
            &[Rule::AckAfterSave],
        ),
        (
            "no save at all",
            IDLE,
            |p| {
                p.crash.handler.is = &[Step::MaskDaif, Step::Offline, Step::DieOrPark];
            },
            &[Rule::AckAfterSave],
        ),
        (
            "NMI first",
            LOCKED,
            |p| p.crash.ladder = named("nmi-only").crash.ladder,
            &[Rule::Spared, Rule::ConsoleIntact],
        ),
        (
            "the list is read once",
            FOREVER,
            |p| p.crash.retries.is = List::FirstMask,
            &[Rule::LadderOrder, Rule::HonestList],
        ),
        (
            "the list holds the caller",
            "daif-masked",
            |p| p.crash.failed.is = List::Online,
            &[Rule::HonestList],
        ),
        (
            "always announced",
            "e2-panic-in-restart",
            |p| {
                p.plain.announced.is = Announced::Always;
            },
            &[Rule::Announced, Rule::StoppedOnReturn],
        ),
        (
            "no guard",
            "v1-3-two-senders",
            |p| p.plain.second_caller.is = SecondCaller::Collides,
            &[Rule::OneSender],
        ),
    ];
    for (name, at, change, breaks) in tables {
        let mut table = named(NOW);
        change(&mut table);
        let broken: BTreeSet<Rule> = judge(&run(at, &table)).broken();
        assert_eq!(
            names(&broken),
            names(&breaks.iter().copied().collect()),
            "{name} on {at}"
        );
    }
}
