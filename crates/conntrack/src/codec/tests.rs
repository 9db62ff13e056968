use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SEQUENCE: u32 = 7;
const PORT_ID: u32 = 4242;

/// `struct nlmsghdr` before a payload.
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + payload.len()).unwrap();
    let mut bytes = [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &SEQUENCE.to_ne_bytes(),
        &PORT_ID.to_ne_bytes(),
        payload,
    ]
    .concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct nlattr` before a value, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn endpoint(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(address.ip(), address.port())
}

/// One tuple, in the order in which the kernel tells it.
fn tuple(kind: u16, protocol: u8, source: &str, destination: &str) -> Vec<u8> {
    let (source, destination) = (endpoint(source), endpoint(destination));
    let ip = |kinds: [u16; 2], ip: IpAddr| match ip {
        IpAddr::V4(ip) => attribute(kinds[0], &ip.octets()),
        IpAddr::V6(ip) => attribute(kinds[1], &ip.octets()),
    };
    let addresses = [ip([1, 3], source.ip()), ip([2, 4], destination.ip())].concat();
    let ports = [
        attribute(1, &[protocol]),
        attribute(2, &source.port().to_be_bytes()),
        attribute(3, &destination.port().to_be_bytes()),
    ]
    .concat();
    attribute(kind | 0x8000, &[attribute(0x8001, &addresses), attribute(0x8002, &ports)].concat())
}

/// An entry as Linux 6.18 tells one of TCP: the tuples, then what is not looked at.
fn entry(protocol: u8, original: [&str; 2], reply: [&str; 2]) -> Vec<u8> {
    [
        // struct nfgenmsg: AF_INET, version 0, resource 0.
        vec![2, 0, 0, 0],
        tuple(1, protocol, original[0], original[1]),
        tuple(2, protocol, reply[0], reply[1]),
        // CTA_STATUS, CTA_USE, CTA_ID and CTA_TIMEOUT.
        attribute(3, &[0, 0, 1, 0xae]),
        attribute(11, &[0, 0, 0, 1]),
        attribute(12, &[0xe2, 0xe0, 0x91, 0xb7]),
        attribute(7, &[0, 6, 0x97, 0x7f]),
    ]
    .concat()
}

const ASKED: [&str; 2] = ["10.0.0.9:40000", "10.96.0.10:80"];
const ANSWERED: [&str; 2] = ["10.1.2.3:8080", "10.0.0.1:61000"];

fn translated() -> Vec<u8> {
    entry(6, ASKED, ANSWERED)
}

/// A reply of three entries, and its end.
fn valid_reply() -> Vec<u8> {
    [
        message(NEW, 2, &translated()),
        message(NEW, 2, &entry(17, ["10.0.0.9:53", "10.0.0.1:53"], ["10.0.0.1:53", "10.0.0.9:53"])),
        message(NEW, 2, &entry(6, ["[fd00::9]:40000", "[fd00::1]:80"], ["[fd00::1]:80", "[fd00::9]:40000"])),
        message(DONE, 2, &0_i32.to_ne_bytes()),
    ]
    .concat()
}

fn decode_all(datagram: &[u8]) -> Result<Vec<Reply>, Malformed> {
    Messages::new(datagram).map(|message| message?.decode()).collect()
}

fn pair(ends: [&str; 2]) -> Tuple {
    Tuple { source: endpoint(ends[0]), destination: endpoint(ends[1]) }
}

#[test]
fn an_entry_is_decoded_and_tells_its_translation() {
    let replies = decode_all(&valid_reply()).unwrap();
    let [Reply::Entry(nat), Reply::Other, Reply::Entry(plain), Reply::Done] = replies[..] else {
        panic!("{replies:?}")
    };
    assert_eq!(nat, Entry { original: pair(ASKED), reply: pair(ANSWERED) });
    let translation = nat.translation().unwrap();
    assert_eq!(translation.service, endpoint("10.96.0.10:80"));
    assert_eq!(translation.source, endpoint("10.0.0.9:40000"));
    assert_eq!(translation.backend, endpoint("10.1.2.3:8080"));
    assert_eq!(translation.peer, endpoint("10.0.0.1:61000"), "the source is translated as well");
    assert_eq!(plain.translation(), None);
}

#[test]
fn a_source_that_is_translated_alone_is_no_translation_and_a_port_alone_is_one() {
    let told = |original, reply| {
        let replies = decode_all(&message(NEW, 2, &entry(6, original, reply))).unwrap();
        let [Reply::Entry(entry)] = replies[..] else { panic!("{replies:?}") };
        entry.translation()
    };
    assert_eq!(told(ASKED, ["10.96.0.10:80", "10.0.0.1:61000"]), None, "masqueraded");
    assert!(told(ASKED, ["10.96.0.10:8080", "10.0.0.9:40000"]).is_some(), "redirected to another port");
}

#[test]
fn what_every_connection_has_may_not_be_missing() {
    let whole = translated();
    // The tuples stand first: 4 bytes of header, then 52 each.
    assert_eq!(u16::from_ne_bytes(whole[4..6].try_into().unwrap()), 52);
    let without_reply = [&whole[..56], &whole[108..]].concat();
    let without_original = [&whole[..4], &whole[56..]].concat();
    for payload in [&without_reply, &without_original, &whole[..4].to_vec()] {
        assert!(decode_all(&message(NEW, 2, payload)).is_err());
    }
    // Each attribute of a tuple in turn becomes one that nobody knows: two addresses, then number and ports.
    for place in [14, 22, 34, 42, 50] {
        let mut changed = whole.clone();
        changed[place..place + 2].copy_from_slice(&99_u16.to_ne_bytes());
        assert!(decode_all(&message(NEW, 2, &changed)).is_err(), "{place}");
    }
}

#[test]
fn an_errno_is_seen_in_a_verdict_and_in_the_end_of_a_dump() {
    let original_header = message(GET, 0x301, &[]);
    let verdict =
        |errno: i32| decode_all(&message(ERROR, 0, &[&errno.to_ne_bytes()[..], &original_header].concat()));
    let end = |errno: i32| decode_all(&message(DONE, 2, &errno.to_ne_bytes()));
    assert_eq!(verdict(-1), Ok(vec![Reply::Failed { errno: 1, refused: true }]));
    assert_eq!(verdict(0), Ok(vec![Reply::Nothing]));
    assert_eq!(end(-2), Ok(vec![Reply::Failed { errno: 2, refused: false }]));
    assert_eq!(end(0), Ok(vec![Reply::Done]));
    for senseless in [1, i32::MIN, i32::MAX, -4096] {
        assert!(verdict(senseless).is_err() && end(senseless).is_err(), "{senseless}");
    }
    assert!(decode_all(&message(DONE, 2, &[])).is_err(), "an end without its errno");
    assert_eq!(decode_all(&message(OVERRUN, 0, &[])), Ok(vec![Reply::Lost]));
    assert_eq!(decode_all(&encode_noop()), Ok(vec![Reply::Nothing]));
}

#[test]
fn a_message_belongs_to_one_request_and_tells_whether_it_was_interrupted() {
    let reply = [message(NEW, 2, &translated()), message(NEW, 2 | 0x10, &translated())].concat();
    let messages: Vec<Message<'_>> = Messages::new(&reply).map(Result::unwrap).collect();
    assert!(
        messages[0].answers(SEQUENCE, PORT_ID) && !messages[0].interrupted() && messages[1].interrupted()
    );
    assert!(!messages[0].answers(SEQUENCE - 1, PORT_ID) && !messages[0].answers(SEQUENCE, PORT_ID + 1));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let changed = |place: usize, bytes: &[u8]| {
        let mut reply = valid_reply();
        reply[place..place + bytes.len()].copy_from_slice(bytes);
        decode_all(&reply).unwrap_err()
    };
    for length in [0, 15, 1 << 16, u32::MAX] {
        let error = changed(0, &length.to_ne_bytes());
        assert_eq!((error.offset, error.found), (0, length.into()));
    }
    let kind = changed(4, &0x0102_u16.to_ne_bytes());
    assert_eq!(kind.to_string(), "byte 4: expected a message type of ctnetlink, found 258");
    for length in [0_u16, 3, 0xffff] {
        let error = changed(20, &length.to_ne_bytes());
        assert_eq!((error.offset, error.found), (20, length.into()), "of the first attribute");
    }
}

/// The attributes at one level, flags and all.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16::from_ne_bytes(bytes[..2].try_into().unwrap()));
        found.push((u16::from_ne_bytes(bytes[2..4].try_into().unwrap()), &bytes[4..length]));
        bytes = &bytes[length.next_multiple_of(4)..];
    }
    found
}

/// The header holds, and these attributes follow it.
fn decode_request(bytes: &[u8], family: u8) -> Vec<(u16, &[u8])> {
    let u16_at = |place: usize| u16::from_ne_bytes(bytes[place..place + 2].try_into().unwrap());
    assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()), u32::try_from(bytes.len()).unwrap());
    assert_eq!((u16_at(4), u16_at(6)), (0x101, 0x301), "IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP");
    assert_eq!(bytes[8..20], [&SEQUENCE.to_ne_bytes()[..], &[0; 4], &[family, 0, 0, 0]].concat());
    attributes(&bytes[20..])
}

#[test]
fn a_request_says_what_it_was_made_of() {
    let mut out = vec![1];
    DumpRequest { sequence: SEQUENCE, family: Family::Inet, filter: Filter::None }.encode(&mut out);
    assert_eq!(decode_request(&out, 2), []);

    DumpRequest { sequence: SEQUENCE, family: Family::Inet6, filter: Filter::Tcp }.encode(&mut out);
    let [(0x8001, tuple), (0x8019, filter)] = decode_request(&out, 10)[..] else { panic!("{out:x?}") };
    let [(0x8002, ports)] = attributes(tuple)[..] else { panic!("{tuple:x?}") };
    assert_eq!(attributes(ports), [(1, &[6][..])]);
    assert_eq!(attributes(filter), [(1, &8_u32.to_ne_bytes()[..]), (2, &[0; 4])]);

    // By its port alone, where addresses cannot be relied on.
    let filter = Filter::of(endpoint("[fd00::a]:80"));
    DumpRequest { sequence: SEQUENCE, family: Family::Inet6, filter }.encode(&mut out);
    let [(0x8001, tuple), (0x8019, filter)] = decode_request(&out, 10)[..] else { panic!("{out:x?}") };
    let [(0x8002, ports)] = attributes(tuple)[..] else { panic!("{tuple:x?}") };
    assert_eq!(attributes(ports), [(1, &[6][..]), (3, &[0, 80])]);
    assert_eq!(attributes(filter), [(1, &0x28_u32.to_ne_bytes()[..]), (2, &[0; 4])]);

    let filter = Filter::of(endpoint("10.96.0.10:80"));
    DumpRequest { sequence: SEQUENCE, family: Family::Inet, filter }.encode(&mut out);
    let [(0x8001, tuple), (0x8019, filter)] = decode_request(&out, 2)[..] else { panic!("{out:x?}") };
    let [(0x8001, ip), (0x8002, ports)] = attributes(tuple)[..] else { panic!("{tuple:x?}") };
    assert_eq!(attributes(ip), [(2, &[10, 96, 0, 10][..])]);
    assert_eq!(attributes(ports), [(1, &[6][..]), (3, &[0, 80])]);
    assert_eq!(attributes(filter), [(1, &0x2a_u32.to_ne_bytes()[..]), (2, &[0; 4])]);
}

#[test]
fn a_filter_admits_what_it_asks_for() {
    let entry = Entry { original: pair(ASKED), reply: pair(ANSWERED) };
    let of = |text| Filter::of(endpoint(text));
    for filter in [Filter::None, Filter::Tcp, Filter::Port(80), of("10.96.0.10:80"), of("[fd00::a]:80")] {
        assert!(filter.admits(&entry), "{filter:?}");
    }
    for filter in [Filter::Port(8080), of("10.96.0.10:8080"), of("10.96.0.11:80")] {
        assert!(!filter.admits(&entry), "{filter:?}");
    }
}

proptest! {
    #[test]
    fn a_truncated_reply_errs_or_holds_fewer_messages(length in 0..600_usize) {
        let reply = valid_reply();
        let whole = decode_all(&reply).unwrap();
        let length = length.min(reply.len());
        match decode_all(&reply[..length]) {
            Ok(replies) => prop_assert!(whole.starts_with(&replies) && (replies.len() < 4 || length == reply.len())),
            Err(error) => prop_assert!(error.offset <= length),
        }
    }

    /// Cut with the lengths around it made right, what is told is told whole or not at all.
    #[test]
    fn an_entry_that_is_cut_is_refused_or_the_same(length in 0..160_usize) {
        let payload = translated();
        let length = length.min(payload.len());
        if let Ok(replies) = decode_all(&message(NEW, 2, &payload[..length])) {
            let [Reply::Entry(entry)] = replies[..] else { panic!("{replies:?}") };
            prop_assert_eq!(entry, Entry { original: pair(ASKED), reply: pair(ANSWERED) });
            prop_assert!(length >= 108, "both tuples take as much");
        }
    }

    #[test]
    fn no_change_of_a_reply_panics_or_reads_past_its_end(
        changes in vec((0..500_usize, any::<u8>()), 1..12),
        length in 0..=500_usize,
    ) {
        let mut reply = valid_reply();
        for (place, byte) in changes {
            let place = place % reply.len();
            reply[place] = byte;
        }
        reply.truncate(length);
        if let Err(error) = decode_all(&reply) {
            prop_assert!(error.offset <= reply.len());
        }
        // Every message takes at least its header off the datagram: decoding ends.
        prop_assert!(Messages::new(&reply).count() <= reply.len() / HEADER_BYTES + 1);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..512)) {
        let messages = Messages::new(&bytes).flatten();
        let decoded = messages.filter(|message| message.decode().is_ok()).count();
        prop_assert!(decoded <= bytes.len() / HEADER_BYTES);
    }
}
