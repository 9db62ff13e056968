//! `struct tcp_info` (`include/uapi/linux/tcp.h`), as far as [`Vitals`] go.
//!
//! It has grown at its end ever since: an older kernel tells less of it, and a newer one more. Offsets never change.

use std::time::Duration;

use vms_core::health::Vitals;
use vms_netlink::{Cursor, Malformed};

/// `tcpi_probes`.
const PROBES: usize = 3;
/// `tcpi_last_data_recv`, in milliseconds.
const LAST_DATA_RECEIVED: usize = 52;
/// `tcpi_last_ack_recv`, in milliseconds.
const LAST_ACKNOWLEDGMENT_RECEIVED: usize = 56;
/// `tcpi_rtt`, in microseconds.
const ROUND_TRIP: usize = 68;
/// `tcpi_total_retrans`: the last field that is older than `sock_diag`.
const TOTAL_RETRANSMITS: usize = 100;
/// `tcpi_bytes_acked`, since Linux 4.1. It counts a SYN and a FIN as a byte each.
const BYTES_ACKNOWLEDGED: usize = 120;
/// `tcpi_bytes_received`, since Linux 4.1. It counts a FIN as a byte.
const BYTES_RECEIVED: usize = 128;
/// `tcpi_notsent_bytes`, since Linux 4.6.
const NOT_SENT: usize = 144;
/// `tcpi_bytes_sent`, since Linux 4.19: with what was sent again.
const BYTES_SENT: usize = 200;
/// `tcpi_bytes_retrans`, since Linux 4.19.
const BYTES_RETRANSMITTED: usize = 208;

/// `idiag_rqueue` and `idiag_wqueue` of `struct inet_diag_msg`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queues {
    /// What arrived and was not read.
    pub(super) receive_bytes: u32,
    /// What was written and is not acknowledged. A SYN or FIN under way counts as a byte.
    pub(super) send_bytes: u32,
}

/// The vitals of a connection.
///
/// What the kernel is too old to count is 0 bytes. But for the bytes sent, those acknowledged stand in, which it has
/// counted for longer.
///
/// # Errors
/// When even what is older than `sock_diag` is missing.
pub(super) fn decode_vitals(info: &Cursor<'_>, queues: Queues) -> Result<Vitals, Malformed> {
    let milliseconds =
        |place| required(info, place).map(|field| Duration::from_millis(u32::from_ne_bytes(field).into()));
    let [unanswered_probes] = required(info, PROBES)?;
    let since_data = milliseconds(LAST_DATA_RECEIVED)?;
    let since_acknowledgment = milliseconds(LAST_ACKNOWLEDGMENT_RECEIVED)?;
    let rtt_microseconds = u32::from_ne_bytes(required(info, ROUND_TRIP)?);
    let retransmits = u32::from_ne_bytes(required(info, TOTAL_RETRANSMITS)?);

    let bytes = |place| info.field(place).map(u64::from_ne_bytes);
    let sent_bytes = match (bytes(BYTES_SENT), bytes(BYTES_RETRANSMITTED)) {
        (Some(sent), Some(again)) => sent.saturating_sub(again),
        _ => bytes(BYTES_ACKNOWLEDGED).unwrap_or(0),
    };
    let unsent = info.field(NOT_SENT).map_or(0, u32::from_ne_bytes);
    Ok(Vitals {
        rtt: (rtt_microseconds != 0).then(|| Duration::from_micros(rtt_microseconds.into())),
        retransmits: retransmits.into(),
        sent_bytes,
        received_bytes: bytes(BYTES_RECEIVED).unwrap_or(0),
        since_data,
        since_acknowledgment,
        unacknowledged_bytes: queues.send_bytes.saturating_sub(unsent).into(),
        unsent_bytes: unsent.into(),
        unread_bytes: queues.receive_bytes.into(),
        unanswered_probes,
    })
}

/// The field at that place, which every kernel tells.
fn required<const N: usize>(info: &Cursor<'_>, place: usize) -> Result<[u8; N], Malformed> {
    info.field(place).ok_or_else(|| info.missing("a tcp_info of 104 bytes or more"))
}
