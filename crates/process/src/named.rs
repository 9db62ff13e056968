//! Network namespaces that have names: `ip netns`, and whatever sets up pods, bind each to a file of a directory.
//!
//! Nobody need live there: a process can enter one, make a socket, and go home with it.

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FsWord, Mode, OFlags, RawDir, fstat, fstatfs, openat};
use vms_core::namespace::{Approach, Namespace, NamespaceId};

use crate::procfs::Procfs;

/// Where the names are, on the host: only root can make one (`NETNS_RUN_DIR` of iproute2, and of the CNI plugins).
const DIRECTORY: &str = "run/netns";

/// The type of the file system in which namespaces are files (`NSFS_MAGIC`, `include/uapi/linux/magic.h`).
const NSFS: FsWord = 0x6e73_6673;

/// The namespaces with a name, as many as there is room for, but for those left out. Sorted by id.
pub(crate) fn read_named_namespaces(
    procfs: &Procfs,
    room: usize,
    is_left_out: impl Fn(NonZeroU32) -> bool,
    scratch: &mut Vec<u8>,
) -> Vec<Namespace> {
    let mut named = Vec::new();
    let Some(directory) = procfs.open_host_directory(DIRECTORY) else { return named };
    let mut entries = RawDir::new(&directory, scratch.spare_capacity_mut());
    while named.len() < room
        && let Some(Ok(entry)) = entries.next()
    {
        // A name that was left behind is a plain file; what never answers is not waited for.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(handle) = openat(&directory, entry.file_name(), flags, Mode::empty()) else { continue };
        let Some(inode) = read_inode(&handle) else { continue };
        let id = NamespaceId(inode.get().into());
        if !is_left_out(inode) && !named.iter().any(|known: &Namespace| known.id == id) {
            named.push(Namespace { id, approach: Approach::Enter(Arc::new(handle)) });
        }
    }
    named.sort_unstable_by_key(|namespace| namespace.id);
    named
}

/// The inode of a namespace of whatever kind; `None` where it is of anything else.
fn read_inode(handle: &OwnedFd) -> Option<NonZeroU32> {
    let is_namespace = fstatfs(handle).ok()?.f_type == NSFS;
    let inode = fstat(handle).ok().filter(|_| is_namespace)?.st_ino;
    u32::try_from(inode).ok().and_then(NonZeroU32::new)
}
