//! Requests for one socket, and the answers with their `struct tcp_info`.

use std::time::Duration;

use vms_core::health::Vitals;
use vms_core::namespace::NamespaceId;

use super::*;

/// `struct tcp_info` as Linux 6.18 fills it, in 280 bytes.
fn tcp_info() -> Vec<u8> {
    [
        // State, congestion state, retransmits, probes, backoff, options, window scales, flags.
        &[1, 0, 9, 3, 9, 7, 0x77, 0][..],
        // Retransmission and delayed-acknowledgment time-outs; segment sizes.
        &[201_000_u32, 40_000, 1448, 1448].map(u32::to_ne_bytes).concat(),
        // Segments: unacknowledged, selectively so, lost, retransmitted, forward.
        &[11_u32, 12, 13, 14, 15].map(u32::to_ne_bytes).concat(),
        // Milliseconds since: data sent, acknowledgment sent, data received, acknowledgment received.
        &[21_u32, 22, 23, 24].map(u32::to_ne_bytes).concat(),
        // Path MTU, receive threshold; round-trip time and its variance, in microseconds.
        &[1500_u32, 64_076, 1234, 617].map(u32::to_ne_bytes).concat(),
        // Send threshold, window, advertised segment size, reordering, receiver's round trip and space.
        &[31_u32, 10, 1448, 3, 32, 33].map(u32::to_ne_bytes).concat(),
        // Retransmits of the connection's life.
        &41_u32.to_ne_bytes(),
        // Pacing rate and its maximum; bytes acknowledged and received.
        &[51_u64, u64::MAX, 7_000, 8_000_000_000].map(u64::to_ne_bytes).concat(),
        // Segments out and in, bytes not sent, least round trip, data segments in and out.
        &[61_u32, 62, 500, 63, 64, 65].map(u32::to_ne_bytes).concat(),
        // Delivery rate, times busy and limited.
        &[71_u64, 72, 73, 74].map(u64::to_ne_bytes).concat(),
        // Segments delivered.
        &[81_u32, 82].map(u32::to_ne_bytes).concat(),
        // Bytes sent, those of them sent again.
        &[9_000_000_300_u64, 300].map(u64::to_ne_bytes).concat(),
        // What came later.
        &[0xee; 64],
    ]
    .concat()
}

/// A socket with 4 bytes to be read and 2,500 to be acknowledged or sent, and its attributes.
fn sighted(attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = ipv4_socket();
    payload[56..60].copy_from_slice(&4_u32.to_ne_bytes());
    payload[60..64].copy_from_slice(&2_500_u32.to_ne_bytes());
    [payload, attributes.concat()].concat()
}

fn decode(payload: &[u8]) -> Result<Reply<Sighting>, Malformed> {
    let bytes = message(SOCK_DIAG_BY_FAMILY, 0, payload);
    // Not the padding that the fixture adds behind the end.
    let bytes = &bytes[..HEADER_BYTES + payload.len()];
    Messages::new(bytes).next().unwrap()?.decode::<Sightings>()
}

fn vitals(attributes: &[Vec<u8>]) -> Option<Vitals> {
    match decode(&sighted(attributes)).unwrap() {
        Reply::Told(sighting) => sighting.vitals,
        other => panic!("{other:?}"),
    }
}

/// What [`tcp_info`] and [`sighted`] say.
fn all_vitals() -> Vitals {
    Vitals {
        rtt: Some(Duration::from_micros(1234)),
        retransmits: 41,
        sent_bytes: 9_000_000_000,
        received_bytes: 8_000_000_000,
        since_data: Duration::from_millis(23),
        since_acknowledgment: Duration::from_millis(24),
        unacknowledged_bytes: 2_000,
        unsent_bytes: 500,
        unread_bytes: 4,
        unanswered_probes: 3,
    }
}

