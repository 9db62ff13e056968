//! `vms-agent`: tells over OTLP whether the links between services are alive.
//!
//! This file wires and decides nothing: each command has a file of its own. It is a library for the sake of `tests/fuzz`
//! alone: the binary calls [`main`].

mod advice;
mod check;
mod cli;
mod clock;
mod config;
mod console;
mod discover;
mod doctor;
mod environment;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod health;
mod heartbeat;
mod host;
mod import;
mod journal;
mod measuring;
mod names;
mod patience;
mod pipeline;
mod pod_lister;
mod prometheus;
mod reload;
mod resource;
mod run;
mod sandbox;
mod self_metrics;
mod service_manager;
mod sink;
mod sys;
mod telemetry;
mod terminal;
mod validate;
mod watch;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use vms_core::monitor::Checked;

use crate::cli::{CheckArgs, Cli, Command, GlobalArgs, ValidateArgs};
use crate::clock::SystemClock;
use crate::config::cnxwatch::Imported;
use crate::config::{ConfigErrors, Loaded, Overrides, Sources};
use crate::discover::DiscoverArgs;
use crate::environment::Environment;
use crate::heartbeat::Heartbeat;
use crate::measuring::Reserved;
use crate::sandbox::{Extras, Places, Sandbox};
use crate::terminal::Format;
use crate::watch::Watch;

/// Exit statuses beside 0 and what a command's help says.
const CONFIGURATION_ERROR: u8 = 2;
const COULD_NOT_MEASURE: u8 = 3;
const FAILED: u8 = 1;

/// How long the start waits for the disk of the spool: without it the memory serves.
const DISK_ANSWERS: Duration = Duration::from_millis(500);

/// Does what the command line says, and tells the exit status.
#[must_use]
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        telemetry::finish_lines();
        // Not by the log, which may be what panicked.
        let words = format!(
            "vms-agent: {panic}\nvms-agent: this is a bug: the agent ends here, and whoever started it has to start it again \
             (Restart= of systemd, restartPolicy of Kubernetes do); please report these lines\n"
        );
        telemetry::write_last_words(io::stderr(), &words);
    }));
    sys::bound_free_memory();
    let cli = Cli::parse();
    let environment = Environment::read();
    let outcome = match cli.command {
        Command::Run => run(&cli.global, &environment),
        Command::Check(args) => check(&cli.global, &environment, &args),
        Command::Validate(args) => validate(&cli.global, &environment, &args),
        Command::Doctor(args) => doctor(&cli.global, &environment, args.format),
        Command::Discover(args) => discover(&args),
        Command::Health(args) => health(&environment, &args),
        Command::Import(args) => import(&args),
        Command::Sink(args) => sink(args),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => complain(&error),
    }
}

fn run(global: &GlobalArgs, environment: &Environment) -> anyhow::Result<u8> {
    let loaded = load(global, environment)?;
    let watch = Watch::new(loaded.files());
    // What the configuration looks like printed is not kept: of thousands of probes it takes megabytes.
    let Loaded { config, file, secret_files, warnings, .. } = loaded;
    let clock = SystemClock::start();
    // What is opened once for good comes before the sandbox, so that no rule is needed for it. What may keep the agent from
    // starting is first: another agent may run here.
    let listener = config.prometheus.map(prometheus::Listener::bind).transpose()?;
    let heartbeat = Heartbeat::begin(&heartbeat::places(environment));
    let spool = spool_directory(&config);
    let extras = Extras {
        conntrack: config.conntrack,
        namespaces: config.terms.namespaces,
        listener: listener.as_ref().map(prometheus::Listener::descriptor),
    };
    let sandbox = Sandbox::new(config.sandbox, extras);
    let mut lacks = sandbox.enter_process();
    let (thread, measuring_lacks) = Reserved::start(sandbox)?;
    lacks.extend(measuring_lacks);
    let places = Places::new(&config, file.as_deref(), &secret_files, spool, environment);
    lacks.extend(sandbox.enter_runtime(&places));
    block_on(async {
        let resource = host::read_resource(&config, environment, None);
        let telemetry = telemetry::init(&telemetry::Settings::new(&config, &resource)?)?;
        sandbox.settle(&lacks)?;
        if let Some(file) = &file {
            tracing::info!(file = %file.display(), "configuration loaded");
        }
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let (global, environment) = (global.clone(), environment.clone());
        let load = {
            let environment = environment.clone();
            move || load(&global, &environment)
        };
        let load = Arc::new(load);
        let setup =
            run::Setup { config, watch, resource, load, environment, clock, heartbeat, thread, listener };
        let ended = run::run(setup, &telemetry).await;
        telemetry.shutdown(run::STOP_TELEMETRY).await;
        ended.map(|()| 0)
    })
}

/// The spool's directory, made while that may still be done; where it cannot be, or its disk does not answer, the exporter
/// tells.
fn spool_directory(config: &config::Config) -> Option<PathBuf> {
    let config::Exporter::Otlp(export) = &config.exporter else { return None };
    let directory = export.spool.as_ref()?.directory.clone();
    patience::within(DISK_ANSWERS, move || vms_export::make_directory(&directory).ok().map(|()| directory))?
}

