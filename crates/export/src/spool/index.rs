//! What is known of the records of a spool without opening them: their order, age and size, and what has to go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::time::Duration;

/// What a file is called: it is enough to know what a file holds, even if it cannot be read.
///
/// `00000000000000000042-1700000000123-17.otlp`: the sequence number, which alone gives the order; when it was written, in
/// milliseconds since 1970; and the data points in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) sequence: u64,
    pub(crate) unix_ms: u64,
    pub(crate) points: u64,
}

/// The end of every record's name.
const EXTENSION: &str = ".otlp";

/// The digits of a sequence number: as many as the largest has, so that `ls` shows the order.
const DIGITS: usize = 20;

/// No record has a larger number, and none more points: what claims so was not written here, and would break the sums.
const MAX_SEQUENCE: u64 = u64::MAX / 2;
const MAX_POINTS: u64 = 1 << 32;

impl Name {
    /// Reads the name of a file, or `None` for one that is not the spool's.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(EXTENSION)?.split('-');
        let mut number = || {
            let text = parts.next()?;
            let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
            all_digits.then(|| text.parse().ok())?
        };
        let parsed = Self { sequence: number()?, unix_ms: number()?, points: number()? };
        let is_possible = parsed.sequence <= MAX_SEQUENCE && parsed.points <= MAX_POINTS;
        (is_possible && parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequence, unix_ms, points } = self;
        write!(formatter, "{sequence:0DIGITS$}-{unix_ms}-{points}{EXTENSION}")
    }
}

/// What is known of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    /// Bytes that the file takes on the disk: whole blocks.
    pub(crate) disk_bytes: u64,
    /// When it was handed over, in milliseconds of the monotonic clock; below zero before the start.
    pub(crate) born_ms: i64,
    /// Whether an earlier run of the agent wrote it.
    pub(crate) is_earlier: bool,
}

/// How much a spool may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) bytes: u64,
    pub(crate) age: Duration,
}

/// The records of a spool, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By their whole names: nothing keeps two files of two runs from having one number.
    entries: BTreeMap<Name, Entry>,
    /// The same in the order of their age, which is another where the clock was set between two runs.
    by_age: BTreeSet<(i64, Name)>,
    points: u64,
    disk_bytes: u64,
}

/// The least time for which records that an earlier run wrote are kept, whatever the clock says of their age: at boot a
/// clock may be years ahead until it is set.
pub(crate) const GRACE: Duration = Duration::from_hours(1);

/// The moment at which a record of an earlier run was handed over, on the monotonic clock of this run. A record from the
/// future counts as new, and none as so old that it would go before [`GRACE`] is over.
pub(crate) fn born_ms(name: Name, wall_ms: u64, monotonic: Duration, max_age: Duration) -> i64 {
    let age = Duration::from_millis(wall_ms.saturating_sub(name.unix_ms));
    let oldest = max_age.saturating_sub(GRACE);
    signed_ms(monotonic).saturating_sub(signed_ms(age.min(oldest)))
}

/// Milliseconds that can lie before the start.
pub(crate) fn signed_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Index {
    /// Takes a record in.
    pub(crate) fn insert(&mut self, entry: Entry) {
        self.remove(entry.name);
        self.points += entry.name.points;
        self.disk_bytes += entry.disk_bytes;
        self.by_age.insert((entry.born_ms, entry.name));
        self.entries.insert(entry.name, entry);
    }

    /// Forgets a record.
    pub(crate) fn remove(&mut self, name: Name) -> Option<Entry> {
        let removed = self.entries.remove(&name)?;
        self.by_age.remove(&(removed.born_ms, name));
        self.points -= removed.name.points;
        self.disk_bytes -= removed.disk_bytes;
        Some(removed)
    }

    /// The oldest record behind that one; without one the oldest of all.
    pub(crate) fn next_behind(&self, name: Option<Name>) -> Option<&Entry> {
        let behind =
            name.and_then(|name| self.entries.range((Bound::Excluded(name), Bound::Unbounded)).next());
        behind.or_else(|| self.entries.first_key_value()).map(|(_, entry)| entry)
    }

    /// That record.
    pub(crate) fn get(&self, name: Name) -> Option<&Entry> {
        self.entries.get(&name)
    }

    /// Forgets the oldest records until `more` bytes fit, and returns them.
    pub(crate) fn make_room(&mut self, more: u64, bounds: Bounds) -> Vec<Entry> {
        let mut gone = Vec::new();
        while self.disk_bytes.saturating_add(more) > bounds.bytes
            && let Some((name, _)) = self.entries.first_key_value()
        {
            gone.extend(self.remove(*name));
        }
        gone
    }

    /// Forgets the records that are too old, and returns them.
    pub(crate) fn expire(&mut self, monotonic: Duration, bounds: Bounds) -> Vec<Entry> {
        let newest_gone = signed_ms(monotonic).saturating_sub(signed_ms(bounds.age));
        let mut gone = Vec::new();
        while let Some((_, name)) = self.by_age.first().filter(|(born_ms, _)| *born_ms < newest_gone) {
            gone.extend(self.remove(*name));
        }
        gone
    }

    /// The age of the oldest record.
    pub(crate) fn oldest_age(&self, monotonic: Duration) -> Option<Duration> {
        let (born_ms, _) = self.by_age.first()?;
        let age = signed_ms(monotonic).saturating_sub(*born_ms);
        Some(Duration::from_millis(u64::try_from(age).unwrap_or(0)))
    }

    /// Forgets everything, and returns it.
    pub(crate) fn clear(&mut self) -> BTreeMap<Name, Entry> {
        std::mem::take(self).entries
    }

    pub(crate) fn points(&self) -> u64 {
        self.points
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    pub(crate) fn requests(&self) -> u64 {
        u64::try_from(self.entries.len()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
