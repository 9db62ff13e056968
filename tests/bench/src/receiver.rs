//! An OTLP/gRPC receiver that keeps only what the benchmark asks for.
//!
//! It is a thread of the benchmark, not `vms-agent sink`: that one shows whatever arrives, which takes longer than
//! measuring it did.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, metric, number_data_point};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};

/// Where it listens.
pub(crate) const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4317);
/// The default limit of the OpenTelemetry Collector's HTTP receiver.
const MAX_REQUEST_BYTES: usize = 20 << 20;

/// What has arrived since the last [`Receiver::forget`].
#[derive(Debug, Default)]
pub(crate) struct Received {
    links: HashMap<String, Link>,
    /// Sum over the series of the last request that told of them.
    connections: f64,
    /// The latest `vms.connection.count` of each probe.
    watches: HashMap<String, f64>,
    counts: Counts,
}

/// What the agent has told of itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// All data points that have arrived.
    pub(crate) points: u64,
    /// Cycles, of `vms.agent.cycle.duration`.
    pub(crate) cycles: u64,
    /// Sum of the times that the cycles took, in seconds.
    pub(crate) cycle_seconds: f64,
    /// Walks over all sockets; none from an agent that does not count them.
    pub(crate) walks: Option<f64>,
    /// Cycles that began late; none from an agent that does not count them.
    pub(crate) late: Option<f64>,
    /// Cycles that were left out; none from an agent that does not count them.
    pub(crate) skipped: Option<f64>,
    /// Data points that the agent had to drop.
    pub(crate) dropped: f64,
}

/// The latest `vms.connection_mon.up` of a probe, by direction.
#[derive(Debug, Clone, Default)]
struct Link {
    undirected: Option<bool>,
    directed: HashMap<String, bool>,
}

impl Link {
    fn is_up(&self) -> bool {
        !self.directed.is_empty() && self.directed.values().all(|&up| up)
    }

    fn is_down(&self) -> bool {
        if self.directed.is_empty() {
            self.undirected == Some(false)
        } else {
            self.directed.values().all(|&up| !up)
        }
    }
}

impl Received {
    /// Links of which every direction is up.
    pub(crate) fn up(&self) -> usize {
        self.links.values().filter(|link| link.is_up()).count()
    }

    /// Links of which no direction is up.
    pub(crate) fn down(&self) -> usize {
        self.links.values().filter(|link| link.is_down()).count()
    }

    /// Connections of all links, as of the last request that told of any.
    pub(crate) fn connections(&self) -> usize {
        format!("{:.0}", self.connections).parse().unwrap_or_default()
    }

    /// The latest number of sockets that each probe counts.
    pub(crate) fn watches(&self) -> &HashMap<String, f64> {
        &self.watches
    }

    fn take(&mut self, metric: Metric) {
        use metric::Data;
        match (metric.name.as_str(), metric.data) {
            (name, Some(Data::Gauge(gauge))) => {
                self.count(gauge.data_points.len());
                if name == "vms.connection_mon.connections" {
                    self.connections = gauge.data_points.iter().map(number).sum();
                }
                if name == "vms.connection.count" {
                    let named = gauge
                        .data_points
                        .iter()
                        .map(|point| (text_of(&point.attributes, "name"), number(point)));
                    self.watches.extend(named);
                }
                if name == "vms.connection_mon.up" {
                    for point in gauge.data_points {
                        self.take_link(point);
                    }
                }
            }
            (name, Some(Data::Sum(sum))) => {
                self.count(sum.data_points.len());
                let total = || Some(sum.data_points.iter().map(number).sum());
                match name {
                    "vms.agent.walks" => self.counts.walks = total(),
                    "vms.agent.cycles.late" => self.counts.late = total(),
                    "vms.agent.cycles.skipped" => self.counts.skipped = total(),
                    "otel.sdk.exporter.metric_data_point.exported" => {
                        let failed =
                            sum.data_points.iter().filter(|point| has(&point.attributes, "error.type"));
                        self.counts.dropped = failed.map(number).sum();
                    }
                    _ => {}
                }
            }
            (name, Some(Data::Histogram(histogram))) => {
                self.count(histogram.data_points.len());
                if name == "vms.agent.cycle.duration" {
                    self.counts.cycles = histogram.data_points.iter().map(|point| point.count).sum();
                    self.counts.cycle_seconds =
                        histogram.data_points.iter().filter_map(|point| point.sum).sum();
                }
            }
            _ => {}
        }
    }

