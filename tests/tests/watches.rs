//! Probes that count, and discovery: `vms-agent` on sockets and processes that are really there, beside what `ss` says.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Collector, Link, Namespace, Peer, Points, Privileges, Protocol, Scene, config, eventually,
    needs, program,
};

/// Whom an unprivileged agent runs as.
const AGENT: u32 = 61_031;

/// A probe `connection` with these fields beside its name.
fn watch(name: &str, fields: Value) -> Value {
    let mut probe = json!({ "type": "connection", "name": name });
    let (Some(probe_fields), Value::Object(fields)) = (probe.as_object_mut(), fields) else {
        panic!("both are objects");
    };
    probe_fields.extend(fields);
    probe
}

/// What `check` found, by the names of the probes.
#[track_caller]
fn checked(output: &Output) -> BTreeMap<String, Value> {
    let lines: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    lines.into_iter().map(|line| (line["name"].as_str().expect("it has a name").to_owned(), line)).collect()
}

#[track_caller]
fn check(agent: &AgentCommand<'_>) -> (Option<i32>, BTreeMap<String, Value>) {
    let output = agent.output(&["check", "--format", "json"]);
    (output.status.code(), checked(&output))
}

/// What `ss` counts.
#[track_caller]
fn count(host: &Namespace, arguments: &[&str]) -> u64 {
    let shown = host.run(program::command("ss").arg("-Han").args(arguments));
    u64::try_from(shown.lines().count()).expect("it is a small number")
}

#[test]
fn sockets_of_each_kind_are_counted_as_ss_counts_them() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let _sockets = host.inside(|| {
        let anywhere = TcpListener::bind("0.0.0.0:7001").expect("the port is free");
        let on_loopback = TcpListener::bind("127.0.0.1:7002").expect("the port is free");
        let dual = TcpListener::bind("[::]:7003").expect("the port is free");
        let clients: Vec<TcpStream> =
            (0..3).map(|_| TcpStream::connect("127.0.0.1:7001").expect("somebody listens")).collect();
        let mapped = TcpStream::connect("127.0.0.1:7003").expect("somebody listens");
        let six = TcpStream::connect("[::1]:7003").expect("somebody listens");
        let accepted: Vec<TcpStream> =
            (0..3).map(|_| anywhere.accept().expect("they have called").0).collect();
        // Of one the server's end is closed: CLOSE-WAIT at the client's, FIN-WAIT-2 at the server's.
        let half: TcpStream = dual.accept().expect("they have called").0;
        half.shutdown(std::net::Shutdown::Write).expect("it is open");
        let unconnected = UdpSocket::bind("0.0.0.0:7004").expect("the port is free");
        let connected = UdpSocket::bind("127.0.0.1:7005").expect("the port is free");
        connected.connect("127.0.0.1:7004").expect("UDP connects at once");
        let six_udp = UdpSocket::bind("[::1]:7006").expect("the port is free");
        (anywhere, on_loopback, dual, clients, mapped, six, accepted, half, (unconnected, connected, six_udp))
    });
    eventually("the state", || (count(&host, &["-t", "state", "fin-wait-2"]) == 1).then_some(()));
    let listen = json!(["LISTEN"]);
    let probes = [
        ("all", json!({}), count(&host, &["-t", "state", "established"])),
        ("listeners", json!({ "states": listen }), count(&host, &["-t", "state", "listening"])),
        ("anywhere", json!({ "states": listen, "localPort": 7001 }), 1),
        ("port range", json!({ "states": listen, "localPort": "7001-7002" }), 2),
        ("ports", json!({ "states": listen, "localPort": [7001, "7003-7009"] }), 2),
        ("stands for loopback", json!({ "states": listen, "localAddress": "127.0.0.1" }), 3),
        ("exactly loopback", json!({ "states": listen, "localAddress": "127.0.0.1", "exact": true }), 1),
        ("loopback of ipv6", json!({ "states": listen, "localAddress": "::1" }), 1),
        ("listeners of tcp6", json!({ "states": listen, "protocol": "tcp6" }), 1),
        ("clients", json!({ "remotePort": 7001, "remoteAddress": "127.0.0.0/8" }), 3),
        (
            "of ipv4",
            json!({ "protocol": "tcp4", "localPort": 7003, "states": ["established", "fin-wait-2"] }),
            1,
        ),
        ("of ipv6", json!({ "protocol": "tcp6", "remotePort": 7003, "states": ["ESTAB", "CLOSE-WAIT"] }), 1),
        ("half closed", json!({ "states": ["FIN-WAIT-2", "CLOSE-WAIT"] }), 2),
        (
            "udp",
            json!({ "protocol": "udp", "states": ["unconnected"] }),
            count(&host, &["-u", "state", "unconnected"]),
        ),
        ("udp connected", json!({ "protocol": "udp", "states": ["established"] }), 1),
        ("udp6", json!({ "protocol": "udp6", "states": ["unconnected"] }), 1),
        ("nothing", json!({ "localPort": 9, "minCount": 0 }), 0),
    ];
    let watches: Vec<Value> = probes.iter().map(|(name, fields, _)| watch(name, fields.clone())).collect();
    let (code, found) = check(&AgentCommand::new(&scene, &host).config(&config(&watches)));
    for (name, fields, expected) in &probes {
        assert_eq!(found[*name]["count"], *expected, "{name} {fields}: {:#}", found[*name]);
    }
    assert_eq!(code, Some(0));
}

