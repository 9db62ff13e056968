//! What the measuring side, the sender and the keeper of the spool share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use vms_core::Clock;

use crate::compress::Compressor;
use crate::config::{Backoff, Compression, SpoolConfig};
use crate::ledger::{Ledger, Now};
use crate::notice::Notice;
use crate::pace::Pace;
use crate::spool::keeper::{self, Source};
use crate::spool::notice::SpoolNotice;
use crate::spool::opening::Opening;
use crate::spool::store::Store;
use crate::transport::Transport;

/// What becomes of the spool.
#[derive(Debug)]
pub(crate) enum Spool {
    /// It is used from now on.
    Opened(SpoolConfig, Store),
    /// It is in use already, and may have other limits.
    Kept(SpoolConfig),
    /// It cannot be used yet, and why.
    Pending(SpoolConfig, Opening, String),
    /// There is none.
    Off,
}

/// What the measuring side, the sending task and the keeper of the spool share. The lock is never held across a wait.
pub(crate) struct Shared {
    /// Apart from the state, so that sending never waits for the compression of what is handed over.
    compressor: Mutex<Compressor>,
    pub(crate) clock: Arc<dyn Clock + Send + Sync>,
    state: Mutex<State>,
    /// There may be a batch to send.
    pub(crate) work: Notify,
    /// A wait between attempts is to end now.
    pub(crate) hurry: Notify,
    /// An attempt ended, or a wait began, or something was stored.
    pub(crate) progress: Notify,
    /// There is another collector.
    pub(crate) changed: Notify,
    /// There may be something for the keeper of the spool to do.
    pub(crate) disk_work: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    /// For the log.
    pub(crate) collector: String,
    /// That of requests from now on.
    pub(crate) compression: Compression,
    /// The spool that is to be used, whether or not it can be.
    pub(crate) spool: Option<SpoolConfig>,
    /// Changes with the spool: the keeper of another one ends.
    pub(crate) spool_generation: u64,
    pub(crate) pace: Option<Pace>,
    pub(crate) change: Option<(Transport, Backoff)>,
    /// Set while the task waits between attempts.
    pub(crate) next_attempt: Option<Instant>,
    /// Set at the end of the agent.
    pub(crate) flush: Option<Flush>,
}

/// The last attempts.
#[derive(Debug)]
pub(crate) struct Flush {
    /// One has failed, and may go on failing.
    pub(crate) has_failed: bool,
}

impl State {
    /// Puts the spool on the books that is to be used, if it can be.
    fn use_spool(&mut self, is_open: bool) {
        let config = self.spool.as_ref().filter(|_| is_open);
        self.ledger.set_spool(config);
        self.pace = config.map(|config| Pace::new(config.replay_pause, Instant::now()));
    }

    pub(crate) fn may_replay_at(&self) -> Option<Instant> {
        let pace = self.pace.as_ref()?;
        Some(if self.flush.is_some() { Instant::now() } else { pace.next() })
    }
}

/// Ends what was started.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) task: AbortHandle,
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.state().spool_generation += 1;
        self.shared.disk_work.notify_all();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Shared {
    /// Nothing has happened, and there is no spool.
    pub(crate) fn new(
        clock: Arc<dyn Clock + Send + Sync>,
        ledger: Ledger,
        collector: String,
        compression: Compression,
    ) -> Self {
        Self {
            compressor: Mutex::new(Compressor::new(compression)),
            clock,
            state: Mutex::new(State {
                ledger,
                collector,
                compression,
                spool: None,
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
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn compressor(&self) -> MutexGuard<'_, Compressor> {
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
    pub(crate) fn tell(&self, notices: impl IntoIterator<Item = impl Into<Notice>>) {
        for notice in notices.into_iter().map(Into::into) {
            let collector = self.state().collector.clone();
            if notice.is_good() {
                tracing::info!(target: "vms_export", "collector {collector}: {notice}");
            } else {
                tracing::warn!(target: "vms_export", "collector {collector}: {notice}");
            }
        }
    }

    /// Uses a spool from now on, or other limits.
    pub(crate) fn join_spool(self: &Arc<Self>, spool: Spool, queue_bytes: usize) {
        let mut notices = Vec::new();
        let keep = {
            let mut state = self.state();
            let (config, source) = match spool {
                Spool::Kept(config) => {
                    state.ledger.set_limits(queue_bytes, Some(&config));
                    if let Some(pace) = &mut state.pace {
                        pace.set_least(config.replay_pause);
                    }
                    state.spool = Some(config);
                    return;
                }
                Spool::Opened(config, store) => (Some(config), Some(Source::Open(store))),
                Spool::Pending(config, opening, problem) => {
                    let directory = config.directory.clone();
                    notices.push(SpoolNotice::Unusable { directory, problem, limit: queue_bytes });
                    (Some(config), Some(Source::Pending(opening)))
                }
                Spool::Off => (None, None),
            };
            let left = state.ledger.stats(Duration::ZERO).spool.map_or(0, |spool| spool.requests);
            if let Some(left_spool) = state.spool.take().filter(|_| left > 0) {
                notices.push(SpoolNotice::Left { directory: left_spool.directory, requests: left });
            }
            state.spool_generation += 1;
            state.ledger.set_limits(queue_bytes, None);
            state.spool = config;
            let is_open = matches!(source, Some(Source::Open(_)));
            state.use_spool(is_open);
            source.map(|source| (source, state.spool_generation))
        };
        self.disk_work.notify_all();
        self.tell(notices);
        if let Some((source, generation)) = keep
            && let Err(error) = keeper::start(Arc::clone(self), source, generation)
        {
            let mut state = self.state();
            let directory = state.spool.take().map(|spool| spool.directory).unwrap_or_default();
            state.use_spool(false);
            drop(state);
            let (problem, limit) = (error.to_string(), queue_bytes);
            self.tell([SpoolNotice::Unusable { directory, problem, limit }]);
        }
    }

    /// A spool that could not be used when it was joined now can be. Says whether it is still the one that is wanted.
    pub(crate) fn begin_spool(&self, generation: u64) -> bool {
        {
            let mut state = self.state();
            if state.spool_generation != generation {
                return false;
            }
            state.use_spool(true);
        }
        self.tell([SpoolNotice::Works]);
        true
    }
}
