//! `vms-agent run`: starts the measuring thread, hears signals, reloads, and stops cleanly.
//!
//! The loop below only waits. Measuring and encoding happen on a thread of their own; sending is a task behind a bounded
//! queue; and files are read and looked at on threads that end with it. So neither a slow kernel nor a slow collector
//! nor a slow file system delays the others.

use std::io;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::clock::SystemClock;
use crate::config::{Config, Loaded};
use crate::environment::Environment;
use crate::heartbeat::Heartbeat;
use crate::measuring::{Reserved, Worker};
use crate::names;
use crate::pipeline::{self, Pipeline};
use crate::prometheus::{self, Listener};
use crate::reload::{InForce, Load, Reloaded, Reloader, Reloading};
use crate::sandbox;
use crate::service_manager::ServiceManager;
use crate::sys;
use crate::telemetry::Telemetry;
use crate::watch::{Watch, Watching};

/// How long a stop may take: the cycle under way, then what still waits to be sent.
const STOP_CYCLE: Duration = Duration::from_secs(2);
const STOP_FLUSH: Duration = Duration::from_secs(5);

/// And how long it waits for a reload that the measuring thread has answered.
const STOP_RELOAD: Duration = Duration::from_millis(100);

/// How often what is free of the agent's memory goes back to the kernel.
const GIVE_BACK: Duration = Duration::from_mins(1);

/// So many reloads that hang are left behind for others.
const MOST_ABANDONED: u32 = 3;

/// And how long the agent's own traces and logs may take after that.
pub(crate) const STOP_TELEMETRY: Duration = Duration::from_secs(2);

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
    /// Where metrics can be scraped.
    pub(crate) listener: Option<Listener>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the agent cannot start: the message says what is missing.
pub(crate) async fn run(setup: Setup, telemetry: &Telemetry) -> anyhow::Result<()> {
    let Setup { mut config, watch, resource, load, environment, clock, heartbeat, thread, listener } = setup;
    // Made once: a signal that arrives between two futures made anew would be lost.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be awaited")?;
    let mut look_around = tokio::time::interval(Watch::EVERY);
    look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut give_back = tokio::time::interval(GIVE_BACK);
    give_back.set_missed_tick_behavior(MissedTickBehavior::Delay);

    // Before there is anything that would have to wait: later a reload does it, on a thread of its own.
    let names = names::begin(&config, names::PATIENCE)?;
    let scraped = listener.map(|listener| prometheus::start(listener, clock));
    let pipeline = Pipeline::start(&config, resource.clone(), clock, scraped)?;
    // Beside the worker, so that what waits is delivered even if a cycle does not end.
    let mut in_force = InForce::new(&config, resource.clone(), pipeline.exporter());
    let heartbeat = tell_heartbeat(heartbeat);
    let worker = {
        let (config, names) = (config.clone(), names.clone());
        move || Worker::new(config, &names, pipeline, &resource, clock, heartbeat, ServiceManager::find())
    };
    let (mut measuring, first_look_in) = thread.begin(worker).await?;
    tell_start(&config, first_look_in);
    ServiceManager::ready(config.probes.len());

    let watching = Watching::new(watch);
    let reloader = Reloader {
        load,
        watching: watching.clone(),
        measuring: measuring.control(),
        names: names.clone(),
        environment,
        clock,
    };
    let mut reload_wanted = false;
    let mut reloading: Option<Reloading> = None;
    let mut abandoned = 0;
    let mut moved: Option<JoinHandle<bool>> = None;
    loop {
        // One that hangs must not keep the next from being read, within a bound: each leaves a thread behind.
        let may_abandon = reload_wanted && abandoned < MOST_ABANDONED;
        if let Some(hanging) = reloading.take_if(|reloading| may_abandon && reloading.hangs()) {
            hanging.abandon();
            abandoned += 1;
            moved = None;
        }
        if reload_wanted && reloading.is_none() {
            reload_wanted = false;
            ServiceManager::reloading();
            reloading = Some(Reloading::begin(reloader.clone(), in_force.clone()));
        }
        tokio::select! {
            outcome = finished(reloading.as_mut().map(Reloading::task)) => {
                reloading = None;
                match outcome.context("the reload ended unexpectedly").flatten() {
                    Ok(Reloaded { loaded, in_force: now }) => {
                        in_force = now;
                        tell_reload(telemetry, &config, &loaded);
                        config = loaded.config;
                        give_back.reset_immediately();
                    }
                    Err(refused) => tell_refusal(&refused),
                }
                // Those of a configuration that is not in force, or no longer, are forgotten.
                names.want(&names::wanted(&config)).context("host names cannot be resolved")?;
                ServiceManager::ready(config.probes.len());
            }
            () = measuring.ended() => anyhow::bail!("the measuring thread ended unexpectedly"),
            has_moved = finished(moved.as_mut()) => {
                moved = None;
                if has_moved.unwrap_or(false) {
                    info!("a link to the configuration leads elsewhere now: it is read again");
                    reload_wanted = true;
                }
            }
            _ = look_around.tick() => {
                telemetry.tell_lost_lines();
                match &mut reloading {
                    Some(reloading) => reloading.tell_overdue(),
                    None => moved = moved.or_else(|| watching.ask()),
                }
            }
            _ = give_back.tick() => sys::give_back_free_memory(),
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
    // One that came into force just now may have made the exporter that has something to deliver.
    if let Some(reloading) = &mut reloading
        && let Ok(Ok(Ok(reloaded))) = tokio::time::timeout(STOP_RELOAD, reloading.task()).await
    {
        in_force = reloaded.in_force;
    }
    pipeline::flush(in_force.exporter, STOP_FLUSH).await;
    Ok(())
}

/// The outcome of what is under way; without it there never is one.
async fn finished<T>(task: Option<&mut JoinHandle<T>>) -> Result<T, JoinError> {
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

fn tell_reload(telemetry: &Telemetry, old: &Config, new: &Loaded) {
    for warning in &new.warnings {
        warn!("{warning}");
    }
    apply_log_level(telemetry, old, &new.config);
    info!(probes = new.config.probes.len(), "configuration reloaded");
}

fn tell_refusal(refused: &anyhow::Error) {
    let refused = format!("{refused:#}");
    let advice = sandbox::explain_refusal(&refused);
    error!(advice, "the new configuration is refused, the old one stays in force: {refused}");
}

fn apply_log_level(telemetry: &Telemetry, old: &Config, new: &Config) {
    if old.log.level != new.log.level
        && let Err(error) = telemetry.set_level(&new.log.level)
    {
        warn!("log.level stays as it was: {error:#}");
    }
    if old.terms.namespaces != new.terms.namespaces {
        warn!("namespaces takes effect at the next start: what is looked at stays the same until then");
    }
    if old.pod_logs_root != new.pod_logs_root {
        warn!(
            "podLogsRoot takes effect at the next start: the running agent may list the former directory alone"
        );
    }
    if old.sandbox != new.sandbox {
        warn!("sandbox takes effect at the next start: what was given up does not come back");
    }
    if old.conntrack != new.conntrack {
        warn!(
            "conntrack takes effect at the next start: the right to read it is kept from then on, or given up"
        );
    }
    if old.prometheus != new.prometheus {
        warn!("prometheus.listen takes effect at the next start: the running agent may listen nowhere else");
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
