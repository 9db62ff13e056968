//! One clause: each of its conditions in turn.

use std::net::IpAddr;

use vms_core::socket::{EndClause, Network, PortRange, SocketClause};

use super::assembler::{Assembler, End, Prefix, Target};
use super::tree::address_bits;
use crate::codec::Family;

/// The bits before the IPv4 address in an IPv4-mapped one.
const MAPPED_BITS: u32 = 96;

/// A condition on an address alone takes the kernel as long as so many comparisons of a port: 13 ns, for each socket.
const ADDRESS_OPERATIONS: usize = 2;

/// What one end may be: any of these.
enum Alternatives<'a> {
    Ports(End, &'a [PortRange]),
    Prefixes(End, Vec<Prefix>),
}

/// Accepts sockets of that family whose ends fit, and goes on behind with others. Returns about how many operations it takes
/// to find that a socket is another; `None` where none is, since any ends fit.
///
/// Ports come before addresses: they tell more sockets from others.
pub(super) fn place_clause(assembler: &mut Assembler, family: Family, clause: &SocketClause) -> Option<u32> {
    let ends = [(End::LOCAL, &clause.local), (End::REMOTE, &clause.remote)];
    let ports = ends
        .into_iter()
        .filter(|(_, wanted)| !wanted.ports.is_empty())
        .map(|(end, wanted)| Alternatives::Ports(end, &wanted.ports));
    let prefixes = ends
        .into_iter()
        .filter(|(_, wanted)| !wanted.networks.is_empty())
        .map(|(end, wanted)| Alternatives::Prefixes(end, prefixes_of(family, wanted)));
    let conditions: Vec<Alternatives<'_>> = ports.chain(prefixes).collect();
    let first = conditions.first()?.operations();
    let other = assembler.label();
    for condition in &conditions {
        condition.place(assembler, Target::Label(other));
    }
    assembler.jump(Target::Accept);
    assembler.place(other);
    Some(first)
}

/// The networks that an end of a socket of that family can be in, and what stands for them.
fn prefixes_of(family: Family, wanted: &EndClause) -> Vec<Prefix> {
    let can_be = |ip: IpAddr| family == Family::Inet6 || ip.is_ipv4();
    let networks = wanted.networks.iter().filter(|network| can_be(network.address())).map(prefix_of);
    let any = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
    let unspecified =
        any.into_iter().filter(|ip| !wanted.exact && can_be(*ip)).map(|ip| Prefix::whole(address_bits(ip)));
    networks.chain(unspecified).collect()
}

fn prefix_of(network: &Network) -> Prefix {
    let before = if network.address().is_ipv4() { MAPPED_BITS } else { 0 };
    Prefix { address: address_bits(network.address()), bits: before + u32::from(network.prefix_bits()) }
}

impl Alternatives<'_> {
    /// How many operations it takes at most to find that none holds.
    fn operations(&self) -> u32 {
        let operations = match self {
            Self::Ports(_, ranges) => ranges.iter().map(|range| if is_one(*range) { 1 } else { 2 }).sum(),
            Self::Prefixes(_, prefixes) => prefixes.len() * ADDRESS_OPERATIONS,
        };
        u32::try_from(operations).unwrap_or(u32::MAX)
    }

    /// Goes on if one holds.
    fn place(&self, assembler: &mut Assembler, otherwise: Target) {
        match self {
            Self::Ports(end, ranges) => {
                place_each(assembler, ranges, otherwise, |assembler, range, otherwise| {
                    if is_one(*range) {
                        assembler.port_is(*end, range.first(), otherwise);
                    } else {
                        assembler.port_at_least(*end, range.first(), otherwise);
                        assembler.port_at_most(*end, range.last(), otherwise);
                    }
                });
            }
            Self::Prefixes(end, prefixes) => {
                place_each(assembler, prefixes, otherwise, |assembler, prefix, otherwise| {
                    assembler.address_in(*end, None, *prefix, otherwise);
                });
            }
        }
    }
}

fn is_one(range: PortRange) -> bool {
    range.first() == range.last()
}

/// Goes on if one of them holds, of which each goes on if it holds itself.
fn place_each<T>(
    assembler: &mut Assembler,
    alternatives: &[T],
    otherwise: Target,
    place: impl Fn(&mut Assembler, &T, Target),
) {
    let Some((last, others)) = alternatives.split_last() else { return assembler.jump(otherwise) };
    let holds = assembler.label();
    for alternative in others {
        let next = assembler.label();
        place(assembler, alternative, Target::Label(next));
        assembler.jump(Target::Label(holds));
        assembler.place(next);
    }
    place(assembler, last, otherwise);
    assembler.place(holds);
}
