//! When to look: due-time arithmetic, without a clock of its own.
//!
//! Every entry falls due at the moments that leave the same remainder (the phase) when divided by its interval. So
//! the cadence cannot drift, entries whose intervals divide each other fall due together and share a look, and a
//! fleet whose hosts have different phases does not fire in step.

use std::collections::BTreeMap;
use std::time::Duration;

/// Lateness beyond this part of the interval is counted.
const LATE_PERCENT: u32 = 5;

/// Entries, each with its interval and the next moment at which it is due. Moments are those of a monotonic clock.
#[derive(Debug, Clone)]
pub struct Schedule {
    groups: BTreeMap<Duration, Group>,
}

#[derive(Debug, Clone)]
struct Group {
    entries: Vec<usize>,
    next: Duration,
}

/// What is due now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The entries, by the place of their interval, sorted.
    pub entries: Vec<usize>,
    /// When they were due.
    pub at: Duration,
    /// Whether that is longer ago than 5 % of the shortest interval among them.
    pub late: bool,
    /// How many earlier moments had passed unused. They are not made up for.
    pub skipped: u64,
}

impl Schedule {
    /// Schedules entries with these intervals from `now` on.
    ///
    /// The phase spreads a fleet: any duration, different on each host and the same after a reload, so that the
    /// cadence goes on.
    #[must_use]
    pub fn new(now: Duration, phase: Duration, intervals: impl IntoIterator<Item = Duration>) -> Self {
        let mut groups: BTreeMap<Duration, Group> = BTreeMap::new();
        for (entry, interval) in intervals.into_iter().enumerate() {
            let interval = interval.max(Duration::from_millis(1));
            groups
                .entry(interval)
                .or_insert_with(|| Group { entries: Vec::new(), next: next_after(now, phase, interval) })
                .entries
                .push(entry);
        }
        Self { groups }
    }

    /// The same for other entries, made while this one was in force: what fell due meanwhile is due still.
    #[must_use]
    pub fn remade(
        &self,
        now: Duration,
        phase: Duration,
        intervals: impl IntoIterator<Item = Duration>,
    ) -> Self {
        Self::new(self.next().map_or(now, |next| next.min(now)), phase, intervals)
    }

    /// The next moment at which something is due.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.groups.values().map(|group| group.next).min()
    }

    /// What is due at `now`, and moves it on to its next moment after `now`.
    pub fn take_due(&mut self, now: Duration) -> Option<Due> {
        let mut taken: Option<Due> = None;
        for (interval, group) in &mut self.groups {
            if group.next > now {
                continue;
            }
            let missed = now.saturating_sub(group.next).as_nanos() / interval.as_nanos();
            let at = group.next + multiply(*interval, missed);
            group.next = at + *interval;
            let late = now.saturating_sub(at) > *interval * LATE_PERCENT / 100;
            let due =
                taken.get_or_insert(Due { entries: Vec::new(), at: Duration::ZERO, late: false, skipped: 0 });
            due.entries.extend(&group.entries);
            due.at = due.at.max(at);
            due.late |= late;
            due.skipped += u64::try_from(missed).unwrap_or(u64::MAX);
        }
        if let Some(due) = &mut taken {
            due.entries.sort_unstable();
        }
        taken
    }
}

/// The first moment from `now` on that leaves the phase's remainder.
fn next_after(now: Duration, phase: Duration, interval: Duration) -> Duration {
    let remainder = Duration::from_nanos_u128(phase.as_nanos() % interval.as_nanos());
    if now <= remainder {
        return remainder;
    }
    let whole = now.saturating_sub(remainder).as_nanos().div_ceil(interval.as_nanos());
    remainder + multiply(interval, whole)
}

fn multiply(interval: Duration, times: u128) -> Duration {
    Duration::from_nanos_u128(interval.as_nanos().saturating_mul(times))
}

#[cfg(test)]
mod tests;
