//! When a link is up, when it is down and why, and whom it belongs to: `vms-agent check` on real sockets.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use serde_json::json;
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Check, Link, Namespace, Program, Scene, config, eventually, needs, probe, probe_with,
};

/// Two hosts, and the same program at both ends of a connection between them.
struct TwoHosts {
    scene: Scene,
    near: Namespace,
    far: Namespace,
    link: Link,
    name: String,
}

impl TwoHosts {
    #[track_caller]
    fn new() -> Self {
        let (scene, (near, far)) = (Scene::new(), Namespace::pair());
        let (program, name) = (scene.program("svc"), scene.name("svc"));
        let link = Link::new((&program, &near), (&program, &far));
        Self { scene, near, far, link, name }
    }

    /// The agent of the client's host, whose end is `forward`.
    fn near_agent(&self) -> AgentCommand<'_> {
        AgentCommand::new(&self.scene, &self.near).config(&self.config())
    }

    /// The agent of the server's host, whose end is `reverse`.
    fn far_agent(&self) -> AgentCommand<'_> {
        AgentCommand::new(&self.scene, &self.far).config(&self.config())
    }

    fn config(&self) -> serde_json::Value {
        config(&[probe("link", &self.name, self.link.service())])
    }

    #[track_caller]
    fn assert_near_is_up(&self) {
        assert_up(&self.near_agent().check(), "forward");
    }

    #[track_caller]
    fn assert_far_is_up(&self) {
        assert_up(&self.far_agent().check(), "reverse");
    }

    #[track_caller]
    fn wait_for_near(&self, state: &str) {
        let end = self.link.client_end;
        eventually(state, || self.near.has_socket(state, end.local, end.remote).then_some(()));
    }

    #[track_caller]
    fn wait_for_far(&self, state: &str) {
        let end = self.link.server_end;
        eventually(state, || self.far.has_socket(state, end.local, end.remote).then_some(()));
    }

    /// Loses whatever the client's host sends over the link.
    #[track_caller]
    fn mute_near(&self) {
        self.near.drop_outgoing(&format!("tcp dport {}", self.link.service().port()));
    }
}

#[track_caller]
fn assert_up(check: &Check, direction: &str) {
    assert_eq!(check.code, 0, "{check:#?}");
    let row = check.row();
    assert!(row.is_up(), "{check:#?}");
    assert_eq!(row.direction.as_deref(), Some(direction), "{check:#?}");
    assert_eq!(row.unattributed, 0, "{check:#?}");
}

#[track_caller]
fn assert_down(check: &Check, reason: &str) {
    assert_eq!(check.code, 1, "{check:#?}");
    let row = check.row();
    assert_eq!(row.down_reason(), reason, "{check:#?}");
    assert_eq!(row.direction, None, "one look has never matched: {check:#?}");
    assert_eq!(row.unattributed, 0, "{check:#?}");
    assert!(row.owners.is_empty(), "{check:#?}");
}

#[test]
fn one_configuration_shows_the_link_forward_at_the_client_and_reverse_at_the_server() {
    needs!(Need::Agent);
    let hosts = TwoHosts::new();
    let service = hosts.link.service();
    for (agent, direction, owner) in [
        (hosts.near_agent(), "forward", &hosts.link.client),
        (hosts.far_agent(), "reverse", &hosts.link.server),
    ] {
        let check = agent.check();
        assert_up(&check, direction);
        let row = check.row();
        assert_eq!((row.name.as_str(), row.connections), ("link", 1));
        assert_eq!(
            (row.dest_ip.as_str(), row.dest_port),
            (service.ip().to_string().as_str(), service.port())
        );
        assert_eq!((row.source_ip.as_deref(), row.source_port), (None, None), "none is configured");
        let [owner_found] = row.owners.as_slice() else { panic!("one owner: {row:#?}") };
        assert_eq!((owner_found.pid, &owner_found.name), (owner.pid(), &hosts.name));
        let executable = hosts.scene.path().join(&hosts.name).display().to_string();
        assert_eq!(owner_found.executable.as_ref(), Some(&executable));
    }
}

