use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::answer::Accepted;
use crate::backlog::DiskWork;
use crate::config::{ExportConfig, Protocol, SpoolConfig, SpoolMode};
use crate::exporter::Exporter;
use crate::failure::Failure;
use crate::ledger::Stats;
use crate::notice::Notice;
use crate::testing::{StoppedClock, batch, config};

fn spool(directory: &Path) -> ExportConfig {
    bounded_spool(directory, 1 << 30)
}

fn bounded_spool(directory: &Path, max_bytes: u64) -> ExportConfig {
    let mut config = config(Protocol::Grpc, "http://127.0.0.1:1");
    config.spool = Some(SpoolConfig {
        mode: SpoolMode::Always,
        directory: directory.to_owned(),
        max_bytes,
        max_age: Duration::from_hours(24),
        replay_pause: Duration::from_millis(1),
    });
    config
}

fn failure(error_type: &'static str) -> Failure {
    Failure::exchange(error_type, "told".into(), "do this")
}

/// A keeper whose work is done when the test says so.
fn keeper(directory: &Path) -> Keeper {
    keeper_of(&spool(directory))
}

fn keeper_of(config: &ExportConfig) -> Keeper {
    let (shared, store) = Exporter::new(config, Arc::new(StoppedClock)).unwrap().into_parts();
    Keeper { shared, store, generation: 0, packer: Compressor::new(Compression::Zstd), told_corrupt: 0 }
}

impl Keeper {
    /// Does what there is to do, up to so many tasks.
    fn work(&mut self, most: usize) {
        for _ in 0..most {
            let (task, _) = self.shared.state().ledger.next_task(self.shared.now());
            let Some(task) = task else { return };
            drop(self.perform(task));
        }
    }

    fn enqueue(&self, points: u64) {
        self.shared.state().ledger.begin_cycle();
        self.shared.state().ledger.enqueue(batch(10, points));
    }

    fn take(&self) -> Option<Batch> {
        self.shared.state().ledger.take(true)
    }

    fn put_back(&self) {
        self.shared.state().ledger.put_back(failure("503"), self.shared.now());
    }

    fn accepted(&self) {
        self.shared.state().ledger.accepted(Accepted::default(), self.shared.now());
    }

    fn stats(&self) -> Stats {
        self.shared.state().ledger.stats(Duration::from_secs(100))
    }
}

const ENOUGH: usize = 100;

#[test]
fn an_outage_changes_nothing_in_the_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    for points in 1..=4 {
        keeper.enqueue(points);
        keeper.work(ENOUGH);
        keeper.take();
        keeper.put_back();
        keeper.work(ENOUGH);
    }
    // Nothing gets through for long.
    for _ in 0..20 {
        keeper.work(ENOUGH);
        keeper.take().unwrap();
        keeper.put_back();
    }
    let mut order = Vec::new();
    keeper.work(ENOUGH);
    while let Some(batch) = keeper.take() {
        order.push(batch.points());
        keeper.accepted();
        keeper.work(ENOUGH);
    }
    // The newest is tried first, for it is in memory; the rest in order.
    assert_eq!(order, [4, 1, 2, 3]);
}

#[test]
fn a_record_that_fails_while_others_get_through_does_not_hold_them_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    keeper.work(ENOUGH);
    for points in 1..=3 {
        keeper.enqueue(points);
        keeper.work(ENOUGH);
    }
    drop(keeper);
    let mut keeper = self::keeper(directory.path());
    let mut through = Vec::new();
    for cycle in 0..8 {
        keeper.enqueue(100 + cycle);
        for _ in 0..3 {
            keeper.work(ENOUGH);
            let Some(batch) = keeper.take() else { continue };
            if batch.points() == 1 {
                keeper.put_back();
            } else {
                through.push(batch.points());
                keeper.accepted();
            }
        }
    }
    through.retain(|points| *points < 100);
    assert_eq!(through, [2, 3]);
    assert_eq!(keeper.stats().spool.unwrap().requests, 1);
}

