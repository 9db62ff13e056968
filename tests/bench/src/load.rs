//! The host's load: connections that nobody watches, and processes that do nothing.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};

use crate::program::{Running, Servant, program};
use crate::sockets::{SPARE_DESCRIPTORS, most_descriptors};

const HOLDER_NAME: &str = "bench-holder";
/// Most connections of one pair of processes: well below the ephemeral ports of one destination.
const PAIR_CONNECTIONS: usize = 10_000;

/// Everything that runs on the host beside the watched links; it ends with this process.
#[derive(Debug)]
pub(crate) struct Load {
    pair_connections: usize,
    connections: usize,
    holders: Vec<Servant>,
    idle: Vec<Running>,
}

impl Load {
    /// A host without load.
    pub(crate) fn new() -> Result<Self> {
        let descriptors = most_descriptors();
        let pair_connections = PAIR_CONNECTIONS.min(descriptors.saturating_sub(SPARE_DESCRIPTORS));
        ensure!(pair_connections > 0, "a process may open only {descriptors} files");
        Ok(Self { pair_connections, connections: 0, holders: Vec::new(), idle: Vec::new() })
    }

    /// Connections that there are.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// Has so many processes that sleep.
    pub(crate) fn set_idle(&mut self, count: usize) -> Result<()> {
        self.idle.truncate(count);
        while self.idle.len() < count {
            let sleeper = Running::start(program("sleep").arg("infinity"));
            self.idle.push(sleeper.context("sleep, of coreutils, does not start")?);
        }
        Ok(())
    }

    /// Adds connections until there are so many.
    pub(crate) fn grow_to(&mut self, connections: usize) -> Result<()> {
        while self.connections < connections {
            let count = self.pair_connections.min(connections - self.connections);
            self.add_pair(count)?;
            self.connections += count;
        }
        Ok(())
    }

    /// Two processes with connections between them.
    fn add_pair(&mut self, count: usize) -> Result<()> {
        let listen = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).to_string();
        let count = count.to_string();
        let mut server = Servant::start(&[], ["sockets", HOLDER_NAME, &count, &listen])?;
        let address = server.answer()?;
        let mut client = Servant::start(&[], ["sockets", HOLDER_NAME, &count, &address, "--connect"])?;
        server.answer()?;
        client.answer()?;
        self.holders.extend([server, client]);
        Ok(())
    }
}
