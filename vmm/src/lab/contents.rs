//! The contents of input files, known by their hashes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Take};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Error;
use super::frame::Hash;

/// Where contents lie and how long they are.
pub(super) type Contents = HashMap<Hash, (PathBuf, u64)>;

/// What a content is called in the agent's store.
pub(super) fn name(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of what is in the file, and its length.
pub(super) fn hash(mut file: File) -> io::Result<(Hash, u64)> {
    let mut hasher = Sha256::new();
    let length = io::copy(&mut file, &mut hasher)?;
    Ok((hasher.finalize().into(), length))
}

/// Reads a file that was hashed before. If it has changed since, nobody may take it for what it was: that shows at its end.
pub(super) struct Checked {
    path: PathBuf,
    file: Take<File>,
    hasher: Sha256,
    expected: Hash,
}

impl Checked {
    pub(super) fn open(path: &Path, length: u64, expected: Hash) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Input {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: file.take(length),
            hasher: Sha256::new(),
            expected,
        })
    }

    /// The next bytes; 0 at the end of what is what it was.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let count = self.file.read(buffer).map_err(|source| Error::Input {
            path: self.path.clone(),
            source,
        })?;
        self.hasher.update(&buffer[..count]);
        if count == 0 && Hash::from(self.hasher.finalize_reset()) != self.expected {
            return Err(Error::Changed {
                path: self.path.clone(),
            });
        }
        Ok(count)
    }
}
