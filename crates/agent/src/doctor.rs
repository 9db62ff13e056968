//! `vms-agent doctor`: what this host allows, and the exact fix for each lack.
//!
//! [`read::read_facts`] looks, [`evaluate::evaluate`] judges, [`render_text`] and [`render_json`] show.

use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

pub(crate) mod collector;
pub(crate) mod evaluate;
pub(crate) mod facts;
pub(crate) mod read;

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
    /// Some measurements will be missing or marked as unknown.
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
}

/// 0 when every finding is ok, 1 otherwise. (2 is for a configuration that cannot be loaded.)
pub(crate) fn exit_code(findings: &[Finding]) -> ExitCode {
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

/// Writes aligned lines, styled: `output` is expected to strip styles where they are not wanted (anstream).
///
/// # Errors
/// When `output` cannot be written.
pub(crate) fn render_text(findings: &[Finding], output: &mut dyn Write) -> io::Result<()> {
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
            finding.what
        )?;
        if let Some(fix) = &finding.fix {
            writeln!(output, "{:indent$}{bold}fix:{bold:#} {fix}", "")?;
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
pub(crate) fn render_json(findings: &[Finding], output: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *output, findings)?;
    writeln!(output)
}

#[cfg(test)]
mod tests;
