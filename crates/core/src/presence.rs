//! The probe `process_mon`: how many processes run under a name, and what they use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::look::LookError;
use crate::metric::{self, Attribute, AttributeSet, AttributeValue, DataPoint, Extra, Metric, Value};
use crate::observer::{Bounds, Finding, Observer, Question, Seen, Standing, Status, Taken, Tally};
use crate::process::{Capability, PatternId, ProcessPattern, ProcessSelector};
use crate::usage::{CpuTime, Meter};

/// Asks how many processes run: the probe `process_mon`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceProbe {
    /// Identifies the probe; unique among probes.
    pub name: Arc<str>,
    /// What the processes have to fit.
    pub process: ProcessPattern,
    /// How many are expected.
    pub bounds: Bounds,
    /// Whether it is told what they use.
    pub resources: bool,
    /// How often to look.
    pub interval: Duration,
}

/// A probe `process_mon`, and what was last counted.
#[derive(Debug)]
pub struct Presence {
    probe: Arc<PresenceProbe>,
    pattern: Option<PatternId>,
    attributes: Arc<AttributeSet>,
    tally: Tally,
    /// Where it is told what the processes use.
    meter: Option<Meter>,
    /// Since when that is added up.
    metered_since: Option<SystemTime>,
}

impl Presence {
    /// A probe of which nothing is known yet.
    #[must_use]
    pub fn new(probe: Arc<PresenceProbe>) -> Self {
        let attributes = [
            Attribute { key: "name", value: AttributeValue::Str(Arc::clone(&probe.name)) },
            Attribute::new("process_name", probe.process.name.as_str()),
        ];
        Self {
            pattern: None,
            attributes: Arc::new(AttributeSet::new(attributes)),
            tally: Tally::new(&probe.name, "processes", probe.bounds),
            meter: probe.resources.then(Meter::default),
            metered_since: None,
            probe,
        }
    }

    fn point(
        &self,
        metric: &'static Metric,
        extra: Option<Extra>,
        count: u64,
        time: SystemTime,
    ) -> DataPoint {
        DataPoint::count(metric, &self.attributes, extra, count, time)
    }

    /// Tells what the processes use, where the last look could.
    fn report_usage(&mut self, time: SystemTime, emit: &mut dyn FnMut(DataPoint)) {
        let Some((meter, present)) = self.meter.as_ref().and_then(|meter| Some((meter, meter.present()?)))
        else {
            return;
        };
        let start = Some(*self.metered_since.get_or_insert(time));
        let point = |metric, extra, value| DataPoint { start, value, ..self.point(metric, extra, 0, time) };
        let CpuTime { user, system } = meter.total();
        for (mode, used) in [("user", user), ("system", system)] {
            let extra = Some(Extra { key: "cpu.mode", value: mode });
            emit(point(&metric::PROCESSES_CPU_TIME, extra, Value::Double(used.as_secs_f64())));
        }
        let bytes = |bytes| Value::Int(i64::try_from(bytes).unwrap_or(i64::MAX));
        emit(point(&metric::PROCESSES_MEMORY_USAGE, None, bytes(present.resident_bytes)));
        emit(point(&metric::PROCESSES_MEMORY_VIRTUAL, None, bytes(present.virtual_bytes)));
    }
}

impl Observer for Presence {
    fn adopt(&mut self, selector: &ProcessSelector) {
        self.pattern = selector.id(&self.probe.process);
    }

    fn ask(&self) -> Question {
        Question {
            counted: self.pattern.into_iter().collect(),
            measured: self.pattern.into_iter().filter(|_| self.meter.is_some()).collect(),
            ..Question::default()
        }
    }

    fn take_in(&mut self, seen: &Seen<'_>) -> Result<Taken, LookError> {
        let headcount = self.pattern.and_then(|pattern| seen.scan.headcounts.get(&pattern));
        let headcount = headcount.ok_or(LookError::CutShort)?;
        // Those who might fit are most processes of an ordinary host where the agent lacks the capability. While enough fit for
        // certain, they leave nothing open on which a "down" depends.
        let is_open = headcount.possible > 0 && self.probe.bounds.status(headcount.fitting) == Status::Down;
        let missing = if is_open { seen.scan.nameless.clone() } else { BTreeSet::new() };
        let taken = self.tally.take_in(headcount.fitting, headcount.possible, missing, seen.is_second);
        if let Some(meter) = self.meter.as_mut().filter(|_| taken != Taken::Doubt) {
            let usages = self.pattern.and_then(|pattern| seen.scan.usages.get(&pattern));
            meter.take_in(usages.map(Vec::as_slice), seen.began);
        }
        Ok(taken)
    }

    fn report(&mut self, time: SystemTime, emit: &mut dyn FnMut(DataPoint)) {
        let Some(standing) = self.tally.standing() else { return };
        for status in Status::ALL {
            let extra = Some(Extra { key: "state", value: status.as_str() });
            let is = u64::from(standing.status == status);
            emit(self.point(&metric::PROCESS_RUNNING, extra, is, time));
        }
        emit(self.point(&metric::PROCESS_COUNT, None, standing.count, time));
        emit(self.point(&metric::PROCESS_POSSIBLE, None, standing.unattributed, time));
        self.report_usage(time, emit);
    }

    fn finding(&self) -> Option<Finding> {
        let usage = self.meter.as_ref().and_then(Meter::present);
        let standing = self.tally.standing()?.clone();
        Some(Finding::Standing(Standing { usage, ..standing }))
    }

    fn unattributed(&self) -> u64 {
        self.tally.unattributed()
    }

    fn missing(&self) -> BTreeSet<Capability> {
        self.tally.missing()
    }
}
