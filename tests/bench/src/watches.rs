//! What probes cost that count sockets, as many as a thousand of them, beside the approach of another exporter.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::agent::{Agent, Mode};
use crate::arguments::Arguments;
use crate::cpu::{self, Footprint};
use crate::figures::quotient;
use crate::links::WATCHED_NAME;
use crate::load::Load;
use crate::program::{Servant, now, program};
use crate::receiver::Receiver;
use crate::report::{FEW_SOCKETS, brief, digits, megabytes, or_dash, thousands};
use crate::scrape::{PSUTIL_SCRIPT, Watch};
use crate::{SCRATCH, machine, peers, say};

/// Line with which this part of the report begins.
pub(crate) const HEADING: &str = "## Sockets that are counted";

/// Services that watches are for, each with a listener, a UDP socket, and so many connections.
const SERVICES: usize = 125;
const CONNECTIONS: usize = 10;
/// Processes that do nothing, beside the two of each service.
const IDLE: usize = 250;
/// Time between two cycles: the longest must rest before the next.
const INTERVAL: Duration = Duration::from_secs(2);
/// Kinds of watches, in turn.
const KINDS: usize = 8;
/// Sockets that come and go beside those that were made: those of the agent's export.
const OTHERS: usize = 8;

/// `include/net/tcp_states.h`.
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct WatchDesign {
    /// Connections of the host, each with both its sockets.
    pub(crate) connections: usize,
    /// Numbers of probes that count sockets.
    pub(crate) numbers: Vec<usize>,
}

/// The host: connections, half of its sockets each, and what is counted of them.
struct Host {
    services: Vec<Service>,
    connections: usize,
    /// Ends with it.
    _load: Load,
}

struct Service {
    /// Where its connections are.
    at: SocketAddrV4,
    listener: TcpListener,
    datagrams: UdpSocket,
    _ends: [Servant; 2],
}

/// A watch for the agent and the nearest that cnxwatch could be told, and how many sockets each has to find.
struct Pair {
    probe: Value,
    counts: usize,
    other: Watch,
    other_counts: usize,
}

/// What was measured with so many watches.
#[derive(Debug)]
pub(crate) struct WatchFindings {
    watches: usize,
    sockets: usize,
    /// CPU of a cycle of the agent.
    cycle: Duration,
    footprint: Footprint,
    /// CPU of a scrape of each of [`OTHER_WAYS`]; none where it would take too long, or is not there.
    scrapes: Vec<Option<Duration>>,
    /// TCP sockets of others.
    foreign_sockets: usize,
}

/// Another way to count them.
struct OtherWay {
    label: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Compared,
    Hashed,
    Psutil,
}

const OTHER_WAYS: [OtherWay; 3] = [
    OtherWay { label: "the approach of cnxwatch_exporter, a scrape", kind: Kind::Compared },
    OtherWay { label: "the same, with its holders found by hashing", kind: Kind::Hashed },
    OtherWay { label: "a script with psutil", kind: Kind::Psutil },
];

/// Measures the agent with ever more watches on one host, and the other ways.
pub(crate) fn measure(
    arguments: &Arguments,
    binary: &Path,
    receiver: &Receiver,
) -> Result<Vec<WatchFindings>> {
    let design = arguments.watches();
    if design.numbers.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(why) = machine::lack_of_room(design.connections)? {
        say(&format!("watches are left out: {why}"))?;
        return Ok(Vec::new());
    }
    let host = Host::new(design.connections)?;
    let mut findings: Vec<WatchFindings> = Vec::new();
    for watches in design.numbers {
        say(&format!("{} watches, {} sockets ...", thousands(watches), thousands(host.sockets())))?;
        let pairs: Vec<Pair> = (0..watches).map(|place| host.pair(place)).collect::<Result<_>>()?;
        let (cycle, footprint, foreign_sockets) = host
            .measure_agent(arguments, binary, &pairs, receiver)
            .with_context(|| format!("{watches} watches"))?;
        let before: Option<&WatchFindings> = findings.last();
        let scrapes = OTHER_WAYS.iter().enumerate().map(|(place, way)| {
            let is_left_out = arguments.agent_only
                || before.is_some_and(|before| before.is_bound_to_exceed(place, watches, arguments.cap()));
            if is_left_out { Ok(None) } else { measure_scrape(way, arguments, &pairs) }
        });
        let scrapes = scrapes.collect::<Result<Vec<_>>>()?;
        let sockets = host.sockets();
        findings.push(WatchFindings { watches, sockets, cycle, footprint, scrapes, foreign_sockets });
    }
    Ok(findings)
}

