//! Cgroups of version 2, made by tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::peer::Peer;

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A cgroup; gone when dropped, with all processes that are in it.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A new one, without processes.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::make().expect("cgroups can be made: needs!(Need::Cgroups)")
    }

    /// Whether one can be made here.
    #[must_use]
    pub fn can_be_made() -> bool {
        Self::make().is_some()
    }

    /// Where the hierarchy is mounted.
    #[must_use]
    pub fn mount() -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        mounts.find(|fields| fields.get(2) == Some(&"cgroup2")).map(|fields| PathBuf::from(fields[1]))
    }

    fn make() -> Option<Self> {
        Self::make_in(&Self::mount()?)
    }

    /// A new one below this one.
    #[must_use]
    #[track_caller]
    pub fn below(&self) -> Self {
        Self::make_in(&self.0).expect("a cgroup without processes can be divided")
    }

    fn make_in(parent: &Path) -> Option<Self> {
        let serial = SERIAL.fetch_add(1, Ordering::SeqCst);
        let path = parent.join(format!("vmst-{}-{serial}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves a program into it: what sockets it makes from now on are made there.
    #[track_caller]
    pub fn take_in(&self, peer: &Peer) {
        self.take_in_process(peer.machine_pid());
    }

    /// Moves a process into it, by its number on the machine.
    #[track_caller]
    pub fn take_in_process(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("root may move processes");
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Since Linux 5.14; before that, the programs of the test are ended by those who started them.
        let _killed_or_not = fs::write(self.0.join("cgroup.kill"), "1");
        for _attempt in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
