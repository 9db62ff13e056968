//! A thread that serves on a host until it is dropped.

use std::future::Future;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::namespace::{self, Namespace};

/// A running server; ended, with every connection cut as by the death of a process, when dropped.
#[derive(Debug)]
pub(crate) struct Served {
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Served {
    /// Enters the host and begins, in a runtime of its own; what that returns is kept until the end. Returns when it has
    /// begun.
    #[track_caller]
    pub(crate) fn start<B, F>(host: &Namespace, begin: B) -> Self
    where
        B: FnOnce() -> F + Send + 'static,
        F: Future,
    {
        let entrance = host.entrance();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            namespace::enter(&entrance);
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let _kept = begin().await;
                ready.send(()).expect("the test waits");
                let _told_or_dropped = stopped.await;
            });
            runtime.shutdown_background();
        });
        is_ready.recv().expect("the server starts");
        Self { running: Some((stop, thread)) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let _panic_was_shown = thread.join();
        }
    }
}
