//! Compiles endpoints into the program by which the kernel picks sockets (`INET_DIAG_REQ_BYTECODE`). Pure.
//!
//! The kernel runs the program on every socket of the host, so what counts is the cost of turning one down: the
//! program is a decision tree on the port, once for the remote end and once for the local one, and below a port
//! that several endpoints share a decision tree on the address. Clauses stand before that tree, one after the other with
//! all of their conditions, or in it, by their ports alone.
//!
//! What the kernel wants of a program (`inet_diag_bc_audit` in `net/ipv4/inet_diag.c`): it is a sequence of
//! operations, each a `struct inet_diag_bc_op` (`include/uapi/linux/inet_diag.h`) and its arguments. An operation
//! that holds goes `yes` bytes on; as the audit finds the operations by adding up `yes`, that has to be its own
//! length. One that does not hold goes `no` bytes on, to a later operation, to the end of the program, where the
//! socket is accepted, or four bytes beyond it, where it is rejected.

mod assembler;
mod clause;
mod tree;

use std::collections::BTreeSet;

use vms_core::address::Endpoint;
use vms_core::socket::SocketClause;

use crate::codec::Family;
use assembler::{Assembled, Assembler};
use tree::Leaf;

/// No program for more endpoints than this tells them all apart: each takes at least a condition of 16 bytes and a jump
/// of 4 for either end, of the 65,528 bytes that an attribute holds.
pub const EXACT_ENDPOINTS: usize = 65_528 / (2 * (16 + 4));

/// Programs that tell ports only have at most this many ranges of ports: the cost of their audit grows with the square.
pub const PORT_RANGES: usize = 256;

/// How closely a program picks sockets. It never turns one down that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// It accepts exactly the sockets with one of the endpoints at either end; of clauses, those whose ends fit one, and
    /// what only the kind of the socket would tell from them.
    Exact,
    /// It accepts sockets with the port of one of the endpoints at either end, and perhaps a port between two; of clauses
    /// the same, at the end for which they name ports.
    Ports,
}

/// A program that the kernel's audit passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    bytes: Vec<u8>,
    precision: Precision,
    audit_steps: u64,
    comparisons: u32,
    ports: usize,
}

impl Program {
    /// The payload of the attribute: a multiple of 4 bytes, never empty, at most 65,528.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How closely it picks sockets.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How many operations the kernel's audit steps over in each dump, before the first socket is looked at: for each
    /// jump those from the start of the program to where it leads. It grows with the square of what is asked for.
    #[must_use]
    pub fn audit_steps(&self) -> u64 {
        self.audit_steps
    }

    /// About how many operations it takes to turn a socket down: those of a tree for either end, and of clauses as far as
    /// the first condition that has to hold.
    #[must_use]
    pub fn comparisons(&self) -> u32 {
        self.comparisons
    }

    /// How many of the 65,536 ports its trees let through, at least for some addresses, on average of both ends.
    #[must_use]
    pub fn ports(&self) -> usize {
        self.ports
    }
}

/// Compiles a program that accepts exactly the sockets whose remote or local end is one of the endpoints.
///
/// For a dump of `AF_INET` sockets every endpoint has to be IPv4. In a dump of `AF_INET6` sockets, an IPv4
/// endpoint stands for the IPv4-mapped address. Without endpoints, the program rejects every socket. `None` when
/// there are so many that the program is too long for an attribute.
#[must_use]
pub fn compile_exact(endpoints: &[Endpoint]) -> Option<Program> {
    if endpoints.len() > EXACT_ENDPOINTS {
        return None;
    }
    let leaves = exact_leaves(endpoints);
    assemble(Family::Inet6, &[], [&leaves, &leaves], Precision::Exact)
}

/// Compiles a program that accepts every socket with the port of one of the endpoints at either end, whatever its
/// addresses; where that takes more than [`PORT_RANGES`], also those with a port between two that are close together.
///
/// It fits for any number of endpoints.
#[must_use]
pub fn compile_ports(endpoints: &[Endpoint]) -> Option<Program> {
    let leaves = range_leaves(endpoints.iter().map(|endpoint| (endpoint.port(), endpoint.port())).collect());
    assemble(Family::Inet6, &[], [&leaves, &leaves], Precision::Ports)
}

