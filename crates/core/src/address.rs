//! Addresses as the agent compares them: never as text, and an IPv4-mapped IPv6 address as the IPv4 address
//! that it carries.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP address and a TCP port.
///
/// The address is always canonical: `::ffff:10.0.0.1` (RFC 4291, section 2.5.5.2), which dual-stack servers
/// and Java clients show on their `AF_INET6` sockets, is held as `10.0.0.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    ip: IpAddr,
    port: u16,
}

impl Endpoint {
    /// Joins an address, made canonical, and a port in host byte order.
    #[must_use]
    pub fn new(ip: IpAddr, port: u16) -> Self {
        Self { ip: ip.to_canonical(), port }
    }

    /// The canonical address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The port, in host byte order; 0 on a socket that is not bound.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.ip, self.port).fmt(formatter)
    }
}

/// The zone of an IPv6 address (RFC 4007): the interface to which a link-local address belongs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Zone {
    /// An interface index, as in `fe80::1%2`.
    Index(u32),
    /// An interface name, as in `fe80::1%eth0`. Its index is asked anew each cycle: interfaces come and go.
    Name(Box<str>),
}

impl fmt::Display for Zone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => index.fmt(formatter),
            Self::Name(name) => name.fmt(formatter),
        }
    }
}

/// A configured address: one host, optionally on one interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceIp {
    ip: IpAddr,
    zone: Option<Zone>,
}

/// Why a text is not an address that a connection could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServiceIpError {
    /// Neither an IPv4 nor an IPv6 address; host names are not resolved.
    #[error("not an IPv4 or IPv6 address")]
    NotAnAddress,
    /// `0.0.0.0` and `::` are places to listen on; no connection ends there.
    #[error("the unspecified address is never the end of a connection")]
    Unspecified,
    /// Multicast and broadcast addresses have no TCP connections.
    #[error("TCP connections have unicast addresses only")]
    NotUnicast,
    /// `%zone` follows an IPv4 address, or is empty.
    #[error("a %zone needs an IPv6 address before it and an interface after it")]
    Zone,
}

/// `IFNAMSIZ - 1` (`include/uapi/linux/if.h`): no interface has a longer name.
const INTERFACE_NAME_BYTES: usize = 15;

impl ServiceIp {
    /// The canonical address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The interface that the address is bound to, where one is configured.
    #[must_use]
    pub fn zone(&self) -> Option<&Zone> {
        self.zone.as_ref()
    }
}

impl FromStr for ServiceIp {
    type Err = ServiceIpError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(parse_zone(zone)?)),
            None => (text, None),
        };
        let ip = address.parse::<IpAddr>().map_err(|_not_an_address| ServiceIpError::NotAnAddress)?;
        if zone.is_some() && ip.to_canonical().is_ipv4() {
            return Err(ServiceIpError::Zone);
        }
        let ip = ip.to_canonical();
        if ip.is_unspecified() {
            return Err(ServiceIpError::Unspecified);
        }
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(ServiceIpError::NotUnicast);
        }
        Ok(Self { ip, zone })
    }
}

impl From<IpAddr> for ServiceIp {
    fn from(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), zone: None }
    }
}

impl From<Ipv4Addr> for ServiceIp {
    fn from(ip: Ipv4Addr) -> Self {
        IpAddr::V4(ip).into()
    }
}

impl From<Ipv6Addr> for ServiceIp {
    fn from(ip: Ipv6Addr) -> Self {
        IpAddr::V6(ip).into()
    }
}

impl fmt::Display for ServiceIp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(formatter, "{}%{zone}", self.ip),
            None => self.ip.fmt(formatter),
        }
    }
}

fn parse_zone(text: &str) -> Result<Zone, ServiceIpError> {
    if let Ok(index) = text.parse::<u32>() {
        return if index == 0 { Err(ServiceIpError::Zone) } else { Ok(Zone::Index(index)) };
    }
    let fits = !text.is_empty()
        && text.len() <= INTERFACE_NAME_BYTES
        && !text.contains(|c: char| c == '/' || c == '%' || c.is_whitespace());
    if fits { Ok(Zone::Name(text.into())) } else { Err(ServiceIpError::Zone) }
}

#[cfg(test)]
mod tests;
