//! What collectors say beside their answers, told so that it cannot flood a log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So many remarks of a kind are told as they come.
const AT_ONCE: u32 = 8;

/// How long after another one those behind them are told. A collector may put a time into each.
const EVERY: Duration = Duration::from_mins(10);

/// Distinct remarks remembered.
const MOST: usize = 64;

/// What a remark is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Points that were not taken.
    Rejected,
    /// An answer that is none.
    Odd,
    /// Anything else.
    Other,
}

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    told: BTreeSet<String>,
    /// How many of a kind, and when the last.
    last: BTreeMap<Kind, (u32, Duration)>,
}

impl Remarks {
    /// Whether this is to be told. It counts as told then.
    pub(super) fn is_news(&mut self, kind: Kind, text: &str, monotonic: Duration) -> bool {
        let (count, last) = self.last.get(&kind).copied().unwrap_or_default();
        let is_soon = count >= AT_ONCE && monotonic.saturating_sub(last) < EVERY;
        if is_soon || self.told.contains(text) {
            return false;
        }
        if self.told.len() >= MOST {
            self.told.clear();
        }
        self.told.insert(text.to_owned());
        self.last.insert(kind, (count.saturating_add(1), monotonic));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_is_told_once_and_after_some_others_every_ten_minutes_at_the_most() {
        let mut remarks = Remarks::default();
        let mut told = Vec::new();
        for second in 0..3600 {
            let text = format!("tenant unknown at {second}");
            if remarks.is_news(Kind::Rejected, &text, Duration::from_secs(second)) {
                told.push(second);
            }
        }
        assert_eq!(told, [0, 1, 2, 3, 4, 5, 6, 7, 607, 1207, 1807, 2407, 3007]);
        assert!(!remarks.is_news(Kind::Rejected, "tenant unknown at 0", Duration::from_hours(2)));
        assert!(remarks.is_news(Kind::Odd, "no answer at all", Duration::from_secs(3001)), "another kind");
    }

    #[test]
    fn what_was_told_is_remembered_within_a_bound() {
        let mut remarks = Remarks::default();
        for hour in 0..1000 {
            assert!(remarks.is_news(Kind::Other, &format!("hour {hour}"), Duration::from_hours(hour)));
        }
        assert!(remarks.told.len() <= MOST);
    }
}
