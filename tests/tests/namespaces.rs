//! Processes that the agent sees, in network namespaces whose connections it does not see.

use serde_json::Value;
use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Check, Collector, Link, Namespace, Points, Privileges, Protocol, Scene, config, needs,
    probe,
};

/// Whom the agent runs as, where it is not root.
const AGENT: u32 = 61_002;

const UP: &str = "vms.connection_mon.up";
const OF_LINK: &[(&str, &str)] = &[("name", "link")];

/// A host with a pod on it, in which a program is connected to itself.
struct Scenery {
    link: Link,
    pod: Namespace,
    host: Namespace,
    scene: Scene,
}

impl Scenery {
    #[track_caller]
    fn new() -> Self {
        let (scene, host) = (Scene::new(), Namespace::new());
        let pod = host.pod();
        let program = scene.program("svc");
        let link = Link::new((&program, &pod), (&program, &pod));
        Self { link, pod, host, scene }
    }

    fn config(&self) -> Value {
        config(&[probe("link", &self.scene.name("svc"), self.link.service())])
    }

    /// The agent in that namespace.
    fn agent<'a>(&'a self, place: &'a Namespace) -> AgentCommand<'a> {
        AgentCommand::new(&self.scene, place).config(&self.config())
    }
}

#[track_caller]
fn assert_down(check: &Check, reason: &str) {
    assert_eq!((check.code, check.row().down_reason()), (1, reason), "{check:#?}");
}

/// Nothing is told of the link, and what to do is.
#[track_caller]
fn assert_unmeasured(check: &Check) {
    assert_eq!(check.code, 3, "{check:#?}");
    assert_eq!(check.rows, [], "{check:#?}");
    assert!(check.stderr.contains("link could not be measured"), "{check:#?}");
    assert!(check.stderr.contains("hostNetwork: true"), "{check:#?}");
}

#[test]
fn down_because_the_process_lives_in_another_network_namespace() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let mut scenery = Scenery::new();
    assert_down(&scenery.agent(&scenery.host).check(), "other_namespace");
    let unprivileged = Privileges::User(AGENT, &[]);
    assert_down(&scenery.agent(&scenery.host).privileges(unprivileged).check(), "other_namespace");
    let program = scenery.scene.program("svc");
    let _without_a_connection = program.start(&scenery.host);
    assert_down(&scenery.agent(&scenery.host).check(), "other_namespace");

    let there = scenery.agent(&scenery.pod).check();
    assert_eq!((there.code, there.rows.len()), (0, 2), "the link is up where it is: {there:#?}");
    scenery.link.close();
    let another = program.start(&scenery.pod);
    scenery.link = Link::new((&program, &scenery.host), (&program, &scenery.host));
    drop(another);
    let here = scenery.agent(&scenery.host).check();
    assert_eq!((here.code, here.rows.len()), (0, 2), "and who lives here has it here: {here:#?}");
}

#[test]
fn a_running_agent_says_that_the_process_lives_elsewhere_and_what_to_do() {
    needs!(Need::Agent);
    let scenery = Scenery::new();
    let collector = Collector::start(&scenery.host, Protocol::Grpc);
    let mut agent = scenery.agent(&scenery.host).start();
    let reason: &[_] = &[("name", "link"), ("reason", "other_namespace")];
    collector.wait_for_points("vms.connection_mon.down_reason", reason, 5, 0);
    let log = agent.log_with(&["link is down", "other_namespace", "lives in another"]);
    assert_eq!(log.len(), 1, "said once: {log:#?}");

    let Scenery { link, host, scene, pod } = scenery;
    let since = unix_nanoseconds();
    drop(link);
    let reason: &[_] = &[("name", "link"), ("reason", "process_absent")];
    collector.wait_for_value("vms.connection_mon.down_reason", reason, 1, since);
    agent.stop();
    drop((pod, host, scene));
}

