//! Replies of the kernel over netlink, beside a second decoder that is written from the headers and knows no cursor.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use vms_core::address::Endpoint;
use vms_core::connection::{CgroupId, Connection, Cookie, Inode, TcpState};
use vms_core::health::{Sighting, Vitals};
use vms_core::namespace::NamespaceId;
use vms_core::socket::Families;
use vms_netlink::Codec;
use vms_netlink::codec::{Messages, Reply};
use vms_netlink::script::{attribute, message};
use vms_sock_diag::codec::{LookupRequest, ServingSockets, Sightings, Sockets};

use crate::bounded::bounded;
use crate::cursor::Cursor;

/// `SOCK_DIAG_BY_FAMILY`.
const SOCKET: u16 = 20;

/// Datagrams as they come, and the same bytes as payloads of messages whose headers hold.
pub fn netlink_replies(data: &[u8]) {
    check_sockets(data);
    check_sockets(&framed(data, [SOCKET; 4]));
}

/// A well-formed datagram: each message takes a byte for its type, one for its flags and one for its length.
///
/// Half of the types are netlink's own.
pub(crate) fn framed(data: &[u8], kinds: [u16; 4]) -> Vec<u8> {
    let mut cursor = Cursor(data);
    let mut datagram = Vec::new();
    while !cursor.is_empty() {
        let kind = match usize::from(cursor.byte() % 8) {
            own @ 4.. => kinds[own - 4],
            control => [1, 2, 3, 4][control],
        };
        let flags = u16::from(cursor.byte());
        datagram.extend(message(kind, flags, cursor.counted()));
    }
    datagram
}

fn check_sockets(datagram: &[u8]) {
    check_datagram::<Sockets>(datagram, read_connection, |connection, message| {
        check_connection(connection, message.payload);
    });
    check_datagram::<Sightings>(datagram, read_sighting, |_, _| ());
    check_datagram::<ServingSockets>(datagram, read_serving, |(connection, families), _| {
        assert!(families.serves(connection.local.ip()), "{connection:?} {families:?}");
    });
}

/// Holds every message to what is read in it by hand, and what it tells to a check.
pub(crate) fn check_datagram<C: Codec<Told: PartialEq + std::fmt::Debug>>(
    datagram: &[u8],
    read: fn(&[u8]) -> Option<C::Told>,
    check: impl Fn(&C::Told, &Raw<'_>),
) {
    let mut place = 0;
    let mut messages = bounded(datagram, 0, 0, || Messages::new(datagram));
    while place < datagram.len() {
        let message = bounded(datagram, 0, 0, || messages.next()).expect("there are bytes left");
        let Some(expected) = Raw::read(datagram, place) else {
            let error = message.expect_err("the header does not hold");
            assert!(error.offset >= place && error.offset <= datagram.len(), "{error}");
            assert!(messages.next().is_none(), "nothing is believed behind a broken header");
            return;
        };
        let message = message.expect("the header holds");
        assert!(message.answers(expected.sequence, expected.port_id));
        assert!(!message.answers(expected.sequence.wrapping_add(1), expected.port_id));
        assert!(!message.answers(expected.sequence, expected.port_id.wrapping_add(1)));
        assert_eq!(message.answered(expected.sequence, 1, expected.port_id), Some(0));
        assert_eq!(message.answered(expected.sequence.wrapping_sub(2), 3, expected.port_id), Some(2));
        assert_eq!(message.answered(expected.sequence.wrapping_add(1), 9, expected.port_id), None);
        assert_eq!(message.interrupted(), expected.flags & 0x10 != 0);
        match bounded(datagram, 0, 0, || message.decode::<C>()) {
            Ok(reply) => {
                if let Reply::Told(told) = &reply {
                    check(told, &expected);
                }
                assert_eq!(Some(reply), expected.reply(C::KIND, read));
            }
            Err(error) => {
                assert!(error.offset <= datagram.len(), "{error}");
                assert_eq!(expected.reply(C::KIND, read), None, "{error}");
            }
        }
        place = expected.end;
    }
    assert!(messages.next().is_none());
}

/// What holds of every connection, and that a lookup asks for the socket that was told.
fn check_connection(connection: &Connection, told: &[u8]) {
    for end in [connection.local, connection.remote] {
        assert_eq!(end.ip(), end.ip().to_canonical());
    }
    let mut request = Vec::new();
    LookupRequest { sequence: 7, connection }.encode(&mut request);
    assert_eq!(request.len(), 72);
    assert_eq!(request[24..28], told[4..8], "ports");
    assert_eq!(request[60..72], told[40..52], "interface and cookie");
    let was_mapped = told[0] == 10;
    match (request[16], was_mapped) {
        // The kernel finds a socket by its IPv4 addresses, whichever family it is of.
        (2, true) => {
            assert_eq!([&request[28..32], &request[44..48]], [&told[20..24], &told[36..40]]);
            assert!(told[8..20].ends_with(&[0xff, 0xff]) && told[24..36].ends_with(&[0xff, 0xff]));
        }
        (2, false) => assert_eq!([&request[28..32], &request[44..48]], [&told[8..12], &told[24..28]]),
        (10, true) => assert_eq!(request[28..60], told[8..40]),
        (family, _) => panic!("family {family}"),
    }
}

/// A message, by its place.
pub(crate) struct Raw<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    port_id: u32,
    payload: &'a [u8],
    end: usize,
}

