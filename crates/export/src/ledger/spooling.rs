//! What the keeper of the spool does and reports, on the same books.

use std::time::Duration;

use super::{FULL, Ledger, Now};
use crate::backlog::{Backlog, DiskWork, Task};
use crate::config::{SpoolConfig, SpoolMode};
use crate::notice::Place;
use crate::queue::{Batch, Moment};
use crate::spool::index::{Entry, Name};
use crate::spool::notice::SpoolNotice;
use crate::spool::store::Contents;

const EXPIRED: &str = "expired";
const CORRUPT: &str = "corrupt";

/// How long the disk may take for one thing before that is told.
const HANGS: Duration = Duration::from_secs(10);

impl Ledger {
    /// Joins or leaves a spool. What was stored in the one before stays there.
    pub(crate) fn set_spool(&mut self, spool: Option<&SpoolConfig>) {
        self.queue.mark_all_unsaved();
        if let Some(batch) = &mut self.in_flight {
            batch.set_unsaved(false);
        }
        self.backlog = spool.map(Backlog::new);
        (self.spool_full, self.spool_expired, self.spool_scans) = (None, None, 0);
        (self.disk_trouble, self.disk_busy) = Default::default();
    }

    /// Whether there is a spool that can be used.
    pub(crate) fn has_spool(&self) -> bool {
        self.backlog.is_some()
    }

    /// Other limits from now on.
    pub(crate) fn set_limits(&mut self, queue_bytes: usize, spool: Option<&SpoolConfig>) {
        self.queue.set_limit(queue_bytes);
        if let (Some(backlog), Some(config)) = (&mut self.backlog, spool) {
            backlog.reconfigure(config);
        }
    }

    /// Everything in memory is to be stored: the agent ends.
    pub(crate) fn end(&mut self) {
        self.is_ending = self.backlog.is_some();
    }

    /// Whether what could be stored still is not.
    pub(crate) fn is_ending_and_unsaved(&self) -> bool {
        self.is_ending && self.waiting_points() > 0
    }

    /// Whether the keeper has something to do, or is doing it, before the agent may end.
    pub(crate) fn has_disk_work(&self) -> bool {
        let has_to_delete = self.backlog.as_ref().is_some_and(Backlog::has_to_delete);
        self.is_ending_and_unsaved() || has_to_delete || self.disk_busy.is_some()
    }

    /// What the keeper is to do next, and what is to be told.
    pub(crate) fn next_task(&mut self, now: Now) -> (Option<Task>, Vec<SpoolNotice>) {
        let Some(backlog) = &mut self.backlog else { return (None, Vec::new()) };
        let expired = backlog.expire(now.monotonic);
        let notices: Vec<SpoolNotice> = self.dropped_from_spool(&expired, EXPIRED).into_iter().collect();
        let to_store = self.to_store().cloned();
        let held = self.in_flight.as_ref().and_then(Batch::stored);
        let is_ending = self.is_ending;
        let Some(backlog) = &mut self.backlog else { return (None, notices) };
        let mut task = backlog.next_task(now.monotonic);
        if backlog.is_read() {
            // One is read ahead of what is to be stored, or nothing would be replayed on a disk that is always at that.
            if task.is_none() && !is_ending {
                task = backlog.begin_load(held);
            }
            task = task
                .or_else(|| to_store.map(|batch| backlog.begin_store(&batch)))
                .or_else(|| backlog.begin_load(held));
        }
        self.disk_busy = task.as_ref().map(|task| (task.work(), now.monotonic));
        (task, notices)
    }

    /// Makes room for a record of that many bytes. Returns the files that have to go before it is written.
    pub(crate) fn make_room(&mut self, bytes: usize) -> (Vec<Name>, Option<SpoolNotice>) {
        let Some(backlog) = &mut self.backlog else { return (Vec::new(), None) };
        let full = backlog.make_room(bytes);
        let notice = self.dropped_from_spool(&full, FULL);
        (full, notice)
    }

