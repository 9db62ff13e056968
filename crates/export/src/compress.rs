//! Bodies: compressed for the way out, and back for the way in, within a bound.

use std::io::{self, Cursor, Read, Write};

use bytes::Bytes;

use crate::config::Compression;

/// What gzip does best for requests: 6, the usual level, takes twice the time of 3 to save a twentieth of the bytes.
const GZIP_LEVEL: u32 = 3;

/// The fastest of zstd's ordinary levels: 3, the usual one, takes longer and saves nothing with requests.
const ZSTD_LEVEL: i32 = 1;

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

/// Compresses bodies, one after the other.
pub(crate) struct Compressor {
    compression: Compression,
    /// Made for the first body, and kept: to make it, with some 100 KiB of tables, takes 38 % of the time of a full
    /// request, and more of that of a small one. With gzip it would be 2 %.
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    pub(crate) const fn new(compression: Compression) -> Self {
        Self { compression, zstd: None }
    }

    pub(crate) const fn compression(&self) -> Compression {
        self.compression
    }

    /// Appends the body in its compressed form to `target`, which has no room to spare then: it may have to wait long.
    ///
    /// # Errors
    /// When the compressor refuses: out of memory, in practice never.
    pub(crate) fn encode(&mut self, body: &[u8], mut target: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut encoded = match self.compression {
            Compression::None => {
                target.reserve_exact(body.len());
                target.extend_from_slice(body);
                target
            }
            Compression::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = flate2::write::GzEncoder::new(target, level);
                encoder.write_all(body)?;
                encoder.finish()?
            }
            Compression::Zstd => {
                let compressor = match self.zstd.take() {
                    Some(kept) => self.zstd.insert(kept),
                    None => self.zstd.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
                };
                // At once rather than as a stream, which would copy the body into a window of its own.
                target.reserve_exact(zstd::compress_bound(body.len()));
                let end = u64::try_from(target.len()).map_err(io::Error::other)?;
                let mut target = Cursor::new(target);
                target.set_position(end);
                compressor.compress_to_buffer(body, &mut target)?;
                target.into_inner()
            }
        };
        encoded.shrink_to_fit();
        Ok(encoded)
    }
}

/// Appends the body in its compressed form to `target`. For bodies that are few.
///
/// # Errors
/// When the compressor refuses: out of memory, in practice never.
pub fn encode_body(compression: Compression, body: &[u8], target: Vec<u8>) -> io::Result<Vec<u8>> {
    Compressor::new(compression).encode(body, target)
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
