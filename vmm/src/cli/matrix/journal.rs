//! The folder of a matrix: what is finished, kept so that nothing is lost and nothing is run twice.
//!
//! journal.jsonl has a line for what is run, and then a line a finished run. A line is written and on the disk before the next run's
//! is, and a run's evidence before its line. The last line of a journal whose writer was killed may be torn: it is cut off, and its
//! run is run again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmm_core::report::{FORMAT, Run};

/// The journal's file.
pub(super) const NAME: &str = "journal.jsonl";

/// What is run: a journal goes on only with the same.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Heading {
    pub(super) format: u32,
    pub(super) version: String,
    pub(super) matrix: String,
    pub(super) shard: Option<String>,
    pub(super) strict: bool,
    pub(super) repeat: u64,
    pub(super) seed: u64,
    pub(super) swap: Option<String>,
    /// The cells, by their names and what each of them is.
    pub(super) cells: BTreeMap<String, String>,
    /// What is run in them, by path and hash.
    pub(super) files: BTreeMap<String, String>,
}

impl Heading {
    /// What differs, in words.
    fn difference(&self, other: &Self) -> String {
        let parts = [
            ("the format", self.format == other.format),
            ("the version of vmm", self.version == other.version),
            ("the declaration's name", self.matrix == other.matrix),
            ("--shard", self.shard == other.shard),
            ("--strict", self.strict == other.strict),
            ("--repeat", self.repeat == other.repeat),
            ("--seed", self.seed == other.seed),
            ("--swap", self.swap == other.swap),
            ("the cells", self.cells == other.cells),
            (
                "a kernel, the initramfs or the payload",
                self.files == other.files,
            ),
        ];
        let different = parts.iter().filter(|(_, same)| !same);
        let names: Vec<&str> = different.map(|(name, _)| *name).collect();
        names.join(", ")
    }

    /// Takes in what another part of the same matrix is of, if it is one.
    fn take_in(&mut self, other: Self) -> Result<(), String> {
        let mut alike = other.clone();
        alike.shard.clone_from(&self.shard);
        alike.cells.clone_from(&self.cells);
        alike.files.clone_from(&self.files);
        // A kernel that only one of the parts has run is nobody else's.
        for (path, hash) in &other.files {
            if let Some(own) = alike.files.get_mut(path) {
                own.clone_from(hash);
            }
        }
        if alike != *self {
            return Err(self.difference(&alike));
        }
        self.cells.extend(other.cells);
        self.files.extend(other.files);
        Ok(())
    }
}

#[derive(Deserialize, Serialize)]
struct Line {
    cell: String,
    #[serde(flatten)]
    run: Run,
}

/// A folder whose journal is written.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    path: PathBuf,
    file: File,
}

fn unwritable(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

impl Journal {
    /// Begins one, or goes on with one: also what is finished, by the cell.
    pub(super) fn open(
        folder: &Path,
        heading: &Heading,
        resume: bool,
    ) -> Result<(Self, BTreeMap<String, Vec<Run>>), String> {
        fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
        let path = folder.join(NAME);
        let text = match fs::read(&path) {
            Ok(_) if !resume => {
                return Err(format!(
                    "{} has a matrix already: --resume goes on with it, and another folder begins anew",
                    folder.display()
                ));
            }
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let whole = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        let (first, runs) = read(&path, &text[..whole])?;
        if let Some(first) = &first
            && first != heading
        {
            return Err(format!(
                "{} is of another matrix: {} differ; --resume goes on only with the same",
                path.display(),
                first.difference(heading)
            ));
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|file| file.set_len(whole as u64).map(|()| file))
            .map_err(|error| unwritable(&path, &error))?;
        let mut journal = Self {
            folder: folder.to_owned(),
            path,
            file,
        };
        if first.is_none() {
            journal.write(heading)?;
        }
        Ok((journal, runs))
    }

    /// Makes one, in a new folder, of those of the parts of a matrix, with their evidence.
    pub(super) fn merge(parts: &[PathBuf], folder: &Path) -> Result<Self, String> {
        let mut whole: Option<Heading> = None;
        let mut all: BTreeMap<String, (&Path, Vec<Run>)> = BTreeMap::new();
        for part in parts {
            let path = part.join(NAME);
            let text = fs::read(&path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let (heading, runs) = read(&path, &text)?;
            let heading = heading.ok_or_else(|| format!("{} has nothing in it", path.display()))?;
            match &mut whole {
                None => whole = Some(heading),
                Some(whole) => whole.take_in(heading).map_err(|what| {
                    format!(
                        "{} and {} are not parts of one matrix: {what} differ",
                        parts[0].display(),
                        part.display()
                    )
                })?,
            }
            all.extend(runs.into_iter().map(|(cell, runs)| (cell, (&**part, runs))));
        }
        let mut heading = whole.ok_or("there is no part to merge")?;
        heading.shard = None;
        let (mut journal, _) = Self::open(folder, &heading, false)?;
        for (cell, (part, runs)) in all {
            for run in runs {
                if let Some(evidence) = &run.evidence {
                    copy(&part.join(evidence), &folder.join(evidence))?;
                }
                journal.finished(&cell, &run)?;
            }
        }
        Ok(journal)
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), String> {
        let mut text = serde_json::to_vec(line).expect("plain data is JSON");
        text.push(b'\n');
        let written = self.file.write_all(&text);
        let kept = written.and_then(|()| self.file.sync_data());
        kept.map_err(|error| unwritable(&self.path, &error))
    }

    /// Keeps a finished run, behind its evidence.
    pub(super) fn finished(&mut self, cell: &str, run: &Run) -> Result<(), String> {
        if let Some(evidence) = &run.evidence {
            let folder = self.folder.join(evidence);
            settle(&folder).map_err(|error| unwritable(&folder, &error))?;
        }
        let run = run.clone();
        let cell = cell.to_owned();
        self.write(&Line { cell, run })
    }

    /// Writes a file of the folder, whole or not at all.
    pub(super) fn keep(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        let new = self.folder.join(format!("{name}.new"));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| {
            // Half a report is none. That it cannot be taken away either would be no news.
            let _ = fs::remove_file(&new);
            unwritable(&path, &error)
        })
    }
}

/// Copies the files of a folder into another one.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::create_dir_all(to).map_err(|error| unwritable(to, &error))?;
    let unreadable = |error| format!("cannot read {}: {error}", from.display());
    for entry in fs::read_dir(from).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let copy = to.join(entry.file_name());
        fs::copy(entry.path(), &copy).map_err(|error| {
            format!(
                "cannot copy {} to {}: {error}",
                entry.path().display(),
                copy.display()
            )
        })?;
    }
    Ok(())
}

