//! The settings, as a file holds them. The JSON Schema is made from these structures, values are checked against
//! that schema, and what passed is read into these structures: the three cannot drift apart.
//!
//! The doc comments are what editors show beside each key.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use vms_core::address::ServiceIp;
use vms_core::connection::TcpState;
use vms_core::monitor::Terms;
use vms_core::namespace::Namespaces;
use vms_core::process::NameGlob;
use vms_core::socket::{self, Families};

use super::duration::DurationText;
use super::percent::PercentText;
use super::several::Several;
use super::text::{
    Address, ExactPath, HeaderName, HeaderValue, ListenAddress, LogFilter, Ports, StateName, Text, TextFormat,
};

/// The JSON Schema (draft 7, which editors know best) of a configuration file.
pub(super) fn schema() -> Map<String, Json> {
    let mut schema = SchemaSettings::draft07()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<Settings>();
    let mut keywords = std::mem::take(schema.ensure_object());
    keywords.values_mut().for_each(tidy);
    keywords
}

/// Leaves out what says nothing: a default of null is none, and one of a section only repeats those of its keys.
/// Doc comments are wrapped for this file; editors wrap descriptions themselves.
fn tidy(schema: &mut Json) {
    let Json::Object(keywords) = schema else { return };
    let is_section = keywords.contains_key("properties");
    if keywords.get("default").is_some_and(|default| default.is_null() || is_section) {
        keywords.remove("default");
    }
    if let Some(Json::String(description)) = keywords.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    for part in keywords.values_mut() {
        match part {
            Json::Array(parts) => parts.iter_mut().for_each(tidy),
            part => tidy(part),
        }
    }
}

/// The configuration of vms-agent.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "vms-agent")]
pub(super) struct Settings {
    /// How often each probe looks, and so how often its points are sent, from 100ms to 24h. A shorter interval
    /// notices a broken link sooner and costs more CPU. A probe may have its own.
    #[serde(default = "default_interval")]
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "24h"))]
    pub(super) interval: Text<DurationText>,

    /// What is measured: at least one probe. The same list serves the hosts at both ends of a link.
    #[schemars(length(min = 1))]
    pub(super) probes: Vec<Probe>,

    /// The CPU time for walks over all sockets of the host, in percent of one core. Links that are known are verified in
    /// each cycle without a walk; walks find new connections, and count those of each link. On a small host every cycle
    /// has one; on a large one they are spaced out so that this share holds, up to a minute apart. A link that
    /// breaks is looked for at once, whatever it costs. Raise it where new connections have to be noticed sooner on a
    /// host with very many sockets.
    #[serde(default = "default_cpu_budget")]
    pub(super) cpu_budget: Text<PercentText>,

    /// Whether points tell how the connections of each link fare (round-trip times, retransmissions, bytes, queues),
    /// beside whether they are there: about 15 more points a link. Turn it off where the back end is short of room.
    #[serde(default = "default_link_health")]
    pub(super) link_health: bool,

    /// What becomes of a connection whose holder may not be read, because the agent lacks a capability.
    #[serde(default)]
    pub(super) attribution: Attribution,

    /// Where the measurements go.
    #[serde(default)]
    pub(super) export: Export,

    /// Where Prometheus can scrape the measurements, beside their being sent.
    #[serde(default)]
    pub(super) prometheus: Prometheus,

    /// What the data says about its origin.
    #[serde(default)]
    pub(super) resource: Resource,

    /// What the agent writes to its standard error.
    #[serde(default)]
    pub(super) log: Log,

    /// The agent's own traces and logs, sent to the same collector. Its own metrics are always sent.
    #[serde(default)]
    pub(super) self_telemetry: SelfTelemetry,

    /// Where the proc file system is mounted. Containers that look at the host's processes set it to the mount of
    /// the host's /proc, such as /host/proc; nobody else does.
    #[serde(default = "default_proc_root")]
    pub(super) proc_root: Text<ExactPath>,

    /// The kubelet's directory of the logs of pods: the names of the directories in it tell what pods are called. It is
    /// looked at with `namespaces: all`, and by `vms-agent check`, when somebody lives in a pod. Those change it whose kubelet
    /// has another (`podLogsDir`), or whose container has it elsewhere. Takes effect at the start.
    #[serde(default = "default_pod_logs_root")]
    pub(super) pod_logs_root: Text<ExactPath>,

    /// Whether translated destinations (NAT) are looked up in the kernel's connection tracking: then a link to an address
    /// that is translated on this host, such as the cluster IP of a Kubernetes service, is seen at its server's end as
    /// well. Costs the capability `CAP_NET_ADMIN`, by which the agent could change this host's network. Takes effect at the
    /// start.
    #[serde(default)]
    pub(super) conntrack: ConntrackMode,
    /// Whose connections are looked at: those of the agent's own network namespace, or those of every one on the host in
    /// which a process lives that fits a probe, as each pod has one. The latter takes `CAP_SYS_ADMIN`, without which it is
    /// slower and tells less, and a walk over all sockets for each of them. Takes effect at the start.
    #[serde(default)]
    pub(super) namespaces: NamespacesMode,

    /// Whether the running agent gives up all that it does not need: capabilities, system calls, files. Takes effect
    /// at the start.
    #[serde(default)]
    pub(super) sandbox: SandboxMode,
}

