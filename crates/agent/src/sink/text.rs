//! Requests as text for people.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{DataPointFlags, Metric, NumberDataPoint, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use super::Arrival;
use crate::console::{PointPrinter, PointRow, PointValue, time_of_day};
use crate::terminal::{Cell, Table, Tone, key_value};

/// Tells people what arrived, and of what was said before only what changed.
#[derive(Debug)]
pub(super) struct TextPrinter {
    points: PointPrinter,
    spans: Table<5>,
    logs: Table<3>,
}

impl TextPrinter {
    /// Nothing told yet.
    pub(super) fn new() -> Self {
        Self {
            points: PointPrinter::new(),
            spans: Table::new(["START (UTC)", "SPAN", "DURATION", "STATUS", "ATTRIBUTES"]),
            logs: Table::new(["TIME (UTC)", "SEVERITY", "LOG RECORD"]),
        }
    }

    /// What to write about a request.
    ///
    /// # Errors
    /// When it cannot be formatted.
    pub(super) fn describe(&mut self, arrival: &Arrival) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        match arrival {
            Arrival::Metrics(request) => {
                for part in &request.resource_metrics {
                    let metrics = part.scope_metrics.iter().flat_map(|scope| &scope.metrics);
                    let rows: Vec<PointRow> = metrics.flat_map(point_rows).collect();
                    self.points.begin(&mut text, &resource_pairs(part.resource.as_ref()))?;
                    self.points.write_points(&mut text, &rows)?;
                }
            }
            Arrival::Traces(request) => {
                for part in &request.resource_spans {
                    self.points.begin(&mut text, &resource_pairs(part.resource.as_ref()))?;
                    for span in part.scope_spans.iter().flat_map(|scope| &scope.spans) {
                        let start = time(span.start_time_unix_nano);
                        if self.points.turns_at(start) {
                            self.spans.write_to(&mut text)?;
                            self.points.turn_to(&mut text, start)?;
                        }
                        self.spans.row(span_row(span, start));
                    }
                    self.spans.write_to(&mut text)?;
                }
            }
            Arrival::Logs(request) => {
                for part in &request.resource_logs {
                    self.points.begin(&mut text, &resource_pairs(part.resource.as_ref()))?;
                    for record in part.scope_logs.iter().flat_map(|scope| &scope.log_records) {
                        let noted = time(record.time_unix_nano).or(time(record.observed_time_unix_nano));
                        if self.points.turns_at(noted) {
                            self.logs.write_to(&mut text)?;
                            self.points.turn_to(&mut text, noted)?;
                        }
                        self.logs.row(log_row(record, noted));
                    }
                    self.logs.write_to(&mut text)?;
                }
            }
            Arrival::Refused(_) => {}
        }
        Ok(text)
    }
}

/// The points of a metric.
fn point_rows(metric: &Metric) -> Vec<PointRow> {
    let row = |nanoseconds, flags: u32, attributes: &[KeyValue], value| PointRow {
        time: time(nanoseconds),
        metric: metric.name.clone(),
        value: if has_no_value(flags) { PointValue::Nothing } else { value },
        unit: metric.unit.clone(),
        attributes: pairs(attributes),
    };
    let number = |point: &NumberDataPoint| {
        row(point.time_unix_nano, point.flags, &point.attributes, number_value(point))
    };
    let distribution = |count, sum| PointValue::Distribution { count, sum };
    match &metric.data {
        None => Vec::new(),
        Some(Data::Gauge(gauge)) => gauge.data_points.iter().map(number).collect(),
        Some(Data::Sum(sum)) => sum.data_points.iter().map(number).collect(),
        Some(Data::Histogram(histogram)) => {
            let points = histogram.data_points.iter();
            points
                .map(|p| row(p.time_unix_nano, p.flags, &p.attributes, distribution(p.count, p.sum)))
                .collect()
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            let points = histogram.data_points.iter();
            points
                .map(|p| row(p.time_unix_nano, p.flags, &p.attributes, distribution(p.count, p.sum)))
                .collect()
        }
        Some(Data::Summary(summary)) => {
            let points = summary.data_points.iter();
            points
                .map(|p| row(p.time_unix_nano, p.flags, &p.attributes, distribution(p.count, Some(p.sum))))
                .collect()
        }
    }
}

