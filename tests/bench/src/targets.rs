//! What the agent is to cost at most, and whether it does.

use std::fmt;
use std::time::Duration;

use crate::figures::{default_cycle, pairs, quotient, untimely, walk_of};
use crate::host::Host;
use crate::measure::Findings;
use crate::peers::Cost;
use crate::report::{digits, thousands};

/// Fewer links than these more say nothing of one: the difference drowns in what cycles differ by.
const LINKS_THAT_TELL: usize = 100;
/// Where the agent is compared with `ss -tnp`.
const COMPARED_CONNECTIONS: usize = 100_000;
const COMPARED_LINKS: usize = 10;

/// Whether there is a target for the comparison with `ss -tnp` on that host.
pub(crate) fn is_compared(host: Host) -> bool {
    host.connections == COMPARED_CONNECTIONS && host.probes == COMPARED_LINKS
}

/// One target, and what was measured.
#[derive(Debug)]
struct Target {
    what: String,
    bound: Bound,
    unit: &'static str,
    /// On each host for which it holds.
    measured: Vec<(Host, f64)>,
}

/// What a number has to be.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn new(
        what: impl Into<String>,
        bound: Bound,
        unit: &'static str,
        measured: impl Iterator<Item = (Host, f64)>,
    ) -> Self {
        Self { what: what.into(), bound, unit, measured: measured.collect() }
    }

    /// The host on which it is farthest from being met, or closest to being missed.
    fn worst(&self) -> Option<(Host, f64)> {
        let order = |one: &&(Host, f64), other: &&(Host, f64)| match self.bound {
            Bound::AtMost(_) => one.1.total_cmp(&other.1),
            Bound::AtLeast(_) => other.1.total_cmp(&one.1),
        };
        self.measured.iter().max_by(order).copied()
    }
}

impl Bound {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, limit) = match self.bound {
            Bound::AtMost(limit) => ("at most", limit),
            Bound::AtLeast(limit) => ("at least", limit),
        };
        write!(out, "| {} | {word} {} {} |", self.what, whole(limit), self.unit)?;
        match self.worst() {
            Some((host, value)) => {
                let verdict = if self.bound.is_met(value) { "yes" } else { "**no**" };
                write!(out, " {} {} | {host} | {verdict} |", short(value), self.unit)
            }
            None => write!(out, " not measured | – | – |"),
        }
    }
}

/// The table of all targets.
pub(crate) fn write(out: &mut fmt::Formatter<'_>, findings: &[Findings]) -> fmt::Result {
    writeln!(
        out,
        "\n## Targets\n\nEach with the worst of the hosts of this run for which it holds \
         (connections/processes/probes). Those of a link are taken from hosts with {LINKS_THAT_TELL} probes or \
         more.\n\n| | target | measured | on | met |\n|---|--:|--:|---|---|"
    )?;
    let mut targets = of_steady(findings);
    targets.extend(of_walks(findings));
    targets.extend(of_comparison(findings));
    targets.extend(of_rest(findings));
    for target in targets {
        writeln!(out, "{target}")?;
    }
    Ok(())
}

fn of_steady(findings: &[Findings]) -> Vec<Target> {
    let pairs = pairs(findings);
    let telling =
        || pairs.iter().filter(|pair| pair.many.steady.is_some() && pair.many.host.probes >= LINKS_THAT_TELL);
    let measuring = telling().filter_map(|pair| Some((pair.many.host, pair.measuring()?.link)));
    let export = telling()
        .filter_map(|pair| Some((pair.many.host, pair.exporting().link - pair.measuring()?.link)))
        // Less than nothing is what other guests of the machine make of it.
        .filter(|(_, micros)| *micros > 0.0);
    let fixed = telling().map(|pair| (pair.many.host, pair.exporting().fixed / 1e3));
    let growth = |of: fn(&Findings) -> Option<Duration>| {
        let mut axis = findings.iter().filter(|one| one.on_axis && one.steady.is_some());
        let ends = axis.next().and_then(|emptiest| Some((emptiest, axis.next_back()?)));
        ends.and_then(|(emptiest, fullest)| Some((fullest.host, quotient(of(fullest)?, of(emptiest)?))))
    };
    vec![
        Target::new("steady, a link: measuring", Bound::AtMost(3.0), "µs", measuring),
        Target::new("steady, a link: encoding and sending", Bound::AtMost(5.0), "µs", export),
        Target::new("steady, beside the links", Bound::AtMost(0.3), "ms", fixed),
        Target::new(
            "steady, measuring: fullest host / emptiest",
            Bound::AtMost(1.2),
            "x",
            growth(|one| Some(one.measuring?.cycle)).into_iter(),
        ),
        Target::new(
            "steady, with export: fullest host / emptiest",
            Bound::AtMost(1.2),
            "x",
            growth(|one| Some(one.steady?.cycle)).into_iter(),
        ),
    ]
}

