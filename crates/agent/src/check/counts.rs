//! What `vms-agent check` says of probes that count, and of those that discover.

use std::io::{self, Write};

use serde::Serialize;
use vms_core::discovery::{DiscoveryProbe, Map};
use vms_core::look::LookError;
use vms_core::name::Resolved;
use vms_core::observer::{Bounds, Finding, Standing, Status};
use vms_core::probe::Probe;
use vms_core::usage::Usage;

use crate::terminal::{Cell, Table, Tone, escape};

/// What is said of probes that are no links.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// Of those that count.
    pub(crate) tallies: Vec<Tally>,
    /// Of those that discover.
    pub(crate) maps: Vec<MapLine>,
}

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
    resolved: Vec<Meaning>,
    /// The capabilities without which it stays open whether there are enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<&'static str>,
    /// What the processes use.
    #[serde(flatten)]
    usage: Option<UsageFields>,
    /// What is counted, in a few words.
    #[serde(skip)]
    what: String,
    /// Whether it was asked what the processes use.
    #[serde(skip)]
    is_measured: bool,
}

/// What processes use together.
#[derive(Debug, Serialize)]
struct UsageFields {
    /// Since each of them started, in seconds.
    cpu_user_seconds: f64,
    cpu_system_seconds: f64,
    memory_usage_bytes: u64,
    memory_virtual_bytes: u64,
}

impl UsageFields {
    fn new(usage: Usage) -> Self {
        Self {
            cpu_user_seconds: usage.user.as_secs_f64(),
            cpu_system_seconds: usage.system.as_secs_f64(),
            memory_usage_bytes: usage.resident_bytes,
            memory_virtual_bytes: usage.virtual_bytes,
        }
    }

    /// `12.5 MiB, 3.2 s of CPU`.
    fn describe(&self) -> String {
        let bytes = self.memory_usage_bytes;
        let (mut tenths, mut unit) = (bytes / 1_024 * 10 + bytes % 1_024 * 10 / 1_024, "KiB");
        for larger in ["MiB", "GiB", "TiB"] {
            if tenths >= 10_240 {
                (tenths, unit) = (tenths / 1_024, larger);
            }
        }
        let cpu = self.cpu_user_seconds + self.cpu_system_seconds;
        format!("{}.{} {unit}, {cpu:.1} s of CPU", tenths / 10, tenths % 10)
    }
}

/// One line of the answer: a probe that discovers.
#[derive(Debug, Serialize)]
pub(crate) struct MapLine {
    name: String,
    r#type: &'static str,
    endpoints: usize,
    edges: usize,
    connections: u64,
    unattributed: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<&'static str>,
    /// The command that lists them.
    #[serde(skip)]
    command: String,
}

impl MapLine {
    fn new(probe: &DiscoveryProbe, map: &Map) -> Self {
        let globs = probe.processes.iter().map(|process| process.name.as_str());
        let globs: Vec<String> = globs.filter(|glob| *glob != "*").map(quote).collect();
        Self {
            name: probe.name.to_string(),
            r#type: "discovery",
            endpoints: map.listeners.len(),
            edges: map.edges.len(),
            connections: map.edges.values().sum(),
            unattributed: map.unattributed,
            missing: map.missing.iter().map(|capability| capability.as_str()).collect(),
            command: [String::from("vms-agent discover")]
                .into_iter()
                .chain(globs)
                .collect::<Vec<_>>()
                .join(" "),
        }
    }
}

/// A glob as a shell takes it for one argument.
fn quote(glob: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "._-+/".contains(character);
    if glob.chars().all(is_plain) { glob.to_owned() } else { format!("'{}'", glob.replace('\'', r"'\''")) }
}

/// A host name and its addresses.
#[derive(Debug, Serialize)]
struct Meaning {
    name: String,
    addresses: Vec<String>,
    /// Why it may have others by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    overdue: Option<String>,
}

impl Meaning {
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
            resolved: standing.resolved.iter().map(Meaning::new).collect(),
            missing: standing.missing.iter().map(|capability| capability.as_str()).collect(),
            usage: standing.usage.map(UsageFields::new),
            is_measured: matches!(probe, Probe::Presence(presence) if presence.resources),
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
pub(crate) fn others(found: &[(Probe, Result<Finding, LookError>)]) -> (Others, Vec<(&str, &LookError)>) {
    let (mut others, mut unknown) = (Others::default(), Vec::new());
    for (probe, finding) in found {
        match (finding, probe) {
            (Ok(Finding::Map(map)), Probe::Discovery(probe)) => others.maps.push(MapLine::new(probe, map)),
            (Ok(Finding::Map(_)), _) => {}
            (Ok(Finding::Standing(standing)), _) => others.tallies.extend(Tally::new(probe, standing)),
            (Err(error), _) => unknown.push((probe.name().as_ref(), error)),
        }
    }
    (others, unknown)
}

/// Prints what probes discovered as a table, and below it how to see all of it.
///
/// # Errors
/// When the output cannot be written.
pub(super) fn write_maps(maps: &[MapLine], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(["PROBE", "ENDPOINTS", "EDGES", "CONNECTIONS", "LISTED BY"]);
    for map in maps {
        let plain = |text: String| Cell::new(Tone::Plain, text);
        table.row([
            plain(map.name.clone()),
            plain(map.endpoints.to_string()),
            plain(map.edges.to_string()),
            plain(format!("{}{}", map.connections, unknown(map.unattributed))),
            plain(map.command.clone()),
        ]);
    }
    table.write_to(out)
}

/// How many more there may be.
fn unknown(unattributed: u64) -> String {
    match unattributed {
        0 => String::new(),
        unattributed => format!(" (+{unattributed} unknown)"),
    }
}

/// Prints what to do about what is not known.
///
/// # Errors
/// When the output cannot be written.
pub(super) fn write_advice(others: &Others, out: &mut impl Write) -> io::Result<()> {
    let of_tallies = others.tallies.iter().map(|tally| (&tally.name, tally.unattributed, &tally.missing));
    let of_maps = others.maps.iter().map(|map| (&map.name, map.unattributed, &map.missing));
    for (name, unattributed, missing) in
        of_tallies.chain(of_maps).filter(|(_, _, missing)| !missing.is_empty())
    {
        writeln!(
            out,
            "\n{}: of {unattributed} more it may not be learned whether they count: grant {}; run `vms-agent doctor` for how",
            escape(name),
            missing.join(" and ")
        )?;
    }
    Ok(())
}

/// Prints the lines as a table.
///
/// # Errors
/// When the output cannot be written.
pub(super) fn write_table(counts: &[Tally], out: &mut impl Write) -> io::Result<()> {
    let is_measured = counts.iter().any(|tally| tally.is_measured);
    let uses = if is_measured { "USES" } else { "" };
    let mut table = Table::new(["PROBE", "STATUS", "COUNTS", "COUNT", "EXPECTED", uses]);
    for tally in counts {
        let tone = match tally.status {
            "up" => Tone::Ok,
            "warning" => Tone::Warn,
            _ => Tone::Error,
        };
        let plain = |text: String| Cell::new(Tone::Plain, text);
        table.row([
            plain(tally.name.clone()),
            Cell::new(tone, tally.status),
            plain(tally.what.clone()),
            plain(format!("{}{}", tally.count, unknown(tally.unattributed))),
            plain(tally.expected()),
            plain(match &tally.usage {
                Some(usage) => usage.describe(),
                None if tally.is_measured => "could not be read".to_owned(),
                None => String::new(),
            }),
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
