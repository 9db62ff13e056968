use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use vms_core::ProcessAdapter;
use vms_core::process::{Capability, HolderScan, Obscured, PatternId};

use super::*;
use crate::reader::ProcReader;
use crate::table::NAMES_TABLE_BOUND;
use crate::test_proc::{Question, TestProc, privileged, unprivileged, without_overriding_modes};

mod counted;
mod located;
mod remembered;
mod used;

/// The holders found of a socket, by PID.
fn holders(scan: &HolderScan, inode: u64) -> Vec<u32> {
    let holders = scan.holders.get(&Inode::new(inode).unwrap()).map(Vec::as_slice).unwrap_or_default();
    holders.iter().map(|process| process.pid.0).collect()
}

/// Those of them that fit a pattern.
fn fitting(scan: &HolderScan, inode: u64, pattern: PatternId) -> Vec<u32> {
    let holders = scan.holders.get(&Inode::new(inode).unwrap()).map(Vec::as_slice).unwrap_or_default();
    holders.iter().filter(|process| process.fits.contains(&pattern)).map(|process| process.pid.0).collect()
}

fn find(proc: &TestProc, question: &Question) -> HolderScan {
    proc.reader().find_holders(&question.query()).unwrap()
}

fn obscured(certain: bool, missing: &[Capability]) -> Obscured {
    Obscured { certain, missing: missing.iter().copied().collect() }
}

/// A pattern, a process that is otherwise called `other`, and whether it fits.
fn assert_fits(pattern: &str, expected: bool, change: impl Fn(crate::test_proc::TestProcess)) {
    let proc = TestProc::new();
    change(proc.process(10, "other").socket(3, 77));
    let question = Question::new(&[pattern]).wants(77, &[0]);
    assert_eq!(holders(&find(&proc, &question), 77) == [10], expected, "{pattern}");
}

#[test]
fn a_holder_fits_by_comm_by_argv0_or_by_its_executables_name() {
    assert_fits("nginx", true, |process| drop(process.comm(b"nginx\n")));
    assert_fits("nginx", true, |process| drop(process.cmdline(b"/opt/x/nginx\0-g\0")));
    assert_fits("nginx", true, |process| drop(process.exe("/usr/sbin/nginx")));
    assert_fits("NGI*", true, |process| drop(process.comm(b"nginx\n")));
    assert_fits("nginx", false, |process| drop(process.comm(b"nginx-helper\n")));
    assert_fits("nginx", false, |process| drop(process.cmdline(b"x\0nginx\0")));
}

#[test]
fn a_name_longer_than_a_comm_fits_in_whole() {
    assert_fits("a-very-long-service-name", true, |process| {
        drop(process.comm(b"a-very-long-ser\n").exe("/srv/a-very-long-service-name"));
    });
}

#[test]
fn an_executable_has_to_be_that_path_replaced_or_not() {
    assert_fits("*=/srv/a", true, |process| drop(process.exe("/srv/a")));
    assert_fits("*=/srv/a", true, |process| drop(process.exe("/srv/a (deleted)")));
    assert_fits("a", true, |process| drop(process.exe("/srv/a (deleted)")));
    assert_fits("*=/srv/a", false, |process| drop(process.exe("/srv/a2")));
    assert_fits("other=/srv/a", true, |process| drop(process.exe("/srv/a")));
    assert_fits("nginx=/srv/a", false, |process| drop(process.exe("/srv/a")));
}

#[test]
fn names_that_are_no_text_fit_as_the_bytes_they_are() {
    assert_fits("a?b*", true, |process| drop(process.comm(b"a\nb) S 1 (\xff\n")));
    assert_fits("nginx", false, |process| drop(process.comm(b"evil\nnginx\n")));
    assert_fits("nginx", false, |process| drop(process.comm(b"nginx\n\n")));
}

#[test]
fn a_process_that_blanked_its_arguments_is_known_by_its_other_names() {
    assert_fits("other", true, |process| drop(process.cmdline(b"")));
    assert_fits("nginx=/srv/a", false, |process| drop(process.cmdline(b"").exe("/srv/a")));
}

