//! What the processes use that a probe counts: memory as of now, and CPU time over time.
//!
//! The CPU time of a set of processes that begin and end is no sum of what each has used: that would fall whenever one ends, and
//! jump when one begins to fit that is old. What is summed up is what each has added since it was first seen to fit.

use std::time::Duration;

use crate::process::ProcessUsage;

/// To what the kernel tells when a process started: the length of its clock tick, `1 / USER_HZ`.
const TICK: Duration = Duration::from_millis(10);

/// What processes use together, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The CPU time that each has used since it started, in user mode.
    pub user: Duration,
    /// The same in the kernel.
    pub system: Duration,
    /// Resident memory. What several share is counted for each.
    pub resident_bytes: u64,
    /// The address spaces.
    pub virtual_bytes: u64,
}

impl<'a> FromIterator<&'a ProcessUsage> for Usage {
    fn from_iter<I: IntoIterator<Item = &'a ProcessUsage>>(processes: I) -> Self {
        processes.into_iter().fold(Self::default(), |sum, process| Self {
            user: sum.user.saturating_add(process.user),
            system: sum.system.saturating_add(process.system),
            resident_bytes: sum.resident_bytes.saturating_add(process.resident_bytes),
            virtual_bytes: sum.virtual_bytes.saturating_add(process.virtual_bytes),
        })
    }
}

/// CPU time by mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CpuTime {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

/// Adds up what processes use from look to look.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// The processes of the last look that told of them, sorted, each with the most CPU time that was ever told of it.
    known: Vec<ProcessUsage>,
    /// When that look began.
    looked_at: Option<Duration>,
    /// What was used since the first look. It never goes backwards.
    total: CpuTime,
    /// What is used now; `None` where the last look did not tell.
    present: Option<Usage>,
}

impl Meter {
    /// What was used since the first look that told.
    pub(crate) fn total(&self) -> CpuTime {
        self.total
    }

    /// What is used as of the last look; `None` where that did not tell.
    pub(crate) fn present(&self) -> Option<Usage> {
        self.present
    }

    /// Takes in what a look told that began then; `None` where it could not tell of each process.
    pub(crate) fn take_in(&mut self, processes: Option<&[ProcessUsage]>, began: Duration) {
        self.present = processes.map(|processes| processes.iter().collect());
        let Some(processes) = processes else { return };
        let mut processes = processes.to_vec();
        processes.sort_unstable_by_key(|process| process.pid);
        for process in &mut processes {
            let before = self.before(process);
            // The kernel sees to it that neither falls; where one did, it counts again when it is more than it ever was.
            process.user = process.user.max(before.user);
            process.system = process.system.max(before.system);
            self.total.user = self.total.user.saturating_add(process.user.saturating_sub(before.user));
            self.total.system =
                self.total.system.saturating_add(process.system.saturating_sub(before.system));
        }
        self.known = processes;
        self.looked_at = Some(began);
    }

    /// What of the CPU time of that process does not count any more, or does not at all.
    fn before(&self, process: &ProcessUsage) -> CpuTime {
        let known = self.known.binary_search_by_key(&process.pid, |known| known.pid);
        let known = known.ok().and_then(|place| self.known.get(place));
        match known.filter(|known| known.started == process.started) {
            Some(known) => CpuTime { user: known.user, system: known.system },
            // Younger than the last look: all that it ever used is new. That look saw none that began after it did.
            None if self
                .looked_at
                .is_some_and(|looked_at| process.started.saturating_add(TICK) > looked_at) =>
            {
                CpuTime::default()
            }
            // It ran before it was first seen to fit: how much it used until now is not told.
            None => CpuTime { user: process.user, system: process.system },
        }
    }
}

#[cfg(test)]
mod tests;
