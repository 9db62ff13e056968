//! One agent for all network namespaces of its host: `namespaces: all`.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use vms_agent_tests::agent::BOTH;
use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    Agent, AgentCommand, Check, Collector, ContainerGroup, Link, Listener, Namespace, Peer, Points,
    Privileges, Program, Protocol, Row, Scene, config, eventually, needs, probe, program,
};

/// Whom the agent runs as, where it is not root.
const AGENT: u32 = 61_012;

/// What an agent for all namespaces needs, and no more.
const NODE_AGENT: &[&str] = &["sys_ptrace", "dac_read_search", "sys_admin"];

const UP: &str = "vms.connection_mon.up";
const FORWARD: &[(&str, &str)] = &[("name", "link"), ("direction", "forward")];
const CONNECTIONS: &str = "vms.connection_mon.connections";

/// Names of containers, and of a pod.
const ID: &str = "e72f453320124d18eb835d05a10d393b95dd584ed6d1bea161717a290a357aa6";
const OTHER: &str = "52fe35b6596081ccbe93ef248665cbb97e869f53838191741458455d10d1e0be";
const POD: &str = "8c1b3f6e-7d52-4c1c-9f0e-3f2b7a9d5e10";

/// Where every server listens, and every client comes from: the same in each pod.
const SERVICE: ([u8; 4], u16) = ([127, 0, 0, 1], 7000);
const SOURCE: ([u8; 4], u16) = ([127, 0, 0, 1], 40_000);

/// The same connection as in any other pod.
struct Twin {
    client: Peer,
    server: Peer,
    ends: (vms_agent_tests::Stream, vms_agent_tests::Stream),
    listener: Listener,
    pod: Option<Namespace>,
}

impl Twin {
    /// In a new pod.
    #[track_caller]
    fn in_pod(programs: (&Program, &Program), host: &Namespace) -> Self {
        let pod = host.pod();
        let twin = Self::on(programs, &pod);
        Self { pod: Some(pod), ..twin }
    }

    #[track_caller]
    fn on((client, server): (&Program, &Program), place: &Namespace) -> Self {
        Self::between(client.start(place), server.start(place))
    }

    #[track_caller]
    fn between(mut client: Peer, mut server: Peer) -> Self {
        let listener = server.listen(SocketAddr::from(SERVICE));
        let client_end = client.connect_from(listener.address, SocketAddr::from(SOURCE));
        let server_end = server.accept(listener);
        Self { client, server, ends: (client_end, server_end), listener, pod: None }
    }

    #[track_caller]
    fn close(&mut self) {
        self.client.close(self.ends.0);
        self.server.close(self.ends.1);
    }
}

/// A probe for the client's end.
fn config_of(scene: &Scene) -> Value {
    let mut config = config(&[probe("link", &scene.name("svc"), SocketAddr::from(SERVICE))]);
    config["namespaces"] = json!("all");
    config
}

/// The row of the client's end, which is up.
#[track_caller]
fn connections(check: &Check) -> (u64, usize) {
    assert_eq!(check.code, 0, "{check:#?}");
    let row = check.row();
    assert!(row.is_up() && row.direction.as_deref() == Some("forward"), "{check:#?}");
    (row.connections, row.owners.len())
}

/// The network namespaces that an agent keeps hold of, beside its own.
fn kept_namespaces(agent: &Agent) -> usize {
    let directory = format!("/proc/{}/fd", agent.pid().as_raw_nonzero());
    let links = fs::read_dir(directory).expect("the agent runs").flatten();
    let namespaces = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    namespaces.filter(|link| link.to_string_lossy().starts_with("net:[")).count().saturating_sub(1)
}

