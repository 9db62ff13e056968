//! What the processes use that fit.

use vms_core::process::{Headcount, ProcessUsage};

use super::*;

fn question() -> Question {
    Question::new(&["nginx", "*"]).asks_what_is_used(0)
}

/// What a process uses: its id, CPU time in milliseconds, user and system, and its start, and its memory in bytes.
type Used = (u32, [u128; 3], [u64; 2]);

/// What each process uses that fits. `None` where that was not told.
fn used(scan: &HolderScan, id: PatternId) -> Option<Vec<Used>> {
    let told = |usage: &ProcessUsage| {
        let times = [usage.user, usage.system, usage.started].map(|time| time.as_millis());
        (usage.pid.0, times, [usage.resident_bytes, usage.virtual_bytes])
    };
    scan.usages.get(&id).map(|usages| usages.iter().map(told).collect())
}

fn fitting(scan: &HolderScan, id: PatternId) -> u64 {
    scan.headcounts[&id].fitting
}

fn page() -> u64 {
    u64::try_from(rustix::param::page_size()).unwrap()
}

/// Of a clock that ticks a hundred times a second, as that of all but a few architectures.
fn milliseconds(ticks: u64) -> u128 {
    u128::from(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[test]
fn what_is_used_is_read_of_who_fits_and_of_nobody_else_and_only_where_that_is_asked() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").uses([150, 7, 4200], [1 << 20, 3]));
    drop(proc.process(11, "nginx").uses([0, 0, 4201], [1 << 21, 5]));
    drop(proc.process(20, "other").uses([9, 9, 9], [9, 9]));
    let expected = [
        (10, [150, 7, 4200].map(milliseconds), [3 * page(), 1 << 20]),
        (11, [0, 0, 4201].map(milliseconds), [5 * page(), 1 << 21]),
    ];
    let question = question().asks_how_many(1);
    let mut reader = proc.reader();
    for (names, glances) in [(3, 0), (0, 1)] {
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!(used(&scan, question.id(0)).unwrap(), expected);
        assert_eq!(used(&scan, question.id(1)), None, "that was not asked");
        assert_eq!((fitting(&scan, question.id(0)), fitting(&scan, question.id(1))), (2, 3));
        let effort = reader.effort();
        assert_eq!((effort.names, effort.glances, effort.usages), (names, glances, 2));
    }
}

#[test]
fn who_ends_is_renamed_or_dead_is_in_no_sum() {
    let proc = TestProc::new();
    for pid in 10..14 {
        drop(proc.process(pid, "nginx").uses([1, 1, 1], [4096, 1]));
    }
    let question = question();
    let mut reader = proc.reader();
    let mut pids = || {
        let scan = reader.find_holders(&question.query()).unwrap();
        used(&scan, question.id(0)).unwrap().into_iter().map(|(pid, ..)| pid).collect::<Vec<_>>()
    };
    assert_eq!(pids(), [10, 11, 12, 13]);
    proc.remove(10);
    drop(proc.process(11, "nginx").bare(b'Z', 0));
    fs::create_dir(proc.path().join("11/task")).unwrap();
    assert_eq!(pids(), [12, 13]);
}

#[test]
fn a_number_that_is_given_to_another_in_mid_count_lends_him_no_name() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").uses([100, 100, 5], [4096, 1]));
    let question = question();
    let mut reader = proc.reader();
    let scan = reader.find_holders(&question.query()).unwrap();
    assert_eq!(used(&scan, question.id(0)).unwrap().len(), 1);
    drop(proc.process(5, "new"));
    let path = proc.path().to_owned();
    let swap = proc.when_comm_is_read(5, b"new\n", move || {
        // The other is there before the first is gone: no file system gives it the same inode.
        fs::rename(path.join("10"), path.join("gone")).unwrap();
        fs::rename(path.join("waiting"), path.join("10")).unwrap();
    });
    drop(proc.process(99, "other").uses([9_999, 9_999, 900], [1 << 40, 1 << 20]));
    // It is not listed: what vanishes meanwhile would make for another count.
    proc.rename(99, "waiting");
    let scan = reader.find_holders(&question.query()).unwrap();
    swap.join().unwrap();
    assert_eq!((fitting(&scan, question.id(0)), used(&scan, question.id(0))), (0, Some(vec![])));
}

#[test]
fn where_the_usage_of_one_cannot_be_read_there_is_no_sum_of_the_others() {
    let whole = "1 (a) S 1 1 1 0 -1 4194304 0 0 0 0 3 4 0 0 20 0 1 0 500 4096 1 18446744073709551615\n";
    let broken = [
        "",
        "nonsense",
        &whole[..whole.len() - 30],
        &whole.replace(" 500 ", " -500 "),
        &whole.replace(" 4096 ", " 99999999999999999999999 "),
    ];
    for line in broken {
        let proc = TestProc::new();
        drop(proc.process(10, "nginx").uses([1, 1, 1], [4096, 1]));
        drop(proc.process(11, "nginx"));
        fs::write(proc.path().join("11/stat"), line).unwrap();
        let question = question();
        let mut reader = proc.reader();
        for _ in 0..2 {
            let scan = reader.find_holders(&question.query()).unwrap();
            assert_eq!((fitting(&scan, question.id(0)), used(&scan, question.id(0))), (2, None), "{line}");
        }
        fs::write(proc.path().join("11/stat"), whole).unwrap();
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!(used(&scan, question.id(0)).unwrap().len(), 2);
    }
}

