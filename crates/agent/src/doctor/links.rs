//! What cannot be attributed or counted at this moment, and what that takes.

use std::collections::BTreeSet;

use vms_core::monitor::Checked;
use vms_core::observer::{self, Standing, Status};
use vms_core::probe::Probe;
use vms_core::process::Capability;
use vms_core::with_causes;

use super::evaluate::{grant, join, lack, ok};
use super::facts::{Facts, LinkFacts, Refusal, Subject};
use super::{Area, Finding, Level};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::host;
use crate::names;

/// Looks once for every probe, as `vms-agent check` does.
pub(super) fn read(config: &Config) -> Result<Vec<LinkFacts>, Refusal> {
    let mut monitor = names::look_up(config)
        .and_then(|names| host::monitor(config, &names, SystemClock::start()))
        .map_err(|error| Refusal::new(error.as_ref()))?;
    let Checked { links, others } = monitor.check().map_err(|error| Refusal::new(&error))?;
    let counts = others.into_iter().filter_map(|(probe, finding)| {
        let name = probe.name().to_string();
        let (status, unattributed, missing) = match finding {
            Ok(observer::Finding::Standing(Standing { status, unattributed, missing, .. })) => {
                (status, unattributed, missing)
            }
            Ok(observer::Finding::Map(_)) => return None,
            Err(error) => return Some(LinkFacts::unmeasured(name, with_causes(&error))),
        };
        let is_up = status != Status::Down;
        let subject = match probe {
            Probe::Presence(_) => Subject::Processes,
            Probe::Link(_) | Probe::Watch(_) | Probe::Discovery(_) => Subject::Connections,
        };
        // On most hosts there are processes that might be called anything. While enough fit for certain, that is no lack.
        let unattributed = if is_up && subject == Subject::Processes { 0 } else { unattributed };
        let unattributed = usize::try_from(unattributed).unwrap_or(usize::MAX);
        Some(LinkFacts { subject, is_up, ..LinkFacts::new(name, unattributed, missing) })
    });
    let links = links.into_iter().map(|(probe, look)| {
        let both = look.undirected();
        let (name, unattributed) = (probe.name.to_string(), both.unattributed.len());
        LinkFacts { is_up: both.is_up(), ..LinkFacts::new(name, unattributed, both.missing) }
    });
    Ok(links.chain(counts).collect())
}

/// Judges those of which something is not known.
pub(super) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let links = match &facts.links {
        Ok(links) => links,
        Err(refusal) => {
            let what = format!("the probes could not be looked for: {}", refusal.text);
            return vec![lack(Area::Probes, Level::Fail, what, None)];
        }
    };
    let unmeasured = links.iter().filter_map(|link| {
        let problem = link.unmeasured.as_ref()?;
        let what = format!("{}: it could not be measured: {problem}", link.name);
        Some(lack(Area::Probes, Level::Fail, what, None))
    });
    let unattributed = links.iter().filter(|link| link.unattributed > 0);
    unmeasured.chain(unattributed.map(|link| evaluate_link(link, facts))).collect()
}

fn evaluate_link(link: &LinkFacts, facts: &Facts) -> Finding {
    let LinkFacts { name, subject, is_up, unattributed, missing, .. } = link;
    let (count, whose) = match (subject, unattributed) {
        (Subject::Connections, 1) => (
            "1 connection fits by address, and this process may not learn who holds it".to_owned(),
            "the user namespace of who holds it",
        ),
        (Subject::Connections, count) => (
            format!("{count} connections fit by address, and this process may not learn who holds them"),
            "the user namespace of who holds it",
        ),
        (Subject::Processes, count) => (
            format!(
                "there are too few processes, and {count} more might fit, whose names this process may not all read"
            ),
            "their user namespace",
        ),
    };
    let missing: Vec<Capability> = missing.iter().copied().collect();
    let why = match missing.as_slice() {
        [] => format!("a security module, or {whose}, forbids it"),
        missing => format!("that takes {}", join(missing, " and ")),
    };
    let seen_by = facts.agents.iter().find(|agent| {
        let lacked: BTreeSet<Capability> = agent.credentials.effective.missing().into_iter().collect();
        !missing.is_empty() && missing.iter().all(|capability| !lacked.contains(capability))
    });
    if let Some(agent) = seen_by {
        let what = format!("{name}: {count}: {why}, which the running agent (PID {}) has", agent.pid);
        return ok(Area::Probes, what);
    }
    let fix = (!missing.is_empty()).then(|| grant(&facts.own, &missing, &facts.setting, &facts.executable));
    let beside = if *is_up { ", beside those by which the link is up" } else { "" };
    lack(Area::Probes, Level::Warn, format!("{name}: {count}{beside}: {why}"), fix)
}
