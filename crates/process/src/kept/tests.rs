use vms_core::process::ProcessPattern;

use super::*;
use crate::procfs::Procfs;
use crate::test_proc::TestProc;

const NOW: Duration = Duration::from_hours(1);

fn inode(number: u64) -> Inode {
    Inode::new(number).unwrap()
}

fn wanted(inodes: impl IntoIterator<Item = u64>) -> BTreeMap<Inode, BTreeSet<PatternId>> {
    inodes.into_iter().map(|number| (inode(number), BTreeSet::new())).collect()
}

fn selector() -> ProcessSelector {
    let pattern = ProcessPattern { name: "nginx".parse().unwrap(), executable: None };
    ProcessSelector::new([&pattern]).unwrap()
}

/// Keeps processes of a /proc with these numbers, at that time.
fn keep(kept: &mut Kept, proc: &TestProc, pids: impl IntoIterator<Item = u32>, now: Duration) {
    let procfs = Procfs::open(proc.path()).unwrap();
    for pid in pids.into_iter().map(Pid) {
        let (dir, names) = procfs.enter(pid).unwrap();
        kept.keep(dir, &mut Holder::new(pid, names, &selector()), now);
    }
}

#[test]
fn a_place_is_remembered_until_it_is_forgotten() {
    let mut kept = Kept::new(None);
    kept.remember(inode(1), Pid(7), 3, true, NOW);
    kept.remember(inode(1), Pid(8), 4, true, NOW);
    kept.remember(inode(1), Pid(8), 5, true, NOW);
    let places = kept.places_of(&wanted([1, 2]), NOW);
    assert_eq!(places, BTreeMap::from([(Pid(7), vec![(inode(1), 3)]), (Pid(8), vec![(inode(1), 5)])]));
    kept.forget(inode(1), Pid(7));
    assert_eq!(kept.pids(), [Pid(8)].into());
    kept.forget(inode(1), Pid(8));
    assert!(kept.sockets.is_empty());
}

#[test]
fn of_holders_that_do_not_fit_one_place_is_enough() {
    let mut kept = Kept::new(None);
    for pid in 1..100 {
        kept.remember(inode(1), Pid(pid), 3, pid == 50, NOW);
    }
    assert_eq!(kept.pids(), [Pid(1), Pid(50)].into());
}

#[test]
fn handles_are_bounded_by_half_of_the_descriptors_and_by_a_constant() {
    assert_eq!(Kept::new(None).max_holders, 4096);
    assert_eq!(Kept::new(Some(1_048_576)).max_holders, 4096);
    assert_eq!(Kept::new(Some(1024)).max_holders, 512);
    assert_eq!(Kept::new(Some(1)).max_holders, 0);

    let proc = TestProc::new();
    for pid in 1..=5 {
        drop(proc.process(pid, "nginx"));
    }
    let mut kept = Kept::new(Some(6));
    keep(&mut kept, &proc, 1..=5, NOW);
    assert_eq!(kept.handles(), 3);
    keep(&mut kept, &proc, 1..=3, NOW);
    assert_eq!(kept.handles(), 3, "kept once each");
}

#[test]
fn after_they_were_too_many_fewer_handles_are_kept_and_by_and_by_as_many_again() {
    let proc = TestProc::new();
    for pid in 1..=8 {
        drop(proc.process(pid, "nginx"));
    }
    let mut kept = Kept::new(Some(16));
    let mut handles_at = |now, shed| {
        keep(&mut kept, &proc, 1..=8, now);
        if shed {
            kept.shed(now);
            keep(&mut kept, &proc, 1..=8, now);
        }
        kept.sweep(0, now);
        kept.handles()
    };
    assert_eq!([handles_at(NOW, false), handles_at(NOW + SWEEP_INTERVAL, true)], [8, 4]);
    let after_sweeps = [1, 2, 3].map(|sweeps| handles_at(NOW + SWEEP_INTERVAL * (sweeps + 1), false));
    assert_eq!(after_sweeps, [4, 8, 8], "a sweep at a time");
    let later = NOW + SWEEP_INTERVAL * 10;
    assert_eq!([handles_at(later, true), handles_at(later, true), handles_at(later, true)], [4, 2, 1]);
    assert_eq!(handles_at(later, true), 0);
    let after_none = [1, 2, 3].map(|sweeps| handles_at(later + SWEEP_INTERVAL * sweeps, false));
    assert_eq!(after_none, [0, 2, 4]);
}

#[test]
fn what_nobody_asks_about_is_closed_and_forgotten() {
    let proc = TestProc::new();
    let mut kept = Kept::new(None);
    for pid in [1, 2] {
        drop(proc.process(pid, "nginx").socket(3, u64::from(pid)));
        kept.remember(inode(pid.into()), Pid(pid), 3, true, NOW);
    }
    keep(&mut kept, &proc, [1, 2], NOW);
    let later = NOW + MAX_IDLE.saturating_sub(SWEEP_INTERVAL);
    let process = kept.verify(inode(1), Pid(1), &selector(), later, &mut Effort::default());
    assert_eq!(process.unwrap().pid, Pid(1));
    kept.sweep(1, later);
    assert_eq!(kept.handles(), 2, "a probe with a long interval finds its holders kept");
    kept.sweep(0, NOW + MAX_IDLE);
    assert_eq!(kept.handles(), 1);
    assert_eq!(kept.pids(), [Pid(1)].into());
}

