//! Requests that wait to be sent, bounded in bytes. What does not fit pushes the oldest out: the newest
//! measurements are worth most.
//!
//! The bound is for what waits because the collector is away. What one cycle measures is handed over at once, before
//! any of it can be sent: it waits in full, however much it is, and only older cycles make room for it.

use std::collections::VecDeque;

use bytes::Bytes;

/// A request as it goes on the wire, and how many data points it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    bytes: Bytes,
    points: u64,
    attempted: bool,
    /// The cycle that measured it, as the queue counts them.
    cycle: u64,
}

impl Batch {
    /// Joins a request as it goes on the wire and the number of its data points.
    pub(crate) fn new(bytes: Bytes, points: u64) -> Self {
        Self { bytes, points, attempted: false, cycle: 0 }
    }

    /// The request.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
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
    points: u64,
    bytes: usize,
    limit: usize,
    /// That of the last batch pushed.
    cycle: u64,
    /// Whether the next batch is of a new one.
    begins_cycle: bool,
}

impl Queue {
    /// An empty queue that holds at most `limit` bytes, or one cycle where that is more.
    pub(crate) fn new(limit: usize) -> Self {
        Self { batches: VecDeque::new(), points: 0, bytes: 0, limit, cycle: 0, begins_cycle: false }
    }

    /// Begins a cycle: what is pushed from now on is of it. What was measured last is no older for a cycle that brings
    /// nothing.
    pub(crate) fn begin_cycle(&mut self) {
        self.begins_cycle = true;
    }

    /// Appends a batch, and returns how many points of earlier cycles were pushed out at the front to make room for it.
    pub(crate) fn push(&mut self, mut batch: Batch) -> u64 {
        self.cycle += u64::from(std::mem::take(&mut self.begins_cycle));
        batch.cycle = self.cycle;
        let mut lost = 0;
        while self.would_overflow(&batch)
            && self.batches.front().is_some_and(|oldest| self.is_earlier(oldest))
        {
            lost += self.pop().map_or(0, |oldest| oldest.points);
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
        self.bytes -= batch.bytes.len();
        self.points -= batch.points;
        Some(batch)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The points that wait.
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
        self.bytes + batch.bytes.len() > self.limit
    }

    fn is_earlier(&self, batch: &Batch) -> bool {
        batch.cycle != self.cycle
    }

    fn count_in(&mut self, batch: &Batch) {
        self.bytes += batch.bytes.len();
        self.points += batch.points;
    }
}

#[cfg(test)]
mod tests;
