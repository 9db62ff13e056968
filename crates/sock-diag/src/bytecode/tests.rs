use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::codec::Family;
use crate::plan::{Experience, Plan};

mod clauses;
mod kernel;

use kernel::{Entry, Refusal, audit, run};

/// A socket as the kernel holds it: the addresses of an `AF_INET6` socket may be IPv4-mapped.
fn entry(local: Endpoint, remote: Endpoint, inet6: bool) -> Option<Entry> {
    let address = |end: Endpoint| match (end.ip(), inet6) {
        (IpAddr::V4(ip), false) => Some(ip.octets().to_vec()),
        (IpAddr::V4(ip), true) => Some(ip.to_ipv6_mapped().octets().to_vec()),
        (IpAddr::V6(ip), true) => Some(ip.octets().to_vec()),
        (IpAddr::V6(_), false) => None,
    };
    Some(Entry {
        family: if inet6 { 10 } else { 2 },
        local: address(local)?,
        remote: address(remote)?,
        local_port: local.port(),
        remote_port: remote.port(),
    })
}

fn endpoint(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(address.ip(), address.port())
}

fn ipv4(endpoints: &[Endpoint]) -> Vec<Endpoint> {
    endpoints.iter().copied().filter(|endpoint| endpoint.ip().is_ipv4()).collect()
}

/// Addresses that share prefixes of every length, and ports that are shared, adjacent, and at the edges.
fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let ip = prop_oneof![
        4 => (0..4_u8, any::<u8>()).prop_map(|(a, b)| IpAddr::V4(Ipv4Addr::new(10, 0, a, b))),
        1 => any::<[u8; 4]>().prop_map(IpAddr::from),
        3 => (0..4_u16, any::<u8>())
            .prop_map(|(a, b)| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, a, 0, 0, 0, 0, b.into()))),
        1 => any::<[u8; 16]>().prop_map(IpAddr::from),
        // Close to mapped addresses, and not one.
        1 => (0..4_u8, any::<u8>()).prop_map(|(a, b)| {
            IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0x0a00, u16::from_be_bytes([a, b])))
        }),
        1 => (0..4_u8, any::<u8>()).prop_map(|(a, b)| {
            IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 1, 0xffff, 0x0a00, u16::from_be_bytes([a, b])))
        }),
        1 => Just(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        1 => Just(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    ];
    let port = prop_oneof![
        4 => 5430..5440_u16,
        2 => any::<u16>(),
        1 => Just(0),
        1 => Just(u16::MAX),
    ];
    (ip, port).prop_map(|(ip, port)| Endpoint::new(ip, port))
}

/// An endpoint of the set, one with another's port or address, a neighbor, or any.
fn near(endpoints: &[Endpoint], pick: &(u8, Index, Index, Endpoint)) -> Endpoint {
    let (kind, first, second, other) = pick;
    let first = first.get(endpoints);
    match kind % 5 {
        0 => *first,
        1 => Endpoint::new(first.ip(), second.get(endpoints).port()),
        2 => Endpoint::new(first.ip(), first.port().wrapping_add(1)),
        3 => Endpoint::new(other.ip(), first.port()),
        _ => *other,
    }
}

fn any_pick() -> impl Strategy<Value = (u8, Index, Index, Endpoint)> {
    (any::<u8>(), any::<Index>(), any::<Index>(), any_endpoint())
}

/// The endpoints, a program made of them, and what it has to do by a search through them.
struct Oracle<'a> {
    endpoints: &'a [Endpoint],
    ports: BTreeSet<u16>,
    program: Program,
}

impl<'a> Oracle<'a> {
    /// One for each program that there is.
    fn of(endpoints: &'a [Endpoint]) -> Vec<Self> {
        let ports: BTreeSet<u16> = endpoints.iter().map(Endpoint::port).collect();
        let programs = [compile_exact(endpoints), compile_ports(endpoints)].into_iter().flatten();
        let oracles: Vec<Self> =
            programs.map(|program| Self { endpoints, ports: ports.clone(), program }).collect();
        for oracle in &oracles {
            assert_eq!(audit(oracle.program.bytes()), Ok(oracle.program.audit_steps()));
            assert!(oracle.program.bytes().len() <= 65_528);
        }
        oracles
    }

    fn precision(&self) -> Precision {
        self.program.precision()
    }

