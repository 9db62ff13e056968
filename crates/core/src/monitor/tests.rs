use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::address::Endpoint;
use crate::connection::TcpState;
use crate::health::Vitals;
use crate::link::UNLIMITED_AFTER;
use crate::look::{DownReason, MAX_CANDIDATES, MAX_NAMED_CANDIDATES};
use crate::metric::AttributeValue;
use crate::probe::MatchedSourceLabels;
use crate::process::ProcessPattern;
use crate::test_host::{Access, Host, Nat, Running};
use crate::translation::Translation;

mod names;
mod observers;

/// Time that passes when the test says so; walks take none of it, unless it says so.
#[derive(Debug, Default)]
struct Manual {
    now: Cell<Duration>,
    cpu: Rc<Cell<Duration>>,
}

impl Clock for Manual {
    fn monotonic(&self) -> Duration {
        self.now.get()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000) + self.now.get()
    }

    fn since_boot(&self) -> Duration {
        self.monotonic()
    }

    fn cpu(&self) -> Duration {
        self.cpu.get()
    }
}

/// A cycle and its points.
#[derive(Debug)]
struct Told {
    cycle: Cycle,
    points: Vec<DataPoint>,
}

impl Deref for Told {
    type Target = Cycle;

    fn deref(&self) -> &Cycle {
        &self.cycle
    }
}

impl Told {
    /// Why probes were not measured, where all of them were not for the same reason.
    fn failure(&self) -> Option<&Failure> {
        assert!(self.failures.len() <= 1, "{:?}", self.failures);
        self.failures.first()
    }

    /// Probes that were not measured, and were when they were last due.
    fn new_failures(&self) -> Vec<Arc<str>> {
        self.failures.iter().flat_map(|failure| failure.new.clone()).collect()
    }
}

impl Monitor<Host, Host, Manual> {
    /// Lets each dump take that much CPU time.
    fn dumps_cost(&mut self, cost: Duration) {
        self.connections.cost = Some((Rc::clone(&self.clock.cpu), cost));
    }

    /// One cycle, a second after the last.
    fn tell(&mut self, due: &[usize]) -> Told {
        self.clock.now.set(self.clock.now.get() + Duration::from_secs(1));
        let mut points = Vec::new();
        let cycle = self.measure(due, &mut |point| points.push(point));
        Told { cycle, points }
    }
}

fn probe(name: &str, port: u16, seconds: u64) -> ConnectionProbe {
    let pattern = ProcessPattern { name: "app".parse().unwrap(), executable: None };
    ConnectionProbe {
        name: name.into(),
        source_process: pattern.clone(),
        dest_process: pattern,
        dest_ip: "10.0.0.1".parse().unwrap(),
        dest_port: port,
        source_ip: None,
        source_port: None,
        interval: Duration::from_secs(seconds),
        matched_source_labels: MatchedSourceLabels::None,
    }
}

fn host() -> Host {
    let mut host = Host::default();
    host.run("app", Access::Open, &[7]);
    host.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, 7);
    host
}

/// A monitor that can afford a walk in every cycle.
fn monitor(host: &Host, probes: Vec<ConnectionProbe>) -> Monitor<Host, Host, Manual> {
    Monitor::new(host.clone(), host.clone(), Manual::default(), probes, Terms::default()).unwrap()
}

/// A monitor that walks only where it has to.
fn frugal(host: &Host, probes: Vec<ConnectionProbe>) -> Monitor<Host, Host, Manual> {
    let terms = Terms { cpu_budget: CpuShare::from_parts_per_million(0), ..Terms::default() };
    Monitor::new(host.clone(), host.clone(), Manual::default(), probes, terms).unwrap()
}

fn values(cycle: &Told, metric: &str) -> Vec<i64> {
    let of = cycle.points.iter().filter(|point| point.metric.name == metric);
    of.map(|point| match point.value {
        Value::Int(value) => value,
        _ => unreachable!("integer metrics only"),
    })
    .collect()
}

const UP: &str = "vms.connection_mon.up";
const PERMISSION: &str = "vms.agent.permission_missing";

#[test]
fn only_what_is_due_is_measured() {
    let host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1), probe("b", 5433, 5)]);
    let cycle = monitor.tell(&[1]);
    assert_eq!(values(&cycle, UP), [0]);
    let name = &cycle.points[0].attributes[0];
    assert_eq!((name.key, &name.value), ("name", &AttributeValue::from("b")));
    assert_eq!(values(&monitor.tell(&[0, 1]), UP), [1, 0]);
}

#[test]
fn a_measurement_that_failed_has_no_point_and_is_counted_and_loses_no_state() {
    let host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1)]);
    assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
    monitor.connections.break_dumps(1);
    monitor.connections.broken_lookups = 1;
    let cycle = monitor.tell(&[0]);
    assert_eq!((cycle.points.len(), cycle.changes.len()), (0, 0));
    assert_eq!(cycle.failure().unwrap().probes, ["a".into()]);
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![1], 0), "up before, up after: no change");
    assert_eq!(monitor.outcomes(), Outcomes { ok: 2, permission_missing: 0, failed: 1 });
}

#[test]
fn a_link_is_looked_for_twice_before_it_is_reported_down() {
    let mut host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1)]);
    monitor.tell(&[0]);

    let connection = host.disconnect_all();
    monitor.connections.disconnect_all();
    monitor.connections.late = connection;
    let before = monitor.connections.dumps;
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![1], 0), "the second look found it");
    assert_eq!(monitor.connections.dumps - before, 2);

    monitor.connections.disconnect_all();
    let cycle = monitor.tell(&[0]);
    assert_eq!(values(&cycle, UP), [0]);
    assert_eq!(cycle.changes[0].reason, Some(DownReason::NoConnection));
    let before = monitor.connections.dumps;
    monitor.tell(&[0]);
    assert_eq!(monitor.connections.dumps - before, 1, "down already: one look is enough");
}

#[test]
fn a_second_look_that_fails_leaves_no_point() {
    let host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1), probe("b", 1, 1)]);
    monitor.tell(&[0, 1]);
    monitor.connections.disconnect_all();
    monitor.processes.disconnect_all();
    monitor.verify(&[0, 1], Duration::from_secs(2)).unwrap();
    let both = Set { links: vec![0, 1], observers: Vec::new() };
    let allowance = Allowance::unlimited();
    let look = monitor.look(&both, false, &HashMap::new(), &allowance).unwrap();
    monitor.connections.break_dumps(1);
    let (mut cycle, mut reported, mut observed) = (Cycle::default(), Vec::new(), Vec::new());
    let mut taking =
        Taking { allowance: &allowance, cycle: &mut cycle, reported: &mut reported, observed: &mut observed };
    monitor.take_in(&both, look, SystemTime::UNIX_EPOCH, &mut taking);
    assert_eq!(cycle.failures.first().unwrap().probes, ["a".into()]);
    assert_eq!(reported, [(1, SystemTime::UNIX_EPOCH)], "b was down before");
}

#[test]
fn a_connection_that_is_replaced_under_the_first_look_of_all_is_not_reported_down() {
    let host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1), probe("b", 1, 1)]);
    let late = monitor.connections.disconnect_all();
    monitor.connections.late = late;
    let cycle = monitor.tell(&[0, 1]);
    assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![1, 0], 2), "the second look found it");
    assert_eq!(monitor.connections.dumps, 2);
}

#[test]
fn a_missing_permission_is_told_while_it_lasts_and_then_that_it_is_over() {
    let mut denied = Host::default();
    denied.run("app", Access::Denied, &[7]);
    denied.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, 7);
    let mut monitor = monitor(&denied, vec![probe("a", 5432, 1), probe("b", 9, 5)]);

    assert!(values(&monitor.tell(&[1]), PERMISSION).is_empty(), "nothing failed yet");
    let cycle = monitor.tell(&[0, 1]);
    assert_eq!(values(&cycle, PERMISSION), [1]);
    assert_eq!(cycle.permissions, [PermissionChange { capability: Capability::SysPtrace, missing: true }]);
    assert_eq!(values(&cycle, "vms.connection_mon.unattributed"), [1, 0]);
    let cycle = monitor.tell(&[1]);
    assert_eq!(values(&cycle, PERMISSION), [1], "another probe's turn does not clear it");
    assert_eq!(cycle.permissions, []);

    monitor.connections.break_dumps(1);
    let cycle = monitor.tell(&[0]);
    assert!(cycle.points.is_empty(), "a failed measurement says nothing of permissions either");

    monitor.processes.permit_all();
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, PERMISSION), values(&cycle, UP)), (vec![0], vec![1]));
    assert_eq!(cycle.permissions, [PermissionChange { capability: Capability::SysPtrace, missing: false }]);
    assert_eq!(monitor.outcomes().permission_missing, 1);
}

#[test]
fn a_reload_keeps_what_is_known_of_unchanged_probes_and_forgets_the_others() {
    let host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1), probe("b", 5432, 1)]);
    monitor.tell(&[0, 1]);
    monitor.connections.disconnect_all();
    monitor.replace_probes(vec![probe("b", 5433, 1), probe("c", 1, 1), probe("a", 5432, 9)]).unwrap();
    let cycle = monitor.tell(&[0, 1, 2]);
    let directed: Vec<bool> = cycle
        .points
        .iter()
        .filter(|point| point.metric.name == UP)
        .map(|point| point.attributes.iter().any(|attribute| attribute.key == "direction"))
        .collect();
    assert_eq!(directed, [false, false, true], "only a, with another interval, is the same link");
    let told: Vec<&str> = cycle.changes.iter().map(|change| change.probe.name.as_ref()).collect();
    assert_eq!(told, ["b", "c", "a"], "b and c are new; a went down");
}

#[test]
fn a_check_looks_twice_too() {
    let mut host = host();
    let late = host.disconnect_all();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1)]);
    monitor.connections.late = late;
    let found = monitor.check().unwrap().links;
    assert!(found[0].1.forward.is_up(), "the second look found it");
}

