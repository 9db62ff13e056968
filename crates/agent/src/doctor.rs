//! `vms-agent doctor`: what this host allows, and the exact fix for each lack.
//!
//! [`read`] looks, [`evaluate`] judges, and what is left here shows.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use vms_conntrack::Conntrack;
use vms_core::address::Endpoint;
use vms_core::allowance::Allowance;
use vms_core::connection::{CgroupId, ConnectionFilter, TcpState, TcpStates};
use vms_core::infer::{InferenceLack, OutsiderQuery};
use vms_core::process::ProcessSelector;
use vms_core::{ConnAdapter, ProcessAdapter};
use vms_process::ProcReader;
use vms_sock_diag::SockDiag;

use self::facts::{CollectorProblem, Facts, Refusal};
use crate::config::{Config, ConntrackMode, Exporter};
use crate::environment::Environment;
use crate::host;
use crate::prometheus::Listener;
use crate::terminal::{self, Format, escape};

mod conntrack;
mod evaluate;
mod facts;
mod fixes;
mod inference;
mod links;
pub(crate) mod read;
mod restraint;
mod scrapes;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Area {
    /// What the agent may do.
    Privileges,
    /// Which processes it sees.
    Processes,
    /// Whose sockets it sees.
    Network,
    /// What the kernel offers.
    Kernel,
    /// Where measurements go.
    Collector,
    /// What the agent gives up once it runs.
    Sandbox,
    /// What is configured to be measured.
    Probes,
}

impl Area {
    const WIDTH: usize = "privileges".len();

    fn as_str(self) -> &'static str {
        match self {
            Self::Privileges => "privileges",
            Self::Processes => "processes",
            Self::Network => "network",
            Self::Kernel => "kernel",
            Self::Collector => "collector",
            Self::Sandbox => "sandbox",
            Self::Probes => "probes",
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Some measurements will be missing or marked as unknown, or the agent is less protected than it could be.
    Warn,
    /// Nothing can be measured or delivered, or what is measured is something else than what is meant.
    Fail,
}

impl Level {
    const WIDTH: usize = "warn".len();

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Ok => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default().bold(),
            Self::Fail => AnsiColor::Red.on_default().bold(),
        }
    }
}

/// One thing found out about this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about.
    pub(crate) area: Area,
    /// How bad it is.
    pub(crate) level: Level,
    /// What is so, and what it means.
    pub(crate) what: String,
    /// A command to run or a line to configure; `null` in JSON when there is none.
    pub(crate) fix: Option<String>,
    /// What it would be where the agent is started in another way, by the name of that.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) fix_under: BTreeMap<&'static str, String>,
}

/// Looks at this host, and judges.
pub(crate) async fn examine(config: &Config, environment: &Environment) -> Vec<Finding> {
    let collector = match &config.exporter {
        Exporter::Otlp(export) => Some(match vms_export::probe_collector(export).await {
            Ok(reached) => Ok(format!("{} ({})", vms_export::shown_endpoint(&export.endpoint), reached.peer)),
            Err(error) => Err(CollectorProblem::from(&error)),
        }),
        Exporter::Console | Exporter::None => None,
    };
    let mut processes = host::processes(config).ok();
    let hidden = processes.as_ref().and_then(|processes| processes.hidden_processes().ok());
    let links: Vec<_> = config.links().cloned().collect();
    let sources = read::Sources {
        root: Path::new("/"),
        own_proc: Path::new("/proc"),
        proc_root: &config.proc_root,
        variable: &|name| environment.get(name).map(str::to_owned),
        executable: std::env::current_exe().unwrap_or_else(|_unknown| "vms-agent".into()),
        hidden,
        spool: match &config.exporter {
            Exporter::Otlp(export) => export.spool.as_ref().map(|spool| spool.directory.as_path()),
            Exporter::Console | Exporter::None => None,
        },
        probes: &links,
        sandbox: config.sandbox,
        attribution: config.terms.attribution,
        inference: processes.as_mut().map(try_inference).unwrap_or_default(),
        namespaces: config.terms.namespaces,
    };
    let facts = read::read_facts(
        &sources,
        &mut || try_sockets(&config.proc_root),
        &mut || links::read(config),
        collector,
    );
    let conntrack = (config.conntrack == ConntrackMode::Auto).then(|| try_conntrack(&config.proc_root));
    // A running agent listens there itself.
    let is_free = facts.agents.is_empty();
    let scrapes =
        config.prometheus.map(|address| (address, if is_free { try_listening(address) } else { Ok(()) }));
    fixes::evaluate(&Facts { conntrack, scrapes, ..facts })
}

