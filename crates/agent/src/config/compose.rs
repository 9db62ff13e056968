//! Checked settings become what the other parts take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vms_core::budget::CpuShare;
use vms_core::connection::{TcpState, TcpStates};
use vms_core::discovery::DiscoveryProbe;
use vms_core::infer::AttributionMode;
use vms_core::monitor::Terms;
use vms_core::name::HostName;
use vms_core::observer::Bounds;
use vms_core::presence::PresenceProbe;
use vms_core::probe::{self, ConnectionProbe};
use vms_core::process::{NameGlob, ProcessPattern};
use vms_core::socket::{EndClause, Network, SocketClause, Transport};
use vms_core::watch::WatchProbe;
use vms_export::ExportConfig;
use vms_export::config::{self as export, Secret, SpoolConfig, TlsFiles};

use super::fault::{ConfigErrors, Fault, Place};
use super::relations::DEFAULT_SPOOL_DIRECTORY;
use super::settings::{
    Attribution, Compression, Connection, ConnectionMon, Discovery, Export, ExporterKind,
    MatchedSourceLabels, Probe, ProcessMon, Protocol, Resource, Settings, Spool, SpoolMode,
};
use super::several::Several;
use super::text::{Address, ExactPath, Ports, Text, TextFormat};
use super::{Config, Exporter, LogConfig, ResourceConfig, SelfTelemetry, endpoint};

/// The attribute that `resource.serviceName` sets.
const SERVICE_NAME: &str = "service.name";

/// The service name where none is configured.
const DEFAULT_SERVICE_NAME: &str = "vms-agent";

/// Makes the configuration of settings that are valid, and fit one another.
///
/// # Errors
/// For endpoints that do not: the check of relations tells of them with their source, and before.
pub(super) fn compose(settings: Settings) -> Result<Config, ConfigErrors> {
    let Settings {
        interval,
        probes,
        cpu_budget,
        link_health,
        attribution,
        export,
        prometheus,
        resource,
        log,
        self_telemetry,
        proc_root,
        pod_logs_root,
        conntrack,
        namespaces,
        sandbox,
    } = settings;
    let interval = interval.0.0;
    let probes = probes.into_iter().map(|probe| match probe {
        Probe::ConnectionMon(probe) => connection_probe(probe, interval).into(),
        Probe::Connection(probe) => probe::Probe::Watch(Arc::new(watch_probe(probe, interval))),
        Probe::ProcessMon(probe) => probe::Probe::Presence(Arc::new(presence_probe(probe, interval))),
        Probe::Discovery(probe) => probe::Probe::Discovery(Arc::new(discovery_probe(probe, interval))),
    });
    let exporter = export.exporter;
    let (metrics, own) = export_configs(export)?;
    Ok(Config {
        interval,
        probes: probes.collect(),
        terms: Terms {
            cpu_budget: CpuShare::from_parts_per_million(cpu_budget.0.parts_per_million),
            link_health,
            attribution: match attribution {
                Attribution::Strict => AttributionMode::Strict,
                Attribution::Inferred => AttributionMode::Inferred,
            },
            namespaces: namespaces.into(),
        },
        exporter: match exporter {
            ExporterKind::Otlp => Exporter::Otlp(metrics),
            ExporterKind::Console => Exporter::Console,
            ExporterKind::None => Exporter::None,
        },
        cnxwatch_names: prometheus.cnxwatch_names,
        prometheus: prometheus.listen.map(|address| address.0.0),
        resource: resource_config(resource),
        log: LogConfig { level: log.level.0.0, format: log.format },
        self_telemetry: SelfTelemetry {
            traces: self_telemetry.traces,
            logs: self_telemetry.logs,
            export: own,
        },
        proc_root: proc_root.0.0,
        pod_logs_root: pod_logs_root.0.0,
        conntrack,
        sandbox,
    })
}

fn path(path: Option<Text<ExactPath>>) -> Option<PathBuf> {
    path.map(|path| path.0.0)
}

