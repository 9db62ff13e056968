use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::compress::encode_body;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

fn answer(status: u16, pairs: &[(&'static str, &str)], body: &[u8]) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: headers(pairs),
        body: Some(Bytes::copy_from_slice(body)),
        trailers: HeaderMap::new(),
    }
}

fn refused(answer: &Answer) -> Failure {
    match decode_answer(answer) {
        Outcome::Refused(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn exactly_the_codes_of_the_specification_are_retried() {
    for status in 300..600 {
        let retried = matches!(decode_answer(&answer(status, &[], b"")), Outcome::Retry { .. });
        assert_eq!(retried, [429, 502, 503, 504].contains(&status), "{status}");
    }
}

#[test]
fn the_servers_message_is_told_from_protobuf_and_from_text_and_no_page_is() {
    let status = RpcStatus { code: 3, message: "bad unit".into(), details: Vec::new() }.encode_to_vec();
    let protobuf = answer(400, &[("content-type", "application/x-protobuf")], &status);
    assert_eq!(refused(&protobuf).message, "400 Bad Request: bad unit");
    let text = answer(404, &[("content-type", "text/plain")], b"404 page\nnot found\n");
    assert_eq!(refused(&text).message, "404 Not Found: 404 page not found");
    assert!(refused(&text).advice.contains("/v1/metrics"));
    let html = answer(404, &[("content-type", "text/html")], b"<html>");
    assert_eq!(refused(&html).message, "404 Not Found");
}

#[test]
fn a_redirect_tells_its_place_without_its_query() {
    let moved = answer(301, &[("location", "https://new.example/otlp?token=hunter2")], b"");
    let failure = refused(&moved);
    assert_eq!(failure.message, "301 Moved Permanently, to https://new.example/otlp");
    assert!(failure.advice.contains("not followed"));
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let asked = |pairs: &[(&'static str, &str)]| parse_retry_after(&headers(pairs));
    assert_eq!(asked(&[("retry-after", " 120 ")]), Some(Asked::After(Duration::from_mins(2))));
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    assert_eq!(asked(&[("retry-after", date)]), Some(Asked::At(at)));
    let sent = ("date", "Sun, 06 Nov 1994 08:49:07 GMT");
    assert_eq!(asked(&[("retry-after", date), sent]), Some(Asked::After(Duration::from_secs(30))));
    for nonsense in ["", "-1", "soon", "1.5"] {
        assert_eq!(asked(&[("retry-after", nonsense)]), None, "{nonsense}");
    }
    assert_eq!(asked(&[]), None);
}

#[test]
fn an_answer_is_read_through_a_content_encoding_that_was_not_asked_for() {
    // ExportMetricsServiceResponse { partial_success: { rejected_data_points: 3 } }
    let plain = [0x0a, 2, 0x08, 3];
    let body = encode_body(Compression::Gzip, &plain, Vec::new()).unwrap();
    match decode_answer(&answer(200, &[("content-encoding", "gzip")], &body)) {
        Outcome::Accepted(accepted) => assert_eq!((accepted.rejected, accepted.oddity), (3, None)),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(status in 200u16..600, body: Vec<u8>, protobuf: bool, place in "[ -~]{0,20}") {
        let content_type = if protobuf { "application/x-protobuf" } else { "text/plain" };
        let outcome = decode_answer(&answer(status, &[("content-type", content_type), ("location", &place)], &body));
        prop_assert_eq!(matches!(outcome, Outcome::Accepted(_)), status < 300);
    }
}
