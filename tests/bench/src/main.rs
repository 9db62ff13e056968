//! What the agent costs on hosts of all sizes, beside other tools, in the same run.
//!
//! Each host is made for the occasion, in a network, a PID and a mount namespace of its own (by unshare(1)); the far
//! ends of the watched links live in a second network namespace. The kernel ends all of it with this program, however
//! it ends.

mod agent;
mod arguments;
mod cpu;
mod ends;
mod figures;
mod floor;
mod host;
mod links;
mod load;
mod machine;
mod measure;
mod namespaces;
mod peers;
mod plot;
mod pods;
mod program;
mod receiver;
mod report;
mod scrape;
mod services;
mod sockets;
mod targets;
mod watches;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use rustix::mount::{MountFlags, mount};
use rustix::process::getuid;

use crate::arguments::{Arguments, Part};
use crate::program::program;

/// Where the configurations lie that are handed to other programs: a file system of this mount namespace, gone with it.
const SCRATCH: &str = "/run";
/// The most connections that may wait to be accepted, in this network namespace.
const LISTEN_LIMIT: &str = "/proc/sys/net/core/somaxconn";
const QUEUE: usize = 65_535;

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match &arguments.role {
        Some(Part::Sockets(role)) => sockets::hold(role)?,
        Some(Part::Ends(role)) => ends::serve(role)?,
        Some(Part::Pods(role)) => pods::serve(role)?,
        Some(Part::Scrape(role)) => scrape::serve(role)?,
        None if arguments.inside => {
            furnish()?;
            measure::run(&arguments)?;
        }
        None => return Err(enter_namespaces()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts this program again in namespaces of its own; returns only if that fails.
fn enter_namespaces() -> anyhow::Error {
    let Ok(this) = std::env::current_exe() else {
        return anyhow::anyhow!("this program's own path is unknown");
    };
    let mut unshare = program("unshare");
    unshare.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !getuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let error = unshare.arg("--").arg(this).arg("--inside").args(std::env::args_os().skip(1)).exec();
    anyhow::Error::from(error).context("unshare(1), of util-linux, does not start")
}

/// Makes the new namespaces fit to live in.
fn furnish() -> Result<()> {
    end_on_signal()?;
    mount("tmpfs", SCRATCH, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)
        .with_context(|| format!("a tmpfs on {SCRATCH}"))?;
    if let Err(error) = fs::write(LISTEN_LIMIT, QUEUE.to_string()) {
        say(&format!("{LISTEN_LIMIT}: {error}; connections will take longer to make"))?;
    }
    program::succeed("ip", ["link", "set", "lo", "up"])
}

/// As the first process of its PID namespace, this program would ignore Ctrl-C. Its end is the end of all others.
fn end_on_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
        });
        std::process::exit(130);
    });
    Ok(())
}

/// Progress, apart from the report.
fn say(text: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{text}")
}

/// The report.
fn print(text: &str) -> io::Result<()> {
    write!(io::stdout().lock(), "{text}")
}