#[test]
fn a_holder_is_described_by_a_name_that_is_safe_to_print() {
    let proc = TestProc::new();
    drop(proc.process(10, "x").comm(b"x\x1b[2J\n").exe("/srv/x (deleted)").socket(3, 77));
    let question = Question::new(&["*", "y"]).wants(77, &[0]);
    let scan = find(&proc, &question);
    let process = &scan.holders[&Inode::new(77).unwrap()][0];
    assert_eq!(process.name, "x\\u{1b}[2J");
    assert_eq!(process.executable.as_deref(), Some(Path::new("/srv/x")));
    assert_eq!(process.fits, [question.id(0)]);
}

#[test]
fn a_socket_counts_each_process_that_holds_it_once() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").socket(3, 77).socket(4, 77));
    drop(proc.process(11, "nginx").socket(3, 77));
    drop(proc.process(12, "other").socket(3, 77));
    let question = Question::new(&["nginx"]).wants(77, &[0]).every_holder();
    let mut reader = proc.reader();
    for _ in 0..2 {
        assert_eq!(holders(&reader.find_holders(&question.query()).unwrap(), 77), [10, 11]);
    }
}

#[test]
fn holders_that_fit_different_patterns_are_found_for_each() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").socket(3, 77));
    drop(proc.process(11, "php").socket(3, 77).socket(4, 78));
    let question = Question::new(&["nginx", "php"]).wants(77, &[0, 1]).wants(78, &[0]);
    let scan = find(&proc, &question);
    assert_eq!(holders(&scan, 77), [10, 11]);
    // Held, and by nobody who fits: the reader was in that process anyway, and says what it saw.
    assert!(scan.holders.get(&Inode::new(78).unwrap()).is_none_or(|of| of[0].fits == [question.id(1)]));
    assert!(scan.obscured.is_empty());
}

#[test]
fn what_is_not_asked_for_is_not_told() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").socket(3, 77).socket(4, 99).descriptor(5, "/tmp/socket:[78]"));
    let question = Question::new(&["nginx", "other"]).wants(77, &[0]).wants(78, &[0]);
    let scan = find(&proc, &question);
    assert_eq!(scan.holders.len(), 1);
    assert_eq!(scan.present, [question.id(0)].into());
    assert!(scan.uncertain.is_empty() && scan.obscured.is_empty());
}

#[test]
fn a_process_whose_names_do_not_fit_is_not_searched() {
    let proc = TestProc::new();
    drop(proc.process(10, "other").socket(3, 77).socket(4, 78));
    let question = Question::new(&["nginx"]).wants(77, &[0]);
    let mut reader = proc.reader();
    assert!(reader.find_holders(&question.query()).unwrap().holders.is_empty());
    assert_eq!(reader.effort().sockets, 0);
}

#[test]
fn the_search_ends_when_each_socket_has_its_holder() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").socket(3, 77));
    for pid in 11..50 {
        drop(proc.process(pid, "nginx").socket(3, 77));
    }
    let question = Question::new(&["nginx"]).wants(77, &[0]);
    let mut reader = proc.reader();
    reader.find_holders(&question.query()).unwrap();
    assert_eq!(reader.effort().names, 1);
}

#[test]
fn a_socket_that_is_settled_for_one_pattern_is_searched_on_for_the_other() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").socket(3, 77));
    drop(proc.process(11, "nginx").socket(3, 77));
    drop(proc.process(12, "php").socket(3, 77));
    let question = Question::new(&["nginx", "php"]).wants(77, &[0, 1]);
    let mut reader = proc.reader();
    assert_eq!(holders(&reader.find_holders(&question.query()).unwrap(), 77), [10, 12]);
    assert_eq!(reader.effort().sockets, 2, "the second nginx has nothing to add");
}

#[test]
fn while_nothing_moves_proc_is_not_even_listed() {
    let proc = TestProc::new();
    drop(proc.process(10, "other"));
    drop(proc.process(11, "nginx").socket(3, 77).socket(4, 78));
    drop(proc.process(12, "php").socket(5, 77));
    let question = Question::new(&["nginx", "php"]).wants(77, &[0, 1]).wants(78, &[0]);
    let mut reader = proc.reader();
    let first = reader.find_holders(&question.query()).unwrap();
    assert_eq!(reader.effort().listings, 1);
    for _ in 0..3 {
        let again = reader.find_holders(&question.query()).unwrap();
        assert_eq!(reader.effort(), Effort { names: 2, rechecks: 3, ..Effort::default() });
        assert_eq!(again.holders, first.holders);
        assert_eq!(again.present, first.present);
    }
}

