//! Probes that one look answers, beside links.

use super::*;
use crate::address::Endpoint;
use crate::connection::TcpStates;
use crate::discovery::{DiscoveryProbe, Map};
use crate::look::MAX_CANDIDATES;
use crate::metric::Metric;
use crate::observer::{Bounds, Finding, Status};
use crate::presence::PresenceProbe;
use crate::process::{Pid, ProcessUsage};
use crate::socket::{EndClause, Families, PortRange, Socket, SocketClause, Transport};
use crate::test_host::socket;
use crate::watch::WatchProbe;

pub(super) fn watch(name: &str, port: u16, process: Option<&str>, bounds: (u64, Option<u64>)) -> WatchProbe {
    WatchProbe {
        name: name.into(),
        process: process.map(|name| ProcessPattern { name: name.parse().unwrap(), executable: None }),
        clause: SocketClause {
            transport: Transport::Tcp,
            families: Families::BOTH,
            states: TcpStates::of(&[TcpState::Established]),
            local: EndClause { ports: vec![PortRange::port(port)], ..EndClause::default() },
            remote: EndClause::default(),
        },
        local_names: Vec::new(),
        remote_names: Vec::new(),
        bounds: Bounds { least: bounds.0, most: bounds.1 },
        by_family: false,
        interval: Duration::from_secs(1),
        labels: vec![("proto", "tcp".into())],
    }
}

/// A probe of how many processes are called `app`, and of what they use.
fn presence(bounds: (u64, Option<u64>), resources: bool) -> Probe {
    Probe::Presence(Arc::new(PresenceProbe {
        name: "runs".into(),
        process: ProcessPattern { name: "app".parse().unwrap(), executable: None },
        bounds: Bounds { least: bounds.0, most: bounds.1 },
        resources,
        interval: Duration::from_secs(1),
    }))
}

pub(super) fn host(sockets: &[(u16, u64)]) -> Host {
    let mut host = Host::default();
    host.sockets = sockets.iter().map(|(port, inode)| socket(*port, *inode, Families::IPV4)).collect();
    host
}

fn observing(host: &Host, probes: Vec<Probe>) -> Monitor<Host, Host, Manual> {
    Monitor::new(host.clone(), host.clone(), Manual::default(), probes, Terms::default()).unwrap()
}

pub(super) fn one(host: &Host, probe: WatchProbe) -> Monitor<Host, Host, Manual> {
    observing(host, vec![Probe::Watch(Arc::new(probe))])
}

/// The values of the points of that metric.
pub(super) fn values_of(told: &Told, metric: &Metric) -> Vec<i64> {
    let points = told.points.iter().filter(|point| point.metric.name == metric.name);
    points.map(|point| if let Value::Int(value) = point.value { value } else { unreachable!() }).collect()
}

#[test]
fn what_is_counted_is_down_below_the_least_and_a_warning_above_the_most() {
    for (count, up, status) in
        [(0, 0, [0, 1, 0]), (1, 0, [0, 1, 0]), (2, 1, [1, 0, 0]), (3, 1, [1, 0, 0]), (4, 1, [0, 0, 1])]
    {
        let sockets: Vec<(u16, u64)> = (0..count).map(|inode| (80, inode + 1)).chain([(81, 99)]).collect();
        let mut monitor = one(&host(&sockets), watch("a", 80, None, (2, Some(3))));
        let told = monitor.tell(&[0]);
        assert_eq!(values_of(&told, &metric::WATCH_COUNT), [i64::try_from(count).unwrap()]);
        assert_eq!(values_of(&told, &metric::WATCH_UP), [up]);
        assert_eq!(values_of(&told, &metric::WATCH_STATUS), status);
        assert!(values_of(&told, &metric::WATCH_UNATTRIBUTED).is_empty(), "nobody asked who holds them");
        assert_eq!(told.standings.len(), 1, "the first answer is told");
        assert_eq!(monitor.tell(&[0]).standings, []);
    }
}