#[test]
fn each_end_may_run_its_own_program_when_the_probe_names_both() {
    needs!(Need::Agent);
    let (scene, (near, far)) = (Scene::new(), Namespace::pair());
    let (shop, database) = (scene.program("shop"), scene.program("db"));
    let link = Link::new((&shop, &near), (&database, &far));
    let both = config(&[probe_with(
        "link",
        &scene.name("shop"),
        link.service(),
        &json!({"destProcessName": scene.name("db"), "destExecutablePath": database.path()}),
    )]);
    assert_up(&AgentCommand::new(&scene, &near).config(&both).check(), "forward");
    assert_up(&AgentCommand::new(&scene, &far).config(&both).check(), "reverse");

    let one = config(&[probe("link", &scene.name("shop"), link.service())]);
    assert_up(&AgentCommand::new(&scene, &near).config(&one).check(), "forward");
    assert_down(&AgentCommand::new(&scene, &far).config(&one).check(), "held_by_other");

    let other_file = config(&[probe_with(
        "link",
        &scene.name("shop"),
        link.service(),
        &json!({"destProcessName": scene.name("db"), "destExecutablePath": shop.path()}),
    )]);
    assert_down(&AgentCommand::new(&scene, &far).config(&other_file).check(), "held_by_other");
}

#[test]
fn on_one_host_both_directions_are_reported() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let program = scene.program("svc");
    let link = Link::new((&program, &host), (&program, &host));
    let config = config(&[probe("link", &scene.name("svc"), link.service())]);
    let check = AgentCommand::new(&scene, &host).config(&config).check();
    assert_eq!(check.code, 0, "{check:#?}");
    let mut seen: Vec<_> = check
        .rows
        .iter()
        .map(|row| (row.direction.clone().unwrap(), row.is_up(), row.connections, row.owner_pids()))
        .collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            ("forward".to_owned(), true, 1, vec![link.client.pid()]),
            ("reverse".to_owned(), true, 1, vec![link.server.pid()]),
        ]
    );
}

#[test]
fn several_connections_are_one_link_with_their_number() {
    needs!(Need::Agent);
    let mut hosts = TwoHosts::new();
    hosts.link.connect_again();
    hosts.link.connect_again();
    for (agent, direction) in [(hosts.near_agent(), "forward"), (hosts.far_agent(), "reverse")] {
        let check = agent.check();
        assert_up(&check, direction);
        assert_eq!(check.row().connections, 3);
        assert_eq!(check.row().owners.len(), 1, "a process is named once: {check:#?}");
    }
}

#[test]
fn down_because_no_such_process_runs() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let service = SocketAddr::from(([127, 0, 0, 1], 9));
    let config = config(&[probe("link", &scene.name("nobody"), service)]);
    assert_down(&AgentCommand::new(&scene, &host).config(&config).check(), "process_absent");
}

#[test]
fn down_because_the_process_has_no_connection() {
    needs!(Need::Agent);
    let mut hosts = TwoHosts::new();
    hosts.assert_near_is_up();
    hosts.link.close();
    assert_down(&hosts.near_agent().check_until("down", |check| check.code == 1), "no_connection");
    assert_down(&hosts.far_agent().check_until("down", |check| check.code == 1), "no_connection");
}

#[test]
fn down_because_the_connection_is_another_programs() {
    needs!(Need::Agent);
    let (scene, (near, far)) = (Scene::new(), Namespace::pair());
    let (wanted, other) = (scene.program("svc"), scene.program("other"));
    let link = Link::new((&other, &near), (&other, &far));
    let _present_without_a_connection = wanted.start(&near);
    let config = config(&[probe("link", &scene.name("svc"), link.service())]);
    for host in [&near, &far] {
        assert_down(&AgentCommand::new(&scene, host).config(&config).check(), "held_by_other");
    }
}

