//! What the agent is allowed to see of other users' processes.

use std::collections::BTreeSet;
use std::io;

use rustix::process::{Gid, getegid, getgroups};
use rustix::thread::{CapabilitySet, capabilities};
use vms_core::process::Capability;

/// What decides how much of other users' processes the kernel shows to the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Whether `CAP_SYS_PTRACE` is effective: the links of other users' descriptors can be read, and no `hidepid`
    /// applies.
    pub sys_ptrace: bool,
    /// Whether `CAP_DAC_READ_SEARCH` is effective, or `CAP_DAC_OVERRIDE`, which includes it: other users'
    /// `/proc/PID/fd` can be listed.
    pub dac_read_search: bool,
    /// The effective and the supplementary group ids: members of the group that a /proc was mounted with
    /// (`gid=`) are exempt from its `hidepid`.
    pub groups: BTreeSet<u32>,
}

impl Privileges {
    /// The privileges of the calling thread. Those of another thread can differ, if it changed them for itself.
    ///
    /// # Errors
    /// When the kernel does not tell: capget(2) or getgroups(2) failed.
    pub fn read_own() -> io::Result<Self> {
        let effective = capabilities(None)?.effective;
        let mut groups: BTreeSet<u32> = getgroups()?.into_iter().map(Gid::as_raw).collect();
        groups.insert(getegid().as_raw());
        Ok(Self {
            sys_ptrace: effective.contains(CapabilitySet::SYS_PTRACE),
            dac_read_search: effective
                .intersects(CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE),
            groups,
        })
    }

    /// The capabilities whose absence explains a refusal.
    ///
    /// None where the agent holds what guards the step: of a process in another user namespace it does not count, and
    /// a security module may forbid what a capability allows. To name one then would send its reader to grant what is
    /// granted.
    pub(crate) fn missing(&self, refusal: Refusal) -> BTreeSet<Capability> {
        let needed: &[Capability] = match refusal {
            Refusal::ReadDescriptor => &[Capability::SysPtrace],
            Refusal::ListDescriptors | Refusal::Enter => &Capability::ALL,
        };
        needed.iter().copied().filter(|capability| !self.holds(*capability)).collect()
    }

    fn holds(&self, capability: Capability) -> bool {
        match capability {
            Capability::SysPtrace => self.sys_ptrace,
            Capability::DacReadSearch => self.dac_read_search,
        }
    }
}

/// The step at which the kernel refused to show a process.
///
/// Measured: of another user's process, a non-root agent without capabilities or with only `CAP_SYS_PTRACE` is
/// refused the listing of `fd`; one with only `CAP_DAC_READ_SEARCH`, or root without `CAP_SYS_PTRACE`, may list
/// and not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing below `/proc/PID` is shown: `EPERM`, of `hidepid=noaccess`.
    Enter,
    /// `/proc/PID/fd` cannot be listed: `EACCES`, of its mode `0500`.
    ListDescriptors,
    /// The links in `/proc/PID/fd` cannot be read: `EACCES`, of the kernel's check for ptrace.
    ReadDescriptor,
}

#[cfg(test)]
mod tests;