#[test]
fn the_same_connection_in_each_of_several_pods_is_seen_in_each() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let mut twins: Vec<Twin> = (0..8).map(|_| Twin::in_pod((&svc, &far), &host)).collect();
    twins.push(Twin::on((&svc, &far), &host));
    let config = config_of(&scene);
    let agent = AgentCommand::new(&scene, &host).config(&config);
    assert_eq!(connections(&agent.check()), (9, 9));
    // One that does not count: nobody lives there who fits.
    let stranger = scene.program("stranger");
    let _other = Twin::in_pod((&stranger, &far), &host);
    assert_eq!(connections(&agent.check()), (9, 9));
    // And one where somebody does, and somebody else holds the connection.
    let held_by_other = Twin::in_pod((&stranger, &far), &host);
    let _fits = svc.start(held_by_other.pod.as_ref().expect("it has a pod"));
    assert_eq!(connections(&agent.check()), (9, 9));

    let collector = Collector::start(&host, Protocol::Grpc);
    let mut running = AgentCommand::new(&scene, &host).config(&config).start();
    collector.wait_for_value(CONNECTIONS, FORWARD, 9, 0);
    for (left, twin) in (1..9).rev().zip(&mut twins) {
        let since = unix_nanoseconds();
        twin.close();
        collector.wait_for_value(CONNECTIONS, FORWARD, left, since);
        collector.wait_for_value(UP, FORWARD, 1, since);
    }
    let since = unix_nanoseconds();
    twins.last_mut().expect("there are nine").close();
    collector.wait_for_value(UP, FORWARD, 0, since);
    running.wait_for_log(&["link is down", "held_by_other"]);
    let up: Vec<i64> = collector.series(UP, FORWARD).iter().map(|point| point.value.as_int()).collect();
    let first_down = up.iter().position(|up| *up == 0).expect("it went down");
    assert!(up[first_down..].iter().all(|up| *up == 0), "{up:?}");
    running.stop();
}

#[test]
fn processes_on_the_hosts_network_are_one_namespace_however_many_there_are() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let _others: Vec<Peer> = (0..5).map(|_| svc.start(&host)).collect();
    let _twin = Twin::on((&svc, &far), &host);
    let agent = AgentCommand::new(&scene, &host).config(&config_of(&scene));
    assert_eq!(connections(&agent.check()), (1, 1));
    // From within a pod, the host's is another.
    let pod = host.pod();
    let agent = AgentCommand::new(&scene, &pod).config(&config_of(&scene));
    assert_eq!(connections(&agent.check()), (1, 1));
}

#[test]
fn pods_that_come_and_go_are_followed_and_let_go_of() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent = AgentCommand::new(&scene, &host).config(&config_of(&scene)).start();
    collector.wait_for_points(UP, &[("name", "link")], 2, 0);
    assert_eq!(kept_namespaces(&agent), 0);
    for _pod in 0..3 {
        let since = unix_nanoseconds();
        let twin = Twin::in_pod((&svc, &far), &host);
        collector.wait_for_value(UP, FORWARD, 1, since);
        assert_eq!(kept_namespaces(&agent), 1);
        let since = unix_nanoseconds();
        drop(twin);
        collector.wait_for_value(UP, FORWARD, 0, since);
        eventually("the namespace is let go of", || (kept_namespaces(&agent) == 0).then_some(()));
    }
    agent.stop();
    assert_eq!(agent.log_with(&["could not be measured"]), Vec::<String>::new());
}

#[test]
fn between_walks_a_link_in_a_pod_is_verified_where_it_is() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let mut twin = Twin::in_pod((&svc, &far), &host);
    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent =
        AgentCommand::new(&scene, &host).config(&config_of(&scene)).variable("VMS_CPU_BUDGET", "0%").start();
    collector.wait_for_value(UP, FORWARD, 1, 0);
    collector.wait_for_points(UP, FORWARD, 10, 0);
    assert!(collector.series(UP, FORWARD).iter().all(|point| point.value.as_int() == 1));
    let rtt = collector.series("vms.connection_mon.rtt", FORWARD);
    assert!(!rtt.is_empty(), "and how it fares is told");
    let since = unix_nanoseconds();
    twin.close();
    collector.wait_for_value(UP, FORWARD, 0, since);
    agent.stop();
}

/// Who may not enter a network namespace, and may look into processes.
const ALMOST: [Privileges; 2] = [Privileges::RootWithout(&["sys_admin"]), Privileges::User(AGENT, BOTH)];

