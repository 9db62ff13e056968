//! How many sockets a walk of the kernel's table passes: those of all network namespaces, for they share it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What is assumed where the kernel does not tell. Too large a host makes the kernel audit a program that hardly
/// pays, for some milliseconds; too small a one would let through every socket of a large host.
const ASSUMED_SOCKETS: u32 = 100_000;

/// Far more than the file has.
const MOST_BYTES: u64 = 4096;

/// How many TCP sockets the host has, by a `net/sockstat` of `/proc`; [`ASSUMED_SOCKETS`] where that is not readable or
/// does not say.
pub(crate) fn read_host_sockets(sockstat: &Path) -> u32 {
    read_start(sockstat).ok().and_then(|text| parse_host_sockets(&text)).unwrap_or(ASSUMED_SOCKETS)
}

fn read_start(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// The number behind `alloc` in the line `TCP:` (`sockstat_seq_show` in `net/ipv4/proc.c`).
///
/// Unlike `inuse` it counts all network namespaces and both families: it is what `tcp_prot` and `tcpv6_prot` share. It
/// leaves out `TIME_WAIT`, which is passed quickly. `None` when it is not there, or no number.
#[must_use]
pub fn parse_host_sockets(sockstat: &[u8]) -> Option<u32> {
    let line = sockstat.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"TCP:"))?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.find(|word| *word == "alloc")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests;
