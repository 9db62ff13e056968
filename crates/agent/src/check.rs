//! `vms-agent check`: one look for each probe, as a table or as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use vms_core::address::Endpoint;
use vms_core::connection::{Connection, Direction};
use vms_core::infer::{Attribution, AttributionMode, Attributions};
use vms_core::link::MatchedSource;
use vms_core::look::{DirectionLook, DownReason, MatchedConnection, ProbeLook};
use vms_core::probe::ConnectionProbe;
use vms_core::process::{Container, Process};

use crate::advice;
use crate::config::Config;
use crate::terminal::{self, Cell, Table, Tone};

mod counts;

use counts::MapLine;
pub(crate) use counts::{Others, Tally, others};

/// One line of the answer: a link in a direction, or a link that matched in none.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    direction: Option<&'static str>,
    up: u8,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    connections: usize,
    unattributed: usize,
    owners: Vec<Owner>,
    /// By what it is known that it is up, the surest way; told where holders may be inferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    attribution: Option<&'static str>,
    /// How many of the connections are only inferred to be its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    inferred: Option<u64>,
    dest_ip: String,
    dest_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    /// To what the destination is translated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    translated: Vec<Translated>,
    #[serde(flatten)]
    place: Place,
    #[serde(skip)]
    advice: Option<String>,
}

#[derive(Debug, Serialize)]
struct Owner {
    pid: u32,
    name: String,
    executable: Option<PathBuf>,
    #[serde(flatten)]
    place: Place,
}

/// Where on the host it is, as far as that is known.
#[derive(Debug, Default, Serialize)]
struct Place {
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_namespace: Option<String>,
}

impl Place {
    fn of(container: Option<&Container>) -> Self {
        let text = |value: Option<&Arc<str>>| value.map(ToString::to_string);
        let pod = container.and_then(|container| container.pod_name.as_deref());
        Self {
            container_id: text(container.and_then(|container| container.id.as_ref())),
            pod_uid: text(container.and_then(|container| container.pod_uid.as_ref())),
            pod_name: text(pod.map(|pod| &pod.name)),
            pod_namespace: text(pod.map(|pod| &pod.namespace)),
        }
    }

    /// The container by the beginning of its id, and the pod by its name, or else by its uid.
    fn describe(&self) -> Vec<String> {
        let container = self.container_id.as_deref().map(|id| {
            let id = id.split_at_checked(SHORT_ID).map_or(id, |(id, _)| id);
            format!("container {id}")
        });
        let named = self.pod_namespace.as_deref().zip(self.pod_name.as_deref());
        let named = named.map(|(namespace, name)| format!("pod {namespace}/{name}"));
        let pod = named.or_else(|| self.pod_uid.as_deref().map(|uid| format!("pod {uid}")));
        container.into_iter().chain(pod).collect()
    }
}

/// How much of a container's id names it, as container engines show it.
const SHORT_ID: usize = 12;

impl Owner {
    fn new(process: &Process) -> Self {
        Self {
            pid: process.pid.0,
            name: process.name.clone(),
            executable: process.executable.clone(),
            place: Place::of(process.container.as_deref()),
        }
    }

    /// `orders[813]`, and where it is.
    fn describe(&self) -> String {
        let place = self.place.describe();
        let place = if place.is_empty() { String::new() } else { format!(" ({})", place.join(", ")) };
        format!("{}[{}]{place}", self.name, self.pid)
    }
}

/// An endpoint to which the destination is translated, and how many of the connections go there.
#[derive(Debug, Serialize)]
struct Translated {
    ip: IpAddr,
    port: u16,
    connections: usize,
}

impl Translated {
    fn of(matched: &[&MatchedConnection], look: &DirectionLook) -> Vec<Self> {
        let mut counts: BTreeMap<Endpoint, usize> = BTreeMap::new();
        for end in matched.iter().filter_map(|matched| look.translated.get(&matched.connection.cookie)) {
            *counts.entry(*end).or_default() += 1;
        }
        let translated =
            |(end, connections): (Endpoint, usize)| Self { ip: end.ip(), port: end.port(), connections };
        counts.into_iter().map(translated).collect()
    }

    /// All of them in a few words.
    fn describe(all: &[Self]) -> String {
        const SHOWN: usize = 2;
        let mut ends: Vec<String> =
            all.iter().take(SHOWN).map(|end| Endpoint::new(end.ip, end.port).to_string()).collect();
        if all.len() > SHOWN {
            ends.push(format!("and {} more", all.len() - SHOWN));
        }
        ends.join(", ")
    }
}

