//! A link over time: which series it has, when its status changed, what its data points are.
//!
//! A probe that never matched has one series, without a direction. Once it has matched in a direction, that
//! series goes on, at 0 while the link is down: a series that ends would leave an alert nothing to fire on.
//!
//! What a walk over all sockets finds is taken in by [`Link::absorb`]; between walks the connections that it found are
//! looked up again. [`Link::report`] tells of both.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::address::Endpoint;
use crate::connection::{Connection, Cookie, Direction};
use crate::health::Sighting;
use crate::infer::{Attribution, Attributions};
use crate::look::{DirectionLook, DownReason, MatchedConnection, ProbeLook};
use crate::metric::{self, Attribute, AttributeSet, AttributeValue, DataPoint, Extra, Kind, Metric, Value};
use crate::namespace::NamespaceId;
use crate::probe::{ConnectionProbe, MatchedSourceLabels};
use crate::process::{Container, PatternId, Process};
use crate::track::{Past, Track, Tracked};

/// Series that one probe may have for the sources that matched, and as many for those that are unattributed. Beyond it, the
/// one that has been down for longest makes room, or one that was told to be 0; while there is none, further sources get no
/// series and are counted ([`Link::unreported`]).
pub const MAX_SOURCES: usize = 1_000;

/// For how long each source has to have had a series before a probe counts as limited no more: where sources come and go
/// at the bound, it is reached again and again.
pub const UNLIMITED_AFTER: Duration = Duration::from_mins(5);

/// Connections of one probe that are looked up again each cycle, beside the first of each series.
pub const MAX_TRACKED_A_PROBE: usize = 1_024;

/// Endpoints to which the destination of one series is translated, of which its connections are told apart: those with
/// most of them.
pub const MAX_TRANSLATED: usize = 64;

/// After how long a series ends that is down and whose container is gone, unless it is the last of its probe.
pub const GONE_SERIES: Duration = Duration::from_mins(5);

/// The source by which series of one probe are told apart: its address as far as `matchedSourceLabels` asks, and the
/// container on this host, where it has a network of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MatchedSource {
    /// The address, where none is configured.
    pub ip: Option<IpAddr>,
    /// The port, where none is configured.
    pub port: Option<u16>,
    /// The container that holds the connection, in another network namespace than the agent's.
    pub container: Option<Arc<Container>>,
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
    /// By what it is known that a process that fits holds one of them, the surest way; `None` when it is down.
    pub attribution: Option<Attribution>,
    /// The owners of the connections: the present ones, or when it went down the last ones.
    pub owners: Vec<Arc<Process>>,
}

/// A probe and what is remembered of it from cycle to cycle.
#[derive(Debug)]
pub struct Link {
    probe: Arc<ConnectionProbe>,
    undirected: Option<Box<Series>>,
    series: BTreeMap<SeriesKey, Box<Series>>,
    /// Series that have not matched and were flagged as unattributed: told to be 0 when they no longer are.
    flagged: BTreeMap<SeriesKey, Flag>,
    walked_at: Option<Duration>,
    /// The connections that fitted by address at the last walk, and whether they satisfied the probe; sorted.
    seen: BTreeMap<Direction, Box<[(Cookie, bool)]>>,
    /// Whether there were more, which that walk left out.
    has_unseen: bool,
    untracked: Untracked,
    unreported: u64,
    /// When a walk last found sources without a series, until it is long ago.
    limited_at: Option<Duration>,
    /// Whether it has been seen in reverse by a translation; `None` until it has been seen in reverse by a look that would
    /// have shown it.
    translated: Option<bool>,
}

/// What tells the series of one probe apart.
type SeriesKey = (Direction, MatchedSource);

#[derive(Debug)]
struct Series {
    attributes: Arc<AttributeSet>,
    /// Since when its counters count.
    since: SystemTime,
    /// `None` until a look was taken in.
    finding: Option<Finding>,
    /// The last that were known.
    owners: Vec<Arc<Process>>,
    down_since: Option<SystemTime>,
    /// Since when its container is gone, as far as it is down.
    gone_since: Option<Duration>,
    track: Track,
    /// How many connections go to which endpoint that the destination is translated to, as of the last walk.
    translated: Vec<(Arc<AttributeSet>, Endpoint, u64)>,
}

