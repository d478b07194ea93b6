//! What lies where in the guest's text, as far as the rules ask.

use std::fmt;

/// What a range of text is to the rules.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PlaceKind {
    /// The console driver's critical section.
    Section,
    /// Between the entry of the stop interrupt and the park.
    StopPath,
    /// `__crash_kexec()`.
    CrashKexec,
    /// Any other code: named for people only.
    Other,
}

impl PlaceKind {
    const ALL: [PlaceKind; 4] = [
        PlaceKind::Section,
        PlaceKind::StopPath,
        PlaceKind::CrashKexec,
        PlaceKind::Other,
    ];

    fn name(self) -> &'static str {
        match self {
            PlaceKind::Section => "section",
            PlaceKind::StopPath => "stop-path",
            PlaceKind::CrashKexec => "crash-kexec",
            PlaceKind::Other => "other",
        }
    }
}

/// A range of text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Its first address.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
    /// What it is.
    pub kind: PlaceKind,
    /// Its symbol.
    pub name: String,
}

/// The ranges, in any order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Places(pub Vec<Place>);

impl Places {
    /// The range that holds the address.
    pub fn at(&self, pc: u64) -> Option<&Place> {
        self.0
            .iter()
            .find(|place| place.start <= pc && pc < place.end)
    }

    /// The address as a person would say it.
    pub fn describe(&self, pc: u64) -> String {
        match self.at(pc) {
            Some(place) => format!("{}+{:#x}", place.name, pc - place.start),
            None => format!("{pc:#x}"),
        }
    }

    pub(super) fn parse_line(line: &str) -> Option<Place> {
        let mut words = line.split(' ');
        let mut address = || u64::from_str_radix(words.next()?, 16).ok();
        let (start, end) = (address()?, address()?);
        let kind = words.next()?;
        let kind = PlaceKind::ALL
            .into_iter()
            .find(|known| known.name() == kind)?;
        let name = words.next()?.to_owned();
        let whole = words.next().is_none() && start < end && !name.is_empty();
        let place = Place {
            start,
            end,
            kind,
            name,
        };
        (whole && place.to_string() == line).then_some(place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:016x} {:016x} {} {}",
            self.start,
            self.end,
            self.kind.name(),
            self.name
        )
    }
}
