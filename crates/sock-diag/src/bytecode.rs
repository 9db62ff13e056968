//! Compiles endpoints into the program by which the kernel picks sockets (`INET_DIAG_REQ_BYTECODE`). Pure.
//!
//! The kernel runs the program on every socket of the host, so what counts is the cost of turning one down: the
//! program is a decision tree on the port, once for the remote end and once for the local one, and below a port
//! that several endpoints share a decision tree on the address.
//!
//! What the kernel wants of a program (`inet_diag_bc_audit` in `net/ipv4/inet_diag.c`): it is a sequence of
//! operations, each a `struct inet_diag_bc_op` (`include/uapi/linux/inet_diag.h`) and its arguments. An operation
//! that holds goes `yes` bytes on; as the audit finds the operations by adding up `yes`, that has to be its own
//! length. One that does not hold goes `no` bytes on, to a later operation, to the end of the program, where the
//! socket is accepted, or four bytes beyond it, where it is rejected.

mod assembler;
mod tree;

use vms_core::address::Endpoint;

use tree::Leaf;

/// No program for more endpoints than this tells them all apart: each takes at least a condition of 16 bytes and a jump
/// of 4 for either end, of the 65,528 bytes that an attribute holds.
pub const EXACT_ENDPOINTS: usize = 65_528 / (2 * (16 + 4));

/// Programs that tell ports only have at most this many ranges of ports: the cost of their audit grows with the square.
pub const PORT_RANGES: usize = 256;

/// How closely a program picks sockets. It never turns one down that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// It accepts exactly the sockets with one of the endpoints at either end.
    Exact,
    /// It accepts sockets with the port of one of the endpoints at either end, and perhaps a port between two.
    Ports,
}

/// A program that the kernel's audit passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    bytes: Vec<u8>,
    precision: Precision,
    audit_steps: u64,
    leaves: usize,
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

    /// About how many operations it takes to turn a socket down: those of a tree for either end.
    #[must_use]
    pub fn comparisons(&self) -> u32 {
        2 * (1 + self.leaves.checked_ilog2().unwrap_or(0))
    }

    /// How many of the 65,536 ports it lets through, at least for some addresses.
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
    assemble(&exact_leaves(endpoints), Precision::Exact)
}

/// Compiles a program that accepts every socket with the port of one of the endpoints at either end, whatever its
/// addresses; where that takes more than [`PORT_RANGES`], also those with a port between two that are close together.
///
/// It fits for any number of endpoints.
#[must_use]
pub fn compile_ports(endpoints: &[Endpoint]) -> Option<Program> {
    assemble(&port_leaves(endpoints), Precision::Ports)
}

fn assemble(leaves: &[Leaf], precision: Precision) -> Option<Program> {
    let assembled = tree::assemble(leaves)?;
    let ports = leaves.iter().map(|leaf| usize::from(leaf.last_port() - leaf.first_port()) + 1).sum();
    let (bytes, audit_steps) = (assembled.bytes, assembled.audit_steps);
    Some(Program { bytes, precision, audit_steps, leaves: leaves.len(), ports })
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
fn port_leaves(endpoints: &[Endpoint]) -> Vec<Leaf> {
    let mut ports: Vec<u16> = endpoints.iter().map(Endpoint::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let gaps = ports.iter().zip(ports.iter().skip(1)).map(|(port, next)| next - port);
    let mut cuts: Vec<(u16, usize)> = gaps.zip(1..).filter(|(gap, _)| *gap > 1).collect();
    cuts.sort_unstable_by(|a, b| b.cmp(a));
    cuts.truncate(PORT_RANGES - 1);
    cuts.sort_unstable_by_key(|(_, index)| *index);

    let mut leaves = Vec::with_capacity(cuts.len() + 1);
    let mut rest = ports.as_slice();
    let mut taken = 0;
    for index in cuts.iter().map(|(_, index)| *index).chain([ports.len()]) {
        let (run, others) = rest.split_at_checked(index - taken).unwrap_or((rest, &[]));
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            leaves.push(Leaf::Ports { first: *first, last: *last });
        }
        rest = others;
        taken = index;
    }
    leaves
}

#[cfg(test)]
mod tests;
