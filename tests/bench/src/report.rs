//! The measurements as Markdown.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use vms_core::budget::CpuShare;

use crate::agent::Stretch;
use crate::arguments::{Arguments, INTERVAL_OF_MANY, MANY_PROBES, Scene};
use crate::figures::{default_cycle, pairs, quotient, walk_of};
use crate::floor::LOOKUPS_AT_ONCE;
use crate::host::Host;
use crate::measure::Findings;
use crate::namespaces::{self, NodeFindings};
use crate::peers::{Cost, PEERS};
use crate::watches::{self, WatchFindings};
use crate::{machine, peers, targets};

/// Sockets of others that no walk notices.
pub(crate) const FEW_SOCKETS: usize = 1_000;
/// The agent's `interval`, unless it is told another.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(15);

/// All measurements, and how they came about.
#[derive(Debug)]
pub(crate) struct Report {
    command: String,
    machine: String,
    versions: String,
    scene: Scene,
    interval: Duration,
    window: Duration,
    cap: Duration,
    without_budget: bool,
    findings: Vec<Findings>,
    left_out: Vec<(Host, String)>,
    nodes: Vec<NodeFindings>,
    watches: Vec<WatchFindings>,
    starts: usize,
}

impl Report {
    /// A report without measurements yet.
    pub(crate) fn new(arguments: &Arguments, agent: &Path) -> Result<Self> {
        let version = machine::version_of(agent, &["--version"]).unwrap_or_default();
        let size = megabytes(std::fs::metadata(agent)?.len());
        let others = if arguments.agent_only || arguments.namespaces_only {
            String::new()
        } else if arguments.watches_only {
            format!("; psutil {}", or_dash(peers::psutil_version(&arguments.python)))
        } else {
            format!("; {}", peers::versions(&arguments.python))
        };
        Ok(Self {
            command: command_line(std::env::args().skip(1)),
            machine: machine::describe()?,
            versions: format!("vms-agent {version} ({size} MB){others}"),
            scene: arguments.scene,
            interval: arguments.interval(),
            window: arguments.window(),
            cap: arguments.cap(),
            without_budget: arguments.without_budget,
            findings: Vec::new(),
            left_out: Vec::new(),
            nodes: Vec::new(),
            watches: Vec::new(),
            starts: arguments.starts(),
        })
    }

    /// Adds what was measured on a host.
    pub(crate) fn add(&mut self, findings: Findings) {
        self.findings.push(findings);
    }

    /// Says that a host was not measured.
    pub(crate) fn leave_out(&mut self, host: Host, why: &str) {
        self.left_out.push((host, why.to_owned()));
    }

    /// Adds what was measured on nodes with many network namespaces.
    pub(crate) fn add_nodes(&mut self, findings: Vec<NodeFindings>) {
        self.nodes.extend(findings);
    }

    /// Adds what was measured with probes that count sockets.
    pub(crate) fn add_watches(&mut self, findings: Vec<WatchFindings>) {
        self.watches.extend(findings);
    }

    /// The part about nodes, with how it came about.
    pub(crate) fn of_nodes_alone(&self) -> Result<String, fmt::Error> {
        let mut part = String::new();
        self.write_nodes(&mut part, &self.origin())?;
        Ok(part)
    }

    /// The part about probes that count sockets, with how it came about.
    pub(crate) fn of_watches_alone(&self) -> Result<String, fmt::Error> {
        let mut part = String::new();
        watches::write(&mut part, &self.watches, self.starts, &self.origin())?;
        Ok(part)
    }

    /// How a part came about that was measured by itself.
    fn origin(&self) -> String {
        format!(
            "Measured in a run of its own, by `{}`: {}; {}.\n\n",
            self.command, self.machine, self.versions
        )
    }

    fn write_nodes(&self, out: &mut impl fmt::Write, origin: &str) -> fmt::Result {
        namespaces::write(out, &self.nodes, (self.interval, self.starts), origin)
    }

