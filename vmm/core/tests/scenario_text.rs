//! Scenarios as text: what is printed is parsed, and a mistake is named with its place.

use std::collections::{BTreeMap, BTreeSet};

use guest_abi::point::Point;
use guest_abi::protocol::PROTOCOLS;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use vmm_core::arm::{CpuId, CpuSet};
use vmm_core::evidence::{Manner, Onward, StopKind};
use vmm_core::oracle::Rule;
use vmm_core::scenario::*;

const CPUS: u16 = 8;

fn passing() -> impl Strategy<Value = Passing> {
    ((0..CPUS).prop_map(CpuId), select(Point::ALL.to_vec()))
        .prop_map(|(cpu, at)| Passing { cpu, at })
}

fn tasks() -> impl Strategy<Value = Vec<Task>> {
    let trigger = select(vec![Does::Panic(Cause::Told), Does::Restart]);
    let does = prop_oneof![
        (1u8..=9).prop_map(Does::Talk),
        (0..CPUS).prop_map(|to| Does::Nmi(CpuId(to))),
        select(vec![Does::Unplug, Does::MaskIrqs, Does::MaskDaif]),
    ];
    let after = || proptest::option::of(passing());
    (
        trigger,
        after(),
        proptest::collection::vec((does, after()), 0..4),
    )
        .prop_map(|(first, after, others)| {
            let first = Task {
                cpu: CpuId(0),
                does: first,
                after,
            };
            let others = others.into_iter().enumerate();
            let others = others.map(|(n, (does, after))| Task {
                cpu: CpuId(n as u16 + 1),
                does,
                after,
            });
            std::iter::once(first).chain(others).collect()
        })
}

fn holds() -> impl Strategy<Value = Vec<Hold>> {
    let until = prop_oneof![
        (0u32..1_000_000).prop_map(HoldUntil::AfterRequest),
        passing().prop_map(HoldUntil::Passing),
        Just(HoldUntil::Never),
    ];
    let hold = (passing(), select(vec![Manner::Spin, Manner::Freeze]), until).prop_map(
        |(Passing { cpu, at }, manner, until)| Hold {
            cpu,
            at,
            manner,
            until,
        },
    );
    proptest::collection::vec(hold, 0..4).prop_map(|holds| {
        let mut at = BTreeSet::new();
        holds
            .into_iter()
            .filter(|hold| at.insert((hold.cpu, hold.at)))
            .filter(|hold| {
                let waits_for_itself =
                    matches!(hold.until, HoldUntil::Passing(passing) if passing.cpu == hold.cpu);
                hold.manner != Manner::Freeze || !waits_for_itself
            })
            .collect()
    })
}

fn rules() -> impl Strategy<Value = BTreeSet<Rule>> {
    subsequence(Rule::ALL.to_vec(), 0..Rule::ALL.len())
        .prop_map(|rules| rules.into_iter().collect())
}

fn expect() -> impl Strategy<Value = BTreeMap<String, BTreeSet<Rule>>> {
    let one = (
        select(PROTOCOLS.map(|protocol| protocol.name.to_owned()).to_vec()),
        rules(),
    );
    proptest::collection::vec(one, 0..6).prop_map(|all| all.into_iter().collect())
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let names = ("[a-z0-9-]{1,20}", any::<String>(), any::<String>());
    let flags = any::<[bool; 4]>();
    let stop = select(vec![
        (StopKind::Plain, Onward::PanicEnd),
        (StopKind::Plain, Onward::Reset),
        (StopKind::Crash, Onward::PanicEnd),
        (StopKind::Crash, Onward::Kexec),
        (StopKind::Crash, Onward::Reset),
    ]);
    let driver = select(vec![Driver::GiveUp, Driver::WriteAnyway, Driver::Nbcon]);
    let explore = (0u8..10, expect()).prop_map(|(delays, expect)| Explore { delays, expect });
    (
        names,
        flags,
        stop,
        driver,
        (tasks(), holds()),
        rules(),
        expect(),
        explore,
    )
        .prop_map(
            |(names, flags, (stop, after), driver, (tasks, holds), exercises, expect, explore)| {
                let (name, why, source) = names;
                let [pseudo_nmi, sdei, can_die, late_stores] = flags;
                let offline = CpuSet::from_bits(1 << 7);
                let capture = match after {
                    Onward::Kexec => Capture {
                        online: CpuSet::from_bits(0b110),
                        expect: BTreeMap::clone(&expect),
                    },
                    _ => Capture::default(),
                };
                let cpus = CPUS;
                Scenario {
                    name,
                    why,
                    source,
                    cpus,
                    offline,
                    pseudo_nmi,
                    sdei,
                    can_die,
                    late_stores,
                    stop,
                    after,
                    driver,
                    tasks,
                    holds,
                    exercises,
                    expect,
                    capture,
                    explore,
                }
            },
        )
}

proptest! {
    #[test]
    fn parse_undoes_print(scenario in scenario()) {
        prop_assert_eq!(Scenario::parse("printed", &scenario.to_string()), Ok(scenario));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text: String, scenario in scenario(), at: usize, new in "[a-z0-9=\"\\[\\]{} \n-]{0,12}") {
        let _ = Scenario::parse("any", &text);
        let mut text = scenario.to_string().into_bytes();
        let at = at % text.len();
        let end = (at + new.len()).min(text.len());
        text.splice(at..end, new.into_bytes());
        let _ = Scenario::parse("changed", &String::from_utf8_lossy(&text));
    }
}

