//! What a process uses, as the kernel counts it.

use std::fs;

use rustix::process::Pid;

/// Memory, threads and descriptors of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in KiB.
    pub resident_kib: u64,
    /// What of it is the process's own, and not of its program and libraries, in KiB.
    pub own_kib: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

impl Usage {
    /// What a process uses that runs.
    #[must_use]
    #[track_caller]
    pub fn of(pid: Pid) -> Self {
        Self::read(pid).unwrap_or_else(|| panic!("the process {pid:?} runs"))
    }

    /// What a process uses; none when it has ended.
    #[must_use]
    pub fn read(pid: Pid) -> Option<Self> {
        let pid = pid.as_raw_nonzero();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            resident_kib: field("VmRSS:")?,
            own_kib: field("RssAnon:")?,
            threads: field("Threads:")?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count().try_into().ok()?,
        })
    }

    /// Whether it is no more than that, give or take what comes and goes.
    #[must_use]
    pub fn is_within(&self, before: &Self, slack: &Self) -> bool {
        self.resident_kib <= before.resident_kib + slack.resident_kib
            && self.own_kib <= before.own_kib + slack.own_kib
            && self.threads <= before.threads + slack.threads
            && self.descriptors <= before.descriptors + slack.descriptors
    }
}
