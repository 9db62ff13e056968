//! What one look of the agent costs on a host with many connections, beside `ss`, `netstat` and `lsof` in the same run.
//!
//! The host is made for the occasion: a network and a PID namespace of its own (by unshare(1)), filled with loopback
//! connections and idle processes. The kernel ends all of it with this program, however it ends.

mod cpu;
mod load;
mod report;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use rustix::process::{Pid, Signal, getuid, kill_process};

use crate::load::{Load, Role, Watched};
use crate::report::{Cost, Report};

/// CPU time after which a command is not called again: its median would not move.
const ENOUGH: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
#[command(name = "vms-bench", about = "What one look of the agent costs beside ss, netstat and lsof")]
struct Arguments {
    /// The agent to measure.
    #[arg(long, value_name = "PATH", default_value = "target/release/vms-agent")]
    agent: PathBuf,
    /// Established loopback connections that the host has, each with both its sockets; in rising order.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    connections: Vec<usize>,
    /// Idle processes beside those that hold the connections.
    #[arg(long, value_name = "N", default_value_t = 500)]
    processes: usize,
    /// Links that the agent watches, each held by a process of its own at either end.
    #[arg(long, value_name = "N", default_value_t = 10)]
    probes: u16,
    /// Calls of each other program; their median counts.
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// The agent's cycles measured together.
    #[arg(long, value_name = "N", default_value_t = 20)]
    cycles: u32,
    /// Milliseconds between two cycles of the agent.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    interval: u64,
    /// Set on the second start of this program, in its own namespaces.
    #[arg(long, hide = true)]
    inside: bool,
    #[command(subcommand)]
    role: Option<Part>,
}

/// What this program's children do.
#[derive(Debug, Subcommand)]
enum Part {
    /// Holds connections.
    #[command(hide = true)]
    Hold(Role),
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Part::Hold(role)) => load::hold(&role).map(|()| ExitCode::SUCCESS),
        None if arguments.inside => measure(&arguments).map(|()| ExitCode::SUCCESS),
        None => Err(enter_namespaces()),
    }
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

