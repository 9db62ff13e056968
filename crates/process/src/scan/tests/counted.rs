//! How many processes fit.

use std::time::Duration;

use vms_core::process::Headcount;

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How many fit for certain, and how many more might; `None` where that was not told.
fn count(scan: &HolderScan, id: PatternId) -> Option<(u64, u64)> {
    scan.headcounts.get(&id).map(|Headcount { fitting, possible }| (*fitting, *possible))
}

/// What a call took: listings, names that were read, and processes that were only asked whether they run.
fn took(reader: &ProcReader) -> (usize, usize, usize) {
    let Effort { listings, names, glances, .. } = reader.effort();
    (listings, names, glances)
}

/// A process that has exited and was not waited for.
fn dead(proc: &TestProc, pid: u32, name: &str) {
    drop(proc.process(pid, name).bare(b'Z', 0x0040_0140));
    fs::create_dir_all(proc.path().join(format!("{pid}/task"))).unwrap();
}

/// A process with a first thread that has exited, and one that lives.
fn headless(proc: &TestProc, pid: u32, name: &str) {
    dead(proc, pid, name);
    drop(proc.process(pid + 1, name).stat(b'S', 0x0040_0140));
    let tasks = proc.path().join(format!("{pid}/task"));
    fs::rename(proc.path().join((pid + 1).to_string()), tasks.join((pid + 1).to_string())).unwrap();
}

#[test]
fn who_fits_is_counted_by_each_pattern_that_he_fits_and_whom_nobody_asked_for_is_not() {
    let proc = TestProc::new();
    for pid in 10..15 {
        drop(proc.process(pid, "nginx").socket(3, 77));
    }
    drop(proc.process(20, "php").comm(b"nginx\n"));
    drop(proc.process(21, "ruby"));
    let question = Question::new(&["nginx", "{php,ruby}", "absent", "*", "php=/usr/bin/php"]);
    let question = [0, 1, 2, 4].into_iter().fold(question, Question::asks_how_many);
    let mut reader = proc.reader();
    for _ in 0..2 {
        let scan = reader.find_holders(&question.query()).unwrap();
        let counts = [0, 1, 2, 3, 4].map(|pattern| count(&scan, question.id(pattern)));
        assert_eq!(counts, [Some((6, 0)), Some((2, 0)), Some((0, 0)), None, Some((1, 0))]);
        assert_eq!(scan.present, [0, 1, 4].map(|pattern| question.id(pattern)).into());
        assert!(scan.uncertain.is_empty() && scan.holders.is_empty());
        assert_eq!((reader.effort().sockets, reader.effort().rechecks), (0, 0));
    }
}

#[test]
fn a_count_among_known_processes_lists_them_once_and_reads_no_names() {
    let proc = TestProc::new();
    for pid in 100..150 {
        drop(proc.process(pid, "idle"));
    }
    for pid in 10..15 {
        drop(proc.process(pid, "nginx").socket(3, 77));
    }
    dead(&proc, 30, "nginx");
    headless(&proc, 40, "nginx");
    drop(proc.process(50, "kworker/0:1").bare(b'I', 0x0420_8060));
    let mut question = Question::new(&["nginx"]).asks_how_many(0);
    let mut reader = proc.reader();
    for (now, took_then) in [(0, (1, 58, 0)), (1, (1, 0, 7)), (29, (1, 0, 7))] {
        let scan = reader.find_holders(&question.at(seconds(now)).query()).unwrap();
        assert_eq!(count(&scan, question.id(0)), Some((6, 0)), "at {now} s");
        assert_eq!(took(&reader), took_then, "at {now} s");
        assert_eq!(reader.effort().sockets, 0);
    }
}

