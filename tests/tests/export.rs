//! What arrives at collectors that this project did not write, and what they did not miss while they were away.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeSet;

use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::skip::Need;
use vms_agent_tests::tls::{Certificates, Gate};
use vms_agent_tests::watched::{FORWARD, UP, Watched};
use vms_agent_tests::{
    Agent, AgentCommand, Answer, Collector, Number, Points, Protocol, Responder, Rotel, eventually, needs,
    probe,
};

const COMPRESSIONS: [&str; 3] = ["none", "gzip", "zstd"];
/// rotel has no zstd.
const COMPRESSIONS_OF_ROTEL: [&str; 2] = ["none", "gzip"];

/// An agent that watches the link, and keeps in memory what waits.
fn sending<'a>(watched: &'a Watched, protocol: Protocol, endpoint: &str) -> AgentCommand<'a> {
    watched
        .agent()
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        // What waits in memory is sent in order. `spool.rs` is about what waits on the disk.
        .variable("VMS_EXPORT__SPOOL__MODE", "off")
}

/// Runs an agent with a mark in its resource until its points have arrived, and checks all that is in them.
#[track_caller]
fn assert_everything_arrives(
    watched: &Watched,
    collector: &impl Points,
    protocol: Protocol,
    compression: &str,
) {
    let mark = format!("{} {compression}", protocol.name());
    let since = unix_nanoseconds();
    let mut agent = sending(watched, protocol, &protocol.endpoint())
        .variable("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
        .variable("OTEL_SERVICE_NAME", "link-agent")
        .variable("OTEL_RESOURCE_ATTRIBUTES", format!("mark={mark},service.name=other,deployment=a%20b%2Cc"))
        .start();
    let quoted = format!("\"{mark}\"");
    let marked = |metric: &str, attributes: &[(&str, &str)]| {
        let mut series = collector.series(metric, attributes);
        series.retain(|point| point.resource.get("mark") == Some(&quoted));
        series
    };
    let looks = eventually("three looks", || {
        let points = marked(UP, FORWARD);
        (points.len() >= 3).then_some(points)
    });
    agent.stop();
    let until = unix_nanoseconds();

    let link = [
        ("name", "\"link\"".to_owned()),
        ("dest_ip", format!("\"{}\"", watched.link.service().ip())),
        ("dest_port", watched.link.service().port().to_string()),
        ("proto", "\"tcp\"".to_owned()),
        ("process_name", format!("\"{}\"", watched.scene.name("svc"))),
        ("direction", "\"forward\"".to_owned()),
    ];
    let link: Vec<_> = link.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
    for (metric, state, value) in [
        (UP, None, 1),
        ("vms.connection_mon.status", Some("up"), 1),
        ("vms.connection_mon.status", Some("down"), 0),
        ("vms.connection_mon.connections", None, 1),
        ("vms.connection_mon.unattributed", None, 0),
    ] {
        let mut attributes = FORWARD.to_vec();
        attributes.extend(state.map(|state| ("state", state)));
        let definition = vms_core::metric::ALL.iter().find(|known| known.name == metric).unwrap();
        let points = marked(metric, &attributes);
        assert!(points.len() >= looks.len(), "{metric}: a point for each look");
        let mut last = since;
        for point in points {
            assert_eq!(point.value, Number::Int(value), "{point:#?}");
            assert_eq!((point.unit.as_str(), point.kind.as_str()), (definition.unit, "gauge"));
            assert_eq!(point.description, definition.description);
            let mut expected: Vec<_> = link.clone();
            expected.extend(state.map(|state| ("state".to_owned(), format!("\"{state}\""))));
            assert_eq!(point.attributes, expected.into_iter().collect(), "{point:#?}");
            assert!(point.time > last && point.time < until, "when it was measured: {point:#?}");
            last = point.time;
        }
    }
    assert!(marked("vms.connection_mon.down_reason", FORWARD).is_empty());

    let resource = &looks[0].resource;
    for (key, value) in [
        ("service.name", "link-agent"),
        ("deployment", "a b,c"),
        ("os.type", "linux"),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(resource.get(key), Some(&format!("\"{value}\"")), "{key}: {resource:#?}");
    }
    for key in ["service.instance.id", "host.name", "host.arch", "os.version"] {
        assert!(resource.get(key).is_some_and(|value| value.len() > 2), "{key}: {resource:#?}");
    }

    let done = marked("vms.agent.measurements", &[("outcome", "ok")]);
    let last = done.last().unwrap();
    assert_eq!((last.kind.as_str(), last.unit.as_str()), ("counter", "{measurement}"));
    assert!(last.start >= since && last.start <= last.time, "{last:#?}");
    assert!(done.is_sorted_by_key(|point| point.value.as_int()), "{done:#?}");
    let durations = marked("vms.agent.cycle.duration", &[]);
    assert_eq!(durations.last().unwrap().kind, "histogram");
}

#[test]
fn everything_arrives_at_the_mock_collector_over_grpc() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    for compression in COMPRESSIONS {
        assert_everything_arrives(&watched, &collector, Protocol::Grpc, compression);
    }
}

