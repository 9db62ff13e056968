//! The judgment of weaker attribution: whether it would help where it is not chosen, and what it lacks where it is.

use vms_core::infer::{AttributionMode, InferenceLack};

use super::evaluate::{lack, ok};
use super::facts::{Facts, Setting};
use super::{Area, Finding, Level};
use crate::advice;

/// What keeps holders from being inferred by their cgroup.
const BY_CGROUP: [InferenceLack; 5] = [
    InferenceLack::HiddenProcesses,
    InferenceLack::NoCgroups,
    InferenceLack::ForeignNumbers,
    InferenceLack::UntaggedSockets,
    InferenceLack::PartOfCgroups,
];

/// Judges, where holders may not be read.
pub(super) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let lacks = &facts.inference.lacks;
    let in_the_way = BY_CGROUP.into_iter().find(|lack| lacks.contains(lack));
    if !is_needed(facts) {
        return Vec::new();
    }
    match (facts.inference.mode, in_the_way) {
        (AttributionMode::Strict, None) => vec![ok(
            Area::Privileges,
            "where the capabilities cannot be granted, `attribution: inferred` would tell links whose service has a cgroup of its \
             own; the README says where it errs",
        )],
        (AttributionMode::Strict, Some(in_the_way)) => {
            let why = advice::for_lack(in_the_way);
            vec![ok(
                Area::Privileges,
                format!("`attribution: inferred` would not help by cgroups here, as {why}"),
            )]
        }
        (AttributionMode::Inferred, None) => {
            let by_user = if lacks.contains(&InferenceLack::OwnProcesses) { "" } else { ", or by its user" };
            vec![ok(
                Area::Privileges,
                format!("who may not be read to hold a connection is inferred by its cgroup{by_user}"),
            )]
        }
        (AttributionMode::Inferred, Some(in_the_way)) => {
            let rest = if lacks.contains(&InferenceLack::OwnProcesses)
                || in_the_way == InferenceLack::HiddenProcesses
            {
                "no link can be inferred"
            } else {
                "links can be inferred by their user alone"
            };
            let what = format!("`attribution: inferred`: {rest}, as {}", advice::for_lack(in_the_way));
            vec![lack(Area::Privileges, Level::Warn, what, fix(in_the_way, &facts.setting))]
        }
    }
}

/// Whether the agent that runs, or this process where none does, may not look into every process.
fn is_needed(facts: &Facts) -> bool {
    let mut agents = facts.agents.iter().map(|agent| &agent.credentials).peekable();
    if agents.peek().is_none() {
        return !facts.own.effective.missing().is_empty();
    }
    agents.any(|credentials| !credentials.effective.missing().is_empty())
}

fn fix(lack: InferenceLack, setting: &Setting) -> String {
    match (lack, setting) {
        (InferenceLack::HiddenProcesses, _) => {
            "grant CAP_SYS_PTRACE, which sees through hidepid, or mount /proc without it".to_owned()
        }
        (InferenceLack::ForeignNumbers | InferenceLack::OwnProcesses, Setting::Kubernetes) => {
            "hostPID: true and procRoot: /proc".to_owned()
        }
        (InferenceLack::ForeignNumbers | InferenceLack::OwnProcesses, _) => {
            "--pid=host and procRoot: /proc".to_owned()
        }
        (InferenceLack::NoCgroups | InferenceLack::PartOfCgroups, Setting::Container) => {
            "--volume=/sys/fs/cgroup:/sys/fs/cgroup:ro".to_owned()
        }
        (InferenceLack::NoCgroups | InferenceLack::PartOfCgroups, Setting::Kubernetes) => {
            "a hostPath volume of /sys/fs/cgroup mounted there, read-only".to_owned()
        }
        (InferenceLack::PartOfCgroups, _) => "mount the host's hierarchy where the agent sees it".to_owned(),
        (InferenceLack::NoCgroups | InferenceLack::UntaggedSockets, _) => {
            "boot the host with systemd.unified_cgroup_hierarchy=1 and a kernel from 5.8 on, or grant the capabilities"
                .to_owned()
        }
    }
}
