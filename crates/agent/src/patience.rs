//! Waiting for what may never come back: a file system whose server has gone.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Does work on a thread of its own, and returns what comes of it within that time. Without an answer the thread is left
/// to itself: it ends when the work does.
pub(crate) fn within<T: Send + 'static>(
    time: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, done) = mpsc::channel();
    let started = thread::Builder::new().name("vms-patience".to_owned()).spawn(move || {
        // Nobody listens any more once the time has passed.
        sender.send(work()).ok();
    });
    started.ok()?;
    done.recv_timeout(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_time_is_returned_and_nothing_else_is_waited_for() {
        assert_eq!(within(Duration::from_mins(1), || 7), Some(7));
        let (_never, gate) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || gate.recv().is_ok()), None);
    }
}
