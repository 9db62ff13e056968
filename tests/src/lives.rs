//! Agents that are killed one after another, and what must hold of their spool: nothing that was on the disk is lost, and what
//! arrives twice is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use rustix::process::Signal;

use crate::agent::AgentCommand;
use crate::collector::Protocol;
use crate::deadline::{eventually, now, unix_nanoseconds};
use crate::faulty::{Fault, Faulty, Stored};
use crate::metronome::Metronome;
use crate::otlp::{Point, Points};
use crate::spool::{leave, points_in, read_record, records, until_now};
use crate::watched::{Watched, assert_no_gap, times};

/// What the collector does while the agent is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// It is away.
    Down,
    /// It takes what is measured.
    Up,
    /// It fails now and then, in one way or another.
    Flaps,
    /// It takes so many requests of the backlog.
    TakesBacklog(usize),
}

/// When an agent is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// At any.
    Any,
    /// When the collector has just taken a request, and the agent does not know.
    Taken,
}

/// Agents that are killed, one after another, with one spool.
#[derive(Debug)]
pub struct Lives<'a> {
    command: AgentCommand<'a>,
    spool: PathBuf,
    collector: Faulty,
    stored: Stored,
    /// The newest times of requests, as they are taken.
    taken: Receiver<u64>,
    /// When the backlog ends.
    backlog_until: u64,
    /// Every record that was seen, with the newest time in it.
    seen: BTreeMap<PathBuf, u64>,
    /// How often requests had been taken that were on the disk when the agent was killed.
    known: BTreeMap<u64, usize>,
    /// When each of the agents ran.
    runs: Vec<(u64, u64)>,
    /// How many duplicates each kill makes.
    pub duplicates: Vec<usize>,
    /// How often the collector went away, and may have taken what it did not acknowledge.
    flaps: usize,
}

impl<'a> Lives<'a> {
    /// None has lived yet. There is a backlog of so many requests.
    #[must_use]
    #[track_caller]
    pub fn new(watched: &'a Watched, mode: &str, backlog: u64) -> Self {
        let stored = Stored::default();
        let (mut keep, (tell, taken)) = (stored.keeper(), mpsc::channel());
        let last = stored.clone();
        let address = Protocol::Grpc.address();
        let collector = Faulty::start(&watched.host, Protocol::Grpc, address, move |fate, request| {
            keep(fate, request);
            let _nobody_waits =
                tell.send(last.last().map(|arrival| newest(&arrival.points)).unwrap_or_default());
        });
        let command = watched
            .spooling(mode)
            .variable("VMS_EXPORT__BACKOFF__INITIAL", "50ms")
            .variable("VMS_EXPORT__BACKOFF__MAX", "100ms")
            .variable("VMS_EXPORT__SPOOL__REPLAY_PAUSE", "1ms");
        let spool = command.state_directory();
        let times = until_now(backlog, Duration::from_secs(15));
        leave(&spool, times.iter().copied());
        Self {
            command,
            spool,
            collector,
            stored,
            taken,
            backlog_until: times.last().copied().unwrap_or_default(),
            seen: BTreeMap::new(),
            known: BTreeMap::new(),
            runs: Vec::new(),
            duplicates: Vec::new(),
            flaps: 0,
        }
    }

    /// How many requests the agents spooled, as far as they were seen: the backlog was there before.
    #[must_use]
    pub fn spooled(&self) -> usize {
        self.seen.values().filter(|newest| **newest > self.backlog_until).count()
    }

    /// Looks at what is in the spool.
    fn look(&mut self) -> BTreeSet<PathBuf> {
        let present: BTreeSet<PathBuf> = records(&self.spool).into_iter().collect();
        for path in &present {
            // What has gone meanwhile was never seen.
            if !self.seen.contains_key(path)
                && let Ok(bytes) = fs::read(path)
            {
                self.seen.insert(path.clone(), newest(&read_record(&bytes).points));
            }
        }
        present
    }

    /// How often each request was taken, by the newest time in it.
    fn taken_so_far(&self) -> BTreeMap<u64, usize> {
        let mut times = BTreeMap::new();
        for arrival in self.stored.arrivals() {
            *times.entry(newest(&arrival.points)).or_default() += 1;
        }
        times
    }

