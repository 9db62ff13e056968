//! Chooses how a dump is narrowed: by an exact program, by one that tells ports only, or not at all. Pure.
//!
//! Each costs the kernel something else, and which costs least depends on how many endpoints there are, how many
//! sockets the host has, and how many of them are let through:
//!
//! | | before the first socket | for each socket turned down | for each let through in vain |
//! |---|---|---|---|
//! | exact program | an audit, by the square of the endpoints | a comparison for each level of a tree | there is none |
//! | ports only | an audit, by the square of the port ranges | fewer comparisons | telling it, decoding it |
//! | no program | nothing | there is none | telling it, decoding it |
//!
//! How many sockets of the host are in this network namespace, and of the family that a dump is about, no file tells
//! reliably, and it may be few: on a node of containers most are in theirs. So where a program is dear, the first dump
//! goes without one, and counts; after that, no dump costs more than it would without a program.
//!
//! What the walk itself costs is the same for all three, and no part of the decision: 0.15 ms and 125 ns a socket, as
//! a dump takes whose program turns everything down at its first operation.

use vms_core::address::Endpoint;
use vms_core::connection::Connection;

use crate::bytecode::{Precision, Program, compile_exact, compile_ports};
use crate::codec::Family;

// Nanoseconds of CPU time, measured on Linux 6.18 (x86-64, 2 virtual CPUs, 100,000 loopback sockets, medians of 11
// dumps that took turns). Elsewhere all of them are larger or smaller together, and only their ratios count here.

/// One step of the audit: a program of 500 endpoints at different ports takes 2,270,000 and 3.15 ms.
const AUDIT_STEP_NANOSECONDS: f64 = 1.4;

/// One operation of a program on a socket that it turns down: 16 for 100 endpoints at ports of their own, 100 ns.
const COMPARISON_NANOSECONDS: f64 = 6.5;

/// One socket that is let through: 640 ns in the kernel, 70 here.
const LET_THROUGH_NANOSECONDS: f64 = 710.0;

/// The share of the sockets that a program is expected to let through beside what its ports' share of all ports
/// makes likely, before that was seen: a host has the more sockets at a port the more services ask about it.
const EXPECTED_SHARE: f64 = 0.125;

/// All ports.
const PORTS: f64 = 65_536.0;

/// An exact program whose audit takes fewer steps is not compared with one that tells ports only: 0.07 ms are not worth
/// the memory.
const CHEAP_AUDIT_STEPS: u64 = 50_000;

/// No program with a longer audit, of 0.7 ms, is used on a guess of how many sockets it would save.
const DEAR_AUDIT_STEPS: u64 = 500_000;

/// What was seen on a host is forgotten when it has more than so many times the sockets, or less than the same part.
const SIMILAR_HOST: u32 = 2;

/// The programs for one set of endpoints, and what came of that for ports. The same probes ask for the same endpoints
/// each cycle.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    endpoints: Vec<Endpoint>,
    ports: PortSet,
    inet: FamilyPlan,
    inet6: FamilyPlan,
}

impl Plan {
    pub(crate) fn new(endpoints: &[Endpoint]) -> Self {
        // An AF_INET socket has IPv4 addresses only; an AF_INET6 socket may have mapped ones.
        let ipv4: Vec<Endpoint> =
            endpoints.iter().copied().filter(|endpoint| endpoint.ip().is_ipv4()).collect();
        Self {
            endpoints: endpoints.to_vec(),
            ports: PortSet::new(endpoints),
            inet: FamilyPlan::new(&ipv4, 2),
            inet6: FamilyPlan::new(endpoints, if ipv4.is_empty() { 1 } else { 2 }),
        }
    }

    /// The endpoints that it is for.
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Whether one of the endpoints has a port of the connection. Told quickly; where none has, none is its end.
    pub(crate) fn has_port_of(&self, connection: &Connection) -> bool {
        self.ports.contains(connection.remote.port()) || self.ports.contains(connection.local.port())
    }

    /// The part of one of the dumps.
    pub(crate) fn family(&self, family: Family) -> &FamilyPlan {
        match family {
            Family::Inet => &self.inet,
            Family::Inet6 => &self.inet6,
        }
    }

    /// The part of one of the dumps.
    pub(crate) fn family_mut(&mut self, family: Family) -> &mut FamilyPlan {
        match family {
            Family::Inet => &mut self.inet,
            Family::Inet6 => &mut self.inet6,
        }
    }
}

/// The programs for the sockets of one family.
#[derive(Debug, Default)]
pub(crate) struct FamilyPlan {
    exact: Option<Program>,
    ports: Option<Program>,
    /// Among how many dumps the sockets of the host are divided.
    dumps: u32,
    /// What the last dump with the program for ports told.
    by_ports: Option<Experience>,
}

