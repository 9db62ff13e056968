//! Control groups, under the names that container engines give them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::peer::Peer;

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A control group; gone when dropped, by when what was in it has to have ended.
#[derive(Debug)]
pub struct ContainerGroup {
    /// What was made, outermost first.
    made: Vec<PathBuf>,
}

impl ContainerGroup {
    /// A group of that path, below one of its own.
    #[must_use]
    #[track_caller]
    pub fn new(path: &str) -> Self {
        let serial = SERIAL.fetch_add(1, Ordering::SeqCst);
        let mut place = hierarchy().join(format!("vmst-{}-{serial}", std::process::id()));
        let mut made = Vec::new();
        for name in ["", path].into_iter().flat_map(|part| part.split('/')) {
            if !name.is_empty() {
                place.push(name);
            }
            if !place.exists() {
                fs::create_dir(&place).expect("root may make control groups");
                made.push(place.clone());
            }
        }
        Self { made }
    }

    /// Puts a program into it.
    #[track_caller]
    pub fn admit(&self, peer: &Peer) {
        let group = self.made.last().expect("at least one was made");
        fs::write(group.join("cgroup.procs"), peer.machine_pid().to_string())
            .expect("root may move processes");
    }
}

impl Drop for ContainerGroup {
    fn drop(&mut self) {
        for group in self.made.iter().rev() {
            // What was in it may still be dying.
            for _attempt in 0..50 {
                if fs::remove_dir(group).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Where a hierarchy is mounted that is not for a resource: that of cgroup v2, or systemd's.
#[track_caller]
fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let mount = |fits: fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            fits(words.get(2)?, words.get(3)?).then(|| Path::new(words[1]).to_owned())
        })
    };
    mount(|kind, _| kind == "cgroup2")
        .or_else(|| mount(|kind, options| kind == "cgroup" && options.contains("name=systemd")))
        .expect("control groups are mounted")
}
