//! Reading the configuration anew, and making ready what it asks for, on a thread that ends with it: a file system may be
//! slow, or never answer, and neither the measuring nor the loop that hears signals is to wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;
use vms_export::ExporterHandle;
use vms_resolver::Resolver;

use crate::clock::SystemClock;
use crate::config::{Config, Exporter, Loaded, ResourceConfig};
use crate::environment::Environment;
use crate::host;
use crate::measuring::Control;
use crate::names;
use crate::pipeline::{Pipeline, Prepared};
use crate::watch::{Watch, Watching};

/// After what time it is told that a reload does not get on.
const OVERDUE: Duration = Duration::from_secs(10);

/// Loads the configuration.
pub(crate) type Load = Arc<dyn Fn() -> anyhow::Result<Loaded> + Send + Sync>;

/// What decides whether there is to be another way out, and what that goes on from.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    exporter_settings: Exporter,
    resource_settings: ResourceConfig,
    resource: Vec<(String, String)>,
    /// The exporter that may have something to deliver.
    pub(crate) exporter: Option<ExporterHandle>,
}

/// A configuration that has come into force.
#[derive(Debug)]
pub(crate) struct Reloaded {
    pub(crate) loaded: Loaded,
    pub(crate) in_force: InForce,
}

/// How to load a configuration, and by whom it is put in force.
#[derive(Clone)]
pub(crate) struct Reloader {
    pub(crate) load: Load,
    pub(crate) watching: Watching,
    pub(crate) measuring: Control,
    pub(crate) names: Resolver,
    pub(crate) environment: Environment,
    pub(crate) clock: SystemClock,
}

/// A reload under way.
#[derive(Debug)]
pub(crate) struct Reloading {
    task: JoinHandle<anyhow::Result<Reloaded>>,
    began: Instant,
    /// Whether all has been read, and the measuring thread is to come round.
    is_read: Arc<AtomicBool>,
    was_told: bool,
}

/// What is asked for, read and made ready.
struct Wanted {
    loaded: Loaded,
    /// Absent where the way out and the resource stay as they are.
    change: Option<Change>,
    /// Of its files, from before they were read.
    watch: Watch,
}

/// Another way out, and the resource of what goes there.
struct Change {
    prepared: Prepared,
    resource: Vec<(String, String)>,
}

impl InForce {
    pub(crate) fn new(
        config: &Config,
        resource: Vec<(String, String)>,
        exporter: Option<ExporterHandle>,
    ) -> Self {
        Self {
            exporter_settings: config.exporter.clone(),
            resource_settings: config.resource.clone(),
            resource,
            exporter,
        }
    }

    fn prepare(
        &self,
        new: &Config,
        environment: &Environment,
        clock: SystemClock,
    ) -> anyhow::Result<Option<Change>> {
        if (&self.exporter_settings, &self.resource_settings) == (&new.exporter, &new.resource) {
            return Ok(None);
        }
        let resource = host::read_resource(new, environment, Some(&self.resource));
        let prepared = Pipeline::prepare(self.exporter.as_ref(), new, resource.clone(), clock)?;
        Ok(Some(Change { prepared, resource }))
    }
}

impl Reloading {
    /// Begins one. Has to be called within the runtime, on one of its threads: what is opened has the rights of the thread.
    pub(crate) fn begin(reloader: Reloader, in_force: InForce) -> Self {
        let is_read = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(reloader.reload(in_force, Arc::clone(&is_read)));
        Self { task, began: Instant::now(), is_read, was_told: false }
    }

    /// Whether it does not get on, and not for the measuring thread's sake.
    pub(crate) fn hangs(&self) -> bool {
        self.began.elapsed() >= OVERDUE && !self.is_read.load(Ordering::Relaxed)
    }

    /// Leaves it to itself: what it has made ready when it gets on after all is thrown away.
    pub(crate) fn abandon(self) {
        self.task.abort();
    }

    /// What is to be waited for.
    pub(crate) fn task(&mut self) -> &mut JoinHandle<anyhow::Result<Reloaded>> {
        &mut self.task
    }

    /// Tells once where it does not get on.
    pub(crate) fn tell_overdue(&mut self) {
        if self.was_told || self.began.elapsed() < OVERDUE {
            return;
        }
        self.was_told = true;
        let seconds = OVERDUE.as_secs();
        if self.hangs() {
            warn!(
                "the configuration, its secrets or certificates are still being read after {seconds} s, and the old ones stay \
                 in force: check the file systems that they are on, then reload again"
            );
        } else {
            warn!(
                "the new configuration has waited {seconds} s for the cycle under way to end: see whether probes have answers \
                 (`vms-agent health`)"
            );
        }
    }
}

impl Reloader {
    /// Reads the configuration anew and has it put in force between two cycles.
    async fn reload(self, in_force: InForce, is_read: Arc<AtomicBool>) -> anyhow::Result<Reloaded> {
        let (measuring, watching) = (self.measuring.clone(), self.watching.clone());
        let before = in_force.clone();
        let Wanted { loaded, change, watch } = match on_own_thread(move || self.read(&before)).await {
            Ok(wanted) => wanted,
            Err(refused) => {
                measuring.count_refused_reload();
                return Err(refused);
            }
        };
        is_read.store(true, Ordering::Relaxed);
        let (prepared, resource) = change.map(|change| (change.prepared, change.resource)).unzip();
        let exporter = measuring.reload(loaded.config.clone(), prepared).await?;
        watching.replace(watch);
        let in_force = InForce::new(&loaded.config, resource.unwrap_or(in_force.resource), exporter);
        Ok(Reloaded { loaded, in_force })
    }

    fn read(&self, in_force: &InForce) -> anyhow::Result<Wanted> {
        // What is replaced from now on is read again afterwards.
        let (seen, _) = self.watching.look();
        let loaded = (self.load)()?;
        let change = in_force.prepare(&loaded.config, &self.environment, self.clock)?;
        // So that the first look with it knows what its names mean.
        self.names.want_also(&names::wanted(&loaded.config)).context("host names cannot be resolved")?;
        let _is_known = self.names.wait(names::PATIENCE);
        let watch = seen.follow(loaded.files());
        Ok(Wanted { loaded, change, watch })
    }
}

async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, done) = oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name("vms-config".to_owned())
        .spawn(move || {
            let _entered = runtime.enter();
            // Nobody listens when the agent is being stopped.
            sender.send(work()).ok();
        })
        .context("no thread can be started to read it")?;
    done.await.context("the thread that reads it ended unexpectedly")?
}
