//! A link over time: `vms-agent run` while connections come and go.

use std::collections::BTreeSet;

use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    Agent, AgentCommand, Collector, Link, Namespace, Number, Point, Points, Protocol, Scene, config, needs,
    probe,
};

const UP: &str = "vms.connection_mon.up";
/// Nanoseconds that are surely less than the time between two looks, and surely more than a look takes.
const LOOK: u64 = 100_000_000;
const FORWARD: &[(&str, &str)] = &[("name", "link"), ("direction", "forward")];

/// An agent that watches a link that can be cut, and another one that stays: its points are the clock.
struct Watched {
    scene: Scene,
    host: Namespace,
    link: Link,
    _steady: Link,
    collector: Collector,
    agent: Agent,
}

impl Watched {
    #[track_caller]
    fn new() -> Self {
        let (scene, host) = (Scene::new(), Namespace::new());
        let (client, server) = (scene.program("svc"), scene.program("far"));
        let link = Link::new((&client, &host), (&server, &host));
        let steady = Link::new((&client, &host), (&server, &host));
        let collector = Collector::start(&host, Protocol::Grpc);
        let probes = [
            probe("link", &scene.name("svc"), link.service()),
            probe("steady", &scene.name("svc"), steady.service()),
        ];
        let agent = AgentCommand::new(&scene, &host).config(&config(&probes)).start();
        Self { scene, host, link, _steady: steady, collector, agent }
    }
}

fn times(points: &[Point]) -> BTreeSet<u64> {
    points.iter().map(|point| point.time).collect()
}

#[test]
fn a_link_that_drops_and_comes_back_is_one_series_without_a_gap() {
    needs!(Need::Agent);
    let mut watched = Watched::new();
    let first = watched.collector.wait_for_value(UP, FORWARD, 1, 0);

    watched.link.close();
    let closed = unix_nanoseconds();
    let down = watched.collector.wait_for_value(UP, FORWARD, 0, closed);
    watched.collector.wait_for_points(UP, FORWARD, 3, down.time);

    watched.link.reconnect();
    let connected = unix_nanoseconds();
    let up = watched.collector.wait_for_value(UP, FORWARD, 1, connected);
    watched.collector.wait_for_points(UP, FORWARD, 3, up.time);
    watched.agent.stop();

    let series = watched.collector.series(UP, FORWARD);
    let clock = watched.collector.series(UP, &[("name", "steady"), ("direction", "forward")]);
    assert_same_looks(&series, &clock, first.time);
    for point in &series {
        let lost = (down.time..up.time).contains(&point.time);
        assert_eq!(point.value, Number::Int(i64::from(!lost)), "{point:#?}");
    }

    let pairs = |state: &str| {
        watched.collector.series("vms.connection_mon.status", &[FORWARD[0], FORWARD[1], ("state", state)])
    };
    for (one, other) in [(&series, pairs("up")), (&inverse(&series), pairs("down"))] {
        let values = |points: &[Point]| {
            points.iter().map(|point| (point.time, point.value.as_int())).collect::<Vec<_>>()
        };
        assert_eq!(values(one), values(&other));
    }

    let reasons = watched.collector.series("vms.connection_mon.down_reason", FORWARD);
    assert!(!reasons.is_empty());
    for point in &reasons {
        assert!(point.is("vms.connection_mon.down_reason", &[("reason", "no_connection")]), "{point:#?}");
        assert!((down.time..up.time).contains(&point.time), "a reason only while down: {point:#?}");
    }
}

/// There is one point of each for every look. A look that finds a link down is made twice, so the times may differ.
#[track_caller]
fn assert_same_looks(one: &[Point], other: &[Point], since: u64) {
    let looks = |points: &[Point]| -> Vec<u64> {
        points.iter().map(|point| point.time).filter(|time| *time + LOOK >= since).collect()
    };
    let (one, other) = (looks(one), looks(other));
    assert_eq!(one.len(), other.len(), "{one:?} {other:?}");
    for (time, clock) in one.iter().zip(&other) {
        assert!(time.abs_diff(*clock) < LOOK, "{one:?} {other:?}");
    }
}