const GOOD: &str = r#"format = 1
name = "good"
why = "It is the text that the mistakes are made in."
source = "none"
cpus = 4
stop = "crash"

[[trigger]]
cpu = 0
does = "panic"

[[hold]]
cpu = 1
at = "console-mid"
manner = "stall"
until = "never"

[expect]
irq-only = ["spared"]
"#;

#[test]
fn a_mistake_is_named_with_file_line_key_and_what_was_meant() {
    assert!(Scenario::parse("good", GOOD).is_ok());
    let mistakes = [
        (
            "cpus = 4",
            "cpus = 0",
            "t.toml:5: cpus: a whole number from 1 to 64 is meant, not 0",
        ),
        (
            "cpus = 4",
            "cpu = 4",
            "t.toml:1: cpus: is missing: the number of CPUs",
        ),
        (
            "stop = \"crash\"",
            "stop = \"crush\"",
            "t.toml:6: stop: `crush` is not known; is `crash` meant?",
        ),
        (
            "stop = \"crash\"",
            "stop = 1",
            "t.toml:6: stop: a string is meant, not integer",
        ),
        (
            "stop = \"crash\"",
            "stop = \"crash\"\ndriwer = \"nbcon\"",
            "t.toml:7: driwer: is no key here; is `driver` meant?",
        ),
        (
            "cpu = 1",
            "cpu = 4",
            "t.toml:13: hold[0].cpu: a whole number from 0 to 3 is meant, not 4",
        ),
        (
            "console-mid",
            "console-mit",
            "t.toml:14: hold[0].at: `console-mit` is not known; is `console-mid` meant?",
        ),
        (
            "console-mid",
            "save",
            "t.toml:15: hold[0].manner: a CPU can be stalled only where it polls the UART (console-locked, \
             console-mid, console-unlock), not at save",
        ),
        (
            "\"never\"",
            "\"soon\"",
            "t.toml:16: hold[0].until: \"never\", { after_ms = N } or { cpu = N, at = POINT } is meant",
        ),
        (
            "manner = \"stall\"\nuntil = \"never\"",
            "manner = \"freeze\"\nuntil = { cpu = 1, at = \"save\" }",
            "t.toml:16: hold[0].until: CPU 1 is frozen till then, and comes nowhere; another CPU's point is meant",
        ),
        (
            "\"spared\"",
            "\"spare\"",
            "t.toml:19: expect.irq-only[0]: `spare` is not known; is `spared` meant?",
        ),
        (
            "irq-only",
            "irq-olny",
            "t.toml:19: expect.irq-olny: is no key here; is `irq-only` meant?",
        ),
        (
            "format = 1",
            "format = 2",
            "t.toml:1: format: this program reads format 1",
        ),
        (
            "does = \"panic\"",
            "does = \"panic\"\ncause = \"lockup\"",
            "t.toml:8: trigger[0]: CPU 0 finds CPU 1 locked up, so that this must have the task mask-irqs",
        ),
        (
            "[[trigger]]",
            "[[task]]",
            "t.toml:1: trigger: nothing makes the CPUs stop; a [[trigger]] is meant",
        ),
    ];
    for (good, bad, meant) in mistakes {
        let error = Scenario::parse("t.toml", &GOOD.replacen(good, bad, 1)).expect_err(bad);
        assert_eq!(error.to_string(), meant);
    }
}

const VARIANTS: &str = r#"
[[variant]]
cpus = 2

[[variant]]
pseudo_nmi = false

[variant.expect]
irq-only = []
"#;

#[test]
fn a_variant_is_the_scenario_under_other_conditions() {
    let family = Family::parse("t.toml", &format!("{GOOD}{VARIANTS}")).unwrap();
    assert_eq!(family.own, Scenario::parse("t.toml", GOOD).unwrap());
    let own = family.own.conditions();
    assert_eq!(family.under(own), Some(&family.own));
    let smaller = family.under(Conditions { cpus: 2, ..own }).unwrap();
    assert_eq!((smaller.cpus, &smaller.expect), (2, &family.own.expect));
    let pseudo_nmi = false;
    let without = family.under(Conditions { pseudo_nmi, ..own }).unwrap();
    assert!(!without.pseudo_nmi && without.expected("irq-only").is_empty());
    assert_eq!(family.under(Conditions { cpus: 8, ..own }), None);
    assert_eq!(without.conditions().to_string(), "4cpus-no-nmi-crash");
}

#[test]
fn a_mistake_in_a_variant_is_named_too() {
    for (good, bad, meant) in [
        (
            "cpus = 2",
            "cpus = 1",
            "t.toml:22: variant[0].cpus: the scenario has CPU 1 do something",
        ),
        (
            "cpus = 2",
            "cpus = 4",
            "t.toml:21: variant[0]: it is there already with 4cpus-nmi-crash",
        ),
        (
            "cpus = 2",
            "cpos = 2",
            "t.toml:22: variant[0].cpos: is no key here; is `cpus` meant?",
        ),
    ] {
        let text = format!("{GOOD}{}", VARIANTS.replacen(good, bad, 1));
        let error = Family::parse("t.toml", &text).expect_err(bad);
        assert_eq!(error.to_string(), meant);
    }
}
