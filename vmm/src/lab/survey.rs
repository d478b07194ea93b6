//! What of the caller's file tree a verb needs to see: every object on the way to its inputs and outputs, with what the caller may
//! do with it. A verb that is shown these meets the same errors that it would meet here.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::Error;
use super::contents::{self, Contents};
use super::frame::{Kind, Node};

/// As many symbolic links as Linux follows on one path (include/linux/namei.h, MAXSYMLINKS).
const MOST_LINKS: u32 = 40;

/// The lab has these folders of its own.
const LABS_OWN: [&str; 3] = ["/dev", "/proc", "/sys"];

#[derive(Default)]
pub(super) struct Survey {
    nodes: BTreeMap<PathBuf, Node>,
    /// What the lab may ask for.
    pub(super) contents: Contents,
    /// The outputs, with no symbolic link left in their paths.
    pub(super) outputs: Vec<OsString>,
}

impl Survey {
    /// `program` is seen too; relative paths are below `cwd`.
    pub(super) fn new(
        cwd: &Path,
        program: &Path,
        inputs: &[PathBuf],
        outputs: &[PathBuf],
    ) -> Result<Self, Error> {
        let mut survey = Self::default();
        survey.walk(cwd, false)?;
        survey.walk(program, false)?;
        for input in inputs {
            survey.walk(&cwd.join(input), true)?;
        }
        for output in outputs {
            let end = survey.walk(&cwd.join(output), false)?;
            survey.outputs.extend(end.map(PathBuf::into_os_string));
        }
        Ok(survey)
    }

    /// All that was met, parents before children.
    pub(super) fn into_nodes(self) -> Vec<Node> {
        self.nodes.into_values().collect()
    }

    /// The bytes that have to be in the lab.
    pub(super) fn length(&self) -> u64 {
        self.contents.values().map(|(_, length)| length).sum()
    }

    /// Goes along a path as the kernel would. Returns where it ends: there, or the first that is not there yet, which a verb may make
    /// with all that is below it; `None` if it leads nowhere.
    fn walk(&mut self, path: &Path, read: bool) -> Result<Option<PathBuf>, Error> {
        let mut ahead: VecDeque<OsString> = names(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        self.meet(&at, Kind::Folder);
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(&name);
            if LABS_OWN.iter().any(|own| at == Path::new(own)) {
                at.extend(ahead);
                return Ok(Some(at));
            }
            let last = ahead.is_empty();
            let metadata = match fs::symlink_metadata(&at) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let leads = !ahead.iter().any(|name| name == "..");
                    return Ok(leads.then_some(at));
                }
                Err(_) => return Ok(None),
            };
            if metadata.is_symlink() {
                links += 1;
                let Ok(target) = fs::read_link(&at) else {
                    return Ok(None);
                };
                self.meet(&at, Kind::Link(target.as_os_str().to_owned()));
                if links > MOST_LINKS {
                    return Ok(None);
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                } else {
                    at.pop();
                }
                let mut through = names(&target);
                through.append(&mut ahead);
                ahead = through;
            } else if metadata.is_dir() {
                self.meet(&at, Kind::Folder);
            } else {
                if read && last && may(&at, Access::READ_OK) {
                    self.read(&at, metadata.is_file())?;
                } else {
                    self.meet(&at, Kind::Husk);
                }
                return Ok(last.then_some(at));
            }
        }
        Ok(Some(at))
    }

    /// Takes down a file with its content.
    fn read(&mut self, path: &Path, regular: bool) -> Result<(), Error> {
        if !regular {
            return Err(Error::Irregular {
                path: path.to_owned(),
            });
        }
        let (hash, length) = File::open(path)
            .and_then(contents::hash)
            .map_err(|source| Error::Input {
                path: path.to_owned(),
                source,
            })?;
        self.contents.insert(hash, (path.to_owned(), length));
        self.nodes.remove(path);
        self.meet(path, Kind::File { hash, length });
        Ok(())
    }

    fn meet(&mut self, path: &Path, kind: Kind) {
        self.nodes.entry(path.to_owned()).or_insert_with(|| {
            let access = match kind {
                Kind::Link(_) => 7,
                Kind::Folder | Kind::File { .. } | Kind::Husk => [
                    (Access::READ_OK, 4),
                    (Access::WRITE_OK, 2),
                    (Access::EXEC_OK, 1),
                ]
                .into_iter()
                .filter(|(right, _)| may(path, *right))
                .map(|(_, bit)| bit)
                .sum(),
            };
            Node {
                path: path.into(),
                access,
                kind,
            }
        });
    }
}