#[test]
fn a_link_whose_connections_are_replaced_between_dump_and_search_is_never_reported_down() {
    let host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1)]);
    monitor.tell(&[0]);
    // Each dump tells of another connection, which nobody holds any more by the time that holders are searched.
    let replaced = |inode: u64| {
        let mut next = Host::default();
        next.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, inode);
        next.disconnect_all()
    };
    monitor.connections.disconnect_all();
    monitor.connections.replacements = (100..200).map(replaced).collect();
    let cycle = monitor.tell(&[0]);
    assert!(values(&cycle, UP).is_empty(), "no answer is no 0");
    assert!(matches!(cycle.failure().unwrap().error, LookError::Unsettled));

    monitor.connections.replacements = vec![replaced(7), replaced(201)];
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![1], 0), "the second look saw who holds it");

    monitor.connections.replacements = vec![replaced(300), replaced(300)];
    let cycle = monitor.tell(&[0]);
    assert_eq!(cycle.changes[0].reason, Some(DownReason::HeldByOther), "the same connection, twice nobody's");
}

fn ages(cycle: &Told) -> Vec<f64> {
    let of = cycle.points.iter().filter(|point| point.metric == &metric::WALK_AGE);
    of.map(|point| if let Value::Double(value) = point.value { value } else { unreachable!("seconds") })
        .collect()
}

#[test]
fn a_link_that_can_be_verified_causes_no_walk_and_says_how_old_the_last_one_is() {
    let mut monitor = frugal(&host(), vec![probe("a", 5432, 1)]);
    assert_eq!(ages(&monitor.tell(&[0])), [0.0]);
    for second in 1_u32..50 {
        let cycle = monitor.tell(&[0]);
        assert_eq!((values(&cycle, UP), ages(&cycle)), (vec![1], vec![f64::from(second)]));
    }
    assert_eq!(monitor.connections.dumps, 1);
    for _ in 50..70 {
        monitor.tell(&[0]);
    }
    assert_eq!(monitor.connections.dumps, 2, "once a minute, whatever it costs");
    let walks = monitor.effort().walks;
    assert_eq!(walks, [(WalkReason::New, 1), (WalkReason::Bound, 1)].into());
}

#[test]
fn a_link_that_breaks_is_seen_in_the_very_next_cycle_without_any_budget() {
    let mut monitor = frugal(&host(), vec![probe("a", 5432, 1), probe("b", 1, 1)]);
    monitor.tell(&[0, 1]);
    monitor.tell(&[0, 1]);
    monitor.connections.disconnect_all();
    let cycle = monitor.tell(&[0, 1]);
    assert_eq!(values(&cycle, UP), [0, 0]);
    assert_eq!(cycle.changes[0].reason, Some(DownReason::NoConnection));
    assert_eq!(ages(&cycle), [0.0, 2.0], "only the link that broke was looked for");
    assert_eq!(monitor.effort().walks.get(&WalkReason::Broken), Some(&2), "it was looked for twice");
    let dumps = monitor.connections.dumps;
    assert_eq!(
        values(&monitor.tell(&[0, 1]), "vms.connection_mon.down_reason"),
        [1, 1],
        "it goes on saying why"
    );
    assert_eq!(monitor.connections.dumps, dumps, "nothing is left that could break");
}

#[test]
fn a_link_whose_holder_lets_go_is_seen_in_the_very_next_cycle() {
    let mut monitor = frugal(&host(), vec![probe("a", 5432, 1)]);
    monitor.tell(&[0]);
    monitor.processes = Host::default();
    let cycle = monitor.tell(&[0]);
    assert_eq!(values(&cycle, UP), [0]);
    assert_eq!(cycle.changes[0].reason, Some(DownReason::HeldByOther));
}

#[test]
fn a_link_that_is_down_is_looked_for_when_the_budget_allows_and_at_the_latest_after_the_bound() {
    let seconds_until_up = |parts_per_million, cost| {
        let terms =
            Terms { cpu_budget: CpuShare::from_parts_per_million(parts_per_million), ..Terms::default() };
        let empty = Host::default();
        let mut monitor =
            Monitor::new(empty.clone(), empty, Manual::default(), vec![probe("a", 5432, 1)], terms).unwrap();
        // What the first cycle costs is not paid for; what the second does is.
        monitor.tell(&[0]);
        monitor.dumps_cost(cost);
        monitor.tell(&[0]);
        (monitor.connections, monitor.processes) = (host(), host());
        (1..100).find(|_| values(&monitor.tell(&[0]), UP) == [1]).unwrap()
    };
    let millis = Duration::from_millis;
    assert_eq!(seconds_until_up(5_000, millis(1)), 1, "what a walk costs is earned in less than a cycle");
    assert_eq!(
        seconds_until_up(5_000, millis(50)),
        9,
        "50 ms are half a percent of 10 s, and a second was saved up"
    );
    assert_eq!(seconds_until_up(5_000, millis(5_000)), 60);
    assert_eq!(seconds_until_up(0, millis(1)), 59, "no second look was paid for");
}

#[test]
fn a_walk_that_fails_leaves_standing_what_is_verified() {
    let mut monitor = monitor(&host(), vec![probe("a", 5432, 1), probe("b", 1, 1)]);
    monitor.tell(&[0, 1]);
    monitor.connections.break_dumps(1);
    let cycle = monitor.tell(&[0, 1]);
    assert_eq!(
        (values(&cycle, UP), ages(&cycle)),
        (vec![1], vec![1.0]),
        "a is verified; b is not known to be down"
    );
    assert_eq!(cycle.failure().unwrap().probes, ["b".into()]);
}

#[test]
fn what_cannot_be_verified_is_looked_for() {
    let mut monitor = frugal(&host(), vec![probe("a", 5432, 1)]);
    monitor.tell(&[0]);
    monitor.connections.broken_lookups = 1;
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), ages(&cycle), cycle.changes.len()), (vec![1], vec![0.0], 0));
    assert!(matches!(cycle.unverified, Some(LookError::Connections(_))), "it is told why");
    monitor.connections.disconnect_all();
    monitor.connections.broken_lookups = 1;
    assert_eq!(values(&monitor.tell(&[0]), UP), [0], "what was known is not believed");
    assert_eq!(monitor.effort().walks.get(&WalkReason::Unverified), Some(&2));
}

#[test]
fn connections_that_end_are_counted_off_without_a_walk() {
    let mut host = host();
    host.run("app", Access::Open, &[8]);
    host.connect(("10.0.0.9", 40001), ("10.0.0.1", 5432), TcpState::Established, 8);
    let mut monitor = frugal(&host, vec![probe("a", 5432, 1)]);
    assert_eq!(values(&monitor.tell(&[0]), "vms.connection_mon.connections"), [2]);
    monitor.connections = self::host();
    assert_eq!(values(&monitor.tell(&[0]), "vms.connection_mon.connections"), [1]);
    assert_eq!(monitor.connections.dumps, 0);
}

#[test]
fn a_connection_that_another_process_takes_over_stays_the_same_connection() {
    let mut monitor = frugal(&host(), vec![probe("a", 5432, 1)]);
    monitor.tell(&[0]);
    let mut handed_on = Host::default();
    handed_on.run("app", Access::Open, &[]);
    handed_on.run("app", Access::Open, &[7]);
    monitor.processes = handed_on;
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![1], 0));
    assert_eq!(values(&cycle, "vms.connection_mon.reconnects"), [0]);
    assert_eq!(monitor.effort().tracked, 1);
    monitor.tell(&[0]);
    assert_eq!(monitor.effort().walks.get(&WalkReason::Broken), Some(&1), "the new owner is known now");
}

#[test]
fn a_reload_that_leaves_a_probe_alone_leaves_its_counters_and_what_it_tracks() {
    let host = host();
    let mut monitor = frugal(&host, vec![probe("a", 5432, 1)]);
    monitor.tell(&[0]);
    monitor.replace_probes(vec![probe("b", 1, 1), probe("a", 5432, 1)]).unwrap();
    let cycle = monitor.tell(&[1]);
    assert_eq!((values(&cycle, UP), ages(&cycle)), (vec![1], vec![1.0]));
}

fn transmitted(cycle: &Told) -> Vec<i64> {
    let of = cycle.points.iter().filter(|point| {
        point.metric == &metric::IO && point.extra.is_some_and(|extra| extra.value == "transmit")
    });
    of.map(|point| if let Value::Int(value) = point.value { value } else { unreachable!("bytes") }).collect()
}

fn carry(monitor: &mut Monitor<Host, Host, Manual>, sent_bytes: u64) {
    monitor.connections.vitals.insert(Cookie(7), Vitals { sent_bytes, ..Vitals::default() });
}

#[test]
fn a_connection_whose_holder_ceases_to_fit_and_fits_again_is_counted_once() {
    let mut monitor = monitor(&host(), vec![probe("a", 5432, 1)]);
    carry(&mut monitor, 1_000);
    assert_eq!(transmitted(&monitor.tell(&[0])), [0]);
    carry(&mut monitor, 5_000);
    assert_eq!(transmitted(&monitor.tell(&[0])), [4_000]);
    let rename = |monitor: &mut Monitor<Host, Host, Manual>, name: &str| {
        let holder = monitor.processes.process_mut(0);
        (holder.comm, holder.executable) = (name.to_owned(), name.to_owned());
    };
    rename(&mut monitor, "sh");
    assert_eq!(values(&monitor.tell(&[0]), UP), [0]);
    rename(&mut monitor, "app");
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), transmitted(&cycle)), (vec![1], vec![4_000]));
    assert_eq!(values(&cycle, "vms.connection_mon.reconnects"), [0]);
}

#[test]
fn what_a_connection_carried_before_it_could_be_attributed_is_not_the_link_s() {
    let mut denied = Host::default();
    denied.run("app", Access::Denied, &[7]);
    denied.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, 7);
    let mut monitor = monitor(&denied, vec![probe("a", 5432, 1)]);
    carry(&mut monitor, 1_000_000_000);
    monitor.tell(&[0]);
    monitor.tell(&[0]);
    monitor.processes.permit_all();
    assert_eq!(transmitted(&monitor.tell(&[0])), [0]);
}

