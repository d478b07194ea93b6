//! What a scenario has done so far, for a debugger.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_core::choose::{Actor, Choose, Origin, Schedule, Taken};
use vmm_core::evidence::{Event, Places, Rows, Setting, What};

use crate::gdb;

/// The tale of a run, which grows while the run goes on.
#[derive(Default)]
pub(in crate::cli) struct Tale(Mutex<Told>);

#[derive(Default)]
struct Told {
    rows: Option<Rows>,
    text: String,
    /// How each CPU is held, or has ended.
    held: BTreeMap<usize, String>,
    origin: Option<Origin>,
    taken: Taken,
}

impl Tale {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest has booted.
    pub(in crate::cli) fn begins(&self, setting: &Setting, places: &Places) {
        let mut told = self.told();
        told.rows = Some(Rows::new(setting, places));
        told.text = Rows::header() + "\n";
    }

    /// Something has happened.
    pub(in crate::cli) fn event(&self, event: &Event) {
        let mut told = self.told();
        if let Some(row) = told.rows.as_mut().map(|rows| rows.row(event)) {
            told.text += &row;
            told.text.push('\n');
        }
        let held = match &event.what {
            What::Holds { at: Some(at), .. } => format!("held at {at}"),
            What::Holds { at: None, .. } => "held".to_owned(),
            What::Takes { .. } => "in a handler".to_owned(),
            What::Parks => "stopped".to_owned(),
            What::PowersOff | What::Unplugs => "off".to_owned(),
            // What came of it meanwhile is so still.
            What::Releases => {
                let own = told.held.get(&event.cpu.index());
                if own.is_some_and(|held| held.starts_with("held")) {
                    told.held.remove(&event.cpu.index());
                }
                return;
            }
            _ => return,
        };
        told.held.insert(event.cpu.index(), held);
    }

    /// What is chosen from now on is this schedule's.
    pub(in crate::cli) fn chooses(&self, origin: Origin) {
        self.told().origin = Some(origin);
    }
}

impl gdb::Telling for Tale {
    fn schedule(&self) -> String {
        let told = self.told();
        match &told.origin {
            Some(origin) => format!("{}\n", Schedule::new(origin.clone(), &told.taken)),
            None => "the vCPUs of this guest run as they come: there is no schedule\n".to_owned(),
        }
    }

    fn trace(&self) -> String {
        match self.told().text.as_str() {
            "" => "nothing has happened yet\n".to_owned(),
            text => text.to_owned(),
        }
    }

    fn held(&self, cpu: usize) -> Option<String> {
        self.told().held.get(&cpu).cloned()
    }
}

/// A strategy whose answers go into the tale.
pub(in crate::cli) struct Recorded<'a> {
    /// The strategy.
    pub(in crate::cli) strategy: &'a mut dyn Choose,
    /// The tale.
    pub(in crate::cli) tale: &'a Tale,
}

impl Choose for Recorded<'_> {
    fn choose(&mut self, alternatives: &[Actor]) -> usize {
        let answer = self.strategy.choose(alternatives);
        self.tale.told().taken.add(alternatives, answer);
        answer
    }
}
