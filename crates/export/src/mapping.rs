//! Data points as OTLP metrics (OpenTelemetry metrics data model; `opentelemetry/proto/metrics/v1`).
//!
//! A point keeps the time at which it was measured: that is why this does not go through the OpenTelemetry SDK,
//! which stamps a metric's points with the time of their collection.
//!
//! Points are written as bytes at once, not as structs first: there are as many as all links have metrics, in each
//! cycle, and nearly all of a point is the attributes of its series, whose bytes never change. What there is little
//! of goes through the generated structs.

use std::time::SystemTime;

use bytes::BufMut;
use opentelemetry_proto::tonic::common::v1::any_value::Value as ProtoAny;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, Histogram as ProtoHistogram, HistogramDataPoint,
    Metric as ProtoMetric, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use prost::encoding::{self, WireType, double, encode_key, encode_varint, fixed64, sfixed64, uint32};
use prost::{Message, length_delimiter_len};
use vms_core::metric::{Attribute, AttributeValue, DataPoint, Extra, Kind, Metric, Value};

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
/// gRPC servers refuse messages above 4 MiB unless told otherwise, and measure them uncompressed. Far less bounds what
/// one failed attempt repeats and what encoding holds in memory at a time; and gzip, which looks back 32 KiB and no
/// further, finds the attributes of a link again at its next metric: with 20 metrics it makes half as many bytes of
/// requests of this size as of those twice as large.
pub const MAX_REQUEST_BYTES: usize = 512 << 10;

/// The most bytes that the buffer of each metric keeps from one call to the next: what a full request needs where its
/// points are spread over some twenty metrics, as those of links are. So no cycle allocates them anew, and one metric that
/// had a burst does not keep it.
const KEPT_BYTES: usize = 32 << 10;

/// An encoded `ExportMetricsServiceRequest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodedRequest<'a> {
    /// The message, as neither compressed nor framed.
    pub bytes: &'a [u8],
    /// How many data points it holds.
    pub points: u64,
}

/// Turns data points into requests, all with the same resource and scope.
#[derive(Debug)]
pub struct Encoder {
    /// The field `resource` of a `ResourceMetrics`.
    resource: Vec<u8>,
    /// The field `scope` of a `ScopeMetrics`.
    scope: Vec<u8>,
    limit: usize,
    /// Of each metric that ever had a point. The first `used` of them have points in the request that is being made,
    /// and stand in the order in which it got them.
    metrics: Vec<MetricBytes>,
    used: usize,
    /// Where in `metrics` the last point went.
    last: usize,
    /// What the metrics of the request take.
    metrics_len: usize,
    points: u64,
    request: Vec<u8>,
}

impl Encoder {
    /// An encoder for points of this resource, measured by this version of the agent.
    #[must_use]
    pub fn new(resource: &Resource, version: &str) -> Self {
        Self::with_limit(resource, version, MAX_REQUEST_BYTES)
    }

    fn with_limit(resource: &Resource, version: &str, limit: usize) -> Self {
        let scope = InstrumentationScope {
            name: "vms-agent".to_owned(),
            version: version.to_owned(),
            ..InstrumentationScope::default()
        };
        Self {
            resource: message_field(field::RESOURCE, &resource.0),
            scope: message_field(field::SCOPE, &scope),
            limit,
            metrics: Vec::new(),
            used: 0,
            last: 0,
            metrics_len: 0,
            points: 0,
            request: Vec::new(),
        }
    }