#[test]
fn without_cap_sys_admin_the_same_connection_in_several_pods_is_seen_in_each() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let mut twins: Vec<Twin> = (0..3).map(|_| Twin::in_pod((&svc, &far), &host)).collect();
    twins.push(Twin::on((&svc, &far), &host));
    // And one where somebody lives who fits, and somebody else holds the connection.
    let stranger = scene.program("stranger");
    let held_by_other = Twin::in_pod((&stranger, &far), &host);
    let _fits = svc.start(held_by_other.pod.as_ref().expect("it has a pod"));
    let config = config_of(&scene);
    for privileges in ALMOST {
        let agent = AgentCommand::new(&scene, &host).config(&config).privileges(privileges);
        assert_eq!(connections(&agent.check()), (4, 4), "{privileges:?}");
    }

    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent = AgentCommand::new(&scene, &host)
        .config(&config)
        .variable("VMS_SANDBOX", "required")
        .privileges(Privileges::User(AGENT, BOTH))
        .start();
    collector.wait_for_value(CONNECTIONS, FORWARD, 4, 0);
    agent.wait_for_log(&["the sandbox is complete"]);
    for (left, twin) in (1..4).rev().zip(&mut twins) {
        let since = unix_nanoseconds();
        twin.close();
        collector.wait_for_value(CONNECTIONS, FORWARD, left, since);
        collector.wait_for_value(UP, FORWARD, 1, since);
    }
    let since = unix_nanoseconds();
    twins.last_mut().expect("there are four").close();
    collector.wait_for_value(UP, FORWARD, 0, since);
    agent.wait_for_log(&["link is down", "held_by_other"]);
    agent.stop();
    assert_eq!(agent.log_with(&["network namespaces may not be entered"]).len(), 1, "said once");
    let up: Vec<i64> = collector.series(UP, FORWARD).iter().map(|point| point.value.as_int()).collect();
    let first_down = up.iter().position(|up| *up == 0).expect("it went down");
    assert!(up[first_down..].iter().all(|up| *up == 0), "{up:?}");
}

#[test]
fn without_cap_sys_admin_a_link_in_a_pod_is_verified_between_walks_and_its_end_told() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let mut twin = Twin::in_pod((&svc, &far), &host);
    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent = AgentCommand::new(&scene, &host)
        .config(&config_of(&scene))
        .variable("VMS_CPU_BUDGET", "0%")
        .privileges(Privileges::User(AGENT, BOTH))
        .start();
    collector.wait_for_value(UP, FORWARD, 1, 0);
    collector.wait_for_points(UP, FORWARD, 10, 0);
    assert!(collector.series(UP, FORWARD).iter().all(|point| point.value.as_int() == 1));
    assert_eq!(collector.series("vms.connection_mon.rtt", FORWARD), [], "how it fares is not known");
    let since = unix_nanoseconds();
    twin.close();
    collector.wait_for_value(UP, FORWARD, 0, since);
    agent.wait_for_log(&["link is down", "no_connection"]);
    // And when the pod is gone with all who lived in it.
    drop(twin);
    collector.wait_for_points(UP, FORWARD, 3, unix_nanoseconds());
    agent.stop();
    assert_eq!(agent.log_with(&["could not be measured"]), Vec::<String>::new());
}

#[test]
fn without_any_capability_links_in_pods_of_the_agents_own_user_are_seen_and_others_flagged() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let agent = Privileges::User(AGENT, &[]);
    let (svc, far) = (scene.program("svc").user(AGENT).powerless(), scene.program("far"));
    let twin = Twin::in_pod((&svc, &far), &host);
    // Another user's in the same pod, who fits as well, does not make it two.
    let _beside = scene.program("svc").start(twin.pod.as_ref().expect("it has a pod"));
    let check = AgentCommand::new(&scene, &host).config(&config_of(&scene)).privileges(agent).check();
    assert_eq!(connections(&check), (1, 1));
    drop(twin);

    let _other = Twin::in_pod((&scene.program("svc"), &far), &host);
    let check = AgentCommand::new(&scene, &host).config(&config_of(&scene)).privileges(agent).check();
    assert_eq!(check.code, 1, "{check:#?}");
    assert_eq!(check.row().down_reason(), "not_permitted", "{check:#?}");
    assert!(check.row().unattributed > 0, "{check:#?}");
}

