//! Every metric of the agent, defined once, and the data points that carry values.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// What the values of a metric mean over time (OpenTelemetry metrics data model).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// The present value.
    Gauge,
    /// A sum since the start that only grows: monotonic, cumulative.
    Counter,
    /// A sum that can go down: not monotonic, cumulative.
    UpDownCounter,
    /// A distribution over buckets with these upper bounds, since the start: cumulative.
    Histogram(&'static [f64]),
}

/// The definition of a metric.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// The name, without a unit in it.
    pub name: &'static str,
    /// The unit (UCUM; an annotation in braces counts things).
    pub unit: &'static str,
    /// One sentence for whoever meets the metric in a back end.
    pub description: &'static str,
    /// The kind of its points.
    pub kind: Kind,
    /// The keys that its points may carry.
    pub attributes: &'static [&'static str],
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttributeValue {
    /// Text.
    Str(Arc<str>),
    /// A number.
    Int(i64),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Str(text.into())
    }
}

impl From<u16> for AttributeValue {
    fn from(number: u16) -> Self {
        Self::Int(number.into())
    }
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attribute {
    /// The key.
    pub key: &'static str,
    /// The value.
    pub value: AttributeValue,
}

impl Attribute {
    /// Joins a key and a value.
    pub fn new(key: &'static str, value: impl Into<AttributeValue>) -> Self {
        Self { key, value: value.into() }
    }
}

/// The attributes that all points of a series share: built once, and kept for as long as the series lasts.
///
/// Whoever sends points can keep the bytes that it makes of them here, so that these too are made once.
#[derive(Debug, Default)]
pub struct AttributeSet {
    attributes: Box<[Attribute]>,
    rendered: OnceLock<Box<[u8]>>,
}

impl AttributeSet {
    /// A set of these attributes, in this order.
    pub fn new(attributes: impl Into<Box<[Attribute]>>) -> Self {
        Self { attributes: attributes.into(), rendered: OnceLock::new() }
    }

    /// The bytes that `render` makes of the attributes; made by the first who asks, and the same for all.
    pub fn rendered(&self, render: impl FnOnce(&[Attribute]) -> Box<[u8]>) -> &[u8] {
        self.rendered.get_or_init(|| render(&self.attributes))
    }
}

impl Deref for AttributeSet {
    type Target = [Attribute];

    fn deref(&self) -> &[Attribute] {
        &self.attributes
    }
}

impl PartialEq for AttributeSet {
    fn eq(&self, other: &Self) -> bool {
        self.attributes == other.attributes
    }
}

/// An attribute that tells the points of one series apart, such as the state of a status point: a fixed key and one of
/// a few fixed values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extra {
    /// The key.
    pub key: &'static str,
    /// The value.
    pub value: &'static str,
}

impl From<Extra> for Attribute {
    fn from(extra: Extra) -> Self {
        Self::new(extra.key, extra.value)
    }
}

/// The measured value of a point.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A count or a flag.
    Int(i64),
    /// A measure, such as seconds.
    Double(f64),
    /// A distribution.
    Histogram(Histogram),
}

/// How often which values occurred.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Occurrences in each bucket, one more than the metric has bounds.
    pub buckets: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
}

