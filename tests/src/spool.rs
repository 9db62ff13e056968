//! The directory of an agent's spool, seen from outside.

use std::fs;
use std::path::{Path, PathBuf};

/// The requests in a spool, oldest first.
#[must_use]
pub fn records(directory: &Path) -> Vec<PathBuf> {
    let Ok(items) = fs::read_dir(directory) else { return Vec::new() };
    // What begins with a dot was being written, and was never told as spooled.
    let is_record = |path: &Path| {
        let is_whole = path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
        is_whole && path.extension().is_some_and(|extension| extension == "otlp")
    };
    let paths = items.filter_map(|item| Some(item.ok()?.path()));
    let mut records: Vec<PathBuf> = paths.filter(|path| is_record(path)).collect();
    records.sort();
    records
}
