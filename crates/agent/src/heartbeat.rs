//! The heartbeat: a small file that says when the measuring thread last came round. `vms-agent health` reads it.
//!
//! A file and no socket: it needs no port, no thread that answers, and works where the root file system is read-only, for
//! every container has a /dev/shm. The lock on it (`fcntl(2)`, `F_SETLK`) tells whether whoever wrote it still runs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags, Stat, fcntl_lock, fstat, mkdir, open, openat, stat};
use rustix::process::{Flock, FlockType, fcntl_getlk, geteuid, getpid};
use serde::{Deserialize, Serialize};

use crate::environment::Environment;

/// The file's name in whichever directory it is.
const FILE_NAME: &str = "heartbeat";

/// The record has this length, so that it is always written over in whole.
const RECORD_BYTES: usize = 128;

/// A heartbeat that is this process's own.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// Locked for as long as it is open.
    file: File,
    path: PathBuf,
}

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// When the thread came round, on the clock that all processes of a host share (`CLOCK_MONOTONIC`).
    uptime_ms: u64,
    /// How many cycles it had measured.
    cycles: u64,
}

/// The state of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vitality {
    /// Of the agent, as this process's namespace numbers it.
    pub(crate) pid: i32,
    /// How long ago its measuring thread came round.
    pub(crate) age: Duration,
    /// How many cycles it has measured since its start.
    pub(crate) cycles: u64,
}

/// Why nothing is known of an agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    /// There is no file in any of the places.
    #[error("no agent has left a heartbeat in {}", shown(.0))]
    NoFile(Vec<PathBuf>),
    /// Nobody holds the lock.
    #[error("{}: the agent that wrote it has ended", .0.display())]
    Ended(PathBuf),
    /// It is not what an agent writes.
    #[error("{}: not a heartbeat", .0.display())]
    Malformed(PathBuf),
    /// The system refuses.
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// Where a heartbeat may be, best first: the directory that systemd made (`RuntimeDirectory=`) and no other; without one
/// that which root may make, and that which everybody may.
pub(crate) fn places(environment: &Environment) -> Vec<PathBuf> {
    // systemd.exec(5): several directories are separated by colons.
    let given = environment.get("RUNTIME_DIRECTORY").and_then(|given| given.split(':').next());
    let own = || vec!["/run/vms-agent".into(), format!("/dev/shm/vms-agent-{}", geteuid().as_raw()).into()];
    given.map_or_else(own, |given| vec![given.into()])
}

impl Heartbeat {
    /// How often there is a beat at the least, however long the interval is.
    pub(crate) const EVERY: Duration = Duration::from_secs(15);

    /// Takes the first of the places that can be had.
    ///
    /// # Errors
    /// Why the last of them cannot: another agent has it, or the system refuses.
    pub(crate) fn begin(places: &[PathBuf]) -> io::Result<Self> {
        let mut refused = io::Error::from(io::ErrorKind::NotFound);
        for directory in places {
            match take(directory) {
                Ok(file) => return Ok(Self { file, path: directory.join(FILE_NAME) }),
                Err(error) => {
                    refused = io::Error::new(error.kind(), format!("{}: {error}", directory.display()));
                }
            }
        }
        Err(refused)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Says that the thread has come round.
    pub(crate) fn beat(&self, uptime: Duration, cycles: u64) {
        let uptime_ms = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        let written = serde_json::to_vec(&Record { uptime_ms, cycles }).map_err(io::Error::from);
        let written = written.and_then(|mut record| {
            record.resize(RECORD_BYTES - 1, b' ');
            record.push(b'\n');
            self.file.write_all_at(&record, 0)
        });
        if let Err(error) = written {
            // Whoever waits for the beat will tell.
            tracing::debug!(%error, path = %self.path.display(), "the heartbeat cannot be written");
        }
    }
}

/// Reads the heartbeat of the agent in the first of the places that has one.
///
/// # Errors
/// Why nothing can be said of an agent.
pub(crate) fn read(places: &[PathBuf], uptime: Duration) -> Result<Vitality, Unknown> {
    for directory in places {
        let path = directory.join(FILE_NAME);
        let file = match open_trusted(directory).and_then(|directory| {
            Ok(File::from(openat(&directory, FILE_NAME, OFlags::RDONLY | READ_FLAGS, Mode::empty())?))
        }) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(Unknown::Io(path, error)),
        };
        return read_file(&file, path, uptime);
    }
    Err(Unknown::NoFile(places.to_vec()))
}

fn read_file(file: &File, path: PathBuf, uptime: Duration) -> Result<Vitality, Unknown> {
    let holder = match fcntl_getlk(file, &Flock::from(FlockType::WriteLock)) {
        Ok(holder) => holder,
        Err(error) => return Err(Unknown::Io(path, error.into())),
    };
    let Some(holder) = holder else {
        return Err(Unknown::Ended(path));
    };
    let mut record = [0; RECORD_BYTES];
    if file.read_exact_at(&mut record, 0).is_err() {
        return Err(Unknown::Malformed(path));
    }
    match serde_json::from_slice::<Record>(&record) {
        Ok(record) => Ok(Vitality {
            // 0 where the holder is in a namespace that this process does not see into.
            pid: holder.pid.map_or(0, |pid| pid.as_raw_nonzero().get()),
            age: uptime.saturating_sub(Duration::from_millis(record.uptime_ms)),
            cycles: record.cycles,
        }),
        Err(_malformed) => Err(Unknown::Malformed(path)),
    }
}

/// A FIFO must not be waited for, and a link not be followed to a file of somebody else.
const READ_FLAGS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

/// Makes the file, and locks it.
fn take(directory: &Path) -> io::Result<File> {
    match mkdir(directory, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = open_own(directory)?;
    let flags = OFlags::RDWR | OFlags::CREATE | READ_FLAGS;
    let file = openat(&directory, FILE_NAME, flags, Mode::from_raw_mode(0o644))?;
    if fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let holder = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok().flatten();
        let pid = holder.and_then(|holder| holder.pid).unwrap_or_else(getpid).as_raw_nonzero();
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("the agent with PID {pid} has it")));
    }
    Ok(File::from(file))
}

/// Opens a directory that nobody else can have prepared: this user's or root's, and writable by its owner alone.
fn open_own(directory: &Path) -> io::Result<OwnedFd> {
    let opened = open_directory(directory)?;
    if is_own(&fstat(&opened)?) { Ok(opened) } else { Err(foreign()) }
}

/// Opens a directory to read: one's own, or that of an agent that runs as another user, where not everybody could have
/// made it.
fn open_trusted(directory: &Path) -> io::Result<OwnedFd> {
    let opened = open_directory(directory)?;
    let parent = stat(directory.parent().unwrap_or(directory))?;
    if parent.st_mode & 0o002 == 0 || is_own(&fstat(&opened)?) { Ok(opened) } else { Err(foreign()) }
}

fn open_directory(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::RDONLY;
    Ok(open(directory, flags, Mode::empty())?)
}

fn is_own(directory: &Stat) -> bool {
    (directory.st_uid == geteuid().as_raw() || directory.st_uid == 0) && directory.st_mode & 0o022 == 0
}

fn foreign() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "another user can write there")
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn shown(places: &[PathBuf]) -> String {
    let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
    places.join(", ")
}

#[cfg(test)]
mod tests;
