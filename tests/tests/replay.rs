//! What happens to a backlog: how it is replayed, what of it has to go, and what goes on meanwhile.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use vms_agent_tests::deadline::{eventually, now, unix_nanoseconds};
use vms_agent_tests::skip::Need;
use vms_agent_tests::spool::{EARLIER, disk_bytes, earlier_times, leave, records, until_now};
use vms_agent_tests::watched::{FORWARD, UP, Watched, assert_no_gap, lost, times};
use vms_agent_tests::{
    Arrival, Collector, Fate, Fault, Faulty, Metronome, Points, Protocol, Stored, Usage, link, needs,
};

static METRONOME: LazyLock<Metronome> = LazyLock::new(Metronome::start);

const SECOND: u64 = 1_000_000_000;

/// With how many requests replaying begins a second, before it gets faster.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

fn is_earlier(arrival: &Arrival) -> bool {
    arrival.points.iter().all(|point| point.is(UP, EARLIER))
}

/// The configuration of an agent that watches the link, with that `export`.
fn config(watched: &Watched, export: &Value) -> Value {
    let mut config = link::config(&[watched.probe("link")]);
    if let Some(config) = config.as_object_mut() {
        config.insert("export".to_owned(), export.clone());
    }
    config
}

#[test]
fn a_backlog_is_replayed_in_order_at_its_pace_while_live_data_wait_for_one_request_at_most() {
    /// What the collector takes for a request.
    const TAKES: Duration = Duration::from_millis(5);
    const LEAST_PAUSE: Duration = Duration::from_millis(10);
    /// From measuring to arriving: a look, one replayed request, and its own.
    const DELAY: Duration = Duration::from_millis(300);
    const BACKLOG: u64 = 300;

    needs!(Need::Agent);
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let stored = Stored::default();
    let collector = Faulty::start(&watched.host, Protocol::Grpc, Protocol::Grpc.address(), stored.keeper());
    collector.set(Fault::Down);
    let command = watched
        .spooling("onFailure")
        .variable("VMS_EXPORT__SPOOL__REPLAY_PAUSE", "10ms")
        .variable("VMS_EXPORT__BACKOFF__MAX", "1s");
    let spool = command.state_directory();
    let left = until_now(BACKLOG, Duration::from_secs(15));
    leave(&spool, left.iter().copied());
    let mut agent = command.start();
    agent.wait_for_log(&["INFO", "300 requests of an earlier run"]);
    eventually("some of this run's in the spool", || (records(&spool).len() > 302).then_some(()));
    collector.set(Fault::Slow(TAKES));
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    agent.stop();

    let arrivals = stored.arrivals();
    let replayed: Vec<&Arrival> = arrivals.iter().filter(|arrival| is_earlier(arrival)).collect();
    let order: Vec<u64> = replayed.iter().map(|arrival| arrival.points[0].time).collect();
    assert_eq!(order, left, "each once, oldest first, with the time at which it was measured");

    assert!(!is_earlier(&arrivals[0]), "what is new is tried first");
    let mut pause = FIRST_PAUSE;
    for pair in [&arrivals[0]].into_iter().chain(replayed.iter().copied()).collect::<Vec<_>>().windows(2) {
        let apart = pair[1].at - pair[0].at;
        assert!(apart >= pause.max(LEAST_PAUSE), "{apart:?} apart where {pause:?} are due");
        pause /= 2;
    }

    // What was measured before it took anything may have been spooled, and waits for its turn.
    let back = arrivals[0].unix;
    let own: Vec<u64> = stored.series(UP, FORWARD).iter().map(|point| point.time).collect();
    assert_eq!(own.iter().collect::<BTreeSet<_>>().len(), own.len(), "each once");
    assert_no_gap(&own, &METRONOME);
    for arrival in arrivals.iter().filter(|arrival| !is_earlier(arrival)) {
        let measured = arrival.points.iter().map(|point| point.time).min().expect("there are points");
        if measured < back {
            continue;
        }
        let delay = Duration::from_nanos(arrival.unix - measured);
        let stalled = METRONOME.stalled(u64::midpoint(arrival.unix, measured), delay);
        assert!(delay < DELAY + stalled, "arrived after {delay:?}, the machine stood still for {stalled:?}");
    }
}

