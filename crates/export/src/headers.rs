//! Headers as configured, made fit for the wire.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::ExportConfig;
use crate::error::ExportError;

/// What the transports set themselves, and what belongs to the connection (RFC 9110, section 7.6.1).
const RESERVED: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Reads the name of a header that may be configured. What belongs to gRPC may not over HTTP either: the same configuration
/// has to serve after the protocol was changed.
///
/// # Errors
/// What is wrong, without the name: what is none may be a secret that stands in the wrong place.
pub fn parse_header_name(name: &str) -> Result<HeaderName, &'static str> {
    let parsed = HeaderName::try_from(name).map_err(|_invalid| "not a header name")?;
    if RESERVED.contains(&parsed.as_str()) {
        return Err("the agent sets this header itself, or it belongs to the connection");
    }
    if parsed.as_str().starts_with("grpc-") {
        return Err("names that begin with grpc- belong to the protocol");
    }
    if parsed.as_str().ends_with("-bin") {
        return Err("binary metadata cannot be configured: use a name that does not end in -bin");
    }
    Ok(parsed)
}

/// The configured headers as they go on the wire, marked as sensitive so that nothing prints or indexes them.
///
/// # Errors
/// [`ExportError::Header`] when [`parse_header_name`] refuses a name, or a value is not allowed in HTTP.
pub fn configured_headers(config: &ExportConfig) -> Result<HeaderMap, ExportError> {
    let mut headers = HeaderMap::with_capacity(config.headers.len());
    for (name, value) in &config.headers {
        let refuse = |problem| ExportError::Header { name: name.clone(), problem };
        let parsed = parse_header_name(name).map_err(refuse)?;
        let mut value = HeaderValue::try_from(value.expose())
            .map_err(|_invalid| refuse("the value has characters that HTTP does not allow"))?;
        value.set_sensitive(true);
        headers.append(parsed, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests;
