//! Data points as OTLP: mapping, transport, retry. The only crate that knows OTLP.

pub mod config;

pub use config::ExportConfig;
