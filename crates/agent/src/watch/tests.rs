use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A directory as the kubelet makes it: `file -> ..data/file`, `..data -> ..version`.
fn mount(root: &Path, version: &str) {
    let directory = root.join(format!("..{version}"));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("config.yaml"), version).unwrap();
    symlink(format!("..{version}"), root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    let file = root.join("config.yaml");
    if !file.exists() {
        symlink("..data/config.yaml", file).unwrap();
    }
}

#[test]
fn a_link_that_leads_elsewhere_is_told_once() {
    let root = tempfile::tempdir().unwrap();
    mount(root.path(), "first");
    let mut watch = Watch::new([root.path().join("config.yaml").as_path()]);
    assert!(!watch.has_moved());
    mount(root.path(), "second");
    assert!(watch.has_moved());
    assert!(!watch.has_moved());
}

#[test]
fn what_is_replaced_while_it_is_being_read_is_told_afterwards() {
    let root = tempfile::tempdir().unwrap();
    mount(root.path(), "first");
    let file = root.path().join("config.yaml");
    let watching = Watching::new(Watch::new([file.as_path()]));
    mount(root.path(), "second");
    // A reload begins, for whatever reason, and reads the second.
    let (seen, _) = watching.look();
    mount(root.path(), "third");
    watching.replace(seen.follow([file.as_path()]));
    assert!(watching.look().1);
    let (seen, _) = watching.look();
    watching.replace(seen.follow([file.as_path()]));
    assert!(!watching.look().1);
}

#[test]
fn a_file_without_a_link_is_left_alone_however_it_is_written() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("config.yaml");
    fs::write(&file, "one").unwrap();
    let mut watch = Watch::new([file.as_path()]);
    fs::write(&file, "another").unwrap();
    fs::write(root.path().join("new"), "third").unwrap();
    fs::rename(root.path().join("new"), &file).unwrap();
    assert!(!watch.has_moved());
}

#[test]
fn a_file_that_is_away_for_a_moment_and_comes_back_the_same_has_not_moved() {
    let root = tempfile::tempdir().unwrap();
    mount(root.path(), "first");
    let mut watch = Watch::new([root.path().join("config.yaml").as_path()]);
    fs::remove_file(root.path().join("..data")).unwrap();
    assert!(!watch.has_moved());
    symlink("..first", root.path().join("..data")).unwrap();
    assert!(!watch.has_moved());
}
