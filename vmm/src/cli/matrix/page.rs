//! The file of the HTML report: whether it can be written is known before the first cell is run, and what lay there is kept until the
//! new one is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A file that the report goes to.
#[derive(Debug)]
pub(super) struct Page {
    path: PathBuf,
    file: File,
    /// What becomes the file when it is whole; none of a device or a pipe, which cannot be replaced.
    new: Option<PathBuf>,
}

impl Page {
    /// Sees that the file can be written.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let unwritable = |error| unwritable(path, &error);
        let there = match fs::metadata(path) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unwritable(error)),
        };
        let replaces = there.is_none_or(|there| there.is_file());
        let new = replaces.then(|| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".new");
            path.with_file_name(name)
        });
        let file = match &new {
            Some(new) => File::create(new),
            None => OpenOptions::new().write(true).open(path),
        };
        Ok(Self {
            path: path.to_owned(),
            file: file.map_err(unwritable)?,
            new,
        })
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(mut self, text: &str) -> Result<(), String> {
        let mut write = || {
            self.file.write_all(text.as_bytes())?;
            match self.new.take() {
                Some(new) => {
                    let settled = self.file.sync_all();
                    let done = settled.and_then(|()| fs::rename(&new, &self.path));
                    if done.is_err() {
                        self.new = Some(new);
                    }
                    done
                }
                None => Ok(()),
            }
        };
        write().map_err(|error| unwritable(&self.path, &error))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Some(new) = &self.new {
            // Nobody is left to be told.
            let _ = fs::remove_file(new);
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> String {
    format!("cannot write the report {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lay_there_is_kept_until_the_new_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        fs::write(&path, "old").unwrap();
        let page = Page::open(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        drop(page);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        Page::open(&path).unwrap().write("new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_named_at_once_and_a_full_disk_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let error = Page::open(folder.path()).unwrap_err();
        assert!(error.ends_with("Is a directory (os error 21)"), "{error}");
        let error = Page::open(&folder.path().join("no/report.html")).unwrap_err();
        assert!(
            error.ends_with("No such file or directory (os error 2)"),
            "{error}"
        );
        let error = Page::open(Path::new("/dev/full")).unwrap().write("page");
        assert_eq!(
            error.unwrap_err(),
            "cannot write the report /dev/full: No space left on device (os error 28)"
        );
    }
}
