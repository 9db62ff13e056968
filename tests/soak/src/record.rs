//! What the collector was given, in little room: the answers about links, and what the agent tells of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, metric::Data};
use vms_agent_tests::Fate;
use vms_agent_tests::deadline::unix_nanoseconds;

/// Clones are the same record.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Content>>);

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// For each link, when it was answered and how.
    pub(crate) answers: BTreeMap<usize, BTreeMap<u64, bool>>,
    /// Cycles of links that the collector refused for good.
    pub(crate) refused: BTreeSet<(usize, u64)>,
    /// Answers that came more than once.
    pub(crate) doubled: u64,
    /// Answers that came twice, and not the same.
    pub(crate) contradictory: u64,
    /// Points stored, by the second of their arrival.
    pub(crate) arrived: BTreeMap<u64, u64>,
    /// For each run of the agent, by its start, what it counted last.
    runs: BTreeMap<u64, BTreeMap<String, i64>>,
}

impl Record {
    /// What keeps requests here.
    pub(crate) fn keeper(&self) -> impl FnMut(Fate, ExportMetricsServiceRequest) + Send + use<> {
        let content = Arc::clone(&self.0);
        move |fate, request| {
            let mut content = content.lock().expect("nobody panics");
            for metric in request
                .resource_metrics
                .iter()
                .flat_map(|resource| &resource.scope_metrics)
                .flat_map(|scope| &scope.metrics)
            {
                content.take(fate, metric);
            }
        }
    }

    /// All of it.
    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("nobody panics")
    }
}

impl Content {
    /// The sum over all runs of what a counter of the agent's reached.
    pub(crate) fn counted(&self, metric: &str) -> u64 {
        let reached = self.runs.values().filter_map(|run| run.get(metric));
        reached.map(|count| u64::try_from(*count).unwrap_or_default()).sum()
    }

    /// What the agent dropped, by reason, over all runs.
    pub(crate) fn dropped(&self) -> BTreeMap<&str, i64> {
        let mut dropped = BTreeMap::new();
        for (reason, count) in self.runs.values().flatten() {
            if let Some(reason) = reason.strip_prefix("dropped ") {
                *dropped.entry(reason).or_default() += count;
            }
        }
        dropped
    }

    /// When the last answer about any link was measured.
    pub(crate) fn newest(&self) -> u64 {
        let last = self.answers.values().filter_map(|answers| answers.last_key_value());
        last.map(|(time, _)| *time).max().unwrap_or_default()
    }

    fn take(&mut self, fate: Fate, metric: &Metric) {
        let points: &[NumberDataPoint] = match &metric.data {
            Some(Data::Gauge(gauge)) => &gauge.data_points,
            Some(Data::Sum(sum)) => &sum.data_points,
            _ => &[],
        };
        if fate == Fate::Stored {
            let count = u64::try_from(points.len()).unwrap_or_default();
            *self.arrived.entry(unix_nanoseconds() / 1_000_000_000).or_default() += count;
        }
        for point in points {
            let Some(Value::AsInt(number)) = point.value else { continue };
            match metric.name.as_str() {
                "vms.connection_mon.up" => self.take_answer(fate, point, number == 1),
                "otel.sdk.exporter.metric_data_point.exported" => {
                    let name = match attribute(&point.attributes, "error.type") {
                        Some(reason) => format!("dropped {reason}"),
                        None => metric.name.clone(),
                    };
                    self.count(point, name, number);
                }
                "vms.agent.cycles.late" | "vms.agent.cycles.skipped" | "vms.agent.export.retried" => {
                    self.count(point, metric.name.clone(), number);
                }
                name if name.starts_with("vms.agent.spool") || name.starts_with("vms.agent.config") => {
                    let outcome = attribute(&point.attributes, "outcome").unwrap_or_default();
                    self.count(point, format!("{name} {outcome}").trim().to_owned(), number);
                }
                _ => {}
            }
        }
    }

    fn take_answer(&mut self, fate: Fate, point: &NumberDataPoint, up: bool) {
        let Some(link) = attribute(&point.attributes, "name").and_then(|name| parse_link(&name)) else {
            return;
        };
        let time = point.time_unix_nano;
        if fate == Fate::Refused {
            self.refused.insert((link, time));
        } else if let Some(before) = self.answers.entry(link).or_default().insert(time, up) {
            self.doubled += 1;
            self.contradictory += u64::from(before != up);
        }
    }

    fn count(&mut self, point: &NumberDataPoint, name: String, number: i64) {
        let counter = self.runs.entry(point.start_time_unix_nano).or_default().entry(name).or_default();
        *counter = number.max(*counter);
    }
}

/// The name of a link.
pub(crate) fn link_name(link: usize) -> String {
    format!("link-{link}")
}

fn parse_link(name: &str) -> Option<usize> {
    name.strip_prefix("link-")?.parse().ok()
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = &attributes.iter().find(|attribute| attribute.key == key)?.value;
    match value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}
