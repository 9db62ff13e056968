//! Requests that a collector refuses for good, perhaps between others that it takes: what is to be told of them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use super::Now;

/// A kind of refusal that was told is told again after that time, with what there was of it meanwhile.
const CALM: Duration = Duration::from_mins(10);

/// When nothing has been taken for that long, there is an outage, however often it was told before.
const ALL: Duration = Duration::from_secs(30);

/// What was refused, and what of that has been told.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    kinds: BTreeMap<Cow<'static, str>, Kind>,
    run: Option<Run>,
}

/// Refusals with the same code.
#[derive(Debug)]
struct Kind {
    told: Duration,
    /// When the first came that is not told.
    untold_since: Duration,
    untold_requests: u64,
    untold_points: u64,
}

/// Refusals without a request between them that was taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// When the first came.
    pub(super) began: Now,
    /// The points that had been lost before it.
    pub(super) lost_before: u64,
}

impl Refusals {
    /// Since when all has been refused, unless the last request was taken.
    pub(super) fn run(&self) -> Option<Run> {
        self.run
    }

    /// A request was taken. Returns how many requests and points were refused and not told, when it is time for that.
    pub(super) fn accepted(&mut self, now: Now) -> Option<(u64, u64)> {
        self.run = None;
        let (mut requests, mut points) = (0, 0);
        for kind in self.kinds.values_mut() {
            if kind.untold_requests > 0 && now.monotonic.saturating_sub(kind.untold_since) >= CALM {
                requests += std::mem::take(&mut kind.untold_requests);
                points += std::mem::take(&mut kind.untold_points);
            }
        }
        (requests > 0).then_some((requests, points))
    }

    /// A request of so many points was refused. Whether that is to be told now.
    pub(super) fn refused(
        &mut self,
        error_type: Cow<'static, str>,
        points: u64,
        lost_before: u64,
        now: Now,
    ) -> bool {
        let run = *self.run.get_or_insert(Run { began: now, lost_before });
        let is_over = |since: Duration, time: Duration| now.monotonic.saturating_sub(since) >= time;
        let Some(kind) = self.kinds.get_mut(&error_type) else {
            let kind = Kind {
                told: now.monotonic,
                untold_since: Duration::ZERO,
                untold_requests: 0,
                untold_points: 0,
            };
            self.kinds.insert(error_type, kind);
            return true;
        };
        let is_news = is_over(kind.told, CALM) || is_over(run.began.monotonic, ALL);
        if is_news {
            kind.told = now.monotonic;
        } else {
            if kind.untold_requests == 0 {
                kind.untold_since = now.monotonic;
            }
            kind.untold_requests += 1;
            kind.untold_points += points;
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn at(second: u64) -> Now {
        Now { wall: SystemTime::UNIX_EPOCH, monotonic: Duration::from_secs(second) }
    }

    #[test]
    fn a_collector_that_refuses_some_requests_is_told_of_each_kind_once_in_ten_minutes_and_of_all() {
        let mut refusals = Refusals::default();
        let (mut told, mut points) = (Vec::new(), 0);
        for second in 0..=1800 {
            points += refusals.accepted(at(second)).map_or(0, |(_, points)| points);
            let kind = if second % 2 == 0 { "400" } else { "413" };
            if refusals.refused(kind.into(), 7, 0, at(second)) {
                told.push((second, kind));
                points += 7;
            }
        }
        assert_eq!(told[..2], [(0, "400"), (1, "413")]);
        assert!(told.len() <= 8, "{told:?}");
        points += refusals.accepted(at(5000)).map_or(0, |(_, points)| points);
        assert_eq!(points, 1801 * 7, "none is passed over");
        assert_eq!(refusals.accepted(at(9000)), None);
    }

    #[test]
    fn one_that_has_come_to_refuse_all_is_told_soon_and_from_the_beginning() {
        let mut refusals = Refusals::default();
        assert!(refusals.refused("400".into(), 1, 5, at(0)));
        refusals.accepted(at(1));
        let told: Vec<u64> =
            (10..=50).filter(|second| refusals.refused("400".into(), 1, 6, at(*second))).collect();
        assert_eq!(told.first(), Some(&40));
        let run = refusals.run().unwrap();
        assert_eq!((run.began.monotonic, run.lost_before), (Duration::from_secs(10), 6));
    }
}
