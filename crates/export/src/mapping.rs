//! Data points as OTLP metrics (OpenTelemetry metrics data model; `opentelemetry/proto/metrics/v1`).
//!
//! A point keeps the time at which it was measured: that is why this does not go through the OpenTelemetry SDK,
//! which stamps a metric's points with the time of their collection.

use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as ProtoAny;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as ProtoNumber;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, Gauge, Histogram as ProtoHistogram, HistogramDataPoint,
    Metric as ProtoMetric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use prost::{Message, length_delimiter_len};
use vms_core::metric::{Attribute, AttributeValue, DataPoint, Kind, Metric, Value};

use crate::queue::Batch;

/// What the points are about: the agent on its host (OpenTelemetry semantic conventions, "Resource").
#[derive(Debug, Clone, PartialEq)]
pub struct Resource(ProtoResource);

impl Resource {
    /// A resource with these attributes. Of a key given twice the last counts: keys are unique in OTLP.
    pub fn new(attributes: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut resource = ProtoResource::default();
        for (key, value) in attributes {
            resource.attributes.retain(|earlier| earlier.key != key);
            resource.attributes.push(key_value(key, ProtoAny::StringValue(value)));
        }
        Self(resource)
    }
}

/// The most bytes that an encoded request has.
///
/// gRPC servers refuse messages above 4 MiB unless told otherwise, and measure them uncompressed. A quarter of
/// that also bounds what one failed attempt repeats, and what encoding holds in memory at a time.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Turns data points into requests, all with the same resource and scope.
#[derive(Debug, Clone)]
pub struct Encoder {
    resource: ProtoResource,
    scope: InstrumentationScope,
    limit: usize,
}

impl Encoder {
    /// An encoder for points of this resource, measured by this version of the agent.
    #[must_use]
    pub fn new(resource: Resource, version: &str) -> Self {
        Self::with_limit(resource, version, MAX_REQUEST_BYTES)
    }

    fn with_limit(resource: Resource, version: &str, limit: usize) -> Self {
        let scope = InstrumentationScope {
            name: "vms-agent".to_owned(),
            version: version.to_owned(),
            ..InstrumentationScope::default()
        };
        Self { resource: resource.0, scope, limit }
    }

    /// Encodes the points, grouped by metric in order of first occurrence, into as few requests of at most
    /// [`MAX_REQUEST_BYTES`] as that order allows. A single point that is larger travels alone.
    #[must_use]
    pub fn encode(&self, points: &[DataPoint]) -> Vec<Batch> {
        let mut assembly = Assembly::new(self);
        for (metric, points) in group_by_metric(points) {
            for point in points {
                assembly.add(metric, point);
            }
        }
        assembly.finish()
    }

    fn request(&self, metrics: Vec<ProtoMetric>) -> ExportMetricsServiceRequest {
        let scope_metrics =
            ScopeMetrics { scope: Some(self.scope.clone()), metrics, schema_url: String::new() };
        let resource_metrics = ResourceMetrics {
            resource: Some(self.resource.clone()),
            scope_metrics: vec![scope_metrics],
            schema_url: String::new(),
        };
        ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
    }
}

/// A request that holds no point: it proves that requests are understood and leaves nothing behind.
///
/// It is not empty all the same: an empty body is what servers and proxies refuse before they look further.
pub(crate) fn encode_without_points() -> Bytes {
    let encoder = Encoder::new(Resource::new([]), env!("CARGO_PKG_VERSION"));
    encoder.request(Vec::new()).encode_to_vec().into()
}

/// The most that a nested message adds to its own length: a tag of one byte (all fields on the way have numbers below
/// 16) and a length, a varint of at most five bytes for anything below 4 GiB.
const FRAME: usize = 6;

/// What a nested message of this length takes.
fn framed(length: usize) -> usize {
    1 + length_delimiter_len(length) + length
}

/// Requests in the making. `bytes` is never less than what the request will have when encoded.
struct Assembly<'a> {
    encoder: &'a Encoder,
    empty_bytes: usize,
    metrics: Vec<ProtoMetric>,
    last: Option<&'static Metric>,
    bytes: usize,
    points: u64,
    batches: Vec<Batch>,
}

impl<'a> Assembly<'a> {
    fn new(encoder: &'a Encoder) -> Self {
        // Around the metrics: the request's one ResourceMetrics, its resource, its one ScopeMetrics, its scope.
        let empty_bytes = 4 * FRAME + encoder.resource.encoded_len() + encoder.scope.encoded_len();
        Self {
            encoder,
            empty_bytes,
            metrics: Vec::new(),
            last: None,
            bytes: empty_bytes,
            points: 0,
            batches: Vec::new(),
        }
    }

    fn add(&mut self, metric: &'static Metric, point: &DataPoint) {
        let converted = Converted::from_point(metric, point);
        let point_bytes = framed(converted.encoded_len());
        let known = self.last.is_some_and(|last| std::ptr::eq(last, metric));
        let header_bytes = if known { 0 } else { metric_bytes(metric) };
        if self.points > 0 && self.bytes + header_bytes + point_bytes > self.encoder.limit {
            self.close();
        }
        if self.last.is_none_or(|last| !std::ptr::eq(last, metric)) {
            self.metrics.push(empty_metric(metric));
            self.bytes += metric_bytes(metric);
            self.last = Some(metric);
        }
        self.bytes += point_bytes;
        self.points += 1;
        if let Some(data) = self.metrics.last_mut().and_then(|metric| metric.data.as_mut()) {
            converted.push_to(data);
        }
    }

