//! Collectors and peers that move to another address, and resolvers that do not answer.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;
use vms_agent_tests::deadline::{now, unix_nanoseconds};
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Collector, Fault, Faulty, Link, Namespace, Points, Protocol, Scene, Stored, eventually,
    needs, probe,
};

const UP: &str = "vms.connection_mon.up";
const FORWARD: &[(&str, &str)] = &[("name", "link"), ("direction", "forward")];
const NAME: &str = "collector.test";

fn command<'a>(scene: &'a Scene, host: &'a Namespace, link: &Link) -> AgentCommand<'a> {
    let config = json!({
        "interval": "200ms",
        "cpuBudget": "100%",
        "probes": [probe("link", &scene.name("svc"), link.service())],
        "export": {
            "endpoint": format!("http://{NAME}:4317"),
            "timeout": "200ms",
            "backoff": { "initial": "10ms", "max": "50ms" },
        },
    });
    AgentCommand::new(scene, host)
        .config(&config)
        .in_place_of(scene.write("nsswitch.conf", "hosts: files dns\n"), "/etc/nsswitch.conf")
}

#[test]
fn a_collector_that_moves_to_another_address_is_followed() {
    needs!(Need::Agent);
    // What is left at the old address: a host that is gone, and one that takes connections and says nothing.
    for left in [Fault::Down, Fault::Mute] {
        let (scene, host) = (Scene::new(), Namespace::new());
        let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
        let (here, there) = (Stored::default(), Stored::default());
        let at = |last| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 4317));
        let old = Faulty::start(&host, Protocol::Grpc, at(1), here.keeper());
        let _new = Faulty::start(&host, Protocol::Grpc, at(2), there.keeper());
        let hosts = scene.write("hosts", &format!("127.0.0.1 {NAME}\n"));
        let mut agent = command(&scene, &host, &link).in_place_of(hosts.clone(), "/etc/hosts").start();
        here.wait_for_points(UP, FORWARD, 2, 0);
        assert!(there.points().is_empty());
        // In place: what is mounted is this file.
        fs::write(&hosts, format!("127.0.0.2 {NAME}\n")).unwrap();
        old.set(left);
        there.wait_for_points(UP, FORWARD, 2, unix_nanoseconds());
        agent.stop();
        let mut times: Vec<u64> = [here, there]
            .iter()
            .flat_map(|stored| stored.series(UP, FORWARD))
            .map(|point| point.time)
            .collect();
        times.sort_unstable();
        let all = times.windows(2).all(|pair| (1..350_000_000).contains(&(pair[1] - pair[0])));
        assert!(all, "{left:?}: each cycle arrived at one of them: {times:?}");
    }
}

