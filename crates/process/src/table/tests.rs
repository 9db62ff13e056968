use vms_core::process::{Known, ProcessPattern, ProcessSelector};

use super::*;
use crate::procfs::Names;
use crate::test_proc::START;

fn listed(pids: impl IntoIterator<Item = u32>) -> Vec<Listed> {
    pids.into_iter().map(|pid| Listed { pid: Pid(pid), inode: u64::from(pid) + 100 }).collect()
}

/// A process that fits nothing.
fn idle(pid: u32) -> Holder {
    let names = Names { comm: Known::Is(b"idle".to_vec()), argv0: Known::Absent, executable: Known::Absent };
    Holder::new(Pid(pid), names, &ProcessSelector::default())
}

fn seconds(seconds: u64) -> Duration {
    START + Duration::from_secs(seconds)
}

/// A table in which only process 1 was there from the beginning, and process 2 appeared at 100 seconds.
fn table_with_newcomer() -> NameTable {
    let mut table = NameTable::default();
    table.list(&listed([1]), seconds(0));
    table.list(&listed([1, 2]), seconds(100));
    table.note(&idle(2), seconds(100));
    table
}

#[test]
fn a_young_process_is_read_again_at_the_next_call_and_then_ever_less_often() {
    let mut table = table_with_newcomer();
    assert_eq!(table.remembered(Pid(2), seconds(100)), None, "it may replace its program at any moment");
    let mut read = Vec::new();
    for now in 101..400 {
        if table.remembered(Pid(2), seconds(now)).is_none() {
            table.note(&idle(2), seconds(now));
            read.push(now - 100);
        }
    }
    assert_eq!(read[..6], [1, 2, 4, 8, 16, 32]);
    assert!(read.windows(2).all(|pair| pair[1] - pair[0] <= NAMES_TABLE_BOUND.as_secs()), "{read:?}");
    assert!(read.len() < 15, "{read:?}");
}

#[test]
fn processes_that_were_there_before_come_due_apart_and_within_the_bound() {
    let mut table = NameTable::default();
    let all = listed(1..=2000);
    table.list(&all, seconds(0));
    for process in &all {
        assert_eq!(table.remembered(process.pid, seconds(0)), None, "nothing is known at first");
        table.note(&idle(process.pid.0), seconds(0));
    }
    let due = |now| all.iter().filter(|process| table.remembered(process.pid, now).is_none()).count();
    assert_eq!(due(seconds(0)), 0);
    assert_eq!(due(seconds(0) + NAMES_TABLE_BOUND), 2000);
    for tenth in 0..10 {
        let (from, to) = (NAMES_TABLE_BOUND / 10 * tenth, NAMES_TABLE_BOUND / 10 * (tenth + 1));
        assert!(due(seconds(0) + to) - due(seconds(0) + from) < 600, "in tenth {tenth}");
    }
}

#[test]
fn who_is_not_listed_any_more_is_forgotten() {
    let mut table = table_with_newcomer();
    table.note(&idle(1), seconds(100));
    assert!(table.remembered(Pid(1), seconds(101)).is_some());
    table.list(&listed([2, 3]), seconds(101));
    table.list(&listed([1, 2, 3]), seconds(101));
    assert_eq!(table.remembered(Pid(1), seconds(101)), None);
    assert_eq!(table.entries.len(), 3);
}

#[test]
fn a_number_that_was_given_to_another_process_is_a_new_process() {
    let mut table = NameTable::default();
    table.list(&listed([1]), seconds(0));
    table.note(&idle(1), seconds(0));
    assert!(table.remembered(Pid(1), seconds(10)).is_some());
    table.list(&[Listed { pid: Pid(1), inode: 999 }], seconds(10));
    assert_eq!(table.remembered(Pid(1), seconds(10)), None);
    table.note(&idle(1), seconds(10));
    assert_eq!(table.remembered(Pid(1), seconds(10)), None, "and young");
}

#[test]
fn of_who_might_fit_no_more_is_remembered_than_what_he_fits_for_certain() {
    let mut table = NameTable::default();
    table.list(&listed([1]), seconds(0));
    let patterns = ["idle", "x", "y=/bin/y"].map(|text| {
        let (name, executable) = text.split_once('=').map_or((text, None), |(name, path)| (name, Some(path)));
        ProcessPattern { name: name.parse().unwrap(), executable: executable.map(Into::into) }
    });
    let selector = ProcessSelector::new(&patterns).unwrap();
    let unclear = |comm, executable| {
        let names = Names { comm, argv0: Known::Absent, executable };
        let holder = Holder::new(Pid(1), names, &selector);
        assert!(!holder.fits().possible.is_empty());
        table.note(&holder, seconds(0));
        table.remembered(Pid(1), seconds(1)).cloned()
    };
    let mut unclear = unclear;
    let idle = selector.id(&patterns[0]).unwrap();
    let certain = Some([idle].into());
    assert_eq!(unclear(Known::Is(b"idle".to_vec()), Known::Denied), Some(Remembered::Unclear { certain }));
    assert_eq!(
        unclear(Known::Denied, Known::Is("/bin/z".into())),
        Some(Remembered::Unclear { certain: None }),
        "it might fit some and not others"
    );
}

#[test]
fn an_entry_is_small() {
    assert!(size_of::<(Pid, Entry)>() <= 72, "{}", size_of::<(Pid, Entry)>());
}
