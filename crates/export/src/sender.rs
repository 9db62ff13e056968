//! Sending: one request at a time, in order, apart from the measuring.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use vms_core::Clock;
use vms_core::metric::DataPoint;

use crate::answer::Outcome;
use crate::backoff::{self, JITTER_STEPS};
use crate::compress::Compressor;
use crate::config::{Backoff, Compression, ExportConfig, SpoolConfig};
use crate::endpoint::shown;
use crate::error::ExportError;
use crate::failure::Failure;
use crate::ledger::{Ledger, Now, Stats};
use crate::mapping::{EncodedRequest, Encoder};
use crate::notice::Notice;
use crate::pace::Pace;
use crate::queue::{Batch, Moment};
use crate::spool::keeper;
use crate::spool::store::{OpenError, Store};
use crate::transport::{Body, Transport};

/// How long the attempt under way may still take when the collector is configured anew.
const LAST_ATTEMPT: Duration = Duration::from_secs(5);

/// What of the time for a flush is left for storing what could not be sent: a fifth, and at most so long.
const STORE_AT_END: Duration = Duration::from_secs(1);

/// A sender that is configured and not started.
#[derive(Debug)]
pub struct Exporter {
    prepared: Prepared,
    shared: Shared,
}

/// A configuration that was found to work, whatever the network does.
#[derive(Debug)]
pub struct Prepared {
    collector: String,
    transport: Transport,
    backoff: Backoff,
    compression: Compression,
    queue_bytes: usize,
    spool: Spool,
}

/// What becomes of the spool.
#[derive(Debug)]
enum Spool {
    /// It is used from now on.
    Opened(SpoolConfig, Store),
    /// It is in use already, and may have other limits.
    Kept(SpoolConfig),
    /// It cannot be used, and why.
    Unusable(SpoolConfig, String),
    /// There is none.
    Off,
}

/// A started sender. Clones are the same sender; when the last is dropped, sending ends at once.
#[derive(Debug, Clone)]
pub struct ExporterHandle {
    shared: Arc<Shared>,
    _running: Arc<Running>,
}

/// Checks whether a configuration can work, whatever the network does, and reads the TLS material. The spool is left
/// alone: an agent that runs may be using it.
///
/// # Errors
/// What in it cannot work.
pub fn check_config(config: &ExportConfig) -> Result<(), ExportError> {
    Transport::read(config).map(drop)
}

impl Prepared {
    fn read(config: &ExportConfig, present: Option<&Path>) -> Result<Self, ExportError> {
        let transport = Transport::read(config)?;
        let spool = match &config.spool {
            None => Spool::Off,
            Some(spool) if present == Some(&spool.directory) => Spool::Kept(spool.clone()),
            Some(spool) => match Store::open(&spool.directory) {
                Ok(store) => Spool::Opened(spool.clone(), store),
                Err(OpenError::InUse(holder)) => {
                    return Err(ExportError::SpoolInUse { directory: spool.directory.clone(), holder });
                }
                Err(OpenError::Io(error)) => Spool::Unusable(spool.clone(), error.to_string()),
            },
        };
        Ok(Self {
            collector: shown(&config.endpoint),
            compression: transport.form().compression(),
            transport,
            backoff: config.backoff,
            queue_bytes: config.queue_bytes,
            spool,
        })
    }
}

impl Exporter {
    /// Checks the configuration, reads the TLS material and locks the spool, so that what cannot work is known before the
    /// start. A spool that cannot be written is no error: the memory serves.
    ///
    /// # Errors
    /// What in the configuration cannot work, whatever the network does; also that another agent uses the spool.
    pub fn new(config: &ExportConfig, clock: Arc<dyn Clock + Send + Sync>) -> Result<Self, ExportError> {
        let prepared = Prepared::read(config, None)?;
        let shared = Shared {
            compressor: Mutex::new(Compressor::new(prepared.compression)),
            clock,
            state: Mutex::new(State {
                ledger: Ledger::new(config.queue_bytes),
                collector: prepared.collector.clone(),
                compression: prepared.compression,
                spool_directory: None,
                spool_generation: 0,
                pace: None,
                change: None,
                next_attempt: None,
                flush: None,
            }),
            work: Notify::new(),
            hurry: Notify::new(),
            progress: Notify::new(),
            changed: Notify::new(),
            disk_work: Condvar::new(),
        };
        Ok(Self { prepared, shared })
    }

