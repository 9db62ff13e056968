//! The configured endpoint: whether anything can be sent there, and how it is shown without its secrets.

use http::Uri;
use http::uri::Scheme;

use crate::config::{ExportConfig, Protocol};
use crate::error::ExportError;

/// Whether the endpoint can be sent to at all.
///
/// # Errors
/// [`ExportError::Endpoint`] without a scheme or host, with credentials in it, or with a path where gRPC has none.
pub(crate) fn check_endpoint(config: &ExportConfig) -> Result<(), ExportError> {
    let refuse = |problem| Err(ExportError::Endpoint { endpoint: shown(&config.endpoint), problem });
    let uri = &config.endpoint;
    if uri.scheme() != Some(&Scheme::HTTP) && uri.scheme() != Some(&Scheme::HTTPS) {
        return refuse("begins neither with http:// nor with https://");
    }
    if uri.host().is_none_or(str::is_empty) {
        return refuse("names no host");
    }
    if uri.port_u16() == Some(0) || has_bad_port(uri) {
        return refuse("has no port between 1 and 65535");
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return refuse("holds credentials; send them in an authorization header");
    }
    if config.protocol == Protocol::Grpc && (uri.path().len() > 1 || uri.query().is_some()) {
        return refuse("has a path, and gRPC takes none; leave it away, or set the protocol http/protobuf");
    }
    Ok(())
}

/// Whether TLS is wanted.
pub(crate) fn is_secure(endpoint: &Uri) -> bool {
    endpoint.scheme() == Some(&Scheme::HTTPS)
}

/// Where to connect: the host without the brackets of an IPv6 address, the port or that of the scheme.
pub(crate) fn host_and_port(endpoint: &Uri) -> (&str, u16) {
    let host = endpoint.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    (host, endpoint.port_u16().unwrap_or(if is_secure(endpoint) { 443 } else { 80 }))
}

/// The endpoint as messages show it: without credentials and without the query, where API keys are seen.
#[must_use]
pub fn shown(endpoint: &Uri) -> String {
    let authority = endpoint.authority().map_or("", http::uri::Authority::as_str);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path = if endpoint.path() == "/" { "" } else { endpoint.path() };
    match endpoint.scheme_str() {
        Some(scheme) => format!("{scheme}://{host}{path}"),
        None => format!("{host}{path}"),
    }
}

/// Whether something that is no port stands where one would: `http` itself lets `host:` and `host:99999` pass.
fn has_bad_port(endpoint: &Uri) -> bool {
    let authority = endpoint.authority().map_or("", http::uri::Authority::as_str);
    let after_host = authority.rsplit(']').next().unwrap_or_default();
    after_host.contains(':') && endpoint.port_u16().is_none()
}

#[cfg(test)]
mod tests;