#[test]
fn a_request_of_the_backlog_that_is_refused_is_counted_and_gone_and_holds_up_nothing() {
    needs!(Need::Agent);
    for (protocol, fault, reason) in [
        (Protocol::Grpc, Fault::Code(3, None), "INVALID_ARGUMENT"),
        (Protocol::Http, Fault::Status(400, None, None), "400"),
    ] {
        let watched = Watched::new();
        let (stored, refusals) = (Stored::default(), Stored::default());
        let (mut keep, mut refuse) = (stored.keeper(), refusals.keeper());
        let collector =
            Faulty::start(&watched.host, protocol, protocol.address(), move |fate, request| match fate {
                Fate::Stored => keep(Fate::Stored, request),
                Fate::Refused => refuse(Fate::Stored, request),
            });
        collector.set(Fault::Down);
        let left = until_now(12, Duration::from_secs(15));
        let bad = left[5];
        collector.set_for(move |points| points.iter().any(|point| point.time == bad), fault);
        let command = watched
            .spooling("onFailure")
            .variable("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", protocol.endpoint());
        let spool = command.state_directory();
        leave(&spool, left.iter().copied());
        let mut agent = command.start();
        agent.wait_for_log(&["WARN", "data is kept in"]);
        collector.set(Fault::Nothing);
        eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
        eventually("the loss to be counted", || (lost(&stored, reason) > 0).then_some(()));
        agent.stop();

        assert_eq!(lost(&stored, reason), 1, "{protocol:?}");
        let sent: Vec<u64> = refusals.points().iter().map(|point| point.time).collect();
        assert_eq!(sent, [bad], "{protocol:?}: it was sent once");
        let others: Vec<u64> = left.iter().copied().filter(|time| *time != bad).collect();
        assert_eq!(earlier_times(&stored), others, "{protocol:?}: the others arrived");
        assert!(!spool.join("set-aside").exists(), "{protocol:?}: nothing was damaged");
        assert_eq!(agent.log_with(&["WARN", "request refused"]).len(), 1, "{protocol:?}");
    }
}

#[test]
fn beyond_its_bytes_the_oldest_of_the_spool_go_and_the_rest_arrives() {
    const MAX_BYTES: u64 = 1 << 20;
    /// As many as fit, each a block.
    const BACKLOG: u64 = 256;

    needs!(Need::Agent);
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let command = watched
        .spooling("onFailure")
        .variable("VMS_EXPORT__SPOOL__MAX_BYTES", MAX_BYTES.to_string())
        .variable("VMS_EXPORT__SPOOL__REPLAY_PAUSE", "1ms")
        .variable("VMS_EXPORT__BACKOFF__MAX", "1s");
    let spool = command.state_directory();
    let left = until_now(BACKLOG, Duration::from_secs(15));
    leave(&spool, left.iter().copied());
    let mut agent = command.start();
    let oldest = records(&spool).remove(20);
    eventually("the oldest to make room", || {
        let bytes = disk_bytes(&spool);
        assert!(bytes <= MAX_BYTES, "{bytes} bytes");
        (!oldest.exists()).then_some(())
    });
    collector.resume(&watched.host);
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    agent.wait_for_log(&["WARN", "the spool is empty again", "for want of room"]);
    let arrived = earlier_times(&collector);
    let missing = left.len() - arrived.len();
    assert!(missing > 20, "{missing} are missing");
    assert_eq!(arrived, left[missing..], "the newest arrived, each once");
    let missing = i64::try_from(missing).expect("a small number");
    eventually("the loss to be counted", || (lost(&collector, "full") == missing).then_some(()));
    agent.stop();
    assert_eq!(agent.log_with(&["WARN", "the spool is full"]).len(), 1, "once");
    assert_no_gap(&times(&collector), &METRONOME);
}

