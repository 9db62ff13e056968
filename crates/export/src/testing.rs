//! What several tests of this crate start from.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use vms_core::Clock;
use vms_core::metric::{Attribute, AttributeSet, DataPoint, Value};

use crate::config::{Backoff, Compression, ExportConfig, Protocol, TlsFiles};
use crate::mapping::{Encoder, Resource};
use crate::queue::{Batch, Moment};
use crate::transport::Body;

pub(crate) mod certificates;
pub(crate) mod grpc_collector;
pub(crate) mod http_collector;
pub(crate) mod log;

/// A configuration without TLS, headers or compression, that waits little.
pub(crate) fn config(protocol: Protocol, endpoint: &str) -> ExportConfig {
    ExportConfig {
        protocol,
        endpoint: endpoint.parse().unwrap(),
        headers: Vec::new(),
        timeout: Duration::from_secs(5),
        compression: Compression::None,
        tls: TlsFiles::default(),
        backoff: Backoff { initial: Duration::from_millis(2), max: Duration::from_millis(10) },
        queue_bytes: 1 << 20,
        spool: None,
    }
}

/// A batch of so many bytes and points.
pub(crate) fn batch(bytes: usize, points: u64) -> Batch {
    let body = Body::compressed(Compression::None, &vec![0; bytes]).unwrap();
    Batch::new(body, points, Moment { wall: SystemTime::UNIX_EPOCH, monotonic: Duration::ZERO })
}

/// A clock that stands still.
pub(crate) struct StoppedClock;

impl Clock for StoppedClock {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(100)
    }

    fn since_boot(&self) -> Duration {
        self.monotonic()
    }

    fn cpu(&self) -> Duration {
        Duration::ZERO
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }
}

/// So many points, which together make one request.
pub(crate) fn some_points(count: u64) -> Vec<DataPoint> {
    let one = DataPoint {
        metric: &vms_core::metric::UP,
        attributes: Arc::new(AttributeSet::new([Attribute::new("name", "orders")])),
        extra: None,
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        start: None,
        value: Value::Int(1),
    };
    vec![one; usize::try_from(count).unwrap()]
}

/// An encoder for a small resource.
pub(crate) fn encoder() -> Encoder {
    Encoder::new(&Resource::new([("service.name".into(), "vms-agent".into())]), "1.2.3")
}

/// What [`encoder`] makes of so many [`some_points`].
pub(crate) fn request_of(count: u64) -> Bytes {
    let mut requests = Vec::new();
    encoder().encode(&some_points(count), |request| requests.push(Bytes::copy_from_slice(request.bytes)));
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

/// The points of an encoded request.
pub(crate) fn count_points(request: &ExportMetricsServiceRequest) -> u64 {
    let metrics = request.resource_metrics.iter().flat_map(|r| &r.scope_metrics).flat_map(|s| &s.metrics);
    let counts = metrics.map(|metric| match metric.data.as_ref().unwrap() {
        Data::Gauge(gauge) => gauge.data_points.len(),
        Data::Sum(sum) => sum.data_points.len(),
        Data::Histogram(histogram) => histogram.data_points.len(),
        other => panic!("{other:?}"),
    });
    u64::try_from(counts.sum::<usize>()).unwrap()
}
