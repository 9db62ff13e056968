//! Where settings come from, what becomes of wrong ones, and how the agent is told to reload and to end.

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::skip::Need;
use vms_agent_tests::watched::{FORWARD, UP, Watched};
use vms_agent_tests::{
    AgentCommand, Collector, Namespace, Points, Protocol, Responder, Scene, config, eventually, needs, probe,
    probe_with,
};

/// Longer than any shutdown of the agent may take.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Asserts that a configuration was refused, and returns what was said.
#[track_caller]
fn refused(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for word in ["panicked", "backtrace", "RUST_BACKTRACE", "stack"] {
        assert!(!said.contains(word), "{said}");
    }
    said
}

#[test]
fn the_environment_alone_configures_an_agent() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let collector = Collector::start(&watched.host, Protocol::Http);
    let service = watched.link.service();
    let probes = format!(
        "[{{type: connection_mon, name: link, processName: {}, destServiceIp: '{}', destServicePort: {}}}]",
        watched.scene.name("svc"),
        service.ip(),
        service.port()
    );
    let agent = watched
        .command()
        .variable("VMS_PROBES", probes)
        .variable("VMS_INTERVAL", "200ms")
        .variable("VMS_EXPORT__COMPRESSION", "zstd")
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", Protocol::Http.name())
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", Protocol::Http.endpoint());
    assert!(agent.check().row().is_up());
    let mut agent = agent.start();
    collector.wait_for_points(UP, FORWARD, 2, 0);
    agent.stop();
}

#[test]
fn json_in_a_variable_is_a_list_of_probes_too() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let probes = json!([watched.probe("link")]).to_string();
    assert!(watched.command().variable("VMS_PROBES", probes).check().row().is_up());
}

#[test]
fn yaml_toml_and_json_files_say_the_same() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let (name, service) = (watched.scene.name("svc"), watched.link.service());
    let (ip, port) = (service.ip(), service.port());
    let yaml = format!(
        "interval: 1s\nprobes:\n  - type: connection_mon\n    name: link\n    processName: {name}\n    \
         destServiceIp: {ip}\n    destServicePort: {port}\n"
    );
    let toml = format!(
        "interval = \"1s\"\n[[probes]]\ntype = \"connection_mon\"\nname = \"link\"\nprocessName = \"{name}\"\n\
         destServiceIp = \"{ip}\"\ndestServicePort = {port}\n"
    );
    let json = json!({"interval": "1s", "probes": [watched.probe("link")]}).to_string();
    for (file, text) in [("config.yaml", yaml), ("config.toml", toml), ("config.json", json)] {
        let check = watched.command().config_text(file, &text).check();
        assert!(check.row().is_up(), "{file}: {check:#?}");
    }
}

#[test]
fn later_sources_win() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let nobody_listens = json!({"interval": "1h", "probes": [watched.probe("link")],
        "export": {"endpoint": "http://localhost:9", "protocol": "http/protobuf"}});
    let mut agent = watched
        .command()
        .config(&nobody_listens)
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:8")
        .variable("VMS_EXPORT__ENDPOINT", Protocol::Grpc.endpoint())
        .variable("VMS_INTERVAL", "200ms")
        .start();
    collector.wait_for_points(UP, FORWARD, 3, 0);
    agent.stop();

    let since = unix_nanoseconds();
    let mut agent = watched
        .command()
        .config(&nobody_listens)
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "200")
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", Protocol::Grpc.endpoint())
        .start();
    collector.wait_for_points(UP, FORWARD, 3, since);
    agent.stop();
}

