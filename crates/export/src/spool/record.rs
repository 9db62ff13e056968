//! What a file of the spool holds: one request, and what has to be known to send it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use crate::config::Compression;

/// The first bytes of every record.
const MAGIC: [u8; 8] = *b"VMSSPOOL";

/// The version of the format that is written, and the newest that can be read.
const VERSION: u16 = 1;

/// Bytes before the body: magic (8), version (2), encoding (1), zero (1), checksum (4), points (8), milliseconds since 1970
/// (8), length of the body (8). Numbers are little-endian.
const HEADER: usize = 40;

/// Where the bytes that the checksum covers, and that lie behind it, begin.
const AFTER_CHECKSUM: usize = 16;

/// One request, as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// The data points in it.
    pub points: u64,
    /// When it was handed over, by the clock of that time; to the millisecond.
    pub enqueued: SystemTime,
    /// How the body is compressed.
    pub compression: Compression,
    /// An `ExportMetricsServiceRequest`, compressed.
    pub body: Cow<'a, [u8]>,
}

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A later version of the agent wrote it.
    #[error("record has format version {0}, and this agent reads up to version {VERSION}")]
    Newer(u16),
    /// Bytes were changed or are missing, or it never was a record.
    #[error("record is damaged: {0}")]
    Damaged(&'static str),
}

/// The bytes of a record.
#[must_use]
pub fn encode_record(record: &Record<'_>) -> Vec<u8> {
    let length = u64::try_from(record.body.len()).unwrap_or(u64::MAX);
    let encoding = match record.compression {
        Compression::None => 0,
        Compression::Gzip => 1,
        Compression::Zstd => 2,
    };
    let mut rest = Vec::with_capacity(HEADER + record.body.len());
    rest.extend_from_slice(&MAGIC);
    rest.extend_from_slice(&VERSION.to_le_bytes());
    rest.extend_from_slice(&[encoding, 0]);
    rest.extend_from_slice(&[0; 4]);
    rest.extend_from_slice(&record.points.to_le_bytes());
    rest.extend_from_slice(&unix_milliseconds(record.enqueued).to_le_bytes());
    rest.extend_from_slice(&length.to_le_bytes());
    rest.extend_from_slice(&record.body);
    let checksum = checksum(&rest).to_le_bytes();
    if let Some(place) = rest.get_mut(AFTER_CHECKSUM - checksum.len()..AFTER_CHECKSUM) {
        place.copy_from_slice(&checksum);
    }
    rest
}

/// Reads a record. Total over any bytes: it never panics, and allocates nothing.
///
/// # Errors
/// When the bytes are not exactly one undamaged record of a version that this agent knows.
pub fn decode_record(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(RecordError::Damaged("it is cut short"))?;
    if *magic != MAGIC {
        return Err(RecordError::Damaged("it does not begin as one"));
    }
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(RecordError::Damaged("it is cut short"))?;
    let version = u16::from_le_bytes(*version);
    if version > VERSION {
        return Err(RecordError::Newer(version));
    }
    let (&[encoding, zero], rest) =
        rest.split_first_chunk::<2>().ok_or(RecordError::Damaged("it is cut short"))?;
    let (stated, rest) = rest.split_first_chunk::<4>().ok_or(RecordError::Damaged("it is cut short"))?;
    let (points, rest) = rest.split_first_chunk::<8>().ok_or(RecordError::Damaged("it is cut short"))?;
    let (milliseconds, rest) =
        rest.split_first_chunk::<8>().ok_or(RecordError::Damaged("it is cut short"))?;
    let (length, body) = rest.split_first_chunk::<8>().ok_or(RecordError::Damaged("it is cut short"))?;
    if usize::try_from(u64::from_le_bytes(*length)) != Ok(body.len()) {
        return Err(RecordError::Damaged("it is not as long as it says"));
    }
    if u32::from_le_bytes(*stated) != checksum(bytes) {
        return Err(RecordError::Damaged("its checksum does not match"));
    }
    let compression = match (version, encoding, zero) {
        (VERSION, 0, 0) => Compression::None,
        (VERSION, 1, 0) => Compression::Gzip,
        (VERSION, 2, 0) => Compression::Zstd,
        _ => return Err(RecordError::Damaged("its header makes no sense")),
    };
    Ok(Record {
        points: u64::from_le_bytes(*points),
        enqueued: from_unix_milliseconds(u64::from_le_bytes(*milliseconds)),
        compression,
        body: Cow::Borrowed(body),
    })
}

/// CRC-32 (IEEE 802.3) over all but the checksum's own place.
fn checksum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record.get(..AFTER_CHECKSUM - 4).unwrap_or_default());
    hasher.update(record.get(AFTER_CHECKSUM..).unwrap_or_default());
    hasher.finalize()
}

/// Milliseconds since 1970; 0 for what was before.
pub(crate) fn unix_milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn from_unix_milliseconds(milliseconds: u64) -> SystemTime {
    let since = Duration::from_millis(milliseconds);
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