#[test]
fn an_agent_with_the_hosts_processes_and_a_network_of_its_own_never_says_down_of_what_it_cannot_see() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let scenery = Scenery::new();
    let other = scenery.host.pod();
    for privileges in [Privileges::Root, Privileges::User(AGENT, &[])] {
        assert_unmeasured(&scenery.agent(&other).privileges(privileges).check());
        for hidepid in [1, 2] {
            let check = scenery.agent(&other).hidepid(hidepid).check();
            assert_unmeasured(&check);
        }
    }

    // A connection of somebody else that fits by address makes no difference.
    let mut stranger = scenery.scene.program("stranger").start(&other);
    let listener = stranger.listen(scenery.link.service());
    stranger.connect(listener.address);
    stranger.accept(listener);
    assert_unmeasured(&scenery.agent(&other).check());

    let collector = Collector::start(&other, Protocol::Grpc);
    let mut agent = scenery.agent(&other).start();
    collector.wait_for_points("vms.agent.measurements", &[("outcome", "failed")], 8, 0);
    let failed = collector.series("vms.agent.measurements", &[("outcome", "failed")]);
    agent.stop();
    assert!(failed.last().is_some_and(|point| point.value.as_int() >= 7), "{failed:#?}");
    assert_eq!(collector.series(UP, OF_LINK), [], "no answer is no 0");
    let log = agent.log_with(&["links cannot be measured", "hostNetwork: true"]);
    assert_eq!(log.len(), 1, "said once: {log:#?}");
    assert!(agent.log_with(&["link is down"]).is_empty());
}

#[test]
fn an_agent_in_a_network_of_its_own_is_right_about_those_who_live_there() {
    needs!(Need::Agent);
    // As one that is started in a pod to watch the pod, with the host's processes in view.
    let mut scenery = Scenery::new();
    let collector = Collector::start(&scenery.pod, Protocol::Grpc);
    let mut agent = scenery.agent(&scenery.pod).start();
    let forward: &[_] = &[("name", "link"), ("direction", "forward")];
    collector.wait_for_value(UP, forward, 1, 0);
    scenery.link.close();
    collector.wait_for_value(UP, forward, 0, 0);
    scenery.link.reconnect();
    let since = unix_nanoseconds();
    collector.wait_for_value(UP, forward, 1, since);
    agent.stop();
    assert!(agent.log_with(&["cannot be measured"]).is_empty());

    scenery.link.close();
    let closed = scenery.agent(&scenery.pod).check_until("down", |check| check.code == 1);
    assert_down(&closed, "no_connection");
}

#[test]
fn a_link_that_goes_out_of_sight_is_not_reported_until_it_is_back() {
    needs!(Need::Agent);
    let Scenery { link, pod, host, scene } = Scenery::new();
    let config = config(&[probe("link", &scene.name("svc"), link.service())]);
    let collector = Collector::start(&pod, Protocol::Grpc);
    let mut agent = AgentCommand::new(&scene, &pod).config(&config).start();
    let forward: &[_] = &[("name", "link"), ("direction", "forward")];
    collector.wait_for_value(UP, forward, 1, 0);

    // What fits lives on the host alone from now on.
    let elsewhere = scene.program("svc").start(&host);
    let gone = unix_nanoseconds();
    drop(link);
    agent.wait_for_log(&["links cannot be measured", "hostNetwork: true"]);
    collector.wait_for_points("vms.agent.measurements", &[("outcome", "failed")], 3, gone);
    let told = collector.series(UP, OF_LINK);
    assert!(told.iter().all(|point| point.value.as_int() == 1), "{told:#?}");

    let back = unix_nanoseconds();
    drop(elsewhere);
    collector.wait_for_value(UP, forward, 0, back);
    agent.wait_for_log(&["links can be measured again"]);
    agent.stop();
}

#[test]
fn doctor_says_that_the_agent_is_in_another_network_than_the_processes() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let scenery = Scenery::new();
    for privileges in [Privileges::Root, Privileges::User(AGENT, &[])] {
        let told = |place| {
            let agent = scenery.agent(place).privileges(privileges);
            let output = agent.output(&["doctor", "--format", "json"]);
            let findings: Vec<Value> = serde_json::from_slice(&output.stdout).expect("an array of findings");
            let of_network = findings.into_iter().find(|finding| finding["area"] == "network");
            of_network.expect("a finding about the network")
        };
        let (within, beside) = (told(&scenery.host), told(&scenery.pod));
        assert_eq!(within["level"], "ok", "{within:#}");
        assert_ne!(beside["level"], "ok", "{beside:#}");
        assert!(beside["what"].as_str().is_some_and(|what| what.contains("fail")), "{beside:#}");
    }
}
