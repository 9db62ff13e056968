//! All probes over time: what is measured when they fall due, and what is told of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::adapter::{Clock, ConnAdapter, ProcessAdapter};
use crate::connection::{Cookie, Direction};
use crate::link::{Link, LinkChange};
use crate::look::{LookError, LookPlan, PlannedProbe, ProbeLook};
use crate::metric::{self, Attribute, AttributeSet, DataPoint, Value};
use crate::probe::ConnectionProbe;
use crate::process::{Capability, ProcessSelector, SelectorBuilder, SelectorError};

/// Plans kept for sets of probes that fall due together; more sets than that are planned anew each time.
const MAX_PLANS: usize = 64;

/// How often a link that seems to have gone down is looked for again. Twice is enough unless its connections are
/// being replaced all the while.
const SECOND_LOOKS: usize = 4;

/// How the measurements of probes ended, counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The answer can be trusted.
    pub ok: u64,
    /// A connection could not be attributed for want of a capability.
    pub permission_missing: u64,
    /// There is no answer.
    pub failed: u64,
}

/// What one cycle brought.
#[derive(Debug, Default)]
pub struct Cycle {
    /// The points of all probes measured.
    pub points: Vec<DataPoint>,
    /// The links whose status changed.
    pub changes: Vec<LinkChange>,
    /// Why probes were not measured, and which.
    pub failure: Option<Failure>,
    /// The capabilities that began to be missed, and that no longer are.
    pub permissions: Vec<PermissionChange>,
    /// How long it took.
    pub took: Duration,
}

/// Probes that have no answer in this cycle, and so no points.
#[derive(Debug)]
pub struct Failure {
    /// Their names.
    pub probes: Vec<Arc<str>>,
    /// Why.
    pub error: LookError,
}

/// A capability whose absence began, or ceased, to keep sockets from being attributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PermissionChange {
    /// The capability.
    pub capability: Capability,
    /// Whether it is missed now.
    pub missing: bool,
}

/// The probes, what is remembered of their links, and the edges through which the host is seen.
#[derive(Debug)]
pub struct Monitor<C, P, K> {
    connections: C,
    processes: P,
    clock: K,
    planned: Vec<PlannedProbe>,
    links: Vec<Link>,
    missing: Vec<BTreeSet<Capability>>,
    permissions: BTreeMap<Capability, bool>,
    selector: Arc<ProcessSelector>,
    plans: HashMap<Vec<usize>, Arc<LookPlan>>,
    outcomes: Outcomes,
}

impl<C: ConnAdapter, P: ProcessAdapter, K: Clock> Monitor<C, P, K> {
    /// A monitor of these probes.
    ///
    /// # Errors
    /// When the process patterns, each valid, are too many for the matcher.
    pub fn new(
        connections: C,
        processes: P,
        clock: K,
        probes: Vec<ConnectionProbe>,
    ) -> Result<Self, SelectorError> {
        let mut monitor = Self {
            connections,
            processes,
            clock,
            planned: Vec::new(),
            links: Vec::new(),
            missing: Vec::new(),
            permissions: BTreeMap::new(),
            selector: Arc::default(),
            plans: HashMap::new(),
            outcomes: Outcomes::default(),
        };
        monitor.replace_probes(probes)?;
        Ok(monitor)
    }

    /// Puts these probes in force. What is remembered of a probe that is the same but for its interval is kept.
    ///
    /// # Errors
    /// As [`Monitor::new`]; then the old probes stay in force.
    pub fn replace_probes(&mut self, probes: Vec<ConnectionProbe>) -> Result<(), SelectorError> {
        let mut patterns = SelectorBuilder::default();
        let planned: Vec<PlannedProbe> =
            probes.into_iter().map(|probe| PlannedProbe::new(Arc::new(probe), &mut patterns)).collect();
        self.selector = Arc::new(patterns.build()?);
        self.plans.clear();
        let mut known: HashMap<Arc<str>, (Link, BTreeSet<Capability>)> = self
            .links
            .drain(..)
            .zip(self.missing.drain(..))
            .map(|(link, missing)| (Arc::clone(&link.probe().name), (link, missing)))
            .collect();
        for planned in &planned {
            let probe = planned.probe();
            let (link, missing) = known
                .remove(&probe.name)
                .and_then(|(link, missing)| Some((link.with_probe(probe)?, missing)))
                .unwrap_or_else(|| (Link::new(Arc::clone(probe)), BTreeSet::new()));
            self.links.push(link);
            self.missing.push(missing);
        }
        self.planned = planned;
        Ok(())
    }

    /// Puts another source of processes in force.
    pub fn replace_processes(&mut self, processes: P) {
        self.processes = processes;
    }

