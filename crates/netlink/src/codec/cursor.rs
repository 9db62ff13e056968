//! Takes fields off the front of a datagram, and knows how far it is.
#![expect(
    clippy::inline_always,
    reason = "where little is optimized, each field would be a call into another crate"
)]

use super::{ATTRIBUTE_HEADER_BYTES, Malformed};

/// `NLA_TYPE_MASK`: what of an attribute's type is no flag.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

/// What is left of a datagram, or of a part of it.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// The whole datagram.
    #[inline]
    #[must_use]
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram, offset: 0 }
    }

    /// How far into the datagram what is left begins.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// How much is left.
    #[inline]
    #[must_use]
    pub fn bytes_left(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing is left.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes a field off the front.
    ///
    /// # Errors
    /// When less is left.
    #[inline(always)]
    pub fn take<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], Malformed> {
        let Some((field, rest)) = self.rest.split_first_chunk() else { return Err(self.missing(expected)) };
        self.rest = rest;
        self.offset += N;
        Ok(*field)
    }

    /// A number of 16 bits, in the host's byte order.
    ///
    /// # Errors
    /// As [`Cursor::take`].
    #[inline(always)]
    pub fn take_u16(&mut self, expected: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_ne_bytes(self.take(expected)?))
    }

    /// A number of 32 bits, in the host's byte order.
    ///
    /// # Errors
    /// As [`Cursor::take`].
    #[inline(always)]
    pub fn take_u32(&mut self, expected: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_ne_bytes(self.take(expected)?))
    }

    /// The field at that place from here, which stays; `None` when it is not all there.
    #[inline]
    #[must_use]
    pub fn field<const N: usize>(&self, place: usize) -> Option<[u8; N]> {
        self.rest.get(place..)?.first_chunk().copied()
    }

    /// That what is left is less than what has to be there.
    #[cold]
    #[must_use]
    pub fn missing(&self, expected: &'static str) -> Malformed {
        Malformed { offset: self.offset, expected, found: u64::try_from(self.rest.len()).unwrap_or(u64::MAX) }
    }

    /// `struct nlattr`: its type without flags, and what it holds.
    ///
    /// # Errors
    /// When its length is less than that of its header, or more than what is left.
    #[inline]
    pub fn take_attribute(&mut self) -> Result<(u16, Self), Malformed> {
        let (offset, available) = (self.offset, self.rest.len());
        let [length_0, length_1, kind_0, kind_1] = self.take("an attribute header (4 bytes)")?;
        let length = u16::from_ne_bytes([length_0, length_1]);
        let kind = u16::from_ne_bytes([kind_0, kind_1]);
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
    #[inline]
    pub(super) fn split_padded(&mut self, bytes: usize) -> Self {
        let split = self.split(bytes);
        self.split(bytes.next_multiple_of(4) - bytes);
        split
    }

    #[inline]
    fn split(&mut self, bytes: usize) -> Self {
        let (field, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, &[]));
        let split = Self { rest: field, offset: self.offset };
        self.rest = rest;
        self.offset += field.len();
        split
    }
}
