//! The agent's configuration: found, merged, checked, and made into what the other crates take.
//!
//! Sources, later ones win: built-in defaults, a file, OpenTelemetry's variables, `VMS_*` variables, flags. Each
//! becomes a figment layer whose values know where they were written; the merged tree is checked against the JSON
//! Schema, and all faults of all sources are told at once.

pub(crate) mod cnxwatch;
mod compose;
mod document;
mod duration;
mod effective;
mod endpoint;
mod fault;
mod file;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod layer;
mod otel;
mod percent;
mod relations;
mod schema;
mod settings;
mod several;
mod substitution;
mod suggest;
mod text;
mod tree;
mod verify;
mod vms;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use figment::value::Value;
use figment::{Figment, Profile, Provider};
use vms_core::monitor::Terms;
use vms_core::probe::{ConnectionProbe, Probe};
use vms_export::ExportConfig;

pub(crate) use effective::Effective;
pub(crate) use fault::ConfigErrors;
pub(crate) use layer::Overrides;
pub(crate) use settings::{ConntrackMode, LogFormat, SandboxMode};

use self::fault::{Fault, KeyPath, Place};
use self::schema::Schema;
use self::settings::Settings;
use self::tree::Origins;
use crate::environment::Environment;

/// The file that is read when none is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/vms-agent/config.yaml";

/// Everything that can be configured, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// How often the agent reports on itself; that of each probe is in the probe.
    pub(crate) interval: Duration,
    /// What is measured; at least one, with unique names.
    pub(crate) probes: Vec<Probe>,
    /// How much is looked at, and what is told of it.
    pub(crate) terms: Terms,
    /// What becomes of the measurements.
    pub(crate) exporter: Exporter,
    /// Where they can be scraped beside that.
    pub(crate) prometheus: Option<SocketAddr>,
    /// Whether watches can be scraped under the names of `cnxwatch_exporter` as well.
    pub(crate) cnxwatch_names: bool,
    /// What the data says about its origin.
    pub(crate) resource: ResourceConfig,
    /// What the agent logs.
    pub(crate) log: LogConfig,
    /// Whether the agent's own traces and logs are sent.
    pub(crate) self_telemetry: SelfTelemetry,
    /// Where the proc file system is mounted.
    pub(crate) proc_root: PathBuf,
    /// Where the kubelet has the logs of pods.
    pub(crate) pod_logs_root: PathBuf,
    /// Whether translated destinations are looked up.
    pub(crate) conntrack: ConntrackMode,
    /// What the running agent gives up.
    pub(crate) sandbox: SandboxMode,
}

impl Config {
    /// The probes `connection_mon`, in their order.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Arc<ConnectionProbe>> {
        self.probes.iter().filter_map(Probe::link)
    }
}

/// What becomes of the measurements.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub(crate) enum Exporter {
    /// They are sent.
    Otlp(ExportConfig),
    /// They are printed.
    Console,
    /// They are thrown away.
    None,
}

impl Exporter {
    /// Where measurements go, for the log.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Otlp(export) => vms_export::shown_endpoint(&export.endpoint),
            Self::Console => "the console".to_owned(),
            Self::None => "nowhere".to_owned(),
        }
    }
}

/// What the data says about its origin, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourceConfig {
    /// The attribute `service.name`.
    pub(crate) service_name: String,
    /// Further attributes; never `service.name`.
    pub(crate) attributes: BTreeMap<String, String>,
}

/// What the agent logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// Directives that `tracing_subscriber::EnvFilter` takes.
    pub(crate) level: String,
    /// How records look.
    pub(crate) format: LogFormat,
}

/// The agent's own traces and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SelfTelemetry {
    /// Whether traces are sent.
    pub(crate) traces: bool,
    /// Whether logs are sent.
    pub(crate) logs: bool,
    /// Where and how: as the measurements, whether or not those are sent. With OTLP/HTTP the endpoint is the base,
    /// to which `/v1/traces` or `/v1/logs` has to be appended.
    pub(crate) export: ExportConfig,
}