impl Row {
    /// Whether the link is up.
    pub(crate) fn is_up(&self) -> bool {
        self.up == 1
    }

    /// A link that is up in a direction, with the connections of one source.
    fn up(
        probe: &ConnectionProbe,
        direction: Direction,
        source: &MatchedSource,
        matched: &[&MatchedConnection],
        look: &DirectionLook,
        unattributed: usize,
        mode: AttributionMode,
    ) -> Self {
        let mut owners: Vec<Owner> = Vec::new();
        for process in matched.iter().flat_map(|matched| &matched.owners) {
            if owners.iter().all(|owner| owner.pid != process.pid.0) {
                owners.push(Owner::new(process));
            }
        }
        owners.sort_unstable_by_key(|owner| owner.pid);
        let attributions: Attributions = matched.iter().map(|matched| matched.attribution).collect();
        let tells = mode == AttributionMode::Inferred;
        let configured_ip = probe.source_ip.as_ref().map(ToString::to_string);
        Self {
            direction: Some(direction.as_str()),
            up: 1,
            status: "up",
            connections: matched.len(),
            owners,
            attribution: attributions.surest().filter(|_| tells).map(Attribution::as_str),
            inferred: tells.then(|| attributions.by(Attribution::Cgroup) + attributions.by(Attribution::Uid)),
            source_ip: configured_ip.or_else(|| source.ip.map(|ip| ip.to_string())),
            source_port: probe.source_port.or(source.port),
            translated: Translated::of(matched, look),
            place: Place::of(source.container.as_deref()),
            ..Self::down(probe, None, unattributed)
        }
    }

    /// A link that is up in no direction.
    fn down(probe: &ConnectionProbe, reason: Option<DownReason>, unattributed: usize) -> Self {
        Self {
            name: probe.name.to_string(),
            direction: None,
            up: 0,
            status: "down",
            reason: reason.map(DownReason::as_str),
            connections: 0,
            unattributed,
            owners: Vec::new(),
            attribution: None,
            inferred: None,
            dest_ip: probe.dest_ip.to_string(),
            dest_port: probe.dest_port,
            source_ip: probe.source_ip.as_ref().map(ToString::to_string),
            source_port: probe.source_port,
            translated: Vec::new(),
            place: Place::default(),
            advice: reason.map(|reason| advice::for_down(probe, None, reason)),
        }
    }
}

/// A name on the command line that no probe has.
#[derive(Debug, thiserror::Error)]
#[error("no probe is named `{name}`: the configuration has {}", .known.join(", "))]
pub(crate) struct UnknownName {
    name: String,
    known: Vec<String>,
}

/// Leaves only the named probes in the configuration; all of them where none is named.
///
/// # Errors
/// When a name is no probe's.
pub(crate) fn select(mut config: Config, names: &[String]) -> Result<Config, UnknownName> {
    if names.is_empty() {
        return Ok(config);
    }
    let has = |name: &String| config.probes.iter().any(|probe| **probe.name() == **name);
    if let Some(unknown) = names.iter().find(|name| !has(name)) {
        let known = config.probes.iter().map(|probe| format!("`{}`", probe.name())).collect();
        return Err(UnknownName { name: unknown.clone(), known });
    }
    config.probes.retain(|probe| names.iter().any(|name| **name == **probe.name()));
    Ok(config)
}

/// The links that are up in no direction, and of which that says nothing: whoever fits lives where no connection is seen.
pub(crate) fn out_of_sight(looks: &[(Arc<ConnectionProbe>, ProbeLook)]) -> Vec<&str> {
    let unseen = looks.iter().filter(|(_, look)| is_unseen(look));
    unseen.map(|(probe, _)| probe.name.as_ref()).collect()
}

fn is_unseen(look: &ProbeLook) -> bool {
    look.is_out_of_sight(None) && !Direction::ALL.iter().any(|way| look.direction(*way).is_up())
}