    /// Starts sending on a runtime. It connects when there is something to send.
    #[must_use]
    pub fn start(self, runtime: &Handle) -> ExporterHandle {
        let shared = Arc::new(self.shared);
        shared.join_spool(self.prepared.spool, self.prepared.queue_bytes);
        let sending = send_all(Arc::clone(&shared), self.prepared.transport, self.prepared.backoff);
        let running = Running { task: runtime.spawn(sending).abort_handle(), shared: Arc::clone(&shared) };
        ExporterHandle { shared, _running: Arc::new(running) }
    }
}

#[cfg(test)]
impl Exporter {
    /// What the keeper of its spool works with; nothing is sent.
    pub(crate) fn into_parts(self) -> (Arc<Shared>, Store) {
        let Spool::Opened(config, store) = self.prepared.spool else { panic!("there is a spool") };
        self.shared.state().ledger.set_spool(Some(&config));
        (Arc::new(self.shared), store)
    }
}

impl ExporterHandle {
    /// Begins a cycle: what is handed over from now on belongs to it, until the next begins.
    pub fn begin_cycle(&self) {
        self.shared.state().ledger.begin_cycle();
    }

    /// Hands over points that the present cycle measured, all of them or some: encoded, compressed as configured, and put
    /// into the queue.
    ///
    /// Never waits for the collector or the disk, and never fails. All of it is taken in; what it makes the queue exceed its
    /// limit by, the oldest of earlier cycles make room for, which is counted and logged. So the call costs the CPU time of
    /// compression, and what waits is compressed already, once, however often it will be sent.
    pub fn hand_over(&self, encoder: &mut Encoder, points: &[DataPoint]) {
        encoder.encode(points, |request| self.enqueue(request));
    }

    fn enqueue(&self, request: EncodedRequest<'_>) {
        let encoded = Body::encode(&mut self.shared.compressor(), request.bytes);
        let now = self.shared.now();
        let notice = match encoded {
            Ok(body) => {
                let enqueued = Moment { wall: now.wall, monotonic: now.monotonic };
                self.shared.state().ledger.enqueue(Batch::new(body, request.points, enqueued))
            }
            Err(failure) => self.shared.state().ledger.lost(failure, request.points, now),
        };
        self.shared.tell(notice);
        self.shared.work.notify_one();
        self.shared.disk_work.notify_one();
    }

    /// Checks another configuration, and reads and locks what it names, without changing anything yet.
    ///
    /// # Errors
    /// As [`Exporter::new`].
    pub fn prepare(&self, config: &ExportConfig) -> Result<Prepared, ExportError> {
        let present = self.shared.state().spool_directory.clone();
        Prepared::read(config, present.as_deref())
    }

    /// Goes on with another configuration: another collector, form, or limits. What waits stays and is sent there; counts go
    /// on. The attempt under way gets a few more seconds. What lies in a spool that is left stays in it, which is logged.
    pub fn reconfigure(&self, prepared: Prepared) {
        let Prepared { collector, transport, backoff, compression, queue_bytes, spool } = prepared;
        *self.shared.compressor() = Compressor::new(compression);
        {
            let mut state = self.shared.state();
            state.collector = collector;
            state.compression = compression;
            state.change = Some((transport, backoff));
        }
        self.shared.join_spool(spool, queue_bytes);
        self.shared.changed.notify_one();
        self.shared.hurry.notify_waiters();
        self.shared.work.notify_one();
    }

    /// Tries to deliver what waits, in memory first, then in the spool, which may not outlive a container; stores what could
    /// not be delivered, and returns how many points are lost with the agent when the time is over. Waits between
    /// attempts, and pauses of replaying, are cut short; it gives up early when the collector is not to be tried again in
    /// that time, and when all is stored and an attempt has failed.
    pub async fn flush(&self, within: Duration) -> u64 {
        let deadline = Instant::now() + within.min(backoff::MAX_WAIT);
        let has_spool = {
            let mut state = self.shared.state();
            state.next_attempt = None;
            state.flush = Some(Flush { has_failed: false });
            self.shared.hurry.notify_waiters();
            state.spool_directory.is_some()
        };
        let for_storing = if has_spool { STORE_AT_END.min(within / 5) } else { Duration::ZERO };
        self.deliver(deadline.checked_sub(for_storing).unwrap_or(deadline)).await;
        self.shared.state().ledger.end();
        self.shared.disk_work.notify_one();
        loop {
            let progress = self.shared.progress.notified();
            if !self.shared.state().ledger.is_ending_and_unsaved()
                || timeout_at(deadline, progress).await.is_err()
            {
                return self.shared.state().ledger.waiting_points();
            }
        }
    }

