//! Records of the spool, as they lie on the disk.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use vms_export::config::Compression;
use vms_export::spool::{Record, RecordError, decode_record, encode_record};

use crate::bounded::bounded;
use crate::cursor::Cursor;

/// The bytes as a file of the spool, the same with a checksum that holds, and a record that is made of them.
pub fn spool_records(data: &[u8]) {
    check_file(data);
    check_file(&with_checksum(data));
    check_record(&mut Cursor(data));
}

/// What is read is what was written: only one text stands for a record.
fn check_file(bytes: &[u8]) {
    match bounded(bytes, 0, 0, || decode_record(bytes)) {
        Ok(record) => {
            assert_eq!(encode_record(&record), bytes);
            assert!(matches!(record.body, Cow::Borrowed(_)), "a body may be large");
        }
        Err(RecordError::Newer(version)) => {
            assert_eq!(bytes.get(8..10), Some(version.to_le_bytes().as_slice()));
            assert!(version > 1);
        }
        Err(RecordError::Damaged(problem)) => assert!(!problem.is_empty()),
    }
}

/// CRC-32 (IEEE 802.3) bit by bit, over all but its own place: no fuzzer guesses it.
fn with_checksum(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if bytes.len() < 16 {
        return bytes;
    }
    let mut crc = u32::MAX;
    for byte in bytes[..12].iter().chain(&bytes[16..]) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    bytes[12..16].copy_from_slice(&(!crc).to_le_bytes());
    bytes
}

/// A record comes back whole, and not from any beginning of it or with any byte changed.
fn check_record(cursor: &mut Cursor<'_>) {
    let [form, place, flip] = cursor.array();
    let record = Record {
        points: u64::from_le_bytes(cursor.array()),
        enqueued: SystemTime::UNIX_EPOCH + Duration::from_millis(u64::from_le_bytes(cursor.array()) >> 1),
        compression: [Compression::None, Compression::Gzip, Compression::Zstd][usize::from(form) % 3],
        body: cursor.rest().into(),
    };
    let bytes = encode_record(&record);
    assert_eq!(decode_record(&bytes).as_ref(), Ok(&record));
    let place = usize::from(place) % bytes.len();
    assert!(decode_record(&bytes[..place]).is_err());
    if flip != 0 {
        let mut changed = bytes;
        changed[place] ^= flip;
        assert!(decode_record(&changed).is_err(), "byte {place} ^ {flip}");
    }
}
