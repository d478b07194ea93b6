//! The contents of input files, by their hash: what one verb brought into the lab serves the next.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::super::contents;
use super::super::frame::{Hash, Kind, Node};

/// A folder with one file a content.
pub(super) struct Store(PathBuf);

impl Store {
    pub(super) fn new(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// What these nodes need and the store has not, with lengths, each once.
    pub(super) fn lacking(&self, nodes: &[Node]) -> Vec<(Hash, u64)> {
        let mut met = HashSet::new();
        let contents = nodes.iter().filter_map(|node| match node.kind {
            Kind::File { hash, length } => Some((hash, length)),
            Kind::Folder | Kind::Link(_) | Kind::Husk => None,
        });
        contents
            .filter(|(hash, _)| met.insert(*hash) && !self.path(hash).exists())
            .collect()
    }

    /// Where the content with this hash lies. Nobody may write there.
    pub(super) fn path(&self, hash: &Hash) -> PathBuf {
        self.0.join(contents::name(hash))
    }

    /// Takes contents in that arrive one after the other. `name` tells this arrival from others at the same time.
    pub(super) fn arrival(&self, name: &str, contents: Vec<(Hash, u64)>) -> Arrival<'_> {
        Arrival {
            store: self,
            path: self.0.join(name),
            contents: contents.into(),
            current: None,
        }
    }
}

/// Contents on their way into the store.
pub(super) struct Arrival<'a> {
    store: &'a Store,
    path: PathBuf,
    contents: VecDeque<(Hash, u64)>,
    current: Option<File>,
}

impl Arrival<'_> {
    /// The next bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.settle_empty()?;
            let Some((hash, left)) = self.contents.front_mut() else {
                return Err(io::Error::other("more content came than was asked for"));
            };
            let file = match &mut self.current {
                Some(file) => file,
                none => none.insert(File::create(&self.path)?),
            };
            let part = bytes
                .len()
                .min(usize::try_from(*left).unwrap_or(usize::MAX));
            file.write_all(&bytes[..part])?;
            bytes = &bytes[part..];
            *left -= part as u64;
            if *left == 0 {
                let hash = *hash;
                self.settle(&hash)?;
            }
        }
        Ok(())
    }

    /// All has come.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.settle_empty()?;
        if self.contents.is_empty() {
            return Ok(());
        }
        Err(io::Error::other("less content came than was asked for"))
    }

    /// Empty contents come without a byte.
    fn settle_empty(&mut self) -> io::Result<()> {
        while let Some((hash, 0)) = self.contents.front().copied() {
            File::create(&self.path)?;
            self.settle(&hash)?;
        }
        Ok(())
    }

    fn settle(&mut self, hash: &Hash) -> io::Result<()> {
        self.current = None;
        self.contents.pop_front();
        fs::set_permissions(&self.path, Permissions::from_mode(0o444))?;
        fs::rename(&self.path, self.store.path(hash))
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        if self.current.is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(hash: u8, length: u64) -> Node {
        Node {
            path: "/x".into(),
            access: 4,
            kind: Kind::File {
                hash: [hash; 32],
                length,
            },
        }
    }

    #[test]
    fn contents_are_cut_at_their_lengths_wherever_the_pieces_end() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned()).unwrap();
        let lacking = store.lacking(&[file(1, 3), file(2, 0), file(3, 4), file(1, 3), file(4, 0)]);
        assert_eq!(
            lacking.iter().map(|(hash, _)| hash[0]).collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
        let mut arrival = store.arrival("1.part", lacking);
        for piece in ["ab", "cde", "fg"] {
            arrival.take(piece.as_bytes()).unwrap();
        }
        arrival.finish().unwrap();
        let content = |hash| fs::read_to_string(store.path(&[hash; 32])).unwrap();
        assert_eq!([1, 2, 3, 4].map(content), ["abc", "", "defg", ""]);
        assert!(store.lacking(&[file(1, 3), file(4, 0)]).is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }

    #[test]
    fn too_much_and_too_little_are_errors_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned()).unwrap();
        let mut arrival = store.arrival("1.part", vec![([1; 32], 2)]);
        arrival.take(b"a").unwrap();
        assert!(arrival.finish().is_err());
        let mut arrival = store.arrival("2.part", Vec::new());
        assert!(arrival.take(b"a").is_err());
        drop(arrival);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
