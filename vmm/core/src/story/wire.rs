//! The console's wire by lines: who sent which part, and what is left of each record.

use crate::arm::CpuId;
use crate::evidence::{Event, What, without_prefix};

/// What a line is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// A record of the log, whole.
    Whole,
    /// The beginning of this record of the log.
    Cut(String),
    /// No record: of a user's tty, of a kernel that has stored nothing of it, or damaged.
    None,
}

/// A line of the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// Who sent which part of it.
    pub parts: Vec<(CpuId, String)>,
    /// Whether it came to its end.
    pub ended: bool,
    /// What it is.
    pub record: Record,
}

/// The console's wire.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wire {
    /// Its lines.
    pub lines: Vec<Line>,
    /// Records that the console had to show, of which no line is whole, in their order.
    pub missing: Vec<String>,
}

/// A beginning that is not everybody's.
const BEGINNING: usize = 12;

impl Wire {
    pub(super) fn of(events: &[Event]) -> Self {
        let mut records: Vec<&str> = Vec::new();
        let mut owed: Vec<&str> = Vec::new();
        let mut lines: Vec<Vec<(CpuId, Vec<u8>)>> = vec![Vec::new()];
        for event in events {
            match &event.what {
                What::Logs { text, shown, .. } => {
                    records.push(text);
                    if *shown {
                        owed.push(text);
                    }
                }
                What::Wire(bytes) => {
                    for byte in bytes.iter() {
                        let line = lines.last_mut().expect("there is always a last line");
                        match (byte, line.last_mut()) {
                            (b'\n', _) => lines.push(Vec::new()),
                            (b'\r', _) => {}
                            (byte, Some((cpu, part))) if *cpu == event.cpu => part.push(*byte),
                            (byte, _) => line.push((event.cpu, vec![*byte])),
                        }
                    }
                }
                _ => {}
            }
        }
        let last = lines.len() - 1;
        let mut wire = Self::default();
        for (at, parts) in lines.into_iter().enumerate() {
            if at == last && parts.is_empty() {
                break;
            }
            let bytes: Vec<u8> = parts.iter().flat_map(|(_, part)| part.clone()).collect();
            let record = record(&records, &bytes);
            if record == Record::Whole {
                let text = without_prefix(&bytes);
                let it = |owed: &&str| [text, &bytes].contains(&owed.as_bytes());
                // A text that was stored twice is owed twice.
                if let Some(at) = owed.iter().position(it) {
                    owed.remove(at);
                }
            }
            let text =
                |(cpu, part): (CpuId, Vec<u8>)| (cpu, String::from_utf8_lossy(&part).into_owned());
            wire.lines.push(Line {
                parts: parts.into_iter().map(text).collect(),
                ended: at != last,
                record,
            });
        }
        wire.missing = owed.into_iter().map(str::to_owned).collect();
        wire
    }
}

fn record(records: &[&str], line: &[u8]) -> Record {
    let text = without_prefix(line);
    if records
        .iter()
        .any(|record| [text, line].contains(&record.as_bytes()))
    {
        return Record::Whole;
    }
    let common = |record: &&&str| {
        let both = record.bytes().zip(text.iter().copied());
        both.take_while(|(a, b)| a == b).count()
    };
    // A line that is a beginning and nothing else may be a short one.
    let begins = |record: &&&str| {
        let common = common(record);
        common >= record.len().min(BEGINNING) || common == text.len() && !text.is_empty()
    };
    let begun = records.iter().filter(begins).max_by_key(common);
    match begun {
        Some(record) if !record.is_empty() => Record::Cut((*record).to_owned()),
        _ => Record::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Seen;

    fn event(cpu: u16, what: What) -> Event {
        Event {
            at_us: 0,
            cpu: CpuId(cpu),
            seen: Seen::Trapped,
            masks: None,
            what,
        }
    }

    fn wire(cpu: u16, text: &str) -> Event {
        event(cpu, What::Wire(text.as_bytes().into()))
    }

    fn logs(text: &str) -> Event {
        event(
            0,
            What::Logs {
                level: 0,
                text: text.into(),
                shown: true,
            },
        )
    }

    #[test]
    fn each_byte_has_its_sender_and_what_is_cut_says_of_what() {
        let told = Wire::of(&[
            logs("CPU 1 talks, and goes on"),
            logs("CPU 1 talks, to its end"),
            logs("Kernel panic"),
            wire(1, "[    1.000000] CPU 1 talks, to"),
            wire(0, "\r\nKernel "),
            wire(2, "panic\nlogin: "),
        ]);
        let cpu = |cpu: u16, text: &str| (CpuId(cpu), text.to_owned());
        assert_eq!(
            told.lines,
            [
                Line {
                    parts: vec![cpu(1, "[    1.000000] CPU 1 talks, to")],
                    ended: true,
                    record: Record::Cut("CPU 1 talks, to its end".to_owned()),
                },
                Line {
                    parts: vec![cpu(0, "Kernel "), cpu(2, "panic")],
                    ended: true,
                    record: Record::Whole,
                },
                Line {
                    parts: vec![cpu(2, "login: ")],
                    ended: false,
                    record: Record::None,
                },
            ]
        );
        assert_eq!(
            told.missing,
            ["CPU 1 talks, and goes on", "CPU 1 talks, to its end"]
        );
    }

    #[test]
    fn what_is_stored_twice_is_missed_if_it_comes_once() {
        let told = Wire::of(&[logs("again"), logs("again"), wire(0, "again\n")]);
        assert_eq!(told.missing, ["again"]);
        assert_eq!(Wire::of(&[]), Wire::default());
    }
}
