//! The thread that keeps the spool: nothing else touches the disk, so that a slow one delays neither measuring nor sending.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::index::Name;
use super::notice::SpoolNotice;
use super::opening::Opening;
use super::record::{Record, RecordError, decode_record, encode_record, unix_milliseconds};
use super::store::{OpenError, Store};
use crate::backlog::Task;
use crate::compress::Compressor;
use crate::config::Compression;
use crate::queue::{Batch, Moment};
use crate::shared::{Shared, State};
use crate::transport::Body;

/// How long the disk is left alone after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// After how long a directory that cannot be opened is tried again: at first, and at most.
const OPEN_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How often it is looked whether a directory that does not answer is still wanted.
const STILL_WANTED: Duration = Duration::from_secs(1);

/// How often ages are looked at when nothing else happens.
const LOOK_AT_AGES: Duration = Duration::from_secs(10);

/// Damaged records that the log tells of one by one: after a downgrade there may be thousands. The count goes on.
const MAX_TOLD: u32 = 10;

/// Where the directory comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// It is open.
    Open(Store),
    /// It is not yet.
    Pending(Opening),
}

/// Keeps a spool in a thread of its own, until the sender ends or joins another spool.
///
/// # Errors
/// When there can be no more threads.
pub(crate) fn start(shared: Arc<Shared>, source: Source, generation: u64) -> io::Result<()> {
    let keep = move || {
        let store = match source {
            Source::Open(store) => Some(store),
            Source::Pending(opening) => wait_for_directory(&shared, opening, generation),
        };
        if let Some(store) = store {
            let packer = Compressor::new(Compression::Zstd);
            Keeper { shared, store, generation, packer, told_corrupt: 0 }.run();
        }
    };
    std::thread::Builder::new().name("vms-spool".to_owned()).spawn(keep).map(drop)
}

/// Waits until a directory can be used that could not be when it was joined; `None` when it is not wanted any more.
fn wait_for_directory(shared: &Shared, mut opening: Opening, generation: u64) -> Option<Store> {
    let is_wanted = |state: &mut State| state.spool_generation == generation;
    let (mut pause, longest) = OPEN_AGAIN;
    let mut is_use_told = false;
    loop {
        match opening.wait(STILL_WANTED) {
            None => {}
            Some(Ok(store)) => return shared.begin_spool(generation).then_some(store),
            Some(Err(error)) => {
                tracing::debug!(target: "vms_export", "spool: {error}");
                if let OpenError::InUse { holder, is_own: false } = error
                    && !std::mem::replace(&mut is_use_told, true)
                {
                    let directory = shared.state().spool.as_ref()?.directory.clone();
                    shared.tell([SpoolNotice::InUse { directory, holder }]);
                }
                drop(shared.disk_work.wait_timeout_while(shared.state(), pause, is_wanted));
                pause = longest.min(pause * 2);
                opening = Opening::begin(&shared.state().spool.as_ref()?.directory, true);
            }
        }
        if !is_wanted(&mut shared.state()) {
            return None;
        }
    }
}

const DAMAGED: &str = "check the disk, and where that is sound report this with the file";
const NEWER: &str = "the newer version sends what is kept when it is put back into the spool";

struct Keeper {
    shared: Arc<Shared>,
    store: Store,
    /// Which of the spools that the sender had this is.
    generation: u64,
    /// For what is not compressed on the wire: on the disk it is.
    packer: Compressor,
    told_corrupt: u32,
}

impl Keeper {
    fn run(mut self) {
        while let Some(task) = self.next_task() {
            let done = self.perform(task);
            self.shared.wake_sender();
            if done.is_err() {
                if self.store.is_deleted() {
                    self.make_again();
                }
                self.pause();
            }
        }
    }