/// The rows of what was found: one for each direction and, where asked for, source that matched; one without
/// direction where none did; and none of what is out of sight.
pub(crate) fn rows(looks: &[(Arc<ConnectionProbe>, ProbeLook)], mode: AttributionMode) -> Vec<Row> {
    let mut rows = Vec::new();
    for (probe, look) in looks.iter().filter(|(_, look)| !is_unseen(look)) {
        let before = rows.len();
        for direction in Direction::ALL {
            let look = look.direction(direction);
            let mut matched: BTreeMap<MatchedSource, Vec<&MatchedConnection>> = BTreeMap::new();
            for connection in &look.matched {
                let source = MatchedSource::of(probe, connection, direction);
                matched.entry(source).or_default().push(connection);
            }
            for (source, connections) in matched {
                let addresses = source.of_addresses();
                let same =
                    |other: &&Connection| MatchedSource::by_addresses(probe, other, direction) == addresses;
                let unattributed = look.unattributed.iter().filter(same).count();
                rows.push(Row::up(probe, direction, &source, &connections, look, unattributed, mode));
            }
        }
        if rows.len() == before {
            let look = look.undirected();
            rows.push(Row::down(probe, look.down_reason(), look.unattributed.len()));
        }
    }
    rows
}

/// A line of any kind.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Link(&'a Row),
    Tally(&'a Tally),
    Map(&'a MapLine),
}

/// Prints all lines as a JSON array.
///
/// # Errors
/// When the output cannot be written.
pub(crate) fn write_json(rows: &[Row], others: &Others, out: &mut impl Write) -> io::Result<()> {
    let Others { tallies, maps } = others;
    let others = tallies.iter().map(Line::Tally).chain(maps.iter().map(Line::Map));
    let lines: Vec<Line<'_>> = rows.iter().map(Line::Link).chain(others).collect();
    terminal::write_json(&lines, out)
}

/// Prints a table of links, one of what is counted and one of what is discovered, as far as there are any, and below them what
/// to do about each link that is down, and about what is not known.
///
/// # Errors
/// When the output cannot be written.
pub(crate) fn write_table(rows: &[Row], others: &Others, out: &mut impl Write) -> io::Result<()> {
    let Others { tallies, maps } = others;
    write_links(rows, out)?;
    if !rows.is_empty() && !tallies.is_empty() {
        writeln!(out)?;
    }
    counts::write_table(tallies, out)?;
    let is_preceded = !rows.is_empty() || !tallies.is_empty();
    if is_preceded && !maps.is_empty() {
        writeln!(out)?;
    }
    counts::write_maps(maps, out)?;
    for row in rows {
        if let (Some(reason), Some(advice)) = (row.reason, &row.advice) {
            writeln!(out, "\n{}: {reason}: {advice}", crate::terminal::escape(&row.name))?;
        }
    }
    counts::write_advice(others, out)
}

fn write_links(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    let headers = ["LINK", "STATUS", "DIRECTION", "SERVICE", "CONNECTIONS", "OWNER"];
    let mut table = Table::new(headers);
    for row in rows {
        let tone = if row.is_up() { Tone::Ok } else { Tone::Error };
        let plain = |text: String| Cell::new(Tone::Plain, text);
        let ip = if row.dest_ip.contains(':') { format!("[{}]", row.dest_ip) } else { row.dest_ip.clone() };
        let inferred =
            row.inferred.filter(|inferred| *inferred > 0).map(|inferred| format!("{inferred} inferred"));
        let unknown = (row.unattributed > 0).then(|| format!("+{} unknown", row.unattributed));
        let remarks: Vec<String> = inferred.into_iter().chain(unknown).collect();
        let connections = match remarks.as_slice() {
            [] => row.connections.to_string(),
            remarks => format!("{} ({})", row.connections, remarks.join(", ")),
        };
        let mut owners: Vec<String> = row.owners.iter().map(Owner::describe).collect();
        let seen = Attribution::Holder.as_str();
        owners.extend(row.attribution.filter(|way| *way != seen).map(|way| format!("(by {way})")));
        table.row([
            plain(row.name.clone()),
            Cell::new(tone, row.status),
            plain(row.direction.unwrap_or("-").to_owned()),
            plain(match row.translated.as_slice() {
                [] => format!("{ip}:{}", row.dest_port),
                all => format!("{ip}:{} -> {}", row.dest_port, Translated::describe(all)),
            }),
            plain(connections),
            plain(if owners.is_empty() { row.reason.unwrap_or("-").to_owned() } else { owners.join(" ") }),
        ]);
    }
    table.write_to(out)
}

#[cfg(test)]
mod tests;