fn default_interval() -> Text<DurationText> {
    Text(DurationText(Duration::from_secs(15)))
}

fn default_cpu_budget() -> Text<PercentText> {
    Text(PercentText { parts_per_million: Terms::default().cpu_budget.parts_per_million() })
}

fn default_link_health() -> bool {
    Terms::default().link_health
}

fn default_proc_root() -> Text<ExactPath> {
    Text(ExactPath(PathBuf::from("/proc")))
}

fn default_pod_logs_root() -> Text<ExactPath> {
    Text(ExactPath(PathBuf::from("/var/log/pods")))
}

/// What becomes of a connection whose holder may not be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Attribution {
    /// It is unattributed, and counted as such.
    #[default]
    Strict,
    /// It counts where only processes that fit are left to hold it, by the cgroup in which its socket was made, or by its
    /// user; points say so. That has known errors: choose it only where the capabilities cannot be granted.
    Inferred,
}

/// Whose connections are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum NamespacesMode {
    /// Those of the network namespace in which the agent runs. Needs no capability.
    #[default]
    Own,
    /// Those of every network namespace in which a process lives that fits a probe, and of the agent's own. Takes
    /// `CAP_SYS_ADMIN`, beside the two by which other users' processes are looked into. Without it connections are read from
    /// `/proc/PID/net/tcp` in each cycle, which is slower and tells no link health. For one agent on each host; it has to
    /// see the host's processes.
    All,
}

impl From<NamespacesMode> for Namespaces {
    fn from(mode: NamespacesMode) -> Self {
        match mode {
            NamespacesMode::Own => Self::Own,
            NamespacesMode::All => Self::All,
        }
    }
}

/// What the agent gives up once it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SandboxMode {
    /// All that it can do without, as far as the kernel knows how; what cannot be given up is logged once.
    #[default]
    Auto,
    /// As auto, and the agent does not start where anything cannot be given up.
    Required,
    /// Nothing. For finding out whether the sandbox stands in the way of something.
    Off,
}

/// Whether connection tracking is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConntrackMode {
    /// It is not, and the agent keeps no capability for it.
    #[default]
    Off,
    /// It is, in each walk over all sockets, where this host lets it; where it does not, that is logged once.
    Auto,
}

/// One measurement.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
pub(super) enum Probe {
    /// Does a process on this host hold an ESTABLISHED TCP connection to that service?
    #[serde(rename = "connection_mon")]
    ConnectionMon(ConnectionMon),
    /// How many sockets of a kind are there on this host?
    #[serde(rename = "connection")]
    Connection(Connection),
    /// How many processes run under a name?
    #[serde(rename = "process_mon")]
    ProcessMon(ProcessMon),
    /// Where do processes of this host listen, and whom are they connected with, declared or not?
    #[serde(rename = "discovery")]
    Discovery(Discovery),
}

