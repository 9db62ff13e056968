//! What became of every point: sent, dropped and why, or still waiting. Also what an operator is to be told,
//! once for each outage rather than once for each attempt.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::answer::Accepted;
use crate::backlog::{Backlog, DiskWork};
use crate::failure::{Failure, Stage};
use crate::notice::Notice;
use crate::queue::{Batch, Queue};

use self::refusals::{Refusals, Run};
use self::remarks::{Kind, Remarks};

/// The count of everything since the start. What was handed over, and what earlier runs left in the spool, is at any time
/// the sum of what was sent, what was dropped, what waits in memory and what waits in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Points that the collector has.
    pub sent_points: u64,
    /// Points that were lost, by `error.type`: `full` (no room, in the spool or without one in memory), `expired` and
    /// `corrupt` (in the spool), `compression`, `rejected` (partial success), a gRPC code (`UNAUTHENTICATED`) or an HTTP
    /// status (`404`).
    pub dropped_points: BTreeMap<Cow<'static, str>, u64>,
    /// Points that were sent again after a failure, each time anew.
    pub retried_points: u64,
    /// Points that wait in memory and nowhere else, with those of the request that is on its way.
    pub waiting_points: u64,
    /// Bytes that wait, as they go on the wire, with those of the request that is on its way.
    pub waiting_bytes: usize,
    /// The spool, where there is one.
    pub spool: Option<SpoolStats>,
    /// The present outage, if there is one.
    pub outage: Option<Outage>,
    /// The failure that came last, even if all is well again.
    pub last_error: Option<String>,
}

/// What waits on the disk, and what came from there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Requests that wait, each of which has been synchronized to the disk.
    pub requests: u64,
    /// Their points.
    pub points: u64,
    /// What their files take on the disk, whole blocks counted.
    pub disk_bytes: u64,
    /// How long the oldest of them has waited.
    pub oldest_age: Duration,
    /// Points that the collector took from the spool, written by this run of the agent.
    pub replayed_points: u64,
    /// Those written by an earlier run. If that ended without warning, the collector may have had some of them before.
    pub replayed_earlier_points: u64,
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

/// Queue, counts and outage, changed together.
#[derive(Debug)]
pub(crate) struct Ledger {
    queue: Queue,
    backlog: Option<Backlog>,
    /// A copy of the batch on its way.
    in_flight: Option<Batch>,
    /// Everything is to be stored: the agent ends.
    is_ending: bool,
    sent: u64,
    retried: u64,
    dropped: BTreeMap<Cow<'static, str>, u64>,
    outage: Option<Episode>,
    last_error: Option<String>,
    overflow: Option<u64>,
    /// Points that went from the spool for want of room, and for their age, since it was last empty.
    spool_full: Option<u64>,
    spool_expired: Option<u64>,
    /// How often its directory was read.
    spool_scans: u32,
    /// What fails on the disk at present.
    disk_trouble: BTreeSet<DiskWork>,
    /// What is being done there, and since when.
    disk_busy: Option<(DiskWork, Duration)>,
    refusals: Refusals,
    remarks: Remarks,
}

