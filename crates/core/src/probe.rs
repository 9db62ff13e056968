//! Probes: what is configured to be measured.

use std::sync::Arc;
use std::time::Duration;

use crate::address::{Endpoint, ServiceIp, Zone};
use crate::connection::{Connection, Direction};
use crate::process::ProcessPattern;

/// Whether series are told apart by the source that matched, where none is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MatchedSourceLabels {
    /// One series a direction.
    #[default]
    None,
    /// A series for each source address.
    Ip,
    /// A series for each source address and port: one for each connection.
    IpPort,
}

/// Asks whether a process holds an ESTABLISHED TCP connection to a service: the probe `connection_mon`.
///
/// The same probe serves both ends of the link; see [`Direction`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionProbe {
    /// Identifies the link; unique among probes.
    pub name: Arc<str>,
    /// The process at the source end.
    pub source_process: ProcessPattern,
    /// The process at the destination end: the source's, unless configured.
    pub dest_process: ProcessPattern,
    /// The address of the well-known end.
    pub dest_ip: ServiceIp,
    /// The port of the well-known end; never 0.
    pub dest_port: u16,
    /// Where set, the other end has to have this address.
    pub source_ip: Option<ServiceIp>,
    /// Where set, the other end has to have this port; never 0.
    pub source_port: Option<u16>,
    /// How often to look.
    pub interval: Duration,
    /// How to tell series apart.
    pub matched_source_labels: MatchedSourceLabels,
}

impl ConnectionProbe {
    /// The endpoint of the well-known end.
    #[must_use]
    pub fn service(&self) -> Endpoint {
        Endpoint::new(self.dest_ip.ip(), self.dest_port)
    }

    /// What the process on this host has to fit when the link is seen in that direction.
    #[must_use]
    pub fn process(&self, direction: Direction) -> &ProcessPattern {
        match direction {
            Direction::Forward => &self.source_process,
            Direction::Reverse => &self.dest_process,
        }
    }

    /// Whether an address is of one interface alone.
    #[must_use]
    pub fn has_zone(&self) -> bool {
        self.dest_ip.zone().is_some() || self.source_ip.as_ref().is_some_and(|ip| ip.zone().is_some())
    }

    /// Whether the connection's addresses fit in that direction. Its state and its holder are not considered.
    ///
    /// `interface_index` answers for the interface names of configured zones; an interface that does not exist
    /// fits no connection.
    #[must_use]
    pub fn match_addresses(
        &self,
        connection: &Connection,
        direction: Direction,
        interface_index: impl Fn(&str) -> Option<u32>,
    ) -> bool {
        connection.service_end(direction) == self.service()
            && self.match_but_service(connection, direction, interface_index)
    }

    /// As [`ConnectionProbe::match_addresses`], of a connection to this service whose end there has another address.
    #[must_use]
    pub fn match_but_service(
        &self,
        connection: &Connection,
        direction: Direction,
        interface_index: impl Fn(&str) -> Option<u32>,
    ) -> bool {
        let zone_fits = |ip: &ServiceIp| match ip.zone() {
            None => true,
            Some(Zone::Index(index)) => connection.interface == *index,
            Some(Zone::Name(name)) => interface_index(name) == Some(connection.interface),
        };
        let source = connection.source_end(direction);
        zone_fits(&self.dest_ip)
            && self.source_port.is_none_or(|port| source.port() == port)
            && self.source_ip.as_ref().is_none_or(|ip| source.ip() == ip.ip() && zone_fits(ip))
    }
}

#[cfg(test)]
mod tests;