fn measure(arguments: &Arguments) -> Result<()> {
    end_on_signal()?;
    let agent = fs::canonicalize(&arguments.agent)
        .with_context(|| format!("{} is missing: build the agent first", arguments.agent.display()))?;
    let up = program("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("ip, of iproute2, does not start")?;
    ensure!(up.success(), "the loopback interface cannot be set up");

    let mut load = Load::new()?;
    load.add_idle(arguments.processes)?;
    let watched = load.add_watched(arguments.probes)?;
    let mut report = Report::new(&agent, arguments.probes, arguments.processes)?;
    for &connections in &arguments.connections {
        say(&format!("{connections} connections ..."))?;
        load.grow_to(connections)?;
        report.add(connections, measure_size(arguments, &agent, &watched)?);
    }
    write!(io::stdout().lock(), "{report}")?;
    Ok(())
}

/// Everything that is measured with the present number of connections.
fn measure_size(arguments: &Arguments, agent: &Path, watched: &[Watched]) -> Result<Vec<Cost>> {
    let named = environment(arguments, watched, load::WATCHED_NAME);
    let any = environment(arguments, watched, "*");
    ensure_all_up(agent, &named, watched.len())?;

    let mut costs = vec![
        measure_agent(arguments, agent, &named, "one cycle of `vms-agent run`")?,
        measure_agent(arguments, agent, &any, "the same with `processName: \"*\"`")?,
        measure_command(arguments, "`vms-agent check`", || {
            let mut check = program(agent);
            check.arg("check").envs(named.iter().cloned());
            check
        })?,
    ];
    let mut filter = vec!["-tnH".to_owned(), "state".to_owned(), "established".to_owned(), "(".to_owned()];
    for (index, link) in watched.iter().enumerate() {
        filter.extend((index > 0).then(|| "or".to_owned()));
        filter.extend(["dst", &link.to_string(), "or", "src", &link.to_string()].map(str::to_owned));
    }
    filter.push(")".to_owned());
    let peers: [(&str, &str, Vec<String>); 4] = [
        ("`ss -tnH state established '( dst ... or src ... )'`", "ss", filter),
        ("`ss -tnp`", "ss", vec!["-tnp".to_owned()]),
        ("`netstat -nap`", "netstat", vec!["-nap".to_owned()]),
        ("`lsof -nP -iTCP`", "lsof", vec!["-nP".to_owned(), "-iTCP".to_owned()]),
    ];
    for (label, name, flags) in peers {
        costs.push(measure_command(arguments, label, || {
            let mut peer = program(name);
            peer.args(&flags);
            peer
        })?);
    }
    Ok(costs)
}

/// The agent's configuration, in variables alone.
fn environment(arguments: &Arguments, watched: &[Watched], process_name: &str) -> Vec<(OsString, OsString)> {
    let probes: Vec<_> = watched
        .iter()
        .map(|link| {
            serde_json::json!({
                "type": "connection_mon",
                "name": format!("link-{}", link.port()),
                "processName": process_name,
                "destServiceIp": link.ip(),
                "destServicePort": link.port(),
            })
        })
        .collect();
    [
        ("VMS_PROBES", serde_json::Value::from(probes).to_string()),
        ("VMS_INTERVAL", format!("{}ms", arguments.interval)),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317".to_owned()),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}

/// A benchmark of the wrong answer is none: each link must be seen up from both its ends.
fn ensure_all_up(agent: &Path, environment: &[(OsString, OsString)], watched: usize) -> Result<()> {
    let output =
        program(agent).args(["check", "--format", "json"]).envs(environment.iter().cloned()).output()?;
    ensure!(
        output.status.success(),
        "vms-agent check: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let links: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
    ensure!(links.len() == 2 * watched, "vms-agent check lists {} links, not {}", links.len(), 2 * watched);
    Ok(())
}

/// CPU of a cycle of the running agent, which exports to a receiver, as in production.
fn measure_agent(
    arguments: &Arguments,
    agent: &Path,
    environment: &[(OsString, OsString)],
    label: &str,
) -> Result<Cost> {
    let sink = Running(
        program(agent)
            .args(["sink", "--format", "json"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    let mut running = Running(
        program(agent)
            .arg("run")
            .envs(environment.iter().cloned())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    let interval = Duration::from_millis(arguments.interval);
    // The first cycles connect, fill caches and meet every process for the first time.
    thread::sleep(4 * interval);
    let before = cpu::read_process(running.0.id())?;
    thread::sleep(arguments.cycles * interval);
    let spent = cpu::read_process(running.0.id())?.saturating_sub(before);
    ensure!(
        spent < arguments.cycles * interval * 9 / 10,
        "the agent used {spent:?} in {} cycles: they overrun, choose a longer --interval",
        arguments.cycles
    );
    let memory = cpu::read_memory(running.0.id())?;
    running.stop()?;
    drop(sink);
    Ok(Cost { label: label.to_owned(), cpu: Some(spent / arguments.cycles), memory: Some(memory) })
}

/// Median CPU of a command, from fork to exit; none if it is not installed. What takes long is called less often.
fn measure_command(arguments: &Arguments, label: &str, command: impl Fn() -> Command) -> Result<Cost> {
    let mut times = Vec::new();
    while times.len() < arguments.runs && times.iter().sum::<Duration>() < ENOUGH {
        let before = cpu::read_children()?;
        let mut command = command();
        match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status() {
            Ok(status) if status.success() => times.push(cpu::read_children()?.saturating_sub(before)),
            Ok(status) => bail!("{label}: {status}"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error).context(label.to_owned()),
        }
    }
    times.sort_unstable();
    Ok(Cost { label: label.to_owned(), cpu: times.get(times.len() / 2).copied(), memory: None })
}

/// A program that is killed when its owner gives it up.
struct Running(Child);

impl Running {
    /// Asks it to end; it must do so without an error.
    fn stop(&mut self) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("a PID is positive")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "vms-agent run: {status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Either it has ended already, or it ends now: nothing else can happen to one's own child.
        drop(self.0.kill());
        drop(self.0.wait());
    }
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

#[expect(clippy::disallowed_methods, reason = "the benchmark is about other programs")]
fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(name)
}