fn check(global: &GlobalArgs, environment: &Environment, args: &CheckArgs) -> anyhow::Result<u8> {
    let config = load(global, environment)?.config;
    let config = check::select(config, &args.names)?;
    let mode = config.terms.attribution;
    let monitor =
        names::look_up(&config).and_then(|names| host::monitor(&config, &names, SystemClock::start()));
    let checked = monitor.and_then(|mut monitor| {
        let checked = monitor.check();
        if let Some(untold) = monitor.untold() {
            let untold = vms_core::with_causes(untold);
            let words = format!("vms-agent: {untold}; links are told without: see `vms-agent doctor`\n");
            telemetry::write_last_words(io::stderr(), &words);
        }
        Ok(checked?)
    });
    let Checked { links, others } = match checked {
        Ok(checked) => checked,
        Err(error) => {
            complain(&error.context("the probes could not be measured"));
            return Ok(COULD_NOT_MEASURE);
        }
    };
    let rows = check::rows(&links, mode);
    let unseen = check::out_of_sight(&links);
    let (others, unknown) = check::others(&others);
    let status = match () {
        () if !unseen.is_empty() || !unknown.is_empty() => COULD_NOT_MEASURE,
        () => {
            u8::from(!rows.iter().all(check::Row::is_up) || !others.tallies.iter().all(check::Tally::is_up))
        }
    };
    let mut out = anstream::stdout();
    let printed = match args.format {
        Format::Text => check::write_table(&rows, &others, &mut out),
        Format::Json => check::write_json(&rows, &others, &mut out),
    };
    if !unseen.is_empty() {
        let error = anyhow::anyhow!(advice::for_out_of_sight(config.terms.namespaces));
        complain(&error.context(format!("{} could not be measured", unseen.join(", "))));
    }
    for (name, error) in unknown {
        complain(
            &anyhow::anyhow!(vms_core::with_causes(error)).context(format!("{name} could not be measured")),
        );
    }
    Ok(if is_printed(&printed) { status } else { COULD_NOT_MEASURE })
}

fn discover(args: &DiscoverArgs) -> anyhow::Result<u8> {
    match discover::discover(args, &mut anstream::stdout()) {
        Ok(()) => Ok(0),
        Err(error) => match error.downcast::<io::Error>() {
            Ok(error) => Ok(ignore_broken_pipe(error).map(|()| 0)?),
            Err(error) => {
                complain(&error);
                Ok(COULD_NOT_MEASURE)
            }
        },
    }
}

fn validate(global: &GlobalArgs, environment: &Environment, args: &ValidateArgs) -> anyhow::Result<u8> {
    if args.schema {
        validate::print_schema(&mut anstream::stdout())?;
        return Ok(0);
    }
    let loaded = load(global, environment)?;
    let (mut out, mut notices) = (anstream::stdout(), anstream::stderr());
    validate::print_effective(&loaded, &mut out, &mut notices).or_else(ignore_broken_pipe)?;
    Ok(0)
}

fn doctor(global: &GlobalArgs, environment: &Environment, format: Format) -> anyhow::Result<u8> {
    let config = load(global, environment)?.config;
    let findings = block_on(async { Ok(doctor::examine(&config, environment).await) })?;
    doctor::print(&findings, format, &mut anstream::stdout()).or_else(ignore_broken_pipe)?;
    Ok(doctor::exit_status(&findings))
}

fn health(environment: &Environment, args: &health::HealthArgs) -> anyhow::Result<u8> {
    let vitality = health::examine(args, heartbeat::places(environment), SystemClock::start().uptime())?;
    health::print(&vitality, &mut anstream::stdout()).or_else(ignore_broken_pipe)?;
    Ok(0)
}

fn import(args: &import::ImportArgs) -> anyhow::Result<u8> {
    let Imported { yaml, refused } = match args.tool {
        import::Tool::Cnxwatch => config::cnxwatch::import_file(&args.file)?,
    };
    import::write(&yaml, args.output.as_deref(), &mut anstream::stdout())?;
    refused.map_or(Ok(0), |refused| Err(refused.into()))
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
    let GlobalArgs { config, cnxwatch, .. } = global;
    Sources { file: config.as_deref(), cnxwatch: cnxwatch.as_deref(), environment, flags }
}

/// Loads the configuration, and tries what only trying can tell.
fn load(global: &GlobalArgs, environment: &Environment) -> anyhow::Result<Loaded> {
    let loaded = config::load(&sources(global, environment))?;
    host::try_out(&loaded.config).map_err(UnusableConfig)?;
    Ok(loaded)
}

/// A configuration whose values are each allowed, and that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot work: {0:#}")]
struct UnusableConfig(anyhow::Error);

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
    let configuration =
        error.is::<ConfigErrors>() || error.is::<UnusableConfig>() || error.is::<check::UnknownName>();
    let text = if error.is::<ConfigErrors>() { error.to_string() } else { format!("vms-agent: {error:#}") };
    // Also where nobody reads it the agent has to end, to be started again.
    if !telemetry::write_last_words(io::stderr(), &format!("{text}\n")) {
        return ExitCode::from(FAILED);
    }
    ExitCode::from(if configuration { CONFIGURATION_ERROR } else { FAILED })
}

/// Whether an answer got out. Whoever closes the pipe early, as `| grep -q` does, has read enough of it.
fn is_printed(printed: &io::Result<()>) -> bool {
    match printed {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::BrokenPipe,
    }
}

fn ignore_broken_pipe(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}
