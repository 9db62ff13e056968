//! The agent under measurement.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::arguments::Scene;
use crate::cpu::{self, Footprint};
use crate::links::{WATCHED_NAME, name_of};
use crate::program::{Running, describe, now, program};
use crate::receiver::{ADDRESS, Counts, Receiver};
use crate::{SCRATCH, report};

/// How often the agent's CPU time is read while waiting for it to rest.
const PEEK: Duration = Duration::from_millis(5);
/// Cycles of which the CPU time is taken together.
const PART_CYCLES: u32 = 2;
/// How long anything may take that should take a cycle.
const PATIENCE: Duration = Duration::from_secs(90);

/// The agent, and what it is to watch.
#[derive(Debug)]
pub(crate) struct Agent {
    binary: PathBuf,
    configuration: PathBuf,
    links: usize,
    scene: Scene,
}

/// How to run it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    /// Time between two cycles.
    pub(crate) interval: Duration,
    /// Whether to export to the receiver, or nowhere.
    pub(crate) export: bool,
    /// `cpuBudget`; the default where there is none.
    pub(crate) budget: Option<&'static str>,
}

/// What some cycles in a row took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    /// CPU of one cycle: the median over parts of [`PART_CYCLES`] cycles, for a shared machine's other guests show in any
    /// mean.
    pub(crate) cycle: Duration,
    /// CPU of one cycle, on average: walks and all.
    pub(crate) mean: Duration,
    /// Part of one CPU that was used, the time between the cycles included.
    pub(crate) share: f64,
    /// Wall time of one cycle, on average, as the agent tells it; with export only.
    pub(crate) wall: Option<Duration>,
    /// Walks over all sockets, if the agent counts them; with export only.
    pub(crate) walks: Option<f64>,
    /// Cycles that began later than 5 % of their interval after they were due; with export only.
    pub(crate) late: Option<f64>,
    /// Cycles that were left out, for an earlier one was still under way; with export only.
    pub(crate) skipped: Option<f64>,
    /// Cycles that were measured.
    pub(crate) cycles: f64,
    /// How long it was measured.
    pub(crate) elapsed: Duration,
}

impl Agent {
    /// An agent with one probe for each service, and its `namespaces`.
    pub(crate) fn new(
        binary: &Path,
        services: &[SocketAddrV4],
        scene: Scene,
        namespaces: &str,
    ) -> Result<Self> {
        let probes: Vec<Value> = services
            .iter()
            .enumerate()
            .map(|(link, service)| {
                json!({
                    "type": "connection_mon",
                    "name": name_of(link),
                    "processName": WATCHED_NAME,
                    "destServiceIp": service.ip(),
                    "destServicePort": service.port(),
                })
            })
            .collect();
        let configuration = Path::new(SCRATCH).join("agent.json");
        fs::write(&configuration, json!({ "namespaces": namespaces, "probes": probes }).to_string())?;
        Ok(Self { binary: binary.into(), configuration, links: services.len(), scene })
    }

    /// An agent with these probes, none of them for a link.
    pub(crate) fn of_probes(binary: &Path, probes: &[Value]) -> Result<Self> {
        let configuration = Path::new(SCRATCH).join("agent.json");
        fs::write(&configuration, json!({ "probes": probes }).to_string())?;
        Ok(Self { binary: binary.into(), configuration, links: 0, scene: Scene::Apart })
    }

    /// A benchmark of a wrong answer is none: exactly these links have to be down.
    pub(crate) fn ensure_only_down(&self, down: &[usize]) -> Result<()> {
        let output = self.command("check").args(["--format", "json"]).output()?;
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("vms-agent check: {}", describe(&output)))?;
        let status = output.status.code();
        let expected_status = i32::from(!down.is_empty());
        ensure!(status == Some(expected_status), "vms-agent check: {}", describe(&output));