/// The settings of a probe `connection_mon`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ConnectionMon {
    /// Identifies the link in the data, as the attribute `name`; unique among probes.
    #[schemars(length(min = 1, max = 255))]
    pub(super) name: String,

    /// The process that holds the connection: a glob with *, ?, [...] and {a,b} that has to match one of its names
    /// (comm, executable or `argv[0]`, without directories) as a whole, in upper or lower case.
    pub(super) process_name: Text<NameGlob>,

    /// Where set, the process has to run exactly this executable as well. The path is the one that /proc/PID/exe
    /// shows: symbolic links are not followed.
    pub(super) executable_path: Option<Text<ExactPath>>,

    /// The process at the destination's end, where the two ends run different programs. Default: as processName
    /// and executablePath; where it is set, executablePath does not apply to the destination's end.
    pub(super) dest_process_name: Option<Text<NameGlob>>,

    /// As executablePath, for the process at the destination's end.
    pub(super) dest_executable_path: Option<Text<ExactPath>>,

    /// The address of the service, IPv4 or IPv6; a link-local address may name its interface, as in `fe80::1%eth0`.
    pub(super) dest_service_ip: Text<ServiceIp>,

    /// The TCP port of the service.
    #[schemars(range(min = 1))]
    pub(super) dest_service_port: u16,

    /// Where set, only connections from this address count.
    pub(super) source_service_ip: Option<Text<ServiceIp>>,

    /// Where set, only connections from this port count. Usually unset: clients take any free port.
    #[schemars(range(min = 1))]
    pub(super) source_service_port: Option<u16>,

    /// The transport protocol.
    #[serde(default)]
    pub(super) protocol: Transport,

    /// How often this probe looks, from 100ms to 24h. Default: the agent's interval.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "24h"))]
    pub(super) interval: Option<Text<DurationText>>,

    /// Whether results are told apart by the source that matched, where none is configured. A series costs the back
    /// end memory, and the end of each source's last connection a walk over all sockets: leave it at none unless the
    /// sources are few and last.
    #[serde(default)]
    pub(super) matched_source_labels: MatchedSourceLabels,
}

/// The settings of a probe `connection`. A socket counts to which all applies that is set.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Connection {
    /// Identifies the watch in the data, as the attribute `name`; unique among probes.
    #[schemars(length(min = 1, max = 255))]
    pub(super) name: String,

    /// Where set, only sockets count that a process holds which fits: a glob with *, ?, [...] and {a,b} that has to match one
    /// of its names (comm, executable or `argv[0]`, without directories) as a whole, in upper or lower case. Other users'
    /// processes take the two capabilities of the agent.
    pub(super) process_name: Option<Text<NameGlob>>,

    /// Where set, only sockets count that a process holds which runs exactly this executable. The path is the one that
    /// /proc/PID/exe shows: symbolic links are not followed.
    pub(super) process_path: Option<Text<ExactPath>>,

    /// The addresses of this host's end: one, a range of them (CIDR), those of a host by its name, or a list of these. A
    /// name is resolved by the hosts file and the name servers, all its A and AAAA records, and again when their time to
    /// live is over. A socket that is bound to all addresses (0.0.0.0 or ::) counts for each of them, unless exact is set.
    pub(super) local_address: Option<Several<Text<Address>>>,

    /// The ports of this host's end: one, or a range as in 8000-8999, or a list of these.
    pub(super) local_port: Option<Several<Text<Ports>>>,

    /// The addresses of the other end, as localAddress. A socket without a peer has none, and counts for 0.0.0.0 and :: alone.
    pub(super) remote_address: Option<Several<Text<Address>>>,

    /// The ports of the other end, as localPort.
    pub(super) remote_port: Option<Several<Text<Ports>>>,

    /// The transport protocol, of both versions of IP or of one. What counts are the packets: an IPv6 socket that serves
    /// IPv4, as those of dual-stack servers do, counts for tcp4.
    #[serde(default)]
    pub(super) protocol: SocketProtocol,

    /// The states in which sockets count: one, or a list, by their names in RFC 9293, in ss or in the kernel. Of UDP there
    /// are two: established, with a peer, and unconnected.
    #[serde(default = "default_states")]
    pub(super) states: Several<Text<StateName>>,

    /// Whether a socket that is bound to all addresses (0.0.0.0 or ::) counts for localAddress only where that is what it
    /// says.
    #[serde(default)]
    pub(super) exact: bool,

    /// With fewer sockets the watch is down, from 0 to 1000000000.
    #[serde(default = "default_min_count")]
    #[schemars(range(max = 1_000_000_000))]
    pub(super) min_count: u32,

    /// With more sockets the watch warns, from minCount to 1000000000. Default: no number is too many.
    #[schemars(range(max = 1_000_000_000))]
    pub(super) max_count: Option<u32>,

    /// Whether sockets are counted by version of IP: two points instead of one. What serves both is in both.
    #[serde(default)]
    pub(super) per_family: bool,

    /// How often this probe looks, from 100ms to 24h. Default: the agent's interval.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "24h"))]
    pub(super) interval: Option<Text<DurationText>>,
}