/// What one series has, as of the last look.
#[derive(Debug, Clone, Copy)]
struct Finding {
    up: bool,
    connections: u64,
    /// By what it is known that they are the link's.
    attributions: Attributions,
    unattributed: u64,
    reason: Option<DownReason>,
}

#[derive(Debug)]
struct Flag {
    attributes: Arc<AttributeSet>,
    unattributed: u64,
}

/// Connections that satisfied a probe and are not looked up again each cycle, by the bound that they are beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Untracked {
    /// [`MAX_TRACKED_A_PROBE`].
    pub by_probe: u64,
    /// The bound for all probes together.
    pub by_agent: u64,
}

/// When a look was taken, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The time of day.
    pub wall: SystemTime,
    /// The time on a clock that never goes backwards.
    pub monotonic: Duration,
}

impl Link {
    /// A link of which nothing is known yet.
    #[must_use]
    pub fn new(probe: Arc<ConnectionProbe>) -> Self {
        Self {
            probe,
            undirected: None,
            series: BTreeMap::new(),
            flagged: BTreeMap::new(),
            walked_at: None,
            seen: BTreeMap::new(),
            has_unseen: false,
            untracked: Untracked::default(),
            unreported: 0,
            limited_at: None,
            translated: None,
        }
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

    /// Whether the link has ever matched.
    #[must_use]
    pub fn has_matched_any(&self) -> bool {
        !self.series.is_empty()
    }

    /// Whether the link has ever matched in reverse by a translation: without those it is not seen.
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.translated == Some(true)
    }

    /// Whether the link may be there by translations alone, as far as is known. What has only been seen forward does not depend
    /// on them; what has been seen in reverse may, unless they could be read meanwhile.
    #[must_use]
    pub fn may_be_translated(&self) -> bool {
        self.translated.unwrap_or_else(|| !self.has_matched_any() || self.has_matched(Direction::Reverse))
    }

    /// Whether the look, if it is believed, takes a series down that was up, or is the first and tells of a link that is down:
    /// worth a second look. Of a connection that was replaced under the look, neither the old one nor the new one was seen.
    #[must_use]
    pub fn would_go_down(&self, look: &ProbeLook) -> bool {
        let is_first = self.walked_at.is_none();
        if is_first && Direction::ALL.iter().all(|way| !look.direction(*way).is_up()) {
            return true;
        }
        self.series.iter().any(|((direction, source), series)| {
            let addressed = &look.direction(*direction).addressed;
            series.is_up()
                && !series.track.stays_held(|cookie| addressed.contains(&cookie))
                && !look
                    .direction(*direction)
                    .matched
                    .iter()
                    .any(|matched| MatchedSource::of(&self.probe, matched, *direction) == *source)
        })
    }

    /// When a walk over all sockets last covered the link.
    #[must_use]
    pub fn walked_at(&self) -> Option<Duration> {
        self.walked_at
    }

