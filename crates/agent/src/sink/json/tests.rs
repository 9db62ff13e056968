use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use super::*;

fn encode_point(value: number_data_point::Value) -> serde_json::Value {
    let point = NumberDataPoint {
        time_unix_nano: 1_785_628_800_500_000_001,
        attributes: vec![KeyValue {
            key: "k".to_owned(),
            value: Some(AnyValue::default()),
            ..KeyValue::default()
        }],
        value: Some(value),
        ..NumberDataPoint::default()
    };
    let sum = Sum { data_points: vec![point], aggregation_temporality: 2, is_monotonic: true };
    let metric = Metric { name: "m".to_owned(), data: Some(Data::Sum(sum)), ..Metric::default() };
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }],
    };
    let line = encode(&request).unwrap();
    assert_eq!(serde_json::from_slice::<ExportMetricsServiceRequest>(&line).unwrap(), request);
    let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
    json["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["sum"].clone()
}

#[test]
fn names_are_camel_case_enumerations_numbers_and_64_bit_numbers_text() {
    let sum = encode_point(number_data_point::Value::AsInt(-7));
    assert_eq!(sum["aggregationTemporality"], 2);
    assert_eq!(sum["isMonotonic"], true);
    assert_eq!(sum["dataPoints"][0]["timeUnixNano"], "1785628800500000001");
    assert_eq!(sum["dataPoints"][0]["asInt"], "-7");
    assert_eq!(sum["dataPoints"][0]["attributes"][0]["key"], "k");
    assert_eq!(encode_point(number_data_point::Value::AsDouble(0.5))["dataPoints"][0]["asDouble"], 0.5);
}

#[test]
fn ids_are_hexadecimal() {
    let span = Span { trace_id: vec![0xab; 16], span_id: vec![0xcd; 8], ..Span::default() };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    };
    let json: serde_json::Value = serde_json::from_slice(&encode(&request).unwrap()).unwrap();
    let span = &json["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(span["traceId"], "ab".repeat(16));
    assert_eq!(span["spanId"], "cd".repeat(8));
}

#[test]
fn what_is_escaped_for_the_terminal_reads_back_the_same() {
    let text = "a\u{7f}\u{9b}\u{202e}\u{feff}é\"\\\u{1b}\n日";
    let line = encode(&text).unwrap();
    assert_eq!(line, "\"a\\u007f\\u009b\\u202e\\ufeffé\\\"\\\\\\u001b\\n日\"\n".as_bytes());
    assert_eq!(serde_json::from_slice::<String>(&line).unwrap(), text);
}
