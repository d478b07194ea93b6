//! TOML to scenario. Every error names the file, the line, the key, and what was meant.

use std::collections::{BTreeMap, BTreeSet};

use guest_abi::point::Point;
use guest_abi::protocol::{PROTOCOLS, Protocol};

use super::{
    Capture, Cause, Does, Driver, Explore, FORMAT, Family, Hold, HoldUntil, MAX_CPUS, Passing,
    Scenario, Task,
};
use crate::arm::{CpuId, CpuSet};
use crate::document::{self, DeValue, DocumentError, Read, Table, Value, Words, Wrong};
use crate::evidence::{Manner, Onward, StopKind};
use crate::oracle::Rule;

impl Words for StopKind {
    const WORDS: &'static [(Self, &'static str)] =
        &[(StopKind::Plain, "plain"), (StopKind::Crash, "crash")];
}

impl Words for Onward {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Onward::PanicEnd, "panic-end"),
        (Onward::Kexec, "kexec"),
        (Onward::Reset, "reset"),
    ];
}

impl Words for Driver {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Driver::GiveUp, "give-up"),
        (Driver::WriteAnyway, "write-anyway"),
        (Driver::Nbcon, "nbcon"),
    ];
}

impl Words for Cause {
    const WORDS: &'static [(Self, &'static str)] =
        &[(Cause::Told, "told"), (Cause::Lockup, "lockup")];
}

impl Words for Manner {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Manner::Stall, "stall"),
        (Manner::Spin, "spin"),
        (Manner::Freeze, "freeze"),
    ];
}

/// What a scenario has for values beside those of any document.
trait Meant {
    fn cpu(&self, cpus: u16) -> Read<CpuId>;
    fn point(&self) -> Read<Point>;
    fn rules(&self) -> Read<BTreeSet<Rule>>;
}

impl Meant for Value<'_> {
    fn cpu(&self, cpus: u16) -> Read<CpuId> {
        Ok(CpuId(self.number(0..=i64::from(cpus) - 1)? as u16))
    }

    fn point(&self) -> Read<Point> {
        let text = self.text()?;
        match Point::named(text) {
            Some(point) => Ok(point),
            None => self.unknown(text, Point::ALL.iter().map(|point| point.name())),
        }
    }

    fn rules(&self) -> Read<BTreeSet<Rule>> {
        let mut rules = BTreeSet::new();
        for item in self.items()? {
            let text = item.text()?;
            let Some(rule) = Rule::named(text) else {
                return item.unknown(text, Rule::ALL.iter().map(|rule| rule.name()));
            };
            if !rules.insert(rule) {
                return item.wrong(format!("`{text}` is there twice"));
            }
        }
        Ok(rules)
    }
}

impl Scenario {
    /// Reads a scenario, without its variants; `file` is what errors call the text.
    pub fn parse(file: &str, text: &str) -> Result<Self, DocumentError> {
        Family::parse(file, text).map(|family| family.own)
    }
}

impl Family {
    /// Reads a scenario and its variants; `file` is what errors call the text.
    pub fn parse(file: &str, text: &str) -> Result<Self, DocumentError> {
        document::read(file, text, family)
    }
}

const KEYS: &[&str] = &[
    "format",
    "name",
    "why",
    "source",
    "cpus",
    "offline",
    "pseudo_nmi",
    "sdei",
    "can_die",
    "late_stores",
    "stop",
    "after",
    "driver",
    "trigger",
    "task",
    "hold",
    "exercises",
    "expect",
    "capture",
    "explore",
    "variant",
];

fn family(mut top: Table<'_>) -> Read<Family> {
    let own = scenario(&mut top)?;
    let mut family = Family {
        own,
        variants: Vec::new(),
    };
    for value in top.list("variant")? {
        let variant = variant(&value, &family.own)?;
        let conditions = variant.conditions();
        if family.under(conditions).is_some() {
            return value.wrong(format!("it is there already with {conditions}"));
        }
        family.variants.push(variant);
    }
    top.end(KEYS)?;
    Ok(family)
}

