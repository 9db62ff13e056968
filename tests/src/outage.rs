//! One row of the fault matrix: an agent, a collector that fails for a while, and what must hold afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::{Agent, AgentCommand};
use crate::authority::{Authority, Valid};
use crate::collector::Protocol;
use crate::deadline::{eventually, now, unix_nanoseconds};
use crate::environment;
use crate::faulty::{Fault, Faulty, Stored};
use crate::link::{Link, probe};
use crate::metronome::{Metronome, waited_for_processors};
use crate::namespace::Namespace;
use crate::otlp::{Point, Points};
use crate::program;
use crate::scene::Scene;
use crate::spool::records;
use crate::usage::Usage;

/// How often the agents of the matrix look.
const INTERVAL: Duration = Duration::from_secs(1);
/// For how long a fault lasts; `VMS_FAULT_SECONDS` makes it longer.
const LASTS: Duration = Duration::from_secs(4);
/// Rows that run at a time.
const AT_ONCE: u32 = 10;
/// How far apart they begin: what starts them all at once keeps the machine busy.
const APART: Duration = Duration::from_millis(500);
/// Where redirects lead.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4999);
/// A machine that stood still for that long during a row, or for that part of a long one, is too busy to tell late from
/// never.
const BUSY: (Duration, u32) = (Duration::from_millis(200), 40);
/// How often a row that failed among others is tried by itself, until that proves something.
const ATTEMPTS: usize = 3;
/// Where others waited for a processor for more than that part of the time, the agent may have had to, too.
const CONTENDED: u32 = 4;
/// What may come and go in an agent: buffers of a request, threads and sockets between two of them.
const SLACK: Usage = Usage { resident_kib: 4096, own_kib: 4096, threads: 2, descriptors: 2 };

const UP: &str = "vms.connection_mon.up";
const LINK: &[(&str, &str)] = &[("name", "link"), ("direction", "forward")];

/// Held by those that run many rows at a time, and alone by whoever runs one by itself.
static CROWD: RwLock<()> = RwLock::new(());

/// A row.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    /// How the rows are told apart.
    pub name: &'static str,
    /// Over which the agent sends.
    pub protocol: Protocol,
    /// What happens.
    pub inject: Inject,
    /// What the log says of it, once; empty where nothing is to be said.
    pub told: &'static str,
    /// Whether what is sent meanwhile is lost, counted as refused.
    pub lost: bool,
    /// How long the agent keeps silent after each answer, because the collector asked for it.
    pub silence: Option<Duration>,
    /// Whether the agent can know what arrived, so that nothing arrives twice.
    pub once: bool,
    /// Whether they speak TLS.
    pub secure: bool,
    /// When the agent writes to its spool.
    pub spool: SpoolMode,
}

/// When requests are written to the spool: the values of `export.spool.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolMode {
    /// Never.
    Off,
    /// When the collector does not take them: the default.
    OnFailure,
    /// Each.
    Always,
}

impl SpoolMode {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::OnFailure => "onFailure",
            Self::Always => "always",
        }
    }
}