#[test]
fn a_watch_that_seems_to_have_gone_down_is_looked_at_again_in_the_same_cycle() {
    let mut monitor = one(&host(&[(80, 1)]), watch("a", 80, None, (1, None)));
    assert_eq!(values_of(&monitor.tell(&[0]), &metric::WATCH_UP), [1]);
    assert_eq!(monitor.effort().walks, [(WalkReason::Count, 1)].into());
    monitor.connections.sockets.clear();
    let told = monitor.tell(&[0]);
    assert_eq!(values_of(&told, &metric::WATCH_UP), [0]);
    assert_eq!(told.standings[0].standing.status, Status::Down);
    assert_eq!(monitor.effort().walks, [(WalkReason::Count, 3)].into());
    monitor.tell(&[0]);
    assert_eq!(monitor.effort().walks, [(WalkReason::Count, 4)].into(), "down already: one look is enough");
}

#[test]
fn with_a_process_only_sockets_count_that_it_holds_and_what_cannot_be_known_is_told() {
    let mut host = host(&[(80, 1), (80, 2), (80, 3)]);
    host.run("web", Access::Open, &[1]);
    host.run("other", Access::Open, &[2]);
    let mut monitor = one(&host, watch("a", 80, Some("web"), (1, None)));
    let told = monitor.tell(&[0]);
    assert_eq!(
        (values_of(&told, &metric::WATCH_COUNT), values_of(&told, &metric::WATCH_UNATTRIBUTED)),
        (vec![1], vec![0])
    );
    host.run("web", Access::Denied, &[3]);
    let mut monitor = one(&host, watch("a", 80, Some("web"), (2, None)));
    let told = monitor.tell(&[0]);
    assert_eq!(
        (values_of(&told, &metric::WATCH_UP), values_of(&told, &metric::WATCH_UNATTRIBUTED)),
        (vec![0], vec![2])
    );
    // What another holds, it may hold as well.
    assert_eq!(values_of(&told, &metric::PERMISSION_MISSING), [1]);
    assert_eq!(monitor.outcomes().permission_missing, 1);
}

#[test]
fn a_look_that_fails_leaves_no_point_and_no_memory() {
    let mut monitor = one(&host(&[(80, 1)]), watch("a", 80, None, (1, None)));
    monitor.tell(&[0]);
    monitor.connections.break_dumps(1);
    let told = monitor.tell(&[0]);
    assert!(told.points.is_empty() && told.standings.is_empty());
    assert_eq!(told.failure().unwrap().probes, ["a".into()]);
    assert_eq!(monitor.outcomes().failed, 1);
}

#[test]
fn a_search_that_is_cut_short_counts_nothing() {
    let mut host = host(&[(80, 1), (80, 2)]);
    host.run("web", Access::Open, &[1]);
    host.run("web", Access::Open, &[2]);
    host.patience = Some(1);
    let told = one(&host, watch("a", 80, Some("web"), (1, None))).tell(&[0]);
    assert!(told.points.is_empty(), "one is known, and of the other nothing");
    assert!(matches!(told.failure().unwrap().error, LookError::CutShort));
}

#[test]
fn sockets_whose_holders_would_be_too_many_fail_the_probe_that_asks_and_no_other() {
    let many = u64::try_from(MAX_CANDIDATES).unwrap() + 1;
    let mut host = host(&(1..=many).map(|inode| (80, inode)).chain([(81, many + 1)]).collect::<Vec<_>>());
    host.run("web", Access::Open, &[many + 1]);
    let probes = [watch("crowd", 80, Some("web"), (1, None)), watch("few", 81, Some("web"), (1, None))];
    let told = observing(&host, probes.map(|probe| Probe::Watch(Arc::new(probe))).into()).tell(&[0, 1]);
    assert_eq!(values_of(&told, &metric::WATCH_COUNT), [1]);
    let failure = told.failure().unwrap();
    assert!(matches!(failure.error, LookError::Crowded));
    assert_eq!(failure.probes, ["crowd".into()]);
}