#[test]
fn a_link_in_a_pod_that_may_neither_be_entered_nor_read_is_failed_and_never_down() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let mut twin = Twin::in_pod((&svc, &far), &host);
    let here = Link::new((&scene.program("own").user(AGENT).powerless(), &host), (&far, &host));
    let mut config = config_of(&scene);
    config["probes"].as_array_mut().expect("probes").push(probe("here", &scene.name("own"), here.service()));
    // Whose processes are hidden, of them it is not known where they live.
    let privileges = Privileges::User(AGENT, &[]);
    let command = || AgentCommand::new(&scene, &host).config(&config).privileges(privileges).hidepid(2);
    let check = command().check();
    assert_eq!(check.code, 3, "{check:#?}");
    assert!(check.rows.iter().all(|row| row.name == "here"), "{check:#?}");
    assert!(check.stderr.contains("link could not be measured"), "{check:#?}");
    assert!(check.stderr.contains("grant CAP_SYS_ADMIN"), "{check:#?}");

    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent = command().start();
    collector.wait_for_value(UP, &[("name", "here"), ("direction", "forward")], 1, 0);
    collector.wait_for_points("vms.agent.measurements", &[("outcome", "failed")], 3, 0);
    assert_eq!(collector.series(UP, &[("name", "link")]), []);
    let log = agent.log_with(&["links cannot be measured", "CAP_SYS_ADMIN"]);
    assert_eq!(log.len(), 1, "said once: {log:#?}");
    twin.close();
    agent.stop();
}

#[test]
fn a_link_between_addresses_of_one_interface_is_failed_in_a_pod_that_may_not_be_entered() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let _lives = scene.program("svc").start(&host.pod());
    let mut config = config_of(&scene);
    config["probes"][0]["destServiceIp"] = json!("fe80::1%lo");
    let check = AgentCommand::new(&scene, &host).config(&config).check();
    assert_eq!((check.code, check.row().down_reason()), (1, "no_connection"), "{check:#?}");
    for privileges in ALMOST {
        let check = AgentCommand::new(&scene, &host).config(&config).privileges(privileges).check();
        assert_eq!((check.code, check.rows.len()), (3, 0), "{check:#?}");
    }
}

#[test]
fn three_capabilities_and_no_more_are_enough_in_the_sandbox() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let mut twin = Twin::in_pod((&svc, &far), &host);
    let mut config = config_of(&scene);
    config["sandbox"] = json!("required");
    let collector = Collector::start(&host, Protocol::Grpc);
    for privileges in [Privileges::Root, Privileges::User(AGENT, NODE_AGENT)] {
        let since = unix_nanoseconds();
        let mut agent = AgentCommand::new(&scene, &host).config(&config).privileges(privileges).start();
        collector.wait_for_value(UP, FORWARD, 1, since);
        let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid().as_raw_nonzero())).expect("it runs");
        let mut held = Vec::new();
        for task in tasks.flatten() {
            let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
            let value = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                line.map(|value| value.trim().to_owned()).expect("the kernel tells")
            };
            held.push((value("Name:") == "vms-measuring", value("CapEff:")));
        }
        for (measures, capabilities) in held {
            let kept = if measures { "0000000000280004" } else { "0000000000000000" };
            assert_eq!(capabilities, kept, "{privileges:?}");
        }
        agent.wait_for_log(&["the sandbox is complete"]);
        // A socket is opened in a pod that comes while the sandbox is in force.
        let another = Twin::in_pod((&svc, &far), &host);
        collector.wait_for_value(CONNECTIONS, FORWARD, 2, since);
        drop(another);
        agent.stop_with(rustix::process::Signal::TERM);
    }
    twin.close();
}

