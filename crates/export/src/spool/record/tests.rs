use proptest::prelude::*;

use super::*;

/// Version 1, as it has to stay readable: zstd, 3 points, 1,700,000,000,123 ms since 1970, body `body`.
const WRITTEN: &[u8] = b"VMSSPOOL\x01\0\x02\0\x99\xb6\x94\xac\x03\0\0\0\0\0\0\0\x7b\x68\xe5\xcf\x8b\x01\0\0\x04\0\0\0\0\0\0\0body";

fn record() -> Record<'static> {
    Record {
        points: 3,
        enqueued: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        compression: Compression::Zstd,
        body: Cow::Borrowed(b"body"),
    }
}

#[test]
fn the_format_of_version_1_stays_as_it_is() {
    assert_eq!(encode_record(&record()), WRITTEN);
    assert_eq!(decode_record(WRITTEN), Ok(record()));
}

#[test]
fn a_newer_record_is_told_from_a_damaged_one() {
    let mut newer = encode_record(&record());
    newer[8] = 2;
    newer.truncate(20);
    assert_eq!(decode_record(&newer), Err(RecordError::Newer(2)));
    assert!(matches!(decode_record(b"#!/bin/sh\n"), Err(RecordError::Damaged(_))));
}

proptest! {
    #[test]
    fn a_record_comes_back_as_it_was(
        points: u64,
        milliseconds in 0..u64::MAX / 2_000_000,
        kind in 0usize..3,
        body: Vec<u8>,
    ) {
        let compression = [Compression::None, Compression::Gzip, Compression::Zstd][kind];
        let enqueued = from_unix_milliseconds(milliseconds);
        let record = Record { points, enqueued, compression, body: body.into() };
        let bytes = encode_record(&record);
        prop_assert_eq!(decode_record(&bytes), Ok(record));
    }

    #[test]
    fn no_damage_goes_unnoticed(body: Vec<u8>, at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
        let whole = encode_record(&Record { body: body.into(), ..record() });
        let mut flipped = whole.clone();
        let at = at.index(whole.len());
        flipped[at] ^= 1 << bit;
        prop_assert!(decode_record(&flipped).is_err());
        prop_assert!(decode_record(&whole[..cut.index(whole.len())]).is_err());
        let longer = [&whole[..], b"x"].concat();
        prop_assert!(decode_record(&longer).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, behind_magic: bool) {
        let bytes = if behind_magic { [&MAGIC[..], &[1, 0], &bytes].concat() } else { bytes };
        let _any_answer = decode_record(&bytes);
    }
}
