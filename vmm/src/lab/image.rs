//! What the lab boots from: a kernel and a root file system, to which the inputs of the first verb are added.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cpio::newc::{self, Builder, ModeFileType};
use rustix::fs::{MemfdFlags, memfd_create};

use super::contents::{self, Checked, Contents};
use super::frame::CHUNK;
use super::{Error, pid1};

/// The kernel and the root file system of the lab.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Image {
    pub(super) kernel: PathBuf,
    initrd: PathBuf,
}

impl Image {
    /// Looks in $VMM_LAB_DIR, or beside the program: as built, then as installed.
    pub(super) fn find() -> Result<Self, Error> {
        let folders = match env::var_os("VMM_LAB_DIR") {
            Some(folder) => vec![PathBuf::from(folder)],
            None => {
                let program = env::current_exe().map_err(Error::Program)?;
                let folder = program.parent().unwrap_or(&program);
                vec![folder.join("../lab"), folder.join("../lib/holdpoint/lab")]
            }
        };
        Self::find_in(&folders)
    }

    fn find_in(folders: &[PathBuf]) -> Result<Self, Error> {
        let images = folders.iter().map(|folder| Self {
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd.cpio"),
        });
        images
            .into_iter()
            .find(|image| image.kernel.is_file() && image.initrd.is_file())
            .ok_or_else(|| Error::NoImage {
                folders: folders.to_vec(),
            })
    }

    /// The root file system with these contents in the agent's store. The kernel unpacks archives that follow one another into one tree
    /// (Documentation/driver-api/early-userspace/buffer-format.rst), far faster than the port could carry them.
    pub(super) fn initrd(&self, contents: &Contents) -> Result<OwnedFd, Error> {
        let failed = |source| Error::Input {
            path: self.initrd.clone(),
            source,
        };
        let mut archive = memfd_create("initrd", MemfdFlags::CLOEXEC)
            .map(File::from)
            .map_err(|error| Error::Start(error.into()))?;
        let mut standing = File::open(&self.initrd).map_err(failed)?;
        let length = io::copy(&mut standing, &mut archive).map_err(failed)?;
        // An archive starts at a multiple of 4; the kernel skips zeroes between two.
        let padding = length.next_multiple_of(4) - length;
        archive
            .write_all(&[0; 4][..padding as usize])
            .map_err(Error::Start)?;
        if !contents.is_empty() {
            append(&mut archive, contents)?;
        }
        Ok(archive.into())
    }
}

fn append(archive: &mut File, contents: &Contents) -> Result<(), Error> {
    let store = pid1::STORE.trim_start_matches('/');
    // The kernel makes no parents.
    for (end, _) in store.match_indices('/').chain([(store.len(), "")]) {
        Builder::new(&store[..end])
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Directory)
            .write(&mut *archive, 0)
            .finish()
            .map_err(Error::Start)?;
    }
    for (hash, (path, length)) in contents {
        let too_long = |_| Error::Input {
            path: path.clone(),
            source: io::ErrorKind::FileTooLarge.into(),
        };
        let size = u32::try_from(*length).map_err(too_long)?;
        let mut entry = Builder::new(&format!("{store}/{}", contents::name(hash)))
            .mode(0o444)
            .set_mode_file_type(ModeFileType::Regular)
            .write(&mut *archive, size);
        let mut content = Checked::open(path, *length, *hash)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match content.read(&mut buffer)? {
                0 => break,
                count => entry.write_all(&buffer[..count]).map_err(Error::Start)?,
            }
        }
        entry.finish().map_err(Error::Start)?;
    }
    newc::trailer(archive).map_err(Error::Start)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn the_first_folder_with_both_parts_is_taken_and_a_miss_names_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let folders = ["built", "installed"].map(|name| folder.path().join(name));
        for folder in &folders {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("vmlinuz"), "").unwrap();
        }
        let missing = Image::find_in(&folders).unwrap_err().to_string();
        assert!(missing.contains("make lab"), "{missing}");
        fs::write(folders[1].join("initrd.cpio"), "").unwrap();
        assert_eq!(
            Image::find_in(&folders).unwrap().kernel,
            folders[1].join("vmlinuz")
        );
    }

    #[test]
    fn contents_follow_the_standing_archive_as_a_second_one() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image {
            kernel: PathBuf::new(),
            initrd: folder.path().join("initrd.cpio"),
        };
        fs::write(&image.initrd, "12345").unwrap();
        let input = folder.path().join("input");
        fs::write(&input, "content").unwrap();
        let (hash, length) = contents::hash(File::open(&input).unwrap()).unwrap();
        let mut archive = File::from(
            image
                .initrd(&[(hash, (input.clone(), length))].into())
                .unwrap(),
        );
        archive.seek(io::SeekFrom::Start(8)).unwrap();
        let mut entries = Vec::new();
        loop {
            let mut entry = newc::Reader::new(archive).unwrap();
            if entry.entry().is_trailer() {
                break;
            }
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            entries.push((entry.entry().name().to_owned(), content));
            archive = entry.finish().unwrap();
        }
        let file = format!("run/lab/store/{}", contents::name(&hash));
        let seen: Vec<(&str, &str)> = entries
            .iter()
            .map(|(name, content)| (name.as_str(), content.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("run", ""),
                ("run/lab", ""),
                ("run/lab/store", ""),
                (file.as_str(), "content")
            ]
        );
        fs::write(&input, "changed").unwrap();
        let changed = image.initrd(&[(hash, (input, length))].into());
        assert!(matches!(changed, Err(Error::Changed { .. })));
    }
}
