use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::*;
use vms_core::connection::{TcpState, TcpStates};
use vms_core::discovery::DiscoveryProbe;
use vms_core::observer::{Bounds, Standing};
use vms_core::presence::PresenceProbe;
use vms_core::probe::{ConnectionProbe, MatchedSourceLabels};
use vms_core::process::{Capability, ProcessPattern};
use vms_core::socket::{EndClause, Families, SocketClause, Transport};
use vms_core::watch::WatchProbe;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn log_of(cycles: impl IntoIterator<Item = Cycle>) -> String {
    log_with(&[], cycles)
}

fn log_with(probes: &[Probe], cycles: impl IntoIterator<Item = Cycle>) -> String {
    let lines = Lines::default();
    let subscriber =
        tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).without_time().finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut journal = Journal::default();
        journal.set_probes(probes);
        for cycle in cycles {
            journal.tell(&cycle);
        }
    });
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// Probes that fail, and those of them for the first time.
fn failure(error: LookError, probes: &[&str], new: &[&str]) -> Failure {
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    Failure { probes: names(probes), new: names(new), error }
}

/// A cycle in which two probes fail, these for the first time.
fn failed(new: &[&str]) -> Cycle {
    let error = LookError::Connections("netlink: interrupted".into());
    Cycle { failures: vec![failure(error, &["a", "b"], new)], still_failing: 2, ..Cycle::default() }
}

#[test]
fn that_nothing_can_be_verified_is_told_once_and_that_it_can_be_again() {
    let unverified =
        || Cycle { unverified: Some(LookError::Connections("netlink: refused".into())), ..Cycle::default() };
    let log = log_of([unverified(), unverified(), Cycle::default(), Cycle::default()]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].contains("netlink: refused") && lines[0].contains("vms-agent doctor"), "{log}");
    assert!(lines[1].contains("again"), "{log}");
}

#[test]
fn an_outage_of_measuring_is_told_at_its_start_and_at_its_end() {
    // In one between them, neither is due.
    let others = Cycle { still_failing: 2, ..Cycle::default() };
    let cycles = [failed(&["a", "b"]), failed(&[]), others, failed(&[]), Cycle::default(), Cycle::default()];
    let log = log_of(cycles);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].contains("a b"), "{log}");
    assert!(lines[0].contains("connections could not be read: netlink: interrupted"), "{log}");
    assert!(lines[0].contains("vms-agent doctor"), "{log}");
    assert!(lines[1].contains("failed_cycles=3"), "{log}");
}

#[test]
fn each_reason_why_probes_fail_is_told_with_its_probes_and_what_to_do() {
    let cycle = |new: &[&[&str]; 3]| Cycle {
        failures: vec![
            failure(LookError::Unsurveyed("run `modprobe udp_diag`".into()), &["dns", "ntp"], new[0]),
            failure(LookError::Crowded, &["crowd"], new[1]),
            failure(LookError::Unsettled, &["link"], new[2]),
        ],
        still_failing: 4,
        ..Cycle::default()
    };
    let log = log_of([
        cycle(&[&["dns", "ntp"], &["crowd"], &["link"]]),
        cycle(&[&[], &[], &[]]),
        cycle(&[&[], &[], &["link"]]),
        Cycle::default(),
    ]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 5, "{log}");
    assert!(lines[0].contains("probes=\"dns ntp\"") && lines[0].contains("`modprobe udp_diag`"), "{log}");
    assert!(lines[1].contains("probes=\"crowd\"") && lines[1].contains("ports or addresses"), "{log}");
    assert!(!lines[1].contains("doctor"), "what to do is said: {log}");
    for line in [lines[2], lines[3]] {
        assert!(line.contains("probes=\"link\"") && line.contains("see what opens connections"), "{log}");
    }
    assert!(lines[4].contains("failed_cycles=3"), "{log}");
}

#[test]
fn conntrack_that_cannot_be_read_is_told_once_and_then_that_it_is_over() {
    let cycle = |translations| Cycle { translations, ..Cycle::default() };
    let untold = |kind: fn(Box<dyn std::error::Error + Send + Sync>) -> Untold| {
        cycle(Some(Err(kind("conntrack request: failed".into()))))
    };
    let read = || cycle(Some(Ok(())));
    // Cycles without a walk say nothing of it.
    let told = log_of([
        read(),
        untold(Untold::Failed),
        cycle(None),
        untold(Untold::Failed),
        read(),
        cycle(None),
        read(),
        untold(Untold::Unavailable),
        untold(Untold::Unavailable),
    ]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 3, "{told}");
    assert!(
        lines[0].contains("could not be read") && lines[0].contains("conntrack request: failed"),
        "{told}"
    );
    assert!(lines[1].contains("conntrack is read again"), "{told}");
    assert!(lines[2].contains("`conntrack: off`") && lines[2].contains("vms-agent doctor"), "{told}");
}

