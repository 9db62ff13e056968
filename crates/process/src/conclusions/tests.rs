use vms_core::process::{ProcessPattern, ProcessSelector};

use super::*;
use crate::test_proc::START;

fn pattern() -> PatternId {
    let pattern = ProcessPattern { name: "nginx".parse().unwrap(), executable: None };
    ProcessSelector::new([&pattern]).unwrap().id(&pattern).unwrap()
}

fn inode(number: u64) -> Inode {
    Inode::new(number).unwrap()
}

fn pairs(inodes: impl IntoIterator<Item = u64>) -> HashSet<(Inode, PatternId)> {
    let pattern = pattern();
    inodes.into_iter().map(|number| (inode(number), pattern)).collect()
}

fn wanted(inodes: impl IntoIterator<Item = u64>) -> BTreeMap<Inode, BTreeSet<PatternId>> {
    let pattern = pattern();
    inodes.into_iter().map(|number| (inode(number), [pattern].into())).collect()
}

fn seconds(seconds: u64) -> Duration {
    START + Duration::from_secs(seconds)
}

#[test]
fn a_socket_is_searched_anew_at_the_next_call_and_then_ever_less_often() {
    let mut conclusions = Conclusions::default();
    let mut searched = Vec::new();
    for second in 0..400 {
        let now = seconds(second);
        if !conclusions.holds(inode(1), pattern(), now) {
            conclusions.conclude(&pairs([1]), now);
            searched.push(second);
        }
        conclusions.sweep(&wanted([1]), &pairs([1]), now);
    }
    assert_eq!(searched, [0, 1, 2, 4, 8, 16, 32, 64, 124, 184, 244, 304, 364]);
}

#[test]
fn what_has_found_its_holder_is_new_when_it_loses_it() {
    let mut conclusions = Conclusions::default();
    for second in [0, 30] {
        conclusions.conclude(&pairs([1, 2]), seconds(second));
    }
    conclusions.sweep(&wanted([1]), &pairs([]), seconds(31));
    assert!(!conclusions.holds(inode(1), pattern(), seconds(31)));
    assert!(conclusions.holds(inode(2), pattern(), seconds(31)), "it was not asked for");
}

#[test]
fn memory_is_bounded_however_many_sockets_come_and_go() {
    let mut conclusions = Conclusions::default();
    for call in 0..100 {
        let now = seconds(0) + Duration::from_millis(call);
        let sockets = call * 1000 + 1..=(call + 1) * 1000;
        conclusions.conclude(&pairs(sockets.clone()), now);
        conclusions.sweep(&wanted(sockets.clone()), &pairs(sockets), now);
        // In figures, so that a larger bound is a decision.
        assert!(conclusions.pairs.len() < 18_000, "{}", conclusions.pairs.len());
    }
    conclusions.sweep(&wanted([]), &pairs([]), seconds(1000));
    assert!(conclusions.pairs.is_empty(), "what is long past is of no use");
}
