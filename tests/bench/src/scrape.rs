//! A stand-in for `cnxwatch_exporter` 0.1.3, and for a script with psutil: what either does to answer one scrape.
//!
//! That exporter is written in Go; what is here is its approach, not its code. For each protocol it reads the kernel's table as text,
//! all of it, looks into every descriptor of every process, compares each with every socket of the table, and then goes over the
//! table once for each watch. Here the comparison is of numbers that lie side by side, where it makes and compares texts, and
//! nothing is made of the answers: both cost it more. With `--hashed` a descriptor's socket is found by hashing, so that what
//! is left is the least that the approach can cost.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

/// The script, in Python: the same with psutil, which reads the same files and joins them by hashing.
pub(crate) const PSUTIL_SCRIPT: &str = include_str!("scrape.py");

/// What the child that answers scrapes is told.
#[derive(Debug, clap::Args)]
pub(crate) struct ScrapeRole {
    /// The watches, one a line.
    watches: PathBuf,
    /// Find the socket of a descriptor by hashing.
    #[arg(long)]
    hashed: bool,
}

/// A watch as cnxwatch knows it: one address at each end, and a port, a state and a process, or any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) is_udp: bool,
    /// As the kernel numbers them (`include/net/tcp_states.h`); 0 for any.
    pub(crate) state: u8,
    pub(crate) local: Ipv4Addr,
    pub(crate) remote: Ipv4Addr,
    /// 0 for any.
    pub(crate) local_port: u16,
    /// 0 for any.
    pub(crate) remote_port: u16,
    pub(crate) process: Option<Arc<str>>,
}

impl Watch {
    /// The line that says so.
    pub(crate) fn line(&self) -> String {
        let Self { is_udp, state, local, remote, local_port, remote_port, process } = self;
        let table = Table::of(*is_udp).name();
        let process = process.as_deref().unwrap_or("-");
        format!("{table} {state} {local} {remote} {local_port} {remote_port} {process}")
    }

    fn wants(&self, entry: &Entry) -> bool {
        (self.state == 0 || self.state == entry.state)
            && self.local == entry.local.0
            && self.remote == entry.remote.0
            && (self.local_port == 0 || self.local_port == entry.local.1)
            && (self.remote_port == 0 || self.remote_port == entry.remote.1)
            && (self.process.is_none() || self.process == entry.process)
    }
}

impl FromStr for Watch {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [table, state, local, remote, local_port, remote_port, process] = words[..] else {
            bail!("not a watch: {line}");
        };
        Ok(Self {
            is_udp: table == Table::Udp.name(),
            state: state.parse()?,
            local: local.parse()?,
            remote: remote.parse()?,
            local_port: local_port.parse()?,
            remote_port: remote_port.parse()?,
            process: (process != "-").then(|| process.into()),
        })
    }
}

/// Where the kernel tells of sockets (`Documentation/networking/proc_net_tcp.rst`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Tcp,
    Udp,
}

impl Table {
    const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    fn of(is_udp: bool) -> Self {
        if is_udp { Self::Udp } else { Self::Tcp }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    local: (Ipv4Addr, u16),
    remote: (Ipv4Addr, u16),
    state: u8,
    process: Option<Arc<str>>,
}

/// What such a child does: answers each line of its input with how many sockets each watch has.
pub(crate) fn serve(role: &ScrapeRole) -> Result<()> {
    let text = fs::read_to_string(&role.watches)?;
    let watches: Vec<Watch> = text.lines().map(str::parse).collect::<Result<_>>()?;
    let mut output = io::stdout();
    for order in io::stdin().lock().lines() {
        order?;
        let counts: Vec<String> = scrape(&watches, role.hashed)?.iter().map(ToString::to_string).collect();
        writeln!(output, "{}", counts.join(" "))?;
    }
    Ok(())
}

fn scrape(watches: &[Watch], hashed: bool) -> Result<Vec<usize>> {
    let mut counts = vec![0; watches.len()];
    for table in Table::ALL {
        let own = || watches.iter().zip(0..).filter(|(watch, _)| Table::of(watch.is_udp) == table);
        if own().next().is_none() {
            continue;
        }
        let text = fs::read_to_string(format!("/proc/net/{}", table.name()))?;
        let lines = text.lines().skip(1);
        let parsed: Option<Vec<(Entry, u64)>> = lines.map(parse_line).collect();
        let (mut entries, inodes): (Vec<Entry>, Vec<u64>) =
            parsed.context("a line of a table")?.into_iter().unzip();
        find_holders(&mut entries, &inodes, hashed)?;
        for (watch, place) in own() {
            let count = entries.iter().filter(|entry| watch.wants(entry)).count();
            if let Some(slot) = counts.get_mut::<usize>(place) {
                *slot = count;
            }
        }
    }
    Ok(counts)
}

/// A socket, and its inode.
fn parse_line(line: &str) -> Option<(Entry, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let end = |text: &str| {
        let (address, port) = text.split_once(':')?;
        // As it lies in memory, in the order of this machine.
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        Some((Ipv4Addr::from(address), u16::from_str_radix(port, 16).ok()?))
    };
    let (local, remote) = (end(fields.next()?)?, end(fields.next()?)?);
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    Some((Entry { local, remote, state, process: None }, inode))
}

/// Looks into every descriptor of every process.
fn find_holders(entries: &mut [Entry], inodes: &[u64], hashed: bool) -> Result<()> {
    let places: HashMap<u64, usize> =
        if hashed { inodes.iter().copied().zip(0..).collect() } else { HashMap::new() };
    for process in fs::read_dir("/proc")? {
        let directory = process?.path();
        let is_process =
            directory.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        // It may end meanwhile.
        let Ok(descriptors) = fs::read_dir(directory.join("fd")) else { continue };
        let mut name: Option<Arc<str>> = None;
        for descriptor in descriptors.filter(|_| is_process).flatten() {
            let Ok(link) = fs::read_link(descriptor.path()) else { continue };
            let link = link.to_string_lossy();
            let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            let Some(inode) = inode.and_then(|inode| inode.parse::<u64>().ok()) else { continue };
            let place = if hashed {
                places.get(&inode).copied()
            } else {
                // It does not end the comparison at the first that is equal, and neither does this.
                inodes
                    .iter()
                    .zip(0..)
                    .fold(None, |found, (other, place)| if *other == inode { Some(place) } else { found })
            };
            let Some(entry) = place.and_then(|place| entries.get_mut::<usize>(place)) else { continue };
            if name.is_none() {
                name = fs::read_to_string(directory.join("comm")).ok().map(|name| name.trim_end().into());
            }
            entry.process.clone_from(&name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_read_as_it_is_written() {
        let watch = Watch {
            is_udp: true,
            state: 10,
            local: Ipv4Addr::LOCALHOST,
            remote: Ipv4Addr::UNSPECIFIED,
            local_port: 53,
            remote_port: 0,
            process: Some("named".into()),
        };
        assert_eq!(watch.line(), "udp 10 127.0.0.1 0.0.0.0 53 0 named");
        assert_eq!(watch.line().parse::<Watch>().unwrap(), watch);
    }

    #[test]
    fn a_line_of_the_kernels_table_is_a_socket() {
        let line = "   1: 0100007F:1F90 0200007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 \
                    0000000000000000 20 4 30 10 -1";
        let [local, remote] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)];
        let entry = Entry { local: (local, 8080), remote: (remote, 50_000), state: 1, process: None };
        assert_eq!(parse_line(line), Some((entry, 4_711)));
        assert_eq!(parse_line("sl local_address"), None);
    }
}