    /// Whether a series that was up has lost every connection that was tracked: only a walk can tell whether it has
    /// another.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.series.values().any(|series| series.is_up() && !series.track.is_held())
    }

    /// Whether all that is known of the link is known of this cycle, without a walk: each of its series is up.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.series.is_empty() && self.series.values().all(|series| series.is_up() && series.track.is_held())
    }

    /// Whether a look that was cut short tells all that there is to tell: each series is up by it, or by what is verified.
    #[must_use]
    pub fn is_confirmed_by(&self, look: &ProbeLook) -> bool {
        let is_matched = |(direction, source): &SeriesKey| {
            look.direction(*direction)
                .matched
                .iter()
                .any(|matched| MatchedSource::of(&self.probe, matched, *direction) == *source)
        };
        let is_any_matched = || Direction::ALL.iter().any(|way| look.direction(*way).is_up());
        self.series.iter().all(|(key, series)| series.track.is_held() || is_matched(key))
            && (!self.series.is_empty() || is_any_matched())
    }

    /// Whether the look cannot tell what would be told of the link: whoever fits lives where no connection is seen.
    #[must_use]
    pub fn is_out_of_sight_of(&self, look: &ProbeLook) -> bool {
        if self.series.is_empty() {
            return look.is_out_of_sight(None);
        }
        self.series.keys().any(|(way, _)| look.is_out_of_sight(Some(*way)))
    }

    /// Whether something fits by address whose holder may not be learned.
    #[must_use]
    pub fn is_unattributed(&self) -> bool {
        let series = self.series.values().chain(&self.undirected).filter_map(|series| series.finding);
        series
            .map(|finding| finding.unattributed)
            .chain(self.flagged.values().map(|flag| flag.unattributed))
            .any(|n| n > 0)
    }

    /// The connections that are beyond a bound and so are not tracked.
    #[must_use]
    pub fn untracked(&self) -> Untracked {
        self.untracked
    }

    /// The sources that matched or were unattributed at the last walk, each in each direction, and have no series.
    #[must_use]
    pub fn unreported(&self) -> u64 {
        self.unreported
    }

    /// Whether there are such sources, or were in the last [`UNLIMITED_AFTER`].
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.limited_at.is_some()
    }

    /// The tracked connections, in an order that holds until the next change.
    pub(crate) fn tracked(&self) -> impl Iterator<Item = &Tracked> {
        self.series.values().flat_map(|series| series.track.connections())
    }

    /// Takes in what was found by looking up the tracked connections again: `sighting` answers for each in order, and
    /// `owner` for the owners of those that are still there.
    pub(crate) fn verify<'a>(
        &mut self,
        pattern: impl Fn(Direction) -> PatternId,
        now: Duration,
        mut sighting: impl FnMut() -> Option<&'a Sighting>,
        mut owner: impl FnMut() -> Option<Arc<Process>>,
    ) {
        for ((direction, _), series) in &mut self.series {
            let lost = series.track.verify(pattern(*direction), now, &mut sighting, &mut owner);
            if let Some(finding) = &mut series.finding {
                finding.connections = finding.connections.saturating_sub(lost);
                finding.attributions.lose(series.track.ended());
            }
        }
    }

    /// Takes in that the tracked connections could not be looked up: nothing is known of them.
    pub(crate) fn distrust(&mut self) {
        for series in self.series.values_mut() {
            series.track.distrust();
        }
    }

    /// Takes in that nothing is to be inferred any more.
    pub(crate) fn distrust_inferred(&mut self) {
        for series in self.series.values_mut() {
            series.track.distrust_inferred();
        }
    }

    /// Takes in what the kernel tells of tracked connections that are new.
    pub(crate) fn examine_new<'a>(
        &mut self,
        now: Duration,
        mut sighting: impl FnMut() -> Option<&'a Sighting>,
    ) {
        for series in self.series.values_mut() {
            series.track.examine_new(now, &mut sighting);
        }
    }

    /// Takes in what a walk found, and adds the changes of status. One connection of each series is tracked, and at most
    /// `room` more.
    pub fn absorb(&mut self, look: &ProbeLook, at: Moment, room: usize, changes: &mut Vec<LinkChange>) {
        let is_first = self.walked_at.is_none();
        self.walked_at = Some(at.monotonic);
        let reverse = &look.reverse;
        if reverse.matched.iter().any(|matched| reverse.translated.contains_key(&matched.connection.cookie)) {
            self.translated = Some(true);
        } else if look.with_translations && reverse.is_up() {
            self.translated.get_or_insert(false);
        }
        let matching: BTreeSet<SeriesKey> = Direction::ALL
            .into_iter()
            .flat_map(|way| look.direction(way).matched.iter().map(move |matched| (way, matched)))
            .map(|(way, matched)| (way, MatchedSource::of(&self.probe, matched, way)))
            .collect();
        self.admit_series(&matching, at.wall);
        let mut unreported = count_missing(&matching, &self.series);
        if self.series.is_empty() {
            self.absorb_undirected(&look.undirected(), at.wall, changes);
        } else {
            self.undirected = None;
            for direction in Direction::ALL {
                let has_unseen = look.next.counting.is_some();
                self.absorb_direction(look.direction(direction), has_unseen, direction, at.wall, changes);
            }
            if !look.untranslated {
                self.tell_translated(look);
            }
            self.track(look, at.monotonic, room, is_first);
            unreported += self.flag(look, &matching);
            self.end_gone(look, at.monotonic);
        }
        self.limit(unreported, look, at.monotonic);
        self.remember(look);
    }

    fn limit(&mut self, unreported: u64, look: &ProbeLook, now: Duration) {
        // Of what a look left out, as many may have no series as before.
        self.unreported = if look.is_incomplete() { unreported.max(self.unreported) } else { unreported };
        let is_limited = |since: &Duration| now.saturating_sub(*since) < UNLIMITED_AFTER;
        self.limited_at = if self.unreported > 0 { Some(now) } else { self.limited_at.filter(is_limited) };
    }

    fn remember(&mut self, look: &ProbeLook) {
        for direction in Direction::ALL {
            let look = look.direction(direction);
            let matched: HashSet<Cookie> =
                look.matched.iter().map(|matched| matched.connection.cookie).collect();
            let seen = look.addressed.iter().map(|cookie| (*cookie, matched.contains(cookie))).collect();
            self.seen.insert(direction, seen);
        }
        self.has_unseen = look.next.counting.is_some();
    }

    /// What the last walk knew of a connection.
    fn past(&self, direction: Direction, cookie: Cookie) -> Past {
        let seen = self.seen.get(&direction).map(AsRef::as_ref).unwrap_or_default();
        match seen.binary_search_by_key(&cookie, |(cookie, _)| *cookie).ok().and_then(|index| seen.get(index))
        {
            Some((_, true)) => Past::Matched,
            Some((_, false)) => Past::Addressed,
            // It may have been among those left out.
            None if self.has_unseen => Past::Addressed,
            None => Past::Unseen,
        }
    }

    /// Tells all that is known of the link: as of now what is tracked, as of the last walk what is not. `with_health`
    /// adds how its connections fare.
    pub fn report(&self, at: Moment, with_health: bool, emit: &mut dyn FnMut(DataPoint)) {
        let age = self.walked_at.map(|walked_at| at.monotonic.saturating_sub(walked_at));
        if let Some(series) = &self.undirected {
            series.report(age, at, false, emit);
        }
        for direction in Direction::ALL {
            for series in
                self.series.iter().filter(|((known, _), _)| *known == direction).map(|(_, series)| series)
            {
                series.report(age, at, with_health, emit);
            }
            for flag in
                self.flagged.iter().filter(|((known, _), _)| *known == direction).map(|(_, flag)| flag)
            {
                emit(DataPoint::count(
                    &metric::UNATTRIBUTED,
                    &flag.attributes,
                    None,
                    flag.unattributed,
                    at.wall,
                ));
            }
        }
    }

    /// Tells by what it is known that the link's connections are its own, for whoever lets that be inferred: of each series
    /// that has matched, all ways, so that none stays behind when another takes its place.
    pub fn report_attribution(&self, time: SystemTime, emit: &mut dyn FnMut(DataPoint)) {
        for series in self.series.values() {
            series.report_attribution(time, emit);
        }
    }

    fn absorb_undirected(&mut self, look: &DirectionLook, time: SystemTime, changes: &mut Vec<LinkChange>) {
        let probe = &self.probe;
        let series = self.undirected.get_or_insert_with(|| {
            Box::new(Series::new(link_attributes(probe, None, &MatchedSource::default()), time))
        });
        let finding = Finding {
            up: false,
            connections: 0,
            attributions: Attributions::default(),
            unattributed: count(&look.unattributed),
            reason: look.down_reason(),
        };
        if series.take_in(finding, Vec::new(), time) {
            changes.push(series.change(finding, probe, None, MatchedSource::default()));
        }
    }

    fn absorb_direction(
        &mut self,
        look: &DirectionLook,
        has_unseen: bool,
        direction: Direction,
        time: SystemTime,
        changes: &mut Vec<LinkChange>,
    ) {
        let mut matched: BTreeMap<MatchedSource, Vec<&MatchedConnection>> = BTreeMap::new();
        for connection in &look.matched {
            matched
                .entry(MatchedSource::of(&self.probe, connection, direction))
                .or_default()
                .push(connection);
        }
        let unattributed = unattributed_by_source(look, &self.probe, direction);
        let labels_sources = self.probe.matched_source_labels != MatchedSourceLabels::None;
        for ((_, source), series) in self.series.iter_mut().filter(|((known, _), _)| *known == direction) {
            let connections = matched.remove(source).unwrap_or_default();
            // In which container it is held is not known of what is not attributed: it may be in any.
            let unattributed = unattributed.get(&source.of_addresses()).copied().unwrap_or_default();
            let labels_sources = labels_sources || source.container.is_some();
            let found: HashMap<Cookie, &[Arc<Process>]> = connections
                .iter()
                .map(|matched| (matched.connection.cookie, matched.owners.as_slice()))
                .collect();
            let attributions: HashMap<Cookie, Attribution> =
                connections.iter().map(|matched| (matched.connection.cookie, matched.attribution)).collect();
            series.track.attribute(&attributions, |cookie| look.addressed.contains(&cookie));
            series.track.renew(&found, |cookie| has_unseen || look.addressed.contains(&cookie));
            // What was verified in this cycle and not found by the walk is there all the same.
            let unseen: Attributions = series
                .track
                .held()
                .filter(|known| !found.contains_key(&known.connection().cookie))
                .map(Tracked::attribution)
                .collect();
            let mut attributions: Attributions = attributions.into_values().collect();
            attributions.add(&unseen);
            let connections = count(&connections) + unseen.total();
            let owners = distinct_owners(
                found.values().copied().chain(series.track.held().map(Tracked::owners)).flatten(),
            );
            let up = !owners.is_empty();
            let reason = match look.down_reason() {
                _ if up => None,
                _ if unattributed > 0 => Some(DownReason::NotPermitted),
                // Of one source among several, the other reasons may be another's.
                Some(reason @ (DownReason::ProcessAbsent | DownReason::OtherNamespace)) => Some(reason),
                Some(reason) if !labels_sources => Some(reason),
                _ => Some(DownReason::NoConnection),
            };
            let finding = Finding { up, connections, attributions, unattributed, reason };
            if series.take_in(finding, owners, time) {
                changes.push(series.change(finding, &self.probe, Some(direction), source.clone()));
            }
        }
    }

    /// Takes in to which endpoints the destination is translated.
    fn tell_translated(&mut self, look: &ProbeLook) {
        for ((direction, source), series) in &mut self.series {
            let look = look.direction(*direction);
            let mut counts: BTreeMap<Endpoint, u64> = BTreeMap::new();
            for matched in &look.matched {
                if MatchedSource::of(&self.probe, matched, *direction) == *source
                    && let Some(end) = look.translated.get(&matched.connection.cookie)
                {
                    *counts.entry(*end).or_default() += 1;
                }
            }
            let mut counts: Vec<(Endpoint, u64)> = counts.into_iter().collect();
            counts.sort_unstable_by_key(|(end, connections)| (Reverse(*connections), *end));
            counts.truncate(MAX_TRANSLATED);
            let mut known = std::mem::take(&mut series.translated);
            series.translated = counts
                .into_iter()
                .map(|(end, connections)| {
                    let place = known.iter().position(|(_, known, _)| *known == end);
                    let attributes = match place {
                        Some(place) => known.swap_remove(place).0,
                        None => translated_attributes(&series.attributes, end),
                    };
                    (attributes, end, connections)
                })
                .collect();
        }
    }

    /// Begins to track what matches: one connection of each series whatever the bounds, so that its end is seen at once, and
    /// the others as far as the bounds allow.
    fn track(&mut self, look: &ProbeLook, now: Duration, room: usize, is_first: bool) {
        let known: HashSet<(Direction, Cookie)> = self
            .series
            .iter()
            .flat_map(|((way, _), series)| {
                series.track.connections().iter().map(|known| (*way, known.connection().cookie))
            })
            .collect();
        let mut candidates: Vec<(SeriesKey, &MatchedConnection)> = Direction::ALL
            .into_iter()
            .flat_map(|way| look.direction(way).matched.iter().map(move |matched| (way, matched)))
            .filter(|(way, matched)| !known.contains(&(*way, matched.connection.cookie)))
            .map(|(way, matched)| ((way, MatchedSource::of(&self.probe, matched, way)), matched))
            .collect();
        let of_probe = MAX_TRACKED_A_PROBE.saturating_sub(self.tracked().count());
        let mut left = of_probe.min(room);
        for is_first_round in [true, false] {
            candidates.retain(|(key, matched)| {
                let cookie = matched.connection.cookie;
                let past = if is_first { Past::Addressed } else { self.past(key.0, cookie) };
                let (Some(series), Some(inode)) = (self.series.get_mut(key), matched.connection.inode) else {
                    return false;
                };
                let has_to_wait = if is_first_round { series.track.is_held() } else { left == 0 };
                if !has_to_wait {
                    left = left.saturating_sub(1);
                    series.track.admit(matched.connection, inode, &matched.owners, now, past);
                    series.track.attribute(&HashMap::from([(cookie, matched.attribution)]), |_| false);
                }
                has_to_wait
            });
        }
        let beyond = count(&candidates);
        self.untracked = if of_probe <= room {
            Untracked { by_probe: beyond, by_agent: 0 }
        } else {
            Untracked { by_probe: 0, by_agent: beyond }
        };
    }

    /// What fits by address and may not be attributed is told even where nothing has matched yet, and then that it is
    /// over. Returns of how many sources that cannot be told, beside those that match.
    fn flag(&mut self, look: &ProbeLook, matching: &BTreeSet<SeriesKey>) -> u64 {
        let mut unattributed: BTreeMap<SeriesKey, u64> = BTreeMap::new();
        for way in Direction::ALL {
            let found = unattributed_by_source(look.direction(way), &self.probe, way);
            unattributed.extend(found.into_iter().map(|(source, connections)| ((way, source), connections)));
        }
        // Once a series has matched, its own points tell.
        let series = &self.series;
        unattributed.retain(|key, _| !series.contains_key(key));
        self.flagged.retain(|key, _| !series.contains_key(key));
        let new = unattributed.keys().filter(|key| !self.flagged.contains_key(*key)).count();
        let beyond = (self.flagged.len() + new).saturating_sub(MAX_SOURCES);
        if beyond > 0 {
            let is_over = |(key, flag): &(&SeriesKey, &Flag)| {
                flag.unattributed == 0 && !unattributed.contains_key(*key)
            };
            let over = self.flagged.iter().filter(is_over).map(|(key, _)| key.clone());
            for key in over.take(beyond).collect::<Vec<SeriesKey>>() {
                self.flagged.remove(&key);
            }
        }
        for (key, flag) in &mut self.flagged {
            flag.unattributed = unattributed.remove(key).unwrap_or(0);
        }
        let mut unflagged = 0;
        for (key, unattributed) in unattributed {
            if self.flagged.len() < MAX_SOURCES {
                let attributes = link_attributes(&self.probe, Some(key.0), &key.1);
                self.flagged.insert(key, Flag { attributes, unattributed });
            } else {
                unflagged += u64::from(!matching.contains(&key));
            }
        }
        unflagged
    }

    /// Gives what matches series. Room is made by those that have been down for longest and do not match now.
    fn admit_series(&mut self, matching: &BTreeSet<SeriesKey>, time: SystemTime) {
        let new: Vec<&SeriesKey> = matching.iter().filter(|key| !self.series.contains_key(*key)).collect();
        let beyond = (self.series.len() + new.len()).saturating_sub(MAX_SOURCES);
        if beyond > 0 {
            let down = self.series.iter().filter_map(|(key, series)| Some((series.down_since?, key)));
            let mut down: Vec<(SystemTime, SeriesKey)> = down
                .filter(|(_, key)| !matching.contains(*key))
                .map(|(since, key)| (since, key.clone()))
                .collect();
            down.sort_unstable();
            for (_, key) in down.into_iter().take(beyond) {
                self.series.remove(&key);
            }
        }
        for key in new.into_iter().take(MAX_SOURCES.saturating_sub(self.series.len())) {
            let attributes = link_attributes(&self.probe, Some(key.0), &key.1);
            self.series.insert(key.clone(), Box::new(Series::new(attributes, time)));
        }
    }

    /// Ends series that are down and whose containers have been gone for long: pods come and go, each with another name. One
    /// series of each direction stays, so that the link is never without.
    fn end_gone(&mut self, look: &ProbeLook, now: Duration) {
        let Some(containers) = &look.containers else { return };
        let mut ended: Vec<(Duration, SeriesKey)> = Vec::new();
        for (key, series) in &mut self.series {
            let Some(container) = &key.1.container else { continue };
            let is_gone = !series.is_up() && !containers.contains(container);
            series.gone_since = is_gone.then(|| series.gone_since.unwrap_or(now));
            let since = series.gone_since.filter(|since| now.saturating_sub(*since) >= GONE_SERIES);
            ended.extend(since.map(|since| (since, key.clone())));
        }
        ended.sort_unstable();
        for (_, key) in ended {
            let is_last = self.series.keys().filter(|(direction, _)| *direction == key.0).count() == 1;
            if !is_last {
                self.series.remove(&key);
            }
        }
    }
}

