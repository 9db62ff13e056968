//! The bytes of netlink, around those of a family: requests out, replies in. Pure.
//!
//! Layouts: `include/uapi/linux/netlink.h`. Integers have the host's byte order.

pub use cursor::Cursor;

mod cursor;

/// `NLMSG_NOOP`.
const NOOP: u16 = 1;
/// `NLMSG_ERROR`: the verdict on a request.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 3;
/// `NLMSG_OVERRUN`: data was lost.
const OVERRUN: u16 = 4;

/// `NLM_F_REQUEST`: the flags of a request for what the kernel tells in one message.
pub const REQUEST: u16 = 0x01;
/// `NLM_F_REQUEST | NLM_F_DUMP`, the latter `NLM_F_ROOT | NLM_F_MATCH`: the flags of a request for all that there is.
pub const REQUEST_DUMP: u16 = REQUEST | 0x300;
/// `NLM_F_DUMP_INTR`: what was dumped changed in between.
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
/// `NLA_F_NESTED`: attributes inside an attribute.
const NESTED: u16 = 0x8000;

/// `sizeof(struct nlmsghdr)`.
const HEADER_BYTES: usize = 16;
/// `sizeof(struct nlattr)`.
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// `MAX_ERRNO` (`include/linux/err.h`).
const MAX_ERRNO: u32 = 4095;

/// The messages of one type that a family has of its own.
pub trait Codec {
    /// What such a message tells.
    type Told;
    /// Its type, `nlmsg_type`: at least 16 (`NLMSG_MIN_TYPE`).
    const KIND: u16;
    /// What a message should have been that is neither one of these nor netlink's own, as [`Malformed::expected`].
    const EXPECTED: &'static str;

    /// What a message tells with this payload.
    ///
    /// # Errors
    /// When it makes no sense.
    fn decode(payload: Cursor<'_>) -> Result<Self::Told, Malformed>;
}

/// What is encoded does not fit an attribute, whose length is a u16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value of {0} bytes is too long for a netlink attribute")]
pub struct TooLong(pub usize);

/// Adds a message to `out`: `struct nlmsghdr`, and the payload that is added by the one given.
///
/// Returns what that returns. A port id of 0 stands for the socket that sends.
#[inline]
pub fn encode_message<R>(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    encode_payload: impl FnOnce(&mut Vec<u8>) -> R,
) -> R {
    let start = out.len();
    let [kind, flags] = [kind.to_ne_bytes(), flags.to_ne_bytes()];
    let [a, b, c, d] = sequence.to_ne_bytes();
    out.extend_from_slice(&[0, 0, 0, 0, kind[0], kind[1], flags[0], flags[1], a, b, c, d, 0, 0, 0, 0]);
    let outcome = encode_payload(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    encode_at(out, start, length.to_ne_bytes());
    outcome
}

/// Adds an attribute to `out`: `struct nlattr` and its value, padded.
///
/// # Errors
/// When the value is longer than an attribute can be.
pub fn encode_attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) -> Result<(), TooLong> {
    encode_padded(out, kind, |out| {
        out.extend_from_slice(value);
        Ok(())
    })
}

/// Adds an attribute to `out` whose value is attributes.
///
/// # Errors
/// As [`encode_attribute`].
pub fn encode_nested(
    out: &mut Vec<u8>,
    kind: u16,
    encode_attributes: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>,
) -> Result<(), TooLong> {
    encode_padded(out, kind | NESTED, encode_attributes)
}

fn encode_padded(
    out: &mut Vec<u8>,
    kind: u16,
    encode_value: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>,
) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&kind.to_ne_bytes());
    encode_value(out)?;
    let bytes = out.len() - start;
    let length = u16::try_from(bytes).map_err(|_overflow| TooLong(bytes - ATTRIBUTE_HEADER_BYTES))?;
    encode_at(out, start, length.to_ne_bytes());
    out.resize(start + bytes.next_multiple_of(4), 0);
    Ok(())
}

/// Replaces what is at that place.
#[inline]
fn encode_at<const N: usize>(out: &mut [u8], place: usize, bytes: [u8; N]) {
    if let Some(field) = out.get_mut(place..).and_then(<[u8]>::first_chunk_mut) {
        *field = bytes;
    }
}

/// A message that the kernel passes over and does not answer. To who may not ask it says that.
pub(crate) fn encode_noop() -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    encode_message(&mut out, NOOP, 0, 0, |_out| ());
    out
}

/// A reply that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: expected {expected}, found {found}")]
pub struct Malformed {
    /// Where in the datagram.
    pub offset: usize,
    /// What has to be there.
    pub expected: &'static str,
    /// The number that is there instead, or of the bytes that are left.
    pub found: u64,
}

/// Splits a datagram into its messages. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    cursor: Cursor<'a>,
}