#[test]
fn a_socket_that_several_probes_ask_about_is_asked_about_once_and_who_asks_for_few_is_answered() {
    let half = u64::try_from(MAX_CANDIDATES).unwrap() / 2;
    let mut host = host(&(1..=half + 2).map(|inode| (80, inode)).chain([(81, half + 3)]).collect::<Vec<_>>());
    host.sockets.extend((0..=half).map(|inode| socket(82, 100_000 + inode, Families::IPV4)));
    host.run("web", Access::Open, &[1, half + 3, 100_000]);
    let asking = |name, port| Probe::Watch(Arc::new(watch(name, port, Some("web"), (1, None))));
    // Two ask for half of what there is room for, the same, and one for as many others.
    let probes = vec![asking("a", 80), asking("few", 81), asking("b", 80), asking("other", 82)];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
        let probes = order.map(|place| probes[place].clone());
        let told = observing(&host, probes.into()).tell(&[0, 1, 2, 3]);
        assert_eq!(values_of(&told, &metric::WATCH_COUNT), [1, 1]);
        let mut failed = told.failure().unwrap().probes.clone();
        failed.sort();
        assert_eq!(failed, ["a".into(), "b".into()], "who asks for most");
    }
    host.sockets.retain(|socket| socket.connection.local.port() != 82);
    let told = observing(&host, probes).tell(&[0, 1, 2]);
    assert_eq!(values_of(&told, &metric::WATCH_COUNT), [1, 1, 1]);
}

#[test]
fn what_serves_both_versions_of_ip_is_counted_in_both() {
    let mut host = host(&[(80, 1)]);
    host.sockets.push(socket(80, 2, Families::BOTH));
    let probe = WatchProbe { by_family: true, ..watch("a", 80, None, (2, None)) };
    let told = one(&host, probe).tell(&[0]);
    assert_eq!(values_of(&told, &metric::WATCH_COUNT), [2, 1]);
    assert_eq!(values_of(&told, &metric::WATCH_UP), [1]);
}

#[test]
fn who_lives_elsewhere_has_sockets_that_the_agent_does_not_see() {
    let mut host = host(&[(80, 1)]);
    host.run("web", Access::Open, &[]);
    host.is_displaced = true;
    host.elsewhere.insert(0);
    let told = one(&host, watch("a", 80, Some("web"), (1, None))).tell(&[0]);
    assert!(told.points.is_empty(), "never 0");
    assert!(matches!(told.failure().unwrap().error, LookError::OutOfSight));
    // That no socket fits says no more.
    let other = watch("a", 81, Some("web"), (1, None));
    let told = one(&host, other).tell(&[0]);
    assert!(matches!(told.failure().unwrap().error, LookError::OutOfSight));
    // Nor is what is discovered all that there is.
    let told = discovering(&host, &["*"], 10).tell(&[0]);
    assert!(told.points.is_empty() && matches!(told.failure().unwrap().error, LookError::OutOfSight));
    // Without a process the sockets of the agent's own namespace are what is asked for.
    let told = one(&host, watch("a", 80, None, (1, None))).tell(&[0]);
    assert_eq!(values_of(&told, &metric::WATCH_COUNT), [1]);
}

