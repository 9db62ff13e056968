use proptest::prelude::*;

use super::*;
use crate::connection::{Cookie, TcpState};
use crate::namespace::NamespaceId;

fn socket(transport: Transport, families: Families, ends: [(&str, u16); 2], state: TcpState) -> Socket {
    let [local, remote] = ends.map(|(ip, port)| Endpoint::new(ip.parse().unwrap(), port));
    let connection = Connection {
        local,
        remote,
        state,
        interface: 0,
        inode: None,
        cookie: Cookie(1),
        uid: 0,
        cgroup: None,
        namespace: NamespaceId::OWN,
    };
    Socket { transport, families, connection }
}

fn listener(address: &str, families: Families) -> Socket {
    let no_peer = if address.contains(':') { "::" } else { "0.0.0.0" };
    socket(Transport::Tcp, families, [(address, 80), (no_peer, 0)], TcpState::Listen)
}

fn listening_on(address: &str, exact: bool) -> SocketClause {
    SocketClause {
        transport: Transport::Tcp,
        families: Families::BOTH,
        states: TcpStates::of(&[TcpState::Listen]),
        local: EndClause {
            networks: vec![address.parse().unwrap()],
            ports: vec![PortRange::port(80)],
            exact,
        },
        remote: EndClause::default(),
    }
}

#[test]
fn a_listener_on_every_address_stands_for_those_of_the_families_that_it_serves() {
    let cases = [
        // The listener's address, what it serves, and which of these it satisfies: 127.0.0.1, ::1, 0.0.0.0, ::
        ("127.0.0.1", Families::IPV4, [true, false, false, false]),
        ("0.0.0.0", Families::IPV4, [true, false, true, false]),
        ("::", Families::BOTH, [true, true, true, true]),
        ("::", Families::IPV6, [false, true, false, true]),
        ("::1", Families::IPV6, [false, true, false, false]),
    ];
    for (address, families, expected) in cases {
        let listener = listener(address, families);
        let found = ["127.0.0.1", "::1", "0.0.0.0", "::"]
            .map(|wanted| listening_on(wanted, false).matches(&listener));
        assert_eq!(found, expected, "{address} {families:?}");
        let exactly =
            ["127.0.0.1", "::1", "0.0.0.0", "::"].map(|wanted| listening_on(wanted, true).matches(&listener));
        assert_eq!(exactly, ["127.0.0.1", "::1", "0.0.0.0", "::"].map(|wanted| wanted == address));
    }
}

#[test]
fn a_mapped_address_is_of_ipv4() {
    assert_eq!(families_of_inet6("::ffff:10.0.0.1".parse().unwrap(), false), Families::IPV4);
    assert_eq!(families_of_inet6("::ffff:0.0.0.0".parse().unwrap(), false), Families::IPV4);
    assert_eq!(families_of_inet6("::".parse().unwrap(), false), Families::BOTH);
    assert_eq!(families_of_inet6("::".parse().unwrap(), true), Families::IPV6);
    assert_eq!(families_of_inet6("fd00::1".parse().unwrap(), false), Families::IPV6);
}

#[test]
fn a_range_of_addresses_is_read_as_it_is_written() {
    for (text, inside, outside) in [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"),
        ("0.0.0.0/0", "255.1.2.3", "::1"),
        ("::/0", "fd00::1", "10.0.0.1"),
        ("fd00::/9", "fd7f::1", "fd80::1"),
        ("::ffff:10.0.0.0/104", "10.1.1.1", "11.0.0.0"),
    ] {
        let network: Network = text.parse().unwrap();
        assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
        assert!(!network.contains(outside.parse().unwrap()), "{text} {outside}");
        assert_eq!(network.to_string().parse(), Ok(network));
    }
    assert_eq!("10.0.0.1/8".parse::<Network>(), Err(NetworkError::HostBits));
    assert_eq!("10.0.0.0/33".parse::<Network>(), Err(NetworkError::Length));
    assert_eq!("10.0.0.0/".parse::<Network>(), Err(NetworkError::Length));
    assert_eq!("host/8".parse::<Network>(), Err(NetworkError::NotAnAddress));
}

#[test]
fn a_range_of_ports_is_read_as_it_is_written() {
    for (text, first, last) in [("80", 80, 80), ("8000-8999", 8000, 8999), ("1-65535", 1, 65_535)] {
        let range: PortRange = text.parse().unwrap();
        assert_eq!((range.first(), range.last()), (first, last));
        assert_eq!(range.to_string(), text);
    }
    for text in ["0", "65536", "83617", "", "-", "80-", "+80", "http"] {
        assert_eq!(text.parse::<PortRange>(), Err(PortRangeError::NotAPort), "{text}");
    }
    assert_eq!("90-80".parse::<PortRange>(), Err(PortRangeError::Backwards));
}

fn an_end() -> impl Strategy<Value = EndClause> {
    let network = prop_oneof![
        Just("10.0.0.0/30"),
        Just("10.0.0.1"),
        Just("10.0.0.0/8"),
        Just("0.0.0.0/0"),
        Just("::/0"),
        Just("::1"),
        Just("::"),
        Just("0.0.0.0")
    ];
    let more = prop_oneof![0_u16..3, Just(100)];
    let range = (1_u16..5, more).prop_map(|(first, more)| PortRange { first, last: first + more });
    (proptest::collection::vec(network, 0..3), proptest::collection::vec(range, 0..3), any::<bool>())
        .prop_map(|(networks, ports, exact)| EndClause {
            networks: networks.into_iter().map(|network| network.parse().unwrap()).collect(),
            ports,
            exact,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The order in which clauses are looked for finds what asking each of them does.
    #[test]
    fn clauses_are_found_by_port_and_address_as_by_asking_each(
        ends in proptest::collection::vec((an_end(), an_end()), 0..12),
        sockets in proptest::collection::vec(
            ((0_usize..5, 1_u16..8), (0_usize..5, 0_u16..8), any::<bool>()), 0..20,
        ),
    ) {
        let clause = |(local, remote)| SocketClause {
            transport: Transport::Tcp,
            families: Families::BOTH,
            states: TcpStates::of(&[TcpState::Listen, TcpState::Established]),
            local,
            remote,
        };
        let clauses = SocketClauses::new(ends.into_iter().map(clause).collect());
        let addresses = ["10.0.0.1", "10.0.0.9", "0.0.0.0", "::", "::1"];
        for ((local, local_port), (remote, remote_port), listens) in sockets {
            let state = if listens { TcpState::Listen } else { TcpState::Established };
            let ends = [(addresses[local], local_port), (addresses[remote], remote_port)];
            let socket = socket(Transport::Tcp, Families::BOTH, ends, state);
            let mut found: Vec<usize> = clauses.wanting(&socket).collect();
            found.sort_unstable();
            let asked: Vec<usize> = (0..clauses.all().len())
                .filter(|place| clauses.all()[*place].matches(&socket))
                .collect();
            prop_assert_eq!(&found, &asked);
            prop_assert_eq!(clauses.want(&socket), !asked.is_empty());
        }
    }
}
