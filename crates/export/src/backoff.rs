//! How long to wait before the next attempt.

use std::time::Duration;

use crate::config::Backoff;

/// No wait is longer, whatever was configured or asked: a collector with a broken clock or a mistyped
/// `Retry-After` must not silence a host for good.
pub(crate) const MAX_WAIT: Duration = Duration::from_hours(1);

/// The resolution of the jitter.
pub(crate) const JITTER_STEPS: u32 = 1000;

/// The wait after so many `failures` in a row, the first being 1.
///
/// It doubles from the first to the largest, and lies in the upper half of that, so that a fleet which lost its
/// collector does not come back in step. A collector that asked for more gets that and up to a tenth on top.
/// `jitter`, from 0 to [`JITTER_STEPS`], is chance.
pub(crate) fn wait(backoff: Backoff, failures: u32, asked: Option<Duration>, jitter: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let longest = backoff.initial.saturating_mul(1 << doublings).min(backoff.max).min(MAX_WAIT);
    let half = longest / 2;
    let own = half + half / JITTER_STEPS * jitter;
    let asked = asked.unwrap_or_default().min(MAX_WAIT);
    if asked > own { asked + asked / (10 * JITTER_STEPS) * jitter } else { own }
}

#[cfg(test)]
mod tests;
