//! Sockets in other network namespaces: how they are opened, and how the thread comes back.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use vms_netlink::Place;

/// The network namespace to which the thread belongs that opens sockets.
#[derive(Debug)]
pub(crate) struct Home {
    own: OwnedFd,
    /// Whether the thread could not come back.
    is_away: AtomicBool,
}

/// Another network namespace, and the way back.
#[derive(Debug)]
pub(crate) struct Abroad {
    pub(crate) home: Arc<Home>,
    pub(crate) there: Arc<OwnedFd>,
}

impl Home {
    /// That of the calling thread.
    pub(crate) fn open(proc_root: &Path) -> Result<Self, Errno> {
        let own = File::open(proc_root.join("thread-self/ns/net"))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(Self { own: own.into(), is_away: AtomicBool::new(false) })
    }

    /// Brings the thread back, should it still be away: what it opens in another namespace would tell of that one.
    pub(crate) fn come_back(&self) -> Result<(), Errno> {
        if self.is_away.load(Ordering::Relaxed) {
            enter(&self.own)?;
            self.is_away.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Place for Abroad {
    /// The thread is back afterwards, or nothing is done any more until it is.
    fn visit<T>(&self, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        self.home.come_back()?;
        enter(&self.there)?;
        self.home.is_away.store(true, Ordering::Relaxed);
        let outcome = act();
        self.home.come_back()?;
        outcome
    }
}

/// Whether the calling thread may enter network namespaces, tried with the one in which it is.
///
/// Of one that belongs to another user namespace that says nothing.
#[must_use]
pub fn may_enter_namespaces(proc_root: &Path) -> bool {
    Home::open(proc_root).is_ok_and(|home| enter(&home.own).is_ok())
}

/// Takes `CAP_SYS_ADMIN` in the user namespaces of both, the thread's and the other's (`netns_install` in
/// `net/core/net_namespace.c`).
fn enter(namespace: &OwnedFd) -> Result<(), Errno> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}

#[cfg(test)]
mod tests;
