//! How many descriptors the agent may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::kept::MAX_HANDLES;

/// What the handles take at most, and as many again and some for all else: a memory takes no more than half.
const WANTED: u64 = 2 * MAX_HANDLES + 1024;

/// Raises the limit to what can be made use of, as far as it may be raised, and returns what it is then; `None` is
/// without limit.
///
/// The soft limit is 1024 on most hosts for the sake of programs that use `select`, which cannot name a greater
/// descriptor; any program that does not may raise it. It is never lowered. Where it may not be changed, by seccomp for
/// instance, it stays what it is.
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    if limit.current.is_none_or(|current| current >= wanted) {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }) {
        Ok(()) => Some(wanted),
        Err(_not_allowed) => limit.current,
    }
}
