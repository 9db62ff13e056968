//! The soak itself: what happens when.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use fastrand::Rng;
use vms_agent_tests::deadline::{now, unix_nanoseconds};
use vms_agent_tests::{Faulty, Metronome, Namespace, Protocol, Scene, Usage};

use crate::arguments::Arguments;
use crate::collector::Flapping;
use crate::record::Record;
use crate::subject::Subject;
use crate::world::World;

const TICK: Duration = Duration::from_millis(50);
/// How long what was held back may take to arrive at the end.
const DELIVERY: Duration = Duration::from_mins(3);
/// Seconds without anything old after which all has arrived: longer than any pause between attempts.
const QUIET: u32 = 6;

/// All that was seen.
pub(crate) struct Outcome {
    pub(crate) world: World,
    pub(crate) record: Record,
    /// Seconds since the start, and what the agent used then.
    pub(crate) samples: Vec<(f64, Usage)>,
    /// When it all began, and when the last cycle that counts was, in nanoseconds since 1970.
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// When kills began.
    pub(crate) kills_from: u64,
    /// When the newest answer was measured that had arrived by then.
    pub(crate) stored_until: u64,
    /// When the agent was away.
    pub(crate) away: Vec<(u64, u64)>,
    /// Reloads that were applied, and refused as they had to be.
    pub(crate) reloads: (u32, u32),
    /// How often the collector failed how.
    pub(crate) faults: BTreeMap<&'static str, u32>,
    /// Warnings of the exporter, and errors, in the log.
    pub(crate) logged: (usize, usize),
    /// How long the end took.
    pub(crate) stop: Duration,
    /// Kills that found requests in the spool.
    pub(crate) killed_with: u64,
    /// Requests in the spool after the end.
    pub(crate) left: usize,
    pub(crate) metronome: Metronome,
}

/// Runs it to its end.
pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let metronome = Metronome::start();
    let (scene, host) = (Scene::new(), Namespace::new());
    let record = Record::default();
    let faulty = Faulty::start(&host, Protocol::Grpc, Protocol::Grpc.address(), record.keeper());
    let mut collector = Flapping::new(faulty, arguments.seed);
    say("making links");
    let mut world = World::new(&scene, &host, arguments.links, arguments.seed);
    let mut subject = Subject::start(&scene, &host, &world, arguments.links, &arguments.spool)?;
    say("begun");

    let start = now();
    let began = unix_nanoseconds();
    let mut rng = Rng::with_seed(arguments.seed);
    let mut samples = Vec::new();
    let mut kills_from = u64::MAX;
    let mut stored_until = 0;
    let mut killed_with = 0;
    let mut next_sample = Duration::ZERO;
    let mut next_reload = Duration::from_secs(7);
    let mut next_kill = arguments.steady();
    let mut next_word = Duration::from_mins(1);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= arguments.lasts() {
            break;
        }
        collector.tick(elapsed);
        world.tick();
        if elapsed >= next_sample {
            next_sample = elapsed + Duration::from_secs(1);
            samples.extend(subject.usage().map(|usage| (elapsed.as_secs_f64(), usage)));
        }
        if elapsed >= next_kill {
            if kills_from == u64::MAX {
                kills_from = unix_nanoseconds();
                stored_until = record.content().newest();
            }
            killed_with += u64::from(subject.spooled() > 0);
            subject.kill()?;
            // Most come in the middle of something; some leave time for what waits to be sent.
            let pause = if rng.u8(..3) == 0 { rng.u64(2000..12_000) } else { rng.u64(500..2000) };
            next_kill = elapsed + Duration::from_millis(pause);
        }
        if elapsed >= next_reload {
            subject.reload()?;
            next_reload = elapsed + Duration::from_millis(rng.u64(5000..25_000));
        }
        if elapsed >= next_word {
            next_word += Duration::from_mins(1);
            let usage = samples.last().map(|(_, usage)| usage.resident_kib).unwrap_or_default();
            say(&format!("{} s: {usage} KiB, {} kills", elapsed.as_secs(), subject.away.len()));
        }
        std::thread::sleep(TICK.saturating_sub(start.elapsed().saturating_sub(elapsed)));
    }
    collector.settle();
    let ended = unix_nanoseconds();
    kills_from = kills_from.min(ended);
    await_delivery(&record, ended, now());
    let stop = subject.stop();
    let left = subject.spooled();
    Ok(Outcome {
        world,
        record,
        samples,
        began,
        ended,
        kills_from,
        stored_until,
        away: std::mem::take(&mut subject.away),
        reloads: subject.reloads,
        faults: collector.happened,
        logged: subject.logged(),
        stop,
        killed_with,
        left,
        metronome,
    })
}

/// Until what was measured after the end has arrived, and with it all that was held back: live data may overtake it.
fn await_delivery(record: &Record, ended: u64, since: Instant) {
    let (mut stored, mut same) = (u64::MAX, 0);
    while since.elapsed() < DELIVERY && same < QUIET {
        std::thread::sleep(Duration::from_secs(1));
        let content = record.content();
        let answers = content.answers.values().map(|answers| answers.range(..ended).count() as u64).sum();
        same = if content.newest() > ended && answers == stored { same + 1 } else { 0 };
        stored = answers;
    }
}

/// Progress, apart from the report.
pub(crate) fn say(text: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "soak: {text}");
}
