//! What the agent may not see it says: a false negative is always flagged, and a flag is never false.

use std::net::SocketAddr;

use vms_agent_tests::agent::BOTH;
use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Check, Collector, Link, Namespace, Points, Privileges, Protocol, Scene, config, needs,
    probe,
};

/// Who holds the connections.
const OWNER: u32 = 61_001;
/// Whom the agent runs as.
const AGENT: u32 = 61_002;

const PERMISSION_MISSING: &str = "vms.agent.permission_missing";
const SYS_PTRACE: &[(&str, &str)] = &[("capability", "CAP_SYS_PTRACE")];
const DAC_READ_SEARCH: &[(&str, &str)] = &[("capability", "CAP_DAC_READ_SEARCH")];

/// A connection between two hosts; the probe means its client, which is a user's.
struct Scenery {
    scene: Scene,
    host: Namespace,
    _far: Namespace,
    link: Link,
}

impl Scenery {
    #[track_caller]
    fn of_user(uid: u32) -> Self {
        let (scene, (host, far)) = (Scene::new(), Namespace::pair());
        let link = Link::new((&scene.program("svc").user(uid), &host), (&scene.program("far"), &far));
        Self { scene, host, _far: far, link }
    }

    fn agent(&self, privileges: Privileges) -> AgentCommand<'_> {
        let probe = probe("link", &self.scene.name("svc"), self.link.service());
        AgentCommand::new(&self.scene, &self.host).config(&config(&[probe])).privileges(privileges)
    }
}

#[track_caller]
fn assert_attributed(scenery: &Scenery, check: &Check) {
    assert_eq!(check.code, 0, "{check:#?}");
    let row = check.row();
    assert!(row.is_up(), "{check:#?}");
    assert_eq!((row.unattributed, row.owner_pids()), (0, vec![scenery.link.client.pid()]), "{check:#?}");
}

#[track_caller]
fn assert_flagged(check: &Check) {
    assert_eq!(check.code, 1, "{check:#?}");
    let row = check.row();
    assert_eq!(row.down_reason(), "not_permitted", "{check:#?}");
    assert!(row.unattributed > 0, "{check:#?}");
    assert!(row.owners.is_empty(), "{check:#?}");
}

#[test]
fn an_agent_with_both_capabilities_sees_the_link_of_another_user() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let scenery = Scenery::of_user(OWNER);
    assert_attributed(&scenery, &scenery.agent(Privileges::User(AGENT, BOTH)).check());
    assert_attributed(&scenery, &scenery.agent(Privileges::Root).check());
}

#[test]
fn an_agent_without_capabilities_flags_the_link_of_another_user() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let scenery = Scenery::of_user(OWNER);
    assert_flagged(&scenery.agent(Privileges::User(AGENT, &[])).check());
}

#[test]
fn each_capability_alone_is_not_enough() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let scenery = Scenery::of_user(OWNER);
    assert_flagged(&scenery.agent(Privileges::User(AGENT, &["sys_ptrace"])).check());
    assert_flagged(&scenery.agent(Privileges::User(AGENT, &["dac_read_search"])).check());
}

#[test]
fn uid_0_without_sys_ptrace_flags_the_link_of_another_user() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let scenery = Scenery::of_user(OWNER);
    assert_flagged(&scenery.agent(Privileges::RootWithout(&["sys_ptrace"])).check());
}

#[test]
fn an_unprivileged_user_sees_its_own_link() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let scenery = Scenery::of_user(AGENT);
    assert_attributed(&scenery, &scenery.agent(Privileges::User(AGENT, &[])).check());
}

#[test]
fn without_a_connection_nothing_was_refused() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let mut scenery = Scenery::of_user(OWNER);
    scenery.link.close();
    let agent = scenery.agent(Privileges::User(AGENT, &[]));
    let check = agent.check_until("the connection to be gone", |check| check.row().unattributed == 0);
    assert_eq!(check.row().down_reason(), "no_connection");
}

#[test]
fn a_socket_may_have_a_hidden_holder_beside_the_one_that_is_seen() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    // The connection is the agent's user's other program's. But the process that fits may hold it as well.
    let (scene, host) = (Scene::new(), Namespace::new());
    let _fits_and_is_hidden = scene.program("svc").user(OWNER).start(&host);
    let own = scene.program("own").user(AGENT);
    let link = Link::new((&own, &host), (&own, &host));
    let probe = probe("link", &scene.name("svc"), link.service());
    let agent = |capabilities| {
        let privileges = Privileges::User(AGENT, capabilities);
        AgentCommand::new(&scene, &host).config(&config(std::slice::from_ref(&probe))).privileges(privileges)
    };
    assert_flagged(&agent(&[]).check());
    let seen = agent(BOTH).check();
    assert_eq!((seen.row().down_reason(), seen.row().unattributed), ("held_by_other", 0));
}

#[test]
fn hidepid_does_not_hide_that_something_is_hidden() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Tool("unshare"));
    let scenery = Scenery::of_user(OWNER);
    for hidepid in [1, 2] {
        let check = scenery.agent(Privileges::User(AGENT, &[])).hidepid(hidepid).check();
        assert_flagged(&check);
        let check = scenery.agent(Privileges::User(AGENT, &["dac_read_search"])).hidepid(hidepid).check();
        assert_flagged(&check);
    }
}

#[test]
fn hidepid_hides_nothing_from_an_agent_with_both_capabilities() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Tool("unshare"));
    let scenery = Scenery::of_user(OWNER);
    for hidepid in [1, 2] {
        let check = scenery.agent(Privileges::User(AGENT, BOTH)).hidepid(hidepid).check();
        assert_attributed(&scenery, &check);
    }
}