#[test]
fn beyond_its_age_the_oldest_of_the_spool_go_and_the_rest_arrives() {
    const STEP: Duration = Duration::from_mins(12);

    needs!(Need::Agent);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let config = |age: &str| config(&watched, &json!({ "spool": { "maxAge": age, "replayPause": "1ms" } }));
    let command = watched.command().config(&config("24h"));
    let spool = command.state_directory();
    // Up to ten hours old.
    let left = until_now(50, STEP);
    leave(&spool, left.iter().copied());
    let mut agent = command.start();
    agent.wait_for_log(&["INFO", "50 requests of an earlier run"]);
    agent.wait_for_log(&["WARN", "data is kept in"]);
    assert!(records(&spool).len() >= 50, "none is too old");
    // What this run measures is too young for any limit that a test could wait for.
    let _written = watched.scene.write("config.json", &config("5h6m").to_string());
    agent.signal(Signal::HUP);
    agent.wait_for_log(&["WARN", "18360 s are being dropped"]);
    collector.resume(&watched.host);
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    agent.wait_for_log(&["WARN", "the spool is empty again", "25 for their age"]);
    assert_eq!(earlier_times(&collector), left[25..], "the newest arrived, each once");
    eventually("the loss to be counted", || (lost(&collector, "expired") == 25).then_some(()));
    agent.stop();
    assert_eq!(agent.log_with(&["WARN", "s are being dropped"]).len(), 1, "once");
    assert_eq!(lost(&collector, "full"), 0);
}

#[test]
fn reloads_during_an_outage_cost_nothing_of_the_backlog_and_leave_nothing_behind() {
    const SLACK: Usage = Usage { resident_kib: 4096, own_kib: 4096, threads: 2, descriptors: 2 };

    needs!(Need::Agent);
    LazyLock::force(&METRONOME);
    let watched = Watched::new();
    let mut collector = Collector::new(Protocol::Grpc);
    let config = |number: usize| {
        // Nobody listens at either; in the end somebody does at the first.
        let endpoint = ["http://localhost:4317", "http://127.0.0.1:4999"][number % 2];
        let timeout = ["1s", "2s", "3s"][number % 3];
        let pause = ["1ms", "2ms"][number % 2];
        config(
            &watched,
            &json!({ "endpoint": endpoint, "timeout": timeout, "spool": { "replayPause": pause } }),
        )
    };
    let command = watched.command().config(&config(0));
    let spool = command.state_directory();
    let left = until_now(50, Duration::from_secs(15));
    leave(&spool, left.iter().copied());
    let mut agent = command.start();
    agent.wait_for_log(&["WARN", "data is kept in"]);
    let reload = |number: usize| {
        let _written = watched.scene.write("config.json", &config(number).to_string());
        agent.signal(Signal::HUP);
        eventually("the reload", || {
            (agent.log_with(&["configuration reloaded"]).len() == number).then_some(())
        });
    };
    // The first ones fill what stays.
    (1..=4).for_each(&reload);
    let before = agent.usage();
    let began = now();
    (5..=34).for_each(&reload);
    let took = began.elapsed();
    assert!(records(&spool).len() > 50, "there is a backlog");
    eventually("memory, threads and descriptors as before", || {
        agent.usage().is_within(&before, &SLACK).then_some(())
    });
    assert!(took < Duration::from_secs(15), "{took:?}");
    collector.resume(&watched.host);
    eventually("the spool to be empty", || records(&spool).is_empty().then_some(()));
    collector.wait_for_points(UP, FORWARD, 2, unix_nanoseconds());
    agent.stop();
    assert_eq!(earlier_times(&collector), left, "each once");
    let own: Vec<u64> = collector.series(UP, FORWARD).iter().map(|point| point.time).collect();
    assert_eq!(own.iter().collect::<BTreeSet<_>>().len(), own.len(), "each once");
    assert_no_gap(&own, &METRONOME);
    let losses = collector.points().into_iter().filter(|point| point.attribute("error.type").is_some());
    assert_eq!(losses.count(), 0, "nothing is counted as lost");
    assert!(own.last().is_some_and(|last| last + 10 * SECOND > unix_nanoseconds()));
}