#[test]
fn one_link_down_among_others_is_told_by_the_exit_code_and_names_select() {
    needs!(Need::Agent);
    let hosts = TwoHosts::new();
    let nobody = hosts.scene.name("nobody");
    let config = config(&[
        probe("link", &hosts.name, hosts.link.service()),
        probe("gone", &nobody, hosts.link.service()),
    ]);
    let agent = AgentCommand::new(&hosts.scene, &hosts.near).config(&config);
    let check = agent.check();
    assert_eq!(check.code, 1, "{check:#?}");
    assert!(check.row_of("link").is_up());
    assert!(!check.row_of("gone").is_up());

    let selected = agent.output(&["check", "link", "--format", "json"]);
    assert_eq!(selected.status.code(), Some(0), "{selected:?}");
    let unknown = agent.output(&["check", "lin", "--format", "json"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("link"), "did you mean: {unknown:?}");
}

#[test]
fn a_listener_does_not_count() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let mut server = scene.program("svc").start(&host);
    let listener = server.listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    assert!(host.has_socket("LISTEN", listener.address, SocketAddr::from(([0, 0, 0, 0], 0))));
    let config = config(&[probe("link", &scene.name("svc"), listener.address)]);
    assert_down(&AgentCommand::new(&scene, &host).config(&config).check(), "no_connection");
}

#[test]
fn a_connection_that_nobody_accepted_yet_has_no_holder() {
    needs!(Need::Agent);
    let mut hosts = TwoHosts::new();
    hosts.link.close();
    let waiting = hosts.link.client.connect(hosts.link.listener.address);
    eventually("ESTAB", || hosts.far.has_socket("ESTAB", waiting.remote, waiting.local).then_some(()));
    hosts.assert_near_is_up();
    let check = hosts.far_agent().check();
    assert_eq!(check.code, 1, "{check:#?}");
    let row = check.row();
    assert!(!row.is_up());
    assert_ne!(row.reason.as_deref(), Some("not_permitted"), "it has no holder for anyone");
    assert_eq!(row.unattributed, 0);

    let accepted = hosts.link.server.accept(hosts.link.listener);
    hosts.assert_far_is_up();
    hosts.link.server.close(accepted);
}

#[test]
fn syn_sent_does_not_count_and_is_told_as_connecting() {
    needs!(Need::Agent, Need::PacketFilter);
    let mut hosts = TwoHosts::new();
    hosts.assert_near_is_up();
    hosts.link.close();
    hosts.mute_near();
    hosts.link.client_end = hosts.link.client.begin(hosts.link.listener.address);
    hosts.wait_for_near("SYN-SENT");
    let check = hosts.near_agent().check();
    assert_down(&check, "connecting");
}

#[test]
fn syn_recv_does_not_count() {
    needs!(Need::Agent, Need::PacketFilter);
    let mut hosts = TwoHosts::new();
    hosts.assert_far_is_up();
    hosts.link.close();
    let port = hosts.link.listener.address.port();
    hosts.far.drop_outgoing(&format!("tcp sport {port}"));
    let attempt = hosts.link.client.begin(hosts.link.listener.address);
    eventually("SYN-RECV", || hosts.far.has_socket("SYN-RECV", attempt.remote, attempt.local).then_some(()));
    assert_down(&hosts.far_agent().check(), "no_connection");
}

#[test]
fn fin_wait_1_does_not_count() {
    needs!(Need::Agent, Need::PacketFilter);
    let mut hosts = TwoHosts::new();
    hosts.assert_near_is_up();
    hosts.mute_near();
    hosts.link.client.shutdown(hosts.link.client_end);
    hosts.wait_for_near("FIN-WAIT-1");
    assert_down(&hosts.near_agent().check(), "no_connection");
    hosts.assert_far_is_up();
}

#[test]
fn fin_wait_2_and_close_wait_do_not_count() {
    needs!(Need::Agent);
    let mut hosts = TwoHosts::new();
    hosts.assert_near_is_up();
    hosts.assert_far_is_up();
    hosts.link.client.shutdown(hosts.link.client_end);
    hosts.wait_for_near("FIN-WAIT-2");
    hosts.wait_for_far("CLOSE-WAIT");
    assert_down(&hosts.near_agent().check(), "no_connection");
    assert_down(&hosts.far_agent().check(), "no_connection");
}

#[test]
fn close_wait_at_the_client_does_not_count() {
    needs!(Need::Agent);
    let mut hosts = TwoHosts::new();
    hosts.link.server.shutdown(hosts.link.server_end);
    hosts.wait_for_near("CLOSE-WAIT");
    assert_down(&hosts.near_agent().check(), "no_connection");
}