fn connection_probe(probe: ConnectionMon, interval: Duration) -> ConnectionProbe {
    let source_process =
        ProcessPattern { name: probe.process_name.0, executable: path(probe.executable_path) };
    let dest_executable = path(probe.dest_executable_path);
    let dest_process = match probe.dest_process_name {
        // Another program: the source's executable would be the wrong one.
        Some(name) => ProcessPattern { name: name.0, executable: dest_executable },
        None => ProcessPattern {
            name: source_process.name.clone(),
            executable: dest_executable.or_else(|| source_process.executable.clone()),
        },
    };
    ConnectionProbe {
        name: probe.name.into(),
        source_process,
        dest_process,
        dest_ip: probe.dest_service_ip.0,
        dest_port: probe.dest_service_port,
        source_ip: probe.source_service_ip.map(|ip| ip.0),
        source_port: probe.source_service_port,
        interval: probe.interval.map_or(interval, |own| own.0.0),
        matched_source_labels: match probe.matched_source_labels {
            MatchedSourceLabels::None => probe::MatchedSourceLabels::None,
            MatchedSourceLabels::Ip => probe::MatchedSourceLabels::Ip,
            MatchedSourceLabels::IpPort => probe::MatchedSourceLabels::IpPort,
        },
    }
}

fn watch_probe(probe: Connection, interval: Duration) -> WatchProbe {
    let labels = watch_labels(&probe);
    let (name, executable) = (probe.process_name.map(|name| name.0), path(probe.process_path));
    let process = (name.is_some() || executable.is_some())
        .then(|| ProcessPattern { name: name.unwrap_or_else(NameGlob::any), executable });
    let (local, local_names) = addresses(probe.local_address);
    let (remote, remote_names) = addresses(probe.remote_address);
    let ports = |several: Option<Several<Text<Ports>>>| values(several).map(|range| range.0).collect();
    let states: Vec<TcpState> = probe.states.0.iter().map(|state| state.0.0).collect();
    WatchProbe {
        name: probe.name.into(),
        process,
        clause: SocketClause {
            transport: probe.protocol.transport(),
            families: probe.protocol.families(),
            states: TcpStates::of(&states),
            local: EndClause { networks: local, ports: ports(probe.local_port), exact: probe.exact },
            // What has no peer is nobody's: its unspecified address stands for no other.
            remote: EndClause { networks: remote, ports: ports(probe.remote_port), exact: true },
        },
        local_names,
        remote_names,
        bounds: bounds(probe.min_count, probe.max_count),
        by_family: probe.per_family,
        interval: probe.interval.map_or(interval, |own| own.0.0),
        labels,
    }
}

/// The addresses that are written, and the hosts whose addresses are to be found out.
fn addresses(several: Option<Several<Text<Address>>>) -> (Vec<Network>, Vec<HostName>) {
    let (mut networks, mut names) = (Vec::new(), Vec::new());
    for address in values(several) {
        match address {
            Address::Range(network) => networks.push(network),
            // Written twice, in whatever case, it is one.
            Address::Host(name) if names.contains(&name) => {}
            Address::Host(name) => names.push(name),
        }
    }
    (networks, names)
}

fn values<T>(several: Option<Several<Text<T>>>) -> impl Iterator<Item = T> {
    several.into_iter().flat_map(|several| several.0).map(|value| value.0)
}

/// What is configured, as attributes say it: of each that the metrics know, in their order.
fn watch_labels(probe: &Connection) -> Vec<(&'static str, Arc<str>)> {
    fn joined<T: TextFormat>(several: Option<&Several<Text<T>>>) -> Option<String> {
        let texts: Vec<String> = several?.0.iter().map(|value| value.0.to_string()).collect();
        Some(texts.join(","))
    }
    let mut states: Vec<&str> = Vec::new();
    for state in &probe.states.0 {
        let name = match (probe.protocol.transport(), state.0.0) {
            // No RFC names the states of UDP; to call a socket closed that receives would mislead.
            (Transport::Udp, TcpState::Close) => "UNCONNECTED",
            (_, state) => state.as_str(),
        };
        if !states.contains(&name) {
            states.push(name);
        }
    }
    let labels = [
        ("proto", Some(probe.protocol.as_str().to_owned())),
        ("process_name", probe.process_name.as_ref().map(|name| name.0.as_str().to_owned())),
        ("local_address", joined(probe.local_address.as_ref())),
        ("local_port", joined(probe.local_port.as_ref())),
        ("remote_address", joined(probe.remote_address.as_ref())),
        ("remote_port", joined(probe.remote_port.as_ref())),
        ("states", Some(states.join(","))),
    ];
    labels.into_iter().filter_map(|(key, text)| Some((key, text?.into()))).collect()
}

