//! What is remembered of names between calls, and what is not relied on.

use std::time::Duration;

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Processes that fit nothing, and were there before.
fn idle(proc: &TestProc) {
    for pid in 100..150 {
        drop(proc.process(pid, "idle"));
    }
}

#[test]
fn names_of_known_processes_are_not_read_again() {
    let proc = TestProc::new();
    idle(&proc);
    drop(proc.process(10, "php").socket(3, 77));
    let mut question = Question::new(&["nginx", "php"]).counts(0);
    let mut reader = proc.reader();
    for (now, names) in [(0, 51), (1, 0), (5, 0), (29, 0)] {
        let scan = reader.find_holders(&question.at(seconds(now)).query()).unwrap();
        assert!(scan.present.is_empty() && scan.uncertain.is_empty());
        assert_eq!(reader.effort().names, names, "at {now} s");
    }
    for _new in 0..2 {
        drop(proc.process(200, "idle"));
        reader.find_holders(&question.at(seconds(29)).query()).unwrap();
        assert_eq!(reader.effort().names, 1, "a new process, which may replace its program");
    }
}

#[test]
fn each_name_is_read_once_within_the_bound() {
    let proc = TestProc::new();
    idle(&proc);
    let mut question = Question::new(&["nginx"]).counts(0);
    let mut reader = proc.reader();
    reader.find_holders(&question.query()).unwrap();
    let mut names = Vec::new();
    for now in (5..=60).step_by(5) {
        reader.find_holders(&question.at(seconds(now)).query()).unwrap();
        names.push(reader.effort().names);
    }
    assert_eq!(names.iter().sum::<usize>(), 50, "{names:?}");
    assert!(names.iter().all(|names| *names < 15), "not all at once: {names:?}");
}

#[test]
fn a_new_process_is_counted_at_once_and_a_renamed_one_within_the_bound() {
    let proc = TestProc::new();
    idle(&proc);
    let mut question = Question::new(&["nginx", "php"]).counts(0).counts(1);
    let mut reader = proc.reader();
    reader.find_holders(&question.query()).unwrap();
    drop(proc.process(120, "php"));
    drop(proc.process(10, "nginx"));
    let scan = reader.find_holders(&question.at(seconds(1)).query()).unwrap();
    assert_eq!(scan.present, [question.id(0)].into());
    let scan = reader.find_holders(&question.at(NAMES_TABLE_BOUND).query()).unwrap();
    assert_eq!(scan.present, [question.id(0), question.id(1)].into());
}

#[test]
fn a_process_that_fits_is_counted_at_each_call() {
    let proc = TestProc::new();
    idle(&proc);
    drop(proc.process(10, "nginx"));
    let mut question = Question::new(&["nginx", "absent"]).counts(0).counts(1);
    let mut reader = proc.reader();
    for (now, names) in [(0, 51), (1, 1), (2, 1)] {
        let scan = reader.find_holders(&question.at(seconds(now)).query()).unwrap();
        assert_eq!(scan.present, [question.id(0)].into());
        assert_eq!(reader.effort().names, names, "what is claimed of it is read, at {now} s");
    }
}

#[test]
fn a_place_where_the_socket_is_no_more_is_not_looked_at_again() {
    let proc = TestProc::new();
    let process = proc.process(10, "nginx").socket(3, 77);
    let question = Question::new(&["nginx"]).wants(77, &[0]);
    let mut reader = proc.reader();
    reader.find_holders(&question.query()).unwrap();
    drop(process.close(3));
    for rechecks in [1, 0] {
        assert!(reader.find_holders(&question.query()).unwrap().holders.is_empty());
        assert_eq!(reader.effort().rechecks, rechecks);
    }
    assert_eq!(reader.kept_handles(), 0);
}

#[test]
fn a_process_is_not_counted_by_what_its_name_was() {
    let proc = TestProc::new();
    idle(&proc);
    drop(proc.process(10, "nginx"));
    let mut question = Question::new(&["nginx"]).counts(0);
    let mut reader = proc.reader();
    assert_eq!(reader.find_holders(&question.query()).unwrap().present.len(), 1);
    drop(proc.process(10, "other"));
    assert!(reader.find_holders(&question.at(seconds(1)).query()).unwrap().present.is_empty());
}

#[test]
fn a_new_socket_is_found_in_a_process_that_was_passed_over() {
    let proc = TestProc::new();
    idle(&proc);
    let mut question = Question::new(&["nginx"]).counts(0);
    let mut reader = proc.reader();
    reader.find_holders(&question.query()).unwrap();
    drop(proc.process(120, "nginx").socket(3, 77));
    question = question.wants(77, &[0]);
    assert_eq!(holders(&reader.find_holders(&question.at(seconds(1)).query()).unwrap(), 77), [120]);
}

