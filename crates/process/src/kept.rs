//! Where sockets were found the last time: what to look at first, and never what to believe.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use vms_core::connection::Inode;
use vms_core::process::{PatternId, Pid};

/// A descriptor at which a socket was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) pid: Pid,
    pub(crate) descriptor: u32,
}

/// For each socket, descriptors that together settled what was asked about it.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    by_inode: HashMap<Inode, Vec<Hint>>,
}

/// How many hints of sockets that were not asked for this time are kept. Probes with longer intervals ask for
/// theirs less often; beyond this many, most are of sockets that are gone.
const MAX_IDLE: usize = 4096;

impl Hints {
    /// Where to look for these sockets, by process.
    pub(crate) fn of_wanted(
        &self,
        wanted: &BTreeMap<Inode, BTreeSet<PatternId>>,
    ) -> BTreeMap<Pid, Vec<(Inode, u32)>> {
        let mut places: BTreeMap<Pid, Vec<(Inode, u32)>> = BTreeMap::new();
        for inode in wanted.keys() {
            for hint in self.by_inode.get(inode).into_iter().flatten() {
                places.entry(hint.pid).or_default().push((*inode, hint.descriptor));
            }
        }
        places
    }

    /// Every process that held one of the sockets remembered.
    pub(crate) fn pids(&self) -> BTreeSet<Pid> {
        self.by_inode.values().flatten().map(|hint| hint.pid).collect()
    }

    /// Takes in what was found this time, and forgets what was asked for and not found.
    pub(crate) fn renew(
        &mut self,
        wanted: &BTreeMap<Inode, BTreeSet<PatternId>>,
        found: HashMap<Inode, Vec<Hint>>,
    ) {
        self.by_inode.retain(|inode, _| !wanted.contains_key(inode));
        if self.by_inode.len() > MAX_IDLE {
            self.by_inode.clear();
        }
        self.by_inode.extend(found);
    }
}

#[cfg(test)]
mod tests;