impl WatchFindings {
    /// Whether what each watch adds would make a scrape take longer than it may, with so many.
    fn is_bound_to_exceed(&self, way: usize, watches: usize, cap: Duration) -> bool {
        let growth = u32::try_from(watches / self.watches.max(1)).unwrap_or(u32::MAX);
        match self.scrapes.get(way).copied().flatten() {
            // It was not there, or took too long.
            None => true,
            // A tenth of the watches tell well what all of them take, as far as it is theirs.
            Some(took) => growth >= 10 && self.watches >= 100 && took.saturating_mul(growth) > 4 * cap,
        }
    }
}

impl Host {
    fn new(connections: usize) -> Result<Self> {
        let (count, listen) =
            (CONNECTIONS.to_string(), SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).to_string());
        let mut services = Vec::new();
        for _ in 0..SERVICES {
            let mut near = Servant::start(&[], ["sockets", WATCHED_NAME, &count, &listen])?;
            let address = near.answer()?;
            let mut far = Servant::start(&[], ["sockets", "bench-far", &count, &address, "--connect"])?;
            near.answer()?;
            far.answer()?;
            services.push(Service {
                at: address.parse()?,
                listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
                datagrams: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
                _ends: [near, far],
            });
        }
        let mut load = Load::new()?;
        load.set_idle(IDLE)?;
        load.grow_to(connections.saturating_sub(SERVICES * CONNECTIONS))?;
        Ok(Self { services, connections: connections.max(SERVICES * CONNECTIONS), _load: load })
    }

    fn sockets(&self) -> usize {
        2 * self.connections
    }

    /// The watch at that place: kinds in turn, each for the next service.
    fn pair(&self, place: usize) -> Result<Pair> {
        let (kind, turn) = (place % KINDS, place / KINDS);
        let service = self.services.get(turn % SERVICES).context("a service")?;
        let (own, any) = (Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED);
        let port = service.at.port();
        let base = Watch {
            is_udp: false,
            state: ESTABLISHED,
            local: own,
            remote: own,
            local_port: 0,
            remote_port: 0,
            process: None,
        };
        let at_port = Watch { local_port: port, ..base.clone() };
        let network = format!("10.{}.0.0/16", turn % 256);
        let (keys, counts, other, other_counts) = match kind {
            0 => (json!({ "localPort": port }), CONNECTIONS, at_port, CONNECTIONS),
            1 => {
                let keys = json!({ "remoteAddress": service.at.ip(), "remotePort": port });
                (keys, CONNECTIONS, Watch { remote_port: port, ..base }, CONNECTIONS)
            }
            // One of them wants them all.
            2 if turn == 0 => {
                (json!({ "remoteAddress": "127.0.0.0/8" }), self.sockets(), base, self.sockets())
            }
            2 => {
                let remote = network.trim_end_matches("/16").parse()?;
                (json!({ "remoteAddress": network }), 0, Watch { remote, ..base }, 0)
            }
            3 => {
                let port = service.listener.local_addr()?.port();
                let other = Watch { state: LISTEN, remote: any, local_port: port, ..base };
                (json!({ "localPort": port, "states": "LISTEN" }), 1, other, 1)
            }
            4 => {
                let port = service.datagrams.local_addr()?.port();
                let other = Watch { is_udp: true, state: 0, remote: any, local_port: port, ..base };
                (json!({ "protocol": "udp", "localPort": port, "states": "unconnected" }), 1, other, 1)
            }
            5 => {
                let process = Some(Arc::from(WATCHED_NAME));
                let keys = json!({ "localPort": port, "processName": WATCHED_NAME });
                (keys, CONNECTIONS, Watch { process, ..at_port }, CONNECTIONS)
            }
            6 => {
                let states = ["CLOSE-WAIT", "FIN-WAIT-1", "FIN-WAIT-2", "LAST-ACK", "CLOSING"];
                (json!({ "localPort": port, "states": states }), 0, at_port, CONNECTIONS)
            }
            _ => {
                let keys = json!({ "remoteAddress": ["10.0.0.0/8", "192.168.0.0/16"], "remotePort": [9090, "8000-8999"] });
                let other = Watch { remote: Ipv4Addr::new(10, 0, 0, 1), remote_port: 9_090, ..base };
                (keys, 0, other, 0)
            }
        };
        let mut probe = json!({ "type": "connection", "name": name_of(place) });
        if let (Some(probe), Value::Object(mut keys)) = (probe.as_object_mut(), keys) {
            probe.append(&mut keys);
        }
        Ok(Pair { probe, counts, other, other_counts })
    }

    fn measure_agent(
        &self,
        arguments: &Arguments,
        binary: &Path,
        pairs: &[Pair],
        receiver: &Receiver,
    ) -> Result<(Duration, Footprint, usize)> {
        let probes: Vec<Value> = pairs.iter().map(|pair| pair.probe.clone()).collect();
        let agent = Agent::of_probes(binary, &probes)?;
        let expected: BTreeMap<String, usize> =
            pairs.iter().enumerate().map(|(place, pair)| (name_of(place), pair.counts)).collect();
        let is_right = |told: &HashMap<String, f64>| {
            told.len() == expected.len()
                && expected.iter().all(|(name, count)| {
                    told.get(name).is_some_and(|told| is_about(format!("{told:.0}").parse().ok(), *count))
                })
        };
        let mode = Mode { interval: INTERVAL, export: true, budget: None };
        let (mut cycles, mut footprints, mut foreign_sockets) = (Vec::new(), Vec::new(), 0);
        for _ in 0..arguments.starts() {
            let mut running = agent.start(mode, receiver)?;
            running.wait_for_watches(is_right)?;
            let own = self.sockets() + SERVICES;
            foreign_sockets = foreign_sockets.max(machine::count_sockets()?.saturating_sub(own));
            cycles.push(running.measure(2 * arguments.window().max(INTERVAL))?.cycle);
            running.wait_for_watches(is_right)?;
            footprints.push(running.footprint()?);
            running.stop()?;
        }
        cycles.sort_unstable();
        let cycle = cycles.get(cycles.len() / 2).copied().context("an agent")?;
        let footprint = footprints.into_iter().max_by_key(|one| one.peak).context("an agent")?;
        Ok((cycle, footprint, foreign_sockets))
    }
}

