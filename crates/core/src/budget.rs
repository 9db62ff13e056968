//! How much CPU time walks over all sockets may take.

use std::time::Duration;

const NANOS_A_SECOND: u32 = 1_000_000_000;

/// A part of one core's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuShare {
    nanos_a_second: u32,
}

impl CpuShare {
    /// Half a percent: what a walk over some ten thousand sockets takes once a second.
    pub const DEFAULT: Self = Self { nanos_a_second: NANOS_A_SECOND / 200 };

    /// The share that is so many parts of a million, at most the whole core.
    #[must_use]
    pub const fn from_parts_per_million(parts: u32) -> Self {
        let parts = if parts > 1_000_000 { 1_000_000 } else { parts };
        Self { nanos_a_second: parts * (NANOS_A_SECOND / 1_000_000) }
    }

    /// The share in parts of a million.
    #[must_use]
    pub const fn parts_per_million(self) -> u32 {
        self.nanos_a_second / (NANOS_A_SECOND / 1_000_000)
    }

    /// What the share is of a time.
    #[must_use]
    pub fn of(self, time: Duration) -> Duration {
        let nanos = time.as_nanos().saturating_mul(self.nanos_a_second.into()) / u128::from(NANOS_A_SECOND);
        Duration::from_nanos_u128(nanos)
    }
}

impl Default for CpuShare {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// An account of CPU time: it earns a share of the time that passes, and pays for walks what they took.
///
/// A walk may begin whenever something is left, and costs what it turns out to cost: an expensive one leaves a debt, and
/// the next waits until that is earned. So the share holds on average, as long as a walk costs less than the share of a
/// minute.
#[derive(Debug, Clone)]
pub struct Budget {
    share: CpuShare,
    saved: Duration,
    owed: Duration,
    at: Duration,
}

/// Time in which any debt is earned; what goes beyond is forgiven. Links are looked for once in that time whatever it costs
/// ([`crate::monitor::WALK_BOUND`]), so a longer debt would only outlast what caused it.
const MAX_OWED: Duration = Duration::from_mins(1);

/// Time whose share may be saved up, so that an idle while does not pay for a burst of walks.
const MAX_SAVED: Duration = Duration::from_secs(10);

impl Budget {
    /// An empty account at the moment `now`, on a clock that never goes backwards.
    #[must_use]
    pub fn new(share: CpuShare, now: Duration) -> Self {
        Self { share, saved: Duration::ZERO, owed: Duration::ZERO, at: now }
    }

    /// Puts another share in force, from now on.
    pub fn set_share(&mut self, share: CpuShare) {
        self.share = share;
    }

    /// Whether a walk may begin.
    pub fn allows(&mut self, now: Duration) -> bool {
        self.earn(now);
        self.saved > Duration::ZERO
    }

    /// Pays for a walk that took that much CPU time.
    pub fn pay(&mut self, cost: Duration) {
        let rest = cost.saturating_sub(self.saved);
        self.saved = self.saved.saturating_sub(cost);
        self.owed = (self.owed + rest).min(self.share.of(MAX_OWED));
    }

    fn earn(&mut self, now: Duration) {
        let earned = self.share.of(now.saturating_sub(self.at));
        self.at = self.at.max(now);
        let rest = earned.saturating_sub(self.owed);
        self.owed = self.owed.saturating_sub(earned);
        self.saved = (self.saved + rest).min(self.share.of(MAX_SAVED));
    }
}

#[cfg(test)]
mod tests;
