//! The probe `connection`: how many sockets there are of a kind, in given states, between given endpoints, held by given
//! processes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::look::{Holding, LookError, match_holders};
use crate::metric::{self, Attribute, AttributeSet, AttributeValue, DataPoint, Extra, Metric};
use crate::observer::{Bounds, Finding, Number, Observer, Question, Seen, Status, Taken, Tally};
use crate::process::{Capability, PatternId, ProcessPattern, ProcessSelector};
use crate::socket::SocketClause;

/// Asks how many sockets there are: the probe `connection`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchProbe {
    /// Identifies the watch; unique among probes.
    pub name: Arc<str>,
    /// Where set, only sockets count that a process holds which fits.
    pub process: Option<ProcessPattern>,
    /// Which sockets count.
    pub clause: SocketClause,
    /// How many are expected.
    pub bounds: Bounds,
    /// Whether what is counted is also told by version of IP.
    pub by_family: bool,
    /// How often to look.
    pub interval: Duration,
    /// What its points say of what is configured, beside `name`: keys of [`metric::WATCH_ATTRIBUTES`] and texts.
    pub labels: Vec<(&'static str, Arc<str>)>,
}

/// A probe `connection`, and what was last counted.
#[derive(Debug)]
pub struct Watch {
    probe: Arc<WatchProbe>,
    pattern: Option<PatternId>,
    attributes: Arc<AttributeSet>,
    tally: Tally,
    /// What was counted, IPv4 and IPv6. What serves both is in both.
    by_family: [u64; 2],
}

impl Watch {
    /// A watch of which nothing is known yet.
    #[must_use]
    pub fn new(probe: Arc<WatchProbe>) -> Self {
        let name = Attribute { key: "name", value: AttributeValue::Str(Arc::clone(&probe.name)) };
        let label = |(key, text): &(&'static str, Arc<str>)| Attribute {
            key,
            value: AttributeValue::Str(Arc::clone(text)),
        };
        let attributes: Vec<Attribute> = [name].into_iter().chain(probe.labels.iter().map(label)).collect();
        Self {
            pattern: None,
            attributes: Arc::new(AttributeSet::new(attributes)),
            tally: Tally::new(&probe.name, "sockets", probe.bounds),
            by_family: [0; 2],
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

impl Observer for Watch {
    fn adopt(&mut self, selector: &ProcessSelector) {
        self.pattern = self.probe.process.as_ref().and_then(|pattern| selector.id(pattern));
    }

    fn clauses(&self) -> Vec<SocketClause> {
        vec![self.probe.clause.clone()]
    }

    fn ask(&self) -> Question {
        Question { holders: self.pattern.into_iter().collect(), ..Question::default() }
    }

    fn take_in(&mut self, seen: &Seen<'_>) -> Result<Taken, LookError> {
        let (mut number, mut unattributed, mut missing) = (seen.number, 0, BTreeSet::new());
        if let Some(pattern) = self.pattern {
            seen.require_sight(pattern)?;
            number = Number::default();
            for socket in seen.sockets {
                match match_holders(&socket.connection, pattern, seen.scan) {
                    Holding::Fits(_) => number.add(socket.families),
                    Holding::Other => {}
                    Holding::Undecided => return Err(LookError::CutShort),
                    Holding::Unknown(capabilities) => {
                        unattributed += 1;
                        missing.extend(capabilities);
                    }
                }
            }
        }
        let taken = self.tally.take_in(number.all, unattributed, missing, seen.is_second);
        if taken != Taken::Doubt {
            self.by_family = [number.ipv4, number.ipv6];
        }
        Ok(taken)
    }

    fn report(&mut self, time: SystemTime, emit: &mut dyn FnMut(DataPoint)) {
        let Some(standing) = self.tally.standing() else { return };
        let is = |status| u64::from(standing.status == status);
        emit(self.point(&metric::WATCH_UP, None, u64::from(standing.status != Status::Down), time));
        for status in Status::ALL {
            let extra = Some(Extra { key: "state", value: status.as_str() });
            emit(self.point(&metric::WATCH_STATUS, extra, is(status), time));
        }
        if self.probe.by_family {
            for (family, count) in ["ipv4", "ipv6"].into_iter().zip(self.by_family) {
                let extra = Some(Extra { key: "network.type", value: family });
                emit(self.point(&metric::WATCH_COUNT, extra, count, time));
            }
        } else {
            emit(self.point(&metric::WATCH_COUNT, None, standing.count, time));
        }
        if self.pattern.is_some() {
            emit(self.point(&metric::WATCH_UNATTRIBUTED, None, standing.unattributed, time));
        }
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
