//! `vms-agent run`: looks when probes are due, sends what is found, reloads, and stops cleanly.
//!
//! The loop below only waits. Measuring and encoding happen on a thread of the runtime's blocking pool, one cycle
//! at a time; sending is a task of its own behind a bounded queue. So neither a slow kernel nor a slow collector
//! delays the other.

use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tracing::{error, info, info_span, warn};
use vms_core::Clock;
use vms_core::schedule::{Due, Schedule};

use crate::clock::SystemClock;
use crate::config::{Config, Loaded};
use crate::environment::Environment;
use crate::host::{self, HostMonitor};
use crate::journal::Journal;
use crate::pipeline::{self, Pipeline};
use crate::self_metrics::{self, SelfMetrics};
use crate::telemetry::Telemetry;

/// How long a stop may take: the cycle under way, then what still waits to be sent.
const STOP_CYCLE: Duration = Duration::from_secs(2);
const STOP_FLUSH: Duration = Duration::from_secs(5);

/// And how long the agent's own traces and logs may take after that.
pub(crate) const STOP_TELEMETRY: Duration = Duration::from_secs(2);

/// Points that are encoded together: a request of some 400 KiB.
const POINTS_AT_ONCE: usize = 2_048;

/// Everything that a cycle needs; it moves to the measuring thread and back.
struct Worker {
    monitor: HostMonitor,
    pipeline: Pipeline,
    journal: Journal,
    metrics: SelfMetrics,
    clock: SystemClock,
    resource: Vec<(String, String)>,
    probes: usize,
}