    /// That went well. Tells when all does again.
    pub(crate) fn disk_works(&mut self, work: DiskWork) -> Option<SpoolNotice> {
        self.disk_busy = None;
        (self.disk_trouble.remove(&work) && self.disk_trouble.is_empty()).then_some(SpoolNotice::Works)
    }

    /// That failed. Tells it once.
    pub(crate) fn disk_fails(
        &mut self,
        work: DiskWork,
        problem: String,
        advice: &'static str,
    ) -> Option<SpoolNotice> {
        self.disk_busy = None;
        self.tell_trouble(work, problem, advice)
    }

    fn tell_trouble(&mut self, work: DiskWork, problem: String, advice: &'static str) -> Option<SpoolNotice> {
        let directory = self.backlog.as_ref()?.directory().clone();
        let limit = self.queue.limit();
        let news = self.disk_trouble.insert(work);
        news.then_some(SpoolNotice::Trouble { work, directory, problem, advice, limit })
    }

    /// The keeper cannot tell that the disk hangs: it is what hangs with it.
    pub(super) fn find_hanging_disk(&mut self, monotonic: Duration) -> Option<SpoolNotice> {
        let (work, since) = self.disk_busy?;
        if monotonic.saturating_sub(since) < HANGS {
            return None;
        }
        let problem = format!("the disk has not answered for {} s", HANGS.as_secs());
        self.tell_trouble(work, problem, "check the disk")
    }

    /// The oldest batch that is to be stored and is not.
    fn to_store(&self) -> Option<&Batch> {
        let backlog = self.backlog.as_ref()?;
        let wanted = self.is_ending || self.outage.is_some() || backlog.mode() == SpoolMode::Always;
        let on_its_way = self.in_flight.as_ref().filter(|batch| batch.is_to_be_stored());
        on_its_way.or_else(|| self.queue.first_to_be_stored()).filter(|_| wanted)
    }

    /// The directory has been read.
    pub(crate) fn scanned(&mut self, contents: &Contents, now: Now) -> Vec<SpoolNotice> {
        let Some(backlog) = &mut self.backlog else { return Vec::new() };
        let moment = Moment { wall: now.wall, monotonic: now.monotonic };
        let vanished: Vec<Name> =
            backlog.read(contents, moment).iter().map(|entry: &Entry| entry.name).collect();
        let found = backlog.index().requests();
        let directory = backlog.directory().clone();
        let is_start = vanished.is_empty() && self.spool_scans == 0;
        self.spool_scans += 1;
        let lost = self.drop_saved(&vanished, CORRUPT);
        let mut notices = Vec::new();
        if lost > 0 {
            notices.push(SpoolNotice::Vanished { requests: vanished.len(), points: lost });
        }
        if found > 0 && is_start {
            notices.push(SpoolNotice::Found { requests: found, directory: directory.clone() });
        }
        if let Some(name) = contents.foreign.first() {
            notices.push(SpoolNotice::Foreign { path: directory.join(name), count: contents.foreign.len() });
        }
        notices
    }

    /// A batch has been written and synchronized.
    pub(crate) fn stored(&mut self, name: Name, batch: &Batch, disk_bytes: u64) {
        let Some(backlog) = &mut self.backlog else { return };
        backlog.end_store();
        let on_its_way = self.in_flight.as_mut().filter(|in_flight| in_flight.id() == batch.id());
        let is_known = match on_its_way {
            Some(in_flight) => {
                in_flight.set_stored(name);
                true
            }
            None => self.queue.mark_stored(batch.id(), name),
        };
        if is_known {
            backlog.insert(name, disk_bytes, batch.enqueued());
            if self.outage.is_some() {
                backlog.stored_in_outage += 1;
                self.queue.release_stored();
            }
        } else {
            // The collector was faster, or the memory ran full meanwhile.
            backlog.remove(name);
        }
    }

