//! A configuration of `cnxwatch_exporter`, run as it is: what it answered for each kind of entry, what is right, and what this
//! agent says.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream, UdpSocket};

use serde_json::Value;
use vms_agent_tests::skip::Need;
use vms_agent_tests::{AgentCommand, Namespace, Scene, needs};

/// An entry, cnxwatch's answer as version 0.1.3 gives it (`None` where it does not start with it), and the right one.
struct Case {
    what: &'static str,
    fields: &'static str,
    theirs: Option<u64>,
    right: u64,
}

const CASES: [Case; 10] = [
    Case {
        what: "a listener on every address, as its README has it",
        fields: "srcHost: '::', port: 3000, status: listen, protocol: tcp6",
        theirs: Some(1),
        right: 1,
    },
    Case {
        what: "a connection, as its README has it",
        fields: "srcHost: 127.0.0.1, dstHost: 127.0.0.1, dstPort: 2222, status: established",
        theirs: Some(1),
        right: 1,
    },
    Case {
        what: "0.0.0.0 is literally that of a listener",
        fields: "host: 0.0.0.0, port: 2222, status: listen",
        theirs: Some(1),
        right: 1,
    },
    Case {
        what: "and not the one on loopback",
        fields: "host: 0.0.0.0, port: 4000, status: listen",
        theirs: Some(0),
        right: 0,
    },
    Case { what: "a listener without a host", fields: "port: 4000, status: listen", theirs: None, right: 1 },
    Case {
        what: "a listener on one address",
        fields: "host: 127.0.0.1, port: 4000",
        theirs: Some(1),
        right: 1,
    },
    Case {
        what: "an unset host of a connection is literal as well, so that none ever fits",
        fields: "dstPort: 2222, status: established",
        theirs: Some(0),
        right: 1,
    },
    Case {
        what: "an IPv4 client at a dual-stack server is not found under tcp",
        fields: "srcHost: 127.0.0.1, srcPort: 3000, dstHost: 127.0.0.1, status: established",
        theirs: Some(0),
        right: 1,
    },
    Case {
        what: "a socket of UDP",
        fields: "host: 127.0.0.1, port: 5000, protocol: udp, status: listen",
        theirs: Some(1),
        right: 1,
    },
    Case {
        what: "nobody listens there",
        fields: "host: 0.0.0.0, port: 9, status: listen",
        theirs: Some(0),
        right: 0,
    },
];

#[test]
fn each_entry_of_cnxwatch_is_answered_rightly_also_where_cnxwatch_is_not_right() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let _sockets = host.inside(|| {
        let dual = TcpListener::bind("[::]:3000").expect("the port is free");
        let anywhere = TcpListener::bind("0.0.0.0:2222").expect("the port is free");
        let on_loopback = TcpListener::bind("127.0.0.1:4000").expect("the port is free");
        let ssh = TcpStream::connect("127.0.0.1:2222").expect("somebody listens");
        let browser = TcpStream::connect("127.0.0.1:3000").expect("somebody listens");
        let accepted = dual.accept().expect("it has called");
        let udp = UdpSocket::bind("127.0.0.1:5000").expect("the port is free");
        (dual, anywhere, on_loopback, ssh, browser, accepted, udp)
    });
    let entry = |(index, case): (usize, &Case)| format!("  - {{name: n{index}, {}}}\n", case.fields);
    let entries = CASES.iter().enumerate().map(entry).collect::<Vec<_>>().concat();
    let file = scene.write("cnxwatch.yml", &format!("sockets:\n{entries}"));
    let file = file.to_str().expect("the path is text");
    let output = AgentCommand::new(&scene, &host).output(&["check", "--format", "json", "--cnxwatch", file]);
    let lines: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let counts: BTreeMap<&str, u64> = lines
        .iter()
        .map(|line| {
            let name = line["name"].as_str().expect("it has a name");
            (name, line["count"].as_u64().expect("it is counted"))
        })
        .collect();
    for (index, Case { what, fields, theirs, right }) in CASES.iter().enumerate() {
        let ours = counts[format!("n{index}").as_str()];
        assert_eq!(ours, *right, "{what}: {fields}: cnxwatch says {theirs:?}");
    }
    assert!(CASES.iter().any(|case| case.theirs != Some(case.right)));
}

#[test]
fn a_configuration_of_cnxwatch_that_cannot_be_run_as_it_is_is_refused() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let file = scene.write(
        "cnxwatch.yml",
        "sockets:\n  - {name: wraps, port: 83617}\n  - {name: named, host: db..example.com, port: 80}\n",
    );
    let file = file.to_str().expect("the path is text");
    let output = AgentCommand::new(&scene, &host).output(&["run", "--cnxwatch", file]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    for part in ["cnxwatch.yml:2", "wraps", "18081", "cnxwatch.yml:3", "db..example.com"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}
