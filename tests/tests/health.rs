//! How links fare, as the kernel tells of their connections, read back from a collector.
#![expect(
    clippy::expect_used,
    clippy::float_cmp,
    reason = "tests fail by panicking, and bytes are whole numbers"
)]

use std::time::Duration;

use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Collector, Link, Namespace, Number, Point, Points, Protocol, Scene, config, eventually,
    needs, probe,
};

const UP: &str = "vms.connection_mon.up";
const FORWARD: &[(&str, &str)] = &[("name", "link"), ("direction", "forward")];

/// The attributes of the link, and one more.
fn with<'a>(direction: &'a str, key: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![("name", "link"), ("direction", direction), (key, value)]
}

fn io(direction: &'static str, way: &'static str) -> Vec<(&'static str, &'static str)> {
    with(direction, "network.io.direction", way)
}

fn value(point: &Point) -> f64 {
    match point.value {
        Number::Int(value) => f64::from(i32::try_from(value).expect("a small number")),
        Number::Double(value) => value,
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

/// Waits for a point of the series measured at that time or later whose value is as wanted.
#[track_caller]
fn wait_for(
    collector: &Collector,
    metric: &str,
    attributes: &[(&str, &str)],
    since: u64,
    wanted: impl Fn(f64) -> bool,
) -> Point {
    eventually(&format!("{metric} {attributes:?}"), || {
        let later = collector.series(metric, attributes).into_iter().filter(|point| point.time >= since);
        later.into_iter().find(|point| wanted(value(point)))
    })
}

/// A link between two hosts, and an agent with a collector on each.
struct Watched {
    scene: Scene,
    near: Namespace,
    far: Namespace,
    link: Link,
}

impl Watched {
    #[track_caller]
    fn new() -> Self {
        let (near, far) = Namespace::pair();
        let scene = Scene::new();
        let program = scene.program("svc");
        let link = Link::new((&program, &near), (&program, &far));
        Self { scene, near, far, link }
    }

    fn agent<'a>(&'a self, host: &'a Namespace) -> AgentCommand<'a> {
        let probe = probe("link", &self.scene.name("svc"), self.link.service());
        AgentCommand::new(&self.scene, host).config(&config(&[probe]))
    }
}

#[test]
fn bytes_are_counted_to_the_byte_at_both_ends_and_go_on_when_the_connection_is_replaced() {
    needs!(Need::Agent);
    let mut watched = Watched::new();
    watched.link.client.send(watched.link.client_end, 5_000);
    watched.link.server.receive(watched.link.server_end, 5_000);
    let (near, far) =
        (Collector::start(&watched.near, Protocol::Grpc), Collector::start(&watched.far, Protocol::Grpc));
    let _near_agent = watched.agent(&watched.near).start();
    let _far_agent = watched.agent(&watched.far).start();
    near.wait_for_value("vms.connection_mon.io", &io("forward", "transmit"), 0, 0);
    far.wait_for_value("vms.connection_mon.io", &io("reverse", "receive"), 0, 0);

    let send = |link: &mut Link, bytes| {
        link.client.send(link.client_end, bytes);
        link.server.receive(link.server_end, bytes);
        link.server.send(link.server_end, 7);
        link.client.receive(link.client_end, 7);
    };
    send(&mut watched.link, 100_000);
    near.wait_for_value("vms.connection_mon.io", &io("forward", "transmit"), 100_000, 0);
    near.wait_for_value("vms.connection_mon.io", &io("forward", "receive"), 7, 0);
    far.wait_for_value("vms.connection_mon.io", &io("reverse", "receive"), 100_000, 0);
    far.wait_for_value("vms.connection_mon.io", &io("reverse", "transmit"), 7, 0);

    watched.link.close();
    let down = near.wait_for_value(UP, FORWARD, 0, 0);
    watched.link.reconnect();
    send(&mut watched.link, 2_000);
    near.wait_for_value(UP, FORWARD, 1, down.time);
    near.wait_for_value("vms.connection_mon.io", &io("forward", "transmit"), 102_000, down.time);
    near.wait_for_value("vms.connection_mon.reconnects", FORWARD, 1, down.time);
    for (metric, attributes) in [
        ("vms.connection_mon.io", io("forward", "transmit")),
        ("vms.connection_mon.io", io("forward", "receive")),
        ("vms.connection_mon.reconnects", FORWARD.to_vec()),
        ("vms.connection_mon.retransmits", FORWARD.to_vec()),
    ] {
        let series = near.series(metric, &attributes);
        let values: Vec<f64> = series.iter().map(value).collect();
        assert!(values.is_sorted(), "{metric} goes backwards: {values:?}");
        assert!(series.iter().all(|point| point.start == series[0].start), "{metric} begins anew");
    }
}

#[test]
fn a_connected_link_has_a_round_trip_time_an_age_and_nothing_that_waits() {
    needs!(Need::Agent);
    let mut watched = Watched::new();
    let collector = Collector::start(&watched.near, Protocol::Grpc);
    let _agent = watched.agent(&watched.near).start();
    let up = collector.wait_for_value(UP, FORWARD, 1, 0);
    for statistic in ["min", "mean", "max"] {
        let rtt = wait_for(
            &collector,
            "vms.connection_mon.rtt",
            &with("forward", "statistic", statistic),
            0,
            |_| true,
        );
        assert!(value(&rtt) > 0.0 && value(&rtt) < 1.0, "{rtt:?}");
    }
    wait_for(&collector, "vms.connection_mon.connection.age", FORWARD, 0, |age| age > 0.5);
    wait_for(&collector, "vms.connection_mon.last_data.age", FORWARD, 0, |age| age > 0.5);
    for metric in ["unacknowledged", "ack_wait"] {
        let points = collector.series(&format!("vms.connection_mon.{metric}"), FORWARD);
        assert!(!points.is_empty() && points.iter().all(|point| value(point) == 0.0), "{points:?}");
    }

    // What the process does not read waits in the kernel.
    let sent = unix_nanoseconds();
    watched.link.server.send(watched.link.server_end, 3_000);
    let queued = io("forward", "receive");
    let waiting =
        wait_for(&collector, "vms.connection_mon.queued", &queued, up.time, |bytes| bytes == 3_000.0);
    // However late it is looked at, these data are no older than that. Those before are by more than the slack.
    eventually("the data's age since they came", || {
        let ages = collector.series("vms.connection_mon.last_data.age", FORWARD);
        let mut ages = ages.into_iter().filter(|point| point.time >= waiting.time);
        ages.find(|point| value(point) <= seconds(point.time.saturating_sub(sent)) + 0.3)
    });
    watched.link.client.receive(watched.link.client_end, 3_000);
    wait_for(&collector, "vms.connection_mon.queued", &queued, waiting.time, |bytes| bytes == 0.0);
}

#[test]
fn a_half_open_link_is_told_by_an_acknowledgment_that_does_not_come() {
    needs!(Need::Agent, Need::PacketFilter);
    let mut watched = Watched::new();
    let collector = Collector::start(&watched.near, Protocol::Grpc);
    let _agent = watched.agent(&watched.near).start();
    let up = collector.wait_for_value(UP, FORWARD, 1, 0);

    // The peer's host is gone for this link: whatever it answers is lost.
    let port = watched.link.service().port();
    watched.far.drop_outgoing(&format!("tcp sport {port}"));
    watched.link.client.send(watched.link.client_end, 1_000);
    let owed =
        wait_for(&collector, "vms.connection_mon.unacknowledged", FORWARD, up.time, |bytes| bytes == 1_000.0);
    let waits = wait_for(&collector, "vms.connection_mon.ack_wait", FORWARD, owed.time, |wait| wait > 1.5);
    wait_for(&collector, "vms.connection_mon.retransmits", FORWARD, owed.time, |segments| segments >= 1.0);
    wait_for(&collector, "vms.connection_mon.last_ack.age", FORWARD, owed.time, |age| age > 1.5);
    let state = collector.series(UP, FORWARD).into_iter().filter(|point| point.time >= owed.time);
    assert!(state.into_iter().all(|point| point.value == Number::Int(1)), "the state alone does not tell");

    watched.far.drop_nothing();
    watched.link.server.receive(watched.link.server_end, 1_000);
    wait_for(&collector, "vms.connection_mon.ack_wait", FORWARD, waits.time, |wait| wait == 0.0);
    wait_for(&collector, "vms.connection_mon.unacknowledged", FORWARD, waits.time, |bytes| bytes == 0.0);
}

#[test]
fn without_link_health_there_is_no_more_than_whether_the_link_is_there() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let collector = Collector::start(&watched.near, Protocol::Grpc);
    let _agent = watched.agent(&watched.near).variable("VMS_LINK_HEALTH", "false").start();
    collector.wait_for_points(UP, FORWARD, 3, 0);
    let mut metrics: Vec<String> = collector
        .points()
        .into_iter()
        .map(|point| point.name)
        .filter(|name| name.starts_with("vms.connection_mon."))
        .collect();
    metrics.sort_unstable();
    metrics.dedup();
    let names = ["connections", "status", "unattributed", "up", "walk.age"];
    assert_eq!(metrics, names.map(|name| format!("vms.connection_mon.{name}")));
}

#[test]
fn a_steady_link_costs_no_walk_and_its_end_is_seen_in_the_next_cycle_all_the_same() {
    needs!(Need::Agent);
    let mut watched = Watched::new();
    let collector = Collector::start(&watched.near, Protocol::Grpc);
    let _agent = watched.agent(&watched.near).variable("VMS_CPU_BUDGET", "0%").start();
    let ages = collector.wait_for_points("vms.connection_mon.walk.age", FORWARD, 6, 0);
    assert!(ages.windows(2).all(|pair| value(&pair[0]) < value(&pair[1])), "no walk in between: {ages:?}");

    watched.link.close();
    let closed = unix_nanoseconds();
    let after = collector.wait_for_points(UP, FORWARD, 2, closed);
    assert_eq!(after[0].value, Number::Int(0), "{after:?}");
    // It was looked for, and once more before it was told.
    collector.wait_for_value("vms.agent.walks", &[("reason", "broken")], 2, closed);
    collector.wait_for_value("vms.agent.walks", &[("reason", "budget")], 0, 0);
    collector.wait_for_value("vms.agent.connections.tracked", &[], 0, closed);
}