fn u16_at(bytes: &[u8], place: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(place..place + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], place: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(place..place + 4)?.try_into().ok()?))
}

impl<'a> Raw<'a> {
    /// `struct nlmsghdr` (`include/uapi/linux/netlink.h`) and what it spans.
    fn read(datagram: &'a [u8], place: usize) -> Option<Self> {
        let length = usize::try_from(u32_at(datagram, place)?).ok()?;
        let kind = u16_at(datagram, place + 4)?;
        let flags = u16_at(datagram, place + 6)?;
        let sequence = u32_at(datagram, place + 8)?;
        let port_id = u32_at(datagram, place + 12)?;
        let payload = datagram.get(place + 16..place.checked_add(length)?)?;
        let end = (place + length.next_multiple_of(4)).min(datagram.len());
        Some(Self { kind, flags, sequence, port_id, payload, end })
    }

    /// The negative errno, or 0, that a verdict and an end begin with.
    fn errno(&self) -> Option<i32> {
        let errno = u32_at(self.payload, 0)?.wrapping_neg();
        (errno <= 4095).then(|| i32::try_from(errno).expect("it is small"))
    }

    fn reply<S>(&self, own_kind: u16, read: impl FnOnce(&[u8]) -> Option<S>) -> Option<Reply<S>> {
        Some(match self.kind {
            kind if kind == own_kind => Reply::Told(read(self.payload)?),
            1 => Reply::Nothing,
            2 | 3 => match (self.errno()?, self.kind) {
                (0, 2) => Reply::Nothing,
                (0, _) => Reply::Done,
                (errno, kind) => Reply::Failed { errno, refused: kind == 2 },
            },
            4 => Reply::Lost,
            _ => return None,
        })
    }
}

/// Attributes at one level (`struct nlattr`), without the flags in their types.
pub(crate) fn read_attributes(mut rest: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0)?);
        found.push((u16_at(rest, 2)? & 0x3fff, rest.get(4..length)?));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(found)
}

/// `struct inet_diag_msg` (`include/uapi/linux/inet_diag.h`): the connection, and how long its two queues are.
fn read_socket(payload: &[u8]) -> Option<(Connection, [u32; 2])> {
    let fixed: &[u8; 72] = payload.first_chunk()?;
    let port = |place: usize| u16::from_be_bytes([fixed[place], fixed[place + 1]]);
    let address = |place: usize| -> Option<IpAddr> {
        let words: [u8; 16] = fixed[place..place + 16].try_into().ok()?;
        match fixed[0] {
            2 => Some(IpAddr::from(<[u8; 4]>::try_from(&words[..4]).ok()?)),
            10 => Some(IpAddr::from(words)),
            _ => None,
        }
    };
    let state = TcpState::ALL.into_iter().find(|state| state.number() == fixed[1])?;
    let connection = Connection {
        local: Endpoint::new(address(8)?, port(4)),
        remote: Endpoint::new(address(24)?, port(6)),
        state,
        interface: u32_at(fixed, 40)?,
        cookie: Cookie(u64::from(u32_at(fixed, 44)?) | u64::from(u32_at(fixed, 48)?) << 32),
        uid: u32_at(fixed, 64)?,
        cgroup: None,
        namespace: NamespaceId::OWN,
        inode: Inode::new(u32_at(fixed, 68)?.into()),
    };
    Some((connection, [u32_at(fixed, 56)?, u32_at(fixed, 60)?]))
}