    fn check(&self, local: Endpoint, remote: Endpoint, inet6: bool) {
        let Some(entry) = entry(local, remote, inet6) else { return };
        let accepted = run(self.program.bytes(), &entry);
        let wanted = self.endpoints.contains(&local) || self.endpoints.contains(&remote);
        match self.precision() {
            Precision::Exact => assert_eq!(accepted, wanted, "{local} {remote}"),
            Precision::Ports if self.ports.len() <= PORT_RANGES => {
                let port_fits = self.ports.contains(&local.port()) || self.ports.contains(&remote.port());
                assert_eq!(accepted, port_fits, "{local} {remote}");
            }
            Precision::Ports => assert!(accepted || !wanted, "{local} {remote}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_program_passes_the_audit_and_picks_what_a_search_through_the_endpoints_picks(
        endpoints in prop_oneof![
            4 => vec(any_endpoint(), 1..8),
            4 => vec(any_endpoint(), 1..200),
            1 => vec(any_endpoint(), 450..2000),
        ],
        sockets in vec((any_pick(), any_pick()), 200),
    ) {
        for (endpoints, inet6) in [(endpoints.clone(), true), (ipv4(&endpoints), false)] {
            if endpoints.is_empty() {
                continue;
            }
            let oracles = Oracle::of(&endpoints);
            let precisions: Vec<Precision> = oracles.iter().map(Oracle::precision).collect();
            prop_assert!(precisions.contains(&Precision::Ports));
            if endpoints.len() <= 500 {
                prop_assert!(precisions.contains(&Precision::Exact));
            }
            for oracle in &oracles {
                for (local, remote) in &sockets {
                    oracle.check(near(&endpoints, local), near(&endpoints, remote), inet6);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_chosen_for_a_host_passes_the_audit_and_accepts_no_less_than_it_should(
        endpoints in prop_oneof![
            4 => vec(any_endpoint(), 1..200),
            1 => vec(any_endpoint(), 450..3000),
        ],
        host_sockets in prop_oneof![0..2000_u32, 0..200_000_u32, Just(u32::MAX)],
        (counted, let_through) in (proptest::option::of(0..200_000_u32), proptest::option::of(0..200_000_u32)),
        sockets in vec((any_pick(), any_pick()), 100),
    ) {
        let mut plan = Plan::new(&endpoints);
        for (family, inet6) in [(Family::Inet, false), (Family::Inet6, true)] {
            if let Some(told) = let_through {
                plan.family_mut(family).learn(Experience { told, host_sockets });
            }
            let counted = counted.map(|told| Experience { told, host_sockets });
            let precision = plan.family(family).choose(host_sockets, counted);
            let program = plan.family(family).program(precision);
            if precision.is_none() {
                prop_assert!(program.is_empty());
                continue;
            }
            prop_assert!(audit(program).is_ok() && program.len() <= 65_528);
            for (local, remote) in &sockets {
                let (local, remote) = (near(&endpoints, local), near(&endpoints, remote));
                let wanted = endpoints.contains(&local) || endpoints.contains(&remote);
                if let Some(entry) = entry(local, remote, inet6).filter(|_| wanted) {
                    prop_assert!(run(program, &entry), "{local} {remote}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn ports_alone_pick_every_wanted_port_and_no_other_while_the_ranges_suffice(
        endpoints in vec((any::<[u8; 4]>(), any::<u16>()), 600..700),
    ) {
        // At most 256 ports, of which many are neighbors.
        let endpoints: Vec<Endpoint> =
            endpoints.iter().map(|(ip, port)| Endpoint::new(IpAddr::from(*ip), 20_000 + port % 256)).collect();
        let oracles = Oracle::of(&endpoints);
        let oracle = oracles.iter().find(|oracle| oracle.precision() == Precision::Ports).unwrap();
        prop_assert_eq!(oracle.program.ports(), oracle.ports.len());
        let other = endpoint("192.0.2.1:1");
        for port in (19_990..20_270).chain([0, u16::MAX]) {
            let end = Endpoint::new(IpAddr::from([192, 0, 2, 2]), port);
            oracle.check(end, other, false);
            oracle.check(other, end, false);
        }
    }
}

#[test]
fn one_endpoint_compiles_to_one_comparison_for_each_end() {
    let program = compile_exact(&[endpoint("10.0.0.1:5432")]).unwrap();
    let [port_low, port_high] = 5432_u16.to_ne_bytes();
    let no = |bytes: u16| bytes.to_ne_bytes();
    let ([cond_low, cond_high], [jump_low, jump_high], [beyond_low, beyond_high], [end_low, end_high]) =
        (no(20), no(24), no(24), no(4));
    let (port, padding) = if cfg!(target_endian = "little") {
        ([port_low, port_high, 0, 0], [0, 0])
    } else {
        ([0, 0, port_low, port_high], [0, 0])
    };
    let expected = [
        // INET_DIAG_BC_D_COND, its length, and where to go on otherwise: behind the jump.
        vec![8, 16, cond_low, cond_high],
        // AF_INET, 32 bits, padding; the port; the address.
        [vec![2, 32], padding.to_vec()].concat(),
        port.to_vec(),
        vec![10, 0, 0, 1],
        // INET_DIAG_BC_JMP to the end.
        vec![1, 4, jump_low, jump_high],
        // INET_DIAG_BC_S_COND; otherwise four bytes beyond the end.
        vec![7, 16, beyond_low, beyond_high],
        [vec![2, 32], padding.to_vec()].concat(),
        port.to_vec(),
        vec![10, 0, 0, 1],
        vec![1, 4, end_low, end_high],
    ]
    .concat();
    assert_eq!(program.bytes(), expected);
    assert_eq!(program.precision(), Precision::Exact);
}

#[test]
fn without_endpoints_no_socket_is_accepted() {
    for program in [compile_exact(&[]).unwrap(), compile_ports(&[]).unwrap()] {
        assert!(audit(program.bytes()).is_ok());
        let any = entry(endpoint("10.0.0.1:1"), endpoint("10.0.0.2:2"), false).unwrap();
        assert!(!run(program.bytes(), &any));
    }
}

/// Endpoints at as many addresses and ports as there are.
fn spread(count: usize) -> Vec<Endpoint> {
    (0..u32::try_from(count).unwrap())
        .map(|index| {
            let port = u16::try_from(1024 + index * 7 % 60_000).unwrap();
            let ip = Ipv4Addr::from_bits(0x0a00_0000 + index);
            if index.is_multiple_of(2) {
                Endpoint::new(ip.into(), port)
            } else {
                Endpoint::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, port).into(), port)
            }
        })
        .collect()
}

#[test]
fn any_number_of_endpoints_compiles_to_a_program_that_passes_the_audit() {
    for count in [1, 100, 512, 1000, EXACT_ENDPOINTS, EXACT_ENDPOINTS + 1, 5000, 20_000, 60_000] {
        let endpoints = spread(count);
        let ipv6: Vec<Endpoint> = (0..u16::try_from(count).unwrap())
            .map(|index| Endpoint::new(Ipv6Addr::new(0xfd00, index, 0, 0, 0, 0, 0, index).into(), index))
            .collect();
        for endpoints in [ipv4(&endpoints), endpoints, ipv6] {
            let oracles = Oracle::of(&endpoints);
            assert!(oracles.iter().any(|oracle| oracle.precision() == Precision::Ports), "{count}");
            for oracle in oracles {
                for wanted in endpoints.iter().step_by(997) {
                    oracle.check(*wanted, *wanted, !wanted.ip().is_ipv4());
                }
            }
        }
    }
}

#[test]
fn many_endpoints_at_one_port_are_still_told_apart_in_few_steps() {
    let endpoints: Vec<Endpoint> = (0..512_u32)
        .map(|index| Endpoint::new(Ipv4Addr::from_bits(0x0a00_0000 + index * 3).into(), 443))
        .collect();
    let program = compile_exact(&endpoints).unwrap();
    let steps = |ip: &str| {
        let stranger = entry(endpoint(&format!("{ip}:443")), endpoint(&format!("{ip}:443")), false).unwrap();
        let (accepted, steps) = kernel::count_steps(program.bytes(), &stranger);
        assert!(!accepted);
        steps
    };
    assert_eq!(steps("192.0.2.1"), 2, "what is far from all of them is turned down at once");
    assert!(steps("10.0.0.1") < 60, "{} steps", steps("10.0.0.1"));
}

#[test]
fn a_port_in_a_wide_gap_is_turned_down_in_few_steps_however_many_ports_there_are() {
    let endpoints: Vec<Endpoint> = (0..300_u16)
        .map(|index| {
            Endpoint::new(IpAddr::from([10, 0, 0, 1]), if index < 150 { index } else { 9000 + index } * 2)
        })
        .collect();
    let program = compile_exact(&endpoints).unwrap();
    let steps = |port| {
        let end = Endpoint::new(IpAddr::from([10, 0, 0, 1]), port);
        let (accepted, steps) = kernel::count_steps(program.bytes(), &entry(end, end, false).unwrap());
        assert!(!accepted);
        steps
    };
    // Two ends, with at most three comparisons each: above all ports, and between the two groups of them.
    for port in [60_000, 32_768, 20_000, 10_000] {
        assert!(steps(port) <= 6, "{port}: {} steps", steps(port));
    }
    // Between two ports of a group, as in a tree that halves them, and little more.
    for port in [51, 151, 18_401] {
        assert!(steps(port) <= 2 * 12, "{port}: {} steps", steps(port));
    }
}

#[test]
fn no_leaf_is_deep_wherever_the_ports_are() {
    // Each gap is twice as wide as the one before: by width alone this were a list.
    let doubling: Vec<u16> = (0..15).map(|bit| (1 << bit) * 2).collect();
    let crowded = (0..1000).chain([30_000, 60_000]).collect();
    for ports in [doubling, crowded] {
        let endpoints: Vec<Endpoint> =
            ports.iter().map(|port| Endpoint::new(IpAddr::from([10, 0, 0, 1]), *port)).collect();
        let program = compile_exact(&endpoints).unwrap();
        let depth = usize::try_from(ports.len().ilog2()).unwrap() + 10;
        for port in ports {
            let [near, far] = [1, 2].map(|last| Endpoint::new(IpAddr::from([10, 0, 0, last]), port));
            let (accepted, steps) = kernel::count_steps(program.bytes(), &entry(near, far, false).unwrap());
            assert!(accepted && steps <= 2 * depth, "{port}: {steps} steps");
        }
    }
}

#[test]
fn jumps_that_the_audit_does_not_follow_cost_nothing() {
    // One leaf: the jump from the remote end to the local one, over two operations. All others leave the program.
    assert_eq!(compile_exact(&[endpoint("10.0.0.1:5432")]).unwrap().audit_steps(), 3);
}

#[test]
fn ranges_join_across_the_narrowest_gaps_when_there_are_too_many() {
    // 300 lone ports in steps of 2, then a wide gap and one more.
    let ports = (0..300_u16).map(|index| 10_000 + index * 2).chain([60_000]);
    let endpoints: Vec<Endpoint> = ports
        .flat_map(|port| {
            ["10.0.0.1", "10.0.0.2"].map(|ip| Endpoint::new(ip.parse::<IpAddr>().unwrap(), port))
        })
        .collect();
    let program = compile_ports(&endpoints).unwrap();
    let other = endpoint("192.0.2.1:1");
    let accepts = |port| {
        let end = Endpoint::new(IpAddr::from([192, 0, 2, 2]), port);
        run(program.bytes(), &entry(other, end, false).unwrap())
    };
    assert!(endpoints.iter().all(|endpoint| accepts(endpoint.port())));
    assert!(!accepts(9_999) && !accepts(59_999) && !accepts(60_001) && !accepts(30_000));
}

#[test]
fn the_audit_restated_here_refuses_what_the_kernels_refuses() {
    let program = compile_exact(&[endpoint("10.0.0.1:5432")]).unwrap().bytes().to_vec();
    let change = |place: usize, value: u8| {
        let mut changed = program.clone();
        changed[place] = value;
        audit(&changed)
    };
    assert_eq!(audit(&[]), Err(Refusal::TooShort));
    assert_eq!(audit(&program[..program.len() - 4]), Err(Refusal::No));
    assert_eq!(change(0, 200), Err(Refusal::Code));
    assert_eq!(change(program.len() - 3, 12), Err(Refusal::Yes), "an operation that runs past the end");
    assert_eq!(change(2, 12), Err(Refusal::No), "a jump into the middle of an operation");
    assert_eq!(change(2, 22), Err(Refusal::No), "a jump by half a word");
    assert_eq!(change(5, 33), Err(Refusal::Argument), "more bits than the address has");
}
