//! OTLP/gRPC: one unary call a request (gRPC over HTTP/2, `PROTOCOL-HTTP2.md`).
//!
//! The call is framed here rather than by tonic's client, for what that one does not give: the message is
//! compressed once and not for each attempt; a local fault, such as an oversized answer, is never taken for a
//! status that the collector sent, which would have accepted data sent again; and a malformed
//! `grpc-status-details-bin` is not a panic (tonic 0.14's `Status::from_header_map` expects it to be base64).

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use prost::Message;
use tonic::transport::{Channel, Endpoint};

use crate::USER_AGENT;
use crate::answer::{Accepted, Asked, Outcome, RpcStatus, decode_accepted, odd};
use crate::client::{Answer, MAX_ANSWER_BYTES};
use crate::compress::{Compressor, decode_body, encoding_name};
use crate::config::{Compression, ExportConfig};
use crate::connect::Connector;
use crate::error::ExportError;
use crate::failure::{Failure, foreign_text};
use crate::http::parse_retry_after;

/// A channel over the same connections, TLS and time limit, for other OTLP signals through tonic's clients.
///
/// It adds the user agent and no other header: [`crate::configured_headers`] make the metadata of each call
/// (`tonic::metadata::MetadataMap::from_headers`). It connects when first used; made inside a tokio runtime only.
///
/// # Errors
/// When nothing can be sent to the endpoint, or the TLS material does not hold.
pub fn channel(config: &ExportConfig) -> Result<Channel, ExportError> {
    let connector = Connector::read(config)?;
    // tonic takes an https endpoint for one that needs tonic's TLS; the connector has its own.
    let mut plain = config.endpoint.clone().into_parts();
    plain.scheme = Some(Scheme::HTTP);
    let unusable =
        |problem| ExportError::Endpoint { endpoint: crate::endpoint::shown(&config.endpoint), problem };
    let plain = Uri::from_parts(plain).map_err(|_invalid| unusable("is not a URL"))?;
    let endpoint = Endpoint::from(plain)
        .origin(config.endpoint.clone())
        .timeout(config.attempt_limit())
        .user_agent(USER_AGENT)
        .map_err(|_invalid| unusable("cannot be told the user agent"))?;
    Ok(endpoint.connect_with_connector_lazy(connector))
}

const PATH: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// The URL of the call.
pub(crate) fn call_uri(endpoint: &Uri) -> Uri {
    let mut parts = endpoint.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(PATH));
    Uri::from_parts(parts).unwrap_or_else(|_invalid| endpoint.clone())
}

/// The message with its prefix: whether it is compressed, and its length.
///
/// # Errors
/// When the compressor refuses, or the message is longer than a frame can say.
pub(crate) fn encode_frame(compressor: &mut Compressor, message: &[u8]) -> std::io::Result<Bytes> {
    let frame = compressor.encode(message, vec![0; PREFIX])?;
    with_prefix(compressor.compression(), frame)
}

/// The same for a message that is compressed already.
///
/// # Errors
/// When the message is longer than a frame can say.
pub(crate) fn frame(compression: Compression, message: &[u8]) -> std::io::Result<Bytes> {
    with_prefix(compression, [&[0; PREFIX], message].concat())
}

/// The bytes before a message.
pub(crate) const PREFIX: usize = 5;

fn with_prefix(compression: Compression, mut frame: Vec<u8>) -> std::io::Result<Bytes> {
    let length = u32::try_from(frame.len().saturating_sub(PREFIX)).map_err(std::io::Error::other)?;
    if let [flag, a, b, c, d, ..] = frame.as_mut_slice() {
        *flag = u8::from(compression != Compression::None);
        [*a, *b, *c, *d] = length.to_be_bytes();
    }
    Ok(frame.into())
}

/// The request for one attempt.
pub(crate) fn encode_request(
    uri: &Uri,
    headers: &HeaderMap,
    compression: Compression,
    frame: Bytes,
) -> Request<Bytes> {
    let mut request = Request::new(frame);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers.clone();
    let map = request.headers_mut();
    map.insert(header::TE, HeaderValue::from_static("trailers"));
    map.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    // A collector may compress its answer as the request was: what it cannot be told is refused as UNIMPLEMENTED.
    map.insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip,zstd"));
    if let Some(encoding) = encoding_name(compression) {
        map.insert("grpc-encoding", HeaderValue::from_static(encoding));
    }
    request
}

