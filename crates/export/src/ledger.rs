//! What became of every point: sent, dropped and why, or still waiting. Also what an operator is to be told,
//! once for each outage rather than once for each attempt.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::answer::Accepted;
use crate::failure::{Failure, Stage};
use crate::queue::{Batch, Queue};

/// The count of everything since the start. `enqueued = sent + dropped + waiting` holds at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Points that the collector has.
    pub sent_points: u64,
    /// Points that were lost, by `error.type`: `queue_full`, `compression`, `rejected` (partial success), a gRPC
    /// code (`UNAUTHENTICATED`) or an HTTP status (`404`).
    pub dropped_points: BTreeMap<Cow<'static, str>, u64>,
    /// Points that were sent again after a failure, each time anew.
    pub retried_points: u64,
    /// Points that wait, with those of the request that is on its way.
    pub waiting_points: u64,
    /// Bytes that wait, as they go on the wire, with those of the request that is on its way.
    pub waiting_bytes: usize,
    /// The present outage, if there is one.
    pub outage: Option<Outage>,
    /// The failure that came last, even if all is well again.
    pub last_error: Option<String>,
}

/// A time in which nothing gets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// When the first attempt failed.
    pub since: SystemTime,
    /// How the last attempt failed, and what to do.
    pub failure: Failure,
}

/// The two times: of day, to show, and since some fixed moment, to subtract.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) monotonic: Duration,
}

/// What an operator is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The first failure of an outage, or the first of another kind in it.
    Failing { failure: Failure, lost: u64, waiting: u64 },
    /// A request got through again.
    Recovered { lasted: Duration, lost: u64, waiting: u64 },
    /// The first points were pushed out.
    QueueFull { limit: usize },
    /// Nothing waits any more.
    QueueEmptied { lost: u64 },
    /// The collector did not take all points.
    Rejected { points: u64, message: String },
    /// The collector took all points, with a remark.
    Remark { message: String },
    /// What answered says success, but not as a collector would.
    Odd { failure: Failure },
}

/// Distinct remarks remembered. A collector that puts a time into each would fill the memory.
const MAX_REMARKS: usize = 64;

/// Queue, counts and outage, changed together.
#[derive(Debug)]
pub(crate) struct Ledger {
    queue: Queue,
    in_flight: Option<InFlight>,
    sent: u64,
    retried: u64,
    dropped: BTreeMap<Cow<'static, str>, u64>,
    outage: Option<Episode>,
    last_error: Option<String>,
    overflow: Option<u64>,
    remarks: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    points: u64,
    bytes: usize,
}

