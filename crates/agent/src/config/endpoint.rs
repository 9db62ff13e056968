//! The URLs to which OTLP goes (OpenTelemetry protocol exporter specification, "Endpoint URLs for OTLP/HTTP").

use http::Uri;

use super::settings::Protocol;

/// Where to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// The collector; with OTLP/HTTP the base to which `/v1/traces` and the like are appended.
    pub(super) base: Uri,
    /// Where metrics go.
    pub(super) metrics: Uri,
}

/// The collector on this host.
pub(super) const fn default_endpoint(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Grpc => "http://localhost:4317",
        Protocol::HttpProtobuf => "http://localhost:4318",
    }
}

/// What is allowed, for people.
pub(super) const fn allowed(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Grpc => {
            "http://host:port, https://host:port, or host:port for https (http if `export.insecure`)"
        }
        Protocol::HttpProtobuf => "a URL such as http://host:4318 or https://host/otlp",
    }
}

/// The path of metrics under a base URL.
const METRICS_PATH: &str = "/v1/metrics";

/// Reads `endpoint`, and tells where metrics go when nothing else says so.
///
/// # Errors
/// What is wrong with it, without the text itself.
pub(super) fn parse_base(protocol: Protocol, text: &str, insecure: bool) -> Result<Endpoints, String> {
    let base = parse(protocol, text, insecure)?;
    if base.query().is_some() {
        return Err("a base URL has no query: use `metricsEndpoint` for a whole URL".to_owned());
    }
    let metrics = match protocol {
        Protocol::Grpc => base.clone(),
        Protocol::HttpProtobuf => {
            let mut parts = base.clone().into_parts();
            let path = format!("{}{METRICS_PATH}", base.path().trim_end_matches('/'));
            parts.path_and_query =
                Some(path.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?);
            Uri::from_parts(parts).map_err(|error| error.to_string())?
        }
    };
    Ok(Endpoints { base, metrics })
}

/// Reads `metricsEndpoint`, which is taken as it is.
///
/// # Errors
/// What is wrong with it, without the text itself.
pub(super) fn parse(protocol: Protocol, text: &str, insecure: bool) -> Result<Uri, String> {
    let whole = match (text.split_once("://"), protocol) {
        (Some((scheme, rest)), _) => {
            let scheme = scheme.to_ascii_lowercase();
            if !["http", "https"].contains(&scheme.as_str()) {
                return Err("the scheme is neither http nor https".to_owned());
            }
            format!("{scheme}://{rest}")
        }
        (None, Protocol::Grpc) => format!("{}://{text}", if insecure { "http" } else { "https" }),
        (None, Protocol::HttpProtobuf) => return Err("does not begin with http:// or https://".to_owned()),
    };
    if whole.contains('#') {
        return Err("a fragment (#) is never sent".to_owned());
    }
    let uri: Uri = whole.parse().map_err(|_invalid: http::uri::InvalidUri| "not a URL".to_owned())?;
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.contains('@') {
        return Err("holds a user or password: use `export.headers`".to_owned());
    }
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        return Err("names no host".to_owned());
    }
    let port = authority.strip_prefix(host).unwrap_or_default();
    if !port.is_empty() && uri.port_u16().is_none_or(|port| port == 0) {
        return Err("the port is not one from 1 to 65535".to_owned());
    }
    if protocol == Protocol::Grpc && (uri.path() != "/" || uri.query().is_some()) {
        return Err("gRPC takes no path: set `export.protocol` to http/protobuf to send to a URL".to_owned());
    }
    Ok(uri)
}

#[cfg(test)]
mod tests;
