//! Under which names an endpoint on a loopback address answers.
//!
//! A page in a browser on this host may have a name that its owner lets lead to 127.0.0.1 once the page is loaded (DNS
//! rebinding): for the browser the endpoint is then of the page's own origin, and the page may read it. What the browser asks for
//! is that name, in `Host`; an address, and `localhost`, can be nobody's.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::HOST;
use http::{HeaderMap, Uri};

/// What is said to who asks by another name.
pub(super) const ADVICE: &str = "this endpoint is on a loopback address, and answers under an IP address or localhost alone, \
    lest a page in a browser reads it under a name of its own (DNS rebinding): scrape it as 127.0.0.1, [::1] or localhost, and \
    let a proxy before it send one of these as Host\n";

/// Whether a request names an address, or `localhost`, or nothing (RFC 9112, section 3.2).
pub(super) fn is_local(uri: &Uri, headers: &HeaderMap) -> bool {
    let named = headers.get_all(HOST).into_iter().all(|value| value.to_str().is_ok_and(is_local_name));
    named && uri.authority().is_none_or(|authority| is_local_name(authority.as_str()))
}

fn is_local_name(name: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let host = name.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(name, |(host, _)| host);
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => name.is_empty() || host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests;
