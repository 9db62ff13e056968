//! Doors to the loader and its parts, for `tests/fuzz`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};
use vms_core::address::ServiceIp;
use vms_core::connection::{TcpState, TcpStates};
use vms_core::metric;
use vms_core::observer::Bounds;
use vms_core::probe::Probe;
use vms_core::process::NameGlob;
use vms_core::socket::Transport;
use vms_core::watch::WatchProbe;
use vms_export::config::Secret;

use super::document::{self, Content, Node};
use super::duration::DurationText;
use super::endpoint;
use super::layer::Overrides;
use super::percent::PercentText;
use super::schema::Schema;
use super::settings::{self, Protocol};
use super::substitution;
use super::text::{Address, ExactPath, HeaderName, HeaderValue, LogFilter, Ports, StateName};
use super::{Config, Exporter, Loaded, Sources, load_as};
use crate::environment::Environment;
use crate::telemetry::LogLevel;

/// A file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

/// Loads configurations, one after the other. The schema, which is the same each time, is made once.
#[derive(Debug)]
pub struct Loader {
    schema: Map<String, Json>,
}

impl Default for Loader {
    fn default() -> Self {
        Self { schema: settings::schema() }
    }
}

/// A configuration that can be used.
#[derive(Debug)]
pub struct Accepted {
    config: Config,
    /// The effective configuration, as it is printed.
    pub effective: String,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
}

impl Accepted {
    /// Whether a text other than a header is masked in part when it is printed, as it looks like a URL with a user or a query:
    /// it is another one when it is read again.
    #[must_use]
    pub fn is_masked_in_part(&self) -> bool {
        ["****@", "?****", "#****"].iter().any(|mask| self.effective.contains(mask))
    }

    /// Whether both mean the same, headers apart: what is printed masks them.
    #[must_use]
    pub fn means_the_same(&self, other: &Self) -> bool {
        without_secrets(&self.config) == without_secrets(&other.config)
    }

    /// What the rest of the agent takes for granted, and does not hold here.
    #[must_use]
    pub fn broken_promise(&self) -> Option<&'static str> {
        let config = &self.config;
        let Config { probes, interval, .. } = config;
        let mut names: Vec<&str> = probes.iter().map(|probe| &**probe.name()).collect();
        names.sort_unstable();
        names.dedup();
        let out_of_bounds =
            |interval: std::time::Duration| !(100..=86_400_000).contains(&interval.as_millis());
        let dest_ips = config.links().map(|probe| probe.dest_ip.ip());
        let source_ips = config.links().filter_map(|probe| Some(probe.source_ip.as_ref()?.ip()));
        let mut watches = probes.iter().filter_map(|probe| match probe {
            Probe::Watch(watch) => Some(watch),
            Probe::Link(_) | Probe::Presence(_) | Probe::Discovery(_) => None,
        });
        if probes.is_empty() {
            Some("there is a probe")
        } else if names.len() != probes.len() {
            Some("probes have names of their own")
        } else if out_of_bounds(*interval) || probes.iter().any(|probe| out_of_bounds(probe.interval())) {
            Some("intervals are within their bounds")
        } else if config.links().any(|probe| probe.dest_port == 0 || probe.source_port == Some(0)) {
            Some("ports are not 0")
        } else if dest_ips.chain(source_ips).any(|ip| ip != ip.to_canonical() || ip.is_unspecified()) {
            Some("addresses are canonical, and each somebody's")
        } else if watches.any(|watch| !is_well_made(watch)) {
            Some("watches count sockets in some state that their protocol has, and say so")
        } else if probes.iter().any(|probe| {
            bounds(probe).is_some_and(|bounds| bounds.most < Some(bounds.least) && bounds.most.is_some())
        }) {
            Some("no more are expected than are too many")
        } else if config.log.level.parse::<LogLevel>().is_err() {
            Some("the log level is one")
        } else {
            None
        }
    }

    /// Whether what is sent can be sent so: the exporter's own word on it.
    ///
    /// # Errors
    /// Why not.
    pub fn try_exporter(&self) -> Result<(), String> {
        match &self.config.exporter {
            Exporter::Otlp(export) if export.tls == vms_export::config::TlsFiles::default() => {
                vms_export::configured_headers(export).map(drop).map_err(|error| error.to_string())
            }
            _ => Ok(()),
        }
    }
}