#[test]
fn last_ack_does_not_count() {
    needs!(Need::Agent, Need::PacketFilter);
    let mut hosts = TwoHosts::new();
    hosts.assert_near_is_up();
    hosts.link.server.shutdown(hosts.link.server_end);
    hosts.wait_for_near("CLOSE-WAIT");
    hosts.mute_near();
    hosts.link.client.shutdown(hosts.link.client_end);
    hosts.wait_for_near("LAST-ACK");
    assert_down(&hosts.near_agent().check(), "no_connection");
}

#[test]
fn closing_does_not_count() {
    needs!(Need::Agent, Need::PacketFilter);
    let mut hosts = TwoHosts::new();
    hosts.assert_near_is_up();
    hosts.mute_near();
    hosts.link.client.shutdown(hosts.link.client_end);
    hosts.wait_for_near("FIN-WAIT-1");
    hosts.link.server.shutdown(hosts.link.server_end);
    hosts.wait_for_near("CLOSING");
    assert_down(&hosts.near_agent().check(), "no_connection");
}

#[test]
fn time_wait_does_not_count_and_is_no_permission_problem() {
    needs!(Need::Agent);
    let mut hosts = TwoHosts::new();
    hosts.assert_near_is_up();
    hosts.link.client.close(hosts.link.client_end);
    hosts.link.server.close(hosts.link.server_end);
    hosts.wait_for_near("TIME-WAIT");
    assert_down(&hosts.near_agent().check(), "no_connection");
}

#[test]
fn an_ipv4_configuration_matches_the_ipv6_sockets_of_a_dual_stack_server_and_client() {
    needs!(Need::Agent);
    let (scene, (near, far)) = (Scene::new(), Namespace::pair());
    let program = scene.program("svc");
    let IpAddr::V4(address) = far.ipv4() else { panic!("the address is IPv4") };
    let everywhere = "[::]:0".parse().unwrap();
    let mapped = |listening: SocketAddr| SocketAddr::new(address.to_ipv6_mapped().into(), listening.port());
    let link = Link::over(program.start(&near), program.start(&far), everywhere, mapped);
    assert!(link.client_end.local.is_ipv6() && link.server_end.local.is_ipv6(), "both are AF_INET6 sockets");
    let service = SocketAddr::new(far.ipv4(), link.service().port());
    for spelling in [far.ipv4().to_string(), format!("::ffff:{address}")] {
        let config = config(&[probe_with(
            "link",
            &scene.name("svc"),
            service,
            &json!({"destServiceIp": spelling, "sourceServiceIp": near.ipv4()}),
        )]);
        for (host, direction) in [(&near, "forward"), (&far, "reverse")] {
            let check = AgentCommand::new(&scene, host).config(&config).check();
            assert_up(&check, direction);
            assert_eq!(check.row().dest_ip, far.ipv4().to_string(), "addresses are told in one spelling");
        }
    }
}

#[test]
fn ipv6_addresses_compare_as_addresses() {
    needs!(Need::Agent);
    let (scene, (near, far)) = (Scene::new(), Namespace::pair());
    let program = scene.program("svc");
    let listen = SocketAddr::new(far.ipv6(), 0);
    let link = Link::over(program.start(&near), program.start(&far), listen, |listening| listening);
    for (spelling, up) in [("fd00:11::2", true), ("FD00:0011:0:0:0:0:0:0002", true), ("fd00:11::3", false)] {
        let config = config(&[probe_with(
            "link",
            &scene.name("svc"),
            link.service(),
            &json!({"destServiceIp": spelling}),
        )]);
        for (host, direction) in [(&near, "forward"), (&far, "reverse")] {
            let check = AgentCommand::new(&scene, host).config(&config).check();
            if up { assert_up(&check, direction) } else { assert_down(&check, "no_connection") }
        }
    }
}

