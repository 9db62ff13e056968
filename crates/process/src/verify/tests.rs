use std::fs;
use std::time::Duration;

use vms_core::ProcessAdapter;

use super::*;
use crate::kept::NAMES_BOUND;
use crate::reader::ProcReader;
use crate::test_proc::{Question, START, TestProc, without_overriding_modes};

/// Who holds these sockets still, by name, that long after the start; `-` where nobody does.
fn verify_at(
    reader: &mut ProcReader,
    question: &Question,
    pairs: &[(u64, u32)],
    since_start: Duration,
) -> Vec<String> {
    let holdings: Vec<(Inode, Pid)> =
        pairs.iter().map(|(inode, pid)| (Inode::new(*inode).unwrap(), Pid(*pid))).collect();
    let query = VerifyQuery { selector: question.selector(), holdings: &holdings, now: START + since_start };
    let verified = reader.verify_holders(&query).unwrap();
    for (process, (_, pid)) in verified.iter().zip(&holdings) {
        assert!(process.as_ref().is_none_or(|process| process.pid == *pid));
    }
    let name = |process: Option<Arc<Process>>| process.map_or("-".to_owned(), |process| process.name.clone());
    verified.into_iter().map(name).collect()
}

fn verify(reader: &mut ProcReader, question: &Question, pairs: &[(u64, u32)]) -> Vec<String> {
    verify_at(reader, question, pairs, Duration::ZERO)
}

/// A reader that has found socket 77 in process 10 and socket 78 in process 11.
fn reader_of(proc: &TestProc, question: &Question) -> ProcReader {
    drop(proc.process(10, "nginx").socket(3, 77));
    drop(proc.process(11, "nginx").socket(4, 78));
    let mut reader = proc.reader();
    assert_eq!(reader.find_holders(&question.query()).unwrap().holders.len(), 2);
    assert_eq!(reader.kept_handles(), 2);
    reader
}

fn question() -> Question {
    Question::new(&["nginx"]).wants(77, &[0]).wants(78, &[0])
}

const BOTH: [(u64, u32); 2] = [(77, 10), (78, 11)];

#[test]
fn a_holder_is_verified_by_one_link() {
    let (proc, question) = (TestProc::new(), question());
    let mut reader = reader_of(&proc, &question);
    for milliseconds in [0, 1, 29_999] {
        let now = Duration::from_millis(milliseconds);
        assert_eq!(verify_at(&mut reader, &question, &BOTH, now), ["nginx", "nginx"]);
        assert_eq!(reader.effort(), Effort { rechecks: 2, ..Effort::default() });
    }
}

#[test]
fn a_socket_at_another_descriptor_is_found_by_one_look_at_all_of_them() {
    let (proc, question) = (TestProc::new(), question());
    let mut reader = reader_of(&proc, &question);
    drop(proc.process(10, "nginx").socket(9, 77).close(3));
    assert_eq!(verify(&mut reader, &question, &BOTH), ["nginx", "nginx"]);
    assert_eq!(reader.effort().opened, 1);
    assert_eq!(verify(&mut reader, &question, &BOTH), ["nginx", "nginx"]);
    assert_eq!(reader.effort(), Effort { rechecks: 2, ..Effort::default() });
}

#[test]
fn a_process_that_closed_all_it_was_asked_about_is_searched_once_a_call() {
    let proc = TestProc::new();
    let mut process = proc.process(10, "nginx");
    let mut question = Question::new(&["nginx"]);
    for descriptor in 3..103 {
        process = process.socket(descriptor, u64::from(descriptor) + 100);
        question = question.wants(u64::from(descriptor) + 100, &[0]);
    }
    let mut reader = proc.reader();
    reader.find_holders(&question.query()).unwrap();
    for descriptor in 3..103 {
        process = process.socket(descriptor, u64::from(descriptor) + 1000);
    }
    let pairs: Vec<(u64, u32)> = (103..203).map(|inode| (inode, 10)).collect();
    assert_eq!(verify(&mut reader, &question, &pairs), vec!["-"; 100]);
    assert_eq!((reader.effort().opened, reader.effort().sockets), (1, 100));
}

