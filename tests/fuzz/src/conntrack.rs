//! Replies of connection tracking, beside a second decoder that is written from the headers and knows no cursor.

use std::net::IpAddr;

use vms_conntrack::codec::{Entries, Entry, Filter, Tuple};
use vms_core::address::Endpoint;
use vms_netlink::script::message;

use crate::cursor::Cursor;
use crate::netlink::{check_datagram, framed, read_attributes};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`.
const NEW: u16 = 0x100;

/// Datagrams as they come, the same bytes as payloads of messages whose headers hold, and as attributes that do.
pub fn conntrack_replies(data: &[u8]) {
    for datagram in [data, &framed(data, [0x101, NEW, NEW, NEW]), &message(NEW, 2, &entry(data))] {
        check_datagram::<Entries>(datagram, read_entry, |entry, _message| {
            entry.iter().for_each(check_entry);
        });
    }
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