#[test]
fn references_in_a_file_are_replaced_and_secrets_never_shown() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let responder = Responder::start(&watched.host, Protocol::Http, &[]);
    let secret = watched.scene.write("token", "s3cr3t\n");
    let config = json!({
        "interval": "${env:PACE:-200ms}",
        "probes": [watched.probe("${env:LINK}")],
        "export": {
            "protocol": "http/protobuf",
            "headers": {"authorization": format!("Bearer ${{file:{}}}", secret.display())},
        },
    });
    let agent = watched.command().config(&config).variable("LINK", "link");
    let shown = agent.output(&["validate"]);
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.contains("link") && text.contains("200ms") && !text.contains("s3cr3t"), "{text}");

    let mut running = agent.start();
    responder.wait_for_points(UP, FORWARD, 1, 0);
    running.stop();
    let sent = responder.requests().first().and_then(|request| request.headers.get("authorization").cloned());
    assert_eq!(sent.as_deref(), Some("Bearer s3cr3t"));
    assert!(running.log_with(&["s3cr3t"]).is_empty());

    let said = refused(&watched.command().config(&config).output(&["validate"]));
    assert!(said.contains("LINK"), "an unset variable without a default: {said}");
}

#[test]
fn every_fault_is_listed_at_once_with_its_line_and_what_is_allowed() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let text = "\
interval: 15
intervall: 15s
probes:
  - type: connection_mon
    name: one
    processName: '[a'
    destServiceIp: 10.0.0.300
    destServicePort: 83617
    protocol: udp
  - type: connection_mon
    name: one
    processname: svc
    destServiceIp: 10.0.0.1
    destServicePort: 0
    executablePath: relative/path
  - type: connection_man
export:
  compression: lz4
";
    let file = watched.scene.path().join("config.yaml");
    for command in [&["validate"][..], &["check"], &["check", "--format", "json"], &["run"]] {
        let said = refused(&watched.command().config_text("config.yaml", text).output(command));
        for (line, path, also) in [
            (1, "interval", "15s"),
            (2, "intervall", "interval"),
            (6, "probes[0].processName", "[a"),
            (7, "probes[0].destServiceIp", "10.0.0.300"),
            (8, "probes[0].destServicePort", "65535"),
            (9, "probes[0].protocol", "tcp"),
            (11, "probes[1].name", "one"),
            (12, "probes[1].processname", "processName"),
            (14, "probes[1].destServicePort", "65535"),
            (15, "probes[1].executablePath", "relative/path"),
            (16, "probes[2].type", "`connection_mon`"),
            (18, "export.compression", "zstd"),
        ] {
            let place = format!("{}:{line}: ", file.display());
            assert!(
                said.split("\n\n").any(|fault| [&place, path, also].iter().all(|part| fault.contains(part))),
                "{command:?}: {place} {path} {also}\n{said}"
            );
        }
    }
}

#[test]
fn a_fault_in_a_variable_names_the_variable() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let agent = watched
        .agent()
        .variable("VMS_INTERVAL", "soon")
        .variable("VMS_EXPORT__COMPRESION", "gzip")
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke-signals");
    let said = refused(&agent.output(&["validate"]));
    for part in [
        "VMS_INTERVAL",
        "soon",
        "VMS_EXPORT__COMPRESION",
        "VMS_EXPORT__COMPRESSION",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn no_probes_no_file_and_broken_files_are_refused() {
    needs!(Need::Agent);
    let watched = Watched::new();
    for (file, text) in [
        ("config.yaml", ""),
        ("config.yaml", "probes: []\n"),
        ("config.yaml", "probes: [\n"),
        ("config.yaml", "- a\n- list\n"),
        ("config.toml", "probes = \n"),
        ("config.json", "{\"probes\": [}"),
        ("config.ini", "[probes]\n"),
        ("config.yaml", "probes: \u{0}\n"),
    ] {
        let said = refused(&watched.command().config_text(file, text).output(&["run"]));
        assert!(!said.trim().is_empty(), "{file}: {text:?}");
    }
    let missing = watched.scene.path().join("missing.yaml");
    let missing = missing.to_string_lossy();
    let said = refused(&watched.command().output(&["run", "--config", &missing]));
    assert!(said.contains(&*missing), "{said}");
    let said = refused(&watched.command().variable("VMS_CONFIG", missing.to_string()).output(&["run"]));
    assert!(said.contains(&*missing), "{said}");
    let said = refused(&watched.command().output(&["run"]));
    assert!(said.contains("probes"), "neither a file nor a variable: {said}");
}

#[test]
fn an_unknown_flag_or_command_exits_2_with_usage() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let said = refused(&watched.command().output(&["run", "--confg", "x"]));
    assert!(said.contains("--config"), "did you mean: {said}");
    let said = refused(&watched.command().output(&["chekc"]));
    assert!(said.contains("check"), "did you mean: {said}");
}

