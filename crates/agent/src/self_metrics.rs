//! What the agent tells of itself, beside the links.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vms_core::metric::{self, Attribute, AttributeSet, DataPoint, Histogram, Kind, Metric, Value};
use vms_core::monitor::{Effort, Outcomes, WalkReason};
use vms_export::SpoolStats;

/// What is counted since the start.
#[derive(Debug)]
pub(crate) struct SelfMetrics {
    start: SystemTime,
    cycle_duration: Histogram,
    cycles_late: u64,
    cycles_skipped: u64,
    reloads_applied: u64,
    reloads_refused: u64,
}

/// What the process of the agent has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// CPU time in user mode.
    pub(crate) user: Duration,
    /// CPU time in the kernel.
    pub(crate) system: Duration,
    /// Resident memory.
    pub(crate) resident_bytes: u64,
    /// Open file descriptors.
    pub(crate) file_descriptors: u64,
}

/// What has become of data points on their way to the collector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ExportCounts {
    /// The exporter, as the convention on `otel.component.type` names it.
    pub(crate) component: &'static str,
    /// Accepted by the collector.
    pub(crate) sent: u64,
    /// Given up, by reason.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// Sent again.
    pub(crate) retried: u64,
    /// Waiting.
    pub(crate) waiting_points: u64,
    /// Waiting, encoded.
    pub(crate) waiting_bytes: u64,
    /// What waits on the disk, where there is a spool.
    pub(crate) spool: Option<SpoolStats>,
}

impl SelfMetrics {
    /// Counts from `start` on.
    pub(crate) fn new(start: SystemTime) -> Self {
        Self {
            start,
            cycle_duration: Histogram::new(bounds(&metric::CYCLE_DURATION)),
            cycles_late: 0,
            cycles_skipped: 0,
            reloads_applied: 0,
            reloads_refused: 0,
        }
    }

    /// Counts a cycle.
    pub(crate) fn count_cycle(&mut self, took: Duration, late: bool, skipped: u64) {
        self.cycle_duration.record(bounds(&metric::CYCLE_DURATION), took.as_secs_f64());
        self.cycles_late += u64::from(late);
        self.cycles_skipped += skipped;
    }

    /// Counts a reload of the configuration.
    pub(crate) fn count_reload(&mut self, applied: bool) {
        *(if applied { &mut self.reloads_applied } else { &mut self.reloads_refused }) += 1;
    }

    /// All of it as data points of this moment.
    pub(crate) fn points(
        &self,
        time: SystemTime,
        outcomes: Outcomes,
        effort: &Effort,
        export: &ExportCounts,
        usage: Option<Usage>,
    ) -> Vec<DataPoint> {
        let mut points = Points { time, start: self.start, list: Vec::new() };
        for (outcome, count) in [
            ("ok", outcomes.ok),
            ("permission_missing", outcomes.permission_missing),
            ("failed", outcomes.failed),
        ] {
            points.push(&metric::MEASUREMENTS, [Attribute::new("outcome", outcome)], int(count));
        }
        points.push(&metric::CYCLE_DURATION, [], Value::Histogram(self.cycle_duration.clone()));
        points.push(&metric::CYCLES_LATE, [], int(self.cycles_late));
        points.push(&metric::CYCLES_SKIPPED, [], int(self.cycles_skipped));
        for reason in WalkReason::ALL {
            let count = effort.walks.get(&reason).copied().unwrap_or_default();
            points.push(&metric::WALKS, [Attribute::new("reason", reason.as_str())], int(count));
        }
        points.push(&metric::WALK_CPU_TIME, [], Value::Double(effort.walk_cpu.as_secs_f64()));
        points.push(&metric::TRACKED, [], int(effort.tracked));
        for (limit, count) in [("probe", effort.untracked.by_probe), ("agent", effort.untracked.by_agent)] {
            points.push(&metric::UNTRACKED, [Attribute::new("limit", limit)], int(count));
        }
        points.push(&metric::UNREPORTED, [], int(effort.unreported));
        for (outcome, count) in [("applied", self.reloads_applied), ("refused", self.reloads_refused)] {
            points.push(&metric::CONFIG_RELOADS, [Attribute::new("outcome", outcome)], int(count));
        }
        push_export(export, &mut points);
        if let Some(usage) = usage {
            for (mode, time) in [("user", usage.user), ("system", usage.system)] {
                let mode = Attribute::new("cpu.mode", mode);
                points.push(&metric::PROCESS_CPU_TIME, [mode], Value::Double(time.as_secs_f64()));
            }
            points.push(&metric::PROCESS_MEMORY_USAGE, [], int(usage.resident_bytes));
            points.push(&metric::PROCESS_FILE_DESCRIPTORS, [], int(usage.file_descriptors));
        }
        points.list
    }
}

/// Only of an exporter: without one there is nothing to count.
fn push_export(export: &ExportCounts, points: &mut Points) {
    if export.component.is_empty() {
        return;
    }
    let component = || Attribute::new("otel.component.type", export.component);
    points.push(&metric::POINTS_EXPORTED, [component()], int(export.sent));
    for (reason, count) in &export.dropped {
        let reason = Attribute::new("error.type", reason.as_str());
        points.push(&metric::POINTS_EXPORTED, [component(), reason], int(*count));
    }
    points.push(&metric::POINTS_RETRIED, [], int(export.retried));
    points.push(&metric::QUEUE_POINTS, [], int(export.waiting_points));
    points.push(&metric::QUEUE_BYTES, [], int(export.waiting_bytes));
    if let Some(spool) = &export.spool {
        points.push(&metric::SPOOL_REQUESTS, [], int(spool.requests));
        points.push(&metric::SPOOL_POINTS, [], int(spool.points));
        points.push(&metric::SPOOL_BYTES, [], int(spool.disk_bytes));
        points.push(&metric::SPOOL_AGE, [], Value::Double(spool.oldest_age.as_secs_f64()));
        for (run, replayed) in
            [("present", spool.replayed_points), ("earlier", spool.replayed_earlier_points)]
        {
            points.push(&metric::SPOOL_REPLAYED, [Attribute::new("run", run)], int(replayed));
        }
    }
}

/// Reads what this process has used, or `None` where /proc does not tell.
pub(crate) fn read_usage() -> Option<Usage> {
    let process = procfs::process::Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let ticks = |ticks: u64| Duration::from_millis(ticks * 1000 / procfs::ticks_per_second());
    Some(Usage {
        user: ticks(stat.utime),
        system: ticks(stat.stime),
        resident_bytes: stat.rss * procfs::page_size(),
        file_descriptors: u64::try_from(process.fd_count().ok()?).unwrap_or(u64::MAX),
    })
}

struct Points {
    time: SystemTime,
    start: SystemTime,
    list: Vec<DataPoint>,
}

impl Points {
    fn push<const N: usize>(&mut self, metric: &'static Metric, attributes: [Attribute; N], value: Value) {
        self.list.push(DataPoint {
            metric,
            attributes: Arc::new(AttributeSet::new(attributes)),
            extra: None,
            time: self.time,
            start: (metric.kind != Kind::Gauge).then_some(self.start),
            value,
        });
    }
}

fn bounds(metric: &Metric) -> &'static [f64] {
    match metric.kind {
        Kind::Histogram(bounds) => bounds,
        Kind::Gauge | Kind::Counter | Kind::UpDownCounter => &[],
    }
}

fn int(count: u64) -> Value {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
