//! The bytes of `inet_diag`, inside those of netlink: requests out, replies in. Pure.
//!
//! Layouts: `include/uapi/linux/inet_diag.h`. Integers have the host's byte order, except ports and addresses, which have
//! the network's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vms_core::address::Endpoint;
use vms_core::connection::{CgroupId, Connection, Cookie, Inode, TcpState, TcpStates};
use vms_core::health::Sighting;
use vms_core::namespace::NamespaceId;
use vms_core::socket::{Families, Transport, families_of_inet6};
use vms_netlink::codec::{REQUEST, REQUEST_DUMP, TooLong, encode_attribute, encode_message};
use vms_netlink::{Codec, Cursor, Malformed};

use tcp_info::{Queues, decode_vitals};

mod tcp_info;

/// `SOCK_DIAG_BY_FAMILY` (`include/uapi/linux/sock_diag.h`): the request, and each socket in the reply.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// What a message should have been that is of another type.
const EXPECTED_KIND: &str = "a message type of sock_diag";
/// `IPPROTO_TCP`.
const PROTOCOL_TCP: u8 = 6;
/// `IPPROTO_UDP`.
const PROTOCOL_UDP: u8 = 17;
/// `INET_DIAG_REQ_BYTECODE`.
const ATTRIBUTE_BYTECODE: u16 = 1;
/// `INET_DIAG_INFO`: `struct tcp_info`, in the reply to a request that has [`EXTENSION_INFO`] set.
const ATTRIBUTE_INFO: u16 = 2;
/// `INET_DIAG_SKV6ONLY`: a u8, which the kernel sends unasked of `AF_INET6` sockets that have no peer, LISTEN and CLOSE (since
/// Linux 4.2). It could not be asked for: the request has bits for the first eight attributes alone.
const ATTRIBUTE_V6_ONLY: u16 = 11;
/// `INET_DIAG_CGROUP_ID`: a u64, which the kernel sends unasked (since Linux 5.8, with `CONFIG_SOCK_CGROUP_DATA`).
const ATTRIBUTE_CGROUP_ID: u16 = 21;
/// `1 << (INET_DIAG_INFO - 1)`.
const EXTENSION_INFO: u8 = 1 << (ATTRIBUTE_INFO - 1);
/// `sizeof(struct inet_diag_sockid)`.
const SOCKET_ID_BYTES: usize = 48;

/// `sizeof(struct inet_diag_msg)`.
const SOCKET_BYTES: usize = 72;
/// Where in it the local address is.
const LOCAL_IP_PLACE: usize = 8;

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

/// A request for all sockets of one protocol and family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpRequest<'a> {
    /// Comes back in every message of the reply.
    pub sequence: u32,
    /// Which sockets the kernel is to walk.
    pub transport: Transport,
    /// Which of them.
    pub family: Family,
    /// Only sockets in one of these states.
    pub states: TcpStates,
    /// Only sockets that this program accepts; see [`crate::bytecode`]. Empty: all.
    pub program: &'a [u8],
}

impl DumpRequest<'_> {
    /// Adds the bytes of the request to `out`: `nlmsghdr`, `inet_diag_req_v2`, one attribute.
    ///
    /// # Errors
    /// When the program is longer than an attribute can be.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        encode_message(out, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, self.sequence, |out| {
            // struct inet_diag_req_v2: no extensions, and a dump looks for no one socket.
            let protocol = match self.transport {
                Transport::Tcp => PROTOCOL_TCP,
                Transport::Udp => PROTOCOL_UDP,
            };
            out.extend([self.family.number(), protocol, 0, 0]);
            out.extend(self.states.bits().to_ne_bytes());
            out.extend([0; SOCKET_ID_BYTES]);
            if self.program.is_empty() {
                return Ok(());
            }
            encode_attribute(out, ATTRIBUTE_BYTECODE, self.program)
        })
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
        encode_message(out, SOCK_DIAG_BY_FAMILY, REQUEST, self.sequence, |out| {
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
        });
    }
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

/// The sockets of a dump: `struct inet_diag_msg`, and the cgroup among the attributes behind it; no other was asked for.
#[derive(Debug)]
pub enum Sockets {}

impl Codec for Sockets {
    type Told = Connection;
    const KIND: u16 = SOCK_DIAG_BY_FAMILY;
    const EXPECTED: &'static str = EXPECTED_KIND;

    fn decode(mut payload: Cursor<'_>) -> Result<Connection, Malformed> {
        let (mut connection, _) = decode_socket(&mut payload)?;
        while !payload.is_empty() {
            let (kind, mut value) = payload.take_attribute()?;
            if kind == ATTRIBUTE_CGROUP_ID {
                connection.cgroup = decode_cgroup(&mut value)?;
            }
        }
        Ok(connection)
    }
}

/// The same sockets, each with the versions of IP that it serves, which its canonical addresses do not tell.
#[derive(Debug)]
pub enum ServingSockets {}

impl Codec for ServingSockets {
    type Told = (Connection, Families);
    const KIND: u16 = SOCK_DIAG_BY_FAMILY;
    const EXPECTED: &'static str = EXPECTED_KIND;

    /// A kernel that does not say whether a socket is for IPv6 alone has it serve both.
    fn decode(mut payload: Cursor<'_>) -> Result<Self::Told, Malformed> {
        let inet6_local = payload
            .field::<1>(0)
            .filter(|[family]| *family == Family::Inet6.number())
            .and_then(|_| payload.field::<16>(LOCAL_IP_PLACE))
            .map(Ipv6Addr::from);
        let (mut connection, _) = decode_socket(&mut payload)?;
        let mut v6_only = false;
        while !payload.is_empty() {
            let (kind, mut value) = payload.take_attribute()?;
            match kind {
                ATTRIBUTE_CGROUP_ID => connection.cgroup = decode_cgroup(&mut value)?,
                ATTRIBUTE_V6_ONLY => v6_only = value.take("whether it is for IPv6 alone (1 byte)")? != [0],
                _ => {}
            }
        }
        let families = inet6_local.map_or(Families::IPV4, |local| families_of_inet6(local, v6_only));
        Ok((connection, families))
    }
}

/// The answers to [`LookupRequest`]s: the same, and the `struct tcp_info` among the attributes.
#[derive(Debug)]
pub enum Sightings {}

impl Codec for Sightings {
    type Told = Sighting;
    const KIND: u16 = SOCK_DIAG_BY_FAMILY;
    const EXPECTED: &'static str = EXPECTED_KIND;

    /// Also a `tcp_info` that lacks what every kernel tells makes no sense.
    fn decode(mut payload: Cursor<'_>) -> Result<Sighting, Malformed> {
        let (mut connection, queues) = decode_socket(&mut payload)?;
        let mut vitals = None;
        while !payload.is_empty() {
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
}

/// The number of a cgroup: the inode of its directory.
fn decode_cgroup(value: &mut Cursor<'_>) -> Result<Option<CgroupId>, Malformed> {
    value.take("a cgroup id (8 bytes)").map(|number| CgroupId::new(u64::from_ne_bytes(number)))
}

/// `struct inet_diag_msg`, and nothing of what follows it.
fn decode_socket(payload: &mut Cursor<'_>) -> Result<(Connection, Queues), Malformed> {
    // Here once, so that no field has to be checked for.
    if payload.bytes_left() < SOCKET_BYTES {
        return Err(payload.missing("a socket (72 bytes)"));
    }
    let offset = payload.offset();
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

#[cfg(test)]
mod tests;
