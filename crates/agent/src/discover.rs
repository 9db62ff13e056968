//! `vms-agent discover`: what this host's processes are connected with, as a table, or as probes that watch it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use vms_core::address::Endpoint;
use vms_core::connection::Direction;
use vms_core::discovery::{DiscoveryProbe, Edge, Listener, Map};
use vms_core::monitor::{Monitor, Terms};
use vms_core::observer::Finding;
use vms_core::probe::Probe;
use vms_core::process::{NameGlob, ProcessPattern};
use vms_process::{Privileges, ProcReader};
use vms_sock_diag::SockDiag;

use crate::clock::SystemClock;
use crate::terminal::{self, Cell, Format, Table, Tone};

/// What `discover` takes.
#[derive(Debug, Args)]
pub(crate) struct DiscoverArgs {
    /// Globs of the processes to look at, as in `processName` [default: all].
    #[arg(value_name = "PROCESS")]
    processes: Vec<NameGlob>,
    /// Print probes for what was found, as a configuration for both ends of each link.
    #[arg(long, conflicts_with = "format")]
    emit_config: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Where the proc file system is mounted that has the host's processes.
    #[arg(long, default_value = "/proc", value_name = "PATH")]
    proc_root: PathBuf,
}

/// Looks once, and prints what is found.
///
/// # Errors
/// When nothing could be looked at, or printed.
pub(crate) fn discover(args: &DiscoverArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let map = look(args)?;
    if args.emit_config {
        write_config(&map, out)?;
    } else {
        match args.format {
            Format::Text => write_table(&map, out)?,
            Format::Json => write_json(&map, out)?,
        }
    }
    Ok(())
}

/// What there is at this moment.
fn look(args: &DiscoverArgs) -> anyhow::Result<Map> {
    let connections = SockDiag::open(&args.proc_root).context("sockets cannot be read")?;
    let privileges = Privileges::read_own().context("the agent's own capabilities cannot be read")?;
    let processes = ProcReader::open(&args.proc_root, privileges)
        .context("processes cannot be read: correct --proc-root")?;
    let globs = if args.processes.is_empty() { vec![NameGlob::any()] } else { args.processes.clone() };
    let probe = DiscoveryProbe {
        name: "discover".into(),
        processes: globs.into_iter().map(|name| ProcessPattern { name, executable: None }).collect(),
        most: 0,
        interval: Duration::ZERO,
    };
    let probes = [Probe::Discovery(Arc::new(probe))];
    let mut monitor = Monitor::new(connections, processes, SystemClock::start(), probes, Terms::default())?;
    let others = monitor.check().context("this host could not be looked at; run `vms-agent doctor`")?.others;
    let finding = others.into_iter().next().map(|(_, finding)| finding).transpose();
    match finding.context("this host could not be looked at; run `vms-agent doctor`")? {
        Some(Finding::Map(map)) => Ok(map),
        Some(Finding::Standing(_)) | None => Ok(Map::default()),
    }
}

fn write_table(map: &Map, out: &mut impl Write) -> io::Result<()> {
    let plain = |text: String| Cell::new(Tone::Plain, text);
    if !map.listeners.is_empty() {
        let mut table = Table::new(["PROCESS", "LISTENS ON"]);
        for Listener { process, at } in map.listeners.keys() {
            table.row([plain(process.to_string()), plain(at.to_string())]);
        }
        table.write_to(out)?;
        writeln!(out)?;
    }
    let mut table = Table::new(["PROCESS", "DIRECTION", "SERVICE", "CONNECTIONS"]);
    for (Edge { process, direction, service }, connections) in &map.edges {
        table.row([
            plain(process.to_string()),
            plain(direction.as_str().to_owned()),
            plain(service.to_string()),
            plain(connections.to_string()),
        ]);
    }
    table.write_to(out)?;
    if map.listeners.is_empty() && map.edges.is_empty() {
        writeln!(out, "no process was seen that listens or is connected")?;
    }
    if map.unattributed > 0 {
        writeln!(out, "\n{}", unknown(map))?;
    }
    Ok(())
}

/// What may not be known, and what to do about it.
fn unknown(map: &Map) -> String {
    let missing = missing(map);
    let grant = if missing.is_empty() { String::new() } else { format!(": grant {}", missing.join(" and ")) };
    format!(
        "of {} more sockets it may not be learned who holds them{grant}; run `vms-agent doctor` for how",
        map.unattributed
    )
}

fn missing(map: &Map) -> Vec<&'static str> {
    map.missing.iter().map(|capability| capability.as_str()).collect()
}

