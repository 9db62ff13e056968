//! The probe `process_mon`: how many processes run under a name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::look::LookError;
use crate::metric::{self, Attribute, AttributeSet, AttributeValue, DataPoint, Extra, Metric};
use crate::observer::{Bounds, Finding, Observer, Question, Seen, Status, Taken, Tally};
use crate::process::{Capability, PatternId, ProcessPattern, ProcessSelector};

/// Asks how many processes run: the probe `process_mon`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceProbe {
    /// Identifies the probe; unique among probes.
    pub name: Arc<str>,
    /// What the processes have to fit.
    pub process: ProcessPattern,
    /// How many are expected.
    pub bounds: Bounds,
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
}

impl Observer for Presence {
    fn adopt(&mut self, selector: &ProcessSelector) {
        self.pattern = selector.id(&self.probe.process);
    }

    fn ask(&self) -> Question {
        Question { counted: self.pattern.into_iter().collect(), ..Question::default() }
    }

    fn take_in(&mut self, seen: &Seen<'_>) -> Result<Taken, LookError> {
        let headcount = self.pattern.and_then(|pattern| seen.scan.headcounts.get(&pattern));
        let headcount = headcount.ok_or(LookError::CutShort)?;
        Ok(self.tally.take_in(headcount.fitting, headcount.possible, BTreeSet::new(), seen.is_second))
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
    }

    fn finding(&self) -> Option<Finding> {
        self.tally.finding()
    }

    fn unattributed(&self) -> u64 {
        self.tally.unattributed()
    }

    fn missing(&self) -> BTreeSet<Capability> {
        self.tally.missing()
    }
}