fn read_connection(payload: &[u8]) -> Option<Connection> {
    const CGROUP: u16 = 21;
    let (mut connection, _) = read_socket(payload)?;
    for (kind, value) in read_attributes(payload.get(72..)?)? {
        if kind == CGROUP {
            let number = u64::from_ne_bytes(*value.first_chunk()?);
            // The root is 1, and says nothing.
            connection.cgroup = CgroupId::new(number).filter(|_| number > 1);
        }
    }
    Some(connection)
}

/// The connection, and the versions of IP that its socket serves.
fn read_serving(payload: &[u8]) -> Option<(Connection, Families)> {
    const V6_ONLY: u16 = 11;
    let connection = read_connection(payload)?;
    let mut is_v6_only = false;
    for (kind, value) in read_attributes(payload.get(72..)?)? {
        if kind == V6_ONLY {
            is_v6_only = *value.first()? > 0;
        }
    }
    let local = Ipv6Addr::from(<[u8; 16]>::try_from(payload.get(8..24)?).ok()?);
    let ipv4 = payload.first() == Some(&2)
        || local.octets().starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    let both = !ipv4 && local == Ipv6Addr::UNSPECIFIED && !is_v6_only;
    Some((connection, Families { ipv4: ipv4 || both, ipv6: !ipv4 }))
}

fn read_sighting(payload: &[u8]) -> Option<Sighting> {
    const INFO: u16 = 2;
    let (_, queues) = read_socket(payload)?;
    let connection = read_connection(payload)?;
    let mut vitals = None;
    for (kind, value) in read_attributes(payload.get(72..)?)? {
        if kind == INFO {
            vitals = Some(read_vitals(value, queues)?);
        }
    }
    Some(Sighting { connection, vitals: vitals.filter(|_| connection.state != TcpState::Listen) })
}

/// The fields of `struct tcp_info` (`include/uapi/linux/tcp.h`), in their order, with their sizes.
#[rustfmt::skip]
const TCP_INFO: [(&str, usize); 62] = [
    ("state", 1), ("ca_state", 1), ("retransmits", 1), ("probes", 1), ("backoff", 1), ("options", 1), ("wscale", 1),
    ("flags", 1), ("rto", 4), ("ato", 4), ("snd_mss", 4), ("rcv_mss", 4), ("unacked", 4), ("sacked", 4), ("lost", 4),
    ("retrans", 4), ("fackets", 4), ("last_data_sent", 4), ("last_ack_sent", 4), ("last_data_recv", 4),
    ("last_ack_recv", 4), ("pmtu", 4), ("rcv_ssthresh", 4), ("rtt", 4), ("rttvar", 4), ("snd_ssthresh", 4),
    ("snd_cwnd", 4), ("advmss", 4), ("reordering", 4), ("rcv_rtt", 4), ("rcv_space", 4), ("total_retrans", 4),
    ("pacing_rate", 8), ("max_pacing_rate", 8), ("bytes_acked", 8), ("bytes_received", 8), ("segs_out", 4),
    ("segs_in", 4), ("notsent_bytes", 4), ("min_rtt", 4), ("data_segs_in", 4), ("data_segs_out", 4),
    ("delivery_rate", 8), ("busy_time", 8), ("rwnd_limited", 8), ("sndbuf_limited", 8), ("delivered", 4),
    ("delivered_ce", 4), ("bytes_sent", 8), ("bytes_retrans", 8), ("dsack_dups", 4), ("reord_seen", 4),
    ("rcv_ooopack", 4), ("snd_wnd", 4), ("rcv_wnd", 4), ("rehash", 4), ("total_rto", 2), ("total_rto_recoveries", 2),
    ("total_rto_time", 4), ("received_ce", 4), ("delivered_e1_bytes", 4), ("delivered_e0_bytes", 4),
];

