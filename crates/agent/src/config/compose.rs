//! Checked settings become what the other parts take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use vms_core::budget::CpuShare;
use vms_core::infer::AttributionMode;
use vms_core::monitor::Terms;
use vms_core::probe::{self, ConnectionProbe};
use vms_core::process::ProcessPattern;
use vms_export::ExportConfig;
use vms_export::config::{self as export, Secret, SpoolConfig, TlsFiles};

use super::fault::{ConfigErrors, Fault, Place};
use super::relations::DEFAULT_SPOOL_DIRECTORY;
use super::settings::{
    Attribution, Compression, ConnectionMon, Export, ExporterKind, MatchedSourceLabels, Probe, Protocol,
    Resource, Settings, Spool, SpoolMode,
};
use super::text::{ExactPath, Text};
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
    let probes =
        probes.into_iter().map(|Probe::ConnectionMon(probe)| Arc::new(connection_probe(probe, interval)));
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

fn connection_probe(probe: ConnectionMon, interval: std::time::Duration) -> ConnectionProbe {
    let path = |path: Option<Text<ExactPath>>| -> Option<PathBuf> { path.map(|path| path.0.0) };
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
