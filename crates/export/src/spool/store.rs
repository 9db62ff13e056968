//! The directory of a spool: files written so that they are whole or not there, under a lock.
//!
//! Everything below the directory is reached through its descriptor and without following links. The way to the
//! directory itself may hold links: it is the operator's.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, fdatasync, flock, fstat, fsync,
    ftruncate, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::index::Name;

const LOCK: &str = "lock";
const SET_ASIDE: &str = "set-aside";
/// The agent's own directory in one to which others may write.
const OWN: &str = "vms-agent";
/// The beginning of the name of a file that is being written.
const UNFINISHED: &str = ".new-";

/// What is kept of files that could not be read, for whoever wants to know why.
const MAX_SET_ASIDE_FILES: usize = 16;
/// It is beside `export.spool.maxBytes`.
const MAX_SET_ASIDE_BYTES: u64 = 1 << 20;

/// No record is larger: requests have at most half a MiB before compression, unless one point alone has more.
const MAX_RECORD_BYTES: u64 = 8 << 20;

/// Deletions that a power loss may undo, so that their requests are sent again.
const UNSYNCED_DELETIONS: u32 = 32;

/// Group and others may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// An open spool directory, which no other process can open while this lives.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    directory: OwnedFd,
    /// The kernel releases it with the process, however that ends.
    _lock: File,
    unsynced_deletions: u32,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// A process uses it: another one, or this one, which has not let go of it yet.
    #[error("it is used by process {holder}")]
    InUse {
        /// The process, as it called itself.
        holder: String,
        /// Whether that is this one.
        is_own: bool,
    },
    /// The kernel refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A file that is a record by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: Name,
    pub(crate) disk_bytes: u64,
}

/// What lies in a spool directory.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) records: Vec<Found>,
    /// Names that are not the spool's. They are left alone.
    pub(crate) foreign: Vec<String>,
}

/// What can be said of a spool directory without changing anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpoolCondition {
    /// It can be used, or made.
    Usable,
    /// A process uses it: an agent that runs.
    InUse(String),
    /// It cannot be used, and why.
    Unusable(String),
}

