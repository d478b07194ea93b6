//! The file tree that a verb sees: the part of its caller's that it was given, and the lab's own /dev, /proc and /sys.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::super::frame::{Kind, Node};
use super::store::Store;

/// The bit of [`Node::access`] that lets a file be executed.
const EXECUTE: u8 = 1;

/// A folder below which the tree stands; gone when this is dropped.
pub(super) struct View(PathBuf);

impl View {
    /// Plants the nodes below `root`, a folder that does not exist yet. What the verb may write or execute is a copy of its own; all
    /// else is a link into the store, whose files can only be read.
    pub(super) fn plant(
        root: PathBuf,
        nodes: &[Node],
        outputs: &[PathBuf],
        store: &Store,
    ) -> io::Result<Self> {
        let copied = |node: &Node| {
            let path = Path::new(&node.path);
            node.access & EXECUTE != 0 || outputs.iter().any(|output| path.starts_with(output))
        };
        fs::create_dir(&root)?;
        let view = Self(root);
        for folder in ["dev", "proc", "sys", "tmp"] {
            fs::create_dir(view.0.join(folder))?;
        }
        fs::set_permissions(view.0.join("tmp"), Permissions::from_mode(0o1777))?;
        for node in nodes {
            let path = view.real(&node.path);
            match &node.kind {
                Kind::Folder => fs::create_dir_all(&path)?,
                Kind::Link(target) => symlink(target, &path)?,
                Kind::Husk => drop(File::create_new(&path)?),
                Kind::File { hash, .. } if copied(node) => {
                    fs::copy(store.path(hash), &path)?;
                }
                Kind::File { hash, .. } => fs::hard_link(store.path(hash), &path)?,
            }
        }
        // Children first: a folder that may not be written must have its children by now.
        for node in nodes.iter().rev() {
            let own = match node.kind {
                Kind::Folder | Kind::Husk => true,
                Kind::File { .. } => copied(node),
                Kind::Link(_) => false,
            };
            if own {
                let bits = u32::from(node.access);
                fs::set_permissions(
                    view.real(&node.path),
                    Permissions::from_mode(bits << 6 | bits << 3 | bits),
                )?;
            }
        }
        Ok(view)
    }

    /// Puts a program where the verb expects it.
    pub(super) fn install(&self, program: &Path, at: &OsStr) -> io::Result<()> {
        let path = self.real(at);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::hard_link(program, path),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    /// Where the agent finds what the verb knows by this absolute path.
    pub(super) fn real(&self, path: &OsStr) -> PathBuf {
        let path = Path::new(path);
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str, access: u8, kind: Kind) -> Node {
        Node {
            path: path.into(),
            access,
            kind,
        }
    }

    #[test]
    fn the_tree_stands_with_its_contents_links_and_modes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("store")).unwrap();
        let nodes = [
            node("/", 5, Kind::Folder),
            node("/home", 5, Kind::Folder),
            node(
                "/home/both",
                6,
                Kind::File {
                    hash: [1; 32],
                    length: 4,
                },
            ),
            node(
                "/home/image",
                4,
                Kind::File {
                    hash: [1; 32],
                    length: 4,
                },
            ),
            node(
                "/home/program",
                5,
                Kind::File {
                    hash: [1; 32],
                    length: 4,
                },
            ),
            node("/home/link", 7, Kind::Link("image".into())),
            node("/home/old", 6, Kind::Husk),
        ];
        let mut arrival = store.arrival("part", store.lacking(&nodes));
        arrival.take(b"text").unwrap();
        arrival.finish().unwrap();
        let root = folder.path().join("root");
        let view = View::plant(root.clone(), &nodes, &["/home/both".into()], &store).unwrap();
        let read = |path: &str| fs::read_to_string(view.real(OsStr::new(path))).unwrap();
        assert_eq!(
            ["/home/image", "/home/link", "/home/both", "/home/old"].map(read),
            ["text", "text", "text", ""]
        );
        let mode = |path: &str| {
            fs::metadata(view.real(OsStr::new(path)))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!(
            ["/home", "/home/image", "/home/program", "/home/old"].map(mode),
            [0o555, 0o444, 0o555, 0o666]
        );
        fs::write(view.real(OsStr::new("/home/both")), "mine").unwrap();
        assert_eq!(
            read("/home/image"),
            "text",
            "an input that is also an output is a copy"
        );
        for folder in ["/", "/home"] {
            fs::set_permissions(view.real(OsStr::new(folder)), Permissions::from_mode(0o755))
                .unwrap();
        }
        drop(view);
        assert!(!root.exists());
    }
}