impl MatchedSource {
    /// The source of a connection that satisfies the probe in that direction, as far as it is told.
    #[must_use]
    pub fn of(probe: &ConnectionProbe, matched: &MatchedConnection, direction: Direction) -> Self {
        let is_elsewhere = matched.connection.namespace != NamespaceId::OWN;
        let container = matched.owners.iter().find_map(|owner| owner.container.clone());
        Self {
            container: container.filter(|_| is_elsewhere),
            ..Self::by_addresses(probe, &matched.connection, direction)
        }
    }

    /// The same of a connection of which it is not known who holds it.
    #[must_use]
    pub fn by_addresses(probe: &ConnectionProbe, connection: &Connection, direction: Direction) -> Self {
        let end = connection.source_end(direction);
        let (ip, port) = match probe.matched_source_labels {
            MatchedSourceLabels::None => (false, false),
            MatchedSourceLabels::Ip => (true, false),
            MatchedSourceLabels::IpPort => (true, true),
        };
        Self {
            ip: (ip && probe.source_ip.is_none()).then(|| end.ip()),
            port: (port && probe.source_port.is_none()).then(|| end.port()),
            container: None,
        }
    }

    /// The same, in whichever container.
    #[must_use]
    pub fn of_addresses(&self) -> Self {
        Self { ip: self.ip, port: self.port, container: None }
    }
}

