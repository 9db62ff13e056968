//! The thread that asks.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};
use vms_core::NameAdapter;
use vms_core::name::{NameQuery, Resolution};

use crate::ask::{Files, Sources};
use crate::book::{Answer, Book, Failure, Turn};

/// Names that are asked for at a time.
const AT_ONCE: usize = 16;

/// The name of the thread, as `top -H` and debuggers show it: at most 15 bytes.
const THREAD_NAME: &str = "vms-resolver";

/// Keeps the addresses of names. Clones share what is known.
///
/// The thread is started when names are first wanted, by whoever says so, and has that one's rights. It ends with the last
/// clone.
#[derive(Clone)]
pub struct Resolver(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    files: Files,
    is_started: Mutex<bool>,
}

/// What the thread and everybody else meet at.
struct Shared {
    state: Mutex<State>,
    /// The thread has something new to see to.
    woken: Notify,
    /// Something has come of asking.
    noted: Condvar,
}

#[derive(Default)]
struct State {
    book: Book,
    is_over: bool,
}

impl Resolver {
    /// Of names that these files tell of, or the name servers in them. Nothing is read before names are wanted.
    #[must_use]
    pub fn new(files: Files) -> Self {
        let shared = Shared { state: Mutex::default(), woken: Notify::new(), noted: Condvar::new() };
        Self(Arc::new(Owner { shared: Arc::new(shared), files, is_started: Mutex::new(false) }))
    }

    /// Finds out the addresses of these names from now on, and of no others.
    ///
    /// # Errors
    /// When no thread can be had for it.
    pub fn want(&self, queries: &BTreeSet<NameQuery>) -> io::Result<()> {
        self.0.shared.lock().book.want(queries, now());
        self.begin(queries)
    }

    /// Finds out the addresses of these names as well.
    ///
    /// # Errors
    /// As [`Resolver::want`].
    pub fn want_also(&self, queries: &BTreeSet<NameQuery>) -> io::Result<()> {
        self.0.shared.lock().book.want_also(queries, now());
        self.begin(queries)
    }

    /// Waits until something has come of asking for each name that is wanted, for so long at most. Returns whether it has.
    #[must_use]
    pub fn wait(&self, within: Duration) -> bool {
        let shared = &self.0.shared;
        let unsettled = |state: &mut State| !state.book.is_settled();
        let waited = shared.noted.wait_timeout_while(shared.lock(), within, unsettled);
        waited.unwrap_or_else(PoisonError::into_inner).0.book.is_settled()
    }

    fn begin(&self, queries: &BTreeSet<NameQuery>) -> io::Result<()> {
        let mut is_started = self.0.is_started.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_started && !queries.is_empty() {
            let (shared, files) = (Arc::clone(&self.0.shared), self.0.files.clone());
            let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
            thread::Builder::new()
                .name(THREAD_NAME.to_owned())
                .spawn(move || runtime.block_on(shared.keep(Sources::new(files))))?;
            *is_started = true;
        }
        self.0.shared.woken.notify_one();
        Ok(())
    }
}

impl NameAdapter for Resolver {
    fn resolution(&self, query: &NameQuery) -> Resolution {
        self.0.shared.lock().book.resolution(query, now())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Resolver").field("files", &self.0.files).finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.woken.notify_one();
    }
}

impl Shared {
    /// The lock is never held while anything is waited for.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for what is due, until it is over.
    async fn keep(&self, mut sources: Sources) {
        let mut under_way: JoinSet<(NameQuery, Result<Answer, Failure>)> = JoinSet::new();
        loop {
            let room = AT_ONCE.saturating_sub(under_way.len());
            let (due, next) = {
                let mut state = self.lock();
                if state.is_over {
                    return;
                }
                (state.book.take_due(now(), room), state.book.next_due())
            };
            if !due.is_empty() {
                let source = sources.current();
                for query in due {
                    let source = source.clone();
                    under_way.spawn(async move {
                        let outcome = source.ask(&query).await;
                        (query, outcome)
                    });
                }
            }
            let has_room = under_way.len() < AT_ONCE;
            tokio::select! {
                Some(done) = under_way.join_next() => {
                    // One that panicked has ended the agent.
                    let Ok((query, outcome)) = done else { continue };
                    self.note(&query, outcome);
                }
                () = sleep_until(next), if has_room => {}
                () = self.woken.notified() => {}
            }
        }
    }

    fn note(&self, query: &NameQuery, outcome: Result<Answer, Failure>) {
        debug!(name = %query.name, ?outcome, "a host name was asked for");
        let turn = self.lock().book.note(query, outcome, now());
        self.noted.notify_all();
        match turn {
            Some(Turn::Overdue(cause)) => warn!(
                name = %query.name,
                "host names cannot be resolved anew, and are taken for the addresses that they had: {cause}"
            ),
            Some(Turn::Current) => info!("host names are resolved again"),
            None => {}
        }
    }
}

async fn sleep_until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