    /// What was measured so far.
    pub(crate) fn findings(&self) -> &[Findings] {
        &self.findings
    }

    /// The hosts that differ by their connections alone.
    fn axis(&self) -> impl Iterator<Item = &Findings> {
        self.findings.iter().filter(|findings| findings.on_axis)
    }

    fn write_heading(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let far = match self.scene {
            Scene::Apart => "Their far ends are in another network namespace: the host sees each `forward`",
            Scene::Loopback => "Both ends are on the host: it sees each twice, `forward` and `reverse`",
        };
        writeln!(out, "# What the agent costs\n\nMade by `{}`.\n", self.command)?;
        writeln!(out, "- {}\n- {}\n", self.machine, self.versions)?;
        writeln!(
            out,
            "CPU is user and system time. Each host is made for the occasion: *connections* are established \
             loopback connections that nobody watches, each with both its sockets; *processes* sleep; each \
             *probe* has a link of its own. {far}. The links are held by at most 100 processes. Before \
             anything is measured, `vms-agent check` has to find every link up, and later exactly those down \
             that are.\n"
        )?;
        writeln!(
            out,
            "The agent looks every {}; each state is measured for about {} s, the one with walks in all cycles \
             for half of that. Times of one call hold for this machine; ratios hold better.",
            self.intervals(),
            self.window.as_secs()
        )?;
        for (host, why) in &self.left_out {
            let connections = thousands(host.connections);
            writeln!(out, "\nA host with {connections} connections was left out: {why}.")?;
        }
        Ok(())
    }

    /// Times between two cycles.
    fn intervals(&self) -> String {
        let few = format!("{} ms", thousands(usize::try_from(self.interval.as_millis()).unwrap_or_default()));
        if self.interval >= INTERVAL_OF_MANY {
            return few;
        }
        format!(
            "{few}, with {} probes or more every {} s",
            thousands(MANY_PROBES),
            INTERVAL_OF_MANY.as_secs()
        )
    }

