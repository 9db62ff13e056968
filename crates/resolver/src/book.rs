//! What is known of names, and when each is to be asked for again. Time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vms_core::name::{NameQuery, Resolution, Resolved};

/// How often a name is asked for at most, however short its time to live.
pub(crate) const MIN_TTL: Duration = Duration::from_secs(5);

/// And at least.
const MAX_TTL: Duration = Duration::from_hours(1);

/// When it is asked for again after it could not be told.
const RETRY: Duration = Duration::from_secs(5);

/// How long an answer may be on its way before addresses whose time is over are called overdue.
const GRACE: Duration = Duration::from_secs(2);

/// How long addresses are believed after their time while nobody can be asked for others (RFC 8767 has one to three days).
const MAX_STALE: Duration = Duration::from_hours(1);

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// At least one.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// For how long that holds.
    pub(crate) ttl: Duration,
}

/// Why it is not known what a name means, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It has no address: that was answered.
    NoAddress(Arc<str>),
    /// That could not be told: nobody who knows answered, or nothing that could be used.
    Untold(Arc<str>),
}

impl Failure {
    fn cause(&self) -> &Arc<str> {
        match self {
            Self::NoAddress(cause) | Self::Untold(cause) => cause,
        }
    }
}

/// Whether names are known as they should be, where that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Addresses are overdue that were known.
    Overdue(Arc<str>),
    /// None are any more.
    Current,
}

/// All names that are wanted.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: BTreeMap<NameQuery, Entry>,
    /// Whether it was told that addresses are overdue.
    told_overdue: bool,
}

#[derive(Debug)]
struct Entry {
    known: Option<Known>,
    /// What came of asking last, where that failed.
    failure: Option<Failure>,
    /// When to ask next.
    due: Instant,
    is_under_way: bool,
}

#[derive(Debug)]
struct Known {
    addresses: Arc<[IpAddr]>,
    /// As of when.
    at: Instant,
    /// Until when it holds.
    until: Instant,
}

impl Book {
    /// Puts it in force which names are wanted. What is known of others is forgotten.
    pub(crate) fn want(&mut self, queries: &BTreeSet<NameQuery>, now: Instant) {
        self.entries.retain(|query, _| queries.contains(query));
        self.want_also(queries, now);
    }

    /// Adds names that are wanted.
    pub(crate) fn want_also(&mut self, queries: &BTreeSet<NameQuery>, now: Instant) {
        for query in queries {
            let new = || Entry { known: None, failure: None, due: now, is_under_way: false };
            self.entries.entry(query.clone()).or_insert_with(new);
        }
    }

    /// Names to ask for now, at most so many. They are under way from then on.
    pub(crate) fn take_due(&mut self, now: Instant, most: usize) -> Vec<NameQuery> {
        let mut due: Vec<(&NameQuery, &mut Entry)> =
            self.entries.iter_mut().filter(|(_, entry)| !entry.is_under_way && entry.due <= now).collect();
        due.sort_by_key(|(_, entry)| entry.due);
        due.truncate(most);
        for (_, entry) in &mut due {
            entry.is_under_way = true;
        }
        due.into_iter().map(|(query, _)| query.clone()).collect()
    }

    /// When the next is to be asked for.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter(|entry| !entry.is_under_way).map(|entry| entry.due).min()
    }

    /// Takes in what came of asking.
    pub(crate) fn note(
        &mut self,
        query: &NameQuery,
        outcome: Result<Answer, Failure>,
        now: Instant,
    ) -> Option<Turn> {
        // Nobody wants it any more.
        let entry = self.entries.get_mut(query)?;
        entry.is_under_way = false;
        match outcome {
            Ok(Answer { addresses, ttl }) => {
                let ttl = ttl.clamp(MIN_TTL, MAX_TTL);
                entry.due = now + ttl;
                entry.failure = None;
                entry.known =
                    Some(Known { addresses: addresses.into_iter().collect(), at: now, until: now + ttl });
            }
            Err(failure) => {
                entry.due = now + RETRY;
                if matches!(failure, Failure::NoAddress(_)) {
                    entry.known = None;
                }
                entry.failure = Some(failure);
            }
        }
        let overdue =
            self.entries.values().find_map(|entry| entry.failure.as_ref().filter(|_| entry.known.is_some()));
        match overdue {
            Some(failure) if !self.told_overdue => {
                self.told_overdue = true;
                Some(Turn::Overdue(Arc::clone(failure.cause())))
            }
            None if self.told_overdue => {
                self.told_overdue = false;
                Some(Turn::Current)
            }
            _ => None,
        }
    }

    /// What is known of a name.
    pub(crate) fn resolution(&self, query: &NameQuery, now: Instant) -> Resolution {
        let Some(entry) = self.entries.get(query) else {
            return Resolution::Unknown("nobody has asked for it".into());
        };
        let cause = || match &entry.failure {
            Some(failure) => Arc::clone(failure.cause()),
            None => {
                "it has not been answered yet; see whether the name servers in /etc/resolv.conf answer".into()
            }
        };
        match &entry.known {
            Some(known) if now < known.until + MAX_STALE => {
                let is_overdue = entry.failure.is_some() || now >= known.until + GRACE;
                Resolution::Known(Resolved {
                    name: query.name.clone(),
                    addresses: Arc::clone(&known.addresses),
                    age: now.saturating_duration_since(known.at),
                    overdue: is_overdue.then(cause),
                })
            }
            _ => Resolution::Unknown(cause()),
        }
    }

    /// Whether something has come of asking for each.
    pub(crate) fn is_settled(&self) -> bool {
        self.entries.values().all(|entry| entry.known.is_some() || entry.failure.is_some())
    }
}

#[cfg(test)]
mod tests;