/// An outage, with what is needed to tell its end.
#[derive(Debug)]
struct Episode {
    outage: Outage,
    began: Duration,
    lost_before: u64,
    told: BTreeSet<(Stage, Cow<'static, str>)>,
}

const QUEUE_FULL: Cow<'static, str> = Cow::Borrowed("queue_full");
const REJECTED: Cow<'static, str> = Cow::Borrowed("rejected");

impl Ledger {
    /// Nothing has happened; at most `limit` bytes may wait, or one cycle where that is more.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            queue: Queue::new(limit),
            in_flight: None,
            sent: 0,
            retried: 0,
            dropped: BTreeMap::new(),
            outage: None,
            last_error: None,
            overflow: None,
            remarks: BTreeSet::new(),
        }
    }

    /// Begins a cycle: what is taken in from now on is of it, and loses no point before the next begins.
    pub(crate) fn begin_cycle(&mut self) {
        self.queue.begin_cycle();
    }

    /// Takes a batch in.
    pub(crate) fn enqueue(&mut self, batch: Batch) -> Option<Notice> {
        match self.queue.push(batch) {
            0 => None,
            lost => self.overflow(lost),
        }
    }

    /// Hands out the batch to send next. Its fate has to be told before the next is handed out.
    pub(crate) fn take(&mut self) -> Option<Batch> {
        let batch = self.queue.pop()?;
        if batch.was_attempted() {
            self.retried += batch.points();
        }
        self.in_flight = Some(InFlight { points: batch.points(), bytes: batch.bytes().len() });
        Some(batch)
    }

    /// The batch on its way arrived.
    pub(crate) fn accepted(&mut self, accepted: Accepted, now: Now) -> Vec<Notice> {
        let mut notices = Vec::new();
        let points = self.in_flight.take().map_or(0, |batch| batch.points);
        let rejected = accepted.rejected.min(points);
        self.sent += points - rejected;
        self.drop_points(REJECTED, rejected);
        if let Some(episode) = self.outage.take() {
            notices.push(Notice::Recovered {
                lasted: now.monotonic.saturating_sub(episode.began),
                lost: self.dropped_in_all() - episode.lost_before,
                waiting: self.waiting_points(),
            });
        }
        if self.queue.is_empty()
            && let Some(lost) = self.overflow.take()
        {
            notices.push(Notice::QueueEmptied { lost });
        }
        notices.extend(self.remark(rejected, accepted));
        notices
    }

    /// The batch on its way has to be sent again.
    pub(crate) fn put_back(&mut self, batch: Batch, failure: Failure, now: Now) -> Vec<Notice> {
        self.in_flight = None;
        let pushed_out = self.queue.put_back(batch).err();
        let failing = self.failed(failure, 0, now);
        let overflow = pushed_out.and_then(|batch| self.overflow(batch.points()));
        failing.into_iter().chain(overflow).collect()
    }

    /// The batch on its way is lost.
    pub(crate) fn refused(&mut self, failure: Failure, now: Now) -> Option<Notice> {
        let points = self.in_flight.take().map_or(0, |batch| batch.points);
        self.lost(failure, points, now)
    }

    /// Points are lost that could not be sent as they are.
    pub(crate) fn lost(&mut self, failure: Failure, points: u64, now: Now) -> Option<Notice> {
        let notice = self.failed(failure.clone(), points, now);
        self.drop_points(failure.error_type, points);
        notice
    }

    /// The points that wait or are on their way.
    pub(crate) fn waiting_points(&self) -> u64 {
        self.queue.points() + self.in_flight.map_or(0, |batch| batch.points)
    }

    /// Whether nothing waits and nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_none()
    }

    /// A copy of the counts.
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            sent_points: self.sent,
            dropped_points: self.dropped.clone(),
            retried_points: self.retried,
            waiting_points: self.waiting_points(),
            waiting_bytes: self.queue.bytes() + self.in_flight.map_or(0, |batch| batch.bytes),
            outage: self.outage.as_ref().map(|episode| episode.outage.clone()),
            last_error: self.last_error.clone(),
        }
    }

    fn failed(&mut self, failure: Failure, lost: u64, now: Now) -> Option<Notice> {
        self.last_error = Some(failure.to_string());
        let lost_before = self.dropped_in_all();
        let episode = self.outage.get_or_insert_with(|| Episode {
            outage: Outage { since: now.wall, failure: failure.clone() },
            began: now.monotonic,
            lost_before,
            told: BTreeSet::new(),
        });
        episode.outage.failure = failure.clone();
        let news = episode.told.insert((failure.stage, failure.error_type.clone()));
        let waiting = self.waiting_points();
        news.then_some(Notice::Failing { failure, lost, waiting })
    }

    fn overflow(&mut self, lost: u64) -> Option<Notice> {
        self.drop_points(QUEUE_FULL, lost);
        let first = self.overflow.is_none();
        *self.overflow.get_or_insert(0) += lost;
        first.then_some(Notice::QueueFull { limit: self.queue.limit() })
    }

    fn drop_points(&mut self, reason: Cow<'static, str>, points: u64) {
        if points > 0 {
            *self.dropped.entry(reason).or_default() += points;
        }
    }

    fn dropped_in_all(&self) -> u64 {
        self.dropped.values().sum()
    }

    fn remark(&mut self, rejected: u64, accepted: Accepted) -> Option<Notice> {
        let text = accepted.oddity.as_ref().map_or(&accepted.message, |oddity| &oddity.message);
        if text.is_empty() && rejected == 0 {
            return None;
        }
        if self.remarks.contains(text) {
            return None;
        }
        if self.remarks.len() >= MAX_REMARKS {
            self.remarks.clear();
        }
        self.remarks.insert(text.clone());
        Some(match accepted.oddity {
            Some(failure) => Notice::Odd { failure },
            None if rejected > 0 => Notice::Rejected { points: rejected, message: accepted.message },
            None => Notice::Remark { message: accepted.message },
        })
    }
}

impl Notice {
    /// Whether it is good news.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Self::Recovered { .. })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failing { failure, lost: 0, waiting } => write!(
                formatter,
                "{} failed: {failure}; {}; {waiting} points wait, measuring goes on",
                failure.stage, failure.advice
            ),
            Self::Failing { failure, lost, waiting: _ } => write!(
                formatter,
                "request refused: {failure}; {}; its {lost} points are lost, measuring goes on",
                failure.advice
            ),
            Self::Recovered { lasted, lost, waiting } => write!(
                formatter,
                "takes data again after {} s: {lost} points were lost, {waiting} that waited are being sent",
                lasted.as_secs()
            ),
            Self::QueueFull { limit } => write!(
                formatter,
                "the queue is full ({limit} bytes): the oldest points are being dropped; bring the collector back, \
                 or allow the queue more bytes"
            ),
            Self::QueueEmptied { lost } => {
                write!(formatter, "the queue, which was full, is empty again: {lost} points were dropped")
            }
            Self::Rejected { points, message } => write!(
                formatter,
                "{points} points rejected: {message}; they are lost, and the same message is not repeated here"
            ),
            Self::Remark { message } => {
                write!(formatter, "remark: {message}; the same message is not repeated here")
            }
            Self::Odd { failure } => {
                write!(formatter, "{failure}; {}; the points count as sent", failure.advice)
            }
        }
    }
}

#[cfg(test)]
mod tests;
