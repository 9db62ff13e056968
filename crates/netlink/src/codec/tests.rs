use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::script::{PORT_ID, SEQUENCE, attribute, done, done_with, message, overrun, refusal};

/// A family whose messages tell the first byte of each of their attributes, by its type.
enum Firsts {}

type Told = Vec<(u16, u8)>;

impl Codec for Firsts {
    type Told = Told;
    const KIND: u16 = 20;
    const EXPECTED: &'static str = "a message type of tests";

    fn decode(mut payload: Cursor<'_>) -> Result<Told, Malformed> {
        let mut told = Vec::new();
        while !payload.is_empty() {
            let (kind, mut value) = payload.take_attribute()?;
            let [first] = value.take("a byte")?;
            told.push((kind, first));
        }
        Ok(told)
    }
}

/// Two attributes, the first of them padded.
fn payload() -> Vec<u8> {
    [attribute(1, &[11, 0, 0, 0, 0]), attribute(2, &[22, 0, 0, 0])].concat()
}

/// What [`payload`] says.
fn firsts() -> Reply<Told> {
    Reply::Told(vec![(1, 11), (2, 22)])
}

/// A reply of three messages of 36 bytes, and its end.
fn valid_reply() -> Vec<u8> {
    let one = message(20, 2, &payload());
    [&one[..], &one, &one, &done()].concat()
}

fn decode_all(datagram: &[u8]) -> Result<Vec<Reply<Told>>, Malformed> {
    Messages::new(datagram).map(|message| message?.decode::<Firsts>()).collect()
}

#[test]
fn every_message_of_a_reply_is_decoded() {
    assert_eq!(decode_all(&valid_reply()).unwrap(), [firsts(), firsts(), firsts(), Reply::Done]);
}

#[test]
fn an_errno_is_seen_in_a_verdict_and_in_the_end_of_a_dump() {
    let verdict = |errno| decode_all(&refusal(errno));
    let end = |errno| decode_all(&done_with(errno));
    assert_eq!(verdict(22), Ok(vec![Reply::Failed { errno: 22, refused: true }]));
    assert_eq!(verdict(0), Ok(vec![Reply::Nothing]));
    assert_eq!(end(2), Ok(vec![Reply::Failed { errno: 2, refused: false }]));
    assert_eq!(end(4095), Ok(vec![Reply::Failed { errno: 4095, refused: false }]));
    assert_eq!(end(0), Ok(vec![Reply::Done]));
    for senseless in [-1, i32::MIN, i32::MAX, 4096] {
        assert!(verdict(senseless).is_err() && end(senseless).is_err(), "{senseless}");
    }
    assert!(decode_all(&message(DONE, 2, &[])).is_err(), "an end without its errno");
}

#[test]
fn lost_data_and_padding_are_told_apart() {
    assert_eq!(decode_all(&overrun()), Ok(vec![Reply::Lost]));
    assert_eq!(decode_all(&message(NOOP, 0, &[])), Ok(vec![Reply::Nothing]));
    assert_eq!(decode_all(&encode_noop()), Ok(vec![Reply::Nothing]));
}

#[test]
fn a_message_belongs_to_one_request_of_one_socket() {
    let reply = valid_reply();
    let message = Messages::new(&reply).next().unwrap().unwrap();
    assert!(message.answers(SEQUENCE, PORT_ID));
    assert!(!message.answers(SEQUENCE - 1, PORT_ID));
    assert!(!message.answers(SEQUENCE, PORT_ID + 1));
    assert!(!message.answers(SEQUENCE, 0));
}

#[test]
fn an_answer_tells_which_request_it_answers() {
    let bytes = message(20, 0, &payload());
    let message = Messages::new(&bytes).next().unwrap().unwrap();
    assert_eq!(message.answered(SEQUENCE, 1, PORT_ID), Some(0));
    assert_eq!(message.answered(SEQUENCE - 3, 4, PORT_ID), Some(3));
    assert_eq!(message.answered(SEQUENCE - 3, 3, PORT_ID), None, "a later request");
    assert_eq!(message.answered(SEQUENCE + 1, 64, PORT_ID), None, "an earlier request");
    assert_eq!(message.answered(SEQUENCE, 1, PORT_ID + 1), None, "another socket");
    // Sequence numbers go on at 0.
    assert_eq!(message.answered(u32::MAX - 1, 64, PORT_ID), Some(9));
}

