//! The hierarchy of cgroups of version 2, as far as it is mounted: which cgroup has which number, and who is in it.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, fstat, major, minor, openat};
use vms_core::allowance::Allowance;
use vms_core::connection::CgroupId;
use vms_core::process::Pid;

use crate::parse::{Device, parse_cgroup_mounts, parse_members};
use crate::procfs::read_whole;

/// Some hundred thousand processes.
const MEMBERS_BYTES: usize = 1024 * 1024;

/// Cgroups that one search looks at. Users can make any number where some are delegated to them.
const MAX_CGROUPS: usize = 16_384;

/// Bytes of the paths of cgroups that are still to be looked at. A path can have 4 KiB.
const MAX_PATH_BYTES: usize = 1024 * 1024;

/// What it takes to look at one, in units of an allowance.
const UNITS_A_CGROUP: u32 = 8;

/// A mounted hierarchy, kept open.
#[derive(Debug)]
pub(crate) struct Cgroups {
    root: OwnedFd,
    device: Device,
    /// Whether it has all that the agent's cgroup namespace has, and more.
    leads_out: bool,
}

/// The directory of one cgroup, kept open: it stays that cgroup's, also when another gets its name.
#[derive(Debug)]
pub(crate) struct CgroupDir(OwnedFd);

impl Cgroups {
    /// Opens what is mounted by that `/proc/self/mountinfo`, the one with most in it. `None` where nothing is that can be read.
    pub(crate) fn open(mountinfo: &[u8]) -> Option<Self> {
        let mut mounts = parse_cgroup_mounts(mountinfo);
        // One that was made outside of the namespace leads upward from the namespace's root, and shows more the further it does.
        let levels = |root: &[u8]| root.split(|byte| *byte == b'/').filter(|name| *name == b"..").count();
        mounts.sort_by_key(|mount| (usize::MAX - levels(&mount.root), mount.root.len()));
        mounts.into_iter().find_map(|mount| {
            let root = openat(CWD, OsStr::from_bytes(&mount.point), DIRECTORY, Mode::empty()).ok()?;
            // Something else can be mounted over it.
            let leads_out = levels(&mount.root) > 0;
            (device_of(&root)? == mount.device).then_some(Self { root, device: mount.device, leads_out })
        })
    }

    /// Whether what is mounted has cgroups that are in none of the agent's cgroup namespace.
    pub(crate) fn leads_out(&self) -> bool {
        self.leads_out
    }

    /// Searches for the cgroups with these numbers, those near the root first. What is not found is not mounted, or gone, or
    /// there was no time.
    pub(crate) fn find(
        &self,
        wanted: &BTreeSet<CgroupId>,
        scratch: &mut Vec<u8>,
        allowance: &Allowance<'_>,
    ) -> Vec<(CgroupId, CgroupDir)> {
        let mut found = Vec::new();
        let mut listed = 1;
        let mut todo = VecDeque::from([b".".to_vec()]);
        let mut queued_bytes = 0;
        while let Some(path) = todo.pop_front() {
            queued_bytes -= path.len().min(queued_bytes);
            if found.len() == wanted.len() || allowance.is_spent_after(UNITS_A_CGROUP) {
                break;
            }
            let Ok(directory) = openat(&self.root, OsStr::from_bytes(&path), DIRECTORY, Mode::empty()) else {
                continue;
            };
            let Ok(stat) = fstat(&directory) else { continue };
            if (Device { major: major(stat.st_dev), minor: minor(stat.st_dev) }) != self.device {
                continue;
            }
            let mut entries = RawDir::new(&directory, scratch.spare_capacity_mut());
            while let Some(Ok(entry)) = entries.next() {
                let name = entry.file_name().to_bytes();
                let is_below = entry.file_type() == FileType::Directory && name != b"." && name != b"..";
                if is_below && listed < MAX_CGROUPS && queued_bytes < MAX_PATH_BYTES {
                    let path = [&path, name].join(&b'/');
                    listed += 1;
                    queued_bytes += path.len();
                    todo.push_back(path);
                }
            }
            let cgroup = CgroupId::new(stat.st_ino).filter(|cgroup| wanted.contains(cgroup));
            found.extend(cgroup.map(|cgroup| (cgroup, CgroupDir(directory))));
        }
        found
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

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