#[test]
fn no_more_places_are_remembered_than_it_takes() {
    let proc = TestProc::new();
    for pid in 1..30 {
        drop(proc.process(pid, "nginx").socket(3, 77).socket(4, 77));
    }
    let mut reader = proc.reader();
    let every = Question::new(&["nginx"]).wants(77, &[0]).every_holder();
    assert_eq!(holders(&reader.find_holders(&every.query()).unwrap(), 77).len(), 29);
    reader.find_holders(&Question::new(&["nginx"]).wants(77, &[0]).query()).unwrap();
    assert_eq!(reader.effort(), Effort { names: 1, rechecks: 1, ..Effort::default() });
}

#[test]
fn a_new_socket_of_a_known_holder_is_found_without_looking_at_others() {
    let proc = TestProc::new();
    for pid in 1..50 {
        drop(proc.process(pid, "other"));
    }
    let process = proc.process(50, "nginx").socket(3, 77);
    let mut reader = proc.reader();
    reader.find_holders(&Question::new(&["nginx"]).wants(77, &[0]).query()).unwrap();
    drop(process.socket(4, 78));
    let question = Question::new(&["nginx"]).wants(77, &[0]).wants(78, &[0]);
    assert_eq!(holders(&reader.find_holders(&question.query()).unwrap(), 78), [50]);
    assert_eq!(reader.effort().listings, 0);
}

#[test]
fn a_remembered_place_is_never_believed() {
    let proc = TestProc::new();
    let process = proc.process(10, "nginx").socket(3, 77).socket(4, 78);
    let question = Question::new(&["nginx"]).wants(77, &[0]).wants(78, &[0]);
    let mut reader = proc.reader();
    let mut found = |inode| fitting(&reader.find_holders(&question.query()).unwrap(), inode, question.id(0));
    assert_eq!(found(77), [10]);

    let process = process.close(3);
    assert_eq!(found(77), [0; 0], "closed");
    assert_eq!(found(78), [10], "and the other descriptor is still looked at");
    let process = process.socket(3, 99);
    assert_eq!(found(77), [0; 0], "another socket at that descriptor");
    let process = process.socket(9, 77);
    assert_eq!(found(77), [10], "at another descriptor");
    let process = process.comm(b"other\n").cmdline(b"other\0").exe("/bin/other");
    assert_eq!(found(77), [0; 0], "another program");
    drop(process);
    proc.remove(10);
    drop(proc.process(10, "other").socket(3, 77));
    assert_eq!(found(77), [0; 0], "another process of that number");
    drop(proc.process(5, "nginx").socket(3, 77));
    assert_eq!(found(77), [5], "passed on");
    proc.remove(10);
    assert_eq!(found(77), [5]);
}

#[test]
fn a_process_that_vanishes_is_nothing_to_speak_of() {
    let proc = TestProc::new();
    fs::create_dir(proc.path().join("9")).unwrap();
    drop(proc.process(10, "nginx"));
    fs::remove_dir(proc.path().join("10/fd")).unwrap();
    drop(proc.process(11, "nginx"));
    fs::remove_file(proc.path().join("11/cmdline")).unwrap();
    fs::write(proc.path().join("12"), "").unwrap();
    fs::create_dir(proc.path().join("99999999999")).unwrap();
    drop(proc.process(13, "nginx").socket(3, 77));
    let question = Question::new(&["nginx"]).wants(77, &[0]).wants(78, &[0]);
    let scan = find(&proc, &question);
    assert_eq!(holders(&scan, 77), [13]);
    assert!(scan.obscured.is_empty() && scan.uncertain.is_empty());
}

#[test]
fn a_holder_that_forks_and_exits_in_mid_scan_is_found_in_its_child() {
    let proc = TestProc::new();
    drop(proc.process(5, "other"));
    drop(proc.process(10, "nginx").socket(3, 77));
    let path = proc.path().to_owned();
    let fork = proc.when_comm_is_read(5, b"other\n", move || {
        fs::rename(path.join("10"), path.join("4")).unwrap();
    });
    assert_eq!(holders(&find(&proc, &Question::new(&["nginx"]).wants(77, &[0])), 77), [4]);
    fork.join().unwrap();
}