/// Looks at a spool directory as the present user.
#[must_use]
pub fn examine_directory(path: &Path) -> SpoolCondition {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    if !existing.is_dir() {
        return SpoolCondition::Unusable(format!("{} is not a directory", existing.display()));
    }
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if let Err(error) = rustix::fs::accessat(CWD, existing, access, AtFlags::EACCESS) {
        return SpoolCondition::Unusable(format!("{}: {}", existing.display(), io::Error::from(error)));
    }
    if existing != path {
        return SpoolCondition::Usable;
    }
    let directory = match open_directory(path, false) {
        Ok(Some((_, directory))) => directory,
        Ok(None) => return SpoolCondition::Usable,
        Err(error) => return SpoolCondition::Unusable(error.to_string()),
    };
    let lock = openat(&directory, LOCK, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    match lock.map(File::from) {
        Ok(mut lock) if flock(&lock, FlockOperation::NonBlockingLockShared).is_err() => {
            SpoolCondition::InUse(read_holder(&mut lock))
        }
        _ => SpoolCondition::Usable,
    }
}

/// Makes a spool directory where there is none: whoever gives up the right to make one, does it before.
///
/// # Errors
/// When it is not there and cannot be made.
pub fn make_directory(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in missing {
        // What is synchronized in a directory outlasts a power loss only with the name of the directory.
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Err(error) = File::open(parent).and_then(|parent| Ok(fsync(&parent)?)) {
            tracing::debug!(target: "vms_export", "{}: {error}", parent.display());
        }
    }
    Ok(())
}

impl Store {
    /// Opens a directory, which is made if need be, and locks it.
    ///
    /// # Errors
    /// When another process has locked it, or it cannot be used.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        make_directory(path)?;
        let (path, directory) = open_directory(path, true)?.ok_or_else(|| refusal("it cannot be made"))?;
        // Nothing stays open for writing: it would keep the file system from being remounted read-only.
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut lock = File::from(openat(&directory, LOCK, flags, private()).map_err(io::Error::from)?);
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = read_holder(&mut lock);
                let is_own = holder == own_number();
                return Err(OpenError::InUse { holder, is_own });
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut note = File::from(openat(&directory, LOCK, flags, Mode::empty()).map_err(io::Error::from)?);
        // Only for people: a full disk must not keep the agent from reading what is there.
        let told = ftruncate(&note, 0)
            .map_err(io::Error::from)
            .and_then(|()| note.write_all(format!("{}\n", own_number()).as_bytes()));
        if let Err(error) = told {
            tracing::debug!(target: "vms_export", "{}: {error}", path.join(LOCK).display());
        }
        Ok(Self { path, directory, _lock: lock, unsynced_deletions: 0 })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory was deleted: then nothing can be written to it any more.
    pub(crate) fn is_deleted(&self) -> bool {
        fstat(&self.directory).is_ok_and(|status| status.st_nlink == 0)
    }

    /// Lists the records, and deletes what was never finished.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn scan(&self) -> io::Result<Contents> {
        let mut contents = Contents::default();
        for item in Dir::read_from(&self.directory)? {
            let item = item?;
            let name = item.file_name();
            let text = name.to_string_lossy();
            if matches!(text.as_ref(), "." | ".." | LOCK | SET_ASIDE) {
                continue;
            }
            if text.starts_with(UNFINISHED) {
                // What cannot be deleted now is overwritten, or found by the next start.
                if let Err(error) = ignore_absence(unlinkat(&self.directory, name, AtFlags::empty())) {
                    tracing::debug!(target: "vms_export", "{}: {error}", self.path.join(&*text).display());
                }
                continue;
            }
            let record = Name::parse(&text);
            match (statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW), record) {
                (Err(Errno::NOENT), _) => {}
                (Ok(status), Some(name))
                    if FileType::from_raw_mode(status.st_mode) == FileType::RegularFile =>
                {
                    contents.records.push(Found { name, disk_bytes: disk_bytes(status.st_blocks) });
                }
                // It is one by its name: whoever reads it is told what is wrong with it.
                (Err(_), Some(name)) => contents.records.push(Found { name, disk_bytes: 0 }),
                (_, None) | (Ok(_), Some(_)) => contents.foreign.push(text.into_owned()),
            }
        }
        Ok(contents)
    }

    /// Writes a record, and returns the bytes that it takes on the disk. When this returns, the file and its name have
    /// been synchronized.
    ///
    /// # Errors
    /// When any step of it fails; then there is no such record.
    pub(crate) fn append(&self, name: Name, record: &[u8]) -> io::Result<u64> {
        let unfinished = format!("{UNFINISHED}{name}");
        let finished = name.to_string();
        let written = self.write(&unfinished, &finished, record);
        if written.is_err() {
            // After a failed synchronization nobody knows what is on the disk: it is written anew, elsewhere.
            for left in [&unfinished, &finished] {
                if let Err(error) = ignore_absence(unlinkat(&self.directory, left, AtFlags::empty())) {
                    tracing::debug!(target: "vms_export", "{}: {error}", self.path.join(left).display());
                }
            }
        }
        written
    }

    fn write(&self, unfinished: &str, finished: &str, record: &[u8]) -> io::Result<u64> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = match openat(&self.directory, unfinished, flags, private()) {
            Err(Errno::EXIST) => {
                unlinkat(&self.directory, unfinished, AtFlags::empty())?;
                openat(&self.directory, unfinished, flags, private())
            }
            opened => opened,
        }
        .map(File::from)?;
        file.write_all(record)?;
        fdatasync(&file)?;
        let disk_bytes = disk_bytes(fstat(&file)?.st_blocks);
        renameat(&self.directory, unfinished, &self.directory, finished)?;
        fsync(&self.directory)?;
        Ok(disk_bytes)
    }

    /// Reads a record's bytes, whatever they are.
    ///
    /// # Errors
    /// When the file cannot be read, or cannot be a record.
    pub(crate) fn read(&self, name: Name) -> io::Result<Vec<u8>> {
        // Not blocking, lest somebody put a pipe there.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, name.to_string(), flags, Mode::empty())?);
        let status = fstat(&file)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "is not a file"));
        }
        let mut record = Vec::new();
        file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut record)?;
        if u64::try_from(record.len()).is_ok_and(|length| length > MAX_RECORD_BYTES) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "is larger than a record can be"));
        }
        Ok(record)
    }

    /// Deletes a record. A power loss may undo the last deletions, never more than [`UNSYNCED_DELETIONS`].
    ///
    /// # Errors
    /// When the kernel refuses; that it is gone already is no error.
    pub(crate) fn remove(&mut self, name: Name) -> io::Result<()> {
        ignore_absence(unlinkat(&self.directory, name.to_string(), AtFlags::empty()))?;
        self.unsynced_deletions += 1;
        if self.unsynced_deletions >= UNSYNCED_DELETIONS {
            self.unsynced_deletions = 0;
            fsync(&self.directory)?;
        }
        Ok(())
    }

    /// Puts a record out of the way, into a directory of its own that keeps the last few, and returns where it is, if it is
    /// one of those.
    ///
    /// # Errors
    /// When it cannot be moved; then it was deleted, as far as that was possible.
    pub(crate) fn set_aside(&self, name: Name) -> io::Result<Option<PathBuf>> {
        match self.move_aside(name) {
            Ok(is_kept) => Ok(is_kept.then(|| self.path.join(SET_ASIDE).join(name.to_string()))),
            Err(error) => {
                ignore_absence(unlinkat(&self.directory, name.to_string(), AtFlags::empty()))?;
                Err(error)
            }
        }
    }

    /// Says whether it is kept there.
    fn move_aside(&self, record: Name) -> io::Result<bool> {
        match mkdirat(&self.directory, SET_ASIDE, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let aside = openat(&self.directory, SET_ASIDE, flags, Mode::empty())?;
        let name = record.to_string();
        match renameat(&self.directory, &name, &aside, &name) {
            // Landlock lets nothing go to another directory before Linux 5.19.
            Err(Errno::XDEV) => {
                let bytes = self.read(record)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                File::from(openat(&aside, &name, flags, private())?).write_all(&bytes)?;
                unlinkat(&self.directory, &name, AtFlags::empty())?;
            }
            moved => moved?,
        }
        let mut kept: Vec<(String, u64)> = Dir::read_from(&aside)?
            .filter_map(Result::ok)
            .map(|item| item.file_name().to_string_lossy().into_owned())
            .filter(|name| Name::parse(name).is_some())
            .map(|name| {
                let status = statat(&aside, &name, AtFlags::SYMLINK_NOFOLLOW);
                (name, status.map_or(0, |status| disk_bytes(status.st_blocks)))
            })
            .collect();
        kept.sort_unstable();
        let (mut files, mut bytes, mut is_kept) = (0, 0, true);
        for (other, size) in kept.iter().rev() {
            files += 1;
            bytes += size;
            if files > MAX_SET_ASIDE_FILES || bytes > MAX_SET_ASIDE_BYTES {
                unlinkat(&aside, other, AtFlags::empty())?;
                is_kept &= *other != name;
            }
        }
        Ok(is_kept)
    }
}