    fn write_agent(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "\n## The agent\n")?;
        let cycle = if self.without_budget {
            "This agent has no `cpuBudget`: each cycle is a walk over all sockets"
        } else {
            "*Steady* is CPU of a cycle with `cpuBudget: 0%`, all links up: what is known is verified, \
             nothing else"
        };
        writeln!(
            out,
            "{cycle}; *measuring* without an exporter, *with export* to a receiver on the same host, whose \
             CPU does not count (medians of cycles, two at a time); *wall* is the mean of `vms.agent.cycle.duration`; *late* are the \
             cycles that began later than 5 % of their interval after they were due, of all that were \
             measured, and those skipped. *Cold start* is CPU from \
             the start of the process until points have arrived of which all links are up. The rest is with \
             the default `cpuBudget`: the CPU of a cycle on average (walks among them), with all links up \
             and with 1 % of them down (at least one), and that CPU as a part of one processor, with its \
             walks a minute.\n"
        )?;
        writeln!(
            out,
            "| connections | processes | probes | steady: measuring | with export | wall | late \
             | cold start | default: a cycle | part | walks/min | late | links down | a cycle | part \
             | walks/min | late | resident (peak) | fds |"
        )?;
        writeln!(out, "|{}", "--:|".repeat(19))?;
        for one in &self.findings {
            let measuring = one.measuring.map(|stretch| brief(stretch.cycle));
            let footprint = one.footprint;
            writeln!(
                out,
                "| {} | {} | {} | {} | **{}** | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} \
                 | {} ({}) MB | {} |",
                thousands(one.host.connections),
                thousands(one.host.processes),
                thousands(one.host.probes),
                or_dash(measuring),
                brief(one.cycle().cycle),
                or_dash(one.cycle().wall.map(brief)),
                or_dash(late(&one.cycle())),
                brief(one.cold_start),
                brief(one.budgeted.mean),
                percent(one.budgeted.share),
                or_dash(walks_a_minute(&one.budgeted)),
                or_dash(late(&one.budgeted)),
                one.broken_links,
                brief(one.broken.mean),
                percent(one.broken.share),
                or_dash(walks_a_minute(&one.broken)),
                or_dash(late(&one.broken)),
                megabytes(footprint.resident),
                megabytes(footprint.peak),
                footprint.descriptors,
            )?;
        }
        self.write_extremes(out)?;
        self.write_foreign_sockets(out)?;
        self.write_unwanted_walks(out)
    }

    /// How much a full host costs more than an empty one.
    fn write_extremes(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((emptiest, fullest)) = self.axis().next().zip(self.axis().last()) else { return Ok(()) };
        if emptiest.host == fullest.host {
            return Ok(());
        }
        let ratio = |of: fn(&Findings) -> Option<Duration>| {
            of(emptiest).zip(of(fullest)).map(|(empty, full)| ratio(full, empty))
        };
        writeln!(
            out,
            "\nFrom {} to {} connections a cycle grows to {} x (measuring alone {} x), a cold start to {} x.",
            thousands(emptiest.host.connections),
            thousands(fullest.host.connections),
            or_dash(ratio(|one| Some(one.cycle().cycle))),
            or_dash(ratio(|one| one.measuring.map(|stretch| stretch.cycle))),
            or_dash(ratio(|one| Some(one.cold_start))),
        )
    }

    /// The machine's other guests share the kernel's table of sockets.
    fn write_foreign_sockets(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in self.findings.iter().filter(|one| one.foreign_sockets > FEW_SOCKETS) {
            let (host, sockets) = (one.host, thousands(one.foreign_sockets));
            writeln!(out, "\nOn {host} each walk also went over {sockets} TCP sockets of others.")?;
        }
        Ok(())
    }

    /// A steady state in which the agent walked all the same is not what it is called.
    fn write_unwanted_walks(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.findings {
            if let Some(walks) = one.steady.and_then(|steady| steady.walks).filter(|&walks| walks > 0.0) {
                let host = one.host;
                writeln!(out, "\n**On {host} the agent walked {walks:.0} times with `cpuBudget: 0%`.**")?;
            }
        }
        Ok(())
    }

    fn write_links(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = pairs(&self.findings);
        if pairs.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n## One link more\n\nCPU of a link is that of the steady cycle, less that of the cycle with one \
             probe, divided by the links more; the fixed part is what is left of the cycle with one probe. \
             *The kernel alone* is the limit on this machine, reckoned the same way: for each watched \
             connection one exact lookup with `tcp_info` ({LOOKUPS_AT_ONCE} requests a send, one receive each) \
             and one `readlinkat` of `fd/N` in a kept directory of its holder, nothing decoded, with the same \
             pause between rounds as between the agent's cycles.\n"
        )?;
        writeln!(
            out,
            "| connections | processes | probes | a link: measuring | the kernel alone | ratio | with export \
             | the export's part | fixed: measuring | with export |"
        )?;
        writeln!(out, "|{}", "--:|".repeat(10))?;
        for pair in pairs {
            let (host, measuring, export, floor) =
                (pair.many.host, pair.measuring(), pair.exporting(), pair.floor());
            writeln!(
                out,
                "| {} | {} | {} | {} | {:.2} µs | {} | **{:.2} µs** | {} | {} | {:.0} µs |",
                thousands(host.connections),
                thousands(host.processes),
                thousands(host.probes),
                or_dash(measuring.map(|part| format!("{:.2} µs", part.link))),
                floor.link,
                or_dash(measuring.map(|part| digits(part.link / floor.link))),
                export.link,
                or_dash(measuring.map(|part| format!("{:.2} µs", export.link - part.link))),
                or_dash(measuring.map(|part| format!("{:.0} µs", part.fixed))),
                export.fixed,
            )?;
        }
        Ok(())
    }

    fn write_walks(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\n## One walk\n\nA walk is CPU of a cycle with `cpuBudget: 100%`, less that of a steady cycle, \
             for each walk. The floor is what the kernel alone takes for two dumps (IPv4, IPv6) whose \
             program rejects every socket; a full dump is what it takes for two dumps without a program, \
             which tell of every socket in `ESTABLISHED` or `SYN_SENT`, before anybody decodes them. On hosts \
             with few sockets, a walk with many probes also decodes the watched links themselves, and \
             searches nothing else: it is their number that shows there, not the host's.\n"
        )?;
        writeln!(
            out,
            "| connections | processes | probes | a walk | floor | walk / floor | full dump | walk / full dump \
             | walks in a cycle | late |"
        )?;
        writeln!(out, "|{}", "--:|".repeat(10))?;
        for one in &self.findings {
            let (walk, floors) = (walk_of(one), one.floors);
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                thousands(one.host.connections),
                thousands(one.host.processes),
                thousands(one.host.probes),
                or_dash(walk.map(brief)),
                brief(floors.walk),
                or_dash(walk.map(|walk| ratio(walk, floors.walk))),
                brief(floors.full_dump),
                or_dash(walk.map(|walk| ratio(walk, floors.full_dump))),
                or_dash(one.walking.and_then(|stretch| {
                    stretch.walks.map(|walks| format!("{:.2}", walks / stretch.cycles))
                })),
                or_dash(one.walking.as_ref().and_then(late)),
            )?;
        }
        Ok(())
    }

    fn write_peers(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<&Findings> = self.axis().filter(|findings| findings.peers.is_some()).collect();
        let Some(first) = hosts.first() else { return Ok(()) };
        writeln!(
            out,
            "\n## Beside other tools\n\nWith {} processes and {} probes, as multiples of two cycles of the agent, \
             both with export: first of the steady one, which verifies what is known, then of the mean one with \
             the default `cpuBudget`, to which walks add at most what the budget earns ({} in {}; where a walk \
             is saved for longer than is measured, the steady cycle and that). At the default interval of {} s \
             the budget allows a walk of {} in every cycle: a cycle there is a steady one and, where a walk \
             takes no longer, a whole walk, and the multiples are smaller. Commands are measured from fork to exit; what \
             would take more than {} s is left out.\n",
            thousands(first.host.processes),
            thousands(first.host.probes),
            brief(CpuShare::DEFAULT.of(first.interval)),
            brief(first.interval),
            DEFAULT_INTERVAL.as_secs(),
            brief(CpuShare::DEFAULT.of(DEFAULT_INTERVAL)),
            self.cap.as_secs()
        )?;
        write!(out, "| connections |")?;
        for one in &hosts {
            write!(out, " {} |", thousands(one.host.connections))?;
        }
        writeln!(out, "\n|---|{}", "--:|".repeat(hosts.len()))?;
        let own: [(&str, Cycle); 2] = [
            ("`vms-agent run`, a steady cycle", |one| one.cycle().cycle),
            ("`vms-agent run`, a cycle with the default `cpuBudget`", default_cycle),
        ];
        for (label, cycle) in own {
            write!(out, "| **{label}** |")?;
            for one in &hosts {
                write!(out, " **{}** |", brief(cycle(one)))?;
            }
            writeln!(out)?;
        }
        for (index, peer) in PEERS.iter().enumerate() {
            write!(out, "| {} |", peer.label)?;
            for one in &hosts {
                let cost = one.peers.as_ref().and_then(|costs| costs.get(index));
                write!(out, " {} |", cost.map_or("–".to_owned(), |cost| multiples(*cost, one)))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_heading(out)?;
        self.write_agent(out)?;
        self.write_links(out)?;
        self.write_walks(out)?;
        self.write_peers(out)?;
        self.write_nodes(out, "")?;
        watches::write(out, &self.watches, self.starts, "")?;
        targets::write(out, &self.findings)
    }
}

fn walks_a_minute(stretch: &Stretch) -> Option<String> {
    Some(format!("{:.1}", stretch.walks? * 60.0 / stretch.elapsed.as_secs_f64()))
}

/// One of the cycles of a host.
type Cycle = fn(&Findings) -> Duration;

/// Late cycles of all, and those skipped.
fn late(stretch: &Stretch) -> Option<String> {
    let late = format!("{:.0}/{:.0}", stretch.late?, stretch.cycles);
    let skipped = stretch.skipped.filter(|&skipped| skipped > 0.0);
    Some(skipped.map_or(late.clone(), |skipped| format!("{late}, {skipped:.0} skipped")))
}

/// How often the agent's cycles go into the cost of another tool: the steady one, and that with the default budget.
fn multiples(cost: Cost, findings: &Findings) -> String {
    match cost {
        Cost::Cpu(time) => format!(
            "{} x / {} x ({})",
            ratio(time, findings.cycle().cycle),
            ratio(time, default_cycle(findings)),
            brief(time)
        ),
        Cost::NotInstalled => "not installed".to_owned(),
        Cost::TooLong => "too long".to_owned(),
        Cost::NotApplicable => "–".to_owned(),
    }
}

/// The arguments as they have to be given again: those that name a place of this machine are left out.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let mut command = "make bench".to_owned();
    let mut flags = Vec::new();
    let mut arguments = arguments.filter(|argument| argument != "--inside");
    while let Some(argument) = arguments.next() {
        let name = argument.split('=').next().unwrap_or_default();
        if ["--agent", "--python", "--output"].contains(&name) {
            if !argument.contains('=') {
                arguments.next();
            }
        } else {
            flags.push(argument);
        }
    }
    if !flags.is_empty() {
        command = format!("{command} BENCH_FLAGS='{}'", flags.join(" "));
    }
    command
}