#[test]
fn who_begins_or_ends_is_counted_so_at_once_and_who_is_renamed_within_the_bound() {
    let proc = TestProc::new();
    for pid in 10..20 {
        drop(proc.process(pid, "nginx"));
    }
    drop(proc.process(50, "idle"));
    let mut question = Question::new(&["nginx"]).asks_how_many(0);
    let mut reader = proc.reader();
    let mut fitting = |now| {
        let scan = reader.find_holders(&question.at(now).query()).unwrap();
        scan.headcounts[&question.id(0)].fitting
    };
    assert_eq!(fitting(seconds(0)), 10);
    proc.remove(12);
    assert_eq!(fitting(seconds(1)), 9, "gone");
    dead(&proc, 13, "nginx");
    assert_eq!(fitting(seconds(2)), 8, "dead, and not waited for");
    drop(proc.process(200, "nginx"));
    drop(proc.process(201, "idle"));
    assert_eq!(fitting(seconds(3)), 9, "new");
    drop(proc.process(201, "nginx"));
    assert_eq!(fitting(seconds(3)), 10, "new, and renamed");
    drop(proc.process(14, "idle"));
    drop(proc.process(15, "idle"));
    drop(proc.process(50, "nginx"));
    assert_eq!(fitting(NAMES_TABLE_BOUND), 9, "two are called otherwise, and one as they were");
    assert_eq!(fitting(NAMES_TABLE_BOUND), 9);
}

#[test]
fn the_dead_and_parts_of_the_kernel_do_not_count_and_who_lives_on_in_another_thread_does() {
    let proc = TestProc::new();
    dead(&proc, 10, "nginx");
    drop(proc.process(11, "nginx").bare(b'I', 0x0420_8060));
    headless(&proc, 20, "nginx");
    let question = Question::new(&["nginx"]).asks_how_many(0);
    let mut reader = proc.reader();
    for _ in 0..3 {
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!(count(&scan, question.id(0)), Some((1, 0)));
    }
    fs::remove_dir_all(proc.path().join("20/task/21")).unwrap();
    let scan = reader.find_holders(&question.query()).unwrap();
    assert_eq!(count(&scan, question.id(0)), Some((0, 0)), "its last thread has exited");
}

#[test]
fn who_was_met_on_his_way_out_is_looked_at_again_while_he_runs() {
    let proc = TestProc::new();
    // The first thread has let go of its memory, and is no zombie yet.
    drop(proc.process(20, "nginx").bare(b'R', 0x0040_0144));
    let mut question = Question::new(&["nginx", "ruby"]).asks_how_many(0).asks_how_many(1);
    let mut reader = proc.reader();
    let mut counts = |now| {
        let scan = reader.find_holders(&question.at(seconds(now)).query()).unwrap();
        [count(&scan, question.id(0)), count(&scan, question.id(1))]
    };
    assert_eq!(counts(0), [Some((1, 0)), Some((0, 0))]);
    headless(&proc, 20, "ruby");
    assert_eq!(counts(1), [Some((0, 0)), Some((1, 0))], "by the names of the thread that lives");
}

#[test]
fn whose_names_cannot_all_be_read_may_fit_at_each_call_and_costs_no_names() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(10, "nginx"));
        drop(proc.process(11, "idle").mode("", 0));
        for name in ["nginx", "other"] {
            let pid = if name == "nginx" { 12 } else { 13 };
            drop(proc.process(pid, name));
            // What is no link is not told, as that of another user's process.
            let exe = proc.path().join(format!("{pid}/exe"));
            fs::remove_file(&exe).unwrap();
            fs::write(exe, "").unwrap();
        }
        let question = Question::new(&["nginx", "php=/bin/php"]).asks_how_many(0).asks_how_many(1);
        let mut reader = proc.reader_with(unprivileged());
        for took_then in [(1, 4, 0), (1, 0, 4)] {
            let scan = reader.find_holders(&question.query()).unwrap();
            assert_eq!(count(&scan, question.id(0)), Some((2, 2)));
            assert_eq!(count(&scan, question.id(1)), Some((0, 3)));
            assert_eq!(scan.present, [question.id(0)].into());
            assert_eq!(scan.uncertain, [question.id(1)].into());
            assert_eq!(took(&reader), took_then);
        }
    });
}