#[test]
fn everything_arrives_at_the_mock_collector_over_http() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let collector = Collector::start(&watched.host, Protocol::Http);
    for compression in COMPRESSIONS {
        assert_everything_arrives(&watched, &collector, Protocol::Http, compression);
    }
}

#[test]
fn everything_arrives_at_rotel_over_grpc() {
    needs!(Need::Agent, Need::Rotel);
    let watched = Watched::new();
    let collector = Rotel::start(&watched.scene, &watched.host);
    for compression in COMPRESSIONS_OF_ROTEL {
        assert_everything_arrives(&watched, &collector, Protocol::Grpc, compression);
    }
}

#[test]
fn everything_arrives_at_rotel_over_http() {
    needs!(Need::Agent, Need::Rotel);
    let watched = Watched::new();
    let collector = Rotel::start(&watched.scene, &watched.host);
    for compression in COMPRESSIONS_OF_ROTEL {
        assert_everything_arrives(&watched, &collector, Protocol::Http, compression);
    }
}

#[test]
fn requests_carry_the_configured_headers_and_say_how_they_are_compressed() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let watched = Watched::new();
        let responder = Responder::start(&watched.host, protocol, &[]);
        for compression in COMPRESSIONS {
            let before = responder.requests().len();
            let mut agent = sending(&watched, protocol, &protocol.endpoint())
                .variable("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret,x-tenant=shop")
                .variable("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
                .start();
            let request = eventually("a request", || responder.requests().get(before).cloned());
            agent.stop();
            let header = |name: &str| request.headers.get(name).map(String::as_str);
            assert_eq!(
                header("authorization"),
                Some("Bearer secret"),
                "{protocol:?}: {:#?}",
                request.headers
            );
            assert_eq!(header("x-tenant"), Some("shop"));
            let agent_name = header("user-agent").unwrap_or_default();
            assert!(agent_name.to_lowercase().contains("vms-agent"), "{agent_name}");
            let encoding = match protocol {
                Protocol::Grpc => "grpc-encoding",
                Protocol::Http => "content-encoding",
            };
            let said = header(encoding).filter(|said| *said != "identity").unwrap_or("none");
            assert_eq!(said, compression);
            if protocol == Protocol::Http {
                assert_eq!(header("content-type"), Some("application/x-protobuf"));
                assert_eq!(request.path.as_deref(), Some("/v1/metrics"));
            }
            assert!(agent.log_with(&["secret"]).is_empty(), "a secret is never logged");
        }
    }
}

#[test]
fn variables_of_the_signal_win_and_their_endpoint_is_taken_as_it_is() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let responder = Responder::start(&watched.host, Protocol::Http, &[]);
    let endpoint = format!("{}/of/my/own", Protocol::Http.endpoint());
    let mut agent = sending(&watched, Protocol::Grpc, "http://localhost:9")
        .variable("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", Protocol::Http.name())
        .variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", endpoint)
        .variable("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=general")
        .variable("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-tenant=metrics")
        .start();
    let request = eventually("a request", || responder.requests().first().cloned());
    agent.stop();
    assert_eq!(request.path.as_deref(), Some("/of/my/own"));
    assert_eq!(request.headers.get("x-tenant").map(String::as_str), Some("metrics"));
}

