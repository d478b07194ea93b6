//! matrix.toml to a declaration.

use guest_abi::protocol::{PROTOCOLS, Protocol};

use super::{FORMAT, Kind, Matrix, Set, Value};
use crate::document::{self, DeValue, DocumentError, Read, Table, Wrong};
use crate::scenario::MAX_CPUS;

impl Matrix {
    /// Reads a declaration; `file` is what errors call the text, `scenarios` are those that there are by name.
    pub fn parse(file: &str, text: &str, scenarios: &[&str]) -> Result<Self, DocumentError> {
        document::read(file, text, |top| matrix(top, scenarios))
    }
}

fn matrix(mut top: Table<'_>, scenarios: &[&str]) -> Read<Matrix> {
    let format = top.need("format", "the version of the format, 1")?;
    if format.number(0..=i64::MAX)? != FORMAT {
        return format.wrong(format!("this program reads format {FORMAT}"));
    }
    let sets = top.list("set")?;
    if sets.is_empty() {
        return Err(Wrong {
            at: top.at,
            key: "set".to_owned(),
            message: "nothing is to be run; a [[set]] is meant".to_owned(),
        });
    }
    let sets: Read<Vec<Set>> = sets.iter().map(|value| set(value, scenarios)).collect();
    top.end(&["format", "set"])?;
    Ok(Matrix { sets: sets? })
}

const KEYS: &[&str] = &[
    "scenarios",
    "subjects",
    "protocols",
    "kernels",
    "cpus",
    "pseudo_nmi",
    "stop",
    "pairwise",
];

fn set(value: &document::Value<'_>, known: &[&str]) -> Read<Set> {
    let mut table = value.table()?;
    let scenarios = table.need(
        "scenarios",
        "names of scenarios, or paths that end in .toml",
    )?;
    let scenarios = each(&scenarios, |item| {
        let text = item.text()?;
        if text.ends_with(".toml") || known.contains(&text) {
            return Ok(text.to_owned());
        }
        item.unknown(text, known.iter().copied())
    })?;
    let subjects = table.need("subjects", "model, payload, linux, or several of them")?;
    let subjects: Vec<Kind> = each(&subjects, |item| item.word())?;
    let protocols = table.get("protocols");
    let protocols: Vec<&'static Protocol> = match &protocols {
        None => PROTOCOLS.to_vec(),
        Some(protocols) => each(protocols, |item| {
            let text = item.text()?;
            match Protocol::named(text) {
                Some(protocol) => Ok(protocol),
                None => item.unknown(text, PROTOCOLS.iter().map(|protocol| protocol.name)),
            }
        })?,
    };
    let kernels = table.get("kernels");
    let kernels = match &kernels {
        None => Vec::new(),
        Some(kernels) => each(kernels, |item| item.text().map(str::to_owned))?,
    };
    if subjects.contains(&Kind::Linux) && kernels.is_empty() {
        return value.wrong("linux is among its subjects; `kernels` are meant, too");
    }
    if !subjects.contains(&Kind::Linux) && !kernels.is_empty() {
        return value.wrong("it has kernels; `subjects` with linux among them are meant, too");
    }
    let cpus = or_own(&mut table, "cpus", |item| {
        Ok(item.number(1..=i64::from(MAX_CPUS))? as u16)
    })?;
    let pseudo_nmi = or_own(&mut table, "pseudo_nmi", document::Value::truth)?;
    let stop = or_own(&mut table, "stop", document::Value::word)?;
    let pairwise = table.get("pairwise");
    let pairwise = pairwise.map_or(Ok(false), |value| value.truth())?;
    table.end(KEYS)?;
    Ok(Set {
        scenarios,
        subjects,
        protocols,
        kernels,
        cpus,
        pseudo_nmi,
        stop,
        pairwise,
    })
}