    /// One life, and what has to be true after it.
    #[track_caller]
    pub fn live(&mut self, meanwhile: Meanwhile, pause: Duration, moment: Moment) {
        const FLAPS: [Fault; 6] = [
            Fault::Code(14, None),
            Fault::Nothing,
            Fault::Down,
            Fault::Nothing,
            Fault::ResetBeforeHead,
            Fault::Nothing,
        ];

        self.collector.set(if meanwhile == Meanwhile::Down { Fault::Down } else { Fault::Nothing });
        let began = unix_nanoseconds();
        let mut agent = self.command.start();
        agent.wait_for_log(&["\"link\":\"link\"", "forward"]);
        while self.taken.try_recv().is_ok() {}
        let (since, mut of_backlog, mut flaps) = (now(), 0, FLAPS.iter().cycle());
        eventually("the time to kill", || {
            self.look();
            if meanwhile == Meanwhile::Flaps {
                let fault = *flaps.next()?;
                self.flaps += usize::from(fault == Fault::Down);
                self.collector.set(fault);
            }
            // Until something is taken, or for as long as it takes to look again.
            let taken = self.taken.recv_timeout(Duration::from_millis(25)).ok();
            of_backlog += usize::from(taken.is_some_and(|newest| newest <= self.backlog_until));
            let is_time = match meanwhile {
                Meanwhile::TakesBacklog(requests) => of_backlog >= requests,
                _ => since.elapsed() >= pause,
            };
            (is_time && (moment == Moment::Any || taken.is_some())).then_some(())
        });
        agent.signal(Signal::KILL);
        agent.wait();
        self.runs.push((began, unix_nanoseconds()));
        // The collector may still be reading what was sent.
        while self.taken.recv_timeout(Duration::from_millis(50)).is_ok() {}

        let present = self.look();
        let taken = self.taken_so_far();
        let gone = self.seen.iter().filter(|(path, _)| !present.contains(*path));
        let lost: Vec<_> = gone.filter(|(_, newest)| !taken.contains_key(newest)).collect();
        assert!(lost.is_empty(), "{meanwhile:?}: what was spooled is gone, and was not taken: {lost:?}");
        // What was taken and is still there is sent again.
        let mut duplicates = 0;
        for path in &present {
            let newest = self.seen[path];
            let times = taken.get(&newest).copied().unwrap_or_default();
            duplicates += usize::from(self.known.insert(newest, times).unwrap_or_default() < times);
        }
        self.duplicates.push(duplicates);
    }

    /// The last life, which delivers everything.
    #[track_caller]
    pub fn end(&mut self, metronome: &Metronome) {
        self.collector.set(Fault::Nothing);
        let left = self.look();
        let points: u64 = left.iter().map(|path| points_in(path)).sum();
        let points = i64::try_from(points).expect("a small number");
        let began = unix_nanoseconds();
        let mut agent = self.command.start();
        eventually("the spool to be empty", || records(&self.spool).is_empty().then_some(()));
        let replayed = [("run", "earlier")];
        self.stored.wait_for_value("vms.agent.spool.replayed", &replayed, points, began);
        agent.stop();
        self.runs.push((began, unix_nanoseconds()));

        let taken = self.taken_so_far();
        let lost: Vec<_> = self.seen.iter().filter(|(_, newest)| !taken.contains_key(newest)).collect();
        assert!(lost.is_empty(), "what was spooled never arrived: {lost:?}");
        let again: usize = taken.values().map(|times| times - 1).sum();
        let of_kills: usize = self.duplicates.iter().sum();
        assert!(
            (of_kills..=of_kills + self.flaps).contains(&again),
            "{again} requests were taken again, for {:?} of each kill and {} flaps",
            self.duplicates,
            self.flaps
        );
        // Only the newest of a life were lost with it.
        let times = times(&self.stored);
        for (began, ended) in &self.runs {
            let of_run: Vec<u64> =
                times.iter().copied().filter(|time| (began..ended).contains(&time)).collect();
            if of_run.len() > 2 {
                assert_no_gap(&of_run, metronome);
            }
        }
    }
}

fn newest(points: &[Point]) -> u64 {
    points.iter().map(|point| point.time).max().unwrap_or_default()
}
