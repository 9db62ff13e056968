//! Requests as OTLP/JSON, one a line: what other OTLP tools read.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::Formatter;

use crate::terminal::is_unsafe;

/// A request as one line.
///
/// JSON has no number for NaN and the infinities; they become null, which OTLP/JSON reads as not set.
///
/// # Errors
/// When it cannot be represented.
pub(super) fn encode(request: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    request.serialize(&mut serde_json::Serializer::with_formatter(&mut line, TerminalSafe))?;
    line.push(b'\n');
    Ok(line)
}

/// Escapes what JSON would let pass, and a terminal would act upon.
#[derive(Debug)]
struct TerminalSafe;

impl Formatter for TerminalSafe {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(position) = rest.find(is_unsafe) {
            let (safe, from) = rest.split_at(position);
            writer.write_all(safe.as_bytes())?;
            let mut characters = from.chars();
            for unit in characters.next().iter().flat_map(|character| utf16(*character)) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// The UTF-16 code units of a character: what JSON escapes are made of (RFC 8259, section 7).
fn utf16(character: char) -> Vec<u16> {
    character.encode_utf16(&mut [0; 2]).to_vec()
}

#[cfg(test)]
mod tests;