    fn take_link(&mut self, point: NumberDataPoint) {
        let up = number(&point) > 0.5;
        let (mut name, mut direction) = (None, None);
        for KeyValue { key, value, .. } in point.attributes {
            if let Some(any_value::Value::StringValue(text)) = value.and_then(|value| value.value) {
                match key.as_str() {
                    "name" => name = Some(text),
                    "direction" => direction = Some(text),
                    _ => {}
                }
            }
        }
        let link = self.links.entry(name.unwrap_or_default()).or_default();
        match direction {
            Some(direction) => {
                link.directed.insert(direction, up);
            }
            None => link.undirected = Some(up),
        }
    }

    fn count(&mut self, points: usize) {
        self.counts.points = self.counts.points.saturating_add(u64::try_from(points).unwrap_or(u64::MAX));
    }
}

/// The receiver; it goes on until the benchmark ends.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<Received>,
    arrived: Condvar,
}

impl Receiver {
    /// Listens.
    pub(crate) fn start() -> Result<Self> {
        let receiver = Self { shared: Arc::default() };
        let service =
            MetricsServiceServer::new(receiver.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(ADDRESS));
        let listener = listener.with_context(|| format!("{ADDRESS}: cannot listen"))?;
        thread::spawn(move || {
            let server = Server::builder().add_service(service);
            runtime.block_on(server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))))
        });
        Ok(receiver)
    }

    /// Begins anew.
    pub(crate) fn forget(&self) {
        *self.lock() = Received::default();
    }

    /// What the agent has told of itself so far.
    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Waits until what has arrived is as wanted.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&Received) -> bool,
    ) -> Result<()> {
        let answer = self.shared.arrived.wait_timeout_while(self.lock(), limit, |received| !wanted(received));
        let (received, timeout) = answer.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            let (up, down, points) = (received.up(), received.down(), received.counts.points);
            bail!("waited {limit:?} for {what}: {up} links are up, {down} down; {points} points arrived");
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        // Nothing in here can panic half-way.
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let scopes = request.into_inner().resource_metrics.into_iter().flat_map(|one| one.scope_metrics);
        {
            let mut received = self.lock();
            for metric in scopes.flat_map(|scope| scope.metrics) {
                received.take(metric);
            }
        }
        self.shared.arrived.notify_all();
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// The text of an attribute, or none.
fn text_of(attributes: &[KeyValue], name: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == name);
    match value.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

fn has(attributes: &[KeyValue], name: &str) -> bool {
    attributes.iter().any(|attribute| attribute.key == name)
}

/// A value as a number with a fraction. The counts that are read here stay far below 2^32.
fn number(point: &NumberDataPoint) -> f64 {
    match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        Some(number_data_point::Value::AsInt(value)) => u32::try_from(value).map_or(f64::NAN, f64::from),
        None => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::AnyValue;

    use super::*;

    fn point(name: &str, direction: Option<&str>, up: i64) -> NumberDataPoint {
        let attribute = |key: &str, text: &str| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) }),
            ..KeyValue::default()
        };
        let directed = direction.map(|direction| attribute("direction", direction));
        NumberDataPoint {
            attributes: [attribute("name", name)].into_iter().chain(directed).collect(),
            value: Some(number_data_point::Value::AsInt(up)),
            ..NumberDataPoint::default()
        }
    }

    #[test]
    fn a_link_is_up_or_down_only_when_all_its_directions_are() {
        let mut received = Received::default();
        let mut tell = |direction, up| {
            received.take_link(point("link", direction, up));
            (received.up(), received.down())
        };
        assert_eq!(tell(None, 0), (0, 1));
        assert_eq!(tell(Some("forward"), 1), (1, 0), "what was told before it matched no longer counts");
        assert_eq!(tell(Some("reverse"), 0), (0, 0));
        assert_eq!(tell(Some("forward"), 0), (0, 1));
    }
}
