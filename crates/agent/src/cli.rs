//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::discover::DiscoverArgs;
use crate::health::HealthArgs;
use crate::import::ImportArgs;
use crate::sink::SinkArgs;
use crate::terminal::Format;

/// Tells over OpenTelemetry whether the links between services are alive.
#[derive(Debug, Parser)]
#[command(name = "vms-agent", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// Configuration file, YAML, TOML or JSON by its extension; without it `$VMS_CONFIG`, then
    /// `/etc/vms-agent/config.yaml`.
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Configuration file of `cnxwatch_exporter` to run as it is, instead; `vms-agent import cnxwatch` makes a lasting one of it.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "config")]
    pub(crate) cnxwatch: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter such as `info,vms_export=debug`.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// How to log: text, json, or auto (text on a terminal).
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent until it is told to stop.
    Run,
    /// Look at each link once and print what is found.
    ///
    /// Exit status: 0 all up, 1 some down, 2 configuration error, 3 could not measure.
    Check(CheckArgs),
    /// Load the configuration and print what is in force, or everything that is wrong with it.
    ///
    /// Exit status: 0 valid, 2 not.
    Validate(ValidateArgs),
    /// Look once at who listens on this host and who is connected with whom, without any configuration.
    ///
    /// Exit status: 0 looked at, 3 could not measure.
    Discover(DiscoverArgs),
    /// Say what this host allows, and how to mend what it does not.
    ///
    /// Exit status: 0 nothing to mend, 1 something, 2 configuration error.
    Doctor(DoctorArgs),
    /// Say whether the agent that runs here goes on measuring; for health checks of containers.
    ///
    /// Needs no configuration, and opens no port. Exit status: 0 it does, 1 it does not.
    Health(HealthArgs),
    /// Make a configuration of this agent from another tool's, and print it.
    ///
    /// Exit status: 0 all of it, 1 it could not be written, 2 not all of it, or none.
    Import(ImportArgs),
    /// Receive OTLP on loopback and print what arrives, for trying things out.
    Sink(SinkArgs),
}

/// What `check` takes.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Names of the probes to check [default: all].
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

/// What `validate` takes.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Print the JSON Schema of the configuration instead.
    #[arg(long)]
    pub(crate) schema: bool,
}

/// What `doctor` takes.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// How to print.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}