#[test]
fn the_handle_of_a_process_that_is_gone_is_closed_although_nobody_asks_about_it() {
    let proc = TestProc::new();
    for pid in [1, 2] {
        drop(proc.process(pid, "nginx"));
    }
    let mut kept = Kept::new(None);
    keep(&mut kept, &proc, [1, 2], NOW);
    proc.remove(1);
    kept.sweep(0, NOW + SWEEP_INTERVAL);
    assert_eq!(kept.holders.keys().collect::<Vec<_>>(), [&Pid(2)]);
}

#[test]
fn memory_is_bounded_however_many_sockets_come_and_go() {
    let mut kept = Kept::new(None);
    for call in 0..100 {
        let now = NOW + Duration::from_millis(call);
        for number in call * 1000 + 1..=(call + 1) * 1000 {
            kept.remember(inode(number), Pid(7), 3, true, now);
        }
        kept.sweep(1000, now);
        // In figures, so that a larger bound is a decision: this is what an attacker can make of the memory.
        assert!(kept.sockets.len() < 18_000, "{} after {call} calls", kept.sockets.len());
        assert!(kept.place(inode(call * 1000 + 1), Pid(7)).is_some(), "what was asked for just now is kept");
    }
}

#[test]
fn of_connections_that_are_replaced_those_of_the_last_minutes_are_remembered() {
    let mut kept = Kept::new(None);
    for second in 0..900 {
        let now = NOW + Duration::from_secs(second);
        // 20 new ones each second, each asked for in four seconds.
        for number in second * 20 + 1..=(second + 4) * 20 {
            kept.places_of(&wanted([number]), now);
            kept.remember(inode(number), Pid(7), 3, true, now);
        }
        kept.sweep(80, now);
        assert!(kept.sockets.len() <= 20 * 130, "{} after {second} s", kept.sockets.len());
        assert!(kept.sockets.capacity() <= 20 * 400, "{} after {second} s", kept.sockets.capacity());
    }
}

#[test]
fn what_a_probe_with_a_long_interval_asks_for_is_kept_however_many_sockets_come_and_go() {
    const SLOW: u64 = 20_000;
    let proc = TestProc::new();
    drop(proc.process(7, "nginx"));
    let mut kept = Kept::new(None);
    let is_kept = |kept: &Kept, number| kept.place(inode(number), Pid(7)).is_some();
    let ask = |kept: &mut Kept, numbers: std::ops::Range<u64>, now| {
        kept.places_of(&wanted(numbers.clone()), now);
        for number in numbers.clone() {
            kept.remember(inode(number), Pid(7), 3, true, now);
        }
        kept.sweep(numbers.count(), now);
    };
    ask(&mut kept, 1..SLOW, NOW);
    ask(&mut kept, 1..SLOW, NOW + Duration::from_mins(1));
    for second in 1..60 {
        let now = NOW + Duration::from_secs(60 + second);
        // Half of them are asked for once, half of them twice.
        let first = SLOW + second * 1000;
        ask(&mut kept, first - 500..first + 1000, now);
        assert!((1..SLOW).all(|number| is_kept(&kept, number)), "after {second} s");
        let others = kept.sockets.len() - usize::try_from(SLOW).unwrap();
        assert!(others <= MAX_IDLE_SOCKETS + 3 * 1500, "{others} after {second} s");
    }
    // Their probe is measured without them.
    for second in 240..=300 {
        ask(&mut kept, SLOW * second..SLOW * second + 1000, NOW + Duration::from_secs(second));
    }
    assert!((1..SLOW).all(|number| !is_kept(&kept, number)));
}

#[test]
fn of_sockets_that_were_asked_for_once_the_longest_unasked_go_first() {
    let mut kept = Kept::new(None);
    let bound = u64::try_from(MAX_IDLE_SOCKETS).unwrap();
    for number in 1..=bound + 1 {
        kept.remember(inode(number), Pid(7), 3, true, NOW + Duration::from_millis(number));
    }
    kept.sweep(0, NOW + Duration::from_mins(1));
    assert!((1..=bound / 4 + 1).all(|number| kept.place(inode(number), Pid(7)).is_none()));
    assert!((bound / 4 + 2..=bound + 1).all(|number| kept.place(inode(number), Pid(7)).is_some()));
}

#[test]
fn a_process_stays_the_same_value_while_its_names_do() {
    let proc = TestProc::new();
    let process = proc.process(7, "nginx").socket(3, 1);
    let mut kept = Kept::new(None);
    kept.remember(inode(1), Pid(7), 3, true, NOW);
    keep(&mut kept, &proc, [7], NOW);
    let selector = selector();
    let mut verify = |now| kept.verify(inode(1), Pid(7), &selector, now, &mut Effort::default()).unwrap();
    let before = verify(NOW);
    assert!(Arc::ptr_eq(&before, &verify(NOW + NAMES_BOUND)));
    drop(process.comm(b"renamed\n"));
    assert_eq!(verify(NOW + NAMES_BOUND * 2).name, "renamed");
}