fn without_secrets(config: &Config) -> Config {
    let mut config = config.clone();
    let metrics = match &mut config.exporter {
        Exporter::Otlp(export) => Some(export),
        Exporter::Console | Exporter::None => None,
    };
    for export in metrics.into_iter().chain([&mut config.self_telemetry.export]) {
        for (_, value) in &mut export.headers {
            *value = Secret::new("");
        }
    }
    config
}

impl Loader {
    /// Loads a file, if there is one, and what the variables say.
    ///
    /// # Errors
    /// The report of everything that is wrong.
    pub fn load(&self, file: Option<&Path>, variables: &[(String, String)]) -> Result<Accepted, String> {
        let environment: Environment = variables.iter().cloned().collect();
        let sources =
            Sources { file, cnxwatch: None, environment: &environment, flags: Overrides::default() };
        let nowhere = PathBuf::from("/nonesuch/config.yaml");
        match load_as(Schema::root(&self.schema), &sources, &nowhere) {
            Ok(Loaded { config, effective, warnings, .. }) => {
                Ok(Accepted { config, effective: effective.to_string(), warnings })
            }
            Err(errors) => Err(errors.to_string()),
        }
    }
}

fn is_well_made(watch: &WatchProbe) -> bool {
    let states = watch.clause.states;
    let of_udp = TcpStates::of(&[TcpState::Established, TcpState::Close]);
    let is_of_protocol = watch.clause.transport == Transport::Tcp || of_udp.union(states) == of_udp;
    !states.is_empty()
        && is_of_protocol
        && !states.contains(TcpState::NewSynReceived)
        && watch.labels.iter().all(|(key, text)| metric::WATCH_ATTRIBUTES.contains(key) && !text.is_empty())
}

fn bounds(probe: &Probe) -> Option<Bounds> {
    match probe {
        Probe::Link(_) | Probe::Discovery(_) => None,
        Probe::Watch(watch) => Some(watch.bounds),
        Probe::Presence(presence) => Some(presence.bounds),
    }
}

/// A document as it was read.
#[derive(Debug)]
pub struct Document {
    root: Option<Node>,
    /// What is wrong with it, and on which line.
    pub faults: Vec<(Option<u32>, String)>,
}

/// Parses a document.
#[must_use]
pub fn parse_document(text: &str, format: Format) -> Document {
    let format = match format {
        Format::Yaml => document::Format::Yaml,
        Format::Toml => document::Format::Toml,
        Format::Json => document::Format::Json,
    };
    let (root, faults) = document::parse(text, format);
    Document { root, faults: faults.into_iter().map(|fault| (fault.line, fault.problem)).collect() }
}

impl Document {
    /// Whether there is one.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.root.is_some()
    }

    /// The last line on which it has something.
    #[must_use]
    pub fn last_line(&self) -> u32 {
        self.root.as_ref().map_or(0, last_line)
    }

    /// Whether both hold the same, wherever it is written.
    #[must_use]
    pub fn holds_the_same(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Some(own), Some(other)) => holds_the_same(own, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// The same in JSON, which has no infinite numbers and none that is no number.
    #[must_use]
    pub fn to_json(&self) -> Option<String> {
        let mut json = String::new();
        write_json(self.root.as_ref()?, &mut json)?;
        Some(json)
    }
}

fn last_line(node: &Node) -> u32 {
    let below = match &node.content {
        Content::List(items) => items.iter().map(last_line).max(),
        Content::Map(entries) => entries.values().map(last_line).max(),
        _ => None,
    };
    node.line.max(below.unwrap_or(0))
}

