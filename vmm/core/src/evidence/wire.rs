//! A line of the console's wire, for people: who sent which part of it.

use std::fmt;

use super::{Event, What};
use crate::arm::CpuId;

/// The line of the wire that a stop met: it was under way when the first request was sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MetLine {
    parts: Vec<(CpuId, Vec<u8>)>,
    ended: bool,
}

impl MetLine {
    /// None if the stop met no line that had begun.
    pub fn of(events: &[Event]) -> Option<Self> {
        let mut line = Self {
            parts: Vec::new(),
            ended: false,
        };
        let mut met = false;
        for event in events {
            match &event.what {
                What::Requests { .. } if line.parts.is_empty() => return None,
                What::Requests { .. } => met = true,
                What::Wire(bytes) => {
                    for byte in bytes.iter() {
                        match byte {
                            b'\n' if met => {
                                line.ended = true;
                                return Some(line);
                            }
                            b'\n' => line.parts.clear(),
                            b'\r' => {}
                            byte => line.push(event.cpu, *byte),
                        }
                    }
                }
                _ => {}
            }
        }
        met.then_some(line)
    }

    /// What of it each CPU has sent, in order.
    pub fn parts(&self) -> impl Iterator<Item = (CpuId, &[u8])> {
        self.parts.iter().map(|(cpu, bytes)| (*cpu, &bytes[..]))
    }

    /// Whether its end has come.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    fn push(&mut self, cpu: CpuId, byte: u8) {
        match self.parts.last_mut() {
            Some((last, bytes)) if *last == cpu => bytes.push(byte),
            _ => self.parts.push((cpu, vec![byte])),
        }
    }
}

impl fmt::Display for MetLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (cpu, bytes)) in self.parts.iter().enumerate() {
            let then = if at == 0 { "" } else { ", then " };
            let text = bytes.escape_ascii().to_string();
            write!(f, "{then}CPU {cpu} \"{}\"", without_repeats(&text))?;
        }
        match self.ended {
            true => Ok(()),
            false => f.write_str(", and no end of line"),
        }
    }
}

/// A text in which of a character that comes many times in a row the first three are left.
pub fn without_repeats(text: &str) -> String {
    const SHOWN: usize = 3;
    const MANY: usize = 16;
    let mut short = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = rest.trim_start_matches(first);
        let (run, repeats) = (
            &rest[..rest.len() - after.len()],
            (rest.len() - after.len()) / first.len_utf8(),
        );
        if repeats < MANY {
            short += run;
        } else {
            short.extend([first; SHOWN]);
            short += &format!("[{} more]", repeats - SHOWN);
        }
        rest = after;
    }
    short
}

/// A line without what Linux puts before a record's text: `[    4.798868] `, and with CONFIG_PRINTK_CALLER `[    T1] ` or
/// `[    C0] ` behind it (kernel/printk/printk.c, info_print_prefix()).
pub fn without_prefix(line: &[u8]) -> &[u8] {
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
    use guest_abi::protocol::Request;

    use super::*;
    use crate::arm::CpuSet;
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

    fn request() -> Event {
        let (via, to) = (Request::Nmi, CpuSet::first(2));
        event(0, What::Requests { via, to })
    }

    fn met(events: &[Event]) -> Option<String> {
        MetLine::of(events).map(|line| line.to_string())
    }

    #[test]
    fn it_is_told_who_sent_which_part() {
        let cut = [
            wire(1, "one\r\ntw"),
            wire(1, "o, be"),
            request(),
            wire(0, "three\r\n"),
            wire(0, "four\r\n"),
        ];
        assert_eq!(met(&cut).unwrap(), r#"CPU 1 "two, be", then CPU 0 "three""#);
        let whole = [wire(1, "two, be"), request(), wire(1, "gun\r\nmore")];
        assert_eq!(met(&whole).unwrap(), r#"CPU 1 "two, begun""#);
        let lost = [wire(1, "tw"), request(), request()];
        assert_eq!(met(&lost).unwrap(), r#"CPU 1 "tw", and no end of line"#);
    }

    #[test]
    fn a_stop_may_meet_no_line() {
        assert_eq!(met(&[wire(1, "one\r\n"), request(), wire(0, "two")]), None);
        assert_eq!(met(&[wire(1, "on")]), None);
    }

    #[test]
    fn what_repeats_is_counted() {
        let dots = ".".repeat(20);
        assert_eq!(without_repeats(&format!("a: {dots}|")), "a: ...[17 more]|");
        assert_eq!(without_repeats("aab --------"), "aab --------");
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
