//! `vms-agent health`: whether the agent of this host, or of this container, goes on measuring.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::heartbeat::{self, Unknown, Vitality};
use crate::terminal::escape;

/// What `health` takes.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// How long ago the agent may have shown life; it does so every 15 seconds, and after each cycle.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    pub(crate) max_age: Duration,
    /// The directory of the agent's heartbeat [default: `$RUNTIME_DIRECTORY`, /run/vms-agent, /dev/shm/vms-agent-UID].
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
}

/// Why the agent does not count as alive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAlive {
    /// Nothing is known of it.
    #[error("not alive (start it with `vms-agent run`, and ask as the user that it runs as, or as root)")]
    Unknown(#[source] Unknown),
    /// It runs, and its measuring thread does not come round.
    #[error(
        "not alive: the agent with PID {pid} runs, and has not come round to measuring for {seconds} s; it hangs in the \
         kernel or is kept from running: its log tells the last cycle, and a restart is the way out"
    )]
    Stuck {
        /// Of the agent.
        pid: i32,
        /// How long.
        seconds: u64,
    },
}

/// Says whether the agent is alive.
///
/// # Errors
/// When it is not.
pub(crate) fn examine(
    args: &HealthArgs,
    places: Vec<PathBuf>,
    uptime: Duration,
) -> Result<Vitality, NotAlive> {
    let places = args.directory.clone().map_or(places, |directory| vec![directory]);
    let vitality = heartbeat::read(&places, uptime).map_err(NotAlive::Unknown)?;
    if vitality.age > args.max_age {
        return Err(NotAlive::Stuck { pid: vitality.pid, seconds: vitality.age.as_secs() });
    }
    Ok(vitality)
}

/// Prints a line about an agent that is alive.
///
/// # Errors
/// When `output` cannot be written.
pub(crate) fn print(vitality: &Vitality, output: &mut dyn Write) -> io::Result<()> {
    let Vitality { pid, age, cycles } = vitality;
    let line = format!("alive: PID {pid} came round {} s ago, after {cycles} cycles", age.as_secs());
    writeln!(output, "{}", escape(&line))
}