#[test]
fn a_link_local_address_matches_on_its_interface_only() {
    needs!(Need::Agent);
    let (scene, (near, far)) = (Scene::new(), Namespace::pair());
    let program = scene.program("svc");
    let on = |address: IpAddr, port, zone| match address {
        IpAddr::V6(address) => SocketAddr::V6(SocketAddrV6::new(address, port, 0, zone)),
        IpAddr::V4(_) => panic!("link-local addresses here are IPv6"),
    };
    let listen = on(far.link_local(), 0, far.interface_index());
    let dial = |listening: SocketAddr| on(far.link_local(), listening.port(), near.interface_index());
    let link = Link::over(program.start(&near), program.start(&far), listen, dial);
    let service = SocketAddr::new(far.link_local(), link.service().port());
    for (host, direction) in [(&near, "forward"), (&far, "reverse")] {
        let index = host.interface_index();
        for (zone, up) in [
            ("%eth0".to_owned(), true),
            (format!("%{index}"), true),
            (String::new(), true),
            ("%lo".to_owned(), false),
            ("%eth9".to_owned(), false),
            (format!("%{}", index + 7), false),
        ] {
            let config = config(&[probe_with(
                "link",
                &scene.name("svc"),
                service,
                &json!({"destServiceIp": format!("{}{zone}", far.link_local())}),
            )]);
            let check = AgentCommand::new(&scene, host).config(&config).check();
            if up { assert_up(&check, direction) } else { assert_down(&check, "no_connection") }
        }
    }
}

#[test]
fn a_configured_source_filters_the_other_end_in_both_directions() {
    needs!(Need::Agent);
    let hosts = TwoHosts::new();
    let (source, service) = (hosts.link.client_end.local, hosts.link.service());
    let other_port = if source.port() == 40_000 { 40_001 } else { 40_000 };
    for (filter, up) in [
        (json!({"sourceServiceIp": source.ip()}), true),
        (json!({"sourceServicePort": source.port()}), true),
        (json!({"sourceServiceIp": source.ip(), "sourceServicePort": source.port()}), true),
        (json!({"sourceServiceIp": "10.11.12.77"}), false),
        (json!({"sourceServicePort": other_port}), false),
        (json!({"sourceServiceIp": "10.11.12.77", "sourceServicePort": source.port()}), false),
        (json!({"sourceServiceIp": service.ip()}), false),
    ] {
        let config = config(&[probe_with("link", &hosts.name, service, &filter)]);
        for (host, direction) in [(&hosts.near, "forward"), (&hosts.far, "reverse")] {
            let check = AgentCommand::new(&hosts.scene, host).config(&config).check();
            if up {
                assert_up(&check, direction);
            } else {
                assert_down(&check, "no_connection");
            }
            let row = check.row();
            let configured = (filter.get("sourceServiceIp"), filter.get("sourceServicePort"));
            assert_eq!(row.source_ip.as_deref(), configured.0.and_then(|ip| ip.as_str()), "{row:#?}");
            assert_eq!(row.source_port.map(u64::from), configured.1.and_then(serde_json::Value::as_u64));
        }
    }
}

#[test]
fn matched_sources_label_the_results_where_asked() {
    needs!(Need::Agent);
    let mut hosts = TwoHosts::new();
    let (second, _) = hosts.link.connect_again();
    let ports = [hosts.link.client_end.local.port(), second.local.port()];
    let check = |labels: &str| {
        let labels = json!({"matchedSourceLabels": labels});
        let config = config(&[probe_with("link", &hosts.name, hosts.link.service(), &labels)]);
        AgentCommand::new(&hosts.scene, &hosts.far).config(&config).check()
    };
    let near = hosts.near.ipv4().to_string();

    let none = check("none");
    assert_eq!(
        (none.row().source_ip.as_deref(), none.row().source_port, none.row().connections),
        (None, None, 2)
    );

    let ip = check("ip");
    assert_eq!((ip.row().source_ip.as_ref(), ip.row().source_port), (Some(&near), None));
    assert_eq!(ip.row().connections, 2);

    let ip_port = check("ip_port");
    let mut seen: Vec<u16> = ip_port
        .rows
        .iter()
        .map(|row| {
            assert!(row.is_up());
            assert_eq!((row.source_ip.as_ref(), row.connections), (Some(&near), 1));
            row.source_port.unwrap()
        })
        .collect();
    seen.sort_unstable();
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    assert_eq!(seen, ports);
}

