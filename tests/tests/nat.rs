//! Links whose destination is translated (NAT): what each end sees of them, with and without access to conntrack.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::fs;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use serde_json::{Value, json};
use vms_agent_tests::agent::BOTH;
use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::nat::{
    BACKEND_PORT, Routed, SERVICE_PORT, cluster_service, forget_connections, route_services, to_backend,
    translate,
};
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Check, Collector, Link, Namespace, Points, Privileges, Protocol, Scene, config, eventually,
    needs, probe, probe_with, program,
};

/// Whom agents run as that are not root.
const AGENT: u32 = 61_012;
/// What an agent needs that is to see all.
const ALL_THREE: &[&str] = &["sys_ptrace", "dac_read_search", "net_admin"];

fn with_conntrack(probes: &[Value]) -> Value {
    let mut config = config(probes);
    config["conntrack"] = json!("auto");
    config
}

/// A link through a service's address, and the probe that names that address.
struct Served {
    scene: Scene,
    link: Link,
    service: SocketAddr,
}

impl Served {
    /// The server listens at `listen`; the client dials the service.
    #[track_caller]
    fn new(client: &Namespace, server: &Namespace, listen: SocketAddr, service: SocketAddr) -> Self {
        let scene = Scene::new();
        let program = scene.program("svc");
        let link = Link::over(program.start(client), program.start(server), listen, |_| service);
        Self { scene, link, service }
    }

    fn probe(&self) -> Value {
        probe("link", &self.scene.name("svc"), self.service)
    }

    fn agent<'a>(&'a self, host: &'a Namespace) -> AgentCommand<'a> {
        AgentCommand::new(&self.scene, host).config(&config(&[self.probe()]))
    }

    fn agent_with_conntrack<'a>(&'a self, host: &'a Namespace) -> AgentCommand<'a> {
        AgentCommand::new(&self.scene, host).config(&with_conntrack(&[self.probe()]))
    }
}

#[track_caller]
fn assert_up(check: &Check, direction: &str, translated: &[SocketAddr]) {
    assert_eq!(check.code, 0, "{check:#?}");
    let row = check.row();
    assert_eq!((row.direction.as_deref(), row.connections), (Some(direction), 1), "{check:#?}");
    let told: Vec<SocketAddr> = row.translated.iter().map(|end| SocketAddr::new(end.ip, end.port)).collect();
    assert_eq!(told, translated, "{check:#?}");
}

#[track_caller]
fn assert_down(check: &Check) {
    assert_eq!((check.code, check.row().down_reason()), (1, "no_connection"), "{check:#?}");
}

/// Two hosts, of which the second has the service and translates it to itself.
fn server_that_translates() -> (Namespace, Namespace) {
    let (client, server) = Namespace::pair();
    route_services(&client, &server);
    let rules = [server.ipv4(), server.ipv6()].map(|ip| to_backend(cluster_service(ip), backend(ip)));
    translate(&server, "prerouting", &rules);
    (client, server)
}

fn backend(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, BACKEND_PORT)
}

#[test]
fn the_client_needs_nothing_and_the_server_that_translates_needs_conntrack() {
    needs!(Need::Agent, Need::PacketFilter, Need::Tool("setpriv"));
    for family in ["ipv4", "ipv6", "mapped"] {
        let (client, server) = server_that_translates();
        let ip = if family == "ipv6" { server.ipv6() } else { server.ipv4() };
        let listen =
            if family == "mapped" { SocketAddr::from(([0_u16; 8], BACKEND_PORT)) } else { backend(ip) };
        let through = Served::new(&client, &server, listen, cluster_service(ip));
        assert_up(&through.agent(&client).check(), "forward", &[]);
        assert_up(&through.agent_with_conntrack(&client).check(), "forward", &[]);

        assert_down(&through.agent(&server).check());
        assert_up(&through.agent_with_conntrack(&server).check(), "reverse", &[backend(ip)]);
        let allowed = through.agent_with_conntrack(&server).privileges(Privileges::User(AGENT, ALL_THREE));
        assert_up(&allowed.check(), "reverse", &[backend(ip)]);
        for refused in [Privileges::User(AGENT, BOTH), Privileges::RootWithout(&["net_admin"])] {
            let check = through.agent_with_conntrack(&server).privileges(refused).check();
            assert_down(&check);
            assert!(check.stderr.contains("needs CAP_NET_ADMIN"), "{family}: {check:#?}");
        }
        // The back end's own address is an end of the socket, as ever.
        let direct = config(&[probe("link", &through.scene.name("svc"), backend(ip))]);
        assert_up(&AgentCommand::new(&through.scene, &server).config(&direct).check(), "reverse", &[]);
    }
}