/// The scenario under other conditions.
fn variant(value: &Value<'_>, own: &Scenario) -> Read<Scenario> {
    let mut table = value.table()?;
    let mut scenario = own.clone();
    if let Some(cpus) = table.get("cpus") {
        let holds = own.holds.iter().flat_map(|hold| {
            let other = match hold.until {
                HoldUntil::Passing(passing) => Some(passing.cpu),
                HoldUntil::AfterRequest(_) | HoldUntil::Never => None,
            };
            [Some(hold.cpu), other]
        });
        let tasks = own.tasks.iter().flat_map(|task| {
            let to = match task.does {
                Does::Nmi(to) => Some(to),
                _ => None,
            };
            [Some(task.cpu), task.after.map(|after| after.cpu), to]
        });
        let named = holds.chain(tasks).flatten().map(|cpu| cpu.0);
        let sets = own.offline.iter().chain(own.capture.online.iter());
        let least = named.chain(sets.map(|cpu| cpu.0)).max();
        scenario.cpus = cpus.number(1..=i64::from(MAX_CPUS))? as u16;
        if let Some(most) = least.filter(|most| *most >= scenario.cpus) {
            return cpus.wrong(format!("the scenario has CPU {most} do something"));
        }
        let wraps =
            |task: &Task| task.does == Does::Panic(Cause::Lockup) && task.cpu.0 + 1 == own.cpus;
        if own.tasks.iter().any(wraps) {
            return cpus.wrong("the last CPU looks after the first one, and is another one then");
        }
    }
    if let Some(pseudo_nmi) = table.get("pseudo_nmi") {
        scenario.pseudo_nmi = pseudo_nmi.truth()?;
    }
    if let Some(stop) = table.get("stop") {
        scenario.stop = stop.word()?;
        if (scenario.stop, own.after) == (StopKind::Plain, Onward::Kexec) {
            return stop.wrong("only a crash stop goes on to kexec, and this scenario does");
        }
    }
    if let Some(exercises) = table.get("exercises") {
        scenario.exercises = exercises.rules()?;
    }
    if let Some(value) = table.get("expect") {
        scenario.expect = expect(&value)?;
        scenario.explore.expect.clear();
        scenario.capture.expect.clear();
    }
    table.end(&["cpus", "pseudo_nmi", "stop", "exercises", "expect"])?;
    Ok(scenario)
}