#[test]
fn a_daemon_that_restarts_in_mid_scan_is_present() {
    let proc = TestProc::new();
    drop(proc.process(5, "other"));
    drop(proc.process(10, "nginx"));
    let path = proc.path().to_owned();
    let restart = proc.when_comm_is_read(5, b"other\n", move || {
        fs::rename(path.join("10"), path.join("4")).unwrap();
    });
    let question = Question::new(&["nginx"]).counts(0);
    assert_eq!(find(&proc, &question).present, [question.id(0)].into());
    restart.join().unwrap();
}

#[test]
fn a_socket_handed_back_by_a_process_that_exits_in_mid_scan_is_found() {
    let proc = TestProc::new();
    drop(proc.process(4, "nginx"));
    drop(proc.process(5, "other"));
    drop(proc.process(6, "nginx").socket(3, 77));
    let path = proc.path().to_owned();
    let handed = proc.when_comm_is_read(5, b"other\n", move || {
        fs::rename(path.join("6/fd/3"), path.join("4/fd/3")).unwrap();
        fs::remove_dir(path.join("6/fd")).unwrap();
        // This process will be looked at once more, and nobody writes to the pipe any more.
        fs::remove_file(path.join("5/comm")).unwrap();
        fs::write(path.join("5/comm"), "other\n").unwrap();
    });
    assert_eq!(holders(&find(&proc, &Question::new(&["nginx"]).wants(77, &[0])), 77), [4]);
    handed.join().unwrap();
}

#[test]
fn a_number_given_to_another_process_in_mid_look_mixes_nothing_up() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx"));
    drop(proc.process(20, "evil").socket(3, 77));
    let path = proc.path().to_owned();
    let reuse = proc.when_comm_is_read(10, b"nginx\n", move || {
        fs::rename(path.join("10"), path.join("gone")).unwrap();
        fs::rename(path.join("20"), path.join("10")).unwrap();
    });
    let scan = find(&proc, &Question::new(&["nginx"]).wants(77, &[0]));
    reuse.join().unwrap();
    assert!(scan.holders.is_empty(), "{:?}", scan.holders);
}

#[test]
fn a_process_is_found_under_the_number_of_one_that_vanished_in_mid_scan() {
    let proc = TestProc::new();
    drop(proc.process(9, "other"));
    drop(proc.process(11, "other"));
    drop(proc.process(20, "nginx").socket(3, 77));
    drop(proc.process(10, "other"));
    let (vanishing, appearing) = (proc.path().to_owned(), proc.path().to_owned());
    let vanish = proc.when_comm_is_read(9, b"other\n", move || {
        fs::rename(vanishing.join("10"), vanishing.join("gone")).unwrap();
        fs::rename(vanishing.join("20"), vanishing.join("forked")).unwrap();
    });
    let appear = proc.when_comm_is_read(11, b"other\n", move || {
        fs::rename(appearing.join("forked"), appearing.join("10")).unwrap();
    });
    assert_eq!(holders(&find(&proc, &Question::new(&["nginx"]).wants(77, &[0])), 77), [10]);
    vanish.join().unwrap();
    appear.join().unwrap();
}

#[test]
fn passes_are_bounded_while_processes_come_without_end() {
    let proc = TestProc::new();
    for pid in 1..10 {
        drop(proc.process(pid, "other"));
        let (path, next) = (proc.path().to_owned(), pid + 1);
        // Those that are never looked at leave their thread waiting, until the test program ends.
        drop(proc.when_comm_is_read(pid, b"other\n", move || {
            fs::rename(path.join(format!("later-{next}")), path.join(next.to_string())).unwrap();
        }));
        if pid > 1 {
            proc.rename(pid, &format!("later-{pid}"));
        }
    }
    let mut reader = proc.reader();
    reader.find_holders(&Question::new(&["nginx"]).wants(77, &[0]).query()).unwrap();
    assert_eq!(reader.effort().listings, 1 + EXTRA_PASSES);
}

#[test]
fn a_census_is_of_all_processes_and_costs_no_descriptors() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").socket(3, 77).socket(4, 78));
    drop(proc.process(11, "php").socket(3, 79));
    let question = Question::new(&["nginx", "php", "absent", "unasked"]).counts(0).counts(1).counts(2);
    let mut reader = proc.reader();
    let scan = reader.find_holders(&question.query()).unwrap();
    assert_eq!(scan.present, [question.id(0), question.id(1)].into());
    assert!(scan.uncertain.is_empty() && scan.holders.is_empty());
    assert_eq!(reader.effort().sockets, 0);
}

