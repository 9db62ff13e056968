//! One host after the other, and everything that is measured on each.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::agent::{Agent, Mode, Stretch};
use crate::arguments::Arguments;
use crate::cpu::Footprint;
use crate::floor::{Floors, Watched};
use crate::host::Host;
use crate::links::Links;
use crate::load::Load;
use crate::peers::{Bench, Cost, PEERS, SS_WITH_OWNERS};
use crate::program::now;
use crate::receiver::Receiver;
use crate::report::Report;
use crate::{machine, namespaces, plot, report, say, targets, watches};

/// The name of the report.
const REPORT: &str = "benchmark.md";
/// The agent with another budget than its default.
pub(crate) const NO_WALKS: &str = "0%";
pub(crate) const ONLY_WALKS: &str = "100%";
/// Walks over many sockets must fit between two cycles.
const WALK_TIME_A_CONNECTION: Duration = Duration::from_micros(6);

/// What was measured on one host.
#[derive(Debug)]
pub(crate) struct Findings {
    /// The host.
    pub(crate) host: Host,
    /// From the start of the process until the first points arrived of which all links are up: CPU.
    pub(crate) cold_start: Duration,
    /// Time between two cycles, but for those that all walk.
    pub(crate) interval: Duration,
    /// Without export; without walks, if the agent can do without them.
    pub(crate) measuring: Option<Stretch>,
    /// Without walks, with export.
    pub(crate) steady: Option<Stretch>,
    /// With the default budget, and export.
    pub(crate) budgeted: Stretch,
    /// The same with links down.
    pub(crate) broken: Stretch,
    /// Links that were down.
    pub(crate) broken_links: usize,
    /// With a walk in each cycle.
    pub(crate) walking: Option<Stretch>,
    /// What the kernel alone takes.
    pub(crate) floors: Floors,
    /// Of the agent with the default budget, after all links were up and one of a hundred down.
    pub(crate) footprint: Footprint,
    /// TCP sockets of other network namespaces, beyond what was made here: walks go over them as well.
    pub(crate) foreign_sockets: usize,
    /// Whether it differs from other hosts by its connections alone.
    pub(crate) on_axis: bool,
    /// The other tools, where they were measured.
    pub(crate) peers: Option<Vec<Cost>>,
    /// `ss -tnp`, on some hosts more.
    pub(crate) ss_with_owners: Option<Cost>,
}

impl Findings {
    /// The cycle with which everything is compared: without walks, if the agent can do without them.
    pub(crate) fn cycle(&self) -> Stretch {
        self.steady.unwrap_or(self.budgeted)
    }
}

/// Measures all hosts, and writes the report.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let start = now();
    let binary = fs::canonicalize(&arguments.agent)
        .with_context(|| format!("{} is missing: build the agent first", arguments.agent.display()))?;
    let output = arguments.output();
    fs::create_dir_all(&output).with_context(|| output.display().to_string())?;

    let receiver = Receiver::start()?;
    if arguments.namespaces_only || arguments.watches_only {
        return run_part_alone(arguments, &binary, &receiver, &output);
    }
    let mut load = Load::new()?;
    let mut links = Links::new(arguments.scene)?;
    let mut bench = Bench::new(&arguments.python, arguments.runs(), arguments.cap());
    let mut report = Report::new(arguments, &binary)?;
    for host in arguments.design().hosts() {
        let more = host.connections.saturating_sub(load.connections());
        if let Some(why) = machine::lack_of_room(more)? {
            say(&format!("{host} is left out: {why}"))?;
            report.leave_out(host, &why);
            continue;
        }
        load.set_idle(host.processes)?;
        load.grow_to(host.connections)?;
        links.set_count(host.probes)?;
        say(&format!("{:4} s: {host} (connections/processes/probes) ...", start.elapsed().as_secs()))?;
        let mut findings = measure_agent(arguments, &binary, host, &mut links, &receiver)
            .with_context(|| host.to_string())?;
        // Both ends of each connection and link, and the listener of each link.
        let own = 2 * host.connections + 3 * host.probes;
        findings.foreign_sockets = machine::count_sockets()?.saturating_sub(own);
        findings.on_axis = arguments.design().is_on_axis(host);
        if !arguments.agent_only {
            measure_others(&mut bench, &mut findings, &links).with_context(|| host.to_string())?;
        }
        report.add(findings);
    }
    // Nothing is left of one when the other is measured.
    drop((load, links));
    report.add_nodes(namespaces::measure(arguments, &binary, &receiver)?);
    report.add_watches(watches::measure(arguments, &binary, &receiver)?);
    say(&format!("{:4} s: done", start.elapsed().as_secs()))?;

    let text = report.to_string();
    let plot = plot::draw(report.findings())?;
    write(&output, REPORT, &text)?;
    if let Some(plot) = plot {
        write(&output, "benchmark.svg", &plot)?;
    }
    crate::print(&text)?;
    Ok(())
}

