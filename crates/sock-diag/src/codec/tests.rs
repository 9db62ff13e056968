use proptest::collection::vec;
use proptest::prelude::*;
use vms_core::connection::TcpStates;
use vms_core::namespace::NamespaceId;
use vms_netlink::codec::{Messages, Reply};
use vms_netlink::script::{attribute, done, message};

use super::*;

mod lookup;

/// `sizeof(struct nlmsghdr)`.
const HEADER_BYTES: usize = 16;

/// `struct inet_diag_msg`, and an attribute behind it as the kernel sends one unasked.
fn socket(family: u8, state: u8, local: ([u8; 16], u16), remote: ([u8; 16], u16)) -> Vec<u8> {
    [
        // Family, state, timer, retransmits.
        &[family, state, 2, 0][..],
        // Ports and addresses in network order.
        &local.1.to_be_bytes(),
        &remote.1.to_be_bytes(),
        &local.0,
        &remote.0,
        // Interface, cookie (low word first).
        &3_u32.to_ne_bytes(),
        &0x5566_7788_u32.to_ne_bytes(),
        &0x1122_3344_u32.to_ne_bytes(),
        // Expires, receive queue, send queue.
        &0x0101_0101_u32.to_ne_bytes(),
        &0x0202_0202_u32.to_ne_bytes(),
        &0x0303_0303_u32.to_ne_bytes(),
        // User, inode.
        &1000_u32.to_ne_bytes(),
        &0xfedc_ba98_u32.to_ne_bytes(),
        // struct nlattr: 5 bytes of INET_DIAG_SHUTDOWN, padded.
        &5_u16.to_ne_bytes(),
        &8_u16.to_ne_bytes(),
        &[0, 0, 0, 0],
    ]
    .concat()
}

fn in_first_word(ipv4: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&ipv4);
    bytes
}

fn ipv4_socket() -> Vec<u8> {
    socket(2, 1, (in_first_word([10, 0, 0, 2]), 40_000), (in_first_word([10, 0, 0, 1]), 5432))
}

fn mapped_socket() -> Vec<u8> {
    let mapped = |ipv4: [u8; 4]| Ipv4Addr::from(ipv4).to_ipv6_mapped().octets();
    socket(10, 2, (mapped([10, 0, 0, 2]), 40_000), (mapped([10, 0, 0, 1]), 5432))
}

fn ipv6_socket() -> Vec<u8> {
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    socket(10, 8, (ip("fe80::2"), 40_000), (ip("2001:db8::1"), 5432))
}

/// A reply of three sockets, and its end.
fn valid_reply() -> Vec<u8> {
    [
        message(SOCK_DIAG_BY_FAMILY, 2, &ipv4_socket()),
        message(SOCK_DIAG_BY_FAMILY, 2, &mapped_socket()),
        message(SOCK_DIAG_BY_FAMILY, 2, &ipv6_socket()),
        done(),
    ]
    .concat()
}

fn decode_all(datagram: &[u8]) -> Result<Vec<Reply<Connection>>, Malformed> {
    Messages::new(datagram).map(|message| message?.decode::<Sockets>()).collect()
}

fn endpoint(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(address.ip(), address.port())
}

#[test]
fn a_socket_is_decoded_field_by_field() {
    let replies = decode_all(&message(SOCK_DIAG_BY_FAMILY, 2, &ipv4_socket())).unwrap();
    let connection = Connection {
        local: endpoint("10.0.0.2:40000"),
        remote: endpoint("10.0.0.1:5432"),
        state: TcpState::Established,
        interface: 3,
        inode: Inode::new(0xfedc_ba98),
        cookie: Cookie(0x1122_3344_5566_7788),
        uid: 1000,
        cgroup: None,
        namespace: NamespaceId::OWN,
    };
    assert_eq!(replies, [Reply::Told(connection)]);
}

