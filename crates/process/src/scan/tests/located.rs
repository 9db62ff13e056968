//! In which network namespace those live who fit.

use std::time::Duration;

use super::*;
use crate::test_proc::Network;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A host on which the agent and the first process live in one network namespace, and another one.
fn host() -> (TestProc, Network, Network) {
    let (proc, own, other) = (TestProc::new(), Network::new(100), Network::new(200));
    proc.own_network(&own);
    drop(proc.process(1, "init").network(&own));
    (proc, own, other)
}

/// The same, with the agent in the other namespace.
fn displaced() -> (TestProc, Network, Network) {
    let (proc, own, other) = (TestProc::new(), Network::new(100), Network::new(200));
    proc.own_network(&own);
    drop(proc.process(1, "init").network(&other));
    (proc, own, other)
}

#[test]
fn who_fits_and_lives_elsewhere_is_told_wherever_others_live() {
    let (proc, own, other) = host();
    drop(proc.process(10, "nginx").network(&own));
    drop(proc.process(11, "nginx").network(&other));
    drop(proc.process(12, "php").network(&own));
    drop(proc.process(13, "postgres").network(&other));
    let question = Question::new(&["nginx", "php", "postgres", "absent"]).counts(0).counts(1).counts(3);
    let scan = find(&proc, &question);
    assert_eq!(scan.elsewhere, [question.id(0)].into(), "postgres was not asked for");
    assert_eq!(scan.present, [question.id(0), question.id(1)].into());
    assert!(!scan.is_displaced);
}

#[test]
fn where_the_agent_lives_is_known_or_nobody_lives_elsewhere() {
    let (proc, other) = (TestProc::new(), Network::new(200));
    drop(proc.process(1, "init").network(&other));
    drop(proc.process(10, "nginx").network(&other));
    drop(proc.process(11, "php"));
    let question = Question::new(&["nginx"]).counts(0).locates(0);
    let scan = find(&proc, &question);
    assert!(scan.elsewhere.is_empty() && !scan.is_displaced, "the kernel does not tell");

    let (proc, _own, _other) = host();
    drop(proc.process(11, "php"));
    let question = Question::new(&["php"]).counts(0);
    assert!(find(&proc, &question).elsewhere.is_empty(), "nor of that process");
}

#[test]
fn a_namespace_is_told_from_others_without_the_right_to_look_into_its_processes() {
    without_overriding_modes(|| {
        let (proc, own, other) = host();
        drop(proc.process(10, "nginx").network(&own).mode("ns", 0));
        drop(proc.process(11, "php").network(&other).mode("ns", 0));
        let question = Question::new(&["nginx", "php"]).counts(0).counts(1);
        let mut reader = proc.reader_with(unprivileged());
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!(scan.elsewhere, [question.id(1)].into());
        assert!(!scan.is_displaced);
        for pid in [10, 11] {
            // So that it can be removed.
            fs::set_permissions(proc.path().join(format!("{pid}/ns")), fs::Permissions::from_mode(0o700))
                .unwrap();
        }
    });
}

#[test]
fn whoever_fits_costs_one_more_look_and_is_then_remembered() {
    let (proc, own, other) = host();
    for pid in 100..150 {
        drop(proc.process(pid, "nginx").network(&own));
    }
    drop(proc.process(90, "kworker/0:1").bare(b'I', 0x0420_8060));
    let mut question = Question::new(&["nginx", "kworker*"]).counts(0).counts(1);
    let mut reader = proc.reader();
    let mut names = |now| {
        let scan = reader.find_holders(&question.at(seconds(now)).query()).unwrap();
        (reader.effort().names, scan.elsewhere.len())
    };
    assert_eq!(names(0), (52, 0));
    assert_eq!(names(1), (2, 0), "only of whom it is claimed that he is there");
    drop(proc.process(200, "nginx").network(&other));
    assert_eq!(names(2), (3, 1), "and that he lives elsewhere");
    assert_eq!(names(3), (3, 1));
    proc.remove(200);
    assert_eq!(names(4), (2, 0));
}

#[test]
fn a_process_that_moves_is_noticed_within_the_bound_of_names() {
    let (proc, own, other) = host();
    let process = proc.process(10, "nginx").network(&own);
    drop(proc.process(9, "nginx").network(&own));
    let mut question = Question::new(&["nginx"]).counts(0);
    let mut reader = proc.reader();
    assert!(reader.find_holders(&question.query()).unwrap().elsewhere.is_empty());
    drop(process.network(&other));
    let scan = reader.find_holders(&question.at(NAMES_TABLE_BOUND).query()).unwrap();
    assert_eq!(scan.elsewhere, [question.id(0)].into());
}