#[test]
fn a_link_that_breaks_is_seen_in_the_next_cycle_however_many_connections_others_have() {
    let mut host = Host::default();
    let mut probes = vec![];
    for server in 0..17_u16 {
        let inodes: Vec<u64> = (0..1_024).map(|client| u64::from(server) * 10_000 + client + 1).collect();
        for (inode, port) in inodes.iter().zip(10_000..) {
            host.connect(("10.0.0.1", 5_000 + server), ("10.0.0.9", port), TcpState::Established, *inode);
        }
        host.run("app", Access::Open, &inodes);
        probes.push(probe(&format!("busy{server}"), 5_000 + server, 1));
    }
    host.run("app", Access::Open, &[1_000_000]);
    host.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, 1_000_000);
    probes.push(probe("one", 5432, 1));
    let due: Vec<usize> = (0..18).collect();
    let mut monitor = frugal(&host, probes);
    assert_eq!(values(&monitor.tell(&due), UP), [1; 18]);
    let effort = monitor.effort();
    assert!(effort.untracked.by_agent > 0 && effort.tracked <= 16_384 + 18, "{effort:?}");
    monitor.connections.close(17 * 1_024);
    assert_eq!(values(&monitor.tell(&due), UP).iter().sum::<i64>(), 17, "all but the one");
}

#[test]
fn that_a_probe_has_more_sources_than_series_is_counted_always_and_told_when_it_begins_and_when_it_is_over() {
    let mut host = Host::default();
    let mut probes: Vec<ConnectionProbe> = vec![];
    for (service, clients) in [(5_001_u16, 1_003_u64), (5_002, 1_002), (5_003, 1_000)] {
        let inodes: Vec<u64> = (0..clients).map(|client| u64::from(service) * 10_000 + client).collect();
        for (inode, port) in inodes.iter().zip(10_000..) {
            host.connect(("10.0.0.9", port), ("10.0.0.1", service), TcpState::Established, *inode);
        }
        host.run("app", Access::Open, &inodes);
        let labels = MatchedSourceLabels::IpPort;
        probes.push(ConnectionProbe {
            matched_source_labels: labels,
            ..probe(&format!("to-{service}"), service, 1)
        });
    }
    let mut monitor = monitor(&host, probes.clone());
    let limits = |cycle: &Told| -> Vec<(String, u64)> {
        let told = cycle.limits.iter();
        told.map(|change| (change.probe.name.to_string(), change.unreported)).collect()
    };
    let cycle = monitor.tell(&[0, 1, 2]);
    assert_eq!(limits(&cycle), [("to-5001".into(), 3), ("to-5002".into(), 2)]);
    assert_eq!(monitor.effort().unreported, 5);
    assert_eq!(limits(&monitor.tell(&[0, 1, 2])), [], "not in each cycle");
    monitor.replace_probes(probes.clone()).unwrap();
    assert_eq!((limits(&monitor.tell(&[0, 1, 2])), monitor.effort().unreported), (vec![], 5));

    for host in [&mut monitor.connections, &mut monitor.processes] {
        (0..3).for_each(|_| host.close(0));
    }
    // Those that ended are told down, and make room.
    assert!((0..2).all(|_| limits(&monitor.tell(&[0, 1, 2])).is_empty()));
    assert_eq!(monitor.effort().unreported, 2);
    monitor.clock.now.set(monitor.clock.now.get() + UNLIMITED_AFTER);
    assert_eq!(limits(&monitor.tell(&[0, 1, 2])), [("to-5001".into(), 0)]);
    assert_eq!(limits(&monitor.tell(&[0, 1, 2])), []);

    monitor.replace_probes(probes.drain(2..)).unwrap();
    assert_eq!(monitor.effort().unreported, 0, "what is no longer asked lacks nothing");
}

#[test]
fn links_that_broke_one_after_another_are_walked_for_together_afterwards() {
    let mut host = Host::default();
    let mut probes = Vec::new();
    for link in 1..=30_u16 {
        probes.push(probe(&format!("link{link}"), 5_000 + link, 1));
        host.run("app", Access::Open, &[link.into()]);
        host.connect(("10.0.0.9", 40_000), ("10.0.0.1", 5_000 + link), TcpState::Established, link.into());
    }
    let due: Vec<usize> = (0..30).collect();
    let mut monitor = frugal(&host, probes);
    monitor.tell(&due);
    for _ in 0..30 {
        monitor.connections.close(0);
        monitor.tell(&due);
    }
    for _ in 0..60 {
        monitor.tell(&due);
    }
    let walks = |monitor: &Monitor<Host, Host, Manual>| monitor.effort().walks.values().sum::<u64>();
    let before = walks(&monitor);
    for _ in 0..60 {
        monitor.tell(&due);
    }
    assert!(walks(&monitor) - before <= 2, "nothing happened in this minute");
}

/// One change of a host.
#[derive(Debug, Clone)]
enum Event {
    Connect {
        client: u8,
        process: usize,
        forward: bool,
    },
    /// Another connection takes the place of one, on the same endpoints.
    Replace {
        connection: usize,
        process: usize,
    },
    Close {
        connection: usize,
    },
    /// It goes on as a half-closed connection.
    Shut {
        connection: usize,
    },
    /// The socket is passed on, or shared as by a fork.
    Pass {
        connection: usize,
        from: usize,
        to: usize,
        keeps: bool,
    },
    Rename {
        process: usize,
        name: &'static str,
    },
    /// The process ends and its number goes to another.
    Reuse {
        process: usize,
        name: &'static str,
    },
    Nothing,
}

fn an_event() -> impl Strategy<Value = Event> {
    let name = || {
        prop_oneof!["app", "web", "sh"].prop_map(|name| match name.as_str() {
            "app" => "app",
            "web" => "web",
            _ => "sh",
        })
    };
    let (connection, process) = (|| 0_usize..6, || 0_usize..4);
    prop_oneof![
        4 => (1_u8..5, process(), any::<bool>()).prop_map(|(client, process, forward)| Event::Connect { client, process, forward }),
        2 => (connection(), process()).prop_map(|(connection, process)| Event::Replace { connection, process }),
        3 => connection().prop_map(|connection| Event::Close { connection }),
        1 => connection().prop_map(|connection| Event::Shut { connection }),
        2 => (connection(), process(), process(), any::<bool>())
            .prop_map(|(connection, from, to, keeps)| Event::Pass { connection, from, to, keeps }),
        1 => (process(), name()).prop_map(|(process, name)| Event::Rename { process, name }),
        1 => (process(), name()).prop_map(|(process, name)| Event::Reuse { process, name }),
        4 => Just(Event::Nothing),
    ]
}

fn happen(host: &mut Host, event: &Event, serial: u64) {
    match event {
        Event::Connect { client, process, forward } => {
            let ends = (("10.0.0.9", 40_000 + u16::from(*client)), ("10.0.0.1", 5432));
            let (local, remote) = if *forward { ends } else { (ends.1, ends.0) };
            host.connect(local, remote, TcpState::Established, serial);
            host.process_mut(*process).inodes.push(serial);
        }
        Event::Replace { connection, process } => {
            let Some(known) = host.connection_mut(*connection) else { return };
            (known.cookie, known.inode, known.state) =
                (Cookie(serial), Inode::new(serial), TcpState::Established);
            host.process_mut(*process).inodes.push(serial);
        }
        Event::Close { connection } => host.close(*connection),
        Event::Shut { connection } => {
            if let Some(known) = host.connection_mut(*connection) {
                known.state = TcpState::CloseWait;
            }
        }
        Event::Pass { connection, from, to, keeps } => {
            let Some(inode) = host.connection_mut(*connection).and_then(|known| known.inode) else { return };
            if !keeps {
                host.process_mut(*from).inodes.retain(|held| *held != inode.get());
            }
            host.process_mut(*to).inodes.push(inode.get());
        }
        Event::Rename { process, name } => host.process_mut(*process).comm = (*name).to_owned(),
        Event::Reuse { process, name } => {
            let process = host.process_mut(*process);
            (process.comm, process.executable) = ((*name).to_owned(), (*name).to_owned());
            process.inodes.clear();
        }
        Event::Nothing => {}
    }
}

/// What is true of both directions, found by a monitor that never saw the host before.
fn naively(host: &Host) -> Vec<(bool, usize)> {
    let mut naive = monitor(host, vec![probe("a", 5432, 1)]);
    let look =
        naive.look(&Set::link(0), true, &HashMap::new(), &Allowance::unlimited()).unwrap().links.remove(0);
    Direction::ALL
        .iter()
        .map(|way| (look.direction(*way).is_up(), look.direction(*way).matched.len()))
        .collect()
}

/// What was told of a direction: whether it is up, and by how many connections.
fn told(cycle: &Told, direction: Direction) -> Option<(bool, i64)> {
    let of = |metric: &'static metric::Metric| {
        cycle.points.iter().find(|point| {
            let way = AttributeValue::from(direction.as_str());
            point.metric == metric && point.attributes.iter().any(|attribute| attribute.value == way)
        })
    };
    let value = |point: &DataPoint| {
        if let Value::Int(value) = point.value { value } else { unreachable!("an integer") }
    };
    Some((value(of(&metric::UP)?) == 1, value(of(&metric::CONNECTIONS)?)))
}

/// The steps of one run. `PROPTEST_CASES` makes more runs of it.
const STEPS: usize = 40;

