//! A link over time: which series it has, when its status changed, what its data points are.
//!
//! A probe that never matched has one series, without a direction. Once it has matched in a direction, that
//! series goes on, at 0 while the link is down: a series that ends would leave an alert nothing to fire on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::connection::{Connection, Direction};
use crate::look::{DirectionLook, DownReason, MatchedConnection, ProbeLook};
use crate::metric::{self, Attribute, AttributeSet, AttributeValue, DataPoint, Extra, Metric, Value};
use crate::probe::{ConnectionProbe, MatchedSourceLabels};
use crate::process::Process;

/// Series that one probe may have for the sources that matched. Beyond it, the one that has been down for longest
/// makes room; while none is down, further sources get no series.
pub const MAX_SOURCES: usize = 1_000;

/// The source by which series of one probe are told apart, as far as `matchedSourceLabels` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MatchedSource {
    /// The address, where none is configured.
    pub ip: Option<IpAddr>,
    /// The port, where none is configured.
    pub port: Option<u16>,
}

/// A change of a link's status, told once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkChange {
    /// The probe.
    pub probe: Arc<ConnectionProbe>,
    /// The direction; `None` while the probe never matched.
    pub direction: Option<Direction>,
    /// The source, where series are told apart by it.
    pub source: MatchedSource,
    /// Whether the link is up now.
    pub up: bool,
    /// Why it is down.
    pub reason: Option<DownReason>,
    /// The connections that match.
    pub connections: u64,
    /// The owners of the connections: the present ones, or when it went down the last ones.
    pub owners: Vec<Arc<Process>>,
}

/// A probe and what is remembered of it from look to look.
#[derive(Debug)]
pub struct Link {
    probe: Arc<ConnectionProbe>,
    undirected: Option<Series>,
    series: BTreeMap<SeriesKey, Series>,
    /// Series that have not matched and were flagged as unattributed: told to be 0 when they no longer are.
    flagged: BTreeMap<SeriesKey, Arc<AttributeSet>>,
}

/// What tells the series of one probe apart.
type SeriesKey = (Direction, MatchedSource);

#[derive(Debug)]
struct Series {
    attributes: Arc<AttributeSet>,
    up: Option<bool>,
    owners: Vec<Arc<Process>>,
    down_since: Option<SystemTime>,
}

/// What one series has at one look.
struct Finding {
    up: bool,
    connections: u64,
    unattributed: u64,
    reason: Option<DownReason>,
    owners: Vec<Arc<Process>>,
}

impl Link {
    /// A link of which nothing is known yet.
    #[must_use]
    pub fn new(probe: Arc<ConnectionProbe>) -> Self {
        Self { probe, undirected: None, series: BTreeMap::new(), flagged: BTreeMap::new() }
    }

    /// The probe.
    #[must_use]
    pub fn probe(&self) -> &Arc<ConnectionProbe> {
        &self.probe
    }

    /// The same link under a probe that asks the same, whatever its interval; `None` when it asks anything else.
    #[must_use]
    pub fn with_probe(self, probe: &Arc<ConnectionProbe>) -> Option<Self> {
        let same = ConnectionProbe { interval: self.probe.interval, ..probe.as_ref().clone() } == *self.probe;
        same.then(|| Self { probe: Arc::clone(probe), ..self })
    }

    /// Whether the link has ever matched in that direction, so that its series goes on.
    #[must_use]
    pub fn has_matched(&self, direction: Direction) -> bool {
        self.series.keys().any(|(known, _)| *known == direction)
    }

    /// Whether the look, if it is believed, takes a series down that was up: worth a second look.
    #[must_use]
    pub fn would_go_down(&self, look: &ProbeLook) -> bool {
        self.series.iter().any(|((direction, source), series)| {
            series.up == Some(true)
                && !look
                    .direction(*direction)
                    .matched
                    .iter()
                    .any(|matched| MatchedSource::of(&self.probe, &matched.connection, *direction) == *source)
        })
    }

    /// Takes in what a look found; adds the data points, and the changes of status.
    pub fn update(
        &mut self,
        look: &ProbeLook,
        time: SystemTime,
        points: &mut Vec<DataPoint>,
        changes: &mut Vec<LinkChange>,
    ) {
        let matching: BTreeSet<SeriesKey> = Direction::ALL
            .into_iter()
            .flat_map(|way| look.direction(way).matched.iter().map(move |matched| (way, &matched.connection)))
            .map(|(way, connection)| (way, MatchedSource::of(&self.probe, connection, way)))
            .collect();
        for key in &matching {
            self.admit(*key, &matching);
        }
        if self.series.is_empty() {
            self.update_undirected(&look.undirected(), time, points, changes);
            return;
        }
        self.undirected = None;
        for direction in Direction::ALL {
            self.update_direction(look.direction(direction), direction, time, points, changes);
        }
    }