#[test]
fn a_sighting_is_decoded_field_by_field() {
    assert_eq!(tcp_info().len(), 280);
    let Reply::Told(sighting) = decode(&sighted(&[attribute(2, &tcp_info())])).unwrap() else { panic!() };
    let Ok(replies) = decode_all(&message(SOCK_DIAG_BY_FAMILY, 0, &ipv4_socket())) else { panic!() };
    assert_eq!(replies, [Reply::Told(sighting.connection)]);
    assert_eq!(sighting.vitals, Some(all_vitals()));
}

#[test]
fn tcp_info_is_found_among_other_attributes_and_whatever_flags_its_type_has() {
    // INET_DIAG_MARK, INET_DIAG_PAD, and one that does not exist yet.
    let others = [attribute(15, &[0; 4]), attribute(14, &[]), attribute(99, &[1, 2, 3])];
    for kind in [2, 2 | 0x8000, 2 | 0x4000] {
        let attributes = [&others[..], &[attribute(kind, &tcp_info())], &others].concat();
        assert_eq!(vitals(&attributes), Some(all_vitals()));
    }
    assert_eq!(vitals(&others), None);
}

#[test]
fn a_socket_that_is_no_connection_has_no_vitals() {
    let with_state = |state: u8, attributes: &[Vec<u8>]| {
        let mut payload = sighted(attributes);
        payload[1] = state;
        match decode(&payload).unwrap() {
            Reply::Told(sighting) => sighting.vitals,
            other => panic!("{other:?}"),
        }
    };
    // TIME_WAIT and a request socket come without; a listener's queues mean something else.
    assert_eq!(with_state(6, &[]), None);
    assert_eq!(with_state(12, &[]), None);
    assert_eq!(with_state(10, &[attribute(2, &tcp_info())]), None);
    assert_eq!(with_state(8, &[attribute(2, &tcp_info())]), Some(all_vitals()));
}

#[test]
fn an_older_kernel_tells_less() {
    let of = |bytes: usize| vitals(&[attribute(2, &tcp_info()[..bytes])]).unwrap();
    // Linux 4.19: bytes sent again; before, what was acknowledged stands for what was sent.
    assert_eq!(of(216), all_vitals());
    let linux_4_18 = Vitals { sent_bytes: 7_000, ..all_vitals() };
    assert_eq!(of(208), linux_4_18);
    assert_eq!(of(192), linux_4_18);
    // Linux 4.6: bytes not sent; before, the whole queue counts as sent.
    assert_eq!(of(148), linux_4_18);
    let linux_4_5 = Vitals { unacknowledged_bytes: 2_500, unsent_bytes: 0, ..linux_4_18 };
    assert_eq!(of(144), linux_4_5);
    // Linux 4.1: bytes at all.
    assert_eq!(of(136), linux_4_5);
    assert_eq!(of(104), Vitals { sent_bytes: 0, received_bytes: 0, ..linux_4_5 });
    let error = decode(&sighted(&[attribute(2, &tcp_info()[..100])])).unwrap_err();
    assert_eq!((error.expected, error.found), ("a tcp_info of 104 bytes or more", 100));
}

#[test]
fn a_time_not_measured_yet_is_none_and_no_difference_is_below_zero() {
    let mut info = tcp_info();
    info[68..72].fill(0);
    info[144..148].copy_from_slice(&2_501_u32.to_ne_bytes());
    info[208..216].copy_from_slice(&u64::MAX.to_ne_bytes());
    let changed = vitals(&[attribute(2, &info)]).unwrap();
    assert_eq!((changed.rtt, changed.unacknowledged_bytes, changed.sent_bytes), (None, 0, 0));
}

