//! Whether a configuration that is reached through symbolic links has been replaced.
//!
//! Kubernetes mounts a `ConfigMap` or Secret so that each file is a link through `..data`, and replaces all files at once
//! by leading that link to another directory. Nobody sends a signal then. A file that is not reached through a link
//! is left alone until somebody does: it may be in the middle of an edit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files, and where each really is.
#[derive(Debug, Default)]
pub(crate) struct Watch(BTreeMap<PathBuf, Option<PathBuf>>);

impl Watch {
    /// How often to look. The kubelet takes up to a minute before it replaces the files.
    pub(crate) const EVERY: Duration = Duration::from_secs(5);

    /// Watches files, whose present places are what they are compared with.
    pub(crate) fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        Self(files.into_iter().map(|file| (file.to_owned(), place_of(file))).collect())
    }

    /// Watches these files from now on. Those that were watched before are compared with what was seen of them last: they may
    /// have been replaced since they were read.
    pub(crate) fn follow<'a>(&mut self, files: impl IntoIterator<Item = &'a Path>) {
        let next = Self::new(files);
        let before = std::mem::replace(self, next);
        for (file, place) in before.0 {
            self.0.entry(file).and_modify(|known| *known = place);
        }
    }

    /// Takes the present places for what files are compared with.
    pub(crate) fn look(&mut self) {
        self.has_moved();
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
