//! Network namespaces that have names: `ip netns`, and whatever sets up pods, bind each to a file of a directory.
//!
//! Nobody need live there: a process can enter one, make a socket, and go home with it.

use std::ffi::CString;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FsWord, Mode, OFlags, RawDir, fstat, fstatfs, openat};
use rustix::io::Errno;
use vms_core::namespace::{Approach, Namespace, NamespaceId};

use crate::procfs::Procfs;

/// Where the names are, on the host: only root can make one (`NETNS_RUN_DIR` of iproute2, and of the CNI plugins).
const DIRECTORY: &str = "run/netns";

/// The type of the file system in which namespaces are files (`NSFS_MAGIC`, `include/uapi/linux/magic.h`).
const NSFS: FsWord = 0x6e73_6673;

/// How many names are looked at.
const MAX_NAMES: usize = 16_384;

/// Namespaces that have names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Sorted by id.
    pub(crate) namespaces: Vec<Namespace>,
    /// There are more, for which there was no room.
    pub(crate) are_part: bool,
}

/// The namespaces with a name, as many as there is room for, but for those left out. At another time others come first.
///
/// # Errors
/// When the agent has no descriptors left.
pub(crate) fn read_named_namespaces(
    procfs: &Procfs,
    room: usize,
    now: Duration,
    is_left_out: impl Fn(NonZeroU32) -> bool,
    scratch: &mut Vec<u8>,
) -> Result<Named, Errno> {
    let mut found = Named::default();
    let directory = match procfs.open_host_directory(DIRECTORY) {
        Ok(directory) => directory,
        Err(errno @ (Errno::MFILE | Errno::NFILE)) => return Err(errno),
        // There is none, as before the first pod, or in a container without the right to see the host's.
        Err(_) => return Ok(found),
    };
    let mut names: Vec<CString> = Vec::new();
    let mut entries = RawDir::new(&directory, scratch.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) if names.len() < MAX_NAMES => names.push(entry.file_name().to_owned()),
            Ok(_) | Err(_) => {
                found.are_part = true;
                break;
            }
        }
    }
    let turn = usize::try_from(now.as_secs()).unwrap_or_default();
    let first = turn.checked_rem(names.len()).unwrap_or_default();
    names.rotate_left(first);
    for name in names {
        // A name that was left behind is a plain file; what never answers is not waited for.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let handle = match openat(&directory, &name, flags, Mode::empty()) {
            Ok(handle) => handle,
            Err(errno @ (Errno::MFILE | Errno::NFILE)) => return Err(errno),
            Err(_) => continue,
        };
        let Some(inode) = read_inode(&handle) else { continue };
        let id = NamespaceId(inode.get().into());
        if is_left_out(inode) || found.namespaces.iter().any(|known| known.id == id) {
            continue;
        }
        if found.namespaces.len() >= room {
            found.are_part = true;
            break;
        }
        found.namespaces.push(Namespace { id, approach: Approach::Enter(Arc::new(handle)) });
    }
    found.namespaces.sort_unstable_by_key(|namespace| namespace.id);
    Ok(found)
}

/// The inode of a namespace of whatever kind; `None` where it is of anything else.
fn read_inode(handle: &OwnedFd) -> Option<NonZeroU32> {
    let is_namespace = fstatfs(handle).ok()?.f_type == NSFS;
    let inode = fstat(handle).ok().filter(|_| is_namespace)?.st_ino;
    u32::try_from(inode).ok().and_then(NonZeroU32::new)
}
