//! Programs for clauses, beside what the clauses say themselves.

use vms_core::connection::{Connection, Cookie, TcpState, TcpStates};
use vms_core::namespace::NamespaceId;
use vms_core::socket::{EndClause, Families, Network, PortRange, Socket, Transport, families_of_inet6};

use super::*;

/// Networks of every length around the addresses of [`any_endpoint`].
fn any_network() -> impl Strategy<Value = Network> {
    (any_endpoint(), 0..=128_u8).prop_map(|(endpoint, bits)| {
        let text = match endpoint.ip() {
            IpAddr::V4(ip) => {
                let bits = bits % 33;
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                format!("{}/{bits}", Ipv4Addr::from_bits(ip.to_bits() & mask))
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                format!("{}/{bits}", Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
        };
        text.parse().unwrap()
    })
}

fn any_range() -> impl Strategy<Value = PortRange> {
    let edge = prop_oneof![4 => 5428..5442_u16, 2 => 1..=u16::MAX, 1 => Just(1), 1 => Just(u16::MAX)];
    prop_oneof![
        2 => edge.clone().prop_map(PortRange::port),
        2 => (edge.clone(), edge)
            .prop_map(|(one, other)| format!("{}-{}", one.min(other), one.max(other)).parse().unwrap()),
    ]
}

fn any_end() -> impl Strategy<Value = EndClause> {
    let networks = prop_oneof![2 => Just(Vec::new()), 3 => vec(any_network(), 1..4)];
    let ports = prop_oneof![2 => Just(Vec::new()), 3 => vec(any_range(), 1..4)];
    (networks, ports, any::<bool>()).prop_map(|(networks, ports, exact)| EndClause { networks, ports, exact })
}

fn any_families() -> impl Strategy<Value = Families> {
    prop::sample::select(vec![Families::IPV4, Families::IPV6, Families::BOTH])
}

pub(crate) fn any_clause() -> impl Strategy<Value = SocketClause> {
    (any_families(), any_end(), any_end()).prop_map(|(families, local, remote)| SocketClause {
        transport: Transport::Tcp,
        families,
        states: TcpStates::of(&TcpState::ALL),
        local,
        remote,
    })
}

/// A socket that the kernel holds so, or `None` where an `AF_INET` socket cannot have such an address.
fn held(local: Endpoint, remote: Endpoint, inet6: bool, v6_only: bool) -> Option<(Socket, Entry)> {
    let entry = entry(local, remote, inet6)?;
    let families = match (local.ip(), inet6) {
        (IpAddr::V6(ip), _) => families_of_inet6(ip, v6_only),
        (IpAddr::V4(_), _) => Families::IPV4,
    };
    let connection = Connection {
        local,
        remote,
        state: TcpState::Established,
        interface: 0,
        inode: None,
        cookie: Cookie(1),
        uid: 0,
        cgroup: None,
        namespace: NamespaceId::OWN,
    };
    Some((Socket { transport: Transport::Tcp, families, connection }, entry))
}

fn programs(family: Family, clauses: &[&SocketClause], endpoints: &[Endpoint]) -> [Option<Program>; 2] {
    [compile_clauses(family, clauses, endpoints), compile_clause_ports(family, clauses, endpoints)]
}

/// An end that the clause wants, as far as it says, or one beside it.
fn near_clause(clause: &EndClause, (kind, pick, other, _): &(u8, Index, Endpoint, bool)) -> Endpoint {
    let ip = match clause.networks.as_slice() {
        [] => other.ip(),
        networks => match (kind % 4, pick.get(networks).address()) {
            (0, ip) => ip,
            (1, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
            (1, IpAddr::V6(_)) | (2, _) => Ipv6Addr::UNSPECIFIED.into(),
            _ => other.ip(),
        },
    };
    let port = match clause.ports.as_slice() {
        [] => other.port(),
        ranges => match (kind / 4 % 4, pick.get(ranges)) {
            (0, range) => range.first(),
            (1, range) => range.last(),
            (2, range) => range.last().wrapping_add(1),
            (_, _) => other.port(),
        },
    };
    Endpoint::new(ip, port)
}

fn any_near() -> impl Strategy<Value = (u8, Index, Endpoint, bool)> {
    (any::<u8>(), any::<Index>(), any_endpoint(), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_program_for_clauses_passes_the_audit_and_lets_through_all_that_a_clause_or_an_endpoint_wants(
        clauses in prop_oneof![3 => vec(any_clause(), 1..4), 1 => vec(any_clause(), 1..40)],
        endpoints in vec(any_endpoint(), 0..6),
        sockets in vec((any::<Index>(), any_near(), any_near()), 100),
    ) {
        for (family, inet6) in [(Family::Inet, false), (Family::Inet6, true)] {
            let of_family = if inet6 { endpoints.clone() } else { ipv4(&endpoints) };
            let asked: Vec<&SocketClause> = clauses.iter().collect();
            for program in programs(family, &asked, &of_family).into_iter().flatten() {
                prop_assert_eq!(audit(program.bytes()), Ok(program.audit_steps()));
                prop_assert!(program.bytes().len() <= 65_528);
                for (clause, local, remote) in &sockets {
                    let clause = clause.get(&clauses);
                    let ends = [near_clause(&clause.local, local), near_clause(&clause.remote, remote)];
                    let Some((socket, entry)) = held(ends[0], ends[1], inet6, local.3) else { continue };
                    let wanted = clauses.iter().any(|clause| clause.matches(&socket))
                        || ends.iter().any(|end| of_family.contains(end));
                    if wanted {
                        prop_assert!(run(program.bytes(), &entry), "{socket:?} {clauses:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_spelled_out_lets_nothing_through_but_what_ends_and_the_unspecified_address_allow(
        clause in any_clause(),
        sockets in vec((any_near(), any_near()), 100),
    ) {
        for (family, inet6) in [(Family::Inet, false), (Family::Inet6, true)] {
            let Some(program) = compile_clauses(family, &[&clause], &[]) else { continue };
            for (local, remote) in &sockets {
                let ends = [near_clause(&clause.local, local), near_clause(&clause.remote, remote)];
                let Some((socket, entry)) = held(ends[0], ends[1], inet6, false) else { continue };
                // IPv6 prefixes of fewer than 96 bits take in mapped addresses, which count as IPv4.
                let is_certain = ends.iter().all(|end| !end.ip().is_unspecified() && (!inet6 || end.ip().is_ipv6()));
                let any_family = SocketClause { families: Families::BOTH, ..clause.clone() };
                if is_certain && !any_family.matches(&socket) {
                    prop_assert!(!run(program.bytes(), &entry), "{socket:?} {clause:?}");
                }
            }
        }
    }
}

fn clause(local: &[&str], ports: &[&str]) -> SocketClause {
    SocketClause {
        transport: Transport::Tcp,
        families: Families::BOTH,
        states: TcpStates::of(&[TcpState::Listen]),
        local: EndClause {
            networks: local.iter().map(|text| text.parse().unwrap()).collect(),
            ports: ports.iter().map(|text| text.parse().unwrap()).collect(),
            exact: false,
        },
        remote: EndClause::default(),
    }
}

#[test]
fn a_clause_that_takes_any_ends_has_no_program() {
    let [any, one] = [clause(&[], &[]), clause(&[], &["80"])];
    for family in [Family::Inet, Family::Inet6] {
        assert_eq!(programs(family, &[&one, &any], &[]), [None, None]);
        assert!(programs(family, &[&one], &[]).iter().all(Option::is_some));
    }
}

#[test]
fn a_listener_on_every_address_is_let_through_for_one_of_them() {
    let wanted = clause(&["10.0.0.1"], &["80"]);
    let accepts = |program: &Program, address: &str, inet6| {
        let none = if inet6 { "[::]:0" } else { "0.0.0.0:0" };
        run(program.bytes(), &entry(endpoint(address), endpoint(none), inet6).unwrap())
    };
    let program = compile_clauses(Family::Inet6, &[&wanted], &[]).unwrap();
    assert!(accepts(&program, "[::]:80", true) && accepts(&program, "[::ffff:10.0.0.1]:80", true));
    assert!(!accepts(&program, "[::]:81", true) && !accepts(&program, "[::1]:80", true));
    let program = compile_clauses(Family::Inet, &[&wanted], &[]).unwrap();
    assert!(accepts(&program, "0.0.0.0:80", false) && accepts(&program, "10.0.0.1:80", false));
    assert!(!accepts(&program, "10.0.0.2:80", false));
    let exact = SocketClause { local: EndClause { exact: true, ..wanted.local.clone() }, ..wanted };
    let program = compile_clauses(Family::Inet, &[&exact], &[]).unwrap();
    assert!(!accepts(&program, "0.0.0.0:80", false));
}

#[test]
fn a_thousand_clauses_of_a_port_each_are_told_by_ports_in_few_steps_and_pass_the_audit() {
    let clauses: Vec<SocketClause> =
        (0..1000_u16).map(|index| clause(&["10.0.0.0/8"], &[&(20_000 + index * 3).to_string()])).collect();
    let asked: Vec<&SocketClause> = clauses.iter().collect();
    let program = compile_clause_ports(Family::Inet6, &asked, &[]).unwrap();
    assert_eq!(audit(program.bytes()), Ok(program.audit_steps()));
    let stranger = entry(endpoint("[::1]:80"), endpoint("[::1]:40000"), true).unwrap();
    let (accepted, steps) = kernel::count_steps(program.bytes(), &stranger);
    assert!(!accepted && steps < 10, "{steps} steps");
    assert!(program.comparisons() < 20);
}
