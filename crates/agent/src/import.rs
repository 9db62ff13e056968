//! `vms-agent import`: configurations of other tools, made into one of this agent.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

/// What `import` takes.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Whose configuration it is.
    #[arg(value_enum, value_name = "TOOL")]
    pub(crate) tool: Tool,
    /// Its configuration file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Write there instead of to standard output. A file that is there already is left as it is: exit status 1.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Whose configuration is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tool {
    /// `cnxwatch_exporter` 0.1.3.
    Cnxwatch,
}

/// Writes what was taken over to the file, or else to `otherwise`.
///
/// # Errors
/// When it cannot be written, or the file is there already.
pub(crate) fn write(yaml: &str, output: Option<&Path>, otherwise: &mut dyn Write) -> anyhow::Result<()> {
    let Some(path) = output else {
        return write_all(yaml, otherwise).or_else(crate::ignore_broken_pipe).map_err(anyhow::Error::from);
    };
    // What stands in a configuration, such as where measurements go, is not in the other tool's.
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| write_all(yaml, &mut file)).map_err(|error| {
        let path = path.display();
        let told = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{path} cannot be written and is left as it is: name another file in --output, or remove it")
            }
            _ => format!("{path} cannot be written: name another file in --output"),
        };
        anyhow::Error::new(error).context(told)
    })
}

fn write_all(yaml: &str, output: &mut dyn Write) -> io::Result<()> {
    output.write_all(yaml.as_bytes())?;
    output.flush()
}

#[cfg(test)]
mod tests;