#[test]
fn an_interrupted_dump_is_flagged_on_any_message() {
    for kind in [20, DONE] {
        let flagged = message(kind, 2 | 0x10, &payload());
        assert!(Messages::new(&flagged).next().unwrap().unwrap().interrupted());
        let unflagged = message(kind, 2, &payload());
        assert!(!Messages::new(&unflagged).next().unwrap().unwrap().interrupted());
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let changed = |place: usize, bytes: &[u8]| {
        let mut reply = valid_reply();
        reply[place..place + bytes.len()].copy_from_slice(bytes);
        decode_all(&reply).unwrap_err()
    };
    // The second message starts at 36, and its first attribute at 52.
    for length in [0, 15, 2 * 36 + 20 + 1, u32::MAX] {
        let error = changed(36, &length.to_ne_bytes());
        assert_eq!((error.offset, error.found), (36, length.into()));
    }
    let kind = changed(36 + 4, &16_u16.to_ne_bytes());
    assert_eq!((kind.offset, kind.found), (40, 16));
    assert_eq!(kind.to_string(), "byte 40: expected a message type of tests, found 16");
    for length in [0, 3, 21, u16::MAX] {
        let error = changed(52, &length.to_ne_bytes());
        assert_eq!((error.offset, error.found), (52, length.into()), "{error}");
    }
    // The attribute's header is cut off.
    let cut = message(20, 0, &[8, 0, 2]);
    let error = decode_all(&cut).unwrap_err();
    assert_eq!(error.to_string(), "byte 16: expected an attribute header (4 bytes), found 3");
}

#[test]
fn the_flags_of_an_attribute_are_no_part_of_its_type() {
    for flags in [0, 0x8000, 0x4000, 0xc000] {
        let reply = message(20, 0, &attribute(5 | flags, &[1]));
        assert_eq!(decode_all(&reply), Ok(vec![Reply::Told(vec![(5, 1)])]));
    }
}

#[test]
fn a_last_message_and_a_last_attribute_without_their_padding_are_whole() {
    let mut bytes = message(NOOP, 0, &[1]);
    assert_eq!(bytes.len(), 20);
    bytes.truncate(17);
    assert_eq!(decode_all(&bytes), Ok(vec![Reply::Nothing]));
    let unpadded = message(20, 0, &attribute(1, &[7])[..5]);
    assert_eq!(decode_all(&unpadded), Ok(vec![Reply::Told(vec![(1, 7)])]));
}

#[test]
fn a_field_is_found_by_its_place_and_only_whole() {
    let cursor = Cursor::new(&[1, 2, 3, 4]);
    assert_eq!((cursor.field(1), cursor.field::<2>(3), cursor.field::<1>(5)), (Some([2, 3]), None, None));
}

#[test]
fn requests_are_encoded_one_behind_the_other_with_attributes_in_attributes() {
    let mut out = vec![0xaa];
    let encoded = encode_message(&mut out, 20, REQUEST_DUMP, SEQUENCE, |out| {
        out.extend([1, 2, 3, 4]);
        encode_nested(out, 5, |out| {
            encode_attribute(out, 6, &[1])?;
            encode_attribute(out, 7, &[2; 4])
        })
    });
    assert_eq!(encoded, Ok(()));
    encode_message(&mut out, 21, REQUEST, SEQUENCE + 1, |_out| ());
    let nested = attribute(5 | 0x8000, &[attribute(6, &[1]), attribute(7, &[2; 4])].concat());
    let mut first = message(20, 0x301, &[&[1, 2, 3, 4], &nested[..]].concat());
    let mut second = message(21, 1, &[]);
    second[8..12].copy_from_slice(&(SEQUENCE + 1).to_ne_bytes());
    for bytes in [&mut first, &mut second] {
        bytes[12..16].fill(0);
    }
    assert_eq!(out, [&[0xaa], &first[..], &second].concat());
}

#[test]
fn a_value_longer_than_an_attribute_is_refused() {
    let mut out = Vec::new();
    assert_eq!(encode_attribute(&mut out, 1, &vec![0; 65_531]), Ok(()));
    assert_eq!(out.len(), 65_536);
    assert_eq!(encode_attribute(&mut out, 1, &vec![0; 65_532]), Err(TooLong(65_532)));
    let nested = |out: &mut Vec<u8>| encode_attribute(out, 2, &vec![0; 65_528]);
    assert_eq!(encode_nested(&mut out, 1, nested), Err(TooLong(65_532)));
}

proptest! {
    #[test]
    fn a_truncated_reply_errs_or_holds_fewer_messages(length in 0..128_usize) {
        let reply = valid_reply();
        prop_assert_eq!(reply.len(), 128);
        let whole = decode_all(&reply).unwrap();
        match decode_all(&reply[..length]) {
            Ok(replies) => {
                prop_assert!(length % 36 == 0, "cut within a message at {length}");
                prop_assert_eq!(&replies[..], &whole[..length / 36]);
            }
            Err(error) => prop_assert!(error.offset <= length && length % 36 != 0),
        }
    }

    #[test]
    fn no_change_of_a_reply_panics_or_reads_past_its_end(
        changes in vec((0..128_usize, any::<u8>()), 1..12),
        length in 0..=128_usize,
    ) {
        let mut reply = valid_reply();
        for (place, byte) in changes {
            reply[place] = byte;
        }
        reply.truncate(length);
        if let Err(error) = decode_all(&reply) {
            prop_assert!(error.offset <= length);
        }
        // Every message takes at least its header off the datagram: decoding ends.
        prop_assert!(Messages::new(&reply).count() <= length / HEADER_BYTES + 1);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..512)) {
        let messages = Messages::new(&bytes).flatten();
        let decoded = messages.filter(|message| message.decode::<Firsts>().is_ok()).count();
        prop_assert!(decoded <= bytes.len() / HEADER_BYTES);
    }
}
