//! The files of a Linux guest: its kernel by name or by path, and our initramfs.

use std::env;
use std::path::{Path, PathBuf};

/// What is not there.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// No such guest.
    #[error(
        "there is no guest `{name}` in {folder}; there are {known}. `make images` and `make kernels` make them, VMM_GUESTS says \
         where they are, and a path has a slash in it"
    )]
    NoGuest {
        /// The name.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
        /// The guests that are there.
        known: String,
    },
    /// No folder of guests.
    #[error(
        "no folder of guests beside this program: `make images` makes it, VMM_GUESTS says where it is"
    )]
    NoGuests,
    /// No initramfs.
    #[error("no initramfs at {0}: `make images` makes it, VMM_INITRAMFS says where it is")]
    NoInitramfs(PathBuf),
    /// The kernel is no file.
    #[error("there is no kernel at {0}")]
    NoKernel(PathBuf),
}

/// A guest's files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Files {
    /// The Image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
}

/// Names of kernels in a guest's folder: built, and as packaged.
const KERNELS: [&str; 2] = ["Image", "vmlinuz"];

impl Files {
    /// Finds the files of `linux:WHAT`.
    pub fn find(what: &str) -> Result<Self, FilesError> {
        let kernel = kernel(what)?;
        let initramfs = match env::var_os("VMM_INITRAMFS") {
            Some(path) => PathBuf::from(path),
            None => {
                beside("images/guest.cpio").unwrap_or_else(|| "target/images/guest.cpio".into())
            }
        };
        if !initramfs.is_file() {
            return Err(FilesError::NoInitramfs(initramfs));
        }
        Ok(Self { kernel, initramfs })
    }
}

/// Finds the kernel that WHAT names: a guest, or a path, which has a slash in it.
pub fn kernel(what: &str) -> Result<PathBuf, FilesError> {
    let kernel = if what.contains('/') {
        PathBuf::from(what)
    } else {
        guest(what)?
    };
    if !kernel.is_file() {
        return Err(FilesError::NoKernel(kernel));
    }
    Ok(kernel)
}

/// What was built beside this program, for this machine or for another one.
fn beside(what: &str) -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let folder = program.parent()?;
    let places = ["..", "../.."].map(|up| folder.join(up).join(what));
    places.into_iter().find(|path| path.exists())
}

fn guest(name: &str) -> Result<PathBuf, FilesError> {
    let folder = env::var_os("VMM_GUESTS")
        .map(PathBuf::from)
        .or_else(|| beside("guests"))
        .ok_or(FilesError::NoGuests)?;
    let kernel = |folder: &Path| {
        let files = KERNELS.map(|file| folder.join(file));
        files.into_iter().find(|file| file.is_file())
    };
    kernel(&folder.join(name)).ok_or_else(|| {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut known: Vec<String> = entries
            .filter(|entry| kernel(&entry.path()).is_some())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        known.sort();
        FilesError::NoGuest {
            name: name.to_owned(),
            folder: folder.clone(),
            known: if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            },
        }
    })
}
