//! A collector's answers, over gRPC and over HTTP.

use std::io::Write;
use std::time::{Duration, SystemTime};

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use prost::Message;
use vms_export::answer::{Asked, Outcome};
use vms_export::client::{Answer, MAX_ANSWER_BYTES};
use vms_export::{Failure, grpc, http as otlp_http};

use crate::bounded::bounded;
use crate::cursor::Cursor;

/// An answer over gRPC: its status, headers, trailers and body are made of the bytes in turn.
pub fn otlp_grpc_answers(data: &[u8]) {
    let mut cursor = Cursor(data);
    let answer = answer(&mut cursor);
    let outcome = decode(data, &answer, grpc::decode_answer);
    let status = [&answer.headers, &answer.trailers].into_iter().find_map(|map| map.get("grpc-status"));
    let number =
        status.map(|status| status.to_str().ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(2));
    match (answer.status == StatusCode::OK, number) {
        (true, Some(0)) => assert!(matches!(outcome, Outcome::Accepted(_))),
        // OTLP specification, "OTLP/gRPC Response": CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE,
        // DATA_LOSS.
        (true, Some(1 | 4 | 10 | 11 | 14 | 15)) => assert!(matches!(outcome, Outcome::Retry { .. })),
        // RESOURCE_EXHAUSTED only where the collector says when.
        (true, Some(8)) => match &outcome {
            Outcome::Retry { asked, .. } => assert!(matches!(asked, Some(Asked::After(_)))),
            Outcome::Refused(_) => {}
            Outcome::Accepted(_) => panic!("{outcome:?}"),
        },
        (true, Some(_)) => assert!(matches!(outcome, Outcome::Refused(_))),
        (true, None) => {
            let too_large = matches!(&outcome, Outcome::Accepted(accepted) if accepted.oddity.is_some());
            assert!(matches!(outcome, Outcome::Refused(_)) || (too_large && answer.body.is_none()));
        }
        (false, _) => match answer.status.as_u16() {
            429 | 502..=504 => assert!(matches!(outcome, Outcome::Retry { .. })),
            _ => assert!(matches!(outcome, Outcome::Refused(_))),
        },
    }
    check_retry_info(&mut cursor);
}

/// A `RetryInfo` that a collector sends is what is waited for.
fn check_retry_info(cursor: &mut Cursor<'_>) {
    let delay = ProtoDuration {
        seconds: i64::from_ne_bytes(cursor.array()),
        nanos: i32::from_ne_bytes(cursor.array()),
    };
    let padding = cursor.byte();
    let info = RetryInfo { retry_delay: Some(delay) };
    let any =
        |name: &str| Any { type_url: format!("type.googleapis.com/{name}"), value: info.encode_to_vec() };
    let details = match padding % 3 {
        0 => vec![any("google.rpc.RetryInfo")],
        1 => vec![any("google.rpc.ErrorInfo"), any("google.rpc.RetryInfo")],
        _ => vec![any("google.rpc.ErrorInfo")],
    };
    let status = RpcStatus { code: 8, message: String::new(), details }.encode_to_vec();
    let encoded = if padding < 128 {
        base64::engine::general_purpose::STANDARD.encode(&status)
    } else {
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(&status)
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("8"));
    trailers.insert("grpc-status-details-bin", HeaderValue::try_from(encoded).expect("base64 is ASCII"));
    let body = Some(Bytes::new());
    let answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body, trailers };
    match grpc::decode_answer(&answer) {
        Outcome::Retry { asked: Some(Asked::After(wait)), .. } => {
            assert_ne!(padding % 3, 2);
            assert_eq!(wait.as_secs(), u64::try_from(delay.seconds).unwrap_or(0));
            assert!(
                wait.subsec_nanos() == 999_999_999
                    || i64::from(wait.subsec_nanos()) == i64::from(delay.nanos.max(0))
            );
        }
        Outcome::Refused(_) => assert_eq!(padding % 3, 2),
        other => panic!("{other:?}"),
    }
}

/// `google.rpc.Status`, as a collector has it.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct ProtoDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// An answer over HTTP: its status, headers and body are made of the bytes in turn.
pub fn otlp_http_answers(data: &[u8]) {
    let mut cursor = Cursor(data);
    let answer = answer(&mut cursor);
    let outcome = decode(data, &answer, otlp_http::decode_answer);
    match answer.status.as_u16() {
        200..=299 => assert!(matches!(outcome, Outcome::Accepted(_))),
        // OTLP specification, "Retryable Response Codes".
        429 | 502..=504 => {
            let Outcome::Retry { asked, .. } = &outcome else { panic!("{outcome:?}") };
            let seconds =
                answer.headers.get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
            if let Some(seconds) = seconds {
                assert_eq!(*asked, Some(Asked::After(Duration::from_secs(seconds))));
            }
        }
        _ => assert!(matches!(outcome, Outcome::Refused(_))),
    }
}