proptest! {
    /// With a walk in every cycle, two speeds and a naive look always agree. With none but those that are forced, an "up"
    /// is true in every cycle, a "down" that comes is told at once, and one that ends is told within the bound.
    #[test]
    fn two_speeds_agree_with_a_naive_look_in_every_cycle(events in proptest::collection::vec(an_event(), STEPS)) {
        let mut world = Host::default();
        for name in ["app", "app", "web", "sh"] {
            world.run(name, Access::Open, &[]);
        }
        let mut rich = monitor(&world, vec![probe("a", 5432, 1)]);
        let mut poor = frugal(&world, vec![probe("a", 5432, 1)]);
        let mut since_true = [0_u32; 2];
        for (event, serial) in events.iter().zip(1_u64..) {
            happen(&mut world, event, serial);
            for monitor in [&mut rich, &mut poor] {
                (monitor.connections, monitor.processes) = (world.clone(), world.clone());
            }
            let (rich, poor) = (rich.tell(&[0]), poor.tell(&[0]));
            for ((direction, (up, connections)), since_true) in
                Direction::ALL.into_iter().zip(naively(&world)).zip(&mut since_true)
            {
                let count = i64::try_from(connections).unwrap();
                match told(&rich, direction) {
                    Some(rich) => prop_assert_eq!(rich, (up, count), "{}", direction),
                    None => prop_assert!(!up, "a direction that matches has a series"),
                }
                *since_true = if up { *since_true + 1 } else { 0 };
                let poor = told(&poor, direction).is_some_and(|(up, _)| up);
                prop_assert!(up || !poor, "a false up, {direction}");
                prop_assert!(!up || poor || *since_true <= 60, "a down that ended a minute ago, {direction}");
            }
        }
    }
}

/// What else may befall an agent.
#[derive(Debug, Clone)]
enum Turn {
    Event(Event),
    /// A process may be looked into, or not.
    Permit(usize, bool),
    FailLookup,
    FailDump,
    /// The configuration is loaded anew, with the probes in another order, so that ids of patterns change.
    Reload(bool),
}

fn a_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        12 => an_event().prop_map(Turn::Event),
        2 => (0_usize..4, any::<bool>()).prop_map(|(process, open)| Turn::Permit(process, open)),
        1 => Just(Turn::FailLookup),
        1 => Just(Turn::FailDump),
        1 => any::<bool>().prop_map(Turn::Reload),
    ]
}

/// Probes that share connections: by names that overlap, with and without a series for each source.
fn overlapping_probes(turned: bool) -> Vec<ConnectionProbe> {
    let (plain, mut labelled, mut other) = (probe("a", 5432, 1), probe("b", 5432, 1), probe("c", 5432, 1));
    labelled.matched_source_labels = MatchedSourceLabels::IpPort;
    other.source_process.name = "web".parse().unwrap();
    other.dest_process.name = "{web,app}".parse().unwrap();
    if turned { vec![other, labelled, plain] } else { vec![probe("d", 1, 1), plain, labelled, other] }
}

/// What was told of a probe in a direction, over all its series: whether any is up, how many connections they have, and
/// how many that cannot be attributed.
fn told_in_all(cycle: &Told, name: &str, direction: Direction) -> Option<(bool, i64, i64)> {
    let sum = |metric: &'static metric::Metric| {
        let points = cycle.points.iter().filter(|point| {
            let has = |value: &str| {
                point.attributes.iter().any(|attribute| attribute.value == AttributeValue::from(value))
            };
            point.metric == metric && has(name) && has(direction.as_str())
        });
        let values = points
            .map(|point| if let Value::Int(value) = point.value { value } else { unreachable!("integers") });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0) + value))
    };
    let (up, connections, unattributed) =
        (sum(&metric::UP), sum(&metric::CONNECTIONS), sum(&metric::UNATTRIBUTED));
    up.or(unattributed)?;
    Some((up.unwrap_or(0) > 0, connections.unwrap_or(0), unattributed.unwrap_or(0)))
}

proptest! {
    /// Also where several probes share connections, fall due at different times, and lose and regain sight: an "up" is
    /// true, and what was walked for in this cycle is exact.
    #[test]
    fn what_is_told_is_true_or_as_old_as_it_says(
        turns in proptest::collection::vec((a_turn(), 0_u8..16), STEPS),
    ) {
        let mut world = Host::default();
        for name in ["app", "app", "web", "sh"] {
            world.run(name, Access::Open, &[]);
        }
        let mut rich = monitor(&world, overlapping_probes(false));
        let mut poor = frugal(&world, overlapping_probes(false));
        for ((turn, left_out), serial) in turns.iter().zip(1_u64..) {
            match turn {
                Turn::Event(event) => happen(&mut world, event, serial),
                Turn::Permit(process, open) => {
                    world.process_mut(*process).access = if *open { Access::Open } else { Access::Denied };
                }
                Turn::Reload(turned) => {
                    rich.replace_probes(overlapping_probes(*turned)).unwrap();
                    poor.replace_probes(overlapping_probes(*turned)).unwrap();
                }
                Turn::FailLookup | Turn::FailDump => {}
            }
            let fails = matches!(turn, Turn::FailDump);
            for monitor in [&mut rich, &mut poor] {
                (monitor.connections, monitor.processes) = (world.clone(), world.clone());
                monitor.connections.broken_lookups = usize::from(matches!(turn, Turn::FailLookup));
                monitor.connections.break_dumps(usize::from(fails));
            }
            let names: Vec<String> = rich.links.iter().map(|link| link.probe().name.to_string()).collect();
            let due: Vec<usize> = (0..names.len()).filter(|place| left_out & (1 << place) == 0).collect();
            let cycles = [rich.tell(&due), poor.tell(&due)];
            let mut naive = monitor(&world, overlapping_probes(false));
            let all = Set { links: vec![0, 1, 2, 3], observers: Vec::new() };
            let looks = naive.look(&all, true, &HashMap::new(), &Allowance::unlimited()).unwrap().links;
            for (probe, look) in naive.links.iter().map(Link::probe).zip(&looks) {
                let Some(place) = names.iter().position(|name| **name == *probe.name) else { continue };
                for direction in Direction::ALL.into_iter().filter(|_| due.contains(&place)) {
                    let of = look.direction(direction);
                    let count = |length: usize| i64::try_from(length).unwrap();
                    let truth = (of.is_up(), count(of.matched.len()), count(of.unattributed.len()));
                    for (cycle, walks) in cycles.iter().zip([true, false]) {
                        let Some(told) = told_in_all(cycle, &probe.name, direction) else {
                            prop_assert!(!truth.0 || !walks || fails, "silence, {} {direction}", probe.name);
                            continue;
                        };
                        prop_assert!(truth.0 || !told.0, "a false up, {} {direction}", probe.name);
                        let name = AttributeValue::from(probe.name.as_ref());
                        let is_old = cycle.points.iter().any(|point| {
                            point.metric == &metric::WALK_AGE
                                && point.value != Value::Double(0.0)
                                && point.attributes.iter().any(|attribute| attribute.value == name)
                        });
                        prop_assert!(is_old || told == truth, "{told:?}, in truth {truth:?}, {} {direction}", probe.name);
                        prop_assert!(!is_old || !walks || fails, "a walk in every cycle");
                    }
                }
            }
        }
    }
}

/// A host on which searches give up after so many processes. Port 1 has a link of the first process, port 2 one of the last,
/// and between them are those of a user who is nobody's.
fn crowded() -> Host {
    let mut host = Host::default();
    host.run("app", Access::Open, &[7]);
    for inode in 100..110 {
        host.run("evil", Access::Open, &[inode]);
        host.connect(("10.0.0.9", 50_000), ("10.0.0.1", 3), TcpState::Established, inode);
    }
    host.run("app", Access::Open, &[8]);
    host.connect(("10.0.0.9", 40_000), ("10.0.0.1", 1), TcpState::Established, 7);
    host.connect(("10.0.0.9", 40_001), ("10.0.0.1", 2), TcpState::Established, 8);
    host
}

#[test]
fn what_a_look_that_was_cut_short_did_not_settle_is_failed_and_not_down() {
    let host = crowded();
    let mut monitor = monitor(&host, vec![probe("near", 1, 1), probe("far", 2, 1), probe("other", 3, 1)]);
    monitor.processes.patience = Some(4);
    let cycle = monitor.tell(&[0, 1, 2]);
    assert_eq!(values(&cycle, UP), [1], "the link whose holder was found, and nothing of the others");
    let failure = cycle.failure().expect("two are not measured");
    assert!(matches!(failure.error, LookError::CutShort));
    assert_eq!(failure.probes, ["far".into(), "other".into()]);
    assert_eq!((monitor.outcomes().ok, monitor.outcomes().failed), (1, 2));

    monitor.processes.patience = None;
    assert_eq!(values(&monitor.tell(&[0, 1, 2]), UP), [1, 1, 0], "with enough time all are told");
}

#[test]
fn what_is_verified_stands_when_a_look_is_cut_short() {
    let host = crowded();
    let mut monitor = monitor(&host, vec![probe("near", 1, 1), probe("far", 2, 1)]);
    assert_eq!(values(&monitor.tell(&[0, 1]), UP), [1, 1]);
    // Another connection of the same link, whose holder is out of reach.
    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.connect(("10.0.0.9", 40_002), ("10.0.0.1", 2), TcpState::Established, 9);
        host.patience = Some(0);
    }
    let cycle = monitor.tell(&[0, 1]);
    assert_eq!(values(&cycle, UP), [1, 1]);
    assert!(cycle.failure().is_none() && cycle.changes.is_empty(), "{cycle:?}");
}

#[test]
fn a_link_that_breaks_while_looks_are_cut_short_has_no_point_until_a_look_is_whole() {
    let host = crowded();
    let mut monitor = monitor(&host, vec![probe("far", 2, 1)]);
    assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
    for host in [&mut monitor.connections, &mut monitor.processes] {
        // It comes back as another connection, held by the same process.
        let all = host.disconnect_all();
        host.process_mut(11).inodes = vec![9];
        host.connect(("10.0.0.9", 40_002), ("10.0.0.1", 2), TcpState::Established, 9);
        assert_eq!(all.len(), 12);
        host.patience = Some(4);
    }
    for _ in 0..3 {
        let cycle = monitor.tell(&[0]);
        assert!(values(&cycle, UP).is_empty() && cycle.changes.is_empty(), "{cycle:?}");
        assert!(matches!(cycle.failure().unwrap().error, LookError::CutShort));
    }
    monitor.processes.patience = None;
    let cycle = monitor.tell(&[0]);
    assert_eq!(values(&cycle, UP), [1]);
    assert!(cycle.changes.is_empty(), "it never was down");
}