    /// How measurements ended so far.
    #[must_use]
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes
    }

    /// Measures the probes that are due, given by their places.
    ///
    /// A link that was up and is not found is looked for again before it is reported down: a connection that is
    /// replaced while the kernel walks its table can be missed by one walk, and one that is closed between the walk and
    /// the search for its holder has none.
    pub fn measure(&mut self, due: &[usize]) -> Cycle {
        let began = self.clock.monotonic();
        let time = self.clock.wall();
        let mut cycle = Cycle::default();
        match self.look(due, false) {
            Ok(looks) => self.take_in(due, looks, time, &mut cycle),
            Err(error) => self.fail(due, error, &mut cycle),
        }
        // Where nothing was measured, nothing is known of permissions either.
        if !cycle.points.is_empty() {
            self.tell_permissions(time, &mut cycle);
        }
        cycle.took = self.clock.monotonic().saturating_sub(began);
        cycle
    }

    /// Looks once at every probe and finds all owners, for a person who asks. Nothing is remembered.
    ///
    /// # Errors
    /// When the connections or the processes could not be read.
    pub fn check(&mut self) -> Result<Vec<(Arc<ConnectionProbe>, ProbeLook)>, LookError> {
        let all: Vec<usize> = (0..self.links.len()).collect();
        let mut looks = self.look(&all, true)?;
        // As before a "down" is reported: a connection that is replaced meanwhile can be missed by one walk.
        let is_down = |look: &ProbeLook| !Direction::ALL.iter().any(|way| look.direction(*way).is_up());
        let doubted: Vec<usize> =
            all.into_iter().zip(&looks).filter(|(_, look)| is_down(look)).map(|(index, _)| index).collect();
        if !doubted.is_empty() {
            for (index, again) in doubted.iter().zip(self.look(&doubted, true)?) {
                if let Some(look) = looks.get_mut(*index) {
                    *look = again;
                }
            }
        }
        Ok(self.links.iter().map(|link| Arc::clone(link.probe())).zip(looks).collect())
    }

    fn take_in(&mut self, due: &[usize], looks: Vec<ProbeLook>, time: SystemTime, cycle: &mut Cycle) {
        let mut doubted = Vec::new();
        for (index, look) in due.iter().copied().zip(looks) {
            if self.links.get(index).is_some_and(|link| link.would_go_down(&look)) {
                doubted.push((index, unheld(&look)));
            } else {
                self.take_in_one(index, &look, time, cycle);
            }
        }
        for _again in 0..SECOND_LOOKS {
            if doubted.is_empty() {
                return;
            }
            let time = self.clock.wall();
            let indices: Vec<usize> = doubted.iter().map(|(index, _)| *index).collect();
            let looks = match self.look(&indices, false) {
                Ok(looks) => looks,
                Err(error) => return self.fail(&indices, error, cycle),
            };
            let before = std::mem::take(&mut doubted);
            for ((index, unheld_before), look) in before.into_iter().zip(looks) {
                // A connection that nobody holds in two looks is nobody's. One that is new may be about to be seen.
                let unheld = unheld(&look);
                let settled = unheld.is_subset(&unheld_before);
                if settled || self.links.get(index).is_none_or(|link| !link.would_go_down(&look)) {
                    self.take_in_one(index, &look, time, cycle);
                } else {
                    doubted.push((index, unheld));
                }
            }
        }
        if !doubted.is_empty() {
            let indices: Vec<usize> = doubted.into_iter().map(|(index, _)| index).collect();
            self.fail(&indices, LookError::Unsettled, cycle);
        }
    }

    fn take_in_one(&mut self, index: usize, look: &ProbeLook, time: SystemTime, cycle: &mut Cycle) {
        let Some(link) = self.links.get_mut(index) else { return };
        link.update(look, time, &mut cycle.points, &mut cycle.changes);
        let missing: BTreeSet<Capability> =
            Direction::ALL.iter().flat_map(|way| look.direction(*way).missing.iter().copied()).collect();
        let unattributed = Direction::ALL.iter().any(|way| !look.direction(*way).unattributed.is_empty());
        if unattributed {
            self.outcomes.permission_missing += 1;
        } else {
            self.outcomes.ok += 1;
        }
        if let Some(slot) = self.missing.get_mut(index) {
            *slot = missing;
        }
    }

    fn fail(&mut self, probes: &[usize], error: LookError, cycle: &mut Cycle) {
        self.outcomes.failed += u64::try_from(probes.len()).unwrap_or(u64::MAX);
        let probes = probes
            .iter()
            .filter_map(|index| self.links.get(*index))
            .map(|link| Arc::clone(&link.probe().name))
            .collect();
        cycle.failure = Some(Failure { probes, error });
    }

    fn tell_permissions(&mut self, time: SystemTime, cycle: &mut Cycle) {
        for capability in Capability::ALL {
            let missing = self.missing.iter().any(|missing| missing.contains(&capability));
            let before = self.permissions.get(&capability).copied();
            if missing || before.is_some() {
                self.permissions.insert(capability, missing);
                cycle.points.push(DataPoint {
                    metric: &metric::PERMISSION_MISSING,
                    attributes: Arc::new(AttributeSet::new([Attribute::new(
                        "capability",
                        capability.as_str(),
                    )])),
                    extra: None,
                    time,
                    start: None,
                    value: Value::Int(missing.into()),
                });
            }
            if missing != before.unwrap_or(false) {
                cycle.permissions.push(PermissionChange { capability, missing });
            }
        }
    }

    fn look(&mut self, indices: &[usize], every_holder: bool) -> Result<Vec<ProbeLook>, LookError> {
        let plan = self.plan(indices);
        let now = self.clock.monotonic();
        let links = &self.links;
        let wants_reason = |place: usize, direction| {
            indices
                .get(place)
                .and_then(|index| links.get(*index))
                .is_some_and(|link| link.has_matched(direction))
        };
        plan.look(&mut self.connections, &mut self.processes, wants_reason, every_holder, now)
    }

    fn plan(&mut self, indices: &[usize]) -> Arc<LookPlan> {
        if let Some(plan) = self.plans.get(indices) {
            return Arc::clone(plan);
        }
        let probes = indices.iter().filter_map(|index| self.planned.get(*index)).cloned().collect();
        let plan = Arc::new(LookPlan::new(probes, Arc::clone(&self.selector)));
        if self.plans.len() >= MAX_PLANS {
            self.plans.clear();
        }
        self.plans.insert(indices.to_vec(), Arc::clone(&plan));
        plan
    }
}

/// The connections of a probe that nobody was seen to hold.
fn unheld(look: &ProbeLook) -> BTreeSet<Cookie> {
    Direction::ALL.iter().flat_map(|way| look.direction(*way).unheld.iter().copied()).collect()
}

#[cfg(test)]
mod tests;