#[test]
fn one_look_serves_every_kind_of_probe() {
    let mut host = host(&[(80, 1)]);
    host.run("app", Access::Open, &[7]);
    host.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, 7);
    let probes = vec![
        Probe::Watch(Arc::new(watch("web", 80, None, (1, None)))),
        probe("link", 5432, 1).into(),
        presence((1, None), false),
    ];
    let mut monitor = observing(&host, probes.clone());
    let told = monitor.tell(&[0, 1, 2]);
    assert_eq!(values_of(&told, &metric::WATCH_UP), [1]);
    assert_eq!(values_of(&told, &metric::UP), [1]);
    assert_eq!(values_of(&told, &metric::PROCESS_COUNT), [1]);
    assert_eq!(monitor.connections.dumps, 1);
    assert_eq!(monitor.effort().walks, [(WalkReason::New, 1)].into());
    // Each is known by its place in the configuration.
    assert_eq!(values_of(&monitor.tell(&[2]), &metric::PROCESS_COUNT), [1]);
    assert_eq!(values_of(&monitor.tell(&[1]), &metric::UP), [1]);
    assert!(values_of(&monitor.tell(&[0]), &metric::UP).is_empty());
    // What is the same after a reload goes on.
    monitor.replace_probes(probes.into_iter().rev()).unwrap();
    let told = monitor.tell(&[0, 1, 2]);
    assert_eq!(told.standings, []);
    assert!(told.changes.is_empty());
}

fn tcp(local: (&str, u16), remote: (&str, u16), state: TcpState, families: Families, inode: u64) -> Socket {
    let [local, remote] = [local, remote].map(|(ip, port)| Endpoint::new(ip.parse().unwrap(), port));
    let connection = Connection { local, remote, state, ..socket(1, inode, families).connection };
    Socket { transport: Transport::Tcp, families, connection }
}

/// A host with a service on every address, one on loopback alone, and a client of another host's.
fn town() -> Host {
    let mut host = Host::default();
    let nobody = ("0.0.0.0", 0);
    host.sockets = vec![
        tcp(("::", 443), ("::", 0), TcpState::Listen, Families::BOTH, 1),
        tcp(("127.0.0.1", 60_000), nobody, TcpState::Listen, Families::IPV4, 2),
        tcp(("10.0.0.1", 443), ("10.0.0.7", 1024), TcpState::Established, Families::IPV4, 3),
        tcp(("10.0.0.1", 443), ("10.0.0.8", 1024), TcpState::Established, Families::IPV4, 4),
        tcp(("127.0.0.1", 60_000), ("127.0.0.1", 80), TcpState::Established, Families::IPV4, 5),
        tcp(("127.0.0.1", 80), ("127.0.0.1", 60_000), TcpState::Established, Families::IPV4, 6),
        // A port on which one listens on another address alone.
        tcp(("10.0.0.1", 60_000), ("10.0.0.9", 5432), TcpState::Established, Families::IPV4, 7),
    ];
    host.run("web", Access::Open, &[1, 3, 4]);
    host.run("cache", Access::Open, &[2, 5]);
    host.run("app", Access::Open, &[6, 7]);
    host
}

fn discovering(host: &Host, globs: &[&str], most: usize) -> Monitor<Host, Host, Manual> {
    let probe = DiscoveryProbe {
        name: "all".into(),
        processes: globs
            .iter()
            .map(|glob| ProcessPattern { name: glob.parse().unwrap(), executable: None })
            .collect(),
        most,
        interval: Duration::from_secs(1),
    };
    observing(host, vec![Probe::Discovery(Arc::new(probe))])
}

fn map(monitor: &mut Monitor<Host, Host, Manual>) -> Map {
    match monitor.check().unwrap().others.remove(0).1.unwrap() {
        Finding::Map(map) => map,
        Finding::Standing(_) => unreachable!("it is no count"),
    }
}

#[test]
fn who_listens_is_the_service_whatever_the_ports_are() {
    let map = map(&mut discovering(&town(), &["*"], 100));
    let listeners: Vec<(String, String)> = map
        .listeners
        .keys()
        .map(|listener| (listener.process.to_string(), listener.at.to_string()))
        .collect();
    assert_eq!(
        listeners,
        [("cache".to_owned(), "127.0.0.1:60000".to_owned()), ("web".to_owned(), "[::]:443".to_owned())]
    );
    let edges: Vec<(String, Direction, String, u64)> = map
        .edges
        .iter()
        .map(|(edge, count)| (edge.process.to_string(), edge.direction, edge.service.to_string(), *count))
        .collect();
    let expected = [
        ("app", Direction::Forward, "10.0.0.9:5432", 1),
        ("app", Direction::Forward, "127.0.0.1:60000", 1),
        ("cache", Direction::Reverse, "127.0.0.1:60000", 1),
        ("web", Direction::Reverse, "10.0.0.1:443", 2),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(process, direction, service, count)| {
            (process.to_owned(), direction, service.to_owned(), count)
        })
        .collect();
    assert_eq!(edges, expected);
}