/// Has the disk take what lies in a folder.
fn settle(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

type Read = (Option<Heading>, BTreeMap<String, Vec<Run>>);

fn read(path: &Path, text: &[u8]) -> Result<Read, String> {
    let damaged = |number: usize, error: serde_json::Error| {
        format!("{}:{number}: it is damaged: {error}", path.display())
    };
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let Some(first) = lines.next() else {
        return Ok((None, BTreeMap::new()));
    };
    let format: Format = serde_json::from_slice(first).map_err(|error| damaged(1, error))?;
    if format.format != FORMAT {
        return Err(format!(
            "{} has format {}; this program reads format {FORMAT}",
            path.display(),
            format.format
        ));
    }
    let heading = serde_json::from_slice(first).map_err(|error| damaged(1, error))?;
    let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for (number, line) in (2..).zip(lines) {
        let Line { cell, run } =
            serde_json::from_slice(line).map_err(|error| damaged(number, error))?;
        runs.entry(cell).or_default().push(run);
    }
    // Of several at once the second may have been finished first.
    for runs in runs.values_mut() {
        runs.sort_by_key(|run| run.run);
    }
    Ok((Some(heading), runs))
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[cfg(test)]
mod tests {
    use vmm_core::report::Came;

    use super::*;

    fn heading() -> Heading {
        Heading {
            format: FORMAT,
            version: "1".to_owned(),
            matrix: "m".to_owned(),
            shard: None,
            strict: false,
            repeat: 1,
            seed: 1,
            swap: None,
            cells: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    fn run(seed: u64) -> Run {
        Run {
            run: 1,
            seed,
            seconds: 0.5,
            repeat: "vmm run x".to_owned(),
            evidence: None,
            came: Came::CannotRun("no SDEI".to_owned()),
        }
    }

    #[test]
    fn wherever_its_writer_is_killed_what_was_finished_is_kept_and_the_rest_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let (mut journal, _) = Journal::open(at, &heading(), false).unwrap();
        let mut ends = vec![fs::metadata(&journal.path).unwrap().len() as usize];
        for seed in 0..3 {
            journal
                .finished(&format!("cell {seed}"), &run(seed))
                .unwrap();
            ends.push(fs::metadata(&journal.path).unwrap().len() as usize);
        }
        let text = fs::read(&journal.path).unwrap();
        for cut in 0..=text.len() {
            fs::write(&journal.path, &text[..cut]).unwrap();
            let (mut again, runs) = Journal::open(at, &heading(), true).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(runs.len(), whole.saturating_sub(1), "cut at {cut}");
            // What is finished then lies behind what was, not behind the torn line.
            again.finished("later", &run(9)).unwrap();
            let (_, runs) = Journal::open(at, &heading(), true).unwrap();
            assert_eq!(runs["later"], [run(9)]);
        }
    }

    #[test]
    fn runs_of_a_cell_come_in_their_order_however_they_were_finished() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path(), &heading(), false).unwrap();
        for number in [2, 1, 3] {
            let run = Run {
                run: number,
                ..run(number)
            };
            journal.finished("cell", &run).unwrap();
        }
        let (_, runs) = Journal::open(folder.path(), &heading(), true).unwrap();
        let numbers: Vec<u64> = runs["cell"].iter().map(|run| run.run).collect();
        assert_eq!(numbers, [1, 2, 3]);
    }

    #[test]
    fn another_matrix_is_refused_by_what_differs_and_a_full_folder_without_resume() {
        let folder = tempfile::tempdir().unwrap();
        Journal::open(folder.path(), &heading(), false).unwrap();
        let other = Heading {
            seed: 2,
            strict: true,
            ..heading()
        };
        let error = Journal::open(folder.path(), &other, true).unwrap_err();
        assert!(error.contains("--strict, --seed differ"), "{error}");
        let error = Journal::open(folder.path(), &heading(), false).unwrap_err();
        assert!(error.contains("--resume goes on with it"), "{error}");
        let path = folder.path().join("journal.jsonl");
        let text = fs::read_to_string(&path).unwrap() + "nonsense\n";
        fs::write(&path, text).unwrap();
        let error = Journal::open(folder.path(), &heading(), true).unwrap_err();
        assert!(error.contains("journal.jsonl:2: it is damaged"), "{error}");
    }

    #[test]
    fn a_full_disk_is_named() {
        let mut journal = Journal {
            folder: "/dev".into(),
            path: "/dev/full".into(),
            file: OpenOptions::new().write(true).open("/dev/full").unwrap(),
        };
        let error = journal.finished("cell", &run(1)).unwrap_err();
        assert_eq!(
            error,
            "cannot write /dev/full: No space left on device (os error 28)"
        );
    }
}
