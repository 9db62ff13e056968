//! Network namespaces with a connection in each, as the pods of a node have them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::links::WATCHED_NAME;
use crate::program::{self, Servant};
use crate::sockets::{SPARE_DESCRIPTORS, connect, settle_in};

/// The service of every link: in each namespace the same address, and another service.
pub(crate) const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 1, 0, 1), 10_000);

const OTHER_NAME: &str = "bench-other";
const FAR_NAME: &str = "bench-far";
/// The most namespaces that there can be, of both kinds.
const MOST_PODS: usize = 1_000;
/// The kernel takes namespaces down some time after their last process, a hundred at a time.
const TEARDOWN: Duration = Duration::from_secs(5);

/// The namespaces of a node, beside its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    /// Those with a link, whose process fits the probe.
    pub(crate) fitting: usize,
    /// Those with a connection and a process that fit nothing.
    pub(crate) others: usize,
}

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<usize>, _> = text.split('/').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[fitting, others]) if fitting.saturating_add(others) <= MOST_PODS => {
                Ok(Self { fitting, others })
            }
            _ => Err(format!("expected FITTING/OTHERS, at most {MOST_PODS} together")),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.fitting, self.others)
    }
}

/// The namespaces; they end with their processes, which end with this one.
#[derive(Debug)]
pub(crate) struct Pods {
    far: Servant,
    /// On the host itself, so that the link is up wherever else it is.
    _own: Servant,
    fitting: Vec<Servant>,
    others: Vec<Servant>,
}

impl Pods {
    /// None yet, but a link on the host itself.
    pub(crate) fn new() -> Result<Self> {
        let mut far = Servant::start(&[], ["pods", FAR_NAME, "--far"])?;
        far.answer()?;
        let mut own = start(1, &[], WATCHED_NAME)?;
        link(&mut own, &mut far)?;
        let own = own.pop().context("it was just started")?;
        Ok(Self { far, _own: own, fitting: Vec::new(), others: Vec::new() })
    }

    /// Has so many of both.
    pub(crate) fn set(&mut self, node: Node) -> Result<()> {
        let is_less = node.fitting < self.fitting.len() || node.others < self.others.len();
        for (kind, name, count) in
            [(&mut self.fitting, WATCHED_NAME, node.fitting), (&mut self.others, OTHER_NAME, node.others)]
        {
            for gone in kind.drain(count.min(kind.len())..) {
                self.far.ask(&format!("close {}", gone.id()))?;
            }
            let mut more = start(count - kind.len(), &["unshare", "--net", "--"], name)?;
            link(&mut more, &mut self.far)?;
            kind.append(&mut more);
        }
        if is_less {
            thread::sleep(TEARDOWN);
        }
        Ok(())
    }
}

/// Starts so many processes, each where the wrapper puts it.
fn start(count: usize, wrapper: &[&str], name: &str) -> Result<Vec<Servant>> {
    let mut started = Vec::new();
    for _ in 0..count {
        started.push(Servant::start(wrapper, ["pods", name])?);
    }
    for one in &mut started {
        one.answer().context("a network namespace")?;
    }
    Ok(started)
}

/// Gives each of them its connection.
fn link(near: &mut [Servant], far: &mut Servant) -> Result<()> {
    for one in near {
        far.ask(&format!("listen {}", one.id()))?;
        one.ask("connect")?;
        far.ask(&format!("accept {}", one.id()))?;
    }
    Ok(())
}

/// What a process is told that lives in a namespace, or holds the far ends of all.
#[derive(Debug, clap::Args)]
pub(crate) struct PodsRole {
    /// Its name in /proc/PID/comm.
    name: String,
    /// Hold the far ends.
    #[arg(long)]
    far: bool,
}

/// What such a child does: carries out one order a line until its standard input ends.
pub(crate) fn serve(role: &PodsRole) -> Result<()> {
    let descriptors = if role.far { 2 * MOST_PODS } else { 0 };
    settle_in(&role.name, descriptors + SPARE_DESCRIPTORS)?;
    if !role.far {
        program::succeed("ip", ["link", "set", "lo", "up"])?;
    }
    let mut output = io::stdout();
    writeln!(output, "ready")?;
    let mut near: Vec<TcpStream> = Vec::new();
    let mut far: BTreeMap<u32, (TcpListener, Option<TcpStream>)> = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            None if line == "connect" => near.push(connect(SERVICE)?),
            Some(("listen", pid)) => {
                // A socket belongs to the namespace in which it was opened, wherever its process goes next.
                enter(pid)?;
                let listener =
                    TcpListener::bind(SERVICE).with_context(|| format!("{SERVICE}: cannot listen"))?;
                far.insert(pid.parse()?, (listener, None));
            }
            Some(("accept", pid)) => {
                let (listener, stream) = far.get_mut(&pid.parse()?).context("it does not listen")?;
                *stream = Some(listener.accept()?.0);
            }
            Some(("close", pid)) => {
                ensure!(far.remove(&pid.parse()?).is_some(), "it does not listen");
            }
            _ => bail!("{line}: no such order"),
        }
        writeln!(output, "done")?;
    }
    drop(near);
    Ok(())
}

fn enter(pid: &str) -> Result<()> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).with_context(|| path.clone())?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read_as_it_is_written_and_has_bounds() {
        let node = Node { fitting: 10, others: 200 };
        assert_eq!(node.to_string().parse(), Ok(node));
        for wrong in ["", "1", "1/2/3", "a/2", "1000/1"] {
            assert!(wrong.parse::<Node>().is_err(), "{wrong}");
        }
    }
}