/// The same points with 1 for 0 and 0 for 1.
fn inverse(points: &[Point]) -> Vec<Point> {
    let one = |point: &Point| Point { value: Number::Int(1 - point.value.as_int()), ..point.clone() };
    points.iter().map(one).collect()
}

#[test]
fn each_change_of_a_link_is_logged_once_with_reason_and_owner() {
    needs!(Need::Agent);
    let mut watched = Watched::new();
    let owner = watched.link.client.pid().to_string();
    watched.collector.wait_for_value(UP, FORWARD, 1, 0);
    for _ in 0..2 {
        watched.link.close();
        let down = watched.collector.wait_for_value(UP, FORWARD, 0, unix_nanoseconds());
        watched.collector.wait_for_points(UP, FORWARD, 2, down.time + 1);
        watched.link.reconnect();
        let up = watched.collector.wait_for_value(UP, FORWARD, 1, unix_nanoseconds());
        watched.collector.wait_for_points(UP, FORWARD, 2, up.time + 1);
    }
    watched.agent.stop();
    let said = watched.agent.log_with(&["\"link\":\"link\"", "forward"]);
    let (down, up): (Vec<_>, Vec<_>) = said.iter().partition(|line| line.contains("no_connection"));
    assert_eq!((up.len(), down.len()), (3, 2), "{said:#?}");
    let name = watched.scene.name("svc");
    for line in &said {
        assert!(
            line.contains(&owner) && line.contains(&name),
            "the owner, of a lost link the last one: {line}"
        );
    }
    assert_eq!(
        watched.agent.log_with(&["\"link\":\"steady\""]).len(),
        1,
        "what does not change is not repeated"
    );
}

#[test]
fn before_it_ever_matched_a_link_has_one_series_without_a_direction() {
    needs!(Need::Agent);
    let mut watched = Watched::new();
    watched.collector.wait_for_value(UP, FORWARD, 1, 0);
    watched.agent.stop();
    watched.link.close();

    let since = unix_nanoseconds();
    let service = watched.link.listener.address;
    let probes = [probe("fresh", &watched.scene.name("svc"), service)];
    let mut agent = AgentCommand::new(&watched.scene, &watched.host).config(&config(&probes)).start();
    let fresh: &[_] = &[("name", "fresh")];
    let before = watched.collector.wait_for_points(UP, fresh, 2, since);
    for point in &before {
        assert_eq!((point.attribute("direction"), point.value), (None, Number::Int(0)), "{point:#?}");
    }
    watched.link.reconnect();
    let connected = unix_nanoseconds();
    let directed: &[_] = &[("name", "fresh"), ("direction", "forward")];
    let up = watched.collector.wait_for_value(UP, directed, 1, connected);
    watched.collector.wait_for_points(UP, directed, 2, up.time + 1);
    agent.stop();
    for point in watched.collector.series(UP, fresh).iter().filter(|point| point.time >= up.time) {
        assert_eq!(point.attribute("direction"), Some("\"forward\""), "{point:#?}");
    }
}

#[test]
fn churn_beside_a_steady_connection_never_looks_like_a_loss() {
    needs!(Need::Agent);
    let mut watched = Watched::new();
    let first = watched.collector.wait_for_value(UP, FORWARD, 1, 0);
    while watched.collector.series(UP, FORWARD).len() < 25 {
        let (client_end, server_end) = watched.link.connect_again();
        watched.link.client.close(client_end);
        watched.link.server.close(server_end);
    }
    watched.agent.stop();
    let series = watched.collector.series(UP, FORWARD);
    assert!(series.iter().all(|point| point.value == Number::Int(1)), "{series:#?}");
    let clock = watched.collector.series(UP, &[("name", "steady"), ("direction", "forward")]);
    assert_same_looks(&series, &clock, first.time);
}

