//! Probes: what is configured to be measured.

use std::sync::Arc;
use std::time::Duration;

use crate::address::{Endpoint, ServiceIp, Zone};
use crate::connection::{Connection, Direction};
use crate::discovery::{Discovery, DiscoveryProbe};
use crate::name::NameQuery;
use crate::observer::Observer;
use crate::presence::{Presence, PresenceProbe};
use crate::process::ProcessPattern;
use crate::watch::{Watch, WatchProbe};

/// A configured measurement, of whatever kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `connection_mon`: does a process hold a connection to a service?
    Link(Arc<ConnectionProbe>),
    /// `connection`: how many sockets are there of a kind?
    Watch(Arc<WatchProbe>),
    /// `process_mon`: how many processes run under a name?
    Presence(Arc<PresenceProbe>),
    /// `discovery`: where do processes listen, and whom are they connected with?
    Discovery(Arc<DiscoveryProbe>),
}

impl Probe {
    /// What identifies it; unique among probes.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Link(probe) => &probe.name,
            Self::Watch(probe) => &probe.name,
            Self::Presence(probe) => &probe.name,
            Self::Discovery(probe) => &probe.name,
        }
    }

    /// How often to look.
    #[must_use]
    pub fn interval(&self) -> Duration {
        match self {
            Self::Link(probe) => probe.interval,
            Self::Watch(probe) => probe.interval,
            Self::Presence(probe) => probe.interval,
            Self::Discovery(probe) => probe.interval,
        }
    }

    /// Whether the other asks the same, however often.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let interval = Duration::ZERO;
        match (self, other) {
            (Self::Link(one), Self::Link(other)) => {
                ConnectionProbe { interval, ..one.as_ref().clone() }
                    == ConnectionProbe { interval, ..other.as_ref().clone() }
            }
            (Self::Watch(one), Self::Watch(other)) => {
                WatchProbe { interval, ..one.as_ref().clone() }
                    == WatchProbe { interval, ..other.as_ref().clone() }
            }
            (Self::Presence(one), Self::Presence(other)) => {
                PresenceProbe { interval, ..one.as_ref().clone() }
                    == PresenceProbe { interval, ..other.as_ref().clone() }
            }
            (Self::Discovery(one), Self::Discovery(other)) => {
                DiscoveryProbe { interval, ..one.as_ref().clone() }
                    == DiscoveryProbe { interval, ..other.as_ref().clone() }
            }
            _ => false,
        }
    }

    /// What processes have to fit that matter for it.
    #[must_use]
    pub fn patterns(&self) -> Vec<&ProcessPattern> {
        match self {
            Self::Link(probe) => Direction::ALL.map(|direction| probe.process(direction)).into(),
            Self::Watch(probe) => probe.process.iter().collect(),
            Self::Presence(probe) => vec![&probe.process],
            Self::Discovery(probe) => probe.processes.iter().collect(),
        }
    }

    /// The host names that it takes to be resolved.
    #[must_use]
    pub fn names(&self) -> Vec<NameQuery> {
        match self {
            Self::Watch(probe) => probe.names().map(|(_, query)| query).collect(),
            Self::Link(_) | Self::Presence(_) | Self::Discovery(_) => Vec::new(),
        }
    }

    /// The link that it asks about, where it is of that kind.
    #[must_use]
    pub fn link(&self) -> Option<&Arc<ConnectionProbe>> {
        match self {
            Self::Link(probe) => Some(probe),
            Self::Watch(_) | Self::Presence(_) | Self::Discovery(_) => None,
        }
    }

    /// Who answers it, where one look does: nothing is known to it yet.
    #[must_use]
    pub fn observer(&self) -> Option<Box<dyn Observer>> {
        match self {
            Self::Link(_) => None,
            Self::Watch(probe) => Some(Box::new(Watch::new(Arc::clone(probe)))),
            Self::Presence(probe) => Some(Box::new(Presence::new(Arc::clone(probe)))),
            Self::Discovery(probe) => Some(Box::new(Discovery::new(Arc::clone(probe)))),
        }
    }
}

impl From<ConnectionProbe> for Probe {
    fn from(probe: ConnectionProbe) -> Self {
        Self::Link(Arc::new(probe))
    }
}

impl From<Arc<ConnectionProbe>> for Probe {
    fn from(probe: Arc<ConnectionProbe>) -> Self {
        Self::Link(probe)
    }
}

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
