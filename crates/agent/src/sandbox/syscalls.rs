//! System calls, by seccomp: those that the agent makes, and no others.
//!
//! What is not listed fails with EPERM. To end the agent instead would turn a call that a new version of the C library
//! makes, and could do without, into an outage of the measurement; an EPERM shows in the log of whoever made the call.
//!
//! No list holds `execve`, `ptrace`, `process_vm_readv`, `mount`, `bpf`, `io_uring_setup`, `perf_event_open`, `keyctl`,
//! `userfaultfd` or `listen`; `accept4` only that of the runtime's threads, for the socket at which the agent listens where that
//! is configured; and `clone` only as far as it makes threads.

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::process::getpid;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::{Extras, Lack, Layer};

mod legacy;
mod list;

/// The rules of one filter: a system call, and what its arguments have to be; nothing for any.
pub(super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Restricts the calling thread to what measuring takes: reading files, asking the kernel for sockets, and handing over
/// what was found.
pub(super) fn restrict_measuring(extras: Extras) -> Option<Lack> {
    restrict(|process| list::measuring(process, extras))
}

/// Restricts the calling thread, and those that it starts, to what sending, reloading and storing take.
pub(super) fn restrict_runtime(extras: Extras) -> Option<Lack> {
    restrict(|process| list::runtime(process, extras))
}

fn restrict(rules: impl FnOnce(Process) -> Result<Rules, BackendError>) -> Option<Lack> {
    let lack = |error: &dyn std::fmt::Display| Some(Lack::new(Layer::SystemCalls, error));
    let Some(architecture) = architecture() else {
        return lack(&"there is no list of system calls for this architecture");
    };
    let program = |rules, otherwise, then| -> Result<BpfProgram, BackendError> {
        SeccompFilter::new(rules, otherwise, then, architecture)?.try_into()
    };
    let programs = || -> Result<[BpfProgram; 2], BackendError> {
        let process = Process { pid: u64::from(getpid().as_raw_nonzero().get().unsigned_abs()) };
        Ok([
            // The arguments of clone3 are behind a pointer, where no filter can look. Without it, C libraries use clone.
            program(
                BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
                SeccompAction::Allow,
                SeccompAction::Errno(Errno::NOSYS.raw_os_error().unsigned_abs()),
            )?,
            program(
                rules(process)?,
                SeccompAction::Errno(Errno::PERM.raw_os_error().unsigned_abs()),
                SeccompAction::Allow,
            )?,
        ])
    };
    match programs() {
        Ok(programs) => {
            programs.iter().find_map(|program| apply_filter(program).err()).and_then(|error| lack(&error))
        }
        Err(error) => lack(&error),
    }
}

fn architecture() -> Option<TargetArch> {
    std::env::consts::ARCH.try_into().ok()
}

/// What rules about the agent itself need to know.
#[derive(Debug, Clone, Copy)]
struct Process {
    pid: u64,
}

/// An argument that equals a value.
fn is(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// An argument whose bits within a mask are those of a value.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

/// All of these conditions.
fn all<const COUNT: usize>(
    conditions: [Result<SeccompCondition, BackendError>; COUNT],
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// An argument that is one of some values.
fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| all([is(argument, *value)])).collect()
}

#[cfg(test)]
mod tests;
