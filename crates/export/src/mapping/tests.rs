use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as ProtoNumber;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, NumberDataPoint, ResourceMetrics, ScopeMetrics};
use proptest::prelude::*;
use vms_core::metric::{
    AttributeSet, CYCLE_DURATION, CYCLES_LATE, Extra, Histogram, QUEUE_BYTES, STATUS, UP,
};

use super::*;

static SECONDS: Metric =
    Metric { name: "s", unit: "s", description: "d", kind: Kind::Histogram(&[0.5, 1.0]), attributes: &[] };

fn at(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

fn point(metric: &'static Metric, time: u64, value: Value) -> DataPoint {
    let attributes =
        AttributeSet::new([Attribute::new("name", "orders"), Attribute::new("dest_port", 5432_u16)]);
    DataPoint { metric, attributes: Arc::new(attributes), extra: None, time: at(time), start: None, value }
}

fn encoder(limit: usize) -> Encoder {
    Encoder::with_limit(&resource(), "1.2.3", limit)
}

fn resource() -> Resource {
    Resource::new([("service.name".into(), "vms-agent".into())])
}

/// The requests that an encoder makes of the points, and how many of them it says that each holds.
fn encode(encoder: &mut Encoder, points: &[DataPoint]) -> Vec<(Vec<u8>, u64)> {
    let mut requests = Vec::new();
    encoder.encode(points, |request| requests.push((request.bytes.to_vec(), request.points)));
    requests
}

fn decode(bytes: &[u8]) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest::decode(bytes).unwrap()
}

/// The one request that an encoder makes of the points.
fn encode_one(points: &[DataPoint]) -> ExportMetricsServiceRequest {
    let [(bytes, count)] = <[_; 1]>::try_from(encode(&mut encoder(MAX_REQUEST_BYTES), points)).unwrap();
    assert_eq!(usize::try_from(count).unwrap(), points.len());
    decode(&bytes)
}

fn metrics(request: ExportMetricsServiceRequest) -> Vec<ProtoMetric> {
    let [resource_metrics] = <[_; 1]>::try_from(request.resource_metrics).unwrap();
    let [scope_metrics] = <[_; 1]>::try_from(resource_metrics.scope_metrics).unwrap();
    scope_metrics.metrics
}

fn text(key: &str, value: &str) -> KeyValue {
    key_value(key.to_owned(), ProtoAny::StringValue(value.to_owned()))
}

#[test]
fn each_kind_of_metric_has_its_form_in_otlp() {
    let bounds = [0.5, 1.0];
    let mut histogram = Histogram::new(&bounds);
    for seconds in [0.25, 0.5, 4.0] {
        histogram.record(&bounds, seconds);
    }
    let up = DataPoint {
        extra: Some(Extra { key: "state", value: "down" }),
        ..point(&STATUS, 1_700_000_000_123_456_789, Value::Int(-1))
    };
    let late = DataPoint { start: Some(at(5)), ..point(&CYCLES_LATE, 7, Value::Double(2.5)) };
    let bytes = DataPoint { start: Some(at(5)), ..point(&QUEUE_BYTES, 8, Value::Int(9)) };
    let seconds = DataPoint { start: Some(at(5)), ..point(&SECONDS, 9, Value::Histogram(histogram)) };

    let request = encode_one(&[up, late, bytes, seconds]);
    let resource = request.resource_metrics[0].resource.clone().unwrap();
    assert_eq!(resource.attributes, [text("service.name", "vms-agent")]);
    let scope = request.resource_metrics[0].scope_metrics[0].scope.clone().unwrap();
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("vms-agent", "1.2.3"));

    let metrics = metrics(request);
    let named: Vec<_> = metrics
        .iter()
        .map(|metric| (metric.name.as_str(), metric.unit.as_str(), metric.description.as_str()))
        .collect();
    let of = |metric: &Metric| (metric.name, metric.unit, metric.description);
    assert_eq!(named, [of(&STATUS), of(&CYCLES_LATE), of(&QUEUE_BYTES), of(&SECONDS)]);
    let link = vec![text("name", "orders"), key_value("dest_port".into(), ProtoAny::IntValue(5432))];
    let number = |start, time, value| NumberDataPoint {
        attributes: link.clone(),
        start_time_unix_nano: start,
        time_unix_nano: time,
        value: Some(value),
        ..NumberDataPoint::default()
    };
    let mut status = number(0, 1_700_000_000_123_456_789, ProtoNumber::AsInt(-1));
    status.attributes.push(text("state", "down"));
    assert_eq!(metrics[0].data, Some(Data::Gauge(Gauge { data_points: vec![status] })));
    // 2 is AGGREGATION_TEMPORALITY_CUMULATIVE.
    let sum = |point, is_monotonic| {
        Some(Data::Sum(Sum { data_points: vec![point], aggregation_temporality: 2, is_monotonic }))
    };
    assert_eq!(metrics[1].data, sum(number(5, 7, ProtoNumber::AsDouble(2.5)), true));
    assert_eq!(metrics[2].data, sum(number(5, 8, ProtoNumber::AsInt(9)), false));
    let expected = HistogramDataPoint {
        attributes: link.clone(),
        start_time_unix_nano: 5,
        time_unix_nano: 9,
        count: 3,
        sum: Some(4.75),
        bucket_counts: vec![2, 0, 1],
        explicit_bounds: vec![0.5, 1.0],
        ..HistogramDataPoint::default()
    };
    let histogram = ProtoHistogram { data_points: vec![expected], aggregation_temporality: 2 };
    assert_eq!(metrics[3].data, Some(Data::Histogram(histogram)));
}