#[test]
fn a_connection_to_the_back_end_itself_is_not_one_to_the_service() {
    needs!(Need::Agent, Need::PacketFilter);
    let (client, server) = server_that_translates();
    let here = backend(server.ipv4());
    let mut through = Served::new(&client, &server, here, cluster_service(server.ipv4()));
    let _direct = (through.link.client.connect(here), through.link.server.accept(through.link.listener));
    let agent = through.agent_with_conntrack(&server);
    assert_up(&agent.check(), "reverse", &[here]);
    let both = with_conntrack(&[through.probe(), probe("backend", &through.scene.name("svc"), here)]);
    let check = AgentCommand::new(&through.scene, &server).config(&both).check();
    assert_eq!(check.row_of("link").connections, 1);
    assert_eq!(check.row_of("backend").connections, 2, "whichever address the client asked for");

    let (client_end, server_end) = (through.link.client_end, through.link.server_end);
    through.link.client.close(client_end);
    through.link.server.close(server_end);
    let agent = through.agent_with_conntrack(&server);
    assert_down(&agent.check_until("the service's connection is gone", |check| check.code == 1));
}

#[test]
fn an_entry_that_outlives_its_connection_vouches_for_no_other() {
    needs!(Need::Agent, Need::PacketFilter);
    let (client, server) = server_that_translates();
    let here = backend(server.ipv4());
    let mut through = Served::new(&client, &server, here, cluster_service(server.ipv4()));
    let (client_end, server_end) = (through.link.client_end, through.link.server_end);
    // Who closes first keeps the port for a while.
    through.link.server.close(server_end);
    eventually("the FIN to arrive", || {
        client.has_socket("CLOSE-WAIT", client_end.local, client_end.remote).then_some(())
    });
    through.link.client.close(client_end);
    eventually("the client's port to be free", || client.sockets().is_empty().then_some(()));
    // The client comes again from the same port, and to the back end itself.
    let direct = through.link.client.connect_from(here, client_end.local);
    assert_eq!(direct.local, client_end.local);
    let accepted = through.link.server.accept(through.link.listener);
    assert!(server.has_socket("ESTAB", accepted.local, accepted.remote));
    assert_ne!(accepted.remote.port(), client_end.local.port(), "the kernel keeps its entries apart");
    assert_down(&through.agent_with_conntrack(&server).check());
    through.link.client.close(direct);
    through.link.server.close(accepted);
    // And by the service's address once more.
    through.link.reconnect();
    assert_up(&through.agent_with_conntrack(&server).check(), "reverse", &[here]);
}

#[test]
fn a_router_that_translates_tells_neither_end() {
    needs!(Need::Agent, Need::PacketFilter);
    let hosts = Routed::new();
    let service = cluster_service(hosts.server_ip());
    translate(&hosts.router, "prerouting", &[to_backend(service, backend(hosts.server_ip()))]);
    let through = Served::new(&hosts.client, &hosts.server, backend(hosts.server_ip()), service);
    assert_up(&through.agent(&hosts.client).check(), "forward", &[]);
    assert_up(&through.agent_with_conntrack(&hosts.client).check(), "forward", &[]);
    assert_down(&through.agent_with_conntrack(&hosts.server).check());
    let between = through.agent_with_conntrack(&hosts.router).check();
    assert_eq!(between.row().down_reason(), "process_absent", "no end of the link: {between:#?}");
}

#[test]
fn a_client_that_translates_its_own_output_is_told_where_it_goes() {
    needs!(Need::Agent, Need::PacketFilter);
    let (client, server) = Namespace::pair();
    route_services(&client, &server);
    for ip in [server.ipv4(), server.ipv6()] {
        translate(&client, "output", &[to_backend(cluster_service(ip), backend(ip))]);
        let through = Served::new(&client, &server, backend(ip), cluster_service(ip));
        assert_up(&through.agent(&client).check(), "forward", &[]);
        assert_up(&through.agent_with_conntrack(&client).check(), "forward", &[backend(ip)]);
        assert_down(&through.agent_with_conntrack(&server).check());
    }
}

#[test]
fn on_one_node_both_ends_of_a_translated_link_are_seen() {
    needs!(Need::Agent, Need::PacketFilter);
    let (node, other) = Namespace::pair();
    route_services(&node, &other);
    let here = backend(node.ipv4());
    translate(&node, "output", &[to_backend(cluster_service(here.ip()), here)]);
    let through = Served::new(&node, &node, here, cluster_service(here.ip()));
    assert_up(&through.agent(&node).check(), "forward", &[]);
    let check = through.agent_with_conntrack(&node).check();
    let rows: Vec<(&str, bool, u64)> = check
        .rows
        .iter()
        .map(|row| (row.direction.as_deref().unwrap(), row.is_up(), row.translated[0].connections))
        .collect();
    assert_eq!(rows, [("forward", true, 1), ("reverse", true, 1)], "{check:#?}");
}