#[test]
fn a_process_that_might_have_one_executable_and_not_another_may_fit_the_one() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        drop(proc.process(10, "idle").mode("comm", 0));
        let question = Question::new(&["nginx=/usr/bin/idle", "nginx=/usr/bin/nginx"]);
        let question = question.asks_how_many(0).asks_how_many(1);
        let mut reader = proc.reader_with(unprivileged());
        for _ in 0..2 {
            let scan = reader.find_holders(&question.query()).unwrap();
            let counts = [0, 1].map(|pattern| count(&scan, question.id(pattern)));
            assert_eq!(counts, [Some((0, 1)), Some((0, 0))]);
        }
    });
}

#[test]
fn processes_that_are_not_listed_are_one_more_that_might_fit() {
    let proc = TestProc::new();
    proc.mount_options("rw,hidepid=invisible,gid=4");
    drop(proc.process(10, "nginx").socket(3, 77));
    let question = Question::new(&["nginx", "php"]).asks_how_many(0).asks_how_many(1);
    let with_socket =
        Question::new(&["nginx", "php"]).asks_how_many(0).asks_how_many(1).wants(77, &[0]).wants(78, &[0]);
    for question in [question, with_socket] {
        let mut reader = proc.reader_with(unprivileged());
        for _ in 0..2 {
            let scan = reader.find_holders(&question.query()).unwrap();
            assert_eq!(count(&scan, question.id(0)), Some((1, 1)));
            assert_eq!(count(&scan, question.id(1)), Some((0, 1)));
            assert_eq!(scan.uncertain, [question.id(1)].into(), "that nobody fits is not claimed");
        }
        let exempt = Privileges { groups: [4].into(), ..unprivileged() };
        for privileges in [privileged(), exempt] {
            let scan = proc.reader_with(privileges).find_holders(&question.query()).unwrap();
            assert_eq!(count(&scan, question.id(0)), Some((1, 0)));
            assert_eq!(count(&scan, question.id(1)), Some((0, 0)));
        }
    }
}

#[test]
fn a_proc_that_does_not_tell_whether_it_hides_processes_is_not_believed_to_show_all() {
    let proc = TestProc::new();
    fs::remove_file(proc.path().join("self/mountinfo")).unwrap();
    drop(proc.process(10, "nginx"));
    let question = Question::new(&["nginx"]).asks_how_many(0);
    let scan = proc.reader_with(unprivileged()).find_holders(&question.query()).unwrap();
    assert_eq!(count(&scan, question.id(0)), Some((1, 1)));
    assert_eq!(count(&find(&proc, &question), question.id(0)), Some((1, 0)));
}

#[test]
fn a_count_goes_on_when_each_socket_has_its_holder() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx").socket(3, 77));
    for pid in 11..30 {
        drop(proc.process(pid, "nginx").socket(3, 77));
    }
    drop(proc.process(40, "php"));
    let question = Question::new(&["nginx", "php"]).wants(77, &[0]).asks_how_many(0).asks_how_many(1);
    let mut reader = proc.reader();
    for _ in 0..3 {
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!(holders(&scan, 77), [10]);
        let counts = [0, 1].map(|pattern| count(&scan, question.id(pattern)));
        assert_eq!(counts, [Some((20, 0)), Some((1, 0))]);
        assert_eq!(reader.effort().listings, 1, "the search is for those who were counted");
    }
}

#[test]
fn what_is_claimed_for_the_sake_of_a_link_is_read_although_it_is_counted_from_memory() {
    let proc = TestProc::new();
    drop(proc.process(10, "nginx"));
    let mut question = Question::new(&["nginx"]).counts(0).asks_how_many(0);
    let mut reader = proc.reader();
    assert_eq!(reader.find_holders(&question.query()).unwrap().present.len(), 1);
    drop(proc.process(10, "other"));
    let scan = reader.find_holders(&question.at(seconds(1)).query()).unwrap();
    assert!(scan.present.is_empty());
}

