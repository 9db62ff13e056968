//! What becomes of a spool whose disk fills up, turns read-only, stops answering, or breaks: measuring and sending go on,
//! and nothing is lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use vms_agent_tests::deadline::{eventually, now, unix_nanoseconds};
use vms_agent_tests::disk::Disk;
use vms_agent_tests::skip::Need;
use vms_agent_tests::spool::records;
use vms_agent_tests::watched::{FORWARD, UP, Watched, assert_no_gap, times};
use vms_agent_tests::{Agent, Collector, Hung, Metronome, Points, Protocol, needs, program};

static METRONOME: LazyLock<Metronome> = LazyLock::new(Metronome::start);

/// What is told of a spool that cannot be written, and of its end.
const TROUBLE: &[&str] = &["WARN", "nothing can be written to the spool"];
const WORKS: &[&str] = &["INFO", "the spool can be used again"];

/// What waits in memory meanwhile has room there.
const SOME_CYCLES: Duration = Duration::from_millis(1500);

fn pass(time: Duration) {
    let since = now();
    eventually("time to pass", || (since.elapsed() >= time).then_some(()));
}

/// Everything that was measured arrived once, on time.
#[track_caller]
fn assert_all_arrived(collector: &Collector) {
    let arrived = collector.series(UP, FORWARD);
    let times = times(collector);
    assert_eq!(arrived.len(), times.len(), "each once");
    assert_no_gap(&times, &METRONOME);
    let lost: Vec<_> =
        collector.points().into_iter().filter(|point| point.attribute("error.type").is_some()).collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

/// Waits until so many requests more are in the spool.
#[track_caller]
fn wait_for_records(spool: &std::path::Path, more: usize) {
    let before = records(spool).len();
    eventually("requests in the spool", || (records(spool).len() >= before + more).then_some(()));
}

#[track_caller]
fn assert_full_disk_is_survived(watched: &Watched, spool: &std::path::Path, disk: &Disk, mut agent: Agent) {
    let mut collector = Collector::new(Protocol::Grpc);
    agent.wait_for_log(&["WARN", "data is kept in"]);
    let full = eventually("the disk to be full", || agent.log_with(TROUBLE).first().cloned());
    assert!(full.contains("No space left on device") && full.contains("free space on"), "{full}");
    let kept = records(spool).len();
    assert!(kept > 0, "what fits is kept");
    pass(SOME_CYCLES);
    assert_eq!(agent.log_with(TROUBLE).len(), 1, "told once");
    disk.free();
    agent.wait_for_log(WORKS);
    eventually("what waited in memory, in the spool", || (records(spool).len() >= kept + 5).then_some(()));

    disk.fill(0);
    eventually("the disk to be full again", || (agent.log_with(TROUBLE).len() == 2).then_some(()));
    let since = unix_nanoseconds();
    collector.resume(&watched.host);
    collector.wait_for_points(UP, FORWARD, 5, since);
    eventually("the spool to be empty", || records(spool).is_empty().then_some(()));
    agent.stop();
    assert_eq!(agent.log_with(TROUBLE).len(), 2, "told once each");
    assert_all_arrived(&collector);
}

#[test]
fn a_full_disk_costs_no_cycle_and_is_used_again_when_there_is_room() {
    needs!(Need::Agent);
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let command = watched.spooling("onFailure");
    let spool = command.state_directory();
    let disk = Disk::in_memory(&spool, 256 << 10);
    disk.fill(32 << 10);
    assert_full_disk_is_survived(&watched, &spool, &disk, command.start());
}

#[test]
fn a_full_ext4_costs_no_cycle_and_is_used_again_when_there_is_room() {
    needs!(Need::Agent, Need::LoopDevice);
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let command = watched.spooling("onFailure");
    let spool = command.state_directory();
    let disk = Disk::in_file(&spool, &watched.scene.path().join("disk"));
    disk.fill(32 << 10);
    assert_full_disk_is_survived(&watched, &spool, &disk, command.start());
}

#[test]
fn a_disk_that_turns_read_only_is_read_and_is_written_again_when_it_can_be() {
    needs!(Need::Agent, Need::LoopDevice);
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let command = watched.spooling("onFailure").variable("VMS_EXPORT__SPOOL__REPLAY_PAUSE", "1ms");
    let spool = command.state_directory();
    let disk = Disk::in_file(&spool, &watched.scene.path().join("disk"));
    let mut agent = command.start();
    wait_for_records(&spool, 3);
    disk.remount("ro");
    let told = eventually("the trouble to be told", || agent.log_with(TROUBLE).first().cloned());
    assert!(told.contains("Read-only file system") && told.contains("mount that file system"), "{told}");
    let kept = records(&spool);
    collector.resume(&watched.host);
    let newest = unix_nanoseconds();
    let milliseconds = |path: &PathBuf| -> u64 {
        path.file_name().unwrap().to_str().unwrap().split('-').nth(1).unwrap().parse().unwrap()
    };
    // What was spooled before is read, and sent.
    let oldest = milliseconds(&kept[0]) * 1_000_000;
    eventually("the oldest to arrive", || {
        times(&collector).first().is_some_and(|first| first.abs_diff(oldest) < 200_000_000).then_some(())
    });
    collector.wait_for_points(UP, FORWARD, 5, newest);
    pass(SOME_CYCLES);
    assert_eq!(records(&spool), kept, "what was sent cannot be deleted");
    disk.remount("rw");
    eventually("what was sent to be deleted", || records(&spool).is_empty().then_some(()));
    collector.kill();
    wait_for_records(&spool, 3);
    agent.wait_for_log(WORKS);
    collector.resume(&watched.host);
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    agent.stop();
    assert_eq!(agent.log_with(TROUBLE).len(), 1, "told once");
    assert_all_arrived(&collector);
}

#[test]
fn a_disk_that_is_read_only_at_the_start_is_used_once_it_is_not() {
    needs!(Need::Agent, Need::LoopDevice);
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let command = watched.spooling("onFailure");
    let spool = command.state_directory();
    let disk = Disk::in_file(&spool, &watched.scene.path().join("disk"));
    disk.remount("ro");
    let mut agent = command.start();
    agent.wait_for_log(&["WARN", "cannot be used", "Read-only file system", "memory serve"]);
    agent.wait_for_log(&["WARN", "points wait"]);
    disk.remount_for(&agent, "rw");
    agent.wait_for_log(WORKS);
    wait_for_records(&spool, 3);
    collector.resume(&watched.host);
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    collector.wait_for_points(UP, FORWARD, 2, unix_nanoseconds());
    agent.stop();
    assert_all_arrived(&collector);
}

#[test]
fn a_disk_that_stops_answering_delays_neither_measuring_nor_sending() {
    needs!(Need::Agent, Need::LoopDevice, Need::Tool("fsfreeze"));
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let command = watched.spooling("onFailure");
    let spool = command.state_directory();
    let disk = Disk::in_file(&spool, &watched.scene.path().join("disk"));
    let mut agent = command.start();
    wait_for_records(&spool, 3);
    let frozen = disk.freeze();
    pass(SOME_CYCLES);
    collector.resume(&watched.host);
    collector.wait_for_points(UP, FORWARD, 5, unix_nanoseconds());
    assert!(!records(&spool).is_empty(), "nothing can be deleted");
    drop(frozen);
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    agent.stop();
    assert_all_arrived(&collector);
}

#[test]
fn a_disk_that_does_not_answer_at_the_start_holds_up_nothing_and_is_told() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let spool = watched.scene.own_directory("hung", 0);
    let _hung = Hung::on(&spool);
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let command =
        watched.spooling("always").variable("VMS_EXPORT__SPOOL__DIRECTORY", spool.to_str().unwrap());
    let mut agent = command.start();
    agent.wait_for_log(&["WARN", "cannot be used", "the disk has not answered", "memory serve"]);
    collector.wait_for_points(UP, FORWARD, 5, unix_nanoseconds());
    let examined = command.output(&["doctor"]);
    let text = String::from_utf8_lossy(&examined.stdout);
    assert!(text.contains("the disk has not answered"), "{text}");
    let took = agent.stop();
    assert!(took < Duration::from_secs(3), "stopped after {took:?}");
    assert_all_arrived(&collector);
}

