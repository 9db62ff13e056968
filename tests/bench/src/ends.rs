//! The child that holds ends of watched links, and opens and closes them as it is told.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use anyhow::{Context as _, Result, bail};

use crate::program;
use crate::sockets::{SPARE_DESCRIPTORS, connect, settle_in};

/// The port of the first link; the others follow it. Below the ephemeral ones.
const FIRST_PORT: u16 = 10_000;
/// The most links that there can be.
pub(crate) const MOST_LINKS: usize = 20_000;

/// What a process that holds ends of links is told.
#[derive(Debug, clap::Args)]
pub(crate) struct EndsRole {
    /// Its name in /proc/PID/comm.
    name: String,
    /// The address of the services.
    service: Ipv4Addr,
}

/// What to do with links, each named by its number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// Give this network namespace, which has the interface already, the address of the services.
    Furnish,
    /// Begin to listen.
    Listen,
    /// Accept the connection that is waiting.
    Accept,
    /// Connect to the service.
    Connect,
    /// Drop the connection, and listen no more.
    Close,
}

impl Order {
    const ALL: [Self; 5] = [Self::Furnish, Self::Listen, Self::Accept, Self::Connect, Self::Close];

    fn word(self) -> &'static str {
        match self {
            Self::Furnish => "furnish",
            Self::Listen => "listen",
            Self::Accept => "accept",
            Self::Connect => "connect",
            Self::Close => "close",
        }
    }

    /// The line that says so.
    pub(crate) fn line(self, links: &[usize]) -> String {
        let mut words = vec![self.word().to_owned()];
        words.extend(links.iter().map(ToString::to_string));
        words.join(" ")
    }
}

/// Where a link's service is.
pub(crate) fn service_of(link: usize, service: Ipv4Addr) -> Result<SocketAddrV4> {
    let port = u16::try_from(link).ok().and_then(|link| FIRST_PORT.checked_add(link));
    Ok(SocketAddrV4::new(service, port.context("a link too many")?))
}

/// The interface that joins the host to the far ends' network namespace.
pub(crate) const FAR_INTERFACE: &str = "bench-far";

/// What such a child does: carries out one order a line until its standard input ends.
pub(crate) fn serve(role: &EndsRole) -> Result<()> {
    settle_in(&role.name, 2 * MOST_LINKS + SPARE_DESCRIPTORS)
        .or_else(|_too_many| settle_in(&role.name, SPARE_DESCRIPTORS))?;
    let mut output = io::stdout();
    let mut listeners: BTreeMap<usize, TcpListener> = BTreeMap::new();
    let mut streams: BTreeMap<usize, TcpStream> = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        let order_line = line?;
        let mut words = order_line.split_ascii_whitespace();
        let word = words.next().unwrap_or_default();
        let Some(order) = Order::ALL.into_iter().find(|order| order.word() == word) else {
            bail!("{word}: no such order");
        };
        if matches!(order, Order::Furnish) {
            let address = format!("{}/24", role.service);
            program::succeed("ip", ["address", "add", &address, "dev", FAR_INTERFACE])?;
            program::succeed("ip", ["link", "set", FAR_INTERFACE, "up"])?;
        }
        for link in words {
            let link: usize = link.parse()?;
            let address = service_of(link, role.service)?;
            match order {
                Order::Listen => {
                    let listener = TcpListener::bind(address);
                    listeners.insert(link, listener.with_context(|| format!("{address}: cannot listen"))?);
                }
                Order::Accept => {
                    let listener = listeners.get(&link).context("it does not listen")?;
                    streams.insert(link, listener.accept()?.0);
                }
                Order::Connect => {
                    streams.insert(link, connect(address)?);
                }
                Order::Close => {
                    listeners.remove(&link);
                    streams.remove(&link);
                }
                Order::Furnish => {}
            }
        }
        writeln!(output, "done")?;
    }
    Ok(())
}
