//! What was told last of each probe: written by the measuring thread, read by scrapes.
//!
//! Each cycle makes another [`Snapshot`], and puts it in the place of the last one by exchanging a pointer. So a scrape, however
//! slow, holds up no cycle, and sees the points of one cycle whole.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use vms_core::metric::{self, Attribute, AttributeSet, AttributeValue, DataPoint, Value};
use vms_core::probe::Probe;
use vms_export::exposition::{self, Beginning, Coding, Format, Names, Target};

/// For how long points are told beyond their interval, where nothing newer comes: two more intervals, within these bounds. A
/// cycle or two may be skipped; what is further behind is unknown. The upper bound is the time for which Prometheus itself
/// goes on with a series that is not told any more.
const LEAST_GRACE: Duration = Duration::from_secs(10);
const MOST_GRACE: Duration = Duration::from_mins(5);

/// The points of one probe, or of the agent, as of one cycle.
#[derive(Debug, Clone)]
struct Told {
    points: Arc<Vec<DataPoint>>,
    /// When they were measured.
    at: Duration,
    /// From when on they are not told any more.
    until: Duration,
}

/// All that a scrape tells.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    target: Arc<Target>,
    names: Names,
    told: Vec<Told>,
    /// What was written of it, so that scrapes by the hundred write it once. It goes when the snapshot does.
    /// Each form has one.
    written: Mutex<Vec<Written>>,
}

/// In which form a scrape is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) format: Format,
    pub(crate) coding: Coding,
}

/// What was written of a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    form: Form,
    /// All but the age of the data, and what stands at the end.
    beginning: Beginning,
    newest: Option<Duration>,
    oldest: Option<Duration>,
    /// From when on something in it is too old.
    until: Duration,
}

/// The present snapshot. The lock is held for as long as it takes to copy a pointer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Arc<Snapshot>>>);

/// Makes the snapshots, on the measuring thread.
#[derive(Debug)]
pub(crate) struct Recorder {
    shared: Shared,
    target: Arc<Target>,
    names: Names,
    /// How often the agent tells of itself.
    interval: Duration,
    /// In the order in which the monitor has them.
    probes: Vec<(Probe, Option<Told>)>,
    permissions: Option<Told>,
    own: Option<Told>,
    cycle: Taken,
}

/// What a cycle has told so far.
#[derive(Debug, Default)]
struct Taken {
    began: Duration,
    /// Of the probes that are due, by their places.
    probes: Vec<(usize, Vec<DataPoint>)>,
    /// Which of them the last point was of: points come probe by probe.
    last: usize,
    permissions: Vec<DataPoint>,
    own: Vec<DataPoint>,
}

impl Told {
    fn new(points: Vec<DataPoint>, at: Duration, interval: Duration) -> Self {
        let grace = interval.saturating_mul(2).clamp(LEAST_GRACE, MOST_GRACE);
        Self { points: Arc::new(points), at, until: at.saturating_add(interval).saturating_add(grace) }
    }
}

impl Snapshot {
    /// What was written of it before, where all of that may still be told.
    pub(crate) fn written(&self, form: Form, now: Duration) -> Option<Written> {
        self.kept().iter().find(|written| written.form == form && now < written.until).cloned()
    }

    /// Writes what may be told, and keeps it. This takes a while where there are many links.
    pub(crate) fn write(&self, form: Form, now: Duration) -> Written {
        let fresh: Vec<&Told> = self.told.iter().filter(|told| now < told.until).collect();
        let points = fresh.iter().map(|told| Arc::clone(&told.points)).collect();
        // It fails by nothing that points hold.
        let Form { format, coding } = form;
        let target = Some(Arc::clone(&self.target));
        let beginning = exposition::encode_beginning(format, coding, target, points, self.names)
            .unwrap_or_else(|_never| Beginning::empty(coding));
        let written = Written {
            form,
            beginning,
            // Where nothing is fresh, this says for how long nothing was.
            newest: self.told.iter().map(|told| told.at).max(),
            oldest: fresh.iter().map(|told| told.at).min(),
            until: fresh.iter().map(|told| told.until).min().unwrap_or(Duration::MAX),
        };
        let mut kept = self.kept();
        kept.retain(|former| former.form != form);
        kept.push(written.clone());
        drop(kept);
        written
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    /// The whole answer to a scrape, in pieces.
    pub(crate) fn answer(self, now: Duration, wall: std::time::SystemTime) -> [Bytes; 2] {
        let ages = [("min", self.newest), ("max", self.oldest)].into_iter().filter_map(|(statistic, at)| {
            Some(DataPoint {
                metric: &metric::SCRAPE_DATA_AGE,
                attributes: Arc::new(AttributeSet::new([Attribute::new("statistic", statistic)])),
                extra: None,
                time: wall,
                start: None,
                value: Value::Double(now.saturating_sub(at?).as_secs_f64()),
            })
        });
        let ages = vec![Arc::new(ages.collect())];
        let format = self.form.format;
        let mut end = exposition::encode(format, None, ages, Names::Own).unwrap_or_default();
        end.push_str(format.end());
        self.beginning.with_end(end)
    }
}

impl Shared {
    /// What there is to tell.
    pub(crate) fn present(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        let former = mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), snapshot);
        // After the lock, for it may be the last of it.
        drop(former);
    }
}