/// What holds of each answer.
fn decode(data: &[u8], answer: &Answer, decode: impl FnOnce(&Answer) -> Outcome) -> Outcome {
    // Twice the largest answer while its buffer grows, and as much again for the text in it.
    let constant = 8 * u64::try_from(MAX_ANSWER_BYTES).unwrap_or(u64::MAX);
    let outcome = bounded(data, 64, constant, || decode(answer));
    match &outcome {
        Outcome::Accepted(accepted) => {
            check_line(&accepted.message);
            accepted.oddity.iter().for_each(check_failure);
            assert!(accepted.oddity.is_none() || accepted.rejected == 0, "{accepted:?}");
        }
        Outcome::Retry { failure, asked } => {
            check_failure(failure);
            // Whatever was asked for, there is an answer to how long that is.
            let waits = asked.map(|asked| (asked.wait(SystemTime::UNIX_EPOCH), asked));
            assert!(
                waits
                    .is_none_or(|(wait, asked)| matches!(asked, Asked::At(_)) || asked == Asked::After(wait))
            );
        }
        Outcome::Refused(failure) => check_failure(failure),
    }
    outcome
}

fn check_failure(failure: &Failure) {
    check_line(&failure.message);
    assert!(!failure.message.is_empty() && !failure.advice.is_empty());
    assert!(failure.error_type.len() <= 20, "{}", failure.error_type);
}

/// One line of a log, of a length that can be read.
fn check_line(text: &str) {
    assert!(!text.chars().any(char::is_control) && text.chars().count() <= 1000, "{text:?}");
}

const STATUSES: [u16; 16] = [200, 200, 200, 202, 299, 301, 308, 400, 401, 404, 413, 429, 500, 502, 503, 504];

const NAMES: [&str; 16] = [
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
    "grpc-encoding",
    "content-type",
    "content-encoding",
    "retry-after",
    "date",
    "location",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
    "grpc-encoding",
    "content-type",
    "content-encoding",
    "x-other",
];

const VALUES: [&str; 16] = [
    "0",
    "8",
    "14",
    "gzip",
    "zstd",
    "identity",
    "application/grpc",
    "application/x-protobuf",
    "text/html",
    "120",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "18446744073709551615",
    "https://user:password@collector/path?key=value",
    "a%20message%0a",
    "text/plain",
];

fn answer(cursor: &mut Cursor<'_>) -> Answer {
    let [status, headers, trailers, form] = cursor.array();
    let status = match status {
        0..=239 => STATUSES[usize::from(status) % STATUSES.len()],
        // Whatever else three digits can say.
        _ => 100 + u16::from_be_bytes(cursor.array()) % 900,
    };
    let headers = fields(cursor, headers % 8);
    let trailers = fields(cursor, trailers % 6);
    Answer {
        status: StatusCode::from_u16(status).expect("it is from 100 to 999"),
        headers,
        body: body(cursor, form),
        trailers,
    }
}

fn fields(cursor: &mut Cursor<'_>, count: u8) -> HeaderMap {
    let mut map = HeaderMap::new();
    for _ in 0..count {
        let [name, value] = cursor.array();
        let value = match VALUES.get(usize::from(value)) {
            Some(value) => HeaderValue::from_static(value),
            None => match HeaderValue::from_bytes(cursor.bytes(usize::from(value - 16))) {
                Ok(value) => value,
                Err(_not_a_value) => continue,
            },
        };
        map.append(HeaderName::from_static(NAMES[usize::from(name) % NAMES.len()]), value);
    }
    map
}

/// A body: plain, compressed by a well-meaning collector, or by one that means ill; with a frame of gRPC or without.
fn body(cursor: &mut Cursor<'_>, form: u8) -> Option<Bytes> {
    if form == 255 {
        return None;
    }
    let repeat = if form & 0x40 == 0 { 1 } else { 1 << (cursor.byte() % 15) };
    let content = cursor.counted().repeat(repeat);
    let content = match form & 3 {
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&content).expect("memory can be written");
            encoder.finish().expect("memory can be written")
        }
        2 => zstd::bulk::compress(&content, 1).expect("memory can be written"),
        _ => content,
    };
    if content.len() > MAX_ANSWER_BYTES {
        // So the client has it.
        return None;
    }
    if form & 4 == 0 {
        return Some(content.into());
    }
    let mut length = u32::try_from(content.len()).expect("bodies are short");
    if form & 8 != 0 {
        length = length.wrapping_add(u32::from(cursor.byte()));
    }
    Some([&[u8::from(form & 3 != 0)], length.to_be_bytes().as_slice(), &content].concat().into())
}
