//! The wire as a reader at its far end sees it, against the records that it has to show.

use std::sync::Arc;

use crate::arm::CpuId;
use crate::evidence::without_prefix;

/// What has come over the wire so far.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Console {
    owed: Vec<Owed>,
    line: Vec<u8>,
    // Who wrote the line; its newline may be anybody's.
    writers: Vec<CpuId>,
    /// How many records have come one behind the other.
    in_order: usize,
    mixed: Option<String>,
}

#[derive(Clone, Debug, Hash)]
struct Owed {
    text: Arc<str>,
    whole: bool,
}

/// What is wrong with the wire.
pub(super) enum Fault {
    /// Bytes of two CPUs make one line that is no record.
    Mixed(String),
    /// A record does not appear whole.
    Missing(String),
    /// A record appears, but not behind all that were stored before it.
    Disorder(String),
}

impl Console {
    /// A record is stored that the console has to show.
    pub(super) fn owe(&mut self, text: Arc<str>) {
        self.owed.push(Owed { text, whole: false });
    }

    /// Bytes come over the wire.
    pub(super) fn show(&mut self, cpu: CpuId, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                byte => {
                    self.line.push(*byte);
                    if !self.writers.contains(&cpu) {
                        self.writers.push(cpu);
                    }
                }
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let writers = std::mem::take(&mut self.writers);
        let text = without_prefix(&line);
        let is_line = |owed: &&Owed| [text, &line].contains(&owed.text.as_bytes());
        // Other lines may come between: a record that is shown twice, or one that was stored while its level was not shown and was still
        // to be sent when that changed.
        if self.owed.get(self.in_order).as_ref().is_some_and(is_line) {
            self.in_order += 1;
        }
        // A text that was stored twice is owed twice.
        if let Some(at) = self
            .owed
            .iter()
            .position(|owed| is_line(&owed) && !owed.whole)
        {
            self.owed[at].whole = true;
        } else if self.owed.iter().find(is_line).is_none() && writers.len() > 1 {
            self.mixed
                .get_or_insert(String::from_utf8_lossy(&line).into_owned());
        }
    }

    /// What is wrong, if the last flush ends here.
    pub(super) fn fault(&self) -> Option<Fault> {
        if let Some(line) = &self.mixed {
            return Some(Fault::Mixed(line.clone()));
        }
        if let Some(owed) = self.owed.iter().find(|owed| !owed.whole) {
            return Some(Fault::Missing(owed.text.to_string()));
        }
        let late = self.owed.get(self.in_order)?;
        Some(Fault::Disorder(late.text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_late_only_behind_what_the_console_had_to_show() {
        let late = |lines: &[&str]| {
            let mut console = Console::default();
            for text in ["panic", "trace", "end"] {
                console.owe(text.into());
            }
            for line in lines {
                console.show(CpuId(0), line.as_bytes());
                console.show(CpuId(0), b"\r\n");
            }
            console.fault().map(|fault| match fault {
                Fault::Disorder(text) => text,
                Fault::Missing(text) | Fault::Mixed(text) => panic!("{text}"),
            })
        };
        assert_eq!(late(&["panic", "trace", "end"]), None);
        // An older record of the same text was still to be sent when its level began to be shown.
        assert_eq!(late(&["trace", "panic", "trace", "end"]), None);
        assert_eq!(late(&["panic", "panic", "trace", "end"]), None);
        assert_eq!(late(&["trace", "panic", "end"]), Some("trace".to_owned()));
    }
}
