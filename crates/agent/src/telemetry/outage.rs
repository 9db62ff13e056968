//! Failures of the agent's own exporters, told once an outage.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// An exporter whose first failure after a success, and first success after a failure, is logged.
///
/// The SDK drops what it could not send without a word.
#[derive(Debug)]
pub(super) struct Reported<E> {
    signal: &'static str,
    failing: AtomicBool,
    exporter: E,
}

impl<E> Reported<E> {
    pub(super) fn new(signal: &'static str, exporter: E) -> Self {
        Self { signal, failing: AtomicBool::new(false), exporter }
    }

    fn report(&self, result: &OTelSdkResult) {
        let failing = result.is_err();
        if self.failing.swap(failing, Ordering::Relaxed) == failing {
            return;
        }
        let signal = self.signal;
        match result {
            Ok(()) => tracing::info!(signal, "the agent's own telemetry is sent again"),
            Err(error) => {
                let error: &dyn std::error::Error = error;
                tracing::warn!(
                    signal,
                    error,
                    "the agent's own telemetry cannot be sent and is dropped; see that its collector answers"
                );
            }
        }
    }
}

impl<E: SpanExporter> SpanExporter for Reported<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        self.report(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Reported<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        self.report(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
