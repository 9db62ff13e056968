//! How punctual the machine itself is: what no program on it can be blamed for.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::deadline::{now, unix_nanoseconds};

const BEAT: Duration = Duration::from_millis(5);
/// Sleeping longer than that is a stall.
const STALL: Duration = Duration::from_millis(10);

/// A thread that sleeps and notes when it was woken late. It goes on for as long as the program.
#[derive(Debug, Clone, Default)]
pub struct Metronome {
    /// When stalls ended, in nanoseconds since 1970, and how long they were.
    stalls: Arc<Mutex<Vec<(u64, Duration)>>>,
}

impl Metronome {
    /// Starts to listen.
    #[must_use]
    pub fn start() -> Self {
        let metronome = Self::default();
        let stalls = Arc::clone(&metronome.stalls);
        thread::spawn(move || {
            loop {
                let before = now();
                thread::sleep(BEAT);
                let late = before.elapsed().saturating_sub(BEAT);
                if late > STALL {
                    stalls.lock().expect("nobody panics").push((unix_nanoseconds(), late));
                }
            }
        });
        metronome
    }

    /// For how long the machine stood still around a moment, in nanoseconds since 1970.
    #[must_use]
    pub fn stalled(&self, around: u64, within: Duration) -> Duration {
        let within = u64::try_from(within.as_nanos()).expect("a short time");
        let stalls = self.stalls.lock().expect("nobody panics");
        stalls.iter().filter(|(end, _)| end.abs_diff(around) <= within).map(|(_, length)| *length).sum()
    }
}

/// For how long so far, on this machine, something that could run waited for a processor (`/proc/pressure/cpu`, since Linux
/// 4.20); `None` where the kernel does not tell. Who sleeps most of the time, as a [`Metronome`] does, hardly waits itself.
#[must_use]
pub fn waited_for_processors() -> Option<Duration> {
    let pressure = std::fs::read_to_string("/proc/pressure/cpu").ok()?;
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split(' ').find_map(|field| field.strip_prefix("total="))?;
    Some(Duration::from_micros(total.parse().ok()?))
}
