//! What waits on the disk, as the sender and the keeper of the spool agree on it: which record is next, which files have to
//! go, and what is being written or read just now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{SpoolConfig, SpoolMode};
use crate::queue::{Batch, Moment};
use crate::spool::index::{self, Bounds, Entry, Index, Name};
use crate::spool::record_ms;
use crate::spool::store::Contents;

/// A record that so often failed in a way that may pass, each time while others got through, is left for later, so that it
/// does not hold up those behind it.
const PATIENCE: u32 = 3;

/// How long after a failure files are deleted again: meanwhile others are written and read.
const DELETE_AGAIN: Duration = Duration::from_secs(10);

/// The records of the spool and what is being done with them.
#[derive(Debug)]
pub(crate) struct Backlog {
    mode: SpoolMode,
    bounds: Bounds,
    directory: PathBuf,
    index: Index,
    /// Whether the directory has been read: nothing is stored before.
    is_read: bool,
    last_sequence: u64,
    /// Files that have no entry any more.
    doomed: Vec<Name>,
    /// Before that moment of the monotonic clock no file is deleted: the disk refused.
    delete_after: Duration,
    /// The batch that is being written.
    storing: Option<u64>,
    /// The record that is being read.
    loading: Option<Name>,
    loaded: Option<Batch>,
    /// The records that failed, each with how often since it last was its turn.
    failing: BTreeMap<Name, u32>,
    /// Where reading goes on, instead of at the oldest record.
    cursor: Option<Name>,
    /// Batches written since the last outage began.
    pub(crate) stored_in_outage: u64,
    /// Points that the collector took from here: of this run, and of earlier ones.
    pub(crate) replayed: u64,
    pub(crate) replayed_earlier: u64,
}

/// What there is for the keeper to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// Read the directory.
    Scan,
    /// Delete these files.
    Delete(Vec<Name>),
    /// Write this batch.
    Append(Name, Batch),
    /// Read this record.
    Load(Name),
}

/// The kinds of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DiskWork {
    /// Reading the directory.
    Scan,
    /// Writing a record.
    Write,
    /// Reading a record.
    Read,
    /// Deleting records.
    Delete,
}

impl Task {
    /// Its kind.
    pub(crate) fn work(&self) -> DiskWork {
        match self {
            Self::Scan => DiskWork::Scan,
            Self::Delete(_) => DiskWork::Delete,
            Self::Append(..) => DiskWork::Write,
            Self::Load(_) => DiskWork::Read,
        }
    }
}

impl Backlog {
    /// Nothing is known yet of what the directory holds.
    pub(crate) fn new(config: &SpoolConfig) -> Self {
        Self {
            mode: config.mode,
            bounds: Bounds { bytes: config.max_bytes, age: config.max_age },
            directory: config.directory.clone(),
            index: Index::default(),
            is_read: false,
            last_sequence: 0,
            doomed: Vec::new(),
            delete_after: Duration::ZERO,
            storing: None,
            loading: None,
            loaded: None,
            failing: BTreeMap::new(),
            cursor: None,
            stored_in_outage: 0,
            replayed: 0,
            replayed_earlier: 0,
        }
    }

    /// Other limits, or another mode, from now on.
    pub(crate) fn reconfigure(&mut self, config: &SpoolConfig) {
        self.mode = config.mode;
        self.bounds = Bounds { bytes: config.max_bytes, age: config.max_age };
    }

    /// Takes in what the directory holds, and returns what was known of it and is not there any more.
    pub(crate) fn read(&mut self, contents: &Contents, now: Moment) -> Vec<Entry> {
        let mut known = self.index.clear();
        let doomed: BTreeSet<Name> = self.doomed.iter().copied().collect();
        for found in contents.records.iter().filter(|found| !doomed.contains(&found.name)) {
            let of_this_run = known.remove(&found.name);
            let born_ms = || index::born_ms(found.name, record_ms(now.wall), now.monotonic, self.bounds.age);
            self.index.insert(Entry {
                name: found.name,
                disk_bytes: found.disk_bytes,
                born_ms: of_this_run.map_or_else(born_ms, |entry| entry.born_ms),
                is_earlier: of_this_run.is_none_or(|entry| entry.is_earlier),
            });
            self.last_sequence = self.last_sequence.max(found.name.sequence);
        }
        self.is_read = true;
        let vanished: Vec<Entry> = known.into_values().collect();
        self.unload(&vanished);
        vanished
    }

    /// The directory has to be read again.
    pub(crate) fn forget_directory(&mut self) {
        self.is_read = false;
    }

    /// What to do next, but for writing.
    pub(crate) fn next_task(&mut self, monotonic: Duration) -> Option<Task> {
        if !self.is_read {
            return Some(Task::Scan);
        }
        if !self.doomed.is_empty() && monotonic >= self.delete_after {
            self.delete_after = Duration::ZERO;
            return Some(Task::Delete(std::mem::take(&mut self.doomed)));
        }
        None
    }

    /// These files could not be deleted. They stay off the books, so that none is sent again, and are tried again later.
    pub(crate) fn not_deleted(&mut self, names: Vec<Name>, monotonic: Duration) {
        self.doomed.extend(names);
        self.delete_after = monotonic + DELETE_AGAIN;
    }