#[test]
fn only_processes_that_fit_are_discovered_and_what_may_not_be_known_is_told() {
    let mut host = town();
    let found = map(&mut discovering(&host, &["web", "nobody"], 100));
    assert_eq!((found.listeners.len(), found.edges.len(), found.unattributed), (1, 1, 0));
    host.process_mut(0).access = Access::Denied;
    let mut monitor = discovering(&host, &["web"], 100);
    let told = monitor.tell(&[0]);
    assert_eq!(values_of(&told, &metric::DISCOVERY_UNATTRIBUTED), [7], "it may hold any");
    assert_eq!(values_of(&told, &metric::PERMISSION_MISSING), [1]);
    assert_eq!(monitor.outcomes().permission_missing, 1);
}

#[test]
fn totals_are_of_everything_and_series_of_as_much_as_there_is_room_for() {
    let host = town();
    for (most, listeners, edges, omitted) in
        [(100, 2, 4, 0), (6, 2, 4, 0), (4, 2, 2, 2), (1, 1, 0, 5), (0, 0, 0, 6)]
    {
        let mut monitor = discovering(&host, &["*"], most);
        let told = monitor.tell(&[0]);
        assert_eq!(values_of(&told, &metric::DISCOVERY_LISTENING).len(), listeners);
        assert_eq!(values_of(&told, &metric::DISCOVERY_CONNECTIONS).len(), edges);
        assert_eq!(values_of(&told, &metric::DISCOVERY_OMITTED), [omitted]);
        let totals = [&metric::DISCOVERY_ENDPOINTS, &metric::DISCOVERY_EDGES, &metric::DISCOVERY_ESTABLISHED];
        assert_eq!(totals.map(|metric| values_of(&told, metric)), [[2], [4], [5]]);
    }
}

#[test]
fn an_edge_that_has_a_series_keeps_it_while_others_come() {
    let host = town();
    let mut monitor = discovering(&host, &["*"], 3);
    let edge = |told: &Told| {
        let points =
            told.points.iter().filter(|point| point.metric.name == metric::DISCOVERY_CONNECTIONS.name);
        points.map(|point| Arc::clone(&point.attributes)).collect::<Vec<_>>()
    };
    let before = edge(&monitor.tell(&[0]));
    assert_eq!(before.len(), 1, "that of most connections");
    for inode in [5, 5, 5] {
        let another =
            tcp(("127.0.0.1", 60_000), ("127.0.0.1", 81), TcpState::Established, Families::IPV4, inode);
        monitor.connections.sockets.push(another);
    }
    let after = edge(&monitor.tell(&[0]));
    assert!(Arc::ptr_eq(&before[0], &after[0]));
}

#[test]
fn what_the_kernel_does_not_tell_fails_those_who_count_and_no_link() {
    let mut host = host(&[(80, 1)]);
    host.run("app", Access::Open, &[7]);
    host.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, 7);
    host.untold = Transport::ALL.into();
    let probes =
        vec![Probe::Watch(Arc::new(watch("web", 80, None, (1, None)))), probe("link", 5432, 1).into()];
    let told = observing(&host, probes).tell(&[0, 1]);
    assert_eq!(values_of(&told, &metric::UP), [1]);
    assert!(values_of(&told, &metric::WATCH_UP).is_empty());
    let failure = told.failure().unwrap();
    assert_eq!(failure.probes, ["web".into()]);
    assert_eq!(failure.error.to_string(), "sockets could not be counted: refused");
    // Nor does it who asks for none.
    let web = Probe::Watch(Arc::new(watch("web", 80, None, (1, None))));
    let told = observing(&host, vec![web, presence((1, None), false)]).tell(&[0, 1]);
    assert_eq!(values_of(&told, &metric::PROCESS_COUNT), [1]);
    assert_eq!(told.failure().unwrap().new, ["web".into()]);
}

