//! The exporter as the agent sees it: points are handed over, and nothing of what follows is waited for.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use vms_core::Clock;
use vms_core::metric::DataPoint;

use crate::backoff;
use crate::compress::Compressor;
use crate::config::{Backoff, Compression, ExportConfig, SpoolConfig};
use crate::endpoint::shown;
use crate::error::ExportError;
use crate::ledger::{Ledger, Stats};
use crate::mapping::{EncodedRequest, Encoder};
use crate::queue::{Batch, Moment};
use crate::sender::send_all;
use crate::shared::{Flush, Running, Shared, Spool};
use crate::spool::opening::Opening;
use crate::spool::store::OpenError;
use crate::transport::{Body, Transport};

/// What of the time for a flush is left for storing what could not be sent: a fifth, and at most so long.
const STORE_AT_END: Duration = Duration::from_secs(1);

/// How long the start and a reload wait for the directory of the spool; on a disk that takes longer it is used when it has
/// answered.
const OPEN_WITHIN: Duration = Duration::from_millis(500);

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
    fn read(config: &ExportConfig, present: Option<&Path>, is_reload: bool) -> Result<Self, ExportError> {
        let transport = Transport::read(config)?;
        let spool = match &config.spool {
            None => Spool::Off,
            Some(spool) if present == Some(&spool.directory) => Spool::Kept(spool.clone()),
            Some(spool) => open_spool(spool, is_reload)?,
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

fn open_spool(config: &SpoolConfig, is_reload: bool) -> Result<Spool, ExportError> {
    let opening = Opening::begin(&config.directory, is_reload);
    let problem = match opening.wait(OPEN_WITHIN) {
        Some(Ok(store)) => return Ok(Spool::Opened(config.clone(), store)),
        // At a start this process holds no lock. What says so is another one, with the same number in its PID namespace.
        Some(Err(OpenError::InUse { holder, is_own })) if !(is_own && is_reload) => {
            return Err(ExportError::SpoolInUse { directory: config.directory.clone(), holder });
        }
        // What was given up when the agent started does not come back while it runs: the old spool stays.
        Some(Err(OpenError::Io(source))) if is_reload && source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ExportError::SpoolOutOfReach { directory: config.directory.clone(), source });
        }
        Some(Err(error)) => error.to_string(),
        None => format!("the disk has not answered for {} ms", OPEN_WITHIN.as_millis()),
    };
    Ok(Spool::Pending(config.clone(), opening, problem))
}

impl Exporter {
    /// Checks the configuration, reads the TLS material and locks the spool, so that what cannot work is known before the
    /// start. A spool that cannot be written is no error: the memory serves.
    ///
    /// # Errors
    /// What in the configuration cannot work, whatever the network does; also that another agent uses the spool.
    pub fn new(config: &ExportConfig, clock: Arc<dyn Clock + Send + Sync>) -> Result<Self, ExportError> {
        let prepared = Prepared::read(config, None, false)?;
        let ledger = Ledger::new(config.queue_bytes);
        let shared = Shared::new(clock, ledger, prepared.collector.clone(), prepared.compression);
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
    pub(crate) fn into_parts(self) -> (Arc<Shared>, crate::spool::store::Store) {
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
        let notices = match encoded {
            Ok(body) => {
                let enqueued = Moment { wall: now.wall, monotonic: now.monotonic };
                self.shared.state().ledger.enqueue(Batch::new(body, request.points, enqueued))
            }
            Err(failure) => {
                self.shared.state().ledger.lost(failure, request.points, now).into_iter().collect()
            }
        };
        self.shared.tell(notices);
        self.shared.work.notify_one();
        self.shared.disk_work.notify_all();
    }

    /// Checks another configuration, and reads and locks what it names, without changing anything yet.
    ///
    /// # Errors
    /// As [`Exporter::new`].
    pub fn prepare(&self, config: &ExportConfig) -> Result<Prepared, ExportError> {
        let present = self.shared.state().spool.as_ref().map(|spool| spool.directory.clone());
        Prepared::read(config, present.as_deref(), true)
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
            self.shared.changed.notify_one();
        }
        self.shared.join_spool(spool, queue_bytes);
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
            state.ledger.has_spool()
        };
        let for_storing = if has_spool { STORE_AT_END.min(within / 5) } else { Duration::ZERO };
        self.deliver(deadline.checked_sub(for_storing).unwrap_or(deadline)).await;
        self.shared.state().ledger.end();
        self.shared.disk_work.notify_all();
        loop {
            let progress = self.shared.progress.notified();
            // What was delivered is to be gone from the disk as well: it would be sent again after the next start.
            if !self.shared.state().ledger.has_disk_work() || timeout_at(deadline, progress).await.is_err() {
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
                if state.ledger.is_drained() || state.ledger.waits_for_news() || hopeless || is_safe {
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

#[cfg(test)]
mod tests;
