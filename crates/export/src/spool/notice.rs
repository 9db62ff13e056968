//! What an operator is told of the spool.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::backlog::DiskWork;

/// What an operator is to be told of the spool, once for each trouble and once at its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SpoolNotice {
    /// An earlier run left something.
    Found { requests: u64, directory: PathBuf },
    /// The directory holds what is not the spool's.
    Foreign { path: PathBuf, count: usize },
    /// There is no spool: the directory cannot be used.
    Unusable { directory: PathBuf, problem: String, limit: usize },
    /// A disk that was slow at the start has answered: another agent uses the directory.
    InUse { directory: PathBuf, holder: String },
    /// What another spool holds is left there.
    Left { directory: PathBuf, requests: u64 },
    /// The disk fails in something.
    Trouble { work: DiskWork, directory: PathBuf, problem: String, advice: &'static str, limit: usize },
    /// It does not any more, or a spool that could not be used now is.
    Works,
    /// The first records had to make room on a disk that has none.
    DiskFull { directory: PathBuf },
    /// A record cannot be sent.
    Corrupt { problem: String, points: u64, kept: Option<PathBuf>, advice: &'static str },
    /// Records that were there are not any more.
    Vanished { requests: usize, points: u64 },
    /// The first records had to make room.
    Full { limit: u64 },
    /// The first records were too old.
    Expired { age: Duration },
    /// The spool is empty, after records were dropped from it.
    Emptied { full: u64, expired: u64 },
}

impl SpoolNotice {
    /// Whether it is good news, or none.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Self::Found { .. } | Self::Works)
    }
}

impl DiskWork {
    /// What is said before and after the name of the spool in which it fails.
    fn failure(self) -> (&'static str, &'static str) {
        match self {
            Self::Scan => ("", " cannot be read"),
            Self::Write => ("nothing can be written to ", ""),
            Self::Read => ("a request in ", " cannot be read"),
            Self::Delete => ("requests that are done with cannot be deleted from ", ""),
        }
    }
}

impl fmt::Display for SpoolNotice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { requests, directory } => write!(
                formatter,
                "{requests} requests of an earlier run are in the spool {}: they are being replayed",
                directory.display()
            ),
            Self::Foreign { path, count } => write!(
                formatter,
                "{} is not the spool's, as {count} in all: it is left alone; give the spool a directory of its own",
                path.display()
            ),
            Self::Unusable { directory, problem, limit } => write!(
                formatter,
                "the spool {} cannot be used: {problem}; {limit} bytes of memory serve instead, and do not outlast the \
                 agent; it is tried again from time to time; make the directory writable, with a restart if it was missing, \
                 or set export.spool.directory, or export.spool.mode to off",
                directory.display()
            ),
            Self::InUse { directory, holder } => write!(
                formatter,
                "the spool {} is used by process {holder}: memory serves, and does not outlast the agent; give each agent a \
                 directory of its own by export.spool.directory, or stop the other",
                directory.display()
            ),
            Self::Left { directory, requests } => write!(
                formatter,
                "{requests} requests are left in the spool {}: they are sent when an agent starts with that directory",
                directory.display()
            ),
            Self::Trouble { work, directory, problem, advice, limit } => {
                let directory = directory.display();
                let (before, after) = work.failure();
                write!(formatter, "{before}the spool {directory}{after}: {problem}; ")?;
                match work {
                    DiskWork::Scan | DiskWork::Write => {
                        write!(formatter, "{limit} bytes of memory serve meanwhile; {advice}")
                    }
                    DiskWork::Read => write!(formatter, "it waits, with those behind it; {advice}"),
                    DiskWork::Delete => write!(formatter, "a restart would send them again; {advice}"),
                }
            }
            Self::Works => formatter.write_str("the spool can be used again"),
            Self::DiskFull { directory } => write!(
                formatter,
                "the disk of the spool {} is full, and soon the memory: the oldest points are being dropped from the spool; \
                 free space on that file system, or bring the collector back",
                directory.display()
            ),
            Self::Corrupt { problem, points, kept, advice } => {
                write!(formatter, "{problem}: its {points} points are not sent; ")?;
                if let Some(kept) = kept {
                    write!(formatter, "it is kept as {}; ", kept.display())?;
                }
                formatter.write_str(advice)
            }
            Self::Vanished { requests, points } => write!(
                formatter,
                "{requests} requests have gone from the spool, and not by the agent's doing: their {points} points are lost; \
                 leave its directory to the agent"
            ),
            Self::Full { limit } => write!(
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
            Self::Emptied { full, expired } => write!(
                formatter,
                "the spool is empty again: {full} points were dropped for want of room, {expired} for their age"
            ),
        }
    }
}
