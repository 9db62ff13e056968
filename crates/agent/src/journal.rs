//! What the log says of cycles: each change once, each outage at its start and at its end.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{debug, error, info, warn};
use vms_core::adapter::Untold;
use vms_core::connection::Direction;
use vms_core::infer::{Attribution, InferenceLack};
use vms_core::link::{LinkChange, MAX_SOURCES};
use vms_core::look::LookError;
use vms_core::metric;
use vms_core::monitor::{Cycle, Failure, LimitChange, PermissionChange, SightChange};
use vms_core::observer::{Status, StatusChange};
use vms_core::probe::Probe;
use vms_core::process::{Capability, Process};
use vms_core::with_causes;

use crate::advice;

/// Writes the log of cycles, and remembers what it has said.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    failing_cycles: u64,
    overrunning: bool,
    unverified: bool,
    untold: bool,
    /// The metrics by which the probes that there are tell what the agent may not learn.
    flags: BTreeSet<&'static str>,
}

impl Journal {
    /// Tells of cycles of these probes from now on.
    pub(crate) fn set_probes(&mut self, probes: &[Probe]) {
        let flag = |probe: &Probe| match probe {
            Probe::Link(_) => Some(metric::UNATTRIBUTED.name),
            Probe::Watch(watch) => watch.process.is_some().then_some(metric::WATCH_UNATTRIBUTED.name),
            Probe::Presence(_) => Some(metric::PROCESS_POSSIBLE.name),
            Probe::Discovery(_) => Some(metric::DISCOVERY_UNATTRIBUTED.name),
        };
        self.flags = probes.iter().filter_map(flag).collect();
    }

    /// Tells what a cycle brought.
    pub(crate) fn tell(&mut self, cycle: &Cycle) {
        for change in &cycle.changes {
            tell_change(change);
        }
        for change in &cycle.standings {
            tell_standing(change);
        }
        for change in &cycle.permissions {
            self.tell_permission(*change);
        }
        for lack in &cycle.lacks {
            tell_lack(*lack);
        }
        for change in &cycle.limits {
            tell_limit(change);
        }
        tell_sight(&cycle.sight);
        self.tell_unverified(cycle.unverified.as_ref());
        if let Some(told) = &cycle.translations {
            self.tell_untold(told.as_ref().err());
        }
        self.tell_failure(cycle);
        if cycle.unentered {
            warn!("{}", advice::UNENTERED);
        }
    }

    /// Tells of cycles that were left out because an earlier one was still under way.
    pub(crate) fn tell_skipped(&mut self, skipped: u64, took: Duration) {
        let overrunning = skipped > 0;
        if overrunning && !self.overrunning {
            warn!(
                skipped,
                took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                "cycles are left out because the one before took too long; lengthen `interval`, or see what \
                 slows this host down"
            );
        }
        self.overrunning = overrunning;
    }

    fn tell_unverified(&mut self, unverified: Option<&LookError>) {
        match unverified {
            Some(error) if !self.unverified => warn!(
                error = with_causes(error),
                "known connections could not be looked up one by one: each cycle walks over all sockets instead, which \
                 costs more and is no less exact; run `vms-agent doctor`"
            ),
            None if self.unverified => info!("known connections are looked up one by one again"),
            _ => {}
        }
        self.unverified = unverified.is_some();
    }

    fn tell_untold(&mut self, untold: Option<&Untold>) {
        match untold {
            Some(error @ Untold::Unavailable(_)) if !self.untold => warn!(
                error = with_causes(error),
                "links to addresses that are translated on this host (NAT) are not seen at the server's end; run \
                 `vms-agent doctor` for the fix, or set `conntrack: off`"
            ),
            Some(error @ Untold::Failed(_)) if !self.untold => warn!(
                error = with_causes(error),
                "conntrack could not be read: links that may be known by it alone are not reported while they are not \
                 seen otherwise; run `vms-agent doctor`"
            ),
            None if self.untold => info!("conntrack is read again"),
            _ => {}
        }
        self.untold = untold.is_some();
    }

    fn tell_permission(&self, change: PermissionChange) {
        let capability = change.capability.as_str();
        if change.missing {
            let flags = self.flags.iter().copied().collect::<Vec<_>>().join(" or ");
            warn!(
                capability,
                "other users' processes cannot be looked into: \"down\" may be wrong, and a count too low, where {flags} is not 0; \
                 run `vms-agent doctor` for the fix"
            );
        } else {
            info!(
                capability,
                "no answer depends any more on other users' processes that cannot be looked into"
            );
        }
    }

    fn tell_failure(&mut self, cycle: &Cycle) {
        for Failure { probes, new, error } in &cycle.failures {
            let advice = advice::for_failure(error);
            let error = with_causes(error);
            if let Some(which) = shown(new.iter().map(ToString::to_string).collect()) {
                error!(probes = which, error, "probes could not be measured, and are not reported{advice}");
            } else {
                debug!(probes = probes.len(), error, "probes could still not be measured");
            }
        }
        self.failing_cycles += u64::from(!cycle.failures.is_empty());
        // Others may not have been due.
        if cycle.still_failing == 0 && self.failing_cycles > 0 {
            info!(failed_cycles = self.failing_cycles, "probes are measured again");
            self.failing_cycles = 0;
        }
    }
}