fn scenario(top: &mut Table<'_>) -> Read<Scenario> {
    let format = top.need("format", "the version of the format, 1")?;
    if format.number(0..=i64::MAX)? != FORMAT {
        return format.wrong(format!("this program reads format {FORMAT}"));
    }
    let name = top.need("name", "what the scenario is called")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.text()?.is_empty() || !name.text()?.chars().all(plain) {
        return name.wrong("lower-case letters, digits and hyphens are meant");
    }
    let why = top
        .need("why", "a sentence that says why the scenario is there")?
        .text()?;
    let source = top
        .need("source", "where that is said: a mail, a commit, a section")?
        .text()?;
    let cpus = top
        .need("cpus", "the number of CPUs")?
        .number(1..=i64::from(MAX_CPUS))? as u16;
    let mut offline = CpuSet::new();
    for cpu in top.list("offline")? {
        offline.insert(cpu.cpu(cpus)?);
    }
    let truth =
        |value: Option<Value<'_>>, default| value.map_or(Ok(default), |value| value.truth());
    let pseudo_nmi = truth(top.get("pseudo_nmi"), true)?;
    let sdei = truth(top.get("sdei"), false)?;
    let can_die = truth(top.get("can_die"), true)?;
    let late_stores = truth(top.get("late_stores"), false)?;
    let stop = top
        .need("stop", "the stop that a panic calls, plain or crash")?
        .word()?;
    let after = top.get("after");
    let onward = after.as_ref().map_or(Ok(Onward::PanicEnd), Value::word)?;
    if let (Some(after), StopKind::Plain, Onward::Kexec) = (&after, stop, onward) {
        return after.wrong(
            "only a crash stop goes on to kexec; `stop = \"crash\"` is meant, or another way on",
        );
    }
    let driver = top
        .get("driver")
        .map_or(Ok(Driver::WriteAnyway), |value| value.word())?;

    let triggers = top.list("trigger")?;
    if triggers.is_empty() {
        let message = "nothing makes the CPUs stop; a [[trigger]] is meant".to_owned();
        return Err(Wrong {
            at: top.at,
            key: "trigger".to_owned(),
            message,
        });
    }
    let mut tasks = Vec::new();
    let mut busy = BTreeMap::new();
    for (value, trigger) in triggers
        .iter()
        .map(|v| (v, true))
        .chain(top.list("task")?.iter().map(|v| (v, false)))
    {
        let task = task(value, cpus, trigger)?;
        if let Some(other) = busy.insert(task.cpu, value.key.clone()) {
            return value.wrong(format!("CPU {} already has {other}", task.cpu));
        }
        if offline.contains(task.cpu) != (task.does == Does::Online) {
            return value.wrong(format!(
                "CPU {} must be in `offline` to come online, and a CPU in `offline` can do nothing else",
                task.cpu
            ));
        }
        tasks.push(task);
    }
    for (value, finder) in triggers.iter().zip(&tasks) {
        let next = CpuId((finder.cpu.0 + 1) % cpus);
        let locked_up = |task: &Task| task.cpu == next && task.does == Does::MaskIrqs;
        if finder.does == Does::Panic(Cause::Lockup) && !tasks.iter().any(locked_up) {
            return value.wrong(format!(
                "CPU {} finds CPU {next} locked up, so that this must have the task mask-irqs",
                finder.cpu
            ));
        }
    }
    let mut holds: Vec<Hold> = Vec::new();
    for value in top.list("hold")? {
        let hold = hold(&value, cpus)?;
        if holds
            .iter()
            .any(|other| (other.cpu, other.at) == (hold.cpu, hold.at))
        {
            return value.wrong(format!("CPU {} is already held at {}", hold.cpu, hold.at));
        }
        holds.push(hold);
    }
    let exercises = top
        .get("exercises")
        .map_or(Ok(BTreeSet::new()), |value| value.rules())?;
    let expect = top
        .get("expect")
        .map_or(Ok(BTreeMap::new()), |value| expect(&value))?;
    let capture = match top.get("capture") {
        None => Capture::default(),
        Some(value) if onward != Onward::Kexec => {
            return value.wrong(
                "there is no capture kernel but on the way to one; `after = \"kexec\"` is meant",
            );
        }
        Some(value) => capture(&value, cpus)?,
    };
    let explore = top
        .get("explore")
        .map_or(Ok(Explore::default()), |value| explore(&value))?;
    Ok(Scenario {
        name: name.text()?.to_owned(),
        why: why.to_owned(),
        source: source.to_owned(),
        cpus,
        offline,
        pseudo_nmi,
        sdei,
        can_die,
        late_stores,
        stop,
        after: onward,
        driver,
        tasks,
        holds,
        exercises,
        expect,
        capture,
        explore,
    })
}

const TRIGGERS: [&str; 2] = ["panic", "restart"];
const TASKS: [&str; 6] = ["talk", "unplug", "online", "nmi", "mask-irqs", "mask-daif"];

fn task(value: &Value<'_>, cpus: u16, trigger: bool) -> Read<Task> {
    let mut table = value.table()?;
    let cpu = table.need("cpu", "the CPU that does it")?.cpu(cpus)?;
    let does = table.need("does", "what the CPU does")?;
    let known: &[&str] = if trigger { &TRIGGERS } else { &TASKS };
    let does = match does.text()? {
        text if !known.contains(&text) => {
            let all: Vec<&'static str> = if trigger {
                TRIGGERS.to_vec()
            } else {
                TASKS.to_vec()
            };
            return does.unknown(text, all.into_iter());
        }
        "panic" => {
            let cause = table.get("cause");
            Does::Panic(cause.map_or(Ok(Cause::Told), |value| value.word())?)
        }
        "restart" => Does::Restart,
        "talk" => {
            let records = table
                .get("records")
                .map_or(Ok(1), |value| value.number(1..=9))?;
            Does::Talk(records as u8)
        }
        "unplug" => Does::Unplug,
        "online" => Does::Online,
        "nmi" => Does::Nmi(
            table
                .need("to", "the CPU that the NMI goes to")?
                .cpu(cpus)?,
        ),
        "mask-irqs" => Does::MaskIrqs,
        "mask-daif" => Does::MaskDaif,
        _ => unreachable!("the word is one of the known ones"),
    };
    let after = table
        .get("after")
        .map(|value| passing(&value, cpus))
        .transpose()?;
    table.end(&["cpu", "does", "cause", "records", "to", "after"])?;
    Ok(Task { cpu, does, after })
}

