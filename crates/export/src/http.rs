//! OTLP/HTTP with binary protobuf bodies (OTLP specification, "OTLP/HTTP").

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use prost::Message;

use crate::answer::{Asked, Outcome, RpcStatus, decode_accepted};
use crate::client::{Answer, MAX_ANSWER_BYTES};
use crate::compress::{decode_body, encoding_name};
use crate::config::Compression;
use crate::failure::{Failure, foreign_text};

/// The request for one attempt; the body is already compressed.
pub(crate) fn encode_request(
    uri: &Uri,
    headers: &HeaderMap,
    compression: Compression,
    body: Bytes,
) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers.clone();
    let map = request.headers_mut();
    map.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    if let Some(encoding) = encoding_name(compression) {
        map.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    request
}

/// What the answer means.
#[must_use]
pub fn decode_answer(answer: &Answer) -> Outcome {
    let body = answer.body.as_ref().and_then(|body| decode_content(&answer.headers, body));
    if answer.status.is_success() {
        return Outcome::Accepted(decode_accepted(body.as_ref()));
    }
    let told = match body.as_ref().map(|body| decode_error(&answer.headers, body)) {
        Some(text) if !text.is_empty() => format!("{}: {text}", answer.status),
        _ => answer.status.to_string(),
    };
    let message = match answer.headers.get(header::LOCATION).filter(|_| answer.status.is_redirection()) {
        Some(place) => format!("{told}, to {}", shown_place(place)),
        None => told,
    };
    let failure = Failure::exchange(answer.status.as_u16().to_string(), message, advice(answer.status));
    match answer.status.as_u16() {
        // OTLP specification, "Retryable Response Codes"; 500 is not among them.
        429 | 502 | 503 | 504 => Outcome::Retry { failure, asked: parse_retry_after(&answer.headers) },
        _ => Outcome::Refused(failure),
    }
}

/// When `Retry-After` (RFC 9110, section 10.2.3) asks to be tried again: seconds, or a date.
///
/// A date is taken relative to the answer's own `Date`, so that it holds whatever this host's clock shows.
pub(crate) fn parse_retry_after(headers: &HeaderMap) -> Option<Asked> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Asked::After(Duration::from_secs(seconds)));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    let sent = headers.get(header::DATE).and_then(|value| value.to_str().ok());
    match sent.and_then(|date| httpdate::parse_http_date(date).ok()) {
        Some(sent) => Some(Asked::After(at.duration_since(sent).unwrap_or_default())),
        None => Some(Asked::At(at)),
    }
}

/// The body without its content encoding. None was asked for; some servers answer as they were asked.
fn decode_content(headers: &HeaderMap, body: &Bytes) -> Option<Bytes> {
    match headers.get(header::CONTENT_ENCODING) {
        None => Some(body.clone()),
        Some(encoding) => decode_body(encoding.to_str().ok()?, body, MAX_ANSWER_BYTES).ok(),
    }
}

/// The server's message: a `google.rpc.Status` as the specification says, or text as proxies have it.
fn decode_error(headers: &HeaderMap, body: &Bytes) -> String {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if content_type.starts_with(b"application/x-protobuf") {
        return RpcStatus::decode(body.as_ref())
            .map(|status| foreign_text(&status.message))
            .unwrap_or_default();
    }
    if content_type.starts_with(b"text/html") {
        return String::new();
    }
    foreign_text(&String::from_utf8_lossy(body))
}

/// Where a redirect leads, without its query.
fn shown_place(place: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(place.as_bytes());
    match text.parse::<Uri>() {
        Ok(uri) => foreign_text(&crate::endpoint::shown(&uri)),
        Err(_not_a_url) => "a place that is no URL".to_owned(),
    }
}

fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        300..=399 => "redirects are not followed: configure the place that it leads to",
        400 => "the collector cannot read the request, perhaps not its compression; see the collector's log",
        401 => "check the credentials in export.headers (OTEL_EXPORTER_OTLP_HEADERS)",
        403 => "the credentials are not allowed to write metrics; ask the collector's operator",
        404 | 405 => "check the path of the endpoint: collectors take metrics at /v1/metrics",
        413 => "raise the collector's request size limit",
        415 => {
            "the endpoint does not take protobuf, or not this compression; check its address and its receivers"
        }
        429 | 502 | 503 | 504 => "see the collector's log, and that of any proxy between",
        _ => "see the collector's log",
    }
}

#[cfg(test)]
mod tests;