#[test]
fn a_kernel_that_knows_tcp_alone_fails_those_who_ask_for_udp_and_no_other() {
    let mut host = host(&[(80, 1)]);
    host.sockets.push(Socket { transport: Transport::Udp, ..socket(53, 2, Families::IPV4) });
    host.run("app", Access::Open, &[1, 7]);
    host.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, 7);
    host.untold = [Transport::Udp].into();
    let mut udp = watch("dns", 53, None, (1, None));
    udp.clause.transport = Transport::Udp;
    let discovery = DiscoveryProbe {
        name: "all".into(),
        processes: vec![ProcessPattern { name: "*".parse().unwrap(), executable: None }],
        most: 10,
        interval: Duration::from_secs(1),
    };
    let probes = vec![
        Probe::Watch(Arc::new(udp)),
        Probe::Watch(Arc::new(watch("web", 80, Some("app"), (1, None)))),
        Probe::Discovery(Arc::new(discovery)),
        probe("link", 5432, 1).into(),
    ];
    let mut monitor = observing(&host, probes);
    let told = monitor.tell(&[0, 1, 2, 3]);
    assert_eq!(values_of(&told, &metric::WATCH_COUNT), [1]);
    assert_eq!(values_of(&told, &metric::DISCOVERY_EDGES), [1]);
    assert_eq!(values_of(&told, &metric::UP), [1]);
    assert_eq!(monitor.connections.dumps, 1, "nothing is asked for twice");
    assert_eq!(told.failure().unwrap().new, ["dns".into()]);
    assert!(matches!(told.failure().unwrap().error, LookError::Unsurveyed(_)));
    monitor.connections.untold.clear();
    assert_eq!(values_of(&monitor.tell(&[0]), &metric::WATCH_COUNT), [1]);
}

#[test]
fn each_reason_is_told_once_in_a_cycle_with_the_probes_that_it_keeps_from_being_measured() {
    let many = u64::try_from(MAX_CANDIDATES).unwrap() + 1;
    let mut host = host(&(1..=many).map(|inode| (80, inode)).collect::<Vec<_>>());
    host.run("web", Access::Open, &[1]);
    host.run("far", Access::Open, &[]);
    (host.is_displaced, host.elsewhere, host.untold) = (true, [1].into(), [Transport::Udp].into());
    let udp = |name| {
        let mut udp = watch(name, 53, None, (1, None));
        udp.clause.transport = Transport::Udp;
        Probe::Watch(Arc::new(udp))
    };
    let tcp = |name, port, process| Probe::Watch(Arc::new(watch(name, port, process, (1, None))));
    let probes = vec![
        udp("dns"),
        tcp("crowd", 80, Some("web")),
        tcp("count", 80, None),
        tcp("far", 81, Some("far")),
        udp("ntp"),
    ];
    let mut monitor = observing(&host, probes);
    let reasons = |told: &Told| -> Vec<(String, usize, usize)> {
        let reasons = told.failures.iter().map(|failure| {
            let names: Vec<&str> = failure.probes.iter().map(AsRef::as_ref).collect();
            (names.join(" "), failure.probes.len(), failure.new.len())
        });
        reasons.collect()
    };
    let told = monitor.tell(&[0, 1, 2, 3]);
    assert_eq!(reasons(&told), [("dns".into(), 1, 1), ("crowd".into(), 1, 1), ("far".into(), 1, 1)]);
    let [
        Failure { error: LookError::Unsurveyed(_), .. },
        Failure { error: LookError::Crowded, .. },
        Failure { error: LookError::OutOfSight, .. },
    ] = &told.failures[..]
    else {
        panic!("{:?}", told.failures)
    };
    let told = monitor.tell(&[0, 1, 2, 3, 4]);
    assert_eq!(reasons(&told), [("dns ntp".into(), 2, 1), ("crowd".into(), 1, 0), ("far".into(), 1, 0)]);
    assert_eq!((told.still_failing, monitor.outcomes().failed), (4, 7));
}