    /// A batch could not be written. It stays in memory. Where the disk has no room and the memory will not have any for long,
    /// the oldest records go: they are older than what waits there.
    pub(crate) fn not_stored(&mut self, batch: &Batch, has_no_room: bool) -> Option<SpoolNotice> {
        let is_filling = self.queue.bytes() > self.queue.limit() / 2;
        let backlog = self.backlog.as_mut()?;
        backlog.end_store();
        if !has_no_room || !is_filling {
            return None;
        }
        let gone = backlog.give_up(batch.body().len());
        backlog.doom(&gone);
        let directory = backlog.directory().clone();
        self.dropped_from_spool(&gone, FULL).map(|_of_limit| SpoolNotice::DiskFull { directory })
    }

    /// Whether the spool is thought to hold anything.
    pub(crate) fn has_records(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.index().requests() > 0)
    }

    /// Files could not be deleted.
    pub(crate) fn not_deleted(&mut self, names: Vec<Name>, now: Now) {
        if let Some(backlog) = &mut self.backlog {
            backlog.not_deleted(names, now.monotonic);
        }
    }

    /// The directory has to be read again.
    pub(crate) fn forget_directory(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.forget_directory();
        }
    }

    /// A record has been read.
    pub(crate) fn loaded(&mut self, batch: Batch) {
        if let Some(backlog) = &mut self.backlog {
            backlog.end_load(Some(batch));
        }
    }

    /// A record cannot be sent. Whether its file is out of the way: else it has to go.
    pub(crate) fn corrupt(&mut self, name: Name, is_out_of_the_way: bool) {
        let Some(backlog) = &mut self.backlog else { return };
        backlog.end_load(None);
        let entry = if is_out_of_the_way { backlog.forget(name) } else { backlog.remove(name) };
        if entry.is_some() {
            self.drop_saved(&[name], CORRUPT);
        }
    }

    /// A record could not be read just now: those behind it are tried first.
    pub(crate) fn not_loaded(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.pass_over();
        }
    }

    fn dropped_from_spool(&mut self, names: &[Name], reason: &'static str) -> Option<SpoolNotice> {
        let lost = self.drop_saved(names, reason);
        if lost == 0 {
            return None;
        }
        let is_full = reason == FULL;
        let episode = if is_full { &mut self.spool_full } else { &mut self.spool_expired };
        let first = episode.is_none();
        *episode.get_or_insert(0) += lost;
        let bounds = self.backlog.as_ref()?.bounds();
        let notice = if is_full {
            SpoolNotice::Full { limit: bounds.bytes }
        } else {
            SpoolNotice::Expired { age: bounds.age }
        };
        first.then_some(notice)
    }

    /// Counts the points of records that are gone, but for those that the memory holds too.
    fn drop_saved(&mut self, names: &[Name], reason: &'static str) -> u64 {
        let mut lost = 0;
        for name in names {
            // From now on it is in memory alone. What had to make room, or was too old, is not stored again.
            let stays_away = reason != CORRUPT;
            let on_its_way = self.in_flight.as_mut().filter(|batch| batch.stored() == Some(*name));
            if let Some(batch) = on_its_way {
                batch.set_unsaved(stays_away);
            } else if !self.queue.mark_unsaved(*name, stays_away) {
                lost += name.points;
            }
        }
        self.drop_points(reason.into(), lost);
        lost
    }

    pub(super) fn spool_emptied(&mut self) -> Option<SpoolNotice> {
        let is_empty = self.backlog.as_ref().is_some_and(|backlog| backlog.index().requests() == 0);
        if !is_empty || (self.spool_full.is_none() && self.spool_expired.is_none()) {
            return None;
        }
        let full = self.spool_full.take().unwrap_or_default();
        let expired = self.spool_expired.take().unwrap_or_default();
        Some(SpoolNotice::Emptied { full, expired })
    }

    pub(super) fn place(&self) -> Option<Place> {
        let cannot_store =
            [DiskWork::Scan, DiskWork::Write].iter().any(|work| self.disk_trouble.contains(work));
        let backlog = self.backlog.as_ref().filter(|_| !cannot_store)?;
        let bounds = backlog.bounds();
        Some(Place { directory: backlog.directory().clone(), bytes: bounds.bytes, age: bounds.age })
    }
}
