//! The directory of an agent's spool, seen from outside, and what an earlier run of an agent may have left in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, number_data_point,
};
use prost::Message;
use vms_export::config::Compression;
use vms_export::spool::{Record, decode_record, encode_record};

use crate::deadline::unix_nanoseconds;
use crate::faulty::flat;
use crate::otlp::{Point, Points};
use crate::watched::UP;

mod life;

pub use life::{RecordLife, follow_records};

/// The attributes of what an earlier run left.
pub const EARLIER: &[(&str, &str)] = &[("name", "earlier")];

/// A request in the spool, as it was handed over.
#[derive(Debug)]
pub struct Spooled {
    /// When, in milliseconds since 1970: what it tells was known by then.
    pub unix_ms: u64,
    /// What it tells, without the resource.
    pub points: Vec<Point>,
}

/// The end of a record's name.
const EXTENSION: &str = "otlp";

/// The requests in a spool, oldest first.
#[must_use]
pub fn records(directory: &Path) -> Vec<PathBuf> {
    // What begins with a dot was being written, and was never told as spooled.
    let is_whole =
        |path: &Path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    let mut records = files(directory);
    records.retain(|path| is_whole(path));
    records.sort();
    records
}

/// What the requests of a spool take of the disk, with one that is being written.
#[must_use]
pub fn disk_bytes(directory: &Path) -> u64 {
    let status = files(directory).into_iter().filter_map(|path| fs::symlink_metadata(path).ok());
    status.map(|status| status.blocks() * 512).sum()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(items) = fs::read_dir(directory) else { return Vec::new() };
    let paths = items.filter_map(|item| Some(item.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION)).collect()
}

/// How many points a record holds, by its name.
#[must_use]
#[track_caller]
pub fn points_in(record: &Path) -> u64 {
    let stem = record.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let points = stem.rsplit('-').next().and_then(|points| points.parse().ok());
    points.unwrap_or_else(|| panic!("the name of a record: {stem}"))
}

/// Reads a record, which has to be whole.
#[must_use]
#[track_caller]
pub fn read_record(bytes: &[u8]) -> Spooled {
    let record = decode_record(bytes).expect("a record that is whole");
    let body = match record.compression {
        Compression::None => record.body.into_owned(),
        Compression::Zstd => zstd::decode_all(record.body.as_ref()).expect("a body that is whole"),
        Compression::Gzip => panic!("no test spools with gzip"),
    };
    let request = ExportMetricsServiceRequest::decode(body.as_slice()).expect("an OTLP request");
    let since = record.enqueued.duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set");
    let unix_ms = u64::try_from(since.as_millis()).expect("the year is before 2554");
    Spooled { unix_ms, points: flat(&request) }
}

/// So many times in nanoseconds since 1970, a step apart, the last of them a step before now.
#[must_use]
pub fn until_now(count: u64, step: Duration) -> Vec<u64> {
    let (now, step) = (unix_nanoseconds(), u64::try_from(step.as_nanos()).expect("a step"));
    (1..=count).rev().map(|back| now - back * step).collect()
}

/// Leaves requests of an earlier run, oldest first: one for each time, in nanoseconds since 1970, with one point of
/// [`EARLIER`] that was measured then.
#[track_caller]
pub fn leave(directory: &Path, times: impl IntoIterator<Item = u64>) {
    for (sequence, time) in (1_u64..).zip(times) {
        let name = format!("{sequence:020}-{}-1.{EXTENSION}", time / 1_000_000);
        let record = Record {
            points: 1,
            enqueued: SystemTime::UNIX_EPOCH + Duration::from_nanos(time),
            compression: Compression::None,
            body: request(time).encode_to_vec().into(),
        };
        fs::write(directory.join(name), encode_record(&record)).expect("the spool can be written");
    }
}

/// When what an earlier run left was measured, as far as it arrived, in the order of time; a time twice where it arrived
/// twice.
#[must_use]
pub fn earlier_times(collector: &impl Points) -> Vec<u64> {
    collector.series(UP, EARLIER).iter().map(|point| point.time).collect()
}

fn request(time: u64) -> ExportMetricsServiceRequest {
    let attribute = |&(key, value): &(&str, &str)| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    };
    let point = NumberDataPoint {
        attributes: EARLIER.iter().map(attribute).collect(),
        time_unix_nano: time,
        value: Some(number_data_point::Value::AsInt(1)),
        ..NumberDataPoint::default()
    };
    let metric = Metric {
        name: UP.to_owned(),
        data: Some(Data::Gauge(Gauge { data_points: vec![point] })),
        ..Metric::default()
    };
    let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
    let resource = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource] }
}