#[test]
fn a_probe_that_fails_is_told_to_fail_until_it_is_measured_and_no_longer() {
    let mut monitor = observing(
        &host(&[(80, 1)]),
        vec![Probe::Watch(Arc::new(watch("web", 80, None, (1, None)))), probe("link", 5432, 1).into()],
    );
    monitor.connections.untold = Transport::ALL.into();
    let told = monitor.tell(&[0, 1]);
    assert_eq!((told.new_failures(), told.still_failing), (vec!["web".into()], 1));
    let told = monitor.tell(&[1]);
    assert_eq!((told.new_failures().len(), told.still_failing), (0, 1), "it is not due");
    let told = monitor.tell(&[0]);
    assert_eq!((told.new_failures().len(), told.still_failing), (0, 1), "it was told");
    monitor.connections.untold.clear();
    assert_eq!(monitor.tell(&[0]).still_failing, 0);
}

/// What a process uses that has an id, started that many seconds after the host and has used so many of CPU time.
fn usage(pid: u32, started: u64, user: u64) -> ProcessUsage {
    ProcessUsage {
        pid: Pid(pid),
        started: Duration::from_secs(started),
        user: Duration::from_secs(user),
        system: Duration::from_millis(user * 250),
        resident_bytes: 4096,
        virtual_bytes: 1 << 20,
    }
}

/// The points of that metric: since when they count, their last attributes, and their values.
fn points_of(told: &Told, metric: &Metric) -> Vec<(Option<SystemTime>, &'static str, f64)> {
    let points = told.points.iter().filter(|point| point.metric.name == metric.name);
    let value = |value: &Value| match value {
        Value::Double(value) => *value,
        Value::Int(value) => f64::from(u32::try_from(*value).unwrap()),
        Value::Histogram(_) => unreachable!(),
    };
    points
        .map(|point| (point.start, point.extra.map_or("", |extra| extra.value), value(&point.value)))
        .collect()
}

const USED: [&Metric; 3] =
    [&metric::PROCESSES_CPU_TIME, &metric::PROCESSES_MEMORY_USAGE, &metric::PROCESSES_MEMORY_VIRTUAL];

#[test]
fn what_processes_use_is_told_since_the_first_look_and_goes_on_after_a_reload() {
    let mut host = Host::default();
    for _ in 0..2 {
        host.run("app", Access::Open, &[]);
    }
    host.run("other", Access::Open, &[]);
    host.usages = [(0, usage(10, 0, 100)), (1, usage(11, 0, 40)), (2, usage(12, 0, 7))].into();
    let mut monitor = observing(&host, vec![presence((1, None), true)]);
    let told = monitor.tell(&[0]);
    let start = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_001));
    assert_eq!(points_of(&told, USED[0]), [(start, "user", 0.0), (start, "system", 0.0)]);
    assert_eq!(points_of(&told, USED[1]), [(start, "", 8192.0)]);
    assert_eq!(points_of(&told, USED[2]), [(start, "", f64::from(2 << 20))]);
    // One has used more, and one has taken the place and the number of another.
    monitor.processes.usages.insert(0, usage(10, 0, 104));
    monitor.processes.usages.insert(1, usage(11, 1, 2));
    let told = monitor.tell(&[0]);
    assert_eq!(points_of(&told, USED[0]), [(start, "user", 6.0), (start, "system", 1.5)]);
    let Probe::Presence(slower) = presence((1, None), true) else { unreachable!() };
    let slower = PresenceProbe { interval: Duration::from_mins(1), ..slower.as_ref().clone() };
    monitor.replace_probes([Probe::Presence(Arc::new(slower))]).unwrap();
    monitor.processes.usages.insert(0, usage(10, 0, 108));
    let told = monitor.tell(&[0]);
    assert_eq!(points_of(&told, USED[0]), [(start, "user", 10.0), (start, "system", 2.5)]);
    // Another question begins anew.
    monitor.replace_probes([presence((2, None), true)]).unwrap();
    let told = monitor.tell(&[0]);
    let start = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_004));
    assert_eq!(points_of(&told, USED[0]), [(start, "user", 0.0), (start, "system", 0.0)]);
    monitor.processes = Host::default();
    let told = monitor.tell(&[0]);
    assert_eq!(points_of(&told, USED[0]), [(start, "user", 0.0), (start, "system", 0.0)]);
    assert_eq!(points_of(&told, USED[1]), [(start, "", 0.0)], "none, and measured so");
}

