//! An event as a line of text: `TIME CPU SEEN DAIF/PMR VERB KEY=VALUE…`.
//!
//! Bytes (notes, registers, the wire) lie in files of their own; a line names them by number or by length.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use guest_abi::note::NOTE_BYTES;
use guest_abi::point::Point;
use guest_abi::protocol::{Request, Word};

use super::{
    Event, Hand, Interrupt, Manner, Masks, Note, Onward, Regs, Seen, StopKind, Until, What,
};
use crate::arm::{CpuId, CpuSet};

/// Why a line is no event.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LineError {
    /// The line ends too soon.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A word is none of the known ones.
    #[error("`{word}` is no {what}")]
    Unknown {
        /// The word.
        word: String,
        /// What it should be.
        what: &'static str,
    },
    /// There is more than the event has.
    #[error("`{0}` is left over")]
    LeftOver(String),
    /// The bytes that the line names are not there.
    #[error("{0} does not have the bytes that this line names")]
    Bytes(&'static str),
}

/// The words of an enumeration, both ways.
trait Words: Sized + Copy + PartialEq + 'static {
    const WHAT: &'static str;
    const TABLE: &'static [(Self, &'static str)];

    fn word(self) -> &'static str {
        Self::TABLE
            .iter()
            .find(|(value, _)| *value == self)
            .expect("every value has its word")
            .1
    }

    fn of(word: &str) -> Result<Self, LineError> {
        let found = Self::TABLE.iter().find(|(_, known)| *known == word);
        found
            .map(|(value, _)| *value)
            .ok_or_else(|| unknown(word, Self::WHAT))
    }
}

macro_rules! words {
    ($type:ty, $what:literal, $($value:expr => $word:literal),+ $(,)?) => {
        impl Words for $type {
            const WHAT: &'static str = $what;
            const TABLE: &'static [(Self, &'static str)] = &[$(($value, $word)),+];
        }
    };
}

words!(Seen, "way of seeing", Seen::Told => "told", Seen::Trapped => "trapped", Seen::Quiesce => "quiesce");
words!(StopKind, "kind of stop", StopKind::Plain => "plain", StopKind::Crash => "crash");
words!(Onward, "way on", Onward::Kexec => "kexec", Onward::Reset => "reset", Onward::PanicEnd => "panic-end");
words!(Request, "request", Request::Irq => "irq", Request::Nmi => "nmi", Request::Sdei => "sdei");
words!(Interrupt, "interrupt",
    Interrupt::Stop(Request::Irq) => "irq", Interrupt::Stop(Request::Nmi) => "nmi",
    Interrupt::Stop(Request::Sdei) => "sdei", Interrupt::Foreign => "foreign-nmi");
words!(Hand, "hand", Hand::Handler => "handler", Hand::SelfStop => "self-stop",
    Hand::Hotplug => "hotplug", Hand::Redirect => "redirect");
words!(Manner, "manner", Manner::Stall => "stall", Manner::Spin => "spin", Manner::Freeze => "freeze");
words!(bool, "truth", true => "yes", false => "no");
words!(Word, "word of memory",
    Word::OnlineMask => "online-mask", Word::OnlineCount => "online-count",
    Word::StopMask => "stop-mask", Word::Counter => "counter");

pub(crate) fn request_word(request: Request) -> &'static str {
    request.word()
}

pub(super) fn onward_word(onward: Onward) -> &'static str {
    onward.word()
}

pub(super) fn request_of(word: &str) -> Option<Request> {
    Request::of(word).ok()
}

pub(super) fn word_of(word: &str) -> Option<Word> {
    Word::of(word).ok()
}

/// The word that the trace shares with the evidence.
pub(crate) fn manner_word(manner: Manner) -> &'static str {
    manner.word()
}

fn unknown(word: &str, what: &'static str) -> LineError {
    LineError::Unknown {
        word: word.to_owned(),
        what,
    }
}

