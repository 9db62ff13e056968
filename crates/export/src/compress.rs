//! Bodies: compressed for the way out, and back for the way in, within a bound.

use std::io::{self, Read, Write};

use bytes::Bytes;

use crate::config::Compression;

/// The largest window that an answer may ask for: 8 MiB, what RFC 8878, section 3.1.1.1.2, recommends to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The name of the encoding in `Content-Encoding` and `grpc-encoding`; `None` for plain bodies.
pub(crate) const fn encoding_name(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => None,
        Compression::Gzip => Some("gzip"),
        Compression::Zstd => Some("zstd"),
    }
}

/// Appends the body in its compressed form to `target`.
///
/// # Errors
/// When the compressor refuses: out of memory, in practice never.
pub fn encode_body(compression: Compression, body: &[u8], target: Vec<u8>) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => {
            let mut target = target;
            target.extend_from_slice(body);
            Ok(target)
        }
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(target, flate2::Compression::default());
            encoder.write_all(body)?;
            encoder.finish()
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(target, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            encoder.set_pledged_src_size(u64::try_from(body.len()).ok())?;
            encoder.write_all(body)?;
            encoder.finish()
        }
    }
}

/// What the body was before it was encoded as `encoding` says.
///
/// # Errors
/// When the encoding is unknown, the body is not of it, or it is larger than `limit`.
pub(crate) fn decode_body(encoding: &str, body: &Bytes, limit: usize) -> io::Result<Bytes> {
    if encoding.eq_ignore_ascii_case("identity") {
        return Ok(body.clone());
    }
    let mut plain = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    if encoding.eq_ignore_ascii_case("gzip") {
        flate2::read::MultiGzDecoder::new(body.as_ref()).take(bound).read_to_end(&mut plain)?;
    } else if encoding.eq_ignore_ascii_case("zstd") {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(body.as_ref())?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        decoder.take(bound).read_to_end(&mut plain)?;
    } else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "unknown content encoding"));
    }
    if plain.len() > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than an answer can be"));
    }
    Ok(plain.into())
}

#[cfg(test)]
mod tests;
