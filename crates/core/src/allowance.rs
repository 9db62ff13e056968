//! How much time one cycle's looks may take, whatever the users of the host do.
//!
//! [`crate::budget`] says how often walks are made that need not be; this says when one that has to be is broken off.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use crate::adapter::Clock;

/// The part of its interval for which a cycle may keep a processor busy with looks: one in so many.
const SHARE: u32 = 4;

/// The part of its interval after which a cycle's looks are broken off, however little of that they had a processor.
const ELAPSED_SHARE: (u32, u32) = (3, 4);

/// What looks may take at least, for probes that are measured in less than two seconds: on a host with 500,000
/// connections and 20,000 processes, that is a walk and most of a first reading of all names.
const LEAST: Duration = Duration::from_millis(500);

/// What looks may take at most, however seldom a probe is measured.
const MOST: Duration = Duration::from_secs(4);

/// How many units of work may be done between two readings of the clocks. A reading takes 0.3 us, a unit some 1 us.
const UNITS_A_READING: u32 = 1_024;

/// Time for a search. It is asked after each piece of work, and reads the clocks now and then.
pub struct Allowance<'a> {
    limit: Option<Limit<'a>>,
    /// Whether there are only these units.
    is_counted: bool,
    /// Units until the clocks are read again.
    units: Cell<u32>,
    spent: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Limit<'a> {
    clock: &'a dyn Clock,
    began: (Duration, Duration),
    cpu: Duration,
    elapsed: Duration,
}

impl Allowance<'_> {
    /// For whoever may take as long as it takes.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self { limit: None, is_counted: false, units: Cell::new(0), spent: Cell::new(false) }
    }

    /// For work that is bounded by its amount.
    #[must_use]
    pub const fn of_units(units: u32) -> Self {
        Self { limit: None, is_counted: true, units: Cell::new(units), spent: Cell::new(false) }
    }
}

impl<'a> Allowance<'a> {
    /// What the looks of a cycle may take, from now on, that measures probes with this interval and longer ones.
    #[must_use]
    pub fn of_interval(interval: Duration, clock: &'a dyn Clock) -> Self {
        let cpu = (interval / SHARE).clamp(LEAST, MOST);
        let (part, whole) = ELAPSED_SHARE;
        let elapsed = (interval / whole * part).max(LEAST / 2 * part);
        Self::new(cpu, elapsed, clock)
    }

    fn new(cpu: Duration, elapsed: Duration, clock: &'a dyn Clock) -> Self {
        let limit = Limit { clock, began: (clock.cpu(), clock.monotonic()), cpu, elapsed };
        Self { limit: Some(limit), ..Self::unlimited() }
    }

    /// The rest of it, and half of the whole where less is left: a search that follows on a costly dump has to get on.
    #[must_use]
    pub fn for_search(&self) -> Self {
        let Some(limit) = self.limit else {
            return Self::unlimited();
        };
        let (cpu, elapsed) = limit.used();
        let left = |whole: Duration, used: Duration| whole.saturating_sub(used).max(whole / 2);
        // Time that passes is not to be had twice: what is left of it is a quarter at least.
        let elapsed = limit.elapsed.saturating_sub(elapsed).max(limit.elapsed / 4);
        Self::new(left(limit.cpu, cpu), elapsed, limit.clock)
    }

    /// A part of what is left, as 1 in `parts`.
    #[must_use]
    pub fn part(&self, parts: u32) -> Self {
        let parts = parts.max(1);
        if self.is_counted {
            return Allowance { limit: None, ..Self::of_units(self.units.get() / parts) };
        }
        let Some(limit) = self.limit else {
            return Self::unlimited();
        };
        let (cpu, elapsed) = limit.used();
        let left = |whole: Duration, used: Duration| whole.saturating_sub(used) / parts;
        Self::new(left(limit.cpu, cpu), left(limit.elapsed, elapsed), limit.clock)
    }

    /// Takes in that so many units of work were done, of some microsecond each, and tells whether no time is left for more.
    pub fn is_spent_after(&self, units: u32) -> bool {
        match self.units.get().checked_sub(units) {
            Some(left) => {
                self.units.set(left);
                self.spent.get()
            }
            None if self.is_counted => {
                self.spent.set(true);
                true
            }
            None => self.is_spent(),
        }
    }

    /// Whether no time is left, by the clocks.
    pub fn is_spent(&self) -> bool {
        if self.is_counted {
            return self.spent.get();
        }
        self.units.set(UNITS_A_READING);
        if let Some(limit) = &self.limit
            && !self.spent.get()
        {
            let (cpu, elapsed) = limit.used();
            self.spent.set(cpu >= limit.cpu || elapsed >= limit.elapsed);
        }
        self.spent.get()
    }
}

impl Limit<'_> {
    /// CPU time, and time.
    fn used(&self) -> (Duration, Duration) {
        let (cpu, at) = self.began;
        (self.clock.cpu().saturating_sub(cpu), self.clock.monotonic().saturating_sub(at))
    }
}

impl fmt::Debug for Allowance<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit.map(|limit| (limit.cpu, limit.elapsed));
        formatter
            .debug_struct("Allowance")
            .field("limit", &limit)
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