        let down: BTreeSet<String> = down.iter().copied().map(name_of).collect();
        let directions: &[Value] = match self.scene {
            Scene::Apart => &[json!("forward")],
            Scene::Loopback => &[json!("forward"), json!("reverse")],
        };
        let field = |row: &Value, key: &str| row.get(key).cloned().unwrap_or_default();
        let mut expected = BTreeSet::new();
        for name in (0..self.links).map(name_of) {
            if down.contains(&name) {
                expected.insert(json!([name, null, 0]).to_string());
            } else {
                expected.extend(directions.iter().map(|direction| json!([name, direction, 1]).to_string()));
            }
        }
        let found: BTreeSet<String> = rows
            .iter()
            .map(|row| json!([field(row, "name"), field(row, "direction"), field(row, "up")]).to_string())
            .collect();
        let wrong: Vec<&String> = expected.symmetric_difference(&found).collect();
        ensure!(
            wrong.is_empty() && rows.len() == expected.len(),
            "vms-agent check is wrong about {} of {} links (name, direction, up): {:?} ...",
            wrong.len(),
            self.links,
            wrong.iter().take(4).collect::<Vec<_>>()
        );
        Ok(())
    }

    /// The same where there is one probe, for a link of so many connections.
    pub(crate) fn ensure_connections(&self, expected: usize) -> Result<()> {
        let output = self.command("check").args(["--format", "json"]).output()?;
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("vms-agent check: {}", describe(&output)))?;
        let are_up = rows.iter().all(|row| row.get("up") == Some(&json!(1)));
        let counts = rows.iter().filter_map(|row| row.get("connections")?.as_u64());
        let found = usize::try_from(counts.sum::<u64>())?;
        ensure!(
            output.status.success() && are_up && found == expected,
            "vms-agent check finds {found} connections of {expected}: {}",
            describe(&output)
        );
        Ok(())
    }

    /// Starts it.
    pub(crate) fn start(&self, mode: Mode, receiver: &Receiver) -> Result<RunningAgent> {
        receiver.forget();
        let mut command = self.command("run");
        // What is measured is the agent, not the disk.
        command.env("VMS_EXPORT__SPOOL__MODE", "off");
        command.env("VMS_INTERVAL", format!("{}ms", mode.interval.as_millis()));
        if mode.export {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{ADDRESS}"));
        } else {
            command.env("OTEL_METRICS_EXPORTER", "none");
        }
        if let Some(budget) = mode.budget {
            command.env("VMS_CPU_BUDGET", budget);
        }
        let process = Running::start(&mut command)
            .with_context(|| format!("{} does not start", self.binary.display()))?;
        Ok(RunningAgent { process, mode, receiver: receiver.clone(), links: self.links })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = program(&self.binary);
        command.arg("-c").arg(&self.configuration).arg(name);
        command
    }
}

/// The agent while it runs.
#[derive(Debug)]
pub(crate) struct RunningAgent {
    process: Running,
    mode: Mode,
    receiver: Receiver,
    links: usize,
}

impl RunningAgent {
    /// Waits until every link has been reported up but for so many, which have been reported down.
    pub(crate) fn wait_for_down(&mut self, down: usize) -> Result<()> {
        let (links, what) = (self.links, format!("{down} links to be reported down, and all others up"));
        self.receiver
            .wait_for(&what, PATIENCE, |received| {
                received.down() == down && received.up() + received.down() == links
            })
            .context("vms-agent run")?;
        self.process.ensure_alive().context("vms-agent run")
    }

    /// Waits until it has told of so many connections of its links, as the latest of each.
    pub(crate) fn wait_for_connections(&mut self, expected: usize) -> Result<()> {
        let what = format!("{expected} connections to be reported");
        self.receiver
            .wait_for(&what, PATIENCE, |received| received.connections() == expected)
            .context("vms-agent run")?;
        self.process.ensure_alive().context("vms-agent run")
    }

    /// Waits until what it has told of how many sockets each probe counts, as the latest, is as wanted.
    pub(crate) fn wait_for_watches(&mut self, wanted: impl Fn(&HashMap<String, f64>) -> bool) -> Result<()> {
        self.receiver
            .wait_for("sockets to be counted right", PATIENCE, |received| wanted(received.watches()))
            .context("vms-agent run")?;
        self.process.ensure_alive().context("vms-agent run")
    }

