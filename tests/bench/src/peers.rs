//! The other tools: what one call of each costs.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::host::Host;
use crate::program::{now, program};
use crate::{cpu, machine, services};

/// CPU time after which a command is not called again: its median would move little.
const ENOUGH: Duration = Duration::from_secs(6);
/// How often it is looked whether a command has ended.
const PEEK: Duration = Duration::from_millis(2);
/// The most endpoints that `ss` is asked for: beyond that its filter costs more than all sockets would.
const MOST_FILTERED: usize = 100;

/// What became of one measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cost {
    /// User and system time.
    Cpu(Duration),
    /// The program is not there.
    NotInstalled,
    /// It took longer, or was bound to take longer, than it may.
    TooLong,
    /// It cannot do this.
    NotApplicable,
}

/// A tool, and what it was asked.
#[derive(Debug)]
pub(crate) struct Peer {
    /// In Markdown.
    pub(crate) label: &'static str,
    /// In few words, for the plot.
    pub(crate) name: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    FilteredSs(&'static str),
    Command(&'static str, &'static [&'static str]),
    Psutil,
    NodeExporter,
    Collectd,
}

/// All of them.
pub(crate) const PEERS: [Peer; 9] = [
    Peer {
        label: "`ss -tnH state established '( dst ... or src ... )'`, without owners",
        name: "ss, filtered",
        kind: Kind::FilteredSs("-tnH"),
    },
    Peer {
        label: "`ss -tnpH` with the same filter",
        name: "ss -p, filtered",
        kind: Kind::FilteredSs("-tnpH"),
    },
    Peer { label: "collectd `tcpconns`, an interval", name: "collectd", kind: Kind::Collectd },
    Peer { label: "node_exporter `tcpstat`, a scrape", name: "node_exporter", kind: Kind::NodeExporter },
    Peer { label: "`ss -tn`, without owners", name: "ss -tn", kind: Kind::Command("ss", &["-tn"]) },
    Peer { label: "`ss -tnp`", name: SS_WITH_OWNERS, kind: Kind::Command("ss", &["-tnp"]) },
    Peer { label: "`netstat -nap`", name: "netstat -nap", kind: Kind::Command("netstat", &["-nap"]) },
    Peer { label: "`lsof -nP -iTCP`", name: "lsof", kind: Kind::Command("lsof", &["-nP", "-iTCP"]) },
    Peer { label: "psutil `net_connections(\"tcp\")`", name: "psutil", kind: Kind::Psutil },
];

/// The tool that tells of all connections what the agent tells of the watched ones, and comes with every distribution.
pub(crate) const SS_WITH_OWNERS: &str = "ss -tnp";

/// How the tools are called.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// A Python that has psutil.
    pub(crate) python: &'a Path,
    /// Calls of each; their median counts.
    pub(crate) runs: usize,
    /// Wall time that one call may take.
    pub(crate) cap: Duration,
    /// By name, the wall time that a call took, and with how many connections.
    slowest: BTreeMap<&'static str, (Duration, usize)>,
}

impl<'a> Bench<'a> {
    /// Nothing has been called yet.
    pub(crate) fn new(python: &'a Path, runs: usize, cap: Duration) -> Self {
        Self { python, runs, cap, slowest: BTreeMap::new() }
    }

    /// Measures one tool on the present host.
    pub(crate) fn measure(&mut self, peer: &Peer, host: Host, watched: &[SocketAddrV4]) -> Result<Cost> {
        if self.is_bound_to_take_too_long(peer.name, host.connections) {
            return Ok(Cost::TooLong);
        }
        let (runs, connections, python) = (self.runs, host.connections, self.python);
        match peer.kind {
            Kind::FilteredSs(_) if watched.len() > MOST_FILTERED => Ok(Cost::NotApplicable),
            Kind::FilteredSs(flags) => {
                let filter = ss_filter(watched);
                self.call(peer.name, connections, || {
                    let mut command = program("ss");
                    command.arg(flags).args(["state", "established"]).args(&filter);
                    command
                })
            }
            Kind::Command(name, flags) => self.call(peer.name, connections, || {
                let mut command = program(name);
                command.args(flags);
                command
            }),
            Kind::Psutil if psutil_version(python).is_none() => Ok(Cost::NotInstalled),
            Kind::Psutil => self.call(peer.name, connections, || {
                let mut command = program(python);
                command.args(["-c", "import psutil; psutil.net_connections('tcp')"]);
                command
            }),
            Kind::NodeExporter => services::measure_node_exporter(runs).context(peer.name),
            Kind::Collectd => services::measure_collectd(runs, watched).context(peer.name),
        }
    }

    /// Beyond what they take to start, the walks of all of them grow with the sockets at least in proportion.
    fn is_bound_to_take_too_long(&self, name: &str, connections: usize) -> bool {
        self.slowest.get(name).is_some_and(|&(took, before)| {
            let growth = u32::try_from(connections.checked_div(before).unwrap_or(1)).unwrap_or(u32::MAX);
            took.saturating_mul(growth.max(1)) > self.cap
        })
    }

    /// Median CPU of a command, from fork to exit. What takes long is called less often.
    fn call(
        &mut self,
        name: &'static str,
        connections: usize,
        command: impl Fn() -> Command,
    ) -> Result<Cost> {
        let mut times = Vec::new();
        while times.len() < self.runs && times.iter().sum::<Duration>() < ENOUGH {
            let before = cpu::read_children()?;
            let mut command = command();
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let start = now();
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cost::NotInstalled),
                Err(error) => return Err(error).context(name),
            };
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if start.elapsed() > self.cap {
                    child.kill()?;
                    child.wait()?;
                    self.slowest.insert(name, (start.elapsed(), connections));
                    return Ok(Cost::TooLong);
                }
                thread::sleep(PEEK);
            };
            // lsof's status is 1 where it finds nothing.
            let found_nothing = name == "lsof" && status.code() == Some(1);
            ensure!(status.success() || found_nothing, "{name}: {status}");
            times.push(cpu::read_children()?.saturating_sub(before));
            self.slowest.insert(name, (start.elapsed(), connections));
        }
        times.sort_unstable();
        Ok(times.get(times.len() / 2).map_or(Cost::NotApplicable, |median| Cost::Cpu(*median)))
    }
}

