//! The lives of records, as strace saw them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::trace::Call;

/// What became of a record, as the system calls tell it.
#[derive(Debug)]
pub struct RecordLife {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// When its name was on the disk, in nanoseconds since 1970; its bytes were before it had that name.
    pub durable: Option<u64>,
    /// When it was deleted.
    pub deleted: Option<u64>,
}

/// Follows the records of a spool through the calls of the thread that keeps it.
#[must_use]
#[track_caller]
pub fn follow_records(calls: &[Call], spool: &Path) -> BTreeMap<PathBuf, RecordLife> {
    // What was written to each file that has no name of a record yet, and whether all of it is on the disk.
    let mut unfinished: BTreeMap<PathBuf, (Vec<u8>, bool)> = BTreeMap::new();
    let mut lives: BTreeMap<PathBuf, RecordLife> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.result >= 0) {
        let path =
            |number: usize| call.files[number].join(String::from_utf8_lossy(&call.texts[number]).as_ref());
        match call.name.as_str() {
            "write" => {
                let (bytes, is_synchronized) = unfinished.entry(call.files[0].clone()).or_default();
                bytes.extend(call.texts[0].iter().take(usize::try_from(call.result).expect("a length")));
                *is_synchronized = false;
            }
            "fsync" if call.files[0] == spool => {
                for life in lives.values_mut() {
                    life.durable.get_or_insert(call.ended);
                }
            }
            "fsync" | "fdatasync" => {
                if let Some((_, is_synchronized)) = unfinished.get_mut(&call.files[0]) {
                    *is_synchronized = true;
                }
            }
            "rename" | "renameat" | "renameat2" => {
                let (bytes, is_synchronized) = unfinished.remove(&path(0)).expect("a file that was written");
                assert!(is_synchronized, "{} is on the disk before it gets its name", path(1).display());
                let life = RecordLife { bytes, durable: None, deleted: None };
                assert!(lives.insert(path(1), life).is_none(), "{} is new", path(1).display());
            }
            "openat" | "unlink" | "unlinkat" => {
                let path = path(0);
                let Some(life) = lives.get_mut(&path) else { continue };
                assert!(
                    life.durable.is_some(),
                    "{}: its name is on the disk before it is used",
                    path.display()
                );
                if call.name != "openat" {
                    assert_eq!(life.deleted.replace(call.began), None, "{}", path.display());
                }
            }
            other => panic!("{other} was not to be traced"),
        }
    }
    lives
}
