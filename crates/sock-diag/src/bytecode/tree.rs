//! The decision tree: ports above, addresses below.

use std::net::IpAddr;

use super::assembler::{Assembler, End, Prefix, Target};

/// Up to so many addresses are tried one after the other.
const LINEAR_ADDRESSES: usize = 4;

/// What is accepted at some ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leaf {
    /// Every address.
    Ports {
        /// The lowest port.
        first: u16,
        /// The highest port.
        last: u16,
    },
    /// Some addresses at one port.
    Addresses {
        /// The port.
        port: u16,
        /// The addresses as [`address_bits`], sorted, each once.
        addresses: Vec<u128>,
    },
}

impl Leaf {
    fn first_port(&self) -> u16 {
        match self {
            Self::Ports { first, .. } => *first,
            Self::Addresses { port, .. } => *port,
        }
    }
}

/// The address as a number, an IPv4 address as the IPv4-mapped one.
pub(super) fn address_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// A program that accepts a socket if one of the leaves accepts either of its ends.
///
/// The leaves have to be sorted by port and not to overlap. `None` when the program would be too long.
pub(super) fn assemble(leaves: &[Leaf]) -> Option<Vec<u8>> {
    let mut assembler = Assembler::default();
    let local = assembler.label();
    place_leaves(&mut assembler, End::REMOTE, leaves, Target::Label(local));
    assembler.place(local);
    place_leaves(&mut assembler, End::LOCAL, leaves, Target::Reject);
    assembler.finish()
}

/// Halves the leaves until one is left. The higher half follows its comparison, the lower half follows that.
fn place_leaves(assembler: &mut Assembler, end: End, leaves: &[Leaf], otherwise: Target) {
    let (lower, higher) = leaves.split_at(leaves.len() / 2);
    match (lower, higher) {
        ([], []) => assembler.jump(otherwise),
        ([], [leaf, ..]) => place_leaf(assembler, end, leaf, otherwise),
        (_, [first, ..]) => {
            let below = assembler.label();
            assembler.port_at_least(end, first.first_port(), Target::Label(below));
            place_leaves(assembler, end, higher, otherwise);
            assembler.place(below);
            place_leaves(assembler, end, lower, otherwise);
        }
        (_, []) => {}
    }
}

fn place_leaf(assembler: &mut Assembler, end: End, leaf: &Leaf, otherwise: Target) {
    match leaf {
        Leaf::Ports { first, last } if first == last => {
            assembler.port_is(end, *first, otherwise);
            assembler.jump(Target::Accept);
        }
        Leaf::Ports { first, last } => {
            assembler.port_at_least(end, *first, otherwise);
            assembler.port_at_most(end, *last, otherwise);
            assembler.jump(Target::Accept);
        }
        Leaf::Addresses { port, addresses } if addresses.len() <= LINEAR_ADDRESSES => {
            place_addresses(assembler, end, Some(*port), addresses, otherwise);
        }
        Leaf::Addresses { port, addresses } => {
            assembler.port_is(end, *port, otherwise);
            place_addresses(assembler, end, None, addresses, otherwise);
        }
    }
}

/// Splits the addresses by prefixes until few are left, and tries those one after the other.
fn place_addresses(
    assembler: &mut Assembler,
    end: End,
    port: Option<u16>,
    addresses: &[u128],
    otherwise: Target,
) {
    if addresses.len() > LINEAR_ADDRESSES {
        let split = split_addresses(addresses);
        let outside = assembler.label();
        assembler.address_in(end, port, split.prefix, Target::Label(outside));
        place_addresses(assembler, end, port, split.inside, otherwise);
        assembler.place(outside);
        place_addresses(assembler, end, port, &split.outside, otherwise);
        return;
    }
    let Some((last, others)) = addresses.split_last() else {
        return assembler.jump(otherwise);
    };
    for address in others {
        let next = assembler.label();
        assembler.address_in(end, port, Prefix::whole(*address), Target::Label(next));
        assembler.jump(Target::Accept);
        assembler.place(next);
    }
    assembler.address_in(end, port, Prefix::whole(*last), otherwise);
    assembler.jump(Target::Accept);
}

/// Addresses in two sets, neither less than a third of them.
struct Split<'a> {
    prefix: Prefix,
    /// Those that begin with the prefix.
    inside: &'a [u128],
    outside: Vec<u128>,
}

/// Takes the side with more addresses, bit after bit, until it has no more than two thirds of all: it has then
/// at least half of what was more than two thirds.
fn split_addresses(addresses: &[u128]) -> Split<'_> {
    let mut start = 0;
    let mut inside = addresses;
    while inside.len() * 3 > addresses.len() * 2 {
        let common = common_prefix(inside);
        let branch = inside.partition_point(|address| !bit(*address, common.bits));
        let (zeros, ones) = inside.split_at(branch);
        if zeros.is_empty() || ones.is_empty() {
            break;
        }
        if zeros.len() >= ones.len() {
            inside = zeros;
        } else {
            start += branch;
            inside = ones;
        }
    }
    let before = addresses.iter().take(start);
    let after = addresses.iter().skip(start + inside.len());
    Split { prefix: common_prefix(inside), inside, outside: before.chain(after).copied().collect() }
}

/// The longest prefix of all addresses, which are sorted.
fn common_prefix(sorted: &[u128]) -> Prefix {
    match (sorted.first(), sorted.last()) {
        (Some(first), Some(last)) => Prefix { address: *first, bits: (first ^ last).leading_zeros() },
        _ => Prefix { address: 0, bits: 0 },
    }
}

/// The bit behind that many others, counted from the highest.
fn bit(address: u128, behind: u32) -> bool {
    address.checked_shl(behind).is_some_and(|shifted| shifted >> 127 == 1)
}