#[test]
fn the_cgroup_of_a_socket_is_found_among_attributes_in_a_dump_and_in_an_answer() {
    // struct nlattr: 8 bytes of INET_DIAG_CGROUP_ID, behind INET_DIAG_PAD, as the kernel aligns numbers of 64 bits.
    let attributes = |number: u64| {
        [
            &4_u16.to_ne_bytes()[..],
            &14_u16.to_ne_bytes(),
            &12_u16.to_ne_bytes(),
            &21_u16.to_ne_bytes(),
            &number.to_ne_bytes(),
        ]
        .concat()
    };
    let decode = |attributes: &[u8]| {
        let bytes = message(SOCK_DIAG_BY_FAMILY, 2, &[&ipv4_socket(), attributes].concat());
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        let cgroup = match message.decode::<Sockets>() {
            Ok(Reply::Told(connection)) => Ok(connection.cgroup),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        match message.decode::<Sightings>() {
            Ok(Reply::Told(sighting)) => assert_eq!(Ok(sighting.connection.cgroup), cgroup),
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert_eq!(Err(error), cgroup),
        }
        cgroup
    };
    assert_eq!(decode(&attributes(0x0102_0304_0506_0708)), Ok(CgroupId::new(0x0102_0304_0506_0708)));
    assert_eq!(decode(&[]), Ok(None), "an older kernel");
    assert_eq!(decode(&attributes(0)), Ok(None));
    assert_eq!(decode(&attributes(1)), Ok(None), "the root stands for any");
    let short = [&8_u16.to_ne_bytes()[..], &21_u16.to_ne_bytes(), &[1; 4]].concat();
    let error = decode(&short).unwrap_err();
    assert_eq!((error.expected, error.found), ("a cgroup id (8 bytes)", 4));
}

/// The socket with the attributes given behind it, as a survey takes it in.
fn decode_serving(socket: &[u8], attributes: &[u8]) -> Result<(Connection, Families), Malformed> {
    let bytes = message(SOCK_DIAG_BY_FAMILY, 2, &[&socket[..72], attributes].concat());
    match Messages::new(&bytes).next().unwrap()?.decode::<ServingSockets>()? {
        Reply::Told(told) => Ok(told),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_versions_of_ip_that_a_socket_serves_follow_from_its_family_its_address_and_whether_it_is_for_ipv6_alone()
 {
    let any = [0; 16];
    let mapped_any = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets();
    let [v6_only, dual_stack] = [1, 0].map(|value| attribute(11, &[value]));
    let cases = [
        (ipv4_socket(), &v6_only, Families::IPV4),
        (socket(2, 10, (any, 80), (any, 0)), &dual_stack, Families::IPV4),
        (mapped_socket(), &dual_stack, Families::IPV4),
        (ipv6_socket(), &dual_stack, Families::IPV6),
        (socket(10, 10, (any, 80), (any, 0)), &dual_stack, Families::BOTH),
        (socket(10, 10, (any, 80), (any, 0)), &v6_only, Families::IPV6),
        (socket(10, 10, (any, 80), (any, 0)), &Vec::new(), Families::BOTH),
        (socket(10, 7, (mapped_any, 80), (any, 0)), &dual_stack, Families::IPV4),
    ];
    for (told, attributes, expected) in cases {
        let (connection, families) = decode_serving(&told, attributes).unwrap();
        assert_eq!(families, expected, "{connection:?}");
        let dumped = decode_all(&message(SOCK_DIAG_BY_FAMILY, 2, &told)).unwrap();
        assert_eq!(dumped, [Reply::Told(connection)], "and all else is as in a dump");
    }
}

#[test]
fn no_byte_of_a_socket_or_of_what_follows_it_can_be_missing() {
    let attributes = [attribute(21, &7_u64.to_ne_bytes()), attribute(11, &[1])].concat();
    let whole = [&ipv6_socket()[..72], &attributes].concat();
    let decode = |length: usize| {
        let bytes = message(SOCK_DIAG_BY_FAMILY, 2, &whole[..length]);
        Messages::new(&bytes).next().unwrap().unwrap().decode::<ServingSockets>()
    };
    // Between attributes nothing is missing, nor is the padding behind the last.
    let complete = [72, 72 + 12, 72 + 12 + 5, 72 + 12 + 6, 72 + 12 + 7, 72 + 12 + 8];
    for length in 0..=whole.len() {
        assert_eq!(decode(length).is_ok(), complete.contains(&length), "{length}");
    }
    let error = decode_serving(&ipv6_socket(), &attribute(11, &[])).unwrap_err();
    assert_eq!((error.expected, error.found), ("whether it is for IPv6 alone (1 byte)", 0));
}

#[test]
fn every_message_of_a_reply_is_decoded_and_mapped_addresses_are_ipv4() {
    let replies = decode_all(&valid_reply()).unwrap();
    let [Reply::Told(ipv4), Reply::Told(mapped), Reply::Told(ipv6), Reply::Done] = replies[..] else {
        panic!("{replies:?}")
    };
    assert_eq!((mapped.local, mapped.remote), (ipv4.local, ipv4.remote));
    assert_eq!(mapped.state, TcpState::SynSent);
    assert_eq!((ipv6.local, ipv6.remote), (endpoint("[fe80::2]:40000"), endpoint("[2001:db8::1]:5432")));
    assert_eq!(ipv6.state, TcpState::CloseWait);
}

#[test]
fn a_socket_without_a_file_has_no_inode() {
    let mut payload = ipv4_socket();
    payload[68..72].fill(0);
    let replies = decode_all(&message(SOCK_DIAG_BY_FAMILY, 2, &payload)).unwrap();
    assert!(matches!(replies[..], [Reply::Told(Connection { inode: None, .. })]));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let changed = |place: usize, bytes: &[u8]| {
        let mut reply = valid_reply();
        reply[place..place + bytes.len()].copy_from_slice(bytes);
        decode_all(&reply).unwrap_err()
    };
    // The second message starts at 96: 16 bytes of header, 72 of socket, 8 of attribute.
    let family = changed(96 + 16, &[1]);
    assert_eq!((family.offset, family.found), (112, 1));
    for unknown in [0, 14] {
        let state = changed(96 + 17, &[unknown]);
        assert_eq!((state.offset, state.expected, state.found), (113, "a TCP state", unknown.into()));
    }
    let kind = changed(96 + 4, &16_u16.to_ne_bytes());
    assert_eq!((kind.offset, kind.found), (100, 16));
    assert_eq!(kind.to_string(), "byte 100: expected a message type of sock_diag, found 16");
}

#[test]
fn no_byte_of_a_socket_can_be_missing() {
    let payload = ipv4_socket();
    for length in 0..72 {
        let error = decode_all(&message(SOCK_DIAG_BY_FAMILY, 2, &payload[..length])).unwrap_err();
        assert!((HEADER_BYTES..HEADER_BYTES + 72).contains(&error.offset), "{length}: {error}");
    }
    assert!(decode_all(&message(SOCK_DIAG_BY_FAMILY, 2, &payload[..72])).is_ok());
}

/// What a request says, read back by the layouts of the kernel's headers: sequence, protocol and family, states, program.
fn decode_request(bytes: &[u8]) -> (u32, [u8; 2], u32, Vec<u8>) {
    let u16_at = |place: usize| u16::from_ne_bytes(bytes[place..place + 2].try_into().unwrap());
    let u32_at = |place: usize| u32::from_ne_bytes(bytes[place..place + 4].try_into().unwrap());
    assert_eq!(usize::try_from(u32_at(0)).unwrap(), bytes.len());
    assert_eq!((u16_at(4), u16_at(6)), (20, 0x301), "SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP");
    assert_eq!(u32_at(12), 0);
    assert_eq!(bytes[18..20], [0, 0], "no extension");
    assert_eq!(bytes[24..72], [0; 48], "no one socket");
    let program = if bytes.len() > 72 {
        assert_eq!(usize::from(u16_at(72)), bytes.len() - 72);
        assert_eq!(u16_at(74), 1, "INET_DIAG_REQ_BYTECODE");
        bytes[76..].to_vec()
    } else {
        Vec::new()
    };
    (u32_at(8), [bytes[17], bytes[16]], u32_at(20), program)
}

#[test]
fn a_program_longer_than_an_attribute_is_refused() {
    let states = TcpStates::of(&[TcpState::Established]);
    let encode = |bytes: usize| {
        let program = &vec![0; bytes];
        let transport = Transport::Tcp;
        DumpRequest { sequence: 1, transport, family: Family::Inet, states, program }.encode(&mut Vec::new())
    };
    assert!(encode(65_528).is_ok());
    assert_eq!(encode(65_532), Err(TooLong(65_532)));
}

proptest! {
    #[test]
    fn a_request_says_what_it_was_made_of(
        sequence in any::<u32>(),
        inet6 in any::<bool>(),
        udp in any::<bool>(),
        states in vec(0..13_usize, 0..13),
        words in vec(any::<[u8; 4]>(), 0..64),
    ) {
        let family = if inet6 { Family::Inet6 } else { Family::Inet };
        let states: Vec<TcpState> = states.into_iter().map(|index| TcpState::ALL[index]).collect();
        let program = words.concat();
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        let request =
            DumpRequest { sequence, transport, family, states: TcpStates::of(&states), program: &program };
        let mut out = Vec::new();
        request.encode(&mut out).unwrap();
        let bits = states.iter().fold(0, |bits, state| bits | 1 << state.number());
        let protocol_and_family = [if udp { 17 } else { 6 }, if inet6 { 10 } else { 2 }];
        prop_assert_eq!(decode_request(&out), (sequence, protocol_and_family, bits, program));
    }

    #[test]
    fn no_change_of_a_reply_panics_or_reads_past_its_end(
        changes in vec((0..308_usize, any::<u8>()), 1..12),
        length in 0..=308_usize,
    ) {
        let mut reply = valid_reply();
        for (place, byte) in changes {
            reply[place] = byte;
        }
        reply.truncate(length);
        if let Err(error) = decode_all(&reply) {
            prop_assert!(error.offset <= length);
        }
        for message in Messages::new(&reply).map_while(Result::ok) {
            match (message.decode::<ServingSockets>(), message.decode::<Sockets>()) {
                (Ok(Reply::Told((connection, _))), told) => prop_assert_eq!(told, Ok(Reply::Told(connection))),
                (Ok(_), told) => prop_assert!(!matches!(told, Ok(Reply::Told(_)))),
                (Err(error), _) => prop_assert!(error.offset <= length),
            }
        }
    }
}
