use std::time::{Duration, SystemTime};

use super::*;
use crate::connection::TcpState;
use crate::look::DownReason;
use crate::metric::AttributeValue;
use crate::probe::MatchedSourceLabels;
use crate::process::ProcessPattern;
use crate::test_host::{Access, Host};

struct Still;

impl Clock for Still {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)
    }

    fn cpu(&self) -> Duration {
        Duration::ZERO
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

fn monitor(host: &Host, probes: Vec<ConnectionProbe>) -> Monitor<Host, Host, Still> {
    Monitor::new(host.clone(), host.clone(), Still, probes).unwrap()
}

fn values(cycle: &Cycle, metric: &str) -> Vec<i64> {
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
    let cycle = monitor.measure(&[1]);
    assert_eq!(values(&cycle, UP), [0]);
    let name = &cycle.points[0].attributes[0];
    assert_eq!((name.key, &name.value), ("name", &AttributeValue::from("b")));
    assert_eq!(values(&monitor.measure(&[0, 1]), UP), [1, 0]);
}

#[test]
fn a_measurement_that_failed_has_no_point_and_is_counted_and_loses_no_state() {
    let host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1)]);
    assert_eq!(values(&monitor.measure(&[0]), UP), [1]);
    monitor.connections.break_dumps(1);
    let cycle = monitor.measure(&[0]);
    assert_eq!((cycle.points.len(), cycle.changes.len()), (0, 0));
    assert_eq!(cycle.failure.unwrap().probes, ["a".into()]);
    let cycle = monitor.measure(&[0]);
    assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![1], 0), "up before, up after: no change");
    assert_eq!(monitor.outcomes(), Outcomes { ok: 2, permission_missing: 0, failed: 1 });
}

#[test]
fn a_link_is_looked_for_twice_before_it_is_reported_down() {
    let mut host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1)]);
    monitor.measure(&[0]);

    let connection = host.disconnect_all();
    monitor.connections.disconnect_all();
    monitor.connections.late = connection;
    let before = monitor.connections.dumps;
    let cycle = monitor.measure(&[0]);
    assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![1], 0), "the second look found it");
    assert_eq!(monitor.connections.dumps - before, 2);

    monitor.connections.disconnect_all();
    let cycle = monitor.measure(&[0]);
    assert_eq!(values(&cycle, UP), [0]);
    assert_eq!(cycle.changes[0].reason, Some(DownReason::NoConnection));
    let before = monitor.connections.dumps;
    monitor.measure(&[0]);
    assert_eq!(monitor.connections.dumps - before, 1, "down already: one look is enough");
}

#[test]
fn a_second_look_that_fails_leaves_no_point() {
    let host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1), probe("b", 5432, 1)]);
    monitor.measure(&[0]);
    monitor.connections.disconnect_all();
    monitor.processes.disconnect_all();
    let look = monitor.look(&[0, 1], false).unwrap();
    monitor.connections.break_dumps(1);
    let mut cycle = Cycle::default();
    monitor.take_in(&[0, 1], look, SystemTime::UNIX_EPOCH, &mut cycle);
    assert_eq!(cycle.failure.unwrap().probes, ["a".into()]);
    assert_eq!(values(&Cycle { points: cycle.points, ..Cycle::default() }, UP), [0], "b was never up");
}

#[test]
fn a_missing_permission_is_told_while_it_lasts_and_then_that_it_is_over() {
    let mut denied = Host::default();
    denied.run("app", Access::Denied, &[7]);
    denied.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, 7);
    let mut monitor = monitor(&denied, vec![probe("a", 5432, 1), probe("b", 9, 5)]);

    assert!(values(&monitor.measure(&[1]), PERMISSION).is_empty(), "nothing failed yet");
    let cycle = monitor.measure(&[0, 1]);
    assert_eq!(values(&cycle, PERMISSION), [1]);
    assert_eq!(cycle.permissions, [PermissionChange { capability: Capability::SysPtrace, missing: true }]);
    assert_eq!(values(&cycle, "vms.connection_mon.unattributed"), [1, 0]);
    let cycle = monitor.measure(&[1]);
    assert_eq!(values(&cycle, PERMISSION), [1], "another probe's turn does not clear it");
    assert_eq!(cycle.permissions, []);

    monitor.connections.break_dumps(1);
    let cycle = monitor.measure(&[0]);
    assert!(cycle.points.is_empty(), "a failed measurement says nothing of permissions either");

    monitor.processes.permit_all();
    let cycle = monitor.measure(&[0]);
    assert_eq!((values(&cycle, PERMISSION), values(&cycle, UP)), (vec![0], vec![1]));
    assert_eq!(cycle.permissions, [PermissionChange { capability: Capability::SysPtrace, missing: false }]);
    assert_eq!(monitor.outcomes().permission_missing, 1);
}

#[test]
fn a_reload_keeps_what_is_known_of_unchanged_probes_and_forgets_the_others() {
    let host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1), probe("b", 5432, 1)]);
    monitor.measure(&[0, 1]);
    monitor.connections.disconnect_all();
    monitor.replace_probes(vec![probe("b", 5433, 1), probe("c", 1, 1), probe("a", 5432, 9)]).unwrap();
    let cycle = monitor.measure(&[0, 1, 2]);
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
    let found = monitor.check().unwrap();
    assert!(found[0].1.forward.is_up(), "the second look found it");
}

#[test]
fn a_link_whose_connections_are_replaced_between_dump_and_search_is_never_reported_down() {
    let host = host();
    let mut monitor = monitor(&host, vec![probe("a", 5432, 1)]);
    monitor.measure(&[0]);
    // Each dump tells of another connection, which nobody holds any more by the time that holders are searched.
    let replaced = |inode: u64| {
        let mut next = Host::default();
        next.connect(("10.0.0.9", 40000), ("10.0.0.1", 5432), TcpState::Established, inode);
        next.disconnect_all()
    };
    monitor.connections.disconnect_all();
    monitor.connections.replacements = (100..200).map(replaced).collect();
    let cycle = monitor.measure(&[0]);
    assert!(matches!(cycle.failure.unwrap().error, LookError::Unsettled));
    assert!(values(&Cycle { points: cycle.points, ..Cycle::default() }, UP).is_empty(), "no answer is no 0");

    monitor.connections.replacements = vec![replaced(7), replaced(201)];
    let cycle = monitor.measure(&[0]);
    assert_eq!((values(&cycle, UP), cycle.changes.len()), (vec![1], 0), "the second look saw who holds it");

    monitor.connections.replacements = vec![replaced(300), replaced(300)];
    let cycle = monitor.measure(&[0]);
    assert_eq!(cycle.changes[0].reason, Some(DownReason::HeldByOther), "the same connection, twice nobody's");
}