    /// Encodes the points into requests of at most [`MAX_REQUEST_BYTES`], and hands out each as soon as it is made.
    ///
    /// Each takes as many of the points, in their order, as it has room for; a single point that is larger travels
    /// alone. Within a request the points are grouped by metric, in order of first occurrence. So the points of a link
    /// travel together, no more than one request is in memory at a time, and the attributes that a link's points
    /// repeat are near each other, where a compressor finds them.
    pub fn encode(&mut self, points: &[DataPoint], mut take: impl FnMut(EncodedRequest<'_>)) {
        for point in points {
            self.add(point, &mut take);
        }
        if self.points > 0 {
            self.close(&mut take);
        }
        self.request.clear();
        self.request.shrink_to(self.limit);
        for metric in &mut self.metrics {
            metric.points.shrink_to(KEPT_BYTES);
        }
    }

    fn add(&mut self, point: &DataPoint, take: &mut impl FnMut(EncodedRequest<'_>)) {
        let encodable = Encodable::from_point(point);
        let point_len = encodable.len();
        let index = self.find(point.metric);
        let Some(metric) = self.metrics.get(index) else { return };
        let grown = metric.len_with(framed(point_len));
        let metrics_len = self.metrics_len - metric.len + grown;
        if self.points > 0 && self.lengths(metrics_len).request() > self.limit {
            self.close(take);
            // In a request without points it has room in any case.
            return self.add(point, take);
        }
        let index = self.use_in_request(index);
        let Some(metric) = self.metrics.get_mut(index) else { return };
        encodable.encode(point_len, &mut metric.points);
        metric.len = grown;
        self.metrics_len = metrics_len;
        self.points += 1;
        self.last = index;
    }

    /// Moves a metric to those in use, unless it is one of them. Returns where it is now.
    fn use_in_request(&mut self, index: usize) -> usize {
        if index < self.used {
            return index;
        }
        let place = self.used;
        self.metrics.swap(index, place);
        self.used += 1;
        place
    }

    /// Where in `metrics` that metric is. Links have the same metrics in the same order: it is most often the one of
    /// the last point or the one after it.
    fn find(&mut self, metric: &'static Metric) -> usize {
        let is_it = |known: &MetricBytes| std::ptr::eq(known.metric, metric);
        let (before, after) = self.metrics.split_at(self.last.min(self.metrics.len()));
        let found = after.iter().position(is_it).map(|index| index + before.len());
        found.or_else(|| before.iter().position(is_it)).unwrap_or_else(|| {
            self.metrics.push(MetricBytes::new(metric));
            self.metrics.len() - 1
        })
    }

    /// Hands out the present request and begins the next.
    fn close(&mut self, take: &mut impl FnMut(EncodedRequest<'_>)) {
        self.write_request();
        take(EncodedRequest { bytes: &self.request, points: self.points });
        for metric in self.metrics.iter_mut().take(self.used) {
            metric.points.clear();
            metric.len = 0;
        }
        self.used = 0;
        self.metrics_len = 0;
        self.points = 0;
    }

    fn write_request(&mut self) {
        let lengths = self.lengths(self.metrics_len);
        let request = &mut self.request;
        request.clear();
        request.reserve_exact(lengths.request());
        encode_frame(field::RESOURCE_METRICS, lengths.resource_metrics, request);
        request.put_slice(&self.resource);
        encode_frame(field::SCOPE_METRICS, lengths.scope_metrics, request);
        request.put_slice(&self.scope);
        for metric in self.metrics.iter().take(self.used) {
            metric.encode(request);
        }
    }

    /// How long the messages around metrics of this length are.
    fn lengths(&self, metrics_len: usize) -> Lengths {
        let scope_metrics = self.scope.len() + metrics_len;
        Lengths { scope_metrics, resource_metrics: self.resource.len() + framed(scope_metrics) }
    }
}

/// A request that holds no point: it proves that requests are understood and leaves nothing behind.
///
/// It is not empty all the same: an empty body is what servers and proxies refuse before they look further.
pub(crate) fn encode_without_points() -> Vec<u8> {
    let mut encoder = Encoder::new(&Resource::new([]), env!("CARGO_PKG_VERSION"));
    encoder.write_request();
    encoder.request
}

/// The numbers of the fields (`opentelemetry/proto/metrics/v1/metrics.proto` and those that it imports). All are below
/// 16, so that the key of each is one byte.
mod field {
    /// `ExportMetricsServiceRequest.resource_metrics`.
    pub(super) const RESOURCE_METRICS: u32 = 1;
    /// `ResourceMetrics.resource`.
    pub(super) const RESOURCE: u32 = 1;
    /// `ResourceMetrics.scope_metrics`.
    pub(super) const SCOPE_METRICS: u32 = 2;
    /// `ScopeMetrics.scope`.
    pub(super) const SCOPE: u32 = 1;
    /// `ScopeMetrics.metrics`.
    pub(super) const METRICS: u32 = 2;
    /// `Metric.gauge`.
    pub(super) const GAUGE: u32 = 5;
    /// `Metric.sum`.
    pub(super) const SUM: u32 = 7;
    /// `Metric.histogram`.
    pub(super) const HISTOGRAM: u32 = 9;
    /// `Gauge.data_points`, `Sum.data_points` and `Histogram.data_points`.
    pub(super) const DATA_POINTS: u32 = 1;
    /// `NumberDataPoint.start_time_unix_nano`.
    pub(super) const START_TIME: u32 = 2;
    /// `NumberDataPoint.time_unix_nano`.
    pub(super) const TIME: u32 = 3;
    /// `NumberDataPoint.as_double`.
    pub(super) const AS_DOUBLE: u32 = 4;
    /// `NumberDataPoint.as_int`.
    pub(super) const AS_INT: u32 = 6;
    /// `NumberDataPoint.attributes`; `HistogramDataPoint` has them elsewhere.
    pub(super) const NUMBER_ATTRIBUTES: u32 = 7;
    /// `NumberDataPoint.flags`.
    pub(super) const FLAGS: u32 = 8;
    /// `KeyValue.key`.
    pub(super) const KEY: u32 = 1;
    /// `KeyValue.value`.
    pub(super) const VALUE: u32 = 2;
    /// `AnyValue.string_value`.
    pub(super) const STRING_VALUE: u32 = 1;
}

/// The lengths of the messages around the metrics of a request.
struct Lengths {
    resource_metrics: usize,
    scope_metrics: usize,
}

impl Lengths {
    /// The length of the whole request.
    fn request(&self) -> usize {
        framed(self.resource_metrics)
    }
}

/// A metric in the making: what stands before its points, the points, and what stands behind them.
#[derive(Debug)]
struct MetricBytes {
    metric: &'static Metric,
    /// The fields of the `Metric` without its data.
    header: Vec<u8>,
    /// The field of the `Metric` that holds its data.
    data_field: u32,
    /// The fields of the data without its points.
    trailer: Vec<u8>,
    /// The fields `data_points` of the data.
    points: Vec<u8>,
    /// What the metric takes of the request: nothing while it has no points.
    len: usize,
}

impl MetricBytes {
    fn new(metric: &'static Metric) -> Self {
        let header = ProtoMetric {
            name: metric.name.to_owned(),
            description: metric.description.to_owned(),
            unit: metric.unit.to_owned(),
            metadata: Vec::new(),
            data: None,
        };
        let aggregation_temporality = i32::from(AggregationTemporality::Cumulative);
        let sum = |is_monotonic| {
            Sum { data_points: Vec::new(), aggregation_temporality, is_monotonic }.encode_to_vec()
        };
        let (data_field, trailer) = match metric.kind {
            Kind::Gauge => (field::GAUGE, Vec::new()),
            Kind::Counter => (field::SUM, sum(true)),
            Kind::UpDownCounter => (field::SUM, sum(false)),
            Kind::Histogram(_) => {
                let data = ProtoHistogram { data_points: Vec::new(), aggregation_temporality };
                (field::HISTOGRAM, data.encode_to_vec())
            }
        };
        Self { metric, header: header.encode_to_vec(), data_field, trailer, points: Vec::new(), len: 0 }
    }

    /// What the metric takes of the request with that many more bytes of points.
    fn len_with(&self, more: usize) -> usize {
        framed(self.header.len() + framed(self.data_len() + more))
    }

    fn data_len(&self) -> usize {
        self.points.len() + self.trailer.len()
    }

    fn encode(&self, request: &mut Vec<u8>) {
        encode_frame(field::METRICS, self.header.len() + framed(self.data_len()), request);
        request.put_slice(&self.header);
        encode_frame(self.data_field, self.data_len(), request);
        request.put_slice(&self.points);
        request.put_slice(&self.trailer);
    }
}

/// A point in the form that its metric's kind has in OTLP.
enum Encodable<'a> {
    Number(Number<'a>),
    Histogram(Box<HistogramDataPoint>),
}

impl<'a> Encodable<'a> {
    fn from_point(point: &'a DataPoint) -> Self {
        match point.metric.kind {
            Kind::Gauge | Kind::Counter | Kind::UpDownCounter => Self::Number(Number::from_point(point)),
            Kind::Histogram(bounds) => Self::Histogram(Box::new(histogram(point, bounds))),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Number(number) => number.len(),
            Self::Histogram(histogram) => histogram.encoded_len(),
        }
    }

    /// Appends the field `data_points`; `len` is what [`Self::len`] says.
    fn encode(&self, len: usize, points: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                encode_frame(field::DATA_POINTS, len, points);
                number.encode(points);
            }
            Self::Histogram(histogram) => {
                encoding::message::encode(field::DATA_POINTS, histogram.as_ref(), points);
            }
        }
    }
}

/// A `NumberDataPoint`. Times that are 0 are left out, as proto3 has it; a value is written whatever it is.
struct Number<'a> {
    /// The fields `attributes`, but for the one that `extra` makes.
    attributes: &'a [u8],
    extra: Option<ExtraField>,
    start: u64,
    time: u64,
    value: Option<NumberValue>,
}