impl Series {
    fn new(attributes: Arc<AttributeSet>, since: SystemTime) -> Self {
        Self {
            attributes,
            since,
            finding: None,
            owners: Vec::new(),
            down_since: None,
            gone_since: None,
            track: Track::default(),
            translated: Vec::new(),
        }
    }

    fn is_up(&self) -> bool {
        self.finding.is_some_and(|finding| finding.up)
    }

    /// Remembers the finding; true when the status has changed, or is known for the first time.
    fn take_in(&mut self, finding: Finding, owners: Vec<Arc<Process>>, time: SystemTime) -> bool {
        let changed = self.finding.is_none_or(|before| before.up != finding.up);
        self.finding = Some(finding);
        if finding.up {
            self.owners = owners;
            self.down_since = None;
        } else {
            self.down_since.get_or_insert(time);
        }
        changed
    }

    /// The change to that finding. Of a link that went down it names the last owners, and then forgets them.
    fn change(
        &mut self,
        finding: Finding,
        probe: &Arc<ConnectionProbe>,
        direction: Option<Direction>,
        source: MatchedSource,
    ) -> LinkChange {
        let owners = if finding.up { self.owners.clone() } else { std::mem::take(&mut self.owners) };
        LinkChange {
            probe: Arc::clone(probe),
            direction,
            source,
            up: finding.up,
            reason: finding.reason,
            connections: finding.connections,
            attribution: finding.attributions.surest().filter(|_| finding.up),
            owners,
        }
    }

