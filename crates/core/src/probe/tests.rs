use super::*;
use crate::connection::{Cookie, Inode, TcpState};
use crate::namespace::NamespaceId;

fn probe(dest_ip: &str, source_ip: Option<&str>, source_port: Option<u16>) -> ConnectionProbe {
    let pattern = ProcessPattern { name: "app".parse().unwrap(), executable: None };
    ConnectionProbe {
        name: "link".into(),
        source_process: pattern.clone(),
        dest_process: pattern,
        dest_ip: dest_ip.parse().unwrap(),
        dest_port: 5432,
        source_ip: source_ip.map(|ip| ip.parse().unwrap()),
        source_port,
        interval: Duration::from_secs(15),
        matched_source_labels: MatchedSourceLabels::None,
    }
}

fn connection(local: (&str, u16), remote: (&str, u16), interface: u32) -> Connection {
    Connection {
        local: Endpoint::new(local.0.parse().unwrap(), local.1),
        remote: Endpoint::new(remote.0.parse().unwrap(), remote.1),
        state: TcpState::Established,
        interface,
        inode: Inode::new(1),
        cookie: Cookie(1),
        uid: 0,
        cgroup: None,
        namespace: NamespaceId::OWN,
    }
}

fn directions(probe: &ConnectionProbe, connection: &Connection) -> Vec<Direction> {
    let index = |name: &str| (name == "eth0").then_some(2);
    Direction::ALL.into_iter().filter(|way| probe.match_addresses(connection, *way, index)).collect()
}

#[test]
fn the_two_ends_of_a_connection_are_forward_and_reverse() {
    let client = connection(("10.0.0.9", 40000), ("10.0.0.1", 5432), 0);
    let server = connection(("10.0.0.1", 5432), ("10.0.0.9", 40000), 0);
    let probe = probe("10.0.0.1", None, None);
    assert_eq!(directions(&probe, &client), [Direction::Forward]);
    assert_eq!(directions(&probe, &server), [Direction::Reverse]);
    let other_port = connection(("10.0.0.9", 5432), ("10.0.0.1", 5433), 0);
    assert_eq!(directions(&probe, &other_port), []);
}

#[test]
fn a_connection_to_itself_holds_in_both_directions() {
    let itself = connection(("127.0.0.1", 5432), ("127.0.0.1", 5432), 0);
    assert_eq!(directions(&probe("127.0.0.1", None, None), &itself), Direction::ALL);
}

#[test]
fn a_configured_source_has_to_be_the_other_end() {
    let client = connection(("10.0.0.9", 40000), ("10.0.0.1", 5432), 0);
    let server = connection(("10.0.0.1", 5432), ("10.0.0.9", 40000), 0);
    for (ip, port, fits) in [
        (Some("10.0.0.9"), None, true),
        (Some("::ffff:10.0.0.9"), Some(40000), true),
        (None, Some(40000), true),
        (Some("10.0.0.1"), None, false),
        (Some("10.0.0.9"), Some(5432), false),
        (None, Some(40001), false),
    ] {
        let probe = probe("10.0.0.1", ip, port);
        assert_eq!(directions(&probe, &client) == [Direction::Forward], fits, "{ip:?} {port:?}");
        assert_eq!(directions(&probe, &server) == [Direction::Reverse], fits, "{ip:?} {port:?}");
    }
}

#[test]
fn a_zone_ties_a_link_to_its_interface() {
    let on = |interface| connection(("fe80::9", 40000), ("fe80::1", 5432), interface);
    assert_eq!(directions(&probe("fe80::1%eth0", None, None), &on(2)), [Direction::Forward]);
    assert_eq!(directions(&probe("fe80::1%eth0", None, None), &on(3)), []);
    assert_eq!(directions(&probe("fe80::1%gone0", None, None), &on(0)), []);
    assert_eq!(directions(&probe("fe80::1%3", None, None), &on(3)), [Direction::Forward]);
    assert_eq!(directions(&probe("fe80::1", None, None), &on(3)), [Direction::Forward]);
}
