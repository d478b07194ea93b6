//! The folder that keeps evidence, as names and bytes: whoever calls does the reading and writing.
//!
//! `SHA256SUMS` covers every other file, in the form that `sha256sum -c` checks. A folder whose sums do not
//! hold is refused, so that a damaged one never gets a verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::line::{self, Bytes, Reader};
use super::{End, Evidence, FORMAT, Judged, LineError, Places, Pstore, Setting};

/// The files of a folder by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The files of a folder: what it is, what happened, the bytes, the sums.
pub const NAMES: [&str; 9] = [
    "SHA256SUMS",
    "events.txt",
    "evidence.toml",
    "notes.bin",
    "places.txt",
    "protocol.txt",
    "regs.bin",
    "scenario.toml",
    "wire.bin",
];

/// Files that are there where a run has what they hold: the console that pstore keeps, what a kernel found of it after a reset, and the
/// log in a vmcore.
pub const OPTIONAL: [&str; 3] = ["pstore.bin", "pstore-found.bin", "vmcore-dmesg.txt"];

/// Why a folder is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A file is not there.
    #[error("{0} is missing: this is no evidence folder, or not a whole one")]
    Missing(&'static str),
    /// A file is not what was written.
    #[error("{0} is not what SHA256SUMS says: the folder is damaged or was edited")]
    Damaged(&'static str),
    /// The sums themselves are not what was written.
    #[error("SHA256SUMS is not the list of sums of an evidence folder")]
    Sums,
    /// Another version wrote it.
    #[error("evidence.toml has format {found}; this program reads format {FORMAT}")]
    Format {
        /// What it says.
        found: i64,
    },
    /// A file that should be text is not.
    #[error("{0} is not UTF-8 text")]
    NotText(&'static str),
    /// evidence.toml says something else than it may.
    #[error("evidence.toml: {0}")]
    Setting(String),
    /// A line of events.txt is no event.
    #[error("events.txt line {line}: {error}")]
    Event {
        /// Its number, from 1.
        line: usize,
        /// Why.
        error: LineError,
    },
    /// An event names a CPU that the guest does not have.
    #[error("events.txt line {line}: CPU {cpu} of a guest of {cpus} CPUs")]
    Cpu {
        /// The line, from 1.
        line: usize,
        /// The CPU.
        cpu: u16,
        /// How many there are.
        cpus: u16,
    },
    /// A line of places.txt is no place.
    #[error("places.txt line {0} is not `START END KIND NAME`")]
    Place(usize),
    /// A file of bytes holds more than the events name.
    #[error("{0} holds more bytes than events.txt names")]
    LeftOver(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: i64,
    version: String,
    subject: String,
    scenario: String,
    host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_id: Option<String>,
    // Text, since TOML's integers are signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    cpus: u16,
    online: String,
    pseudo_nmi: bool,
    ack_located: bool,
    capture: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut_short: Option<String>,
    protocol: HeaderProtocol,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rung: Vec<HeaderRung>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderProtocol {
    name: String,
    plain_ack: String,
    crash_ack: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderRung {
    request: String,
    us: String,
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a String takes all");
            text
        })
}

fn sums(files: &Files) -> String {
    let covered = files.iter().filter(|(name, _)| *name != "SHA256SUMS");
    covered
        .map(|(name, bytes)| format!("{}  {name}\n", sum(bytes)))
        .collect()
}

impl Evidence {
    /// The folder's files.
    pub fn to_files(&self) -> Files {
        let mut bytes = Bytes::default();
        let events: String = self
            .events
            .iter()
            .map(|event| line::print(event, &mut bytes) + "\n")
            .collect();
        let places: String = self
            .places
            .0
            .iter()
            .map(|place| format!("{place}\n"))
            .collect();
        let mut files = Files::new();
        let mut put = |name: &str, bytes: Vec<u8>| files.insert(name.to_owned(), bytes);
        put("evidence.toml", self.header().into_bytes());
        put("events.txt", events.into_bytes());
        put("places.txt", places.into_bytes());
        put(
            "protocol.txt",
            self.setting.protocol.table.clone().into_bytes(),
        );
        put("scenario.toml", self.scenario.clone().into_bytes());
        put("notes.bin", bytes.notes);
        put("regs.bin", bytes.regs);
        put("wire.bin", bytes.wire);
        if let Some(pstore) = &self.pstore {
            put(OPTIONAL[0], pstore.console.clone());
            if let Some(found) = &pstore.found {
                put(OPTIONAL[1], found.clone());
            }
        }
        if let Some(dmesg) = &self.dmesg {
            put(OPTIONAL[2], dmesg.clone());
        }
        Self::seal(&mut files);
        files
    }

    /// Writes the sums of a folder's files. It is for who makes folders: a folder that was edited and sealed
    /// again is another folder.
    pub fn seal(files: &mut Files) {
        let sums = sums(files);
        files.insert("SHA256SUMS".to_owned(), sums.into_bytes());
    }

    fn header(&self) -> String {
        let setting = &self.setting;
        let header = Header {
            format: i64::from(FORMAT),
            version: setting.version.clone(),
            subject: setting.subject.clone(),
            scenario: setting.scenario.clone(),
            host: setting.host.clone(),
            build_id: setting.build_id.clone(),
            seed: setting.seed.map(|seed| seed.to_string()),
            schedule: setting.schedule.clone(),
            cpus: setting.cpus,
            online: setting.online.to_string(),
            pseudo_nmi: setting.pseudo_nmi,
            ack_located: setting.ack_located,
            capture: setting.capture,
            cut_short: match &self.end {
                End::Complete => None,
                End::CutShort(why) => Some(why.clone()),
            },
            protocol: HeaderProtocol {
                name: setting.protocol.name.clone(),
                plain_ack: setting.protocol.plain_ack.name().to_owned(),
                crash_ack: setting.protocol.crash_ack.name().to_owned(),
            },
            rung: (setting.rungs.iter())
                .map(|(request, us)| HeaderRung {
                    request: line::request_word(*request).to_owned(),
                    us: us.to_string(),
                })
                .collect(),
        };
        toml::to_string(&header).expect("strings, numbers and truths are TOML")
    }

    /// The evidence of a folder's files. Files that are not the folder's own are left alone.
    pub fn from_files(files: &Files) -> Result<Self, EvidenceError> {
        let mut own = Files::new();
        for name in NAMES {
            let bytes = files.get(name).ok_or(EvidenceError::Missing(name))?;
            own.insert(name.to_owned(), bytes.clone());
        }
        for name in OPTIONAL {
            own.extend(
                files
                    .get(name)
                    .map(|bytes| (name.to_owned(), bytes.clone())),
            );
        }
        let listed = text(&own, "SHA256SUMS")?;
        if listed != sums(&own) {
            // One file whose line differs is damaged; a list that is none is damaged itself.
            let lines: Vec<&str> = listed.lines().collect();
            let there = || OPTIONAL.iter().filter(|name| own.contains_key(**name));
            let names: Vec<&'static str> = NAMES[1..].iter().chain(there()).copied().collect();
            let fits =
                |name: &&&str| lines.contains(&format!("{}  {name}", sum(&own[**name])).as_str());
            let is_listed = |name: &&&str| lines.iter().any(|line| line.ends_with(**name));
            let damaged = (names.iter().filter(is_listed).count() == names.len())
                .then(|| names.iter().find(|name| !fits(name)));
            return Err(damaged
                .flatten()
                .map_or(EvidenceError::Sums, |name| EvidenceError::Damaged(name)));
        }
        let (setting, end) = setting(text(&own, "evidence.toml")?, text(&own, "protocol.txt")?)?;
        let mut places = Vec::new();
        for (at, line) in text(&own, "places.txt")?.lines().enumerate() {
            places.push(Places::parse_line(line).ok_or(EvidenceError::Place(at + 1))?);
        }
        let mut reader = Reader::new(&own["notes.bin"], &own["regs.bin"], &own["wire.bin"]);
        let mut events = Vec::new();
        for (at, line) in text(&own, "events.txt")?.lines().enumerate() {
            let at = at + 1;
            let event = line::parse(line, &mut reader)
                .map_err(|error| EvidenceError::Event { line: at, error })?;
            if event.cpu.0 >= setting.cpus {
                return Err(EvidenceError::Cpu {
                    line: at,
                    cpu: event.cpu.0,
                    cpus: setting.cpus,
                });
            }
            events.push(event);
        }
        if let Some(name) = reader.used_up() {
            return Err(EvidenceError::LeftOver(name));
        }
        let scenario = text(&own, "scenario.toml")?.to_owned();
        let [console, found, dmesg] = OPTIONAL.map(|name| own.get(name).cloned());
        let pstore = match (console, found) {
            (Some(console), found) => Some(Pstore { console, found }),
            (None, None) => None,
            (None, Some(_)) => return Err(EvidenceError::Missing(OPTIONAL[0])),
        };
        Ok(Self {
            setting,
            events,
            places: Places(places),
            end,
            scenario,
            pstore,
            dmesg,
        })
    }
}

fn text<'a>(files: &'a Files, name: &'static str) -> Result<&'a str, EvidenceError> {
    std::str::from_utf8(&files[name]).map_err(|_| EvidenceError::NotText(name))
}

fn setting(toml: &str, table: &str) -> Result<(Setting, End), EvidenceError> {
    let wrong = EvidenceError::Setting;
    // The format first: another version may have other keys.
    let any: toml::Table = toml::from_str(toml).map_err(|error| wrong(error.to_string()))?;
    match any.get("format").and_then(toml::Value::as_integer) {
        Some(found) if found == i64::from(FORMAT) => {}
        Some(found) => return Err(EvidenceError::Format { found }),
        None => return Err(wrong("there is no `format`".to_owned())),
    }
    let header: Header = toml::from_str(toml).map_err(|error| wrong(error.to_string()))?;
    let count = |text: &str, what: &str| {
        text.parse::<u64>()
            .map_err(|_| wrong(format!("`{text}` is no {what}")))
    };
    let ack = |text: &str| {
        line::word_of(text).ok_or_else(|| wrong(format!("`{text}` is no word that holds an ack")))
    };
    let seed = header
        .seed
        .as_deref()
        .map(|seed| count(seed, "seed"))
        .transpose()?;
    let rungs = header.rung.iter().map(|rung| {
        let request = line::request_of(&rung.request);
        let request = request.ok_or_else(|| wrong(format!("`{}` is no request", rung.request)))?;
        Ok((request, count(&rung.us, "number of microseconds")?))
    });
    let rungs = rungs.collect::<Result<_, EvidenceError>>()?;
    let online = header
        .online
        .parse()
        .map_err(|error| wrong(format!("online: {error}")))?;
    if header.cpus == 0 || header.cpus > crate::arm::CpuSet::MAX {
        return Err(wrong(format!("{} CPUs", header.cpus)));
    }
    let setting = Setting {
        subject: header.subject,
        protocol: Judged {
            plain_ack: ack(&header.protocol.plain_ack)?,
            crash_ack: ack(&header.protocol.crash_ack)?,
            name: header.protocol.name,
            table: table.to_owned(),
        },
        scenario: header.scenario,
        version: header.version,
        host: header.host,
        build_id: header.build_id,
        seed,
        schedule: header.schedule,
        cpus: header.cpus,
        online,
        pseudo_nmi: header.pseudo_nmi,
        rungs,
        ack_located: header.ack_located,
        capture: header.capture,
    };
    let end = header.cut_short.map_or(End::Complete, End::CutShort);
    Ok((setting, end))
}
