//! Collectors that fail in every way: what is measured meanwhile arrives afterwards, no probe is late, nothing grows, and
//! the log tells it once.
//!
//! Each row lasts seconds. `VMS_FAULT_SECONDS=600` makes long outages of them.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::json;
use vms_agent_tests::deadline::{now, unix_nanoseconds};
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Fault, Faulty, Inject, Link, Metronome, Namespace, Outage, Points, Protocol, Scene,
    SpoolMode, Stored, Usage, eventually, needs, probe,
};

static METRONOME: LazyLock<Metronome> = LazyLock::new(Metronome::start);

/// How connections fail, in both protocols.
const CONNECTIONS: &[(&str, Fault, &str)] = &[
    ("down", Fault::Down, "connecting failed"),
    ("silent from the first byte", Fault::Mute, "no end of exchange within"),
    ("reset at once", Fault::ResetAtOnce, "exchange failed"),
    ("garbage instead of a protocol", Fault::Garbage, "check that the endpoint speaks"),
    ("silent before the answer", Fault::HangBeforeHead, "no end of exchange within"),
    ("silent in the body", Fault::HangInBody, "no end of exchange within"),
    ("silent before the trailers", Fault::HangBeforeTrailers, "no end of exchange within"),
    ("reset before the answer", Fault::ResetBeforeHead, "exchange failed"),
    ("reset in the body", Fault::ResetInBody, "exchange failed"),
    ("reset before the trailers", Fault::ResetBeforeTrailers, "exchange failed"),
];

/// How HTTP/2 fails.
const STREAMS: &[(&str, Fault, &str)] = &[
    ("no settings", Fault::NoSettings, "no end of exchange within"),
    ("no window to send in", Fault::NoWindow, "no end of exchange within"),
    ("goodbye to each request", Fault::GoAway, "see the collector's log, and that of any proxy"),
    ("each stream reset", Fault::ResetStream, "see the collector's log, and that of any proxy"),
];

/// HTTP statuses that pass, and what refuses for good; of the latter what is told.
const PASSING: &[u16] = &[429, 502, 503, 504];
const REFUSING: &[(u16, &str)] = &[
    (400, "cannot read the request"),
    (401, "check the credentials"),
    (403, "not allowed to write metrics"),
    (404, "check the path"),
    (413, "request size limit"),
    (500, "see the collector's log"),
];

/// gRPC codes that pass, and those that refuse for good.
const PASSING_CODES: &[(u16, &str)] =
    &[(1, "CANCELLED"), (4, "DEADLINE_EXCEEDED"), (10, "ABORTED"), (14, "UNAVAILABLE"), (15, "DATA_LOSS")];
const REFUSING_CODES: &[(u16, &str)] = &[
    (3, "INVALID_ARGUMENT"),
    (7, "PERMISSION_DENIED"),
    (8, "RESOURCE_EXHAUSTED"),
    (12, "UNIMPLEMENTED"),
    (16, "UNAUTHENTICATED"),
];

fn of(protocol: Protocol, rows: &[(&'static str, Fault, &'static str)]) -> Vec<Outage> {
    rows.iter().map(|&(name, fault, told)| Outage::of(protocol, name, fault, told)).collect()
}

/// The way to the collector is away, so that what is measured waits.
fn away(protocol: Protocol) -> Vec<Outage> {
    let accepting = Outage::of(protocol, "", Fault::Nothing, "");
    let packets = Outage { once: false, ..accepting };
    let mut rows = of(protocol, CONNECTIONS);
    rows.extend([
        Outage {
            name: "down at the start",
            inject: Inject::DownAtStart,
            told: "connecting failed",
            ..accepting
        },
        Outage {
            name: "a cut cable",
            inject: Inject::Drop("tcp dport { 4317, 4318 }"),
            told: "no end of connecting within",
            ..packets
        },
        Outage {
            name: "answers cut off",
            inject: Inject::Drop("tcp sport { 4317, 4318 } tcp flags & syn == 0"),
            told: "no end of exchange within",
            ..packets
        },
    ]);
    rows
}

/// What is the same in both protocols.
fn common(protocol: Protocol) -> Vec<Outage> {
    let accepting = Outage::of(protocol, "", Fault::Nothing, "");
    let packets = Outage { once: false, ..accepting };
    let mut rows = away(protocol);
    // Wherever it waits, it arrives; what the other rows are about does not depend on that.
    for spool in [SpoolMode::Always, SpoolMode::Off] {
        rows.extend(away(protocol).into_iter().map(|row| Outage { spool, ..row }));
    }
    rows.extend([
        // It may have stored what it acknowledged too late.
        Outage {
            once: false,
            ..Outage::of(
                protocol,
                "too slow",
                Fault::Slow(Duration::from_secs(3)),
                "no end of exchange within",
            )
        },
        Outage::of(protocol, "slow", Fault::Slow(Duration::from_millis(100)), ""),
        Outage::of(protocol, "success with nonsense", Fault::GarbageBody, "the points count as sent"),
        Outage {
            lost: true,
            ..Outage::of(protocol, "part taken", Fault::Partial(2), "2 points rejected: too many")
        },
        Outage::of(protocol, "success without end", Fault::Endless, "the points count as sent"),
        Outage {
            secure: true,
            ..Outage::of(
                protocol,
                "silent in the TLS handshake",
                Fault::Mute,
                "no end of TLS handshake within",
            )
        },
        Outage {
            secure: true,
            ..Outage::of(protocol, "reset in the TLS handshake", Fault::ResetAtOnce, "TLS handshake failed")
        },
        Outage {
            secure: true,
            ..Outage::of(protocol, "garbage instead of TLS", Fault::Garbage, "TLS handshake failed")
        },
        Outage {
            secure: true,
            ..Outage::of(protocol, "silent behind TLS", Fault::HangBeforeHead, "no end of exchange within")
        },
        Outage {
            name: "new connections dropped",
            inject: Inject::Drop("tcp dport { 4317, 4318 } tcp flags syn / syn,ack"),
            ..packets
        },
        Outage {
            name: "some packets lost",
            inject: Inject::Lose("tcp dport { 4317, 4318 } numgen random mod 10 < 3"),
            ..packets
        },
        Outage { name: "a narrow way", inject: Inject::Narrow(400), ..packets },
    ]);
    rows
}

