//! The kernel's tables of TCP sockets as text: `/proc/PID/net/tcp` and `tcp6`.
//!
//! Pure. A table comes in pieces, and each whole line of it is a socket (`tcp4_seq_show` in `net/ipv4/tcp_ipv4.c`,
//! `tcp6_seq_show` in `net/ipv6/tcp_ipv6.c`). Of a line that is otherwise than these write it nothing is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vms_core::address::Endpoint;
use vms_core::connection::{Connection, Cookie, Inode, TcpState};
use vms_core::namespace::NamespaceId;

use crate::codec::Family;

/// Twice as long as the longest that the kernel writes.
const MAX_LINE_BYTES: usize = 512;

/// A line that the kernel does not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}")]
pub struct BadLine {
    /// Which, counted from 1.
    pub line: u32,
    /// What has to be there.
    pub expected: &'static str,
}

/// A table under way.
#[derive(Debug)]
pub struct Table {
    family: Family,
    namespace: NamespaceId,
    /// How many lines were taken in.
    lines: u32,
    /// The beginning of the next.
    rest: Vec<u8>,
}

impl Table {
    /// The sockets of that family in that network namespace.
    #[must_use]
    pub fn new(family: Family, namespace: NamespaceId) -> Self {
        Self { family, namespace, lines: 0, rest: Vec::new() }
    }

    /// How many lines were taken in, the heading among them.
    #[must_use]
    pub fn lines(&self) -> u32 {
        self.lines
    }

    /// Takes in the next piece, and shows the socket of each line that it completes.
    ///
    /// # Errors
    /// At the first line that the kernel does not write.
    pub fn take(&mut self, piece: &[u8], mut visit: impl FnMut(Connection)) -> Result<(), BadLine> {
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, others) = rest.split_at(end);
            rest = others.get(1..).unwrap_or_default();
            let told = if self.rest.is_empty() {
                self.parse(line)?
            } else {
                self.keep(line)?;
                let whole = std::mem::take(&mut self.rest);
                self.parse(&whole)?
            };
            self.lines = self.lines.saturating_add(1);
            if let Some(connection) = told {
                visit(connection);
            }
        }
        self.keep(rest)
    }

    /// Ends the table.
    ///
    /// # Errors
    /// When it ended within a line, or before the first.
    pub fn finish(self) -> Result<(), BadLine> {
        if self.rest.is_empty() && self.lines > 0 { Ok(()) } else { Err(self.bad("the end of the line")) }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), BadLine> {
        if self.rest.len() + bytes.len() > MAX_LINE_BYTES {
            return Err(self.bad("the end of the line"));
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    fn bad(&self, expected: &'static str) -> BadLine {
        BadLine { line: self.lines.saturating_add(1), expected }
    }

    /// The socket of a line; `None` for the heading.
    fn parse(&self, line: &[u8]) -> Result<Option<Connection>, BadLine> {
        if line.len() > MAX_LINE_BYTES {
            return Err(self.bad("the end of the line"));
        }
        let text = std::str::from_utf8(line).map_err(|_not_text| self.bad("text"))?;
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let mut word = |expected| words.next().ok_or_else(|| self.bad(expected));
        if self.lines == 0 {
            let is_heading = word("the heading")? == "sl" && word("the heading")? == "local_address";
            return if is_heading { Ok(None) } else { Err(self.bad("the heading")) };
        }
        let number = word("the number of the line")?.strip_suffix(':').and_then(parse_decimal);
        number.ok_or_else(|| self.bad("the number of the line"))?;
        let local = parse_endpoint(word("the local endpoint")?, self.family);
        let local = local.ok_or_else(|| self.bad("the local endpoint"))?;
        let remote = parse_endpoint(word("the remote endpoint")?, self.family);
        let remote = remote.ok_or_else(|| self.bad("the remote endpoint"))?;
        let state = parse_hex(word("a TCP state")?, 2).and_then(|number| u8::try_from(number).ok());
        let state = state.and_then(TcpState::from_number).ok_or_else(|| self.bad("a TCP state"))?;
        let queues = parse_pair(word("the queues")?, 8, 8);
        queues.ok_or_else(|| self.bad("the queues"))?;
        let timer = word("the timer")?.split_once(':').filter(|(kind, left)| {
            parse_hex(kind, 2).is_some() && left.len() >= 8 && parse_hex(left, left.len()).is_some()
        });
        timer.ok_or_else(|| self.bad("the timer"))?;
        parse_hex(word("the retransmissions")?, 8).ok_or_else(|| self.bad("the retransmissions"))?;
        let uid = parse_decimal(word("the user")?).and_then(|number| u32::try_from(number).ok());
        let uid = uid.ok_or_else(|| self.bad("the user"))?;
        parse_decimal(word("the probes")?).ok_or_else(|| self.bad("the probes"))?;
        let inode = parse_decimal(word("the inode")?).ok_or_else(|| self.bad("the inode"))?;
        let inode = Inode::new(inode);
        let namespace = self.namespace;
        let cookie = Cookie::stand_in(inode, local, remote, namespace);
        Ok(Some(Connection {
            local,
            remote,
            state,
            interface: 0,
            inode,
            cookie,
            uid,
            cgroup: None,
            namespace,
        }))
    }
}

/// An address as the words of 32 bits that it has in memory, and a port as the number that it is.
fn parse_endpoint(word: &str, family: Family) -> Option<Endpoint> {
    let (address, port) = word.split_once(':')?;
    let port = u16::try_from(parse_hex(port, 4)?).ok()?;
    let word_at = |index: usize| {
        let word = address.get(index * 8..(index + 1) * 8)?;
        Some(u32::try_from(parse_hex(word, 8)?).ok()?.to_ne_bytes())
    };
    let ip = match family {
        Family::Inet if address.len() == 8 => IpAddr::from(Ipv4Addr::from(word_at(0)?)),
        Family::Inet6 if address.len() == 32 => {
            let mut octets = [0; 16];
            for (index, place) in octets.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&word_at(index)?);
            }
            IpAddr::from(Ipv6Addr::from(octets))
        }
        Family::Inet | Family::Inet6 => return None,
    };
    Some(Endpoint::new(ip, port))
}

fn parse_pair(word: &str, first: usize, second: usize) -> Option<(u64, u64)> {
    let (one, other) = word.split_once(':')?;
    Some((parse_hex(one, first)?, parse_hex(other, second)?))
}

/// Exactly so many digits, as `%X` writes them.
fn parse_hex(word: &str, digits: usize) -> Option<u64> {
    let is_written =
        word.len() == digits && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    if is_written { u64::from_str_radix(word, 16).ok() } else { None }
}

fn parse_decimal(word: &str) -> Option<u64> {
    let is_written = word.bytes().all(|byte| byte.is_ascii_digit());
    if is_written { word.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