/// The files of bytes, as they are written.
#[derive(Default)]
pub(super) struct Bytes {
    pub(super) notes: Vec<u8>,
    pub(super) regs: Vec<u8>,
    pub(super) wire: Vec<u8>,
}

impl Bytes {
    fn push_note(&mut self, note: &Note) -> usize {
        self.notes.extend_from_slice(&note.0);
        self.notes.len() / NOTE_BYTES - 1
    }
}

/// The files of bytes, as they are read: each byte once and in order.
pub(super) struct Reader<'a> {
    pub(super) notes: &'a [u8],
    pub(super) regs: &'a [u8],
    pub(super) wire: &'a [u8],
    pub(super) notes_read: usize,
    pub(super) regs_read: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(notes: &'a [u8], regs: &'a [u8], wire: &'a [u8]) -> Self {
        Self {
            notes,
            regs,
            wire,
            notes_read: 0,
            regs_read: 0,
        }
    }

    fn note(&mut self, number: &str) -> Result<Arc<Note>, LineError> {
        if number != self.notes_read.to_string() {
            return Err(LineError::Bytes("notes.bin"));
        }
        let (note, rest) = self
            .notes
            .split_first_chunk::<NOTE_BYTES>()
            .ok_or(LineError::Bytes("notes.bin"))?;
        (self.notes, self.notes_read) = (rest, self.notes_read + 1);
        Ok(Arc::new(Note(*note)))
    }

    fn regs(&mut self, number: &str) -> Result<Option<Arc<Regs>>, LineError> {
        if number == "-" {
            return Ok(None);
        }
        if number != self.regs_read.to_string() {
            return Err(LineError::Bytes("regs.bin"));
        }
        let (regs, rest) = self
            .regs
            .split_first_chunk()
            .ok_or(LineError::Bytes("regs.bin"))?;
        (self.regs, self.regs_read) = (rest, self.regs_read + 1);
        Ok(Some(Arc::new(Regs::from_bytes(regs))))
    }

    fn wire(&mut self, count: usize) -> Result<Arc<[u8]>, LineError> {
        let (bytes, rest) = self
            .wire
            .split_at_checked(count)
            .ok_or(LineError::Bytes("wire.bin"))?;
        self.wire = rest;
        Ok(bytes.into())
    }

    pub(super) fn used_up(&self) -> Option<&'static str> {
        let files = [
            ("notes.bin", self.notes),
            ("regs.bin", self.regs),
            ("wire.bin", self.wire),
        ];
        files
            .into_iter()
            .find(|(_, left)| !left.is_empty())
            .map(|(name, _)| name)
    }
}

/// Text in quotes, so that a line stays a line.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                    write!(f, "\\u{{{:x}}}", u32::from(c))?
                }
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