fn default_states() -> Several<Text<StateName>> {
    Several(vec![Text(StateName(TcpState::Established))])
}

fn default_min_count() -> u32 {
    1
}

/// A transport protocol, of both versions of IP or of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SocketProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP.
    Udp,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl SocketProtocol {
    /// As it is written.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
            Self::Udp => "udp",
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
        }
    }

    pub(super) const fn transport(self) -> socket::Transport {
        match self {
            Self::Tcp | Self::Tcp4 | Self::Tcp6 => socket::Transport::Tcp,
            Self::Udp | Self::Udp4 | Self::Udp6 => socket::Transport::Udp,
        }
    }

    pub(super) const fn families(self) -> Families {
        match self {
            Self::Tcp | Self::Udp => Families::BOTH,
            Self::Tcp4 | Self::Udp4 => Families::IPV4,
            Self::Tcp6 | Self::Udp6 => Families::IPV6,
        }
    }
}

/// The settings of a probe `discovery`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Discovery {
    /// Identifies the probe in the data, as the attribute `name`; unique among probes.
    #[schemars(length(min = 1, max = 255))]
    pub(super) name: String,

    /// The processes to look at: a glob, or a list of globs, each as in `connection_mon`. Default: all.
    pub(super) process_name: Option<Several<Text<NameGlob>>>,

    /// How many endpoints and links have a series of their own at most, from 0 to 10000; those with most connections go
    /// first. Totals are of all, and what is left out is counted.
    #[serde(default = "default_max_series")]
    #[schemars(range(max = 10_000))]
    pub(super) max_series: u32,

    /// How often this probe looks, from 100ms to 24h. Default: the agent's interval. A look finds out who holds each of the
    /// host's connections: a minute or more is enough for most.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "24h"))]
    pub(super) interval: Option<Text<DurationText>>,
}

fn default_max_series() -> u32 {
    1_000
}

/// The settings of a probe `process_mon`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProcessMon {
    /// Identifies the probe in the data, as the attribute `name`; unique among probes.
    #[schemars(length(min = 1, max = 255))]
    pub(super) name: String,

    /// The processes that count: a glob with *, ?, [...] and {a,b} that has to match one of their names (comm, executable or
    /// `argv[0]`, without directories) as a whole, in upper or lower case.
    pub(super) process_name: Text<NameGlob>,

    /// Where set, they have to run exactly this executable as well. The path is the one that /proc/PID/exe shows: symbolic
    /// links are not followed.
    pub(super) executable_path: Option<Text<ExactPath>>,

    /// With fewer processes the probe is down, from 0 to 1000000000.
    #[serde(default = "default_min_count")]
    #[schemars(range(max = 1_000_000_000))]
    pub(super) min_count: u32,

    /// With more processes the probe warns, from minCount to 1000000000. Default: no number is too many.
    #[schemars(range(max = 1_000_000_000))]
    pub(super) max_count: Option<u32>,

    /// Whether it is told what these processes use together: their CPU time since they were first seen to fit, and their memory.
    #[serde(default)]
    pub(super) resources: bool,

    /// How often this probe looks, from 100ms to 24h. Default: the agent's interval.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "24h"))]
    pub(super) interval: Option<Text<DurationText>>,
}

/// A transport protocol.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Transport {
    /// The Transmission Control Protocol.
    #[default]
    Tcp,
}