impl Recorder {
    /// One that has nothing to tell yet.
    pub(crate) fn new(shared: Shared) -> Self {
        Self {
            shared,
            target: Arc::default(),
            names: Names::Own,
            interval: Duration::ZERO,
            probes: Vec::new(),
            permissions: None,
            own: None,
            cycle: Taken::default(),
        }
    }

    /// Tells of another resource, or under other names, from now on.
    pub(crate) fn set_target(&mut self, target: Target, names: Names) {
        self.target = Arc::new(target);
        self.names = names;
        self.publish();
    }

    /// Goes on with these probes. What was told of others, or of one that is changed, is not told any more.
    pub(crate) fn set_probes(&mut self, probes: &[Probe], interval: Duration) {
        let mut known: HashMap<Arc<str>, (Probe, Option<Told>)> = mem::take(&mut self.probes)
            .into_iter()
            .map(|(probe, told)| (Arc::clone(probe.name()), (probe, told)))
            .collect();
        let told_of = |probe: &Probe| {
            let told =
                known.remove(probe.name()).and_then(|(former, told)| told.filter(|_| former == *probe));
            (probe.clone(), told)
        };
        self.probes = probes.iter().map(told_of).collect();
        self.interval = interval;
        self.publish();
    }

    /// Begins a cycle in which these probes are due, given by their places in rising order.
    pub(crate) fn begin_cycle(&mut self, due: &[usize], now: Duration) {
        let former = |index: usize| self.probes.get(index).and_then(|(_, told)| told.as_ref());
        let room = |index: usize| former(index).map_or(0, |told| told.points.len());
        let probes = due.iter().map(|index| (*index, Vec::with_capacity(room(*index)))).collect();
        self.cycle = Taken { began: now, probes, ..Taken::default() };
    }

    /// Takes points out of the list.
    pub(crate) fn take(&mut self, points: &mut Vec<DataPoint>) {
        for point in points.drain(..) {
            match point.attributes.first() {
                Some(Attribute { key: "name", value: AttributeValue::Str(name) }) => {
                    let Some(place) = self.cycle.find(name, &self.probes) else { continue };
                    if let Some((_, points)) = self.cycle.probes.get_mut(place) {
                        points.push(point);
                    }
                }
                _ if point.metric == &metric::PERMISSION_MISSING => self.cycle.permissions.push(point),
                _ => self.cycle.own.push(point),
            }
        }
    }

    /// Ends the cycle: what it told takes the place of what was told before. A probe that was due and has no point could not be
    /// measured, and is not told of any more.
    pub(crate) fn end_cycle(&mut self) {
        let Taken { began, probes, permissions, own, .. } = mem::take(&mut self.cycle);
        for (index, points) in probes {
            if let Some((probe, told)) = self.probes.get_mut(index) {
                *told = (!points.is_empty()).then(|| Told::new(points, began, probe.interval()));
            }
        }
        // Known as of the last cycle that could measure anything.
        if !permissions.is_empty() {
            let longest = self.probes.iter().map(|(probe, _)| probe.interval()).max().unwrap_or_default();
            self.permissions = Some(Told::new(permissions, began, longest));
        }
        if !own.is_empty() {
            self.own = Some(Told::new(own, began, self.interval));
        }
        self.publish();
    }

    fn publish(&self) {
        let told = self.probes.iter().filter_map(|(_, told)| told.as_ref());
        let told = told.chain(&self.permissions).chain(&self.own).cloned().collect();
        let (target, names) = (Arc::clone(&self.target), self.names);
        self.shared.replace(Snapshot { target, names, told, ..Snapshot::default() });
    }
}

impl Taken {
    /// The place, among those that are due, of the probe of that name.
    fn find(&mut self, name: &str, probes: &[(Probe, Option<Told>)]) -> Option<usize> {
        let is_of = |(index, _): &(usize, Vec<DataPoint>)| {
            probes.get(*index).is_some_and(|(probe, _)| **probe.name() == *name)
        };
        let ahead = self.probes.get(self.last..).unwrap_or_default();
        let found = ahead.iter().position(is_of).map(|ahead| self.last + ahead);
        self.last = found.or_else(|| self.probes.iter().position(is_of))?;
        Some(self.last)
    }
}

#[cfg(test)]
mod tests;