    /// Begins to write a batch.
    pub(crate) fn begin_store(&mut self, batch: &Batch) -> Task {
        self.storing = Some(batch.id());
        self.last_sequence = self.last_sequence.saturating_add(1);
        let name = Name {
            sequence: self.last_sequence,
            unix_ms: record_ms(batch.enqueued().wall),
            points: batch.points(),
        };
        Task::Append(name, batch.clone())
    }

    /// The batch has been written, or could not be.
    pub(crate) fn end_store(&mut self) {
        self.storing = None;
    }

    /// Takes in a record that was written.
    pub(crate) fn insert(&mut self, name: Name, disk_bytes: u64, enqueued: Moment) {
        let born_ms = index::signed_ms(enqueued.monotonic);
        self.index.insert(Entry { name, disk_bytes, born_ms, is_earlier: false });
    }

    /// Begins to read the record that is to be sent next, if none is at hand. `held` is the one that is on its way.
    pub(crate) fn begin_load(&mut self, held: Option<Name>) -> Option<Task> {
        if self.loaded.is_some() || self.loading.is_some() {
            return None;
        }
        let mut next = self.index.next_behind(self.cursor)?.name;
        if Some(next) == held {
            next = self.index.next_behind(Some(next))?.name;
        }
        if Some(next) == held {
            return None;
        }
        self.loading = Some(next);
        Some(Task::Load(next))
    }

    /// A record has been read, or could not be. One that has gone meanwhile is not wanted any more.
    pub(crate) fn end_load(&mut self, batch: Option<Batch>) {
        let name = self.loading.take();
        self.loaded = batch.filter(|_| name.is_some_and(|name| self.index.get(name).is_some()));
        let attempts_failed = |name: Name| self.failing.contains_key(&name);
        if let (Some(batch), Some(name)) = (&mut self.loaded, name)
            && attempts_failed(name)
        {
            batch.set_attempted();
        }
    }

    /// The record that was to be read cannot be at present: reading goes on behind it.
    pub(crate) fn pass_over(&mut self) {
        self.cursor = self.loading.or(self.cursor);
        self.end_load(None);
    }

    /// Whether files have to go, and the disk has not just refused that.
    pub(crate) fn has_to_delete(&self) -> bool {
        !self.doomed.is_empty() && self.delete_after.is_zero()
    }

    /// The record that is ready to be sent.
    pub(crate) fn loaded(&self) -> Option<&Batch> {
        self.loaded.as_ref()
    }

    /// Hands that record out.
    pub(crate) fn take_loaded(&mut self) -> Option<Batch> {
        self.loaded.take()
    }

    /// The record failed in a way that may pass. Whether another got through just before: where none does, the record is
    /// not the reason.
    pub(crate) fn failed(&mut self, name: Name, others_get_through: bool) {
        let times = self.failing.entry(name).or_default();
        *times += u32::from(others_get_through);
        if *times >= PATIENCE {
            *times = 0;
            self.cursor = Some(name);
        }
    }

    /// A record is not needed any more: its file goes.
    pub(crate) fn remove(&mut self, name: Name) -> Option<Entry> {
        if self.loaded.as_ref().is_some_and(|batch| batch.stored() == Some(name)) {
            self.loaded = None;
        }
        self.doomed.push(name);
        self.forget(name)
    }

    /// A record's file has gone.
    pub(crate) fn forget(&mut self, name: Name) -> Option<Entry> {
        let entry = self.index.remove(name);
        self.failing.remove(&name);
        if self.index.requests() == 0 {
            self.cursor = None;
        }
        entry
    }

    /// Makes room for a record of that many bytes. Returns what had to go, whose files are the caller's to delete.
    pub(crate) fn make_room(&mut self, bytes: usize) -> Vec<Name> {
        /// Files take whole blocks, of that many bytes on most file systems.
        const BLOCK: u64 = 4096;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(BLOCK - 1) / BLOCK * BLOCK;
        let gone = self.index.make_room(bytes, self.bounds);
        self.unload(&gone)
    }

    /// Gives up the oldest records, of at least that many bytes on the disk. Returns them as [`Self::make_room`] does.
    pub(crate) fn give_up(&mut self, bytes: usize) -> Vec<Name> {
        let less = self.index.disk_bytes().saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
        let gone = self.index.make_room(0, Bounds { bytes: less, ..self.bounds });
        self.unload(&gone)
    }

    /// These files have to go.
    pub(crate) fn doom(&mut self, names: &[Name]) {
        self.doomed.extend(names);
    }

    /// Returns what is too old and had to go.
    pub(crate) fn expire(&mut self, monotonic: Duration) -> Vec<Name> {
        let gone = self.index.expire(monotonic, self.bounds);
        let names = self.unload(&gone);
        self.doom(&names);
        names
    }

    fn unload(&mut self, entries: &[Entry]) -> Vec<Name> {
        let names: Vec<Name> = entries.iter().map(|entry| entry.name).collect();
        self.failing.retain(|name, _| !names.contains(name));
        if self.loaded.as_ref().and_then(Batch::stored).is_some_and(|loaded| names.contains(&loaded)) {
            self.loaded = None;
        }
        names
    }

    pub(crate) fn mode(&self) -> SpoolMode {
        self.mode
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(crate) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Whether the directory has been read.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read
    }
}
