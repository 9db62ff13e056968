//! Waiting for something to become true, instead of sleeping and hoping.

use std::time::{Duration, Instant};

/// How long anything may take before the test calls it broken. Far longer than it takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(POLL);
    }
}

/// The time, for bounds on how long the agent takes.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "tests measure real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day in nanoseconds since 1970, as OTLP counts it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "tests compare with real time stamps")]
pub fn unix_nanoseconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("the clock is set");
    u64::try_from(since.as_nanos()).expect("the year is before 2554")
}
