//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::ends::EndsRole;
use crate::host::{Design, Host};
use crate::pods::{Node, PodsRole};
use crate::scrape::ScrapeRole;
use crate::sockets::SocketsRole;
use crate::watches::WatchDesign;

/// From so many probes on, the agent gets more time between two cycles: it has to rest between them, or no cycle could be
/// told from the next.
pub(crate) const MANY_PROBES: usize = 2_000;
/// The least time between two cycles with many probes.
pub(crate) const INTERVAL_OF_MANY: Duration = Duration::from_secs(1);

/// What the benchmark can be told.
#[expect(clippy::struct_excessive_bools, reason = "they are flags")]
#[derive(Debug, Parser)]
#[command(
    name = "vms-bench",
    about = "What the agent costs on hosts of all sizes, beside other tools, in one run"
)]
pub(crate) struct Arguments {
    /// The agent to measure.
    #[arg(long, value_name = "PATH", default_value = "target/release/vms-agent")]
    pub(crate) agent: PathBuf,
    /// A Python that has psutil.
    #[arg(long, value_name = "PATH", default_value = ".venv/bin/python")]
    pub(crate) python: PathBuf,
    /// Smaller hosts and shorter windows: a first impression in four minutes.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where benchmark.md and benchmark.svg go [default: docs, with --quick target/bench].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The host of which one number is varied at a time [default: 10000/500/100].
    #[arg(long, value_name = "CONNECTIONS/PROCESSES/PROBES")]
    base: Option<Host>,
    /// Established loopback connections of the hosts, each with both its sockets, beside the watched ones
    /// [default: 0,1000,10000,100000,500000, with --quick up to 10000].
    #[arg(long, value_name = "N,...", value_delimiter = ',', num_args = 0..)]
    connections: Option<Vec<usize>>,
    /// Idle processes of the hosts [default: 10,500,2000, with --quick 500].
    #[arg(long, value_name = "N,...", value_delimiter = ',', num_args = 0..)]
    processes: Option<Vec<usize>>,
    /// Probes, each with a link of its own [default: 1,10,100,1000,5000, with --quick 1,100,1000].
    #[arg(long, value_name = "N,...", value_delimiter = ',', num_args = 0..)]
    probes: Option<Vec<usize>>,
    /// Further hosts [default: 100000/500/10,100000/500/5000, with --quick none].
    #[arg(long, value_name = "CONNECTIONS/PROCESSES/PROBES,...", value_delimiter = ',', num_args = 0..)]
    corners: Option<Vec<Host>>,
    /// Network namespaces of the nodes that an agent for all of them is measured on: those in which a process fits, and
    /// others [default: 0/0,10/0,50/0,100/0,200/0,200/200,10/200, with --quick 0/0,10/0,50/0,10/50].
    #[arg(long, value_name = "FITTING/OTHERS,...", value_delimiter = ',', num_args = 0..)]
    namespaces: Option<Vec<Node>>,
    /// Measure nothing but those nodes, and replace their part of the report.
    #[arg(long)]
    pub(crate) namespaces_only: bool,
    /// Numbers of probes that count sockets [default: 1,10,100,1000, with --quick up to 100].
    #[arg(long, value_name = "N,...", value_delimiter = ',', num_args = 0..)]
    watches: Option<Vec<usize>>,
    /// Measure nothing but those probes, and replace their part of the report.
    #[arg(long, conflicts_with = "namespaces_only")]
    pub(crate) watches_only: bool,
    /// Where the far ends of the watched links are.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) scene: Scene,
    /// Milliseconds between two cycles of the agent; at least 1,000 from 2,000 probes on.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    interval: u64,
    /// Seconds for which each steady state is measured [default: 5, with --quick 3].
    #[arg(long, value_name = "S")]
    window: Option<u64>,
    /// Cold starts; their median counts [default: 3, with --quick 1].
    #[arg(long, value_name = "N")]
    starts: Option<usize>,
    /// Calls of each other program; their median counts [default: 5, with --quick 3].
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Seconds that one call of another program may take; what would take longer is left out, with a note
    /// [default: 40, with --quick 5].
    #[arg(long, value_name = "S")]
    cap: Option<u64>,
    /// Leave the other programs out.
    #[arg(long)]
    pub(crate) agent_only: bool,
    /// The agent has no `cpuBudget`: each of its cycles is a walk.
    #[arg(long)]
    pub(crate) without_budget: bool,
    /// Set on the second start of this program, in its own namespaces.
    #[arg(long, hide = true)]
    pub(crate) inside: bool,
    #[command(subcommand)]
    pub(crate) role: Option<Part>,
}