#[test]
fn two_records_that_fail_in_turn_do_not_hold_up_those_behind_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    keeper.work(ENOUGH);
    for points in 1..=4 {
        keeper.enqueue(points);
        keeper.work(ENOUGH);
    }
    drop(keeper);
    let mut keeper = self::keeper(directory.path());
    let mut through = Vec::new();
    for cycle in 0..12 {
        keeper.enqueue(100 + cycle);
        for _ in 0..3 {
            keeper.work(ENOUGH);
            let Some(batch) = keeper.take() else { continue };
            // While one is on its way, the next is read.
            keeper.work(ENOUGH);
            if batch.points() <= 2 {
                keeper.put_back();
            } else {
                through.push(batch.points());
                keeper.accepted();
            }
        }
    }
    through.retain(|points| *points < 100);
    assert_eq!(through, [3, 4]);
    assert_eq!(keeper.stats().spool.unwrap().requests, 2);
}

#[test]
fn the_agent_may_end_when_nothing_is_left_to_write_or_delete() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    let has_work = |keeper: &Keeper| keeper.shared.state().ledger.has_disk_work();
    keeper.work(ENOUGH);
    assert!(!has_work(&keeper));
    keeper.enqueue(5);
    let (task, _) = keeper.shared.state().ledger.next_task(keeper.shared.now());
    keeper.take().unwrap();
    keeper.accepted();
    assert!(has_work(&keeper), "it is being written, although the collector has it");
    keeper.perform(task.unwrap()).unwrap();
    assert!(has_work(&keeper), "and has to be deleted");
    keeper.work(ENOUGH);
    assert!(!has_work(&keeper));
    assert_eq!(keeper.store.scan().unwrap().records, []);
}

#[test]
fn a_record_that_cannot_be_read_just_now_is_kept_and_does_not_hold_up_those_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    keeper.work(ENOUGH);
    for points in 1..=3 {
        keeper.enqueue(points);
        keeper.work(ENOUGH);
    }
    drop(keeper);
    let mut keeper = self::keeper(directory.path());
    keeper.work(1);
    let passing = io::Error::from(rustix::io::Errno::IO);
    assert!(!is_about_this_file(&passing));
    let (task, _) = keeper.shared.state().ledger.next_task(keeper.shared.now());
    assert!(matches!(task, Some(Task::Load(name)) if name.points == 1), "{task:?}");
    keeper.shared.state().ledger.not_loaded();
    let mut order = Vec::new();
    for _ in 0..3 {
        keeper.work(ENOUGH);
        order.push(keeper.take().unwrap().points());
        keeper.accepted();
    }
    assert_eq!((order, dropped(&keeper)), (vec![2, 3, 1], Vec::new()));
}

#[test]
fn what_expires_on_its_way_gets_no_second_life_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    keeper.work(ENOUGH);
    keeper.enqueue(5);
    keeper.work(ENOUGH);
    keeper.take().unwrap();
    let later = crate::ledger::Now { monotonic: Duration::from_hours(25), ..keeper.shared.now() };
    let (task, _) = keeper.shared.state().ledger.next_task(later);
    keeper.perform(task.unwrap()).unwrap();
    keeper.put_back();
    keeper.work(ENOUGH);
    assert_eq!(keeper.store.scan().unwrap().records, []);
    assert_eq!(keeper.stats().waiting_points, 5, "it is tried as long as there is room in memory");
}

#[test]
fn a_record_that_vanishes_before_its_turn_is_not_sent_as_well_as_counted_as_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    for points in [5, 6] {
        keeper.enqueue(points);
        keeper.take();
        keeper.put_back();
        keeper.work(ENOUGH);
    }
    keeper.take().unwrap();
    keeper.accepted();
    keeper.work(ENOUGH);
    for found in keeper.store.scan().unwrap().records {
        fs::remove_file(directory.path().join(found.name.to_string())).unwrap();
    }
    keeper.shared.state().ledger.forget_directory();
    keeper.work(ENOUGH);
    assert!(keeper.take().is_none());
    assert_eq!((dropped(&keeper), keeper.stats().sent_points), (vec![("corrupt".to_owned(), 5)], 6));
}

