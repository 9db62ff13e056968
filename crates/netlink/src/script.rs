//! A kernel that follows a script, and messages for it to say: for tests, those of the families as well.
//!
//! The bytes are put together from the layouts of the kernel's headers, without anything that is tested with them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test ends by panicking"
)]

use std::collections::VecDeque;

use rustix::io::Errno;

use crate::exchange::Line;
use crate::socket::{Datagram, Transport};

/// The sequence number of a message that no [`Script`] has said.
pub const SEQUENCE: u32 = 7;
/// The port id of a message that no [`Script`] has said.
pub const PORT_ID: u32 = 4242;

/// What the kernel does next.
#[derive(Debug, Clone)]
pub enum Event {
    /// It answers with this datagram. Sequence and port id are those asked with.
    Answer(Vec<u8>),
    /// The datagram is somebody else's, sent under the pretense of being an answer.
    Forgery(Vec<u8>),
    /// The answers to the requests from that index on among those sent at once, one message each.
    AnswerTo(u32, Vec<u8>),
    /// The answer to the request before this one.
    Stale(Vec<u8>),
    /// The answer to another socket.
    Misdirected(Vec<u8>),
    /// The datagram does not fit the buffer.
    Oversized,
    /// Receiving fails.
    ReceiveError(Errno),
}

/// What follows a request; or sending it fails.
pub type Sent = Result<VecDeque<Event>, Errno>;

/// A kernel that follows a script, one list of events for each request.
#[derive(Debug, Default)]
pub struct Script {
    /// What is still to come.
    pub exchanges: VecDeque<Sent>,
    /// What comes of opening.
    pub open_error: Option<Errno>,
    /// What was sent.
    pub requests: Vec<Vec<u8>>,
    /// How often a conversation was begun.
    pub reopened: u32,
    /// What was not read of an answer is gone with the next request.
    pub forgets: bool,
    port_id: u32,
    sequence: u32,
    pending: VecDeque<Event>,
}

impl Script {
    /// One that follows each request with these events.
    pub fn new(exchanges: impl IntoIterator<Item = Vec<Event>>) -> Self {
        let exchanges = exchanges.into_iter().map(|events| Ok(events.into())).collect();
        Self { exchanges, ..Self::default() }
    }

    /// A line to it that is open, and not counted as opened.
    #[must_use]
    pub fn open_line(self) -> Line<Self> {
        let mut line = Line::open(self).expect("a script opens as a rule");
        line.transport.reopened = 0;
        line
    }
}

impl Transport for Script {
    fn reopen(&mut self) -> Result<u32, Errno> {
        if let Some(errno) = self.open_error {
            return Err(errno);
        }
        self.reopened += 1;
        self.port_id += 1;
        self.pending.clear();
        Ok(self.port_id)
    }

    fn send(&mut self, request: &[u8]) -> Result<(), Errno> {
        if self.forgets {
            self.pending.clear();
        }
        assert!(self.pending.is_empty(), "a request while the last one is still being answered");
        // The number of the first, where several requests are sent at once.
        self.sequence = u32_at(request, 8).expect("a request has a header");
        self.requests.push(request.to_vec());
        self.pending = self.exchanges.pop_front().expect("no more requests than the script has")?;
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Datagram, Errno> {
        let event = self.pending.pop_front().expect("nothing is read behind the end of the reply");
        let (sequence, port_id) = (self.sequence, self.port_id);
        let (bytes, from_kernel) = match event {
            Event::Answer(bytes) => (addressed(bytes, |_| sequence, port_id), true),
            Event::AnswerTo(first, bytes) => {
                (addressed(bytes, |place| sequence.wrapping_add(first + place), port_id), true)
            }
            Event::Forgery(bytes) => (addressed(bytes, |_| sequence, port_id), false),
            Event::Stale(bytes) => (addressed(bytes, |_| sequence.wrapping_sub(1), port_id), true),
            Event::Misdirected(bytes) => (addressed(bytes, |_| sequence, port_id + 1), true),
            Event::Oversized => return Ok(Datagram { bytes: buffer.len() + 1, from_kernel: true }),
            Event::ReceiveError(errno) => return Err(errno),
        };
        buffer.get_mut(..bytes.len()).expect("the datagram fits the buffer").copy_from_slice(&bytes);
        Ok(Datagram { bytes: bytes.len(), from_kernel })
    }
}

/// The datagram with the sequence number of each message, by its place, and the port id filled in.
fn addressed(mut bytes: Vec<u8>, sequence: impl Fn(u32) -> u32, port_id: u32) -> Vec<u8> {
    let mut start = 0;
    for place in 0.. {
        let Some(length) = u32_at(&bytes, start) else { break };
        let Some(address) = bytes.get_mut(start + 8..start + 16) else { break };
        address.copy_from_slice(&[sequence(place).to_ne_bytes(), port_id.to_ne_bytes()].concat());
        start += usize::try_from(length).unwrap().max(16).next_multiple_of(4);
    }
    bytes
}

fn u32_at(bytes: &[u8], place: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(place..)?.first_chunk()?))
}

/// `struct nlmsghdr` and a payload, padded.
#[must_use]
pub fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    padded(&[
        &length.to_ne_bytes(),
        &kind.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &SEQUENCE.to_ne_bytes(),
        &PORT_ID.to_ne_bytes(),
        payload,
    ])
}

/// `struct nlattr` and a value, padded.
#[must_use]
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    padded(&[&length.to_ne_bytes(), &kind.to_ne_bytes(), value])
}

fn padded(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `NLMSG_DONE`: the end of a dump.
#[must_use]
pub fn done() -> Vec<u8> {
    done_with(0)
}

/// `NLMSG_DONE` of a dump that broke off with that errno, positive.
#[must_use]
pub fn done_with(errno: i32) -> Vec<u8> {
    message(3, 2, &errno.wrapping_neg().to_ne_bytes())
}

/// `NLMSG_ERROR` with that errno, positive, and the header of the request.
#[must_use]
pub fn refusal(errno: i32) -> Vec<u8> {
    message(2, 0, &[&errno.wrapping_neg().to_ne_bytes()[..], &[0; 16]].concat())
}

/// `NLMSG_OVERRUN`: messages were lost.
#[must_use]
pub fn overrun() -> Vec<u8> {
    message(4, 0, &[])
}
