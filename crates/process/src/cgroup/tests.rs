use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::procfs::scratch;

/// A line of a `mountinfo` that tells of a directory as of a hierarchy of cgroups.
fn mounted(root: &str, point: &Path) -> String {
    let device = fs::metadata(point).unwrap().dev();
    format!("41 31 {}:{} {root} {} rw - cgroup2 cgroup2 rw\n", major(device), minor(device), point.display())
}

fn number(path: &Path) -> CgroupId {
    CgroupId::new(fs::metadata(path).unwrap().ino()).unwrap()
}

fn find(cgroups: &Cgroups, wanted: &[CgroupId], units: u32) -> Vec<(CgroupId, CgroupDir)> {
    let allowance = if units == 0 { Allowance::unlimited() } else { Allowance::of_units(units) };
    cgroups.find(&wanted.iter().copied().collect(), &mut scratch(), &allowance)
}

#[test]
fn cgroups_are_found_by_their_numbers_wherever_they_are() {
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("a/b/c")).unwrap();
    fs::create_dir_all(root.path().join("d")).unwrap();
    fs::write(root.path().join("a/b/cgroup.procs"), "7\n8\n").unwrap();
    let cgroups = Cgroups::open(mounted("/", root.path()).as_bytes()).unwrap();
    let (deep, other) = (number(&root.path().join("a/b")), number(&root.path().join("d")));
    let found = find(&cgroups, &[deep, other], 0);
    let numbers: BTreeSet<CgroupId> = found.iter().map(|(cgroup, _)| *cgroup).collect();
    assert_eq!(numbers, BTreeSet::from([deep, other]));
    let directory =
        |wanted| found.iter().find(|(cgroup, _)| *cgroup == wanted).map(|(_, found)| found).unwrap();
    assert_eq!(directory(deep).read_members(), Some(vec![Pid(7), Pid(8)]));
    assert_eq!(directory(other).read_members(), None, "as where there are threads only");
    assert_eq!(find(&cgroups, &[number(root.path())], 0).len(), 1, "what is mounted itself");
    assert_eq!(find(&cgroups, &[CgroupId::new(u64::MAX).unwrap()], 0).len(), 0);
    assert_eq!(find(&cgroups, &[deep], UNITS_A_CGROUP).len(), 0, "without time");
}

#[test]
fn a_directory_stays_that_of_its_cgroup() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("a");
    fs::create_dir(&path).unwrap();
    let cgroups = Cgroups::open(mounted("/", root.path()).as_bytes()).unwrap();
    let found = find(&cgroups, &[number(&path)], 0);
    fs::rename(&path, root.path().join("gone")).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("cgroup.procs"), "7\n").unwrap();
    assert_eq!(found[0].1.read_members(), None);
}

#[test]
fn the_mount_with_most_in_it_is_used_and_none_that_is_something_else_by_now() {
    let (whole, own, part) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let holds = |cgroups: &Cgroups, root: &TempDir| find(cgroups, &[number(root.path())], 0).len() == 1;
    let of_namespace = mounted("/a", part.path()) + &mounted("/", own.path());
    let cgroups = Cgroups::open(of_namespace.as_bytes()).unwrap();
    assert!(holds(&cgroups, &own) && !cgroups.leads_out());
    let from_outside = of_namespace + &mounted("/..", part.path()) + &mounted("/../..", whole.path());
    let cgroups = Cgroups::open(from_outside.as_bytes()).unwrap();
    assert!(holds(&cgroups, &whole) && cgroups.leads_out());
    let covered = "41 31 250:250 / /proc rw - cgroup2 cgroup2 rw\n";
    assert!(Cgroups::open(covered.as_bytes()).is_none());
    assert!(Cgroups::open(b"").is_none());
}
