//! Writes a verb's output files at the host, in the steps that the agent tells.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Error;
use super::frame::FileOp;

pub(super) struct Carrier {
    outputs: Vec<PathBuf>,
    files: HashMap<u32, (PathBuf, File)>,
}

impl Carrier {
    /// Will write these outputs and nothing else.
    pub(super) fn new(outputs: &[OsString]) -> Self {
        Self {
            outputs: outputs.iter().map(PathBuf::from).collect(),
            files: HashMap::new(),
        }
    }

    pub(super) fn step(&mut self, step: FileOp) -> Result<(), Error> {
        match step {
            FileOp::Folder { path, mode } => self.checked(path, true, |path| {
                match fs::DirBuilder::new().mode(mode).create(path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    made => made,
                }
            }),
            FileOp::Open { file, path, mode } => {
                let mut opened = None;
                self.checked(path, false, |path| {
                    let options = OpenOptions::new()
                        .write(true)
                        .create(true)
                        .truncate(true)
                        .mode(mode)
                        .open(path)?;
                    opened = Some((path.to_owned(), options));
                    Ok(())
                })?;
                self.files.extend(opened.map(|opened| (file, opened)));
                Ok(())
            }
            FileOp::Append { file, bytes } => match self.files.get_mut(&file) {
                Some((path, file)) => file.write_all(&bytes).map_err(|source| Error::Output {
                    path: path.clone(),
                    source,
                }),
                None => Err(Error::Nonsense("bytes for a file that it did not open")),
            },
            FileOp::Remove { path } => self.checked(path, true, |path| {
                if path.is_dir() {
                    fs::remove_dir(path)
                } else {
                    fs::remove_file(path)
                }
            }),
        }
    }

    /// Does something with a path if the verb may: with an output, what lies in one and, where asked, with a folder on the way to one.
    fn checked(
        &self,
        path: OsString,
        on_the_way: bool,
        deed: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), Error> {
        let path = PathBuf::from(path);
        let plain = !path
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        let named =
            |output: &PathBuf| path.starts_with(output) || on_the_way && output.starts_with(&path);
        if !plain || !self.outputs.iter().any(named) {
            return Err(Error::Nonsense("a file that is none of the verb's outputs"));
        }
        deed(&path).map_err(|source| Error::Output { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(folder: &Path, name: &str) -> OsString {
        folder.join(name).into_os_string()
    }

    #[test]
    fn steps_make_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join("old"), "old and long").unwrap();
        let mut carrier = Carrier::new(&[at(folder, "old"), at(folder, "way/out")]);
        let steps = [
            FileOp::Open {
                file: 0,
                path: at(folder, "old"),
                mode: 0o600,
            },
            FileOp::Folder {
                path: at(folder, "way"),
                mode: 0o700,
            },
            FileOp::Folder {
                path: at(folder, "way/out"),
                mode: 0o700,
            },
            FileOp::Open {
                file: 1,
                path: at(folder, "way/out/a"),
                mode: 0o600,
            },
            FileOp::Open {
                file: 2,
                path: at(folder, "way/out/b"),
                mode: 0o600,
            },
            FileOp::Append {
                file: 1,
                bytes: b"one ".to_vec(),
            },
            FileOp::Append {
                file: 0,
                bytes: b"new".to_vec(),
            },
            FileOp::Append {
                file: 1,
                bytes: b"two".to_vec(),
            },
            FileOp::Remove {
                path: at(folder, "way/out/b"),
            },
        ];
        for step in steps {
            carrier.step(step).unwrap();
        }
        assert_eq!(fs::read_to_string(folder.join("old")).unwrap(), "new");
        assert_eq!(
            fs::read_to_string(folder.join("way/out/a")).unwrap(),
            "one two"
        );
        assert!(!folder.join("way/out/b").exists());
    }

    #[test]
    fn only_what_was_declared_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut carrier = Carrier::new(&[at(folder.path(), "out")]);
        for name in ["other", "out/../other", "out2"] {
            let step = FileOp::Open {
                file: 0,
                path: at(folder.path(), name),
                mode: 0o600,
            };
            assert!(
                matches!(carrier.step(step), Err(Error::Nonsense(_))),
                "{name}"
            );
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_is_named() {
        let mut carrier = Carrier::new(&["/dev/full".into()]);
        carrier
            .step(FileOp::Open {
                file: 0,
                path: "/dev/full".into(),
                mode: 0o600,
            })
            .unwrap();
        let error = carrier
            .step(FileOp::Append {
                file: 0,
                bytes: b"x".to_vec(),
            })
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot write /dev/full: No space left on device (os error 28)"
        );
    }
}