#[derive(Clone, Copy)]
enum NumberValue {
    Int(i64),
    Double(f64),
}

impl<'a> Number<'a> {
    fn from_point(point: &'a DataPoint) -> Self {
        Self {
            attributes: point.attributes.rendered(encode_attributes),
            extra: point.extra.map(ExtraField::new),
            start: point.start.map(unix_nanos).unwrap_or_default(),
            time: unix_nanos(point.time),
            value: match point.value {
                Value::Int(value) => Some(NumberValue::Int(value)),
                Value::Double(value) => Some(NumberValue::Double(value)),
                Value::Histogram(_) => None,
            },
        }
    }

    fn len(&self) -> usize {
        // A key and 64 bits.
        let fixed = |present: bool| if present { 9 } else { 0 };
        fixed(self.start != 0)
            + fixed(self.time != 0)
            + fixed(self.value.is_some())
            + self.attributes.len()
            + self.extra.as_ref().map_or(0, ExtraField::len)
            + if self.value.is_none() { uint32::encoded_len(field::FLAGS, &no_recorded_value()) } else { 0 }
    }

    fn encode(&self, point: &mut Vec<u8>) {
        if self.start != 0 {
            fixed64::encode(field::START_TIME, &self.start, point);
        }
        if self.time != 0 {
            fixed64::encode(field::TIME, &self.time, point);
        }
        match &self.value {
            Some(NumberValue::Int(value)) => sfixed64::encode(field::AS_INT, value, point),
            Some(NumberValue::Double(value)) => double::encode(field::AS_DOUBLE, value, point),
            None => uint32::encode(field::FLAGS, &no_recorded_value(), point),
        }
        point.put_slice(self.attributes);
        if let Some(extra) = &self.extra {
            extra.encode(point);
        }
    }
}