    fn point(&self, metric: &'static Metric, extra: Option<Extra>, value: Value, at: Moment) -> DataPoint {
        DataPoint {
            metric,
            attributes: Arc::clone(&self.attributes),
            extra,
            time: at.wall,
            start: (metric.kind != Kind::Gauge).then_some(self.since),
            value,
        }
    }

    fn report(&self, age: Option<Duration>, at: Moment, with_health: bool, emit: &mut dyn FnMut(DataPoint)) {
        let Some(finding) = self.finding else { return };
        let mut push = |metric: &'static Metric, extra: Option<Extra>, value: Value| {
            emit(self.point(metric, extra, value, at));
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
        for (attributes, _, connections) in &self.translated {
            emit(DataPoint::count(&metric::TRANSLATED, attributes, None, *connections, at.wall));
        }
        let mut push = |metric: &'static Metric, extra: Option<Extra>, value: Value| {
            emit(self.point(metric, extra, value, at));
        };
        if let Some(age) = age {
            push(&metric::WALK_AGE, None, seconds(age));
        }
        if with_health {
            self.report_health(at.monotonic, &mut push);
        }
    }

    fn report_attribution(&self, time: SystemTime, emit: &mut dyn FnMut(DataPoint)) {
        let Some(finding) = self.finding else { return };
        for attribution in Attribution::ALL {
            let extra = Some(Extra { key: "attribution", value: attribution.as_str() });
            let connections = finding.attributions.by(attribution);
            emit(DataPoint::count(&metric::ATTRIBUTION, &self.attributes, extra, connections, time));
        }
    }

    fn report_health(&self, now: Duration, push: &mut impl FnMut(&'static Metric, Option<Extra>, Value)) {
        let io = |value| Some(Extra { key: "network.io.direction", value });
        let totals = self.track.totals();
        push(&metric::RECONNECTS, None, int(totals.reconnects));
        push(&metric::RETRANSMITS, None, int(totals.retransmits));
        push(&metric::IO, io("transmit"), int(totals.sent_bytes));
        push(&metric::IO, io("receive"), int(totals.received_bytes));
        if let Some(age) = self.track.age(now) {
            push(&metric::CONNECTION_AGE, None, seconds(age));
        }
        let Some(health) = self.track.health(now) else { return };
        for (statistic, rtt) in ["min", "mean", "max"].into_iter().zip(health.rtt.into_iter().flatten()) {
            push(&metric::RTT, Some(Extra { key: "statistic", value: statistic }), seconds(rtt));
        }
        push(&metric::LAST_DATA_AGE, None, seconds(health.since_data));
        push(&metric::LAST_ACKNOWLEDGMENT_AGE, None, seconds(health.since_acknowledgment));
        push(&metric::ACKNOWLEDGMENT_WAIT, None, seconds(health.acknowledgment_wait));
        push(&metric::UNACKNOWLEDGED, None, int(health.unacknowledged_bytes));
        push(&metric::QUEUED, io("transmit"), int(health.unsent_bytes));
        push(&metric::QUEUED, io("receive"), int(health.unread_bytes));
    }
}