/// Compiles a program for sockets of that family that accepts those whose ends fit one of the clauses, or have one of the
/// endpoints at either end: of `AF_INET` sockets only IPv4 endpoints, as for [`compile_exact`].
///
/// States, and the versions of IP that a socket serves, are not looked at. So an unspecified address stands for every other
/// unless the clause says that it does not. `None` when the program is too long for an attribute, or a clause takes any ends:
/// it would turn nothing down.
#[must_use]
pub fn compile_clauses(family: Family, clauses: &[&SocketClause], endpoints: &[Endpoint]) -> Option<Program> {
    if endpoints.len() > EXACT_ENDPOINTS {
        return None;
    }
    let leaves = exact_leaves(endpoints);
    assemble(family, clauses, [&leaves, &leaves], Precision::Exact)
}

/// Compiles a program as [`compile_clauses`] does, but one that looks only at the local ports of clauses that name such, at
/// the remote ports of others that name such, and at the ports of endpoints.
#[must_use]
pub fn compile_clause_ports(
    family: Family,
    clauses: &[&SocketClause],
    endpoints: &[Endpoint],
) -> Option<Program> {
    let of_endpoints = || endpoints.iter().map(|endpoint| (endpoint.port(), endpoint.port()));
    let (mut remote, mut local, mut rest): (Vec<_>, Vec<_>, Vec<_>) =
        (of_endpoints().collect(), of_endpoints().collect(), Vec::new());
    for clause in clauses {
        let (ports, ranges) = match (clause.local.ports.as_slice(), clause.remote.ports.as_slice()) {
            ([], []) => {
                rest.push(*clause);
                continue;
            }
            ([], ranges) => (&mut remote, ranges),
            (ranges, _) => (&mut local, ranges),
        };
        ports.extend(ranges.iter().map(|range| (range.first(), range.last())));
    }
    assemble(family, &rest, [&range_leaves(remote), &range_leaves(local)], Precision::Ports)
}

/// Clauses one after the other, and then a tree for the remote end, and one for the local end.
fn assemble(
    family: Family,
    clauses: &[&SocketClause],
    [remote, local]: [&[Leaf]; 2],
    precision: Precision,
) -> Option<Program> {
    let mut assembler = Assembler::default();
    let mut comparisons = tree::comparisons(remote) + tree::comparisons(local);
    for clause in clauses {
        comparisons = comparisons.saturating_add(clause::place_clause(&mut assembler, family, clause)?);
    }
    let Assembled { bytes, audit_steps } = tree::finish(assembler, remote, local)?;
    let ports_of = |leaves: &[Leaf]| -> usize {
        leaves.iter().map(|leaf| usize::from(leaf.last_port() - leaf.first_port()) + 1).sum()
    };
    let ports = (ports_of(remote) + ports_of(local)).div_ceil(2);
    Some(Program { bytes, precision, audit_steps, comparisons, ports })
}

/// A leaf for each port, with all addresses that are wanted at it.
fn exact_leaves(endpoints: &[Endpoint]) -> Vec<Leaf> {
    let mut services: Vec<(u16, u128)> =
        endpoints.iter().map(|endpoint| (endpoint.port(), tree::address_bits(endpoint.ip()))).collect();
    services.sort_unstable();
    services.dedup();
    let of_one_port = services.chunk_by(|(port, _), (next, _)| port == next);
    of_one_port
        .filter_map(|services| {
            let (port, _) = services.first()?;
            Some(Leaf::Addresses { port: *port, addresses: services.iter().map(|(_, bits)| *bits).collect() })
        })
        .collect()
}

/// A leaf for each run of adjacent ports; where that is more than [`PORT_RANGES`], the closest runs are joined.
fn range_leaves(mut ranges: Vec<(u16, u16)>) -> Vec<Leaf> {
    ranges.sort_unstable();
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match runs.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => runs.push((first, last)),
        }
    }
    let gaps = runs.iter().zip(runs.iter().skip(1)).map(|((_, end), (start, _))| start - end);
    let mut cuts: Vec<(u16, usize)> = gaps.zip(1..).collect();
    cuts.sort_unstable_by(|a, b| b.cmp(a));
    cuts.truncate(PORT_RANGES - 1);
    let cuts: BTreeSet<usize> = cuts.into_iter().map(|(_, index)| index).collect();

    let mut leaves: Vec<Leaf> = Vec::with_capacity(cuts.len() + 1);
    for (index, (first, last)) in runs.into_iter().enumerate() {
        match leaves.last_mut() {
            Some(Leaf::Ports { last: end, .. }) if !cuts.contains(&index) => *end = last,
            _ => leaves.push(Leaf::Ports { first, last }),
        }
    }
    leaves
}

#[cfg(test)]
mod tests;
