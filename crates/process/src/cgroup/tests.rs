use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// A line of a `mountinfo` that tells of a directory as of a hierarchy of cgroups.
fn mounted(root: &str, point: &Path) -> String {
    let device = fs::metadata(point).unwrap().dev();
    format!("41 31 {}:{} {root} {} rw - cgroup2 cgroup2 rw\n", major(device), minor(device), point.display())
}

fn number(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_cgroup_is_found_by_its_path_and_known_by_its_inode() {
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("a/b")).unwrap();
    fs::write(root.path().join("a/b/cgroup.procs"), "7\n8\n").unwrap();
    let cgroups = Cgroups::open(mounted("/", root.path()).as_bytes()).unwrap();
    let (id, directory) = cgroups.directory(b"/a/b").unwrap();
    assert_eq!(id.get(), number(&root.path().join("a/b")));
    assert_eq!(directory.read_members(), Some(vec![Pid(7), Pid(8)]));
    assert!(cgroups.directory(b"/a/gone").is_none());
    assert!(cgroups.directory(b"/../a/b").is_none());
    let (_, without_members) = cgroups.directory(b"/a").unwrap();
    assert_eq!(without_members.read_members(), None, "as where there are threads only");
}

#[test]
fn of_a_part_that_is_mounted_only_that_is_known() {
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("b")).unwrap();
    let cgroups = Cgroups::open(mounted("/a", root.path()).as_bytes()).unwrap();
    assert_eq!(cgroups.directory(b"/a/b").unwrap().0.get(), number(&root.path().join("b")));
    assert_eq!(cgroups.directory(b"/a").unwrap().0.get(), number(root.path()));
    assert!(cgroups.directory(b"/b").is_none());
}

#[test]
fn the_mount_with_most_in_it_is_used_and_none_that_is_something_else_by_now() {
    let (whole, part) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mountinfo = mounted("/a", part.path()) + &mounted("/", whole.path());
    let cgroups = Cgroups::open(mountinfo.as_bytes()).unwrap();
    assert_eq!(cgroups.directory(b"/").unwrap().0.get(), number(whole.path()));
    let covered = "41 31 250:250 / /proc rw - cgroup2 cgroup2 rw\n";
    assert!(Cgroups::open(covered.as_bytes()).is_none());
    assert!(Cgroups::open(b"").is_none());
}