impl Histogram {
    /// An empty distribution over these bounds.
    #[must_use]
    pub fn new(bounds: &[f64]) -> Self {
        Self { buckets: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Adds a value; `bounds` are those that it was made with. A bound belongs to the bucket below it.
    pub fn record(&mut self, bounds: &[f64], value: f64) {
        let bucket = bounds.iter().take_while(|bound| value > **bound).count();
        if let Some(occurrences) = self.buckets.get_mut(bucket) {
            *occurrences += 1;
        }
        self.sum += value;
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// One value of one series at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct DataPoint {
    /// What it measures.
    pub metric: &'static Metric,
    /// The attributes that all points of a link share, built once.
    pub attributes: Arc<AttributeSet>,
    /// One more attribute, such as the state of a status point.
    pub extra: Option<Extra>,
    /// When it was measured; never when it was sent.
    pub time: SystemTime,
    /// Since when a cumulative value counts; `None` for gauges.
    pub start: Option<SystemTime>,
    /// The value.
    pub value: Value,
}

impl DataPoint {
    /// A gauge that counts.
    #[must_use]
    pub fn count(
        metric: &'static Metric,
        attributes: &Arc<AttributeSet>,
        extra: Option<Extra>,
        count: u64,
        time: SystemTime,
    ) -> Self {
        let value = Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
        Self { metric, attributes: Arc::clone(attributes), extra, time, start: None, value }
    }
}

/// The attributes that tell links apart.
pub const LINK_ATTRIBUTES: &[&str] = &[
    "name",
    "dest_ip",
    "dest_port",
    "proto",
    "process_name",
    "source_ip",
    "source_port",
    "container.id",
    "k8s.pod.uid",
    "k8s.pod.name",
    "k8s.namespace.name",
    "direction",
];

/// The attributes that tell watches apart: `name` and `proto` always, the others as configured.
pub const WATCH_ATTRIBUTES: &[&str] = &[
    "name",
    "proto",
    "process_name",
    "local_address",
    "local_port",
    "remote_address",
    "remote_port",
    "states",
];

macro_rules! metrics {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $unit:literal, $kind:expr, [$($attribute:literal),*] $(+ $shared:ident)?, $description:literal;)*) => {
        $($(#[$doc])* pub static $constant: Metric = Metric {
            name: $name,
            unit: $unit,
            description: $description,
            kind: $kind,
            attributes: metrics!(@attributes [$($attribute),*] $($shared)?),
        };)*

        /// Every metric, in the order of the reference.
        pub static ALL: &[&Metric] = &[$(&$constant),*];
    };
    (@attributes [] LINK) => { LINK_ATTRIBUTES };
    (@attributes [] WATCH) => { WATCH_ATTRIBUTES };
    (@attributes [$attribute:literal] WATCH) => {
        &["name", "proto", "process_name", "local_address", "local_port", "remote_address", "remote_port", "states", $attribute]
    };
    (@attributes [$attribute:literal] LINK) => {
        &[
            "name", "dest_ip", "dest_port", "proto", "process_name", "source_ip", "source_port", "container.id", "k8s.pod.uid",
            "k8s.pod.name", "k8s.namespace.name", "direction", $attribute,
        ]
    };
    (@attributes [$one:literal, $other:literal] LINK) => {
        &[
            "name", "dest_ip", "dest_port", "proto", "process_name", "source_ip", "source_port", "container.id", "k8s.pod.uid",
            "k8s.pod.name", "k8s.namespace.name", "direction", $one, $other,
        ]
    };
    (@attributes [$($attribute:literal),*]) => { &[$($attribute),*] };
}

/// Upper bounds of the cycle duration's buckets, in seconds: from a lone look to one that fills its interval.
const CYCLE_SECONDS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

metrics! {
    /// Whether the link is there.
    UP = "vms.connection_mon.up", "1", Kind::Gauge, [] + LINK,
        "1 when a process that fits holds an ESTABLISHED connection of the link, 0 when none does.";
    /// The same as a state metric.
    STATUS = "vms.connection_mon.status", "1", Kind::Gauge, ["state"] + LINK,
        "1 for the state that the link is in, up or down, and 0 for the other.";
    /// How many connections the link has.
    CONNECTIONS = "vms.connection_mon.connections", "{connection}", Kind::Gauge, [] + LINK,
        "ESTABLISHED connections of the link that a process that fits holds.";
    /// How many more it may have.
    UNATTRIBUTED = "vms.connection_mon.unattributed", "{connection}", Kind::Gauge, [] + LINK,
        "ESTABLISHED connections that fit by address, whose holder the agent was not permitted to learn.";
    /// Where the connections go.
    TRANSLATED = "vms.connection_mon.translated", "{connection}", Kind::Gauge,
        ["dest_translated_ip", "dest_translated_port"] + LINK,
        "Connections of the link by the endpoint to which its destination is translated (NAT), as of the last walk; no point where none is, or conntrack is not read.";
    /// By what that is known.
    ATTRIBUTION = "vms.connection_mon.attribution", "{connection}", Kind::Gauge, ["attribution"] + LINK,
        "Connections of the link by how it is known that a process that fits holds them: one was seen to (holder), or only such are left that could, by the cgroup in which the socket was made (cgroup) or its user (uid). Sent with `attribution: inferred`.";
    /// Why the link is down.
    DOWN_REASON = "vms.connection_mon.down_reason", "1", Kind::Gauge, ["reason"] + LINK,
        "1 for the reason why the link is down; no point while it is up.";
    /// How old is what only a walk can tell.
    WALK_AGE = "vms.connection_mon.walk.age", "s", Kind::Gauge, [] + LINK,
        "Time since the last walk over all sockets that covered the link: what a point tells beyond the connections that each cycle verifies is as of then.";
    /// How often connections were replaced.
    RECONNECTS = "vms.connection_mon.reconnects", "{connection}", Kind::Counter, [] + LINK,
        "Connections of the link that took the place of one that had ended.";
    /// How often segments were sent again.
    RETRANSMITS = "vms.connection_mon.retransmits", "{segment}", Kind::Counter, [] + LINK,
        "Segments that the link's connections sent again.";
    /// What was carried.
    IO = "vms.connection_mon.io", "By", Kind::Counter, ["network.io.direction"] + LINK,
        "Payload bytes that the link's connections sent (transmit, each byte once) and received (receive), as seen from this host.";
    /// How old the link is.
    CONNECTION_AGE = "vms.connection_mon.connection.age", "s", Kind::Gauge, [] + LINK,
        "Time since the agent first saw the oldest connection of the link.";
    /// How far the other end is.
    RTT = "vms.connection_mon.rtt", "s", Kind::Gauge, ["statistic"] + LINK,
        "Smoothed round-trip time of the link's connections: the least (min), the mean and the largest (max).";
    /// How long nothing came.
    LAST_DATA_AGE = "vms.connection_mon.last_data.age", "s", Kind::Gauge, [] + LINK,
        "Time since data last arrived on any of the link's connections.";
    /// How long nothing was acknowledged.
    LAST_ACKNOWLEDGMENT_AGE = "vms.connection_mon.last_ack.age", "s", Kind::Gauge, [] + LINK,
        "Time since an acknowledgment last arrived on any of the link's connections.";
    /// How long an answer is owed.
    ACKNOWLEDGMENT_WAIT = "vms.connection_mon.ack_wait", "s", Kind::Gauge, [] + LINK,
        "How long the peer has owed an acknowledgment, on the connection of the link that has waited longest; 0 while none waits. Where it grows, the peer is gone although the state is still ESTABLISHED.";
    /// What was sent and may be lost.
    UNACKNOWLEDGED = "vms.connection_mon.unacknowledged", "By", Kind::Gauge, [] + LINK,
        "Bytes that the link's connections have sent and the peer has not acknowledged.";
    /// What waits in the kernel.
    QUEUED = "vms.connection_mon.queued", "By", Kind::Gauge, ["network.io.direction"] + LINK,
        "Bytes of the link that wait in the kernel: to be sent (transmit), or to be read by the process (receive).";
    /// Whether there are enough sockets.
    WATCH_UP = "vms.connection.up", "1", Kind::Gauge, [] + WATCH,
        "1 when there are at least as many sockets as the watch expects, 0 when there are fewer.";
    /// How a watch stands.
    WATCH_STATUS = "vms.connection.status", "1", Kind::Gauge, ["state"] + WATCH,
        "1 for the state that the watch is in, and 0 for the others: down below minCount, warning above maxCount, else up.";
    /// How many sockets there are.
    WATCH_COUNT = "vms.connection.count", "{socket}", Kind::Gauge, ["network.type"] + WATCH,
        "Sockets that the watch is for. With `perFamily: true` by version of IP (ipv4 and ipv6); a socket that serves both is in both.";
    /// How many more there may be.
    WATCH_UNATTRIBUTED = "vms.connection.unattributed", "{socket}", Kind::Gauge, [] + WATCH,
        "Sockets that the watch would be for, whose holder the agent was not permitted to learn. Sent with `processName` or `processPath`.";
    /// What names mean.
    WATCH_RESOLVED = "vms.connection.resolved", "s", Kind::Gauge,
        ["name", "dns.question.name", "network.local.address", "network.peer.address"],
        "Time since a host name of the watch was found to have that address, which sockets have at this host's end (network.local.address) or at the other (network.peer.address). Sent where `localAddress` or `remoteAddress` has a name.";
    /// How processes stand.
    PROCESS_RUNNING = "vms.process_mon.running", "1", Kind::Gauge, ["name", "process_name", "state"],
        "1 for the state that the processes are in, and 0 for the others: down below minCount, warning above maxCount, else up.";
    /// How many processes there are.
    PROCESS_COUNT = "vms.process_mon.count", "{process}", Kind::Gauge, ["name", "process_name"],
        "Processes that fit.";
    /// How many more there may be.
    PROCESS_POSSIBLE = "vms.process_mon.possible", "{process}", Kind::Gauge, ["name", "process_name"],
        "Processes that might fit, of which the agent was not permitted to read all names.";
    /// What processes compute.
    PROCESSES_CPU_TIME = "vms.process_mon.cpu.time", "s", Kind::Counter, ["name", "process_name", "cpu.mode"],
        "CPU time that the processes that fit have used since the agent first saw them to fit, by mode: user or system. Sent with `resources: true`.";
    /// What processes hold.
    PROCESSES_MEMORY_USAGE = "vms.process_mon.memory.usage", "By", Kind::UpDownCounter, ["name", "process_name"],
        "Resident memory of the processes that fit; pages that several of them share are counted for each. Sent with `resources: true`.";
    /// What processes may address.
    PROCESSES_MEMORY_VIRTUAL = "vms.process_mon.memory.virtual", "By", Kind::UpDownCounter, ["name", "process_name"],
        "Virtual memory of the processes that fit: their address spaces, whether in use or not. Sent with `resources: true`.";
    /// Where processes listen.
    DISCOVERY_LISTENING = "vms.discovery.listening", "{socket}", Kind::Gauge,
        ["name", "process_name", "local_address", "local_port"],
        "Sockets with which a process listens there.";
    /// Whom processes are connected with.
    DISCOVERY_CONNECTIONS = "vms.discovery.connections", "{connection}", Kind::Gauge,
        ["name", "process_name", "dest_ip", "dest_port", "direction"],
        "ESTABLISHED connections of a process of this host with a service: forward to one elsewhere, reverse to one that the process is.";
    /// How many places there are where processes listen.
    DISCOVERY_ENDPOINTS = "vms.discovery.endpoints", "{endpoint}", Kind::Gauge, ["name"],
        "Endpoints at which processes listen, also those without a series.";
    /// How many edges there are.
    DISCOVERY_EDGES = "vms.discovery.edges", "{edge}", Kind::Gauge, ["name"],
        "Pairs of a process and a service that are connected, also those without a series.";
    /// What has no series.
    DISCOVERY_OMITTED = "vms.discovery.omitted", "{series}", Kind::Gauge, ["name"],
        "Endpoints and edges that have no series because there are more than maxSeries.";
    /// How many connections there are.
    DISCOVERY_ESTABLISHED = "vms.discovery.established", "{connection}", Kind::Gauge, ["name"],
        "ESTABLISHED connections of processes that fit, also of edges without a series.";
    /// What may not be known.
    DISCOVERY_UNATTRIBUTED = "vms.discovery.unattributed", "{socket}", Kind::Gauge, ["name"],
        "Sockets of which the agent was not permitted to learn who holds them: there may be more edges.";
    /// Which capability the agent lacks.
    PERMISSION_MISSING = "vms.agent.permission_missing", "1", Kind::Gauge, ["capability"],
        "1 while the absence of this capability keeps sockets from being attributed, or leaves open whether processes run that are too few, 0 once it no longer does.";
    /// How measurements ended.
    MEASUREMENTS = "vms.agent.measurements", "{measurement}", Kind::Counter, ["outcome"],
        "Measurements of probes by outcome: ok, permission_missing or failed.";
    /// How long looks take.
    CYCLE_DURATION = "vms.agent.cycle.duration", "s", Kind::Histogram(CYCLE_SECONDS), [],
        "Time that one look at the host took, for all probes due together.";
    /// Looks that began late.
    CYCLES_LATE = "vms.agent.cycles.late", "{cycle}", Kind::Counter, [],
        "Cycles that began later than 5 % of their interval after they were due.";
    /// Looks that never began.
    CYCLES_SKIPPED = "vms.agent.cycles.skipped", "{cycle}", Kind::Counter, [],
        "Cycles that fell due while an earlier one was still under way, and were left out.";
    /// Walks over all sockets.
    WALKS = "vms.agent.walks", "{walk}", Kind::Counter, ["reason"],
        "Walks over all sockets of the host, by what caused them: a probe that is new, a link that broke (broken), one not walked for long (bound), CPU time to spare (budget), connections that could not be looked up (unverified), or a probe that counts (count).";
    /// What walks cost.
    WALK_CPU_TIME = "vms.agent.walk.cpu.time", "s", Kind::Counter, [],
        "CPU time that walks have taken, with the search for the holders of what they found.";
    /// Connections looked up each cycle.
    TRACKED = "vms.agent.connections.tracked", "{connection}", Kind::UpDownCounter, [],
        "Connections that are looked up again each cycle.";
    /// Connections that are not.
    UNTRACKED = "vms.agent.connections.untracked", "{connection}", Kind::UpDownCounter, ["limit"],
        "Connections of links that are only seen by walks, because no more are tracked: beyond the limit of one probe, or of the agent.";
    /// Sources that nothing tells of.
    UNREPORTED = "vms.agent.sources.unreported", "{source}", Kind::UpDownCounter, [],
        "Sources that match or are unattributed, each by direction and container, and that no series tells of, because their probe has 1,000: as of its last walk.";
    /// Reloads of the configuration.
    CONFIG_RELOADS = "vms.agent.config.reloads", "{reload}", Kind::Counter, ["outcome"],
        "Reloads of the configuration by outcome: applied or refused.";
    /// Points whose export has ended.
    POINTS_EXPORTED = "otel.sdk.exporter.metric_data_point.exported", "{data_point}", Kind::Counter,
        ["otel.component.type", "error.type"],
        "Data points whose export has ended; with error.type those that were dropped, and why.";
    /// Points sent again.
    POINTS_RETRIED = "vms.agent.export.retried", "{data_point}", Kind::Counter, [],
        "Data points of requests that were sent again after a failure that may pass.";
    /// Points that wait.
    QUEUE_POINTS = "vms.agent.export.queue.points", "{data_point}", Kind::UpDownCounter, [],
        "Data points that wait in memory to be sent, and are not in the spool.";
    /// Bytes that wait.
    QUEUE_BYTES = "vms.agent.export.queue.size", "By", Kind::UpDownCounter, [],
        "Encoded bytes that wait in memory to be sent.";
    /// Requests on the disk.
    SPOOL_REQUESTS = "vms.agent.spool.requests", "{request}", Kind::UpDownCounter, [],
        "Requests in the spool, each of them synchronized to the disk.";
    /// Points on the disk.
    SPOOL_POINTS = "vms.agent.spool.points", "{data_point}", Kind::UpDownCounter, [],
        "Data points in the spool.";
    /// What the spool takes.
    SPOOL_BYTES = "vms.agent.spool.size", "By", Kind::UpDownCounter, [],
        "Bytes of the disk that the spool takes, whole blocks counted.";
    /// How long the spool goes back.
    SPOOL_AGE = "vms.agent.spool.oldest.age", "s", Kind::Gauge, [],
        "How long the oldest request in the spool has waited; 0 while it is empty.";
    /// Points that came from the disk.
    SPOOL_REPLAYED = "vms.agent.spool.replayed", "{data_point}", Kind::Counter, ["run"],
        "Data points that the collector took from the spool, by the run of the agent that wrote them: present or earlier. Of the earlier ones the collector may have had a few before, if that run was killed.";
    /// How old is what a scrape tells.
    SCRAPE_DATA_AGE = "vms.agent.scrape.data.age", "s", Kind::Gauge, ["statistic"],
        "Time since what a scrape tells of was measured: the newest of it (min) and the oldest (max). Only at the Prometheus endpoint, whose samples have no times of their own.";
    /// CPU time of the agent.
    PROCESS_CPU_TIME = "process.cpu.time", "s", Kind::Counter, ["cpu.mode"],
        "CPU time of the agent itself, by mode: user or system.";
    /// Memory of the agent.
    PROCESS_MEMORY_USAGE = "process.memory.usage", "By", Kind::UpDownCounter, [],
        "Resident memory of the agent itself.";
    /// Descriptors of the agent.
    PROCESS_FILE_DESCRIPTORS = "process.unix.file_descriptor.count", "{file_descriptor}", Kind::UpDownCounter, [],
        "File descriptors that the agent itself has open.";
}

#[cfg(test)]
mod tests;
