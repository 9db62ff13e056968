//! The measuring thread: looks when probes are due, hands over what is found, and shows that it lives.
//!
//! It is one thread for as long as the agent runs, so that what is granted to it or kept from it can differ from the
//! threads that talk to the network. The cadence, the watchdog of the service manager and the heartbeat all are its
//! own loop: none of them goes on when it does not.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::info_span;
use vms_core::Clock;
use vms_core::probe::Probe;
use vms_core::schedule::{Due, Schedule};
use vms_export::ExporterHandle;
use vms_resolver::Resolver;

use crate::clock::SystemClock;
use crate::config::Config;
use crate::heartbeat::Heartbeat;
use crate::host::{self, HostMonitor};
use crate::journal::Journal;
use crate::pipeline::{Pipeline, Prepared};
use crate::sandbox::{Lack, Sandbox};
use crate::self_metrics::{self, SelfMetrics};
use crate::service_manager::ServiceManager;

/// Points that are encoded together: a request of some 400 KiB.
const POINTS_AT_ONCE: usize = 2_048;

/// The name of the thread, as `top -H` and debuggers show it: at most 15 bytes.
const THREAD_NAME: &str = "vms-measuring";

/// What the thread is told.
enum Command {
    Reload(Box<Reload>),
    CountRefusedReload,
    Stop,
}

struct Reload {
    config: Config,
    /// Another way out, if there is to be one.
    prepared: Option<Prepared>,
    answer: oneshot::Sender<anyhow::Result<Option<ExporterHandle>>>,
}

/// A thread that may do no more than measuring takes, and waits for something to measure.
#[derive(Debug)]
pub(crate) struct Reserved(mpsc::Sender<Beginning>);

/// What the thread begins with.
struct Beginning {
    runtime: Handle,
    make: Box<dyn FnOnce() -> anyhow::Result<Worker> + Send>,
    told: mpsc::Receiver<Command>,
    begun: oneshot::Sender<anyhow::Result<Duration>>,
    ending: oneshot::Sender<()>,
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct Measuring {
    control: Control,
    ended: oneshot::Receiver<()>,
}

/// What tells the thread.
#[derive(Debug, Clone)]
pub(crate) struct Control(mpsc::Sender<Command>);

/// What the thread works with.
#[derive(Debug)]
pub(crate) struct Worker {
    config: Config,
    monitor: HostMonitor,
    pipeline: Pipeline,
    journal: Journal,
    metrics: SelfMetrics,
    clock: SystemClock,
    phase: Duration,
    schedule: Schedule,
    /// Absent where it has no place: that was told at the start.
    heartbeat: Option<Heartbeat>,
    manager: ServiceManager,
    cycles: u64,
}

impl Reserved {
    /// Starts the thread, and tells what it could not give up. This comes before its starter gives up what it needs.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(crate) fn start(sandbox: Sandbox) -> anyhow::Result<(Self, Vec<Lack>)> {
        let (sender, beginning) = mpsc::channel::<Beginning>();
        let (entered, lacks) = mpsc::channel();
        std::thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || {
                // Its starter waits for this, and whoever does not begin has failed, and said so.
                entered.send(sandbox.enter_measuring()).ok();
                if let Ok(beginning) = beginning.recv() {
                    beginning.measure();
                }
            })
            .context("the measuring thread cannot be started")?;
        let lacks = lacks.recv().context("the measuring thread ended unexpectedly")?;
        Ok((Self(sender), lacks))
    }

    /// Begins to measure, on the runtime of the caller, and tells how long it is until the first look. The worker is made
    /// on the thread, for what it opens and how much it sees depends on the thread's rights.
    ///
    /// # Errors
    /// When the worker cannot be made.
    pub(crate) async fn begin(
        self,
        make: impl FnOnce() -> anyhow::Result<Worker> + Send + 'static,
    ) -> anyhow::Result<(Measuring, Duration)> {
        let (commands, told) = mpsc::channel();
        let (ending, ended) = oneshot::channel();
        let (begun, first_look_in) = oneshot::channel();
        let beginning = Beginning { runtime: Handle::current(), make: Box::new(make), told, begun, ending };
        // A thread that has ended is found out by its silence.
        self.0.send(beginning).ok();
        let first_look_in = first_look_in.await.context("the measuring thread ended unexpectedly")??;
        Ok((Measuring { control: Control(commands), ended }, first_look_in))
    }
}

impl Beginning {
    fn measure(self) {
        let Self { runtime, make, told, begun, ending } = self;
        let _entered = runtime.enter();
        match make() {
            Ok(worker) => {
                begun.send(Ok(worker.first_look_in())).ok();
                worker.work(&told);
            }
            Err(error) => {
                begun.send(Err(error)).ok();
            }
        }
        // Nobody listens when the stop has been given up.
        ending.send(()).ok();
    }
}

impl Measuring {
    /// What tells the thread.
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits for the end of the thread, which comes by itself only when it fails.
    pub(crate) async fn ended(&mut self) {
        // Told, or dropped by a thread that panicked.
        (&mut self.ended).await.ok();
    }

    /// Lets the cycle under way end, within a bound, and returns whether it did.
    pub(crate) async fn stop(mut self, within: Duration) -> bool {
        self.control.tell(Command::Stop);
        tokio::time::timeout(within, self.ended()).await.is_ok()
    }
}