#[test]
fn on_a_node_a_service_is_seen_in_the_pods_that_serve_it() {
    needs!(Need::Agent, Need::PacketFilter);
    let node = Namespace::new();
    let (pod, twin) = (node.pod(), node.pod());
    node.join(&pod);
    route_services(&node, &pod);
    let there = backend(pod.ipv4());
    translate(&node, "output", &[to_backend(cluster_service(there.ip()), there)]);
    let through = Served::new(&node, &pod, there, cluster_service(there.ip()));
    let agent = || through.agent_with_conntrack(&node).variable("VMS_NAMESPACES", "all");
    let told = || {
        let check = agent().check();
        let rows = check.rows.iter();
        rows.map(|row| (row.direction.clone().unwrap_or_default(), row.connections, row.translated.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(), [("forward".to_owned(), 1, 1), ("reverse".to_owned(), 1, 1)]);

    // The node's table cannot tell two pods apart that have the same address.
    let (client, far) = (through.link.client_end.local, through.link.server_end.local);
    let mut shadow = through.scene.program("svc").start(&twin);
    for ip in [client.ip(), far.ip()] {
        program::run(program::command("ip").args([
            "-n",
            twin.name(),
            "address",
            "add",
            &format!("{ip}/32"),
            "dev",
            "lo",
        ]));
    }
    let listener = shadow.listen(far);
    let _dialed = shadow.connect_from(far, client);
    let _accepted = shadow.accept(listener);
    assert_eq!(told(), [("forward".to_owned(), 1, 0)], "what is not certain does not count");
}

#[test]
fn a_port_that_is_redirected_is_the_service() {
    needs!(Need::Agent, Need::PacketFilter);
    let (client, server) = Namespace::pair();
    translate(&server, "prerouting", &[format!("tcp dport {SERVICE_PORT} redirect to :{BACKEND_PORT}")]);
    for ip in [server.ipv4(), server.ipv6()] {
        let service = SocketAddr::new(ip, SERVICE_PORT);
        let through = Served::new(&client, &server, backend(ip), service);
        assert_up(&through.agent(&client).check(), "forward", &[]);
        assert_down(&through.agent(&server).check());
        assert_up(&through.agent_with_conntrack(&server).check(), "reverse", &[backend(ip)]);
    }
}

#[test]
fn a_client_whose_address_is_translated_too_is_the_one_that_the_server_sees() {
    needs!(Need::Agent, Need::PacketFilter);
    let (client, server) = server_that_translates();
    let seen: IpAddr = [10, 11, 12, 99].into();
    translate(&server, "input", &[format!("ip saddr {} snat ip to {seen}", client.ipv4())]);
    let through = Served::new(&client, &server, backend(server.ipv4()), cluster_service(server.ipv4()));
    assert_eq!(through.link.server_end.remote.ip(), seen);
    assert_up(&through.agent_with_conntrack(&server).check(), "reverse", &[backend(server.ipv4())]);
    for (source, is_up) in [(seen, true), (client.ipv4(), false)] {
        let probe = probe_with(
            "link",
            &through.scene.name("svc"),
            through.service,
            &json!({ "sourceServiceIp": source.to_string() }),
        );
        let agent = AgentCommand::new(&through.scene, &server).config(&with_conntrack(&[probe]));
        assert_eq!(agent.check().code == 0, is_up, "{source}");
    }
}

const REVERSE: &[(&str, &str)] = &[("name", "link"), ("direction", "reverse")];

#[test]
fn a_running_agent_follows_a_translated_link_and_tells_where_it_goes() {
    needs!(Need::Agent, Need::PacketFilter, Need::Tool("setpriv"));
    let (client, server) = server_that_translates();
    let here = backend(server.ipv4());
    let mut through = Served::new(&client, &server, here, cluster_service(server.ipv4()));
    let _direct = (through.link.client.connect(here), through.link.server.accept(through.link.listener));
    let collector = Collector::start(&server, Protocol::Grpc);
    let mut config = with_conntrack(&[through.probe()]);
    config["sandbox"] = json!("required");
    let mut agent = AgentCommand::new(&through.scene, &server)
        .config(&config)
        .privileges(Privileges::User(AGENT, ALL_THREE))
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", Protocol::Grpc.endpoint())
        .start();
    collector.wait_for_value("vms.connection_mon.up", REVERSE, 1, 0);
    collector.wait_for_value("vms.connection_mon.connections", REVERSE, 1, 0);
    let (ip, port) = (here.ip().to_string(), here.port().to_string());
    let translated: Vec<(&str, &str)> =
        [REVERSE, &[("dest_translated_ip", &ip), ("dest_translated_port", &port)]].concat();
    let told = collector.wait_for_points("vms.connection_mon.translated", &translated, 1, 0);

    through.link.close();
    let last = told.last().unwrap().time;
    collector.wait_for_value("vms.connection_mon.up", REVERSE, 0, last);
    through.link.reconnect();
    agent.wait_for_log(&["link is up", "reverse"]);
    agent.stop();
    assert_eq!(agent.log_with(&["conntrack"]), Vec::<String>::new(), "nothing to complain about");
}

#[test]
fn an_agent_that_may_not_read_conntrack_says_so_once_and_goes_on_as_without() {
    needs!(Need::Agent, Need::PacketFilter, Need::Tool("setpriv"));
    let (client, server) = server_that_translates();
    let service = cluster_service(server.ipv4());
    let through = Served::new(&client, &server, backend(server.ipv4()), service);
    let collector = Collector::start(&server, Protocol::Grpc);
    let direct = probe("backend", &through.scene.name("svc"), backend(server.ipv4()));
    let mut config = with_conntrack(&[through.probe(), direct]);
    config["sandbox"] = json!("required");
    let mut agent = AgentCommand::new(&through.scene, &server)
        .config(&config)
        .privileges(Privileges::User(AGENT, BOTH))
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", Protocol::Grpc.endpoint())
        .start();
    let up = "vms.connection_mon.up";
    collector.wait_for_points(up, &[("name", "backend"), ("direction", "reverse")], 5, 0);
    collector.wait_for_value(up, &[("name", "link")], 0, 0);
    agent.stop();
    assert_eq!(agent.log_with(&["CAP_NET_ADMIN"]).len(), 1, "{:#?}", agent.log());
    assert!(
        collector
            .series("vms.agent.measurements", &[("outcome", "failed")])
            .iter()
            .all(|point| point.value.as_int() == 0)
    );
}

#[test]
fn the_doctor_tells_what_keeps_conntrack_from_being_read() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let service = cluster_service(host.ipv4());
    let doctor = |privileges, config: &Value| {
        let agent = AgentCommand::new(&scene, &host).config(config).privileges(privileges);
        let output = agent.output(&["doctor", "--format", "json"]);
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let about = |finding: &Value| finding["what"].as_str().unwrap().contains("conntrack");
        findings.into_iter().filter(about).collect::<Vec<Value>>()
    };
    let auto = with_conntrack(&[probe("link", "svc", service)]);
    let may = doctor(Privileges::User(AGENT, ALL_THREE), &auto);
    assert_eq!((may.len(), &may[0]["level"]), (1, &json!("ok")), "{may:#?}");
    let may_not = doctor(Privileges::User(AGENT, BOTH), &auto);
    assert_eq!((may_not.len(), &may_not[0]["level"]), (1, &json!("warn")), "{may_not:#?}");
    assert!(may_not[0]["fix"].as_str().unwrap().contains("NET_ADMIN"), "{may_not:#?}");
    assert!(doctor(Privileges::Root, &config(&[probe("link", "svc", service)])).is_empty());
}

#[test]
fn of_many_services_each_link_is_found_among_all_translations() {
    needs!(Need::Agent, Need::PacketFilter);
    let (client, server) = server_that_translates();
    let scene = Scene::new();
    let (program, name) = (scene.program("svc"), scene.name("svc"));
    let (mut dialer, mut listener) = (program.start(&client), program.start(&server));
    let mut ends = Vec::new();
    let mut probes = Vec::new();
    for ip in [server.ipv4(), server.ipv6()] {
        let (here, service) = (listener.listen(backend(ip)), cluster_service(ip));
        ends.push((dialer.connect(service), listener.accept(here)));
        probes.push(probe(&format!("served-{ip}"), &name, service));
        // More than are asked for one by one.
        for port in 1..=9 {
            probes.push(probe(&format!("{ip}-{port}"), &name, SocketAddr::new(service.ip(), port)));
        }
    }
    let check = AgentCommand::new(&scene, &server).config(&with_conntrack(&probes)).check();
    let up: Vec<&str> = check.rows.iter().filter(|row| row.is_up()).map(|row| row.name.as_str()).collect();
    assert_eq!(up, [format!("served-{}", server.ipv4()), format!("served-{}", server.ipv6())], "{check:#?}");
}

/// So many attempts to connect that one service is translated to more endpoints than the agent takes in: some attempts come
/// from the same port.
const ATTEMPTS: usize = 8_000;

/// Begins to connect, and leaves it at that.
fn knock(service: SocketAddr) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    assert_eq!(net::connect(&socket, &service).unwrap_err(), Errno::INPROGRESS);
}