/// The name of a watch.
fn name_of(place: usize) -> String {
    format!("watch-{place}")
}

/// Whether that is the number, or among many sockets nearly.
fn is_about(told: Option<usize>, expected: usize) -> bool {
    let most = if expected > FEW_SOCKETS { expected + OTHERS } else { expected };
    told.is_some_and(|told| (expected..=most).contains(&told))
}

/// Median CPU of a scrape by a process that is there already.
fn measure_scrape(way: &OtherWay, arguments: &Arguments, pairs: &[Pair]) -> Result<Option<Duration>> {
    let path = Path::new(SCRATCH).join("watches");
    let lines: Vec<String> = pairs.iter().map(|pair| pair.other.line()).collect();
    fs::write(&path, lines.join("\n") + "\n")?;
    let path = path.to_string_lossy();
    let mut servant = match way.kind {
        Kind::Compared => Servant::start(&[], ["scrape", &path])?,
        Kind::Hashed => Servant::start(&[], ["scrape", &path, "--hashed"])?,
        Kind::Psutil if peers::psutil_version(&arguments.python).is_none() => return Ok(None),
        Kind::Psutil => {
            let mut python = program(&arguments.python);
            python.args(["-c", PSUTIL_SCRIPT, &path]);
            Servant::of(&mut python)?
        }
    };
    let mut times = Vec::new();
    let start = now();
    while times.len() < arguments.runs() && (times.is_empty() || start.elapsed() < arguments.cap() / 4) {
        let before = cpu::read_process(servant.id())?;
        let answer = servant.ask("scrape").with_context(|| way.label)?;
        times.push(cpu::read_process(servant.id())?.saturating_sub(before));
        let counts: Vec<Option<usize>> =
            answer.split_ascii_whitespace().map(|count| count.parse().ok()).collect();
        let right = counts.iter().zip(pairs).filter(|(told, pair)| is_about(**told, pair.other_counts));
        let right = right.count();
        ensure!(
            right == pairs.len() && counts.len() == pairs.len(),
            "{}: {right} of {} watches are counted right",
            way.label,
            pairs.len()
        );
    }
    times.sort_unstable();
    Ok(times.get(times.len() / 2).copied())
}

