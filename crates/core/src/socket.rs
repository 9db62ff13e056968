//! Sockets as operators count them: of either transport and in any state, listening ones among them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::address::Endpoint;
use crate::connection::{Connection, ConnectionFilter, TcpStates};

/// The protocol of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// The Transmission Control Protocol (RFC 9293).
    Tcp,
    /// The User Datagram Protocol (RFC 768). Its sockets are ESTABLISHED once they have a peer, and CLOSE before.
    Udp,
}

impl Transport {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// The versions of IP that a socket serves. What counts are the packets, not the kind of the socket: an `AF_INET6` socket with
/// IPv4-mapped addresses serves IPv4, and one that listens on `::` both, unless it is for IPv6 alone (`IPV6_V6ONLY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Families {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

impl Families {
    /// IPv4 alone.
    pub const IPV4: Self = Self { ipv4: true, ipv6: false };
    /// IPv6 alone.
    pub const IPV6: Self = Self { ipv4: false, ipv6: true };
    /// Both.
    pub const BOTH: Self = Self { ipv4: true, ipv6: true };

    /// Whether a version is served by both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        (self.ipv4 && other.ipv4) || (self.ipv6 && other.ipv6)
    }

    /// Whether the version of that address is served.
    #[must_use]
    pub fn serves(self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }
}

/// One socket of a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Its protocol.
    pub transport: Transport,
    /// The versions of IP that it serves.
    pub families: Families,
    /// Its endpoints, its state, and what tells it from others. A socket without a peer has the unspecified address and
    /// port 0 for one.
    pub connection: Connection,
}

/// A range of addresses: those that have the first bits of one (RFC 4632), or just that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Why a text is no range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither an IPv4 nor an IPv6 address.
    #[error("not an IPv4 or IPv6 address")]
    NotAnAddress,
    /// More bits than an address has, or no number.
    #[error("the prefix length is a number up to 32 for IPv4, up to 128 for IPv6")]
    Length,
    /// `10.0.0.1/8`: most likely a slip.
    #[error("the address has bits set beyond the prefix length")]
    HostBits,
}

impl Network {
    /// That address alone.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, bits: width(address) }
    }

    /// The range of that length in which the address is.
    fn around(ip: IpAddr, bits: u8) -> Self {
        let address = match ip {
            IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & mask_v4(bits)).into()),
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & mask_v6(bits)).into()),
        };
        Self { address, bits }
    }

    /// The first address; all that are in the range have its first bits.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits those are: at most 32, for IPv6 128.
    #[must_use]
    pub fn prefix_bits(&self) -> u8 {
        self.bits
    }

    /// Whether the address is in the range.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => (own.to_bits() ^ ip.to_bits()) & mask_v4(self.bits) == 0,
            (IpAddr::V6(own), IpAddr::V6(ip)) => (own.to_bits() ^ ip.to_bits()) & mask_v6(self.bits) == 0,
            _ => false,
        }
    }
}

fn width(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn mask_v4(bits: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0)
}

fn mask_v6(bits: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0)
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_not_an_address| NetworkError::NotAnAddress)?;
        let Some(bits) = bits else { return Ok(Self::host(address)) };
        let bits: u8 = bits.parse().map_err(|_no_number| NetworkError::Length)?;
        if bits > width(address) {
            return Err(NetworkError::Length);
        }
        // `::ffff:10.0.0.0/104` is 10.0.0.0/8.
        let (address, bits) = match (address, address.to_canonical(), bits.checked_sub(96)) {
            (IpAddr::V6(_), mapped @ IpAddr::V4(_), Some(bits)) => (mapped, bits),
            _ => (address, bits),
        };
        let rest = match address {
            IpAddr::V4(ip) => u128::from(ip.to_bits() & !mask_v4(bits)),
            IpAddr::V6(ip) => ip.to_bits() & !mask_v6(bits),
        };
        if rest == 0 { Ok(Self { address, bits }) } else { Err(NetworkError::HostBits) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == width(self.address) {
            return self.address.fmt(formatter);
        }
        write!(formatter, "{}/{}", self.address, self.bits)
    }
}

/// Ports from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// Not a number from 1 to 65535.
    #[error("a port is a number from 1 to 65535")]
    NotAPort,
    /// `90-80`.
    #[error("the first port of a range is not above the last")]
    Backwards,
}

