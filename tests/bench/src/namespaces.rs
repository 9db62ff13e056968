//! What an agent with `namespaces: all` costs on nodes with many network namespaces.

use std::fmt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::agent::{Agent, Mode, Stretch};
use crate::arguments::{Arguments, Scene};
use crate::cpu::Footprint;
use crate::figures::quotient;
use crate::measure::{NO_WALKS, ONLY_WALKS};
use crate::pods::{Node, Pods, SERVICE};
use crate::program::now;
use crate::receiver::Receiver;
use crate::report::{FEW_SOCKETS, brief, digits, megabytes, or_dash, thousands};
use crate::{machine, say};

/// Line with which this part of the report begins.
pub(crate) const HEADING: &str = "## Network namespaces";

/// How long sockets of those measured before may take to go.
const PATIENCE: Duration = Duration::from_secs(20);
/// A walk in all namespaces must fit between two cycles.
const WALK_TIME_A_NAMESPACE: Duration = Duration::from_millis(5);

/// What was measured on one node: the median of several agents, each figure by itself.
#[derive(Debug)]
pub(crate) struct NodeFindings {
    node: Node,
    /// CPU of a cycle without a walk.
    cycle: Duration,
    /// CPU of a walk.
    walk: Duration,
    /// Walks in a cycle with a walk in each.
    walks: f64,
    footprint: Footprint,
    /// TCP sockets that others had at some time: walks go over them as well.
    foreign_sockets: usize,
}

/// What one agent took.
struct Sample {
    cycle: Duration,
    walk: Duration,
    walks: f64,
    footprint: Footprint,
    foreign_sockets: usize,
}

/// Measures all nodes.
pub(crate) fn measure(
    arguments: &Arguments,
    binary: &Path,
    receiver: &Receiver,
) -> Result<Vec<NodeFindings>> {
    let nodes = arguments.nodes();
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    // Those of the hosts before take a moment to go; those of the machine's other guests stay.
    let start = now();
    while machine::count_sockets()? > FEW_SOCKETS && start.elapsed() < PATIENCE {
        thread::sleep(PATIENCE / 100);
    }
    let mut pods = Pods::new()?;
    let agent = Agent::new(binary, &[SERVICE], Scene::Apart, "all")?;
    let mut findings = Vec::new();
    for node in nodes {
        say(&format!("{node} (network namespaces that fit/others) ..."))?;
        pods.set(node).with_context(|| node.to_string())?;
        let samples: Result<Vec<Sample>> =
            (0..arguments.starts()).map(|_| measure_once(arguments, &agent, node, receiver)).collect();
        findings.extend(NodeFindings::of(node, &samples.with_context(|| node.to_string())?));
    }
    Ok(findings)
}

fn measure_once(arguments: &Arguments, agent: &Agent, node: Node, receiver: &Receiver) -> Result<Sample> {
    // The same link once more on the host itself.
    let connections = node.fitting + 1;
    agent.ensure_connections(connections)?;
    let (interval, window) = (arguments.interval(), arguments.window());
    // Both ends of each connection, and its listener.
    let own = 3 * (connections + node.others);
    let mut foreign_sockets = 0;
    let mut measure = |mode: Mode, window: Duration| -> Result<(Stretch, Footprint)> {
        let mut running = agent.start(mode, receiver)?;
        running.wait_for_connections(connections)?;
        let before = machine::count_sockets()?;
        let stretch = running.measure(window)?;
        foreign_sockets = foreign_sockets.max(before.max(machine::count_sockets()?).saturating_sub(own));
        running.wait_for_connections(connections)?;
        let footprint = running.footprint()?;
        running.stop()?;
        Ok((stretch, footprint))
    };
    let steady = Mode { interval, export: true, budget: Some(NO_WALKS) };
    let long = interval.max(WALK_TIME_A_NAMESPACE * u32::try_from(node.fitting)?);
    let walking = Mode { interval: long, budget: Some(ONLY_WALKS), ..steady };
    let (steady, _) = measure(steady, window)?;
    let (walking, footprint) = measure(walking, window)?;
    let walks = walking.walks.context("an agent that counts its walks")? / walking.cycles;
    let walk = walking.cycle.saturating_sub(steady.cycle).div_f64(walks.max(f64::MIN_POSITIVE));
    Ok(Sample { cycle: steady.cycle, walk, walks, footprint, foreign_sockets })
}

impl NodeFindings {
    /// None without a sample.
    fn of(node: Node, samples: &[Sample]) -> Option<Self> {
        Some(Self {
            node,
            foreign_sockets: samples.iter().map(|sample| sample.foreign_sockets).max()?,
            cycle: median(samples.iter().map(|sample| sample.cycle))?,
            walk: median(samples.iter().map(|sample| sample.walk))?,
            walks: samples.iter().map(|sample| sample.walks).reduce(f64::min)?,
            footprint: Footprint {
                resident: median(samples.iter().map(|sample| sample.footprint.resident))?,
                peak: samples.iter().map(|sample| sample.footprint.peak).max()?,
                descriptors: samples.iter().map(|sample| sample.footprint.descriptors).max()?,
            },
        })
    }

    /// What a time is more than without namespaces, for each that fits.
    fn of_each(&self, none: Option<&Self>, time: fn(&Self) -> Duration) -> Option<String> {
        let none = none.filter(|_| self.node.fitting > 0)?;
        let more = time(self).saturating_sub(time(none)) / u32::try_from(self.node.fitting).ok()?;
        Some(format!("{} µs", digits(more.as_secs_f64() * 1e6)))
    }

