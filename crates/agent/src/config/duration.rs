//! Durations as configuration writes them: `15s`, `1m30s`, `500ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration that is written in whole units, largest first: `1h`, `1m30s`, `500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DurationText(pub(super) Duration);

/// Why a text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DurationError {
    #[error("a number without a unit")]
    NoUnit,
    #[error("not a duration")]
    Malformed,
    #[error("units have to go from the largest to the smallest, each once")]
    Order,
    #[error("too long")]
    Overflow,
}

/// The units, largest first, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl DurationText {
    /// What editors can check: [`FromStr`] is as strict.
    pub(super) const PATTERN: &str = "^(?=[0-9])([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";
}

impl FromStr for DurationText {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text;
        let mut milliseconds = 0_u64;
        let mut units = UNITS.iter();
        if rest.is_empty() {
            return Err(DurationError::Malformed);
        }
        while !rest.is_empty() {
            let (number, after) = split_while(rest, |c| c.is_ascii_digit());
            let (unit, after) = split_while(after, |c| c.is_ascii_alphabetic());
            if number.is_empty() {
                return Err(DurationError::Malformed);
            }
            if unit.is_empty() {
                return Err(if after.is_empty() { DurationError::NoUnit } else { DurationError::Malformed });
            }
            let Some((_, factor)) = units.find(|(name, _)| *name == unit) else {
                let known = UNITS.iter().any(|(name, _)| *name == unit);
                return Err(if known { DurationError::Order } else { DurationError::Malformed });
            };
            milliseconds = number
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(*factor))
                .and_then(|part| part.checked_add(milliseconds))
                .ok_or(DurationError::Overflow)?;
            rest = after;
        }
        Ok(Self(Duration::from_millis(milliseconds)))
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return formatter.write_str("0s");
        }
        for (unit, factor) in UNITS {
            let count = rest / u128::from(factor);
            rest %= u128::from(factor);
            if count > 0 {
                write!(formatter, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !keep(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests;
