//! What was logged, line by line.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, Once};

use tracing_subscriber::fmt::MakeWriter;

/// Everything that one test's thread logged, down to the last detail.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

thread_local! {
    static OF_THIS_THREAD: RefCell<Log> = RefCell::default();
}

impl Log {
    /// Collects what this thread logs from now on.
    ///
    /// One subscriber serves all tests: with one each, a call site that two threads reach first at the same
    /// time may be taken for one that nobody listens to.
    pub(crate) fn collect() -> Self {
        static SUBSCRIBED: Once = Once::new();
        SUBSCRIBED.call_once(|| {
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_writer(OfThisThread)
                .with_ansi(false)
                .without_time();
            tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        });
        let log = Self::default();
        OF_THIS_THREAD.set(log.clone());
        log
    }

    /// The lines that contain a text.
    pub(crate) fn lines_with(&self, text: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap();
        let text_of_log = String::from_utf8_lossy(&bytes);
        text_of_log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// The lines that an operator sees: no details for developers.
    pub(crate) fn notices_with(&self, text: &str) -> Vec<String> {
        let is_notice =
            |line: &String| line.trim_start().starts_with("WARN") || line.trim_start().starts_with("INFO");
        self.lines_with(text).into_iter().filter(is_notice).collect()
    }
}

struct OfThisThread;

impl MakeWriter<'_> for OfThisThread {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        OF_THIS_THREAD.with_borrow(Clone::clone)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
