//! Follows what a verb writes into its output files and tells the host, step by step.
//!
//! inotify says what changed; what is sent is always read from the files themselves. A file that only grows is sent as it
//! grows. One that changed in its middle is found out at the end, by its hash, and sent again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, PipeReader, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::super::frame::{CHUNK, FileOp};
use super::super::window::Window;
use super::pace::Pace;

/// Files are followed this closely.
const GAP: Duration = Duration::from_millis(50);

/// Where the steps go; false when nobody listens any more.
type Sink = Box<dyn Fn(FileOp) -> bool + Send>;

pub(super) struct Outputs {
    /// The verb's root, as the agent sees it. All other paths here are the verb's.
    root: PathBuf,
    outputs: Vec<PathBuf>,
    inotify: OwnedFd,
    watched: HashMap<i32, PathBuf>,
    files: BTreeMap<PathBuf, Sent>,
    folders: BTreeSet<PathBuf>,
    next: u32,
    window: Arc<Window>,
    sink: Sink,
}

/// A file as far as the host has it.
struct Sent {
    number: u32,
    inode: u64,
    length: u64,
    hash: DefaultHasher,
}

/// Why following ended early: nobody wants the rest, or the lab's own files failed.
enum Stop {
    Unwanted,
    Failed(io::Error),
}