#[test]
fn a_valid_reload_takes_effect_and_unchanged_links_keep_their_memory() {
    needs!(Need::Agent);
    let mut watched = Watched::new();
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let mut agent = watched.command().config(&config(&[watched.probe("link"), watched.probe("old")])).start();
    collector.wait_for_value(UP, FORWARD, 1, 0);
    collector.wait_for_value(UP, &[("name", "old"), ("direction", "forward")], 1, 0);
    watched.link.close();
    collector.wait_for_value(UP, FORWARD, 0, unix_nanoseconds());

    let changed = config(&[watched.probe("link"), watched.probe("new")]);
    let _written = watched.scene.write("config.json", &changed.to_string());
    agent.signal(Signal::HUP);
    let reloads = "vms.agent.config.reloads";
    let applied = collector.wait_for_value(reloads, &[("outcome", "applied")], 1, 0);
    collector.wait_for_points(UP, &[("name", "new")], 2, 0);
    collector.wait_for_points(UP, FORWARD, 3, applied.time);

    watched.link.reconnect();
    collector.wait_for_value(UP, FORWARD, 1, unix_nanoseconds());
    agent.stop();
    let link = collector.series(UP, &[("name", "link")]);
    let since = link.iter().filter(|point| point.time > applied.time);
    assert!(
        since.into_iter().all(|point| point.attribute("direction") == Some("\"forward\"")),
        "the direction is remembered across the reload: {link:#?}"
    );
    let old = collector.series(UP, &[("name", "old")]);
    assert!(old.iter().all(|point| point.time <= applied.time), "a probe that is gone sends nothing");
    assert_eq!(agent.log_with(&["\"link\":\"link\"", "no_connection"]).len(), 1, "no change, nothing to say");
}

#[test]
fn an_invalid_reload_is_refused_told_and_counted_and_the_old_configuration_stays() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let good = config(&[watched.probe("link")]);
    let mut agent = watched.command().config(&good).start();
    collector.wait_for_value(UP, FORWARD, 1, 0);
    let bad = config(&[probe_with("link", "x", watched.link.service(), &json!({"destServicePort": 99_999}))]);
    let _written = watched.scene.write("config.json", &bad.to_string());
    agent.signal(Signal::HUP);
    let reloads = "vms.agent.config.reloads";
    let refused = collector.wait_for_value(reloads, &[("outcome", "refused")], 1, 0);
    agent.wait_for_log(&["destServicePort", "99999"]);
    let after = collector.wait_for_points(UP, FORWARD, 3, refused.time);
    assert!(after.iter().all(|point| point.value.as_int() == 1), "the old probe goes on: {after:#?}");
    assert!(agent.is_running());

    let _written = watched.scene.write("config.json", &good.to_string());
    agent.signal(Signal::HUP);
    collector.wait_for_value(reloads, &[("outcome", "applied")], 1, refused.time);
    agent.stop();
}

#[test]
fn a_reload_leads_to_another_collector_which_gets_what_the_old_one_did_not_take() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let config_to = |protocol: Protocol| {
        let export = json!({"endpoint": protocol.endpoint(), "protocol": protocol.name()});
        json!({"interval": "200ms", "probes": [watched.probe("link")], "export": export})
    };
    let mut agent = watched.command().config(&config_to(Protocol::Grpc)).start();
    agent.wait_for_log(&["\"link\":\"link\"", "forward"]);
    let reloaded = unix_nanoseconds();
    let new = Collector::start(&watched.host, Protocol::Http);
    let _written = watched.scene.write("config.json", &config_to(Protocol::Http).to_string());
    agent.signal(Signal::HUP);
    new.wait_for_points(UP, FORWARD, 2, reloaded);
    let early = eventually("what was measured before the reload", || {
        new.series(UP, FORWARD).into_iter().find(|point| point.time < reloaded)
    });
    assert_eq!(early.value.as_int(), 1);
    let old = Collector::start(&watched.host, Protocol::Grpc);
    let since = unix_nanoseconds();
    new.wait_for_points(UP, FORWARD, 3, since);
    agent.stop();
    assert_eq!(old.series(UP, FORWARD), [], "nobody calls the old one any more");
}

