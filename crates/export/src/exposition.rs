//! Data points as Prometheus scrapes them: `OpenMetrics` 1.0, and the Prometheus text format 0.0.4.
//!
//! Names follow the OpenTelemetry specification, "Prometheus and `OpenMetrics` Compatibility", section "OTLP Metric
//! points to Prometheus". Samples carry no time: Prometheus would not mark a series as stale that had one and is no longer there
//! (`track_timestamps_staleness`), and go on showing it for five minutes.
//!
//! There is one instrumentation scope, and `target_info` has its version: samples have no `otel_scope_*` labels.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, EncodeLabelValue, LabelEncoder, LabelSetEncoder,
    LabelValueEncoder, MetricEncoder, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use vms_core::metric::{self, Attribute, AttributeValue, DataPoint, Kind, Metric, Value};

mod coding;

use coding::Compressor;
pub use coding::{Beginning, Coding};

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// The Prometheus text format 0.0.4.
    Text,
}

impl Format {
    /// The one that a client would rather have, by the values of its `Accept` header (RFC 9110, section 12.5.1). Text for who
    /// asks for neither, as browsers and curl do.
    pub fn negotiate<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = quality(parts);
            match kind.as_str() {
                "application/openmetrics-text" => open_metrics = open_metrics.max(quality),
                "text/plain" | "text/*" => text = text.max(quality),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of what is written so.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => prometheus_text::CONTENT_TYPE,
        }
    }

    /// What has to stand at the end.
    #[must_use]
    pub fn end(self) -> &'static str {
        match self {
            Self::OpenMetrics => "# EOF\n",
            Self::Text => "",
        }
    }
}

/// How much a client would like what has these parameters (RFC 9110, section 12.4.2): not at all where that makes no sense.
fn quality<'a>(mut parameters: impl Iterator<Item = &'a str>) -> f32 {
    let quality = parameters.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    quality.map_or(1.0, |quality| quality.parse().unwrap_or_default())
}

/// What `target_info` says: the attributes of the resource, under names that labels may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target(Vec<(String, String)>);

impl Target {
    /// Of a resource with these attributes. Of a key given twice the last counts, and the values of keys that become the same
    /// label are joined by `;`, in the order of the keys.
    pub fn new(attributes: impl IntoIterator<Item = (String, String)>) -> Self {
        let attributes: BTreeMap<String, String> = attributes.into_iter().collect();
        let mut labels: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in attributes {
            labels
                .entry(label_name(&key))
                .and_modify(|present| present.extend([";", &value]))
                .or_insert(value);
        }
        Self(labels.into_iter().collect())
    }
}

/// Under which names the metrics of watches are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    /// Their own.
    #[default]
    Own,
    /// Their own, and those that dashboards of `cnxwatch_exporter` ask for, with its labels.
    AlsoCnxwatch,
}

/// Metrics of watches, and what they are called by `cnxwatch_exporter` 0.1.3.
const CNXWATCH: [(&Metric, &str, &str); 2] = [
    (&metric::WATCH_COUNT, "connection_status_count", "number of socket with same parameter."),
    (&metric::WATCH_UP, "connection_status_up", "Connection status of the socket (0 down - 1 up)."),
];

/// Writes the points, grouped by metric, without what has to stand at the [end](Format::end): more may follow of other
/// metrics. `target`, where it is given, comes first.
///
/// # Errors
/// Never by what the points hold.
pub fn encode(
    format: Format,
    target: Option<Arc<Target>>,
    points: Vec<Arc<Vec<DataPoint>>>,
    names: Names,
) -> Result<String, fmt::Error> {
    let mut text = String::new();
    write(&mut text, format, Collected { target, points, names })?;
    Ok(text)
}

/// The same, as it goes on the wire.
///
/// # Errors
/// Never by what the points hold.
pub fn encode_beginning(
    format: Format,
    coding: Coding,
    target: Option<Arc<Target>>,
    points: Vec<Arc<Vec<DataPoint>>>,
    names: Names,
) -> Result<Beginning, fmt::Error> {
    match coding {
        Coding::Identity => encode(format, target, points, names).map(Beginning::from),
        Coding::Gzip => {
            let mut compressor = Compressor::new();
            write(&mut compressor, format, Collected { target, points, names })?;
            compressor.finish().map_err(|_never| fmt::Error)
        }
    }
}

fn write(writer: &mut impl Write, format: Format, collected: Collected) -> fmt::Result {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collected));
    match format {
        Format::OpenMetrics => text::encode_registry(writer, &registry),
        Format::Text => prometheus_text::encode(writer, &registry),
    }
}

/// The name of a metric, without what its unit and its kind append.
fn base_name(metric: &Metric) -> String {
    metric.name.replace('.', "_")
}

/// What the unit of a metric appends. Annotations in braces count things, and append nothing; nor does the 1 of anything but a
/// gauge.
fn unit(metric: &Metric) -> Option<Unit> {
    match (metric.unit, metric.kind) {
        ("s", _) => Some(Unit::Seconds),
        ("By", _) => Some(Unit::Bytes),
        ("1", Kind::Gauge) => Some(Unit::Other("ratio".to_owned())),
        _ => None,
    }
}