#[test]
fn what_the_disk_does_not_delete_is_not_sent_again_and_goes_later() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    keeper.work(ENOUGH);
    keeper.enqueue(5);
    keeper.work(ENOUGH);
    keeper.take().unwrap();
    keeper.accepted();
    // A directory in its place cannot be unlinked.
    let name = keeper.store.scan().unwrap().records[0].name;
    let path = directory.path().join(name.to_string());
    let kept = directory.path().join("kept");
    fs::rename(&path, &kept).unwrap();
    fs::create_dir(&path).unwrap();
    keeper.work(ENOUGH);
    fs::remove_dir(&path).unwrap();
    fs::rename(&kept, &path).unwrap();
    keeper.shared.state().ledger.forget_directory();
    keeper.work(ENOUGH);
    assert_eq!(keeper.stats().spool.unwrap().requests, 0, "it was acknowledged");
    let later = crate::ledger::Now { monotonic: Duration::from_secs(200), ..keeper.shared.now() };
    let (task, _) = keeper.shared.state().ledger.next_task(later);
    keeper.perform(task.unwrap()).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_deleted_directory_that_cannot_be_made_again_is_told_with_what_to_do_and_its_loss_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    let mut keeper = keeper(&path);
    keeper.enqueue(7);
    keeper.take();
    keeper.put_back();
    keeper.enqueue(8);
    keeper.work(ENOUGH);
    assert_eq!(keeper.stats().spool.unwrap().points, 15);
    fs::remove_dir_all(&path).unwrap();
    fs::write(&path, "in the way").unwrap();
    keeper.enqueue(9);
    keeper.work(10);
    let (problem, advice) = keeper.trouble(&io::ErrorKind::NotFound.into());
    assert!(problem.contains("was deleted") && advice.contains("restart the agent"), "{problem}; {advice}");
    let stats = keeper.stats();
    assert_eq!(stats.spool.as_ref().unwrap().points, 0, "{stats:?}");
    assert_eq!(stats.dropped_points, [("corrupt".into(), 15)].into(), "{stats:?}");
    assert_eq!(stats.waiting_points, 9);
    fs::remove_file(&path).unwrap();
    keeper.work(ENOUGH);
    assert_eq!(keeper.stats().spool.unwrap().points, 9);
}

fn dropped(keeper: &Keeper) -> Vec<(String, u64)> {
    let dropped = keeper.stats().dropped_points;
    dropped.into_iter().map(|(reason, points)| (reason.into_owned(), points)).collect()
}

#[test]
fn a_full_spool_loses_its_oldest_records_and_room_is_what_files_take_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper_of(&bounded_spool(directory.path(), 4 * 4096));
    for points in 1..=6 {
        // Zeros: on the disk next to nothing, and so one block each.
        keeper.shared.state().ledger.begin_cycle();
        keeper.shared.state().ledger.enqueue(batch(100_000, points));
        keeper.take();
        keeper.put_back();
        keeper.work(ENOUGH);
        assert!(keeper.store.scan().unwrap().records.len() <= 4, "not for a moment more");
    }
    assert_eq!(dropped(&keeper), [("full".to_owned(), 1 + 2)]);
    let stats = keeper.stats().spool.unwrap();
    assert_eq!((stats.requests, stats.points, stats.disk_bytes), (4, 3 + 4 + 5 + 6, 4 * 4096));
}

#[test]
fn what_had_to_make_room_and_still_waits_in_memory_does_not_push_others_out_in_turn() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper_of(&bounded_spool(directory.path(), 2 * 4096));
    // The collector is slow and nothing is wrong: the memory keeps all of it.
    for points in 1..=5 {
        keeper.enqueue(points);
    }
    keeper.work(ENOUGH);
    let (task, _) = keeper.shared.state().ledger.next_task(keeper.shared.now());
    assert!(task.is_none(), "{task:?}");
    assert_eq!(keeper.store.scan().unwrap().records.len(), 2);
    for points in 1..=5 {
        assert_eq!(keeper.take().unwrap().points(), points);
        keeper.accepted();
    }
    keeper.work(ENOUGH);
    assert_eq!((keeper.stats().sent_points, dropped(&keeper)), (15, Vec::new()));
    assert_eq!(keeper.store.scan().unwrap().records, []);
}

