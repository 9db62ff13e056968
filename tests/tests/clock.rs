//! The clock of the host is set while the agent runs. A library does it that only an agent loads which is linked dynamically.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use vms_agent_tests::deadline::eventually;
use vms_agent_tests::skip::Need;
use vms_agent_tests::spool::records;
use vms_agent_tests::watched::{Watched, assert_no_gap, lost, times};
use vms_agent_tests::{Collector, Metronome, Protocol, environment, needs};

static METRONOME: LazyLock<Metronome> = LazyLock::new(Metronome::start);

const DAY: i64 = 24 * 3600 * 1_000_000_000;

/// How far the clock of the agent is ahead from now on, in days.
fn set_clock(file: &Path, days: i64) {
    // In one step: it is read at any moment.
    let next = file.with_extension("next");
    fs::write(&next, format!("{days:+}d")).unwrap();
    fs::rename(next, file).unwrap();
}

#[test]
fn a_clock_that_is_set_in_an_outage_by_a_day_either_way_costs_neither_a_look_nor_what_waits() {
    needs!(Need::Agent, Need::FakeTime);
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let clock = watched.scene.write("clock", "+0d");
    let library = environment::fake_time_library().unwrap();
    let command = watched
        .spooling("onFailure")
        .variable("LD_PRELOAD", library.to_str().unwrap())
        .variable("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .variable("VMS_EXPORT__SPOOL__MAX_AGE", "1h")
        .variable("VMS_EXPORT__SPOOL__REPLAY_PAUSE", "1ms")
        // The library opens files and shared memory that are none of the agent's.
        .variable("VMS_SANDBOX", "off");
    let spool = command.state_directory();
    let mut agent = command.start();
    agent.wait_for_log(&["WARN", "data is kept in"]);
    for days in [0, 1, -1] {
        set_clock(&clock, days);
        let before = records(&spool).len();
        eventually("the cycles of that day", || (records(&spool).len() >= before + 6).then_some(()));
    }
    collector.resume(&watched.host);
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    agent.stop();

    let times = times(&collector);
    let day_of = |time: u64| {
        let now = i64::try_from(vms_agent_tests::deadline::unix_nanoseconds()).unwrap();
        let ahead = i64::try_from(time).unwrap() - now;
        (ahead + DAY / 2).div_euclid(DAY)
    };
    let mut set_back: Vec<u64> =
        times.iter().map(|time| time.checked_add_signed(-day_of(*time) * DAY).unwrap()).collect();
    for days in [0, 1, -1] {
        let measured = times.iter().filter(|time| day_of(**time) == days).count();
        assert!(measured >= 5, "{measured} looks have the time of day {days:+}");
    }
    set_back.sort_unstable();
    assert_no_gap(&set_back, &METRONOME);
    assert_eq!(lost(&collector, "expired"), 0);
}