/// A connection on one host whose client is the program given; its server is called `far`.
struct Named {
    scene: Scene,
    host: Namespace,
    link: Link,
}

impl Named {
    #[track_caller]
    fn new(client: impl FnOnce(&Scene) -> Program) -> Self {
        let (scene, host) = (Scene::new(), Namespace::new());
        let client = client(&scene);
        let link = Link::new((&client, &host), (&scene.program("far"), &host));
        Self { scene, host, link }
    }

    #[track_caller]
    fn check(&self, process_name: &str) -> Check {
        let config = config(&[probe("link", process_name, self.link.service())]);
        AgentCommand::new(&self.scene, &self.host).config(&config).check()
    }

    #[track_caller]
    fn assert_fits(&self, process_name: &str) {
        let check = self.check(process_name);
        assert_up(&check, "forward");
        assert_eq!(check.row().owner_pids(), [self.link.client.pid()]);
    }

    #[track_caller]
    fn assert_fits_not(&self, process_name: &str) {
        let check = self.check(process_name);
        assert_eq!(check.code, 1, "{check:#?}");
        assert!(["held_by_other", "process_absent"].contains(&check.row().down_reason()), "{check:#?}");
    }
}

#[test]
fn a_process_name_is_a_glob_over_the_whole_name_in_any_case() {
    needs!(Need::Agent);
    let named = Named::new(|scene| scene.program("PaySvc"));
    let (upper, lower) = (named.scene.name("PAYSVC"), named.scene.name("paysvc"));
    let tag = named.scene.name("");
    for fits in [
        upper,
        lower,
        format!("pay*{tag}"),
        format!("pay???{tag}"),
        format!("[op]aysvc{tag}"),
        format!("{{shop,paysvc}}{tag}"),
        "*".to_owned(),
    ] {
        if fits == "*" {
            // Both programs fit that one.
            let check = named.check(&fits);
            assert_eq!((check.code, check.rows.len()), (0, 2), "{check:#?}");
        } else {
            named.assert_fits(&fits);
        }
    }
    for fits_not in [format!("aysvc{tag}"), format!("pay{tag}"), "paysvc".to_owned(), format!("paysvc?{tag}")]
    {
        named.assert_fits_not(&fits_not);
    }
}

#[test]
fn a_name_longer_than_comm_can_hold_fits_in_whole() {
    needs!(Need::Agent);
    let named = Named::new(|scene| scene.program("payment-gateway-frontend-worker"));
    let name = named.scene.name("payment-gateway-frontend-worker");
    named.assert_fits(&name);
    named.assert_fits("payment-gateway");
    named.assert_fits(&format!("*-worker{}", named.scene.name("")));
    named.assert_fits_not("payment-gateway-f");
}

#[test]
fn the_base_name_of_argv_0_is_a_name() {
    needs!(Need::Agent);
    let named = Named::new(|scene| {
        let argv0 = format!("/opt/shop/{}", scene.name("Shop-Server-Of-Many-Letters"));
        scene.program("java").argv0(&argv0)
    });
    named.assert_fits(&named.scene.name("shop-server-of-many-letters"));
    named.assert_fits(&named.scene.name("java"));
    named.assert_fits_not(&format!("/opt/shop/{}", named.scene.name("shop-server-of-many-letters")));
}

#[test]
fn a_renamed_process_fits_by_its_new_name_and_by_its_executable() {
    needs!(Need::Agent);
    let mut named = Named::new(|scene| scene.program("worker").argv0("x"));
    let renamed = named.scene.name("renamed");
    named.link.client.rename(&renamed);
    named.assert_fits(&renamed);
    named.assert_fits(&named.scene.name("worker"));
    assert_eq!(named.check(&renamed).row().owners[0].name, renamed);
}

