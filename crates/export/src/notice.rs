//! What an operator is told: once for each outage and each trouble, and once at its end.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::Failure;

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
    /// The collector did not take all points.
    Rejected { points: u64, message: String },
    /// The collector took all points, with a remark.
    Remark { message: String },
    /// What answered says success, but not as a collector would.
    Odd { failure: Failure },
    /// An earlier run left something.
    SpoolFound { requests: u64, directory: PathBuf },
    /// The directory holds what is not the spool's.
    SpoolForeign { path: PathBuf, count: usize },
    /// There is no spool: the directory cannot be used.
    SpoolUnusable { directory: PathBuf, problem: String, limit: usize },
    /// What another spool holds is left there.
    SpoolLeft { directory: PathBuf, requests: u64 },
    /// Nothing can be written.
    SpoolTrouble { directory: PathBuf, problem: String, advice: &'static str, limit: usize },
    /// It can again.
    SpoolWorks,
    /// A record cannot be sent.
    SpoolCorrupt { problem: String, points: u64, kept: Option<PathBuf> },
    /// Records that were there are not any more.
    SpoolVanished { requests: usize, points: u64 },
    /// The first records had to make room.
    SpoolFull { limit: u64 },
    /// The first records were too old.
    Expired { age: Duration },
    /// The spool is empty, after records were dropped from it.
    SpoolEmptied { full: u64, expired: u64 },
}

/// Where what waits is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) age: Duration,
}

impl Notice {
    /// Whether it is good news, or none.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Self::Recovered { .. } | Self::SpoolFound { .. } | Self::SpoolWorks)
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
                "request refused: {failure}; {}; its {lost} points are lost, measuring goes on",
                failure.advice
            ),
            Self::Recovered { lasted, lost, waiting, spooled, replaying } => {
                let lasted = lasted.as_secs();
                write!(formatter, "takes data again after {lasted} s: {lost} points were lost, ")?;
                match spooled {
                    None => write!(formatter, "{waiting} that waited are being sent"),
                    Some(spooled) => write!(
                        formatter,
                        "{spooled} requests were spooled, {replaying} in the spool are being replayed"
                    ),
                }
            }
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
            Self::SpoolFound { requests, directory } => write!(
                formatter,
                "{requests} requests of an earlier run are in the spool {}: they are being replayed",
                directory.display()
            ),
            Self::SpoolForeign { path, count } => write!(
                formatter,
                "{} is not the spool's, as {count} in all: it is left alone; give the spool a directory of its own",
                path.display()
            ),
            Self::SpoolUnusable { directory, problem, limit } => write!(
                formatter,
                "the spool {} cannot be used: {problem}; {limit} bytes of memory serve instead, and do not outlast the \
                 agent; make the directory writable, or set export.spool.directory, or export.spool.mode to off",
                directory.display()
            ),
            Self::SpoolLeft { directory, requests } => write!(
                formatter,
                "{requests} requests are left in the spool {}: they are sent when an agent starts with that directory",
                directory.display()
            ),
            Self::SpoolTrouble { directory, problem, advice, limit } => write!(
                formatter,
                "nothing can be written to the spool {}: {problem}; {limit} bytes of memory serve meanwhile; {advice}",
                directory.display()
            ),
            Self::SpoolWorks => formatter.write_str("the spool can be written to again"),
            Self::SpoolCorrupt { problem, points, kept } => {
                write!(formatter, "{problem}: its {points} points are lost")?;
                match kept {
                    Some(kept) => write!(formatter, "; it is kept as {}", kept.display()),
                    None => Ok(()),
                }
            }
            Self::SpoolVanished { requests, points } => write!(
                formatter,
                "{requests} requests have gone from the spool, and not by the agent's doing: their {points} points are lost; \
                 leave its directory to the agent"
            ),
            Self::SpoolFull { limit } => write!(
                formatter,
                "the spool is full ({limit} bytes): the oldest points are being dropped; bring the collector back, or \
                 raise export.spool.maxBytes"
            ),
            Self::Expired { age } => write!(
                formatter,
                "points that have waited {} s are being dropped from the spool; bring the collector back, or raise \
                 export.spool.maxAge",
                age.as_secs()
            ),
            Self::SpoolEmptied { full, expired } => write!(
                formatter,
                "the spool is empty again: {full} points were dropped for want of room, {expired} for their age"
            ),
        }
    }
}
