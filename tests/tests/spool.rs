//! What the collector does not take waits on the disk, whatever becomes of the agent and of the disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use vms_agent_tests::deadline::{eventually, unix_nanoseconds};
use vms_agent_tests::lives::{Lives, Meanwhile, Moment};
use vms_agent_tests::skip::Need;
use vms_agent_tests::spool::{follow_records, read_record, records};
use vms_agent_tests::watched::{FORWARD, UP, Watched, times};
use vms_agent_tests::{Call, Collector, Fault, Faulty, Metronome, Points, Protocol, Stored, Trace, needs};

static METRONOME: LazyLock<Metronome> = LazyLock::new(Metronome::start);

#[test]
fn what_is_told_as_spooled_is_on_the_disk_and_stays_until_it_was_taken() {
    const CALLS: &str = "openat,write,fsync,fdatasync,/^rename,/^unlink";
    /// For how long the disk keeps whoever synchronizes a name waiting at first: longer than a cycle, so that one that
    /// told of it meanwhile would be found out.
    const SLOW: Duration = Duration::from_millis(250);
    const BACKLOG: usize = 10;

    needs!(Need::Agent, Need::Tool("strace"));
    let watched = Watched::new();
    let stored = Stored::default();
    let collector = Faulty::start(&watched.host, Protocol::Grpc, Protocol::Grpc.address(), stored.keeper());
    collector.set(Fault::Down);
    let trace = Trace::new(watched.scene.path().join("trace"), CALLS).delaying("fsync", BACKLOG, SLOW);
    let command = watched
        .spooling("always")
        .traced_by(&trace)
        .variable("OTEL_EXPORTER_OTLP_TIMEOUT", "500")
        .variable("VMS_EXPORT__BACKOFF__INITIAL", "50ms")
        .variable("VMS_EXPORT__BACKOFF__MAX", "200ms")
        .variable("VMS_EXPORT__SPOOL__REPLAY_PAUSE", "10ms");
    let spool = command.state_directory();
    let mut agent = command.start();
    eventually("a backlog", || (records(&spool).len() > BACKLOG).then_some(()));
    // It gets some of them, and never says so.
    collector.set(Fault::HangBeforeHead);
    eventually("requests in vain", || (collector.arrivals().len() >= 3).then_some(()));
    collector.set(Fault::Slow(Duration::from_millis(30)));
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    stored.wait_for_points(UP, FORWARD, 3, unix_nanoseconds());
    collector.set(Fault::Down);
    let down = unix_nanoseconds();
    let before = records(&spool);
    let is_new = |record: &PathBuf| !before.contains(record);
    eventually("the last outage", || records(&spool).iter().any(is_new).then_some(()));
    agent.stop();
    let left: BTreeSet<PathBuf> = records(&spool).into_iter().collect();

    let of_records = |call: &&Call| {
        let is_of_records = |text: &Vec<u8>| text.ends_with(b".otlp");
        call.name != "write" && call.texts.iter().any(is_of_records)
    };
    let threads = trace.threads();
    let keepers: Vec<_> = threads.iter().filter(|calls| calls.iter().any(|call| of_records(&call))).collect();
    assert_eq!(keepers.len(), 1, "one thread touches them: {:#?}", threads.iter().flatten().find(of_records));
    let lives = follow_records(keepers[0], &spool);

    for (path, life) in &lives {
        let path = path.display();
        assert!(life.durable.is_some(), "{path}: its name is on the disk before the agent ends");
        let spooled = read_record(&life.bytes);
        let arrived = stored.arrivals().into_iter().find(|arrival| arrival.points == spooled.points);
        match (life.deleted, arrived) {
            (Some(deleted), Some(arrived)) => {
                let early = arrived.unix.saturating_sub(deleted);
                assert_eq!(early, 0, "{path}: deleted nanoseconds before it was taken");
            }
            (Some(_), None) => panic!("{path}: deleted, and never taken"),
            (None, _) => {}
        }
        // What it says of the spool was so when it was handed over.
        let told = spooled.points.iter().find(|point| point.is("vms.agent.spool.requests", &[])).unwrap();
        let by = (spooled.unix_ms + 1) * 1_000_000;
        let durable = lives.values().filter(|life| life.durable.is_some_and(|durable| durable <= by)).count();
        let told = usize::try_from(told.value.as_int()).unwrap();
        assert!(told <= durable, "{path}: {told} are told as spooled, {durable} are on the disk");
    }
    let deleted = lives.values().filter(|life| life.deleted.is_some()).count();
    assert!(deleted >= 10, "{deleted} were deleted");
    let undeleted: BTreeSet<PathBuf> =
        lives.iter().filter(|(_, life)| life.deleted.is_none()).map(|(path, _)| path.clone()).collect();
    assert_eq!(undeleted, left, "what is left, and nothing else");
    let last = lives.values().filter_map(|life| life.durable).max();
    assert!(last > Some(down), "some were written in the last outage");
}

#[track_caller]
fn assert_no_kill_loses_what_was_spooled(mode: &str) {
    /// The collector may have taken the request that is on its way, one that is being written, and one whose file is about to
    /// be deleted.
    const MOST: usize = 3;
    const LIVES: u64 = 8;
    const BACKLOG: [usize; 8] = [1, 1, 2, 2, 3, 3, 4, 5];

    needs!(Need::Agent);
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let mut lives = Lives::new(&watched, mode, 60);
    for number in 0..LIVES {
        // Not in step with the cycles, which are 200 ms apart.
        let pause = Duration::from_millis(number * 67 % 430);
        let moment = if number % 2 == 0 { Moment::Any } else { Moment::Taken };
        lives.live(Meanwhile::Down, pause * 2, Moment::Any);
        lives.live(Meanwhile::Up, pause, moment);
        lives.live(Meanwhile::Flaps, pause * 2, moment);
    }
    for requests in BACKLOG {
        lives.live(Meanwhile::TakesBacklog(requests), Duration::ZERO, Moment::Taken);
    }
    lives.end(&METRONOME);
    assert!(lives.spooled() > 12, "{} requests were spooled", lives.spooled());
    let most = lives.duplicates.iter().max().copied().unwrap_or_default();
    assert!((1..=MOST).contains(&most), "{:?} duplicates of each kill", lives.duplicates);
}

