//! Weaker attribution, by choice: a link that can only be its service's is up and said to be inferred; where it errs, it errs as
//! the README says, and nowhere else.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::path::PathBuf;

use serde_json::{Value, json};
use vms_agent_tests::agent::BOTH;
use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Cgroup, Check, Collector, Link, Namespace, Peer, Points, Privileges, Protocol, Row, Scene,
    config, needs, probe,
};

/// Who holds the connections.
const OWNER: u32 = 61_021;
/// Whom the agent runs as.
const AGENT: u32 = 61_022;

/// Of whom no test has another process on the machine meanwhile.
const ALONE_ON_MACHINE: u32 = 61_023;
const ALONE_ON_HOST: u32 = 61_024;
/// As whom a connection is made, and as whom its holder goes on.
const THEN: u32 = 61_025;
const NOW: u32 = 61_026;

const UP: &str = "vms.connection_mon.up";
const ATTRIBUTION: &str = "vms.connection_mon.attribution";
const FORWARD: &[(&str, &str)] = &[("name", "link"), ("direction", "forward")];
const BY_CGROUP: &[(&str, &str)] = &[("name", "link"), ("attribution", "cgroup")];
const BY_HOLDER: &[(&str, &str)] = &[("name", "link"), ("attribution", "holder")];

/// A connection between two hosts, whose client is another user's service in a cgroup of its own; the probe means it.
struct Scenery {
    // First, so that it is dropped last of what runs in it.
    link: Link,
    cgroup: Cgroup,
    scene: Scene,
    host: Namespace,
    far: Namespace,
}

impl Scenery {
    #[track_caller]
    fn new() -> Self {
        Self::of_user(OWNER)
    }

    #[track_caller]
    fn of_user(uid: u32) -> Self {
        let (scene, (host, far), cgroup) = (Scene::new(), Namespace::pair(), Cgroup::new());
        let client = scene.program("svc").user(uid).start(&host);
        cgroup.take_in(&client);
        let link = connect(client, &scene, &far);
        Self { link, cgroup, scene, host, far }
    }

    fn probe(&self) -> Value {
        probe("link", &self.scene.name("svc"), self.link.service())
    }

    fn agent(&self, attribution: &str) -> AgentCommand<'_> {
        agent(&self.scene, &self.host, self.probe(), attribution)
    }

    /// Another program of the host, in a cgroup.
    #[track_caller]
    fn neighbor(&self, stem: &str, uid: u32, cgroup: &Cgroup) -> Peer {
        let peer = self.scene.program(stem).user(uid).start(&self.host);
        cgroup.take_in(&peer);
        peer
    }
}

#[track_caller]
fn connect(client: Peer, scene: &Scene, far: &Namespace) -> Link {
    let server = scene.program("far").start(far);
    Link::over(client, server, (far.ipv4(), 0).into(), |listening| listening)
}

fn agent<'a>(scene: &'a Scene, host: &'a Namespace, probe: Value, attribution: &str) -> AgentCommand<'a> {
    let mut config = config(&[probe]);
    let keys = config.as_object_mut().expect("a configuration is an object");
    keys.insert("attribution".to_owned(), json!(attribution));
    AgentCommand::new(scene, host).config(&config).privileges(Privileges::User(AGENT, &[]))
}

#[track_caller]
fn assert_inferred(check: &Check, by: &str, owners: &[u32]) {
    let row = check.row();
    assert!(check.code == 0 && row.is_up(), "{check:#?}");
    assert_eq!(
        (row.attribution.as_deref(), row.inferred, row.unattributed),
        (Some(by), Some(1), 0),
        "{check:#?}"
    );
    assert_eq!(row.owner_pids(), owners, "{check:#?}");
}

#[track_caller]
fn assert_flagged(check: &Check) {
    assert_eq!(check.code, 1, "{check:#?}");
    let row = check.row();
    assert_eq!(row.down_reason(), "not_permitted", "{check:#?}");
    assert_eq!((row.unattributed, row.attribution.as_deref()), (1, None), "{check:#?}");
}