impl PortRange {
    /// That port alone.
    #[must_use]
    pub const fn port(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The first port.
    #[must_use]
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub const fn last(&self) -> u16 {
        self.last
    }

    /// Whether the port is in the range.
    #[must_use]
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|port| is_number && *port > 0).ok_or(PortRangeError::NotAPort)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first.trim())?, port(last.trim())?);
        if first > last { Err(PortRangeError::Backwards) } else { Ok(Self { first, last }) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(formatter);
        }
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

/// What one end of a socket has to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndClause {
    /// Its address is in one of these; any is where there is none.
    pub networks: Vec<Network>,
    /// Its port is in one of these; any is where there is none.
    pub ports: Vec<PortRange>,
    /// An unspecified address (`0.0.0.0`, `::`) does not stand for every address of the families that the socket serves.
    pub exact: bool,
}

impl EndClause {
    /// The ports that are wanted, if these are few.
    fn few_ports(&self) -> Option<BTreeSet<u16>> {
        let spans = self.ports.iter().map(|range| usize::from(range.last - range.first) + 1);
        let is_few = (1..=FEW_PORTS).contains(&spans.sum());
        is_few.then(|| self.ports.iter().flat_map(|range| range.first..=range.last).collect())
    }

    fn matches(&self, end: Endpoint, families: Families) -> bool {
        let stands_for = |network: &Network| {
            !self.exact && end.ip().is_unspecified() && families.serves(network.address())
        };
        let is_port = self.ports.is_empty() || self.ports.iter().any(|range| range.contains(end.port()));
        let is_address = self.networks.is_empty()
            || self.networks.iter().any(|network| network.contains(end.ip()) || stands_for(network));
        is_port && is_address
    }
}

/// Which sockets are wanted: those to which all of it applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketClause {
    /// The protocol.
    pub transport: Transport,
    /// The versions of IP, of which the socket serves at least one.
    pub families: Families,
    /// The states. Of UDP there are two: ESTABLISHED with a peer, and CLOSE without.
    pub states: TcpStates,
    /// The end on this host.
    pub local: EndClause,
    /// The other end.
    pub remote: EndClause,
}

impl SocketClause {
    /// Whether the socket is wanted: the truth that an in-kernel filter may only approximate from above.
    #[must_use]
    pub fn matches(&self, socket: &Socket) -> bool {
        let Socket { transport, families, connection } = socket;
        self.transport == *transport
            && self.states.contains(connection.state)
            && self.families.overlaps(*families)
            && self.local.matches(connection.local, *families)
            && self.remote.matches(connection.remote, *families)
    }
}

/// The versions of IP that a socket serves whose local end is that, as its `AF_INET6` socket tells it: `local` is not canonical.
#[must_use]
pub fn families_of_inet6(local: Ipv6Addr, v6_only: bool) -> Families {
    match local.to_ipv4_mapped() {
        Some(_) => Families::IPV4,
        None if local.is_unspecified() && !v6_only => Families::BOTH,
        None => Families::IPV6,
    }
}

/// What a look at sockets is to bring.
#[derive(Debug, Clone, Copy)]
pub struct SocketFilter<'a> {
    /// The connections of links.
    pub connections: Option<&'a ConnectionFilter>,
    /// Sockets that any of these wants.
    pub clauses: &'a SocketClauses,
}

/// What a look at sockets brought, each as it was asked for.
#[derive(Debug, Clone)]
pub struct SocketSurvey<E> {
    /// Those that are wanted as connections of links, sorted by cookie.
    pub connections: Vec<Connection>,
    /// Those that a clause wants.
    pub sockets: Vec<Socket>,
    /// The transports of which sockets could not be told, and why: then none of them is told, also as a connection of a link.
    pub untold: BTreeMap<Transport, E>,
}

impl<E> Default for SocketSurvey<E> {
    fn default() -> Self {
        Self { connections: Vec::new(), sockets: Vec::new(), untold: BTreeMap::new() }
    }
}

