//! What `vms-agent check` says of probes that count.

use std::io::{self, Write};

use serde::Serialize;
use vms_core::look::LookError;
use vms_core::name::Resolved;
use vms_core::observer::{Bounds, Finding, Standing, Status};
use vms_core::probe::Probe;

use crate::terminal::{Cell, Table, Tone, escape};

/// One line of the answer: a probe that counts.
#[derive(Debug, Serialize)]
pub(crate) struct Tally {
    name: String,
    r#type: &'static str,
    up: u8,
    status: &'static str,
    count: u64,
    unattributed: u64,
    min_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_count: Option<u64>,
    /// What host names of the probe were taken for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resolved: Vec<Name>,
    /// What is counted, in a few words.
    #[serde(skip)]
    what: String,
}

/// A host name and its addresses.
#[derive(Debug, Serialize)]
struct Name {
    name: String,
    addresses: Vec<String>,
    /// Why it may have others by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    overdue: Option<String>,
}

impl Name {
    fn new(resolved: &Resolved) -> Self {
        Self {
            name: resolved.name.to_string(),
            addresses: resolved.addresses.iter().map(ToString::to_string).collect(),
            overdue: resolved.overdue.as_ref().map(ToString::to_string),
        }
    }

    /// All of it in a few words.
    fn describe(&self) -> String {
        const SHOWN: usize = 8;
        let mut shown: Vec<&str> = self.addresses.iter().take(SHOWN).map(String::as_str).collect();
        let more = match self.addresses.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("and {more} more"),
        };
        shown.extend(Some(more.as_str()).filter(|more| !more.is_empty()));
        let overdue = self.overdue.as_ref().map_or_else(String::new, |cause| format!(" ({cause})"));
        format!("{} is {}{overdue}", self.name, shown.join(", "))
    }
}

impl Tally {
    fn new(probe: &Probe, standing: &Standing) -> Option<Self> {
        let (r#type, Bounds { least, most }, what) = match probe {
            Probe::Link(_) | Probe::Discovery(_) => return None,
            Probe::Watch(watch) => {
                let labels = watch.labels.iter().map(|(key, text)| match *key {
                    "proto" | "states" | "process_name" => text.to_string(),
                    "local_address" | "local_port" => format!("local {text}"),
                    _ => format!("remote {text}"),
                });
                ("connection", watch.bounds, labels.collect::<Vec<_>>().join(" "))
            }
            Probe::Presence(presence) => ("process_mon", presence.bounds, presence.process.name.to_string()),
        };
        Some(Self {
            name: probe.name().to_string(),
            r#type,
            up: u8::from(standing.status != Status::Down),
            status: standing.status.as_str(),
            count: standing.count,
            unattributed: standing.unattributed,
            min_count: least,
            max_count: most,
            resolved: standing.resolved.iter().map(Name::new).collect(),
            what,
        })
    }

    /// Whether there are enough.
    pub(crate) fn is_up(&self) -> bool {
        self.up == 1
    }

    /// How many are expected.
    fn expected(&self) -> String {
        match (self.min_count, self.max_count) {
            (least, None) => format!("at least {least}"),
            (0, Some(most)) => format!("at most {most}"),
            (least, Some(most)) if least == most => least.to_string(),
            (least, Some(most)) => format!("{least} to {most}"),
        }
    }
}

/// The lines of what was found, and the probes of which nothing could be told, with the reason.
pub(crate) fn counts(found: &[(Probe, Result<Finding, LookError>)]) -> (Vec<Tally>, Vec<(&str, &LookError)>) {
    let (mut counts, mut unknown) = (Vec::new(), Vec::new());
    for (probe, finding) in found {
        match finding {
            Ok(Finding::Map(_)) => {}
            Ok(Finding::Standing(standing)) => counts.extend(Tally::new(probe, standing)),
            Err(error) => unknown.push((probe.name().as_ref(), error)),
        }
    }
    (counts, unknown)
}

/// Prints the lines as a table.
///
/// # Errors
/// When the output cannot be written.
pub(super) fn write_table(counts: &[Tally], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(["PROBE", "STATUS", "COUNTS", "COUNT", "EXPECTED"]);
    for tally in counts {
        let tone = match tally.status {
            "up" => Tone::Ok,
            "warning" => Tone::Warn,
            _ => Tone::Error,
        };
        let plain = |text: String| Cell::new(Tone::Plain, text);
        let unknown = match tally.unattributed {
            0 => String::new(),
            unattributed => format!(" (+{unattributed} unknown)"),
        };
        table.row([
            plain(tally.name.clone()),
            Cell::new(tone, tally.status),
            plain(tally.what.clone()),
            plain(format!("{}{unknown}", tally.count)),
            plain(tally.expected()),
        ]);
    }
    table.write_to(out)?;
    for tally in counts {
        for name in &tally.resolved {
            writeln!(out, "{}: {}", escape(&tally.name), escape(&name.describe()))?;
        }
    }
    Ok(())
}
