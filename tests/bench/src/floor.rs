//! What the kernel alone takes for the agent's questions: nothing that asks them can stay below.
//!
//! Each is asked after a pause as long as the agent's between two cycles. Without one, the kernel's tables would still be
//! in the processor's caches, where the agent does not find them.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, open, readlinkat_raw};
use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, sendto, socket_with,
};
use vms_core::ConnAdapter as _;
use vms_core::address::Endpoint;
use vms_core::connection::{ConnectionFilter, TcpState, TcpStates};
use vms_sock_diag::SockDiag;
use vms_sock_diag::codec::LookupRequest;

use crate::cpu;

/// `include/uapi/linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const HEADER_BYTES: usize = 16;
/// `include/uapi/linux/sock_diag.h`, since Linux 3.3.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `include/uapi/linux/inet_diag.h`.
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_JMP: u8 = 1;
const SOCKET_ID_BYTES: usize = 48;
const IPPROTO_TCP: u8 = 6;
/// `ESTABLISHED` and `SYN_SENT`, as bits of `idiag_states` (`include/net/tcp_states.h`).
const STATES: u32 = 1 << 1 | 1 << 2;

/// The kernel gives no piece of a dump that is larger, whatever the buffer.
const RECEIVE_BYTES: usize = 32 << 10;
/// How long an answer may take that should be there at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lookups that go in one send, as many as the agent's.
pub(crate) const LOOKUPS_AT_ONCE: usize = 64;
/// Room for the text of a link to a socket: `socket:[`, an inode of up to 20 digits and `]`.
const LINK_BYTES: usize = 32;

/// CPU time of the kernel, and of nothing but the calls: each the median of some rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floors {
    /// Two dumps (IPv4, IPv6) whose program rejects every socket.
    pub(crate) walk: Duration,
    /// Two dumps without a program: every socket in one of the two states is told, and what is told is not decoded.
    pub(crate) full_dump: Duration,
    /// For every watched socket one exact lookup with `tcp_info`, and one look at the descriptor that holds it.
    pub(crate) verification: Duration,
}

impl Floors {
    /// Asks the kernel so many times for each, with a pause before each time.
    pub(crate) fn measure(rounds: usize, pause: Duration, watched: &Watched) -> Result<Self> {
        let mut kernel = Kernel::open()?;
        Ok(Self {
            walk: median(rounds, pause, || kernel.dump(Extent::Nothing))?,
            full_dump: median(rounds / 2, pause, || kernel.dump(Extent::All))?,
            verification: median(rounds, pause, || watched.verify(&mut kernel))?,
        })
    }
}

/// The median of the CPU time of some rounds, at least one.
fn median(rounds: usize, pause: Duration, mut round: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..rounds.max(1) {
        thread::sleep(pause);
        let before = cpu::read_thread()?;
        round()?;
        times.push(cpu::read_thread()?.saturating_sub(before));
    }
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("at least one round")
}

/// How much a dump is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Nothing,
    All,
}

/// A netlink socket, and where its answers go.
#[derive(Debug)]
struct Kernel {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Kernel {
    fn open() -> Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, buffer: vec![0; RECEIVE_BYTES] })
    }

    fn send(&self, requests: &[u8]) -> Result<()> {
        sendto(&self.socket, requests, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    fn receive(&mut self) -> Result<&[u8]> {
        let (_, bytes, _) = recvfrom(&self.socket, &mut *self.buffer, RecvFlags::TRUNC)?;
        self.buffer.get(..bytes).context("sock_diag: an answer was cut off")
    }

    /// One dump for each family.
    fn dump(&mut self, extent: Extent) -> Result<()> {
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            self.send(&encode_dump(u8::try_from(family.as_raw())?, extent))?;
            while !is_end(self.receive()?, extent)? {}
        }
        Ok(())
    }
}

/// A dump; one that is to tell nothing has a program of one jump, to behind the end: the kernel's way to say no
/// (`inet_diag_bc_run`).
fn encode_dump(family: u8, extent: Extent) -> Vec<u8> {
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend(STATES.to_ne_bytes());
    body.extend([0; SOCKET_ID_BYTES]);
    if extent == Extent::Nothing {
        // struct nlattr with one struct inet_diag_bc_op: yes leads to the end, no beyond it.
        body.extend(8_u16.to_ne_bytes());
        body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
        body.extend([INET_DIAG_BC_JMP, 4]);
        body.extend(8_u16.to_ne_bytes());
    }
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or_default();
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence number and port id.
    request.extend([0; 8]);
    request.extend(body);
    request
}