#[test]
fn without_time_for_a_second_look_the_next_cycle_takes_it() {
    let mut monitor = monitor(&host(), vec![probe("link", 5432, 1)]);
    assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.close(0);
    }
    // A dump takes all the time that there is.
    monitor.dumps_cost(Duration::from_millis(600));
    let cycle = monitor.tell(&[0]);
    assert!(values(&cycle, UP).is_empty(), "not down on the word of one look: {cycle:?}");
    let mut told = Vec::new();
    while told.is_empty() && monitor.clock.monotonic() < Duration::from_secs(30) {
        told = values(&monitor.tell(&[0]), UP);
    }
    assert_eq!(told, [0], "down by the second, in a later cycle");
}

#[test]
fn looks_that_are_cut_short_take_half_of_the_time_at_most() {
    let host = crowded();
    let mut monitor = monitor(&host, vec![probe("far", 2, 1)]);
    monitor.processes.patience = Some(4);
    monitor.dumps_cost(Duration::from_millis(500));
    for _ in 0..60 {
        assert!(values(&monitor.tell(&[0]), UP).is_empty());
    }
    let walks: u64 = monitor.effort().walks.values().sum();
    assert!(walks >= 10, "{walks} walks: it goes on trying");
    let share = monitor.effort().walk_cpu.as_secs_f64() / 60.0;
    assert!(share <= 0.55, "{share}");
}

#[test]
fn after_a_look_that_was_cut_short_none_begins_until_twice_its_time_has_passed() {
    let mut monitor = monitor(&crowded(), vec![probe("far", 2, 1), probe("near", 1, 1)]);
    monitor.processes.patience = Some(4);
    // A dump and a search that cost 1.4 s are followed by a pause of that length, in which a cycle begins.
    monitor.dumps_cost(Duration::from_millis(1_400));
    let mut dumps = Vec::new();
    for _ in 0..9 {
        let before = monitor.connections.dumps;
        let cycle = monitor.tell(&[0]);
        assert!(matches!(cycle.failure().unwrap().error, LookError::CutShort), "{cycle:?}");
        assert!(values(&cycle, UP).is_empty() && cycle.changes.is_empty(), "{cycle:?}");
        dumps.push(monitor.connections.dumps - before);
    }
    assert_eq!(dumps, [1, 0, 0, 1, 0, 0, 1, 0, 0], "2.8 s from the begin of one to that of the next");
    let walks: u64 = monitor.effort().walks.values().sum();
    assert_eq!((walks, monitor.outcomes().failed), (3, 9), "a pause is no walk, and fails what is due");

    // A look that is whole is followed by none.
    monitor.processes.patience = None;
    monitor.dumps_cost(Duration::ZERO);
    let before = monitor.connections.dumps;
    assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
    assert_eq!(values(&monitor.tell(&[1]), UP), [1]);
    assert_eq!(monitor.connections.dumps - before, 2);
}

/// So many connections of a user's own at port 3, of which one in the middle, the 4,242nd from last, is an `app`'s.
fn flooded(connections: usize) -> Host {
    let connections = u64::try_from(connections).unwrap();
    let mut host = Host::default();
    host.run("app", Access::Open, &[7]);
    host.connect(("10.0.0.9", 40_000), ("10.0.0.1", 1), TcpState::Established, 7);
    let inodes: Vec<u64> = (1_000..1_000 + connections).collect();
    for inode in &inodes {
        host.connect(("10.0.0.9", 50_000), ("10.0.0.1", 3), TcpState::Established, *inode);
    }
    let is_of_app = |inode: &u64| inode + 4_242 == 1_000 + connections;
    host.run("app", Access::Open, &inodes.iter().copied().filter(is_of_app).collect::<Vec<_>>());
    host.run(
        "evil",
        Access::Open,
        &inodes.iter().copied().filter(|inode| !is_of_app(inode)).collect::<Vec<_>>(),
    );
    host
}

const FLOOD: usize = MAX_CANDIDATES * 3;

#[test]
fn of_more_connections_than_a_look_may_settle_each_look_settles_others_until_the_link_is_found() {
    let mut monitor = monitor(&flooded(FLOOD), vec![probe("few", 1, 1), probe("many", 3, 1)]);
    let mut told = Vec::new();
    for cycle_number in 1..=4 {
        let cycle = monitor.tell(&[0, 1]);
        told = values(&cycle, UP);
        if told.len() == 2 {
            assert!(cycle_number > 1, "the first look has no room for it");
            break;
        }
        assert_eq!(told, [1], "a probe with few connections loses none to one with many");
        let failure = cycle.failure().expect("it is not known who holds all of the others");
        assert!(matches!(failure.error, LookError::CutShort));
        assert_eq!(failure.probes, ["many".into()]);
    }
    assert_eq!(told, [1, 1]);
    for _ in 0..4 {
        let cycle = monitor.tell(&[0, 1]);
        assert_eq!(values(&cycle, UP), [1, 1], "what is verified stands");
    }
}

#[test]
fn a_link_that_ends_among_more_connections_than_a_look_may_settle_is_failed_and_not_down() {
    let host = flooded(FLOOD);
    let mut monitor = monitor(&host, vec![probe("many", 3, 1)]);
    while values(&monitor.tell(&[0]), UP).is_empty() {}
    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.process_mut(1).inodes.clear();
    }
    for _ in 0..6 {
        let cycle = monitor.tell(&[0]);
        assert!(values(&cycle, UP).is_empty() && cycle.changes.is_empty(), "{cycle:?}");
        assert!(matches!(cycle.failure().unwrap().error, LookError::CutShort));
    }
    for host in [&mut monitor.connections, &mut monitor.processes] {
        for _ in 0..FLOOD {
            host.disconnect_last();
        }
    }
    let told: Vec<i64> = (0..2).flat_map(|_| values(&monitor.tell(&[0]), UP)).collect();
    assert!(!told.is_empty() && told.iter().all(|up| *up == 0), "{told:?}");
}

#[test]
fn a_link_that_is_verified_is_not_looked_for_in_each_cycle_because_looks_are_cut_short() {
    let mut monitor = monitor(&flooded(FLOOD), vec![probe("many", 3, 1)]);
    monitor.set_terms(Terms { cpu_budget: CpuShare::from_parts_per_million(0), ..Terms::default() });
    while values(&monitor.tell(&[0]), UP).is_empty() {}
    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.connect(("10.0.0.9", 40_002), ("10.0.0.1", 3), TcpState::Established, 9);
        host.patience = Some(0);
    }
    let before = monitor.connections.dumps;
    let cycles = WALK_BOUND.as_secs() * 3;
    for _ in 0..cycles {
        assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
    }
    let walks = monitor.connections.dumps - before;
    assert!((2..=4).contains(&walks), "{walks} walks in {cycles} cycles");
}

const SERVICE: (&str, u16) = ("10.0.0.1", 5432);
const BACKEND: (&str, u16) = ("10.1.2.3", 8080);

fn end((ip, port): (&str, u16)) -> Endpoint {
    Endpoint::new(ip.parse().unwrap(), port)
}

/// That client asked for the service and is served by the back end.
fn translation(client: (&str, u16)) -> Translation {
    let client = end(client);
    Translation { backend: end(BACKEND), peer: client, service: end(SERVICE), source: client }
}

/// The server's host: one client came by the service's address, one by the back end's own.
fn server() -> (Host, Nat) {
    let mut host = Host::default();
    host.run("app", Access::Open, &[7, 8]);
    host.connect(BACKEND, ("10.0.0.9", 40000), TcpState::Established, 7);
    host.connect(BACKEND, ("10.0.0.9", 40001), TcpState::Established, 8);
    let nat = Nat::default();
    nat.0.borrow_mut().translations = vec![translation(("10.0.0.9", 40000))];
    (host, nat)
}

fn watching(nat: &Nat, mut monitor: Monitor<Host, Host, Manual>) -> Monitor<Host, Host, Manual> {
    monitor.set_translations(Box::new(nat.clone()));
    monitor
}

/// A host on which the process that fits lives in another network namespace than the agent, which shares none with the
/// first process.
fn displaced() -> Host {
    let mut host = Host::default();
    host.run("app", Access::Open, &[]);
    host.elsewhere.insert(0);
    host.is_displaced = true;
    host
}

#[test]
fn a_link_whose_process_lives_out_of_sight_is_failed_and_never_down() {
    let mut monitor = frugal(&displaced(), vec![probe("a", 5432, 1), probe("b", 5433, 1)]);
    for second in 0..200_u64 {
        let cycle = monitor.tell(&[0, 1]);
        assert!(cycle.points.is_empty() && cycle.changes.is_empty(), "{cycle:?}");
        let told: Vec<_> =
            cycle.sight.iter().map(|change| (change.probe.name.as_ref(), change.in_sight)).collect();
        assert_eq!(told, if second == 0 { vec![("a", false), ("b", false)] } else { vec![] }, "told once");
        assert_eq!(monitor.outcomes(), Outcomes { failed: 2 * (second + 1), ..Outcomes::default() });
    }
    assert_eq!(monitor.connections.dumps, 4, "and it costs a walk a minute");

    // It comes to live where it is seen.
    monitor.processes.elsewhere.clear();
    let cycle = (0..61).map(|_| monitor.tell(&[0, 1])).find(|cycle| !cycle.points.is_empty()).unwrap();
    assert_eq!(values(&cycle, UP), [0, 0]);
    assert!(cycle.sight.iter().all(|change| change.in_sight) && cycle.sight.len() == 2);
    assert_eq!(values(&monitor.tell(&[0, 1]), UP), [0, 0]);
}

#[test]
fn what_was_known_of_a_link_is_not_told_while_it_is_out_of_sight() {
    let mut host = displaced();
    host.process_mut(0).comm = "other".to_owned();
    host.process_mut(0).executable = "other".to_owned();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1)]);
    assert_eq!(values(&monitor.tell(&[0]), UP), [0], "nobody fits");
    monitor.set_terms(Terms { cpu_budget: CpuShare::from_parts_per_million(0), ..Terms::default() });
    monitor.processes.process_mut(0).comm = "app".to_owned();
    let mut cycles = (0..120).map(|_| monitor.tell(&[0]));
    let lost = cycles.by_ref().find(|cycle| !cycle.sight.is_empty()).unwrap();
    assert!(lost.points.is_empty());
    assert!(cycles.all(|cycle| cycle.points.is_empty()));
}