/// One netlink message: `struct nlmsghdr` and what follows it.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    port_id: u32,
    payload: Cursor<'a>,
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<S> {
    /// What was asked for, or one of many.
    Told(S),
    /// The end: everything has been told.
    Done,
    /// The end: the kernel gave up. It says so in `NLMSG_DONE`, or in `NLMSG_ERROR`.
    Failed {
        /// The errno, positive, at most 4095.
        errno: i32,
        /// Whether the request was refused (`NLMSG_ERROR`), or the dump broke off after it had begun.
        refused: bool,
    },
    /// Messages were lost.
    Lost,
    /// Nothing: padding, or the acknowledgment of a request.
    Nothing,
}

impl<'a> Messages<'a> {
    /// The messages of one datagram.
    #[inline]
    #[must_use]
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { cursor: Cursor::new(datagram) }
    }

    /// Takes one message off the datagram.
    #[inline]
    fn decode_message(&mut self) -> Result<Message<'a>, Malformed> {
        let (offset, available) = (self.cursor.offset(), self.cursor.bytes_left());
        let length = self.cursor.take_u32("a netlink header (16 bytes)")?;
        let payload_bytes = usize::try_from(length)
            .ok()
            .filter(|length| *length <= available)
            .and_then(|length| length.checked_sub(HEADER_BYTES))
            .ok_or(Malformed {
                offset,
                expected: "a message length from 16 to what is left of the datagram",
                found: length.into(),
            })?;
        let kind = self.cursor.take_u16("a message type")?;
        let flags = self.cursor.take_u16("message flags")?;
        let sequence = self.cursor.take_u32("a sequence number")?;
        let port_id = self.cursor.take_u32("a port id")?;
        // NLMSG_ALIGN: the next header starts at a multiple of 4; the last message may go unpadded.
        let payload = self.cursor.split_padded(payload_bytes);
        Ok(Message { kind, flags, sequence, port_id, payload })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_empty() {
            return None;
        }
        let message = self.decode_message();
        if message.is_err() {
            self.cursor = Cursor::new(&[]);
        }
        Some(message)
    }
}

impl Message<'_> {
    /// Whether the message answers that request of that socket. A stale reply to an earlier request does not.
    #[inline]
    #[must_use]
    pub fn answers(&self, sequence: u32, port_id: u32) -> bool {
        self.sequence == sequence && self.port_id == port_id
    }

    /// Which of so many requests of that socket the message answers, that were sent with sequence numbers from `first`
    /// on; `None` when it answers none of them.
    #[inline]
    #[must_use]
    pub fn answered(&self, first: u32, requests: usize, port_id: u32) -> Option<usize> {
        let index = usize::try_from(self.sequence.wrapping_sub(first)).ok()?;
        (self.port_id == port_id && index < requests).then_some(index)
    }

    /// Whether the kernel noticed that what it dumps changed meanwhile: some may be missing or come twice.
    #[inline]
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.flags & FLAG_DUMP_INTERRUPTED != 0
    }

    /// What the message says.
    ///
    /// # Errors
    /// When it is of a type that has no meaning here, or its payload makes no sense.
    #[inline]
    pub fn decode<C: Codec>(&self) -> Result<Reply<C::Told>, Malformed> {
        if self.kind == C::KIND {
            return C::decode(self.payload.clone()).map(Reply::Told);
        }
        self.decode_control(C::EXPECTED)
    }

    /// What netlink says itself.
    fn decode_control<S>(&self, expected: &'static str) -> Result<Reply<S>, Malformed> {
        Ok(match self.kind {
            DONE => match self.decode_errno()? {
                0 => Reply::Done,
                errno => Reply::Failed { errno, refused: false },
            },
            ERROR => match self.decode_errno()? {
                0 => Reply::Nothing,
                errno => Reply::Failed { errno, refused: true },
            },
            OVERRUN => Reply::Lost,
            NOOP => Reply::Nothing,
            kind => {
                let offset = self.payload.offset().saturating_sub(HEADER_BYTES - 4);
                return Err(Malformed { offset, expected, found: kind.into() });
            }
        })
    }

    /// The negative errno, or 0, that both `NLMSG_ERROR` and `NLMSG_DONE` begin with. Returned positive.
    fn decode_errno(&self) -> Result<i32, Malformed> {
        let offset = self.payload.offset();
        let errno = i32::from_ne_bytes(self.payload.clone().take("an errno (4 bytes)")?);
        if errno <= 0 && errno.unsigned_abs() <= MAX_ERRNO {
            Ok(-errno)
        } else {
            let found = u64::from(u32::from_ne_bytes(errno.to_ne_bytes()));
            Err(Malformed { offset, expected: "an errno from -4095 to 0", found })
        }
    }
}

#[cfg(test)]
mod tests;
