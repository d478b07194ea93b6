//! The report that one machine would have given, from those of the machines that shared a matrix.

use std::collections::BTreeMap;

use crate::matrix::Shard;

use super::Report;

/// Why reports don't make one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MergeError {
    /// One is of no part.
    #[error("{0} is of a whole matrix, and no part of one (--shard I/N)")]
    Whole(String),
    /// Two are not of the same matrix.
    #[error("{first} and {second} are not parts of one matrix: {what} differ")]
    Other {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// What differs.
        what: &'static str,
    },
    /// Two are of the same part.
    #[error("{first} and {second} are both part {shard}")]
    Twice {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// The part.
        shard: String,
    },
    /// Some part is not among them.
    #[error("{} missing: run it with --shard, or name its folder", parts(.0, *.1))]
    Missing(Vec<usize>, usize),
}

fn parts(missing: &[usize], of: usize) -> String {
    let names: Vec<String> = missing
        .iter()
        .map(|part| Shard { part: *part, of }.to_string())
        .collect();
    match &names[..] {
        [one] => format!("part {one} is"),
        _ => format!("parts {} are", names.join(", ")),
    }
}

impl Report {
    /// Makes one report of all parts of a matrix, which are given with a name for errors.
    pub fn merge(reports: Vec<(String, Self)>) -> Result<Self, MergeError> {
        let mut parts: BTreeMap<usize, (String, Self)> = BTreeMap::new();
        let mut of = 0;
        for (name, report) in reports {
            let shard = report
                .shard
                .as_deref()
                .and_then(|shard| shard.parse::<Shard>().ok());
            let shard = shard.ok_or_else(|| MergeError::Whole(name.clone()))?;
            if let Some((first, other)) = parts.values().next() {
                let same = [
                    ("the numbers of parts", shard.of == of),
                    ("the versions of vmm", report.version == other.version),
                    ("the declarations' names", report.matrix == other.matrix),
                    ("--strict", report.strict == other.strict),
                    ("--repeat", report.repeat == other.repeat),
                    (
                        "the declarations",
                        report.left_out == other.left_out && report.coverage == other.coverage,
                    ),
                ];
                if let Some((what, _)) = same.into_iter().find(|(_, same)| !same) {
                    let (first, second) = (first.clone(), name);
                    return Err(MergeError::Other {
                        first,
                        second,
                        what,
                    });
                }
            }
            of = shard.of;
            if let Some((first, _)) = parts.get(&shard.part) {
                let (first, second) = (first.clone(), name);
                let shard = shard.to_string();
                return Err(MergeError::Twice {
                    first,
                    second,
                    shard,
                });
            }
            parts.insert(shard.part, (name, report));
        }
        let missing: Vec<usize> = (1..=of).filter(|part| !parts.contains_key(part)).collect();
        if !missing.is_empty() {
            return Err(MergeError::Missing(missing, of));
        }
        let mut reports = parts.into_values().map(|(_, report)| report);
        let mut whole = reports
            .next()
            .expect("clap wants one at least, and no part is missing");
        whole.shard = None;
        for report in reports {
            for (standing, count) in report.counts {
                *whole.counts.entry(standing).or_default() += count;
            }
            whole.cells.extend(report.cells);
        }
        whole.cells.sort_by_key(|cell| cell.place);
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{FORMAT, Standing};

    fn part(shard: Option<&str>, places: &[usize]) -> Report {
        let cells = places.iter().map(|place| crate::report::CellReport {
            name: format!("cell {place}"),
            place: *place,
            scenario: "s".to_owned(),
            why: String::new(),
            subject: "model".to_owned(),
            by: "nmi-only".to_owned(),
            cpus: 2,
            pseudo_nmi: true,
            stop: "plain".to_owned(),
            standing: Standing::NotRun,
            runs: Vec::new(),
            parted: None,
        });
        Report {
            format: FORMAT,
            version: "1".to_owned(),
            matrix: "m".to_owned(),
            strict: false,
            shard: shard.map(str::to_owned),
            repeat: 1,
            counts: [(Standing::NotRun, places.len())].into(),
            cells: cells.collect(),
            left_out: Vec::new(),
            coverage: Vec::new(),
        }
    }

    fn merged(parts: Vec<Report>) -> Result<Report, String> {
        let named = (1..)
            .zip(parts)
            .map(|(at, part)| (format!("folder {at}"), part));
        Report::merge(named.collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_parts_are_the_whole_in_any_order() {
        let whole = merged(vec![part(Some("2/2"), &[0, 3]), part(Some("1/2"), &[1, 2])]).unwrap();
        assert_eq!(whole, part(None, &[0, 1, 2, 3]));
    }

    #[test]
    fn what_is_not_the_whole_is_told() {
        let told = |parts| merged(parts).unwrap_err();
        assert_eq!(
            told(vec![part(Some("1/3"), &[0])]),
            "parts 2/3, 3/3 are missing: run it with --shard, or name its folder"
        );
        assert_eq!(
            told(vec![part(Some("1/2"), &[0]), part(Some("1/2"), &[0])]),
            "folder 1 and folder 2 are both part 1/2"
        );
        assert_eq!(
            told(vec![part(None, &[0])]),
            "folder 1 is of a whole matrix, and no part of one (--shard I/N)"
        );
        let mut other = part(Some("2/2"), &[1]);
        other.repeat = 2;
        assert_eq!(
            told(vec![part(Some("1/2"), &[0]), other]),
            "folder 1 and folder 2 are not parts of one matrix: --repeat differ"
        );
        assert_eq!(
            told(vec![part(Some("1/2"), &[0]), part(Some("2/3"), &[1])]),
            "folder 1 and folder 2 are not parts of one matrix: the numbers of parts differ"
        );
    }
}
