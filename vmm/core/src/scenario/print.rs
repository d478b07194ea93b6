//! Scenario to TOML, in the order of docs/scenarios.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Capture, Cause, Does, FORMAT, HoldUntil, Passing, Scenario};
use crate::arm::CpuSet;
use crate::document::Words;
use crate::oracle::Rule;

fn word<T: Words>(value: T) -> &'static str {
    T::WORDS
        .iter()
        .find(|(known, _)| *known == value)
        .expect("every value has its word")
        .1
}

fn text(text: &str) -> toml::Value {
    toml::Value::String(text.to_owned())
}

fn passing(Passing { cpu, at }: &Passing) -> String {
    format!("{{ cpu = {cpu}, at = \"{at}\" }}")
}

fn rules(rules: &BTreeSet<Rule>) -> String {
    let names: Vec<String> = rules.iter().map(|rule| format!("\"{rule}\"")).collect();
    format!("[{}]", names.join(", "))
}

fn expect(
    f: &mut fmt::Formatter<'_>,
    heading: &str,
    expect: &BTreeMap<String, BTreeSet<Rule>>,
) -> fmt::Result {
    writeln!(f, "\n[{heading}]")?;
    expect
        .iter()
        .try_for_each(|(protocol, broken)| writeln!(f, "{protocol} = {}", rules(broken)))
}

fn cpus(set: &CpuSet) -> String {
    let cpus: Vec<String> = set.iter().map(|cpu| cpu.to_string()).collect();
    format!("[{}]", cpus.join(", "))
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "format = {FORMAT}")?;
        writeln!(f, "name = {}", text(&self.name))?;
        writeln!(f, "why = {}", text(&self.why))?;
        writeln!(f, "source = {}", text(&self.source))?;
        writeln!(f, "cpus = {}", self.cpus)?;
        writeln!(f, "offline = {}", cpus(&self.offline))?;
        writeln!(f, "pseudo_nmi = {}", self.pseudo_nmi)?;
        writeln!(f, "sdei = {}", self.sdei)?;
        writeln!(f, "can_die = {}", self.can_die)?;
        writeln!(f, "late_stores = {}", self.late_stores)?;
        writeln!(f, "stop = \"{}\"", word(self.stop))?;
        writeln!(f, "after = \"{}\"", word(self.after))?;
        writeln!(f, "driver = \"{}\"", word(self.driver))?;
        writeln!(f, "exercises = {}", rules(&self.exercises))?;
        for task in &self.tasks {
            let (heading, does) = match task.does {
                Does::Panic(Cause::Told) => ("trigger", "\"panic\"".to_owned()),
                Does::Panic(cause) => {
                    let cause = word(cause);
                    ("trigger", format!("\"panic\"\ncause = \"{cause}\""))
                }
                Does::Restart => ("trigger", "\"restart\"".to_owned()),
                Does::Talk(records) => ("task", format!("\"talk\"\nrecords = {records}")),
                Does::Unplug => ("task", "\"unplug\"".to_owned()),
                Does::Online => ("task", "\"online\"".to_owned()),
                Does::Nmi(to) => ("task", format!("\"nmi\"\nto = {to}")),
                Does::MaskIrqs => ("task", "\"mask-irqs\"".to_owned()),
                Does::MaskDaif => ("task", "\"mask-daif\"".to_owned()),
            };
            writeln!(f, "\n[[{heading}]]\ncpu = {}\ndoes = {does}", task.cpu)?;
            if let Some(after) = &task.after {
                writeln!(f, "after = {}", passing(after))?;
            }
        }
        for hold in &self.holds {
            let until = match &hold.until {
                HoldUntil::AfterRequest(ms) => format!("{{ after_ms = {ms} }}"),
                HoldUntil::Passing(at) => passing(at),
                HoldUntil::Never => "\"never\"".to_owned(),
            };
            writeln!(f, "\n[[hold]]\ncpu = {}\nat = \"{}\"", hold.cpu, hold.at)?;
            writeln!(f, "manner = \"{}\"\nuntil = {until}", word(hold.manner))?;
        }
        expect(f, "expect", &self.expect)?;
        // A schedule belongs to this text: a table that came later is left out where it says nothing, so that older ones still fit.
        if self.capture != Capture::default() {
            writeln!(f, "\n[capture]\nonline = {}", cpus(&self.capture.online))?;
            expect(f, "capture.expect", &self.capture.expect)?;
        }
        writeln!(f, "\n[explore]\ndelays = {}", self.explore.delays)?;
        expect(f, "explore.expect", &self.explore.expect)
    }
}