    /// Ends the present request and begins the next.
    fn close(&mut self) {
        let request = self.encoder.request(std::mem::take(&mut self.metrics));
        self.batches.push(Batch::new(request.encode_to_vec().into(), self.points));
        self.last = None;
        self.bytes = self.empty_bytes;
        self.points = 0;
    }

    fn finish(mut self) -> Vec<Batch> {
        if self.points > 0 {
            self.close();
        }
        self.batches
    }
}

/// A point in the form that its metric's kind has in OTLP.
enum Converted {
    Number(NumberDataPoint),
    Histogram(HistogramDataPoint),
}

impl Converted {
    fn from_point(metric: &Metric, point: &DataPoint) -> Self {
        let extra = point.extra.map(|extra| attribute(&extra.into()));
        let attributes = point.attributes.iter().map(attribute).chain(extra).collect();
        let start_time_unix_nano = point.start.map(unix_nanos).unwrap_or_default();
        let time_unix_nano = unix_nanos(point.time);
        // A value that its metric's kind cannot hold is a fault of the agent's: such a point says that it has
        // no value, which OTLP has a flag for, rather than a wrong one.
        let no_value = u32::try_from(i32::from(DataPointFlags::NoRecordedValueMask)).unwrap_or_default();
        if let Kind::Histogram(bounds) = metric.kind {
            let mut converted = HistogramDataPoint {
                attributes,
                start_time_unix_nano,
                time_unix_nano,
                ..HistogramDataPoint::default()
            };
            if let Value::Histogram(histogram) = &point.value {
                converted.count = histogram.count();
                converted.sum = Some(histogram.sum);
                converted.bucket_counts.clone_from(&histogram.buckets);
                converted.explicit_bounds = bounds.to_vec();
            } else {
                converted.flags = no_value;
            }
            return Self::Histogram(converted);
        }
        let value = match point.value {
            Value::Int(value) => Some(ProtoNumber::AsInt(value)),
            Value::Double(value) => Some(ProtoNumber::AsDouble(value)),
            Value::Histogram(_) => None,
        };
        let flags = if value.is_none() { no_value } else { 0 };
        Self::Number(NumberDataPoint {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            exemplars: Vec::new(),
            flags,
            value,
        })
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Number(point) => point.encoded_len(),
            Self::Histogram(point) => point.encoded_len(),
        }
    }

    fn push_to(self, data: &mut Data) {
        match (self, data) {
            (Self::Number(point), Data::Gauge(gauge)) => gauge.data_points.push(point),
            (Self::Number(point), Data::Sum(sum)) => sum.data_points.push(point),
            (Self::Histogram(point), Data::Histogram(histogram)) => histogram.data_points.push(point),
            // Both were chosen by the same metric's kind.
            _ => {}
        }
    }
}

fn group_by_metric(points: &[DataPoint]) -> Vec<(&'static Metric, Vec<&DataPoint>)> {
    let mut groups: Vec<(&'static Metric, Vec<&DataPoint>)> = Vec::new();
    for point in points {
        // A few metrics, not many: a walk costs less than a hash.
        match groups.iter_mut().find(|(metric, _)| std::ptr::eq(*metric, point.metric)) {
            Some((_, group)) => group.push(point),
            None => groups.push((point.metric, vec![point])),
        }
    }
    groups
}

fn empty_metric(metric: &Metric) -> ProtoMetric {
    let cumulative = i32::from(AggregationTemporality::Cumulative);
    let sum = |is_monotonic| {
        Data::Sum(Sum { data_points: Vec::new(), aggregation_temporality: cumulative, is_monotonic })
    };
    ProtoMetric {
        name: metric.name.to_owned(),
        description: metric.description.to_owned(),
        unit: metric.unit.to_owned(),
        metadata: Vec::new(),
        data: Some(match metric.kind {
            Kind::Gauge => Data::Gauge(Gauge::default()),
            Kind::Counter => sum(true),
            Kind::UpDownCounter => sum(false),
            Kind::Histogram(_) => Data::Histogram(ProtoHistogram {
                data_points: Vec::new(),
                aggregation_temporality: cumulative,
            }),
        }),
    }
}

/// No less than what a metric without its points takes: its own frame, and its data's with room for a length.
fn metric_bytes(metric: &Metric) -> usize {
    2 * FRAME + empty_metric(metric).encoded_len()
}

fn attribute(attribute: &Attribute) -> KeyValue {
    let value = match &attribute.value {
        AttributeValue::Str(text) => ProtoAny::StringValue(text.as_ref().to_owned()),
        AttributeValue::Int(number) => ProtoAny::IntValue(*number),
    };
    key_value(attribute.key.to_owned(), value)
}

fn key_value(key: String, value: ProtoAny) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Nanoseconds since 1970. OTLP has no earlier time and none after 2554: those become the nearest it has, and
/// the former, 0, is read as "unknown".
fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
