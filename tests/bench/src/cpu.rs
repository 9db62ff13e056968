//! CPU time, memory and descriptors of processes, as the kernel accounts for them.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::time::ClockId;
use nix::unistd::Pid;

/// What a process takes up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprint {
    /// Resident bytes now.
    pub(crate) resident: u64,
    /// The most bytes that were ever resident.
    pub(crate) peak: u64,
    /// Open file descriptors.
    pub(crate) descriptors: usize,
}

/// User and system time of a running process, to the nanosecond: its CPU clock (`clock_getcpuclockid(3)`), which is the
/// sum of what /proc/PID/task/TID/schedstat shows, with the threads that have ended. /proc/PID/stat counts in ticks of
/// 10 ms, which is more than a cycle takes.
pub(crate) fn read_process(pid: u32) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid)?))?;
    clock.now().map(Duration::from).with_context(|| format!("the CPU clock of process {pid}"))
}

/// User and system time of the calling thread.
pub(crate) fn read_thread() -> Result<Duration> {
    Ok(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?.into())
}

/// User and system time of all children that have ended and of theirs.
pub(crate) fn read_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

/// What a process takes up.
pub(crate) fn read_footprint(pid: u32) -> Result<Footprint> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name| parse_kib(&text, name).with_context(|| format!("/proc/{pid}/status has no {name}"));
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok(Footprint { resident: field("VmRSS:")?, peak: field("VmHWM:")?, descriptors })
}

/// The bytes behind a name in a file such as /proc/PID/status.
pub(crate) fn parse_kib(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn duration(time: TimeVal) -> Duration {
    Duration::from_secs(time.tv_sec().unsigned_abs()) + Duration::from_micros(time.tv_usec().unsigned_abs())
}