#[test]
fn a_count_without_time_tells_nothing_and_the_next_goes_on_there() {
    let proc = crowd();
    let mut reader = proc.reader();
    let mut question = Question::new(&["app"]).asks_how_many(0);
    for call in 1..=12 {
        // Time for three processes, or for all of which the names are known.
        question = question.within(UNITS_A_PROCESS * 3 + 5);
        let scan = reader.find_holders(&question.query()).unwrap();
        match count(&scan, question.id(0)) {
            Some(whole) => {
                assert_eq!(whole, (12, 0), "never a part");
                assert!((4..=6).contains(&call), "counted in call {call}");
                assert!(scan.uncertain.is_empty());
                return;
            }
            None => assert_eq!(scan.uncertain, [question.id(0)].into(), "call {call}"),
        }
    }
    panic!("a host that is too large for one call is never counted");
}

#[test]
fn a_count_is_made_although_searches_for_sockets_are_cut_short_again_and_again() {
    let proc = TestProc::new();
    for pid in 10..14 {
        let mut process = proc.process(pid, "app");
        for descriptor in 3..400 {
            process = process.socket(descriptor, (pid * 1000 + descriptor).into());
        }
    }
    let mut reader = proc.reader();
    let mut question = Question::new(&["app"]).wants(777, &[0]).asks_how_many(0);
    let mut counted = 0;
    for _ in 0..6 {
        question = question.within(UNITS_A_PROCESS * 10);
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!(scan.undecided, [Inode::new(777).unwrap()].into());
        if let Some(whole) = count(&scan, question.id(0)) {
            assert_eq!(whole, (4, 0));
            counted += 1;
        }
    }
    assert_eq!(counted, 6);
}

#[test]
fn a_search_that_ends_in_time_leaves_the_rest_of_it_to_the_count() {
    let proc = crowd();
    let mut question = Question::new(&["app"]).wants(10, &[0]).asks_how_many(0);
    // Half of it is too little for all.
    question = question.within(UNITS_A_PROCESS * 16);
    let scan = find(&proc, &question);
    assert_eq!(holders(&scan, 10), [10]);
    assert_eq!(count(&scan, question.id(0)), Some((12, 0)));
}

#[test]
fn a_daemon_that_goes_on_under_another_number_in_mid_count_is_counted() {
    let proc = TestProc::new();
    drop(proc.process(5, "other"));
    drop(proc.process(10, "nginx"));
    let path = proc.path().to_owned();
    let fork = proc.when_comm_is_read(5, b"other\n", move || {
        fs::rename(path.join("10"), path.join("4")).unwrap();
    });
    let question = Question::new(&["nginx"]).asks_how_many(0);
    let mut reader = proc.reader();
    let scan = reader.find_holders(&question.query()).unwrap();
    fork.join().unwrap();
    assert_eq!(count(&scan, question.id(0)), Some((1, 0)));
    assert_eq!(reader.effort().listings, 2);
}

#[test]
fn patterns_that_are_asked_about_later_are_counted_by_what_their_own_ids_mean() {
    let proc = TestProc::new();
    drop(proc.process(10, "php"));
    drop(proc.process(11, "nginx"));
    drop(proc.process(12, "nginx"));
    let mut reader = proc.reader();
    for patterns in [["nginx", "php"], ["php", "nginx"]] {
        let question = Question::new(&patterns).asks_how_many(0).asks_how_many(1);
        let scan = reader.find_holders(&question.query()).unwrap();
        for (pattern, name) in patterns.iter().enumerate() {
            let expected = if *name == "nginx" { (2, 0) } else { (1, 0) };
            assert_eq!(count(&scan, question.id(pattern)), Some(expected));
        }
    }
}