#[test]
fn another_process_of_that_number_counts_only_if_it_holds_the_socket() {
    let (proc, question) = (TestProc::new(), question());
    let mut reader = reader_of(&proc, &question);
    proc.remove(10);
    assert_eq!(verify(&mut reader, &question, &BOTH), ["-", "nginx"]);
    assert_eq!(reader.kept_handles(), 1);
    drop(proc.process(10, "other").socket(3, 99));
    assert_eq!(verify(&mut reader, &question, &BOTH), ["-", "nginx"]);
    drop(proc.process(10, "other").socket(3, 77));
    assert_eq!(verify(&mut reader, &question, &BOTH), ["other", "nginx"], "entered anew");
    proc.remove(11);
    drop(proc.process(11, "evil").socket(4, 78));
    assert_eq!(verify(&mut reader, &question, &BOTH), ["other", "evil"], "not as whom it replaced");
}

#[test]
fn names_are_read_again_within_their_bound() {
    let (proc, question) = (TestProc::new(), question());
    let mut reader = reader_of(&proc, &question);
    drop(proc.process(10, "evil").socket(3, 77));
    assert_eq!(verify_at(&mut reader, &question, &BOTH, NAMES_BOUND), ["evil", "nginx"]);
    assert_eq!(reader.effort(), Effort { names: 2, rechecks: 2, ..Effort::default() });
    let later = NAMES_BOUND + Duration::from_secs(1);
    verify_at(&mut reader, &question, &BOTH, later);
    assert_eq!(reader.effort().names, 0);
}

#[test]
fn what_a_holder_fits_is_told_in_the_ids_of_whoever_asks() {
    let (proc, before) = (TestProc::new(), question());
    let mut reader = reader_of(&proc, &before);
    let after = Question::new(&["other", "nginx"]);
    let holdings = [(Inode::new(77).unwrap(), Pid(10))];
    let query = VerifyQuery { selector: after.selector(), holdings: &holdings, now: START };
    let process = reader.verify_holders(&query).unwrap().remove(0).unwrap();
    assert_eq!(process.fits, [after.id(1)]);
    assert_ne!(process.fits, [before.id(0)]);
}

#[test]
fn a_pair_that_was_never_told_is_verified_all_the_same() {
    let (proc, question) = (TestProc::new(), question());
    let mut reader = reader_of(&proc, &question);
    drop(proc.process(12, "other").socket(5, 79));
    let pairs = [(79, 12), (79, 10), (77, 12), (77, 99)];
    assert_eq!(verify(&mut reader, &question, &pairs), ["other", "-", "-", "-"]);
    assert_eq!(verify(&mut reader, &question, &pairs[..1]), ["other"]);
    assert_eq!(reader.effort(), Effort { rechecks: 1, ..Effort::default() });
}

#[test]
fn a_process_that_may_not_be_looked_into_any_more_is_not_told() {
    without_overriding_modes(|| {
        let (proc, question) = (TestProc::new(), question());
        let mut reader = reader_of(&proc, &question);
        drop(proc.process(10, "nginx").mode("fd", 0));
        assert_eq!(verify(&mut reader, &question, &BOTH), ["-", "nginx"]);
    });
}

#[test]
fn a_thread_that_lives_on_without_the_first_is_followed_when_it_ends_too() {
    let proc = TestProc::new();
    let question = Question::new(&["nginx"]).wants(77, &[0]);
    drop(proc.process(10, "nginx").bare(b'Z', 0x0040_0140));
    for thread in [12, 13] {
        drop(proc.process(thread, "nginx").stat(b'S', 0x0040_0140).socket(3, 77));
    }
    fs::create_dir(proc.path().join("10/task")).unwrap();
    fs::rename(proc.path().join("12"), proc.path().join("10/task/12")).unwrap();
    let mut reader = proc.reader();
    assert_eq!(reader.find_holders(&question.query()).unwrap().holders.len(), 1);
    fs::rename(proc.path().join("13"), proc.path().join("10/task/13")).unwrap();
    fs::remove_dir_all(proc.path().join("10/task/12")).unwrap();
    assert_eq!(verify(&mut reader, &question, &[(77, 10)]), ["nginx"]);
}
