//! How a connection fares, as the kernel tells of it besides its state.

use std::time::Duration;

use crate::connection::Connection;

/// One connection that was looked up again, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// The connection; its state may be any.
    pub connection: Connection,
    /// How it fares; `None` where the kernel does not tell, as of a socket that is no full one any more.
    pub vitals: Option<Vitals>,
}

/// What the kernel counts and times of one connection: `struct tcp_info` (`include/uapi/linux/tcp.h`), and the queues
/// of `struct inet_diag_msg` (`include/uapi/linux/inet_diag.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vitals {
    /// The smoothed round-trip time (RFC 6298, `tcpi_rtt`); `None` before it was first measured.
    pub rtt: Option<Duration>,
    /// Segments sent again since the connection was made (`tcpi_total_retrans`).
    pub retransmits: u64,
    /// Payload bytes sent, each once however often it was sent again (`tcpi_bytes_sent` less `tcpi_bytes_retrans`, since
    /// Linux 4.19; before that `tcpi_bytes_acked`).
    pub sent_bytes: u64,
    /// Payload bytes received (`tcpi_bytes_received`, since Linux 4.1).
    pub received_bytes: u64,
    /// How long ago data last arrived, or the connection was made (`tcpi_last_data_recv`, whole milliseconds).
    pub since_data: Duration,
    /// How long ago an acknowledgment last arrived (`tcpi_last_ack_recv`, whole milliseconds).
    pub since_acknowledgment: Duration,
    /// Bytes sent and not acknowledged (`idiag_wqueue` less `tcpi_notsent_bytes`).
    pub unacknowledged_bytes: u64,
    /// Bytes that the process wrote and the kernel has not sent yet (`tcpi_notsent_bytes`, since Linux 4.6).
    pub unsent_bytes: u64,
    /// Bytes that arrived and the process has not read yet (`idiag_rqueue`).
    pub unread_bytes: u64,
    /// Keepalive or zero-window probes sent and not answered (`tcpi_probes`).
    pub unanswered_probes: u8,
}

impl Vitals {
    /// Whether the peer owes an answer: sent data is not acknowledged, or a probe is not.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        self.unacknowledged_bytes > 0 || self.unanswered_probes > 0
    }
}