fn has_no_value(flags: u32) -> bool {
    u32::try_from(i32::from(DataPointFlags::NoRecordedValueMask)).is_ok_and(|mask| flags & mask != 0)
}

fn number_value(point: &NumberDataPoint) -> PointValue {
    match point.value {
        None => PointValue::Nothing,
        Some(number_data_point::Value::AsInt(number)) => PointValue::Int(number),
        Some(number_data_point::Value::AsDouble(measure)) => PointValue::Double(measure),
    }
}

fn span_row(span: &Span, start: Option<SystemTime>) -> [Cell; 5] {
    let took = Duration::from_nanos(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano));
    let status = span.status.as_ref();
    let (tone, outcome) = match status.map(opentelemetry_proto::tonic::trace::v1::Status::code) {
        None | Some(StatusCode::Unset) => (Tone::Plain, ""),
        Some(StatusCode::Ok) => (Tone::Ok, "ok"),
        Some(StatusCode::Error) => (Tone::Error, "error"),
    };
    let message = status.map(|status| status.message.as_str()).filter(|message| !message.is_empty());
    let mut attributes = pairs(&span.attributes);
    attributes.extend(message.map(|message| ("message".to_owned(), message.to_owned())));
    [
        Cell::new(Tone::Dim, time_of_day(start)),
        Cell::from(span.name.as_str()),
        Cell::new(Tone::Plain, format!("{took:?}")).right(),
        Cell::new(tone, outcome),
        Cell::from(join(&attributes)),
    ]
}

fn log_row(record: &LogRecord, noted: Option<SystemTime>) -> [Cell; 3] {
    let severity = if record.severity_text.is_empty() {
        record.severity_number().as_str_name().trim_start_matches("SEVERITY_NUMBER_")
    } else {
        &record.severity_text
    };
    let tone = match record.severity_number() {
        SeverityNumber::Unspecified => Tone::Plain,
        number if number < SeverityNumber::Info => Tone::Dim,
        number if number < SeverityNumber::Warn => Tone::Plain,
        number if number < SeverityNumber::Error => Tone::Warn,
        _ => Tone::Error,
    };
    let mut message: Vec<String> = Vec::new();
    message.extend(Some(record.event_name.clone()).filter(|name| !name.is_empty()));
    message.extend(record.body.as_ref().map(describe));
    message.extend(pairs(&record.attributes).iter().map(|(key, value)| key_value(key, value)));
    [Cell::new(Tone::Dim, time_of_day(noted)), Cell::new(tone, severity), Cell::from(message.join("  "))]
}

/// When; 0 says that it is not known (OpenTelemetry protocol, `time_unix_nano`).
fn time(unix_nanoseconds: u64) -> Option<SystemTime> {
    (unix_nanoseconds > 0).then(|| UNIX_EPOCH + Duration::from_nanos(unix_nanoseconds))
}

fn resource_pairs(resource: Option<&Resource>) -> Vec<(String, String)> {
    resource.map(|resource| pairs(&resource.attributes)).unwrap_or_default()
}

fn pairs(attributes: &[KeyValue]) -> Vec<(String, String)> {
    let value = |attribute: &KeyValue| attribute.value.as_ref().map(describe).unwrap_or_default();
    attributes.iter().map(|attribute| (attribute.key.clone(), value(attribute))).collect()
}

fn join(attributes: &[(String, String)]) -> String {
    let attributes: Vec<String> = attributes.iter().map(|(key, value)| key_value(key, value)).collect();
    attributes.join(" ")
}

/// A value as text; what contains values in brackets.
fn describe(value: &AnyValue) -> String {
    match &value.value {
        None => String::new(),
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::BoolValue(flag)) => flag.to_string(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(measure)) => measure.to_string(),
        Some(any_value::Value::ArrayValue(array)) => {
            let values: Vec<String> = array.values.iter().map(describe).collect();
            format!("[{}]", values.join(", "))
        }
        Some(any_value::Value::KvlistValue(list)) => format!("{{{}}}", join(&pairs(&list.values))),
        Some(any_value::Value::BytesValue(bytes)) => format!("{} bytes", bytes.len()),
        Some(other) => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests;
