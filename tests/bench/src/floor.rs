//! What no walk over the host's sockets can stay below: dumps whose program rejects every socket.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, sendto, socket_with,
};

use crate::cpu;

/// `include/uapi/linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
/// `include/uapi/linux/sock_diag.h`, since Linux 3.3.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `include/uapi/linux/inet_diag.h`.
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_JMP: u8 = 1;
const SOCKET_ID_BYTES: usize = 48;
const IPPROTO_TCP: u8 = 6;
/// `ESTABLISHED` and `SYN_SENT`, as bits of `idiag_states` (`include/net/tcp_states.h`).
const STATES: u32 = 1 << 1 | 1 << 2;

/// The kernel's own CPU time for walking over all sockets, IPv4 and then IPv6: the median of some walks, each after a
/// `pause` as long as the agent's between two cycles. Without one, the table would still be in the processor's caches, where
/// the agent does not find it.
pub(crate) fn measure_walk(runs: usize, pause: Duration) -> Result<Duration> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    let mut buffer = vec![0; 32 << 10];
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        thread::sleep(pause);
        let before = cpu::read_thread()?;
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let request = encode_rejecting_dump(u8::try_from(family.as_raw())?);
            sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
            let (_, bytes, _) = recvfrom(&socket, &mut *buffer, RecvFlags::empty())?;
            decode_end(buffer.get(..bytes).unwrap_or_default())?;
        }
        times.push(cpu::read_thread()?.saturating_sub(before));
    }
    times.sort_unstable();
    times.get(runs / 2).copied().context("at least one walk")
}

/// A dump with a program of one jump, to behind the end: the kernel's way to say no (`inet_diag_bc_run`).
fn encode_rejecting_dump(family: u8) -> Vec<u8> {
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend(STATES.to_ne_bytes());
    body.extend([0; SOCKET_ID_BYTES]);
    // struct nlattr with one struct inet_diag_bc_op: yes leads to the end, no beyond it.
    body.extend(8_u16.to_ne_bytes());
    body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    body.extend([INET_DIAG_BC_JMP, 4]);
    body.extend(8_u16.to_ne_bytes());

    let length = u32::try_from(16 + body.len()).unwrap_or_default();
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence number and port id.
    request.extend([0; 8]);
    request.extend(body);
    request
}

/// The answer has to be the end of the dump, without a socket before it.
fn decode_end(reply: &[u8]) -> Result<()> {
    let kind = reply.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let result = reply.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match kind {
        Some(NLMSG_DONE) => {
            ensure!(result == Some(0), "sock_diag: the dump ended with {result:?}");
            Ok(())
        }
        Some(NLMSG_ERROR) => bail!("sock_diag: error {result:?}"),
        other => bail!("sock_diag: message {other:?}, although every socket was to be rejected"),
    }
}