fn read_vitals(info: &[u8], [unread, queued]: [u32; 2]) -> Option<Vitals> {
    let field = |wanted: &str| -> Option<u64> {
        let mut place = 0;
        let size = TCP_INFO.iter().find_map(|(name, size)| {
            place += size;
            (*name == wanted).then_some(*size)
        });
        let bytes = info.get(place - size?..place)?;
        let mut number = [0; 8];
        if cfg!(target_endian = "big") {
            number[8 - bytes.len()..].copy_from_slice(bytes);
        } else {
            number[..bytes.len()].copy_from_slice(bytes);
        }
        Some(u64::from_ne_bytes(number))
    };
    let unsent = field("notsent_bytes").unwrap_or(0);
    let sent = field("bytes_sent")
        .zip(field("bytes_retrans"))
        .map(|(sent, again)| sent.saturating_sub(again))
        .or_else(|| field("bytes_acked"));
    Some(Vitals {
        unanswered_probes: u8::try_from(field("probes")?).ok()?,
        since_data: Duration::from_millis(field("last_data_recv")?),
        since_acknowledgment: Duration::from_millis(field("last_ack_recv")?),
        rtt: Some(Duration::from_micros(field("rtt")?)).filter(|rtt| !rtt.is_zero()),
        retransmits: field("total_retrans")?,
        sent_bytes: sent.unwrap_or(0),
        received_bytes: field("bytes_received").unwrap_or(0),
        unsent_bytes: unsent,
        unacknowledged_bytes: u64::from(queued).saturating_sub(unsent),
        unread_bytes: unread.into(),
    })
}

/// An answer to a lookup whose `tcp_info` is these bytes, and each beginning of them: an older kernel tells less.
///
/// The first bytes are the socket's state, its queues and how many other attributes stand around the `tcp_info`.
pub fn tcp_info(data: &[u8]) {
    let mut cursor = Cursor(data);
    let state = cursor.byte() % 14;
    let [before, behind] = cursor.array();
    let queues = cursor.bytes(8);
    let info = &cursor.rest()[..cursor_limit(data)];
    let mut lengths = vec![info.len()];
    lengths.extend([103, 104, 128, 136, 148, 216].into_iter().filter(|length| *length < info.len()));
    for length in lengths {
        let payload = lookup_answer(state, queues, before % 3, behind % 3, &info[..length]);
        let datagram = message(SOCKET, 0, &payload);
        check_sockets(&datagram);
        let told = Messages::new(&datagram).next().expect("it is there").expect("it is whole");
        let sighting = told.decode::<Sightings>();
        let known_state = (1..=12).contains(&state) || state == 13;
        assert_eq!(sighting.is_ok(), TcpState::from_number(state).is_some() && length >= 104);
        if let Ok(Reply::Told(Sighting { vitals: Some(vitals), .. })) = sighting {
            assert!(known_state && state != 10, "a listener has no vitals");
            assert!(vitals.unacknowledged_bytes <= u32::MAX.into());
            assert_eq!(vitals.awaits_answer(), vitals.unacknowledged_bytes > 0 || info[3] > 0);
        }
    }
}

/// Room for what later kernels add, and no more: an attribute's length is a u16.
fn cursor_limit(data: &[u8]) -> usize {
    data.len().saturating_sub(11).min(400)
}

fn lookup_answer(state: u8, queues: &[u8], before: u8, behind: u8, info: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 72];
    payload[0] = 2;
    payload[1] = state;
    payload[4..12].copy_from_slice(&[0x9c, 0x40, 0x15, 0x38, 10, 0, 0, 2]);
    payload[24..28].copy_from_slice(&[10, 0, 0, 1]);
    payload[56..56 + queues.len()].copy_from_slice(queues);
    // INET_DIAG_SHUTDOWN, which the kernel sends unasked.
    let shutdown = attribute(8, &[3]);
    [payload, shutdown.repeat(before.into()), attribute(2, info), shutdown.repeat(behind.into())].concat()
}
