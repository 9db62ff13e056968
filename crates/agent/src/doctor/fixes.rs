//! What a fix looks like where the agent is to run, for somebody who asks from a shell.

use std::collections::BTreeMap;

use super::Finding;
use super::evaluate::evaluate as evaluate_here;
use super::facts::{Facts, Setting};

/// Judges. Of a process that was started by hand, each lack has its fix under systemd, Docker and Kubernetes as well: it says
/// nothing about how the agent will be started.
pub(super) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let mut findings = evaluate_here(facts);
    if facts.setting != Setting::Plain {
        return findings;
    }
    let ways = [
        ("systemd", Setting::Service("vms-agent".to_owned())),
        ("Docker", Setting::Container),
        ("Kubernetes", Setting::Kubernetes),
    ];
    for (name, setting) in ways {
        let elsewhere = evaluate_here(&Facts { setting, ..facts.clone() });
        let fixes: BTreeMap<&str, &str> = elsewhere
            .iter()
            .filter_map(|finding| Some((finding.what.as_str(), finding.fix.as_deref()?)))
            .collect();
        for finding in findings.iter_mut().filter(|finding| finding.fix.is_some()) {
            let fix = fixes.get(finding.what.as_str()).copied();
            if let Some(fix) = fix.filter(|fix| finding.fix.as_deref() != Some(*fix)) {
                finding.fix_under.insert(name, fix.to_owned());
            }
        }
    }
    findings
}