fn holds_the_same(one: &Node, other: &Node) -> bool {
    match (&one.content, &other.content) {
        (Content::List(one), Content::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| holds_the_same(one, other))
        }
        (Content::Map(one), Content::Map(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|((key, one), (other_key, other))| key == other_key && holds_the_same(one, other))
        }
        // The reader of JSON may miss a float by its last digit.
        (Content::Float(one), Content::Float(other)) => {
            (one - other).abs() <= one.abs() * (4.0 * f64::EPSILON)
        }
        (one, other) => one == other,
    }
}

fn write_json(node: &Node, json: &mut String) -> Option<()> {
    let text = |text: &str| serde_json::to_string(text).ok();
    match &node.content {
        Content::Null => json.push_str("null"),
        Content::Bool(boolean) => json.push_str(if *boolean { "true" } else { "false" }),
        Content::Integer(integer) => json.push_str(&integer.to_string()),
        Content::Float(float) => json.push_str(&float.is_finite().then(|| format!("{float:?}"))?),
        Content::Text(value) => json.push_str(&text(value)?),
        Content::List(items) => {
            json.push('[');
            for (index, item) in items.iter().enumerate() {
                json.push_str(if index == 0 { "" } else { "," });
                write_json(item, json)?;
            }
            json.push(']');
        }
        Content::Map(entries) => {
            json.push('{');
            for (index, (key, value)) in entries.iter().enumerate() {
                json.push_str(if index == 0 { "" } else { "," });
                json.push_str(&text(key)?);
                json.push(':');
                write_json(value, json)?;
            }
            json.push('}');
        }
    }
    Some(())
}

/// Replaces the references of a text, with no file to refer to.
///
/// # Errors
/// What is wrong with each reference.
pub fn substitute(text: &str, variables: &[(String, String)]) -> Result<String, Vec<String>> {
    let environment: Environment = variables.iter().cloned().collect();
    substitution::substitute(text, &environment, Path::new("/nonesuch"))
        .map(|done| done.text)
        .map_err(|faults| faults.into_iter().map(|fault| fault.problem).collect())
}

/// The kinds of text that settings hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// `1m30s`.
    Duration,
    /// `0.5%`.
    Percent,
    /// An address.
    Ip,
    /// A pattern for names of processes.
    Glob,
    /// An absolute path.
    Path,
    /// Directives for the log.
    LogFilter,
    /// The name of a header.
    HeaderName,
    /// The value of a header.
    HeaderValue,
    /// An address, a range of them, or a host name.
    Address,
    /// A range of ports.
    Ports,
    /// The state of a socket.
    StateName,
}

impl TextKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Duration,
        Self::Percent,
        Self::Ip,
        Self::Glob,
        Self::Path,
        Self::LogFilter,
        Self::HeaderName,
        Self::HeaderValue,
        Self::Address,
        Self::Ports,
        Self::StateName,
    ];

    /// What was understood, written out again.
    ///
    /// # Errors
    /// Why it is none of that kind.
    pub fn read(self, text: &str) -> Result<String, String> {
        fn read<T: super::text::TextFormat>(text: &str) -> Result<String, String> {
            text.parse::<T>().map(|value| value.to_string()).map_err(|error| error.to_string())
        }
        match self {
            Self::Duration => read::<DurationText>(text),
            Self::Percent => read::<PercentText>(text),
            Self::Ip => read::<ServiceIp>(text),
            Self::Glob => read::<NameGlob>(text),
            Self::Path => read::<ExactPath>(text),
            Self::LogFilter => read::<LogFilter>(text),
            Self::HeaderName => read::<HeaderName>(text),
            Self::HeaderValue => read::<HeaderValue>(text),
            Self::Address => read::<Address>(text),
            Self::Ports => read::<Ports>(text),
            Self::StateName => read::<StateName>(text),
        }
    }
}

/// The endpoint that a text names, over gRPC or over HTTP.
///
/// # Errors
/// What is wrong with it.
pub fn parse_endpoint(text: &str, grpc: bool, insecure: bool) -> Result<http::Uri, String> {
    let protocol = if grpc { Protocol::Grpc } else { Protocol::HttpProtobuf };
    endpoint::parse(protocol, text, insecure)
}
