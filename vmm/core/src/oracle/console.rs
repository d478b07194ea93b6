//! The wire as a reader at its far end sees it, against the records that it has to show.

use std::sync::Arc;

use crate::arm::CpuId;

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

/// A line without what Linux puts before a record's text: `[    4.798868] `, and with CONFIG_PRINTK_CALLER `[    T1] ` or
/// `[    C0] ` behind it (kernel/printk/printk.c, info_print_prefix()).
fn without_prefix(line: &[u8]) -> &[u8] {
    let bracketed = |line: &[u8], inner: fn(&[u8]) -> bool| {
        let end = line.iter().position(|byte| *byte == b']')?;
        let inside = line[..end].strip_prefix(b"[")?.trim_ascii_start();
        inner(inside).then_some(end + 1)
    };
    fn is_time(text: &[u8]) -> bool {
        let mut parts = text.split(|byte| *byte == b'.');
        let number = |part: Option<&[u8]>| {
            part.is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit))
        };
        number(parts.next()) && number(parts.next()) && parts.next().is_none()
    }
    fn is_caller(text: &[u8]) -> bool {
        matches!(text, [b'T' | b'C', number @ ..] if !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    }
    let Some(time) = bracketed(line, is_time) else {
        return line;
    };
    let rest = &line[time..];
    let rest = bracketed(rest, is_caller).map_or(rest, |end| &rest[end..]);
    rest.strip_prefix(b" ").unwrap_or(rest)
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

    #[test]
    fn the_time_of_a_record_is_no_part_of_its_text() {
        let text =
            |line: &'static str| std::str::from_utf8(without_prefix(line.as_bytes())).unwrap();
        assert_eq!(text("[    4.798868] SMP: stopping"), "SMP: stopping");
        assert_eq!(text("[12345.798868][    T1] a  b"), "a  b");
        assert_eq!(text("[    0.000000][   C17] a"), "a");
        for line in [
            "a [1.2] b",
            "[x] a",
            "[1.2.3] a",
            "[12] a",
            "[1.2",
            "",
            "[] a",
        ] {
            assert_eq!(text(line), line);
        }
    }
}
