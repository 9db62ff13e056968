//! The netlink socket. Only I/O; what goes through it is [`crate::codec`]'s business.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, getsockname, netdevice, recvfrom, sendto,
    socket_with,
};

use crate::codec::encode_noop;
use crate::home::Abroad;

/// The kernel fills a reply while it is being read, so that even the longest walk answers in far less than this.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of the kernel.
const KERNEL: SocketAddrNetlink = SocketAddrNetlink::new(0, 0);

/// A conversation with the kernel that can be begun afresh.
pub(crate) trait Transport {
    /// Forgets the present conversation, with whatever is still to come of it, and begins another.
    /// Returns the port id under which the kernel will answer.
    fn reopen(&mut self) -> Result<u32, Errno>;

    /// Sends one request.
    fn send(&mut self, request: &[u8]) -> Result<(), Errno>;

    /// Receives one datagram; `EAGAIN` when none came for a long while.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Datagram, Errno>;
}

/// A datagram that lies in the buffer given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Its length; what goes beyond the buffer was cut off.
    pub(crate) bytes: usize,
    /// Whether the kernel sent it. A process with `CAP_NET_ADMIN` can send to any netlink socket.
    pub(crate) from_kernel: bool,
}

/// A netlink socket of protocol `NETLINK_SOCK_DIAG`, of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    fd: OwnedFd,
    /// Where it is opened, unless that is where the thread is.
    abroad: Option<Abroad>,
}

impl NetlinkSocket {
    /// Opens it, and tells its port id.
    pub(crate) fn open() -> Result<(Self, u32), Errno> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(RECEIVE_TIMEOUT))?;
        // Whoever sends without a port id is given a free one (netlink_autobind). Not bind(2): the sandbox, which cannot
        // tell these sockets from others, lets the measuring thread bind none.
        sendto(&fd, &encode_noop(), SendFlags::empty(), &KERNEL)?;
        let port_id = SocketAddrNetlink::try_from(getsockname(&fd)?)?.pid();
        Ok((Self { fd, abroad: None }, port_id))
    }

    /// Opens it in another network namespace, which it serves from then on, wherever the thread is.
    pub(crate) fn open_abroad(abroad: Abroad) -> Result<(Self, u32), Errno> {
        let (socket, port_id) = abroad.visit(Self::open)?;
        Ok((Self { abroad: Some(abroad), ..socket }, port_id))
    }

    /// The index of the interface with that name in the socket's network namespace (`SIOCGIFINDEX`).
    pub(crate) fn interface_index(&self, name: &str) -> Option<u32> {
        netdevice::name_to_index(&self.fd, name).ok()
    }
}

impl Transport for NetlinkSocket {
    fn reopen(&mut self) -> Result<u32, Errno> {
        let (socket, port_id) = match &self.abroad {
            Some(abroad) => Self::open_abroad(abroad.clone())?,
            None => Self::open()?,
        };
        *self = socket;
        Ok(port_id)
    }

    fn send(&mut self, request: &[u8]) -> Result<(), Errno> {
        // Datagrams go whole or not at all.
        retry_on_intr(|| sendto(&self.fd, request, SendFlags::empty(), &KERNEL)).map(|_bytes| ())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Datagram, Errno> {
        // With MSG_TRUNC the whole length is told, even of a datagram that was cut off.
        let (_filled, bytes, sender) = retry_on_intr(|| recvfrom(&self.fd, &mut *buffer, RecvFlags::TRUNC))?;
        let from_kernel = sender
            .and_then(|sender| SocketAddrNetlink::try_from(sender).ok())
            .is_some_and(|sender| sender.pid() == KERNEL.pid());
        Ok(Datagram { bytes, from_kernel })
    }
}

/// The error as callers of the standard library know it: silence is a time-out.
pub(crate) fn io_error(errno: Errno) -> io::Error {
    match errno {
        Errno::AGAIN => io::ErrorKind::TimedOut.into(),
        errno => errno.into(),
    }
}

#[cfg(test)]
mod tests;