#[test]
fn a_watch_goes_down_comes_up_and_warns_as_its_sockets_come_and_go() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let mut server = far.start(&host);
    let listener = server.listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    let port = listener.address.port();
    let probes = vec![
        watch("links", json!({ "remotePort": port, "processName": scene.name("svc"), "maxCount": 1 })),
        json!({ "type": "process_mon", "name": "servers", "processName": scene.name("far") }),
        json!({ "type": "process_mon", "name": "clients", "processName": scene.name("svc"), "minCount": 2 }),
    ];
    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent = AgentCommand::new(&scene, &host).config(&config(&probes)).start();
    let links: &[_] = &[("name", "links")];
    let state = |state: &'static str| [("name", "links"), ("state", state)];
    collector.wait_for_value("vms.connection.up", links, 0, 0);
    collector.wait_for_value("vms.connection.status", &state("down"), 1, 0);
    collector.wait_for_value("vms.process_mon.count", &[("name", "servers")], 1, 0);
    collector.wait_for_value("vms.process_mon.count", &[("name", "clients")], 0, 0);

    let (mut one, mut other) = (svc.start(&host), svc.start(&host));
    let first = one.connect(listener.address);
    let since = unix_nanoseconds();
    collector.wait_for_value("vms.connection.count", links, 1, since);
    collector.wait_for_value("vms.connection.status", &state("up"), 1, since);
    collector.wait_for_value("vms.process_mon.running", &[("name", "clients"), ("state", "up")], 1, since);
    let _second = other.connect(listener.address);
    let since = unix_nanoseconds();
    collector.wait_for_value("vms.connection.status", &state("warning"), 1, since);
    collector.wait_for_value("vms.connection.up", links, 1, since);
    agent.wait_for_log(&["there are more sockets than expected", "links"]);
    one.close(first);
    drop(other);
    let since = unix_nanoseconds();
    collector.wait_for_value("vms.connection.up", links, 0, since);
    collector.wait_for_value("vms.process_mon.running", &[("name", "clients"), ("state", "down")], 1, since);
    agent.wait_for_log(&["there are fewer processes than expected", "clients"]);
    agent.stop();
}

#[test]
fn a_watch_of_another_users_process_is_flagged_and_not_silently_down() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
    let probes = vec![
        watch("held", json!({ "remotePort": link.service().port(), "processName": scene.name("svc") })),
        watch("there", json!({ "remotePort": link.service().port() })),
    ];
    let configured = config(&probes);
    let agent = |privileges| AgentCommand::new(&scene, &host).config(&configured).privileges(privileges);
    let (code, found) = check(&agent(Privileges::User(AGENT, &[])));
    assert_eq!(code, Some(1));
    assert_eq!((&found["held"]["count"], &found["held"]["unattributed"]), (&json!(0), &json!(1)));
    assert_eq!(found["there"]["count"], 1, "who holds it was not asked");
    let (code, found) = check(&agent(Privileges::Root));
    assert_eq!(
        (code, &found["held"]["count"], &found["held"]["unattributed"]),
        (Some(0), &json!(1), &json!(0))
    );
}

/// What the kernel tells of the memory of these peers: address spaces and resident pages, in bytes.
fn memory_of(peers: &[&Peer]) -> [i64; 2] {
    peers.iter().fold([0; 2], |[of_virtual, of_resident], peer| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", peer.machine_pid())).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("it has a name");
        let mut fields =
            fields.split_whitespace().skip(20).map(|field| field.parse::<i64>().expect("a number"));
        let mut field = || fields.next().expect("there are more than twenty");
        let page = i64::try_from(rustix::param::page_size()).expect("it is small");
        [of_virtual + field(), of_resident + field() * page]
    })
}