/// Where the far ends of the watched links are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scene {
    /// In another network namespace: the host sees each link `forward`.
    #[default]
    Apart,
    /// On the same host: it sees each link twice, `forward` and `reverse`.
    Loopback,
}

/// What this program's children do.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Holds connections that nobody watches.
    #[command(hide = true)]
    Sockets(SocketsRole),
    /// Holds ends of watched links.
    #[command(hide = true)]
    Ends(EndsRole),
    /// Lives in a network namespace, or holds the far ends of those who do.
    #[command(hide = true)]
    Pods(PodsRole),
    /// Counts sockets as another exporter does.
    #[command(hide = true)]
    Scrape(ScrapeRole),
}

impl Arguments {
    /// The hosts to measure.
    pub(crate) fn design(&self) -> Design {
        let pick = |given: &Option<Vec<usize>>, full: &[usize], quick: &[usize]| {
            given.clone().unwrap_or_else(|| if self.quick { quick } else { full }.to_vec())
        };
        let corner = |probes| Host { connections: 100_000, processes: 500, probes };
        let corners = if self.quick { vec![] } else { vec![corner(10), corner(5_000)] };
        Design {
            base: self.base.unwrap_or(Host { connections: 10_000, processes: 500, probes: 100 }),
            connections: pick(&self.connections, &[0, 1_000, 10_000, 100_000, 500_000], &[0, 1_000, 10_000]),
            processes: pick(&self.processes, &[10, 500, 2_000], &[500]),
            probes: pick(&self.probes, &[1, 10, 100, 1_000, 5_000], &[1, 100, 1_000]),
            corners: self.corners.clone().unwrap_or(corners),
        }
    }

    /// The nodes to measure. Their namespaces only ever grow, but for the last: taking many down takes long.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        let full = [(0, 0), (10, 0), (50, 0), (100, 0), (200, 0), (200, 200), (10, 200)];
        let quick = [(0, 0), (10, 0), (50, 0), (10, 50)];
        let nodes: &[(usize, usize)] = if self.quick { &quick } else { &full };
        let nodes = || nodes.iter().map(|&(fitting, others)| Node { fitting, others }).collect();
        self.namespaces.clone().unwrap_or_else(nodes)
    }

    /// The host on which sockets are counted, and by how many probes.
    pub(crate) fn watches(&self) -> WatchDesign {
        let numbers: &[usize] = if self.quick { &[1, 10, 100] } else { &[1, 10, 100, 1_000] };
        WatchDesign {
            connections: if self.quick { 5_000 } else { 50_000 },
            numbers: self.watches.clone().unwrap_or_else(|| numbers.to_vec()),
        }
    }

    /// Where the report goes.
    pub(crate) fn output(&self) -> PathBuf {
        let default = if self.quick { "target/bench" } else { "docs" };
        self.output.clone().unwrap_or_else(|| default.into())
    }

    /// Time between two cycles, where few are watched.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval.max(100))
    }

    /// Time between two cycles on a host.
    pub(crate) fn interval_on(&self, host: Host) -> Duration {
        let least = if host.probes < MANY_PROBES { Duration::ZERO } else { INTERVAL_OF_MANY };
        self.interval().max(least)
    }

    /// About how long a steady state is measured.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(self.window.unwrap_or(if self.quick { 3 } else { 5 }).max(1))
    }

    /// Cold starts of the agent.
    pub(crate) fn starts(&self) -> usize {
        self.starts.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }

    /// Calls of each other program.
    pub(crate) fn runs(&self) -> usize {
        self.runs.unwrap_or(if self.quick { 3 } else { 5 }).max(1)
    }

    /// How long one call of another program may take.
    pub(crate) fn cap(&self) -> Duration {
        Duration::from_secs(self.cap.unwrap_or(if self.quick { 5 } else { 40 }))
    }
}