/// What happens to the collector, or on the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inject {
    /// The collector fails.
    Fault(Fault),
    /// It is not there when the agent starts.
    DownAtStart,
    /// Packets that fit a rule of nft's are dropped.
    Drop(&'static str),
    /// Some packets that fit a rule of nft's are dropped: whether that makes an outage is chance.
    Lose(&'static str),
    /// The way is slow: so many kbit/s.
    Narrow(u32),
}

/// How a run of a row ended.
struct Attempt {
    /// Why it failed, if it did.
    outcome: Result<(), String>,
    /// For how long the machine stood still meanwhile.
    stalled: Duration,
    /// Whether that was too long to assert everything: to have passed proves nothing.
    is_busy: bool,
    /// Whether others took the processors' time: to have failed proves nothing.
    is_contended: bool,
}

impl Outage {
    /// A collector that fails, after which everything arrives, and once.
    #[must_use]
    pub const fn of(protocol: Protocol, name: &'static str, fault: Fault, told: &'static str) -> Self {
        let inject = Inject::Fault(fault);
        let spool = SpoolMode::OnFailure;
        Self { name, protocol, inject, told, lost: false, silence: None, once: true, secure: false, spool }
    }

    /// Runs rows, some at a time, and panics with the names of those that fail.
    #[track_caller]
    pub fn run_all(rows: &[Self], metronome: &Metronome) {
        let (waiting, doubted) = (Mutex::new(rows.iter()), Mutex::new(Vec::new()));
        let crowd = CROWD.read().expect("nobody panics");
        thread::scope(|scope| {
            for number in 0..AT_ONCE {
                let (waiting, doubted) = (&waiting, &doubted);
                scope.spawn(move || {
                    thread::sleep(APART * number);
                    loop {
                        let Some(row) = waiting.lock().expect("nobody panics").next() else { return };
                        if row.attempt(metronome).outcome.is_err() {
                            doubted.lock().expect("nobody panics").push(row);
                        }
                    }
                });
            }
        });
        drop(crowd);
        // So many at once keep one another from running in time: what counts is a row by itself.
        let doubted = doubted.into_inner().expect("nobody panics");
        let alone = |row: &Self| {
            let _alone = CROWD.write().expect("nobody panics");
            settle(|| row.attempt(metronome)).map_err(|told| format!("{row}: {told}"))
        };
        let failed: Vec<String> = doubted.into_iter().filter_map(|row| alone(row).err()).collect();
        assert!(failed.is_empty(), "{} of {} rows:\n{}", failed.len(), rows.len(), failed.join("\n"));
    }

    /// Runs the row.
    fn attempt(&self, metronome: &Metronome) -> Attempt {
        let (started, began, waited) = (unix_nanoseconds(), now(), waited_for_processors());
        let outcome = catch_unwind(AssertUnwindSafe(|| self.run(metronome))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            text.unwrap_or_default()
        });
        let (stalled, is_busy) = stalled_since(started, metronome);
        let waited = waited.zip(waited_for_processors()).map(|(before, after)| after.saturating_sub(before));
        let is_contended = waited.is_some_and(|waited| waited > began.elapsed() / CONTENDED);
        Attempt { outcome, stalled, is_busy, is_contended }
    }

    fn run(&self, metronome: &Metronome) {
        let started = unix_nanoseconds();
        let (scene, host) = (Scene::new(), Namespace::new());
        let link = Link::new((&scene.program("svc"), &host), (&scene.program("far"), &host));
        let stored = Stored::default();
        let authority = self.secure.then(Authority::new);
        let tls = authority
            .as_ref()
            .map(|authority| authority.server(self.protocol, &authority.issue(Valid::Long), false));
        let address = self.protocol.address();
        let faulty = Faulty::start_with_tls(&host, self.protocol, address, tls, stored.keeper());
        let elsewhere = Faulty::start(&host, self.protocol, ELSEWHERE, |_, _| {});
        if self.inject == Inject::DownAtStart {
            faulty.set(Fault::Down);
        }
        let ca = authority.map(|authority| scene.write("ca.pem", &authority.pem()));
        let mut command = AgentCommand::new(&scene, &host)
            .config(&config(&[probe("link", &scene.name("svc"), link.service())], self.spool))
            .variable("OTEL_EXPORTER_OTLP_PROTOCOL", self.protocol.name())
            .variable("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret");
        let endpoint = self.protocol.endpoint();
        command = match &ca {
            None => command.variable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            Some(ca) => command
                .variable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.replace("http:", "https:"))
                .variable("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.to_string_lossy()),
        };
        let spool = command.state_directory();
        let mut agent = command.start();

        if self.inject == Inject::DownAtStart {
            agent.wait_for_log(&["link is up"]);
        } else {
            stored.wait_for_points(UP, LINK, 2, 0);
        }
        let before = agent.usage();
        let began = now();
        self.begin(&faulty, &host);
        // Long enough for several answers that ask for silence.
        let lasts = lasts() + self.silence.unwrap_or_default() * 3;
        while began.elapsed() < lasts {
            thread::sleep(Duration::from_millis(20));
        }
        let arrivals = faulty.arrivals();
        self.assert_spooled(&spool);
        self.end(&faulty, &host);
        let ended = unix_nanoseconds();

        // What was held back is there before what is new.
        stored.wait_for_points(UP, LINK, 2, ended);
        if self.told_outage() {
            agent.wait_for_log(&["INFO", "takes data again after"]);
        }
        assert_eq!(elsewhere.connections(), 0, "nobody follows a redirect");
        self.assert_counted(&faulty, &stored, ended);
        eventually("memory, threads and descriptors as before", || {
            agent.usage().is_within(&before, &SLACK).then_some(())
        });
        let took = agent.stop();
        assert!(took < Duration::from_secs(3), "stopped after {took:?}");
        let left = records(&spool);
        assert!(left.is_empty(), "what arrived is left on the disk: {left:?}");

        // An answer that a busy machine delays beyond the agent's patience is a fault of its own.
        let (_, busy) = stalled_since(started, metronome);
        self.assert_cadence(&stored, metronome, busy);
        self.assert_complete(&stored);
        self.assert_told(&agent, busy);
        if let Some(silence) = self.silence {
            let kept = arrivals.windows(2).all(|pair| pair[1] - pair[0] >= silence.mul_f64(0.98));
            assert!(arrivals.len() > 1 && kept, "asked for {silence:?}: {arrivals:?}");
        }
    }

    fn begin(&self, faulty: &Faulty, host: &Namespace) {
        match self.inject {
            Inject::Fault(fault) => faulty.set(fault),
            Inject::DownAtStart => {}
            Inject::Drop(rule) | Inject::Lose(rule) => host.drop_outgoing(rule),
            Inject::Narrow(kbits) => {
                host.run(program::command("ip").args(["link", "set", "lo", "mtu", "1500"]));
                let rate = format!("{kbits}kbit");
                let shape = ["rate", &rate, "burst", "3000", "limit", "200000"];
                let device = ["qdisc", "add", "dev", "lo", "root", "tbf"];
                host.run(program::command("tc").args(device).args(shape));
            }
        }
    }

    fn end(&self, faulty: &Faulty, host: &Namespace) {
        match self.inject {
            Inject::Fault(_) | Inject::DownAtStart => faulty.set(Fault::Nothing),
            Inject::Drop(_) | Inject::Lose(_) => host.drop_nothing(),
            Inject::Narrow(_) => {
                host.run(program::command("tc").args(["qdisc", "delete", "dev", "lo", "root"]));
            }
        }
    }

    /// Whether the agent has to tell that the collector takes data again.
    fn told_outage(&self) -> bool {
        !self.told.is_empty()
            && !matches!(self.inject, Inject::Fault(Fault::Partial(_) | Fault::GarbageBody | Fault::Endless))
    }

    /// What waits during an outage is on the disk, unless it is to wait in memory alone.
    fn assert_spooled(&self, spool: &Path) {
        if self.spool == SpoolMode::Off {
            assert_eq!(records(spool), Vec::<PathBuf>::new(), "nothing is spooled");
        } else if self.told_outage() && !self.lost {
            eventually("a request in the spool", || (!records(spool).is_empty()).then_some(()));
        }
    }

    /// What is lost is counted, and nothing else.
    fn assert_counted(&self, faulty: &Faulty, stored: &Stored, ended: u64) {
        let exported = "otel.sdk.exporter.metric_data_point.exported";
        let refused = faulty.refused_points();
        assert_eq!(refused > 0, self.lost, "{refused} points were refused");
        let dropped = eventually("the count of what is lost", || {
            let points = stored.series(exported, &[]);
            let last = points.iter().filter(|point| point.time > ended).map(|point| point.time).max()?;
            // In the turn after the first that got through.
            let points = points.iter().filter(|point| point.time == last);
            Some(points.filter(|point| point.attribute("error.type").is_some()).map(count).sum::<u64>())
                .filter(|dropped| *dropped == refused || !self.lost)
        });
        assert_eq!(dropped, refused, "dropped by the agent, refused by the collector");
    }

    /// No cycle is late by more than a twentieth of the interval, beside what the machine itself stood still; and none is
    /// missing, but of those that were refused.
    fn assert_cadence(&self, stored: &Stored, metronome: &Metronome, busy: bool) {
        let mut times: Vec<u64> = stored.series(UP, LINK).iter().map(|point| point.time).collect();
        let all = times.len();
        times.dedup();
        assert!(busy || !self.once || times.len() == all, "{} points arrived twice", all - times.len());
        let mut missing = 0;
        for pair in times.windows(2) {
            let apart = Duration::from_nanos(pair[1] - pair[0]);
            let cycles = (apart + INTERVAL / 2).as_nanos() / INTERVAL.as_nanos();
            let cycles = u32::try_from(cycles).expect("a short time").max(1);
            let off = apart.abs_diff(INTERVAL * cycles);
            let stalled: Duration = pair.iter().map(|time| metronome.stalled(*time, INTERVAL)).sum();
            assert!(
                off <= INTERVAL / 20 + stalled,
                "{apart:?} apart, the machine stood still for {stalled:?}"
            );
            missing += cycles - 1;
        }
        assert!(self.lost || missing == 0, "{missing} cycles are missing: {times:?}");
        let stalls = |time: &&u64| metronome.stalled(**time, INTERVAL) > INTERVAL / 40;
        let excused = times.iter().filter(stalls).count();
        for metric in ["vms.agent.cycles.late", "vms.agent.cycles.skipped"] {
            let counted = stored.series(metric, &[]).iter().map(count).max().unwrap_or_default();
            assert!(
                counted <= u64::try_from(excused).expect("a count"),
                "{metric}: {counted}, of which {excused} for the machine's sake"
            );
        }
    }

    /// Each cycle has all its points.
    fn assert_complete(&self, stored: &Stored) {
        let mut cycles: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        for point in stored.points() {
            if point.name.starts_with("vms.connection_mon.") {
                cycles
                    .entry(point.time)
                    .or_default()
                    .insert(format!("{} {:?}", point.name, point.attributes));
            }
        }
        let all = cycles.values().max_by_key(|series| series.len()).expect("points arrived");
        for (time, series) in &cycles {
            // A counter of the link begins with its second measurement.
            let lacking: Vec<_> = all.difference(series).collect();
            let first = cycles.keys().next() == Some(time);
            assert!(lacking.is_empty() || first || self.lost, "at {time} there is no {lacking:?}");
        }
    }

    /// The outage and its end are told once each, and little besides.
    fn assert_told(&self, agent: &Agent, busy: bool) {
        if matches!(self.inject, Inject::Lose(_)) {
            return;
        }
        let warnings = agent.log_with(&["WARN", "vms_export"]);
        if busy {
            let told = warnings.iter().any(|line| line.contains(self.told));
            assert!(told || self.told.is_empty(), "told: {:?} in {warnings:#?}", self.told);
            return;
        }
        if self.told.is_empty() {
            assert!(warnings.is_empty(), "nothing to tell: {warnings:#?}");
            return;
        }
        let told: Vec<_> = warnings.iter().filter(|line| line.contains(self.told)).collect();
        // An outage may end connections in more than one way, each with an advice of its own.
        let advice: BTreeSet<&str> = told.iter().filter_map(|line| line.split(';').nth(1)).collect();
        assert_eq!(advice.len(), told.len(), "told once: {:?} in {warnings:#?}", self.told);
        assert!(!told.is_empty(), "told: {:?} in {warnings:#?}", self.told);
        // The connection that stands when a fault begins may end in a way of its own.
        assert!(warnings.len() <= 3, "{warnings:#?}");
        let again = agent.log_with(&["INFO", "takes data again after"]);
        assert_eq!(again.len(), usize::from(self.told_outage()), "{again:#?}");
    }
}