/// Opens the directory, or where others may write to it one of the agent's own in it: the kubelet makes volumes so. Says
/// which it is; `None` where that is still to be made, and `make` does not allow it.
fn open_directory(path: &Path, make: bool) -> io::Result<Option<(PathBuf, OwnedFd)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    let status = fstat(&directory)?;
    let owner = rustix::process::geteuid().as_raw();
    if status.st_mode & WRITABLE_BY_OTHERS == 0 {
        let is_ours = status.st_uid == owner || status.st_uid == 0;
        return if is_ours {
            Ok(Some((path.to_owned(), directory)))
        } else {
            Err(refusal("it belongs to another user"))
        };
    }
    let own = match openat(&directory, OWN, flags | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::NOENT) if !make => return Ok(None),
        Err(Errno::NOENT) => {
            mkdirat(&directory, OWN, Mode::RWXU)?;
            fsync(&directory)?;
            openat(&directory, OWN, flags | OFlags::NOFOLLOW, Mode::empty())?
        }
        opened => opened?,
    };
    let status = fstat(&own)?;
    if status.st_uid != owner || status.st_mode & WRITABLE_BY_OTHERS != 0 {
        return Err(refusal(
            "other users may write to it, and what is called vms-agent in it is not the agent's alone",
        ));
    }
    Ok(Some((path.join(OWN), own)))
}

fn refusal(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, problem)
}

fn own_number() -> String {
    rustix::process::getpid().as_raw_nonzero().to_string()
}

fn read_holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.take(32).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn private() -> Mode {
    Mode::RUSR | Mode::WUSR
}

/// `st_blocks` counts 512 bytes each, whatever the block size of the file system is (`stat(2)`).
fn disk_bytes(blocks: impl TryInto<u64>) -> u64 {
    blocks.try_into().unwrap_or(0).saturating_mul(512)
}

fn ignore_absence(outcome: Result<(), Errno>) -> io::Result<()> {
    match outcome {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
