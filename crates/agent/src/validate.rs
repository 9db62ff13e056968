//! `vms-agent validate`: what would be in force, or everything that is wrong.

use std::io::{self, Write};

use crate::config::{self, Sources};

/// The exit status for a configuration that can be used.
pub(crate) const VALID: u8 = 0;

/// The exit status for one that cannot.
pub(crate) const INVALID: u8 = 2;

/// Loads the configuration, prints the effective one, and its warnings or every error to `errors`; returns the exit
/// status.
///
/// # Errors
/// When nothing can be printed.
pub(crate) fn validate(
    sources: &Sources<'_>,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> io::Result<u8> {
    match config::load(sources) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                writeln!(errors, "warning: {warning}")?;
            }
            write!(output, "{}", loaded.effective)?;
            Ok(VALID)
        }
        Err(faults) => {
            writeln!(errors, "{faults}")?;
            Ok(INVALID)
        }
    }
}

/// Prints the JSON Schema of a configuration file, for editors.
///
/// # Errors
/// When it cannot be printed.
pub(crate) fn print_schema(output: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *output, &config::schema())?;
    writeln!(output)
}

#[cfg(test)]
mod tests;