/// What the answer to a call means.
#[must_use]
pub fn decode_answer(answer: &Answer) -> Outcome {
    if answer.status != StatusCode::OK {
        return from_http_status(answer);
    }
    // A call that fails at once is answered with headers alone ("Trailers-Only").
    let status = [&answer.headers, &answer.trailers].into_iter().find_map(Status::decode);
    match status {
        Some(Status { code: Code::Ok, .. }) => Outcome::Accepted(decode_message(answer)),
        Some(status) => status.outcome(),
        None if answer.body.is_none() && is_grpc(&answer.headers) => {
            Outcome::Accepted(decode_message(answer))
        }
        None => Outcome::Refused(Failure::exchange(
            Code::Unknown.name(),
            "the answer carries no gRPC status".to_owned(),
            Code::Unimplemented.advice(),
        )),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn decode_message(answer: &Answer) -> Accepted {
    let Some(body) = &answer.body else {
        return decode_accepted(None);
    };
    let Some((&[flag, a, b, c, d], message)) = body.split_first_chunk::<5>() else {
        return odd("the answer says success and holds no message");
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if message.len() != length {
        return odd("the answer says success and its message is not as long as it says");
    }
    let message = body.slice_ref(message);
    if flag == 0 {
        return decode_accepted(Some(&message));
    }
    let encoding =
        answer.headers.get("grpc-encoding").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match decode_body(encoding, &message, MAX_ANSWER_BYTES) {
        Ok(plain) => decode_accepted(Some(&plain)),
        Err(_undecodable) => odd("the answer says success and cannot be decompressed"),
    }
}

/// The codes of gRPC (`doc/statuscodes.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl Code {
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code with that number on the wire; what no version of gRPC defines is UNKNOWN.
    fn decode(text: &[u8]) -> Self {
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<usize>().ok());
        number.and_then(|number| Self::ALL.get(number).copied()).unwrap_or(Self::Unknown)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// OTLP specification, "OTLP/gRPC Response", "Failures": `RESOURCE_EXHAUSTED` only where the collector
    /// says that it can recover, by a `RetryInfo`.
    const fn may_be_retried(self, has_retry_info: bool) -> bool {
        match self {
            Self::Cancelled
            | Self::DeadlineExceeded
            | Self::Aborted
            | Self::OutOfRange
            | Self::Unavailable
            | Self::DataLoss => true,
            Self::ResourceExhausted => has_retry_info,
            _ => false,
        }
    }

    const fn advice(self) -> &'static str {
        match self {
            Self::Unauthenticated => "check the credentials in export.headers (OTEL_EXPORTER_OTLP_HEADERS)",
            Self::PermissionDenied => {
                "the credentials are not allowed to write metrics; ask the collector's operator"
            }
            Self::Unimplemented => {
                "the endpoint has no OTLP metrics service, or not this compression; check its address and its receivers"
            }
            Self::ResourceExhausted => "raise the collector's message size limit or quota",
            Self::InvalidArgument => "the collector cannot use this data; see its log",
            _ => "see the collector's log",
        }
    }
}

/// The status that ends a call.
#[derive(Debug)]
struct Status {
    code: Code,
    message: String,
    retry_delay: Option<std::time::Duration>,
}

impl Status {
    /// Reads the status from headers or trailers, if it is there.
    fn decode(map: &HeaderMap) -> Option<Self> {
        let code = Code::decode(map.get("grpc-status")?.as_bytes());
        let message =
            map.get("grpc-message").map(|value| decode_percent(value.as_bytes())).unwrap_or_default();
        let details = map.get("grpc-status-details-bin").and_then(|value| decode_details(value.as_bytes()));
        let retry_delay = details.and_then(|status| status.retry_delay());
        Some(Self { code, message: foreign_text(&message), retry_delay })
    }

    fn outcome(self) -> Outcome {
        let message = match self.message.as_str() {
            "" => self.code.name().to_owned(),
            text => format!("{}: {text}", self.code.name()),
        };
        let failure = Failure::exchange(self.code.name(), message, self.code.advice());
        if self.code.may_be_retried(self.retry_delay.is_some()) {
            Outcome::Retry { failure, asked: self.retry_delay.map(Asked::After) }
        } else {
            Outcome::Refused(failure)
        }
    }
}

/// `http-grpc-status-mapping.md`: what answered is a proxy, or no gRPC server at all.
fn from_http_status(answer: &Answer) -> Outcome {
    let code = match answer.status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    let message = format!("{} (from HTTP status {})", code.name(), answer.status);
    let failure = Failure::exchange(code.name(), message, code.advice());
    if code.may_be_retried(false) {
        Outcome::Retry { failure, asked: parse_retry_after(&answer.headers) }
    } else {
        Outcome::Refused(failure)
    }
}

/// Binary metadata is base64, with or without padding.
fn decode_details(value: &[u8]) -> Option<RpcStatus> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    RpcStatus::decode(LENIENT.decode(value).ok()?.as_slice()).ok()
}

/// `grpc-message` is percent-encoded UTF-8; what is no valid escape stands for itself.
fn decode_percent(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests;
