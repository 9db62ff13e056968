//! Capabilities, and what a process can gain or leak.

use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use vms_core::namespace::Namespaces;

use super::{Extras, Lack, Layer};
use crate::config::ConntrackMode;

/// What the measuring thread keeps, if it was given: both are needed to read which sockets other users' processes hold.
const KEPT: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// What it keeps beside to read connection tracking. The kernel asks for it at each request, of the thread that asks as well as
/// of the one that opened the socket (`netlink_net_capable`): a socket alone does not carry the right.
const FOR_CONNTRACK: CapabilitySet = CapabilitySet::NET_ADMIN;

/// What it keeps beside to enter other network namespaces.
const FOR_NAMESPACES: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// The capabilities that the measuring thread keeps, if it was given them.
pub(crate) fn kept(extras: Extras) -> CapabilitySet {
    let mut kept = KEPT;
    if extras.conntrack == ConntrackMode::Auto {
        kept |= FOR_CONNTRACK;
    }
    if extras.namespaces == Namespaces::All {
        kept |= FOR_NAMESPACES;
    }
    kept
}

/// Restricts the calling thread, which is to be the only one, and so all that follow.
pub(super) fn restrict_process(kept: CapabilitySet) -> Vec<Lack> {
    let lacks = [
        drop_capabilities(kept).err().map(|errno| Lack::new(Layer::Capabilities, errno)),
        set_no_new_privs(true).err().map(|errno| Lack::new(Layer::NewPrivileges, errno)),
        forbid_dumps().err().map(|errno| Lack::new(Layer::CoreDumps, errno)),
    ];
    lacks.into_iter().flatten().collect()
}

/// Gives up what the runtime's threads do not need: all, or all but `CAP_DAC_READ_SEARCH` where a file that is read again
/// at a reload, or when a certificate is renewed, cannot be read without it.
pub(super) fn restrict_runtime(to_read_again: &[PathBuf]) -> Option<Lack> {
    let restrict = || {
        let had = capabilities(None)?;
        set_capabilities(None, CapabilitySets { effective: CapabilitySet::empty(), ..had })?;
        // Not opened for reading to wait: what was a file a moment ago can be a pipe now.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let refused =
            |file: &PathBuf| open(file, flags, Mode::empty()).is_err_and(|errno| errno == Errno::ACCESS);
        let kept = if to_read_again.iter().any(refused) {
            had.permitted & CapabilitySet::DAC_READ_SEARCH
        } else {
            CapabilitySet::empty()
        };
        keep(kept)
    };
    restrict().err().map(|errno: Errno| Lack::new(Layer::Capabilities, errno))
}

fn drop_capabilities(kept: CapabilitySet) -> Result<(), Errno> {
    let had = capabilities(None)?;
    // Only who has CAP_SETPCAP may lower its bounding set. For others it is no loss: with no_new_privs no program that is
    // started gains what is in there.
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if kept.contains(capability) {
                continue;
            }
            match capability_is_in_bounding_set(capability) {
                Ok(true) => remove_capability_from_bounding_set(capability)?,
                Ok(false) => {}
                // The kernel knows no more of them.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
    }
    // Kernels before 4.3 have no ambient set.
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(errno),
    }
    keep(had.permitted & kept)
}

fn keep(kept: CapabilitySet) -> Result<(), Errno> {
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}

/// Neither a file nor another process of the same user gets at the memory, which holds secrets.
fn forbid_dumps() -> Result<(), Errno> {
    // Beside the other, this is for whoever looks at the limits: where it is forbidden, nothing is lost.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).ok();
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