#[test]
fn a_census_goes_on_after_the_sockets_are_settled() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").socket(3, 77));
    drop(proc.process(20, "php"));
    drop(proc.process(30, "php"));
    let question = Question::new(&["nginx", "php"]).wants(77, &[0]).counts(1);
    let mut reader = proc.reader();
    for _ in 0..2 {
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!(scan.present, [question.id(0), question.id(1)].into());
    }
}

#[test]
fn the_dead_are_not_present_and_parts_of_the_kernel_are() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").bare(b'Z', 0x0040_0140));
    drop(proc.process(11, "kworker/0:1").bare(b'I', 0x0420_8060));
    let question = Question::new(&["nginx", "kworker*", "k*=/bin/k"]).counts(0).counts(1).counts(2);
    let scan = find(&proc, &question);
    assert_eq!(scan.present, [question.id(1)].into());
    assert!(scan.uncertain.is_empty());
}

#[test]
fn a_process_whose_first_thread_has_exited_lives_on_in_the_others() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").bare(b'Z', 0x0040_0140));
    drop(proc.process(12, "nginx").stat(b'S', 0x0040_0140).socket(3, 77));
    fs::create_dir(proc.path().join("10/task")).unwrap();
    fs::rename(proc.path().join("12"), proc.path().join("10/task/12")).unwrap();
    let question = Question::new(&["nginx"]).wants(77, &[0]);
    let mut reader = proc.reader();
    for _search_then_hint in 0..2 {
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!(fitting(&scan, 77, question.id(0)), [10]);
    }
}

#[test]
fn a_process_that_cannot_be_listed_obscures_what_it_fits() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(10, "nginx").mode("fd", 0));
        drop(proc.process(11, "php").socket(3, 78));
        let question = Question::new(&["nginx", "php"]).wants(77, &[0]).wants(78, &[1]);
        let mut reader = proc.reader_with(unprivileged());
        let scan = reader.find_holders(&question.query()).unwrap();
        let both = obscured(true, &Capability::ALL);
        assert_eq!(scan.obscured, BTreeMap::from([(question.id(0), both)]));
        assert_eq!(holders(&scan, 78), [11]);
        assert_eq!(scan.present, [question.id(0), question.id(1)].into());
    });
}

#[test]
fn a_process_whose_links_cannot_be_read_lacks_ptrace_only() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(10, "nginx").socket(3, 77).mode("fd", 0o400));
        let question = Question::new(&["nginx"]).wants(77, &[0]);
        let scan = proc.reader_with(unprivileged()).find_holders(&question.query()).unwrap();
        let expected = obscured(true, &[Capability::SysPtrace]);
        assert_eq!(scan.obscured, BTreeMap::from([(question.id(0), expected)]));
    });
}

#[test]
fn a_process_of_which_nothing_can_be_read_might_be_any() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(10, "other").socket(3, 77).mode("", 0));
        let question = Question::new(&["nginx", "php=/bin/php"]).wants(77, &[0]).counts(1);
        let scan = proc.reader_with(unprivileged()).find_holders(&question.query()).unwrap();
        let expected = obscured(false, &Capability::ALL);
        assert_eq!(scan.obscured, BTreeMap::from([(question.id(0), expected)]));
        assert_eq!(scan.uncertain, [question.id(0), question.id(1)].into());
        assert!(scan.present.is_empty());
    });
}

#[test]
fn what_was_found_elsewhere_is_not_obscured() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(10, "nginx").mode("fd", 0));
        drop(proc.process(11, "nginx").socket(3, 77));
        for question in [
            Question::new(&["nginx"]).wants(77, &[0]),
            Question::new(&["nginx"]).wants(77, &[0]).every_holder(),
        ] {
            let scan = proc.reader_with(unprivileged()).find_holders(&question.query()).unwrap();
            assert_eq!(holders(&scan, 77), [11]);
            assert!(scan.obscured.is_empty());
        }
    });
}

#[test]
fn a_socket_that_somebody_else_is_seen_to_hold_is_no_riddle() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(10, "nginx").mode("fd", 0));
        drop(proc.process(11, "other").socket(3, 77));
        let question = Question::new(&["nginx"]).wants(77, &[0]).wants(78, &[0]);
        let mut reader = proc.reader_with(unprivileged());
        for _ in 0..2 {
            let scan = reader.find_holders(&question.query()).unwrap();
            assert_eq!(holders(&scan, 77), [11]);
            assert_eq!(holders(&scan, 78), [0; 0]);
            assert!(scan.obscured[&question.id(0)].certain);
        }
    });
}

