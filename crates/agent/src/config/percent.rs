//! Parts of one core, as configuration writes them: `0.5%`.

use std::fmt;
use std::str::FromStr;

/// A part of a whole in percent, from 0 to 100, with at most four decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PercentText {
    /// The same in millionths.
    pub(super) parts_per_million: u32,
}

/// Why a text is no such part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PercentError {
    #[error("a number without a percent sign")]
    NoSign,
    #[error("not a percentage")]
    Malformed,
    #[error("more than four decimals")]
    TooFine,
    #[error("more than 100%")]
    TooMuch,
}

/// One percent in millionths.
const ONE: u32 = 10_000;

/// Decimals of a percentage that is a whole number of millionths.
const DECIMALS: usize = 4;

impl PercentText {
    /// What editors can check: [`FromStr`] is stricter.
    pub(super) const PATTERN: &str = r"^[0-9]+(\.[0-9]+)? ?%$";
}

impl FromStr for PercentText {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let (number, signed) = match text.strip_suffix('%') {
            Some(number) => (number.strip_suffix(' ').unwrap_or(number), true),
            None => (text, false),
        };
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        if !is_number(whole) || !is_number(decimals) {
            return Err(PercentError::Malformed);
        }
        if !signed {
            return Err(PercentError::NoSign);
        }
        let decimals = decimals.trim_end_matches('0');
        if decimals.len() > DECIMALS {
            return Err(PercentError::TooFine);
        }
        let parse = |digits: &str| digits.parse::<u32>().map_err(|_overflow| PercentError::TooMuch);
        let fraction = parse(&format!("{decimals:0<DECIMALS$}"))?;
        let parts = parse(whole)?.checked_mul(ONE).and_then(|parts| parts.checked_add(fraction));
        match parts {
            Some(parts_per_million) if parts_per_million <= 100 * ONE => Ok(Self { parts_per_million }),
            _ => Err(PercentError::TooMuch),
        }
    }
}

impl fmt::Display for PercentText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.parts_per_million / ONE, self.parts_per_million % ONE);
        let fraction = format!("{fraction:0>DECIMALS$}");
        match fraction.trim_end_matches('0') {
            "" => write!(formatter, "{whole}%"),
            fraction => write!(formatter, "{whole}.{fraction}%"),
        }
    }
}

#[cfg(test)]
mod tests;
