//! The commands beside `run` and `check`, as somebody at a terminal uses them.

use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Collector, Link, Namespace, Privileges, Protocol, Scene, config, eventually, needs, probe,
};

/// Whom an unprivileged agent runs as.
const AGENT: u32 = 61_022;

#[test]
fn the_sink_shows_what_an_agent_sends_one_json_object_a_line() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
    let mut sink = AgentCommand::new(&scene, &host).start_as(&["sink", "--format", "json"]);
    for protocol in Protocol::ALL {
        let before = sink.stdout().len();
        let command = AgentCommand::new(&scene, &host)
            .config(&config(&[probe("link", &scene.name("svc"), link.service())]))
            .variable("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", protocol.endpoint());
        let mut agent = command.start();
        eventually("a line", || (sink.stdout().len() > before).then_some(()));
        agent.stop();
        for line in &sink.stdout()[before..] {
            let request: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
            assert!(line.contains("vms.connection_mon.up"), "{request:#}");
        }
    }
    sink.stop();
}

#[test]
fn the_doctor_finds_nothing_to_mend_where_all_is_well() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
    let _collector = Collector::start(&host, Protocol::Grpc);
    let config = config(&[probe("link", &scene.name("svc"), link.service())]);
    let said = AgentCommand::new(&scene, &host).config(&config).output(&["doctor"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert_eq!(said.status.code(), Some(0), "{text}");
    assert!(!text.contains("fix: "), "{text}");
}

#[test]
fn the_doctor_names_each_lack_and_its_fix() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let config = config(&[probe("link", "svc", ([127, 0, 0, 1], 9).into())]);
    let said = AgentCommand::new(&scene, &host)
        .config(&config)
        .privileges(Privileges::User(AGENT, &["sys_ptrace"]))
        .output(&["doctor"]);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let text = String::from_utf8_lossy(&said.stdout);
    for part in ["CAP_DAC_READ_SEARCH", "fix: ", "localhost:4317"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_is_imported_replaces_no_file_and_the_exit_status_says_so() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let whole =
        scene.write("whole.yml", "sockets:\n  - { name: web, host: 127.0.0.1, port: 80, status: listen }\n");
    let part = scene.write("part.yml", "sockets: 1\n");
    let output = whole.with_file_name("new.yaml");
    let (whole, part, output) = (whole.to_str().unwrap(), part.to_str().unwrap(), output.to_str().unwrap());
    let agent = AgentCommand::new(&scene, &host);
    for (arguments, status, words) in [
        (&["import", "cnxwatch", whole, "--output", output][..], 0, ""),
        (
            &["import", "cnxwatch", whole, "--output", output],
            1,
            "name another file in --output, or remove it",
        ),
        (&["import", "cnxwatch", part], 2, "sockets"),
    ] {
        let said = agent.output(arguments);
        let text = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(status), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
    let imported = std::fs::read_to_string(output).unwrap();
    assert!(imported.contains("type: connection"), "{imported}");
}

#[test]
fn help_and_version_are_told_and_exit_0() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let agent = AgentCommand::new(&scene, &host);
    let version = agent.output(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    let help = agent.output(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for command in ["run", "check", "validate", "doctor", "sink"] {
        assert!(String::from_utf8_lossy(&help.stdout).contains(command), "{command}");
    }
}

#[test]
fn an_agent_listens_nowhere_and_connects_to_its_collector_only() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let nobody = config(&[probe("link", &scene.name("nobody"), ([127, 0, 0, 1], 9).into())]);
    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent = AgentCommand::new(&scene, &host).config(&nobody).start();
    collector.wait_for_anything();
    for socket in host.sockets() {
        let ports = [socket.local_port, socket.remote_port];
        assert!(ports.contains(&Protocol::Grpc.port()), "{socket:?}");
    }
    agent.stop();
}
