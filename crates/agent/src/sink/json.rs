//! Requests as OTLP/JSON, one a line: what other OTLP tools read.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::Formatter;

use crate::terminal::escape_json;

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
        writer.write_all(escape_json(fragment).as_bytes())
    }
}

#[cfg(test)]
mod tests;
