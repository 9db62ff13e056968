//! How name servers are reached.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// As [`TokioRuntimeProvider`], but that UDP sockets are connected instead of bound.
///
/// The kernel gives a connected socket a random port as well, lets nothing in but what the server sends, and tells at once
/// where nobody is there. And whoever may bind no socket, as a thread in the agent's sandbox, can ask.
#[derive(Clone, Default)]
pub(crate) struct Connecting(TokioRuntimeProvider);

type Pending<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Connecting {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        within: Option<Duration>,
    ) -> Pending<Self::Tcp> {
        self.0.connect_tcp(server, bind, within)
    }

    fn bind_udp(&self, _local: SocketAddr, server: SocketAddr) -> Pending<Self::Udp> {
        Box::pin(async move { Self::Udp::from_std(connect(server)?) })
    }
}

fn connect(server: SocketAddr) -> io::Result<UdpSocket> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = UdpSocket::from(socket_with(family, SocketType::DGRAM, flags, None)?);
    socket.connect(server)?;
    Ok(socket)
}