/// This part of the report.
pub(crate) fn write(
    out: &mut impl fmt::Write,
    findings: &[WatchFindings],
    agents: usize,
    origin: &str,
) -> fmt::Result {
    let Some((first, last)) = findings.first().zip(findings.last()) else { return Ok(()) };
    writeln!(
        out,
        "\n{HEADING}\n\n{origin}Probes `connection` of {KINDS} kinds in turn, on a host with {} sockets of established \
         loopback connections (both ends of each), {SERVICES} listeners, {SERVICES} UDP sockets and some {} processes: by local \
         port; by remote address and port; by range of addresses, the first of which holds all of them; listeners; UDP; by \
         port and process; in five closing states; by two ranges of addresses and a list of ports. Most find 1 or {CONNECTIONS} \
         sockets, or none. *A cycle* is CPU of the agent's, with export, every {} s (the median of cycles, two at a time, and of {agents} agents), in \
         which the kernel is asked anew, for nothing is remembered of sockets that are counted; each number has to arrive, and be \
         right, before it is measured and after it.\n",
        thousands(first.sockets),
        thousands(2 * SERVICES + IDLE),
        INTERVAL.as_secs(),
    )?;
    writeln!(
        out,
        "cnxwatch_exporter is not measured itself: the benchmark has a stand-in for its approach, which reads \
         `/proc/net/tcp` and `udp` as text, looks into every descriptor of every process, also where no watch asks for a process, \
         compares each with every socket of the table, and then goes over the whole table once for each watch. The stand-in \
         compares numbers where that exporter makes and compares texts, and leaves out what becomes of the answers, so that \
         it takes less. It knows no ranges, lists or closing states: in their place it has the nearest that can be told to it, \
         for one address, one port and ESTABLISHED. *By hashing* is what the approach would take if it found the socket \
         of a descriptor at once, as psutil does. Each is a process that is there already, asked again and again; each \
         has to tell the right numbers. With one watch the kernel tells the agent of nothing but its port; from ten on one wants \
         every socket, and every socket is told.\n"
    )?;
    write!(out, "| watches |")?;
    for one in findings {
        write!(out, " {} |", thousands(one.watches))?;
    }
    let grows = format!("{} to {}", thousands(first.watches), thousands(last.watches));
    writeln!(out, " {grows} |\n|---|{}", "--:|".repeat(findings.len() + 1))?;
    write!(out, "| **`vms-agent run`, a cycle** |")?;
    for one in findings {
        write!(out, " **{}** |", brief(one.cycle))?;
    }
    writeln!(out, " {} x |", digits(quotient(last.cycle, first.cycle)))?;
    for (place, way) in OTHER_WAYS.iter().enumerate() {
        let took = |one: &WatchFindings| one.scrapes.get(place).copied().flatten();
        write!(out, "| {} |", way.label)?;
        for one in findings {
            let cell =
                took(one).map(|took| format!("{} x ({})", digits(quotient(took, one.cycle)), brief(took)));
            write!(out, " {} |", or_dash(cell))?;
        }
        let growth =
            took(first).zip(took(last)).map(|(first, last)| format!("{} x", digits(quotient(last, first))));
        writeln!(out, " {} |", or_dash(growth))?;
    }
    writeln!(
        out,
        "\nWith {} watches the agent has {} ({}) MB resident (at its peak).",
        thousands(last.watches),
        megabytes(last.footprint.resident),
        megabytes(last.footprint.peak)
    )?;
    for one in findings.iter().filter(|one| one.foreign_sockets > FEW_SOCKETS) {
        let (watches, sockets) = (thousands(one.watches), thousands(one.foreign_sockets));
        writeln!(out, "\nWith {watches} watches each walk also went over {sockets} TCP sockets of others.")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(watches: usize, milliseconds: u64, scrapes: [Option<u64>; 3]) -> WatchFindings {
        WatchFindings {
            watches,
            sockets: 100_000,
            cycle: Duration::from_millis(milliseconds),
            footprint: Footprint { resident: 12_000_000, peak: 13_000_000, descriptors: 17 },
            scrapes: scrapes.map(|time| time.map(Duration::from_millis)).to_vec(),
            foreign_sockets: watches,
        }
    }

    #[test]
    fn the_table_shows_how_each_grows_with_the_watches() {
        let findings =
            [with(1, 10, [Some(1_000), Some(100), None]), with(1_000, 20, [Some(4_000), None, None])];
        let mut text = String::new();
        write(&mut text, &findings, 3, "").unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows[0], "| watches | 1 | 1,000 | 1 to 1,000 |");
        assert_eq!(rows[2], "| **`vms-agent run`, a cycle** | **10.0 ms** | **20.0 ms** | 2.00 x |");
        assert!(rows[3].ends_with("a scrape | 100 x (1.00 s) | 200 x (4.00 s) | 4.00 x |"), "{}", rows[3]);
        assert!(rows[4].ends_with("| 10.0 x (100 ms) | – | – |"), "{}", rows[4]);
        assert!(!text.contains("sockets of others"), "a thousand are few");
    }

    #[test]
    fn what_would_take_too_long_is_left_out() {
        let cap = Duration::from_secs(40);
        let before = with(100, 10, [Some(20_000), Some(100), None]);
        assert_eq!([0, 1, 2].map(|way| before.is_bound_to_exceed(way, 1_000, cap)), [true, false, true]);
    }
}
