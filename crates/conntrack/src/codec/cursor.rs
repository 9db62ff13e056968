//! Takes fields off the front of a datagram, and knows how far it is.

use super::{ATTRIBUTE_HEADER_BYTES, Malformed};

/// `NLA_TYPE_MASK`: what of an attribute's type is no flag.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

/// What is left of a datagram.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram, offset: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn bytes_left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn take<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], Malformed> {
        let Some((field, rest)) = self.rest.split_first_chunk() else {
            let found = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
            return Err(Malformed { offset: self.offset, expected, found });
        };
        self.rest = rest;
        self.offset += N;
        Ok(*field)
    }

    /// `struct nlattr`: its type, and what it holds.
    pub(super) fn take_attribute(&mut self) -> Result<(u16, Self), Malformed> {
        let (offset, available) = (self.offset, self.rest.len());
        let length = u16::from_ne_bytes(self.take("an attribute header (4 bytes)")?);
        let kind = u16::from_ne_bytes(self.take("an attribute type")?);
        let value_bytes = usize::from(length)
            .checked_sub(ATTRIBUTE_HEADER_BYTES)
            .filter(|value_bytes| ATTRIBUTE_HEADER_BYTES + value_bytes <= available)
            .ok_or(Malformed {
                offset,
                expected: "an attribute length from 4 to what is left of the message",
                found: length.into(),
            })?;
        // NLA_ALIGN: the next attribute starts at a multiple of 4; the last one may go unpadded.
        Ok((kind & ATTRIBUTE_TYPE_MASK, self.split_padded(value_bytes)))
    }

    /// Splits off as many bytes, and drops what pads them to a multiple of 4, as far as there are as many.
    pub(super) fn split_padded(&mut self, bytes: usize) -> Self {
        let split = self.split(bytes);
        self.split(bytes.next_multiple_of(4) - bytes);
        split
    }

    fn split(&mut self, bytes: usize) -> Self {
        let (field, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, &[]));
        let split = Self { rest: field, offset: self.offset };
        self.rest = rest;
        self.offset += field.len();
        split
    }
}