#[test]
fn a_link_is_up_where_nobody_but_its_service_is_left_in_the_cgroup() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let scenery = Scenery::new();
    let _elsewhere = scenery.scene.program("other").user(OWNER).start(&scenery.host);
    let pid = scenery.link.client.pid();
    assert_inferred(&scenery.agent("inferred").check(), "cgroup", &[pid]);
    let strict = scenery.agent("strict").check();
    assert_flagged(&strict);
    assert_eq!((strict.row().attribution.as_ref(), strict.row().inferred), (None, None));
    let seen = scenery.agent("inferred").privileges(Privileges::User(AGENT, BOTH)).check();
    assert!(seen.row().is_up(), "{seen:#?}");
    assert_eq!((seen.row().attribution.as_deref(), seen.row().inferred), (Some("holder"), Some(0)));
}

#[test]
fn uid_0_without_the_capability_infers_as_well() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let scenery = Scenery::new();
    let agent = scenery.agent("inferred").privileges(Privileges::RootWithout(&["sys_ptrace"]));
    assert_inferred(&agent.check(), "cgroup", &[scenery.link.client.pid()]);
}

#[test]
fn a_process_that_does_not_fit_leaves_it_open_unless_it_is_another_user_s() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let scenery = Scenery::new();
    let agent = scenery.agent("inferred");
    let other = scenery.neighbor("other", OWNER + 10, &scenery.cgroup);
    assert_inferred(&agent.check(), "cgroup", &[scenery.link.client.pid()]);
    let same = scenery.neighbor("other", OWNER, &scenery.cgroup);
    assert_flagged(&agent.check());
    drop((other, same));
    let second = scenery.neighbor("svc", OWNER, &scenery.cgroup);
    let mut both = vec![scenery.link.client.pid(), second.pid()];
    both.sort_unstable();
    let left = |check: &Check| check.row().is_up();
    assert_inferred(&agent.check_until("those who fit to be left", left), "cgroup", &both);
    // Whom the agent may look into is no suspect: it holds nothing.
    let _own = scenery.neighbor("own", AGENT, &scenery.cgroup);
    assert_inferred(&agent.check(), "cgroup", &both);
}

#[test]
fn a_process_of_another_pid_namespace_in_the_cgroup_leaves_it_open() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let scenery = Scenery::new();
    let elsewhere = Namespace::new();
    let unseen = scenery.scene.program("svc").user(OWNER).start(&elsewhere);
    scenery.cgroup.take_in(&unseen);
    assert_flagged(&scenery.agent("inferred").check());
}

#[test]
fn the_server_s_end_is_inferred_as_well() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let (scene, (host, far), cgroup) = (Scene::new(), Namespace::pair(), Cgroup::new());
    let server = scene.program("svc").user(OWNER).start(&host);
    cgroup.take_in(&server);
    let client = scene.program("far").start(&far);
    let link = Link::over(client, server, (host.ipv4(), 0).into(), |listening| listening);
    let check = agent(&scene, &host, probe("link", &scene.name("svc"), link.service()), "inferred").check();
    assert_inferred(&check, "cgroup", &[link.server.pid()]);
    assert_eq!(check.row().direction.as_deref(), Some("reverse"));
}