fn passing(value: &Value<'_>, cpus: u16) -> Read<Passing> {
    let mut table = value.table()?;
    let cpu = table
        .need("cpu", "the CPU that comes to the point")?
        .cpu(cpus)?;
    let at = table.need("at", "the point that it comes to")?.point()?;
    table.end(&["cpu", "at"])?;
    Ok(Passing { cpu, at })
}

fn hold(value: &Value<'_>, cpus: u16) -> Read<Hold> {
    let mut table = value.table()?;
    let cpu = table.need("cpu", "the CPU that is held")?.cpu(cpus)?;
    let at_value = table.need("at", "the point where it is held")?;
    let at = at_value.point()?;
    let manner_value = table.need("manner", "how it is held: stall, spin or freeze")?;
    let manner = manner_value.word()?;
    if manner == Manner::Stall
        && !matches!(
            at,
            Point::ConsoleLocked | Point::ConsoleMid | Point::ConsoleUnlock
        )
    {
        return manner_value.wrong(format!(
            "a CPU can be stalled only where it polls the UART (console-locked, console-mid, console-unlock), not at {at}"
        ));
    }
    let until = table.need(
        "until",
        "when the hold ends: \"never\", { after_ms = N } or { cpu = N, at = POINT }",
    )?;
    let until = match until.value {
        DeValue::String(text) if text == "never" => HoldUntil::Never,
        DeValue::Table(inner) if inner.contains_key("after_ms") => {
            let mut table = until.table()?;
            let ms = table
                .need("after_ms", "milliseconds after the first stop request")?
                .number(0..=1_000_000)?;
            table.end(&["after_ms"])?;
            HoldUntil::AfterRequest(ms as u32)
        }
        DeValue::Table(_) => {
            let passing = passing(&until, cpus)?;
            if manner == Manner::Freeze && passing.cpu == cpu {
                return until.wrong(format!(
                    "CPU {cpu} is frozen till then, and comes nowhere; another CPU's point is meant"
                ));
            }
            HoldUntil::Passing(passing)
        }
        _ => return until.wrong("\"never\", { after_ms = N } or { cpu = N, at = POINT } is meant"),
    };
    table.end(&["cpu", "at", "manner", "until"])?;
    Ok(Hold {
        cpu,
        at,
        manner,
        until,
    })
}

fn expect(value: &Value<'_>) -> Read<BTreeMap<String, BTreeSet<Rule>>> {
    let mut table = value.table()?;
    let names = PROTOCOLS.map(|protocol: &Protocol| protocol.name);
    let mut expect = BTreeMap::new();
    for name in names {
        if let Some(rules) = table.get(name) {
            expect.insert(name.to_owned(), rules.rules()?);
        }
    }
    table.end(&names)?;
    Ok(expect)
}

fn capture(value: &Value<'_>, cpus: u16) -> Read<Capture> {
    let mut table = value.table()?;
    let mut online = CpuSet::new();
    for cpu in table.list("online")? {
        online.insert(cpu.cpu(cpus)?);
    }
    let expect = table
        .get("expect")
        .map_or(Ok(BTreeMap::new()), |value| expect(&value))?;
    table.end(&["online", "expect"])?;
    Ok(Capture { online, expect })
}

fn explore(value: &Value<'_>) -> Read<Explore> {
    let mut table = value.table()?;
    let delays = table
        .get("delays")
        .map_or(Ok(0), |value| value.number(0..=9))? as u8;
    let expect = table
        .get("expect")
        .map_or(Ok(BTreeMap::new()), |value| expect(&value))?;
    table.end(&["delays", "expect"])?;
    Ok(Explore { delays, expect })
}
