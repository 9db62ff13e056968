//! The bytes of netlink and `inet_diag`: requests out, replies in. Pure.
//!
//! Layouts: `include/uapi/linux/netlink.h` and `include/uapi/linux/inet_diag.h`. Integers have the host's byte
//! order, except ports and addresses, which have the network's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vms_core::address::Endpoint;
use vms_core::connection::{CgroupId, Connection, Cookie, Inode, TcpState, TcpStates};
use vms_core::health::Sighting;
use vms_core::namespace::NamespaceId;

use tcp_info::{Queues, decode_vitals};

mod tcp_info;

/// `SOCK_DIAG_BY_FAMILY` (`include/uapi/linux/sock_diag.h`): the request, and each socket in the reply.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
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
/// `INET_DIAG_REQ_BYTECODE`.
const ATTRIBUTE_BYTECODE: u16 = 1;
/// `INET_DIAG_INFO`: `struct tcp_info`, in the reply to a request that has [`EXTENSION_INFO`] set.
const ATTRIBUTE_INFO: u16 = 2;
/// `INET_DIAG_CGROUP_ID`: a u64, which the kernel sends unasked (since Linux 5.8, with `CONFIG_SOCK_CGROUP_DATA`).
const ATTRIBUTE_CGROUP_ID: u16 = 21;
/// `1 << (INET_DIAG_INFO - 1)`.
const EXTENSION_INFO: u8 = 1 << (ATTRIBUTE_INFO - 1);
/// `NLA_TYPE_MASK`: what of an attribute's type is no flag.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;
/// `sizeof(struct nlmsghdr)`.
const HEADER_BYTES: usize = 16;
/// `sizeof(struct nlattr)`.
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// `sizeof(struct inet_diag_req_v2)`.
const DIAG_REQUEST_BYTES: usize = 56;
/// `sizeof(struct inet_diag_sockid)`.
const SOCKET_ID_BYTES: usize = 48;
/// `nlmsghdr` and `inet_diag_req_v2`: all of a request that has no attribute.
const LOOKUP_BYTES: u32 = 72;
/// `nlmsghdr` alone: all of a message that says nothing.
const NOOP_BYTES: u32 = 16;
/// `MAX_ERRNO` (`include/linux/err.h`).
const MAX_ERRNO: u32 = 4095;

/// The family of the sockets in a dump. An IPv4 connection may be on a socket of either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`.
    Inet,
    /// `AF_INET6`, which includes sockets with IPv4-mapped addresses.
    Inet6,
}

impl Family {
    /// The kernel's number of the family.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 2,
            Self::Inet6 => 10,
        }
    }
}

/// A request for all TCP sockets of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpRequest<'a> {
    /// Comes back in every message of the reply.
    pub sequence: u32,
    /// Which sockets the kernel is to walk.
    pub family: Family,
    /// Only sockets in one of these states.
    pub states: TcpStates,
    /// Only sockets that this program accepts; see [`crate::bytecode`]. Empty: all.
    pub program: &'a [u8],
}

/// The program of a request does not fit a netlink attribute, whose length is a u16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a filter program of {0} bytes is too long for a netlink attribute")]
pub struct ProgramTooLong(pub usize);

impl DumpRequest<'_> {
    /// Replaces what is in `out` with the bytes of the request: `nlmsghdr`, `inet_diag_req_v2`, one attribute.
    ///
    /// # Errors
    /// When the program is longer than an attribute can be; `out` is then empty.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProgramTooLong> {
        out.clear();
        let too_long = |_overflow| ProgramTooLong(self.program.len());
        let attribute_bytes = match self.program.len() {
            0 => 0,
            program_bytes => ATTRIBUTE_HEADER_BYTES + program_bytes,
        };
        let attribute_length = u16::try_from(attribute_bytes).map_err(too_long)?;
        let message_bytes = HEADER_BYTES + DIAG_REQUEST_BYTES + attribute_bytes;
        let message_length = u32::try_from(message_bytes).map_err(too_long)?;

        encode_header(out, message_length, SOCK_DIAG_BY_FAMILY, FLAG_REQUEST | FLAG_DUMP, self.sequence);
        // struct inet_diag_req_v2: no extensions, and a dump looks for no one socket.
        out.extend([self.family.number(), PROTOCOL_TCP, 0, 0]);
        out.extend(self.states.bits().to_ne_bytes());
        out.extend([0; SOCKET_ID_BYTES]);
        if !self.program.is_empty() {
            // struct nlattr. Programs consist of 4-byte words, so no padding follows.
            out.extend(attribute_length.to_ne_bytes());
            out.extend(ATTRIBUTE_BYTECODE.to_ne_bytes());
            out.extend(self.program);
        }
        Ok(())
    }
}

