//! Requests that wait to be sent, bounded in bytes. What does not fit pushes the oldest out: the newest
//! measurements are worth most.
//!
//! The bound is for what waits because the collector is away. What one cycle measures is handed over at once, before
//! any of it can be sent: it waits in full, however much it is, and only older cycles make room for it.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::spool::index::Name;
use crate::transport::Body;

/// A request as it goes on the wire, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    body: Body,
    points: u64,
    attempted: bool,
    /// The cycle that measured it, as the queue counts them.
    cycle: u64,
    /// Tells it from all others; 0 for one that was never pushed.
    id: u64,
    enqueued: Moment,
    /// The record of the spool that holds it too.
    stored: Option<Name>,
    /// Its record had to make room: it is not to have another one.
    stays_away: bool,
}

/// When a batch was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) wall: SystemTime,
    pub(crate) monotonic: Duration,
}

impl Batch {
    /// Joins a request as it goes on the wire and the number of its data points.
    pub(crate) fn new(body: Body, points: u64, enqueued: Moment) -> Self {
        Self { body, points, attempted: false, cycle: 0, id: 0, enqueued, stored: None, stays_away: false }
    }

    /// One that was read from the spool.
    pub(crate) fn from_record(body: Body, name: Name, enqueued: Moment) -> Self {
        Self { stored: Some(name), ..Self::new(body, name.points, enqueued) }
    }

    /// The request.
    pub(crate) fn body(&self) -> &Body {
        &self.body
    }

    /// Which it is, among those that were pushed.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it was read from the spool: then it is not put back anywhere.
    pub(crate) fn is_replayed(&self) -> bool {
        self.id == 0 && self.stored.is_some()
    }

    /// When it was handed over.
    pub(crate) fn enqueued(&self) -> Moment {
        self.enqueued
    }

    /// The record of the spool that holds it too.
    pub(crate) fn stored(&self) -> Option<Name> {
        self.stored
    }

    /// Remembers the record that holds it too.
    pub(crate) fn set_stored(&mut self, name: Name) {
        self.stored = Some(name);
    }

    /// Remembers that no record holds it any more, and whether it is not to have another.
    pub(crate) fn set_unsaved(&mut self, stays_away: bool) {
        self.stored = None;
        self.stays_away |= stays_away;
    }

    /// Whether it belongs into a spool and is in none.
    pub(crate) fn is_to_be_stored(&self) -> bool {
        self.stored.is_none() && !self.stays_away
    }

    #[cfg(test)]
    pub(crate) fn set_enqueued(&mut self, monotonic: Duration) {
        self.enqueued.monotonic = monotonic;
    }

    /// It was sent before, without success.
    pub(crate) fn set_attempted(&mut self) {
        self.attempted = true;
    }

    /// The points that would be lost with it.
    pub(crate) fn unsaved_points(&self) -> u64 {
        if self.stored.is_some() { 0 } else { self.points }
    }

    /// How many data points it holds.
    pub(crate) fn points(&self) -> u64 {
        self.points
    }

    /// Whether it was sent before, without success.
    pub(crate) fn was_attempted(&self) -> bool {
        self.attempted
    }
}

/// Batches in the order in which they are to be sent.
#[derive(Debug)]
pub(crate) struct Queue {
    batches: VecDeque<Batch>,
    /// Of batches that no record holds.
    points: u64,
    bytes: usize,
    limit: usize,
    /// The id of the last batch pushed.
    last_id: u64,
    /// That of the last batch pushed.
    cycle: u64,
    /// Whether the next batch is of a new one.
    begins_cycle: bool,
}