#[test]
fn hidepid_hides_no_link_of_the_agents_own_user() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Tool("unshare"));
    let scenery = Scenery::of_user(AGENT);
    for hidepid in [1, 2] {
        let check = scenery.agent(Privileges::User(AGENT, &[])).hidepid(hidepid).check();
        assert_attributed(&scenery, &check);
    }
}

#[test]
fn the_capability_that_lacks_is_named_in_a_metric() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    for (capabilities, missing, held) in [
        (&["sys_ptrace"][..], DAC_READ_SEARCH, SYS_PTRACE),
        (&["dac_read_search"], SYS_PTRACE, DAC_READ_SEARCH),
    ] {
        let scenery = Scenery::of_user(OWNER);
        let collector = Collector::start(&scenery.host, Protocol::Grpc);
        let mut agent = scenery.agent(Privileges::User(AGENT, capabilities)).start();
        collector.wait_for_value(PERMISSION_MISSING, missing, 1, 0);
        let link: &[_] = &[("name", "link")];
        collector.wait_for_value("vms.connection_mon.up", link, 0, 0);
        let unattributed = collector.wait_for_points("vms.connection_mon.unattributed", link, 1, 0);
        assert!(unattributed.iter().any(|point| point.value.as_int() > 0), "{unattributed:#?}");
        let reason: &[_] = &[("name", "link"), ("reason", "not_permitted")];
        collector.wait_for_value("vms.connection_mon.down_reason", reason, 1, 0);
        collector.wait_for_value("vms.agent.measurements", &[("outcome", "permission_missing")], 1, 0);
        agent.stop();
        assert_eq!(collector.series(PERMISSION_MISSING, held), [], "it has {capabilities:?}");
        let log = agent.log_with(&["link", "not_permitted"]);
        assert_eq!(log.len(), 1, "said once: {log:#?}");
    }
}

#[test]
fn permission_missing_goes_to_0_when_the_socket_comes_to_a_process_that_may_be_seen() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    // A capability cannot be granted to a process that runs. What the metric tells can: that sockets are kept from
    // being attributed. They are not any more when a process of the agent's user takes the connection over.
    let mut scenery = Scenery::of_user(OWNER);
    let collector = Collector::start(&scenery.host, Protocol::Grpc);
    let mut agent = scenery.agent(Privileges::User(AGENT, &[])).start();
    for capability in [SYS_PTRACE, DAC_READ_SEARCH] {
        collector.wait_for_value(PERMISSION_MISSING, capability, 1, 0);
    }

    let since = unix_nanoseconds();
    let directory = scenery.scene.public_directory("mail");
    let mailbox = directory.join("box");
    let mut heir = scenery.scene.program("svc").user(AGENT).start(&scenery.host);
    heir.mailbox(&mailbox);
    scenery.link.client.give(scenery.link.client_end, &mailbox);
    heir.take();
    scenery.link.client.close(scenery.link.client_end);
    for capability in [SYS_PTRACE, DAC_READ_SEARCH] {
        collector.wait_for_value(PERMISSION_MISSING, capability, 0, since);
    }
    collector.wait_for_value(
        "vms.connection_mon.up",
        &[("name", "link"), ("direction", "forward")],
        1,
        since,
    );
    let zeros = collector.wait_for_points(PERMISSION_MISSING, SYS_PTRACE, 4, since);
    agent.stop();
    assert!(
        zeros.iter().filter(|point| point.value.as_int() == 0).count() > 1,
        "it goes on at 0: {zeros:#?}"
    );
}

#[test]
fn permission_missing_is_never_told_where_nothing_was_refused() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let (scene, (near, far)) = (Scene::new(), Namespace::pair());
    let _hidden = scene.program("hidden").user(OWNER).start(&near);
    let client = scene.program("svc").user(AGENT);
    let link = Link::new((&client, &near), (&scene.program("far"), &far));
    let collector = Collector::start(&near, Protocol::Grpc);
    let up = probe("link", &scene.name("svc"), link.service());
    let down = probe("gone", &scene.name("svc"), SocketAddr::from(([127, 0, 0, 1], 9)));
    let mut agent = AgentCommand::new(&scene, &near)
        .config(&config(&[up, down]))
        .privileges(Privileges::User(AGENT, &[]))
        .start();
    let link: &[_] = &[("name", "link"), ("direction", "forward")];
    collector.wait_for_points("vms.connection_mon.up", link, 5, 0);
    agent.stop();
    let up = collector.series("vms.connection_mon.up", link);
    assert!(up.iter().all(|point| point.value.as_int() == 1));
    let told: Vec<_> =
        collector.points().into_iter().filter(|point| point.name == PERMISSION_MISSING).collect();
    assert_eq!(told, []);
}

#[test]
fn doctor_names_the_links_that_it_cannot_attribute_and_what_that_takes() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let scenery = Scenery::of_user(OWNER);
    let doctor = |capabilities| {
        let said = scenery.agent(Privileges::User(AGENT, capabilities)).output(&["doctor"]);
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let told = "link: 1 connection fits by address, and this process may not learn who holds it: that takes ";
    for (capabilities, takes) in [
        (&[][..], "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH\n"),
        (&["sys_ptrace"], "CAP_DAC_READ_SEARCH\n"),
        (&["dac_read_search"], "CAP_SYS_PTRACE\n"),
    ] {
        let text = doctor(capabilities);
        assert!(text.contains(&format!("{told}{takes}")), "{text}");
        assert!(text.contains("are out of reach: "), "{text}");
    }
    assert!(!doctor(BOTH).contains(told));
}
