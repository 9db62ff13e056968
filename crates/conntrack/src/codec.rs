//! The bytes of `ctnetlink`, inside those of netlink: requests out, replies in. Pure.
//!
//! Layouts: `include/uapi/linux/netfilter/nfnetlink.h` and `include/uapi/linux/netfilter/nfnetlink_conntrack.h`. Integers
//! have the network's byte order, but for the flags of a filter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vms_core::address::Endpoint;
use vms_core::translation::Translation;
use vms_netlink::codec::{REQUEST_DUMP, TooLong, encode_attribute, encode_message, encode_nested};
use vms_netlink::{Codec, Cursor, Malformed};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`: the request.
const GET: u16 = 0x0101;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: each entry in the reply.
const NEW: u16 = 0x0100;

/// `IPPROTO_TCP`.
const PROTOCOL_TCP: u8 = 6;

/// `CTA_TUPLE_ORIG`: the endpoints as the client asked.
const TUPLE_ORIGINAL: u16 = 1;
/// `CTA_TUPLE_REPLY`: the endpoints of what comes back, which are those of the server's socket.
const TUPLE_REPLY: u16 = 2;
/// `CTA_FILTER`: which of the attributes of a request the entries of a dump have to share (since Linux 5.8). Earlier
/// kernels pass over it, and tell all entries.
const FILTER: u16 = 25;
/// `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`.
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_DST`, `CTA_FILTER_F_CTA_PROTO_NUM` and `CTA_FILTER_F_CTA_PROTO_DST_PORT`, which no header of the
/// kernel's interface names (`net/netfilter/nf_internals.h`).
const BY_DESTINATION: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// `CTA_IP_V4_SRC`, `CTA_IP_V4_DST`, `CTA_IP_V6_SRC`, `CTA_IP_V6_DST`.
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const IPV6_SOURCE: u16 = 3;
const IPV6_DESTINATION: u16 = 4;
/// `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT`, `CTA_PROTO_DST_PORT`.
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// The family of the entries in a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `AF_UNSPEC`: any. Kernels take no filter with it (`EOPNOTSUPP`).
    Any,
    /// `AF_INET`: also what travels between sockets with IPv4-mapped addresses.
    Inet,
    /// `AF_INET6`.
    Inet6,
}

impl Family {
    /// The kernel's number of the family.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Any => 0,
            Self::Inet => 2,
            Self::Inet6 => 10,
        }
    }

    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::Inet,
            IpAddr::V6(_) => Self::Inet6,
        }
    }
}

/// Which entries of a family the kernel is asked to tell. It may tell others as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// All of them.
    None,
    /// Those of TCP.
    Tcp,
    /// Those of TCP whose client asked for this port, of whichever address. Kernels that filter by addresses of IPv6 let
    /// through all but the one that is asked for (`ctnetlink_filter_match_tuple`, up to Linux 6.18 at least).
    Port(u16),
    /// Those of TCP over IPv4 whose client asked for this address and port.
    Service(Ipv4Addr, u16),
}

impl Filter {
    /// The narrowest that can be relied on to let the connections to that service through.
    #[must_use]
    pub fn of(service: Endpoint) -> Self {
        match service.ip() {
            IpAddr::V4(ip) => Self::Service(ip, service.port()),
            IpAddr::V6(_) => Self::Port(service.port()),
        }
    }

    /// Whether it lets an entry of TCP through.
    #[must_use]
    pub fn admits(self, entry: &Entry) -> bool {
        let asked = entry.original.destination;
        match self {
            Self::None | Self::Tcp => true,
            Self::Port(port) => asked.port() == port,
            Self::Service(ip, port) => asked == Endpoint::new(ip.into(), port),
        }
    }
}

/// A request for the entries of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpRequest {
    /// Comes back in every message of the reply.
    pub sequence: u32,
    /// Which entries the kernel is to tell.
    pub family: Family,
    /// Which of them.
    pub filter: Filter,
}

impl DumpRequest {
    /// Adds the bytes of the request to `out`: `nlmsghdr`, `nfgenmsg`, attributes.
    ///
    /// # Errors
    /// As encoding attributes has it; these are some hundred bytes at most.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let flags = match self.filter {
            Filter::None => None,
            Filter::Tcp => Some(BY_PROTOCOL),
            Filter::Port(_) => Some(BY_PROTOCOL | BY_DESTINATION_PORT),
            Filter::Service(..) => Some(BY_PROTOCOL | BY_DESTINATION | BY_DESTINATION_PORT),
        };
        encode_message(out, GET, REQUEST_DUMP, self.sequence, |out| {
            // struct nfgenmsg: NFNETLINK_V0, and no resource.
            out.extend([self.family.number(), 0, 0, 0]);
            let Some(flags) = flags else { return Ok(()) };
            encode_nested(out, TUPLE_ORIGINAL, |out| encode_tuple(out, self.filter))?;
            encode_nested(out, FILTER, |out| {
                encode_attribute(out, FILTER_ORIGINAL_FLAGS, &flags.to_ne_bytes())?;
                encode_attribute(out, FILTER_REPLY_FLAGS, &0_u32.to_ne_bytes())
            })
        })
    }
}