    async fn deliver(&self, deadline: Instant) {
        loop {
            let progress = self.shared.progress.notified();
            {
                let state = self.shared.state();
                let hopeless = state.next_attempt.is_some_and(|at| at >= deadline);
                let has_failed = state.flush.as_ref().is_some_and(|flush| flush.has_failed);
                let is_safe = has_failed && state.ledger.is_safe_in_outage();
                if state.ledger.is_drained() || hopeless || is_safe {
                    return;
                }
            }
            if timeout_at(deadline, progress).await.is_err() {
                return;
            }
        }
    }

    /// What became of the points so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.state().ledger.stats(self.shared.clock.monotonic())
    }
}

/// What the measuring side, the sending task and the keeper of the spool share. The lock is never held across a wait.
pub(crate) struct Shared {
    /// Apart from the state, so that sending never waits for the compression of what is handed over.
    compressor: Mutex<Compressor>,
    clock: Arc<dyn Clock + Send + Sync>,
    state: Mutex<State>,
    /// There may be a batch to send.
    work: Notify,
    /// A wait between attempts is to end now.
    hurry: Notify,
    /// An attempt ended, or a wait began, or something was stored.
    progress: Notify,
    /// There is another collector.
    changed: Notify,
    /// There may be something for the keeper of the spool to do.
    pub(crate) disk_work: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    /// For the log.
    collector: String,
    /// That of requests from now on.
    compression: Compression,
    /// That of the spool in use.
    spool_directory: Option<std::path::PathBuf>,
    /// Changes with the spool: the keeper of another one ends.
    pub(crate) spool_generation: u64,
    pace: Option<Pace>,
    change: Option<(Transport, Backoff)>,
    /// Set while the task waits between attempts.
    next_attempt: Option<Instant>,
    /// Set at the end of the agent.
    flush: Option<Flush>,
}

/// The last attempts.
#[derive(Debug)]
struct Flush {
    /// One has failed, and may go on failing.
    has_failed: bool,
}

impl State {
    fn may_replay_at(&self) -> Option<Instant> {
        let pace = self.pace.as_ref()?;
        Some(if self.flush.is_some() { Instant::now() } else { pace.next() })
    }
}

/// Ends what was started.
#[derive(Debug)]
struct Running {
    task: AbortHandle,
    shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.state().spool_generation += 1;
        self.shared.disk_work.notify_one();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compressor(&self) -> MutexGuard<'_, Compressor> {
        self.compressor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That of requests from now on.
    pub(crate) fn compression(&self) -> Compression {
        self.state().compression
    }

    pub(crate) fn now(&self) -> Now {
        Now { wall: self.clock.wall(), monotonic: self.clock.monotonic() }
    }

    /// Something was stored, read or deleted.
    pub(crate) fn wake_sender(&self) {
        self.work.notify_one();
        self.progress.notify_waiters();
    }

    /// Logs outside the lock: whoever reads the log may be slow.
    pub(crate) fn tell(&self, notices: impl IntoIterator<Item = Notice>) {
        for notice in notices {
            let collector = self.state().collector.clone();
            if notice.is_good() {
                tracing::info!(target: "vms_export", "collector {collector}: {notice}");
            } else {
                tracing::warn!(target: "vms_export", "collector {collector}: {notice}");
            }
        }
    }

    /// Uses a spool from now on, or other limits.
    fn join_spool(self: &Arc<Self>, spool: Spool, queue_bytes: usize) {
        let mut notices = Vec::new();
        let keep = {
            let mut state = self.state();
            let (config, store) = match spool {
                Spool::Kept(config) => {
                    state.ledger.set_limits(queue_bytes, Some(&config));
                    if let Some(pace) = &mut state.pace {
                        pace.set_least(config.replay_pause);
                    }
                    return;
                }
                Spool::Opened(config, store) => (Some(config), Some(store)),
                Spool::Unusable(SpoolConfig { directory, .. }, problem) => {
                    notices.push(Notice::SpoolUnusable { directory, problem, limit: queue_bytes });
                    (None, None)
                }
                Spool::Off => (None, None),
            };
            let left = state.ledger.stats(Duration::ZERO).spool.map_or(0, |spool| spool.requests);
            if let Some(directory) = state.spool_directory.take().filter(|_| left > 0) {
                notices.push(Notice::SpoolLeft { directory, requests: left });
            }
            state.spool_generation += 1;
            state.ledger.set_limits(queue_bytes, None);
            state.ledger.set_spool(config.as_ref());
            state.pace = config.as_ref().map(|config| Pace::new(config.replay_pause, Instant::now()));
            state.spool_directory = config.map(|config| config.directory);
            store.map(|store| (store, state.spool_generation))
        };
        self.disk_work.notify_one();
        self.tell(notices);
        if let Some((store, generation)) = keep
            && let Err(error) = keeper::start(Arc::clone(self), store, generation)
        {
            let limit = queue_bytes;
            let mut state = self.state();
            state.ledger.set_spool(None);
            let directory = state.spool_directory.take().unwrap_or_default();
            drop(state);
            self.tell([Notice::SpoolUnusable { directory, problem: error.to_string(), limit }]);
        }
    }

