use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::answer::{Any, ProtoDuration, RetryInfo};

fn answer(headers: &[(&'static str, &str)], body: &[u8], trailers: &[(&'static str, &str)]) -> Answer {
    let map = |pairs: &[(&'static str, &str)]| {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    };
    Answer {
        status: StatusCode::OK,
        headers: map(headers),
        body: Some(Bytes::copy_from_slice(body)),
        trailers: map(trailers),
    }
}

const OK: &[(&str, &str)] = &[("grpc-status", "0")];
const EMPTY_MESSAGE: &[u8] = &[0, 0, 0, 0, 0];

fn failure(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Refused(failure) | Outcome::Retry { failure, .. } => failure,
        Outcome::Accepted(accepted) => panic!("{accepted:?}"),
    }
}

#[test]
fn a_frame_says_its_length_and_whether_it_is_compressed() {
    assert_eq!(
        encode_frame(&mut Compressor::new(Compression::None), b"abc").unwrap(),
        &b"\x00\x00\x00\x00\x03abc"[..]
    );
    assert_eq!(encode_frame(&mut Compressor::new(Compression::None), b"").unwrap(), EMPTY_MESSAGE);
    let frame = encode_frame(&mut Compressor::new(Compression::Gzip), &[7; 1000]).unwrap();
    assert_eq!(frame[0], 1);
    assert_eq!(
        usize::try_from(u32::from_be_bytes(frame[1..5].try_into().unwrap())).unwrap(),
        frame.len() - 5
    );
    assert_eq!(decode_body("gzip", &frame.slice(5..), 1000).unwrap(), vec![7; 1000]);
}

#[test]
fn the_call_goes_to_the_metrics_service() {
    let uri = call_uri(&"https://c.example:4317".parse().unwrap());
    assert_eq!(
        uri.to_string(),
        "https://c.example:4317/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
    );
    let request = encode_request(&uri, &HeaderMap::new(), Compression::Zstd, Bytes::new());
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["grpc-encoding"], "zstd");
    let plain = encode_request(&uri, &HeaderMap::new(), Compression::None, Bytes::new());
    assert!(!plain.headers().contains_key("grpc-encoding"));
}

#[test]
fn an_empty_message_with_status_0_is_plain_success() {
    assert_eq!(decode_answer(&answer(&[], EMPTY_MESSAGE, OK)), Outcome::Accepted(Accepted::default()));
}

#[test]
fn an_accepting_answer_that_cannot_be_read_is_odd_and_accepted_all_the_same() {
    let gzip = [("grpc-encoding", "gzip")];
    for broken in [
        answer(&[], b"", OK),
        answer(&[], &[0, 0, 0], OK),
        answer(&[], &[0, 0, 0, 0, 9, 1], OK),
        answer(&[], &[0, 0xff, 0xff, 0xff, 0xff], OK),
        answer(&[], &[0, 0, 0, 0, 1, 0xff], OK),
        answer(&gzip, &[1, 0, 0, 0, 1, 0xff], OK),
        answer(&[], &[1, 0, 0, 0, 1, 0xff], OK),
        Answer { body: None, ..answer(&[("content-type", "application/grpc+proto")], &[], &[]) },
    ] {
        match decode_answer(&broken) {
            Outcome::Accepted(Accepted { rejected: 0, oddity: Some(_), .. }) => {}
            other => panic!("{broken:?}: {other:?}"),
        }
    }
}

#[test]
fn a_status_may_stand_in_the_headers_alone() {
    let refused = answer(&[("grpc-status", "16"), ("grpc-message", "no%20token%0a%zz")], b"", &[]);
    let failure = failure(decode_answer(&refused));
    assert_eq!(failure.error_type, "UNAUTHENTICATED");
    assert_eq!(failure.message, "UNAUTHENTICATED: no token %zz");
    assert!(failure.advice.contains("OTEL_EXPORTER_OTLP_HEADERS"));
}

#[test]
fn what_is_no_grpc_answer_is_refused_as_unknown() {
    for stray in [
        answer(&[("content-type", "text/html")], b"<html>", &[]),
        Answer { body: None, ..answer(&[("content-type", "text/html")], b"", &[]) },
    ] {
        let failure = failure(decode_answer(&stray));
        assert_eq!(failure.error_type, "UNKNOWN");
        assert!(failure.advice.contains("no OTLP metrics service"));
    }
}

#[test]
fn codes_that_grpc_does_not_define_are_unknown() {
    for text in ["17", "99999999999999999999", "-1", "", "x"] {
        assert_eq!(Code::decode(text.as_bytes()), Code::Unknown, "{text}");
    }
    assert_eq!(Code::decode(b"14"), Code::Unavailable);
}

#[test]
fn a_proxys_http_status_stands_for_a_code() {
    for (status, error_type, retried) in [
        (400, "INTERNAL", false),
        (401, "UNAUTHENTICATED", false),
        (403, "PERMISSION_DENIED", false),
        (404, "UNIMPLEMENTED", false),
        (302, "UNKNOWN", false),
        (500, "UNKNOWN", false),
        (429, "UNAVAILABLE", true),
        (502, "UNAVAILABLE", true),
        (503, "UNAVAILABLE", true),
        (504, "UNAVAILABLE", true),
    ] {
        let proxied = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            ..answer(&[("retry-after", "7")], b"", &[])
        };
        let outcome = decode_answer(&proxied);
        let asked = Some(Asked::After(Duration::from_secs(7)));
        assert_eq!(matches!(&outcome, Outcome::Retry { asked: is, .. } if *is == asked), retried, "{status}");
        assert_eq!(failure(outcome).error_type, error_type, "{status}");
    }
}

#[test]
fn details_are_read_with_and_without_padding() {
    let info = RetryInfo { retry_delay: Some(ProtoDuration { seconds: 7, nanos: 0 }) };
    let detail = Any { type_url: "x/google.rpc.RetryInfo".into(), value: info.encode_to_vec().into() };
    let details = RpcStatus { code: 8, message: String::new(), details: vec![detail] }.encode_to_vec();
    let padded = base64::prelude::BASE64_STANDARD.encode(&details);
    assert!(padded.ends_with('='));
    for text in [padded.as_str(), padded.trim_end_matches('=')] {
        let throttled = answer(&[("grpc-status", "8"), ("grpc-status-details-bin", text)], b"", &[]);
        match decode_answer(&throttled) {
            Outcome::Retry { asked, .. } => assert_eq!(asked, Some(Asked::After(Duration::from_secs(7)))),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(
        body: Vec<u8>,
        code in "[0-9]{0,3}",
        message in "[ -~]{0,20}",
        details in "[ -~]{0,20}",
        encoding in "(gzip|zstd|br|)",
        in_trailers: bool,
    ) {
        let status = [
            ("grpc-status", code.as_str()),
            ("grpc-message", message.as_str()),
            ("grpc-status-details-bin", details.as_str()),
        ];
        let mut headers = vec![("grpc-encoding", encoding.as_str())];
        let mut trailers = Vec::new();
        if in_trailers { trailers.extend(status) } else { headers.extend(status) }
        let answer = answer(&headers, &body, &trailers);
        let outcome = decode_answer(&answer);
        prop_assert_eq!(matches!(outcome, Outcome::Accepted(_)), code.parse() == Ok(0));
    }

    #[test]
    fn percent_encoding_is_undone(text: String) {
        let encoded = text.bytes().fold(String::new(), |encoded, byte| format!("{encoded}%{byte:02X}"));
        prop_assert_eq!(decode_percent(encoded.as_bytes()), text);
    }
}
