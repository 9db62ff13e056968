//! All probes over time: what is measured when they fall due, and what is told of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::adapter::{Clock, ConnAdapter, NameAdapter, ProcessAdapter, TranslationAdapter, Untold};
use crate::allowance::Allowance;
use crate::budget::{Budget, CpuShare};
use crate::connection::{Connection, Cookie, Direction, Inode};
use crate::health::Sighting;
use crate::infer::{Attribution, AttributionMode, InferenceLack, Suspects};
use crate::link::{Link, LinkChange, Moment, Untracked};
use crate::look::{Beginning, Look, LookError, LookPlan, Manner, PlannedProbe, ProbeLook};
use crate::metric::{self, Attribute, AttributeSet, DataPoint, Value};
use crate::namespace::{NamespaceId, Namespaces};
use crate::observer::{Finding, Observer, StatusChange, Taken};
use crate::probe::{ConnectionProbe, Probe};
use crate::process::{
    Capability, Pid, Process, ProcessSelector, SelectorBuilder, SelectorError, VerifyQuery,
};
use crate::sight::Sight;
use crate::track::Tracked;
use crate::translation::Translations;

/// How many plans of all probes may be kept, or as much of plans of some: for sets of probes that fall due together, or
/// broke together.
const PLANNED_TIMES: usize = 4;

/// How often a link that seems to have gone down is looked for again. Twice is enough unless its connections are
/// being replaced all the while.
const SECOND_LOOKS: usize = 4;

/// How many times as long as looks took that were cut short it is until the next begin, at least.
const PAUSE_AFTER_CUT: u32 = 2;

/// How many times as long as it took in vain to read translations it is until they are read again: a table that is too
/// large is so for long.
const PAUSE_AFTER_UNTOLD: u32 = 20;

/// How old what only a walk can tell may become: a probe that falls due after that is looked for whatever it costs.
pub const WALK_BOUND: Duration = Duration::from_mins(1);

/// Connections of all probes together that are looked up again each cycle, beside the first of each series.
pub const MAX_TRACKED: usize = 16_384;

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

/// What caused a walk over all sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalkReason {
    /// The tracked connections could not be looked up.
    Unverified,
    /// A link lost every connection that it was up by.
    Broken,
    /// A probe was never looked for.
    New,
    /// A probe was not looked for in [`WALK_BOUND`].
    Bound,
    /// There was CPU time to spare.
    Budget,
    /// Sockets or processes are counted: that takes a look each time.
    Count,
}

impl WalkReason {
    /// All of them, in the order in which one goes before another.
    pub const ALL: [Self; 6] =
        [Self::Unverified, Self::Broken, Self::New, Self::Bound, Self::Budget, Self::Count];

    /// The value of the `reason` attribute.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unverified => "unverified",
            Self::Broken => "broken",
            Self::New => "new",
            Self::Bound => "bound",
            Self::Budget => "budget",
            Self::Count => "count",
        }
    }
}

/// How the host was looked at, counted since the start, and what is tracked at present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effort {
    /// Walks over all sockets, by what caused them.
    pub walks: BTreeMap<WalkReason, u64>,
    /// CPU time that walks took, with the search for holders.
    pub walk_cpu: Duration,
    /// Connections that are looked up again each cycle.
    pub tracked: u64,
    /// Connections that are beyond the bounds of what is tracked.
    pub untracked: Untracked,
    /// Sources that no series tells of ([`Link::unreported`]).
    pub unreported: u64,
}

/// How much is looked at, and what is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The CPU time for walks that nothing but the passing of time calls for.
    pub cpu_budget: CpuShare,
    /// Whether points tell how the connections of links fare, beside whether they are there.
    pub link_health: bool,
    /// Whether holders are inferred where they may not be read.
    pub attribution: AttributionMode,
    /// Whose connections are looked at.
    pub namespaces: Namespaces,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            cpu_budget: CpuShare::DEFAULT,
            link_health: true,
            attribution: AttributionMode::default(),
            namespaces: Namespaces::Own,
        }
    }
}

/// What one cycle brought, beside its points.
#[derive(Debug, Default)]
pub struct Cycle {
    /// The links whose status changed.
    pub changes: Vec<LinkChange>,
    /// The other probes whose status changed.
    pub standings: Vec<StatusChange>,
    /// Why probes were not measured, and which: each reason once.
    pub failures: Vec<Failure>,
    /// How many probes there are that were not measured when they were last due, in this cycle or before.
    pub still_failing: usize,
    /// Why what was known could not be verified: all was looked for anew.
    pub unverified: Option<LookError>,
    /// The capabilities that began to be missed, and that no longer are.
    pub permissions: Vec<PermissionChange>,
    /// Whether translations were told that were asked for; `None` where none were.
    pub translations: Option<Result<(), Untold>>,
    /// Why holders cannot be inferred, as far as that was not told before.
    pub lacks: BTreeSet<InferenceLack>,
    /// The probes that began to have more sources than series, and those that no longer do.
    pub limits: Vec<LimitChange>,
    /// The links of which nothing can be told any more, and those of which something can again.
    pub sight: Vec<SightChange>,
    /// Whether network namespaces are attended to that are not entered ([`ConnAdapter::unentered`]), and none were before.
    pub unentered: bool,
    /// How long it took.
    pub took: Duration,
}

/// Probes that have no answer in this cycle, and so no points.
#[derive(Debug)]
pub struct Failure {
    /// Their names.
    pub probes: Vec<Arc<str>>,
    /// Those of them that were measured the last time, or never due before.
    pub new: Vec<Arc<str>>,
    /// Why: the same for all of them.
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

/// A probe that began, or ceased, to have sources that no series tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitChange {
    /// The probe.
    pub probe: Arc<ConnectionProbe>,
    /// How many there are; 0 once it is over, which is told when it has been for [`UNLIMITED_AFTER`](crate::link::UNLIMITED_AFTER).
    pub unreported: u64,
}

