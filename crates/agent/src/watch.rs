//! Whether a configuration that is reached through symbolic links has been replaced.
//!
//! Kubernetes mounts a `ConfigMap` or Secret so that each file is a link through `..data`, and replaces all files at once
//! by leading that link to another directory. Nobody sends a signal then. A file that is not reached through a link
//! is left alone until somebody does: it may be in the middle of an edit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{self, JoinHandle};

/// Files, and where each really is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(BTreeMap<PathBuf, Option<PathBuf>>);

/// A watch that is asked on threads that may wait for a file system. The lock is not held meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct Watching(Arc<Mutex<Current>>);

#[derive(Debug, Default)]
struct Current {
    watch: Watch,
    /// How often other files were to be watched.
    generation: u64,
}

impl Watching {
    pub(crate) fn new(watch: Watch) -> Self {
        Self(Arc::new(Mutex::new(Current { watch, generation: 0 })))
    }

    /// Begins to ask whether a file has come to be elsewhere, unless there is none.
    pub(crate) fn ask(&self) -> Option<JoinHandle<bool>> {
        let is_wanted = !self.lock().watch.0.is_empty();
        is_wanted.then(|| {
            let this = self.clone();
            task::spawn_blocking(move || this.look().1)
        })
    }

    /// Takes the present places for what files are compared with, and returns them, and whether a file has come to be
    /// elsewhere. Waits for the file systems.
    pub(crate) fn look(&self) -> (Watch, bool) {
        let (mut watch, generation) = {
            let current = self.lock();
            (current.watch.clone(), current.generation)
        };
        let has_moved = watch.has_moved();
        let mut current = self.lock();
        let is_current = current.generation == generation;
        if is_current {
            current.watch.clone_from(&watch);
        }
        (watch, has_moved && is_current)
    }

    /// Watches other files from now on.
    pub(crate) fn replace(&self, watch: Watch) {
        let mut current = self.lock();
        current.watch = watch;
        current.generation += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// How often to look. The kubelet takes up to a minute before it replaces the files.
    pub(crate) const EVERY: Duration = Duration::from_secs(5);

    /// Watches files, whose present places are what they are compared with.
    pub(crate) fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        Self(files.into_iter().map(|file| (file.to_owned(), place_of(file))).collect())
    }

    /// Watches these files instead. Those that were watched before are compared with what was seen of them last: they may
    /// have been replaced since they were read.
    pub(crate) fn follow<'a>(self, files: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut next = Self::new(files);
        for (file, place) in self.0 {
            next.0.entry(file).and_modify(|known| *known = place);
        }
        next
    }

    /// Whether a file has come to be elsewhere since this was asked last. One that is away for the moment has not.
    pub(crate) fn has_moved(&mut self) -> bool {
        let mut moved = false;
        for (file, known) in &mut self.0 {
            let Some(place) = place_of(file) else { continue };
            moved |= known.as_ref().is_some_and(|known| *known != place);
            *known = Some(place);
        }
        moved
    }
}

fn place_of(file: &Path) -> Option<PathBuf> {
    file.canonicalize().ok()
}

#[cfg(test)]
mod tests;
