//! From when to when a certificate is valid, read from its DER form.

use std::time::{Duration, UNIX_EPOCH};

/// The time in which a certificate is valid (RFC 5280, section 4.1.2.5), in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl Validity {
    /// Reads it from an X.509 certificate; `None` where the bytes are none.
    pub(crate) fn read(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = element(certificate, SEQUENCE)?;
        let (mut rest, _) = element(certificate, SEQUENCE)?;
        // The version is left out of certificates of version 1.
        if let Some((_version, after)) = element(rest, VERSION) {
            rest = after;
        }
        let (_serial_number, rest) = element(rest, INTEGER)?;
        let (_signature_algorithm, rest) = element(rest, SEQUENCE)?;
        let (_issuer, rest) = element(rest, SEQUENCE)?;
        let (validity, _) = element(rest, SEQUENCE)?;
        let (not_before, rest) = time(validity)?;
        let (not_after, _) = time(rest)?;
        Some(Self { not_before, not_after })
    }
}

/// A time as operators read it; in UTC, as certificates have it.
pub(crate) fn shown_time(seconds: u64) -> String {
    /// The last second of the year 9999, the last year that certificates and HTTP dates can name.
    const LAST: u64 = 253_402_300_799;
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST)))
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT`.
const VERSION: u8 = 0xa0;

/// The content of the first element, which has to be of that kind, and what follows it (X.690, section 8.1).
fn element(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    if tag != kind {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().fold(0_u32, |length, digit| length << 8 | u32::from(*digit));
            (usize::try_from(length).ok()?, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// A `Time` as seconds since 1970, and what follows it; 0 for one before.
fn time(bytes: &[u8]) -> Option<(u64, &[u8])> {
    if let Some((text, rest)) = element(bytes, UTC_TIME) {
        let (year, text) = number(text, 2)?;
        let year = if year < 50 { year + 2000 } else { year + 1900 };
        return Some((seconds(year, text)?, rest));
    }
    let (text, rest) = element(bytes, GENERALIZED_TIME)?;
    let (year, text) = number(text, 4)?;
    Some((seconds(year, text)?, rest))
}

/// Seconds since 1970 of a year and `MMDDHHMMSSZ`.
fn seconds(year: u64, text: &[u8]) -> Option<u64> {
    const DAYS_BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let (month, text) = number(text, 2)?;
    let (day, text) = number(text, 2)?;
    let (hour, text) = number(text, 2)?;
    let (minute, text) = number(text, 2)?;
    let (second, text) = number(text, 2)?;
    if text != b"Z" {
        return None;
    }
    let before = DAYS_BEFORE.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let leap_day = u64::from(month > 2 && is_leap);
    let Some(years) = year.checked_sub(1970) else { return Some(0) };
    let passed = year - 1;
    // 477 leap days lie between the year 1 and 1970.
    let leap_days = passed / 4 - passed / 100 + passed / 400 - 477;
    let days = years * 365 + leap_days + before + leap_day + day.checked_sub(1)?;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// The number that so many decimal digits make, and what follows them.
fn number(text: &[u8], digits: usize) -> Option<(u64, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    let value = number
        .iter()
        .try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0')))?;
    Some((value, rest))
}

#[cfg(test)]
mod tests;