/// What came of asking for translations before a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// All were told.
    Whole,
    /// Nobody asked.
    Unasked,
    /// They are not to be had here.
    Unavailable,
    /// They could not be told this time.
    Failed,
}

/// A link that went out of sight, or came back.
///
/// Out of sight is a link while whoever fits its probe lives in another network namespace, and the agent is in none that
/// is known to be the host's; or where all are looked at, while somebody who fits lives in one that may not be entered. Its
/// measurements fail meanwhile: it may well be up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SightChange {
    /// The probe.
    pub probe: Arc<ConnectionProbe>,
    /// Whether something can be told of it now.
    pub in_sight: bool,
    /// Whose connections were to be looked at.
    pub namespaces: Namespaces,
}

/// What to make of a look at a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is so.
    Believe,
    /// It was cut short. What is verified of the link stands, and there is nothing else to tell.
    Known,
    /// It was cut short, and nothing can be told of the link.
    Undecided,
    /// Whoever fits lives where no connection is seen, and nothing can be told of the link.
    OutOfSight,
    /// The link seems to be down: it has to be looked at again.
    Doubt,
}

/// What one look at every probe found.
#[derive(Debug)]
pub struct Checked {
    /// The links.
    pub links: Vec<(Arc<ConnectionProbe>, ProbeLook)>,
    /// All other probes: what each found, or why that cannot be told.
    pub others: Vec<(Probe, Result<Finding, LookError>)>,
}

/// What answers a probe, by its place among those of its kind.
#[derive(Debug, Clone, Copy)]
enum Place {
    Link(usize),
    Observer(usize),
}

/// Probes that are looked for together, by their places.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Set {
    links: Vec<usize>,
    observers: Vec<usize>,
}

impl Set {
    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.observers.is_empty()
    }

    fn link(index: usize) -> Self {
        Self { links: vec![index], observers: Vec::new() }
    }

    fn len(&self) -> usize {
        self.links.len() + self.observers.len()
    }
}

/// What a look is taken into.
struct Taking<'a> {
    allowance: &'a Allowance<'a>,
    cycle: &'a mut Cycle,
    /// Links of which something can be told, and as of when.
    reported: &'a mut Vec<(usize, SystemTime)>,
    /// The same of observers.
    observed: &'a mut Vec<(usize, SystemTime)>,
}

/// The tracked connections as they are now, and for those that are still there their owners, each in order.
type Verified = (Vec<Option<Sighting>>, Vec<Option<Arc<Process>>>);

