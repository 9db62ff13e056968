//! The judgment of what running agents have given up, and what the next one can.

use super::evaluate::{lack, ok};
use super::facts::{CapabilitySet, Facts, RunningAgent};
use super::{Area, Finding, Level};
use crate::config::{ConntrackMode, SandboxMode};
use crate::sandbox::{Extras, Layer, kept};

/// Judges what the kernel has to offer, and then each running agent.
pub(super) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let sandbox = facts.sandbox;
    if sandbox.mode == SandboxMode::Off {
        findings.push(warn(
            "`sandbox: off`: the agent keeps every right that it is started with",
            "sandbox: auto",
        ));
        return findings;
    }
    let offered = [(Layer::SystemCalls, sandbox.seccomp), (Layer::Files, sandbox.landlock)];
    let missing: Vec<Layer> =
        offered.into_iter().filter(|(_, offered)| !offered).map(|(layer, _)| layer).collect();
    for layer in &missing {
        findings.push(warn(format!("this kernel has no {layer}: {}", layer.left_open()), layer.fix()));
    }
    if missing.is_empty() {
        findings.push(ok(
            Area::Sandbox,
            "this kernel can filter system calls (seccomp) and restrict files (Landlock)",
        ));
    }
    let conntrack = if facts.conntrack.is_some() { ConntrackMode::Auto } else { ConntrackMode::Off };
    let kept = kept(Extras { conntrack, namespaces: facts.namespaces, listener: None });
    for agent in &facts.agents {
        let who = format!("the running agent (PID {})", agent.pid);
        let open = left_open(agent, kept);
        if open.is_empty() {
            let restrained = "keeps no capability beyond those that it needs, gains none, dumps no core, and its system calls are filtered";
            findings.push(ok(Area::Sandbox, format!("{who} {restrained}")));
        }
        for layer in open {
            findings.push(warn(
                format!("{who}: {}", layer.left_open()),
                format!("sandbox: auto; {}", layer.fix()),
            ));
        }
    }
    findings
}

/// What a running agent has not given up, of what another process can see.
fn left_open(agent: &RunningAgent, kept: rustix::thread::CapabilitySet) -> Vec<Layer> {
    let credentials = &agent.credentials;
    let beyond = |set: CapabilitySet| set.0 & !kept.bits() != 0;
    let layers = [
        (Layer::Capabilities, beyond(credentials.effective) || beyond(credentials.permitted)),
        (Layer::NewPrivileges, !credentials.no_new_privs),
        (Layer::CoreDumps, agent.dumps_core == Some(true)),
        (Layer::SystemCalls, !credentials.seccomp_filter),
    ];
    layers.into_iter().filter(|(_, open)| *open).map(|(layer, _)| layer).collect()
}

fn warn(what: impl Into<String>, fix: impl Into<String>) -> Finding {
    lack(Area::Sandbox, Level::Warn, what, fix.into())
}
