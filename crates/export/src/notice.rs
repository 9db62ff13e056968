//! What an operator is told: once for each outage and each trouble, and once at its end.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::Failure;
use crate::spool::notice::SpoolNotice;

/// What an operator is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The first failure of an outage, or the first of another kind in it.
    Failing { failure: Failure, lost: u64, waiting: u64, place: Option<Place> },
    /// A request got through again. `spooled` batches were stored meanwhile, where there is a spool.
    Recovered { lasted: Duration, lost: u64, waiting: u64, spooled: Option<u64>, replaying: u64 },
    /// The first points were pushed out of memory.
    QueueFull { limit: usize },
    /// Nothing waits in memory any more.
    QueueEmptied { lost: u64 },
    /// Requests were refused that were not told one by one, as others like them had been.
    Refused { requests: u64, points: u64 },
    /// The collector did not take all points.
    Rejected { points: u64, message: String },
    /// The collector took all points, with a remark.
    Remark { message: String },
    /// What answered says success, but not as a collector would.
    Odd { failure: Failure },
    /// Something about the spool.
    Spool(SpoolNotice),
}

/// Where what waits is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) age: Duration,
}

impl From<SpoolNotice> for Notice {
    fn from(notice: SpoolNotice) -> Self {
        Self::Spool(notice)
    }
}

impl Notice {
    /// Whether it is good news, or none.
    pub(crate) fn is_good(&self) -> bool {
        match self {
            Self::Recovered { .. } => true,
            Self::Spool(notice) => notice.is_good(),
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directory, bytes, age } = self;
        write!(formatter, "{} (up to {bytes} bytes and {} s)", directory.display(), age.as_secs())
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failing { failure, lost: 0, waiting, place } => {
                write!(formatter, "{} failed: {failure}; {}; ", failure.stage, failure.advice)?;
                match place {
                    Some(place) => write!(formatter, "data is kept in {place}, measuring goes on"),
                    None => write!(formatter, "{waiting} points wait, measuring goes on"),
                }
            }
            Self::Failing { failure, lost, .. } => write!(
                formatter,
                "request refused: {failure}; {}; its {lost} points are lost, measuring goes on; others like it are \
                 told together while some get through",
                failure.advice
            ),
            Self::Recovered { lasted, lost, waiting, spooled, replaying } => {
                write!(
                    formatter,
                    "takes data again after {} s: {lost} points were lost, ",
                    lasted.as_secs()
                )?;
                match spooled {
                    None => write!(formatter, "{waiting} that waited are being sent"),
                    Some(spooled) => {
                        write!(formatter, "{spooled} requests were spooled, ")?;
                        write!(formatter, "{replaying} in the spool are being replayed")
                    }
                }
            }
            Self::QueueFull { limit } => write!(
                formatter,
                "the queue is full ({limit} bytes): the oldest points are being dropped; bring the collector back, \
                 or raise export.queueBytes"
            ),
            Self::QueueEmptied { lost } => {
                write!(formatter, "the queue, which was full, is empty again: {lost} points were dropped")
            }
            Self::Refused { requests, points } => write!(
                formatter,
                "{requests} more requests were refused like those that were told before: their {points} points are lost"
            ),
            Self::Rejected { points, message } => write!(
                formatter,
                "{points} points rejected: {message}; they are lost, and the same message is not repeated here; \
                 see the collector's log for which, and correct what it objects to"
            ),
            Self::Remark { message } => {
                write!(formatter, "remark: {message}; the same message is not repeated here")
            }
            Self::Odd { failure } => {
                write!(formatter, "{failure}; {}; the points count as sent", failure.advice)
            }
            Self::Spool(notice) => notice.fmt(formatter),
        }
    }
}
