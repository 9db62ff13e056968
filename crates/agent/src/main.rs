//! `vms-agent`: tells over OTLP whether the links between services are alive.
//!
//! This file wires and decides nothing: each command has a file of its own.

mod advice;
mod check;
mod cli;
mod clock;
mod config;
mod console;
mod doctor;
mod environment;
mod host;
mod journal;
mod pipeline;
mod resource;
mod run;
mod self_metrics;
mod sink;
mod telemetry;
mod terminal;
mod validate;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::cli::{CheckArgs, Cli, Command, GlobalArgs, ValidateArgs};
use crate::clock::SystemClock;
use crate::config::{ConfigErrors, Loaded, Overrides, Sources};
use crate::environment::Environment;
use crate::terminal::Format;

/// Exit statuses beside 0 and what a command's help says.
const CONFIGURATION_ERROR: u8 = 2;
const COULD_NOT_MEASURE: u8 = 3;
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::read();
    let outcome = match cli.command {
        Command::Run => run(&cli.global, &environment),
        Command::Check(args) => check(&cli.global, &environment, &args),
        Command::Validate(args) => validate(&cli.global, &environment, &args),
        Command::Doctor(args) => doctor(&cli.global, &environment, args.format),
        Command::Sink(args) => sink(args),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        // Whoever read the output has gone, as `| head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

fn run(global: &GlobalArgs, environment: &Environment) -> anyhow::Result<u8> {
    let loaded = load(global, environment)?;
    let config = loaded.config;
    let clock = SystemClock::start();
    block_on(async {
        let resource = host::read_resource(&config, environment);
        let telemetry = telemetry::init(&telemetry::Settings::new(&config, &resource)?)?;
        if let Some(file) = &loaded.file {
            tracing::info!(file = %file.display(), "configuration loaded");
        }
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let reload = || load(global, environment).map(|loaded| loaded.config);
        let ended = run::run(config, reload, environment, &telemetry, clock).await;
        telemetry.shutdown(run::STOP_TELEMETRY).await;
        ended.map(|()| 0)
    })
}

fn check(global: &GlobalArgs, environment: &Environment, args: &CheckArgs) -> anyhow::Result<u8> {
    let config = load(global, environment)?.config;
    let config = check::select(config, &args.names)?;
    let looks = host::monitor(&config, SystemClock::start()).and_then(|mut monitor| Ok(monitor.check()?));
    let looks = match looks {
        Ok(looks) => looks,
        Err(error) => {
            complain(&error.context("the links could not be measured"));
            return Ok(COULD_NOT_MEASURE);
        }
    };
    let rows = check::rows(&looks);
    let mut out = anstream::stdout();
    match args.format {
        Format::Text => check::write_table(&rows, &mut out)?,
        Format::Json => check::write_json(&rows, &mut out)?,
    }
    Ok(u8::from(!rows.iter().all(check::Row::is_up)))
}

fn validate(global: &GlobalArgs, environment: &Environment, args: &ValidateArgs) -> anyhow::Result<u8> {
    let (mut out, mut errors) = (anstream::stdout(), anstream::stderr());
    if args.schema {
        validate::print_schema(&mut out)?;
        return Ok(0);
    }
    Ok(validate::validate(&sources(global, environment), &mut out, &mut errors)?)
}

fn doctor(global: &GlobalArgs, environment: &Environment, format: Format) -> anyhow::Result<u8> {
    let config = load(global, environment)?.config;
    block_on(async { Ok(doctor::run(&config, environment, format, &mut anstream::stdout()).await?) })
}

fn sink(args: sink::SinkArgs) -> anyhow::Result<u8> {
    block_on(sink::run(args, anstream::stdout(), anstream::stderr()))?;
    Ok(0)
}

fn sources<'a>(global: &'a GlobalArgs, environment: &'a Environment) -> Sources<'a> {
    let mut flags = Overrides::default();
    if let Some(level) = &global.log_level {
        flags = flags.with("log.level", "--log-level", level);
    }
    if let Some(format) = &global.log_format {
        flags = flags.with("log.format", "--log-format", format);
    }
    Sources { file: global.config.as_deref(), environment, flags }
}

fn load(global: &GlobalArgs, environment: &Environment) -> Result<Loaded, ConfigErrors> {
    config::load(&sources(global, environment))
}

/// Runs a future on a runtime of one thread: the agent waits more than it works. What blocks has threads of its own.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime cannot be started")?;
    let output = runtime.block_on(future);
    // A measuring thread that the kernel does not let go must not hold up the end.
    runtime.shutdown_background();
    output
}

/// Tells of an error and its causes, without a backtrace, and what the exit status is.
fn complain(error: &anyhow::Error) -> ExitCode {
    let configuration = error.is::<ConfigErrors>() || error.is::<check::UnknownName>();
    let text = if error.is::<ConfigErrors>() { error.to_string() } else { format!("vms-agent: {error:#}") };
    if writeln!(anstream::stderr(), "{text}").is_err() {
        return ExitCode::from(FAILED);
    }
    ExitCode::from(if configuration { CONFIGURATION_ERROR } else { FAILED })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
