//! The first process of the lab: mounts what a Linux system has, starts the agent and waits for it, and for every orphan.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::{Pid, WaitOptions, getpid, wait};
use rustix::system::{RebootCommand, reboot};

use super::agent::{self, Grounds};

/// The only port of the lab's virtio-serial device: QEMU gives number 0 to consoles only.
const PORT: &str = "vport0p1";

const GROUPS: &str = "/sys/fs/cgroup";
/// What verbs read and write lies on the root file system, where the kernel puts the contents that come with it.
const FOLDER: &str = "/run/lab";
/// The agent's store in that folder.
pub(super) const STORE: &str = "/run/lab/store";

/// Why the lab's own programs ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mount, a folder, a link.
    #[error("cannot prepare {what}: {source}")]
    Prepare {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The agent.
    #[error("cannot run the agent: {0}")]
    Run(io::Error),
    /// The port to the host.
    #[error("the port {PORT}: {0}")]
    Port(io::Error),
    /// What the agent says.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// What the agent says.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct AgentError(#[from] agent::Error);

/// `vmm lab agent`: as PID 1, everything; as its child, the agent alone, whose verbs may use this much memory together. PID 1 does not
/// return.
pub fn main(memory: u64) -> Result<(), Error> {
    if getpid() != Pid::INIT {
        return serve(memory);
    }
    if let Err(error) = init(memory) {
        tracing::error!("{error}");
    }
    // With -no-reboot, or by itself: either ends QEMU.
    reboot(RebootCommand::PowerOff).map_err(|error| Error::Run(error.into()))
}

fn init(memory: u64) -> Result<(), Error> {
    prepare()?;
    // A verb that crashes shall leave a trace in the kernel's log (Documentation/admin-guide/sysctl/debug.rst).
    if let Err(error) = fs::write("/proc/sys/debug/exception-trace", "1") {
        tracing::info!("crashes leave no trace in the log: {error}");
    }
    let agent = Command::new("/proc/self/exe")
        .args(["lab", "agent", &memory.to_string()])
        .spawn()
        .map_err(Error::Run)?;
    let agent = Pid::from_child(&agent);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((process, _))) if process == agent => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::Run(error.into())),
        }
    }
}

/// The file systems and links that programs expect. devtmpfs may be there already (CONFIG_DEVTMPFS_MOUNT counts for disks only).
fn prepare() -> Result<(), Error> {
    let mounts = [
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("devtmpfs", "/dev", ""),
        ("devpts", "/dev/pts", "ptmxmode=0666"),
        ("cgroup2", GROUPS, ""),
        ("tmpfs", "/tmp", ""),
    ];
    for (kind, at, options) in mounts {
        let mounted = fs::create_dir_all(at).and_then(|()| {
            let options = std::ffi::CString::new(options)?;
            Ok(mount(
                kind,
                at,
                kind,
                MountFlags::empty(),
                options.as_c_str(),
            )?)
        });
        mounted.map_err(|source| Error::Prepare {
            what: at.to_owned(),
            source,
        })?;
    }
    // All of the memory, where the kernel allows half of it: what verbs may use is watched over elsewhere.
    mount_remount("/", MountFlags::empty(), c"size=100%").map_err(|error| Error::Prepare {
        what: "/".to_owned(),
        source: error.into(),
    })?;
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    for (target, at) in links {
        symlink(target, at).map_err(|source| Error::Prepare {
            what: at.to_owned(),
            source,
        })?;
    }
    Ok(())
}

fn serve(memory: u64) -> Result<(), Error> {
    let port = port().map_err(Error::Port)?;
    let grounds =
        Grounds::new(Path::new(FOLDER), Some(Path::new(GROUPS)), memory).map_err(AgentError)?;
    let writing = port.try_clone().map_err(Error::Port)?;
    // Without KVM each verb says for itself what it lacks.
    #[cfg(target_arch = "aarch64")]
    let _resident = crate::kvm::Resident::new();
    agent::serve(port, writing, grounds).map_err(AgentError)?;
    Ok(())
}

/// Opens the port, which the kernel may still be about to find.
fn port() -> io::Result<File> {
    let path = Path::new("/dev").join(PORT);
    let inotify = inotify::init(CreateFlags::CLOEXEC)?;
    inotify::add_watch(&inotify, "/dev", WatchFlags::CREATE)?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4 << 10];
    let mut news = inotify::Reader::new(&inotify, &mut buffer);
    loop {
        match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                news.next()?;
            }
            opened => return opened,
        }
    }
}
