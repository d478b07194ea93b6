//! What a child does between fork and exec.
//!
//! That moment allows async-signal-safe calls only, so every closure here does nothing but system calls on data that was
//! prepared before the fork.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::Mode;
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::mount_bind_recursive;
use rustix::process::{
    Signal, chdir, chroot, getpid, getppid, ioctl_tiocsctty, set_parent_process_death_signal,
    setsid, umask,
};
use rustix::thread::{
    CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe,
};

/// Has the child killed when its parent dies, puts it into a session of its own (a terminal's Ctrl-C and hang-up pass it by) and
/// lets it inherit descriptors, under the same numbers.
///
/// The kernel takes the *thread* that forks for the parent (prctl(2), PR_SET_PDEATHSIG): spawn from one that outlives the child.
pub(crate) fn tie_to_parent(command: &mut Command, inherited: Vec<OwnedFd>) {
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above; nothing would tell this child then.
        if getppid() != Some(parent) {
            return Err(Errno::SRCH.into());
        }
        setsid()?;
        for descriptor in &inherited {
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: the closure does system calls only and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

/// Where and how a child lives.
pub(crate) struct Surroundings {
    /// `cgroup.procs` of the control group that it joins.
    pub(crate) group: Option<OwnedFd>,
    /// A file tree of its own.
    pub(crate) tree: Option<Tree>,
    /// Its umask.
    pub(crate) umask: u32,
    /// Whether its standard input is a terminal, which then becomes its controlling one.
    pub(crate) terminal: bool,
    /// A descriptor that it inherits under the same number.
    pub(crate) inherited: Option<OwnedFd>,
}

/// What a child takes for the file tree.
pub(crate) struct Tree {
    /// The folder that becomes its root.
    pub(crate) root: CString,
    /// Its working directory, below that root.
    pub(crate) cwd: CString,
    /// Folders that appear in the tree too: where they are, and where they shall be (as the parent sees it).
    pub(crate) mounts: Vec<(CString, CString)>,
}

/// Has the child live in these surroundings, in a session of its own.
///
/// With a tree of its own, root keeps its rights over devices and VMs but loses those over files: a file's mode shall count for the
/// child as it counted for whoever the tree was copied from.
pub(crate) fn surround(command: &mut Command, surroundings: Surroundings) {
    let prepare = move || {
        if let Some(group) = &surroundings.group {
            rustix::io::write(group, b"0")?;
        }
        if let Some(tree) = &surroundings.tree {
            // SAFETY: NEWNS leaves the table of file descriptors shared or not, as it was.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            for (from, to) in &tree.mounts {
                mount_bind_recursive(from, to)?;
            }
            chroot(&tree.root)?;
            chdir(&tree.cwd)?;
            remove_capability_from_bounding_set(CapabilitySet::DAC_OVERRIDE)?;
            remove_capability_from_bounding_set(CapabilitySet::DAC_READ_SEARCH)?;
        }
        umask(Mode::from_raw_mode(surroundings.umask));
        setsid()?;
        if let Some(descriptor) = &surroundings.inherited {
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        if surroundings.terminal {
            ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    };
    // SAFETY: the closure does system calls only and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}
