//! What follows from the measurements: the cost of a link, and that of a walk.

use std::time::Duration;

use vms_core::budget::CpuShare;

use crate::agent::Stretch;
use crate::host::Host;
use crate::measure::Findings;

/// Microseconds that a link takes, and those that no link does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PerLink {
    /// Those of one link more.
    pub(crate) link: f64,
    /// What is left of the cycle with one link.
    pub(crate) fixed: f64,
}

impl PerLink {
    /// From the CPU of a cycle with one link, and with all links.
    pub(crate) fn of(one: Duration, all: Duration, links: usize) -> Self {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let more = u32::try_from(links.saturating_sub(1)).map_or(f64::NAN, f64::from);
        let link = (micros(all) - micros(one)) / more;
        Self { link, fixed: micros(one) - link }
    }
}

/// Two hosts that differ by their probes alone, one of them with a single one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    single: &'a Findings,
    /// The one with more probes.
    pub(crate) many: &'a Findings,
}

impl Pair<'_> {
    /// Without export.
    pub(crate) fn measuring(&self) -> Option<PerLink> {
        let (one, all) = self.single.measuring.zip(self.many.measuring)?;
        Some(self.per_link(one.cycle, all.cycle))
    }

    /// With export.
    pub(crate) fn exporting(&self) -> PerLink {
        self.per_link(self.single.cycle().cycle, self.many.cycle().cycle)
    }

    /// The kernel alone.
    pub(crate) fn floor(&self) -> PerLink {
        self.per_link(self.single.floors.verification, self.many.floors.verification)
    }

    fn per_link(&self, one: Duration, all: Duration) -> PerLink {
        PerLink::of(one, all, self.many.host.probes)
    }
}

/// All hosts of which there is one with a single probe.
pub(crate) fn pairs(findings: &[Findings]) -> Vec<Pair<'_>> {
    let single = |many: &Findings| {
        let host = Host { probes: 1, ..many.host };
        findings.iter().find(|one| many.host.probes > 1 && one.host == host)
    };
    findings.iter().filter_map(|many| Some(Pair { single: single(many)?, many })).collect()
}

/// CPU of one walk: what a cycle takes with walks beyond a steady one, divided by the walks.
pub(crate) fn walk_of(findings: &Findings) -> Option<Duration> {
    let (walking, steady) = (findings.walking?, findings.steady?);
    let walks = walking.walks.filter(|&walks| walks > 0.0)? / walking.cycles;
    Some(walking.mean.checked_sub(steady.cycle)?.div_f64(walks))
}

/// CPU of a cycle with the default `cpuBudget`, walks among them, in the long run: as measured, or the steady one and what
/// the budget earns in between. Where a walk has to be saved for longer than is measured, too few are seen.
pub(crate) fn default_cycle(findings: &Findings) -> Duration {
    let measured = findings.budgeted.mean;
    let earned = CpuShare::DEFAULT.of(findings.interval);
    let reckoned =
        findings.steady.zip(walk_of(findings)).map(|(steady, walk)| steady.cycle + walk.min(earned));
    reckoned.map_or(measured, |reckoned| measured.max(reckoned))
}

/// How often one time goes into another.
pub(crate) fn quotient(time: Duration, other: Duration) -> f64 {
    time.as_secs_f64() / other.as_secs_f64()
}

/// Cycles that were late, or left out.
pub(crate) fn untimely(stretch: &Stretch) -> Option<f64> {
    Some(stretch.late? + stretch.skipped.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_part_and_the_links_make_the_cycle() {
        let micros = Duration::from_micros;
        let part = PerLink::of(micros(310), micros(300 + 10 * 1_000), 1_000);
        assert!((part.link - 10.0).abs() < 1e-9 && (part.fixed - 300.0).abs() < 1e-9, "{part:?}");
    }
}