/// An outage, with what is needed to tell its end.
#[derive(Debug)]
struct Episode {
    outage: Outage,
    began: Duration,
    lost_before: u64,
    told: BTreeSet<(Stage, Cow<'static, str>)>,
}

const FULL: &str = "full";
const REJECTED: Cow<'static, str> = Cow::Borrowed("rejected");

impl Ledger {
    /// Nothing has happened; at most `limit` bytes may wait, or one cycle where that is more.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            queue: Queue::new(limit),
            backlog: None,
            in_flight: None,
            is_ending: false,
            sent: 0,
            retried: 0,
            dropped: BTreeMap::new(),
            outage: None,
            last_error: None,
            overflow: None,
            spool_full: None,
            spool_expired: None,
            spool_scans: 0,
            disk_trouble: BTreeSet::new(),
            disk_busy: None,
            refusals: Refusals::default(),
            remarks: Remarks::default(),
        }
    }

    /// Begins a cycle: what is taken in from now on is of it, and loses no point before the next begins.
    pub(crate) fn begin_cycle(&mut self) {
        self.queue.begin_cycle();
    }

    /// Takes a batch in.
    pub(crate) fn enqueue(&mut self, batch: Batch) -> Vec<Notice> {
        let hangs = self.find_hanging_disk(batch.enqueued().monotonic);
        let lost = self.queue.push(batch);
        if self.outage.is_some() && self.backlog.is_some() {
            self.queue.release_stored();
        }
        let overflow = (lost > 0).then(|| self.overflow(lost)).flatten();
        hangs.into_iter().map(Notice::from).chain(overflow).collect()
    }

    /// Hands out the batch to send next: of those in memory, and else the one that was read from the spool, if that may be.
    /// Its fate has to be told before the next is handed out.
    pub(crate) fn take(&mut self, may_replay: bool) -> Option<Batch> {
        let may_replay = may_replay && !self.is_refusing();
        let backlog = self.backlog.as_mut().filter(|_| may_replay);
        let batch = self.queue.pop().or_else(|| backlog?.take_loaded())?;
        if batch.was_attempted() {
            self.retried += batch.points();
        }
        self.in_flight = Some(batch.clone());
        Some(batch)
    }

    /// Whether the collector refuses: what the spool holds is not to be lost to it as well. The next request that was measured
    /// meanwhile tells whether it still does.
    fn is_refusing(&self) -> bool {
        self.refusals.run().is_some()
    }

    /// Whether a record of the spool waits to be handed out, and nothing else does.
    pub(crate) fn waits_to_replay(&self) -> bool {
        !self.is_refusing()
            && self.queue.is_empty()
            && self.backlog.as_ref().is_some_and(|backlog| backlog.loaded().is_some())
    }

    /// The batch on its way arrived.
    pub(crate) fn accepted(&mut self, accepted: Accepted, now: Now) -> Vec<Notice> {
        let mut notices = Vec::new();
        let points = self.end_flight(true);
        let rejected = accepted.rejected.min(points);
        self.sent += points - rejected;
        self.drop_points(REJECTED, rejected);
        let refused = self.refusals.accepted(now);
        notices.extend(refused.map(|(requests, points)| Notice::Refused { requests, points }));
        if let Some(episode) = self.outage.take() {
            let backlog = self.backlog.as_mut();
            notices.push(Notice::Recovered {
                lasted: now.monotonic.saturating_sub(episode.began),
                lost: self.dropped.values().sum::<u64>() - episode.lost_before,
                waiting: self.queue.points(),
                spooled: backlog.map(|backlog| std::mem::take(&mut backlog.stored_in_outage)),
                replaying: self.backlog.as_ref().map_or(0, |backlog| backlog.index().requests()),
            });
        }
        if self.queue.is_empty()
            && let Some(lost) = self.overflow.take()
        {
            notices.push(Notice::QueueEmptied { lost });
        }
        notices.extend(self.spool_emptied().map(Notice::from));
        notices.extend(self.remark(rejected, accepted, now));
        notices
    }

    /// The batch on its way has to be sent again.
    pub(crate) fn put_back(&mut self, failure: Failure, now: Now) -> Vec<Notice> {
        let mut pushed_out = 0;
        if let Some(batch) = self.in_flight.take() {
            match (batch.stored().filter(|_| batch.is_replayed()), &mut self.backlog) {
                (Some(name), Some(backlog)) => backlog.failed(name, self.outage.is_none()),
                _ => pushed_out = self.queue.put_back(batch).err().map_or(0, |batch| batch.unsaved_points()),
            }
        }
        let failing = self.failed(failure, 0, now);
        if self.backlog.is_some() {
            self.queue.release_stored();
        }
        let overflow = (pushed_out > 0).then(|| self.overflow(pushed_out)).flatten();
        failing.into_iter().chain(overflow).collect()
    }

    /// The batch on its way is to be sent again, to another collector: its attempt was cut short.
    pub(crate) fn recall(&mut self) {
        if let Some(batch) = self.in_flight.take()
            && !batch.is_replayed()
            && let Err(batch) = self.queue.put_back(batch)
        {
            self.drop_points(FULL.into(), batch.unsaved_points());
        }
    }

    /// The batch on its way is lost.
    pub(crate) fn refused(&mut self, failure: Failure, now: Now) -> Vec<Notice> {
        let points = self.end_flight(false);
        let before = self.dropped_in_all();
        let is_news = self.refusals.refused(failure.error_type.clone(), points, before, now);
        let told = if is_news || self.outage.is_some() {
            self.lost(failure, points, now)
        } else {
            self.last_error = Some(failure.to_string());
            self.drop_points(failure.error_type, points);
            None
        };
        told.into_iter().chain(self.spool_emptied().map(Notice::from)).collect()
    }

    /// Points are lost that could not be sent as they are.
    pub(crate) fn lost(&mut self, failure: Failure, points: u64, now: Now) -> Option<Notice> {
        let notice = self.failed(failure.clone(), points, now);
        self.drop_points(failure.error_type, points);
        notice
    }

    /// The points that wait or are on their way, and that nothing but the memory holds.
    pub(crate) fn waiting_points(&self) -> u64 {
        self.queue.points() + self.in_flight.as_ref().map_or(0, Batch::unsaved_points)
    }

    /// Whether nothing waits in memory and nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_none()
    }

    /// Whether nothing waits anywhere.
    pub(crate) fn is_drained(&self) -> bool {
        let is_empty = |backlog: &Backlog| backlog.is_read() && backlog.index().requests() == 0;
        self.is_idle() && self.backlog.as_ref().is_none_or(is_empty)
    }

    /// Whether nothing is sent until something new is measured.
    pub(crate) fn waits_for_news(&self) -> bool {
        self.is_refusing() && self.is_idle()
    }

    /// Whether there is no hope for the collector at present, and all that waits is in the spool.
    pub(crate) fn is_safe_in_outage(&self) -> bool {
        self.backlog.is_some() && self.outage.is_some() && self.waiting_points() == 0
    }

    /// A copy of the counts.
    pub(crate) fn stats(&self, monotonic: Duration) -> Stats {
        Stats {
            sent_points: self.sent,
            dropped_points: self.dropped.clone(),
            retried_points: self.retried,
            waiting_points: self.waiting_points(),
            waiting_bytes: self.queue.bytes() + self.in_flight.as_ref().map_or(0, |batch| batch.body().len()),
            spool: self.backlog.as_ref().map(|backlog| SpoolStats {
                requests: backlog.index().requests(),
                points: backlog.index().points(),
                disk_bytes: backlog.index().disk_bytes(),
                oldest_age: backlog.index().oldest_age(monotonic).unwrap_or_default(),
                replayed_points: backlog.replayed,
                replayed_earlier_points: backlog.replayed_earlier,
            }),
            outage: self.outage.as_ref().map(|episode| episode.outage.clone()),
            last_error: self.last_error.clone(),
        }
    }

    /// Takes what was on its way off the books of the spool, and returns its points.
    fn end_flight(&mut self, was_taken: bool) -> u64 {
        let Some(batch) = self.in_flight.take() else { return 0 };
        if let (Some(name), Some(backlog)) = (batch.stored(), &mut self.backlog) {
            let entry = backlog.remove(name);
            if was_taken && batch.is_replayed() {
                let is_earlier = entry.is_some_and(|entry| entry.is_earlier);
                *(if is_earlier { &mut backlog.replayed_earlier } else { &mut backlog.replayed }) +=
                    batch.points();
            }
        }
        batch.points()
    }

    fn failed(&mut self, failure: Failure, lost: u64, now: Now) -> Option<Notice> {
        self.last_error = Some(failure.to_string());
        // It may have begun with refusals that were not told.
        let run = self.refusals.run();
        let Run { began, lost_before } =
            run.unwrap_or_else(|| Run { began: now, lost_before: self.dropped_in_all() });
        let episode = self.outage.get_or_insert_with(|| Episode {
            outage: Outage { since: began.wall, failure: failure.clone() },
            began: began.monotonic,
            lost_before,
            told: BTreeSet::new(),
        });
        episode.outage.failure = failure.clone();
        let news = episode.told.insert((failure.stage, failure.error_type.clone()));
        let waiting = self.waiting_points();
        news.then(|| Notice::Failing { failure, lost, waiting, place: self.place() })
    }

    fn overflow(&mut self, lost: u64) -> Option<Notice> {
        self.drop_points(FULL.into(), lost);
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

    fn remark(&mut self, rejected: u64, accepted: Accepted, now: Now) -> Option<Notice> {
        let (kind, text) = match &accepted.oddity {
            Some(oddity) => (Kind::Odd, &oddity.message),
            None if rejected > 0 => (Kind::Rejected, &accepted.message),
            None if accepted.message.is_empty() => return None,
            None => (Kind::Other, &accepted.message),
        };
        if !self.remarks.is_news(kind, text, now.monotonic) {
            return None;
        }
        Some(match accepted.oddity {
            Some(failure) => Notice::Odd { failure },
            None if rejected > 0 => Notice::Rejected { points: rejected, message: accepted.message },
            None => Notice::Remark { message: accepted.message },
        })
    }
}

mod refusals;
mod remarks;
mod spooling;
#[cfg(test)]
mod tests;
