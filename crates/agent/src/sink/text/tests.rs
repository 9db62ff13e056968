use insta::assert_snapshot;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Status};

use super::*;

/// 2026-08-02T00:00:00Z
const TIME: u64 = 1_785_628_800_000_000_000;

fn plain(arrival: &Arrival) -> String {
    let text = TextPrinter::new().describe(arrival).unwrap();
    String::from_utf8(anstream::adapter::strip_bytes(&text).into_vec()).unwrap()
}

#[test]
fn every_kind_of_metric_has_its_line() {
    let number = |value| NumberDataPoint { time_unix_nano: TIME, value, ..NumberDataPoint::default() };
    let empty = NumberDataPoint { flags: 1, ..number(Some(number_data_point::Value::AsInt(9))) };
    let sum =
        Sum { data_points: vec![number(Some(number_data_point::Value::AsDouble(0.25)))], ..Sum::default() };
    let histogram = HistogramDataPoint { count: 3, sum: None, ..HistogramDataPoint::default() };
    let exponential = ExponentialHistogramDataPoint { count: 4, sum: Some(1.5), ..Default::default() };
    let summary =
        SummaryDataPoint { time_unix_nano: TIME, count: 5, sum: 2.5, ..SummaryDataPoint::default() };
    let data = [
        ("gauge", Data::Gauge(Gauge { data_points: vec![number(None), empty] })),
        ("sum", Data::Sum(sum)),
        ("histogram", Data::Histogram(Histogram { data_points: vec![histogram], ..Histogram::default() })),
        (
            "exponential",
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![exponential],
                ..Default::default()
            }),
        ),
        ("summary", Data::Summary(Summary { data_points: vec![summary] })),
    ];
    let metrics = data.map(|(name, data)| Metric {
        name: name.to_owned(),
        unit: "s".to_owned(),
        data: Some(data),
        ..Metric::default()
    });
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics { metrics: metrics.to_vec(), ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }],
    };
    assert_snapshot!(plain(&Arrival::Metrics(request)), @"
    resource  none
    date  2026-08-02
    TIME (UTC)    METRIC                 VALUE  UNIT  ATTRIBUTES
    00:00:00.000  gauge                      -  s
    00:00:00.000  gauge                      -  s
    00:00:00.000  sum                     0.25  s
    -             histogram            count:3  s
    -             exponential  count:4,sum:1.5  s
    00:00:00.000  summary      count:5,sum:2.5  s
    ");
}

#[test]
fn values_of_every_type_are_told() {
    let any = |value| AnyValue { value: Some(value) };
    let text = any(any_value::Value::StringValue("a b".to_owned()));
    let values = vec![text.clone(), any(any_value::Value::IntValue(-1)), AnyValue::default()];
    let pair = KeyValue { key: "k".to_owned(), value: Some(text.clone()), ..KeyValue::default() };
    for (value, told) in [
        (any_value::Value::BoolValue(true), "true"),
        (any_value::Value::DoubleValue(0.5), "0.5"),
        (any_value::Value::BytesValue(vec![0; 3]), "3 bytes"),
        (any_value::Value::ArrayValue(ArrayValue { values }), "[a b, -1, ]"),
        (any_value::Value::KvlistValue(KeyValueList { values: vec![pair] }), "{k=\"a b\"}"),
    ] {
        assert_eq!(describe(&any(value)), told);
    }
}

#[test]
fn spans_tell_how_long_they_took_and_how_they_ended() {
    let span = |name: &str, took, status| Span {
        name: name.to_owned(),
        start_time_unix_nano: TIME,
        end_time_unix_nano: TIME + took,
        status,
        ..Span::default()
    };
    let status =
        |code: StatusCode, message: &str| Some(Status { code: code.into(), message: message.to_owned() });
    let spans = vec![
        span("cycle", 1_250_000, None),
        span("export", 2_000_000_000, status(StatusCode::Ok, "")),
        span("export", 15_000, status(StatusCode::Error, "refused by peer")),
    ];
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    };
    assert_snapshot!(plain(&Arrival::Traces(request)), @r#"
    resource  none
    date  2026-08-02
    START (UTC)   SPAN    DURATION  STATUS  ATTRIBUTES
    00:00:00.000  cycle     1.25ms
    00:00:00.000  export        2s  ok
    00:00:00.000  export      15µs  error   message="refused by peer"
    "#);
}

#[test]
fn log_records_tell_severity_event_body_and_attributes() {
    let body = |text: &str| Some(AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) });
    let records = vec![
        LogRecord { severity_number: 9, body: body("started"), ..LogRecord::default() },
        LogRecord {
            time_unix_nano: 0,
            observed_time_unix_nano: TIME,
            severity_number: 17,
            severity_text: "ERROR".to_owned(),
            event_name: "link.change".to_owned(),
            body: body("down"),
            attributes: vec![KeyValue { key: "name".to_owned(), value: body("db"), ..KeyValue::default() }],
            ..LogRecord::default()
        },
    ];
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            scope_logs: vec![ScopeLogs { log_records: records, ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        }],
    };
    assert_snapshot!(plain(&Arrival::Logs(request)), @"
    resource  none
    TIME (UTC)  SEVERITY  LOG RECORD
    -           INFO      started
    date  2026-08-02
    TIME (UTC)    SEVERITY  LOG RECORD
    00:00:00.000  ERROR     link.change  down  name=db
    ");
}
