//! `vms-agent validate`: what would be in force, and the schema for editors.

use std::io::{self, Write};

use crate::config::{self, Loaded};

/// Prints the effective configuration, and its warnings to `notices`.
///
/// # Errors
/// When they cannot be printed.
pub(crate) fn print_effective(
    loaded: &Loaded,
    output: &mut dyn Write,
    notices: &mut dyn Write,
) -> io::Result<()> {
    for warning in &loaded.warnings {
        writeln!(notices, "warning: {warning}")?;
    }
    write!(output, "{}", loaded.effective)
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