/// Prints what was found.
///
/// # Errors
/// When `output` cannot be written.
pub(crate) fn print(findings: &[Finding], format: Format, output: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Text => render_text(findings, output),
        Format::Json => render_json(findings, output),
    }
}

/// 0 when every finding is ok, 1 otherwise.
pub(crate) fn exit_status(findings: &[Finding]) -> u8 {
    u8::from(findings.iter().any(|finding| finding.level != Level::Ok))
}

/// Whether the kernel tells its sockets: asks for one that need not exist.
fn try_sockets(proc_root: &Path) -> Result<(), Refusal> {
    let endpoint = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 1);
    let filter = ConnectionFilter::new(TcpStates::of(&[TcpState::Established]), [endpoint]);
    SockDiag::open(proc_root)
        .and_then(|mut sockets| sockets.dump(&filter))
        .map(drop)
        .map_err(|error| Refusal::new(&error))
}

/// Whether the kernel tells translations: asks for those of a service that need not exist.
fn try_conntrack(proc_root: &Path) -> Result<(), Refusal> {
    let service = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 1);
    Conntrack::new(proc_root).read(&[service]).map(drop).map_err(|error| Refusal::new(&error))
}

/// Whether the agent could listen there.
fn try_listening(address: SocketAddr) -> Result<(), String> {
    Listener::bind(address).map(drop).map_err(|error| error.root_cause().to_string())
}

/// What stands in the way of telling who is left to hold a socket: asks for a cgroup and a user that nobody has.
fn try_inference(processes: &mut ProcReader) -> BTreeSet<InferenceLack> {
    let query = OutsiderQuery {
        selector: &ProcessSelector::default(),
        cgroups: &CgroupId::new(u64::MAX).into_iter().collect(),
        uids: &BTreeSet::from([u32::MAX]),
        sockets: &HashSet::new(),
        now: Duration::ZERO,
        allowance: &Allowance::unlimited(),
    };
    processes.find_outsiders(&query).map(|scan| scan.lacks).unwrap_or_default()
}

/// Writes aligned lines, styled: `output` is expected to strip styles where they are not wanted (anstream).
///
/// # Errors
/// When `output` cannot be written.
fn render_text(findings: &[Finding], output: &mut dyn Write) -> io::Result<()> {
    let indent = Level::WIDTH + Area::WIDTH + 4;
    let bold = Style::new().bold();
    for finding in findings {
        let style = finding.level.style();
        let (level, area) = (finding.level.as_str(), finding.area.as_str());
        writeln!(
            output,
            "{style}{level:<0$}{style:#}  {area:<1$}  {2}",
            Level::WIDTH,
            Area::WIDTH,
            escape(&finding.what)
        )?;
        if let Some(fix) = &finding.fix {
            writeln!(output, "{:indent$}{bold}fix:{bold:#} {}", "", escape(fix))?;
        }
        for (setting, fix) in &finding.fix_under {
            writeln!(output, "{:indent$}{bold}{setting}:{bold:#} {}", "", escape(fix))?;
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (ok, warn, fail) = (count(Level::Ok), count(Level::Warn), count(Level::Fail));
    writeln!(output, "{ok} ok, {warn} to improve, {fail} to repair")
}

/// Writes an array of findings.
///
/// # Errors
/// When `output` cannot be written.
fn render_json(findings: &[Finding], mut output: &mut dyn Write) -> io::Result<()> {
    terminal::write_json(&findings, &mut output)
}

#[cfg(test)]
mod tests;