/// The probes, what is remembered of their links, and the edges through which the host is seen.
#[derive(Debug)]
pub struct Monitor<C, P, K> {
    connections: C,
    processes: P,
    /// Absent where nobody asks for translations.
    translations: Option<Box<dyn TranslationAdapter>>,
    /// Absent where no probe has a host name.
    names: Option<Box<dyn NameAdapter>>,
    /// What came of asking for them last, until that is told.
    told: Option<Result<(), Untold>>,
    /// When translations may be asked for again after they could not be read.
    untold_until: Duration,
    /// Shared with the allowance of the cycle under way.
    clock: Arc<K>,
    /// What answers each probe, in the order in which they are configured.
    places: Vec<Place>,
    planned: Vec<PlannedProbe>,
    links: Vec<Link>,
    observers: Vec<(Probe, Box<dyn Observer>)>,
    missing: Vec<BTreeSet<Capability>>,
    permissions: BTreeMap<Capability, bool>,
    selector: Arc<ProcessSelector>,
    plans: HashMap<Set, Arc<LookPlan>>,
    outcomes: Outcomes,
    budget: Budget,
    terms: Terms,
    walks: BTreeMap<WalkReason, u64>,
    walk_cpu: Duration,
    /// Connections tracked, as counted during a walk.
    tracked: usize,
    /// Links that seemed down in a cycle without time for a second look, and the connections that nobody held: the next
    /// look at them is the second.
    doubts: HashMap<usize, BTreeSet<Cookie>>,
    /// The same of observers.
    observer_doubts: BTreeSet<usize>,
    /// Probes that were not measured when they were last due, but for those out of sight.
    failing: HashSet<Arc<str>>,
    /// Where the next look at a link begins that had too many connections for one.
    next: HashMap<usize, Beginning>,
    /// When links were last looked at in vain that are known all the same.
    tried: HashMap<usize, Duration>,
    /// Links of which the last look could tell nothing, because whoever fits lives where no connection is seen. Nothing is
    /// told of them until another look can.
    out_of_sight: BTreeSet<usize>,
    /// When looks may go on after a cycle's were cut short: they take half of a processor's time at most.
    pause_until: Duration,
    /// Why holders could not be inferred, and what of it was told.
    lacks: BTreeSet<InferenceLack>,
    told_lacks: BTreeSet<InferenceLack>,
    /// Whether it was told that namespaces are not entered.
    told_unentered: bool,
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
        probes: impl IntoIterator<Item = impl Into<Probe>>,
        terms: Terms,
    ) -> Result<Self, SelectorError> {
        let budget = Budget::new(terms.cpu_budget, clock.monotonic());
        let mut monitor = Self {
            connections,
            processes,
            translations: None,
            names: None,
            told: None,
            untold_until: Duration::ZERO,
            clock: Arc::new(clock),
            places: Vec::new(),
            planned: Vec::new(),
            links: Vec::new(),
            observers: Vec::new(),
            missing: Vec::new(),
            permissions: BTreeMap::new(),
            selector: Arc::default(),
            plans: HashMap::new(),
            outcomes: Outcomes::default(),
            budget,
            terms,
            walks: BTreeMap::new(),
            walk_cpu: Duration::ZERO,
            tracked: 0,
            doubts: HashMap::new(),
            observer_doubts: BTreeSet::new(),
            failing: HashSet::new(),
            next: HashMap::new(),
            tried: HashMap::new(),
            out_of_sight: BTreeSet::new(),
            pause_until: Duration::ZERO,
            lacks: BTreeSet::new(),
            told_lacks: BTreeSet::new(),
            told_unentered: false,
        };
        monitor.replace_probes(probes)?;
        Ok(monitor)
    }

    /// Puts these probes in force. What is remembered of a probe that is the same but for its interval is kept.
    ///
    /// # Errors
    /// As [`Monitor::new`]; then the old probes stay in force.
    pub fn replace_probes(
        &mut self,
        probes: impl IntoIterator<Item = impl Into<Probe>>,
    ) -> Result<(), SelectorError> {
        let mut patterns = SelectorBuilder::default();
        let (mut places, mut planned, mut observers) = (Vec::new(), Vec::new(), Vec::new());
        for probe in probes.into_iter().map(Into::into) {
            match (&probe, probe.observer()) {
                (Probe::Link(probe), _) => {
                    places.push(Place::Link(planned.len()));
                    planned.push(PlannedProbe::new(Arc::clone(probe), &mut patterns));
                }
                (_, Some(observer)) => {
                    places.push(Place::Observer(observers.len()));
                    for pattern in probe.patterns() {
                        patterns.add(pattern);
                    }
                    observers.push((probe, observer));
                }
                (_, None) => {}
            }
        }
        self.selector = Arc::new(patterns.build()?);
        self.places = places;
        self.replace_observers(observers);
        self.plans.clear();
        self.doubts.clear();
        self.observer_doubts.clear();
        self.failing.clear();
        self.next.clear();
        self.tried.clear();
        self.out_of_sight.clear();
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

    /// Puts these observers in force. One whose probe is the same goes on with what it knows.
    fn replace_observers(&mut self, new: Vec<(Probe, Box<dyn Observer>)>) {
        let mut known: HashMap<Arc<str>, (Probe, Box<dyn Observer>)> =
            self.observers.drain(..).map(|known| (Arc::clone(known.0.name()), known)).collect();
        for (probe, observer) in new {
            let kept = known.remove(probe.name()).filter(|(before, _)| before.is_same_as(&probe));
            let mut observer = kept.map_or(observer, |(_, kept)| kept);
            observer.adopt(&self.selector);
            self.observers.push((probe, observer));
        }
    }

    /// Puts another source of processes in force.
    pub fn replace_processes(&mut self, processes: P) {
        self.processes = processes;
    }

    /// Puts a source of translations in force.
    pub fn set_translations(&mut self, translations: Box<dyn TranslationAdapter>) {
        self.translations = Some(translations);
    }

    /// Puts a source of what host names mean in force.
    pub fn set_names(&mut self, names: Box<dyn NameAdapter>) {
        self.names = Some(names);
    }

    /// Why translations could not be told when they were last asked for.
    #[must_use]
    pub fn untold(&self) -> Option<&Untold> {
        self.told.as_ref().and_then(|told| told.as_ref().err())
    }

    /// Puts other terms in force.
    pub fn set_terms(&mut self, terms: Terms) {
        self.budget.set_share(terms.cpu_budget);
        if terms.attribution != self.terms.attribution {
            self.lacks.clear();
            self.told_lacks.clear();
            self.links.iter_mut().for_each(Link::distrust_inferred);
        }
        self.terms = terms;
    }

    /// How measurements ended so far.
    #[must_use]
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes
    }

    /// How the host was looked at so far.
    #[must_use]
    pub fn effort(&self) -> Effort {
        let mut untracked = Untracked::default();
        let (mut tracked, mut unreported) = (0, 0);
        for link in &self.links {
            unreported += link.unreported();
            tracked += link.tracked().count();
            untracked.by_probe += link.untracked().by_probe;
            untracked.by_agent += link.untracked().by_agent;
        }
        let tracked = u64::try_from(tracked).unwrap_or(u64::MAX);
        Effort { walks: self.walks.clone(), walk_cpu: self.walk_cpu, tracked, untracked, unreported }
    }

    /// Measures the probes that are due, given by their places, and emits their points.
    ///
    /// What is known is verified: each tracked connection is looked up, and each holder asked whether it holds it still.
    /// A walk over all sockets follows for what that cannot settle, and for all that is due where the budget allows.
    ///
    /// A link that was up and is not found is looked for again before it is reported down: a connection that is
    /// replaced while the kernel walks its table can be missed by one walk, and one that is closed between the walk and
    /// the search for its holder has none.
    pub fn measure(&mut self, due: &[usize], emit: &mut dyn FnMut(DataPoint)) -> Cycle {
        let began = self.clock.monotonic();
        let wall = self.clock.wall();
        let Set { links: due, observers } = self.sort(due);
        let due = due.as_slice();
        self.resolve(&observers);
        let mut cycle = Cycle { unverified: self.verify(due, began).err(), ..Cycle::default() };
        let planned = self.plan_walk(due, began, cycle.unverified.is_none());
        // What counts needs a look each time. Links come along where they need one as well.
        let planned = match planned {
            Some((reason, links)) => Some((reason, Set { links, observers })),
            None if observers.is_empty() => None,
            None => Some((WalkReason::Count, Set { links: Vec::new(), observers })),
        };
        let mut observed: Vec<(usize, SystemTime)> = Vec::new();
        let mut reported: Vec<(usize, SystemTime)> = Vec::with_capacity(due.len());
        let mut walked: HashSet<usize> = HashSet::new();
        if let Some((reason, probes)) = planned {
            self.tracked = self.links.iter().map(|link| link.tracked().count()).sum();
            let cpu = self.clock.cpu();
            let held = self.held(due);
            let clock = Arc::clone(&self.clock);
            let allowance = Allowance::of_interval(self.shortest_interval(), clock.as_ref());
            let pauses = began < self.pause_until;
            let outcome =
                if pauses { Err(LookError::CutShort) } else { self.look(&probes, false, &held, &allowance) };
            let looked = outcome.is_ok();
            match outcome {
                Ok(look) => {
                    let mut taking = Taking {
                        allowance: &allowance,
                        cycle: &mut cycle,
                        reported: &mut reported,
                        observed: &mut observed,
                    };
                    self.take_in(&probes, look, wall, &mut taking);
                }
                Err(error) => {
                    // What is verified stands, whatever became of the walk.
                    let is_settled = |index: &usize| self.links.get(*index).is_some_and(Link::is_settled);
                    let (settled, failed): (Vec<usize>, Vec<usize>) =
                        probes.links.iter().copied().partition(is_settled);
                    if !pauses {
                        self.tried.extend(settled.iter().map(|index| (*index, began)));
                    }
                    reported.extend(settled.into_iter().map(|index| (index, wall)));
                    let failed = Set { links: failed, observers: probes.observers.clone() };
                    self.fail(&failed, error, &mut cycle);
                }
            }
            walked.extend(probes.links);
            if looked {
                self.examine_new(&reported, began);
            }
            let cost = self.clock.cpu().saturating_sub(cpu);
            // The first look at a probe has to be, and on a host that is new it costs more than any after it. What counts has to be
            // looked for each time.
            if !matches!(reason, WalkReason::New | WalkReason::Count) {
                self.budget.pay(cost);
            }
            self.walk_cpu += cost;
            *self.walks.entry(reason).or_default() += u64::from(!pauses);
            if cycle.failures.iter().any(|failure| failure.error.is_for_want_of_time()) && !pauses {
                self.pause_until = began.saturating_add(cost * PAUSE_AFTER_CUT);
            }
        }
        let (unseen, known): (Vec<usize>, Vec<usize>) =
            due.iter().filter(|index| !walked.contains(index)).partition(|index| self.is_unseen(**index));
        self.outcomes.failed += u64::try_from(unseen.len()).unwrap_or(u64::MAX);
        reported.extend(known.into_iter().map(|index| (index, wall)));
        reported.sort_unstable_by_key(|(index, _)| *index);
        self.report(&reported, began, emit);
        self.report_observed(&observed, emit);
        // Where nothing was measured, nothing is known of permissions either.
        if !reported.is_empty() || !observed.is_empty() {
            self.tell_permissions(wall, &mut cycle, emit);
        }
        cycle.translations = self.told.take();
        cycle.lacks = self.lacks.difference(&self.told_lacks).copied().collect();
        self.told_lacks.extend(&cycle.lacks);
        cycle.unentered = !self.told_unentered && !self.connections.unentered().is_empty();
        self.told_unentered |= cycle.unentered;
        cycle.still_failing = self.failing.len();
        cycle.took = self.clock.monotonic().saturating_sub(began);
        cycle
    }

    /// Looks once at every probe and finds all owners, for a person who asks. Nothing is remembered of links.
    ///
    /// # Errors
    /// When the connections or the processes could not be read.
    pub fn check(&mut self) -> Result<Checked, LookError> {
        let all =
            Set { links: (0..self.links.len()).collect(), observers: (0..self.observers.len()).collect() };
        self.resolve(&all.observers);
        let allowance = Allowance::unlimited();
        let Look { links: mut looks, sight } = self.look(&all, true, &HashMap::new(), &allowance)?;
        // As before a "down" is reported: a connection that is replaced meanwhile can be missed by one walk.
        let is_down = |look: &ProbeLook| !Direction::ALL.iter().any(|way| look.direction(*way).is_up());
        let doubted = all.links.iter().copied().zip(&looks).filter(|(_, look)| is_down(look));
        let mut findings: Vec<Option<Result<Finding, LookError>>> = Vec::new();
        let mut again = Set { links: doubted.map(|(index, _)| index).collect(), observers: Vec::new() };
        for index in all.observers {
            let finding = self.show_once(index, index, &sight, false);
            if finding.is_none() {
                again.observers.push(index);
            }
            findings.push(finding);
        }
        if !again.is_empty() {
            let look = self.look(&again, true, &HashMap::new(), &allowance)?;
            for (index, again) in again.links.iter().zip(look.links) {
                if let Some(look) = looks.get_mut(*index) {
                    *look = again;
                }
            }
            for (place, index) in again.observers.iter().enumerate() {
                let finding = self.show_once(*index, place, &look.sight, true);
                if let Some(slot) = findings.get_mut(*index) {
                    *slot = finding;
                }
            }
        }
        if let Some(look) = looks.iter().find(|look| look.is_incomplete() && is_down(look)) {
            return Err(look.shortcoming());
        }
        let links = self.links.iter().map(|link| Arc::clone(link.probe())).zip(looks).collect();
        let probes = self.observers.iter().map(|(probe, _)| probe.clone());
        let others = probes.zip(findings).filter_map(|(probe, finding)| Some((probe, finding?))).collect();
        Ok(Checked { links, others })
    }

    /// What an observer makes of what it is shown; `None` when it has to be shown it again.
    fn show_once(
        &mut self,
        index: usize,
        place: usize,
        sight: &Sight,
        is_second: bool,
    ) -> Option<Result<Finding, LookError>> {
        let (_, observer) = self.observers.get_mut(index)?;
        match sight.show(place, is_second, |seen| observer.take_in(seen)) {
            Ok(Taken::Doubt) => None,
            Ok(Taken::Answer(_)) => observer.finding().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    /// Tells these observers what host names mean now, and forgets the plans of those for whom that makes a difference.
    fn resolve(&mut self, observers: &[usize]) {
        let Some(names) = &self.names else { return };
        let mut changed = BTreeSet::new();
        for index in observers {
            if let Some((_, observer)) = self.observers.get_mut(*index)
                && observer.resolve(names.as_ref())
            {
                changed.insert(*index);
            }
        }
        if !changed.is_empty() {
            // What was doubted was another question.
            self.observer_doubts.retain(|index| !changed.contains(index));
            self.plans.retain(|set, _| !set.observers.iter().any(|index| changed.contains(index)));
        }
    }

    /// What answers these probes, given by their places among all.
    fn sort(&self, probes: &[usize]) -> Set {
        let mut sorted = Set::default();
        for place in probes.iter().filter_map(|probe| self.places.get(*probe)) {
            match *place {
                Place::Link(link) => sorted.links.push(link),
                Place::Observer(observer) => sorted.observers.push(observer),
            }
        }
        sorted
    }

    /// Looks up every tracked connection of these probes, and asks its holders.
    ///
    /// # Errors
    /// When nothing could be verified: then nothing that was known is believed.
    fn verify(&mut self, due: &[usize], now: Duration) -> Result<(), LookError> {
        let (sightings, owners) = match self.look_up(due, now) {
            Ok(found) => found,
            Err(error) => {
                for index in due {
                    if let Some(link) = self.links.get_mut(*index) {
                        link.distrust();
                    }
                }
                return Err(error);
            }
        };
        let (mut sightings, mut owners) = (sightings.iter(), owners.into_iter());
        for index in due {
            if let (Some(link), Some(planned)) = (self.links.get_mut(*index), self.planned.get(*index)) {
                link.verify(
                    |direction| planned.pattern(direction),
                    now,
                    || sightings.next().and_then(Option::as_ref),
                    || owners.next().flatten(),
                );
            }
        }
        Ok(())
    }

    /// Asks the kernel for every tracked connection of these probes, and for each that is still there whether its owners
    /// hold it.
    fn look_up(&mut self, due: &[usize], now: Duration) -> Result<Verified, LookError> {
        let links = &self.links;
        let tracked: Vec<&Tracked> =
            due.iter().filter_map(|index| links.get(*index)).flat_map(Link::tracked).collect();
        if tracked.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let connections: Vec<Connection> = tracked.iter().map(|tracked| *tracked.connection()).collect();
        let sightings = self.connections.lookup(&connections);
        let sightings = sightings.map_err(|error| LookError::Connections(Box::new(error)))?;
        let mut there: Vec<&Tracked> = Vec::with_capacity(tracked.len());
        for (tracked, sighting) in tracked.iter().zip(&sightings) {
            if sighting.as_ref().is_some_and(|sighting| tracked.is_seen_in(sighting)) {
                there.push(tracked);
            }
        }
        let mut holdings: Vec<(Inode, Pid)> = Vec::with_capacity(there.len());
        for tracked in there.iter().filter(|tracked| tracked.attribution() == Attribution::Holder) {
            holdings.extend(tracked.owners().iter().map(|owner| (tracked.inode(), owner.pid)));
        }
        let query = VerifyQuery { selector: &self.selector, holdings: &holdings, now };
        let owners = self.processes.verify_holders(&query);
        let owners = owners.map_err(|error| LookError::Processes(Box::new(error)))?;
        if (sightings.len(), owners.len()) != (tracked.len(), holdings.len()) {
            return Err(LookError::Incomplete);
        }
        if there.iter().all(|tracked| tracked.attribution() == Attribution::Holder) {
            return Ok((sightings, owners));
        }
        let suspects = Suspects::ask(there.iter().copied(), &mut self.processes, &self.selector, now)?;
        let mut held = owners.into_iter();
        let owners = there.iter().flat_map(|tracked| suspects.owners(tracked, || held.next().flatten()));
        Ok((sightings, owners.collect()))
    }

    /// The sockets that are known to be held, as was just verified, by inode. What is inferred a walk has to find out anew.
    fn held(&self, due: &[usize]) -> HashMap<Inode, Vec<Arc<Process>>> {
        let mut held: HashMap<Inode, Vec<Arc<Process>>> = HashMap::new();
        let links = due.iter().filter_map(|index| self.links.get(*index));
        let is_known = |tracked: &&Tracked| tracked.is_held() && tracked.attribution() == Attribution::Holder;
        for tracked in links.flat_map(Link::tracked).filter(is_known) {
            let holders = held.entry(tracked.inode()).or_default();
            for owner in tracked.owners() {
                if !holders.iter().any(|holder| holder.pid == owner.pid) {
                    holders.push(Arc::clone(owner));
                }
            }
        }
        held
    }

    /// Which of the probes that are due a walk has to look for, and why; `None` where none is called for.
    fn plan_walk(
        &mut self,
        due: &[usize],
        now: Duration,
        verified: bool,
    ) -> Option<(WalkReason, Vec<usize>)> {
        let age = |index: &usize| {
            let walked_at = self.links.get(*index)?.walked_at();
            // What could not be learned a moment ago is not asked for again at once.
            Some(now.saturating_sub(walked_at.max(self.tried.get(index).copied())?))
        };
        let cause = |index: &usize| {
            let link = self.links.get(*index)?;
            match age(index) {
                _ if !verified => Some(WalkReason::Unverified),
                _ if link.is_broken() && !self.out_of_sight.contains(index) => Some(WalkReason::Broken),
                None => Some(WalkReason::New),
                Some(age) => (age >= WALK_BOUND).then_some(WalkReason::Bound),
            }
        };
        let first = due.iter().filter_map(cause).min();
        if self.budget.allows(now) && !due.is_empty() {
            return Some((first.unwrap_or(WalkReason::Budget), due.to_vec()));
        }
        // What would need a walk of its own before long comes along with one that has to be.
        let is_old = |index: &usize| age(index).is_some_and(|age| age >= WALK_BOUND / 2);
        first.map(|reason| {
            (reason, due.iter().copied().filter(|index| cause(index).is_some() || is_old(index)).collect())
        })
    }

    fn take_in(&mut self, probes: &Set, look: Look, wall: SystemTime, taking: &mut Taking<'_>) {
        let (mut doubted, mut undecided) = (Vec::new(), Vec::new());
        for (index, look) in probes.links.iter().copied().zip(look.links) {
            match self.judge(index, &look) {
                Verdict::Believe => self.absorb(index, &look, wall, taking),
                Verdict::Known => {
                    self.doubts.remove(&index);
                    self.out_of_sight.remove(&index);
                    self.tried.insert(index, self.clock.monotonic());
                    taking.reported.push((index, wall));
                }
                Verdict::Undecided if look.is_cut_short() => undecided.push(index),
                Verdict::Undecided => self.fail(&Set::link(index), look.shortcoming(), taking.cycle),
                Verdict::OutOfSight => self.lose_sight_of(index, taking.cycle),
                Verdict::Doubt => doubted.push((index, unheld(&look))),
            }
        }
        if !undecided.is_empty() {
            let undecided = Set { links: undecided, observers: Vec::new() };
            self.fail(&undecided, LookError::CutShort, taking.cycle);
        }
        let mut unsure = self.show(&probes.observers, &look.sight, wall, taking);
        for _again in 0..SECOND_LOOKS {
            let again =
                Set { links: doubted.iter().map(|(index, _)| *index).collect(), observers: unsure.clone() };
            if again.is_empty() {
                return;
            }
            if taking.allowance.is_spent() {
                self.doubts.extend(doubted);
                self.observer_doubts.extend(unsure);
                return self.fail(&again, LookError::CutShort, taking.cycle);
            }
            let wall = self.clock.wall();
            *self.walks.entry(self.reason_of_second(&again)).or_default() += 1;
            let look = match self.look(&again, false, &HashMap::new(), taking.allowance) {
                Ok(look) => look,
                Err(error) => return self.fail(&again, error, taking.cycle),
            };
            let before = std::mem::take(&mut doubted);
            for ((index, unheld_before), look) in before.into_iter().zip(look.links) {
                self.doubts.insert(index, unheld_before);
                match self.judge(index, &look) {
                    Verdict::Believe => self.absorb(index, &look, wall, taking),
                    Verdict::Known => taking.reported.push((index, wall)),
                    Verdict::Undecided => self.fail(&Set::link(index), look.shortcoming(), taking.cycle),
                    Verdict::OutOfSight => self.lose_sight_of(index, taking.cycle),
                    Verdict::Doubt => doubted.push((index, unheld(&look))),
                }
            }
            self.observer_doubts.extend(&unsure);
            unsure = self.show(&again.observers, &look.sight, wall, taking);
        }
        if !doubted.is_empty() {
            let links = doubted.into_iter().map(|(index, _)| index).collect();
            self.fail(&Set { links, observers: Vec::new() }, LookError::Unsettled, taking.cycle);
        }
    }

    /// Why a second look is made.
    fn reason_of_second(&self, again: &Set) -> WalkReason {
        let is_broken = |index: &usize| self.links.get(*index).is_some_and(|link| link.walked_at().is_some());
        if again.links.is_empty() {
            WalkReason::Count
        } else if again.links.iter().any(is_broken) {
            WalkReason::Broken
        } else {
            WalkReason::New
        }
    }

    /// Shows observers what they asked for, and returns those that have to be shown it again.
    fn show(
        &mut self,
        observers: &[usize],
        sight: &Sight,
        wall: SystemTime,
        taking: &mut Taking<'_>,
    ) -> Vec<usize> {
        let mut unsure = Vec::new();
        for (place, index) in observers.iter().copied().enumerate() {
            let is_second = self.observer_doubts.contains(&index);
            let Some((_, observer)) = self.observers.get_mut(index) else { continue };
            match sight.show(place, is_second, |seen| observer.take_in(seen)) {
                Ok(Taken::Doubt) => unsure.push(index),
                Ok(Taken::Answer(change)) => {
                    self.observer_doubts.remove(&index);
                    taking.cycle.standings.extend(change);
                    taking.observed.push((index, wall));
                }
                Err(error) => {
                    let failed = Set { links: Vec::new(), observers: vec![index] };
                    self.fail(&failed, error, taking.cycle);
                }
            }
        }
        unsure
    }

    /// What to make of a look at that link.
    fn judge(&self, index: usize, look: &ProbeLook) -> Verdict {
        let Some(link) = self.links.get(index) else { return Verdict::Believe };
        if look.is_incomplete() {
            // From what was never seen by a translation, a look without them takes nothing away.
            let takes_away = look.is_cut_short() || look.unread.is_some() || link.is_translated();
            return match () {
                () if link.is_settled() && takes_away => Verdict::Known,
                () if link.is_confirmed_by(look) => Verdict::Believe,
                () => Verdict::Undecided,
            };
        }
        if link.is_out_of_sight_of(look) {
            return if link.is_confirmed_by(look) { Verdict::Believe } else { Verdict::OutOfSight };
        }
        // A connection that nobody holds in two looks is nobody's. One that is new may be about to be seen.
        let is_second = self.doubts.get(&index).is_some_and(|before| unheld(look).is_subset(before));
        if is_second || !link.would_go_down(look) { Verdict::Believe } else { Verdict::Doubt }
    }

    /// Whether nothing can be told of that link without a look: by the last one, whoever fits lives where no connection is
    /// seen.
    fn is_unseen(&self, index: usize) -> bool {
        self.out_of_sight.contains(&index) && !self.links.get(index).is_some_and(Link::is_settled)
    }

    /// Takes in that nothing can be told of that link, because whoever fits lives where no connection is seen.
    fn lose_sight_of(&mut self, index: usize, cycle: &mut Cycle) {
        self.doubts.remove(&index);
        self.tried.insert(index, self.clock.monotonic());
        self.outcomes.failed += 1;
        if self.out_of_sight.insert(index) {
            self.tell_sight(index, false, cycle);
        }
    }

    fn tell_sight(&self, index: usize, in_sight: bool, cycle: &mut Cycle) {
        let link = self.links.get(index);
        let namespaces = self.terms.namespaces;
        cycle.sight.extend(link.map(|link| {
            let probe = Arc::clone(link.probe());
            SightChange { probe, in_sight, namespaces }
        }));
    }

    /// The interval by which what a cycle may take is reckoned: the next may be due after that.
    fn shortest_interval(&self) -> Duration {
        let links = self.links.iter().map(|link| link.probe().interval);
        links.chain(self.observers.iter().map(|(probe, _)| probe.interval())).min().unwrap_or_default()
    }

    fn absorb(&mut self, index: usize, look: &ProbeLook, wall: SystemTime, taking: &mut Taking<'_>) {
        self.doubts.remove(&index);
        self.tried.remove(&index);
        if self.out_of_sight.remove(&index) {
            self.tell_sight(index, true, taking.cycle);
        }
        let room = MAX_TRACKED.saturating_sub(self.tracked);
        let at = Moment { wall, monotonic: self.clock.monotonic() };
        let Some(link) = self.links.get_mut(index) else { return };
        let (before, was_limited) = (link.tracked().count(), link.is_limited());
        link.absorb(look, at, room, &mut taking.cycle.changes);
        if link.is_limited() != was_limited {
            let (probe, unreported) = (Arc::clone(link.probe()), link.unreported());
            taking.cycle.limits.push(LimitChange { probe, unreported });
        }
        self.tracked = self.tracked.saturating_sub(before) + link.tracked().count();
        if let Some(slot) = self.missing.get_mut(index) {
            *slot =
                Direction::ALL.iter().flat_map(|way| look.direction(*way).missing.iter().copied()).collect();
        }
        taking.reported.push((index, wall));
    }

    /// Asks the kernel how the connections fare that a walk has just found.
    fn examine_new(&mut self, found: &[(usize, SystemTime)], now: Duration) {
        let links = &self.links;
        let new: Vec<Connection> = found
            .iter()
            .filter_map(|(index, _)| links.get(*index))
            .flat_map(Link::tracked)
            .filter(|tracked| tracked.is_unexamined())
            .map(|tracked| *tracked.connection())
            .collect();
        if new.is_empty() {
            return;
        }
        // A failure here is no failure of the measurement: the next cycle asks again.
        let sightings = self.connections.lookup(&new).unwrap_or_default();
        let mut sightings = sightings.iter();
        for (index, _) in found {
            if let Some(link) = self.links.get_mut(*index) {
                link.examine_new(now, || sightings.next().and_then(Option::as_ref));
            }
        }
    }

    fn report(
        &mut self,
        reported: &[(usize, SystemTime)],
        monotonic: Duration,
        emit: &mut dyn FnMut(DataPoint),
    ) {
        for (index, wall) in reported {
            let Some(link) = self.links.get(*index) else { continue };
            if !self.failing.is_empty() {
                self.failing.remove(&link.probe().name);
            }
            link.report(Moment { wall: *wall, monotonic }, self.terms.link_health, emit);
            if self.terms.attribution == AttributionMode::Inferred {
                link.report_attribution(*wall, emit);
            }
            if link.is_unattributed() {
                self.outcomes.permission_missing += 1;
            } else {
                self.outcomes.ok += 1;
            }
        }
    }

    fn report_observed(&mut self, shown: &[(usize, SystemTime)], emit: &mut dyn FnMut(DataPoint)) {
        for (index, wall) in shown {
            let Some((probe, observer)) = self.observers.get_mut(*index) else { continue };
            if !self.failing.is_empty() {
                self.failing.remove(probe.name());
            }
            observer.report(*wall, emit);
            if observer.unattributed() > 0 {
                self.outcomes.permission_missing += 1;
            } else {
                self.outcomes.ok += 1;
            }
        }
    }

    fn fail(&mut self, probes: &Set, error: LookError, cycle: &mut Cycle) {
        self.outcomes.failed += u64::try_from(probes.len()).unwrap_or(u64::MAX);
        let links = probes.links.iter().filter_map(|index| self.links.get(*index));
        let observers = probes.observers.iter().filter_map(|index| self.observers.get(*index));
        let probes: Vec<Arc<str>> = links
            .map(|link| Arc::clone(&link.probe().name))
            .chain(observers.map(|(probe, _)| Arc::clone(probe.name())))
            .collect();
        let new: Vec<Arc<str>> =
            probes.iter().filter(|name| self.failing.insert(Arc::clone(name))).cloned().collect();
        match cycle.failures.iter_mut().find(|failure| failure.error.is_same_as(&error)) {
            Some(failure) => {
                failure.probes.extend(probes);
                failure.new.extend(new);
            }
            None => cycle.failures.push(Failure { probes, new, error }),
        }
    }

    fn tell_permissions(&mut self, time: SystemTime, cycle: &mut Cycle, emit: &mut dyn FnMut(DataPoint)) {
        for capability in Capability::ALL {
            let missing = self.missing.iter().any(|missing| missing.contains(&capability))
                || self.observers.iter().any(|(_, observer)| observer.missing().contains(&capability));
            let before = self.permissions.get(&capability).copied();
            if missing || before.is_some() {
                self.permissions.insert(capability, missing);
                emit(DataPoint {
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

    fn look(
        &mut self,
        probes: &Set,
        every_holder: bool,
        known: &HashMap<Inode, Vec<Arc<Process>>>,
        allowance: &Allowance<'_>,
    ) -> Result<Look, LookError> {
        let plan = self.plan(probes);
        let (translations, telling) = self.translate(&plan);
        let indices = probes.links.as_slice();
        let observers = probes.observers.iter().filter_map(|index| self.observers.get(*index));
        let observers: Vec<&dyn Observer> = observers.map(|(_, observer)| observer.as_ref()).collect();
        let (now, since_boot) = (self.clock.monotonic(), self.clock.since_boot());
        let links = &self.links;
        let untranslated = |place: usize| {
            let link = indices.get(place).and_then(|index| links.get(*index));
            link.is_some_and(|link| match telling {
                Telling::Whole | Telling::Unasked => false,
                // As if nobody had asked, but for what is known to have been seen by them alone.
                Telling::Unavailable => link.is_translated(),
                Telling::Failed => link.may_be_translated(),
            })
        };
        let wants_reason = |place: usize, direction| {
            indices
                .get(place)
                .and_then(|index| links.get(*index))
                .is_some_and(|link| link.has_matched(direction))
        };
        let in_use = (self.terms.namespaces == Namespaces::All).then(|| namespaces_in_use(links));
        // What is up is known; of what is not, the sockets may be where nobody lives.
        let is_up = |index: &usize| links.get(*index).is_some_and(Link::is_settled);
        let named = in_use.is_some() && !indices.iter().all(is_up);
        let next = &self.next;
        let begin_with =
            |place: usize| indices.get(place).and_then(|index| next.get(index)).copied().unwrap_or_default();
        let manner = Manner {
            wants_reason: &wants_reason,
            every_holder,
            known,
            now,
            since_boot,
            allowance,
            begin_with: &begin_with,
            translations: &translations,
            with_translations: telling == Telling::Whole,
            untranslated: &untranslated,
            attribution: self.terms.attribution,
            in_use: in_use.as_ref(),
            named,
            observers: &observers,
        };
        let look = plan.look(&mut self.connections, &mut self.processes, &manner)?;
        for (index, look) in indices.iter().zip(&look.links) {
            self.lacks.extend(&look.lacks);
            if look.next == Beginning::default() {
                self.next.remove(index);
            } else {
                self.next.insert(*index, look.next);
            }
        }
        Ok(look)
    }

    /// Asks for the translations of the services of that plan. Where they are not told, there are none to look by.
    fn translate(&mut self, plan: &LookPlan) -> (Translations, Telling) {
        let source = self.translations.as_mut().filter(|_| !plan.services().is_empty());
        let Some(source) = source else { return (Translations::default(), Telling::Unasked) };
        let (now, cpu) = (self.clock.monotonic(), self.clock.cpu());
        if now < self.untold_until {
            return (Translations::default(), Telling::Failed);
        }
        match source.translations(plan.services()) {
            Ok(translations) => {
                // A failure is told that another look of the same cycle, for other services, did not have.
                self.told.get_or_insert(Ok(()));
                (Translations::new(translations), Telling::Whole)
            }
            Err(untold) => {
                let telling = match untold {
                    Untold::Unavailable(_) => Telling::Unavailable,
                    Untold::Failed(_) => {
                        let cost = self.clock.cpu().saturating_sub(cpu);
                        self.untold_until = now.saturating_add(cost * PAUSE_AFTER_UNTOLD);
                        Telling::Failed
                    }
                };
                self.told = Some(Err(untold));
                (Translations::default(), telling)
            }
        }
    }

    fn plan(&mut self, set: &Set) -> Arc<LookPlan> {
        if let Some(plan) = self.plans.get(set) {
            return Arc::clone(plan);
        }
        let probes = set.links.iter().filter_map(|index| self.planned.get(*index)).cloned().collect();
        let observers = set.observers.iter().filter_map(|index| self.observers.get(*index));
        let clauses = observers.map(|(_, observer)| observer.clauses());
        let plan = Arc::new(LookPlan::new(probes, clauses, Arc::clone(&self.selector)));
        let kept: usize = self.plans.keys().map(Set::len).sum();
        if kept + set.len() > PLANNED_TIMES * self.places.len() {
            self.plans.clear();
        }
        self.plans.insert(set.clone(), Arc::clone(&plan));
        plan
    }
}

/// The network namespaces, other than the agent's own, in which connections are known.
fn namespaces_in_use(links: &[Link]) -> BTreeSet<NamespaceId> {
    let tracked = links.iter().flat_map(Link::tracked);
    let namespaces = tracked.map(|tracked| tracked.connection().namespace);
    namespaces.filter(|namespace| *namespace != NamespaceId::OWN).collect()
}

/// The connections of a probe that nobody was seen to hold.
fn unheld(look: &ProbeLook) -> BTreeSet<Cookie> {
    Direction::ALL.iter().flat_map(|way| look.direction(*way).unheld.iter().copied()).collect()
}

#[cfg(test)]
mod tests;
