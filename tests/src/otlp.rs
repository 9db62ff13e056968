//! Data points as the tests look at them: flat, whichever collector they came through.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point};

/// A received data point with everything that belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The metric's name.
    pub name: String,
    /// The metric's unit.
    pub unit: String,
    /// The metric's description.
    pub description: String,
    /// `gauge`, `counter`, `updowncounter`, `histogram`, or what it is instead.
    pub kind: String,
    /// The attributes of the point; a text in quotes, a number without.
    pub attributes: BTreeMap<String, String>,
    /// The value; of a histogram its count.
    pub value: Number,
    /// When it was measured, in nanoseconds since 1970.
    pub time: u64,
    /// Since when it counts, in nanoseconds since 1970; 0 for gauges.
    pub start: u64,
    /// The attributes of the resource, spelled like those of the point.
    pub resource: BTreeMap<String, String>,
}

/// A value, with its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// An integer.
    Int(i64),
    /// Any other number.
    Double(f64),
}

impl Number {
    /// The integer that it has to be.
    #[must_use]
    #[track_caller]
    pub fn as_int(self) -> i64 {
        match self {
            Self::Int(number) => number,
            Self::Double(number) => panic!("{number} is not an integer"),
        }
    }

    /// The number of any other kind that it has to be.
    #[must_use]
    #[track_caller]
    pub fn as_double(self) -> f64 {
        match self {
            Self::Double(number) => number,
            Self::Int(number) => panic!("{number} is an integer"),
        }
    }
}

impl Point {
    /// An attribute's value; a text in quotes.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }

    /// Whether the point is that metric's, with these attributes among others.
    #[must_use]
    pub fn is(&self, metric: &str, attributes: &[(&str, &str)]) -> bool {
        self.name == metric
            && attributes.iter().all(|(key, value)| {
                self.attribute(key).is_some_and(|found| found == *value || found == format!("\"{value}\""))
            })
    }
}

/// What a collector received, in the order of its arrival.
pub trait Points {
    /// Every data point received so far.
    fn points(&self) -> Vec<Point>;

    /// The points of one metric with these attributes, in the order in which they were measured.
    fn series(&self, metric: &str, attributes: &[(&str, &str)]) -> Vec<Point> {
        let mut points: Vec<Point> =
            self.points().into_iter().filter(|point| point.is(metric, attributes)).collect();
        points.sort_by_key(|point| point.time);
        points
    }

    /// Waits for a point of one metric with these attributes and that value, measured at that time or later.
    #[track_caller]
    fn wait_for_value(&self, metric: &str, attributes: &[(&str, &str)], value: i64, since: u64) -> Point {
        crate::eventually(&format!("{metric} {attributes:?} = {value}"), || {
            self.series(metric, attributes)
                .into_iter()
                .find(|point| point.value == Number::Int(value) && point.time >= since)
        })
    }

    /// Waits for more points of a series, all measured at that time or later.
    #[track_caller]
    fn wait_for_points(
        &self,
        metric: &str,
        attributes: &[(&str, &str)],
        count: usize,
        since: u64,
    ) -> Vec<Point> {
        crate::eventually(&format!("{count} points of {metric} {attributes:?}"), || {
            let points: Vec<Point> =
                self.series(metric, attributes).into_iter().filter(|point| point.time >= since).collect();
            (points.len() >= count).then_some(points)
        })
    }
}

/// Flattens a metric as it came over the wire.
pub(crate) fn flatten(resource: &[KeyValue], metric: &Metric, points: &mut Vec<Point>) {
    let resource = flatten_attributes(resource);
    let mut add = |kind: &str, attributes: &[KeyValue], value, time, start| {
        points.push(Point {
            name: metric.name.clone(),
            unit: metric.unit.clone(),
            description: metric.description.clone(),
            kind: kind.to_owned(),
            attributes: flatten_attributes(attributes),
            value,
            time,
            start,
            resource: resource.clone(),
        });
    };
    let number = |value: Option<number_data_point::Value>| match value {
        Some(number_data_point::Value::AsInt(value)) => Number::Int(value),
        Some(number_data_point::Value::AsDouble(value)) => Number::Double(value),
        None => panic!("a number point without a number: {metric:?}"),
    };
    match &metric.data {
        Some(Data::Gauge(gauge)) => {
            for point in &gauge.data_points {
                add(
                    "gauge",
                    &point.attributes,
                    number(point.value),
                    point.time_unix_nano,
                    point.start_time_unix_nano,
                );
            }
        }
        Some(Data::Sum(sum)) => {
            let kind = match (sum.is_monotonic, sum.aggregation_temporality) {
                (true, 2) => "counter",
                (false, 2) => "updowncounter",
                _ => "a sum that is not cumulative",
            };
            for point in &sum.data_points {
                add(
                    kind,
                    &point.attributes,
                    number(point.value),
                    point.time_unix_nano,
                    point.start_time_unix_nano,
                );
            }
        }
        Some(Data::Histogram(histogram)) => {
            for point in &histogram.data_points {
                assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count, "{metric:?}");
                assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1, "{metric:?}");
                let count = i64::try_from(point.count).expect("a count that fits");
                add(
                    "histogram",
                    &point.attributes,
                    Number::Int(count),
                    point.time_unix_nano,
                    point.start_time_unix_nano,
                );
            }
        }
        other => panic!("no metric of the agent is {other:?}"),
    }
}

fn flatten_attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let flat: BTreeMap<String, String> = attributes
        .iter()
        .map(|attribute| {
            let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
            let value = match value {
                Some(any_value::Value::StringValue(text)) => format!("\"{text}\""),
                Some(any_value::Value::IntValue(number)) => number.to_string(),
                other => panic!("no attribute of the agent is {other:?}"),
            };
            (attribute.key.clone(), value)
        })
        .collect();
    assert_eq!(flat.len(), attributes.len(), "each key once: {attributes:?}");
    flat
}
