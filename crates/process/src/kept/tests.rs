use super::*;

fn wanted(inodes: impl IntoIterator<Item = u64>) -> BTreeMap<Inode, BTreeSet<PatternId>> {
    inodes.into_iter().map(|inode| (Inode::new(inode).unwrap(), BTreeSet::new())).collect()
}

fn found(inodes: impl IntoIterator<Item = u64>) -> HashMap<Inode, Vec<Hint>> {
    let hint = Hint { pid: Pid(7), descriptor: 3 };
    inodes.into_iter().map(|inode| (Inode::new(inode).unwrap(), vec![hint])).collect()
}

#[test]
fn a_socket_that_was_asked_for_and_not_found_is_forgotten() {
    let mut hints = Hints::default();
    hints.renew(&wanted([1, 2]), found([1, 2]));
    hints.renew(&wanted([1, 2]), found([2]));
    assert_eq!(
        hints.of_wanted(&wanted([1, 2])),
        BTreeMap::from([(Pid(7), vec![(Inode::new(2).unwrap(), 3)])])
    );
}

#[test]
fn sockets_that_are_asked_for_less_often_are_kept_meanwhile() {
    let mut hints = Hints::default();
    hints.renew(&wanted([1]), found([1]));
    hints.renew(&wanted([2]), found([2]));
    assert_eq!(hints.of_wanted(&wanted([1])).len(), 1);
}

#[test]
fn memory_is_bounded_however_many_sockets_come_and_go() {
    let mut hints = Hints::default();
    for call in 0..100 {
        let sockets = call * 1000 + 1..=(call + 1) * 1000;
        hints.renew(&wanted(sockets.clone()), found(sockets));
        assert!(hints.by_inode.len() <= MAX_IDLE + 1000, "{} after {call} calls", hints.by_inode.len());
    }
}
