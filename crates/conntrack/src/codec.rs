//! The bytes of netlink and `ctnetlink`: requests out, replies in. Pure.
//!
//! Layouts: `include/uapi/linux/netlink.h`, `include/uapi/linux/netfilter/nfnetlink.h` and
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`. Integers of netlink have the host's byte order, those of
//! conntrack the network's, but for the flags of a filter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vms_core::address::Endpoint;
use vms_core::translation::Translation;

use cursor::Cursor;

mod cursor;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`: the request.
const GET: u16 = 0x0101;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: each entry in the reply.
const NEW: u16 = 0x0100;
/// `NLMSG_NOOP`.
const NOOP: u16 = 1;
/// `NLMSG_ERROR`: the verdict on a request.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 3;
/// `NLMSG_OVERRUN`: data was lost.
const OVERRUN: u16 = 4;

/// `NLM_F_REQUEST`.
const FLAG_REQUEST: u16 = 0x01;
/// `NLM_F_DUMP_INTR`: what was dumped changed in between.
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_DUMP`, that is `NLM_F_ROOT | NLM_F_MATCH`.
const FLAG_DUMP: u16 = 0x300;

/// `IPPROTO_TCP`.
const PROTOCOL_TCP: u8 = 6;
/// `NLA_F_NESTED`: attributes inside an attribute.
const NESTED: u16 = 0x8000;

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

/// `sizeof(struct nlmsghdr)`.
const HEADER_BYTES: usize = 16;
/// `sizeof(struct nlattr)`.
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// `nlmsghdr` alone: all of a message that says nothing.
const NOOP_BYTES: u32 = 16;
/// `MAX_ERRNO` (`include/linux/err.h`).
const MAX_ERRNO: u32 = 4095;

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
    /// Replaces what is in `out` with the bytes of the request: `nlmsghdr`, `nfgenmsg`, attributes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        encode_header(out, 0, GET, FLAG_REQUEST | FLAG_DUMP, self.sequence);
        // struct nfgenmsg: NFNETLINK_V0, and no resource.
        out.extend([self.family.number(), 0, 0, 0]);
        let flags = match self.filter {
            Filter::None => None,
            Filter::Tcp => Some(BY_PROTOCOL),
            Filter::Port(_) => Some(BY_PROTOCOL | BY_DESTINATION_PORT),
            Filter::Service(..) => Some(BY_PROTOCOL | BY_DESTINATION | BY_DESTINATION_PORT),
        };
        if let Some(flags) = flags {
            encode_attribute(out, TUPLE_ORIGINAL | NESTED, |out| encode_tuple(out, self.filter));
            encode_attribute(out, FILTER | NESTED, |out| {
                encode_attribute(out, FILTER_ORIGINAL_FLAGS, |out| out.extend(flags.to_ne_bytes()));
                encode_attribute(out, FILTER_REPLY_FLAGS, |out| out.extend(0_u32.to_ne_bytes()));
            });
        }
        let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
        if let Some(field) = out.first_chunk_mut() {
            *field = length.to_ne_bytes();
        }
    }
}

/// What entries have to have in common with `CTA_TUPLE_ORIG`, as far as the flags of the filter say.
fn encode_tuple(out: &mut Vec<u8>, filter: Filter) {
    if let Filter::Service(ip, _) = filter {
        encode_attribute(out, TUPLE_IP | NESTED, |out| {
            encode_attribute(out, IPV4_DESTINATION, |out| out.extend(ip.octets()));
        });
    }
    encode_attribute(out, TUPLE_PROTOCOL | NESTED, |out| {
        encode_attribute(out, PROTOCOL_NUMBER, |out| out.push(PROTOCOL_TCP));
        if let Filter::Port(port) | Filter::Service(_, port) = filter {
            encode_attribute(out, DESTINATION_PORT, |out| out.extend(port.to_be_bytes()));
        }
    });
}

/// `struct nlattr` and what it holds, padded. What is encoded here is some hundred bytes at most.
fn encode_attribute(out: &mut Vec<u8>, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(0_u16.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    value(out);
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
        *field = length.to_ne_bytes();
    }
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A message that the kernel passes over. To who may not ask it says that.
pub(crate) fn encode_noop() -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    encode_header(&mut out, NOOP_BYTES, NOOP, 0, 0);
    out
}

/// `struct nlmsghdr`. A port id of 0 stands for the socket that sends.
fn encode_header(out: &mut Vec<u8>, message_bytes: u32, kind: u16, flags: u16, sequence: u32) {
    out.extend(message_bytes.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0_u32.to_ne_bytes());
}

/// A reply that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: expected {expected}, found {found}")]
pub struct Malformed {
    /// Where in the datagram.
    pub offset: usize,
    /// What has to be there.
    pub expected: &'static str,
    /// The number that is there instead, or of the bytes that are left.
    pub found: u64,
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

/// Splits a datagram into its messages. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    cursor: Cursor<'a>,
}

/// One netlink message: `struct nlmsghdr` and what follows it.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    port_id: u32,
    payload: Cursor<'a>,
}

/// What a message of a dump says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// One connection of TCP.
    Entry(Entry),
    /// One of another protocol.
    Other,
    /// The end: every entry has been told.
    Done,
    /// The end: the kernel gave up. It says so in `NLMSG_DONE`, or in `NLMSG_ERROR`.
    Failed {
        /// The errno, positive, at most 4095.
        errno: i32,
        /// Whether the request was refused (`NLMSG_ERROR`), or the dump broke off after it had begun.
        refused: bool,
    },
    /// Messages were lost.
    Lost,
    /// Nothing: padding, or the acknowledgment of a request.
    Nothing,
}

impl<'a> Messages<'a> {
    /// The messages of one datagram.
    #[must_use]
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { cursor: Cursor::new(datagram) }
    }

    /// Takes one message off the datagram.
    fn decode_message(&mut self) -> Result<Message<'a>, Malformed> {
        let offset = self.cursor.offset();
        let available = self.cursor.bytes_left();
        let length = u32::from_ne_bytes(self.cursor.take("a netlink header (16 bytes)")?);
        let payload_bytes = usize::try_from(length)
            .ok()
            .filter(|length| *length <= available)
            .and_then(|length| length.checked_sub(HEADER_BYTES))
            .ok_or(Malformed {
                offset,
                expected: "a message length from 16 to what is left of the datagram",
                found: length.into(),
            })?;
        let kind = u16::from_ne_bytes(self.cursor.take("a message type")?);
        let flags = u16::from_ne_bytes(self.cursor.take("message flags")?);
        let sequence = u32::from_ne_bytes(self.cursor.take("a sequence number")?);
        let port_id = u32::from_ne_bytes(self.cursor.take("a port id")?);
        // NLMSG_ALIGN: the next header starts at a multiple of 4; the last message may go unpadded.
        let payload = self.cursor.split_padded(payload_bytes);
        Ok(Message { kind, flags, sequence, port_id, payload })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_empty() {
            return None;
        }
        let message = self.decode_message();
        if message.is_err() {
            self.cursor = Cursor::new(&[]);
        }
        Some(message)
    }
}

impl Message<'_> {
    /// Whether the message answers that request of that socket. A stale reply to an earlier request does not.
    #[must_use]
    pub fn answers(&self, sequence: u32, port_id: u32) -> bool {
        self.sequence == sequence && self.port_id == port_id
    }

    /// Whether the kernel noticed that what it dumps changed meanwhile: entries may be missing or come twice.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.flags & FLAG_DUMP_INTERRUPTED != 0
    }

    /// What the message says.
    ///
    /// # Errors
    /// When the payload is shorter than its type needs, or lacks what every connection of TCP has.
    pub fn decode(&self) -> Result<Reply, Malformed> {
        let mut payload = self.payload.clone();
        match self.kind {
            NEW => Ok(decode_entry(&mut payload)?.map_or(Reply::Other, Reply::Entry)),
            DONE => Ok(match decode_errno(&mut payload)? {
                0 => Reply::Done,
                errno => Reply::Failed { errno, refused: false },
            }),
            ERROR => Ok(match decode_errno(&mut payload)? {
                0 => Reply::Nothing,
                errno => Reply::Failed { errno, refused: true },
            }),
            OVERRUN => Ok(Reply::Lost),
            NOOP => Ok(Reply::Nothing),
            kind => Err(Malformed {
                offset: payload.offset().saturating_sub(HEADER_BYTES - 4),
                expected: "a message type of ctnetlink",
                found: kind.into(),
            }),
        }
    }
}

/// The negative errno, or 0, that both `NLMSG_ERROR` and `NLMSG_DONE` begin with. Returned positive.
fn decode_errno(payload: &mut Cursor<'_>) -> Result<i32, Malformed> {
    let offset = payload.offset();
    let errno = i32::from_ne_bytes(payload.take("an errno (4 bytes)")?);
    if errno <= 0 && errno.unsigned_abs() <= MAX_ERRNO {
        Ok(-errno)
    } else {
        let found = u64::from(u32::from_ne_bytes(errno.to_ne_bytes()));
        Err(Malformed { offset, expected: "an errno from -4095 to 0", found })
    }
}

/// `struct nfgenmsg` and the attributes behind it; `None` where the protocol is not TCP.
fn decode_entry(payload: &mut Cursor<'_>) -> Result<Option<Entry>, Malformed> {
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