#[test]
fn what_the_processes_of_a_probe_use_is_told_as_it_grows_and_survives_their_end() {
    // A tick of the kernel's clock in each mode of each process, at the beginning and at the end.
    const ROUNDED: f64 = 0.01 * 2.0 * 2.0 * 2.0;
    needs!(Need::Agent, Need::Tool("setpriv"));
    let milliseconds = Duration::from_millis;
    let (scene, host) = (Scene::new(), Namespace::new());
    let (worker, other) = (scene.program("work"), scene.program("other"));
    let (mut old, mut stranger) = (worker.start(&host), other.start(&host));
    let before = old.burn(milliseconds(300));
    stranger.allocate(32 << 20);
    let probes = [
        json!({ "type": "process_mon", "name": "workers", "processName": scene.name("work"), "resources": true }),
    ];
    let collector = Collector::start(&host, Protocol::Grpc);
    // Another user, without any capability: everybody may read it.
    let configured = config(&probes);
    let agent =
        || AgentCommand::new(&scene, &host).config(&configured).privileges(Privileges::User(AGENT, &[]));
    let mut running = agent().start();
    let mode = |mode: &'static str| [("name", "workers"), ("cpu.mode", mode)];
    let total = |time: u64| -> f64 {
        let of = |name| {
            collector.series("vms.process_mon.cpu.time", &mode(name)).into_iter().rfind(|p| p.time <= time)
        };
        ["user", "system"].into_iter().filter_map(of).map(|point| point.value.as_double()).sum()
    };
    collector.wait_for_points("vms.process_mon.cpu.time", &mode("system"), 1, 0);

    old.allocate(64 << 20);
    let of_old = old.burn(milliseconds(500)).saturating_sub(before);
    let mut new = worker.start(&host);
    let of_new = new.burn(milliseconds(400));
    stranger.burn(milliseconds(600));
    let used = (of_old + of_new).as_secs_f64();
    let since = unix_nanoseconds();
    let settled = collector.wait_for_points("vms.process_mon.cpu.time", &mode("system"), 2, since);
    let told = total(settled.last().expect("two").time);
    // What was burned before the agent was there counts as little as the stranger's.
    assert!(told > used - ROUNDED && told < used + ROUNDED + 0.05, "{told} of {used}");
    eventually("the memory of both", || {
        let [of_virtual, of_resident] = memory_of(&[&old, &new]);
        let is = |metric: &str, bytes: i64| {
            let last = collector.series(metric, &[("name", "workers")]).pop();
            last.is_some_and(|point| point.value.as_int() == bytes && point.kind == "updowncounter")
        };
        let is_same = memory_of(&[&old, &new]) == [of_virtual, of_resident];
        (is_same
            && of_resident > 64 << 20
            && is("vms.process_mon.memory.usage", of_resident)
            && is("vms.process_mon.memory.virtual", of_virtual))
        .then_some(())
    });
    let (code, found) = check(&agent());
    assert_eq!((code, &found["workers"]["count"]), (Some(0), &json!(2)));
    let seconds = |key: &str| found["workers"][key].as_f64().expect("it is a number");
    let since_start = used + before.as_secs_f64();
    let shown = seconds("cpu_user_seconds") + seconds("cpu_system_seconds");
    assert!((shown - since_start).abs() < ROUNDED + 0.05, "{shown} of {since_start}");
    assert!(found["workers"]["memory_usage_bytes"].as_i64() > Some(64 << 20), "{:#}", found["workers"]);

    // The end of one takes nothing away.
    drop(old);
    let since = unix_nanoseconds();
    collector.wait_for_value("vms.process_mon.count", &[("name", "workers")], 1, since);
    let after = collector.wait_for_points("vms.process_mon.memory.usage", &[("name", "workers")], 1, since);
    assert!(after.last().expect("one").value.as_int() < 64 << 20);
    running.stop();
    for name in ["user", "system"] {
        let series = collector.series("vms.process_mon.cpu.time", &mode(name));
        let values: Vec<f64> = series.iter().map(|point| point.value.as_double()).collect();
        assert!(values.is_sorted(), "{name}: {values:?}");
        assert!(
            series.iter().all(|point| point.kind == "counter" && point.start == series[0].time),
            "{series:#?}"
        );
    }
    assert!(total(u64::MAX) >= told);
}

