//! A TOML document, read key by key. Every mistake is named with its file, line, key, and what was meant.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::DeTable;
pub(crate) use toml::de::DeValue;

/// Why a text is not what it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{file}:{line}: {key}: {message}")]
pub struct DocumentError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The key.
    pub key: String,
    /// What is wrong and what was meant.
    pub message: String,
}

/// An error that knows its place in the text, not yet its line.
pub(crate) struct Wrong {
    pub(crate) at: usize,
    pub(crate) key: String,
    pub(crate) message: String,
}

pub(crate) type Read<T> = Result<T, Wrong>;

/// The words of an enumeration, in the order in which an error lists them.
pub(crate) trait Words: Copy + PartialEq + 'static {
    const WORDS: &'static [(Self, &'static str)];
}

/// A table whose keys are taken one by one; what is left over is a mistake.
pub(crate) struct Table<'a> {
    path: String,
    pub(crate) at: usize,
    table: &'a DeTable<'a>,
    taken: BTreeSet<&'a str>,
}

/// A value with its place and its name.
pub(crate) struct Value<'a> {
    pub(crate) key: String,
    at: usize,
    pub(crate) value: &'a DeValue<'a>,
}

impl<'a> Value<'a> {
    pub(crate) fn wrong<T>(&self, message: impl Into<String>) -> Read<T> {
        Err(Wrong {
            at: self.at,
            key: self.key.clone(),
            message: message.into(),
        })
    }

    pub(crate) fn text(&self) -> Read<&'a str> {
        match self.value {
            DeValue::String(text) => Ok(text),
            other => self.wrong(format!("a string is meant, not {}", other.type_str())),
        }
    }

    pub(crate) fn truth(&self) -> Read<bool> {
        match self.value {
            DeValue::Boolean(truth) => Ok(*truth),
            other => self.wrong(format!("true or false is meant, not {}", other.type_str())),
        }
    }

    pub(crate) fn number(&self, range: RangeInclusive<i64>) -> Read<i64> {
        let meant = format!(
            "a whole number from {} to {} is meant",
            range.start(),
            range.end()
        );
        let DeValue::Integer(number) = self.value else {
            return self.wrong(format!("{meant}, not {}", self.value.type_str()));
        };
        match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => self.wrong(format!("{meant}, not {number}")),
        }
    }

    pub(crate) fn word<T: Words>(&self) -> Read<T> {
        let text = self.text()?;
        match T::WORDS.iter().find(|(_, word)| *word == text) {
            Some((value, _)) => Ok(*value),
            None => self.unknown(text, T::WORDS.iter().map(|(_, word)| *word)),
        }
    }

    pub(crate) fn unknown<'k, T>(
        &self,
        text: &str,
        known: impl Iterator<Item = &'k str>,
    ) -> Read<T> {
        let known: Vec<&str> = known.collect();
        match nearest(text, &known) {
            Some(near) => self.wrong(format!("`{text}` is not known; is `{near}` meant?")),
            None => self.wrong(format!(
                "`{text}` is not known; one of {} is meant",
                known.join(", ")
            )),
        }
    }

    pub(crate) fn items(&self) -> Read<Vec<Value<'a>>> {
        let DeValue::Array(items) = self.value else {
            return self.wrong(format!("a list is meant, not {}", self.value.type_str()));
        };
        let item = |(n, item): (usize, &'a Spanned<DeValue<'a>>)| Value {
            key: format!("{}[{n}]", self.key),
            at: item.span().start,
            value: item.get_ref(),
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(crate) fn table(&self) -> Read<Table<'a>> {
        let DeValue::Table(table) = self.value else {
            return self.wrong(format!("a table is meant, not {}", self.value.type_str()));
        };
        Ok(Table {
            path: format!("{}.", self.key),
            at: self.at,
            table,
            taken: BTreeSet::new(),
        })
    }
}

impl<'a> Table<'a> {
    pub(crate) fn get(&mut self, key: &'static str) -> Option<Value<'a>> {
        let (key, value) = self.table.get_key_value(key)?;
        self.taken.insert(key.get_ref());
        let name = format!("{}{}", self.path, key.get_ref());
        Some(Value {
            key: name,
            at: value.span().start,
            value: value.get_ref(),
        })
    }

    pub(crate) fn need(&mut self, key: &'static str, what: &str) -> Read<Value<'a>> {
        let (at, name) = (self.at, format!("{}{key}", self.path));
        self.get(key).ok_or_else(|| Wrong {
            at,
            key: name,
            message: format!("is missing: {what}"),
        })
    }

    pub(crate) fn list(&mut self, key: &'static str) -> Read<Vec<Value<'a>>> {
        self.get(key).map_or(Ok(Vec::new()), |value| value.items())
    }

    pub(crate) fn end(self, known: &[&'static str]) -> Read<()> {
        let Some(key) = self
            .table
            .keys()
            .find(|key| !self.taken.contains(&**key.get_ref()))
        else {
            return Ok(());
        };
        let name: &str = key.get_ref();
        let message = match nearest(name, known) {
            Some(near) => format!("is no key here; is `{near}` meant?"),
            None => format!("is no key here; there are {}", known.join(", ")),
        };
        Err(Wrong {
            at: key.span().start,
            key: format!("{}{name}", self.path),
            message,
        })
    }
}

/// The known word that is at most two changes away.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|known| (distance(word, known), *known));
    distances
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, known)| known)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Reads a text; `file` is what errors call it.
pub(crate) fn read<T>(
    file: &str,
    text: &str,
    document: impl FnOnce(Table<'_>) -> Read<T>,
) -> Result<T, DocumentError> {
    let place = |wrong: Wrong| DocumentError {
        file: file.to_owned(),
        line: 1 + text.as_bytes()[..wrong.at.min(text.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count(),
        key: wrong.key,
        message: wrong.message,
    };
    let parsed = DeTable::parse(text).map_err(|error| {
        let at = error.span().unwrap_or(Range { start: 0, end: 0 }).start;
        place(Wrong {
            at,
            key: "TOML".to_owned(),
            message: error.message().to_owned(),
        })
    })?;
    let top = Table {
        path: String::new(),
        at: 0,
        table: parsed.get_ref(),
        taken: BTreeSet::new(),
    };
    document(top).map_err(place)
}