#[test]
fn a_running_agent_tells_of_it_and_ceases_to_when_the_service_leaves() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let scenery = Scenery::new();
    let collector = Collector::start(&scenery.host, Protocol::Grpc);
    let mut agent = scenery.agent("inferred").variable("VMS_CPU_BUDGET", "0%").start();
    collector.wait_for_value(ATTRIBUTION, BY_CGROUP, 1, 0);
    collector.wait_for_value(ATTRIBUTION, BY_HOLDER, 0, 0);
    collector.wait_for_points(UP, FORWARD, 5, 0);
    let up = collector.series(UP, FORWARD);
    assert!(up.iter().all(|point| point.value.as_int() == 1), "{up:#?}");
    collector.wait_for_value("vms.agent.permission_missing", &[("capability", "CAP_SYS_PTRACE")], 1, 0);
    collector.wait_for_value("vms.connection_mon.unattributed", FORWARD, 0, 0);
    assert_eq!(agent.log_with(&["link is up", r#""attribution":"cgroup""#]).len(), 1, "{:#?}", agent.log());

    let since = unix_nanoseconds();
    let elsewhere = Cgroup::new();
    elsewhere.take_in(&scenery.link.client);
    collector.wait_for_value(UP, FORWARD, 0, since);
    collector.wait_for_value(ATTRIBUTION, BY_CGROUP, 0, since);
    collector.wait_for_value("vms.connection_mon.unattributed", FORWARD, 1, since);
    agent.stop();
}

#[test]
fn a_connection_that_ends_takes_the_link_down_in_the_next_cycle() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let mut scenery = Scenery::new();
    let collector = Collector::start(&scenery.host, Protocol::Grpc);
    let mut agent = scenery.agent("inferred").variable("VMS_CPU_BUDGET", "0%").start();
    collector.wait_for_value(UP, FORWARD, 1, 0);
    let since = unix_nanoseconds();
    scenery.link.close();
    collector.wait_for_value(UP, FORWARD, 0, since);
    let reason: &[_] = &[("name", "link"), ("reason", "no_connection")];
    collector.wait_for_value("vms.connection_mon.down_reason", reason, 1, since);
    agent.stop();
}

#[test]
fn a_socket_that_comes_to_a_process_that_may_be_seen_is_attributed_to_it_and_no_series_stays_behind() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let mut scenery = Scenery::new();
    let collector = Collector::start(&scenery.host, Protocol::Grpc);
    let mut agent = scenery.agent("inferred").start();
    collector.wait_for_value(ATTRIBUTION, BY_CGROUP, 1, 0);
    let since = unix_nanoseconds();
    let mailbox = scenery.scene.public_directory("mail").join("box");
    let mut heir = scenery.scene.program("svc").user(AGENT).start(&scenery.host);
    heir.mailbox(&mailbox);
    scenery.link.client.give(scenery.link.client_end, &mailbox);
    heir.take();
    scenery.link.client.close(scenery.link.client_end);
    collector.wait_for_value(ATTRIBUTION, BY_HOLDER, 1, since);
    let since = unix_nanoseconds();
    let by_cgroup = collector.wait_for_points(ATTRIBUTION, BY_CGROUP, 3, since);
    assert!(by_cgroup.iter().all(|point| point.value.as_int() == 0), "{by_cgroup:#?}");
    let up = collector.series(UP, FORWARD);
    assert!(up.iter().all(|point| point.value.as_int() == 1), "one series, and it never goes down: {up:#?}");
    agent.stop();
}

#[test]
fn with_strict_attribution_nothing_is_told_of_it() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let scenery = Scenery::new();
    let collector = Collector::start(&scenery.host, Protocol::Grpc);
    let mut agent = scenery.agent("strict").start();
    let unattributed: &[_] = &[("name", "link"), ("direction", "forward")];
    collector.wait_for_points("vms.connection_mon.unattributed", &[("name", "link")], 5, 0);
    agent.stop();
    assert_eq!(collector.series(ATTRIBUTION, &[]), []);
    assert_eq!(collector.series(UP, unattributed), [], "it has not matched");
    assert!(agent.log_with(&["attribution"]).is_empty(), "{:#?}", agent.log());
}

#[test]
fn the_user_serves_where_all_of_his_processes_fit() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::WholeMachine);
    let (scene, (host, far)) = (Scene::new(), Namespace::pair());
    let link = connect(scene.program("svc").user(ALONE_ON_MACHINE).start(&host), &scene, &far);
    let wanted = probe("link", &scene.name("svc"), link.service());
    let agent = agent(&scene, &host, wanted, "inferred").seeing_the_machine();
    assert_inferred(&agent.check(), "uid", &[link.client.machine_pid()]);
    // Wherever on the machine it is.
    let elsewhere = Namespace::new();
    let other = scene.program("other").user(ALONE_ON_MACHINE).start(&elsewhere);
    assert_flagged(&agent.check());
    drop(other);
    let left = |check: &Check| check.row().is_up();
    assert_inferred(&agent.check_until("the other to be gone", left), "uid", &[link.client.machine_pid()]);
}

#[test]
fn the_user_does_not_serve_where_not_all_processes_of_the_host_are_seen() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, (host, far)) = (Scene::new(), Namespace::pair());
    let link = connect(scene.program("svc").user(ALONE_ON_HOST).start(&host), &scene, &far);
    let wanted = probe("link", &scene.name("svc"), link.service());
    assert_flagged(&agent(&scene, &host, wanted, "inferred").check());
}

