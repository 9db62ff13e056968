//! The netlink socket. Only I/O; what goes through it is [`crate::codec`]'s business.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, getsockname, netdevice, recvfrom,
    sendto, socket_with,
};

use crate::codec::encode_noop;

/// The kernel fills a reply while it is being read, so that even the longest walk answers in far less than this.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of the kernel.
const KERNEL: SocketAddrNetlink = SocketAddrNetlink::new(0, 0);

/// A conversation with the kernel that can be begun afresh.
pub trait Transport {
    /// Forgets the present conversation, with whatever is still to come of it, and begins another.
    /// Returns the port id under which the kernel will answer.
    ///
    /// # Errors
    /// What the kernel said. The present conversation is not to be gone on with either.
    fn reopen(&mut self) -> Result<u32, Errno>;

    /// Sends one datagram of requests.
    ///
    /// # Errors
    /// What the kernel said.
    fn send(&mut self, request: &[u8]) -> Result<(), Errno>;

    /// Receives one datagram.
    ///
    /// # Errors
    /// What the kernel said; `EAGAIN` when none came for a long while.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Datagram, Errno>;
}

/// A datagram that lies in the buffer given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Its length; what goes beyond the buffer was cut off.
    pub bytes: usize,
    /// Whether the kernel sent it. A process with `CAP_NET_ADMIN` can send to any netlink socket.
    pub from_kernel: bool,
}

/// Where a socket is opened: it serves the network namespace in which that was done.
pub trait Place {
    /// Opens something there.
    ///
    /// # Errors
    /// As what is done there, and where the thread cannot get there or back.
    fn visit<R>(&self, open: impl FnOnce() -> Result<R, Errno>) -> Result<R, Errno>;
}

/// Where the thread is.
impl Place for () {
    fn visit<R>(&self, open: impl FnOnce() -> Result<R, Errno>) -> Result<R, Errno> {
        open()
    }
}

/// There, or where the thread is.
impl<P: Place> Place for Option<P> {
    fn visit<R>(&self, open: impl FnOnce() -> Result<R, Errno>) -> Result<R, Errno> {
        match self {
            Some(place) => place.visit(open),
            None => open(),
        }
    }
}

/// A netlink socket of the kernel's.
#[derive(Debug)]
pub struct NetlinkSocket<P = ()> {
    protocol: Protocol,
    place: P,
    /// Absent before it is first opened.
    fd: Option<OwnedFd>,
}

impl<P> NetlinkSocket<P> {
    /// One of that protocol (`NETLINK_*`), which is not opened yet.
    pub fn new(protocol: Protocol, place: P) -> Self {
        Self { protocol, place, fd: None }
    }

    /// The index of the interface with that name in the socket's network namespace (`SIOCGIFINDEX`).
    pub fn interface_index(&self, name: &str) -> Option<u32> {
        netdevice::name_to_index(self.fd.as_ref()?, name).ok()
    }

    fn fd(&self) -> Result<&OwnedFd, Errno> {
        self.fd.as_ref().ok_or(Errno::NOTCONN)
    }
}

impl<P: Place> Transport for NetlinkSocket<P> {
    fn reopen(&mut self) -> Result<u32, Errno> {
        let (fd, port_id) = self.place.visit(|| open(self.protocol))?;
        self.fd = Some(fd);
        Ok(port_id)
    }

    fn send(&mut self, request: &[u8]) -> Result<(), Errno> {
        // Datagrams go whole or not at all.
        let fd = self.fd()?;
        retry_on_intr(|| sendto(fd, request, SendFlags::empty(), &KERNEL)).map(|_bytes| ())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Datagram, Errno> {
        // With MSG_TRUNC the whole length is told, even of a datagram that was cut off.
        let fd = self.fd()?;
        let (_filled, bytes, sender) = retry_on_intr(|| recvfrom(fd, &mut *buffer, RecvFlags::TRUNC))?;
        let from_kernel = sender
            .and_then(|sender| SocketAddrNetlink::try_from(sender).ok())
            .is_some_and(|sender| sender.pid() == KERNEL.pid());
        Ok(Datagram { bytes, from_kernel })
    }
}

/// A socket, and its port id.
fn open(protocol: Protocol) -> Result<(OwnedFd, u32), Errno> {
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
    set_socket_timeout(&fd, Timeout::Recv, Some(RECEIVE_TIMEOUT))?;
    // Whoever sends without a port id is given a free one (netlink_autobind). Not bind(2): the sandbox, which cannot
    // tell these sockets from others, lets the measuring thread bind none.
    sendto(&fd, &encode_noop(), SendFlags::empty(), &KERNEL)?;
    let port_id = SocketAddrNetlink::try_from(getsockname(&fd)?)?.pid();
    Ok((fd, port_id))
}

#[cfg(test)]
mod tests;
