//! Collectors that move to another address, and resolvers that do not answer.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use vms_agent_tests::deadline::{now, unix_nanoseconds};
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Fault, Faulty, Link, Namespace, Points, Protocol, Scene, Stored, eventually, needs, probe,
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

/// A name server that hears everything and answers when it is let.
struct NameServer {
    answers: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl NameServer {
    fn start(host: &Namespace) -> Self {
        let socket = host.inside(|| UdpSocket::bind("127.0.0.1:53").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let server = Self { answers: Arc::default(), asked: Arc::default(), stop: Arc::default() };
        let (answers, asked, stop) =
            (Arc::clone(&server.answers), Arc::clone(&server.asked), Arc::clone(&server.stop));
        thread::spawn(move || {
            let mut query = [0; 512];
            while !stop.load(Ordering::SeqCst) {
                let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
                asked.fetch_add(1, Ordering::SeqCst);
                if answers.load(Ordering::SeqCst) {
                    socket.send_to(&answer(query.get(..length).unwrap()), client).unwrap();
                }
            }
        });
        server
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Says 127.0.0.1 to whoever asks for an IPv4 address, and that there is no other (RFC 1035, section 4.1).
fn answer(query: &[u8]) -> Vec<u8> {
    let end = 12 + query.iter().skip(12).position(|byte| *byte == 0).unwrap() + 5;
    let question = query.get(12..end).unwrap();
    let wants_ipv4 = question.get(question.len() - 4..question.len() - 2) == Some(&[0, 1]);
    let mut answer = query.get(..2).unwrap().to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_ipv4), 0, 0, 0, 0]);
    answer.extend(question);
    if wants_ipv4 {
        // The name of the question, type A, class IN, no time to live, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
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
    names.answers.store(true, Ordering::SeqCst);
    stored.wait_for_points(UP, FORWARD, 2, unix_nanoseconds());
    agent.stop();
    let times: Vec<u64> = stored.series(UP, FORWARD).iter().map(|point| point.time).collect();
    assert!(times.len() > 25, "what was measured meanwhile arrived: {}", times.len());
    assert_eq!(agent.log_with(&["WARN", "name resolution failed"]).len(), 1);
    assert_eq!(agent.log_with(&["INFO", "takes data again after"]).len(), 1);

    names.answers.store(false, Ordering::SeqCst);
    let mut agent = command.start();
    agent.wait_for_log(&["WARN", "name resolution failed"]);
    let took = agent.stop();
    assert!(took < Duration::from_secs(6), "stopped after {took:?}, five seconds of which are for the flush");
}