#[test]
fn a_link_that_goes_out_of_sight_is_failed_without_a_walk_in_each_cycle() {
    let mut host = host();
    host.is_displaced = true;
    let mut monitor = frugal(&host, vec![probe("a", 5432, 1)]);
    assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
    monitor.connections.disconnect_all();
    monitor.processes.process_mut(0).inodes.clear();
    monitor.processes.elsewhere.insert(0);
    let before = monitor.connections.dumps;
    for _ in 0..30 {
        let cycle = monitor.tell(&[0]);
        assert!(cycle.points.is_empty() && cycle.changes.is_empty(), "{cycle:?}");
    }
    assert_eq!(monitor.connections.dumps - before, 1);
}

#[test]
fn a_displaced_agent_tells_of_what_it_sees() {
    let mut host = host();
    host.is_displaced = true;
    host.run("app", Access::Open, &[]);
    host.elsewhere.insert(1);
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1), probe("b", 1, 1)]);
    let cycle = monitor.tell(&[0, 1]);
    assert_eq!((values(&cycle, UP), cycle.sight.len()), (vec![1, 0], 0));
    assert_eq!(cycle.changes[1].reason, Some(DownReason::OtherNamespace), "b's may be elsewhere");
    monitor.connections.disconnect_all();
    assert_eq!(
        values(&monitor.tell(&[0, 1]), UP),
        [0, 0],
        "who fits lives here as well, without a connection"
    );
    // And an up that is held by a process of which only others of its kind live here.
    let mut host = self::host();
    host.is_displaced = true;
    host.elsewhere.insert(0);
    let mut monitor = frugal(&host, vec![probe("a", 5432, 1)]);
    assert_eq!(values(&monitor.tell(&[0]), UP), [1], "it was handed a socket that is seen");
    for _ in 0..130 {
        assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
    }
}

/// Network namespaces other than the agent's.
const FAR: [NamespaceId; 2] = [NamespaceId(11), NamespaceId(12)];

/// A monitor of all network namespaces that can afford a walk in every cycle, or walks only where it has to.
fn everywhere(host: &Host, is_rich: bool) -> Monitor<Host, Host, Manual> {
    let cpu_budget = CpuShare::from_parts_per_million(if is_rich { 1_000_000 } else { 0 });
    let terms = Terms { cpu_budget, namespaces: Namespaces::All, ..Terms::default() };
    Monitor::new(host.clone(), host.clone(), Manual::default(), vec![probe("a", 5432, 1)], terms).unwrap()
}

/// The same connection in two other network namespaces, each held by a process that lives there.
fn twins() -> Host {
    let mut host = Host::default();
    for (index, (far, inode)) in FAR.into_iter().zip([7, 8]).enumerate() {
        host.run("app", Access::Open, &[inode]);
        host.homes.insert(index, far);
        host.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, inode);
        host.move_last(far);
    }
    host
}

const CONNECTIONS: &str = "vms.connection_mon.connections";

#[test]
fn what_a_translation_vouches_for_is_the_link_in_reverse_and_what_came_directly_is_not() {
    let (host, nat) = server();
    let probes = vec![probe("service", 5432, 1)];
    let without = monitor(&host, probes.clone()).tell(&[0]);
    assert_eq!(values(&without, UP), [0], "as without translations");

    let mut monitor = watching(&nat, monitor(&host, probes));
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), values(&cycle, CONNECTIONS)), (vec![1], vec![1]));
    assert!(matches!(cycle.translations, Some(Ok(()))));
    let told =
        cycle.points.iter().find(|point| point.metric.name == "vms.connection_mon.translated").unwrap();
    assert_eq!(told.value, Value::Int(1));
    let of = |key| told.attributes.iter().find(|attribute| attribute.key == key).map(|one| one.value.clone());
    assert_eq!(of("direction"), Some("reverse".into()));
    assert_eq!(of("dest_ip"), Some("10.0.0.1".into()));
    assert_eq!(of("dest_translated_ip"), Some("10.1.2.3".into()));
    assert_eq!(of("dest_translated_port"), Some(8080.into()));

    // The one that is vouched for ends; the other stays, and counts for nothing.
    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.close(0);
    }
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), values(&cycle, "vms.connection_mon.translated")), (vec![0], vec![]));
}

#[test]
fn endpoints_that_two_namespaces_have_are_vouched_for_in_neither_and_told_as_failed() {
    let (mut host, nat) = server();
    host.run("app", Access::Open, &[9]);
    host.homes.insert(1, FAR[0]);
    host.connect(BACKEND, ("10.0.0.9", 40000), TcpState::Established, 9);
    host.move_last(FAR[0]);
    let mut monitor = watching(&nat, everywhere(&host, true));
    for _ in 0..3 {
        let cycle = monitor.tell(&[0]);
        assert!(cycle.points.is_empty() && cycle.changes.is_empty(), "{cycle:?}");
        assert!(matches!(cycle.failure().unwrap().error, LookError::Untranslated));
    }
    // One of them is gone: now it is known of which the node's table speaks.
    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.close(2);
    }
    assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
}

#[test]
fn what_never_leaves_a_namespace_is_not_vouched_for_by_the_table_of_another() {
    const LOCAL: (&str, u16) = ("127.0.0.1", 8080);
    let mut host = Host::default();
    host.run("app", Access::Open, &[7]);
    host.homes.insert(0, FAR[0]);
    host.connect(LOCAL, ("127.0.0.1", 40000), TcpState::Established, 7);
    host.move_last(FAR[0]);
    let nat = Nat::default();
    let client = end(("127.0.0.1", 40000));
    let told = Translation { backend: end(LOCAL), peer: client, service: end(SERVICE), source: client };
    nat.0.borrow_mut().translations = vec![told];
    let mut monitor = watching(&nat, everywhere(&host, true));
    assert_eq!(values(&monitor.tell(&[0]), UP), [0]);
    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.homes.clear();
        host.connection_mut(0).unwrap().namespace = NamespaceId::OWN;
    }
    assert_eq!(values(&monitor.tell(&[0]), UP), [1], "as on the agent's own loopback");
}

#[test]
fn a_client_sees_what_its_service_is_translated_to() {
    let (host, nat) = (host(), Nat::default());
    nat.0.borrow_mut().translations =
        vec![translation(("10.0.0.9", 40000)), translation(("10.0.0.8", 40000))];
    let mut monitor = watching(&nat, monitor(&host, vec![probe("a", 5432, 1)]));
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), values(&cycle, "vms.connection_mon.translated")), (vec![1], vec![1]));
}

#[test]
fn a_link_that_translations_vouched_for_is_never_told_down_while_they_cannot_be_read() {
    for untold in [Untold::Failed, Untold::Unavailable] {
        let (host, nat) = server();
        let mut monitor = watching(&nat, monitor(&host, vec![probe("service", 5432, 1)]));
        assert_eq!(values(&monitor.tell(&[0]), UP), [1]);

        nat.0.borrow_mut().untold = Some(untold);
        let cycle = monitor.tell(&[0]);
        assert_eq!(values(&cycle, UP), [1], "the connection is verified by its cookie");
        assert!(cycle.failure().is_none() && matches!(cycle.translations, Some(Err(_))));

        for host in [&mut monitor.connections, &mut monitor.processes] {
            host.close(0);
        }
        for _cycle in 0..3 {
            let cycle = monitor.tell(&[0]);
            assert_eq!((cycle.points.len(), cycle.changes.len()), (0, 0), "failed, and not 0");
            let failure = cycle.failure().unwrap();
            assert!(matches!(failure.error, LookError::Untranslated) && failure.probes == ["service".into()]);
        }
        nat.0.borrow_mut().untold = None;
        let cycle = monitor.tell(&[0]);
        assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![0], 1));
    }
}

#[test]
fn where_translations_are_not_to_be_had_all_is_as_without_them() {
    let (host, nat) = server();
    nat.0.borrow_mut().untold = Some(Untold::Unavailable);
    let mut monitor = watching(&nat, monitor(&host, vec![probe("service", 5432, 1)]));
    let cycle = monitor.tell(&[0]);
    assert_eq!(values(&cycle, UP), [0]);
    assert!(cycle.failure().is_none() && matches!(cycle.translations, Some(Err(Untold::Unavailable(_)))));
    assert!(!monitor.check().unwrap().links[0].1.reverse.is_up());
    assert!(monitor.untold().is_some());
}

#[test]
fn what_never_matched_is_not_told_down_while_translations_fail_and_what_matched_forward_is() {
    let (mut host, nat) = server();
    host.connect(("10.0.0.9", 41000), ("10.0.0.1", 9), TcpState::Established, 9);
    host.run("app", Access::Open, &[9]);
    let mut monitor = watching(&nat, monitor(&host, vec![probe("service", 5432, 1), probe("forward", 9, 1)]));
    nat.0.borrow_mut().untold = Some(Untold::Failed);
    let cycle = monitor.tell(&[0, 1]);
    assert_eq!(values(&cycle, UP), [1], "forward does not depend on it");
    assert_eq!(cycle.failure().unwrap().probes, ["service".into()]);
    assert!(matches!(monitor.check(), Err(LookError::Untranslated)));

    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.close(2);
    }
    let cycle = monitor.tell(&[0, 1]);
    assert_eq!(values(&cycle, UP), [0], "and is told down at once");
}

/// Beside those who came by a translation, one came directly to the service's own address, as its host's own clients do
/// where only what comes from outside is redirected.
fn server_of_both() -> (Host, Nat) {
    let (mut host, nat) = server();
    host.connect(SERVICE, ("10.0.0.8", 40000), TcpState::Established, 9);
    host.process_mut(0).inodes.push(9);
    (host, nat)
}

