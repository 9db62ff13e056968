//! When the next request may be sent from the spool: a collector that has just come back is not flooded.

use std::time::Duration;

use tokio::time::Instant;

/// The pause with which replaying begins, after an outage and after the start.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The pace of replaying.
#[derive(Debug)]
pub(crate) struct Pace {
    least: Duration,
    pause: Duration,
    next: Instant,
    /// Nothing has got through since the last failure.
    is_failing: bool,
}

impl Pace {
    /// Begins with the longest pause.
    pub(crate) fn new(least: Duration, now: Instant) -> Self {
        let pause = FIRST_PAUSE.max(least);
        Self { least, pause, next: now + pause, is_failing: false }
    }

    /// From when on a request may be sent from the spool.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// A request got through, after `took`. Each that came from the spool halves the pause, down to the least; none is
    /// shorter than the time that the request before it took, so that replaying takes at most half of a collector's time.
    pub(crate) fn succeeded(&mut self, was_replayed: bool, took: Duration, now: Instant) {
        if was_replayed {
            self.pause = (self.pause / 2).max(self.least);
            self.next = now + self.pause.max(took);
        } else if self.is_failing {
            self.next = now + self.pause.max(took);
        }
        self.is_failing = false;
    }

    /// A request failed. The wait before the next attempt goes before any pause; what may be tried then is one request.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.pause = FIRST_PAUSE.max(self.least);
        self.next = now;
        self.is_failing = true;
    }

    /// Another least pause from now on.
    pub(crate) fn set_least(&mut self, least: Duration) {
        self.least = least;
        self.pause = self.pause.max(least);
    }
}

#[cfg(test)]
mod tests;
