//! The collector of the crate mock-collector, on a host's loopback.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mock_collector::{MockCollector, MockServer};
use tokio::sync::RwLock;

use crate::deadline::eventually;
use crate::namespace::Namespace;
use crate::otlp::{Point, Points, flatten};
use crate::served::Served;

/// How OTLP travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC, on port 4317.
    Grpc,
    /// OTLP/HTTP with protobuf bodies, on port 4318.
    Http,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Grpc, Self::Http];

    /// The value of `OTEL_EXPORTER_OTLP_PROTOCOL`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }

    /// The port that OTLP assigns. Every host has its own ports, so no test takes another's.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Grpc => 4317,
            Self::Http => 4318,
        }
    }

    /// Where collectors of this protocol listen on a host.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()))
    }

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(self) -> String {
        format!("http://localhost:{}", self.port())
    }
}

/// A collector that keeps what it receives, across its own restarts.
pub struct Collector {
    protocol: Protocol,
    received: Arc<RwLock<MockCollector>>,
    served: Option<Served>,
}

impl Collector {
    /// A collector that does not run yet.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, received: Arc::new(RwLock::new(MockCollector::new())), served: None }
    }

    /// Starts on the loopback of a host.
    #[must_use]
    #[track_caller]
    pub fn start(host: &Namespace, protocol: Protocol) -> Self {
        let mut collector = Self::new(protocol);
        collector.resume(host);
        collector
    }

    /// Starts, again or for the first time.
    #[track_caller]
    pub fn resume(&mut self, host: &Namespace) {
        assert!(self.served.is_none(), "the collector runs");
        let received = Arc::clone(&self.received);
        let protocol = self.protocol;
        self.served = Some(Served::start(host, async move || {
            let server = MockServer::builder()
                .protocol(match protocol {
                    Protocol::Grpc => mock_collector::Protocol::Grpc,
                    Protocol::Http => mock_collector::Protocol::HttpBinary,
                })
                .port(protocol.port())
                .collector(received);
            server.start().await.expect("the collector starts")
        }));
    }

    /// Dies: what it received remains.
    #[track_caller]
    pub fn kill(&mut self) {
        drop(self.served.take().expect("the collector runs"));
    }

    /// The names of the spans received so far.
    #[must_use]
    pub fn spans(&self) -> Vec<String> {
        let received = self.received.blocking_read();
        received.spans().iter().map(|span| span.span().name.clone()).collect()
    }

    /// The texts of the log records received so far.
    #[must_use]
    pub fn logs(&self) -> Vec<String> {
        let received = self.received.blocking_read();
        received.logs().iter().map(|log| format!("{:?}", log.log_record().body)).collect()
    }

    /// Waits until anything has arrived.
    #[track_caller]
    pub fn wait_for_anything(&self) {
        eventually("anything to arrive", || {
            (!self.received.blocking_read().metrics().is_empty()).then_some(())
        });
    }
}

impl Points for Collector {
    fn points(&self) -> Vec<Point> {
        let received = self.received.blocking_read();
        let mut points = Vec::new();
        for metric in received.metrics() {
            flatten(metric.resource_attrs(), metric.metric(), &mut points);
        }
        points
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Collector").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}
