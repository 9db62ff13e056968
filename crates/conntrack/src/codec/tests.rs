use proptest::collection::vec;
use proptest::prelude::*;
use vms_netlink::codec::{Messages, Reply};
use vms_netlink::script::{SEQUENCE, attribute, done, message};

use super::*;

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
        done(),
    ]
    .concat()
}

fn decode_all(datagram: &[u8]) -> Result<Vec<Reply<Option<Entry>>>, Malformed> {
    Messages::new(datagram).map(|message| message?.decode::<Entries>()).collect()
}

fn pair(ends: [&str; 2]) -> Tuple {
    Tuple { source: endpoint(ends[0]), destination: endpoint(ends[1]) }
}

#[test]
fn an_entry_is_decoded_and_tells_its_translation() {
    let replies = decode_all(&valid_reply()).unwrap();
    let [Reply::Told(Some(nat)), Reply::Told(None), Reply::Told(Some(plain)), Reply::Done] = replies[..]
    else {
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
        let [Reply::Told(Some(entry))] = replies[..] else { panic!("{replies:?}") };
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
fn a_message_of_another_type_is_refused() {
    let error = decode_all(&message(0x102, 2, &translated())).unwrap_err();
    assert_eq!(error.to_string(), "byte 4: expected a message type of ctnetlink, found 258");
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
    let encode = |family, filter| {
        let mut out = Vec::new();
        DumpRequest { sequence: SEQUENCE, family, filter }.encode(&mut out).unwrap();
        out
    };
    let out = encode(Family::Inet, Filter::None);
    assert_eq!(decode_request(&out, 2), []);

    let out = encode(Family::Inet6, Filter::Tcp);
    let [(0x8001, tuple), (0x8019, filter)] = decode_request(&out, 10)[..] else { panic!("{out:x?}") };
    let [(0x8002, ports)] = attributes(tuple)[..] else { panic!("{tuple:x?}") };
    assert_eq!(attributes(ports), [(1, &[6][..])]);
    assert_eq!(attributes(filter), [(1, &8_u32.to_ne_bytes()[..]), (2, &[0; 4])]);

    // By its port alone, where addresses cannot be relied on.
    let out = encode(Family::Inet6, Filter::of(endpoint("[fd00::a]:80")));
    let [(0x8001, tuple), (0x8019, filter)] = decode_request(&out, 10)[..] else { panic!("{out:x?}") };
    let [(0x8002, ports)] = attributes(tuple)[..] else { panic!("{tuple:x?}") };
    assert_eq!(attributes(ports), [(1, &[6][..]), (3, &[0, 80])]);
    assert_eq!(attributes(filter), [(1, &0x28_u32.to_ne_bytes()[..]), (2, &[0; 4])]);

    let out = encode(Family::Inet, Filter::of(endpoint("10.96.0.10:80")));
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
    /// Cut with the lengths around it made right, what is told is told whole or not at all.
    #[test]
    fn an_entry_that_is_cut_is_refused_or_the_same(length in 0..160_usize) {
        let payload = translated();
        let length = length.min(payload.len());
        if let Ok(replies) = decode_all(&message(NEW, 2, &payload[..length])) {
            let [Reply::Told(Some(entry))] = replies[..] else { panic!("{replies:?}") };
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
    }

    #[test]
    fn no_attributes_panic(attributes in vec(any::<u8>(), 0..256)) {
        let payload = [&[2, 0, 0, 0], &attributes[..]].concat();
        if let Err(error) = decode_all(&message(NEW, 2, &payload)) {
            prop_assert!((20..=20 + attributes.len()).contains(&error.offset) || error.offset == 16, "{error}");
        }
    }
}