/// Whether the dump ends with these messages, of which only the headers are looked at.
fn is_end(mut messages: &[u8], extent: Extent) -> Result<bool> {
    while let Some(header) = messages.first_chunk::<HEADER_BYTES>() {
        let (length, kind) = parse_header(header);
        let length = usize::try_from(length)?;
        ensure!(length >= HEADER_BYTES, "sock_diag: a message of {length} bytes");
        match kind {
            SOCK_DIAG_BY_FAMILY if extent == Extent::All => {}
            NLMSG_DONE => {
                let result = read_result(messages);
                ensure!(result == Some(0), "sock_diag: the dump ended with {result:?}");
                return Ok(true);
            }
            NLMSG_ERROR => bail!("sock_diag: error {:?}", read_result(messages)),
            other => bail!("sock_diag: message {other}, although every socket was to be rejected"),
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Length and kind (`struct nlmsghdr`, `include/uapi/linux/netlink.h`).
fn parse_header(header: &[u8; HEADER_BYTES]) -> (u32, u16) {
    let [l0, l1, l2, l3, k0, k1, ..] = *header;
    (u32::from_ne_bytes([l0, l1, l2, l3]), u16::from_ne_bytes([k0, k1]))
}

/// What the kernel says behind the header of a verdict.
fn read_result(message: &[u8]) -> Option<i32> {
    let bytes = message.get(HEADER_BYTES..)?.first_chunk()?;
    Some(i32::from_ne_bytes(*bytes))
}

/// The watched sockets of this host, with everything that has to be known to ask the kernel about each.
#[derive(Debug)]
pub(crate) struct Watched {
    /// Requests as they are sent, each with how many there are in it.
    lookups: Vec<(Vec<u8>, usize)>,
    /// The /proc/PID of all holders.
    directories: Vec<OwnedFd>,
    /// Of which of them to read which link.
    links: Vec<(usize, CString)>,
}

impl Watched {
    /// Finds the sockets that have one of the services at either end, and who of these processes holds each.
    pub(crate) fn find(services: &[SocketAddrV4], holders: &[u32]) -> Result<Self> {
        let states = TcpStates::of(&[TcpState::Established]);
        let ends = services.iter().map(|service| Endpoint::new((*service.ip()).into(), service.port()));
        let filter = ConnectionFilter::new(states, ends);
        let connections = SockDiag::open(Path::new("/proc"))?.dump(&filter)?;
        let mut lookups = Vec::new();
        for batch in connections.chunks(LOOKUPS_AT_ONCE) {
            let mut requests = Vec::new();
            for connection in batch {
                LookupRequest { sequence: 0, connection }.encode(&mut requests);
            }
            lookups.push((requests, batch.len()));
        }

        let mut directories = Vec::new();
        let mut places: HashMap<String, (usize, CString)> = HashMap::new();
        for (index, pid) in holders.iter().enumerate() {
            let directory = format!("/proc/{pid}");
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            directories.push(open(&directory, flags, Mode::empty()).context(directory.clone())?);
            for entry in fs::read_dir(format!("{directory}/fd"))? {
                let entry = entry?;
                let link = fs::read_link(entry.path())?.to_string_lossy().into_owned();
                let descriptor = CString::new(format!("fd/{}", entry.file_name().to_string_lossy()))?;
                places.insert(link, (index, descriptor));
            }
        }
        let links = connections.iter().filter_map(|connection| {
            let inode = connection.inode?;
            places.remove(&format!("socket:[{}]", inode.get()))
        });
        let links: Vec<_> = links.collect();
        ensure!(
            links.len() == connections.len() && links.len() >= services.len(),
            "{} sockets of {} links were found, and holders of {}",
            connections.len(),
            services.len(),
            links.len()
        );
        Ok(Self { lookups, directories, links })
    }

    /// Asks about each of them once.
    fn verify(&self, kernel: &mut Kernel) -> Result<()> {
        for (requests, count) in &self.lookups {
            kernel.send(requests)?;
            for _ in 0..*count {
                let header = kernel.receive()?.first_chunk().map(parse_header);
                ensure!(
                    header.is_some_and(|(_, kind)| kind == SOCK_DIAG_BY_FAMILY),
                    "sock_diag: a watched socket is gone"
                );
            }
        }
        let mut link = [0; LINK_BYTES];
        for (holder, descriptor) in &self.links {
            let directory = self.directories.get(*holder).ok_or(Errno::BADF)?;
            let length = readlinkat_raw(directory, descriptor, &mut link)?;
            ensure!(
                link.get(..length).is_some_and(|link| link.starts_with(b"socket:[")),
                "a watched socket is no longer held"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + payload.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], payload].concat()
    }

    #[test]
    fn a_dump_ends_where_the_kernel_says_so_and_at_no_socket() {
        let socket = message(SOCK_DIAG_BY_FAMILY, &[0; 72]);
        let done = message(NLMSG_DONE, &0_i32.to_ne_bytes());
        assert!(!is_end(&socket, Extent::All).unwrap());
        assert!(is_end(&[socket.clone(), done.clone()].concat(), Extent::All).unwrap());
        assert!(is_end(&socket, Extent::Nothing).is_err(), "every socket was to be rejected");
        assert!(is_end(&done, Extent::Nothing).unwrap());
        for failed in [NLMSG_DONE, NLMSG_ERROR] {
            assert!(is_end(&message(failed, &(-2_i32).to_ne_bytes()), Extent::All).is_err());
        }
    }
}
