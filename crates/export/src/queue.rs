//! Requests that wait to be sent, bounded in bytes. What does not fit pushes the oldest out: the newest
//! measurements are worth most.

use std::collections::VecDeque;

use bytes::Bytes;

/// An encoded request and how many data points it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
    points: u64,
    attempted: bool,
}

impl Batch {
    /// Joins an encoded `ExportMetricsServiceRequest` and the number of its data points.
    #[must_use]
    pub fn new(bytes: Bytes, points: u64) -> Self {
        Self { bytes, points, attempted: false }
    }

    /// The encoded request.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many data points it holds.
    #[must_use]
    pub fn points(&self) -> u64 {
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
}

impl Queue {
    /// An empty queue that holds at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { batches: VecDeque::new(), points: 0, bytes: 0, limit }
    }

    /// Appends a batch, and returns how many points were pushed out at the front to make room for it.
    ///
    /// # Errors
    /// Gives the batch back when it would not fit into an empty queue; nothing is pushed out then.
    pub(crate) fn push(&mut self, batch: Batch) -> Result<u64, Batch> {
        if batch.bytes.len() > self.limit {
            return Err(batch);
        }
        let mut lost = 0;
        while self.bytes + batch.bytes.len() > self.limit {
            let Some(oldest) = self.pop() else { break };
            lost += oldest.points;
        }
        self.count_in(&batch);
        self.batches.push_back(batch);
        Ok(lost)
    }

    /// Puts a batch that was taken and not delivered back to the front.
    ///
    /// # Errors
    /// Gives the batch back when there is no room any more: it is the oldest, so it is the one to go.
    pub(crate) fn put_back(&mut self, mut batch: Batch) -> Result<(), Batch> {
        if self.bytes + batch.bytes.len() > self.limit {
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

    fn count_in(&mut self, batch: &Batch) {
        self.bytes += batch.bytes.len();
        self.points += batch.points;
    }
}

#[cfg(test)]
mod tests;