#[test]
fn on_a_full_disk_the_oldest_records_go_once_the_memory_fills() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    for points in 1..=3 {
        keeper.enqueue(points);
        keeper.take();
        keeper.put_back();
        keeper.work(ENOUGH);
    }
    let fail = |keeper: &Keeper, bytes| {
        let mut state = keeper.shared.state();
        state.ledger.begin_cycle();
        state.ledger.enqueue(batch(bytes, 100));
        let (Some(Task::Append(_, batch)), _) = state.ledger.next_task(keeper.shared.now()) else {
            panic!("it is to be stored")
        };
        state.ledger.not_stored(&batch, true)
    };
    assert_eq!(fail(&keeper, 10), None, "the memory has room");
    assert!(matches!(fail(&keeper, 600_000), Some(SpoolNotice::DiskFull { .. })));
    keeper.work(ENOUGH);
    let (told, spool) = (dropped(&keeper), keeper.stats().spool.unwrap());
    assert_eq!(told, [("full".to_owned(), 1)], "as much as was missing");
    assert_eq!(spool.points, 2 + 3 + 100 + 100, "there was room for what is newer");
}

#[test]
fn a_disk_that_hangs_is_told_once_by_who_does_not_wait_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    keeper.work(1);
    keeper.enqueue(1);
    let enqueue_at = |seconds| {
        let mut late = batch(10, 1);
        late.set_enqueued(Duration::from_secs(seconds));
        keeper.shared.state().ledger.enqueue(late)
    };
    let now = |seconds| crate::ledger::Now { monotonic: Duration::from_secs(seconds), ..keeper.shared.now() };
    assert!(keeper.shared.state().ledger.next_task(now(100)).0.is_some());
    assert_eq!(enqueue_at(109), []);
    let told = enqueue_at(110);
    assert!(
        matches!(&told[..], [Notice::Spool(SpoolNotice::Trouble { work: DiskWork::Write, .. })]),
        "{told:?}"
    );
    assert_eq!(enqueue_at(120), []);
    assert_eq!(keeper.shared.state().ledger.disk_works(DiskWork::Write), Some(SpoolNotice::Works));
    assert_eq!(enqueue_at(130), [], "nothing is being done");
}

#[test]
fn each_kind_of_trouble_is_told_once_and_the_end_of_all_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path());
    let mut state = keeper.shared.state();
    let mut fails = |work| state.ledger.disk_fails(work, "told".to_owned(), "do this").is_some();
    assert!(fails(DiskWork::Scan) && fails(DiskWork::Delete) && !fails(DiskWork::Scan));
    assert_eq!(state.ledger.disk_works(DiskWork::Scan), None);
    assert_eq!(state.ledger.disk_works(DiskWork::Write), None);
    assert_eq!(state.ledger.disk_works(DiskWork::Delete), Some(SpoolNotice::Works));
    assert_eq!(state.ledger.disk_works(DiskWork::Delete), None);
}