fn of_walks(findings: &[Findings]) -> Vec<Target> {
    let floor = |probes| {
        let with = findings.iter().filter(move |one| one.host.probes == probes);
        with.filter_map(|one| Some((one.host, quotient(walk_of(one)?, one.floors.walk))))
    };
    let full =
        findings.iter().filter_map(|one| Some((one.host, quotient(walk_of(one)?, one.floors.full_dump))));
    vec![
        Target::new("walk / floor, 1 probe", Bound::AtMost(1.3), "x", floor(1)),
        Target::new("walk / floor, 100 probes", Bound::AtMost(2.0), "x", floor(100)),
        Target::new("walk / full dump", Bound::AtMost(1.0), "x", full),
    ]
}

fn of_comparison(findings: &[Findings]) -> Vec<Target> {
    let compared = || findings.iter().filter(|one| is_compared(one.host));
    let times = |of: fn(&Findings) -> Option<Duration>| {
        compared().filter_map(move |one| match one.ss_with_owners? {
            Cost::Cpu(time) => Some((one.host, quotient(time, of(one)?))),
            Cost::NotInstalled | Cost::TooLong | Cost::NotApplicable => None,
        })
    };
    let what = |cycle: &str| {
        format!(
            "`ss -tnp` / {cycle}, {} connections, {COMPARED_LINKS} links",
            thousands(COMPARED_CONNECTIONS)
        )
    };
    let bound = Bound::AtLeast(3_000.0);
    vec![
        Target::new(what("a steady cycle"), bound, "x", times(|one| Some(one.steady?.cycle))),
        Target::new(
            what("a cycle with the default budget"),
            bound,
            "x",
            times(|one| Some(default_cycle(one))),
        ),
    ]
}

fn of_rest(findings: &[Findings]) -> Vec<Target> {
    let resident = |probes| {
        let with = findings.iter().filter(move |one| one.host.probes == probes);
        with.map(|one| (one.host, mebibytes(one.footprint.peak)))
    };
    let many = findings.iter().filter(|one| one.host.probes == 5_000);
    let late = many.filter_map(|one| {
        let states = [one.steady, Some(one.budgeted), Some(one.broken)];
        let late: Option<f64> = states.iter().flatten().map(untimely).sum();
        Some((one.host, late?))
    });
    vec![
        Target::new("resident at its peak, 100 probes", Bound::AtMost(16.0), "MiB", resident(100)),
        Target::new("resident at its peak, 5,000 probes", Bound::AtMost(32.0), "MiB", resident(5_000)),
        Target::new("late or skipped, 5,000 probes", Bound::AtMost(0.0), "cycles", late),
    ]
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1_024.0
}

/// A bound as one says it.
fn whole(value: f64) -> String {
    if value < 1_000.0 { value.to_string() } else { short(value) }
}

fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let text = digits(value);
    text.parse().map_or(text, thousands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(bound: Bound, values: &[f64]) -> String {
        let host = |probes| Host { connections: 7, processes: 8, probes };
        let measured = values.iter().enumerate().map(|(index, value)| (host(index + 1), *value));
        Target::new("this", bound, "x", measured).to_string()
    }

    #[test]
    fn the_worst_host_decides() {
        let (most, least) = (Bound::AtMost(1.2), Bound::AtLeast(3_000.0));
        assert_eq!(target(most, &[1.0, 1.2]), "| this | at most 1.2 x | 1.20 x | 7/8/2 | yes |");
        assert_eq!(target(most, &[1.5, 1.0]), "| this | at most 1.2 x | 1.50 x | 7/8/1 | **no** |");
        assert_eq!(
            target(least, &[9_000.0, 2_999.0]),
            "| this | at least 3,000 x | 2,999 x | 7/8/2 | **no** |"
        );
        assert_eq!(
            target(least, &[9_000.0, 12_345.0]),
            "| this | at least 3,000 x | 9,000 x | 7/8/1 | yes |"
        );
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        assert_eq!(target(Bound::AtMost(0.3), &[]), "| this | at most 0.3 x | not measured | – | – |");
    }
}
