//! The agent for a long time: links that go up and down, thousands of connections a minute, a collector that fails again
//! and again, reloads, and in the last third kills at random moments. At the end it is checked against what this program
//! knows: whether an answer was false, anything was lost or late, and whether memory, threads and descriptors were flat.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a failure of the harness is the failure of the soak; figures are small"
)]

mod arguments;
mod collector;
mod picture;
mod record;
mod report;
mod run;
mod subject;
mod verdict;
mod world;

use std::fs;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::arguments::Arguments;

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let outcome = run::run(&arguments)?;
    let findings = verdict::judge(&arguments, &outcome);
    let text = report::write(&arguments, &outcome, &findings);
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")?;
    if let Some(directory) = &arguments.output {
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        write("soak.md", &text)?;
        write("soak.svg", &picture::draw(&outcome)?)?;
    }
    let sound = findings.iter().all(|finding| finding.holds);
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