/// The names on a path, but for those that lead nowhere else.
fn names(path: &Path) -> VecDeque<OsString> {
    let named = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    named.map(OsStr::to_owned).collect()
}

fn may(path: &Path, right: Access) -> bool {
    accessat(CWD, path, right, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The survey of a folder made by `make`, as lines below that folder.
    fn survey(
        make: impl FnOnce(&Path),
        inputs: &[&str],
        outputs: &[&str],
    ) -> (Vec<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        make(&folder);
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let survey = Survey::new(&folder, &folder, &paths(inputs), &paths(outputs)).unwrap();
        let below = |path: &OsStr| {
            Path::new(path)
                .strip_prefix(&folder)
                .map(|path| path.display().to_string())
        };
        let ends = survey
            .outputs
            .iter()
            .map(|path| below(path).unwrap())
            .collect();
        let lines = survey.into_nodes().into_iter().filter_map(|node| {
            let kind = match node.kind {
                Kind::Folder => "folder".to_owned(),
                Kind::Link(target) => format!("-> {}", target.display()),
                Kind::File { length, .. } => format!("file {length}"),
                Kind::Husk => "husk".to_owned(),
            };
            below(&node.path)
                .ok()
                .filter(|path| !path.is_empty())
                .map(|path| format!("{path} {kind}"))
        });
        (lines.collect(), ends)
    }

    #[test]
    fn inputs_are_read_and_what_is_beside_them_is_not_seen() {
        let make = |folder: &Path| {
            fs::create_dir(folder.join("a")).unwrap();
            fs::write(folder.join("a/image"), "12345").unwrap();
            fs::write(folder.join("a/other"), "").unwrap();
        };
        assert_eq!(
            survey(make, &["a/image", "missing"], &[]).0,
            ["a folder", "a/image file 5"]
        );
    }

    #[test]
    fn links_are_followed_and_shown() {
        let make = |folder: &Path| {
            fs::create_dir_all(folder.join("real/deep")).unwrap();
            fs::write(folder.join("real/deep/image"), "12345").unwrap();
            symlink("real/deep", folder.join("short")).unwrap();
            symlink("../out", folder.join("real/log")).unwrap();
            symlink("loop", folder.join("loop")).unwrap();
        };
        let (nodes, outputs) = survey(make, &["short/../deep/./image", "loop"], &["real/log"]);
        let seen = [
            "loop -> loop",
            "real folder",
            "real/deep folder",
            "real/deep/image file 5",
            "real/log -> ../out",
            "short -> real/deep",
        ];
        assert_eq!(nodes, seen);
        assert_eq!(
            outputs,
            ["out"],
            "an output through a dangling link is made where the link points"
        );
    }

    #[test]
    fn an_output_that_is_there_is_a_husk_and_its_content_stays() {
        let make = |folder: &Path| fs::write(folder.join("log"), "old").unwrap();
        assert_eq!(
            survey(make, &[], &["log", "log/below"]),
            (vec!["log husk".to_owned()], vec!["log".to_owned()])
        );
        assert_eq!(survey(make, &["log"], &["log"]).0, ["log file 3"]);
    }

    #[test]
    fn an_output_may_be_below_folders_that_are_not_there() {
        let make = |folder: &Path| fs::create_dir(folder.join("a")).unwrap();
        let outputs = ["a/b/c", "a/b/../d", "e/f/g"];
        assert_eq!(
            survey(make, &[], &outputs),
            (
                vec!["a folder".to_owned()],
                vec!["a/b".to_owned(), "e".to_owned()]
            )
        );
    }

    #[test]
    fn the_labs_own_folders_are_not_surveyed() {
        let survey = Survey::new(
            Path::new("/"),
            Path::new("/"),
            &["dev/null".into()],
            &["/dev/stdout".into()],
        )
        .unwrap();
        assert_eq!(survey.outputs, ["/dev/stdout"]);
        assert_eq!(survey.into_nodes().len(), 1);
    }

    #[test]
    fn an_input_that_is_no_regular_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let refused = Survey::new(folder.path(), folder.path(), &["socket".into()], &[]);
        assert!(
            matches!(refused.err(), Some(Error::Irregular { path }) if path.ends_with("socket"))
        );
    }
}
