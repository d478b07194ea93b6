//! Who can tell what was said: the log ring has a record, and each other witness has it whole, cut, or not at all.

use std::collections::BTreeMap;
use std::fmt;

use super::wire::{without_prefix, without_repeats};
use super::{Evidence, What};

/// What a witness has of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Has {
    /// A line of its own with all of it.
    Whole,
    /// A line that begins as it does.
    Cut,
    /// Nothing.
    Nothing,
}

impl Has {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Has::Whole => "whole",
            Has::Cut => "cut",
            Has::Nothing => "nothing",
        }
    }
}

/// What else there is than the log ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Witness {
    /// What left for the console.
    Wire,
    /// ramoops' console zone at the end of the run.
    Pstore,
    /// The same zone, as another kernel finds it.
    PstoreAfterReset,
    /// What the capture kernel reads.
    Vmcore,
}

impl Witness {
    /// Its name for machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Pstore => "pstore",
            Self::PstoreAfterReset => "pstore-after-reset",
            Self::Vmcore => "vmcore",
        }
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wire => "the wire",
            Self::Pstore => "pstore",
            Self::PstoreAfterReset => "pstore after the reset",
            Self::Vmcore => "the vmcore",
        })
    }
}

/// The witnesses of a run side by side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Witnesses {
    names: Vec<Witness>,
    /// By record of the ring that the console had to show: what each witness has of it.
    rows: Vec<(String, Vec<Has>)>,
}

/// The lines of a witness that is a text.
struct Lines<'a> {
    lines: Vec<&'a [u8]>,
    /// How many lines of a text have been taken for records.
    taken: BTreeMap<&'a [u8], usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a [u8]) -> Self {
        let lines = text.split(|byte| *byte == b'\n');
        let lines = lines.map(|line| without_prefix(line.strip_suffix(b"\r").unwrap_or(line)));
        Self {
            lines: lines.collect(),
            taken: BTreeMap::new(),
        }
    }

    /// What it has of the next record with this text: one that was stored twice must be there twice.
    fn has(&mut self, text: &'a [u8]) -> Has {
        // A beginning that is not everybody's.
        const BEGINNING: usize = 12;
        let taken = self.taken.entry(text).or_default();
        if self.lines.iter().filter(|line| **line == text).count() > *taken {
            *taken += 1;
            return Has::Whole;
        }
        let beginning = &text[..text.len().min(BEGINNING)];
        let begins = |line: &&&[u8]| line.starts_with(beginning) && **line != text;
        match self.lines.iter().find(begins) {
            Some(_) => Has::Cut,
            None => Has::Nothing,
        }
    }
}

impl Witnesses {
    /// None where there is no other witness than the wire.
    pub fn of(evidence: &Evidence) -> Option<Self> {
        let wire: Vec<u8> = (evidence.events.iter())
            .flat_map(|event| match &event.what {
                What::Wire(bytes) => bytes.to_vec(),
                _ => Vec::new(),
            })
            .collect();
        let pstore = evidence.pstore.as_ref();
        let texts = [
            (Witness::Wire, Some(&wire)),
            (Witness::Pstore, pstore.map(|pstore| &pstore.console)),
            (
                Witness::PstoreAfterReset,
                pstore.and_then(|pstore| pstore.found.as_ref()),
            ),
            (Witness::Vmcore, evidence.dmesg.as_ref()),
        ];
        let there = texts
            .into_iter()
            .filter_map(|(name, text)| Some((name, text?)));
        let (names, mut witnesses): (Vec<_>, Vec<_>) =
            there.map(|(name, text)| (name, Lines::new(text))).unzip();
        if names.len() == 1 {
            return None;
        }
        let rows = evidence
            .events
            .iter()
            .filter_map(|event| match &event.what {
                What::Logs {
                    text, shown: true, ..
                } => {
                    let has = witnesses.iter_mut().map(|lines| lines.has(text.as_bytes()));
                    Some((text.to_string(), has.collect()))
                }
                _ => None,
            });
        let rows = rows.collect();
        Some(Self { names, rows })
    }

    /// The witnesses, and how many records each has whole.
    pub fn whole(&self) -> impl Iterator<Item = (Witness, usize)> {
        self.names.iter().enumerate().map(|(at, witness)| {
            let whole = self.rows.iter().filter(|(_, has)| has[at] == Has::Whole);
            (*witness, whole.count())
        })
    }

    /// The records that not every witness has whole, and what each has of it.
    pub fn not_whole(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = (Witness, Has)>)> {
        self.rows.iter().filter_map(|(text, has)| {
            let each = self.names.iter().copied().zip(has.iter().copied());
            let whole = has.iter().all(|has| *has == Has::Whole);
            (!whole).then_some((text.as_str(), each))
        })
    }

    /// How many records there are.
    pub fn records(&self) -> usize {
        self.rows.len()
    }
}

impl fmt::Display for Witnesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.records();
        write!(f, "of the log ring's {count} records are whole: ")?;
        for (at, (name, whole)) in self.whole().enumerate() {
            let and = if at == 0 { "" } else { ", " };
            write!(f, "{and}{whole} in {name}")?;
        }
        writeln!(f)?;
        for (text, has) in self.not_whole() {
            let each: Vec<String> = has
                .map(|(name, has)| format!("{} in {name}", has.word()))
                .collect();
            writeln!(f, "    {}: \"{}\"", each.join(", "), without_repeats(text))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_its_own_is_whole_and_one_that_only_begins_so_is_cut() {
        let text = b"[    1.000000] CPU 1 talks, rec[    1.000000] CPU 1 talks, record 2\r\n[    2.0] Call trace:\r\n";
        let mut lines = Lines::new(text);
        assert_eq!(lines.has(b"CPU 1 talks, record 2"), Has::Cut);
        assert_eq!(lines.has(b"Call trace:"), Has::Whole);
        // Stored twice, and sent once.
        assert_eq!(lines.has(b"Call trace:"), Has::Nothing);
        assert_eq!(lines.has(b"Kernel panic"), Has::Nothing);
    }
}
