use std::collections::BTreeSet;
use std::fs;

use super::*;
use crate::test_proc::TestProc;

fn inodes(visited: &[u64]) -> BTreeSet<u64> {
    visited.iter().copied().collect()
}

#[test]
fn a_descriptor_that_is_closed_in_mid_reading_is_left_out_and_the_others_are_not() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").socket(3, 103).socket(4, 104).socket(5, 105));
    let dir = Procfs::open(proc.path()).unwrap().open_process(Pid(10)).unwrap();
    let mut visited = Vec::new();
    let mut closed = 0_u32;
    let extent =
        dir.read_descriptors(&mut scratch(), 0..u32::MAX, &Allowance::unlimited(), |descriptor, inode| {
            visited.push(inode.get());
            if closed == 0 {
                closed = if descriptor == 3 { 4 } else { 3 };
                fs::remove_file(proc.path().join(format!("10/fd/{closed}"))).unwrap();
            }
            ControlFlow::Continue(())
        });
    assert_eq!(extent, Ok(Extent::Whole));
    let mut expected = inodes(&[103, 104, 105]);
    expected.remove(&(u64::from(closed) + 100));
    assert_eq!(inodes(&visited), expected);
}

#[test]
fn a_process_that_is_gone_does_not_lend_its_directory_to_the_next_of_its_number() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").socket(3, 103));
    let procfs = Procfs::open(proc.path()).unwrap();
    let dir = procfs.open_process(Pid(10)).unwrap();
    proc.remove(10);
    drop(proc.process(10, "other").socket(3, 103));
    assert!(matches!(dir.read_names(), Err(Obstacle::Vanished)));
    assert_eq!(dir.holds(3, Inode::new(103).unwrap()), Ok(false));
    let outcome = dir.read_descriptors(&mut scratch(), 0..u32::MAX, &Allowance::unlimited(), |_, _| {
        ControlFlow::Continue(())
    });
    assert_eq!(outcome, Err(Obstacle::Vanished));
}

#[test]
fn an_agent_out_of_descriptors_blames_itself_and_no_process() {
    assert_eq!(obstacle(Errno::MFILE, Refusal::Enter), Obstacle::Exhausted(Errno::MFILE));
    let own = obstacle(Errno::ACCESS, Refusal::ReadDescriptor);
    assert_eq!(own, Obstacle::Refused(Refusal::ReadDescriptor));
    // What hidepid refuses would be refused at any step.
    assert_eq!(obstacle(Errno::PERM, Refusal::ReadDescriptor), Obstacle::Refused(Refusal::Enter));
    // A process can move its executable out of reach of a path; that must not fail the search for others.
    assert_eq!(obstacle(Errno::NAMETOOLONG, Refusal::Enter), Obstacle::Refused(Refusal::Enter));
}

#[test]
fn only_processes_are_listed_and_in_order() {
    let proc = TestProc::new();
    for pid in [30, 4, 100] {
        drop(proc.process(pid, "x"));
    }
    for name in ["99999999999", "007", "-1", "sys", "net"] {
        fs::create_dir(proc.path().join(name)).unwrap();
    }
    let procfs = Procfs::open(proc.path()).unwrap();
    for _ in 0..2 {
        let listed = procfs.read_processes(&mut scratch()).unwrap();
        let pids: Vec<Pid> = listed.iter().map(|process| process.pid).collect();
        assert_eq!(pids, [Pid(4), Pid(30), Pid(100)]);
        let directory = fs::metadata(proc.path().join("4")).unwrap();
        assert_eq!(listed[0].inode, std::os::unix::fs::MetadataExt::ino(&directory));
    }
}
