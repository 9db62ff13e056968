//! Replies of connection tracking, beside a second decoder that is written from the headers and knows no cursor.

use std::net::IpAddr;

use vms_conntrack::codec::{Entry, Filter, Messages, Reply, Tuple};
use vms_core::address::Endpoint;

use crate::bounded::bounded;
use crate::cursor::Cursor;
use crate::netlink::{Raw, push_message, u16_at};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`.
const NEW: u16 = 0x100;

/// Datagrams as they come, the same bytes as payloads of messages whose headers hold, and as attributes that do.
pub fn conntrack_replies(data: &[u8]) {
    check_datagram(data);
    check_datagram(&framed(data));
    let mut datagram = Vec::new();
    push_message(&mut datagram, NEW, 2, &entry(data));
    check_datagram(&datagram);
}

/// A well-formed datagram: each message takes a byte for its type, one for its flags and one for its length.
fn framed(data: &[u8]) -> Vec<u8> {
    let mut cursor = Cursor(data);
    let mut datagram = Vec::new();
    while !cursor.is_empty() {
        let kind = match cursor.byte() % 8 {
            0 => 1,
            1 => 2,
            2 => 3,
            3 => 4,
            4 => 0x101,
            _ => NEW,
        };
        let flags = u16::from(cursor.byte());
        push_message(&mut datagram, kind, flags, cursor.counted());
    }
    datagram
}

/// `struct nfgenmsg`, and attributes three levels deep: each takes a byte for its type and one for its length, and is cut off by
/// so many bytes as a third says, as a rule none.
fn entry(data: &[u8]) -> Vec<u8> {
    let mut payload = vec![2, 0, 0, 0];
    push_attributes(&mut payload, data, 3);
    payload
}

fn push_attributes(out: &mut Vec<u8>, data: &[u8], levels: u8) {
    let mut cursor = Cursor(data);
    while !cursor.is_empty() {
        let kind = u16::from(cursor.byte() % 8);
        let lie = cursor.byte().saturating_sub(250);
        let inner = cursor.counted();
        let start = out.len();
        out.extend([0; 2]);
        out.extend(kind.to_ne_bytes());
        if levels > 1 {
            push_attributes(out, inner, levels - 1);
        } else {
            out.extend(inner);
        }
        let length = u16::try_from(out.len() - start).expect("inputs are short");
        out[start..start + 2].copy_from_slice(&length.saturating_sub(lie.into()).to_ne_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

fn check_datagram(datagram: &[u8]) {
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
        assert!(!message.answers(expected.sequence, expected.port_id.wrapping_add(1)));
        assert_eq!(message.interrupted(), expected.flags & 0x10 != 0);
        match bounded(datagram, 0, 0, || message.decode()) {
            Ok(reply) => {
                assert_eq!(Some(reply), read_reply(&expected));
                if let Reply::Entry(entry) = reply {
                    check_entry(&entry);
                }
            }
            Err(error) => {
                assert!(error.offset <= datagram.len(), "{error}");
                assert_eq!(read_reply(&expected), None, "{error}");
            }
        }
        place = expected.end;
    }
    assert!(messages.next().is_none());
}

/// What holds of every entry.
fn check_entry(entry: &Entry) {
    let Entry { original, reply } = entry;
    for end in [original.source, original.destination, reply.source, reply.destination] {
        assert_eq!(end.ip(), end.ip().to_canonical());
    }
    assert!(Filter::of(original.destination).admits(entry));
    match entry.translation() {
        None => assert_eq!(reply.source, original.destination),
        Some(told) => {
            assert_ne!(told.backend, told.service);
            assert_eq!((told.service, told.source), (original.destination, original.source));
            assert_eq!((told.backend, told.peer), (reply.source, reply.destination));
        }
    }
}

fn read_reply(message: &Raw<'_>) -> Option<Reply> {
    Some(match message.kind {
        NEW => read_entry(message.payload)?.map_or(Reply::Other, Reply::Entry),
        1 => Reply::Nothing,
        2 | 3 => match (message.errno()?, message.kind) {
            (0, 2) => Reply::Nothing,
            (0, _) => Reply::Done,
            (errno, kind) => Reply::Failed { errno, refused: kind == 2 },
        },
        4 => Reply::Lost,
        _ => return None,
    })
}

/// Attributes at one level (`struct nlattr`), without the flags in their types.
fn read_attributes(mut rest: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0)?);
        found.push((u16_at(rest, 2)? & 0x3fff, rest.get(4..length)?));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(found)
}

/// `struct nfgenmsg` and the attributes of `enum ctattr_type` (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
#[expect(clippy::option_option, reason = "it makes no sense, it is about something else, or it is an entry")]
fn read_entry(payload: &[u8]) -> Option<Option<Entry>> {
    let mut tuples = [None, None];
    for (kind, value) in read_attributes(payload.get(4..)?)? {
        if let 1 | 2 = kind {
            tuples[usize::from(kind) - 1] = Some(read_tuple(value)?);
        }
    }
    let [original, reply] = tuples;
    let (original, reply) = (original?, reply?);
    Some(original.zip(reply).map(|(original, reply)| Entry { original, reply }))
}

#[expect(clippy::option_option, reason = "it makes no sense, it is about something else, or it is a tuple")]
fn read_tuple(tuple: &[u8]) -> Option<Option<Tuple>> {
    let (mut addresses, mut ports, mut protocol) = ([None; 2], [None; 2], None);
    for (part, values) in read_attributes(tuple)? {
        if let 1 | 2 = part {
            for (kind, value) in read_attributes(values)? {
                match (part, kind) {
                    (1, 1 | 2) => {
                        let octets: [u8; 4] = *value.first_chunk()?;
                        addresses[usize::from(kind) - 1] = Some(IpAddr::from(octets));
                    }
                    (1, 3 | 4) => {
                        let octets: [u8; 16] = *value.first_chunk()?;
                        addresses[usize::from(kind) - 3] = Some(IpAddr::from(octets));
                    }
                    (2, 1) => protocol = Some(*value.first()?),
                    (2, 2 | 3) => {
                        ports[usize::from(kind) - 2] = Some(u16::from_be_bytes(*value.first_chunk()?));
                    }
                    _ => {}
                }
            }
        }
    }
    if protocol? != 6 {
        return Some(None);
    }
    let end = |place: usize| Some(Endpoint::new(addresses[place]?, ports[place]?));
    Some(Some(Tuple { source: end(0)?, destination: end(1)? }))
}