#[test]
fn tls_and_mutual_tls_are_spoken_over_grpc_and_http() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        for mutual in [false, true] {
            let watched = Watched::new();
            let collector = Collector::start(&watched.host, protocol);
            let certificates = Certificates::new(&watched.scene);
            let gate = Gate::start(&watched.host, protocol, &certificates, mutual);
            let mut command = sending(&watched, protocol, &gate.endpoint())
                .variable("OTEL_EXPORTER_OTLP_CERTIFICATE", certificates.authority_file.to_string_lossy());
            if mutual {
                command = command
                    .variable(
                        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                        certificates.client_certificate_file.to_string_lossy(),
                    )
                    .variable(
                        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
                        certificates.client_key_file.to_string_lossy(),
                    );
            }
            let mut agent = command.start();
            collector.wait_for_value(UP, FORWARD, 1, 0);
            agent.stop();
            assert!(
                gate.clients().iter().all(|showed| *showed == mutual),
                "{protocol:?}: {:?}",
                gate.clients()
            );
            assert_eq!(gate.refused(), 0, "{protocol:?}");
        }
    }
}

#[test]
fn a_collector_with_the_wrong_certificate_gets_nothing() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let watched = Watched::new();
        let collector = Collector::start(&watched.host, protocol);
        let certificates = Certificates::new(&watched.scene);
        let others = Certificates::named(&watched.scene, "other-");
        let gate = Gate::start(&watched.host, protocol, &certificates, false);
        let mut agent = sending(&watched, protocol, &gate.endpoint())
            .variable("OTEL_EXPORTER_OTLP_CERTIFICATE", others.authority_file.to_string_lossy())
            .start();
        eventually("a refusal", || (gate.refused() > 0).then_some(()));
        agent.wait_for_log(&["ertificate"]);
        agent.stop();
        assert_eq!(collector.points(), [], "{protocol:?}");
    }
}

#[test]
fn a_mutual_gate_lets_no_agent_in_that_shows_no_certificate() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let watched = Watched::new();
        let collector = Collector::start(&watched.host, protocol);
        let certificates = Certificates::new(&watched.scene);
        let gate = Gate::start(&watched.host, protocol, &certificates, true);
        let mut agent = sending(&watched, protocol, &gate.endpoint())
            .variable("OTEL_EXPORTER_OTLP_CERTIFICATE", certificates.authority_file.to_string_lossy())
            .start();
        eventually("a refusal", || (gate.refused() > 0).then_some(()));
        agent.stop();
        assert_eq!(collector.points(), [], "{protocol:?}");
    }
}

#[test]
fn what_was_measured_before_the_collector_came_arrives_with_its_own_times() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let mut watched = Watched::new();
        let mut collector = Collector::new(protocol);
        let started = unix_nanoseconds();
        let mut agent = sending(&watched, protocol, &protocol.endpoint()).start();
        agent.wait_for_log(&["\"link\"", "forward"]);
        let seen_up = unix_nanoseconds();
        watched.link.close();
        agent.wait_for_log(&["\"link\"", "no_connection"]);
        let seen_down = unix_nanoseconds();
        collector.resume(&watched.host);
        let first = collector.wait_for_value(UP, FORWARD, 1, 0);
        assert!(first.time > started && first.time < seen_up, "{protocol:?}: measured while nobody listened");
        let down = collector.wait_for_value(UP, FORWARD, 0, 0);
        assert!(down.time > seen_up && down.time < seen_down, "{protocol:?}: measured while nobody listened");
        let last = last_measurement(&collector, &mut agent);
        assert_complete(&collector, last);
    }
}

