use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;
use proptest::prelude::*;

use super::*;

fn status(details: Vec<Any>) -> RpcStatus {
    RpcStatus { code: 8, message: "slow down".into(), details }
}

fn retry_info(delay: Option<ProtoDuration>) -> Any {
    Any {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
        value: RetryInfo { retry_delay: delay }.encode_to_vec().into(),
    }
}

#[test]
fn the_retry_info_is_found_among_other_details() {
    let other =
        Any { type_url: "type.googleapis.com/google.rpc.DebugInfo".into(), value: Bytes::from_static(b"x") };
    let delay = ProtoDuration { seconds: 2, nanos: 500_000_000 };
    assert_eq!(
        status(vec![other.clone(), retry_info(Some(delay))]).retry_delay(),
        Some(Duration::from_millis(2500))
    );
    assert_eq!(status(vec![retry_info(None)]).retry_delay(), Some(Duration::ZERO));
    assert_eq!(status(vec![other]).retry_delay(), None);
}

#[test]
fn the_wire_form_is_that_of_googles_definitions() {
    // Any { 1: "type.googleapis.com/google.rpc.RetryInfo", 2: RetryInfo { 1: Duration { 1: 3 } } } in Status.3
    let url = b"type.googleapis.com/google.rpc.RetryInfo";
    let mut bytes = vec![0x08, 8, 0x12, 1, b'm', 0x1a, 48, 0x0a, 40];
    bytes.extend_from_slice(url);
    bytes.extend_from_slice(&[0x12, 4, 0x0a, 2, 0x08, 3]);
    let decoded = RpcStatus::decode(bytes.as_slice()).unwrap();
    assert_eq!((decoded.code, decoded.message.as_str()), (8, "m"));
    assert_eq!(decoded.retry_delay(), Some(Duration::from_secs(3)));
}

#[test]
fn a_time_of_day_in_the_past_asks_for_no_wait() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
    assert_eq!(Asked::At(now + Duration::from_secs(5)).wait(now), Duration::from_secs(5));
    assert_eq!(Asked::At(now - Duration::from_secs(5)).wait(now), Duration::ZERO);
}

proptest! {
    #[test]
    fn no_delay_makes_it_panic(seconds: i64, nanos: i32) {
        let delay = status(vec![retry_info(Some(ProtoDuration { seconds, nanos }))]).retry_delay();
        prop_assert!(delay.is_some());
    }

    #[test]
    fn an_answer_is_accepted_whatever_its_body_and_never_panics(body: Vec<u8>) {
        let accepted = decode_accepted(Some(&body.into()));
        prop_assert!(accepted.oddity.is_none() || accepted.rejected == 0);
    }

    #[test]
    fn what_a_collector_says_is_read(rejected in 0i64.., message in "[a-z ]{0,40}") {
        let partial = ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message: message.clone() };
        let body = ExportMetricsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let accepted = decode_accepted(Some(&body.into()));
        prop_assert_eq!(accepted.rejected, u64::try_from(rejected).unwrap());
        prop_assert_eq!(accepted.message, message.trim());
        prop_assert_eq!(accepted.oddity, None);
    }
}
