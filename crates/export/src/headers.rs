//! Headers as configured, made fit for the wire.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::{ExportConfig, Protocol};
use crate::error::ExportError;

/// What the transports set themselves, and what belongs to the connection (RFC 9110, section 7.6.1).
const RESERVED: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The configured headers as they go on the wire, marked as sensitive so that nothing prints or indexes them.
///
/// # Errors
/// [`ExportError::Header`] when a name or value is not allowed in HTTP, when the transport sets that header
/// itself, or, over gRPC, for binary metadata: a configured text has no binary form.
pub fn configured_headers(config: &ExportConfig) -> Result<HeaderMap, ExportError> {
    let mut headers = HeaderMap::with_capacity(config.headers.len());
    for (name, value) in &config.headers {
        let refuse = |problem| ExportError::Header { name: name.clone(), problem };
        let parsed = HeaderName::try_from(name.as_str())
            .map_err(|_invalid| refuse("the name has characters that HTTP does not allow"))?;
        if RESERVED.contains(&parsed.as_str()) {
            return Err(refuse("the exporter sets it itself"));
        }
        if config.protocol == Protocol::Grpc {
            if parsed.as_str().starts_with("grpc-") {
                return Err(refuse("names that begin with grpc- belong to the protocol"));
            }
            if parsed.as_str().ends_with("-bin") {
                return Err(refuse("binary metadata cannot be configured; use a name without -bin"));
            }
        }
        let mut value = HeaderValue::try_from(value.expose())
            .map_err(|_invalid| refuse("the value has characters that HTTP does not allow"))?;
        value.set_sensitive(true);
        headers.append(parsed, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests;