#[test]
fn a_refusal_takes_the_sum_and_not_the_count() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(10, "nginx").uses([1, 1, 1], [4096, 1]));
        drop(proc.process(11, "nginx").uses([1, 1, 1], [4096, 1]).mode("stat", 0));
        let question = question();
        let mut reader = proc.reader_with(unprivileged());
        for _ in 0..2 {
            let scan = reader.find_holders(&question.query()).unwrap();
            assert_eq!((fitting(&scan, question.id(0)), used(&scan, question.id(0))), (2, None));
        }
    });
}

#[test]
fn a_count_that_is_cut_short_tells_of_no_usage() {
    let proc = crowd();
    let mut reader = proc.reader();
    let mut question = Question::new(&["app"]).asks_what_is_used(0);
    let mut calls = 0;
    loop {
        // Time for a few processes, or for all of which the names are known.
        question = question.within(UNITS_A_PROCESS * 4);
        let scan = reader.find_holders(&question.query()).unwrap();
        calls += 1;
        let Some(Headcount { fitting, .. }) = scan.headcounts.get(&question.id(0)) else {
            assert_eq!(used(&scan, question.id(0)), None);
            assert!(calls < 20, "never counted");
            continue;
        };
        assert_eq!(used(&scan, question.id(0)).unwrap().len(), usize::try_from(*fitting).unwrap());
        break;
    }
    assert!(calls > 1, "it was not cut short");
}

#[test]
fn of_a_process_whose_first_thread_has_exited_times_are_those_of_all_and_memory_is_what_the_others_hold() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").bare(b'Z', 0).stat_line(b'Z', 0x0040_0000, [500, 60, 4200], [0, 0]));
    drop(proc.process(11, "nginx").uses([1, 2, 4300], [1 << 20, 7]));
    let tasks = proc.path().join("10/task");
    fs::create_dir_all(&tasks).unwrap();
    fs::rename(proc.path().join("11"), tasks.join("11")).unwrap();
    let expected = (10, [500, 60, 4200].map(milliseconds), [7 * page(), 1 << 20]);
    let question = question();
    let mut reader = proc.reader();
    for _ in 0..2 {
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!(used(&scan, question.id(0)).unwrap(), [expected]);
    }
    // About to exit: it has let go of its memory, and is no zombie yet.
    drop(proc.process(10, "nginx").stat_line(b'R', 0x0040_0004, [500, 60, 4200], [0, 0]));
    let scan = reader.find_holders(&question.query()).unwrap();
    assert_eq!(used(&scan, question.id(0)).unwrap(), [expected]);
    fs::remove_dir_all(tasks.join("11")).unwrap();
    let scan = reader.find_holders(&question.query()).unwrap();
    assert_eq!(used(&scan, question.id(0)).unwrap()[0].2, [0, 0], "and nobody has any");
}

#[test]
fn processes_that_might_fit_are_in_no_sum() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(10, "nginx").uses([1, 1, 1], [4096, 1]));
        drop(proc.process(11, "idle").mode("", 0));
        let question = question();
        let scan = proc.reader_with(unprivileged()).find_holders(&question.query()).unwrap();
        assert_eq!(scan.headcounts[&question.id(0)], Headcount { fitting: 1, possible: 1 });
        assert_eq!(used(&scan, question.id(0)).unwrap().len(), 1);
    });
}

#[test]
fn a_capability_is_to_blame_for_who_might_fit_unless_the_agent_has_it() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(10, "nginx"));
        let question = question();
        for privileges in [privileged(), unprivileged()] {
            let scan = proc.reader_with(privileges).find_holders(&question.query()).unwrap();
            assert!(scan.nameless.is_empty(), "all names are known");
        }
        drop(proc.process(11, "idle").mode("", 0));
        let dac_alone = Privileges { dac_read_search: true, ..unprivileged() };
        let missing = BTreeSet::from([Capability::SysPtrace]);
        for (privileges, missing) in
            [(unprivileged(), missing.clone()), (dac_alone, missing), (privileged(), BTreeSet::new())]
        {
            let scan = proc.reader_with(privileges).find_holders(&question.query()).unwrap();
            assert_eq!(scan.headcounts[&question.id(0)].possible, 1);
            assert_eq!(scan.nameless, missing);
        }
    });
    let hiding = TestProc::new();
    hiding.mount_options("rw,hidepid=invisible");
    drop(hiding.process(10, "nginx"));
    let question = question();
    let scan = hiding.reader_with(unprivileged()).find_holders(&question.query()).unwrap();
    assert_eq!(scan.nameless, BTreeSet::from([Capability::SysPtrace]));
    let scan = hiding.reader().find_holders(&question.query()).unwrap();
    assert!(scan.nameless.is_empty());
}