#[test]
fn a_lookup_asks_for_the_one_socket_and_its_tcp_info() {
    let connection = Connection {
        local: endpoint("10.0.0.2:40000"),
        remote: endpoint("[::ffff:10.0.0.1]:5432"),
        state: TcpState::Established,
        interface: 3,
        inode: None,
        cookie: Cookie(0x1122_3344_5566_7788),
        uid: 1000,
        cgroup: None,
        namespace: NamespaceId::OWN,
    };
    let mut out = vec![0xaa];
    LookupRequest { sequence: 0x0102_0304, connection: &connection }.encode(&mut out);
    let expected = [
        // What was there.
        &[0xaa][..],
        // struct nlmsghdr: 72 bytes, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST alone, sequence, port id.
        &72_u32.to_ne_bytes(),
        &20_u16.to_ne_bytes(),
        &1_u16.to_ne_bytes(),
        &0x0102_0304_u32.to_ne_bytes(),
        &[0; 4],
        // struct inet_diag_req_v2: AF_INET, TCP, the bit of INET_DIAG_INFO, padding; any state.
        &[2, 6, 2, 0],
        &[0xff; 4],
        // struct inet_diag_sockid: ports and addresses in network order.
        &[0x9c, 0x40, 0x15, 0x38],
        &[10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // Interface; cookie, the low word first.
        &3_u32.to_ne_bytes(),
        &0x5566_7788_u32.to_ne_bytes(),
        &0x1122_3344_u32.to_ne_bytes(),
    ]
    .concat();
    assert_eq!(out, expected);
}

proptest! {
    /// A request names a socket by the same struct as an answer.
    #[test]
    fn a_lookup_of_what_was_told_names_the_same_socket(
        local in (any::<[u8; 16]>(), any::<u16>()),
        remote in (any::<[u8; 16]>(), any::<u16>()),
        inet in any::<bool>(),
    ) {
        let of_family = |(bytes, port): ([u8; 16], u16)| {
            (if inet { in_first_word(*bytes.first_chunk().unwrap()) } else { bytes }, port)
        };
        let told = socket(if inet { 2 } else { 10 }, 1, of_family(local), of_family(remote));
        let Reply::Told(Sighting { connection, .. }) = decode(&told).unwrap() else { panic!() };
        let mut out = Vec::new();
        LookupRequest { sequence: 1, connection: &connection }.encode(&mut out);
        prop_assert_eq!(out[16], told[0]);
        prop_assert_eq!(&out[24..72], &told[4..52]);
    }

    #[test]
    fn a_truncated_answer_errs_or_lacks_what_was_cut_off(length in 0..=364_usize) {
        let payload = sighted(&[attribute(2, &tcp_info())]);
        prop_assert_eq!(payload.len(), 364);
        match decode(&payload[..length]) {
            Ok(Reply::Told(sighting)) => {
                prop_assert!([72, 77, 78, 79, 80, 364].contains(&length), "cut at {length}");
                prop_assert_eq!(sighting.vitals, (length == 364).then(all_vitals));
            }
            Ok(other) => prop_assert!(false, "{other:?}"),
            Err(error) => prop_assert!(error.offset <= HEADER_BYTES + length),
        }
    }

    #[test]
    fn no_change_of_an_answer_panics_or_reads_past_its_end(
        changes in vec((0..388_usize, any::<u8>()), 1..12),
        length in 0..=388_usize,
    ) {
        let payload = sighted(&[attribute(15, &[0; 4]), attribute(2, &tcp_info())]);
        let mut bytes = message(SOCK_DIAG_BY_FAMILY, 0, &payload);
        prop_assert_eq!(bytes.len(), 388);
        for (place, byte) in changes {
            bytes[place] = byte;
        }
        bytes.truncate(length);
        for message in Messages::new(&bytes) {
            if let Err(error) = message.and_then(|message| message.decode::<Sightings>()) {
                prop_assert!(error.offset <= length);
            }
        }
    }

    #[test]
    fn no_attributes_panic(attributes in vec(any::<u8>(), 0..256)) {
        if let Err(error) = decode(&[&ipv4_socket()[..72], &attributes].concat()) {
            prop_assert!(error.offset >= HEADER_BYTES + 72);
        }
    }
}