/// What configuration is made from.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    /// The file that `--config` names.
    pub(crate) file: Option<&'a Path>,
    /// The file of `cnxwatch_exporter` that `--cnxwatch` names, which takes its place.
    pub(crate) cnxwatch: Option<&'a Path>,
    /// The environment variables.
    pub(crate) environment: &'a Environment,
    /// What other flags set.
    pub(crate) flags: Overrides,
}

/// A configuration that can be used.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// For the agent.
    pub(crate) config: Config,
    /// For people.
    pub(crate) effective: Effective,
    /// What is allowed, and probably not meant; a line each.
    pub(crate) warnings: Vec<String>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// The files whose content was put into values.
    pub(crate) secret_files: Vec<PathBuf>,
}

impl Loaded {
    /// The files that it was made from.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.file.iter().chain(&self.secret_files).map(PathBuf::as_path)
    }
}

/// Loads the configuration.
///
/// # Errors
/// Everything that is wrong with it, of every source.
pub(crate) fn load(sources: &Sources<'_>) -> Result<Loaded, ConfigErrors> {
    load_or_default(sources, Path::new(DEFAULT_FILE))
}

/// The JSON Schema of a configuration file.
pub(crate) fn schema() -> serde_json::Value {
    serde_json::Value::Object(settings::schema())
}

fn load_or_default(sources: &Sources<'_>, default_file: &Path) -> Result<Loaded, ConfigErrors> {
    load_as(Schema::root(&settings::schema()), sources, default_file)
}

fn load_as(schema: Schema<'_>, sources: &Sources<'_>, default_file: &Path) -> Result<Loaded, ConfigErrors> {
    let mut origins = Origins::default();
    let mut faults = Vec::new();
    let mut warnings = Vec::new();

    let file = sources.cnxwatch.map(Path::to_owned).or_else(|| choose_file(sources, default_file));
    let file_layer = match (sources.cnxwatch, &file) {
        (Some(path), _) => file::read_cnxwatch_layer(path, schema, &mut origins, &mut faults),
        (None, Some(path)) => file::read_layer(path, sources.environment, schema, &mut origins, &mut faults),
        (None, None) => Some(layer::Layer::default()),
    };
    let file_is_readable = file_layer.is_some();
    let otel_layer = otel::layer(sources.environment, schema, &mut origins, &mut faults, &mut warnings);
    let vms_layer = vms::layer(sources.environment, schema, &mut origins, &mut faults);
    let flag_layer = sources.flags.layer(schema, &mut origins, &mut faults);

    let merged = Figment::from(file_layer.unwrap_or_default())
        .merge(otel_layer)
        .merge(vms_layer)
        .merge(flag_layer)
        .data()
        .map(|mut profiles| profiles.remove(&Profile::Default).unwrap_or_default());
    let mut root = match merged {
        Ok(settings) => Value::from(settings),
        Err(error) => return Err(one_fault(&error)),
    };
    tree::prune(&mut root);
    let mut found = verify::verify(&mut root, schema, &origins);
    if file_is_readable {
        relations::relate(&mut root, &origins, &mut found, &mut warnings, sources.environment);
    } else {
        // What is missing may stand in the file.
        found.retain(|fault| fault.place != Place::Default);
    }
    faults.append(&mut found);
    if !faults.is_empty() {
        return Err(ConfigErrors::new(faults));
    }
    let settings = root.deserialize::<Settings>().map_err(|error| one_fault(&error))?;
    let config = compose::compose(settings)?;
    let effective = Effective::new(&root, schema, &origins);
    Ok(Loaded { config, effective, warnings, file, secret_files: origins.into_files() })
}

/// The flag's file, else the variable's, else the default one if there is one.
fn choose_file(sources: &Sources<'_>, default_file: &Path) -> Option<PathBuf> {
    let named = sources.file.map(Path::to_owned);
    named.or_else(|| sources.environment.get(vms::CONFIG_VARIABLE).map(PathBuf::from)).or_else(|| {
        // One that is there and cannot be read is an error, not an absent one.
        let absent = default_file.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        (!absent).then(|| default_file.to_owned())
    })
}

/// A fault that the checks before should have told in better words.
fn one_fault(problem: &dyn std::fmt::Display) -> ConfigErrors {
    ConfigErrors::new(vec![Fault::new(Place::Default, KeyPath::default(), problem.to_string())])
}

#[cfg(test)]
mod tests;