/// How series are told apart.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum MatchedSourceLabels {
    /// One series a direction.
    #[default]
    None,
    /// A series for each source address.
    Ip,
    /// A series for each source address and port: one for each connection.
    IpPort,
}

/// Where the measurements go.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Export {
    /// What becomes of the measurements.
    pub(super) exporter: ExporterKind,

    /// How OTLP travels: as the collector's receiver expects it.
    pub(super) protocol: Protocol,

    /// The collector: `http://host:port` or `https://host:port`; with http/protobuf a base URL, to which /v1/metrics is
    /// appended. With grpc the scheme may be left out and is https then, unless insecure is set. Default:
    /// `http://localhost:4317`, with http/protobuf `http://localhost:4318`.
    #[schemars(length(min = 1))]
    pub(super) endpoint: Option<String>,

    /// The URL for metrics, taken as it is, where it differs from what endpoint makes of it.
    #[schemars(length(min = 1))]
    pub(super) metrics_endpoint: Option<String>,

    /// Sent with each request; most often an authorization. The values are secrets, which no output shows: better
    /// than here they stand in a file, as in `${file:/run/secrets/token}`.
    #[schemars(extend("writeOnly" = true, "propertyNames" = { "format": HeaderName::NAME }))]
    pub(super) headers: BTreeMap<String, Text<HeaderValue>>,

    /// The time for one attempt to send, from 100ms to 10m. Raise it for a distant collector.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "10m"))]
    pub(super) timeout: Text<DurationText>,

    /// How requests are compressed. Over a costly network gzip or zstd saves most of the bytes for little CPU.
    pub(super) compression: Compression,

    /// With an endpoint without a scheme: http instead of https. Otherwise without effect.
    pub(super) insecure: bool,

    /// For https endpoints.
    pub(super) tls: Tls,

    /// How much may wait in memory while the collector is away, in bytes, from 64 KiB to 1 GiB. Beyond it the oldest
    /// measurements are dropped and counted. Raise it with the memory limit of the agent.
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub(super) queue_bytes: u32,

    /// How long to wait before a request is sent again.
    pub(super) backoff: Backoff,

    /// What becomes of measurements that the collector does not take: they wait on the disk, and are sent later.
    pub(super) spool: Spool,
}

impl Default for Export {
    fn default() -> Self {
        Self {
            exporter: ExporterKind::default(),
            protocol: Protocol::default(),
            endpoint: None,
            metrics_endpoint: None,
            headers: BTreeMap::new(),
            timeout: Text(DurationText(Duration::from_secs(10))),
            compression: Compression::default(),
            insecure: false,
            tls: Tls::default(),
            queue_bytes: 8 << 20,
            backoff: Backoff::default(),
            spool: Spool::default(),
        }
    }
}

/// Measurements that wait on the disk, one file for each request.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Spool {
    /// When measurements are written to the disk.
    pub(super) mode: SpoolMode,

    /// Where: a directory for this agent alone, which is made if need be. Default: what `StateDirectory=` of systemd gives,
    /// else /var/lib/vms-agent. Where it cannot be written, memory serves (queueBytes).
    pub(super) directory: Option<Text<ExactPath>>,

    /// What the files may take of the disk, whole blocks counted, from 1 MiB to 1 TiB. Beyond it the oldest
    /// measurements are dropped and counted. The default holds a day for some hundred links at 15s.
    #[schemars(range(min = 1_048_576, max = 1_099_511_627_776_u64))]
    pub(super) max_bytes: u64,

    /// How long measurements may wait, from 1m to 8760h. Older ones are dropped and counted, but those of an earlier run not
    /// in the first hour: at boot a clock may be wrong. Set it to what the back end still takes.
    #[schemars(extend("x-minimum" = "1m", "x-maximum" = "8760h"))]
    pub(super) max_age: Text<DurationText>,

    /// The least pause between two requests that are sent from the disk, from 1ms to 1m. Replaying begins at one a
    /// second and gets faster down to this pause; what is measured meanwhile goes first. Raise it where many agents share
    /// a small collector.
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1m"))]
    pub(super) replay_pause: Text<DurationText>,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            mode: SpoolMode::default(),
            directory: None,
            max_bytes: 256 << 20,
            max_age: Text(DurationText(Duration::from_hours(24))),
            replay_pause: Text(DurationText(Duration::from_millis(100))),
        }
    }
}

