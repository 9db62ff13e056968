//! Why connections could not be told.

use std::fmt;
use std::io;

use crate::codec::Malformed;
use crate::proc_net::BadLine;

/// Why connections could not be told. None of these means that there are none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something in front of the kernel forbids it. `sock_diag` itself asks for no capability.
    #[error(
        "sock_diag {operation}: permission_missing (a seccomp filter or security module forbids it: allow AF_NETLINK \
         sockets, for systemd in RestrictAddressFamilies=)"
    )]
    PermissionMissing {
        /// The step that was forbidden.
        operation: Operation,
        /// What the kernel said.
        source: io::Error,
    },
    /// This kernel has no `sock_diag` for TCP, or could not load it.
    #[error(
        "sock_diag {operation}: unsupported (run `modprobe tcp_diag`, or use a kernel with CONFIG_INET_DIAG and \
         CONFIG_INET_TCP_DIAG)"
    )]
    Unsupported {
        /// The step at which it showed.
        operation: Operation,
        /// What the kernel said.
        source: io::Error,
    },
    /// The reply cannot be what the kernel meant. What had arrived before is not to be trusted either.
    #[error("sock_diag reply: malformed")]
    Malformed(#[from] Malformed),
    /// Each attempt was broken off by the kernel, because the table changed under it, or memory or room in the socket's
    /// buffer was short.
    #[error("sock_diag reply: interrupted {attempts} times in a row")]
    Interrupted {
        /// How often it was tried.
        attempts: u32,
    },
    /// There are more sockets than the agent takes in: it would need more memory and time than it may have.
    #[error("sock_diag reply: more sockets than are read in one look; see who has so many (`ss -s`)")]
    TooMany,
    /// The table of a network namespace that is not entered has a line that cannot be what the kernel meant.
    #[error("socket table of another network namespace: malformed")]
    MalformedTable(#[from] BadLine),
    /// Such a table could not be read.
    #[error("socket table of another network namespace: could not be read")]
    ReadTable(#[source] io::Error),
    /// Any other failure.
    #[error("sock_diag {operation}: failed")]
    Io {
        /// The step that failed.
        operation: Operation,
        /// What the kernel said; [`io::ErrorKind::TimedOut`] when it said nothing.
        source: io::Error,
    },
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
