//! Why translations could not be told.

use std::io;

use rustix::io::Errno;
use vms_netlink::{Failure, Malformed, Operation, io_error, is_forbidden};

/// Why translations could not be told. None of these means that there are none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel asks for a capability, of the thread that opened the socket and of the one that asks
    /// (`netlink_net_capable`); or something in front of the kernel forbids netlink.
    #[error(
        "conntrack {operation}: permission_missing (needs CAP_NET_ADMIN in the user namespace of this network, and \
         AF_NETLINK sockets)"
    )]
    PermissionMissing {
        /// The step that was forbidden.
        operation: Operation,
        /// What the kernel said.
        source: io::Error,
    },
    /// This kernel has no `ctnetlink`, or could not load it.
    #[error(
        "conntrack {operation}: unsupported (run `modprobe nf_conntrack_netlink`, or use a kernel with \
         CONFIG_NF_CT_NETLINK)"
    )]
    Unsupported {
        /// The step at which it showed.
        operation: Operation,
        /// What the kernel said.
        source: io::Error,
    },
    /// The reply cannot be what the kernel meant. What had arrived before is not to be trusted either.
    #[error("conntrack reply: malformed")]
    Malformed(#[from] Malformed),
    /// Each attempt was broken off by the kernel, because the table changed under it, or memory or room in the socket's
    /// buffer was short.
    #[error("conntrack reply: interrupted {attempts} times in a row")]
    Interrupted {
        /// How often it was tried.
        attempts: u32,
    },
    /// There are more entries than the agent takes in: it would need more memory and time than it may have.
    #[error(
        "conntrack reply: more connections than are read in one look; see who has so many (`conntrack -S`)"
    )]
    TooMany,
    /// Any other failure.
    #[error("conntrack {operation}: failed")]
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
            Failure::Failed { operation, errno } => classify(operation, errno),
            Failure::Malformed(malformed) => Self::Malformed(malformed),
            Failure::TooMany => Self::TooMany,
        }
    }
}

/// What an errno means to the caller.
pub(crate) fn classify(operation: Operation, errno: Errno) -> Error {
    let source = io_error(errno);
    match (operation, errno) {
        _ if is_forbidden(operation, errno) => Error::PermissionMissing { operation, source },
        // No NETLINK_NETFILTER; and to a subsystem that is not there, nfnetlink says EINVAL.
        (Operation::Open, Errno::PROTONOSUPPORT)
        | (Operation::Request, Errno::INVAL | Errno::NOENT | Errno::OPNOTSUPP) => {
            Error::Unsupported { operation, source }
        }
        _ => Error::Io { operation, source },
    }
}