/// A request for one socket that is known, with its `struct tcp_info`.
///
/// The kernel finds it by its endpoints and the interface that it is bound to, and says `ENOENT` when that socket has
/// another cookie. Without the flags of a dump it is not the states that count: a socket in any state comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookupRequest<'a> {
    /// Comes back in the reply, which is one message.
    pub sequence: u32,
    /// The socket as it was told before.
    pub connection: &'a Connection,
}

impl LookupRequest<'_> {
    /// Adds the bytes of the request to `out`: several go to the kernel in one datagram.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Connection { local, remote, interface, cookie: Cookie(cookie), .. } = self.connection;
        // Asked for IPv4 addresses, the kernel looks among the sockets of both families.
        let family = match (local.ip(), remote.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => Family::Inet,
            _ => Family::Inet6,
        };
        encode_header(out, LOOKUP_BYTES, SOCK_DIAG_BY_FAMILY, FLAG_REQUEST, self.sequence);
        // struct inet_diag_req_v2; no kernel looks at the states here.
        out.extend([family.number(), PROTOCOL_TCP, EXTENSION_INFO, 0]);
        out.extend(u32::MAX.to_ne_bytes());
        // struct inet_diag_sockid.
        out.extend(local.port().to_be_bytes());
        out.extend(remote.port().to_be_bytes());
        out.extend(encode_ip(family, local.ip()));
        out.extend(encode_ip(family, remote.ip()));
        out.extend(interface.to_ne_bytes());
        // Two words, the low one first on hosts of either byte order.
        let words = if cfg!(target_endian = "big") { cookie.rotate_left(32) } else { *cookie };
        out.extend(words.to_ne_bytes());
    }
}

/// A message that the kernel passes over and does not answer.
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

/// An address as `inet_diag_sockid` holds it: an IPv4 address fills the first of the four words.
fn encode_ip(family: Family, ip: IpAddr) -> [u8; 16] {
    match (family, ip) {
        (Family::Inet, IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        (_, IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
        (_, IpAddr::V6(ip)) => ip.octets(),
    }
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

/// What a message says: of a dump of [`Connection`]s, or in answer to a lookup that asks for a [`Sighting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<S> {
    /// One socket.
    Socket(S),
    /// The end: every socket has been told.
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
        Self { cursor: Cursor { rest: datagram, offset: 0 } }
    }

    /// Takes one message off the datagram.
    fn decode_message(&mut self) -> Result<Message<'a>, Malformed> {
        let offset = self.cursor.offset;
        let available = self.cursor.rest.len();
        let length = self.cursor.take_u32("a netlink header (16 bytes)")?;
        let payload_bytes = usize::try_from(length)
            .ok()
            .filter(|length| *length <= available)
            .and_then(|length| length.checked_sub(HEADER_BYTES))
            .ok_or(Malformed {
                offset,
                expected: "a message length from 16 to what is left of the datagram",
                found: length.into(),
            })?;
        let kind = self.cursor.take_u16("a message type")?;
        let flags = self.cursor.take_u16("message flags")?;
        let sequence = self.cursor.take_u32("a sequence number")?;
        let port_id = self.cursor.take_u32("a port id")?;
        let payload = self.cursor.split(payload_bytes);
        // NLMSG_ALIGN: the next header starts at a multiple of 4; the last message may go unpadded.
        self.cursor.split(payload_bytes.next_multiple_of(4) - payload_bytes);
        Ok(Message { kind, flags, sequence, port_id, payload })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.rest.is_empty() {
            return None;
        }
        let message = self.decode_message();
        if message.is_err() {
            self.cursor.rest = &[];
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

    /// Which of so many requests of that socket the message answers, that were sent with sequence numbers from `first`
    /// on; `None` when it answers none of them.
    #[must_use]
    pub fn answered(&self, first: u32, requests: usize, port_id: u32) -> Option<usize> {
        let index = usize::try_from(self.sequence.wrapping_sub(first)).ok()?;
        (self.port_id == port_id && index < requests).then_some(index)
    }

    /// Whether the kernel noticed that what it dumps changed meanwhile: sockets may be missing or come twice.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.flags & FLAG_DUMP_INTERRUPTED != 0
    }

    /// What the message of a dump says.
    ///
    /// # Errors
    /// When the payload is shorter than its type needs, holds a number that has no meaning there, or attributes that are
    /// not such.
    pub fn decode(&self) -> Result<Reply<Connection>, Malformed> {
        self.decode_with(decode_connection)
    }

    /// What the answer to a [`LookupRequest`] says.
    ///
    /// # Errors
    /// As [`Message::decode`]; also when a `tcp_info` lacks what every kernel tells.
    pub fn decode_sighting(&self) -> Result<Reply<Sighting>, Malformed> {
        self.decode_with(decode_sighting)
    }

    fn decode_with<S>(
        &self,
        decode_socket: impl FnOnce(&mut Cursor<'_>) -> Result<S, Malformed>,
    ) -> Result<Reply<S>, Malformed> {
        let mut payload = self.payload.clone();
        match self.kind {
            SOCK_DIAG_BY_FAMILY => decode_socket(&mut payload).map(Reply::Socket),
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
                offset: payload.offset.saturating_sub(HEADER_BYTES - 4),
                expected: "a message type of sock_diag",
                found: kind.into(),
            }),
        }
    }
}