#[test]
fn an_agent_beside_the_first_process_does_not_ask_where_holders_live() {
    let (proc, own, _other) = host();
    drop(proc.process(10, "nginx").network(&own).socket(3, 77));
    let question = Question::new(&["nginx", "absent"]).wants(77, &[0]).locates(0).locates(1);
    let mut reader = proc.reader();
    for listings in [1, 0, 0] {
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!((holders(&scan, 77), reader.effort().listings), (vec![10], listings));
        assert!(scan.here.is_empty() && scan.elsewhere.is_empty());
    }
}

#[test]
fn a_displaced_agent_tells_those_that_it_could_see_from_those_that_it_could_not() {
    let (proc, own, other) = displaced();
    drop(proc.process(10, "here").network(&own));
    drop(proc.process(11, "both").network(&own));
    drop(proc.process(12, "both").network(&other));
    drop(proc.process(13, "far").network(&other));
    let question = Question::new(&["here", "both", "far", "absent"]);
    let question = (0..4).fold(question, Question::locates).counts(1);
    let mut reader = proc.reader();
    for _remembered in 0..2 {
        let scan = reader.find_holders(&question.query()).unwrap();
        assert!(scan.is_displaced);
        assert_eq!(scan.here, [question.id(0), question.id(1)].into());
        assert_eq!(scan.elsewhere, [question.id(1), question.id(2)].into());
    }
}

#[test]
fn who_holds_a_socket_that_a_displaced_agent_sees_can_be_seen_wherever_he_lives() {
    let (proc, _own, other) = displaced();
    drop(proc.process(10, "nginx").network(&other).socket(3, 77));
    let question = Question::new(&["nginx"]).wants(77, &[0]).locates(0);
    let mut reader = proc.reader();
    for listings in [1, 0] {
        let scan = reader.find_holders(&question.query()).unwrap();
        assert_eq!(scan.here, [question.id(0)].into());
        assert_eq!(reader.effort().listings, listings, "nothing is left to be asked");
    }
}

#[test]
fn what_a_displaced_agent_holds_itself_shows_it_nobody_else() {
    let (proc, own, other) = (TestProc::new(), Network::new(100), Network::new(200));
    proc.agent(9, &own).socket(3, 76);
    drop(proc.process(1, "init").network(&other).socket(3, 78));
    let question = Question::new(&["*"]).wants(76, &[0]).locates(0);
    for (holder, is_here) in [(None, false), (Some(10), true)] {
        if let Some(pid) = holder {
            drop(proc.process(pid, "sidecar").network(&own));
        }
        let scan = find(&proc, &question);
        assert_eq!((holders(&scan, 76), scan.is_displaced), (vec![9], true));
        assert_eq!(scan.here.is_empty(), !is_here);
        assert!(!scan.elsewhere.is_empty());
    }
}

#[test]
fn an_agent_that_cannot_tell_where_the_first_process_lives_may_be_displaced() {
    let (proc, _own, _other) = host();
    proc.remove(1);
    drop(proc.process(2, "other"));
    assert!(find(&proc, &Question::new(&["nginx"]).counts(0)).is_displaced);
}

#[test]
fn a_displaced_agent_whose_search_is_cut_short_does_not_rule_out_that_somebody_lives_elsewhere() {
    let (proc, own, _other) = displaced();
    for pid in 100..150 {
        drop(proc.process(pid, "idle").network(&own));
    }
    let question = Question::new(&["nginx"]).counts(0).locates(0).within(10);
    let scan = find(&proc, &question);
    assert_eq!(scan.elsewhere, [question.id(0)].into());
    assert!(scan.here.is_empty());
}

#[test]
fn a_process_that_restarts_in_mid_scan_is_located() {
    let (proc, _own, other) = displaced();
    drop(proc.process(5, "idle"));
    drop(proc.process(10, "nginx").network(&other));
    let path = proc.path().to_owned();
    let restart = proc.when_comm_is_read(5, b"idle\n", move || {
        fs::rename(path.join("10"), path.join("4")).unwrap();
    });
    let question = Question::new(&["nginx"]).counts(0).locates(0);
    assert_eq!(find(&proc, &question).elsewhere, [question.id(0)].into());
    restart.join().unwrap();
}