/// The field `attributes` of a `NumberDataPoint` for one attribute more than those of its series.
struct ExtraField {
    extra: Extra,
    key_value_len: usize,
    any_value_len: usize,
}

impl ExtraField {
    fn new(extra: Extra) -> Self {
        let any_value_len = framed(extra.value.len());
        let key_value_len = framed(extra.key.len()) + framed(any_value_len);
        Self { extra, key_value_len, any_value_len }
    }

    fn len(&self) -> usize {
        framed(self.key_value_len)
    }

    fn encode(&self, point: &mut Vec<u8>) {
        let Extra { key, value } = self.extra;
        encode_frame(field::NUMBER_ATTRIBUTES, self.key_value_len, point);
        encode_frame(field::KEY, key.len(), point);
        point.put_slice(key.as_bytes());
        encode_frame(field::VALUE, self.any_value_len, point);
        encode_frame(field::STRING_VALUE, value.len(), point);
        point.put_slice(value.as_bytes());
    }
}

/// The attributes of a series as the fields `attributes` of a `NumberDataPoint`.
fn encode_attributes(attributes: &[Attribute]) -> Box<[u8]> {
    let mut bytes = Vec::new();
    for one in attributes {
        encoding::message::encode(field::NUMBER_ATTRIBUTES, &attribute(one), &mut bytes);
    }
    bytes.into()
}

fn histogram(point: &DataPoint, bounds: &[f64]) -> HistogramDataPoint {
    let extra = point.extra.map(|extra| attribute(&extra.into()));
    let empty = HistogramDataPoint {
        attributes: point.attributes.iter().map(attribute).chain(extra).collect(),
        start_time_unix_nano: point.start.map(unix_nanos).unwrap_or_default(),
        time_unix_nano: unix_nanos(point.time),
        ..HistogramDataPoint::default()
    };
    match &point.value {
        Value::Histogram(histogram) => HistogramDataPoint {
            count: histogram.count(),
            sum: Some(histogram.sum),
            bucket_counts: histogram.buckets.clone(),
            explicit_bounds: bounds.to_vec(),
            ..empty
        },
        Value::Int(_) | Value::Double(_) => HistogramDataPoint { flags: no_recorded_value(), ..empty },
    }
}

/// The flags of a point whose value its metric's kind cannot hold, a fault of the agent's: it says that it has no
/// value, which OTLP has a flag for, rather than a wrong one.
fn no_recorded_value() -> u32 {
    u32::try_from(i32::from(DataPointFlags::NoRecordedValueMask)).unwrap_or_default()
}

/// What a field takes that holds so many bytes: they, its key, and their number.
fn framed(len: usize) -> usize {
    1 + length_delimiter_len(len) + len
}

/// Writes what stands before so many bytes in a field.
fn encode_frame(field: u32, len: usize, buffer: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(u64::try_from(len).unwrap_or(u64::MAX), buffer);
}

fn message_field(field: u32, message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoding::message::encode(field, message, &mut bytes);
    bytes
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