impl<E: Into<io::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Outputs {
    /// Watches for these outputs below `root`; what is there already is not the verb's work.
    pub(super) fn watch(
        root: PathBuf,
        outputs: Vec<PathBuf>,
        window: Arc<Window>,
        sink: Sink,
    ) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut this = Self {
            root,
            outputs,
            inotify,
            watched: HashMap::new(),
            files: BTreeMap::new(),
            folders: BTreeSet::new(),
            next: 0,
            window,
            sink,
        };
        for output in this.outputs.clone() {
            for folder in output.ancestors() {
                if this.real(folder).is_dir() {
                    this.add_watch(folder)?;
                }
            }
        }
        Ok(this)
    }

    /// Follows until the verb has ended (the other end of the pipe is closed) and all is told.
    pub(super) fn follow(mut self, ended: &PipeReader) -> io::Result<()> {
        match self.follow_to_end(ended) {
            Ok(()) | Err(Stop::Unwanted) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn follow_to_end(&mut self, ended: &PipeReader) -> Result<(), Stop> {
        let mut pace = Pace::new(GAP);
        loop {
            let mut fds = [
                PollFd::new(ended, PollFlags::IN),
                PollFd::new(&self.inotify, PollFlags::IN),
            ];
            poll(&mut fds, None)?;
            let gap = Timespec::try_from(pace.left()).map_err(io::Error::other)?;
            poll(&mut fds[..1], Some(&gap))?;
            let last = !fds[0].revents().is_empty();
            for path in self.changed()? {
                self.look(&path)?;
            }
            pace.sent(0);
            if last {
                return self.complete();
            }
        }
    }

    /// The paths that changed since the last call, each once.
    fn changed(&mut self) -> io::Result<BTreeSet<PathBuf>> {
        let mut changed = BTreeSet::new();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(changed),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                // 16384 changes, none like its neighbour, while the host took nothing: what they were is lost.
                return Err(io::Error::other(
                    "the output files changed faster than the host could take it",
                ));
            } else if event.events().contains(ReadFlags::IGNORED) {
                self.watched.remove(&event.wd());
            } else if let (Some(folder), Some(name)) =
                (self.watched.get(&event.wd()), event.file_name())
            {
                changed.insert(folder.join(OsStr::from_bytes(name.to_bytes())));
            }
        }
    }

    /// Tells the host what became of this path.
    fn look(&mut self, path: &Path) -> Result<(), Stop> {
        let output = self.outputs.iter().any(|output| path.starts_with(output));
        let on_the_way = self.outputs.iter().any(|output| output.starts_with(path));
        if !output && !on_the_way {
            return Ok(());
        }
        match fs::symlink_metadata(self.real(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.gone(path),
            Err(error) => Err(error.into()),
            Ok(metadata) if metadata.is_dir() => self.look_into(path, &metadata),
            Ok(metadata) if metadata.is_file() && output => self.grow(path),
            Ok(_) => Ok(()),
        }
    }

    /// A folder appeared: it and what it holds by now.
    fn look_into(&mut self, path: &Path, metadata: &Metadata) -> Result<(), Stop> {
        if self.folders.insert(path.to_owned()) {
            self.say(FileOp::Folder {
                path: path.into(),
                mode: metadata.permissions().mode() & 0o7777,
            })?;
        }
        match self.add_watch(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.gone(path),
            done => done?,
        }
        for entry in fs::read_dir(self.real(path))? {
            self.look(&path.join(entry?.file_name()))?;
        }
        Ok(())
    }

    /// Sends what a file has got since the last time, or all of it when it is another file or became shorter.
    fn grow(&mut self, path: &Path) -> Result<(), Stop> {
        // It may have been replaced since it was looked at: never through a link, which would lead out of the verb's tree.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
            .open(self.real(path));
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.gone(path),
            opened => opened?,
        };
        let metadata = file.metadata()?;
        let same = self
            .files
            .get(path)
            .is_some_and(|sent| sent.inode == metadata.ino() && sent.length <= metadata.len());
        if !same {
            self.open(path, &metadata)?;
        }
        self.send_rest(path, &mut file)
    }

    fn open(&mut self, path: &Path, metadata: &Metadata) -> Result<(), Stop> {
        let number = self.next;
        self.next += 1;
        let sent = Sent {
            number,
            inode: metadata.ino(),
            length: 0,
            hash: DefaultHasher::new(),
        };
        self.files.insert(path.to_owned(), sent);
        self.say(FileOp::Open {
            file: number,
            path: path.into(),
            mode: metadata.permissions().mode() & 0o7777,
        })
    }

    fn send_rest(&mut self, path: &Path, file: &mut File) -> Result<(), Stop> {
        let Some(sent) = self.files.get_mut(path) else {
            return Ok(());
        };
        file.seek(SeekFrom::Start(sent.length))?;
        loop {
            let mut bytes = vec![0; CHUNK];
            let count = file.read(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            bytes.truncate(count);
            sent.hash.write(&bytes);
            sent.length += count as u64;
            while !bytes.is_empty() {
                let part = self.window.take(bytes.len()).ok_or(Stop::Unwanted)?;
                let rest = bytes.split_off(part);
                if !(self.sink)(FileOp::Append {
                    file: sent.number,
                    bytes,
                }) {
                    return Err(Stop::Unwanted);
                }
                bytes = rest;
            }
        }
    }

    /// A path is no more: nor is, at the host, what was made under it.
    fn gone(&mut self, path: &Path) -> Result<(), Stop> {
        let files = self.files.keys().filter(|file| file.starts_with(path));
        let folders = self
            .folders
            .iter()
            .filter(|folder| folder.starts_with(path));
        let mut below: Vec<PathBuf> = files.chain(folders).cloned().collect();
        below.sort();
        for path in below.into_iter().rev() {
            self.files.remove(&path);
            self.folders.remove(&path);
            self.say(FileOp::Remove { path: path.into() })?;
        }
        Ok(())
    }

    /// The verb has ended and its files rest: whatever was not written in order is sent again.
    fn complete(&mut self) -> Result<(), Stop> {
        for path in self.changed()? {
            self.look(&path)?;
        }
        for path in self.files.keys().cloned().collect::<Vec<_>>() {
            self.grow(&path)?;
            let Some(sent) = self.files.get(&path) else {
                continue;
            };
            let mut file = File::open(self.real(&path))?;
            if hash(&mut file)? != sent.hash.finish() {
                let metadata = file.metadata()?;
                self.open(&path, &metadata)?;
                self.send_rest(&path, &mut file)?;
            }
        }
        Ok(())
    }

    fn add_watch(&mut self, folder: &Path) -> io::Result<()> {
        let events = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DONT_FOLLOW
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(&self.inotify, self.real(folder), events)?;
        self.watched.insert(watch, folder.to_owned());
        Ok(())
    }

    fn say(&self, step: FileOp) -> Result<(), Stop> {
        if (self.sink)(step) {
            Ok(())
        } else {
            Err(Stop::Unwanted)
        }
    }

    fn real(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

fn hash(file: &mut File) -> io::Result<u64> {
    let mut hash = DefaultHasher::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finish()),
            count => hash.write(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::deadline::Deadline;

    /// What the host would have after the verb did this below its root, with the output `/out`.
    fn carried(before: impl FnOnce(&Path), verb: impl FnOnce(&Path)) -> BTreeMap<String, String> {
        let _in_time = Deadline::set();
        let root = tempfile::tempdir().unwrap();
        before(root.path());
        let (sink, steps) = mpsc::channel();
        let sink = Box::new(move |step| sink.send(step).is_ok());
        let window = Arc::new(Window::new());
        let outputs =
            Outputs::watch(root.path().to_owned(), vec!["/out".into()], window, sink).unwrap();
        let (ended, ends) = io::pipe().unwrap();
        let follower = thread::spawn(move || outputs.follow(&ended));
        verb(root.path());
        drop(ends);
        follower.join().unwrap().unwrap();
        let mut names = HashMap::new();
        let mut tree = BTreeMap::new();
        for step in steps {
            match step {
                FileOp::Folder { path, .. } => {
                    tree.insert(path.into_string().unwrap(), "/".to_owned());
                }
                FileOp::Open { file, path, .. } => {
                    let path = path.into_string().unwrap();
                    tree.insert(path.clone(), String::new());
                    names.insert(file, path);
                }
                FileOp::Append { file, bytes } => {
                    tree.get_mut(&names[&file])
                        .unwrap()
                        .push_str(std::str::from_utf8(&bytes).unwrap());
                }
                FileOp::Remove { path } => {
                    tree.remove(path.to_str().unwrap()).unwrap();
                }
            }
        }
        tree
    }

    fn tree(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(path, content)| ((*path).to_owned(), (*content).to_owned()))
            .collect()
    }

    #[test]
    fn a_file_that_grows_arrives_whole() {
        let have = carried(
            |_| {},
            |root| {
                let mut file = File::create(root.join("out")).unwrap();
                for _ in 0..1000 {
                    file.write_all(b"line\n").unwrap();
                }
                fs::write(root.join("other"), "not declared").unwrap();
            },
        );
        assert_eq!(have, tree(&[("/out", &"line\n".repeat(1000))]));
    }

    #[test]
    fn a_change_in_the_middle_and_a_shorter_file_are_sent_again() {
        let have = carried(
            |_| {},
            |root| {
                fs::create_dir(root.join("out")).unwrap();
                let mut file = File::create(root.join("out/patched")).unwrap();
                file.write_all(b"0000 tail").unwrap();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.write_all(b"head").unwrap();
                fs::write(root.join("out/cut"), "long text").unwrap();
                fs::write(root.join("out/cut"), "text").unwrap();
            },
        );
        assert_eq!(
            have,
            tree(&[
                ("/out", "/"),
                ("/out/cut", "text"),
                ("/out/patched", "head tail")
            ])
        );
    }

    #[test]
    fn what_was_there_and_stays_untouched_is_not_carried_but_truncating_it_is() {
        let put = |root: &Path| fs::write(root.join("out"), "").unwrap();
        assert_eq!(carried(put, |_| {}), tree(&[]));
        assert_eq!(
            carried(put, |root| drop(File::create(root.join("out")).unwrap())),
            tree(&[("/out", "")])
        );
    }

    #[test]
    fn folders_renames_and_removals_are_followed() {
        let have = carried(
            |_| {},
            |root| {
                fs::create_dir_all(root.join("out/a/b")).unwrap();
                fs::write(root.join("out/a/b/part"), "whole").unwrap();
                fs::rename(root.join("out/a/b/part"), root.join("out/a/done")).unwrap();
                fs::write(root.join("out/scratch"), "x").unwrap();
                fs::remove_file(root.join("out/scratch")).unwrap();
                fs::rename(root.join("out/a"), root.join("out/c")).unwrap();
            },
        );
        assert_eq!(
            have,
            tree(&[
                ("/out", "/"),
                ("/out/c", "/"),
                ("/out/c/b", "/"),
                ("/out/c/done", "whole")
            ])
        );
    }
}