/// How many sockets a dump told, on a host that had so many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Experience {
    pub(crate) told: u32,
    pub(crate) host_sockets: u32,
}

impl Experience {
    /// How many sockets would be told now; `None` when the host has changed too much to say.
    fn expect(self, host_sockets: u32) -> Option<f64> {
        let (then, now) = (self.host_sockets.max(1), host_sockets.max(1));
        let similar = now.div_ceil(SIMILAR_HOST) <= then && then.div_ceil(SIMILAR_HOST) <= now;
        similar.then(|| f64::from(self.told) * f64::from(now) / f64::from(then))
    }
}

impl FamilyPlan {
    fn new(endpoints: &[Endpoint], dumps: u32) -> Self {
        let exact = compile_exact(endpoints);
        let cheap = exact.as_ref().is_some_and(|program| program.audit_steps() < CHEAP_AUDIT_STEPS);
        let ports = if cheap { None } else { compile_ports(endpoints) };
        Self::of(exact, ports, dumps)
    }

    /// With these programs, where the sockets of the host are divided among so many dumps.
    pub(crate) fn of(exact: Option<Program>, ports: Option<Program>, dumps: u32) -> Self {
        Self { exact, ports, dumps, by_ports: None }
    }

    /// Which program costs least on a host with so many sockets; `None` if it is none. `counted` is what the last dump
    /// of the family without a program told.
    ///
    /// Before there was one, the dumps are taken to share the sockets of the host equally: so a program is used only if
    /// it pays even then, and all dumps together cost no more than without one.
    pub(crate) fn choose(&self, host_sockets: u32, counted: Option<Experience>) -> Option<Precision> {
        let counted = counted.and_then(|experience| experience.expect(host_sockets));
        let sockets = counted.unwrap_or_else(|| f64::from(host_sockets) / f64::from(self.dumps.max(1)));
        let without = (None, sockets * LET_THROUGH_NANOSECONDS);
        let programs = [&self.exact, &self.ports].into_iter().flatten().map(|program| {
            let let_through = match program.precision() {
                Precision::Exact => 0.0,
                Precision::Ports => self
                    .by_ports
                    .and_then(|experience| experience.expect(host_sockets))
                    .unwrap_or_else(|| sockets * expected_share(program)),
            };
            (Some(program), cost(program, sockets, let_through))
        });
        let (least, _) = programs.fold(without, |least, next| if next.1 < least.1 { next } else { least });
        least
            .filter(|program| counted.is_some() || program.audit_steps() <= DEAR_AUDIT_STEPS)
            .map(Program::precision)
    }

    /// The bytes of the program; none to ask without one.
    pub(crate) fn program(&self, precision: Option<Precision>) -> &[u8] {
        let program = match precision {
            Some(Precision::Exact) => &self.exact,
            Some(Precision::Ports) => &self.ports,
            None => &None,
        };
        program.as_ref().map_or(&[], Program::bytes)
    }

    /// Goes on without that program, which the kernel does not take.
    pub(crate) fn discard(&mut self, precision: Option<Precision>) {
        match precision {
            Some(Precision::Exact) => self.exact = None,
            Some(Precision::Ports) => self.ports = None,
            None => {}
        }
    }

    /// Remembers what a dump with the program for ports told.
    pub(crate) fn learn(&mut self, by_ports: Experience) {
        self.by_ports = Some(by_ports);
    }
}

/// The ports of some endpoints: a bit for each that there is.
#[derive(Debug, Default)]
pub(crate) struct PortSet(Vec<u64>);

impl PortSet {
    pub(crate) fn new(endpoints: &[Endpoint]) -> Self {
        let mut words = vec![0; 65_536 / 64];
        for endpoint in endpoints {
            if let Some(word) = words.get_mut(usize::from(endpoint.port() / 64)) {
                *word |= 1 << (endpoint.port() % 64);
            }
        }
        Self(words)
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        self.0.get(usize::from(port / 64)).is_some_and(|word| word & (1 << (port % 64)) != 0)
    }
}

/// Nanoseconds of one dump beyond the walk itself.
fn cost(program: &Program, sockets: f64, let_through: f64) -> f64 {
    // Beyond 2^32 steps all is lost anyway; no program that fits an attribute has as many.
    let audit_steps = f64::from(u32::try_from(program.audit_steps()).unwrap_or(u32::MAX));
    audit_steps * AUDIT_STEP_NANOSECONDS
        + sockets * f64::from(program.comparisons()) * COMPARISON_NANOSECONDS
        + let_through * LET_THROUGH_NANOSECONDS
}

/// The share of sockets that a program for ports is expected to let through.
fn expected_share(program: &Program) -> f64 {
    let ports = f64::from(u32::try_from(program.ports()).unwrap_or(u32::MAX));
    (ports / PORTS + EXPECTED_SHARE).min(1.0)
}

#[cfg(test)]
mod tests;
