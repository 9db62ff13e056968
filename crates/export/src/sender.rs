//! Sending: one request at a time, in order, apart from the measuring.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::answer::Outcome;
use crate::backoff::{self, JITTER_STEPS};
use crate::compress::Compressor;
use crate::config::Backoff;
use crate::failure::Failure;
use crate::queue::Batch;
use crate::shared::Shared;
use crate::transport::{Body, Transport};

/// How long the attempt under way may still take when the collector is configured anew.
const LAST_ATTEMPT: Duration = Duration::from_secs(5);

/// Sends what there is to send, for ever.
pub(crate) async fn send_all(shared: Arc<Shared>, mut transport: Transport, mut backoff: Backoff) {
    let mut failures = 0_u32;
    loop {
        let batch = shared.next_batch().await;
        let change = shared.state().change.take();
        if let Some(change) = change {
            (transport, backoff) = change;
            failures = 0;
            // No attempt was under way that had to be cut short; the next one has all its time.
            tokio::select! {
                biased;
                () = shared.changed.notified() => {}
                () = std::future::ready(()) => {}
            }
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
                shared.disk_work.notify_all();
                shared.wait(wait).await;
            }
        }
        shared.disk_work.notify_all();
        shared.progress.notify_waiters();
    }
}

impl Shared {
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
