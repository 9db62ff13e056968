use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::fs::{major, minor};
use tempfile::TempDir;
use vms_core::ProcessAdapter as _;
use vms_core::allowance::Allowance;
use vms_core::connection::Inode;

use super::*;
use crate::reader::ProcReader;
use crate::test_proc::{Question, START, TestProc, privileged, unprivileged, without_overriding_modes};

/// A /proc with a hierarchy of cgroups, in which all descriptors may be kept from being read.
struct World {
    proc: TestProc,
    hierarchy: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { proc: TestProc::new(), hierarchy: TempDir::new().unwrap() };
        world.mount_options("rw");
        world.own("status", &format!("Name:\tx\nNSpid:\t{}\n", std::process::id()));
        fs::create_dir_all(world.proc.path().join("self/ns")).unwrap();
        symlink("pid:[4026531836]", world.proc.path().join("self/ns/pid")).unwrap();
        world
    }

    fn own(&self, name: &str, text: &str) {
        fs::write(self.proc.path().join("self").join(name), text).unwrap();
    }

    fn mount_options(&self, options: &str) {
        self.proc.mount_options(options);
        let device = fs::metadata(self.hierarchy.path()).unwrap().dev();
        let mountinfo = fs::read_to_string(self.proc.path().join("self/mountinfo")).unwrap();
        let hierarchy = self.hierarchy.path().display();
        let line = format!("41 31 {}:{} / {hierarchy} rw - cgroup2 none rw\n", major(device), minor(device));
        self.own("mountinfo", &(mountinfo + &line));
    }

    fn cgroup(&self, name: &str) -> CgroupId {
        let path = self.hierarchy.path().join(name);
        fs::create_dir_all(&path).unwrap();
        CgroupId::new(fs::metadata(path).unwrap().ino()).unwrap()
    }

    fn members(&self, name: &str, members: &str) {
        self.cgroup(name);
        fs::write(self.hierarchy.path().join(name).join("cgroup.procs"), members).unwrap();
    }

    /// A process in a cgroup, of a user; its descriptors may not be read.
    fn outsider(&self, pid: u32, name: &str, cgroup: &str, uid: u32) {
        let process = self.proc.process(pid, name);
        self.put(pid, cgroup, uid);
        process.mode("fd", 0);
    }

    fn put(&self, pid: u32, cgroup: &str, uid: u32) {
        let path = self.path(pid);
        fs::write(path.join("cgroup"), format!("0::/{cgroup}\n")).unwrap();
        fs::write(path.join("status"), format!("Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")).unwrap();
    }

    fn path(&self, pid: u32) -> PathBuf {
        self.proc.path().join(pid.to_string())
    }

    fn find(&self, cgroups: &[CgroupId], uids: &[u32]) -> OutsiderScan {
        find(&mut self.proc.reader_with(unprivileged()), cgroups, uids, &Allowance::unlimited())
    }
}

fn find(
    reader: &mut ProcReader,
    cgroups: &[CgroupId],
    uids: &[u32],
    allowance: &Allowance<'_>,
) -> OutsiderScan {
    let question = Question::new(&["app"]);
    let (cgroups, uids) = (cgroups.iter().copied().collect(), uids.iter().copied().collect());
    let sockets = HashSet::from([Inode::new(7).unwrap()]);
    let query = OutsiderQuery {
        selector: question.selector(),
        cgroups: &cgroups,
        uids: &uids,
        sockets: &sockets,
        now: START,
        allowance,
    };
    reader.find_outsiders(&query).unwrap()
}

fn pids(outsiders: Option<&Vec<Outsider>>) -> Option<Vec<u32>> {
    outsiders.map(|outsiders| outsiders.iter().map(|outsider| outsider.process.pid.0).collect())
}

#[test]
fn those_of_a_cgroup_are_told_but_who_holds_nothing_for_certain() {
    without_overriding_modes(|| {
        let world = World::new();
        world.outsider(10, "app", "web", 1000);
        world.outsider(11, "other", "web", 0);
        world.proc.process(12, "seen").socket(3, 99);
        world.put(12, "web", 1000);
        world.proc.process(13, "kernel").bare(b'S', 0x0020_0000);
        world.proc.process(14, "dead").bare(b'Z', 0x0040_0000);
        fs::create_dir(world.path(14).join("task")).unwrap();
        world.outsider(20, "app", "db", 1000);
        world.members("web", "10\n11\n12\n13\n14\n");
        world.members("db", "20\n");
        let (web, db) = (world.cgroup("web"), world.cgroup("db"));
        let scan = world.find(&[web], &[]);
        assert_eq!(pids(scan.by_cgroup.get(&web)), Some(vec![10, 11]));
        assert_eq!(scan.by_cgroup.get(&db), None, "it was not asked for");
        let outsiders = &scan.by_cgroup[&web];
        assert_eq!((outsiders[0].process.fits.len(), outsiders[1].process.fits.len()), (1, 0));
        assert_eq!((outsiders[0].uids, outsiders[1].uids), (Some([1000; 4]), Some([0; 4])));
        assert!(scan.seen.is_empty() && scan.lacks.is_empty());
    });
}