#[test]
fn a_table_that_cannot_be_taken_in_turns_no_link_into_a_silent_0() {
    needs!(Need::Agent, Need::PacketFilter);
    let (client, server) = server_that_translates();
    let here = backend(server.ipv4());
    let mut through = Served::new(&client, &server, here, cluster_service(server.ipv4()));
    let other = through.link.server.listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut dialer = through.scene.program("dialer").start(&server);
    let plain = dialer.connect(other.address);
    let _accepted = through.link.server.accept(other);
    let collector = Collector::start(&server, Protocol::Grpc);
    let forward = probe("plain", &through.scene.name("dialer"), other.address);
    let mut agent = AgentCommand::new(&through.scene, &server)
        .config(&with_conntrack(&[through.probe(), forward]))
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", Protocol::Grpc.endpoint())
        .start();
    let up = "vms.connection_mon.up";
    let plain_forward = &[("name", "plain"), ("direction", "forward")];
    collector.wait_for_value(up, REVERSE, 1, 0);
    collector.wait_for_value(up, plain_forward, 1, 0);

    server.run(program::command("ip").args(["route", "add", "10.96.0.10", "dev", "lo"]));
    translate(
        &server,
        "output",
        &["ip daddr 10.96.0.10 tcp dport 80 dnat ip to 127.0.0.1:10000-30000 fully-random".to_owned()],
    );
    server.run(program::command("nft").arg(
        "table inet vmst_silent { chain incoming { type filter hook input priority 0; tcp dport 10000-30000 drop; }; }",
    ));
    server.inside(|| (0..ATTEMPTS).for_each(|_| knock(cluster_service(here.ip()))));
    agent.wait_for_log(&["conntrack could not be read"]);
    let unread = unix_nanoseconds();
    collector.wait_for_points(up, REVERSE, 3, unread);
    assert_eq!(agent.log_with(&["link is down"]), Vec::<String>::new(), "known by its cookie");

    through.link.close();
    dialer.close(plain);
    let closed = unix_nanoseconds();
    collector.wait_for_value(up, plain_forward, 0, closed);
    agent.wait_for_log(&["probes could not be measured", "by their translation"]);
    let outcome = |name| [("outcome", name)];
    let failed = |since| {
        let points = collector.wait_for_points("vms.agent.measurements", &outcome("failed"), 2, since);
        points.last().unwrap().value.as_int() - points[0].value.as_int()
    };
    assert!(failed(unix_nanoseconds()) > 0, "each cycle counts it");
    let told = collector.series(up, REVERSE);
    assert!(told.iter().all(|point| point.value.as_int() == 1), "never a 0 without a look: {told:#?}");

    forget_connections(&server);
    let forgotten = unix_nanoseconds();
    agent.wait_for_log(&["conntrack is read again"]);
    collector.wait_for_value(up, REVERSE, 0, forgotten);
    assert_eq!(agent.log_with(&["conntrack could not be read"]).len(), 1, "told once");
    agent.stop();
}

#[test]
fn conntrack_is_not_read_while_links_are_verified_one_by_one() {
    needs!(Need::Agent, Need::PacketFilter, Need::Tool("strace"));
    let (client, server) = server_that_translates();
    let through = Served::new(&client, &server, backend(server.ipv4()), cluster_service(server.ipv4()));
    let collector = Collector::start(&server, Protocol::Grpc);
    let trace = through.scene.path().join("trace");
    let mut agent = through
        .agent_with_conntrack(&server)
        .traced(&trace)
        .variable("VMS_CPU_BUDGET", "0%")
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", Protocol::Grpc.endpoint())
        .start();
    collector.wait_for_points("vms.connection_mon.up", REVERSE, 10, 0);
    agent.stop();

    let trace = fs::read_to_string(&trace).unwrap();
    let requests = |kind: &str| {
        let is_request = |line: &&str| line.contains(" sendto(") && line.contains(kind);
        trace.lines().filter(is_request).count()
    };
    assert_eq!(requests("IPCTNL_MSG_CT_GET"), 1, "by the one walk");
    assert!(requests("SOCK_DIAG_BY_FAMILY") >= 10, "and sockets in each cycle");
}