#[test]
fn a_socket_that_somebody_else_holds_costs_all_names_once_within_the_bound() {
    let proc = TestProc::new();
    idle(&proc);
    drop(proc.process(10, "other").socket(3, 77));
    let mut question = Question::new(&["nginx"]).wants(77, &[0]);
    let mut reader = proc.reader();
    let mut complete = Vec::new();
    for now in (0..=600).step_by(15) {
        reader.find_holders(&question.at(seconds(now)).query()).unwrap();
        if reader.effort().names >= 51 {
            complete.push(now);
        }
    }
    assert_eq!(complete, [0, 15, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600]);
    // Now it is known to be in vain, and who is renamed is found when that has to be made sure of.
    drop(proc.process(10, "nginx"));
    assert_eq!(holders(&reader.find_holders(&question.at(seconds(660)).query()).unwrap(), 77), [10]);
}

#[test]
fn a_new_process_is_searched_for_a_socket_that_was_looked_for_in_vain() {
    let proc = TestProc::new();
    idle(&proc);
    let mut question = Question::new(&["nginx"]).wants(77, &[0]);
    let mut reader = proc.reader();
    for now in [0, 60, 120] {
        reader.find_holders(&question.at(seconds(now)).query()).unwrap();
    }
    drop(proc.process(10, "nginx").socket(3, 77));
    assert_eq!(holders(&reader.find_holders(&question.at(seconds(121)).query()).unwrap(), 77), [10]);
}

#[test]
fn what_was_concluded_of_one_socket_says_nothing_of_another() {
    let proc = TestProc::new();
    idle(&proc);
    let mut question = Question::new(&["nginx"]).wants(77, &[0]);
    let mut reader = proc.reader();
    for now in [0, 60] {
        reader.find_holders(&question.at(seconds(now)).query()).unwrap();
    }
    drop(proc.process(120, "nginx").socket(3, 77).socket(4, 78));
    question = question.wants(78, &[0]);
    let scan = reader.find_holders(&question.at(seconds(61)).query()).unwrap();
    assert_eq!((holders(&scan, 77), holders(&scan, 78)), (vec![120], vec![120]));
}

#[test]
fn ids_of_other_patterns_are_not_taken_for_those_that_were_remembered() {
    let proc = TestProc::new();
    idle(&proc);
    drop(proc.process(160, "php").socket(3, 77));
    let mut before = Question::new(&["nginx"]).wants(77, &[0]);
    let mut reader = proc.reader();
    for now in [0, 60] {
        reader.find_holders(&before.at(seconds(now)).query()).unwrap();
    }
    let mut after = Question::new(&["php"]).counts(0);
    let scan = reader.find_holders(&after.at(seconds(61)).query()).unwrap();
    assert_eq!(scan.present, [after.id(0)].into(), "who fits is worked out anew");
    drop(proc.process(120, "php").socket(4, 77));
    proc.remove(160);
    after = after.wants(77, &[0]);
    let scan = reader.find_holders(&after.at(seconds(62)).query()).unwrap();
    assert_eq!(holders(&scan, 77), [120], "and so is what nobody holds");
}

#[test]
fn who_asks_for_every_holder_is_answered_from_no_memory() {
    let proc = TestProc::new();
    idle(&proc);
    drop(proc.process(10, "nginx").socket(3, 77));
    let mut reader = proc.reader();
    let mut question = Question::new(&["nginx"]).wants(77, &[0]).counts(0).every_holder();
    reader.find_holders(&question.query()).unwrap();
    drop(proc.process(120, "nginx").socket(3, 77));
    let scan = reader.find_holders(&question.at(seconds(1)).query()).unwrap();
    assert_eq!(holders(&scan, 77), [10, 120]);
    assert!(reader.effort().names >= 51);
}

#[test]
fn a_process_of_which_nothing_can_be_read_might_be_any_at_each_call() {
    without_overriding_modes(|| {
        let proc = TestProc::new();
        idle(&proc);
        drop(proc.process(10, "other").socket(3, 77).mode("", 0));
        drop(proc.process(11, "nginx").mode("fd", 0));
        drop(proc.process(12, "dozing").socket(3, 78));
        let mut question =
            Question::new(&["nginx", "php=/bin/php"]).wants(77, &[0]).wants(78, &[0]).counts(1);
        let mut reader = proc.reader_with(unprivileged());
        for now in [0, 1, 20, 40, 80, 81] {
            let scan = reader.find_holders(&question.at(seconds(now)).query()).unwrap();
            let expected = obscured(true, &Capability::ALL);
            assert_eq!(scan.obscured, BTreeMap::from([(question.id(0), expected)]), "at {now} s");
            assert_eq!(scan.uncertain, [question.id(1)].into(), "at {now} s");
            assert_eq!(holders(&scan, 78), [12], "somebody else is seen to hold it, at {now} s");
            assert_eq!(holders(&scan, 77), [0; 0]);
        }
        drop(proc.process(12, "dozing").close(3));
        drop(proc.process(120, "idle").socket(3, 78));
        let scan = reader.find_holders(&question.at(seconds(82)).query()).unwrap();
        assert_eq!(holders(&scan, 78), [120], "somebody whose names are not read again");
    });
}