#[test]
fn a_socket_that_was_taken_home_from_a_namespace_with_a_name_is_seen() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far, porter) = (scene.program("svc"), scene.program("far"), scene.program("porter"));
    // What names a namespace no more, and what never answers.
    let names = ["stale", "silent"].map(|name| format!("/run/netns/{}-{name}", host.name()));
    fs::write(&names[0], "").expect("/run/netns is there");
    rustix::fs::mknodat(rustix::fs::CWD, &names[1], rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("a name for a pipe can be made");
    let twin = Twin::in_pod((&porter, &far), &host);
    // The same in another pod, of nobody who matters.
    let _other = Twin::in_pod((&porter, &far), &host);
    let mut config = config_of(&scene);
    config["sandbox"] = json!("required");
    let check = AgentCommand::new(&scene, &host).config(&config).check();
    assert_eq!((check.code, check.row().down_reason()), (1, "process_absent"), "{check:#?}");
    let Twin { client: mut porter, server: _server, ends, pod: _pod, .. } = twin;
    let mut svc = svc.start(&host);
    let check = AgentCommand::new(&scene, &host).config(&config).check();
    assert_eq!((check.code, check.row().down_reason()), (1, "no_connection"), "{check:#?}");
    let mailbox = scene.public_directory("mail").join("box");
    svc.mailbox(&mailbox);
    porter.give(ends.0, &mailbox);
    let taken = svc.take();
    porter.close(ends.0);
    for privileges in [Privileges::Root, Privileges::User(AGENT, NODE_AGENT)] {
        let agent = AgentCommand::new(&scene, &host).config(&config).privileges(privileges);
        assert_eq!(connections(&agent.check()), (1, 1), "{privileges:?}");
        let collector = Collector::start(&host, Protocol::Grpc);
        let mut agent = AgentCommand::new(&scene, &host).config(&config).privileges(privileges).start();
        collector.wait_for_value(UP, FORWARD, 1, 0);
        agent.stop_with(rustix::process::Signal::TERM);
    }
    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent = AgentCommand::new(&scene, &host).config(&config).start();
    collector.wait_for_value(UP, FORWARD, 1, 0);
    let since = unix_nanoseconds();
    svc.close(taken);
    collector.wait_for_value(UP, FORWARD, 0, since);
    agent.wait_for_log(&["link is down", "no_connection"]);
    agent.stop();
    for name in &names {
        fs::remove_file(name).expect("it is there still");
    }
}

#[test]
fn a_reload_does_not_change_whose_connections_are_looked_at() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let _twin = Twin::in_pod((&svc, &far), &host);
    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent = AgentCommand::new(&scene, &host).config(&config_of(&scene)).start();
    collector.wait_for_value(UP, FORWARD, 1, 0);
    let mut own = config_of(&scene);
    own["namespaces"] = json!("own");
    let _in_place = scene.write("config.json", &own.to_string());
    agent.signal(rustix::process::Signal::HUP);
    agent.wait_for_log(&["namespaces takes effect at the next start"]);
    std::thread::sleep(Duration::from_millis(600));
    collector.wait_for_value(UP, FORWARD, 1, unix_nanoseconds());
    agent.stop();
}

