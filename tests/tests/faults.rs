//! Collectors that fail in every way: what is measured meanwhile arrives afterwards, no probe is late, nothing grows, and
//! the log tells it once.
//!
//! Each row lasts seconds. `VMS_FAULT_SECONDS=600` makes long outages of them.

use std::sync::LazyLock;
use std::time::Duration;

use vms_agent_tests::skip::Need;
use vms_agent_tests::{Fault, Inject, Metronome, Outage, Protocol, needs};

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

/// What is the same in both protocols.
fn common(protocol: Protocol) -> Vec<Outage> {
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
        Outage {
            name: "new connections dropped",
            inject: Inject::Drop("tcp dport { 4317, 4318 } tcp flags syn / syn,ack"),
            ..packets
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
    rows.extend([
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
