//! The collector's schedule: well for a while, then some fault for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use vms_agent_tests::{Fault, Faulty};

/// What may happen. Codes: 3 refuses for good, 8 throttles, 14 is to be tried again.
const FAULTS: [(&str, Fault); 13] = [
    ("down", Fault::Down),
    ("silent from the first byte", Fault::Mute),
    ("reset at once", Fault::ResetAtOnce),
    ("garbage", Fault::Garbage),
    ("slow", Fault::Slow(Duration::from_millis(300))),
    ("silent before the answer", Fault::HangBeforeHead),
    ("silent before the trailers", Fault::HangBeforeTrailers),
    ("reset before the answer", Fault::ResetBeforeHead),
    ("streams reset", Fault::ResetStream),
    ("goodbyes", Fault::GoAway),
    ("unavailable", Fault::Code(14, None)),
    ("throttling", Fault::Code(8, Some(1500))),
    ("rejecting for good", Fault::Code(3, None)),
];

/// A collector that flaps.
pub(crate) struct Flapping {
    faulty: Faulty,
    rng: Rng,
    well: bool,
    /// When to change, from the start.
    next: Duration,
    /// How often what happened.
    pub(crate) happened: BTreeMap<&'static str, u32>,
}

impl Flapping {
    /// Well at first.
    pub(crate) fn new(faulty: Faulty, seed: u64) -> Self {
        let next = Duration::from_secs(4);
        Self { faulty, rng: Rng::with_seed(seed), well: true, next, happened: BTreeMap::new() }
    }

    /// Changes when it is time to.
    pub(crate) fn tick(&mut self, elapsed: Duration) {
        if elapsed < self.next {
            return;
        }
        let lasts = if self.well {
            let (name, fault) = FAULTS[self.rng.usize(..FAULTS.len())];
            self.faulty.set(fault);
            *self.happened.entry(name).or_default() += 1;
            self.rng.u64(1000..12_000)
        } else {
            self.faulty.set(Fault::Nothing);
            self.rng.u64(4000..15_000)
        };
        self.well = !self.well;
        self.next = elapsed + Duration::from_millis(lasts);
    }

    /// Well for good.
    pub(crate) fn settle(&mut self) {
        self.faulty.set(Fault::Nothing);
    }
}