impl Control {
    /// Puts a new configuration in force between two cycles, and tells the exporter that has something to deliver from then
    /// on.
    ///
    /// # Errors
    /// Why the old configuration stays.
    pub(crate) async fn reload(
        &self,
        config: Config,
        prepared: Option<Prepared>,
    ) -> anyhow::Result<Option<ExporterHandle>> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Reload(Box::new(Reload { config, prepared, answer })));
        answered.await.context("the measuring thread has ended")?
    }

    /// Counts a configuration that did not get as far as the thread.
    pub(crate) fn count_refused_reload(&self) {
        self.tell(Command::CountRefusedReload);
    }

    fn tell(&self, command: Command) {
        // A thread that has ended is found out by its end.
        self.0.send(command).ok();
    }
}

impl Worker {
    /// A worker of this configuration, whose data points go to the pipeline.
    ///
    /// # Errors
    /// When the kernel has no `sock_diag`, or the configured /proc cannot be read.
    pub(crate) fn new(
        config: Config,
        names: &Resolver,
        mut pipeline: Pipeline,
        resource: &[(String, String)],
        clock: SystemClock,
        heartbeat: Option<Heartbeat>,
        manager: ServiceManager,
    ) -> anyhow::Result<Self> {
        let phase = host::phase(resource);
        pipeline.set_probes(&config.probes, config.interval);
        let mut journal = Journal::default();
        journal.set_probes(&config.probes);
        Ok(Self {
            monitor: host::monitor(&config, names, clock)?,
            schedule: Schedule::new(clock.monotonic(), phase, intervals(&config)),
            metrics: SelfMetrics::new(clock.wall()),
            journal,
            config,
            pipeline,
            clock,
            phase,
            heartbeat,
            manager,
            cycles: 0,
        })
    }

    /// How long it is until the first look.
    fn first_look_in(&self) -> Duration {
        self.schedule.next().unwrap_or_default().saturating_sub(self.clock.monotonic())
    }

    fn work(mut self, told: &mpsc::Receiver<Command>) {
        loop {
            self.show_life();
            match told.recv_timeout(self.rest()) {
                Ok(Command::Reload(reload)) => {
                    let Reload { config, prepared, answer } = *reload;
                    let applied = self.apply(config, prepared);
                    self.metrics.count_reload(applied.is_ok());
                    // Nobody listens when the agent is being stopped.
                    answer.send(applied.map(|()| self.pipeline.exporter())).ok();
                }
                Ok(Command::CountRefusedReload) => self.metrics.count_reload(false),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(due) = self.schedule.take_due(self.clock.monotonic()) {
                        self.cycle(&due);
                    }
                }
            }
        }
    }

    /// How long there is nothing to do but to show life.
    fn rest(&self) -> Duration {
        let due = self.schedule.next().map(|due| due.saturating_sub(self.clock.monotonic()));
        let sign = self.manager.feed_every().map_or(Heartbeat::EVERY, |feed| feed.min(Heartbeat::EVERY));
        due.map_or(sign, |due| due.min(sign))
    }

    fn show_life(&mut self) {
        self.manager.feed();
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.beat(self.clock.uptime(), self.cycles);
        }
    }

    /// Measures what is due, logs it, and hands its points over.
    fn cycle(&mut self, due: &Due) {
        // The entry behind the probes is the agent's own turn to tell of itself.
        let count = self.config.probes.len();
        let probes: Vec<usize> = due.entries.iter().copied().filter(|entry| *entry < count).collect();
        let span = info_span!("vms.cycle", probes = probes.len(), late = due.late, skipped = due.skipped);
        let _entered = span.entered();
        let mut points = Vec::new();
        self.pipeline.begin_cycle(&probes, self.clock.monotonic());
        if !probes.is_empty() {
            let pipeline = &mut self.pipeline;
            let cycle = self.monitor.measure(&probes, &mut |point| {
                points.push(point);
                // Handed over piece by piece, so that thousands of links never are in memory as points all at once.
                if points.len() == POINTS_AT_ONCE {
                    pipeline.send(&mut points);
                }
            });
            self.journal.tell(&cycle);
            self.journal.tell_skipped(due.skipped, cycle.took);
            self.metrics.count_cycle(cycle.took, due.late, due.skipped);
            self.cycles += 1;
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
        self.pipeline.send(&mut points);
        self.pipeline.end_cycle();
    }

    /// Puts a new configuration in force. What fails leaves the old one whole.
    fn apply(&mut self, mut new: Config, prepared: Option<Prepared>) -> anyhow::Result<()> {
        // The rights that it takes were given up, or kept, at the start.
        new.terms.namespaces = self.config.terms.namespaces;
        new.pod_logs_root.clone_from(&self.config.pod_logs_root);
        if self.config.proc_root == new.proc_root {
            self.monitor.replace_probes(new.probes.clone())?;
        } else {
            let processes = host::named_processes(&new)?;
            self.monitor.replace_probes(new.probes.clone())?;
            self.monitor.replace_processes(processes);
        }
        if let Some(prepared) = prepared {
            let mut pipeline = std::mem::take(&mut self.pipeline);
            self.pipeline = on_runtime(move || {
                pipeline.replace_with(prepared);
                pipeline
            })?;
        }
        self.pipeline.set_probes(&new.probes, new.interval);
        self.journal.set_probes(&new.probes);
        self.monitor.set_terms(new.terms);
        self.schedule = self.schedule.remade(self.clock.monotonic(), self.phase, intervals(&new));
        self.config = new;
        Ok(())
    }
}

/// Does work on a thread of the runtime: what it opens, and the threads that it starts, are to have that one's rights, and
/// not those of the measuring.
fn on_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    let runtime = Handle::current();
    runtime.block_on(runtime.spawn(async move { work() })).context("the exporter could not be changed")
}

/// One entry for each probe, and one more for the agent's own metrics.
fn intervals(config: &Config) -> impl Iterator<Item = Duration> {
    config.probes.iter().map(Probe::interval).chain([config.interval])
}
