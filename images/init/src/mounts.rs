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
    for (kind, target, flags) in ALL {
        mount(kind, target, kind, flags, None).map_err(|source| Error::Mount {
            kind,
            target,
            source,
        })?;
    }
    Ok(())
}
