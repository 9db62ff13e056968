//! What the names of all processes fitted when they were read last, so that they need not be read each time.
//!
//! An entry is as old as its process is to the reader: who is young (has just forked, and will exec) is read again at the
//! next call, and then at ever longer intervals, up to a bound. The listing tells of a process by its number and the
//! inode of its directory, which the kernel gives anew to each process: a number that was given to another is a new entry.
//! Where it is not told apart (another file system stands in for /proc), it is like a process that was renamed.
//!
//! That an entry is old is never a reason to miss the holder of a socket: see `conclusions`.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use vms_core::process::{PatternId, Pid};

use crate::ledger::Holder;
use crate::network::Whereabouts;
use crate::procfs::Listed;

/// How old an entry may be: how late a census or a count tells of a process that was there before and was renamed, or
/// replaced its program.
pub(crate) const NAMES_TABLE_BOUND: Duration = Duration::from_mins(1);

/// The processes of the last listing.
#[derive(Debug, Default)]
pub(crate) struct NameTable {
    entries: HashMap<Pid, Entry>,
    /// Whether processes were listed before: those of the first listing are not young.
    has_begun: bool,
}

/// One process. Small: there can be tens of thousands.
#[derive(Debug)]
struct Entry {
    /// Of its directory.
    inode: u64,
    /// When it was first listed; `None` when it was there before the reader.
    first_seen: Option<Duration>,
    /// When its names have to be read again.
    due: Duration,
    names: Remembered,
}

/// What names fitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// They were not read yet.
    Unread,
    /// They could not all be read: it might fit any pattern.
    Unclear {
        /// The patterns that they fitted all the same. `None` where it does not fit just any other: that is not remembered.
        certain: Option<Box<[PatternId]>>,
    },
    /// They fitted these patterns, and no others.
    Fitted {
        /// The patterns; for most processes none.
        patterns: Box<[PatternId]>,
        /// Whether it has no descriptors: a part of the kernel, or dead.
        bare: bool,
        /// Where it lived when its names were read.
        whereabouts: Whereabouts,
        /// The inode of its network namespace at that time, where it was told.
        network: Option<NonZeroU32>,
    },
}

impl NameTable {
    /// Takes in which processes there are now, and forgets all others.
    pub(crate) fn list(&mut self, listed: &[Listed], now: Duration) {
        let first_seen = self.has_begun.then_some(now);
        for process in listed {
            let new = || Entry { inode: process.inode, first_seen, due: now, names: Remembered::Unread };
            let entry = self.entries.entry(process.pid).or_insert_with(new);
            if entry.inode != process.inode {
                *entry = new();
            }
        }
        self.has_begun = true;
        if self.entries.len() > listed.len() {
            let is_listed = |pid: &Pid| listed.binary_search_by_key(pid, |process| process.pid).is_ok();
            self.entries.retain(|pid, _| is_listed(pid));
        }
    }

    /// What the names of that process fitted, unless they have to be read.
    pub(crate) fn remembered(&self, pid: Pid, now: Duration) -> Option<&Remembered> {
        self.entries.get(&pid).filter(|entry| now < entry.due).map(|entry| &entry.names)
    }

    /// What the names of that process fitted when they were read last, however long ago.
    pub(crate) fn last_read(&self, pid: Pid) -> Option<&Remembered> {
        self.entries.get(&pid).map(|entry| &entry.names)
    }

    /// Takes in what the names of a listed process fit now.
    pub(crate) fn note(&mut self, holder: &Holder, now: Duration) {
        let (pid, fits) = (holder.pid(), holder.fits());
        let Some(entry) = self.entries.get_mut(&pid) else { return };
        let age = entry.first_seen.map_or(NAMES_TABLE_BOUND, |seen| now.saturating_sub(seen));
        entry.due = now.saturating_add(age.min(bound_of(pid)));
        let patterns: Box<[PatternId]> = fits.certain.as_slice().into();
        entry.names = if fits.possible.is_empty() {
            let bare = holder.is_bare();
            Remembered::Fitted { patterns, bare, whereabouts: Whereabouts::Unread, network: None }
        } else {
            Remembered::Unclear { certain: holder.might_fit_any().then_some(patterns) }
        };
    }

    /// Takes in where a listed process lives whose names were read just now.
    pub(crate) fn note_whereabouts(
        &mut self,
        pid: Pid,
        whereabouts: Whereabouts,
        network: Option<NonZeroU32>,
    ) {
        let names = self.entries.get_mut(&pid).map(|entry| &mut entry.names);
        if let Some(Remembered::Fitted { whereabouts: known, network: known_network, .. }) = names {
            (*known, *known_network) = (whereabouts, network);
        }
    }

    /// Takes in that what processes fit has to be worked out again.
    pub(crate) fn forget_fits(&mut self) {
        for entry in self.entries.values_mut() {
            entry.names = Remembered::Unread;
            entry.due = Duration::ZERO;
        }
    }
}

/// The bound for one process, between half the bound and all of it: processes that were read together come due apart.
fn bound_of(pid: Pid) -> Duration {
    // Fibonacci hashing: neighboring numbers end up far from each other.
    let share = pid.0.wrapping_mul(0x9E37_79B9) >> 16;
    let half = NAMES_TABLE_BOUND / 2;
    half + half * share / 0x1_0000
}

#[cfg(test)]
mod tests;
