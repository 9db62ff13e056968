//! The findings as a page.

use std::fmt::Write as _;
use std::path::Path;

use crate::arguments::Arguments;
use crate::run::Outcome;
use crate::verdict::Finding;

/// The page, in Markdown.
pub(crate) fn write(arguments: &Arguments, outcome: &Outcome, findings: &[Finding]) -> String {
    let content = outcome.record.content();
    let mut page = String::new();
    let minutes = arguments.minutes;
    let connections = outcome.world.made as f64 / minutes;
    let spool = &arguments.spool;
    let (applied, refused) = outcome.reloads;
    let faults: Vec<String> = outcome.faults.iter().map(|(name, times)| format!("{name} {times}")).collect();
    let dropped: Vec<String> =
        content.dropped().iter().map(|(reason, points)| format!("{reason} {points}")).collect();
    let dropped = if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") };
    let sent = content.counted("otel.sdk.exporter.metric_data_point.exported");
    let retried = content.counted("vms.agent.export.retried");
    let (warnings, errors) = outcome.logged;
    let lines = [
        "# The agent for a long time".to_owned(),
        format!(
            "Made by `make soak SOAK_MINUTES={minutes}`, seed {}, spool {spool}, on {}.",
            arguments.seed,
            machine()
        ),
        format!(
            "One agent looks at {} links each second. Meanwhile {connections:.0} connections a minute are made and \
             closed, links go down {} times, the configuration is replaced by a symbolic link and reloaded {} times \
             ({refused} of them refused as they have to be), and the collector fails {} times: {}. In the last third the \
             agent is killed with SIGKILL at random moments, {} times. Everything is compared with what the program that \
             does all this knows.",
            arguments.links,
            outcome.world.times_down(),
            applied + refused,
            outcome.faults.values().sum::<u32>(),
            faults.join(", "),
            outcome.away.len(),
        ),
        format!(
            "{sent} points were acknowledged, {retried} sent more than once; dropped by reason: {dropped}. The log has \
             {warnings} warnings of the exporter and {errors} errors."
        ),
        "![Memory, threads and descriptors, and what arrived](soak.svg)".to_owned(),
        "| what has to hold | figures | |\n|---|---|---|".to_owned(),
    ];
    page.push_str(&lines.join("\n\n"));
    page.push('\n');
    for finding in findings {
        let verdict = if finding.holds { "holds" } else { "**does not hold**" };
        let _never = writeln!(page, "| {} | {} | {verdict} |", finding.what, finding.figures);
    }
    page
}

/// The kernel and the processors.
fn machine() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpuinfo = std::fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("Linux {release}, {processors} x {model}").trim_end_matches(" x ").to_owned()
}