#[test]
fn where_processes_are_hidden_nothing_is_inferred_and_that_is_said_once() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Tool("unshare"), Need::Cgroups);
    let scenery = Scenery::new();
    for hidepid in [1, 2] {
        assert_flagged(&scenery.agent("inferred").hidepid(hidepid).check());
    }
    let mut agent = scenery.agent("inferred").hidepid(2).start();
    agent.wait_for_log(&["attribution: inferred", "hides processes", "vms-agent doctor"]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    agent.stop();
    assert_eq!(agent.log_with(&["attribution: inferred"]).len(), 1, "{:#?}", agent.log());
}

#[test]
fn without_a_hierarchy_of_cgroups_nothing_is_inferred_and_that_is_said() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Tool("unshare"), Need::Cgroups);
    let scenery = Scenery::new();
    let nothing: PathBuf = scenery.scene.public_directory("nothing");
    let mount = Cgroup::mount().expect("it is mounted");
    let agent = scenery.agent("inferred").in_place_of(nothing, mount);
    assert_flagged(&agent.check());
    let mut running = agent.start();
    running.wait_for_log(&["attribution: inferred", "no hierarchy of cgroups"]);
    running.stop();
    let doctor = agent.output(&["doctor"]);
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(told.contains("no hierarchy of cgroups of version 2 is mounted"), "{told}");
}

#[test]
fn an_agent_in_a_cgroup_namespace_of_its_own_infers_what_is_mounted_for_it() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Tool("unshare"), Need::Cgroups);
    let mut scenery = Scenery::new();
    let outer = Cgroup::new();
    let own = outer.below();
    // The machine's hierarchy, to which paths lead upward from there.
    let agent = scenery.agent("inferred").in_cgroup(&own, None);
    assert_inferred(&agent.check(), "cgroup", &[scenery.link.client.pid()]);
    let collector = Collector::start(&scenery.host, Protocol::Grpc);
    let mut running = agent.variable("VMS_CPU_BUDGET", "0%").start();
    let up = collector.wait_for_points(UP, FORWARD, 4, 0);
    assert!(up.iter().all(|point| point.value.as_int() == 1), "{up:#?}");
    running.stop();
    // Only its own part of it: the service is in none that it sees.
    assert_flagged(&scenery.agent("inferred").in_cgroup(&own, Cgroup::mount()).check());
    let mut running = scenery.agent("inferred").in_cgroup(&own, Cgroup::mount()).start();
    running.wait_for_log(&["attribution: inferred", "only a part of the hierarchy"]);
    running.stop();
    own.take_in(&scenery.link.client);
    scenery.link.connect_again();
    let check = scenery.agent("inferred").in_cgroup(&own, Cgroup::mount()).check();
    assert_eq!(
        (check.row().inferred, check.row().unattributed),
        (Some(1), 1),
        "the new one alone: {check:#?}"
    );
}

#[test]
fn doctor_tells_that_it_would_help_or_is_in_use() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let scenery = Scenery::new();
    let doctor = |attribution: &str| {
        let output = scenery.agent(attribution).output(&["doctor"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = doctor("strict");
    assert!(told.contains("`attribution: inferred` would tell links"), "{told}");
    let told = doctor("inferred");
    assert!(told.contains("is inferred by its cgroup"), "{told}");
}

// What follows are the known errors, as the README lists them.

#[test]
fn a_socket_that_was_handed_on_is_still_inferred_to_be_held_by_who_made_it() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let mut scenery = Scenery::new();
    let mailbox = scenery.scene.public_directory("mail").join("box");
    let elsewhere = Cgroup::new();
    let mut heir = scenery.neighbor("other", OWNER, &elsewhere);
    heir.mailbox(&mailbox);
    scenery.link.client.give(scenery.link.client_end, &mailbox);
    heir.take();
    scenery.link.client.close(scenery.link.client_end);
    // An up that is false: the other holds it, and may not be looked into.
    assert_inferred(&scenery.agent("inferred").check(), "cgroup", &[scenery.link.client.pid()]);
}

#[test]
fn an_accepted_socket_is_of_the_cgroup_in_which_its_listener_was_made() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let (scene, (host, far)) = (Scene::new(), Namespace::pair());
    let (before, after) = (Cgroup::new(), Cgroup::new());
    let mut server = scene.program("svc").user(OWNER).start(&host);
    before.take_in(&server);
    let listener = server.listen((host.ipv4(), 0).into());
    after.take_in(&server);
    let mut client = scene.program("far").start(&far);
    let _client_end = client.connect(listener.address);
    let _server_end = server.accept(listener);
    let wanted = probe("link", &scene.name("svc"), listener.address);
    let agent = agent(&scene, &host, wanted, "inferred");
    // Open where nobody who fits is there, and of somebody else where one is.
    let manager = scene.program("manager").user(OWNER).start(&host);
    before.take_in(&manager);
    assert_flagged(&agent.check());
    drop(manager);
    let second = scene.program("svc").user(OWNER).start(&host);
    before.take_in(&second);
    let left = |check: &Check| check.row().is_up();
    assert_inferred(&agent.check_until("the manager to be gone", left), "cgroup", &[second.pid()]);
}