#[derive(Debug, Serialize)]
struct Discovered {
    listeners: Vec<ListenerLine>,
    edges: Vec<EdgeLine>,
    unattributed: u64,
    /// The capabilities without which it may not be learned who holds those.
    missing: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct ListenerLine {
    process: String,
    address: String,
    port: u16,
}

#[derive(Debug, Serialize)]
struct EdgeLine {
    process: String,
    direction: &'static str,
    dest_ip: String,
    dest_port: u16,
    connections: u64,
}

fn write_json(map: &Map, out: &mut impl Write) -> io::Result<()> {
    let listener = |Listener { process, at }: &Listener| ListenerLine {
        process: process.to_string(),
        address: at.ip().to_string(),
        port: at.port(),
    };
    let edge = |(Edge { process, direction, service }, connections): (&Edge, &u64)| EdgeLine {
        process: process.to_string(),
        direction: direction.as_str(),
        dest_ip: service.ip().to_string(),
        dest_port: service.port(),
        connections: *connections,
    };
    let discovered = Discovered {
        listeners: map.listeners.keys().map(listener).collect(),
        edges: map.edges.iter().map(edge).collect(),
        unattributed: map.unattributed,
        missing: missing(map),
    };
    terminal::write_json(&discovered, out)
}

/// Writes probes for the links that there are, one for each pair of a service and a client. What runs at the other end on
/// another host is not known, and any process fits there.
fn write_config(map: &Map, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "# Links that were there when this was written, for the hosts at both ends of each.")?;
    writeln!(
        out,
        "# Where processName or destProcessName is \"*\", name the program that runs at that end."
    )?;
    if map.unattributed > 0 {
        writeln!(out, "# Links are missing: {}", unknown(map))?;
    }
    let probes = probes(map);
    if map.edges.keys().any(|edge| edge.process.contains(char::REPLACEMENT_CHARACTER)) {
        writeln!(out, "# A * within a name stands for bytes that are not UTF-8.")?;
    }
    if probes.is_empty() {
        writeln!(out, "# There was none, and the agent needs one.\nprobes: []")?;
        return Ok(());
    }
    writeln!(out, "probes:")?;
    for Emitted { name, client, server, service } in probes {
        writeln!(out, "  - type: connection_mon")?;
        writeln!(out, "    name: {}", quoted(&name))?;
        writeln!(out, "    processName: {}", quoted(&client))?;
        writeln!(out, "    destProcessName: {}", quoted(&server))?;
        writeln!(out, "    destServiceIp: {}", quoted(&service.ip().to_string()))?;
        writeln!(out, "    destServicePort: {}", service.port())?;
    }
    Ok(())
}

/// How long the name of a probe may be, in characters.
const MAX_NAME: usize = 255;

/// A probe to be written.
struct Emitted {
    name: String,
    client: String,
    server: String,
    service: Endpoint,
}

fn probes(map: &Map) -> Vec<Emitted> {
    let mut clients: BTreeMap<Endpoint, BTreeSet<&str>> = BTreeMap::new();
    let mut servers: BTreeMap<Endpoint, BTreeSet<&str>> = BTreeMap::new();
    for Edge { process, direction, service } in map.edges.keys() {
        let side = match direction {
            Direction::Forward => &mut clients,
            Direction::Reverse => &mut servers,
        };
        side.entry(*service).or_default().insert(process);
    }
    let services: BTreeSet<Endpoint> = clients.keys().chain(servers.keys()).copied().collect();
    let (mut probes, mut names_taken) = (Vec::new(), BTreeSet::new());
    for service in services {
        let names = |side: &BTreeMap<Endpoint, BTreeSet<&str>>| -> BTreeSet<String> {
            side.get(&service).into_iter().flatten().map(|name| literal(name)).collect()
        };
        let (clients, servers) = (names(&clients), names(&servers));
        let or_anybody = |names: BTreeSet<String>| -> BTreeSet<String> {
            if names.is_empty() { BTreeSet::from([ANY.to_owned()]) } else { names }
        };
        let servers = or_anybody(servers);
        let server = alternatives(&servers);
        for client in or_anybody(clients) {
            let name = if client == ANY {
                format!("{server} at {service}")
            } else {
                format!("{client} to {service}")
            };
            let name = distinct(&name, &mut names_taken);
            probes.push(Emitted { name, client, server: server.clone(), service });
        }
    }
    probes
}

/// That name, cut to what a probe may be called, and told from those that are taken.
fn distinct(name: &str, taken: &mut BTreeSet<String>) -> String {
    let mut candidate: String = name.chars().take(MAX_NAME).collect();
    let mut number = 1;
    while !taken.insert(candidate.clone()) {
        number += 1;
        let suffix = format!("-{number}");
        candidate = name.chars().take(MAX_NAME - suffix.len()).chain(suffix.chars()).collect();
    }
    candidate
}

/// The glob that every name fits.
const ANY: &str = "*";

/// A glob that this name fits, and as few others as can be written. A configuration takes what follows a dollar sign for a
/// reference, and has no words for bytes that are not UTF-8, of which one to three have been replaced each time.
fn literal(name: &str) -> String {
    let glob = NameGlob::literal(name).replace('$', "?").replace(char::REPLACEMENT_CHARACTER, ANY);
    if glob.chars().all(|character| character == '*') { ANY.to_owned() } else { glob }
}

/// One glob for all of them.
fn alternatives(names: &BTreeSet<String>) -> String {
    if names.contains(ANY) {
        return ANY.to_owned();
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match names.as_slice() {
        [name] => (*name).to_owned(),
        names => format!("{{{}}}", names.join(",")),
    }
}

/// As YAML takes it, and no terminal acts upon it, whatever is in it: JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    terminal::escape_json(&serde_json::Value::from(text).to_string()).into_owned()
}

#[cfg(test)]
mod tests;
