//! The decision tree: ports above, addresses below.
//!
//! Most sockets of a host have nothing to do with the endpoints, and nearly each has an ephemeral port at one end: it
//! could have any. So ports are split by how many lie on either side rather than by how many leaves do, and a wide gap
//! between leaves takes one comparison or two, however many leaves there are.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::assembler::{Assembled, Assembler, End, Prefix, Target};

/// Up to so many addresses are tried one after the other.
const LINEAR_ADDRESSES: usize = 4;

/// What a leaf weighs, in ports without one. Without it, leaves close together could end up in a row instead of a tree;
/// with it, none is deeper than the logarithm of the number of leaves and another ten.
const LEAF_WEIGHT: usize = 64;

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
    /// The lowest port.
    pub(super) fn first_port(&self) -> u16 {
        match self {
            Self::Ports { first, .. } => *first,
            Self::Addresses { port, .. } => *port,
        }
    }

    /// The highest port.
    pub(super) fn last_port(&self) -> u16 {
        match self {
            Self::Ports { last, .. } => *last,
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

/// Ends the program: accepts a socket if one of the leaves accepts its end, and turns down all others.
///
/// The leaves have to be sorted by port and not to overlap. `None` when the program would be too long.
pub(super) fn finish(mut assembler: Assembler, remote: &[Leaf], local: &[Leaf]) -> Option<Assembled> {
    if !remote.is_empty() {
        let rest = assembler.label();
        place_leaves(&mut assembler, End::REMOTE, remote, 0..=u16::MAX, Target::Label(rest));
        assembler.place(rest);
    }
    place_leaves(&mut assembler, End::LOCAL, local, 0..=u16::MAX, Target::Reject);
    assembler.finish()
}

/// About how many operations it takes to find that none of the leaves accepts an end.
pub(super) fn comparisons(leaves: &[Leaf]) -> u32 {
    1 + leaves.len().checked_ilog2().unwrap_or(0)
}

/// Splits the ports that are still possible until one leaf is left.
fn place_leaves(
    assembler: &mut Assembler,
    end: End,
    leaves: &[Leaf],
    ports: RangeInclusive<u16>,
    otherwise: Target,
) {
    let Some(split) = PortSplit::choose(leaves, &ports) else {
        return match leaves.first() {
            Some(leaf) => place_leaf(assembler, end, leaf, &ports, otherwise),
            None => assembler.jump(otherwise),
        };
    };
    let first_above = split.last_below.saturating_add(1);
    let ports_below = *ports.start()..=split.last_below;
    let ports_above = first_above..=*ports.end();
    match leaves.split_at_checked(split.leaves_below).unwrap_or((leaves, &[])) {
        ([], above) => {
            assembler.port_at_least(end, first_above, otherwise);
            place_leaves(assembler, end, above, ports_above, otherwise);
        }
        (below, []) => {
            assembler.port_at_most(end, split.last_below, otherwise);
            place_leaves(assembler, end, below, ports_below, otherwise);
        }
        (below, above) => {
            let label = assembler.label();
            assembler.port_at_least(end, first_above, Target::Label(label));
            place_leaves(assembler, end, above, ports_above, otherwise);
            assembler.place(label);
            place_leaves(assembler, end, below, ports_below, otherwise);
        }
    }
}

/// Where ports are split: at an edge of a gap before, between or behind leaves, so that the gap stays whole.
#[derive(Debug, Clone, Copy)]
struct PortSplit {
    leaves_below: usize,
    last_below: u16,
}

impl PortSplit {
    /// The split into sides as equal in weight as can be, or `None` for a single leaf: it tells for itself which ports
    /// are not its own.
    fn choose(leaves: &[Leaf], ports: &RangeInclusive<u16>) -> Option<Self> {
        if leaves.len() < 2 {
            return None;
        }
        let weight_to = |last: u16, leaves: usize| {
            usize::from(last) + 1 - usize::from(*ports.start()).min(usize::from(last)) + leaves * LEAF_WEIGHT
        };
        let weight = weight_to(*ports.end(), leaves.len());
        let before_leaves = leaves.iter().enumerate().filter_map(|(leaves_below, leaf)| {
            let last_below = leaf.first_port().checked_sub(1)?;
            (last_below >= *ports.start()).then_some(Self { leaves_below, last_below })
        });
        let behind_leaves = leaves
            .iter()
            .zip(1..)
            .map(|(leaf, leaves_below)| Self { leaves_below, last_below: leaf.last_port() })
            .filter(|split| split.last_below < *ports.end());
        before_leaves
            .chain(behind_leaves)
            .filter(|split| leaves.len() > 2 || split.leaves_below == 1)
            .min_by_key(|split| (2 * weight_to(split.last_below, split.leaves_below)).abs_diff(weight))
    }
}

/// Tests for one leaf, where one of these ports is still possible.
fn place_leaf(
    assembler: &mut Assembler,
    end: End,
    leaf: &Leaf,
    ports: &RangeInclusive<u16>,
    otherwise: Target,
) {
    let certain = leaf.first_port() <= *ports.start() && *ports.end() <= leaf.last_port();
    match leaf {
        Leaf::Ports { first, last } => {
            if first == last && !certain {
                assembler.port_is(end, *first, otherwise);
            } else {
                if first > ports.start() {
                    assembler.port_at_least(end, *first, otherwise);
                }
                if last < ports.end() {
                    assembler.port_at_most(end, *last, otherwise);
                }
            }
            assembler.jump(Target::Accept);
        }
        Leaf::Addresses { port, addresses } if addresses.len() <= LINEAR_ADDRESSES => {
            place_addresses(assembler, end, (!certain).then_some(*port), addresses, otherwise);
        }
        // What is far from all addresses is turned down at once.
        Leaf::Addresses { port, addresses } => {
            let prefix = common_prefix(addresses);
            assembler.address_in(end, (!certain).then_some(*port), prefix, otherwise);
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