/// The attributes of a link's points, in the order of the reference.
fn link_attributes(
    probe: &ConnectionProbe,
    direction: Option<Direction>,
    source: &MatchedSource,
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
    if let Some(container) = &source.container {
        let pod_name = container.pod_name.as_deref();
        let told = [
            ("container.id", container.id.as_ref()),
            ("k8s.pod.uid", container.pod_uid.as_ref()),
            ("k8s.pod.name", pod_name.map(|pod| &pod.name)),
            ("k8s.namespace.name", pod_name.map(|pod| &pod.namespace)),
        ];
        let attribute = |(key, value): (_, Option<&Arc<str>>)| {
            value.cloned().map(|value| Attribute { key, value: AttributeValue::Str(value) })
        };
        attributes.extend(told.into_iter().filter_map(attribute));
    }
    attributes.extend(direction.map(|direction| Attribute::new("direction", direction.as_str())));
    Arc::new(AttributeSet::new(attributes))
}

/// The attributes of a series, and the endpoint to which its destination is translated.
fn translated_attributes(series: &AttributeSet, end: Endpoint) -> Arc<AttributeSet> {
    let ip = AttributeValue::Str(end.ip().to_string().into());
    let mut attributes = series.to_vec();
    attributes.push(Attribute { key: "dest_translated_ip", value: ip });
    attributes.push(Attribute::new("dest_translated_port", end.port()));
    Arc::new(AttributeSet::new(attributes))
}

fn distinct_owners<'a>(all: impl Iterator<Item = &'a Arc<Process>>) -> Vec<Arc<Process>> {
    let mut owners: Vec<Arc<Process>> = Vec::new();
    for owner in all {
        if !owners.iter().any(|known| known.pid == owner.pid) {
            owners.push(Arc::clone(owner));
        }
    }
    owners
}

fn unattributed_by_source(
    look: &DirectionLook,
    probe: &ConnectionProbe,
    direction: Direction,
) -> BTreeMap<MatchedSource, u64> {
    let mut unattributed = BTreeMap::new();
    for connection in &look.unattributed {
        *unattributed.entry(MatchedSource::by_addresses(probe, connection, direction)).or_default() += 1;
    }
    unattributed
}

fn count_missing(matching: &BTreeSet<SeriesKey>, series: &BTreeMap<SeriesKey, Box<Series>>) -> u64 {
    matching.iter().map(|key| u64::from(!series.contains_key(key))).sum()
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

fn int(count: u64) -> Value {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

fn seconds(time: Duration) -> Value {
    Value::Double(time.as_secs_f64())
}

#[cfg(test)]
mod tests;
