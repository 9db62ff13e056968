//! CPU time and memory of processes, as the kernel accounts for them.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

/// User and system time of all threads of a running process, to the nanosecond: the first field of
/// /proc/PID/task/TID/schedstat (`Documentation/scheduler/sched-stats.rst`). /proc/PID/stat counts in ticks of 10 ms,
/// which is more than a cycle takes.
pub(crate) fn read_process(pid: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that ends in between takes its time with it; the agent keeps its threads.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        total +=
            parse_schedstat(&text).with_context(|| format!("/proc/{pid}/task/TID/schedstat: {text:?}"))?;
    }
    Ok(total)
}

/// User and system time of all children that have ended and of theirs.
pub(crate) fn read_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

/// Resident memory of a process.
pub(crate) fn read_memory(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field =
        |name| parse_status_bytes(&text, name).with_context(|| format!("/proc/{pid}/status has no {name}"));
    Ok(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
}

fn parse_schedstat(text: &str) -> Option<Duration> {
    text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

fn parse_status_bytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn duration(time: TimeVal) -> Duration {
    Duration::from_secs(time.tv_sec().unsigned_abs()) + Duration::from_micros(time.tv_usec().unsigned_abs())
}