#[test]
fn a_collector_that_dies_and_returns_has_missed_nothing() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let mut watched = Watched::new();
        let mut collector = Collector::start(&watched.host, protocol);
        let mut agent = sending(&watched, protocol, &protocol.endpoint()).start();
        for _ in 0..2 {
            collector.wait_for_value(UP, FORWARD, 1, unix_nanoseconds());
            collector.kill();
            let known = agent.log_with(&["\"link\"", "no_connection"]).len();
            let died = unix_nanoseconds();
            watched.link.close();
            eventually("the agent to see it", || {
                (agent.log_with(&["\"link\"", "no_connection"]).len() > known).then_some(())
            });
            let back = unix_nanoseconds();
            watched.link.reconnect();
            collector.resume(&watched.host);
            let missed = collector.wait_for_value(UP, FORWARD, 0, died);
            assert!(missed.time < back, "{protocol:?}: measured while it was dead");
        }
        let last = last_measurement(&collector, &mut agent);
        assert_complete(&collector, last);
    }
}

/// Ends the agent, and returns how many measurements it had made when it told so for the last time, and when.
#[track_caller]
fn last_measurement(collector: &Collector, agent: &mut Agent) -> (i64, u64) {
    collector.wait_for_points("vms.agent.measurements", &[("outcome", "ok")], 1, unix_nanoseconds());
    agent.stop();
    let told = collector.series("vms.agent.measurements", &[("outcome", "ok")]);
    let last = told.last().unwrap();
    (last.value.as_int(), last.time)
}

/// There is a point for each of those measurements.
#[track_caller]
fn assert_complete(collector: &Collector, (measurements, until): (i64, u64)) {
    let points = collector.series(UP, &[("name", "link")]);
    let times: BTreeSet<u64> = points.iter().map(|point| point.time).filter(|time| *time <= until).collect();
    assert_eq!(i64::try_from(times.len()).unwrap(), measurements, "a point for each measurement");
}

#[test]
fn what_a_collector_cannot_take_now_is_sent_again_and_what_it_never_takes_is_counted() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let watched = Watched::new();
        let answers = [Answer::Unavailable, Answer::Unavailable, Answer::Accept, Answer::Invalid];
        let responder = Responder::start(&watched.host, protocol, &answers);
        let mut agent = sending(&watched, protocol, &protocol.endpoint()).start();
        let requests = eventually("ten requests", || {
            let requests = responder.requests();
            (requests.len() >= 10).then_some(requests)
        });
        let sent = |index: usize| requests[index].points();
        assert_eq!(sent(0), sent(1), "{protocol:?}: sent again as it was");
        assert_eq!(sent(0), sent(2), "{protocol:?}");
        assert_ne!(sent(3), sent(4), "{protocol:?}: what is invalid is not sent again");
        let retried = i64::try_from(sent(0).len() * 2).unwrap();
        let dropped = i64::try_from(sent(3).len()).unwrap();
        responder.wait_for_value("vms.agent.export.retried", &[], retried, 0);
        let exported = "otel.sdk.exporter.metric_data_point.exported";
        let failed = eventually("the dropped points to be counted", || {
            responder.series(exported, &[]).into_iter().find(|point| point.attribute("error.type").is_some())
        });
        assert_eq!(failed.value.as_int(), dropped, "{protocol:?}: {failed:#?}");
        agent.stop();
    }
}

#[test]
fn points_that_a_collector_rejects_are_counted_and_not_sent_again() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let watched = Watched::new();
        let responder = Responder::start(&watched.host, protocol, &[Answer::Reject(2)]);
        let mut agent = sending(&watched, protocol, &protocol.endpoint()).start();
        let exported = "otel.sdk.exporter.metric_data_point.exported";
        let failed = eventually("the rejected points to be counted", || {
            responder.series(exported, &[]).into_iter().find(|point| point.attribute("error.type").is_some())
        });
        assert_eq!(failed.value.as_int(), 2, "{protocol:?}: {failed:#?}");
        let requests = responder.requests();
        assert_ne!(requests[0].points(), requests[1].points(), "{protocol:?}");
        agent.wait_for_log(&["too many"]);
        agent.stop();
    }
}