    async fn next_batch(&self) -> Batch {
        loop {
            let until = {
                let mut state = self.state();
                let may_replay_at = state.may_replay_at();
                let may_replay = may_replay_at.is_some_and(|at| at <= Instant::now());
                if let Some(batch) = state.ledger.take(may_replay) {
                    return batch;
                }
                may_replay_at.filter(|_| !may_replay && state.ledger.waits_to_replay())
            };
            match until {
                Some(until) => tokio::select! {
                    () = self.work.notified() => {}
                    () = sleep_until(until) => {}
                },
                None => self.work.notified().await,
            }
        }
    }

    /// The request as it has to travel now: it may have been made for another collector.
    async fn body(&self, batch: &Batch) -> Result<Body, String> {
        let (body, wanted) = (batch.body().clone(), self.compression());
        if body.compression() == wanted {
            return Ok(body);
        }
        let made = tokio::task::spawn_blocking(move || body.transcode(&mut Compressor::new(wanted))).await;
        match made {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn wait(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let hurry = {
            let mut state = self.state();
            state.next_attempt = Some(until);
            self.hurry.notified()
        };
        self.progress.notify_waiters();
        tokio::select! {
            () = sleep_until(until) => {}
            () = hurry => {}
        }
        self.state().next_attempt = None;
    }

    /// One attempt, or `None` when it was cut short because there is another collector.
    async fn attempt(&self, transport: &mut Transport, body: &Body) -> Option<Outcome> {
        let attempt = transport.attempt(body);
        tokio::pin!(attempt);
        tokio::select! {
            outcome = &mut attempt => return Some(outcome),
            () = self.changed.notified() => {}
        }
        timeout(LAST_ATTEMPT, attempt).await.ok()
    }
}

async fn send_all(shared: Arc<Shared>, mut transport: Transport, mut backoff: Backoff) {
    let mut failures = 0_u32;
    loop {
        let batch = shared.next_batch().await;
        let change = shared.state().change.take();
        if let Some(change) = change {
            (transport, backoff) = change;
            failures = 0;
        }
        let began = Instant::now();
        let outcome = match shared.body(&batch).await {
            Ok(body) => shared.attempt(&mut transport, &body).await,
            Err(message) => Some(Outcome::Refused(Failure::exchange("compression", message, "report this"))),
        };
        let now = shared.now();
        let took = began.elapsed();
        match outcome {
            None => shared.state().ledger.recall(),
            Some(Outcome::Accepted(accepted)) => {
                failures = 0;
                let notices = {
                    let mut state = shared.state();
                    if let Some(pace) = &mut state.pace {
                        pace.succeeded(batch.is_replayed(), took, Instant::now());
                    }
                    state.ledger.accepted(accepted, now)
                };
                shared.tell(notices);
            }
            Some(Outcome::Refused(failure)) => {
                failures = 0;
                tracing::debug!(target: "vms_export", %failure, "request refused");
                let notices = {
                    let mut state = shared.state();
                    if let Some(pace) = &mut state.pace {
                        pace.succeeded(batch.is_replayed(), took, Instant::now());
                    }
                    state.ledger.refused(failure, now)
                };
                shared.tell(notices);
            }
            Some(Outcome::Retry { mut failure, asked }) => {
                failures = failures.saturating_add(1);
                let asked = asked.map(|asked| asked.wait(now.wall));
                if let Some(asked) = asked.filter(|asked| *asked > backoff::MAX_WAIT) {
                    let (asked, most) = (asked.as_secs(), backoff::MAX_WAIT.as_secs());
                    failure.message = format!("{failure} (asks for {asked} s of silence, gets {most} s)");
                }
                let wait = backoff::wait(backoff, failures, asked, fastrand::u32(0..=JITTER_STEPS));
                tracing::debug!(target: "vms_export", %failure, ?wait, ?asked, "attempt failed");
                let notices = {
                    let mut state = shared.state();
                    if let Some(pace) = &mut state.pace {
                        pace.failed(Instant::now() + wait);
                    }
                    if let Some(flush) = &mut state.flush {
                        flush.has_failed = true;
                    }
                    state.ledger.put_back(failure, now)
                };
                shared.tell(notices);
                shared.disk_work.notify_one();
                shared.wait(wait).await;
            }
        }
        shared.disk_work.notify_one();
        shared.progress.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