/// A key as the name of a label: letters, digits and underscores, and no digit at the beginning.
fn label_name(key: &str) -> String {
    let mut name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        name.insert(0, '_');
    }
    name
}

/// What a registry of the library is given: it has nothing else in it.
#[derive(Debug)]
struct Collected {
    target: Option<Arc<Target>>,
    points: Vec<Arc<Vec<DataPoint>>>,
    names: Names,
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(target) = &self.target {
            encoder
                .encode_descriptor("target", "What the metrics are about.", None, MetricType::Info)?
                .encode_info(&target.0)?;
        }
        let mut metrics: BTreeMap<&str, (&'static Metric, Vec<&DataPoint>)> = BTreeMap::new();
        for point in self.points.iter().flat_map(|points| points.iter()) {
            let (_, of_metric) =
                metrics.entry(point.metric.name).or_insert_with(|| (point.metric, Vec::new()));
            of_metric.push(point);
        }
        for (metric, points) in metrics.values() {
            let (name, unit) = (base_name(metric), unit(metric));
            let kind = match metric.kind {
                Kind::Gauge | Kind::UpDownCounter => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
                Kind::Histogram(_) => MetricType::Histogram,
            };
            let mut encoder = encoder.encode_descriptor(&name, metric.description, unit.as_ref(), kind)?;
            for point in points {
                encode_point(point, encoder.encode_family(&Labels(point))?)?;
            }
        }
        if self.names == Names::AlsoCnxwatch {
            for (metric, name, help) in CNXWATCH {
                // What is told by version of IP has no such name.
                let points = metrics.get(metric.name).into_iter().flat_map(|(_, points)| points);
                let mut points = points.filter(|point| point.extra.is_none()).peekable();
                if points.peek().is_none() {
                    continue;
                }
                let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                for point in points {
                    encode_point(point, encoder.encode_family(&CnxwatchLabels(point))?)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_point(point: &DataPoint, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match (point.metric.kind, &point.value) {
        (Kind::Gauge | Kind::UpDownCounter, Value::Int(value)) => encoder.encode_gauge(value),
        (Kind::Gauge | Kind::UpDownCounter, Value::Double(value)) => encoder.encode_gauge(value),
        (Kind::Counter, Value::Int(value)) => {
            // No counter is negative.
            let value = u64::try_from(*value).unwrap_or_default();
            encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)
        }
        (Kind::Counter, Value::Double(value)) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
        (Kind::Histogram(bounds), Value::Histogram(histogram)) => {
            // The encoder adds them up.
            let bounds = bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets.iter().copied()).collect();
            encoder.encode_histogram::<NoLabelSet>(histogram.sum, histogram.count(), &buckets, None)
        }
        // No metric has such points.
        (Kind::Histogram(_), _) | (_, Value::Histogram(_)) => Ok(()),
    }
}

/// The labels of a point.
struct Labels<'a>(&'a DataPoint);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let Labels(point) = self;
        for Attribute { key, value } in point.attributes.iter() {
            Label { key, value }.encode(encoder.encode_label())?;
        }
        if let Some(extra) = point.extra {
            Label { key: extra.key, value: &extra.value }.encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// The labels that `cnxwatch_exporter` gives to a watch, in its order.
struct CnxwatchLabels<'a>(&'a DataPoint);

impl EncodeLabelSet for CnxwatchLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let of = |key: &str| {
            let attribute = self.0.attributes.iter().find(|attribute| attribute.key == key);
            match attribute.map(|attribute| &attribute.value) {
                Some(AttributeValue::Str(text)) => text.as_ref(),
                Some(AttributeValue::Int(_)) | None => "*",
            }
        };
        let lower = of("states").to_ascii_lowercase();
        // It has no other words for what is not connected.
        let status = if lower == "unconnected" { "listen" } else { lower.as_str() };
        for (key, value) in [
            ("dsthost", of("remote_address")),
            ("dstport", of("remote_port")),
            ("name", of("name")),
            ("process", of("process_name")),
            ("protocol", of("proto")),
            ("srchost", of("local_address")),
            ("srcport", of("local_port")),
            ("status", status),
        ] {
            Label { key, value: &value }.encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// One label. The keys of points are ours, of lower case letters, underscores and dots.
struct Label<'a, V> {
    key: &'a str,
    value: &'a V,
}

impl<V: LabelValue> EncodeLabel for Label<'_, V> {
    fn encode(&self, mut encoder: LabelEncoder<'_>) -> Result<(), fmt::Error> {
        let mut key = encoder.encode_label_key()?;
        for (index, part) in self.key.split('.').enumerate() {
            if index > 0 {
                key.write_str("_")?;
            }
            key.write_str(part)?;
        }
        let mut value = key.encode_label_value()?;
        self.value.write(&mut value)?;
        value.finish()
    }
}

/// What the value of a label is made of.
trait LabelValue {
    fn write(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error>;
}

impl LabelValue for AttributeValue {
    fn write(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Str(text) => text.as_ref().encode(encoder),
            Self::Int(number) => number.encode(encoder),
        }
    }
}

impl LabelValue for &str {
    fn write(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode(encoder)
    }
}

#[cfg(test)]
mod tests;