/// Clauses, and where to look for those that may want a socket: there may be a thousand of them, and a hundred thousand
/// sockets. Each is in one place, by what is most likely to tell it from others.
#[derive(Debug, Clone, Default)]
pub struct SocketClauses {
    clauses: Vec<SocketClause>,
    /// Places of those that want few local ports.
    by_local_port: HashMap<u16, Vec<usize>>,
    /// Of the others, of those that want few remote ports.
    by_remote_port: HashMap<u16, Vec<usize>>,
    /// Of the others, of those that want some remote addresses.
    by_remote_address: ByAddress,
    /// Of the others, of those that want some local addresses.
    by_local_address: ByAddress,
    /// Of all others.
    rest: Vec<usize>,
}

/// How many ports are few.
const FEW_PORTS: usize = 64;

/// Places of clauses by the ranges of addresses that they want at one end.
#[derive(Debug, Clone, Default)]
struct ByAddress {
    places: HashMap<Network, Vec<usize>>,
    /// The lengths of prefixes that there are, of either version of IP.
    lengths: BTreeSet<(bool, u8)>,
    /// All places: an unspecified address may stand for any.
    all: Vec<usize>,
}

impl ByAddress {
    fn insert(&mut self, networks: &[Network], place: usize) {
        // None in another, so that an address is in one of a clause's at most.
        let is_apart = |network: &&Network| {
            let is_wider = |other: &Network| other.bits < network.bits && other.contains(network.address);
            !networks.iter().any(is_wider)
        };
        let apart: BTreeSet<Network> = networks.iter().filter(is_apart).copied().collect();
        for network in apart {
            self.lengths.insert((network.address.is_ipv4(), network.bits));
            self.places.entry(network).or_default().push(place);
        }
        self.all.push(place);
    }

    /// The places of those that may want the address; of all for one that may stand for any.
    fn find(&self, ip: IpAddr) -> impl Iterator<Item = usize> + '_ {
        let ip = ip.to_canonical();
        let is_any = ip.is_unspecified();
        let of_version = self.lengths.iter().filter(move |(is_ipv4, _)| !is_any && *is_ipv4 == ip.is_ipv4());
        let found = of_version.filter_map(move |(_, bits)| self.places.get(&Network::around(ip, *bits)));
        found.chain(is_any.then_some(&self.all)).flatten().copied()
    }
}

impl SocketClauses {
    /// Brings clauses into an order in which they are found quickly.
    #[must_use]
    pub fn new(clauses: Vec<SocketClause>) -> Self {
        let mut sorted = Self::default();
        for (place, SocketClause { local, remote, .. }) in clauses.iter().enumerate() {
            match (local.few_ports(), remote.few_ports()) {
                (Some(ports), _) => insert_ports(&mut sorted.by_local_port, ports, place),
                (None, Some(ports)) => insert_ports(&mut sorted.by_remote_port, ports, place),
                (None, None) if !remote.networks.is_empty() => {
                    sorted.by_remote_address.insert(&remote.networks, place);
                }
                (None, None) if !local.networks.is_empty() => {
                    sorted.by_local_address.insert(&local.networks, place);
                }
                (None, None) => sorted.rest.push(place),
            }
        }
        Self { clauses, ..sorted }
    }

    /// All of them, in the order given.
    #[must_use]
    pub fn all(&self) -> &[SocketClause] {
        &self.clauses
    }

    /// The places of those that want the socket, in no order.
    pub fn wanting<'a>(&'a self, socket: &'a Socket) -> impl Iterator<Item = usize> + 'a {
        let Connection { local, remote, .. } = &socket.connection;
        let by_local_port = self.by_local_port.get(&local.port()).into_iter();
        let by_remote_port = self.by_remote_port.get(&remote.port()).into_iter();
        let places = [&self.rest].into_iter().chain(by_local_port).chain(by_remote_port).flatten().copied();
        let by_address =
            self.by_remote_address.find(remote.ip()).chain(self.by_local_address.find(local.ip()));
        let wants = |place: &usize| self.clauses.get(*place).is_some_and(|clause| clause.matches(socket));
        places.chain(by_address).filter(wants)
    }

    /// Whether any of them wants the socket.
    #[must_use]
    pub fn want(&self, socket: &Socket) -> bool {
        self.wanting(socket).next().is_some()
    }
}

fn insert_ports(places: &mut HashMap<u16, Vec<usize>>, ports: BTreeSet<u16>, place: usize) {
    for port in ports {
        places.entry(port).or_default().push(place);
    }
}

#[cfg(test)]
mod tests;
