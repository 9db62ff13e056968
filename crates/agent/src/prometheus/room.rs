//! Who is connected, and who has to go where another comes.
//!
//! There are so many places. Whoever may connect could take them all, and say nothing, or not read: the one who comes then
//! takes the place of somebody who has had his time, so that nobody can keep others out for longer than that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use vms_core::Clock;

/// Connections at once.
pub(super) const PLACES: usize = 32;

/// For how long whoever has asked is answered, although others wait for his place. What thousands of links have to tell takes
/// a tenth of a second.
pub(super) const TURN: Duration = Duration::from_millis(500);

/// The places.
#[derive(Debug, Clone, Default)]
pub(super) struct Room(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    taken: Mutex<Taken>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    came: u64,
    /// In the order in which they came.
    places: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    /// When the head of the request had been read.
    asked: Option<Duration>,
    /// Dropped when he has to go.
    _stay: oneshot::Sender<Infallible>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    room: Room,
}

/// Comes to an end when the place is given to somebody else.
pub(super) type Notice = oneshot::Receiver<Infallible>;

impl Room {
    /// Waits for a place: at once there is that of who has waited longest without having asked for anything, and after a
    /// [`TURN`] that of anybody.
    pub(super) async fn enter(&self, clock: &impl Clock) -> (Place, Notice) {
        loop {
            match self.try_enter(clock.monotonic()) {
                Ok(entered) => return entered,
                // Whichever is first.
                Err(wait) => drop(tokio::time::timeout(wait, self.0.left.notified()).await),
            }
        }
    }

    /// A place, or for how long there is none unless somebody leaves.
    fn try_enter(&self, now: Duration) -> Result<(Place, Notice), Duration> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.places.len() >= PLACES {
            let silent =
                taken.places.iter().find(|(_, held)| held.asked.is_none()).map(|(number, _)| *number);
            let number = match silent {
                Some(number) => number,
                None => taken.longest_answered(now)?,
            };
            taken.places.remove(&number);
        }
        let (stay, notice) = oneshot::channel();
        taken.came += 1;
        let number = taken.came;
        taken.places.insert(number, Held { asked: None, _stay: stay });
        drop(taken);
        Ok((Place { number, room: self.clone() }, notice))
    }
}

impl Taken {
    /// Who has been answered for longest, all having asked, or for how long his turn still is.
    fn longest_answered(&self, now: Duration) -> Result<u64, Duration> {
        let asked = self.places.iter().filter_map(|(number, held)| Some((held.asked?, *number)));
        let Some((since, number)) = asked.min() else { return Err(TURN) };
        let left = TURN.saturating_sub(now.saturating_sub(since));
        if left.is_zero() { Ok(number) } else { Err(left) }
    }
}

impl Place {
    /// Takes note that the head of the request was read.
    pub(super) fn ask(&self, now: Duration) {
        let mut taken = self.room.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = taken.places.get_mut(&self.number) {
            held.asked = Some(now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.0.taken.lock().unwrap_or_else(PoisonError::into_inner).places.remove(&self.number);
        self.room.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests;
