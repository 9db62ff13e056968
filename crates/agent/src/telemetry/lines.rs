//! The lines of the log on their way to standard error, written by a thread of their own. Whoever reads them may be slow,
//! or have stopped reading, and neither measuring nor sending is to wait for that.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Lines that wait; those behind them are lost, and counted.
const MOST: usize = 1_024;

/// Their bytes. A line may hold each fault of a configuration.
const MOST_BYTES: usize = 1 << 20;

/// The name of the thread, as `top -H` and debuggers show it.
const THREAD_NAME: &str = "vms-log";

/// How long the end waits for room, and then for the last line to be written.
const LAST: Duration = Duration::from_millis(500);

/// How often it looks whether there is room.
const TRIES: u32 = 50;

/// The way of lines to whoever writes them. Clones are the same way.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    sender: SyncSender<Item>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Bytes that wait.
    bytes: AtomicUsize,
    /// Lines that were lost.
    lost: AtomicU64,
    /// And of how many that was told.
    told: AtomicU64,
}

/// The one to standard error, for whoever panics.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Dropped, it waits until all lines so far have been written, as long as that is worth it.
#[derive(Debug)]
pub(super) struct UntilWritten(pub(super) Lines);

impl Drop for UntilWritten {
    fn drop(&mut self) {
        self.0.finish();
    }
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// All before it have been written.
    End(SyncSender<()>),
}

impl Lines {
    /// The way to standard error.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn to_stderr() -> io::Result<Self> {
        let lines = Self::start(Raw(io::stderr()))?;
        // There is one: who sets up logging a second time is refused.
        LINES.set(lines.clone()).ok();
        Ok(lines)
    }

    /// Starts the thread.
    fn start(writer: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(MOST);
        let counts: Arc<Counts> = Arc::default();
        let its_counts = Arc::clone(&counts);
        thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || write_all(&receiver, &its_counts, writer))?;
        Ok(Self { sender, counts })
    }

    /// Tells how many lines were lost since that was told last, if there is room for that line.
    pub(super) fn tell_lost(&self) {
        let Counts { lost: all, told, .. } = &*self.counts;
        let (lost, before) = (all.load(Ordering::Relaxed), told.load(Ordering::Relaxed));
        if lost == before {
            return;
        }
        tracing::warn!(
            lines = lost - before,
            "lines of this log are lost: whoever reads standard error does not keep up; see to that, or log less by log.level"
        );
        if all.load(Ordering::Relaxed) == lost {
            told.store(lost, Ordering::Relaxed);
        }
    }

    /// Waits until all lines so far have been written, but not for ever.
    fn finish(&self) {
        let (ended, end) = sync_channel(1);
        let mut item = Item::End(ended);
        for _ in 0..TRIES {
            match self.sender.try_send(item) {
                Ok(()) => {
                    // Nobody is left to be told when it takes too long.
                    end.recv_timeout(LAST).ok();
                    return;
                }
                Err(TrySendError::Full(back)) => item = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            thread::sleep(LAST / TRIES);
        }
    }
}

/// One call is one line: so the layer above writes.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let waiting = self.counts.bytes.fetch_add(line.len(), Ordering::Relaxed);
        let has_room = waiting + line.len() <= MOST_BYTES;
        if !has_room || self.sender.try_send(Item::Line(line.to_vec())).is_err() {
            self.counts.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(items: &Receiver<Item>, counts: &Counts, mut writer: impl Write) {
    for item in items {
        match item {
            Item::Line(line) => {
                // A full disk, say. Where standard error is closed nobody wants to know.
                if writer.write_all(&line).is_err_and(|error| error.kind() != ErrorKind::BrokenPipe) {
                    counts.lost.fetch_add(1, Ordering::Relaxed);
                }
                counts.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            // Nobody listens when the end did not wait so long.
            Item::End(ended) => drop(ended.send(())),
        }
    }
}

/// A descriptor without the lock that the standard library has for its standard error, which a write that waits would hold:
/// the last words of the agent go there as well.
#[derive(Debug)]
struct Raw<T>(T);

impl<T: AsFd> Write for Raw<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.0, bytes) {
                // Whoever shares the pipe may have made it so.
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The last words of an agent that is about to abort, unless nobody takes them: it has to end all the same.
///
/// Returns whether they were taken.
pub(crate) fn write_last_words(to: impl AsFd, words: &str) -> bool {
    const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
    let mut wanted = [PollFd::new(&to, PollFlags::OUT)];
    // A pipe that is ready has room for 4 KiB.
    poll(&mut wanted, Some(&PATIENCE)).is_ok_and(|ready| ready > 0)
        && Raw(to).write_all(words.as_bytes()).is_ok()
}

/// Waits until the lines so far have been written, but not for ever.
pub(crate) fn finish_lines() {
    if let Some(lines) = LINES.get() {
        lines.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::io::PipeReader;

    use super::*;

    /// A reader that has not read yet, and the way to it.
    fn pipe() -> (PipeReader, Lines) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, Lines::start(writer).unwrap())
    }

    #[test]
    fn lines_arrive_whole_and_in_order_before_the_end() {
        let (reader, mut lines) = pipe();
        let expected: Vec<String> = (0..500).map(|number| format!("line {number}")).collect();
        for line in &expected {
            writeln!(lines, "{line}").unwrap();
        }
        lines.finish();
        drop(lines);
        assert_eq!(io::read_to_string(reader).unwrap().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_what_is_lost_is_counted() {
        let (reader, mut lines) = pipe();
        let line = [b'x'; 1_000];
        for _ in 0..5_000 {
            lines.write_all(&line).unwrap();
        }
        // Or the test never ends.
        lines.finish();
        let lost = lines.counts.lost.load(Ordering::Relaxed);
        assert!(lost > 0);
        drop(lines);
        let arrived = io::read_to_string(reader).unwrap().len() / line.len();
        assert_eq!(u64::try_from(arrived).unwrap() + lost, 5_000);
    }

    #[test]
    fn a_line_that_cannot_be_written_counts_as_lost() {
        let mut lines =
            Lines::start(std::fs::File::options().write(true).open("/dev/full").unwrap()).unwrap();
        lines.write_all(b"line\n").unwrap();
        lines.finish();
        assert_eq!(lines.counts.lost.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn lines_that_wait_are_bounded_in_bytes() {
        let (reader, mut lines) = pipe();
        let line = vec![b'x'; MOST_BYTES / 4];
        for _ in 0..10 {
            lines.write_all(&line).unwrap();
        }
        assert!(lines.counts.lost.load(Ordering::Relaxed) >= 5);
        drop(reader);
    }

    #[test]
    fn the_last_words_wait_for_nobody() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(write_last_words(&writer, "first\n"));
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        writer.write_all(&[b'x'; 4_090]).unwrap();
        assert!(!write_last_words(&writer, "nobody reads this\n"));
        drop(writer);
        assert_eq!(io::read_to_string(reader).unwrap(), format!("first\n{}", "x".repeat(4_090)));
    }

    #[test]
    fn a_reader_that_has_gone_is_no_fault() {
        let (reader, mut lines) = pipe();
        drop(reader);
        for _ in 0..10 {
            lines.write_all(b"line\n").unwrap();
        }
        lines.finish();
        assert_eq!(lines.counts.lost.load(Ordering::Relaxed), 0);
    }
}
