//! Data points as OTLP: mapping, transport, retry. The only crate that knows OTLP.
//!
//! The way of a measurement: [`mapping`] turns data points into encoded requests, which are compressed and go
//! into a queue; it holds them within a bound, the [`sender`](mod@exporter) takes them out one at a time, and a transport
//! ([`grpc`] or [`http`](mod@http)) brings each to the collector and reads the answer, whose meaning is an [`answer::Outcome`].
//! Beside it, [`exposition`] writes data points as Prometheus scrapes them.

pub mod answer;
pub mod client;
pub mod config;
pub mod error;
pub mod exporter;
pub mod exposition;
pub mod failure;
pub mod grpc;
pub mod http;
pub mod mapping;
pub mod reach;
pub mod spool;

mod backlog;
mod backoff;
mod compress;
mod connect;
mod endpoint;
mod headers;
mod ledger;
mod notice;
mod pace;
mod queue;
mod sender;
mod shared;
mod solo;
#[cfg(test)]
mod testing;
mod tls;
mod transport;

pub use client::HttpClient;
pub use compress::encode_body;
pub use config::ExportConfig;
pub use endpoint::shown as shown_endpoint;
pub use error::ExportError;
pub use exporter::{Exporter, ExporterHandle, check_config};
pub use failure::{Failure, Stage};
pub use headers::{configured_headers, parse_header_name};
pub use ledger::{Outage, SpoolStats, Stats};
pub use mapping::{EncodedRequest, Encoder, Resource};
pub use reach::{Reachability, probe_collector};
pub use spool::{SpoolCondition, examine_directory, make_directory};
pub use tls::trust_stores;

/// What requests say of their sender (OTLP specification, "User Agent": the exporter, its language and version).
pub const USER_AGENT: &str = concat!("vms-agent/", env!("CARGO_PKG_VERSION"), " (rust)");
