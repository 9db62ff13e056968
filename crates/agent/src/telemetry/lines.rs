//! The lines of the log on their way to standard error, written by a thread of their own. Whoever reads them may be slow,
//! or have stopped reading, and neither measuring nor sending is to wait for that.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Lines that wait; those behind them are lost, and counted. Some 300 KiB.
const MOST: usize = 1_024;

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
    lost: Arc<AtomicU64>,
    told: Arc<AtomicU64>,
}

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
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn start(writer: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(MOST);
        thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || write_all(&receiver, writer))?;
        Ok(Self { sender, lost: Arc::default(), told: Arc::default() })
    }

    /// Tells how many lines were lost since that was told last, if there is room for that line.
    pub(super) fn tell_lost(&self) {
        let (lost, told) = (self.lost.load(Ordering::Relaxed), self.told.load(Ordering::Relaxed));
        if lost == told {
            return;
        }
        tracing::warn!(
            lines = lost - told,
            "lines of this log are lost: whoever reads standard error does not keep up; see to that, or log less by log.level"
        );
        if self.lost.load(Ordering::Relaxed) == lost {
            self.told.store(lost, Ordering::Relaxed);
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
        if self.sender.try_send(Item::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(items: &Receiver<Item>, mut writer: impl Write) {
    for item in items {
        match item {
            // A closed stderr must not end the agent.
            Item::Line(line) => drop(writer.write_all(&line)),
            // Nobody listens when the end did not wait so long.
            Item::End(ended) => drop(ended.send(())),
        }
    }
}

/// Standard error without the lock of the standard library's, which a write that waits would hold: the last words of the
/// agent go there as well.
#[derive(Debug)]
pub(super) struct RawStderr;

impl Write for RawStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stderr(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The last words of an agent that is about to abort, unless nobody takes them: it has to end all the same.
pub(crate) fn write_last_words(to: impl AsFd, words: &str) {
    const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
    let mut wanted = [PollFd::new(&to, PollFlags::OUT)];
    // A pipe that is ready has room for 4 KiB. That it is closed must not hide that the agent ends.
    if poll(&mut wanted, Some(&PATIENCE)).is_ok_and(|ready| ready > 0) {
        rustix::io::write(&to, words.as_bytes()).ok();
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
        let lost = lines.lost.load(Ordering::Relaxed);
        assert!(lost > 0);
        drop(lines);
        let arrived = io::read_to_string(reader).unwrap().len() / line.len();
        assert_eq!(u64::try_from(arrived).unwrap() + lost, 5_000);
    }

    #[test]
    fn the_last_words_wait_for_nobody() {
        let (reader, mut writer) = io::pipe().unwrap();
        write_last_words(&writer, "first\n");
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        writer.write_all(&[b'x'; 4_090]).unwrap();
        write_last_words(&writer, "nobody reads this\n");
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
        assert_eq!(lines.lost.load(Ordering::Relaxed), 0);
    }
}