/// A disk with less behind it than it promised, as of a thin pool that ran full: what is written fails in the block layer.
#[test]
fn a_disk_that_fails_costs_no_cycle_and_what_was_spooled_before_survives_it() {
    needs!(Need::Agent, Need::LoopDevice, Need::Tool("e2fsck"));
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let command = watched.spooling("onFailure").variable("VMS_EXPORT__SPOOL__REPLAY_PAUSE", "1ms");
    let spool = command.state_directory();
    let pool_directory = watched.scene.public_directory("pool");
    let pool = Disk::in_memory(&pool_directory, 4 << 20);
    let image = pool_directory.join("disk");
    let disk = Disk::in_file(&spool, &image);
    let mut agent = command.start();
    wait_for_records(&spool, 5);
    let mut before = records(&spool);
    // That one may not be on the disk yet.
    before.pop();
    pool.fill(0);
    let told = eventually("the trouble to be told", || agent.log_with(TROUBLE).first().cloned());
    assert!(!disk.is_writable(), "the disk has failed: {told}");
    pass(SOME_CYCLES);
    assert_eq!(agent.log_with(TROUBLE).len(), 1, "told once");
    collector.resume(&watched.host);
    collector.wait_for_points(UP, FORWARD, 5, unix_nanoseconds());
    agent.stop();
    assert_no_gap(&times(&collector), &METRONOME);
    let arrived = times(&collector);
    drop(disk);

    pool.free();
    // A copy: agents of other tests may have the failed file system in their mount namespaces still.
    let copy = watched.scene.path().join("copy");
    fs::copy(&image, &copy).unwrap();
    let image = copy;
    let repaired = program::output(program::command("e2fsck").args(["-f", "-y"]).arg(&image));
    assert!(repaired.status.code().is_some_and(|code| code <= 1), "{repaired:?}");
    let disk = Disk::in_file(&spool, &image);
    let after: BTreeSet<PathBuf> = records(&spool).into_iter().collect();
    assert!(before.iter().all(|record| after.contains(record)), "{before:#?} were there, {after:#?} are");
    // They are sent again: that they had been was not to be written down.
    let mut agent = command.start();
    agent.wait_for_log(&["INFO", "requests of an earlier run"]);
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    agent.stop();
    assert!(times(&collector).is_superset(&arrived));
    assert!(!spool.join("set-aside").exists() || fs::read_dir(spool.join("set-aside")).unwrap().count() == 0);
    drop(disk);
}

/// As on kernels before 5.19, where Landlock lets nothing go to another directory.
#[test]
fn what_is_damaged_is_set_aside_also_where_it_cannot_be_renamed_to() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let command = watched.spooling("always");
    let spool = command.state_directory();
    let aside = spool.join("set-aside");
    fs::create_dir(&aside).unwrap();
    let disk = Disk::in_memory(&aside, 1 << 20);
    let mut agent = command.start();
    wait_for_records(&spool, 3);
    agent.stop();
    fs::write(&records(&spool)[0], "damaged").unwrap();
    collector.resume(&watched.host);
    let mut agent = command.start();
    agent.wait_for_log(&["WARN", "check the disk", "set-aside"]);
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    agent.stop();
    let kept: Vec<_> =
        fs::read_dir(&aside).unwrap().map(|item| fs::read(item.unwrap().path()).unwrap()).collect();
    assert_eq!(kept, [b"damaged"]);
    drop(disk);
}