/// The negative errno, or 0, that both `NLMSG_ERROR` and `NLMSG_DONE` begin with. Returned positive.
fn decode_errno(payload: &mut Cursor<'_>) -> Result<i32, Malformed> {
    let offset = payload.offset;
    let errno = i32::from_ne_bytes(payload.take("an errno (4 bytes)")?);
    if errno <= 0 && errno.unsigned_abs() <= MAX_ERRNO {
        Ok(-errno)
    } else {
        let found = u64::from(u32::from_ne_bytes(errno.to_ne_bytes()));
        Err(Malformed { offset, expected: "an errno from -4095 to 0", found })
    }
}

/// `struct inet_diag_msg`, and the cgroup among the attributes behind it; no other was asked for.
fn decode_connection(payload: &mut Cursor<'_>) -> Result<Connection, Malformed> {
    let (mut connection, _) = decode_socket(payload)?;
    while !payload.rest.is_empty() {
        let (kind, mut value) = payload.take_attribute()?;
        if kind == ATTRIBUTE_CGROUP_ID {
            connection.cgroup = decode_cgroup(&mut value)?;
        }
    }
    Ok(connection)
}

/// `struct inet_diag_msg`, and the cgroup and the `struct tcp_info` among the attributes behind it.
fn decode_sighting(payload: &mut Cursor<'_>) -> Result<Sighting, Malformed> {
    let (mut connection, queues) = decode_socket(payload)?;
    let mut vitals = None;
    while !payload.rest.is_empty() {
        let (kind, mut value) = payload.take_attribute()?;
        match kind {
            ATTRIBUTE_CGROUP_ID => connection.cgroup = decode_cgroup(&mut value)?,
            ATTRIBUTE_INFO => vitals = Some(decode_vitals(&value, queues)?),
            _ => {}
        }
    }
    // A listener's queues are its backlog, and nothing of its tcp_info is a connection's.
    Ok(Sighting { connection, vitals: vitals.filter(|_| connection.state != TcpState::Listen) })
}

/// The number of a cgroup: the inode of its directory.
fn decode_cgroup(value: &mut Cursor<'_>) -> Result<Option<CgroupId>, Malformed> {
    value.take("a cgroup id (8 bytes)").map(|number| CgroupId::new(u64::from_ne_bytes(number)))
}