    /// CPU that it has used since it was started.
    pub(crate) fn used(&self) -> Result<Duration> {
        cpu::read_process(self.process.id())
    }

    /// Measures whole cycles for about so long.
    pub(crate) fn measure(&mut self, window: Duration) -> Result<Stretch> {
        let interval = self.mode.interval;
        self.rest()?;
        let (cpu, moment, earlier) = (self.used()?, now(), self.receiver.counts());
        // Whole intervals: each part ends in the same rest between two cycles as the beginning did.
        let part = PART_CYCLES * interval;
        let parts = u32::try_from(window.as_nanos().div_ceil(part.as_nanos().max(1)))?.max(2);
        let mut spent_in_parts = Vec::new();
        let mut last = cpu;
        for number in 1..=parts {
            thread::sleep((number * part).saturating_sub(moment.elapsed()));
            let used = self.used()?;
            spent_in_parts.push(used.saturating_sub(last));
            last = used;
        }
        spent_in_parts.sort_unstable();
        let median = spent_in_parts.get(spent_in_parts.len() / 2).copied().unwrap_or_default();
        if self.mode.export {
            // Before the counts are read: a cycle that is late must not be counted without its CPU, or the reverse.
            self.rest()?;
        }
        let (spent, elapsed) = (self.used()?.saturating_sub(cpu), moment.elapsed());
        self.process.ensure_alive().context("vms-agent run")?;
        let later = self.receiver.counts();
        let cycles = if self.mode.export {
            f64::from(u32::try_from(later.cycles.saturating_sub(earlier.cycles))?)
        } else {
            f64::from(parts * PART_CYCLES)
        };
        ensure!(cycles >= 1.0, "the agent told of no cycle in {elapsed:?}");
        ensure!(later.dropped <= 0.0, "the agent dropped {} points", later.dropped);
        Ok(Stretch {
            cycle: median / PART_CYCLES,
            mean: spent.div_f64(cycles),
            share: spent.as_secs_f64() / elapsed.as_secs_f64(),
            wall: wall(&earlier, &later),
            walks: grown(earlier.walks, later.walks),
            late: grown(earlier.late, later.late),
            skipped: grown(earlier.skipped, later.skipped),
            cycles,
            elapsed,
        })
    }

    /// What it takes up.
    pub(crate) fn footprint(&self) -> Result<Footprint> {
        cpu::read_footprint(self.process.id())
    }

    /// Ends it, as its users do.
    pub(crate) fn stop(self) -> Result<()> {
        self.process.stop().context("vms-agent run")
    }

    /// Waits until the agent has rested for a quarter of its interval after the next cycle.
    fn rest(&mut self) -> Result<()> {
        let quiet = self.mode.interval / 4;
        let start = now();
        let mut last = self.used()?;
        let mut changed = None;
        loop {
            thread::sleep(PEEK);
            let used = self.used()?;
            if used != last {
                (last, changed) = (used, Some(now()));
            } else if changed.is_some_and(|changed| changed.elapsed() > quiet) {
                return Ok(());
            }
            self.process.ensure_alive().context("vms-agent run")?;
            ensure!(
                start.elapsed() < PATIENCE,
                "the agent never rests between two cycles of {} ms: choose a longer --interval",
                report::thousands(usize::try_from(self.mode.interval.as_millis())?)
            );
        }
    }
}

fn grown(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    after.map(|after| after - before.unwrap_or_default())
}

fn wall(before: &Counts, after: &Counts) -> Option<Duration> {
    let cycles = u32::try_from(after.cycles.checked_sub(before.cycles)?).ok().filter(|&cycles| cycles > 0)?;
    Duration::try_from_secs_f64((after.cycle_seconds - before.cycle_seconds) / f64::from(cycles)).ok()
}