#[test]
fn a_socket_that_is_found_with_somebody_is_told() {
    without_overriding_modes(|| {
        let world = World::new();
        world.outsider(10, "app", "web", 1000);
        world.proc.process(12, "seen").socket(3, 7);
        world.put(12, "web", 1000);
        world.members("web", "10\n12\n");
        let scan = world.find(&[world.cgroup("web")], &[]);
        assert_eq!(scan.seen, HashSet::from([Inode::new(7).unwrap()]));
    });
}

#[test]
fn nothing_is_told_of_a_cgroup_whose_processes_are_not_all_known() {
    without_overriding_modes(|| {
        let world = World::new();
        world.outsider(10, "app", "web", 1000);
        let web = world.cgroup("web");
        // One that is not of this PID namespace, a file that cannot be read, a process that does not show.
        for members in [Some("10\n0\n"), None, Some("10\n99\n")] {
            match members {
                Some(members) => world.members("web", members),
                None => fs::remove_file(world.hierarchy.path().join("web/cgroup.procs")).unwrap(),
            }
            assert_eq!(world.find(&[web], &[]).by_cgroup.get(&web), None, "{members:?}");
        }
        world.members("web", "10\n");
        let spent = Allowance::of_units(0);
        let scan = find(&mut world.proc.reader_with(unprivileged()), &[web], &[], &spent);
        assert_eq!(scan.by_cgroup.get(&web), None, "without time");
        assert_eq!(pids(world.find(&[web], &[]).by_cgroup.get(&web)), Some(vec![10]));
    });
}

#[test]
fn those_of_a_user_are_told_with_those_who_might_be_his() {
    without_overriding_modes(|| {
        let world = World::new();
        world.outsider(10, "app", "web", 1000);
        world.outsider(11, "other", "web", 2000);
        world.outsider(12, "third", "web", 3000);
        fs::write(world.path(12).join("status"), "Name:\tx\n").unwrap();
        world.proc.process(13, "seen");
        world.put(13, "web", 1000);
        let scan = world.find(&[], &[1000]);
        assert_eq!(pids(scan.by_uid.get(&1000)), Some(vec![10, 12]));
        assert_eq!(scan.by_uid[&1000][1].uids, None);
        fs::write(world.path(12).join("status"), "Uid:\t5\t5\t1000\t5\n").unwrap();
        assert_eq!(
            pids(world.find(&[], &[1000]).by_uid.get(&1000)),
            Some(vec![10, 12]),
            "as who he could be"
        );
        world.put(12, "web", 5);
        assert_eq!(pids(world.find(&[], &[1000]).by_uid.get(&1000)), Some(vec![10]));
    });
}

#[test]
fn what_stands_in_the_way_is_told() {
    without_overriding_modes(|| {
        let world = World::new();
        world.outsider(10, "app", "web", 1000);
        world.members("web", "10\n");
        let web = world.cgroup("web");
        let lacks = |world: &World| {
            let scan = world.find(&[web], &[1000]);
            assert!(scan.lacks.is_empty() || scan.by_cgroup.is_empty() || scan.by_uid.is_empty());
            scan.lacks
        };
        assert_eq!(lacks(&world), BTreeSet::new());
        for mode in ["rw,hidepid=1", "rw,hidepid=invisible", "rw,hidepid=4"] {
            world.mount_options(mode);
            assert_eq!(lacks(&world), BTreeSet::from([InferenceLack::HiddenProcesses]), "{mode}");
        }
        world.mount_options("rw,hidepid=2,gid=1000");
        assert_eq!(lacks(&world), BTreeSet::new(), "not from that group");
        world.mount_options("rw");
        world.own("status", &format!("NSpid:\t5\t{}\n", std::process::id()));
        let numbers = BTreeSet::from([InferenceLack::ForeignNumbers, InferenceLack::OwnProcesses]);
        assert_eq!(lacks(&world), numbers);
        world.own("status", &format!("NSpid:\t{}\n", std::process::id()));
        fs::remove_file(world.proc.path().join("self/ns/pid")).unwrap();
        symlink("pid:[4026532000]", world.proc.path().join("self/ns/pid")).unwrap();
        assert_eq!(lacks(&world), BTreeSet::from([InferenceLack::OwnProcesses]), "a container");
        let elsewhere = BTreeSet::from([InferenceLack::PartOfCgroups, InferenceLack::OwnProcesses]);
        world.put(10, "../web", 1000);
        assert_eq!(lacks(&world), BTreeSet::from([InferenceLack::OwnProcesses]), "it was found");
        fs::remove_dir_all(world.hierarchy.path().join("web")).unwrap();
        assert_eq!(lacks(&world), elsewhere, "another container's cgroup");
        world.proc.mount_options("rw");
        let both = BTreeSet::from([InferenceLack::NoCgroups, InferenceLack::OwnProcesses]);
        assert_eq!(lacks(&world), both, "no hierarchy is mounted");
    });
}