#[test]
fn a_capability_is_named_while_it_could_show_that_enough_processes_run_and_not_while_they_do() {
    const MISSING: &str = "vms.agent.permission_missing";
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    // Of it the agent may not read the executable.
    let _there = svc.start(&host);
    let name = |name: &str| json!({ "type": "process_mon", "name": name, "processName": scene.name(name) });
    let collector = Collector::start(&host, Protocol::Grpc);
    let configured = config(&[name("svc"), name("far")]);
    let agent =
        || AgentCommand::new(&scene, &host).config(&configured).privileges(Privileges::User(AGENT, &[]));
    let mut running = agent().start();
    let capability: &[_] = &[("capability", "CAP_SYS_PTRACE")];
    collector.wait_for_value(MISSING, capability, 1, 0);
    running.wait_for_log(&["there are fewer processes", "CAP_SYS_PTRACE"]);
    let found = check(&agent()).1;
    assert_eq!(found["far"]["missing"], json!(["CAP_SYS_PTRACE"]), "{found:#?}");
    assert!(
        found["svc"]["unattributed"].as_u64() > Some(0) && found["svc"].get("missing").is_none(),
        "{found:#?}"
    );
    let doctor = agent().output(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("far: there are too few processes") && !doctor.contains("svc: "), "{doctor}");

    let started = far.start(&host);
    let since = unix_nanoseconds();
    collector.wait_for_value("vms.process_mon.count", &[("name", "far")], 1, since);
    collector.wait_for_value(MISSING, capability, 0, since);
    drop(started);
    running.stop();
}

#[test]
fn what_is_discovered_can_be_watched_at_once() {
    needs!(Need::Agent);
    let (scene, (near, far)) = (Scene::new(), Namespace::pair());
    let (svc, db) = (scene.program("svc"), scene.program("db"));
    let remote = Link::new((&svc, &near), (&db, &far));
    let local = Link::new((&scene.program("web"), &near), (&scene.program("cache"), &near));
    let near_agent = AgentCommand::new(&scene, &near);
    let shown: Value = serde_json::from_slice(&near_agent.output(&["discover", "--format", "json"]).stdout)
        .expect("it is JSON");
    let edges: Vec<(String, String, u64)> = shown["edges"]
        .as_array()
        .expect("it has edges")
        .iter()
        .map(|edge| {
            let text = |key: &str| edge[key].as_str().expect("it is text").to_owned();
            (text("process"), text("direction"), edge["dest_port"].as_u64().expect("it is a port"))
        })
        .collect();
    let port = |link: &Link| u64::from(link.service().port());
    for (process, direction, port) in [
        ("svc", "forward", port(&remote)),
        ("web", "forward", port(&local)),
        ("cache", "reverse", port(&local)),
    ] {
        let edge = (scene.name(process), direction.to_owned(), port);
        assert!(edges.contains(&edge), "{edge:?}: {edges:#?}");
    }
    let table = near_agent.output(&["discover", &scene.name("web")]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains(&scene.name("web")) && !table.contains(&scene.name("svc")), "{table}");

    // One configuration for the hosts at both ends.
    let emitted = near_agent.output(&["discover", "--emit-config"]);
    let emitted = String::from_utf8(emitted.stdout).expect("it is text");
    for (host, directions, code) in
        [(&near, ["forward", "reverse"].as_slice(), Some(0)), (&far, &["reverse"], None)]
    {
        let agent = AgentCommand::new(&scene, host).config_text("emitted.yaml", &emitted);
        let output = agent.output(&["check", "--format", "json"]);
        let lines: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it is JSON");
        for direction in directions {
            let is_up = |line: &Value| line["direction"] == *direction && line["up"] == 1;
            assert!(lines.iter().any(is_up), "{direction}: {lines:#?}\n{emitted}");
        }
        // On the other host some links are not there.
        assert!(code.is_none() || output.status.code() == code, "{lines:#?}\n{emitted}");
    }
}

#[test]
fn a_probe_discovery_tells_of_edges_with_the_totals() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
    let probe = json!({ "type": "discovery", "name": "all", "processName": [scene.name("*")] });
    let collector = Collector::start(&host, Protocol::Grpc);
    let configured = config(&[probe]);
    let (code, found) = check(&AgentCommand::new(&scene, &host).config(&configured));
    let totals = ["endpoints", "edges", "connections"].map(|key| found["all"][key].as_u64());
    assert_eq!((code, totals), (Some(0), [Some(1), Some(2), Some(2)]), "{found:#?}");
    let shown = AgentCommand::new(&scene, &host).config(&configured).output(&["check"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("vms-agent discover '{}'", scene.name("*"))), "{shown}");
    let mut agent = AgentCommand::new(&scene, &host).config(&configured).start();
    let svc = scene.name("svc");
    let edge: &[_] = &[("process_name", svc.as_str()), ("direction", "forward")];
    collector.wait_for_value("vms.discovery.connections", edge, 1, 0);
    collector.wait_for_value("vms.discovery.edges", &[("name", "all")], 2, 0);
    collector.wait_for_value("vms.discovery.endpoints", &[("name", "all")], 1, 0);
    collector.wait_for_value("vms.discovery.omitted", &[("name", "all")], 0, 0);
    drop(link);
    collector.wait_for_value("vms.discovery.edges", &[("name", "all")], 0, unix_nanoseconds());
    agent.stop();
}
