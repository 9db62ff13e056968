//! The links that the agent watches: their near ends on the host, their far ends apart.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};

use crate::arguments::Scene;
use crate::ends::{FAR_INTERFACE, MOST_LINKS, Order, service_of};
use crate::program::{Servant, succeed};

/// Name of the processes at the watched ends.
pub(crate) const WATCHED_NAME: &str = "bench-link";
const FAR_NAME: &str = "bench-far";
/// Most processes that the near ends are spread over.
const MOST_HOLDERS: usize = 100;

const NEAR_INTERFACE: &str = "bench-near";
const NEAR_ADDRESS: &str = "10.99.0.1/24";
const FAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const LOOPBACK_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);

/// The watched links. Link `i` is held by process `i` modulo their number.
#[derive(Debug)]
pub(crate) struct Links {
    service: Ipv4Addr,
    far: Servant,
    near: Vec<Servant>,
    count: usize,
}

impl Links {
    /// No links yet, but a place for their far ends.
    pub(crate) fn new(scene: Scene) -> Result<Self> {
        let (service, far) = match scene {
            Scene::Loopback => (LOOPBACK_ADDRESS, start(&[], WATCHED_NAME, LOOPBACK_ADDRESS)?),
            Scene::Apart => {
                let mut far = start(&["unshare", "--net", "--"], FAR_NAME, FAR_ADDRESS)?;
                // An order without links is a sign that unshare(1) has done its part.
                far.ask(&Order::Close.line(&[]))?;
                let namespace = far.id().to_string();
                let veth = ["link", "add", NEAR_INTERFACE, "type", "veth", "peer", "name", FAR_INTERFACE];
                succeed("ip", veth.into_iter().chain(["netns", &namespace]))?;
                succeed("ip", ["address", "add", NEAR_ADDRESS, "dev", NEAR_INTERFACE])?;
                succeed("ip", ["link", "set", NEAR_INTERFACE, "up"])?;
                far.ask(&Order::Furnish.line(&[]))?;
                (FAR_ADDRESS, far)
            }
        };
        Ok(Self { service, far, near: Vec::new(), count: 0 })
    }

    /// Has so many links, all of them up.
    pub(crate) fn set_count(&mut self, count: usize) -> Result<()> {
        ensure!(count <= MOST_LINKS, "{count} probes: there can be {MOST_LINKS} at most");
        if self.count == count {
            return Ok(());
        }
        self.close(&(0..self.count).collect::<Vec<_>>())?;
        self.near.clear();
        for _ in 0..count.min(MOST_HOLDERS) {
            self.near.push(start(&[], WATCHED_NAME, self.service)?);
        }
        self.count = count;
        self.open(&(0..count).collect::<Vec<_>>())
    }

    /// Makes these links be up.
    pub(crate) fn open(&mut self, links: &[usize]) -> Result<()> {
        self.far.ask(&Order::Listen.line(links))?;
        self.tell_near(Order::Connect, links)?;
        self.far.ask(&Order::Accept.line(links))?;
        Ok(())
    }

    /// Drops these links, and refuses further connections.
    pub(crate) fn close(&mut self, links: &[usize]) -> Result<()> {
        self.tell_near(Order::Close, links)?;
        self.far.ask(&Order::Close.line(links))?;
        Ok(())
    }

    /// The destination of each link.
    pub(crate) fn services(&self) -> Result<Vec<SocketAddrV4>> {
        (0..self.count).map(|link| service_of(link, self.service)).collect()
    }

    /// The processes that hold an end of a link, on this host or apart.
    pub(crate) fn holders(&self) -> Vec<u32> {
        self.near.iter().chain([&self.far]).map(Servant::id).collect()
    }

    /// One link of each hundred, at least one, spread over the processes that hold them.
    pub(crate) fn one_percent(&self) -> Vec<usize> {
        (0..self.count).step_by(101).take((self.count / 100).max(1)).collect()
    }

    fn tell_near(&mut self, order: Order, links: &[usize]) -> Result<()> {
        let holders = self.near.len().max(1);
        let mut parts = vec![Vec::new(); holders];
        for link in links {
            if let Some(part) = parts.get_mut(link % holders) {
                part.push(*link);
            }
        }
        for (holder, part) in self.near.iter_mut().zip(&parts) {
            holder.order(&order.line(part))?;
        }
        for holder in &mut self.near {
            holder.answer()?;
        }
        Ok(())
    }
}

/// The name that the probe of a link has.
pub(crate) fn name_of(link: usize) -> String {
    format!("link-{link}")
}

fn start(wrapper: &[&str], name: &str, service: Ipv4Addr) -> Result<Servant> {
    Servant::start(wrapper, ["ends", name, &service.to_string()])
}