#[test]
fn traces_and_logs_of_the_agent_itself_are_sent_where_asked_for() {
    needs!(Need::Agent);
    for protocol in Protocol::ALL {
        let watched = Watched::new();
        let collector = Collector::start(&watched.host, protocol);
        let mut agent = sending(&watched, protocol, &protocol.endpoint()).start();
        collector.wait_for_points(UP, FORWARD, 3, 0);
        agent.stop();
        assert_eq!((collector.spans(), collector.logs()), (vec![], vec![]), "off unless asked for");

        let command = sending(&watched, protocol, &protocol.endpoint())
            .variable("OTEL_TRACES_EXPORTER", "otlp")
            .variable("OTEL_LOGS_EXPORTER", "otlp");
        let since = unix_nanoseconds();
        let mut agent = command.start();
        collector.wait_for_points(UP, FORWARD, 3, since);
        agent.stop();
        let looks = collector.series(UP, FORWARD).iter().filter(|point| point.time >= since).count();
        let (spans, logs) = (collector.spans(), collector.logs());
        assert!(spans.len() >= looks, "{protocol:?}: a span for each cycle: {spans:?}");
        assert!(logs.iter().any(|log| log.contains("link is up")), "{protocol:?}: {logs:?}");
    }
}

#[test]
fn a_collector_that_never_answers_delays_no_probe() {
    needs!(Need::Agent);
    let watched = Watched::new();
    // It accepts connections into its backlog and says nothing, ever.
    let silent = watched.host.inside(|| std::net::TcpListener::bind(Protocol::Grpc.address()).unwrap());
    let mut agent = sending(&watched, Protocol::Grpc, &Protocol::Grpc.endpoint())
        .variable("OTEL_EXPORTER_OTLP_TIMEOUT", "500")
        .start();
    agent.wait_for_log(&["\"link\"", "forward"]);
    let since = unix_nanoseconds();
    let waited = vms_agent_tests::deadline::now();
    eventually("more than one attempt to time out", || (waited.elapsed().as_millis() > 1500).then_some(()));
    drop(silent);
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    collector.wait_for_points(UP, FORWARD, 1, unix_nanoseconds());
    agent.stop();
    let times: Vec<u64> = collector.series(UP, FORWARD).iter().map(|point| point.time).collect();
    let silence: Vec<u64> = times.into_iter().filter(|time| *time >= since).take(7).collect();
    let span = silence.last().unwrap() - silence.first().unwrap();
    assert!(span < 2_000_000_000, "seven looks, 200 ms apart: {silence:?}");
}

#[test]
fn a_full_queue_drops_the_oldest_counts_it_and_says_so_once() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let process = watched.scene.name("svc");
    let probes: Vec<_> =
        (0..60).map(|n| probe(&format!("link{n}"), &process, watched.link.service())).collect();
    // 60 links fill the smallest queue within a few looks.
    let config = serde_json::json!({"interval": "200ms", "probes": probes, "export": {"queueBytes": 65_536, "spool": {"mode": "off"}}});
    let mut agent = AgentCommand::new(&watched.scene, &watched.host).config(&config).start();
    agent.wait_for_log(&["\"link0\"", "forward"]);
    agent.wait_for_log(&["queue"]);
    let full = unix_nanoseconds();
    let waited = vms_agent_tests::deadline::now();
    eventually("more to be dropped", || (waited.elapsed().as_millis() > 1000).then_some(()));
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let link: &[_] = &[("name", "link0"), ("direction", "forward")];
    let kept = collector.wait_for_points(UP, link, 1, 0);
    assert!(kept[0].time > full - 1_000_000_000, "the newest are kept");
    let exported = "otel.sdk.exporter.metric_data_point.exported";
    let dropped = eventually("the dropped points to be counted", || {
        collector.series(exported, &[]).into_iter().find(|point| point.attribute("error.type").is_some())
    });
    assert!(dropped.value.as_int() >= 60 * 5, "at least a look's: {dropped:#?}");
    agent.stop();
    assert_eq!(agent.log_with(&["WARN", "queue is full"]).len(), 1, "once an outage");
}