fn discovery_probe(probe: Discovery, interval: Duration) -> DiscoveryProbe {
    let globs = probe.process_name.map(|Several(globs)| globs.into_iter().map(|glob| glob.0).collect());
    let globs: Vec<NameGlob> = globs.unwrap_or_else(|| vec![NameGlob::any()]);
    DiscoveryProbe {
        name: probe.name.into(),
        processes: globs.into_iter().map(|name| ProcessPattern { name, executable: None }).collect(),
        most: usize::try_from(probe.max_series).unwrap_or(usize::MAX),
        interval: probe.interval.map_or(interval, |own| own.0.0),
    }
}

fn presence_probe(probe: ProcessMon, interval: Duration) -> PresenceProbe {
    PresenceProbe {
        name: probe.name.into(),
        process: ProcessPattern { name: probe.process_name.0, executable: path(probe.executable_path) },
        bounds: bounds(probe.min_count, probe.max_count),
        resources: probe.resources,
        interval: probe.interval.map_or(interval, |own| own.0.0),
    }
}

fn bounds(least: u32, most: Option<u32>) -> Bounds {
    Bounds { least: least.into(), most: most.map(u64::from) }
}

/// How metrics are sent, and how traces and logs.
fn export_configs(settings: Export) -> Result<(ExportConfig, ExportConfig), ConfigErrors> {
    let Export { protocol, endpoint, metrics_endpoint, insecure, tls, backoff, spool, .. } = settings;
    let fault = |key: &str| {
        let path = super::KeyPath::from("export").key(key);
        move |problem| ConfigErrors::new(vec![Fault::new(Place::Default, path, problem)])
    };
    let base = endpoint.as_deref().unwrap_or(endpoint::default_endpoint(protocol));
    let endpoints = endpoint::parse_base(protocol, base, insecure).map_err(fault("endpoint"))?;
    let metrics_endpoint = match metrics_endpoint {
        None => endpoints.metrics,
        Some(url) => endpoint::parse(protocol, &url, insecure).map_err(fault("metricsEndpoint"))?,
    };
    let metrics = ExportConfig {
        protocol: match protocol {
            Protocol::Grpc => export::Protocol::Grpc,
            Protocol::HttpProtobuf => export::Protocol::HttpProtobuf,
        },
        endpoint: metrics_endpoint,
        headers: settings.headers.into_iter().map(|(name, value)| (name, Secret::new(value.0.0))).collect(),
        timeout: settings.timeout.0.0,
        compression: match settings.compression {
            Compression::None => export::Compression::None,
            Compression::Gzip => export::Compression::Gzip,
            Compression::Zstd => export::Compression::Zstd,
        },
        tls: TlsFiles {
            ca: tls.ca_file,
            client_certificate: tls.client_certificate_file,
            client_key: tls.client_key_file,
        },
        backoff: export::Backoff { initial: backoff.initial.0.0, max: backoff.max.0.0 },
        queue_bytes: usize::try_from(settings.queue_bytes).unwrap_or(usize::MAX),
        spool: spool_config(spool),
    };
    // The agent's own traces and logs are not spooled.
    let own = ExportConfig { endpoint: endpoints.base, spool: None, ..metrics.clone() };
    Ok((metrics, own))
}

fn spool_config(spool: Spool) -> Option<SpoolConfig> {
    let Spool { mode, directory, max_bytes, max_age, replay_pause } = spool;
    Some(SpoolConfig {
        mode: match mode {
            SpoolMode::Off => return None,
            SpoolMode::OnFailure => export::SpoolMode::OnFailure,
            SpoolMode::Always => export::SpoolMode::Always,
        },
        directory: directory.map_or_else(|| DEFAULT_SPOOL_DIRECTORY.into(), |directory| directory.0.0),
        max_bytes,
        max_age: max_age.0.0,
        replay_pause: replay_pause.0.0,
    })
}

fn resource_config(resource: Resource) -> ResourceConfig {
    let mut attributes: BTreeMap<String, String> = resource.attributes;
    let named = attributes.remove(SERVICE_NAME).filter(|name| !name.is_empty());
    let service_name = resource.service_name.or(named).unwrap_or_else(|| DEFAULT_SERVICE_NAME.to_owned());
    ResourceConfig { service_name, attributes }
}
