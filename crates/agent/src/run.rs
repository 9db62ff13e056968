//! `vms-agent run`: starts the measuring thread, hears signals, reloads, and stops cleanly.
//!
//! The loop below only waits. Measuring and encoding happen on a thread of their own; sending is a task behind a bounded
//! queue; and the configuration is read on a thread that ends with it. So neither a slow kernel nor a slow collector
//! nor a slow file system delays the others.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};
use vms_export::ExporterHandle;

use crate::clock::SystemClock;
use crate::config::{Config, Loaded};
use crate::environment::Environment;
use crate::heartbeat::Heartbeat;
use crate::measuring::{Control, Reserved, Worker};
use crate::pipeline::{self, Pipeline};
use crate::sandbox;
use crate::service_manager::ServiceManager;
use crate::telemetry::Telemetry;
use crate::watch::Watch;

/// How long a stop may take: the cycle under way, then what still waits to be sent.
const STOP_CYCLE: Duration = Duration::from_secs(2);
const STOP_FLUSH: Duration = Duration::from_secs(5);

/// And how long the agent's own traces and logs may take after that.
pub(crate) const STOP_TELEMETRY: Duration = Duration::from_secs(2);

/// Loads the configuration.
pub(crate) type Load = Arc<dyn Fn() -> anyhow::Result<Loaded> + Send + Sync>;

/// What is to be run, and how to load it anew.
pub(crate) struct Setup {
    /// The configuration at the start.
    pub(crate) config: Config,
    /// Whether the files that it was made from have been replaced.
    pub(crate) watch: Watch,
    /// On whose behalf is measured.
    pub(crate) resource: Vec<(String, String)>,
    /// Loads the configuration anew.
    pub(crate) load: Load,
    /// The environment of the process.
    pub(crate) environment: Environment,
    /// The agent's time.
    pub(crate) clock: SystemClock,
    /// The file that shows its life.
    pub(crate) heartbeat: io::Result<Heartbeat>,
    /// The thread that is to measure.
    pub(crate) thread: Reserved,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the agent cannot start: the message says what is missing.
pub(crate) async fn run(setup: Setup, telemetry: &Telemetry) -> anyhow::Result<()> {
    let Setup { mut config, mut watch, resource, load, environment, clock, heartbeat, thread } = setup;
    // Made once: a signal that arrives between two futures made anew would be lost.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be awaited")?;
    let mut look_at_files = tokio::time::interval(Watch::EVERY);
    look_at_files.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let pipeline = Pipeline::start(&config, resource.clone(), clock)?;
    // Beside the worker, so that what waits is delivered even if a cycle does not end.
    let mut exporter = pipeline.exporter();
    let heartbeat = tell_heartbeat(heartbeat);
    let worker = {
        let config = config.clone();
        move || Worker::new(config, pipeline, resource, clock, heartbeat, ServiceManager::find())
    };
    let (mut measuring, first_look_in) = thread.begin(worker).await?;
    tell_start(&config, first_look_in);
    ServiceManager::ready(config.probes.len());

    let mut reload_wanted = false;
    let mut reloading: Option<JoinHandle<anyhow::Result<Reloaded>>> = None;
    loop {
        if reload_wanted && reloading.is_none() {
            reload_wanted = false;
            // What is replaced from now on is read again afterwards.
            watch.look();
            ServiceManager::reloading();
            reloading =
                Some(tokio::spawn(reload(Arc::clone(&load), measuring.control(), environment.clone())));
        }
        tokio::select! {
            reloaded = finished(&mut reloading) => {
                reloading = None;
                match reloaded.context("the reload ended unexpectedly").flatten() {
                    Ok(Reloaded { loaded, exporter: now }) => {
                        exporter = now;
                        watch.follow(loaded.files());
                        for warning in &loaded.warnings {
                            warn!("{warning}");
                        }
                        apply_log_level(telemetry, &config, &loaded.config);
                        config = loaded.config;
                        info!(probes = config.probes.len(), "configuration reloaded");
                    }
                    Err(refused) => {
                        let refused = format!("{refused:#}");
                        error!(
                            advice = sandbox::explain_refusal(&refused),
                            "the new configuration is refused, the old one stays in force: {refused}"
                        );
                    }
                }
                ServiceManager::ready(config.probes.len());
            }
            () = measuring.ended() => anyhow::bail!("the measuring thread ended unexpectedly"),
            _ = look_at_files.tick() => {
                if watch.has_moved() {
                    info!("a link to the configuration leads elsewhere now: it is read again");
                    reload_wanted = true;
                }
            }
            _ = hangup.recv() => reload_wanted = true,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }

    info!("stopping");
    ServiceManager::stopping();
    if !measuring.stop(STOP_CYCLE).await {
        warn!("the cycle under way did not end in time; its points are lost");
    }
    pipeline::flush(exporter, STOP_FLUSH).await;
    Ok(())
}

/// A configuration that has come into force.
struct Reloaded {
    loaded: Loaded,
    /// The exporter that may have something to deliver from then on.
    exporter: Option<ExporterHandle>,
}

/// Reads the configuration anew and has it put in force between two cycles.
async fn reload(load: Load, measuring: Control, environment: Environment) -> anyhow::Result<Reloaded> {
    let loaded = match load_on_own_thread(load).await {
        Ok(loaded) => loaded,
        Err(refused) => {
            measuring.count_refused_reload();
            return Err(refused);
        }
    };
    let exporter = measuring.reload(loaded.config.clone(), environment).await?;
    Ok(Reloaded { loaded, exporter })
}

/// Loads the configuration on a thread that ends with it: a file system may be slow.
async fn load_on_own_thread(load: Load) -> anyhow::Result<Loaded> {
    let (sender, loaded) = oneshot::channel();
    std::thread::Builder::new()
        .name("vms-config".to_owned())
        .spawn(move || {
            // Nobody listens when the agent is being stopped.
            sender.send(load()).ok();
        })
        .context("no thread can be started to read it")?;
    loaded.await.context("the thread that reads it ended unexpectedly")?
}

/// The outcome of a reload that is under way; without one there never is an outcome.
async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

fn tell_heartbeat(begun: io::Result<Heartbeat>) -> Option<Heartbeat> {
    match begun {
        Ok(heartbeat) => {
            tracing::debug!(path = %heartbeat.path().display(), "the heartbeat of this agent");
            Some(heartbeat)
        }
        Err(error) => {
            warn!(
                "no heartbeat is left for `vms-agent health` ({error}): give the agent a directory by $RUNTIME_DIRECTORY, \
                 which systemd does with RuntimeDirectory="
            );
            None
        }
    }
}

fn apply_log_level(telemetry: &Telemetry, old: &Config, new: &Config) {
    if old.log.level != new.log.level
        && let Err(error) = telemetry.set_level(&new.log.level)
    {
        warn!("log.level stays as it was: {error:#}");
    }
    if old.sandbox != new.sandbox {
        warn!("sandbox takes effect at the next start: what was given up does not come back");
    }
    if old.log.format != new.log.format || old.self_telemetry != new.self_telemetry {
        warn!("log.format and selfTelemetry take effect at the next start");
    }
}

fn tell_start(config: &Config, first_look_in: Duration) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        probes = config.probes.len(),
        exporter = config.exporter.describe(),
        first_look_in_ms = u64::try_from(first_look_in.as_millis()).unwrap_or(u64::MAX),
        "started"
    );
}