fn unquote(text: &str) -> Result<String, LineError> {
    let wrong = || unknown(text, "text in quotes");
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .ok_or_else(wrong)?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Err(wrong()),
            '\\' => match chars.next().ok_or_else(wrong)? {
                c @ ('"' | '\\') => out.push(c),
                'u' => {
                    let digits: String = chars
                        .by_ref()
                        .skip_while(|c| *c == '{')
                        .take_while(|c| *c != '}')
                        .collect();
                    let code = u32::from_str_radix(&digits, 16)
                        .ok()
                        .and_then(char::from_u32);
                    out.push(code.ok_or_else(wrong)?);
                }
                _ => return Err(wrong()),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

pub(super) fn print(event: &Event, bytes: &mut Bytes) -> String {
    let mut line = format!("{} {} {} ", event.at_us, event.cpu, event.seen.word());
    match event.masks {
        Some(masks) => write!(line, "{:x}/{:02x} ", masks.daif, masks.pmr),
        None => write!(line, "- "),
    }
    .expect("a String takes all");
    line + &verb(&event.what, bytes)
}

fn verb(what: &What, bytes: &mut Bytes) -> String {
    match what {
        What::Calls(stop) => format!("calls stop={}", stop.word()),
        What::Climbs {
            stop,
            others,
            running,
        } => {
            format!(
                "climbs stop={} others={others} running={}",
                stop.word(),
                running.word()
            )
        }
        What::Reads(mask) => format!("reads mask={mask}"),
        What::Requests { via, to } => format!("requests via={} to={to}", via.word()),
        What::RungOut(via) => format!("rung-out via={}", via.word()),
        What::Returns => "returns".to_owned(),
        What::Goes(onward) => format!("goes to={}", onward.word()),
        What::Logs { level, text, shown } => {
            format!(
                "logs level={level} shown={} text={}",
                shown.word(),
                Quoted(text)
            )
        }
        What::Wire(out) => {
            bytes.wire.extend_from_slice(out);
            format!("wire bytes={}", out.len())
        }
        What::Flushed => "flushed".to_owned(),
        What::Takes { by, regs } => {
            let number = regs.as_ref().map_or("-".to_owned(), |regs| {
                bytes.regs.extend_from_slice(&regs.to_bytes());
                (bytes.regs.len() / Regs::BYTES - 1).to_string()
            });
            format!("takes by={} regs={number}", by.word())
        }
        What::Enters => "enters".to_owned(),
        What::Leaves => "leaves".to_owned(),
        What::Notes(note) => format!("notes note={}", bytes.push_note(note)),
        What::Clears { word, by } => format!("clears word={} by={}", word.word(), by.word()),
        What::SelfStops => "self-stops".to_owned(),
        What::Parks => "parks".to_owned(),
        What::PowersOff => "powers-off".to_owned(),
        What::Active { sgi, priority } => format!("active sgi={sgi} priority={priority}"),
        What::Pending { sgi } => format!("pending sgi={sgi}"),
        What::Unplugs => "unplugs".to_owned(),
        What::ComesUp => "comes-up".to_owned(),
        What::Holds { at, manner, until } => {
            let at = at.map_or("-", Point::name);
            let until = match until {
                Until::AfterRequest(us) => format!("request+{us}"),
                Until::Event => "event".to_owned(),
                Until::Never => "never".to_owned(),
            };
            format!("holds at={at} manner={} until={until}", manner.word())
        }
        What::Releases => "releases".to_owned(),
        What::Runs(text) => format!("runs text={}", Quoted(text)),
        What::CaptureUp => "capture-up".to_owned(),
        What::CaptureNote(note) => format!("capture-note note={}", bytes.push_note(note)),
        What::CaptureFails(why) => format!("capture-fails text={}", Quoted(why)),
    }
}

/// The fields of a line, each taken once and in order.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn word(&mut self, what: &'static str) -> Result<&'a str, LineError> {
        if self.0.is_empty() {
            return Err(LineError::Missing(what));
        }
        let (word, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
        self.0 = rest;
        Ok(word)
    }

    fn value(&mut self, key: &'static str) -> Result<&'a str, LineError> {
        let rest = self
            .0
            .strip_prefix(key)
            .and_then(|rest| rest.strip_prefix('='))
            .ok_or(LineError::Missing(key))?;
        let (value, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        self.0 = rest;
        Ok(value)
    }

    fn number<T: std::str::FromStr>(&mut self, key: &'static str) -> Result<T, LineError> {
        let value = self.value(key)?;
        number(value)
    }

    fn of<T: Words>(&mut self, key: &'static str) -> Result<T, LineError> {
        T::of(self.value(key)?)
    }

    fn set(&mut self, key: &'static str) -> Result<CpuSet, LineError> {
        let value = self.value(key)?;
        value.parse().map_err(|_| unknown(value, "list of CPUs"))
    }

    /// The last field: text may hold spaces.
    fn text(&mut self) -> Result<Arc<str>, LineError> {
        let quoted = self
            .0
            .strip_prefix("text=")
            .ok_or(LineError::Missing("text"))?;
        self.0 = "";
        Ok(unquote(quoted)?.into())
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, LineError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| unknown(text, "number"))
}

pub(super) fn parse(line: &str, bytes: &mut Reader<'_>) -> Result<Event, LineError> {
    let mut fields = Fields(line);
    let at_us = number(fields.word("the time")?)?;
    let cpu = fields.word("the CPU")?;
    let cpu = CpuId(
        number::<u16>(cpu)
            .ok()
            .filter(|n| *n <= CpuSet::MAX)
            .ok_or_else(|| unknown(cpu, "CPU"))?,
    );
    let seen = Seen::of(fields.word("the way of seeing")?)?;
    let masks = match fields.word("DAIF/PMR")? {
        "-" => None,
        text => {
            let halves = text.split_once('/');
            let hex = |digits: &str| u8::from_str_radix(digits, 16).ok();
            let masks = halves.and_then(|(daif, pmr)| {
                Some(Masks {
                    daif: hex(daif)?,
                    pmr: hex(pmr)?,
                })
            });
            Some(masks.ok_or_else(|| unknown(text, "DAIF/PMR"))?)
        }
    };
    let what = parse_verb(&mut fields, bytes)?;
    if !fields.0.is_empty() {
        return Err(LineError::LeftOver(fields.0.to_owned()));
    }
    Ok(Event {
        at_us,
        cpu,
        seen,
        masks,
        what,
    })
}

fn parse_verb(fields: &mut Fields<'_>, bytes: &mut Reader<'_>) -> Result<What, LineError> {
    let verb = fields.word("the verb")?;
    Ok(match verb {
        "calls" => What::Calls(fields.of("stop")?),
        "climbs" => What::Climbs {
            stop: fields.of("stop")?,
            others: fields.set("others")?,
            running: fields.of("running")?,
        },
        "reads" => What::Reads(fields.set("mask")?),
        "requests" => What::Requests {
            via: fields.of("via")?,
            to: fields.set("to")?,
        },
        "rung-out" => What::RungOut(fields.of("via")?),
        "returns" => What::Returns,
        "goes" => What::Goes(fields.of("to")?),
        "logs" => What::Logs {
            level: fields.number("level")?,
            shown: fields.of("shown")?,
            text: fields.text()?,
        },
        "wire" => {
            let count = fields.number("bytes")?;
            What::Wire(bytes.wire(count)?)
        }
        "flushed" => What::Flushed,
        "takes" => What::Takes {
            by: fields.of("by")?,
            regs: bytes.regs(fields.value("regs")?)?,
        },
        "enters" => What::Enters,
        "leaves" => What::Leaves,
        "notes" => What::Notes(bytes.note(fields.value("note")?)?),
        "clears" => What::Clears {
            word: fields.of("word")?,
            by: fields.of("by")?,
        },
        "self-stops" => What::SelfStops,
        "parks" => What::Parks,
        "powers-off" => What::PowersOff,
        "pending" => What::Pending {
            sgi: number(fields.value("sgi")?)?,
        },
        "active" => What::Active {
            sgi: fields.number("sgi")?,
            priority: fields.number("priority")?,
        },
        "unplugs" => What::Unplugs,
        "comes-up" => What::ComesUp,
        "holds" => {
            let at = match fields.value("at")? {
                "-" => None,
                name => Some(Point::named(name).ok_or_else(|| unknown(name, "point"))?),
            };
            let manner = fields.of("manner")?;
            let until = match fields.value("until")? {
                "event" => Until::Event,
                "never" => Until::Never,
                text => {
                    let us = text
                        .strip_prefix("request+")
                        .ok_or_else(|| unknown(text, "end of a hold"))?;
                    Until::AfterRequest(number(us)?)
                }
            };
            What::Holds { at, manner, until }
        }
        "releases" => What::Releases,
        "runs" => What::Runs(fields.text()?),
        "capture-up" => What::CaptureUp,
        "capture-note" => What::CaptureNote(bytes.note(fields.value("note")?)?),
        "capture-fails" => What::CaptureFails(fields.text()?),
        _ => return Err(unknown(verb, "verb")),
    })
}