#[test]
fn points_of_a_metric_stand_together_in_the_order_of_first_occurrence() {
    let points: Vec<DataPoint> = [(&UP, 1), (&STATUS, 2), (&UP, 3), (&STATUS, 4)]
        .map(|(metric, time)| point(metric, time, Value::Int(0)))
        .into();
    let metrics = metrics(encode_one(&points));
    let times: Vec<Vec<u64>> = metrics
        .iter()
        .map(|metric| match metric.data.as_ref().unwrap() {
            Data::Gauge(gauge) => gauge.data_points.iter().map(|point| point.time_unix_nano).collect(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(times, [[1, 3], [2, 4]]);
}

#[test]
fn no_points_make_no_request() {
    assert_eq!(encode(&mut encoder(MAX_REQUEST_BYTES), &[]), []);
}

#[test]
fn of_a_resource_key_given_twice_the_last_counts() {
    let pairs = [("a", "1"), ("b", "2"), ("a", "3")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(Resource::new(pairs).0.attributes, [text("b", "2"), text("a", "3")]);
}

#[test]
fn times_beyond_those_of_otlp_become_the_nearest() {
    assert_eq!(unix_nanos(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), 0);
    assert_eq!(unix_nanos(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)), u64::MAX);
}

#[test]
fn a_value_that_does_not_fit_its_metric_is_told_to_be_missing() {
    let points =
        [point(&UP, 1, Value::Histogram(Histogram::new(&[]))), point(&CYCLE_DURATION, 1, Value::Int(3))];
    let metrics = metrics(encode_one(&points));
    let Some(Data::Gauge(gauge)) = &metrics[0].data else { panic!("{metrics:?}") };
    assert_eq!((gauge.data_points[0].flags, &gauge.data_points[0].value), (1, &None));
    let Some(Data::Histogram(histogram)) = &metrics[1].data else { panic!("{metrics:?}") };
    assert_eq!((histogram.data_points[0].flags, histogram.data_points[0].count), (1, 0));
}

#[test]
fn the_attributes_of_a_series_are_encoded_once_and_kept_with_it() {
    let kept = AttributeSet::new([Attribute::new("name", "orders")]);
    let other = encode_attributes(&[Attribute::new("name", "kept")]);
    kept.rendered(|_| other.clone());
    let attributes = Arc::new(kept);
    let one = point(&UP, 1, Value::Int(1));
    let points = [DataPoint { attributes, ..one.clone() }, one];
    let metrics = metrics(encode_one(&points));
    let Some(Data::Gauge(gauge)) = &metrics[0].data else { panic!("{metrics:?}") };
    assert_eq!(gauge.data_points[0].attributes, [text("name", "kept")], "what is kept is what is sent");
    let rendered = points[1].attributes.rendered(|_| panic!("nothing is kept"));
    assert_eq!(rendered, &*encode_attributes(&points[1].attributes));
}

#[test]
fn little_memory_is_kept_after_a_burst() {
    let burst = vec![point(&UP, 1, Value::Int(1)); 50_000];
    let mut encoder = encoder(MAX_REQUEST_BYTES);
    assert!(encode(&mut encoder, &burst).len() > 2);
    let (request, metric) = (encoder.request.capacity(), encoder.metrics[0].points.capacity());
    assert!(request <= MAX_REQUEST_BYTES && metric <= KEPT_BYTES, "{request} {metric}");
    encode(&mut encoder, &burst[..10]);
    let capacity = encoder.metrics[0].points.capacity();
    encode(&mut encoder, &burst[..10]);
    assert_eq!(encoder.metrics[0].points.capacity(), capacity, "a small cycle takes what the last one left");
    assert!(capacity > 0);
}

/// What a request of these points is, made of the generated structs.
fn oracle(points: &[&DataPoint]) -> ExportMetricsServiceRequest {
    let mut metrics: Vec<(&Metric, Data)> = Vec::new();
    for point in points {
        let metric = point.metric;
        if !metrics.iter().any(|(known, _)| std::ptr::eq(*known, metric)) {
            let sum = |is_monotonic| {
                Data::Sum(Sum { data_points: Vec::new(), aggregation_temporality: 2, is_monotonic })
            };
            let data = match metric.kind {
                Kind::Gauge => Data::Gauge(Gauge::default()),
                Kind::Counter => sum(true),
                Kind::UpDownCounter => sum(false),
                Kind::Histogram(_) => {
                    Data::Histogram(ProtoHistogram { data_points: Vec::new(), aggregation_temporality: 2 })
                }
            };
            metrics.push((metric, data));
        }
        let (_, data) = metrics.iter_mut().find(|(known, _)| std::ptr::eq(*known, metric)).unwrap();
        let extra = point.extra.map(|extra| text(extra.key, extra.value));
        let attributes = point.attributes.iter().map(|attribute| match &attribute.value {
            AttributeValue::Str(value) => text(attribute.key, value),
            AttributeValue::Int(value) => key_value(attribute.key.into(), ProtoAny::IntValue(*value)),
        });
        let attributes: Vec<KeyValue> = attributes.chain(extra).collect();
        let nanos = |time: SystemTime| match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => u64::try_from(since.as_nanos()).unwrap(),
            Err(_) => 0,
        };
        let (time_unix_nano, start_time_unix_nano) = (nanos(point.time), point.start.map_or(0, nanos));
        match (data, &point.value) {
            (Data::Histogram(histogram), value) => {
                let mut one = HistogramDataPoint {
                    attributes,
                    time_unix_nano,
                    start_time_unix_nano,
                    ..HistogramDataPoint::default()
                };
                if let (Value::Histogram(value), Kind::Histogram(bounds)) = (value, metric.kind) {
                    one.count = value.buckets.iter().sum();
                    one.sum = Some(value.sum);
                    one.bucket_counts.clone_from(&value.buckets);
                    one.explicit_bounds = bounds.into();
                } else {
                    one.flags = 1;
                }
                histogram.data_points.push(one);
            }
            (Data::Gauge(Gauge { data_points }) | Data::Sum(Sum { data_points, .. }), value) => {
                let value = match value {
                    Value::Int(value) => Some(ProtoNumber::AsInt(*value)),
                    Value::Double(value) => Some(ProtoNumber::AsDouble(*value)),
                    Value::Histogram(_) => None,
                };
                data_points.push(NumberDataPoint {
                    attributes,
                    time_unix_nano,
                    start_time_unix_nano,
                    flags: value.is_none().into(),
                    value,
                    ..NumberDataPoint::default()
                });
            }
            (other, _) => panic!("{other:?}"),
        }
    }
    let metrics = metrics.into_iter().map(|(metric, data)| ProtoMetric {
        name: metric.name.into(),
        description: metric.description.into(),
        unit: metric.unit.into(),
        data: Some(data),
        ..ProtoMetric::default()
    });
    let scope = InstrumentationScope {
        name: "vms-agent".into(),
        version: "1.2.3".into(),
        ..InstrumentationScope::default()
    };
    let scope_metrics =
        ScopeMetrics { scope: Some(scope), metrics: metrics.collect(), ..ScopeMetrics::default() };
    let resource_metrics = ResourceMetrics {
        resource: Some(resource().0),
        scope_metrics: vec![scope_metrics],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

/// The points in requests, each with as many as fit the limit by what prost says that they take.
fn oracle_split(points: &[DataPoint], limit: usize) -> Vec<Vec<&DataPoint>> {
    let mut requests: Vec<Vec<&DataPoint>> = Vec::new();
    for point in points {
        let with = requests.last().map(|last| [last.as_slice(), &[point]].concat());
        match with.filter(|with| oracle(with).encoded_len() <= limit) {
            Some(with) => *requests.last_mut().unwrap() = with,
            None => requests.push(vec![point]),
        }
    }
    requests
}

/// Any points: a few series and metrics, with any values, of the wrong kind too, and any times.
fn any_points() -> impl Strategy<Value = Vec<DataPoint>> {
    let value = prop_oneof![
        "\\PC{0,200}".prop_map(|text| AttributeValue::from(text.as_str())),
        any::<i64>().prop_map(AttributeValue::Int),
    ];
    let key = proptest::sample::select(vec!["name", "dest_ip", "übermaß", ""]);
    let attribute = (key, value).prop_map(|(key, value)| Attribute { key, value });
    let set = proptest::collection::vec(attribute, 0..5)
        .prop_map(|attributes| Arc::new(AttributeSet::new(attributes)));
    let sets = proptest::collection::vec(set, 1..4);
    let metric =
        proptest::sample::select(vec![&UP, &STATUS, &CYCLES_LATE, &QUEUE_BYTES, &SECONDS, &CYCLE_DURATION]);
    let extras = [("state", "up"), ("reason", "ни за что"), ("note", "")];
    let extra = proptest::sample::select(extras.map(|(key, value)| Extra { key, value }).to_vec());
    let value = prop_oneof![
        Just(Value::Int(0)),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Double),
        (proptest::collection::vec(0_u64..1 << 40, 0..5), any::<f64>())
            .prop_map(|(buckets, sum)| Value::Histogram(Histogram { buckets, sum })),
    ];
    // From before 1970 to the end of what OTLP can say.
    let time = || {
        prop_oneof![Just(0_i64), -1_000_000_000_000_i64..1_000_000_000_000, any::<i64>()].prop_map(|nanos| {
            let distance = Duration::from_nanos(nanos.unsigned_abs());
            let epoch = SystemTime::UNIX_EPOCH;
            if nanos < 0 { epoch - distance } else { epoch + distance }
        })
    };
    let start = proptest::option::of(time());
    let point = (any::<proptest::sample::Index>(), metric, proptest::option::of(extra), time(), start, value);
    (sets, proptest::collection::vec(point, 0..60)).prop_map(|(sets, points)| {
        let point = |(set, metric, extra, time, start, value): (proptest::sample::Index, _, _, _, _, _)| {
            DataPoint { metric, attributes: Arc::clone(set.get(&sets)), extra, time, start, value }
        };
        points.into_iter().map(point).collect()
    })
}

proptest! {
    #[test]
    fn requests_say_what_the_points_are_and_each_takes_all_that_fit(
        points in any_points(),
        more in any_points(),
        limit in 200usize..5000,
    ) {
        let mut encoder = encoder(limit);
        // What an earlier cycle left in the encoder is not to be seen in the next.
        for points in [&points, &more, &points] {
            let requests = encode(&mut encoder, points);
            let expected = oracle_split(points, limit);
            prop_assert_eq!(requests.len(), expected.len());
            for ((bytes, count), expected) in requests.iter().zip(expected) {
                let expected_request = oracle(&expected);
                prop_assert_eq!(bytes.len(), expected_request.encoded_len());
                prop_assert_eq!(decode(bytes), expected_request);
                prop_assert_eq!(usize::try_from(*count).unwrap(), expected.len());
                prop_assert!(bytes.len() <= limit || expected.len() == 1);
            }
        }
    }
}

#[test]
fn the_request_without_points_holds_no_metric() {
    let request = decode(&encode_without_points());
    assert_eq!(request.resource_metrics.len(), 1);
    assert_eq!(metrics(request), []);
}
