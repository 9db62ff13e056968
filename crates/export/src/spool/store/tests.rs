use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

fn name(sequence: u64) -> Name {
    Name { sequence, unix_ms: 1_700_000_000_000, points: 3 }
}

fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("a/spool")).unwrap();
    (directory, store)
}

fn names(store: &Store) -> Vec<u64> {
    let mut names: Vec<u64> = store.scan().unwrap().records.iter().map(|found| found.name.sequence).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_record_is_read_as_it_was_written_for_its_owner_alone() {
    let (_directory, store) = store();
    let disk_bytes = store.append(name(7), b"seven").unwrap();
    assert_eq!(store.read(name(7)).unwrap(), b"seven");
    let status = fs::metadata(store.path().join(name(7).to_string())).unwrap();
    assert_eq!(status.permissions().mode() & 0o777, 0o600);
    assert_eq!(disk_bytes, status.blocks() * 512);
    assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(names(&store), [7]);
}

#[test]
fn a_second_process_is_refused_and_told_who_was_first() {
    let (_directory, store) = store();
    let own = std::process::id().to_string();
    assert!(
        matches!(Store::open(store.path()), Err(OpenError::InUse { holder, is_own: true }) if holder == own)
    );
    assert_eq!(examine_directory(store.path()), SpoolCondition::InUse(own));
    let path = store.path().to_owned();
    drop(store);
    assert_eq!(examine_directory(&path), SpoolCondition::Usable);
    Store::open(&path).unwrap();
}

#[test]
fn what_was_never_finished_is_deleted_and_what_is_foreign_is_left() {
    let (_directory, store) = store();
    for name in [".new-00000000000000000001-1-1.otlp", "notes.txt"] {
        fs::write(store.path().join(name), "x").unwrap();
    }
    let record = name(3).to_string();
    symlink("/etc/passwd", store.path().join(&record)).unwrap();
    let contents = store.scan().unwrap();
    assert_eq!(contents.records, []);
    let mut foreign = contents.foreign;
    foreign.sort_unstable();
    assert_eq!(foreign, [record, "notes.txt".into()]);
    assert!(!store.path().join(".new-00000000000000000001-1-1.otlp").exists());
    // Nor is a link followed that comes later.
    assert!(store.read(name(3)).is_err());
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let (_directory, store) = store();
    fs::create_dir(store.path().join(name(5).to_string())).unwrap();
    assert!(store.append(name(5), b"five").is_err());
    assert!(!store.path().join(format!("{UNFINISHED}{}", name(5))).exists());
    assert_eq!(names(&store), [0; 0]);
}

#[test]
fn a_deleted_directory_is_noticed_and_can_be_made_again() {
    let (_directory, store) = store();
    assert!(!store.is_deleted());
    fs::remove_dir_all(store.path()).unwrap();
    assert!(store.is_deleted());
    assert!(store.append(name(1), b"one").is_err());
    let again = Store::open(store.path()).unwrap();
    again.append(name(1), b"one").unwrap();
}

#[test]
fn only_the_last_few_are_kept_aside() {
    let (_directory, store) = store();
    for sequence in 0..20 {
        store.append(name(sequence), b"?").unwrap();
        let path = store.set_aside(name(sequence)).unwrap().unwrap();
        assert!(path.exists());
    }
    assert_eq!(names(&store), [0; 0]);
    let aside: Vec<_> = fs::read_dir(store.path().join(SET_ASIDE)).unwrap().collect();
    assert_eq!(aside.len(), MAX_SET_ASIDE_FILES);

    // Nor may they take much room, whatever their number.
    let half = vec![b'?'; usize::try_from(MAX_SET_ASIDE_BYTES).unwrap() / 2];
    for sequence in 20..23 {
        store.append(name(sequence), &half).unwrap();
        assert!(store.set_aside(name(sequence)).unwrap().is_some());
    }
    let left = fs::read_dir(store.path().join(SET_ASIDE)).unwrap().map(|item| item.unwrap().file_name());
    let mut left: Vec<_> = left.map(|name| Name::parse(name.to_str().unwrap()).unwrap().sequence).collect();
    left.sort_unstable();
    assert_eq!(left, [21, 22]);
    store.append(name(3), &half).unwrap();
    assert_eq!(store.set_aside(name(3)).unwrap(), None, "it is older than what is kept");
}

#[test]
fn in_a_directory_that_others_may_write_to_the_agent_has_one_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(examine_directory(directory.path()), SpoolCondition::Usable);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.path(), directory.path().join("vms-agent"));
    assert_eq!(fs::metadata(store.path()).unwrap().mode() & 0o777, 0o700);
    store.append(name(1), b"?").unwrap();
    assert!(matches!(examine_directory(directory.path()), SpoolCondition::InUse(_)));
    assert!(matches!(Store::open(directory.path()), Err(OpenError::InUse { is_own: true, .. })));
    drop(store);
    assert_eq!(names(&Store::open(directory.path()).unwrap()), [1]);
}

#[test]
fn what_others_put_in_the_place_of_that_directory_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let own = directory.path().join("vms-agent");
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), &own).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(OpenError::Io(_))));
    assert!(matches!(examine_directory(directory.path()), SpoolCondition::Unusable(_)));
    fs::remove_file(&own).unwrap();
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(OpenError::Io(_))));
    assert!(matches!(examine_directory(directory.path()), SpoolCondition::Unusable(_)));
    assert_eq!(
        examine_directory(Path::new("/dev/null/spool")),
        SpoolCondition::Unusable("/dev/null is not a directory".into())
    );
}