#[test]
fn each_container_has_a_series_with_its_name_that_goes_on_at_0() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let (svc, far) = (scene.program("svc"), scene.program("far"));
    let slice = format!("kubepods-burstable-pod{}.slice", POD.replace('-', "_"));
    let of_pod = ContainerGroup::new(&format!("{slice}/cri-containerd-{ID}.scope"));
    let of_docker = ContainerGroup::new(&format!("docker-{OTHER}.scope"));
    let mut in_pod = Twin::in_pod((&svc, &far), &host);
    of_pod.admit(&in_pod.client);
    let alone = Twin::in_pod((&svc, &far), &host);
    of_docker.admit(&alone.client);
    // On the host's network, whichever container it is in.
    let another = ContainerGroup::new(&format!("docker-{}.scope", ID.replace('e', "d")));
    let beside = Twin::on((&svc, &far), &host);
    another.admit(&beside.client);

    let check = AgentCommand::new(&scene, &host).config(&config_of(&scene)).check();
    let mut rows: Vec<_> = check
        .rows
        .iter()
        .map(|row| (row.container_id.as_deref(), row.pod_uid.as_deref(), row.connections))
        .collect();
    rows.sort_unstable();
    assert_eq!(rows, [(None, None, 1), (Some(OTHER), None, 1), (Some(ID), Some(POD), 1)], "{check:#?}");
    let owners = check.rows.iter().flat_map(|row| &row.owners);
    let contained: BTreeSet<&str> = owners.filter_map(|owner| owner.container_id.as_deref()).collect();
    let of_beside = ID.replace('e', "d");
    assert_eq!(contained, [ID, OTHER, of_beside.as_str()].into(), "also of who is on the host's network");

    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent = AgentCommand::new(&scene, &host).config(&config_of(&scene)).start();
    let pod: &[_] = &[("direction", "forward"), ("container.id", ID), ("k8s.pod.uid", POD)];
    let docker: &[_] = &[("direction", "forward"), ("container.id", OTHER)];
    for series in [pod, docker] {
        collector.wait_for_value(UP, series, 1, 0);
        collector.wait_for_value(CONNECTIONS, series, 1, 0);
    }
    assert!(!collector.series("vms.connection_mon.rtt", docker).is_empty(), "and how it fares");
    let since = unix_nanoseconds();
    in_pod.close();
    collector.wait_for_value(UP, pod, 0, since);
    agent.wait_for_log(&["link is down", ID, POD]);
    // It goes on when the pod is gone, and the others are not touched.
    let since = unix_nanoseconds();
    drop(in_pod);
    collector.wait_for_points(UP, pod, 5, since);
    agent.stop();
    let told = |series| collector.series(UP, series).iter().map(|point| point.value.as_int()).min();
    assert_eq!((told(docker), told(pod)), (Some(1), Some(0)));
    assert!(
        collector.series(UP, docker).iter().all(|point| point.attribute("k8s.pod.uid").is_none()),
        "what is not known is left out"
    );
    drop((alone, beside));
}

/// The kubelet's directory, in which nothing is yet.
struct PodLogs(PathBuf);

impl PodLogs {
    fn new(scene: &Scene, config: &mut Value) -> Self {
        let directory = scene.public_directory("pods");
        config["podLogsRoot"] = json!(directory);
        Self(directory)
    }

    /// What the kubelet makes before a pod starts.
    fn make(&self, name: &str) {
        let container = self.0.join(format!("shop_{name}_{POD}")).join("orders");
        fs::create_dir_all(&container).expect("the directory is ours");
        fs::write(container.join("0.log"), "what a pod says\n").expect("the directory is ours");
    }
}

/// A twin whose client is in the container of a pod from its start.
#[track_caller]
fn in_container((svc, far): (&Program, &Program), host: &Namespace) -> (Twin, ContainerGroup) {
    let group = ContainerGroup::new(&format!("kubepods/burstable/pod{POD}/{ID}"));
    let pod = host.pod();
    let client = svc.start(&pod);
    group.admit(&client);
    let twin = Twin::between(client, far.start(&pod));
    (Twin { pod: Some(pod), ..twin }, group)
}

#[test]
fn a_pod_is_named_as_the_kubelet_names_the_directory_of_its_logs() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let mut config = config_of(&scene);
    let logs = PodLogs::new(&scene, &mut config);
    config["sandbox"] = json!("required");
    let collector = Collector::start(&host, Protocol::Grpc);
    let three = &["sys_ptrace", "dac_read_search", "sys_admin"];
    let command = || {
        let command = AgentCommand::new(&scene, &host).config(&config);
        command.privileges(Privileges::User(AGENT, three))
    };
    let mut agent = command().start();
    agent.wait_for_log(&["the sandbox is complete"]);
    // The agent runs when the pod comes.
    logs.make("orders-0");
    let (mut twin, _group) = in_container((&scene.program("svc"), &scene.program("far")), &host);
    let named: &[_] = &[
        ("direction", "forward"),
        ("container.id", ID),
        ("k8s.pod.uid", POD),
        ("k8s.pod.name", "orders-0"),
        ("k8s.namespace.name", "shop"),
    ];
    collector.wait_for_value(UP, named, 1, 0);
    agent.wait_for_log(&["link is up", POD, "orders-0", "shop"]);

    let check = command().check();
    let row = check.row();
    let told = (row.pod_uid.as_deref(), row.pod_name.as_deref(), row.pod_namespace.as_deref());
    assert_eq!(told, (Some(POD), Some("orders-0"), Some("shop")), "{check:#?}");
    assert_eq!(row.owners[0].pod_name.as_deref(), Some("orders-0"), "{check:#?}");

    let since = unix_nanoseconds();
    twin.close();
    collector.wait_for_value(UP, named, 0, since);
    agent.stop();
    assert_eq!(agent.log_with(&["pods are called"]), Vec::<String>::new());
}

