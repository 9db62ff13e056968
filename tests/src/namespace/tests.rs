use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::*;
use crate::needs;

#[test]
fn a_namespace_is_removed_even_when_the_test_panics() {
    needs!();
    let mut path = String::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let host = Namespace::new();
        path = format!("{DIRECTORY}/{}", host.name());
        assert!(Path::new(&path).exists());
        panic!("as a failing test would");
    }));
    assert!(outcome.is_err());
    assert!(!Path::new(&path).exists());
}

#[test]
fn a_namespace_whose_maker_died_is_swept_away() {
    needs!();
    let mut maker = program::command("true").spawn().unwrap();
    let name = format!("vmst-{}-0", maker.id());
    maker.wait().unwrap();
    ip(&["netns", "add", &name]);
    let kept = Namespace::new();
    sweep();
    assert!(!Path::new(&format!("{DIRECTORY}/{name}")).exists());
    assert!(Path::new(&format!("{DIRECTORY}/{}", kept.name())).exists(), "of a run that lives");
}

#[test]
fn two_hosts_reach_one_another_over_every_address() {
    needs!();
    let (one, other) = Namespace::pair();
    let zone = one.interface_index();
    for address in [
        SocketAddr::new(other.ipv4(), 0),
        SocketAddr::new(other.ipv6(), 0),
        SocketAddr::V6(std::net::SocketAddrV6::new(
            match other.link_local() {
                IpAddr::V6(address) => address,
                IpAddr::V4(_) => unreachable!("link-local addresses here are IPv6"),
            },
            0,
            0,
            zone,
        )),
    ] {
        let mut there = address;
        if let SocketAddr::V6(address) = &mut there
            && address.ip().is_unicast_link_local()
        {
            address.set_scope_id(other.interface_index());
        }
        let listener = other.inside(|| std::net::TcpListener::bind(there).unwrap());
        let mut target = address;
        target.set_port(listener.local_addr().unwrap().port());
        let stream = one.inside(|| std::net::TcpStream::connect(target).unwrap());
        assert!(
            one.has_socket("ESTAB", stream.local_addr().unwrap(), stream.peer_addr().unwrap()),
            "{target}"
        );
    }
}

#[test]
fn what_ss_prints_is_read_with_zones_and_listeners() {
    let socket = |state: &str, local_port, remote_port| SocketState {
        state: state.to_owned(),
        local_port,
        remote_port,
    };
    assert_eq!(parse_socket("LISTEN 0 4096 *:9000 *:*").unwrap(), socket("LISTEN", 9000, 0));
    assert_eq!(
        parse_socket("FIN-WAIT-2 0 0 [fe80::1]%eth0:40000 [fe80::2]%eth0:80 timer:(x)").unwrap(),
        socket("FIN-WAIT-2", 40000, 80)
    );
    assert_eq!(
        parse_socket("ESTAB 0 0 [::ffff:10.0.0.1]:80 [::ffff:10.0.0.2]:4711").unwrap(),
        socket("ESTAB", 80, 4711)
    );
}
