//! Data points as text for people: the `console` exporter, and what it shares with the text form of the sink.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use vms_core::metric::{self, Attribute, AttributeValue, DataPoint, Value};

use crate::terminal::{Cell, Table, Tone, key_value, write_wrapped};

/// One data point, wherever it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PointRow {
    /// When it was measured; `None` where the sender did not say.
    pub(crate) time: Option<SystemTime>,
    /// The name of the metric.
    pub(crate) metric: String,
    /// The value.
    pub(crate) value: PointValue,
    /// The unit, as OpenTelemetry writes it.
    pub(crate) unit: String,
    /// Keys and values, in the sender's order.
    pub(crate) attributes: Vec<(String, String)>,
}

/// What a point says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum PointValue {
    /// That there is no value (the data model's "no recorded value").
    Nothing,
    /// A whole number.
    Int(i64),
    /// A measure.
    Double(f64),
    /// A distribution, reduced to what fits a line.
    Distribution {
        /// How many values.
        count: u64,
        /// Their sum, where it is known.
        sum: Option<f64>,
    },
}

impl From<&DataPoint> for PointRow {
    fn from(point: &DataPoint) -> Self {
        let attributes = point
            .attributes
            .iter()
            .cloned()
            .chain(point.extra.map(Attribute::from))
            .map(|attribute| {
                let value = match &attribute.value {
                    AttributeValue::Str(text) => text.to_string(),
                    AttributeValue::Int(number) => number.to_string(),
                };
                (attribute.key.to_owned(), value)
            })
            .collect();
        let value = match &point.value {
            Value::Int(number) => PointValue::Int(*number),
            Value::Double(measure) => PointValue::Double(*measure),
            Value::Histogram(histogram) => {
                PointValue::Distribution { count: histogram.count(), sum: Some(histogram.sum) }
            }
        };
        Self {
            time: Some(point.time),
            metric: point.metric.name.to_owned(),
            value,
            unit: point.metric.unit.to_owned(),
            attributes,
        }
    }
}

/// Writes points as they come: the resource when it changes, the date when it changes, and a table of the points.
///
/// What the agent says about itself takes a few dim lines below the table, unless it asks for attention.
#[derive(Debug)]
pub(crate) struct PointPrinter {
    table: Table<5>,
    resource: Option<Vec<(String, String)>>,
    date: Option<String>,
}

impl PointPrinter {
    /// Nothing written yet.
    pub(crate) fn new() -> Self {
        Self {
            table: Table::new(["TIME (UTC)", "METRIC", "VALUE", "UNIT", "ATTRIBUTES"]),
            resource: None,
            date: None,
        }
    }

    /// Begins a group of points, or of whatever else a resource reports.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) fn begin(&mut self, out: &mut impl Write, resource: &[(String, String)]) -> io::Result<()> {
        if self.resource.is_some() {
            writeln!(out)?;
        }
        if self.resource.as_deref() != Some(resource) {
            let mut pieces: Vec<String> = resource.iter().map(|(key, value)| key_value(key, value)).collect();
            if pieces.is_empty() {
                pieces.push("none".to_owned());
            }
            write_wrapped(out, Tone::Dim, "resource", pieces.iter().map(String::as_str))?;
            self.resource = Some(resource.to_vec());
        }
        Ok(())
    }

    /// Whether that is another date than the one last written.
    pub(crate) fn turns_at(&self, time: Option<SystemTime>) -> bool {
        time.and_then(date_and_time).is_some_and(|(date, _)| self.date.as_ref() != Some(&date))
    }

    /// Writes the date where it [turns](Self::turns_at), so that lines need to hold the time of day only.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) fn turn_to(&mut self, out: &mut impl Write, time: Option<SystemTime>) -> io::Result<()> {
        if self.turns_at(time) {
            self.date = time.and_then(date_and_time).map(|(date, _)| date);
            write_wrapped(out, Tone::Dim, "date", self.date.as_deref())?;
        }
        Ok(())
    }

    /// Writes points of the resource that [`Self::begin`] was told.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) fn write_points(&mut self, out: &mut impl Write, rows: &[PointRow]) -> io::Result<()> {
        let (own, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| is_background(row));
        for row in &others {
            if self.turns_at(row.time) {
                self.table.write_to(out)?;
                self.turn_to(out, row.time)?;
            }
            let tone = tone(row);
            let attributes: Vec<String> =
                row.attributes.iter().map(|(key, value)| key_value(key, value)).collect();
            self.table.row([
                Cell::new(Tone::Dim, time_of_day(row.time)),
                Cell::new(tone, &row.metric),
                Cell::new(tone, describe_value(row.value)).right(),
                Cell::new(tone, describe_unit(&row.unit)),
                Cell::new(tone, attributes.join(" ")),
            ]);
        }
        self.table.write_to(out)?;
        if own.is_empty() {
            return Ok(());
        }
        let pieces: Vec<String> = own.into_iter().map(describe_point).collect();
        write_wrapped(out, Tone::Dim, "self", pieces.iter().map(String::as_str))
    }
}