/// Measures nodes with many network namespaces, or probes that count sockets, and replaces their part of the report that there is.
fn run_part_alone(arguments: &Arguments, binary: &Path, receiver: &Receiver, output: &Path) -> Result<()> {
    let mut report = Report::new(arguments, binary)?;
    let (heading, part) = if arguments.watches_only {
        report.add_watches(watches::measure(arguments, binary, receiver)?);
        (watches::HEADING, report.of_watches_alone()?)
    } else {
        report.add_nodes(namespaces::measure(arguments, binary, receiver)?);
        (namespaces::HEADING, report.of_nodes_alone()?)
    };
    let path = output.join(REPORT);
    let former = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => "# What the agent costs\n".to_owned(),
        former => former.with_context(|| path.display().to_string())?,
    };
    write(output, REPORT, &report::replace_in(&former, heading, &part))?;
    crate::print(&part)?;
    Ok(())
}

/// All other tools on the axis; off it only the one that a target is about, where it is.
fn measure_others(bench: &mut Bench<'_>, findings: &mut Findings, links: &Links) -> Result<()> {
    let (host, watched) = (findings.host, links.services()?);
    if findings.on_axis {
        let costs: Result<Vec<Cost>> = PEERS.iter().map(|peer| bench.measure(peer, host, &watched)).collect();
        let costs = costs?;
        findings.ss_with_owners =
            PEERS.iter().zip(&costs).find(|(peer, _)| peer.name == SS_WITH_OWNERS).map(|(_, cost)| *cost);
        findings.peers = Some(costs);
    } else if targets::is_compared(host)
        && let Some(peer) = PEERS.iter().find(|peer| peer.name == SS_WITH_OWNERS)
    {
        findings.ss_with_owners = Some(bench.measure(peer, host, &watched)?);
    }
    Ok(())
}

fn measure_agent(
    arguments: &Arguments,
    binary: &Path,
    host: Host,
    links: &mut Links,
    receiver: &Receiver,
) -> Result<Findings> {
    let agent = Agent::new(binary, &links.services()?, arguments.scene, "own")?;
    agent.ensure_only_down(&[])?;
    let window = arguments.window();
    let walk = WALK_TIME_A_CONNECTION * u32::try_from(host.connections + host.probes)?;
    let interval = arguments.interval_on(host);
    let long = interval.max(walk);
    let steady = Mode { interval, export: true, budget: Some(NO_WALKS) };
    let budgeted = if arguments.without_budget {
        Mode { interval: long, export: true, budget: None }
    } else {
        Mode { budget: None, ..steady }
    };
    let measure = |mode: Mode, window: Duration| -> Result<Stretch> {
        let mut running = agent.start(mode, receiver)?;
        if mode.export {
            running.wait_for_down(0)?;
        } else {
            // Nobody tells when all links are up: the first cycle, which walks, is over when it rests.
            running.measure(2 * mode.interval)?;
        }
        let stretch = running.measure(window)?;
        running.stop()?;
        Ok(stretch)
    };

    let mut cold_starts = Vec::new();
    for _ in 0..arguments.starts() {
        let mut running = agent.start(budgeted, receiver)?;
        running.wait_for_down(0)?;
        cold_starts.push(running.used()?);
        running.stop()?;
    }
    cold_starts.sort_unstable();
    let cold_start = cold_starts.get(cold_starts.len() / 2).copied().unwrap_or_default();

    let can_do_without = !arguments.without_budget;
    let measuring = if can_do_without {
        Some(measure(Mode { export: false, ..steady }, window)?)
    } else {
        Some(measure(Mode { export: false, ..budgeted }, window)?)
    };
    let walk_mode = Mode { interval: long, budget: Some(ONLY_WALKS), ..steady };
    let steady = can_do_without.then(|| measure(steady, window)).transpose()?;
    let walking = can_do_without.then(|| measure(walk_mode, window / 2)).transpose()?;
    let watched = Watched::find(&links.services()?, &links.holders())?;
    let floors = Floors::measure(arguments.runs() + 2, interval, &watched)?;
    drop(watched);

    let mut running = agent.start(budgeted, receiver)?;
    running.wait_for_down(0)?;
    let with_budget = running.measure(window * 3 / 2)?;
    let down = links.one_percent();
    links.close(&down)?;
    running.wait_for_down(down.len())?;
    agent.ensure_only_down(&down)?;
    let broken = running.measure(window)?;
    links.open(&down)?;
    running.wait_for_down(0)?;
    let footprint = running.footprint()?;
    running.stop()?;

    Ok(Findings {
        host,
        interval,
        cold_start,
        measuring,
        steady,
        budgeted: with_budget,
        broken,
        broken_links: down.len(),
        walking,
        floors,
        footprint,
        foreign_sockets: 0,
        on_axis: false,
        peers: None,
        ss_with_owners: None,
    })
}

fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    say(&format!("written: {}", path.display()))?;
    Ok(())
}