#[test]
fn a_signal_ends_the_agent_with_0_and_delivers_what_waits() {
    needs!(Need::Agent);
    for signal in [Signal::TERM, Signal::INT] {
        let mut watched = Watched::new();
        let mut collector = Collector::new(Protocol::Grpc);
        let mut agent = watched.agent().start();
        agent.wait_for_log(&["\"link\"", "forward"]);
        watched.link.close();
        agent.wait_for_log(&["\"link\"", "no_connection"]);
        // The agent is waiting for its next attempt when it is told to end.
        collector.resume(&watched.host);
        let took = agent.stop_with(signal);
        assert!(took < SHUTDOWN, "{took:?}");
        let values: Vec<i64> =
            collector.series(UP, FORWARD).iter().map(|point| point.value.as_int()).collect();
        assert!(values.contains(&1) && values.contains(&0), "{signal:?}: {values:?}");
    }
}

#[test]
fn a_collector_that_is_away_or_silent_does_not_keep_the_agent_from_ending() {
    needs!(Need::Agent);
    let watched = Watched::new();
    for silent in [false, true] {
        let listener =
            silent.then(|| watched.host.inside(|| std::net::TcpListener::bind(Protocol::Grpc.address())));
        let mut agent = watched.agent().start();
        agent.wait_for_log(&["\"link\"", "forward"]);
        let took = agent.stop();
        assert!(took < SHUTDOWN, "{took:?}, silent: {silent}");
        drop(listener);
    }
}

#[test]
fn a_disabled_sdk_and_the_exporter_none_send_nothing() {
    needs!(Need::Agent);
    for (name, value) in [("OTEL_SDK_DISABLED", "true"), ("OTEL_METRICS_EXPORTER", "none")] {
        let mut watched = Watched::new();
        let collector = Collector::start(&watched.host, Protocol::Grpc);
        let command = watched.agent().variable(name, value);
        let mut agent = command.start();
        agent.wait_for_log(&["\"link\"", "forward"]);
        drop(command);
        watched.link.close();
        agent.wait_for_log(&["\"link\"", "no_connection"]);
        agent.stop();
        assert_eq!(collector.points(), [], "{name}");
    }
}

#[test]
fn the_exporter_console_prints_points_to_stdout() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let command = watched.agent().variable("OTEL_METRICS_EXPORTER", "console");
    let mut agent = command.start();
    vms_agent_tests::eventually("a point on stdout", || {
        let lines = agent.stdout();
        let told = |line: &String| [UP, "link", "forward"].iter().all(|part| line.contains(part));
        lines.iter().any(told).then_some(())
    });
    agent.stop();
    assert_eq!(collector.points(), []);
}

#[test]
fn a_host_where_the_kernel_cannot_be_asked_is_told_apart_from_a_link_that_is_down() {
    needs!(Need::Agent);
    // Without a readable /proc nobody can know who holds a socket: exit 3, no rows, no 0.
    let watched = Watched::new();
    let nowhere = json!({"interval": "200ms", "procRoot": "/nowhere", "probes": [watched.probe("link")]});
    let output = watched.command().config(&nowhere).output(&["check", "--format", "json"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("\"down\""), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere"), "{output:?}");
}

#[test]
fn an_unreachable_service_address_is_just_a_link_that_is_down() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let _present = scene.program("svc").start(&host);
    let nowhere = SocketAddr::from(([203, 0, 113, 7], 443));
    let check = AgentCommand::new(&scene, &host)
        .config(&config(&[probe("link", &scene.name("svc"), nowhere)]))
        .check();
    assert_eq!((check.code, check.row().down_reason()), (1, "no_connection"));
}