/// What may happen to a spool.
#[derive(Debug, Clone)]
enum Step {
    Enqueue,
    Work(usize),
    Take,
    Accept,
    PutBack,
    Refuse,
    /// The agent dies, and starts again.
    Crash,
    /// So many bytes of one of the records are lost.
    Damage(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Enqueue),
        4 => (1usize..6).prop_map(Step::Work),
        4 => Just(Step::Take),
        3 => Just(Step::Accept),
        2 => Just(Step::PutBack),
        1 => Just(Step::Refuse),
        1 => Just(Step::Crash),
        1 => (0usize..8).prop_map(Step::Damage),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_each_point_is_sent_dropped_waiting_or_spooled_and_no_spooled_one_is_lost(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let mut keeper = keeper(directory.path());
        // A request is told by the number of its points.
        let mut next = 1;
        let mut handed_over = 0;
        let mut fates: BTreeMap<u64, u32> = BTreeMap::new();
        let mut damaged = Vec::new();
        let mut died_in_memory = Vec::new();
        let mut known = Vec::new();
        let mut on_its_way: Option<Batch> = None;
        for step in steps {
            match step {
                Step::Enqueue => {
                    keeper.enqueue(next);
                    handed_over += next;
                    known.push(next);
                    next += 1;
                }
                Step::Work(most) => keeper.work(most),
                Step::Take if on_its_way.is_none() => on_its_way = keeper.take(),
                Step::Accept => if let Some(batch) = on_its_way.take() {
                    keeper.accepted();
                    *fates.entry(batch.points()).or_default() += 1;
                },
                Step::PutBack => if on_its_way.take().is_some() {
                    keeper.put_back();
                },
                Step::Refuse => if let Some(batch) = on_its_way.take() {
                    keeper.shared.state().ledger.refused(failure("400"), keeper.shared.now());
                    *fates.entry(batch.points()).or_default() += 1;
                },
                Step::Crash => {
                    on_its_way = None;
                    let on_disk: Vec<u64> =
                        keeper.store.scan().unwrap().records.iter().map(|found| found.name.points).collect();
                    died_in_memory.extend(known.iter().filter(|points| {
                        !fates.contains_key(points) && !on_disk.contains(points) && !damaged.contains(*points)
                    }));
                    let told = keeper.stats().spool.unwrap().points;
                    prop_assert!(told <= on_disk.iter().sum(), "{told} told, there are {on_disk:?}");
                    drop(keeper);
                    keeper = self::keeper(directory.path());
                    keeper.work(1);
                    handed_over = keeper.stats().spool.unwrap().points;
                    known = on_disk;
                    // What an acknowledgement made needless may still lie there: it is sent twice.
                }
                Step::Damage(which) => {
                    let records = keeper.store.scan().unwrap().records;
                    if let Some(found) = records.get(which) {
                        let path = directory.path().join(found.name.to_string());
                        let bytes = fs::read(&path).unwrap();
                        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
                        damaged.push(found.name.points);
                    }
                }
                Step::Take => {}
            }
            let stats = keeper.stats();
            let dropped: u64 = stats.dropped_points.values().sum();
            let spooled = stats.spool.as_ref().unwrap().points;
            prop_assert_eq!(
                handed_over,
                stats.sent_points + dropped + stats.waiting_points + spooled,
                "{:?}", stats
            );
        }
        if on_its_way.is_some() {
            keeper.put_back();
        }
        // After a refusal the spool waits until one that was measured later is taken.
        keeper.enqueue(next);
        next += 1;
        for _ in 0..500 {
            keeper.work(ENOUGH);
            if let Some(batch) = keeper.take() {
                keeper.accepted();
                *fates.entry(batch.points()).or_default() += 1;
            }
        }
        keeper.work(ENOUGH);
        for points in 1..next {
            let is_excused = damaged.contains(&points) || died_in_memory.contains(&points);
            prop_assert!(fates.contains_key(&points) || is_excused, "{points} is lost");
        }
        let stats = keeper.stats();
        prop_assert_eq!((stats.waiting_points, stats.spool.unwrap().points), (0, 0));
        prop_assert_eq!(keeper.store.scan().unwrap().records, []);
        let reasons: Vec<_> = stats.dropped_points.keys().map(AsRef::as_ref).collect();
        prop_assert!(reasons.iter().all(|reason| ["400", "corrupt"].contains(reason)), "{reasons:?}");
    }
}

#[test]
fn a_collector_that_refuses_gets_nothing_of_the_spool_before_it_takes_what_is_new() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    for points in 1..=5 {
        keeper.enqueue(points);
    }
    keeper.take().unwrap();
    keeper.put_back();
    keeper.work(ENOUGH);
    while let Some(batch) = keeper.take() {
        if batch.is_replayed() {
            break;
        }
        keeper.accepted();
        keeper.work(ENOUGH);
    }
    let refuse = |keeper: &mut Keeper| {
        keeper.shared.state().ledger.refused(failure("401"), keeper.shared.now());
        keeper.work(ENOUGH);
    };
    refuse(&mut keeper);
    let spooled = keeper.stats().spool.unwrap().requests;
    for points in 10..20 {
        assert!(keeper.take().is_none(), "the next is not risked");
        keeper.enqueue(points);
        assert_eq!(keeper.take().map(|batch| batch.points()), Some(points));
        refuse(&mut keeper);
    }
    assert_eq!(keeper.stats().spool.unwrap().requests, spooled);
    keeper.enqueue(20);
    keeper.take().unwrap();
    keeper.accepted();
    keeper.work(ENOUGH);
    assert!(keeper.take().is_some_and(|batch| batch.is_replayed()));
}

#[test]
fn a_disk_that_is_always_storing_is_read_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = keeper(directory.path());
    keeper.enqueue(1);
    keeper.take().unwrap();
    keeper.put_back();
    // The directory is read, and the request stored.
    keeper.work(2);
    // The memory lets go of it, and there is more to store than the disk gets done with.
    for points in 2..50 {
        keeper.enqueue(points);
        keeper.enqueue(points + 100);
        keeper.work(1);
    }
    let mut was_read = false;
    while let Some(batch) = keeper.take() {
        was_read |= batch.is_replayed();
        keeper.accepted();
    }
    assert!(was_read);
}
