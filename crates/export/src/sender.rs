//! Sending: one request at a time, in order, apart from the measuring.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use vms_core::Clock;
use vms_core::metric::DataPoint;

use crate::answer::Outcome;
use crate::backoff::{self, JITTER_STEPS};
use crate::compress::Compressor;
use crate::config::{Backoff, ExportConfig};
use crate::endpoint::shown;
use crate::error::ExportError;
use crate::ledger::{Ledger, Notice, Now, Stats};
use crate::mapping::{EncodedRequest, Encoder};
use crate::queue::Batch;
use crate::transport::{Transport, WireForm};

/// A sender that is configured and not started.
#[derive(Debug)]
pub struct Exporter {
    transport: Transport,
    backoff: Backoff,
    shared: Shared,
}

/// A started sender. Clones are the same sender; when the last is dropped, sending ends at once.
#[derive(Debug, Clone)]
pub struct ExporterHandle {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDrop>,
}

impl Exporter {
    /// Checks the configuration and reads the TLS material, so that what cannot work is known before the start.
    ///
    /// # Errors
    /// What in the configuration cannot work, whatever the network does.
    pub fn new(config: &ExportConfig, clock: Arc<dyn Clock + Send + Sync>) -> Result<Self, ExportError> {
        let shared = Shared {
            collector: shown(&config.endpoint),
            form: WireForm::of(config),
            compressor: Mutex::new(WireForm::of(config).compressor()),
            clock,
            state: Mutex::new(State { ledger: Ledger::new(config.queue_bytes), next_attempt: None }),
            work: Notify::new(),
            hurry: Notify::new(),
            progress: Notify::new(),
        };
        Ok(Self { transport: Transport::read(config)?, backoff: config.backoff, shared })
    }

    /// Starts sending on a runtime. It connects when there is something to send.
    #[must_use]
    pub fn start(self, runtime: &Handle) -> ExporterHandle {
        let shared = Arc::new(self.shared);
        let task = runtime.spawn(send_all(Arc::clone(&shared), self.transport, self.backoff));
        ExporterHandle { shared, _task: Arc::new(AbortOnDrop(task.abort_handle())) }
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
    /// Never waits for the collector and never fails. All of it is taken in; what it makes the queue exceed its limit by,
    /// the oldest of earlier cycles make room for, which is counted and logged. So the call costs the CPU time of
    /// compression, and what waits is compressed already, once, however often it will be sent.
    pub fn hand_over(&self, encoder: &mut Encoder, points: &[DataPoint]) {
        encoder.encode(points, |request| self.enqueue(request));
    }

    fn enqueue(&self, request: EncodedRequest<'_>) {
        let encoded = self.shared.form.encode(&mut self.shared.compressor(), request.bytes);
        let notice = match encoded {
            Ok(bytes) => self.shared.state().ledger.enqueue(Batch::new(bytes, request.points)),
            Err(failure) => self.shared.state().ledger.lost(failure, request.points, self.shared.now()),
        };
        self.shared.tell(notice);
        self.shared.work.notify_one();
    }

    /// Tries to deliver what waits, and returns how many points were left when the time was over. A wait between
    /// attempts is cut short; it gives up early when the collector is not to be tried again in that time.
    pub async fn flush(&self, within: Duration) -> u64 {
        let deadline = Instant::now() + within.min(backoff::MAX_WAIT);
        {
            let mut state = self.shared.state();
            state.next_attempt = None;
            self.shared.hurry.notify_waiters();
        }
        loop {
            let progress = self.shared.progress.notified();
            {
                let state = self.shared.state();
                let hopeless = state.next_attempt.is_some_and(|at| at >= deadline);
                if state.ledger.is_idle() || hopeless {
                    return state.ledger.waiting_points();
                }
            }
            if timeout_at(deadline, progress).await.is_err() {
                return self.shared.state().ledger.waiting_points();
            }
        }
    }

    /// What became of the points so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.state().ledger.stats()
    }
}

/// What the measuring side and the sending task share. The lock is never held across a wait.
struct Shared {
    collector: String,
    form: WireForm,
    /// Apart from the state, so that sending never waits for the compression of what is handed over.
    compressor: Mutex<Compressor>,
    clock: Arc<dyn Clock + Send + Sync>,
    state: Mutex<State>,
    /// There may be a batch to send.
    work: Notify,
    /// A wait between attempts is to end now.
    hurry: Notify,
    /// An attempt ended, or a wait began.
    progress: Notify,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    /// Set while the task waits between attempts.
    next_attempt: Option<Instant>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("collector", &self.collector).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compressor(&self) -> MutexGuard<'_, Compressor> {
        self.compressor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now { wall: self.clock.wall(), monotonic: self.clock.monotonic() }
    }

    /// Logs outside the lock: whoever reads the log may be slow.
    fn tell(&self, notices: impl IntoIterator<Item = Notice>) {
        let collector = &self.collector;
        for notice in notices {
            if notice.is_good() {
                tracing::info!(target: "vms_export", "collector {collector}: {notice}");
            } else {
                tracing::warn!(target: "vms_export", "collector {collector}: {notice}");
            }
        }
    }

    async fn next_batch(&self) -> Batch {
        loop {
            if let Some(batch) = self.state().ledger.take() {
                return batch;
            }
            self.work.notified().await;
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
}

async fn send_all(shared: Arc<Shared>, mut transport: Transport, backoff: Backoff) {
    let mut failures = 0_u32;
    loop {
        let batch = shared.next_batch().await;
        let outcome = transport.attempt(batch.bytes().clone()).await;
        let now = shared.now();
        match outcome {
            Outcome::Accepted(accepted) => {
                failures = 0;
                let notices = shared.state().ledger.accepted(accepted, now);
                shared.tell(notices);
            }
            Outcome::Refused(failure) => {
                failures = 0;
                tracing::debug!(target: "vms_export", %failure, "request refused");
                let notice = shared.state().ledger.refused(failure, now);
                shared.tell(notice);
            }
            Outcome::Retry { mut failure, asked } => {
                failures = failures.saturating_add(1);
                let asked = asked.map(|asked| asked.wait(now.wall));
                if let Some(asked) = asked.filter(|asked| *asked > backoff::MAX_WAIT) {
                    let (asked, most) = (asked.as_secs(), backoff::MAX_WAIT.as_secs());
                    failure.message = format!("{failure} (asks for {asked} s of silence, gets {most} s)");
                }
                let wait = backoff::wait(backoff, failures, asked, fastrand::u32(0..=JITTER_STEPS));
                tracing::debug!(target: "vms_export", %failure, ?wait, ?asked, "attempt failed");
                let notices = shared.state().ledger.put_back(batch, failure, now);
                shared.tell(notices);
                shared.wait(wait).await;
            }
        }
        shared.progress.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