/// The `console` exporter: what would be sent, for people.
#[derive(Debug)]
pub(crate) struct Console<W> {
    out: W,
    resource: Vec<(String, String)>,
    printer: PointPrinter,
}

impl<W: Write> Console<W> {
    /// Points of this resource go to that stream: `anstream::stdout()`, so that styles stay on terminals.
    pub(crate) fn new(out: W, resource: Vec<(String, String)>) -> Self {
        Self { out, resource, printer: PointPrinter::new() }
    }

    /// Writes the points of one cycle, in one piece.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) fn export(&mut self, points: &[DataPoint]) -> io::Result<()> {
        if points.is_empty() {
            return Ok(());
        }
        let rows: Vec<PointRow> = points.iter().map(PointRow::from).collect();
        let mut text = Vec::new();
        self.printer.begin(&mut text, &self.resource)?;
        self.printer.write_points(&mut text, &rows)?;
        self.out.write_all(&text)?;
        self.out.flush()
    }
}

/// The time of day in UTC, to the millisecond; `-` when it is unknown.
pub(crate) fn time_of_day(time: Option<SystemTime>) -> String {
    time.and_then(date_and_time).map_or_else(|| "-".to_owned(), |(_, time)| time)
}

/// Date and time of day as RFC 3339 writes them, for years that it can write.
fn date_and_time(time: SystemTime) -> Option<(String, String)> {
    // 9999-12-31T23:59:59Z, the last second of RFC 3339.
    const LAST_SECOND: u64 = 253_402_300_799;
    let since_epoch = time.duration_since(UNIX_EPOCH).ok()?;
    if since_epoch.as_secs() > LAST_SECOND {
        return None;
    }
    let text = humantime::format_rfc3339_millis(time).to_string();
    let (date, time) = text.trim_end_matches('Z').split_once('T')?;
    Some((date.to_owned(), time.to_owned()))
}

/// Whether a point only says how the agent itself is doing.
fn is_background(row: &PointRow) -> bool {
    ["vms.agent.", "otel.sdk.", "process."].iter().any(|prefix| row.metric.starts_with(prefix))
        && tone(row) == Tone::Plain
}

fn tone(row: &PointRow) -> Tone {
    let PointValue::Int(value) = row.value else { return Tone::Plain };
    let metric = row.metric.as_str();
    let has = |key: &str, value: &str| row.attributes.iter().any(|(k, v)| k == key && v == value);
    if metric == metric::UP.name {
        if value == 0 { Tone::Error } else { Tone::Ok }
    } else if metric == metric::STATUS.name {
        match value {
            0 => Tone::Dim,
            _ if has("state", "up") => Tone::Ok,
            _ => Tone::Error,
        }
    } else if metric == metric::DOWN_REASON.name {
        Tone::Error
    } else if [metric::UNATTRIBUTED.name, metric::PERMISSION_MISSING.name].contains(&metric) && value > 0 {
        Tone::Warn
    } else {
        Tone::Plain
    }
}

fn describe_point(row: &PointRow) -> String {
    let attributes: Vec<String> = row.attributes.iter().map(|(key, value)| key_value(key, value)).collect();
    let attributes =
        if attributes.is_empty() { String::new() } else { format!("{{{}}}", attributes.join(",")) };
    let value = describe_value(row.value);
    let unit = describe_unit(&row.unit);
    let gap = if unit.is_empty() { "" } else { " " };
    format!("{}{attributes}={value}{gap}{unit}", row.metric)
}

fn describe_value(value: PointValue) -> String {
    match value {
        PointValue::Nothing => "-".to_owned(),
        PointValue::Int(number) => number.to_string(),
        PointValue::Double(measure) => measure.to_string(),
        PointValue::Distribution { count, sum: None } => format!("count:{count}"),
        PointValue::Distribution { count, sum: Some(sum) } => format!("count:{count},sum:{sum}"),
    }
}

/// The unit `1` stands for none, and would read like a value.
fn describe_unit(unit: &str) -> &str {
    if unit == "1" { "" } else { unit }
}

#[cfg(test)]
mod tests;