pub(crate) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".to_owned())
}

/// Three digits that count.
pub(crate) fn digits(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Milliseconds, or seconds from the first one on.
pub(crate) fn brief(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{} ms", digits(seconds * 1e3)) } else { format!("{} s", digits(seconds)) }
}

fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

fn ratio(time: Duration, other: Duration) -> String {
    digits(quotient(time, other))
}

pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1}", f64::from(u32::try_from(bytes / 1000).unwrap_or(u32::MAX)) / 1e3)
}

/// A report in which this part is replaced, or stands before the last one.
pub(crate) fn replace_in(report: &str, heading: &str, part: &str) -> String {
    let parts: Vec<&str> = report.split("\n## ").collect();
    let title = heading.trim_start_matches("## ");
    let mut texts: Vec<&str> = parts.iter().copied().filter(|text| !text.starts_with(title)).collect();
    let place = parts.iter().position(|text| text.starts_with(title)).unwrap_or(texts.len().max(2) - 1);
    texts.insert(place, part.trim_start().trim_start_matches("## "));
    texts.join("\n## ")
}

/// A number with a comma before each three digits.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_given_again_on_another_machine() {
        let line = |arguments: &str| command_line(arguments.split(' ').map(str::to_owned));
        assert_eq!(line("--inside --agent /a/b --python=/c"), "make bench");
        assert_eq!(line("--inside --agent /a --quick --cap 3"), "make bench BENCH_FLAGS='--quick --cap 3'");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1_000, 100_000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "100,000", "1,234,567"]
        );
        assert_eq!([0.123, 12.34, 1_234.5].map(digits), ["0.12", "12.3", "1234"]);
    }

    #[test]
    fn a_part_measured_by_itself_takes_the_place_of_its_former_one() {
        let heading = "## Nodes";
        let part = |text: &str| format!("\n{heading}\n\n{text}\n");
        let report = "# What\n\n## One\n\n1\n\n## Targets\n\n2\n";
        let first = replace_in(report, heading, &part("first"));
        assert_eq!(first, format!("# What\n\n## One\n\n1\n\n{heading}\n\nfirst\n\n## Targets\n\n2\n"));
        assert_eq!(replace_in(&first, heading, &part("second")), first.replace("first", "second"));
    }
}