/// When measurements are written to the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum SpoolMode {
    /// Never: what waits is in memory, and ends with the agent.
    Off,
    /// When the collector does not take them, and what is left when the agent stops.
    #[default]
    OnFailure,
    /// Each at once, so that even the sudden end of the agent or the host loses none that was written.
    Always,
}

/// What becomes of the measurements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ExporterKind {
    /// They are sent to an OTLP receiver.
    #[default]
    Otlp,
    /// They are printed to standard output, for trying things out.
    Console,
    /// They are thrown away.
    None,
}

/// How OTLP travels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) enum Protocol {
    /// OTLP/gRPC; the usual port is 4317.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// OTLP/HTTP with binary protobuf bodies; the usual port is 4318.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// How requests are compressed.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With gzip, which every collector understands.
    Gzip,
    /// With Zstandard, which is smaller and cheaper; the OpenTelemetry Collector understands it.
    Zstd,
}

/// PEM files for https endpoints.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(clippy::struct_field_names, reason = "the names are the keys, which say that they take paths")]
pub(super) struct Tls {
    /// The certificates to trust instead of the system's.
    #[schemars(length(min = 1))]
    pub(super) ca_file: Option<PathBuf>,
    /// The certificate that the agent shows to the collector; needs clientKeyFile.
    #[schemars(length(min = 1))]
    pub(super) client_certificate_file: Option<PathBuf>,
    /// The private key of the client certificate; needs clientCertificateFile.
    #[schemars(length(min = 1))]
    pub(super) client_key_file: Option<PathBuf>,
}

/// How long to wait before a request is sent again. The wait doubles with each failure; what the collector asks for
/// goes before.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Backoff {
    /// After the first failure, from 10ms to 1h.
    #[schemars(extend("x-minimum" = "10ms", "x-maximum" = "1h"))]
    pub(super) initial: Text<DurationText>,
    /// At the most, from 10ms to 1h, and no less than initial.
    #[schemars(extend("x-minimum" = "10ms", "x-maximum" = "1h"))]
    pub(super) max: Text<DurationText>,
}

impl Default for Backoff {
    fn default() -> Self {
        let vms_export::config::Backoff { initial, max } = vms_export::config::Backoff::default();
        Self { initial: Text(DurationText(initial)), max: Text(DurationText(max)) }
    }
}

/// Where Prometheus can scrape the measurements.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Prometheus {
    /// The address and port at which the agent listens, such as 127.0.0.1:9293; metrics are at /metrics there. Nobody is asked
    /// who he is: with another address than one of loopback, whoever reaches it can read them. One of loopback answers to an IP
    /// address and to localhost alone. Default: it does not listen. Takes effect at the start.
    pub(super) listen: Option<Text<ListenAddress>>,

    /// Whether probes `connection` are told under the names and labels of `cnxwatch_exporter` as well (`connection_status_up`,
    /// `connection_status_count`), for dashboards that ask for them.
    pub(super) cnxwatch_names: bool,
}

/// What the data says about its origin. Host, operating system and container are found out by the agent.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Resource {
    /// The attribute service.name. Default: service.name of attributes, else vms-agent.
    #[schemars(length(min = 1))]
    pub(super) service_name: Option<String>,
    /// Further attributes, such as deployment.environment.name; they go before those that the agent finds out.
    #[schemars(extend("propertyNames" = { "minLength": 1 }))]
    pub(super) attributes: BTreeMap<String, String>,
}

/// What the agent writes to its standard error.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Log {
    /// How much: off, error, warn, info, debug or trace; also for single modules, as in
    /// `info,vms_export=debug`.
    pub(super) level: Text<LogFilter>,
    /// How it looks.
    pub(super) format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: Text(LogFilter("info".to_owned())), format: LogFormat::default() }
    }
}

/// How log records look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The agent's own traces and logs.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct SelfTelemetry {
    /// A span for each cycle, for those who tune the agent.
    pub(super) traces: bool,
    /// What log.level lets through, over OTLP as well.
    pub(super) logs: bool,
}