    fn update_undirected(
        &mut self,
        look: &DirectionLook,
        time: SystemTime,
        points: &mut Vec<DataPoint>,
        changes: &mut Vec<LinkChange>,
    ) {
        let probe = &self.probe;
        let series = self
            .undirected
            .get_or_insert_with(|| Series::new(link_attributes(probe, None, MatchedSource::default())));
        let finding = Finding {
            up: false,
            connections: 0,
            unattributed: count(&look.unattributed),
            reason: look.down_reason(),
            owners: Vec::new(),
        };
        series.push_points(&finding, time, points);
        if series.take_in(&finding, time) {
            changes.push(finding.into_change(probe, None, MatchedSource::default(), &[]));
        }
    }

    fn update_direction(
        &mut self,
        look: &DirectionLook,
        direction: Direction,
        time: SystemTime,
        points: &mut Vec<DataPoint>,
        changes: &mut Vec<LinkChange>,
    ) {
        let mut matched: BTreeMap<MatchedSource, Vec<&MatchedConnection>> = BTreeMap::new();
        for connection in &look.matched {
            matched
                .entry(MatchedSource::of(&self.probe, &connection.connection, direction))
                .or_default()
                .push(connection);
        }
        let mut unattributed: BTreeMap<MatchedSource, u64> = BTreeMap::new();
        for connection in &look.unattributed {
            *unattributed.entry(MatchedSource::of(&self.probe, connection, direction)).or_default() += 1;
        }
        let labels_sources = self.probe.matched_source_labels != MatchedSourceLabels::None;
        for ((_, source), series) in self.series.iter_mut().filter(|((known, _), _)| *known == direction) {
            let connections = matched.remove(source).unwrap_or_default();
            let unattributed = unattributed.remove(source).unwrap_or_default();
            let up = !connections.is_empty();
            let reason = match look.down_reason() {
                _ if up => None,
                _ if unattributed > 0 => Some(DownReason::NotPermitted),
                // Of one source among several, the other reasons may be another's.
                Some(reason) if !labels_sources || reason == DownReason::ProcessAbsent => Some(reason),
                _ => Some(DownReason::NoConnection),
            };
            let finding = Finding {
                up,
                connections: count(&connections),
                unattributed,
                reason,
                owners: distinct_owners(&connections),
            };
            series.push_points(&finding, time, points);
            let last_owners = std::mem::take(&mut series.owners);
            if series.take_in(&finding, time) {
                changes.push(finding.into_change(&self.probe, Some(direction), *source, &last_owners));
            } else if !finding.up {
                series.owners = last_owners;
            }
        }
        self.flag(direction, unattributed, time, points);
    }

    /// What fits by address and may not be attributed is told even where nothing has matched yet, and then that it is
    /// over.
    fn flag(
        &mut self,
        direction: Direction,
        mut unattributed: BTreeMap<MatchedSource, u64>,
        time: SystemTime,
        points: &mut Vec<DataPoint>,
    ) {
        for source in unattributed.keys() {
            if self.flagged.len() < MAX_SOURCES {
                self.flagged
                    .entry((direction, *source))
                    .or_insert_with(|| link_attributes(&self.probe, Some(direction), *source));
            }
        }
        // Once a series has matched, its own points tell.
        let series = &self.series;
        self.flagged.retain(|key, _| !series.contains_key(key));
        for ((_, source), attributes) in self.flagged.iter().filter(|((known, _), _)| *known == direction) {
            points.push(DataPoint {
                metric: &metric::UNATTRIBUTED,
                attributes: Arc::clone(attributes),
                extra: None,
                time,
                start: None,
                value: int(unattributed.remove(source).unwrap_or(0)),
            });
        }
    }

    /// Gives what matches a series. Room is made by the one that has been down for longest and does not match now.
    fn admit(&mut self, key: SeriesKey, matching: &BTreeSet<SeriesKey>) {
        if self.series.contains_key(&key) {
            return;
        }
        if self.series.len() >= MAX_SOURCES {
            let longest_down = self
                .series
                .iter()
                .filter(|(known, _)| !matching.contains(known))
                .filter_map(|(known, series)| series.down_since.map(|since| (since, *known)))
                .min();
            match longest_down {
                Some((_, known)) => self.series.remove(&known),
                None => return,
            };
        }
        let attributes = link_attributes(&self.probe, Some(key.0), key.1);
        self.series.insert(key, Series::new(attributes));
    }
}