/// What entries have to have in common with `CTA_TUPLE_ORIG`, as far as the flags of the filter say.
fn encode_tuple(out: &mut Vec<u8>, filter: Filter) -> Result<(), TooLong> {
    if let Filter::Service(ip, _) = filter {
        encode_nested(out, TUPLE_IP, |out| encode_attribute(out, IPV4_DESTINATION, &ip.octets()))?;
    }
    encode_nested(out, TUPLE_PROTOCOL, |out| {
        encode_attribute(out, PROTOCOL_NUMBER, &[PROTOCOL_TCP])?;
        let (Filter::Port(port) | Filter::Service(_, port)) = filter else { return Ok(()) };
        encode_attribute(out, DESTINATION_PORT, &port.to_be_bytes())
    })
}

/// The two endpoints of a connection, as packets in one direction have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Where packets come from.
    pub source: Endpoint,
    /// Where packets go.
    pub destination: Endpoint,
}

/// A TCP connection that the kernel tracks, in whatever state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// As the client sends.
    pub original: Tuple,
    /// As the server answers. Without a translation it is the other turned around.
    pub reply: Tuple,
}

impl Entry {
    /// The translation of the destination; `None` where the server that answers is the one that was asked.
    #[must_use]
    pub fn translation(&self) -> Option<Translation> {
        (self.reply.source != self.original.destination).then_some(Translation {
            backend: self.reply.source,
            peer: self.reply.destination,
            service: self.original.destination,
            source: self.original.source,
        })
    }
}

/// The entries of a dump: `struct nfgenmsg`, and attributes.
#[derive(Debug)]
pub enum Entries {}

impl Codec for Entries {
    /// `None` where the protocol is not TCP.
    type Told = Option<Entry>;
    const KIND: u16 = NEW;
    const EXPECTED: &'static str = "a message type of ctnetlink";

    fn decode(mut payload: Cursor<'_>) -> Result<Self::Told, Malformed> {
        let offset = payload.offset();
        let [_family, _version, _resource @ ..]: [u8; 4] = payload.take("a netfilter header (4 bytes)")?;
        let (mut original, mut reply) = (None, None);
        while !payload.is_empty() {
            let (kind, mut value) = payload.take_attribute()?;
            match kind {
                TUPLE_ORIGINAL => original = Some(decode_tuple(&mut value)?),
                TUPLE_REPLY => reply = Some(decode_tuple(&mut value)?),
                // Its state, its age and the like, and the zone in which the two are unique.
                _ => {}
            }
        }
        let missing = |expected| Malformed { offset, expected, found: 0 };
        let original = original.ok_or(missing("the endpoints as the client asked"))?;
        let reply = reply.ok_or(missing("the endpoints as the server answers"))?;
        Ok(original.zip(reply).map(|(original, reply)| Entry { original, reply }))
    }
}

/// The attributes of `enum ctattr_tuple`; `None` where the protocol is not TCP.
fn decode_tuple(tuple: &mut Cursor<'_>) -> Result<Option<Tuple>, Malformed> {
    let offset = tuple.offset();
    let (mut source_ip, mut destination_ip) = (None, None);
    let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
    while !tuple.is_empty() {
        let (kind, mut value) = tuple.take_attribute()?;
        match kind {
            TUPLE_IP => {
                while !value.is_empty() {
                    let (kind, mut value) = value.take_attribute()?;
                    match kind {
                        IPV4_SOURCE => source_ip = Some(decode_ipv4(&mut value)?),
                        IPV4_DESTINATION => destination_ip = Some(decode_ipv4(&mut value)?),
                        IPV6_SOURCE => source_ip = Some(decode_ipv6(&mut value)?),
                        IPV6_DESTINATION => destination_ip = Some(decode_ipv6(&mut value)?),
                        _ => {}
                    }
                }
            }
            TUPLE_PROTOCOL => {
                while !value.is_empty() {
                    let (kind, mut value) = value.take_attribute()?;
                    match kind {
                        PROTOCOL_NUMBER => {
                            let [number] = value.take("the number of a protocol")?;
                            protocol = Some(number);
                        }
                        SOURCE_PORT => source_port = Some(u16::from_be_bytes(value.take("a port")?)),
                        DESTINATION_PORT => {
                            destination_port = Some(u16::from_be_bytes(value.take("a port")?));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let missing = |expected| Malformed { offset, expected, found: 0 };
    if protocol.ok_or(missing("the number of a protocol"))? != PROTOCOL_TCP {
        return Ok(None);
    }
    let end = |ip: Option<IpAddr>, port: Option<u16>| {
        let ip = ip.ok_or(missing("two addresses"))?;
        Ok(Endpoint::new(ip, port.ok_or(missing("two ports"))?))
    };
    Ok(Some(Tuple {
        source: end(source_ip, source_port)?,
        destination: end(destination_ip, destination_port)?,
    }))
}

fn decode_ipv4(value: &mut Cursor<'_>) -> Result<IpAddr, Malformed> {
    Ok(Ipv4Addr::from(value.take::<4>("an IPv4 address (4 bytes)")?).into())
}

fn decode_ipv6(value: &mut Cursor<'_>) -> Result<IpAddr, Malformed> {
    Ok(Ipv6Addr::from(value.take::<16>("an IPv6 address (16 bytes)")?).into())
}

#[cfg(test)]
mod tests;
