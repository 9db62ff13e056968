//! The hierarchy of cgroups of version 2, as far as it is mounted: which cgroup has which number, and who is in it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{CWD, Mode, OFlags, fstat, major, minor, openat};
use vms_core::connection::CgroupId;
use vms_core::process::Pid;

use crate::parse::{CgroupMount, Device, match_below, parse_cgroup_mounts, parse_members};
use crate::procfs::read_whole;

/// Some hundred thousand processes.
const MEMBERS_BYTES: usize = 1024 * 1024;

/// A mounted hierarchy, kept open.
#[derive(Debug)]
pub(crate) struct Cgroups {
    directory: OwnedFd,
    mount: CgroupMount,
}

/// The directory of one cgroup, kept open: it is of that cgroup also when its path becomes another's.
#[derive(Debug)]
pub(crate) struct CgroupDir(OwnedFd);

impl Cgroups {
    /// Opens what is mounted by that `/proc/self/mountinfo`, the one with most in it. `None` where nothing is that can be read.
    pub(crate) fn open(mountinfo: &[u8]) -> Option<Self> {
        let mut mounts = parse_cgroup_mounts(mountinfo);
        mounts.sort_by_key(|mount| mount.root.len());
        mounts.into_iter().find_map(|mount| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = openat(CWD, OsStr::from_bytes(&mount.point), flags, Mode::empty()).ok()?;
            // Something else can be mounted over it.
            (device_of(&directory)? == mount.device).then_some(Self { directory, mount })
        })
    }

    /// The cgroup with that path in a `/proc/PID/cgroup`, and its number, which the root has not. `None` where it is not
    /// within what is mounted, or gone.
    pub(crate) fn directory(&self, path: &[u8]) -> Option<(CgroupId, CgroupDir)> {
        let below = match match_below(&self.mount.root, path)? {
            [] => b".",
            below => below,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&self.directory, OsStr::from_bytes(below), flags, Mode::empty()).ok()?;
        let stat = fstat(&directory).ok()?;
        if (Device { major: major(stat.st_dev), minor: minor(stat.st_dev) }) != self.mount.device {
            return None;
        }
        Some((CgroupId::new(stat.st_ino)?, CgroupDir(directory)))
    }
}

impl CgroupDir {
    /// All processes in it. `None` where they cannot all be told: one has no number in the agent's PID namespace, there are
    /// too many, or the cgroup is of threads (`EOPNOTSUPP`), so that a process can be in several.
    pub(crate) fn read_members(&self) -> Option<Vec<Pid>> {
        parse_members(&read_whole(&self.0, "cgroup.procs", MEMBERS_BYTES).ok()??)
    }
}

fn device_of(directory: &OwnedFd) -> Option<Device> {
    let device = fstat(directory).ok()?.st_dev;
    Some(Device { major: major(device), minor: minor(device) })
}

#[cfg(test)]
mod tests;