#[test]
fn somebody_else_is_looked_for_also_where_the_search_had_broken_off() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(9, "nginx").mode("fd", 0));
        let mut php = proc.process(10, "php");
        for descriptor in 0..40 {
            php = php.socket(descriptor, if descriptor % 2 == 0 { 77 } else { 78 });
        }
        let question = Question::new(&["nginx", "php"]).wants(77, &[0]).wants(78, &[1]);
        let scan = proc.reader_with(unprivileged()).find_holders(&question.query()).unwrap();
        assert_eq!((holders(&scan, 77), holders(&scan, 78)), (vec![10], vec![10]));
    });
}

#[test]
fn processes_that_are_not_listed_might_hold_anything_asked_for() {
    let proc = TestProc::new();
    proc.mount_options("rw,hidepid=invisible,gid=4");
    drop(proc.process(10, "nginx").socket(3, 77));
    drop(proc.process(11, "other").socket(3, 79));
    let question = Question::new(&["nginx", "php", "ruby"])
        .wants(77, &[0])
        .wants(78, &[1])
        .wants(79, &[1])
        .counts(0)
        .counts(2);
    let scan = proc.reader_with(unprivileged()).find_holders(&question.query()).unwrap();
    let expected = obscured(false, &[Capability::SysPtrace]);
    assert_eq!(scan.obscured, BTreeMap::from([(question.id(1), expected)]));
    assert_eq!(scan.uncertain, [question.id(2)].into());
    assert_eq!(scan.present, [question.id(0)].into());
    assert_eq!(holders(&scan, 79), [11], "seen to be held by somebody else");

    let exempt = Privileges { groups: [4].into(), ..unprivileged() };
    for privileges in [privileged(), exempt] {
        let scan = proc.reader_with(privileges).find_holders(&question.query()).unwrap();
        assert!(scan.obscured.is_empty() && scan.uncertain.is_empty());
    }
}

#[test]
fn a_proc_that_does_not_tell_whether_it_hides_processes_is_not_relied_on() {
    let proc = TestProc::new();
    fs::remove_file(proc.path().join("self/mountinfo")).unwrap();
    drop(proc.process(10, "other"));
    let question = Question::new(&["nginx"]).counts(0);
    let scan = proc.reader_with(unprivileged()).find_holders(&question.query()).unwrap();
    assert_eq!(scan.uncertain, [question.id(0)].into());
    assert!(find(&proc, &question).uncertain.is_empty(), "nothing is hidden from who may trace");
    assert!(proc.reader().hidden_processes().is_err());
}

#[test]
fn a_root_without_processes_is_an_error_and_not_an_absence() {
    let proc = TestProc::new();
    let question = Question::new(&["nginx"]).counts(0);
    let error = proc.reader().find_holders(&question.query()).unwrap_err();
    assert!(matches!(error, ProcessError::Unsupported { .. }), "{error}");
    assert!(error.to_string().ends_with(": no processes; is procfs mounted there?"), "{error}");
    let missing = ProcReader::open(&PathBuf::from("/nonexistent/proc"), privileged()).unwrap_err();
    assert_eq!(missing.to_string(), "/nonexistent/proc: cannot be read");
}

#[test]
fn a_root_that_may_not_be_read_is_a_missing_permission() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        let locked = proc.path().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        let error = ProcReader::open(&locked, privileged()).unwrap_err();
        assert!(matches!(error, ProcessError::PermissionMissing { .. }), "{error}");
    });
}

#[test]
fn a_process_with_many_descriptors_is_read_to_its_end() {
    let proc = TestProc::new();
    let mut process = proc.process(10, "nginx");
    for descriptor in 0..2500 {
        process = process.descriptor(descriptor, "/dev/null");
    }
    drop(process.socket(2500, 77));
    let scan = find(&proc, &Question::new(&["nginx"]).wants(77, &[0]));
    assert_eq!(holders(&scan, 77), [10]);
}

/// A process of a random /proc: one of four names, and sockets out of six.
#[derive(Debug, Clone)]
struct Model {
    name: usize,
    sockets: Vec<u64>,
}

const NAMES: [&str; 4] = ["nginx", "php", "ruby", "java"];