/// The items of a list that has some, none of them twice.
fn each<'a, T: PartialEq>(
    value: &document::Value<'a>,
    read: impl Fn(&document::Value<'a>) -> Read<T>,
) -> Read<Vec<T>> {
    let items = value.items()?;
    if items.is_empty() {
        return value.wrong("it is empty, and so nothing would be run");
    }
    let mut values = Vec::new();
    for item in &items {
        let value = read(item)?;
        if values.contains(&value) {
            return item.wrong("it is there twice");
        }
        values.push(value);
    }
    Ok(values)
}

/// The values of an axis on which each scenario has one of its own: that alone, if nothing is said.
fn or_own<'a, T: PartialEq>(
    table: &mut Table<'a>,
    key: &'static str,
    read: impl Fn(&document::Value<'a>) -> Read<T>,
) -> Read<Vec<Value<T>>> {
    let Some(value) = table.get(key) else {
        return Ok(vec![Value::Own]);
    };
    each(&value, |item| match item.value {
        DeValue::String(text) if text == "own" => Ok(Value::Own),
        _ => read(item).map(Value::Is),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Matrix;

    const GOOD: &str = r#"format = 1

[[set]]
scenarios = ["console-locked", "./mine.toml"]
subjects = ["payload", "linux"]
protocols = ["irq-only"]
kernels = ["nmi-only"]
cpus = ["own", 8]
pseudo_nmi = [true, false]
stop = ["crash"]
"#;

    #[test]
    fn a_mistake_is_named_with_file_line_key_and_the_choices() {
        let parse = |text: &str| Matrix::parse("m.toml", text, &["console-locked", "idle-plain"]);
        parse(GOOD).expect("it is good");
        for (good, bad, meant) in [
            (
                "\"console-locked\"",
                "\"console-lock\"",
                "m.toml:4: set[0].scenarios[0]: `console-lock` is not known; is `console-locked` meant?",
            ),
            (
                "\"console-locked\"",
                "\"x\"",
                "m.toml:4: set[0].scenarios[0]: `x` is not known; one of console-locked, idle-plain is meant",
            ),
            (
                "\"./mine.toml\"",
                "\"console-locked\"",
                "m.toml:4: set[0].scenarios[1]: it is there twice",
            ),
            (
                "[\"payload\", \"linux\"]",
                "[\"payload\", \"windows\"]",
                "m.toml:5: set[0].subjects[1]: `windows` is not known; one of model, payload, linux is meant",
            ),
            (
                "\"irq-only\"",
                "\"irq-never\"",
                "m.toml:6: set[0].protocols[0]: `irq-never` is not known; one of irq-only, nmi-only, v1-proposal, \
                 v1-corrected, irq-then-nmi, irq-nmi-sdei is meant",
            ),
            (
                "kernels = [\"nmi-only\"]\n",
                "",
                "m.toml:3: set[0]: linux is among its subjects; `kernels` are meant, too",
            ),
            (
                ", \"linux\"",
                "",
                "m.toml:3: set[0]: it has kernels; `subjects` with linux among them are meant, too",
            ),
            (
                "8]",
                "800]",
                "m.toml:8: set[0].cpus[1]: a whole number from 1 to 64 is meant, not 800",
            ),
            (
                "\"crash\"",
                "\"soft\"",
                "m.toml:10: set[0].stop[0]: `soft` is not known; one of plain, crash is meant",
            ),
            (
                "[true, false]",
                "[]",
                "m.toml:9: set[0].pseudo_nmi: it is empty, and so nothing would be run",
            ),
            (
                "stop =",
                "stopp =",
                "m.toml:10: set[0].stopp: is no key here; is `stop` meant?",
            ),
            (
                "[[set]]",
                "[set]",
                "m.toml:3: set: a list is meant, not table",
            ),
        ] {
            let error = parse(&GOOD.replacen(good, bad, 1)).expect_err(bad);
            assert_eq!(error.to_string(), meant);
        }
        assert_eq!(
            parse("format = 1\n").unwrap_err().to_string(),
            "m.toml:1: set: nothing is to be run; a [[set]] is meant"
        );
    }
}
