//! The guests that `make` puts together.

use std::fs;
use std::path::PathBuf;

use crate::root;

/// A stock kernel of images/manifest.toml.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name there.
    pub name: String,
    /// Its kernel, or why there is none.
    pub kernel: Result<PathBuf, String>,
}

impl Guest {
    /// The stock kernels that this machine's suites have, and those that they lack with the reason.
    ///
    /// # Panics
    ///
    /// When `make images` has not been run.
    pub fn all() -> Vec<Self> {
        let folder = root().join("target/guests");
        let mut guests: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}; `make images` makes it", folder.display()))
            .map(|entry| entry.expect("a readable folder"))
            // What was built here (`make kernels`) is not stock.
            .filter(|entry| !entry.path().join("provenance").exists())
            .map(|entry| {
                let skipped = fs::read_to_string(entry.path().join("skipped"));
                Self {
                    name: entry
                        .file_name()
                        .into_string()
                        .expect("the manifest's names are ASCII"),
                    kernel: match skipped {
                        Ok(reason) => Err(reason.trim().to_owned()),
                        Err(_) => Ok(entry.path().join("vmlinuz")),
                    },
                }
            })
            .collect();
        guests.sort_by(|a, b| a.name.cmp(&b.name));
        guests
    }
}

/// A file of a kernel that was built here (`make kernels`).
pub fn built(kernel: &str, file: &str) -> PathBuf {
    root().join("target/guests").join(kernel).join(file)
}

/// The initramfs of the Linux guests.
pub fn initrd() -> PathBuf {
    root().join("target/images/guest.cpio")
}

/// The bare-metal payload.
pub fn payload() -> PathBuf {
    root().join("target/guest/aarch64-unknown-none-softfloat/release/guest")
}