#[test]
fn a_process_that_restarts_is_followed_to_its_new_pid() {
    needs!(Need::Agent);
    let mut watched = Watched::new();
    watched.collector.wait_for_value(UP, FORWARD, 1, 0);
    let client = watched.scene.program("svc").start(&watched.host);
    drop(std::mem::replace(&mut watched.link.client, client));
    watched.link.server.close(watched.link.server_end);
    watched.collector.wait_for_value(UP, FORWARD, 0, unix_nanoseconds());
    watched.link.reconnect();
    watched.collector.wait_for_value(UP, FORWARD, 1, unix_nanoseconds());
    watched.agent.wait_for_log(&["\"link\":\"link\"", "forward", &watched.link.client.pid().to_string()]);
    watched.agent.stop();
}

#[test]
fn a_probe_with_its_own_interval_keeps_its_own_time() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let program = scene.program("svc");
    let link = Link::new((&program, &host), (&program, &host));
    let collector = Collector::start(&host, Protocol::Grpc);
    let slow = vms_agent_tests::probe_with(
        "slow",
        &scene.name("svc"),
        link.service(),
        &serde_json::json!({"interval": "1s"}),
    );
    let fast = probe("fast", &scene.name("svc"), link.service());
    let mut agent = AgentCommand::new(&scene, &host).config(&config(&[slow, fast])).start();
    let slow: &[_] = &[("name", "slow"), ("direction", "forward")];
    let looks = times(&collector.wait_for_points(UP, slow, 3, 0));
    agent.stop();
    let (first, last) = (*looks.first().unwrap(), *looks.last().unwrap());
    let fast = collector.series(UP, &[("name", "fast"), ("direction", "forward")]);
    let between = times(&fast).into_iter().filter(|time| (first..last).contains(time)).count();
    assert!((8..=10).contains(&between), "five looks of the fast one for each of the slow one: {between}");
    assert!(looks.iter().all(|time| times(&fast).contains(time)), "due together, looked at together");
}

#[test]
fn matched_sources_are_series_of_their_own_that_stay() {
    needs!(Need::Agent);
    let (scene, (near, far)) = (Scene::new(), Namespace::pair());
    let program = scene.program("svc");
    let mut link = Link::new((&program, &near), (&program, &far));
    let (second, second_far) = link.connect_again();
    let collector = Collector::start(&far, Protocol::Grpc);
    let labelled = |name: &str, labels: &str| {
        let labels = serde_json::json!({"matchedSourceLabels": labels});
        vms_agent_tests::probe_with(name, &scene.name("svc"), link.service(), &labels)
    };
    let probes = [labelled("none", "none"), labelled("ip", "ip"), labelled("ip_port", "ip_port")];
    let mut agent = AgentCommand::new(&scene, &far).config(&config(&probes)).start();
    let ip = near.ipv4().to_string();
    let [first_port, second_port] = [link.client_end, second].map(|end| end.local.port().to_string());
    let connections = "vms.connection_mon.connections";
    let by_ip: &[_] = &[("name", "ip"), ("direction", "reverse"), ("source_ip", &ip)];
    let by_first: &[_] = &[("name", "ip_port"), ("source_ip", &ip), ("source_port", &first_port)];
    let by_second: &[_] = &[("name", "ip_port"), ("source_ip", &ip), ("source_port", &second_port)];
    collector.wait_for_value(connections, by_ip, 2, 0);
    collector.wait_for_value(connections, by_first, 1, 0);
    collector.wait_for_value(connections, by_second, 1, 0);

    link.client.close(second);
    link.server.close(second_far);
    let closed = unix_nanoseconds();
    collector.wait_for_value(connections, by_ip, 1, closed);
    collector.wait_for_value(connections, by_second, 0, closed);
    collector.wait_for_value(UP, by_second, 0, closed);
    agent.stop();
    let plain = collector.series(connections, &[("name", "none")]);
    assert!(plain.iter().all(|point| point.attribute("source_ip").is_none()), "{plain:#?}");
    let ip_alone = collector.series(connections, &[("name", "ip")]);
    assert!(ip_alone.iter().all(|point| point.attribute("source_port").is_none()), "{ip_alone:#?}");
    let kept = collector.series(UP, by_first);
    assert!(
        kept.iter().all(|point| point.value == Number::Int(1)),
        "the other source is as before: {kept:#?}"
    );
}
