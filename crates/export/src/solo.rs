//! Blocking work that may never end, such as asking a resolver that does not answer, on at most one thread at a time.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::watch;

/// One kind of blocking work. Clones share its thread.
///
/// Not on the runtime's blocking pool: there each attempt would leave another thread behind, up to hundreds, and all else
/// that blocks would wait for one of them. A thread of its own holds up neither that nor the end of the agent.
#[derive(Debug)]
pub(crate) struct Solo<T> {
    under_way: Arc<Mutex<Option<watch::Receiver<Option<T>>>>>,
}

impl<T> Clone for Solo<T> {
    fn clone(&self) -> Self {
        Self { under_way: Arc::clone(&self.under_way) }
    }
}

impl<T> Default for Solo<T> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Solo<T> {
    /// Does the work and returns what came of it. Where the same work is under way already, waits for that instead: a
    /// caller who lost patience leaves it behind, and the next does not start a second one.
    ///
    /// # Errors
    /// When no thread can be had, or the work panicked.
    pub(crate) async fn run(&self, name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let mut outcome = self.join_or_start(name, work)?;
        let done = outcome.wait_for(Option::is_some).await.map_err(io::Error::other)?;
        done.clone().ok_or_else(|| io::Error::other("nothing came of it"))
    }

    fn join_or_start(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<watch::Receiver<Option<T>>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        // An error says that the thread is gone. Until then it may have answered already: that would be an old answer.
        let goes_on = |outcome: &&watch::Receiver<Option<T>>| {
            outcome.has_changed().is_ok() && outcome.borrow().is_none()
        };
        if let Some(outcome) = under_way.as_ref().filter(goes_on) {
            return Ok(outcome.clone());
        }
        let (sender, outcome) = watch::channel(None);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            sender.send_replace(Some(work()));
        })?;
        *under_way = Some(outcome.clone());
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests;