#[test]
fn a_pod_whose_name_becomes_known_later_keeps_its_series() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let mut config = config_of(&scene);
    let logs = PodLogs::new(&scene, &mut config);
    fs::remove_dir(&logs.0).expect("it is empty");
    let svc = scene.program("svc");
    let (mut twin, group) = in_container((&svc, &scene.program("far")), &host);
    let collector = Collector::start(&host, Protocol::Grpc);
    // Without a sandbox: it lets be listed what was there at the start.
    config["sandbox"] = json!("off");
    let mut agent = AgentCommand::new(&scene, &host).config(&config).start();
    let pod: &[_] = &[("direction", "forward"), ("container.id", ID), ("k8s.pod.uid", POD)];
    collector.wait_for_value(UP, pod, 1, 0);
    agent.wait_for_log(&["what pods are called cannot be read", "podLogsRoot"]);
    logs.make("orders-0");
    let since = unix_nanoseconds();
    twin.close();
    collector.wait_for_value(UP, pod, 0, since);
    // Another process of the same container is met under that name.
    let mut another = svc.start(twin.pod.as_ref().expect("it has a pod"));
    group.admit(&another);
    let since = unix_nanoseconds();
    let _ends = (another.connect(SocketAddr::from(SERVICE)), twin.server.accept(twin.listener));
    collector.wait_for_value(UP, pod, 1, since);
    let check = AgentCommand::new(&scene, &host).config(&config).check();
    assert_eq!(check.row().pod_name.as_deref(), Some("orders-0"), "{check:#?}");
    agent.stop();
    let series: BTreeSet<Option<String>> = collector
        .series(UP, &[("direction", "forward")])
        .iter()
        .map(|point| point.attribute("k8s.pod.name").map(str::to_owned))
        .collect();
    assert_eq!(series, [None].into(), "as it began");
    assert_eq!(agent.log_with(&["what pods are called cannot be read"]).len(), 1, "said once");
}

/// Ended by its number when dropped.
struct Stranger(std::process::Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn what_a_user_makes_in_a_network_of_his_own_is_no_link_of_the_host() {
    needs!(Need::Agent, Need::Tool("unshare"), Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let service = SocketAddr::from(([10, 88, 1, 2], 5432));
    let imitation = scene.program("svc");
    let script = format!(
        "ip link set lo up && ip address add {}/32 dev lo && exec {} loop {service}",
        service.ip(),
        imitation.path().display()
    );
    let mut command = program::command("setpriv");
    command.args([
        "--reuid=61013",
        "--regid=61013",
        "--clear-groups",
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
    ]);
    let _stranger = Stranger(host.spawn(command.args(["sh", "-c", &script])).expect("anybody may"));
    let mut config = config(&[probe("link", &scene.name("svc"), service)]);
    config["namespaces"] = json!("all");
    let agent = AgentCommand::new(&scene, &host).config(&config);
    // He is seen before he is connected: until then what is told is that nothing is.
    agent.check_until("somebody who is connected elsewhere", |check| {
        assert!(!check.rows.iter().any(Row::is_up), "{check:#?}");
        check.rows.iter().all(|row| row.reason.as_deref() == Some("other_namespace"))
    });
    // Beside it, what the host's own programs hold counts as ever.
    let pod = host.pod();
    program::run(program::command("ip").args([
        "-n",
        pod.name(),
        "address",
        "add",
        "10.88.1.2/32",
        "dev",
        "lo",
    ]));
    let link = Link::over(imitation.start(&pod), imitation.start(&pod), service, |listening| listening);
    let check = agent.check();
    assert!(check.rows.iter().all(Row::is_up) && check.code == 0, "{check:#?}");
    assert!(check.rows.iter().all(|row| row.connections == 1), "{check:#?}");
    drop(link);
}