/// A name server that hears everything, and answers what it is told to.
struct NameServer {
    /// The addresses of every name; without, it says nothing.
    addresses: Arc<Mutex<Option<Vec<Ipv4Addr>>>>,
    asked: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl NameServer {
    fn start(host: &Namespace) -> Self {
        let socket = host.inside(|| UdpSocket::bind("127.0.0.1:53").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let server = Self { addresses: Arc::default(), asked: Arc::default(), stop: Arc::default() };
        let (addresses, asked, stop) =
            (Arc::clone(&server.addresses), Arc::clone(&server.asked), Arc::clone(&server.stop));
        thread::spawn(move || {
            let mut query = [0; 512];
            while !stop.load(Ordering::SeqCst) {
                let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
                asked.fetch_add(1, Ordering::SeqCst);
                let addresses = addresses.lock().unwrap().clone();
                if let Some(addresses) = addresses {
                    socket.send_to(&answer(query.get(..length).unwrap(), &addresses), client).unwrap();
                }
            }
        });
        server
    }

    fn say(&self, addresses: &[[u8; 4]]) {
        *self.addresses.lock().unwrap() = Some(addresses.iter().copied().map(Ipv4Addr::from).collect());
    }

    fn be_silent(&self) {
        *self.addresses.lock().unwrap() = None;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Says these addresses to whoever asks for IPv4, and that there are no others (RFC 1035, section 4.1).
fn answer(query: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let end = 12 + query.iter().skip(12).position(|byte| *byte == 0).unwrap() + 5;
    let question = query.get(12..end).unwrap();
    let wants_ipv4 = question.get(question.len() - 4..question.len() - 2) == Some(&[0, 1]);
    let count = if wants_ipv4 { u8::try_from(addresses.len()).unwrap() } else { 0 };
    // NXDOMAIN where there is none at all.
    let code = if addresses.is_empty() { 3 } else { 0 };
    let mut answer = query.get(..2).unwrap().to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(question);
    for address in addresses.iter().take(count.into()) {
        // The name of the question, type A, class IN, no time to live, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

#[test]
fn a_resolver_that_never_answers_holds_one_thread_and_neither_probes_nor_the_end() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
    let stored = Stored::default();
    let _collector = Faulty::start(&host, Protocol::Grpc, Protocol::Grpc.address(), stored.keeper());
    let names = NameServer::start(&host);
    let resolver = scene.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:5\n");
    let command = command(&scene, &host, &link).in_place_of(resolver, "/etc/resolv.conf");

    let mut agent = command.start();
    agent.wait_for_log(&["WARN", "name resolution failed", "check the resolver's configuration"]);
    let (before, silent) = (agent.usage(), now());
    eventually("some twenty attempts", || (silent.elapsed() > Duration::from_secs(5)).then_some(()));
    assert!(names.asked.load(Ordering::SeqCst) > 0);
    let usage = agent.usage();
    assert!(usage.threads <= before.threads + 1, "{before:?} and later {usage:?}");
    assert!(usage.descriptors <= before.descriptors + 2, "{before:?} and later {usage:?}");
    names.say(&[[127, 0, 0, 1]]);
    stored.wait_for_points(UP, FORWARD, 2, unix_nanoseconds());
    agent.stop();
    let times: Vec<u64> = stored.series(UP, FORWARD).iter().map(|point| point.time).collect();
    assert!(times.len() > 25, "what was measured meanwhile arrived: {}", times.len());
    assert_eq!(agent.log_with(&["WARN", "name resolution failed"]).len(), 1);
    assert_eq!(agent.log_with(&["INFO", "takes data again after"]).len(), 1);

    names.be_silent();
    let mut agent = command.start();
    agent.wait_for_log(&["WARN", "name resolution failed"]);
    let took = agent.stop();
    assert!(took < Duration::from_secs(6), "stopped after {took:?}, five seconds of which are for the flush");
}

/// An agent that counts the connections of a program to the port of a link, at the addresses of a name.
fn counting<'a>(scene: &'a Scene, host: &'a Namespace, link: &Link) -> AgentCommand<'a> {
    let config = json!({
        "interval": "200ms",
        "probes": [{
            "type": "connection",
            "name": "peers",
            "processName": scene.name("svc"),
            "remoteAddress": "peers.test",
            "remotePort": link.service().port(),
        }],
        // As it is shipped: what resolves names may bind no socket, and see no file beyond those of the system.
        "sandbox": "required",
    });
    let resolver = scene.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    AgentCommand::new(scene, host).config(&config).in_place_of(resolver, "/etc/resolv.conf")
}

const WATCH_UP: &str = "vms.connection.up";
const RESOLVED: &str = "vms.connection.resolved";
const PEERS: &[(&str, &str)] = &[("name", "peers")];

#[test]
fn a_watch_counts_at_the_addresses_that_a_name_has_and_is_never_down_by_those_that_it_had() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
    let names = NameServer::start(&host);
    names.say(&[[127, 0, 0, 1], [127, 0, 0, 5]]);
    let collector = Collector::start(&host, Protocol::Grpc);
    let mut agent = counting(&scene, &host, &link).start();
    collector.wait_for_value(WATCH_UP, PEERS, 1, 0);
    for address in ["127.0.0.1", "127.0.0.5"] {
        let attributes =
            [("name", "peers"), ("dns.question.name", "peers.test"), ("network.peer.address", address)];
        collector.wait_for_points(RESOLVED, &attributes, 1, 0);
    }
    // Its time to live is over at once, so it is asked for again within seconds.
    let since = unix_nanoseconds();
    names.say(&[[127, 0, 0, 9]]);
    collector.wait_for_value(WATCH_UP, PEERS, 0, since);
    names.say(&[[127, 0, 0, 1]]);
    let since = unix_nanoseconds();
    collector.wait_for_value(WATCH_UP, PEERS, 1, since);

    // What a name had is believed for as long as that makes nothing down.
    names.be_silent();
    agent.wait_for_log(&["WARN", "cannot be resolved anew", "/etc/resolv.conf", "peers.test"]);
    let since = unix_nanoseconds();
    collector.wait_for_value(WATCH_UP, PEERS, 1, since);
    let mut link = link;
    link.close();
    agent.wait_for_log(&["ERROR", "peers", "`peers.test` could not be resolved", "/etc/resolv.conf"]);
    let silent = unix_nanoseconds();
    names.say(&[[127, 0, 0, 1]]);
    agent.wait_for_log(&["INFO", "resolved again"]);
    collector.wait_for_value(WATCH_UP, PEERS, 0, silent);
    let told = collector.series(WATCH_UP, PEERS);
    let down = told.iter().find(|point| point.time > since && point.value.as_int() == 0).unwrap();
    assert!(down.time >= silent, "it was told down by addresses that it had");

    // A name that has no address is no reason to call anything down.
    names.say(&[]);
    agent.wait_for_log(&["ERROR", "`peers.test` could not be resolved", "no address", "correct it"]);
    let since = unix_nanoseconds();
    eventually("some cycles", || (unix_nanoseconds() > since + 1_000_000_000).then_some(()));
    let late = |point: &&_| -> bool {
        let point: &vms_agent_tests::Point = point;
        point.time > since
    };
    assert!(!collector.series(WATCH_UP, PEERS).iter().any(|point| late(&point)));
    agent.stop();
}

#[test]
fn a_resolver_that_never_answers_holds_up_no_cycle_and_not_the_end() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
    let names = NameServer::start(&host);
    let collector = Collector::start(&host, Protocol::Grpc);
    let mut config = json!({
        "interval": "200ms",
        "cpuBudget": "100%",
        "probes": [probe("link", &scene.name("svc"), link.service())],
    });
    for number in 0..40 {
        config["probes"].as_array_mut().unwrap().push(json!({
            "type": "connection",
            "name": format!("watch {number}"),
            "localAddress": format!("host-{number}.test"),
        }));
    }
    let resolver = scene.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:9\n");
    let command = AgentCommand::new(&scene, &host).config(&config).in_place_of(resolver, "/etc/resolv.conf");
    let mut agent = command.start();
    collector.wait_for_points(UP, FORWARD, 10, 0);
    let times: Vec<u64> = collector.series(UP, FORWARD).iter().map(|point| point.time).collect();
    let late = times.windows(2).filter(|pair| pair[1] - pair[0] > 350_000_000).count();
    assert!(late <= 1, "each cycle came in time: {times:?}");
    assert!(names.asked.load(Ordering::SeqCst) > 0);
    assert!(collector.series(WATCH_UP, &[]).is_empty(), "of what is not known nothing is told");
    let took = agent.stop();
    assert!(took < Duration::from_secs(3), "stopped after {took:?}");
}

#[test]
fn a_check_tells_what_a_name_was_taken_for_and_why_it_is_not_known() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
    let names = NameServer::start(&host);
    names.say(&[]);
    let hosts = scene.write("hosts", "127.0.0.1 peers.test\n127.0.0.3 peers.test\n");
    let command = counting(&scene, &host, &link).in_place_of(hosts.clone(), "/etc/hosts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let output = command.output(&["check"]);
    assert_eq!(output.status.code(), Some(0));
    let table = text(output.stdout);
    assert!(table.contains("peers: peers.test is 127.0.0.1, 127.0.0.3"), "{table}");
    fs::write(&hosts, "").unwrap();
    let output = command.output(&["check"]);
    assert_eq!(output.status.code(), Some(3));
    let problem = text(output.stderr);
    assert!(
        problem.contains(
            "peers could not be measured: the host name `peers.test` could not be resolved: it has no address"
        ),
        "{problem}"
    );
    let output = command.output(&["doctor"]);
    let findings = text(output.stdout);
    assert!(findings.contains("`peers.test` could not be resolved"), "{findings}");
}