#[test]
fn a_suspect_is_verified_while_it_lives_fits_and_is_where_it_was() {
    without_overriding_modes(|| {
        let world = World::new();
        world.outsider(10, "app", "web", 1000);
        world.members("web", "10\n");
        world.members("db", "");
        let web = world.cgroup("web");
        let mut reader = world.proc.reader_with(unprivileged());
        let question = Question::new(&["app"]);
        let fit = |reader: &mut ProcReader, basis: Basis, at: Duration| {
            let suspects = [(Pid(10), basis)];
            let query = SuspectQuery { selector: question.selector(), suspects: &suspects, now: START + at };
            let verified = reader.verify_suspects(&query).unwrap().remove(0);
            verified.map(|process| process.fits.len())
        };
        let by_cgroup = Basis::Cgroup(web);
        assert_eq!(fit(&mut reader, by_cgroup, Duration::ZERO), None, "nothing is known of it");
        let unlimited = Allowance::unlimited();
        find(&mut reader, &[web], &[], &unlimited);
        assert_eq!(fit(&mut reader, by_cgroup, Duration::ZERO), Some(1));
        assert_eq!(fit(&mut reader, Basis::Uid(1000), Duration::ZERO), Some(1));
        assert_eq!(fit(&mut reader, Basis::Uid(1001), Duration::ZERO), None);
        world.put(10, "db", 1000);
        assert_eq!(fit(&mut reader, by_cgroup, Duration::ZERO), None, "it is in another cgroup");
        world.put(10, "web", 1000);
        fs::write(world.path(10).join("comm"), "sh\n").unwrap();
        fs::write(world.path(10).join("cmdline"), "sh\0").unwrap();
        fs::remove_file(world.path(10).join("exe")).unwrap();
        symlink("/bin/sh", world.path(10).join("exe")).unwrap();
        assert_eq!(fit(&mut reader, by_cgroup, NAMES_BOUND / 2), Some(1), "its names were read just now");
        assert_eq!(fit(&mut reader, by_cgroup, NAMES_BOUND), Some(0));
        fs::write(world.path(10).join("stat"), "10 (app) Z 1 1 1 0 -1 4194304 0 0\n").unwrap();
        assert_eq!(fit(&mut reader, by_cgroup, NAMES_BOUND), None, "it is dead");
    });
}

#[test]
fn a_number_that_was_given_to_another_process_verifies_nothing() {
    without_overriding_modes(|| {
        let world = World::new();
        world.outsider(10, "app", "web", 1000);
        world.members("web", "10\n");
        let web = world.cgroup("web");
        let mut reader = world.proc.reader_with(unprivileged());
        find(&mut reader, &[web], &[], &Allowance::unlimited());
        world.proc.rename(10, "gone");
        for file in ["stat", "status", "cgroup"] {
            fs::remove_file(world.proc.path().join("gone").join(file)).unwrap();
        }
        world.outsider(10, "app", "web", 1000);
        let question = Question::new(&["app"]);
        let suspects = [(Pid(10), Basis::Cgroup(web))];
        let query = SuspectQuery { selector: question.selector(), suspects: &suspects, now: START };
        assert_eq!(reader.verify_suspects(&query).unwrap(), [None]);
    });
}

#[test]
fn nobody_is_an_outsider_to_whom_everything_is_shown() {
    let world = World::new();
    world.proc.process(10, "app").socket(3, 7);
    world.put(10, "web", 1000);
    world.members("web", "10\n");
    let web = world.cgroup("web");
    let scan = find(&mut world.proc.reader_with(privileged()), &[web], &[1000], &Allowance::unlimited());
    assert_eq!((pids(scan.by_cgroup.get(&web)), pids(scan.by_uid.get(&1000))), (Some(vec![]), Some(vec![])));
    assert_eq!(scan.seen.len(), 1);
}

#[test]
fn a_number_that_is_given_to_another_in_mid_search_is_looked_at_again() {
    without_overriding_modes(|| {
        let world = World::new();
        for pid in [10, 11] {
            world.outsider(pid, "app", "web", 1000);
        }
        world.members("web", "10\n11\n");
        let (web, root) = (world.cgroup("web"), world.proc.path().to_owned());
        let replaced = world.proc.when_comm_is_read(11, b"app\n", move || {
            fs::set_permissions(root.join("10/fd"), fs::Permissions::from_mode(0o700)).unwrap();
            for (from, to) in [("10", "old"), ("next", "10")] {
                fs::rename(root.join(from), root.join(to)).unwrap();
            }
            fs::remove_dir_all(root.join("old")).unwrap();
        });
        world.outsider(12, "other", "web", 1000);
        world.proc.rename(12, "next");
        let scan = world.find(&[web], &[]);
        replaced.join().unwrap();
        let fits: Vec<usize> =
            scan.by_cgroup[&web].iter().map(|outsider| outsider.process.fits.len()).collect();
        assert_eq!((pids(scan.by_cgroup.get(&web)), fits), (Some(vec![10, 11]), vec![0, 1]));
    });
}
