//! Why connections could not be told.

use std::io;

use rustix::io::Errno;
use vms_core::socket::Transport;
use vms_netlink::{Failure, Malformed, Operation, io_error, is_forbidden};

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
    /// This kernel has no `sock_diag` for the protocol, or could not load it.
    #[error(
        "sock_diag {operation}: unsupported (run `modprobe {module}`, or use a kernel with CONFIG_INET_DIAG and \
         {option})",
        module = module_of(*transport),
        option = option_of(*transport)
    )]
    Unsupported {
        /// The protocol.
        transport: Transport,
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

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Failed { operation, errno } => classify(Transport::Tcp, operation, errno),
            Failure::Malformed(malformed) => Self::Malformed(malformed),
            Failure::TooMany => Self::TooMany,
        }
    }
}

/// The kernel module that tells of its sockets.
fn module_of(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp_diag",
        Transport::Udp => "udp_diag",
    }
}

/// The option with which a kernel has that module.
fn option_of(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "CONFIG_INET_TCP_DIAG",
        Transport::Udp => "CONFIG_INET_UDP_DIAG",
    }
}

/// What an errno means to the caller who asked for sockets of that protocol.
pub(crate) fn classify(transport: Transport, operation: Operation, errno: Errno) -> Error {
    let source = io_error(errno);
    match (operation, errno) {
        _ if is_forbidden(operation, errno) => Error::PermissionMissing { operation, source },
        // No NETLINK_SOCK_DIAG, no handler of the family, no handler of the protocol.
        (Operation::Open, Errno::PROTONOSUPPORT) | (_, Errno::NOENT | Errno::OPNOTSUPP) => {
            Error::Unsupported { transport, operation, source }
        }
        _ => Error::Io { operation, source },
    }
}