/// Attempts until one of them proves something. Tells why that failed, or why none did.
fn settle(mut attempt: impl FnMut() -> Attempt) -> Result<(), String> {
    let mut told = vec![format!("the machine was too busy {ATTEMPTS} times for that to prove anything:")];
    for _ in 0..ATTEMPTS {
        let Attempt { outcome, stalled, is_busy, is_contended } = attempt();
        // Whoever keeps the agent from running can make it fail, but not pass.
        if !is_busy && (outcome.is_ok() || !is_contended) {
            return outcome;
        }
        let outcome = outcome.err().unwrap_or_else(|| "passed, but not all could be asserted".to_owned());
        let others = if is_contended { ", and others used the processors" } else { "" };
        told.push(format!("it stood still for {stalled:?}{others}: {outcome}"));
    }
    Err(told.join("\n  "))
}

impl fmt::Display for Outage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} {}, spool {}", self.protocol, self.name, self.spool.name())
    }
}

/// For how long the machine stood still since a moment, in nanoseconds since 1970, and whether that was too long.
fn stalled_since(started: u64, metronome: &Metronome) -> (Duration, bool) {
    let middle = u64::midpoint(started, unix_nanoseconds());
    let half = Duration::from_nanos(middle - started);
    let stalled = metronome.stalled(middle, half);
    let (most, part) = BUSY;
    (stalled, stalled > most.max(half * 2 / part))
}

fn config(probes: &[Value], spool: SpoolMode) -> Value {
    json!({
        "interval": "1s",
        "cpuBudget": "100%",
        "probes": probes,
        "export": {
            "timeout": "1s",
            "backoff": { "initial": "50ms", "max": "200ms" },
            "spool": { "mode": spool.name() },
        },
    })
}

fn lasts() -> Duration {
    let seconds = environment::variable("VMS_FAULT_SECONDS").and_then(|value| value.to_str()?.parse().ok());
    seconds.map_or(LASTS, Duration::from_secs)
}

fn count(point: &Point) -> u64 {
    u64::try_from(point.value.as_int()).expect("a count")
}

#[cfg(test)]
mod tests;
