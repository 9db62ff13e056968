//! Filter programs, beside the kernel's audit and interpreter as they are restated for the tests of `vms-sock-diag`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vms_core::address::Endpoint;
use vms_sock_diag::bytecode::{PORT_RANGES, Precision, Program, compile_exact, compile_ports};

use crate::bounded::bounded;
use crate::cursor::Cursor;
use kernel::{Entry, audit, run};

#[path = "../../../crates/sock-diag/src/bytecode/tests/kernel.rs"]
mod kernel;

/// Endpoints of the first bytes, and sockets near them of the rest.
pub fn filter_programs(data: &[u8]) {
    let mut cursor = Cursor(data);
    let count = usize::from(cursor.byte()) % 32;
    let endpoints: Vec<Endpoint> = (0..count).map(|_| endpoint(&mut cursor)).collect();
    let ipv4: Vec<Endpoint> = endpoints.iter().copied().filter(|endpoint| endpoint.ip().is_ipv4()).collect();
    let mut sockets = Vec::new();
    while !cursor.is_empty() && sockets.len() < 12 {
        sockets.push((near(&endpoints, &mut cursor), near(&endpoints, &mut cursor)));
    }
    for (endpoints, inet6) in [(&endpoints, true), (&ipv4, false)] {
        let ports: BTreeSet<u16> = endpoints.iter().map(Endpoint::port).collect();
        let exact = bounded(data, 512, 4096, || compile_exact(endpoints)).expect("so few always fit");
        let by_ports = bounded(data, 512, 4096, || compile_ports(endpoints)).expect("any number fits");
        assert!(ports.len() <= PORT_RANGES);
        assert_eq!((exact.precision(), by_ports.precision()), (Precision::Exact, Precision::Ports));
        check_program(&exact);
        check_program(&by_ports);
        for (local, remote) in &sockets {
            let Some(entry) = entry(*local, *remote, inet6) else { continue };
            let wanted = endpoints.contains(local) || endpoints.contains(remote);
            let port_fits = ports.contains(&local.port()) || ports.contains(&remote.port());
            assert_eq!(run(exact.bytes(), &entry), wanted, "{local} {remote} {endpoints:?}");
            assert_eq!(run(by_ports.bytes(), &entry), port_fits, "{local} {remote} {endpoints:?}");
        }
    }
}

fn check_program(program: &Program) {
    assert!(!program.bytes().is_empty() && program.bytes().len() <= 65_528);
    assert_eq!(program.bytes().len() % 4, 0);
    assert_eq!(
        audit(program.bytes()),
        Ok(program.audit_steps()),
        "the kernel's audit refuses it, or steps otherwise"
    );
}

/// Addresses that share prefixes of every length, and ports that are shared, adjacent and at the edges.
fn endpoint(cursor: &mut Cursor<'_>) -> Endpoint {
    let [kind, a, b, port] = cursor.array();
    let ip: IpAddr = match kind % 8 {
        0..=2 => Ipv4Addr::new(10, 0, a % 4, b).into(),
        3 => Ipv6Addr::new(0x2001, 0xdb8, u16::from(a % 4), 0, 0, 0, 0, b.into()).into(),
        // Close to an IPv4-mapped address, and not one.
        4 => Ipv6Addr::new(0, 0, 0, 0, u16::from(a % 2), 0xffff, 0x0a00, b.into()).into(),
        5 => cursor.array::<4>().into(),
        6 => cursor.array::<16>().into(),
        _ => {
            if a % 2 == 0 {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            }
        }
    };
    let port = match kind / 64 {
        0 | 1 => 5430 + u16::from(port % 10),
        2 => u16::from(port).wrapping_sub(128),
        _ => u16::from_be_bytes(cursor.array()),
    };
    Endpoint::new(ip, port)
}

/// An endpoint of the set, one with another's port or address, a neighbor, or any.
fn near(endpoints: &[Endpoint], cursor: &mut Cursor<'_>) -> Endpoint {
    let [kind, first, second] = cursor.array();
    let pick = |index: u8| endpoints.get(usize::from(index) % endpoints.len().max(1)).copied();
    let (Some(first), Some(second)) = (pick(first), pick(second)) else { return endpoint(cursor) };
    match kind % 5 {
        0 => first,
        1 => Endpoint::new(first.ip(), second.port()),
        2 => Endpoint::new(first.ip(), first.port().wrapping_add(1)),
        3 => Endpoint::new(endpoint(cursor).ip(), first.port()),
        _ => endpoint(cursor),
    }
}

/// A socket as the kernel holds it; `None` where an `AF_INET` socket cannot have such an address.
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