fn models() -> impl Strategy<Value = Vec<Model>> {
    let model = (0..NAMES.len(), proptest::collection::vec(1_u64..=6, 0..4))
        .prop_map(|(name, sockets)| Model { name, sockets });
    proptest::collection::vec(model, 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_found_is_what_is_there_whatever_was_there_before(
        generations in proptest::collection::vec(models(), 1..4),
        wanted in proptest::collection::vec((1_u64..=6, 0..NAMES.len()), 0..8),
        census in proptest::collection::vec(0..NAMES.len(), 0..3),
        every_holder in any::<bool>(),
    ) {
        let mut question = Question::new(&NAMES);
        for (inode, pattern) in &wanted {
            question = question.wants(*inode, &[*pattern]);
        }
        for pattern in &census {
            question = question.counts(*pattern);
        }
        if every_holder {
            question = question.every_holder();
        }
        let proc = TestProc::new();
        let mut reader = proc.reader();
        for (generation, processes) in (0..).zip(&generations) {
            for (pid, process) in (1..).zip(processes) {
                let mut test_process = proc.process(pid, NAMES[process.name]);
                for (descriptor, inode) in (3..).zip(&process.sockets) {
                    test_process = test_process.socket(descriptor, *inode);
                }
            }
            // A file system may give a directory the inode of one that is gone: then this is a renamed process.
            let scan = reader.find_holders(&question.at(NAMES_TABLE_BOUND * generation).query()).unwrap();
            for (inode, holders) in &scan.holders {
                for holder in holders {
                    let held = &processes[usize::try_from(holder.pid.0 - 1).unwrap()];
                    prop_assert!(held.sockets.contains(&inode.get()));
                    prop_assert_eq!(&holder.fits, &[question.id(held.name)]);
                }
            }
            for (inode, pattern) in &wanted {
                let expected: Vec<u32> = (1..)
                    .zip(processes)
                    .filter(|(_, process)| process.name == *pattern && process.sockets.contains(inode))
                    .map(|(pid, _)| pid)
                    .collect();
                let found = fitting(&scan, *inode, question.id(*pattern));
                if every_holder {
                    prop_assert_eq!(found, expected);
                } else {
                    prop_assert_eq!(found.is_empty(), expected.is_empty());
                }
            }
            for pattern in &census {
                let expected = processes.iter().any(|process| process.name == *pattern);
                prop_assert_eq!(scan.present.contains(&question.id(*pattern)), expected);
            }
            prop_assert!(scan.obscured.is_empty() && scan.uncertain.is_empty());
            for pid in (1..).take(processes.len()) {
                proc.remove(pid);
            }
        }
    }
}

/// Eleven processes that fit, and one more that holds the socket 777.
fn crowd() -> TestProc {
    let proc = TestProc::new();
    for pid in 10..21 {
        proc.process(pid, "app").socket(3, pid.into());
    }
    proc.process(30, "app").socket(3, 777);
    proc
}

#[test]
fn a_search_without_time_leaves_undecided_what_it_did_not_find_and_the_next_goes_on_there() {
    let proc = crowd();
    let mut reader = proc.reader();
    let mut question = Question::new(&["app"]).wants(777, &[0]);
    for call in 1..=12 {
        // Time for three processes.
        question = question.within(UNITS_A_PROCESS * 3 + 5);
        let scan = reader.find_holders(&question.query()).unwrap();
        if holders(&scan, 777) == [30] {
            assert!(scan.undecided.is_empty(), "{:?}", scan.undecided);
            assert!((3..=5).contains(&call), "found in call {call}");
            return;
        }
        assert_eq!(scan.undecided, [Inode::new(777).unwrap()].into(), "call {call}");
    }
    panic!("never found");
}

#[test]
fn names_that_a_search_read_that_was_cut_short_are_not_read_again_by_the_next() {
    let proc = TestProc::new();
    for pid in 10..40 {
        proc.process(pid, "other");
    }
    let mut reader = proc.reader();
    let mut question = Question::new(&["app"]).wants(777, &[0]);
    for call in 0..10 {
        question = question.within(UNITS_A_PROCESS * 8);
        let scan = reader.find_holders(&question.at(Duration::from_secs(call)).query()).unwrap();
        if scan.undecided.is_empty() {
            assert!((3..=8).contains(&call), "answered in call {call}");
            return;
        }
    }
    panic!("a host that is too large for one call never gets an answer");
}