/// `struct inet_diag_msg`, and nothing of what follows it.
fn decode_socket(payload: &mut Cursor<'_>) -> Result<(Connection, Queues), Malformed> {
    let offset = payload.offset;
    let [family, state, _timer, _retransmits] = payload.take("a socket's family and state (4 bytes)")?;
    let family = match family {
        2 => Family::Inet,
        10 => Family::Inet6,
        _ => {
            return Err(Malformed { offset, expected: "AF_INET (2) or AF_INET6 (10)", found: family.into() });
        }
    };
    let state = TcpState::from_number(state).ok_or(Malformed {
        offset: offset + 1,
        expected: "a TCP state",
        found: state.into(),
    })?;
    // struct inet_diag_sockid.
    let local_port = u16::from_be_bytes(payload.take("the local port")?);
    let remote_port = u16::from_be_bytes(payload.take("the remote port")?);
    let local_ip = decode_ip(family, payload.take("the local address (16 bytes)")?);
    let remote_ip = decode_ip(family, payload.take("the remote address (16 bytes)")?);
    let interface = payload.take_u32("an interface index")?;
    let cookie_low = payload.take_u32("a cookie (8 bytes)")?;
    let cookie_high = payload.take_u32("a cookie (8 bytes)")?;
    let _timer = payload.take_u32("a timer")?;
    let receive_bytes = payload.take_u32("the length of a receive queue")?;
    let send_bytes = payload.take_u32("the length of a send queue")?;
    let uid = payload.take_u32("a user id")?;
    let inode = payload.take_u32("an inode")?;
    let connection = Connection {
        local: Endpoint::new(local_ip, local_port),
        remote: Endpoint::new(remote_ip, remote_port),
        state,
        interface,
        inode: Inode::new(inode.into()),
        cookie: Cookie(u64::from(cookie_high) << 32 | u64::from(cookie_low)),
        uid,
        cgroup: None,
        namespace: NamespaceId::OWN,
    };
    Ok((connection, Queues { receive_bytes, send_bytes }))
}

/// An address as `inet_diag_sockid` holds it: an IPv4 address fills the first of the four words.
fn decode_ip(family: Family, bytes: [u8; 16]) -> IpAddr {
    match family {
        Family::Inet => {
            let [a, b, c, d, ..] = bytes;
            Ipv4Addr::new(a, b, c, d).into()
        }
        Family::Inet6 => Ipv6Addr::from(bytes).into(),
    }
}

/// Takes fields off the front of a datagram, and knows how far it is.
#[derive(Debug, Clone)]
struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], Malformed> {
        let Some((field, rest)) = self.rest.split_first_chunk() else {
            let found = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
            return Err(Malformed { offset: self.offset, expected, found });
        };
        self.rest = rest;
        self.offset += N;
        Ok(*field)
    }

    fn take_u16(&mut self, expected: &'static str) -> Result<u16, Malformed> {
        self.take(expected).map(u16::from_ne_bytes)
    }

    fn take_u32(&mut self, expected: &'static str) -> Result<u32, Malformed> {
        self.take(expected).map(u32::from_ne_bytes)
    }

    /// `struct nlattr`: its type, and what it holds.
    fn take_attribute(&mut self) -> Result<(u16, Self), Malformed> {
        let offset = self.offset;
        let available = self.rest.len();
        let length = self.take_u16("an attribute header (4 bytes)")?;
        let kind = self.take_u16("an attribute type")?;
        let value_bytes = usize::from(length)
            .checked_sub(ATTRIBUTE_HEADER_BYTES)
            .filter(|value_bytes| ATTRIBUTE_HEADER_BYTES + value_bytes <= available)
            .ok_or(Malformed {
                offset,
                expected: "an attribute length from 4 to what is left of the message",
                found: length.into(),
            })?;
        let value = self.split(value_bytes);
        // NLA_ALIGN: the next attribute starts at a multiple of 4; the last one may go unpadded.
        self.split(value_bytes.next_multiple_of(4) - value_bytes);
        Ok((kind & ATTRIBUTE_TYPE_MASK, value))
    }

    /// Splits off as many bytes, or all when there are fewer.
    fn split(&mut self, bytes: usize) -> Self {
        let (field, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, &[]));
        let split = Self { rest: field, offset: self.offset };
        self.rest = rest;
        self.offset += field.len();
        split
    }
}

#[cfg(test)]
mod tests;
