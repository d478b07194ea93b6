//! The file systems that every program expects.

use rustix::mount::{MountFlags, mount};

use crate::Error;

/// Kind, mount point, flags. The mount points are folders of the initramfs.
const ALL: [(&str, &str, MountFlags); 5] = [
    ("proc", "/proc", NO_PROGRAMS),
    ("sysfs", "/sys", NO_PROGRAMS),
    // The initramfs has no device nodes but the /dev/console that every kernel brings along: the kernel fills this one.
    (
        "devtmpfs",
        "/dev",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
    ),
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV)),
    ("tmpfs", "/tmp", MountFlags::NOSUID.union(MountFlags::NODEV)),
];

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Mounts them in order.
pub(crate) fn mount_all() -> Result<(), Error> {
    ALL.into_iter()
        .try_for_each(|(kind, target, flags)| one(kind, target, flags))
}

/// Mounts where the kernel's own tests are. Its mount point is a folder of sysfs, which a kernel without debugfs lacks.
pub(crate) fn debugfs() -> Result<(), Error> {
    one("debugfs", "/sys/kernel/debug", NO_PROGRAMS)
}

fn one(kind: &'static str, target: &'static str, flags: MountFlags) -> Result<(), Error> {
    mount(kind, target, kind, flags, None).map_err(|source| Error::Mount {
        kind,
        target,
        source,
    })
}