#[test]
fn what_keeps_holders_from_being_inferred_is_told_with_what_to_do() {
    let lacks = [InferenceLack::NoCgroups, InferenceLack::OwnProcesses].into();
    let log = log_of([Cycle { lacks, ..Cycle::default() }, Cycle::default()]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(
        lines.iter().all(|line| line.contains("stay unattributed") && line.contains("vms-agent doctor")),
        "{log}"
    );
}

fn link(matched_source_labels: MatchedSourceLabels) -> ConnectionProbe {
    let pattern = ProcessPattern { name: "orders".parse().unwrap(), executable: None };
    ConnectionProbe {
        name: "orders-db".into(),
        source_process: pattern.clone(),
        dest_process: pattern,
        dest_ip: "10.0.0.5".parse().unwrap(),
        dest_port: 5432,
        source_ip: None,
        source_port: None,
        interval: Duration::from_secs(15),
        matched_source_labels,
    }
}

#[test]
fn a_probe_with_more_sources_than_series_is_named_with_what_to_do_and_when_it_is_over() {
    let cycle = |labels, unreported| {
        let probe = Arc::new(link(labels));
        Cycle { limits: vec![LimitChange { probe, unreported }], ..Cycle::default() }
    };
    for (labels, advice) in [
        (MatchedSourceLabels::IpPort, "`matchedSourceLabels: ip` or `none`, or split the probe"),
        (MatchedSourceLabels::Ip, "`matchedSourceLabels: none`, or split the probe"),
        (MatchedSourceLabels::None, "split the probe"),
    ] {
        let log = log_of([cycle(labels, 17), Cycle::default(), cycle(labels, 0)]);
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].contains("WARN") && lines[0].contains("link=\"orders-db\""), "{log}");
        assert!(lines[0].contains("unreported=17") && lines[0].contains("series=1000"), "{log}");
        assert!(lines[0].contains(advice), "{log}");
        let names_labels = labels != MatchedSourceLabels::None;
        assert_eq!(lines[0].contains("matchedSourceLabels"), names_labels, "{log}");
        assert!(lines[1].contains("INFO") && lines[1].contains("link=\"orders-db\""), "{log}");
        assert!(lines[1].contains("again"), "{log}");
    }
}

#[test]
fn what_is_as_expected_again_is_told_truly_after_too_few_and_after_too_many() {
    let cycle = |status, count| {
        let standing = Standing {
            status,
            count,
            unattributed: 0,
            missing: BTreeSet::new(),
            resolved: Vec::new(),
            usage: None,
        };
        let bounds = Bounds { least: 2, most: Some(4) };
        let change = StatusChange { name: "pool".into(), what: "processes", standing, bounds };
        Cycle { standings: vec![change], ..Cycle::default() }
    };
    let log = log_of([
        cycle(Status::Warning, 5),
        cycle(Status::Up, 4),
        cycle(Status::Down, 1),
        cycle(Status::Up, 2),
    ]);
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].contains("more processes than expected") && lines[0].contains("most=4"), "{log}");
    assert!(lines[2].contains("fewer processes than expected") && lines[2].contains("least=2"), "{log}");
    for line in [lines[1], lines[3]] {
        assert!(line.contains("there are as many processes as expected"), "{log}");
    }
}

#[test]
fn a_capability_that_is_missed_is_told_with_the_metrics_that_the_probes_flag_it_by() {
    let process = || ProcessPattern { name: "svc".parse().unwrap(), executable: None };
    let interval = Duration::from_secs(15);
    let bounds = Bounds { least: 1, most: None };
    let link = || Probe::from(link(MatchedSourceLabels::None));
    let presence = || {
        Probe::Presence(Arc::new(PresenceProbe {
            name: "count".into(),
            process: process(),
            bounds,
            resources: false,
            interval,
        }))
    };
    let watch = |process| {
        Probe::Watch(Arc::new(WatchProbe {
            name: "watch".into(),
            process,
            clause: SocketClause {
                transport: Transport::Tcp,
                families: Families::BOTH,
                states: TcpStates::of(&[TcpState::Established]),
                local: EndClause::default(),
                remote: EndClause::default(),
            },
            local_names: Vec::new(),
            remote_names: Vec::new(),
            bounds,
            by_family: false,
            interval,
            labels: Vec::new(),
        }))
    };
    let discovery = || {
        let processes = vec![process()];
        Probe::Discovery(Arc::new(DiscoveryProbe { name: "map".into(), processes, most: 10, interval }))
    };
    let change = |missing| {
        let change = PermissionChange { capability: Capability::SysPtrace, missing };
        Cycle { permissions: vec![change], ..Cycle::default() }
    };
    for (probes, flags) in [
        (vec![link(), link()], "where vms.connection_mon.unattributed is not 0"),
        // Whoever holds them, they count.
        (vec![link(), watch(None)], "where vms.connection_mon.unattributed is not 0"),
        (vec![watch(Some(process()))], "where vms.connection.unattributed is not 0"),
        (
            vec![link(), discovery(), presence()],
            "where vms.connection_mon.unattributed or vms.discovery.unattributed or vms.process_mon.possible is not 0",
        ),
    ] {
        let log = log_with(&probes, [change(true), change(false)]);
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].contains(flags) && lines[0].contains("CAP_SYS_PTRACE"), "{log}");
        assert!(lines[0].contains("vms-agent doctor"), "{log}");
        assert!(lines[1].contains("INFO") && lines[1].contains("CAP_SYS_PTRACE"), "{log}");
    }
}