fn tell_change(change: &LinkChange) {
    let link = change.probe.name.as_ref();
    let direction = change.direction.map(Direction::as_str);
    let source_ip = change.source.ip.map(tracing::field::display);
    let source_port = change.source.port;
    let container = change.source.container.as_deref();
    let container_id = container.and_then(|container| container.id.as_deref());
    let pod_uid = container.and_then(|container| container.pod_uid.as_deref());
    let pod = container.and_then(|container| container.pod_name.as_deref());
    let pod_name = pod.map(|pod| &*pod.name);
    let pod_namespace = pod.map(|pod| &*pod.namespace);
    let owner = owners(&change.owners);
    let owner = owner.as_deref();
    match change.reason {
        None => {
            let connections = change.connections;
            let inferred = change.attribution.filter(|attribution| *attribution != Attribution::Holder);
            let attribution = inferred.map(Attribution::as_str);
            info!(
                link,
                direction,
                source_ip,
                source_port,
                container_id,
                pod_uid,
                pod_name,
                pod_namespace,
                connections,
                owner,
                attribution,
                "link is up"
            );
        }
        Some(reason) => {
            let advice = advice::for_down(&change.probe, change.direction, reason);
            let reason = reason.as_str();
            warn!(
                link,
                direction,
                source_ip,
                source_port,
                container_id,
                pod_uid,
                pod_name,
                pod_namespace,
                reason,
                last_owner = owner,
                "link is down: {advice}"
            );
        }
    }
}

fn tell_standing(change: &StatusChange) {
    let StatusChange { name, what, standing, bounds } = change;
    let (probe, count, unattributed) = (name.as_ref(), standing.count, standing.unattributed);
    match standing.status {
        Status::Up => info!(probe, count, "there are as many {what} as expected"),
        Status::Warning => {
            let most = bounds.most;
            warn!(
                probe,
                count, most, "there are more {what} than expected: see what makes them, or raise `maxCount`"
            );
        }
        Status::Down if unattributed > 0 => warn!(
            probe,
            count,
            least = bounds.least,
            unattributed,
            missing = named(&standing.missing),
            "there are fewer {what} than expected, as far as the agent may know: run `vms-agent doctor` for the fix"
        ),
        Status::Down => warn!(
            probe,
            count,
            least = bounds.least,
            "there are fewer {what} than expected: start what is missing, or run `vms-agent check` and correct the probe"
        ),
    }
}

/// Capabilities by their names; `None` where there are none.
fn named(capabilities: &BTreeSet<Capability>) -> Option<String> {
    let names: Vec<&str> = capabilities.iter().map(|capability| capability.as_str()).collect();
    (!names.is_empty()).then(|| names.join(" "))
}

fn tell_lack(lack: InferenceLack) {
    warn!(
        "`attribution: inferred`: {}; such links stay unattributed: run `vms-agent doctor`",
        advice::for_lack(lack)
    );
}

fn tell_limit(change: &LimitChange) {
    let link = change.probe.name.as_ref();
    let unreported = change.unreported;
    if unreported > 0 {
        let advice = advice::for_limit(&change.probe);
        warn!(
            link,
            unreported,
            series = MAX_SOURCES,
            "more sources match or are unattributed than a probe may have series, and nothing but \
             vms.agent.sources.unreported tells of the others: {advice}"
        );
    } else {
        info!(link, "each source that matches has a series again");
    }
}

/// Tells of links that went out of sight, and came back: of all those of a cycle together.
fn tell_sight(changes: &[SightChange]) {
    let links = |in_sight| {
        let links = changes.iter().filter(move |change| change.in_sight == in_sight);
        shown(links.map(|change| change.probe.name.to_string()).collect())
    };
    if let (Some(links), [change, ..]) = (links(false), changes) {
        let advice = advice::for_out_of_sight(change.namespaces);
        error!(links, "links cannot be measured, and are not reported: {advice}");
    }
    if let Some(links) = links(true) {
        info!(
            links,
            "links can be measured again: processes that fit are where connections are seen, or gone"
        );
    }
}

/// The owners, as `name[pid]`, the first few.
fn owners(owners: &[std::sync::Arc<Process>]) -> Option<String> {
    shown(owners.iter().map(|owner| format!("{}[{}]", owner.name, owner.pid)).collect())
}

/// The first few, and how many more there are.
fn shown(mut names: Vec<String>) -> Option<String> {
    const SHOWN: usize = 3;
    if names.len() > SHOWN {
        let more = format!("and {} more", names.len() - SHOWN);
        names.truncate(SHOWN);
        names.push(more);
    }
    (!names.is_empty()).then(|| names.join(" "))
}

#[cfg(test)]
mod tests;