#[test]
fn a_socket_of_a_service_manager_is_not_inferred_to_be_held_by_the_service() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let (scene, (host, far)) = (Scene::new(), Namespace::pair());
    let (of_manager, of_service) = (Cgroup::new(), Cgroup::new());
    let mut manager = scene.program("manager").user(OWNER).start(&host);
    of_manager.take_in(&manager);
    let listener = manager.listen((host.ipv4(), 0).into());
    let mut client = scene.program("far").start(&far);
    let _client_end = client.connect(listener.address);
    let accepted = manager.accept(listener);
    let mailbox = scene.public_directory("mail").join("box");
    let mut service = scene.program("svc").user(OWNER).start(&host);
    of_service.take_in(&service);
    service.mailbox(&mailbox);
    manager.give(accepted, &mailbox);
    service.take();
    manager.close(accepted);
    let wanted = probe("link", &scene.name("svc"), listener.address);
    assert_flagged(&agent(&scene, &host, wanted, "inferred").check());
}

#[test]
fn a_socket_stays_of_the_cgroup_in_which_it_was_made_wherever_its_maker_goes() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    let scenery = Scenery::new();
    let elsewhere = Cgroup::new();
    elsewhere.take_in(&scenery.link.client);
    assert_flagged(&scenery.agent("inferred").check());
    // Nobody who fits holds this one, and one who does is where it was made: an up that is false.
    let other = scenery.neighbor("other", OWNER, &scenery.cgroup);
    let link = connect(other, &scenery.scene, &scenery.far);
    elsewhere.take_in(&link.client);
    scenery.cgroup.take_in(&scenery.link.client);
    let wanted = probe("link", &scenery.scene.name("svc"), link.service());
    let check = agent(&scenery.scene, &scenery.host, wanted, "inferred").check();
    assert_inferred(&check, "cgroup", &[scenery.link.client.pid()]);
}

#[test]
fn a_socket_is_of_the_user_who_made_it_whoever_he_is_by_now() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::WholeMachine);
    let (scene, (host, far)) = (Scene::new(), Namespace::pair());
    let mut other = connect(scene.program("other").start(&host), &scene, &far);
    // What it connected as root stays root's.
    other.client.become_user(NOW);
    let wanted = probe("link", &scene.name("other"), other.service());
    let as_root = agent(&scene, &host, wanted, "inferred").seeing_the_machine();
    assert_flagged(&as_root.check());
    // And what it connected as a user is held to be that of whoever is that user, if all who are do fit. An up that is false.
    let mut other = scene.program("other").start(&host);
    other.act_as(THEN);
    let link = connect(other, &scene, &far);
    let mut other = link.client;
    other.become_user(NOW);
    let innocent = scene.program("svc").user(THEN).start(&host);
    let wanted = probe("link", &scene.name("svc"), link.client_end.remote);
    let agent = agent(&scene, &host, wanted, "inferred").seeing_the_machine();
    assert_inferred(&agent.check(), "uid", &[innocent.machine_pid()]);
    drop(innocent);
    let flagged_or_gone = |check: &Check| !check.rows.iter().any(Row::is_up);
    let _check = agent.check_until("nobody to be left", flagged_or_gone);
}
