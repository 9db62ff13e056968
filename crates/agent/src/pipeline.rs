//! Where data points go: to a collector, to the terminal, or nowhere.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tracing::{info, warn};
use vms_core::metric::DataPoint;
use vms_export::config::Protocol;
use vms_export::{Encoder, Exporter as OtlpExporter, ExporterHandle, Resource, Stats};

use crate::clock::SystemClock;
use crate::config::{Config, Exporter};
use crate::console::Console;
use crate::self_metrics::ExportCounts;

/// The configured way out, and the ways out before it that still have points to deliver.
#[derive(Debug)]
pub(crate) struct Pipeline {
    output: Output,
    retiring: Vec<ExporterHandle>,
    /// What exporters that are gone have counted: counters never go backwards.
    retired: ExportCounts,
}

#[derive(Debug)]
enum Output {
    Otlp { encoder: Encoder, exporter: ExporterHandle, component: &'static str },
    Console { console: Console<anstream::Stdout>, broken: bool },
    Discard,
}

impl Pipeline {
    /// Starts what the configuration says. Has to be called within the runtime.
    ///
    /// # Errors
    /// When the exporter cannot work, whatever the network does: a certificate that cannot be read, say.
    pub(crate) fn start(
        config: &Config,
        resource: Vec<(String, String)>,
        clock: SystemClock,
    ) -> anyhow::Result<Self> {
        let output = match &config.exporter {
            Exporter::Otlp(config) => Output::Otlp {
                encoder: Encoder::new(&Resource::new(resource), env!("CARGO_PKG_VERSION")),
                exporter: OtlpExporter::new(config, Arc::new(clock))
                    .context("the exporter cannot start: correct `export`")?
                    .start(&Handle::current()),
                // The values that the OpenTelemetry conventions define for `otel.component.type`.
                component: match config.protocol {
                    Protocol::Grpc => "otlp_grpc_metric_exporter",
                    Protocol::HttpProtobuf => "otlp_http_metric_exporter",
                },
            },
            Exporter::Console => {
                Output::Console { console: Console::new(anstream::stdout(), resource), broken: false }
            }
            Exporter::None => Output::Discard,
        };
        Ok(Self { output, retiring: Vec::new(), retired: ExportCounts::default() })
    }

    /// Begins a cycle, whose points are kept at the cost of those of earlier ones.
    pub(crate) fn begin_cycle(&mut self) {
        if let Output::Otlp { exporter, .. } = &self.output {
            exporter.begin_cycle();
        }
    }

    /// Hands points over. Never waits for a collector.
    pub(crate) fn send(&mut self, points: &[DataPoint]) {
        match &mut self.output {
            Output::Otlp { encoder, exporter, .. } => exporter.hand_over(encoder, points),
            Output::Console { console, broken } => match console.export(points) {
                Ok(()) => *broken = false,
                Err(error) if !*broken => {
                    *broken = true;
                    warn!("points cannot be printed: {error}; measuring goes on");
                }
                Err(_) => {}
            },
            Output::Discard => {}
        }
    }

    /// What has become of all points so far.
    pub(crate) fn counts(&mut self) -> ExportCounts {
        let retired = &mut self.retired;
        self.retiring.retain(|exporter| {
            let stats = exporter.stats();
            let done = stats.waiting_points == 0;
            if done {
                add(retired, &stats);
            }
            !done
        });
        let mut counts = self.retired.clone();
        for exporter in &self.retiring {
            add(&mut counts, &exporter.stats());
        }
        if let Output::Otlp { exporter, component, .. } = &self.output {
            add(&mut counts, &exporter.stats());
            counts.component = component;
        }
        counts
    }

    /// Makes way for another pipeline, which goes on counting where this one was. What still waits here is
    /// delivered in the background, for as long as that takes and the agent runs.
    pub(crate) fn replace_with(&mut self, mut next: Self) {
        std::mem::swap(self, &mut next);
        self.retired = next.retired;
        self.retiring = next.retiring;
        if let Output::Otlp { exporter, .. } = next.output {
            self.retiring.push(exporter);
        }
    }

    /// The exporters that may have something to deliver.
    pub(crate) fn exporters(&self) -> Vec<ExporterHandle> {
        let current = match &self.output {
            Output::Otlp { exporter, .. } => Some(exporter),
            Output::Console { .. } | Output::Discard => None,
        };
        self.retiring.iter().chain(current).cloned().collect()
    }
}

/// Delivers what waits, within a bound.
pub(crate) async fn flush(exporters: Vec<ExporterHandle>, within: Duration) {
    let flushes: Vec<_> = exporters
        .into_iter()
        .map(|exporter| tokio::spawn(async move { exporter.flush(within).await }))
        .collect();
    let mut left = 0;
    for flush in flushes {
        left += flush.await.unwrap_or_default();
    }
    if left > 0 {
        warn!(points = left, "the collector did not take everything before the end; these points are lost");
    } else {
        info!("stopped");
    }
}

fn add(counts: &mut ExportCounts, stats: &Stats) {
    counts.sent += stats.sent_points;
    counts.retried += stats.retried_points;
    counts.waiting_points += stats.waiting_points;
    counts.waiting_bytes += u64::try_from(stats.waiting_bytes).unwrap_or(u64::MAX);
    for (reason, points) in &stats.dropped_points {
        *counts.dropped.entry(reason.to_string()).or_default() += points;
    }
}
