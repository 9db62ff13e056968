//! Why an exchange with the kernel came to nothing.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::codec::Malformed;

/// Why an exchange came to nothing, before a family has said what that means to its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A step failed.
    #[error("netlink {operation}: failed")]
    Failed {
        /// Which one.
        operation: Operation,
        /// What the kernel said; `EAGAIN` when it said nothing for long.
        #[source]
        errno: Errno,
    },
    /// The reply cannot be what the kernel meant. What had arrived before is not to be trusted either.
    #[error("netlink reply: malformed")]
    Malformed(#[from] Malformed),
    /// The kernel told of more than there is room for.
    #[error("netlink reply: more than is read in one dump")]
    TooMany,
}

/// A step of asking the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opening the netlink socket.
    Open,
    /// Entering another network namespace, or leaving it.
    Enter,
    /// Sending a request, or the kernel's verdict on it.
    Request,
    /// Receiving the reply, or an error in the middle of it.
    Reply,
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Open => "socket",
            Self::Enter => "network namespace",
            Self::Request => "request",
            Self::Reply => "reply",
        })
    }
}

/// Whether something forbids that step: the kernel for want of a capability, or what stands in front of it.
#[must_use]
pub fn is_forbidden(operation: Operation, errno: Errno) -> bool {
    // systemd's RestrictAddressFamilies= answers EAFNOSUPPORT; every kernel has netlink.
    matches!((operation, errno), (_, Errno::PERM | Errno::ACCESS) | (Operation::Open, Errno::AFNOSUPPORT))
}

/// The error as callers of the standard library know it: silence is a time-out.
#[must_use]
pub fn io_error(errno: Errno) -> io::Error {
    match errno {
        Errno::AGAIN => io::ErrorKind::TimedOut.into(),
        errno => errno.into(),
    }
}