impl MatchedSource {
    /// The source of a connection that fits the probe in that direction, as far as the probe asks to tell it.
    #[must_use]
    pub fn of(probe: &ConnectionProbe, connection: &Connection, direction: Direction) -> Self {
        let end = connection.source_end(direction);
        let (ip, port) = match probe.matched_source_labels {
            MatchedSourceLabels::None => (false, false),
            MatchedSourceLabels::Ip => (true, false),
            MatchedSourceLabels::IpPort => (true, true),
        };
        Self {
            ip: (ip && probe.source_ip.is_none()).then(|| end.ip()),
            port: (port && probe.source_port.is_none()).then(|| end.port()),
        }
    }
}

impl Series {
    fn new(attributes: Arc<AttributeSet>) -> Self {
        Self { attributes, up: None, owners: Vec::new(), down_since: None }
    }

    /// Remembers the finding; true when the status has changed, or is known for the first time.
    fn take_in(&mut self, finding: &Finding, time: SystemTime) -> bool {
        let changed = self.up != Some(finding.up);
        self.up = Some(finding.up);
        self.owners.clone_from(&finding.owners);
        if finding.up {
            self.down_since = None;
        } else {
            self.down_since.get_or_insert(time);
        }
        changed
    }

    fn push_points(&self, finding: &Finding, time: SystemTime, points: &mut Vec<DataPoint>) {
        let mut push = |metric: &'static Metric, extra: Option<Extra>, value: Value| {
            let attributes = Arc::clone(&self.attributes);
            points.push(DataPoint { metric, attributes, extra, time, start: None, value });
        };
        let flag = |set: bool| Value::Int(set.into());
        push(&metric::UP, None, flag(finding.up));
        push(&metric::STATUS, Some(Extra { key: "state", value: "up" }), flag(finding.up));
        push(&metric::STATUS, Some(Extra { key: "state", value: "down" }), flag(!finding.up));
        push(&metric::CONNECTIONS, None, int(finding.connections));
        push(&metric::UNATTRIBUTED, None, int(finding.unattributed));
        if let Some(reason) = finding.reason {
            push(&metric::DOWN_REASON, Some(Extra { key: "reason", value: reason.as_str() }), flag(true));
        }
    }
}

impl Finding {
    fn into_change(
        self,
        probe: &Arc<ConnectionProbe>,
        direction: Option<Direction>,
        source: MatchedSource,
        last_owners: &[Arc<Process>],
    ) -> LinkChange {
        LinkChange {
            probe: Arc::clone(probe),
            direction,
            source,
            up: self.up,
            reason: self.reason,
            connections: self.connections,
            owners: if self.up { self.owners } else { last_owners.to_vec() },
        }
    }
}

/// The attributes of a link's points, in the order of the reference.
fn link_attributes(
    probe: &ConnectionProbe,
    direction: Option<Direction>,
    source: MatchedSource,
) -> Arc<AttributeSet> {
    let pattern = probe.process(direction.unwrap_or(Direction::Forward));
    let text = |text: String| AttributeValue::Str(text.into());
    let source_ip = probe.source_ip.as_ref().map(ToString::to_string);
    let source_ip = source_ip.or_else(|| source.ip.map(|ip| ip.to_string()));
    let mut attributes = vec![
        Attribute { key: "name", value: AttributeValue::Str(Arc::clone(&probe.name)) },
        Attribute { key: "dest_ip", value: text(probe.dest_ip.to_string()) },
        Attribute::new("dest_port", probe.dest_port),
        Attribute::new("proto", "tcp"),
        Attribute::new("process_name", pattern.name.as_str()),
    ];
    attributes.extend(source_ip.map(|ip| Attribute { key: "source_ip", value: text(ip) }));
    let source_port = probe.source_port.or(source.port);
    attributes.extend(source_port.map(|port| Attribute::new("source_port", port)));
    attributes.extend(direction.map(|direction| Attribute::new("direction", direction.as_str())));
    Arc::new(AttributeSet::new(attributes))
}

fn distinct_owners(connections: &[&MatchedConnection]) -> Vec<Arc<Process>> {
    let mut owners: Vec<Arc<Process>> = Vec::new();
    for owner in connections.iter().flat_map(|connection| &connection.owners) {
        if !owners.iter().any(|known| known.pid == owner.pid) {
            owners.push(Arc::clone(owner));
        }
    }
    owners
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

fn int(count: u64) -> Value {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
