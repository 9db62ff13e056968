//! Requests that a collector refuses for good between others that it takes: no outage, and nothing to be told each time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// A refusal is told again when there was none like it for that long, or when nothing was taken for that long.
const CALM: Duration = Duration::from_mins(10);

/// When each kind of refusal came last, and when a request was taken.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    last: BTreeMap<Cow<'static, str>, Duration>,
    accepted: Option<Duration>,
}

impl Refusals {
    /// A request was taken.
    pub(super) fn accepted(&mut self, monotonic: Duration) {
        self.accepted = Some(monotonic);
    }

    /// A request was refused: whether that is to be told.
    pub(super) fn is_news(&mut self, error_type: Cow<'static, str>, monotonic: Duration) -> bool {
        let is_recent = |at: Duration| monotonic.saturating_sub(at) < CALM;
        let before = self.last.insert(error_type, monotonic);
        !(before.is_some_and(is_recent) && self.accepted.is_some_and(is_recent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_collector_that_refuses_some_requests_is_told_once_of_each_kind() {
        let mut refusals = Refusals::default();
        let mut told = Vec::new();
        for minute in 0..1000 {
            refusals.accepted(MINUTE * minute);
            for kind in ["400", "413"] {
                if refusals.is_news(kind.into(), MINUTE * minute) {
                    told.push((minute, kind));
                }
            }
        }
        assert_eq!(told, [(0, "400"), (0, "413")]);
        assert!(refusals.is_news("400".into(), MINUTE * 1010), "ten minutes later");
    }

    #[test]
    fn one_that_has_come_to_refuse_all_is_told_again() {
        let mut refusals = Refusals::default();
        refusals.accepted(Duration::ZERO);
        let told: Vec<u32> =
            (0..=10).filter(|minute| refusals.is_news("400".into(), MINUTE * *minute)).collect();
        assert_eq!(told, [0, 10]);
    }
}