#[test]
fn where_the_usage_of_one_process_cannot_be_read_none_is_told_and_they_are_counted_all_the_same() {
    let mut host = Host::default();
    host.run("app", Access::Open, &[]);
    host.run("app", Access::Open, &[]);
    host.usages = [(0, usage(10, 0, 100)), (1, usage(11, 0, 100))].into();
    let mut monitor = observing(&host, vec![presence((1, None), true)]);
    assert_eq!(points_of(&monitor.tell(&[0]), USED[0]).len(), 2);
    monitor.processes.usages = [(0, usage(10, 0, 105))].into();
    let told = monitor.tell(&[0]);
    assert_eq!(values_of(&told, &metric::PROCESS_COUNT), [2]);
    assert!(USED.iter().all(|metric| points_of(&told, metric).is_empty()));
    monitor.processes.usages = [(0, usage(10, 0, 106)), (1, usage(11, 0, 101))].into();
    let told = monitor.tell(&[0]);
    assert!(points_of(&told, USED[0])[0].2 > 6.9, "the gap is filled");
}

#[test]
fn a_probe_that_does_not_ask_what_processes_use_is_told_nothing_of_it() {
    let mut host = Host::default();
    host.run("app", Access::Open, &[]);
    host.usages = [(0, usage(10, 0, 100))].into();
    let told = observing(&host, vec![presence((1, None), false)]).tell(&[0]);
    assert_eq!(values_of(&told, &metric::PROCESS_COUNT), [1]);
    assert!(USED.iter().all(|metric| points_of(&told, metric).is_empty()));
}

#[test]
fn a_capability_is_missing_while_processes_are_that_without_it_might_be_there_and_not_while_there_are_enough()
{
    let mut host = Host::default();
    host.run("stranger", Access::NoExecutable, &[]);
    let mut monitor = observing(&host, vec![presence((1, Some(1)), false)]);
    let told = monitor.tell(&[0]);
    assert_eq!(values_of(&told, &metric::PROCESS_POSSIBLE), [1]);
    assert_eq!(values_of(&told, &metric::PERMISSION_MISSING), [1]);
    assert_eq!(told.standings[0].standing.missing, [Capability::SysPtrace].into());
    assert_eq!(told.permissions.len(), 1);
    // An ordinary host: other users run all kinds of things, and what is watched for is there.
    monitor.processes.run("app", Access::Open, &[]);
    let told = monitor.tell(&[0]);
    assert_eq!(values_of(&told, &metric::PROCESS_POSSIBLE), [1]);
    assert_eq!(values_of(&told, &metric::PERMISSION_MISSING), [0]);
    let told = observing(&monitor.processes, vec![presence((1, Some(1)), false)]).tell(&[0]);
    assert!(values_of(&told, &metric::PERMISSION_MISSING).is_empty() && told.permissions.is_empty());
    // Too few for certain, and nobody else who might fit.
    monitor.processes = Host::default();
    let told = monitor.tell(&[0]);
    assert_eq!((values_of(&told, &metric::PERMISSION_MISSING), told.standings.len()), (vec![0], 1));
}
