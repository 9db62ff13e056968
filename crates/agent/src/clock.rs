//! The time that the agent lives by.

use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use vms_core::Clock;

/// The system's clocks: `CLOCK_MONOTONIC` since this was made, and the time of day.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The clock that all processes of a host share (`CLOCK_MONOTONIC`).
    #[expect(clippy::unused_self, reason = "the clock is passed in, like all time")]
    pub(crate) fn uptime(&self) -> Duration {
        // It never is negative.
        clock_gettime(ClockId::Monotonic).try_into().unwrap_or_default()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn since_boot(&self) -> Duration {
        // It never is negative.
        clock_gettime(ClockId::Boottime).try_into().unwrap_or_default()
    }

    fn cpu(&self) -> Duration {
        // CLOCK_THREAD_CPUTIME_ID never is negative.
        clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
    }
}