#[test]
fn a_link_that_has_only_been_seen_directly_since_the_start_is_not_told_down_while_translations_fail() {
    let (host, nat) = server_of_both();
    let mut monitor = watching(&nat, monitor(&host, vec![probe("service", 5432, 1)]));
    for untold in [Untold::Unavailable, Untold::Failed] {
        nat.0.borrow_mut().untold = Some(untold);
        let cycle = monitor.tell(&[0]);
        assert_eq!(
            (values(&cycle, UP), values(&cycle, CONNECTIONS)),
            (vec![1], vec![1]),
            "by the direct one"
        );
    }
    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.connect(SERVICE, ("10.0.0.8", 40001), TcpState::Established, 10);
        host.process_mut(0).inodes.push(10);
    }
    assert_eq!(values(&monitor.tell(&[0]), CONNECTIONS), [2], "walks go on to tell of those");
    for host in [&mut monitor.connections, &mut monitor.processes] {
        (0..2).for_each(|_| host.close(2));
    }
    for _cycle in 0..3 {
        let cycle = monitor.tell(&[0]);
        assert_eq!((cycle.points.len(), cycle.changes.len()), (0, 0), "the other may be there unseen");
        assert!(matches!(cycle.failure().unwrap().error, LookError::Untranslated));
    }
    nat.0.borrow_mut().untold = None;
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![1], 0), "as it is");
}

#[test]
fn a_link_that_no_translation_led_to_when_they_were_read_is_told_down_while_they_fail() {
    let (host, nat) = server_of_both();
    nat.0.borrow_mut().translations.clear();
    let mut monitor = watching(&nat, monitor(&host, vec![probe("service", 5432, 1)]));
    assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
    nat.0.borrow_mut().untold = Some(Untold::Failed);
    assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.close(2);
    }
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![0], 1));
}

#[test]
fn translations_are_read_by_walks_alone() {
    let (host, nat) = server();
    let mut monitor = watching(&nat, frugal(&host, vec![probe("service", 5432, 1)]));
    assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
    let reads = nat.0.borrow().reads;
    for _cycle in 0..20 {
        let cycle = monitor.tell(&[0]);
        assert_eq!(values(&cycle, UP), [1]);
        assert!(cycle.translations.is_none());
    }
    assert_eq!(nat.0.borrow().reads, reads);
}

#[test]
fn a_second_look_that_is_told_translations_does_not_hide_that_the_first_was_not() {
    let (mut host, nat) = server();
    host.connect(("10.0.0.9", 41000), ("10.0.0.1", 9), TcpState::Established, 9);
    host.run("app", Access::Open, &[9]);
    let mut monitor = watching(&nat, monitor(&host, vec![probe("service", 5432, 1), probe("forward", 9, 1)]));
    monitor.tell(&[0, 1]);
    nat.0.borrow_mut().fails_for = Some(end(SERVICE));
    for host in [&mut monitor.connections, &mut monitor.processes] {
        host.close(2);
    }
    let reads = nat.0.borrow().reads;
    let cycle = monitor.tell(&[0, 1]);
    assert_eq!(values(&cycle, UP), [1, 0]);
    assert_eq!(nat.0.borrow().reads - reads, 2, "the second look was at the other link alone");
    assert!(matches!(cycle.translations, Some(Err(Untold::Failed(_)))));
}

#[test]
fn translations_that_are_dear_to_read_in_vain_are_not_asked_for_in_each_cycle() {
    let (host, nat) = server();
    let mut monitor = watching(&nat, monitor(&host, vec![probe("service", 5432, 1)]));
    nat.0.borrow_mut().untold = Some(Untold::Failed);
    nat.0.borrow_mut().cost = Some((Rc::clone(&monitor.clock.cpu), Duration::from_millis(500)));
    for _cycle in 0..40 {
        let cycle = monitor.tell(&[0]);
        assert!(cycle.points.is_empty() && cycle.failure().is_some(), "not known is not known");
    }
    let reads = nat.0.borrow().reads;
    assert!((3..=5).contains(&reads), "every ten seconds: {reads}");
    nat.0.borrow_mut().untold = None;
    let told: Vec<i64> = (0..12).flat_map(|_| values(&monitor.tell(&[0]), UP)).collect();
    assert_eq!(told.first(), Some(&1), "and then it is found");
}

#[test]
fn the_same_endpoints_in_two_namespaces_are_two_connections() {
    let mut monitor = everywhere(&twins(), false);
    assert_eq!(values(&monitor.tell(&[0]), CONNECTIONS), [2]);
    assert_eq!(values(&monitor.tell(&[0]), CONNECTIONS), [2], "each is looked up where it is");
    monitor.connections.close(0);
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), values(&cycle, CONNECTIONS)), (vec![1], vec![1]));
    assert_eq!(monitor.effort().walks, [(WalkReason::New, 1)].into(), "the other is there still");
    monitor.connections.close(0);
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), cycle.changes[0].reason), (vec![0], Some(DownReason::NoConnection)));
}

#[test]
fn a_connection_is_not_taken_for_one_with_its_cookie_in_another_namespace() {
    // As kernels count that do so in each namespace. The agent does not run on them; nothing else may rest on that.
    let mut monitor = everywhere(&twins(), false);
    monitor.tell(&[0]);
    for connection in 0..2 {
        if let Some(known) = monitor.connections.connection_mut(connection) {
            known.namespace = NamespaceId(known.namespace.0 + 10);
        }
    }
    let cycle = monitor.tell(&[0]);
    assert_eq!(values(&cycle, UP), [0], "they are others, in namespaces where nobody lives who fits");
}

#[test]
fn only_namespaces_in_which_somebody_lives_who_fits_are_looked_at() {
    let mut host = twins();
    host.process_mut(1).comm = "other".to_owned();
    host.process_mut(1).executable = "other".to_owned();
    let mut monitor = everywhere(&host, true);
    assert_eq!(values(&monitor.tell(&[0]), CONNECTIONS), [1]);
    assert_eq!(monitor.connections.attended, [FAR[0]].into());
    let mut own = self::monitor(&host, vec![probe("a", 5432, 1)]);
    assert_eq!(values(&own.tell(&[0]), UP), [0]);
    assert!(own.connections.attended.is_empty());
}

#[test]
fn a_namespace_stays_attended_to_while_a_connection_in_it_is_known() {
    let mut monitor = everywhere(&twins(), true);
    monitor.tell(&[0]);
    // Both moved on, and kept what they hold.
    monitor.processes.homes.clear();
    assert_eq!(values(&monitor.tell(&[0]), CONNECTIONS), [2]);
    assert_eq!(monitor.connections.attended, FAR.into());
    monitor.connections.disconnect_all();
    monitor.tell(&[0]);
    monitor.tell(&[0]);
    assert!(monitor.connections.attended.is_empty());
}

#[test]
fn a_link_is_failed_and_not_down_while_somebody_who_fits_lives_where_the_agent_may_not_enter() {
    for is_known in [true, false] {
        let mut host = twins();
        host.disconnect_all();
        if is_known {
            host.barred.insert(FAR[1]);
        } else {
            host.homeless.insert(1);
        }
        let mut monitor = everywhere(&host, true);
        for _ in 0..3 {
            let cycle = monitor.tell(&[0]);
            assert!(cycle.points.is_empty() && cycle.changes.is_empty(), "{cycle:?}");
        }
        assert_eq!(monitor.outcomes(), Outcomes { failed: 3, ..Outcomes::default() });
        // Up is up all the same, wherever else others live.
        monitor.connections.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, 9);
        monitor.connections.move_last(FAR[0]);
        monitor.processes.process_mut(0).inodes.push(9);
        assert_eq!(values(&monitor.tell(&[0]), UP), [1]);
        monitor.processes.barred.clear();
        monitor.connections.barred.clear();
        monitor.processes.homeless.clear();
        monitor.connections.disconnect_all();
        assert_eq!(values(&monitor.tell(&[0]), UP), [0]);
    }
}

proptest! {
    /// As `two_speeds_agree_with_a_naive_look_in_every_cycle`, with connections in several network namespaces, and processes
    /// that live there and move.
    #[test]
    fn two_speeds_agree_wherever_processes_live(
        events in proptest::collection::vec((an_event(), 0_usize..4, 0_usize..4, any::<bool>()), STEPS),
        named in proptest::collection::btree_set(0_usize..2, 0..3),
    ) {
        let mut world = Host::default();
        world.named = named.into_iter().map(|place| FAR[place]).collect();
        for name in ["app", "app", "web", "sh"] {
            world.run(name, Access::Open, &[]);
        }
        let (mut rich, mut poor) = (everywhere(&world, true), everywhere(&world, false));
        let mut since_true = [0_u32; 2];
        for ((event, process, home, moves), serial) in events.iter().zip(1_u64..) {
            happen(&mut world, event, serial);
            if *moves {
                match FAR.get(*home) {
                    Some(far) => world.homes.insert(*process, *far),
                    None => world.homes.remove(process),
                };
            }
            if let Event::Connect { process, .. } = event
                && let Some(home) = world.homes.get(process).copied()
            {
                world.move_last(home);
            }
            for monitor in [&mut rich, &mut poor] {
                (monitor.connections, monitor.processes) = (world.clone(), world.clone());
                monitor.connections.attended = world.attended.clone();
            }
            let (rich, poor) = (rich.tell(&[0]), poor.tell(&[0]));
            for ((direction, up), since_true) in
                Direction::ALL.into_iter().zip(naively_everywhere(&world)).zip(&mut since_true)
            {
                let told_rich = told(&rich, direction).is_some_and(|(up, _)| up);
                prop_assert!(up.of_anyone || !told_rich, "a false up, {direction}");
                prop_assert!(!up.of_residents || told_rich, "a false down, {direction}");
                let is_told_down = told(&rich, direction).is_some_and(|(up, _)| !up);
                prop_assert!(!up.of_named || !is_told_down, "a false down where there is a name, {direction}");
                *since_true = if up.of_residents { *since_true + 1 } else { 0 };
                let poor = told(&poor, direction).is_some_and(|(up, _)| up);
                prop_assert!(up.of_anyone || !poor, "a false up, {direction}");
                prop_assert!(!up.of_residents || poor || *since_true <= 60, "a down that ended, {direction}");
            }
        }
    }
}