impl Queue {
    /// An empty queue that holds at most `limit` bytes, or one cycle where that is more.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            batches: VecDeque::new(),
            points: 0,
            bytes: 0,
            limit,
            last_id: 0,
            cycle: 0,
            begins_cycle: false,
        }
    }

    /// Begins a cycle: what is pushed from now on is of it. What was measured last is no older for a cycle that brings
    /// nothing.
    pub(crate) fn begin_cycle(&mut self) {
        self.begins_cycle = true;
    }

    /// Changes what is held from now on.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Appends a batch, and returns how many points of earlier cycles were pushed out at the front to make room for it and
    /// are lost.
    pub(crate) fn push(&mut self, mut batch: Batch) -> u64 {
        self.cycle += u64::from(std::mem::take(&mut self.begins_cycle));
        batch.cycle = self.cycle;
        self.last_id += 1;
        batch.id = self.last_id;
        let mut lost = 0;
        while self.would_overflow(&batch)
            && self.batches.front().is_some_and(|oldest| self.is_earlier(oldest))
        {
            lost += self.pop().map_or(0, |oldest| oldest.unsaved_points());
        }
        self.count_in(&batch);
        self.batches.push_back(batch);
        lost
    }

    /// Puts a batch that was taken and not delivered back to the front.
    ///
    /// # Errors
    /// Gives the batch back when it is of an earlier cycle and there is no room any more: it is the oldest, so it is
    /// the one to go.
    #[expect(clippy::result_large_err, reason = "it is given back to whoever had it")]
    pub(crate) fn put_back(&mut self, mut batch: Batch) -> Result<(), Batch> {
        if self.would_overflow(&batch) && self.is_earlier(&batch) {
            return Err(batch);
        }
        batch.attempted = true;
        self.count_in(&batch);
        self.batches.push_front(batch);
        Ok(())
    }

    /// Takes the oldest batch.
    pub(crate) fn pop(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        self.count_out(&batch);
        Some(batch)
    }

    /// The oldest batch that belongs into a spool and is in none.
    pub(crate) fn first_to_be_stored(&self) -> Option<&Batch> {
        self.batches.iter().find(|batch| batch.is_to_be_stored())
    }

    /// Remembers which record holds a batch too. Says whether the batch is here.
    pub(crate) fn mark_stored(&mut self, id: u64, name: Name) -> bool {
        let Some(batch) = self.batches.iter_mut().find(|batch| batch.id == id) else { return false };
        self.points -= batch.unsaved_points();
        batch.set_stored(name);
        true
    }

    /// Forgets that a batch is in that record. Says whether there is such a batch.
    pub(crate) fn mark_unsaved(&mut self, name: Name, stays_away: bool) -> bool {
        let Some(batch) = self.batches.iter_mut().find(|batch| batch.stored == Some(name)) else {
            return false;
        };
        batch.set_unsaved(stays_away);
        self.points += batch.points;
        true
    }

    /// Forgets of all batches which record held them.
    pub(crate) fn mark_all_unsaved(&mut self) {
        for batch in &mut self.batches {
            self.points += batch.points - batch.unsaved_points();
            batch.stored = None;
            batch.stays_away = false;
        }
    }

    /// Lets go of what the spool holds too, but for the newest batch: that is tried first when the collector may be back.
    pub(crate) fn release_stored(&mut self) {
        let newest = self.last_id;
        let bytes = &mut self.bytes;
        self.batches.retain(|batch| {
            let stays = batch.stored.is_none() || batch.id == newest;
            if !stays {
                *bytes -= batch.body.len();
            }
            stays
        });
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The points that wait here and nowhere else.
    pub(crate) fn points(&self) -> u64 {
        self.points
    }

    /// The bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes that may wait.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    fn would_overflow(&self, batch: &Batch) -> bool {
        self.bytes + batch.body.len() > self.limit
    }

    fn is_earlier(&self, batch: &Batch) -> bool {
        batch.cycle != self.cycle
    }

    fn count_in(&mut self, batch: &Batch) {
        self.bytes += batch.body.len();
        self.points += batch.unsaved_points();
    }

    fn count_out(&mut self, batch: &Batch) {
        self.bytes -= batch.body.len();
        self.points -= batch.unsaved_points();
    }
}

#[cfg(test)]
mod tests;