#[test]
fn what_was_spooled_arrives_however_often_the_agent_is_killed() {
    assert_no_kill_loses_what_was_spooled("onFailure");
}

#[test]
fn with_a_spool_of_everything_it_arrives_however_often_the_agent_is_killed() {
    assert_no_kill_loses_what_was_spooled("always");
}

#[test]
fn what_is_left_when_the_agent_stops_arrives_after_its_next_start() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Http);
    let command = watched
        .spooling("onFailure")
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", Protocol::Http.name())
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", Protocol::Http.endpoint());
    let mut agent = command.start();
    agent.wait_for_log(&["\"link\":\"link\"", "forward"]);
    agent.wait_for_log(&["WARN", "data is kept in"]);
    let took = agent.stop();
    assert!(took < Duration::from_secs(8), "{took:?}");
    let stopped = unix_nanoseconds();
    assert!(!records(&command.state_directory()).is_empty());
    collector.resume(&watched.host);
    let mut agent = command.start();
    let early = eventually("what was measured before the stop", || {
        collector.series(UP, FORWARD).into_iter().find(|point| point.time < stopped)
    });
    assert_eq!(early.value.as_int(), 1);
    eventually("the spool to be empty", || records(&command.state_directory()).is_empty().then_some(()));
    agent.stop();
}

#[test]
fn a_second_agent_on_the_same_spool_is_refused_and_the_other_commands_are_not() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let command = watched.spooling("always").variable("OTEL_EXPORTER_OTLP_TIMEOUT", "1000");
    let mut first = command.start();
    first.wait_for_log(&["started"]);
    let second = command.output(&["run"]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    let directory = command.state_directory().display().to_string();
    assert!(said.contains(&directory) && said.contains("process"), "{said}");
    assert_eq!(command.output(&["check"]).status.code(), Some(0));
    assert_eq!(command.output(&["validate"]).status.code(), Some(0));
    first.signal(Signal::HUP);
    first.wait_for_log(&["configuration reloaded"]);
    first.stop();
}

#[test]
fn what_is_damaged_is_set_aside_and_counted_and_holds_up_nothing() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let command = watched.spooling("always");
    let spool = command.state_directory();
    let mut agent = command.start();
    agent.wait_for_log(&["\"link\":\"link\"", "forward"]);
    eventually("five requests", || (records(&spool).len() >= 5).then_some(()));
    agent.stop();
    let stopped = unix_nanoseconds();
    let left = records(&spool);
    let bytes = fs::read(&left[0]).unwrap();
    fs::write(&left[0], &bytes[..bytes.len() / 2]).unwrap();
    fs::write(&left[1], b"").unwrap();
    let mut flipped = fs::read(&left[2]).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    fs::write(&left[2], &flipped).unwrap();
    fs::write(spool.join("notes.txt"), "somebody else's").unwrap();
    fs::create_dir(spool.join("a directory")).unwrap();

    collector.resume(&watched.host);
    let mut agent = command.start();
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    let exported = "otel.sdk.exporter.metric_data_point.exported";
    eventually("the damage to be counted", || {
        let lost = collector.series(exported, &[("error.type", "corrupt")]);
        lost.iter().any(|point| point.value.as_int() > 0).then_some(())
    });
    agent.stop();
    assert_eq!(fs::read_dir(spool.join("set-aside")).unwrap().count(), 3);
    assert!(spool.join("notes.txt").exists() && spool.join("a directory").exists());
    let good = times(&collector).into_iter().filter(|time| *time < stopped).count();
    assert!(good + 3 >= left.len(), "{good} of {} arrived", left.len());
}

#[test]
fn a_spool_that_cannot_be_used_is_told_once_and_the_memory_serves() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let in_the_way = watched.scene.write("file", "in the way");
    let mut agent = watched
        .spooling("always")
        .variable("VMS_EXPORT__SPOOL__DIRECTORY", in_the_way.join("spool").to_str().unwrap())
        .start();
    let began = unix_nanoseconds();
    agent.wait_for_log(&["\"link\":\"link\"", "forward"]);
    collector.resume(&watched.host);
    collector.wait_for_points(UP, FORWARD, 3, began);
    agent.stop();
    assert_eq!(agent.log_with(&["WARN", "spool"]).len(), 1);
}

#[test]
fn a_directory_that_is_deleted_underneath_is_told_with_what_to_do_and_measuring_goes_on() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let command = watched.spooling("onFailure");
    let spool = command.state_directory().join("spool");
    let config = json!(spool.to_str().unwrap());
    let mut agent = command.variable("VMS_EXPORT__SPOOL__DIRECTORY", config.as_str().unwrap()).start();
    agent.wait_for_log(&["WARN", "data is kept in"]);
    eventually("a request in the spool", || (!records(&spool).is_empty()).then_some(()));
    fs::remove_dir_all(&spool).unwrap();
    agent.wait_for_log(&["WARN", "deleted"]);
    let since = unix_nanoseconds();
    collector.resume(&watched.host);
    collector.wait_for_points(UP, FORWARD, 3, since);
    agent.stop();
}