#[test]
fn an_executable_path_has_to_be_the_very_path() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let (one, other) = (scene.program_at("one/svc"), scene.program_at("other/svc"));
    let link = Link::new((&one, &host), (&scene.program("far"), &host));
    for (path, up) in [(one.path(), true), (other.path(), false)] {
        let config = config(&[probe_with("link", "svc", link.service(), &json!({"executablePath": path}))]);
        let check = AgentCommand::new(&scene, &host).config(&config).check();
        if up {
            assert_up(&check, "forward");
        } else {
            assert_eq!(check.code, 1, "{check:#?}");
            assert!(!check.row().is_up());
        }
    }
}

#[test]
fn a_binary_that_was_replaced_while_it_runs_still_fits() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let program = scene.program("svc");
    let link = Link::new((&program, &host), (&scene.program("far"), &host));
    std::fs::remove_file(program.path()).unwrap();
    let shown = link.client.executable();
    assert!(shown.to_string_lossy().ends_with(" (deleted)"), "{}", shown.display());
    let path = json!({"executablePath": program.path()});
    let config = config(&[probe_with("link", &scene.name("svc"), link.service(), &path)]);
    let check = AgentCommand::new(&scene, &host).config(&config).check();
    assert_up(&check, "forward");
    let executable = program.path().display().to_string();
    assert_eq!(check.row().owners[0].executable.as_ref(), Some(&executable));
}

#[test]
fn a_socket_inherited_by_a_child_counts_for_both_and_once() {
    needs!(Need::Agent);
    let mut named = Named::new(|scene| scene.program("parent"));
    let child = named.scene.program("child");
    let child = named.link.client.child(named.link.client_end, &child);
    let (parent_name, child_name) = (named.scene.name("parent"), named.scene.name("child"));
    for (process_name, owners) in [
        (parent_name.clone(), vec![named.link.client.pid()]),
        (child_name.clone(), vec![child]),
        (format!("{{{parent_name},{child_name}}}"), vec![named.link.client.pid(), child]),
    ] {
        let check = named.check(&process_name);
        assert_up(&check, "forward");
        assert_eq!(check.row().connections, 1);
        let mut owners = owners;
        owners.sort_unstable();
        assert_eq!(check.row().owner_pids(), owners, "{process_name}");
    }
}

#[test]
fn a_socket_passed_to_another_process_is_that_processes_too_and_then_only_its() {
    needs!(Need::Agent);
    let mut named = Named::new(|scene| scene.program("acceptor"));
    let mut worker = named.scene.program("worker").start(&named.host);
    let mailbox = named.scene.path().join("mailbox");
    worker.mailbox(&mailbox);
    named.link.client.give(named.link.client_end, &mailbox);
    let taken = worker.take();
    assert_eq!(taken.local, named.link.client_end.local);
    let (acceptor_name, worker_name) = (named.scene.name("acceptor"), named.scene.name("worker"));
    let pids = |named: &Named, process_name: &str| named.check(process_name).row().owner_pids();
    assert_eq!(pids(&named, &acceptor_name), [named.link.client.pid()]);
    assert_eq!(pids(&named, &worker_name), [worker.pid()]);

    named.link.client.close(named.link.client_end);
    assert_eq!(pids(&named, &worker_name), [worker.pid()]);
    let check = named.check(&acceptor_name);
    assert_eq!(check.row().down_reason(), "held_by_other");
}

#[test]
fn connections_of_another_network_namespace_are_not_this_hosts() {
    needs!(Need::Agent);
    let (scene, (host, other)) = (Scene::new(), (Namespace::new(), Namespace::new()));
    let program = scene.program("svc");
    let link = Link::new((&program, &other), (&program, &other));
    let _present = program.start(&host);
    let config = config(&[probe("link", &scene.name("svc"), link.service())]);
    assert_eq!(AgentCommand::new(&scene, &other).config(&config).check().code, 0);
    assert_down(&AgentCommand::new(&scene, &host).config(&config).check(), "no_connection");
}

#[test]
fn a_check_prints_a_table_for_people() {
    needs!(Need::Agent);
    let hosts = TwoHosts::new();
    let output = hosts.near_agent().output(&["check"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(!table.contains('\u{1b}'), "no color into a pipe: {table}");
    let line = table.lines().find(|line| line.contains("link")).unwrap();
    for part in ["up", "forward", &hosts.link.client.pid().to_string()] {
        assert!(line.contains(part), "{part}: {table}");
    }
}