/// Runs until SIGTERM or SIGINT. `reload` loads the configuration anew at SIGHUP.
///
/// # Errors
/// When the agent cannot start: the message says what is missing.
pub(crate) async fn run(
    mut config: Config,
    resource: Vec<(String, String)>,
    reload: impl Fn() -> anyhow::Result<Loaded>,
    environment: &Environment,
    telemetry: &Telemetry,
    clock: SystemClock,
) -> anyhow::Result<()> {
    // Made once: a signal that arrives between two futures made anew would be lost.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be awaited")?;

    let phase = host::phase(&resource);
    let mut schedule = schedule(&config, clock, phase);
    let pipeline = Pipeline::start(&config, resource.clone(), clock)?;
    // Beside the worker, so that what waits is delivered even if a cycle does not end.
    let mut exporters = pipeline.exporters();
    let mut idle = Some(Worker {
        monitor: host::monitor(&config, clock)?,
        pipeline,
        resource,
        journal: Journal::default(),
        metrics: SelfMetrics::new(clock.wall()),
        clock,
        probes: config.probes.len(),
    });
    let mut busy: Option<JoinHandle<Worker>> = None;
    let mut reload_wanted = false;
    tell_start(&config, &schedule, clock);

    loop {
        if reload_wanted && let Some(worker) = &mut idle {
            reload_wanted = false;
            let outcome = reload().and_then(|new| {
                worker.apply(&config, &new.config, environment)?;
                Ok(new)
            });
            worker.metrics.count_reload(outcome.is_ok());
            match outcome {
                Ok(new) => {
                    for warning in &new.warnings {
                        warn!("{warning}");
                    }
                    schedule = self::schedule(&new.config, clock, phase);
                    exporters = worker.pipeline.exporters();
                    apply_log_level(telemetry, &config, &new.config);
                    config = new.config;
                    info!(probes = config.probes.len(), "configuration reloaded");
                }
                Err(refused) => {
                    error!("the new configuration is refused, the old one stays in force: {refused:#}");
                }
            }
        }
        tokio::select! {
            () = wait_until(clock, schedule.next()), if idle.is_some() => {
                if let Some(worker) = idle.take() {
                    match schedule.take_due(clock.monotonic()) {
                        Some(due) => busy = Some(tokio::task::spawn_blocking(move || worker.cycle(&due))),
                        None => idle = Some(worker),
                    }
                }
            }
            worker = finished(&mut busy), if busy.is_some() => {
                busy = None;
                idle = Some(worker.context("the measuring thread ended unexpectedly")?);
            }
            _ = hangup.recv() => reload_wanted = true,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }

    info!("stopping");
    if let Some(cycle) = busy
        && !matches!(tokio::time::timeout(STOP_CYCLE, cycle).await, Ok(Ok(_)))
    {
        warn!("the cycle under way did not end in time; its points are lost");
    }
    pipeline::flush(exporters, STOP_FLUSH).await;
    Ok(())
}

impl Worker {
    /// Measures what is due, logs it, and hands its points over.
    fn cycle(mut self, due: &Due) -> Self {
        // The entry behind the probes is the agent's own turn to tell of itself.
        let probes: Vec<usize> = due.entries.iter().copied().filter(|entry| *entry < self.probes).collect();
        let span = info_span!("vms.cycle", probes = probes.len(), late = due.late, skipped = due.skipped);
        let entered = span.entered();
        let mut points = Vec::new();
        self.pipeline.begin_cycle();
        if !probes.is_empty() {
            let pipeline = &mut self.pipeline;
            let cycle = self.monitor.measure(&probes, &mut |point| {
                points.push(point);
                // Handed over piece by piece, so that thousands of links never are in memory as points all at once.
                if points.len() == POINTS_AT_ONCE {
                    pipeline.send(&points);
                    points.clear();
                }
            });
            self.journal.tell(&cycle);
            self.journal.tell_skipped(due.skipped, cycle.took);
            self.metrics.count_cycle(cycle.took, due.late, due.skipped);
        }
        if probes.len() < due.entries.len() {
            let counts = self.pipeline.counts();
            let usage = self_metrics::read_usage();
            points.extend(self.metrics.points(
                self.clock.wall(),
                self.monitor.outcomes(),
                &self.monitor.effort(),
                &counts,
                usage,
            ));
        }
        self.pipeline.send(&points);
        drop(entered);
        self
    }

    /// Puts a new configuration in force. What fails leaves the old one whole.
    fn apply(&mut self, old: &Config, new: &Config, environment: &Environment) -> anyhow::Result<()> {
        let pipeline = if (&old.exporter, &old.resource) == (&new.exporter, &new.resource) {
            None
        } else {
            let resource = host::read_resource(new, environment, Some(&self.resource));
            Some((Pipeline::start(new, resource.clone(), self.clock)?, resource))
        };
        if old.proc_root == new.proc_root {
            self.monitor.replace_probes(new.probes.clone())?;
        } else {
            let processes = host::processes(new)?;
            self.monitor.replace_probes(new.probes.clone())?;
            self.monitor.replace_processes(processes);
        }
        if let Some((pipeline, resource)) = pipeline {
            self.pipeline.replace_with(pipeline);
            self.resource = resource;
        }
        self.monitor.set_terms(new.terms);
        self.probes = new.probes.len();
        Ok(())
    }
}

/// One entry for each probe, and one more for the agent's own metrics.
fn schedule(config: &Config, clock: SystemClock, phase: Duration) -> Schedule {
    let probes = config.probes.iter().map(|probe| probe.interval);
    Schedule::new(clock.monotonic(), phase, probes.chain([config.interval]))
}

async fn wait_until(clock: SystemClock, moment: Option<Duration>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(clock.instant(moment).into()).await,
        None => std::future::pending().await,
    }
}

async fn finished(busy: &mut Option<JoinHandle<Worker>>) -> Result<Worker, tokio::task::JoinError> {
    match busy {
        Some(cycle) => cycle.await,
        None => std::future::pending().await,
    }
}

fn apply_log_level(telemetry: &Telemetry, old: &Config, new: &Config) {
    if old.log.level != new.log.level
        && let Err(error) = telemetry.set_level(&new.log.level)
    {
        warn!("log.level stays as it was: {error:#}");
    }
    if old.log.format != new.log.format || old.self_telemetry != new.self_telemetry {
        warn!("log.format and selfTelemetry take effect at the next start");
    }
}

fn tell_start(config: &Config, schedule: &Schedule, clock: SystemClock) {
    let first_look = schedule.next().unwrap_or_default().saturating_sub(clock.monotonic());
    info!(
        version = env!("CARGO_PKG_VERSION"),
        probes = config.probes.len(),
        exporter = config.exporter.describe(),
        first_look_in_ms = u64::try_from(first_look.as_millis()).unwrap_or(u64::MAX),
        "started"
    );
}
