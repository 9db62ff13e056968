use std::io::{Read, Write};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::*;
use crate::needs;
use crate::otlp::flatten;
use crate::skip::Need;

#[test]
fn rotel_prints_points_from_which_everything_is_read_back() {
    needs!(Need::Rotel);
    let (scene, host) = (Scene::new(), Namespace::new());
    let rotel = Rotel::start(&scene, &host);
    let (resource, metrics) = sample();
    let mut sent = Vec::new();
    for metric in &metrics {
        flatten(&resource, metric, &mut sent);
    }
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes: resource, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }],
    };
    host.inside(|| post(&request.encode_to_vec()));
    let received = eventually("the points to be printed", || {
        let points = rotel.points();
        (points.len() >= sent.len()).then_some(points)
    });
    assert_eq!(received, sent);
}

fn sample() -> (Vec<KeyValue>, Vec<Metric>) {
    let text = |key: &str, value: &str| attribute(key, any_value::Value::StringValue(value.to_owned()));
    let number = |key: &str, value| attribute(key, any_value::Value::IntValue(value));
    let point = |value, attributes: Vec<KeyValue>, start_time_unix_nano| NumberDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano: 1_700_000_000_123_456_789,
        value: Some(value),
        ..NumberDataPoint::default()
    };
    let metric = |name: &str, unit: &str, data| Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        description: "What it is: exactly.".to_owned(),
        data: Some(data),
        ..Metric::default()
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let metrics = vec![
        metric(
            "a.gauge",
            "{connection}",
            Data::Gauge(Gauge {
                data_points: vec![
                    point(
                        number_data_point::Value::AsInt(1),
                        vec![text("name", "db: main"), number("dest_port", 5432)],
                        0,
                    ),
                    point(number_data_point::Value::AsInt(0), vec![], 0),
                ],
            }),
        ),
        metric(
            "a.counter",
            "s",
            Data::Sum(Sum {
                data_points: vec![point(number_data_point::Value::AsDouble(1.5), vec![], 7)],
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
        ),
        metric(
            "a.histogram",
            "s",
            Data::Histogram(Histogram {
                data_points: vec![HistogramDataPoint {
                    start_time_unix_nano: 7,
                    time_unix_nano: 1_700_000_000_123_456_789,
                    count: 3,
                    sum: Some(2.5),
                    bucket_counts: vec![1, 2],
                    explicit_bounds: vec![1.0],
                    ..HistogramDataPoint::default()
                }],
                aggregation_temporality: cumulative,
            }),
        ),
    ];
    (vec![text("service.name", "the service"), number("n", 7)], metrics)
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn post(body: &[u8]) {
    let mut stream = TcpStream::connect(Protocol::Http.address()).unwrap();
    let head = format!(
        "POST /v1/metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