    fn next_task(&self) -> Option<Task> {
        let mut state = self.shared.state();
        loop {
            if state.spool_generation != self.generation {
                return None;
            }
            let (task, notices) = state.ledger.next_task(self.shared.now());
            if !notices.is_empty() {
                drop(state);
                self.shared.tell(notices);
                state = self.shared.state();
            }
            if task.is_some() {
                return task;
            }
            state = self.wait(state, LOOK_AT_AGES);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.shared.disk_work.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Leaves the disk alone for a while, unless the agent ends.
    fn pause(&self) {
        let state = self.shared.state();
        let goes_on = |state: &mut State| {
            state.spool_generation == self.generation && !state.ledger.is_ending_and_unsaved()
        };
        drop(self.shared.disk_work.wait_timeout_while(state, RETRY, goes_on));
    }

    /// Does what there is to do, and tells of trouble with it once, and of its end.
    fn perform(&mut self, task: Task) -> io::Result<()> {
        let work = task.work();
        let done = match task {
            Task::Scan => self.scan(),
            Task::Delete(names) => self.delete(names),
            Task::Append(name, batch) => self.store(name, &batch),
            Task::Load(name) => self.load(name),
        };
        let notice = match &done {
            Ok(()) => self.shared.state().ledger.disk_works(work),
            Err(error) => {
                tracing::debug!(target: "vms_export", "{}: {work:?}: {error}", self.store.path().display());
                let (problem, advice) = self.trouble(error);
                self.shared.state().ledger.disk_fails(work, problem, advice)
            }
        };
        self.shared.tell(notice);
        done
    }

    fn scan(&self) -> io::Result<()> {
        let contents = self.store.scan()?;
        let notices = self.shared.state().ledger.scanned(&contents, self.shared.now());
        self.shared.tell(notices);
        Ok(())
    }

    fn store(&mut self, name: Name, batch: &Batch) -> io::Result<()> {
        let written = self.encode(batch).and_then(|record| {
            let (full, notice) = self.shared.state().ledger.make_room(record.len());
            self.shared.tell(notice);
            // What cannot be deleted takes the room all the same, and is tried again.
            drop(self.delete(full));
            self.append(name, &record)
        });
        let mut state = self.shared.state();
        let notice = match &written {
            Ok(disk_bytes) => {
                state.ledger.stored(name, batch, *disk_bytes);
                None
            }
            Err(error) => state.ledger.not_stored(batch, has_no_room(error)),
        };
        drop(state);
        self.shared.tell(notice);
        written.map(drop)
    }

    fn append(&mut self, name: Name, record: &[u8]) -> io::Result<u64> {
        let written = self.store.append(name, record);
        if written.is_err() && self.store.is_deleted() && self.make_again() {
            return self.store.append(name, record);
        }
        written
    }

    /// Deletes what can be deleted, whatever happens to one of them.
    fn delete(&mut self, names: Vec<Name>) -> io::Result<()> {
        let mut failed = Ok(());
        let mut left = Vec::new();
        for name in names {
            if let Err(error) = self.store.remove(name) {
                failed = Err(error);
                left.push(name);
            }
        }
        if !left.is_empty() {
            self.shared.state().ledger.not_deleted(left, self.shared.now());
        }
        failed
    }

    /// What an operator is told of a failed write, and what to do.
    fn trouble(&self, error: &io::Error) -> (String, &'static str) {
        if self.store.is_deleted() {
            // The right to write there went with the directory, where the agent gave up all others.
            return (
                "the directory was deleted".to_owned(),
                "make it again and restart the agent, and leave the directory to it",
            );
        }
        let advice = match error.kind() {
            _ if has_no_room(error) => "free space on that file system, or lower export.spool.maxBytes",
            io::ErrorKind::ReadOnlyFilesystem => "mount that file system writable",
            io::ErrorKind::PermissionDenied => "let the agent's user write there",
            _ => "check the disk",
        };
        (error.to_string(), advice)
    }

    fn encode(&mut self, batch: &Batch) -> io::Result<Vec<u8>> {
        let packed;
        let body = match batch.body().compression() {
            Compression::None => {
                packed = batch.body().transcode(&mut self.packer)?;
                &packed
            }
            Compression::Gzip | Compression::Zstd => batch.body(),
        };
        Ok(encode_record(&Record {
            points: batch.points(),
            enqueued: batch.enqueued().wall,
            compression: body.compression(),
            body: body.message().as_ref().into(),
        }))
    }

    fn load(&mut self, name: Name) -> io::Result<()> {
        let bytes = match self.store.read(name) {
            Ok(bytes) => bytes,
            Err(error) if is_about_this_file(&error) => {
                self.set_aside(name, &error.to_string(), DAMAGED);
                return Ok(());
            }
            Err(error) => {
                let mut state = self.shared.state();
                state.ledger.not_loaded();
                if error.kind() == io::ErrorKind::NotFound && !self.store.is_deleted() {
                    // Somebody deleted files: what is left is told.
                    state.ledger.forget_directory();
                    return Ok(());
                }
                return Err(error);
            }
        };
        match self.decode(name, &bytes) {
            Ok(batch) => self.shared.state().ledger.loaded(batch),
            Err((problem, advice)) => self.set_aside(name, &problem, advice),
        }
        Ok(())
    }

    /// The request, or why it cannot be sent and what to do.
    fn decode(&self, name: Name, bytes: &[u8]) -> Result<Batch, (String, &'static str)> {
        let record = decode_record(bytes).map_err(|error| {
            let advice = match error {
                RecordError::Newer(_) => NEWER,
                RecordError::Damaged(_) => DAMAGED,
            };
            (error.to_string(), advice)
        })?;
        if (record.points, unix_milliseconds(record.enqueued)) != (name.points, name.unix_ms) {
            return Err(("record is damaged: it is not the one that its name says".to_owned(), DAMAGED));
        }
        let unreadable = |error: io::Error| (format!("record is damaged: {error}"), DAMAGED);
        let mut body = Body::compressed(record.compression, &record.body).map_err(unreadable)?;
        let wanted = self.shared.compression();
        if body.compression() != wanted {
            body = body.transcode(&mut Compressor::new(wanted)).map_err(unreadable)?;
        }
        let enqueued = Moment { wall: record.enqueued, monotonic: self.shared.now().monotonic };
        Ok(Batch::from_record(body, name, enqueued))
    }

    fn set_aside(&mut self, name: Name, problem: &str, advice: &'static str) {
        let moved = self.store.set_aside(name);
        let path = self.store.path().join(name.to_string());
        self.shared.state().ledger.corrupt(name, moved.is_ok());
        let kept: Option<PathBuf> = moved.ok().flatten();
        let problem = format!("{}: {problem}", path.display());
        self.told_corrupt = self.told_corrupt.saturating_add(1);
        if self.told_corrupt > MAX_TOLD {
            tracing::debug!(target: "vms_export", "{problem}");
            return;
        }
        self.shared.tell([SpoolNotice::Corrupt { problem, points: name.points, kept, advice }]);
    }

    /// Somebody deleted the directory: what was in it is gone, and a new one serves from now on, where the agent may still
    /// make one. Says whether it does.
    fn make_again(&mut self) -> bool {
        let made = Store::open(self.store.path()).map(|store| self.store = store);
        if let Err(error) = &made {
            tracing::debug!(target: "vms_export", "{}: {error}", self.store.path().display());
        }
        let mut state = self.shared.state();
        if made.is_ok() || state.ledger.has_records() {
            state.ledger.forget_directory();
        }
        made.is_ok()
    }
}

fn has_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether what lies there is no file that was written here. Everything else may pass: a disk that is away for a moment
/// fails every read.
fn is_about_this_file(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
        || error.raw_os_error().is_some_and(|number| {
            // A symbolic link, and a socket or a pipe.
            [rustix::io::Errno::LOOP, rustix::io::Errno::NXIO]
                .iter()
                .any(|errno| errno.raw_os_error() == number)
        })
}

#[cfg(test)]
mod tests;
