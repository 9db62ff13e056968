use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use vms_core::ProcessAdapter;
use vms_core::allowance::Allowance;

use super::*;
use crate::reader::ProcReader;
use crate::test_proc::{Network, Question, START, TestProc, unprivileged, without_overriding_modes};

/// Asks where those live who fit the first pattern, that long after the start.
fn survey(reader: &mut ProcReader, question: &Question, seconds: u64, units: Option<u32>) -> NamespaceScan {
    let patterns = BTreeSet::from([question.id(0)]);
    let allowance = units.map_or_else(Allowance::unlimited, Allowance::of_units);
    let query = NamespaceQuery {
        selector: question.selector(),
        patterns: &patterns,
        named: false,
        now: START + Duration::from_secs(seconds),
        allowance: &allowance,
    };
    reader.find_namespaces(&query).unwrap()
}

/// Twenty processes that live with the agent, half of which fit.
fn host() -> (TestProc, Network) {
    let (proc, own) = (TestProc::new(), Network::new(100));
    proc.own_network(&own);
    for pid in 100..110 {
        drop(proc.process(pid, "nginx").network(&own));
        drop(proc.process(pid + 10, "idle").network(&own));
    }
    (proc, own)
}

#[test]
fn who_lives_with_the_agent_is_looked_at_once_within_the_bound() {
    let (proc, _own) = host();
    let question = Question::new(&["nginx"]);
    let mut reader = proc.reader().in_all_namespaces();
    let mut names = Vec::new();
    for seconds in [0, 1, 2, 60] {
        let scan = survey(&mut reader, &question, seconds, None);
        assert!(scan.inhabited.is_empty() && scan.closed.is_empty() && !scan.is_cut_short);
        names.push(reader.effort().names);
    }
    assert_eq!(names, [20, 0, 0, 20]);
}

#[test]
fn who_lives_where_nobody_may_follow_closes_what_he_fits() {
    without_overriding_modes(|| {
        let (proc, _own) = host();
        let other = Network::new(200);
        drop(proc.process(200, "nginx").network(&other).mode("ns", 0));
        drop(proc.process(201, "php").network(&other).mode("ns", 0));
        // Of this one nothing is told at all.
        drop(proc.process(202, "untold"));
        let mut reader = proc.reader().in_all_namespaces();
        for (pattern, is_closed) in [("nginx", true), ("idle", false), ("php", true), ("untold", false)] {
            let question = Question::new(&[pattern]);
            for seconds in [0, 1] {
                let closed = survey(&mut reader, &question, seconds, None).closed;
                assert_eq!(closed.contains(&question.id(0)), is_closed, "{pattern}");
            }
        }
        for pid in [200, 201] {
            let directory = proc.path().join(format!("{pid}/ns"));
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
        }
    });
}

#[test]
fn a_survey_that_is_cut_short_says_so_and_the_next_goes_on() {
    let (proc, _own) = host();
    let question = Question::new(&["nginx"]);
    let mut reader = proc.reader().in_all_namespaces();
    let mut surveys = 0;
    while survey(&mut reader, &question, 1, Some(32 * 5)).is_cut_short {
        surveys += 1;
        assert!(surveys < 20, "it gets somewhere");
    }
    assert!(surveys > 0);
}

#[test]
fn an_agent_of_all_namespaces_tells_nobody_to_be_out_of_sight() {
    let (proc, _own) = host();
    let other = Network::new(200);
    drop(proc.process(200, "nginx").network(&other));
    drop(proc.process(1, "init").network(&other));
    let question = Question::new(&["nginx"]).counts(0).locates(0);
    let scan = proc.reader().in_all_namespaces().find_holders(&question.query()).unwrap();
    assert!(!scan.is_displaced && scan.elsewhere.is_empty() && scan.here.is_empty());
}

#[test]
fn nobody_is_ruled_out_where_processes_are_hidden() {
    let (proc, _own) = host();
    let question = Question::new(&["absent"]);
    let mut reader = proc.reader_with(unprivileged()).in_all_namespaces();
    assert!(survey(&mut reader, &question, 0, None).closed.is_empty());
    proc.mount_options("rw,hidepid=invisible");
    assert_eq!(survey(&mut reader, &question, 1, None).closed, [question.id(0)].into());
    let mut reader = proc.reader().in_all_namespaces();
    assert!(survey(&mut reader, &question, 0, None).closed.is_empty(), "nothing is from CAP_SYS_PTRACE");
}