    /// How much a time is of that without the others.
    fn to_none(&self, all: &[Self], time: fn(&Self) -> Duration) -> Option<String> {
        let alone = find(all, Node { others: 0, ..self.node }).filter(|_| self.node.others > 0)?;
        Some(format!("{} x", digits(quotient(time(self), time(alone)))))
    }
}

/// This part of the report.
pub(crate) fn write(
    out: &mut impl fmt::Write,
    findings: &[NodeFindings],
    (interval, agents): (Duration, usize),
    origin: &str,
) -> fmt::Result {
    if findings.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{HEADING}\n\n{origin}An agent with `namespaces: all` and one probe, on a node with so many network \
         namespaces beside its own. In those that *fit* lives a process that fits the probe, with a link of which \
         the far end is held by a process elsewhere; in the *others* the same, under a name that fits nothing. The \
         addresses are the same in each, and the host itself has the link once more. `vms-agent check`, and the \
         running agent before and after it is measured, have to count exactly the connections that fit.\n"
    )?;
    writeln!(
        out,
        "*A cycle* is CPU of one with `cpuBudget: 0%`, with export, every {} ms; *a walk* is CPU of a cycle with \
         `cpuBudget: 100%`, less that, for each walk. Both are medians of cycles, two at a time, and of these the \
         median over agents ({agents} a node), for a shared machine's other guests show in any single one; *walks in a cycle*, \
         the peak and descriptors are those of the worst. *Each* is what there is more than without namespaces, \
         for each that fits: the same on all nodes where the cost is linear. *To none* is how much it is of the \
         same node's without the others: 1 where they cost nothing. The sockets of all namespaces are in one table \
         of the kernel, over which a walk in each of those that fit passes, empty places and all: so what one takes \
         grows with all sockets of the node, which are few here. Each walk also lists all \
         processes, of which every namespace here has one more.\n",
        interval.as_millis(),
    )?;
    writeln!(
        out,
        "| fit | others | a cycle | each | to none | a walk | each | to none | walks in a cycle | resident (peak) \
         | fds |"
    )?;
    writeln!(out, "|{}", "--:|".repeat(11))?;
    let none = find(findings, Node { fitting: 0, others: 0 });
    let (cycle, walk): (Time, Time) = (|one| one.cycle, |one| one.walk);
    for one in findings {
        writeln!(
            out,
            "| {} | {} | **{}** | {} | {} | **{}** | {} | {} | {:.2} | {} ({}) MB | {} |",
            thousands(one.node.fitting),
            thousands(one.node.others),
            brief(one.cycle),
            or_dash(one.of_each(none, cycle)),
            or_dash(one.to_none(findings, cycle)),
            brief(one.walk),
            or_dash(one.of_each(none, walk)),
            or_dash(one.to_none(findings, walk)),
            one.walks,
            megabytes(one.footprint.resident),
            megabytes(one.footprint.peak),
            one.footprint.descriptors,
        )?;
    }
    for one in findings.iter().filter(|one| one.foreign_sockets > FEW_SOCKETS) {
        let (place, sockets) = (one.node, thousands(one.foreign_sockets));
        writeln!(out, "\nOn {place} some walks also went over {sockets} TCP sockets of others.")?;
    }
    Ok(())
}

/// One of the times of a node.
type Time = fn(&NodeFindings) -> Duration;

fn find(findings: &[NodeFindings], node: Node) -> Option<&NodeFindings> {
    findings.iter().find(|one| one.node == node)
}

fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a node where a cycle takes so many milliseconds, and a walk ten times as many.
    fn on(fitting: usize, others: usize, milliseconds: &[u64]) -> NodeFindings {
        let samples: Vec<Sample> = milliseconds
            .iter()
            .map(|&milliseconds| Sample {
                cycle: Duration::from_millis(milliseconds),
                walk: Duration::from_millis(10 * milliseconds),
                walks: 1.0,
                footprint: Footprint { resident: 12_000_000, peak: 13_000_000, descriptors: 17 },
                foreign_sockets: 7 * FEW_SOCKETS * fitting / 100,
            })
            .collect();
        NodeFindings::of(Node { fitting, others }, &samples).unwrap()
    }

    #[test]
    fn the_table_shows_what_each_namespace_takes_and_what_the_others_add() {
        // One agent in three was disturbed.
        let findings = [on(0, 0, &[1, 1, 9]), on(10, 0, &[3, 2, 2]), on(100, 0, &[11]), on(10, 200, &[3])];
        let mut text = String::new();
        write(&mut text, &findings, (Duration::from_millis(500), 3), "").unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.ends_with("| 17 |")).collect();
        assert_eq!(
            rows,
            [
                "| 0 | 0 | **1.00 ms** | – | – | **10.0 ms** | – | – | 1.00 | 12.0 (13.0) MB | 17 |",
                "| 10 | 0 | **2.00 ms** | 100 µs | – | **20.0 ms** | 1000 µs | – | 1.00 | 12.0 (13.0) MB | 17 |",
                "| 100 | 0 | **11.0 ms** | 100 µs | – | **110 ms** | 1000 µs | – | 1.00 | 12.0 (13.0) MB | 17 |",
                "| 10 | 200 | **3.00 ms** | 200 µs | 1.50 x | **30.0 ms** | 2000 µs | 1.50 x | 1.00 | 12.0 (13.0) MB | 17 |",
            ]
        );
        let note = "\nOn 100/0 some walks also went over 7,000 TCP sockets of others.\n";
        assert!(text.ends_with(note), "{text}");
    }
}