/// Whether a link is up, found by looking at everything.
struct Truth {
    /// By any process that fits.
    of_anyone: bool,
    /// By a process that fits, in a network namespace in which one lives that does.
    of_residents: bool,
    /// By a process that fits, in a network namespace that has a name: that is not asked while another direction is up, and this
    /// one never was.
    of_named: bool,
}

fn naively_everywhere(host: &Host) -> Vec<Truth> {
    let fits = |process: &Running| process.comm == "app" || process.executable == "app";
    let lived_in: BTreeSet<NamespaceId> = host
        .processes()
        .iter()
        .enumerate()
        .filter(|(_, process)| fits(process))
        .map(|(index, _)| host.homes.get(&index).copied().unwrap_or_default())
        .chain([NamespaceId::OWN])
        .collect();
    let up = |direction: Direction, is_looked_at: &dyn Fn(NamespaceId) -> bool| {
        host.connections().iter().any(|connection| {
            let service = connection.service_end(direction);
            let held = |process: &Running| {
                connection.inode.is_some_and(|inode| process.inodes.contains(&inode.get()))
            };
            connection.state == TcpState::Established
                && service.to_string() == "10.0.0.1:5432"
                && is_looked_at(connection.namespace)
                && host.processes().iter().any(|process| fits(process) && held(process))
        })
    };
    let truth = |way: &Direction| Truth {
        of_anyone: up(*way, &|_| true),
        of_residents: up(*way, &|namespace| lived_in.contains(&namespace)),
        of_named: up(*way, &|namespace| host.named.contains(&namespace)),
    };
    Direction::ALL.iter().map(truth).collect()
}

#[test]
fn a_host_with_more_namespaces_than_can_be_walked_in_time_is_failed_and_keeps_the_cadence() {
    let mut host = Host::default();
    for index in 0..1_000_u64 {
        host.run("app", Access::Open, &[]);
        host.homes.insert(usize::try_from(index).unwrap(), NamespaceId(index + 1));
    }
    let mut monitor = everywhere(&host, true);
    monitor.dumps_cost(Duration::from_millis(10));
    let cycle = monitor.tell(&[0]);
    assert!(cycle.points.is_empty());
    assert!(matches!(cycle.failure().unwrap().error, LookError::CutShort));
    assert!(monitor.effort().walk_cpu < Duration::from_secs(1), "{:?}", monitor.effort());
}

#[test]
fn a_namespace_that_cannot_be_read_fails_the_links_of_those_who_live_in_it_alone() {
    let mut host = twins();
    host.disconnect_all();
    host.run("web", Access::Open, &[]);
    host.homes.insert(2, FAR[0]);
    host.homes.insert(0, FAR[1]);
    host.broken.insert(FAR[1]);
    let web = ProcessPattern { name: "web".parse().unwrap(), executable: None };
    let other = ConnectionProbe { source_process: web.clone(), dest_process: web, ..probe("web", 80, 1) };
    let terms = Terms { namespaces: Namespaces::All, ..Terms::default() };
    let probes = vec![probe("a", 5432, 1), other];
    let mut monitor = Monitor::new(host.clone(), host.clone(), Manual::default(), probes, terms).unwrap();
    let cycle = monitor.tell(&[0, 1]);
    assert_eq!(values(&cycle, UP), [0], "the other's is down for certain");
    let failure = cycle.failure().unwrap();
    assert_eq!(failure.probes.iter().map(AsRef::as_ref).collect::<Vec<_>>(), ["a"]);
    assert_eq!(
        failure.error.to_string(),
        "connections of another network namespace could not be read: refused"
    );
}

#[test]
fn a_check_does_not_call_a_link_down_that_may_be_up_in_a_namespace_that_could_not_be_read() {
    let mut host = twins();
    host.broken.extend(FAR);
    assert!(matches!(everywhere(&host, true).check(), Err(LookError::Unread(_))));
    host.broken.remove(&FAR[0]);
    assert!(everywhere(&host, true).check().is_ok(), "up is up all the same");
}

#[test]
fn a_link_that_is_up_loses_nothing_by_a_look_that_could_not_read_a_namespace() {
    let mut monitor = everywhere(&twins(), true);
    assert_eq!(values(&monitor.tell(&[0]), CONNECTIONS), [2]);
    monitor.connections.broken.insert(FAR[1]);
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), values(&cycle, CONNECTIONS)), (vec![1], vec![2]));
    assert_eq!(ages(&cycle), [1.0], "it was no walk of this link");
}

#[test]
fn a_stranger_holds_nothing_in_a_namespace_that_he_may_have_made() {
    for is_stranger in [true, false] {
        let mut host = twins();
        host.homes.clear();
        host.named.extend(FAR);
        host.strangers = (0..2).filter(|_| is_stranger).collect();
        assert_eq!(values(&everywhere(&host, true).tell(&[0]), UP), [i64::from(!is_stranger)]);
    }
}

#[test]
fn a_link_is_found_in_a_namespace_with_a_name_in_which_nobody_lives_who_fits() {
    let mut host = twins();
    host.homes.clear();
    host.named.extend(FAR);
    host.run("other", Access::Open, &[70]);
    host.connect(("10.0.0.9", 40070), ("10.0.0.1", 5432), TcpState::Established, 70);
    host.move_last(FAR[1]);
    let mut monitor = everywhere(&host, false);
    assert_eq!(values(&monitor.tell(&[0]), CONNECTIONS), [2], "and nobody else's");
    assert_eq!(monitor.connections.attended, FAR.into());
    for _ in 0..2 {
        monitor.connections.close(0);
    }
    let cycle = monitor.tell(&[0]);
    assert_eq!(values(&cycle, UP), [0]);
    assert_eq!(cycle.changes[0].reason, Some(DownReason::NoConnection), "another's in a pod is no reason");
}

/// A connection of the link with everybody else's before it, in a network namespace that has a name.
fn crowded_by_name(crowd: u64, namespace: NamespaceId, holder: &str) -> Host {
    let mut host = Host::default();
    let inodes: Vec<u64> = (1_000..1_000 + crowd).collect();
    for inode in &inodes {
        host.connect(("10.0.0.9", 50_000), ("10.0.0.1", 5432), TcpState::Established, *inode);
        host.move_last(FAR[0]);
    }
    host.run("other", Access::Open, &inodes);
    host.connect(("10.0.0.9", 40_000), ("10.0.0.1", 5432), TcpState::Established, 900_000);
    host.move_last(namespace);
    host.run(holder, Access::Open, &[900_000]);
    host.named.insert(FAR[0]);
    host
}

#[test]
fn connections_that_are_there_for_a_name_take_no_room_from_those_that_count() {
    let crowd = u64::try_from(MAX_CANDIDATES).unwrap() * 2;
    let mut monitor = everywhere(&crowded_by_name(crowd, NamespaceId::OWN, "app"), true);
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, UP), values(&cycle, CONNECTIONS)), (vec![1], vec![1]));
    assert!(cycle.failures.is_empty());
    // Where none counts, one of them may: each look looks at others.
    let mut monitor = everywhere(&crowded_by_name(crowd, FAR[0], "app"), true);
    let looks = crowd.div_ceil(u64::try_from(MAX_NAMED_CANDIDATES).unwrap());
    for _ in 1..looks {
        let cycle = monitor.tell(&[0]);
        assert!(values(&cycle, UP).is_empty(), "never down");
        assert!(matches!(cycle.failure().unwrap().error, LookError::CutShort));
    }
    let found = (0..2).any(|_| values(&monitor.tell(&[0]), UP) == [1]);
    assert!(found, "after {looks} looks");
}

#[test]
fn namespaces_that_only_have_names_are_left_alone_while_links_are_up() {
    let mut host = twins();
    host.named.insert(NamespaceId(99));
    let mut monitor = everywhere(&host, true);
    monitor.tell(&[0]);
    monitor.tell(&[0]);
    assert_eq!(monitor.connections.attended, FAR.into());
}

#[test]
fn an_up_is_counted_anew_although_somebody_lives_where_the_agent_may_not_enter() {
    let mut host = twins();
    host.barred.insert(FAR[1]);
    let mut monitor = everywhere(&host, true);
    assert_eq!(values(&monitor.tell(&[0]), CONNECTIONS), [1]);
    monitor.connections.connect(("10.0.0.9", 40001), ("10.0.0.1", 5432), TcpState::Established, 9);
    monitor.connections.move_last(FAR[0]);
    monitor.processes.process_mut(0).inodes.push(9);
    let cycle = monitor.tell(&[0]);
    assert_eq!((values(&cycle, CONNECTIONS), ages(&cycle)), (vec![2], vec![0.0]));
}

#[test]
fn a_link_of_one_interface_is_failed_where_interfaces_are_not_told() {
    let zoned = || {
        let mut zoned = probe("a", 5432, 1);
        zoned.dest_ip = "fe80::1%eth0".parse().unwrap();
        zoned
    };
    for (unentered, failed) in [(FAR.into(), 1), (BTreeSet::new(), 0)] {
        let mut host = twins();
        host.unentered = unentered;
        let terms = Terms { namespaces: Namespaces::All, ..Terms::default() };
        let probes = vec![zoned()];
        let mut monitor = Monitor::new(host.clone(), host.clone(), Manual::default(), probes, terms).unwrap();
        let cycle = monitor.tell(&[0]);
        assert_eq!(monitor.outcomes().failed, failed);
        assert_eq!(values(&cycle, UP).is_empty(), failed > 0);
    }
}

#[test]
fn how_connections_fare_is_not_asked_again_where_it_is_never_told() {
    for stands_in in [true, false] {
        let mut host = twins();
        for index in (0..2).filter(|_| stands_in) {
            let connection = host.connection_mut(index).unwrap();
            let Connection { inode, local, remote, namespace, .. } = *connection;
            connection.cookie = Cookie::stand_in(inode, local, remote, namespace);
        }
        let mut monitor = everywhere(&host, true);
        monitor.tell(&[0]);
        monitor.tell(&[0]);
        // The first cycle knows of nothing to verify, and asks after its walk how what it found fares.
        assert_eq!(values(&monitor.tell(&[0]), CONNECTIONS), [2]);
        assert_eq!(monitor.connections.lookups == 2, stands_in, "{}", monitor.connections.lookups);
    }
}