/// The version of psutil that a Python has.
pub(crate) fn psutil_version(python: &Path) -> Option<String> {
    machine::version_of(python, &["-c", "import psutil; print(psutil.__version__)"])
}

/// The tools and their versions, in a few words.
pub(crate) fn versions(python: &Path) -> String {
    let versions = [
        ("ss", machine::version_of("ss", &["-V"])),
        ("netstat", machine::version_of("netstat", &["--version"])),
        ("lsof", machine::version_of("lsof", &["-v"])),
        ("psutil", psutil_version(python)),
        ("node_exporter", machine::version_of(services::NODE_EXPORTER, &["--version"])),
        ("collectd", machine::version_of(services::COLLECTD, &["-h"])),
    ];
    let named = versions.into_iter().map(|(name, version)| match version {
        Some(version) => format!("{name} {version}"),
        None => format!("{name} not installed"),
    });
    named.collect::<Vec<_>>().join(", ")
}

/// What the agent looks for, as `ss` takes it: the services at either end.
fn ss_filter(watched: &[SocketAddrV4]) -> Vec<String> {
    let mut filter = vec!["(".to_owned()];
    for (index, link) in watched.iter().enumerate() {
        filter.extend((index > 0).then(|| "or".to_owned()));
        filter.extend(["dst", &link.to_string(), "or", "src", &link.to_string()].map(str::to_owned));
    }
    filter.push(")".to_owned());
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_not_tried_where_it_would_take_too_long() {
        let mut bench = Bench::new(Path::new("python"), 1, Duration::from_secs(40));
        bench.slowest.insert("slow", (Duration::from_secs(9), 100_000));
        assert!(!bench.is_bound_to_take_too_long("slow", 400_000));
        assert!(bench.is_bound_to_take_too_long("slow", 500_000));
        assert!(!bench.is_bound_to_take_too_long("other", 500_000));
        bench.slowest.insert("on an empty host", (Duration::from_secs(1), 0));
        assert!(!bench.is_bound_to_take_too_long("on an empty host", 1_000));
    }
}
