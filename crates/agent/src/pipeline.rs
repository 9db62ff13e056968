//! Where data points go: to a collector, to the terminal, or nowhere; and beside that to where they can be scraped.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tracing::{info, warn};
use vms_core::metric::DataPoint;
use vms_core::probe::Probe;
use vms_export::config::Protocol;
use vms_export::exporter::Prepared as PreparedConfig;
use vms_export::exposition::{Names, Target};
use vms_export::{Encoder, Exporter as OtlpExporter, ExporterHandle, Resource, Stats};

use crate::clock::SystemClock;
use crate::config::{Config, Exporter};
use crate::console::Console;
use crate::prometheus::{Recorder, Shared};
use crate::self_metrics::ExportCounts;

/// The configured way out.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    output: Output,
    /// There is at most one, and it goes on when points are to go elsewhere: what waits in it is still delivered.
    exporter: Option<ExporterHandle>,
    /// As the OpenTelemetry conventions name it for `otel.component.type`.
    component: &'static str,
    /// For scrapes; absent where nobody can scrape.
    recorder: Option<Recorder>,
}

/// Another way out, which was found to work.
#[derive(Debug)]
pub(crate) struct Prepared {
    output: Output,
    exporter: Option<PreparedExporter>,
    component: Option<&'static str>,
    target: Target,
    names: Names,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum PreparedExporter {
    New(OtlpExporter),
    Present(PreparedConfig),
}

#[derive(Debug, Default)]
enum Output {
    Otlp(Encoder),
    Console {
        console: Console<anstream::Stdout>,
        broken: bool,
    },
    #[default]
    Discard,
}

impl Pipeline {
    /// Starts what the configuration says, and records what scrapes are to find, if there are any. Has to be called within
    /// the runtime.
    ///
    /// # Errors
    /// When the exporter cannot work, whatever the network does: a certificate that cannot be read, say.
    pub(crate) fn start(
        config: &Config,
        resource: Vec<(String, String)>,
        clock: SystemClock,
        scraped: Option<Shared>,
    ) -> anyhow::Result<Self> {
        let prepared = Self::prepare(None, config, resource, clock)?;
        let mut pipeline = Self { recorder: scraped.map(Recorder::new), ..Self::default() };
        pipeline.replace_with(prepared);
        Ok(pipeline)
    }

    /// Makes another way out ready beside the present exporter, which goes on as it is. Has to be called on a thread
    /// of the runtime or one that such a one started: what is opened and started has the rights of the thread.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn prepare(
        present: Option<&ExporterHandle>,
        config: &Config,
        resource: Vec<(String, String)>,
        clock: SystemClock,
    ) -> anyhow::Result<Prepared> {
        let target = Target::new(resource.iter().cloned());
        let mut exporter = None;
        let mut component = None;
        let output = match &config.exporter {
            Exporter::Otlp(config) => {
                const WRONG: &str = "the exporter cannot start: correct `export`";
                exporter = Some(match present {
                    Some(present) => PreparedExporter::Present(present.prepare(config).context(WRONG)?),
                    None => PreparedExporter::New(OtlpExporter::new(config, Arc::new(clock)).context(WRONG)?),
                });
                component = Some(match config.protocol {
                    Protocol::Grpc => "otlp_grpc_metric_exporter",
                    Protocol::HttpProtobuf => "otlp_http_metric_exporter",
                });
                Output::Otlp(Encoder::new(&Resource::new(resource), env!("CARGO_PKG_VERSION")))
            }
            Exporter::Console => {
                Output::Console { console: Console::new(anstream::stdout(), resource), broken: false }
            }
            Exporter::None => Output::Discard,
        };
        let names = if config.cnxwatch_names { Names::AlsoCnxwatch } else { Names::Own };
        Ok(Prepared { output, exporter, component, target, names })
    }

    /// Goes on with what was made ready. Has to be called on a thread of the runtime, as [`Self::prepare`].
    ///
    /// There is one exporter all the time: what waits in it goes to the collector that is configured now, and where none
    /// is, to the last one.
    pub(crate) fn replace_with(&mut self, prepared: Prepared) {
        self.output = prepared.output;
        match (prepared.exporter, &self.exporter) {
            (Some(PreparedExporter::New(exporter)), _) => {
                self.exporter = Some(exporter.start(&Handle::current()));
            }
            (Some(PreparedExporter::Present(config)), Some(present)) => present.reconfigure(config),
            (Some(PreparedExporter::Present(_)) | None, _) => {}
        }
        self.component = prepared.component.unwrap_or(self.component);
        if let Some(recorder) = &mut self.recorder {
            recorder.set_target(prepared.target, prepared.names);
        }
    }

    /// Of which probes points come from now on, and how often the agent tells of itself.
    pub(crate) fn set_probes(&mut self, probes: &[Probe], interval: Duration) {
        if let Some(recorder) = &mut self.recorder {
            recorder.set_probes(probes, interval);
        }
    }

    /// Begins a cycle, whose points are kept at the cost of those of earlier ones. `due` are the places of the probes whose
    /// points it has, in rising order.
    pub(crate) fn begin_cycle(&mut self, due: &[usize], now: Duration) {
        if let Some(exporter) = &self.exporter {
            exporter.begin_cycle();
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.begin_cycle(due, now);
        }
    }

    /// Hands points over, and leaves none in the list. Never waits for a collector.
    pub(crate) fn send(&mut self, points: &mut Vec<DataPoint>) {
        match &mut self.output {
            Output::Otlp(encoder) => {
                if let Some(exporter) = &self.exporter {
                    exporter.hand_over(encoder, points);
                }
            }
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
        match &mut self.recorder {
            Some(recorder) => recorder.take(points),
            None => points.clear(),
        }
    }

    /// Ends a cycle: all of its points were handed over.
    pub(crate) fn end_cycle(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.end_cycle();
        }
    }

    /// What has become of all points so far.
    pub(crate) fn counts(&self) -> ExportCounts {
        let stats = self.exporter.as_ref().map(ExporterHandle::stats);
        stats.map_or_else(ExportCounts::default, |stats| counts(self.component, stats))
    }

    /// The exporter, which may have something to deliver.
    pub(crate) fn exporter(&self) -> Option<ExporterHandle> {
        self.exporter.clone()
    }
}

/// Delivers what waits, or leaves it in the spool, within a bound.
pub(crate) async fn flush(exporter: Option<ExporterHandle>, within: Duration) {
    if let Some(exporter) = exporter {
        let lost = exporter.flush(within).await;
        if let Some(spool) = exporter.stats().spool.filter(|spool| spool.requests > 0) {
            info!(
                points = spool.points,
                "what the collector has not taken is in the spool: it is sent after the next start"
            );
        }
        if lost > 0 {
            warn!(
                points = lost,
                "the collector did not take everything before the end; these points are lost"
            );
        } else {
            info!("stopped");
        }
    }
}

fn counts(component: &'static str, stats: Stats) -> ExportCounts {
    let dropped = stats.dropped_points.into_iter().map(|(reason, points)| (reason.into_owned(), points));
    ExportCounts {
        component,
        sent: stats.sent_points,
        dropped: dropped.collect(),
        retried: stats.retried_points,
        waiting_points: stats.waiting_points,
        waiting_bytes: u64::try_from(stats.waiting_bytes).unwrap_or(u64::MAX),
        spool: stats.spool,
    }
}