fn grpc() -> Vec<Outage> {
    let row = |name, fault, told| Outage::of(Protocol::Grpc, name, fault, told);
    let mut rows = common(Protocol::Grpc);
    rows.extend(of(Protocol::Grpc, STREAMS));
    rows.extend(PASSING_CODES.iter().map(|&(code, name)| row(name, Fault::Code(code, None), name)));
    rows.extend(
        REFUSING_CODES
            .iter()
            .map(|&(code, name)| Outage { lost: true, ..row(name, Fault::Code(code, None), name) }),
    );
    rows.extend(
        PASSING
            .iter()
            .map(|&status| row("a proxy's status", Fault::Status(status, None, None), "UNAVAILABLE")),
    );
    rows.push(Outage {
        lost: true,
        ..row("a proxy's 401", Fault::Status(401, None, None), "UNAUTHENTICATED")
    });
    rows.push(Outage {
        silence: Some(Duration::from_millis(900)),
        ..row("throttled", Fault::Code(8, Some(900)), "RESOURCE_EXHAUSTED")
    });
    rows
}

fn http() -> Vec<Outage> {
    let row = |name, fault, told| Outage::of(Protocol::Http, name, fault, told);
    let mut rows = common(Protocol::Http);
    rows.extend(
        PASSING
            .iter()
            .map(|&status| row("a status that passes", Fault::Status(status, None, None), "exchange failed")),
    );
    rows.extend(REFUSING.iter().map(|&(status, told)| Outage {
        lost: true,
        ..row("a status that stays", Fault::Status(status, None, None), told)
    }));
    let elsewhere = Fault::Status(307, Some("http://localhost:4999/v1/metrics"), None);
    rows.extend([
        Outage { lost: true, ..row("redirected", elsewhere, "to http://localhost:4999/v1/metrics") },
        Outage {
            silence: Some(Duration::from_secs(1)),
            ..row("throttled by seconds", Fault::Status(429, None, Some(1)), "429")
        },
        Outage {
            silence: Some(Duration::from_secs(1)),
            ..row("throttled by a date", Fault::RetryAtDate(503, 1), "503")
        },
    ]);
    rows
}

/// Some minutes of a day's outage: the queue is full long before its end.
#[test]
fn a_long_outage_fills_the_queue_to_its_bound_and_memory_no_further() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
    let (stored, process) = (Stored::default(), scene.name("svc"));
    let collector = Faulty::start(&host, Protocol::Grpc, Protocol::Grpc.address(), stored.keeper());
    collector.set(Fault::Down);
    let probes: Vec<_> =
        (0..40).map(|number| probe(&format!("link-{number}"), &process, link.service())).collect();
    let export = json!({ "queueBytes": 131_072, "spool": { "mode": "off" }, "backoff": { "initial": "50ms", "max": "200ms" } });
    let config = json!({ "interval": "500ms", "cpuBudget": "100%", "probes": probes, "export": export });
    let mut agent = AgentCommand::new(&scene, &host).config(&config).start();
    agent.wait_for_log(&["WARN", "the queue is full"]);
    let (full, before, silent) = (unix_nanoseconds(), agent.usage(), now());
    eventually("the queue to be pushed through some times over", || {
        (silent.elapsed() > Duration::from_secs(6)).then_some(())
    });
    let slack = Usage { resident_kib: 2048, own_kib: 2048, threads: 1, descriptors: 1 };
    let usage = agent.usage();
    assert!(usage.is_within(&before, &slack), "{before:?} when it was full, {usage:?} later");
    collector.set(Fault::Nothing);
    let ended = unix_nanoseconds();
    let one: &[_] = &[("name", "link-7"), ("direction", "forward")];
    stored.wait_for_points("vms.connection_mon.up", one, 3, ended);
    agent.wait_for_log(&["INFO", "takes data again after"]);
    agent.stop();
    let times: Vec<u64> =
        stored.series("vms.connection_mon.up", one).iter().map(|point| point.time).collect();
    let first = times.first().copied().unwrap_or_default();
    assert!(first > full && first < ended, "the newest of the outage are kept, the oldest made room");
    let gaps = times.windows(2).filter(|pair| pair[1] - pair[0] > 750_000_000).count();
    assert_eq!(gaps, 0, "what was kept is whole: {times:?}");
    assert_eq!(agent.log_with(&["WARN", "the queue is full"]).len(), 1);
}

#[test]
fn no_fault_of_a_collector_over_grpc_loses_a_point_or_delays_a_probe() {
    needs!(Need::Agent, Need::PacketFilter, Need::Tool("tc"));
    Outage::run_all(&grpc(), &METRONOME);
}

#[test]
fn no_fault_of_a_collector_over_http_loses_a_point_or_delays_a_probe() {
    needs!(Need::Agent, Need::PacketFilter, Need::Tool("tc"));
    Outage::run_all(&http(), &METRONOME);
}
