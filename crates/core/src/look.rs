//! One look at the host: which connections a set of probes has at this moment, and who holds them.
//!
//! A look asks the kernel once for all its probes ([`ConnAdapter::dump`]), then once for the holders of what fits
//! by address ([`ProcessAdapter::find_holders`]), and decides. It remembers nothing; see [`crate::link`].
//! It costs a walk over every socket of the host: between looks, [`crate::monitor`] only verifies what is known.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::adapter::{ConnAdapter, ProcessAdapter};
use crate::address::Endpoint;
use crate::allowance::Allowance;
use crate::causes::with_causes;
use crate::connection::{Connection, ConnectionFilter, Cookie, Direction, Inode, TcpState, TcpStates};
use crate::infer::{self, Attribution, AttributionMode, InferenceLack};
use crate::name::HostName;
use crate::namespace::{Inhabited, Namespace, NamespaceId, NamespaceQuery};
use crate::observer::Observer;
use crate::probe::ConnectionProbe;
use crate::process::{
    Capability, Container, HolderQuery, HolderScan, PatternId, Process, ProcessSelector, SelectorBuilder,
};
use crate::sight::{Asked, Outlook, Sight};
use crate::socket::{Socket, SocketClause, SocketFilter, SocketSurvey, Transport};
use crate::translation::Translations;

/// Connections that fit by address of which one look finds out who holds them, for all probes together: what is worked out
/// about each takes about 1.1 kB meanwhile. Of what is beyond that, a probe with few loses none.
pub const MAX_CANDIDATES: usize = 24_576;

/// The same of connections in network namespaces that are looked at for their names alone, beside the others: of these nothing
/// counts but what matches, and most are everybody else's.
pub(crate) const MAX_NAMED_CANDIDATES: usize = MAX_CANDIDATES / 4;

/// Connections that fit by address in all network namespaces together, of 72 bytes each.
const MAX_DUMPED: usize = 1 << 18;

/// Why a link is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DownReason {
    /// An ESTABLISHED connection fits by address, and the agent was not permitted to learn who holds it.
    NotPermitted,
    /// An ESTABLISHED connection fits by address, and no process that fits holds it.
    HeldByOther,
    /// No process on this host fits.
    ProcessAbsent,
    /// A connection is being tried: `SYN_SENT`.
    Connecting,
    /// A process that fits lives in another network namespace, whose connections the agent does not see. Others that fit
    /// may live in the agent's own.
    OtherNamespace,
    /// A process that fits may be there; a connection is not.
    NoConnection,
}

impl DownReason {
    /// The value of the `reason` attribute.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotPermitted => "not_permitted",
            Self::HeldByOther => "held_by_other",
            Self::ProcessAbsent => "process_absent",
            Self::Connecting => "connecting",
            Self::OtherNamespace => "other_namespace",
            Self::NoConnection => "no_connection",
        }
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Whether some process on this host fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// It made no difference, or not every process could be told: nothing is claimed.
    #[default]
    Unknown,
    /// At least one does.
    Present,
    /// None does, and the names of all are known.
    Absent,
}

/// A connection that satisfies a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchedConnection {
    /// The connection.
    pub connection: Connection,
    /// The processes that hold it and fit: at least one. Where that is inferred, those of which one does.
    pub owners: Vec<Arc<Process>>,
    /// By what that is known.
    pub attribution: Attribution,
}

/// What a look found of one probe in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectionLook {
    /// The connections that satisfy the probe.
    pub matched: Vec<MatchedConnection>,
    /// ESTABLISHED connections that fit by address, whose holder the agent was not permitted to learn and did not infer.
    pub unattributed: Vec<Connection>,
    /// ESTABLISHED connections that fit by address, and that no process that fits holds.
    pub held_by_other: usize,
    /// All ESTABLISHED connections that fit by address, whoever holds them.
    pub addressed: BTreeSet<Cookie>,
    /// Of the connections that do not match, those that nobody was seen to hold: in a listener's backlog no longer, so
    /// closed since they were dumped, or handed on meanwhile, or out of sight.
    pub unheld: BTreeSet<Cookie>,
    /// Connections that fit by address and wait for the peer's first answer.
    pub connecting: usize,
    /// ESTABLISHED connections that fit by address, of which the search was cut short before it was known who holds them.
    pub undecided: usize,
    /// Whether a process fits.
    pub process: Presence,
    /// Whether a process that fits lives in another network namespace than the agent.
    pub elsewhere: bool,
    /// Whether one does that might fit, were all its names known; only told where the agent is displaced.
    pub maybe_elsewhere: bool,
    /// Whether a process that fits lives in the agent's; only known where the agent is displaced.
    pub here: bool,
    /// The capabilities whose absence left connections unattributed, or to be inferred.
    pub missing: BTreeSet<Capability>,
    /// Of the ESTABLISHED connections that fit by address, those whose destination is translated, and the endpoint to which it
    /// is.
    pub translated: BTreeMap<Cookie, Endpoint>,
}

impl DirectionLook {
    /// Whether the link is up in this direction.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.matched.is_empty()
    }

    /// Why the link is down in this direction, or `None` while it is up.
    #[must_use]
    pub fn down_reason(&self) -> Option<DownReason> {
        if self.is_up() {
            return None;
        }
        let reason = if !self.unattributed.is_empty() {
            DownReason::NotPermitted
        } else if self.held_by_other > 0 {
            DownReason::HeldByOther
        } else if self.process == Presence::Absent {
            DownReason::ProcessAbsent
        } else if self.connecting > 0 {
            DownReason::Connecting
        } else if self.elsewhere {
            DownReason::OtherNamespace
        } else {
            DownReason::NoConnection
        };
        Some(reason)
    }
}

/// With which connections a look begins at a probe that has too many, in the order of their cookies: `None` stands before all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Beginning {
    /// Of those that count, whatever becomes of them.
    pub counting: Option<Cookie>,
    /// Of those in network namespaces that are looked at for their names alone.
    pub named: Option<Cookie>,
}

/// What a look found of one probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeLook {
    /// Seen from the source's host.
    pub forward: DirectionLook,
    /// Seen from the destination's host.
    pub reverse: DirectionLook,
    /// Where the next look has to begin, where this one left some out ([`MAX_CANDIDATES`]). Those are counted as undecided, and
    /// nothing else is told of them.
    pub next: Beginning,
    /// Whether connections may be missing in reverse, because the translations by which they would be known could not be
    /// read.
    pub untranslated: bool,
    /// Why connections may be missing of other network namespaces, in which processes live that fit.
    pub unread: Option<Unread>,
    /// Whether all translations were told by which connections are known in reverse.
    pub with_translations: bool,
    /// Why holders were not inferred of what is unattributed, as far as that is the host's.
    pub lacks: BTreeSet<InferenceLack>,
    /// Connections of those who live elsewhere cannot be ruled out: [`HolderScan::is_displaced`], or they live in a network
    /// namespace that was to be looked at, and that the agent may not enter.
    pub is_displaced: bool,
    /// The containers, in other network namespaces than the agent's, in which processes are that fit a probe; `None` where
    /// only the agent's own was looked at.
    pub containers: Option<Arc<BTreeSet<Arc<Container>>>>,
}

impl ProbeLook {
    /// What was found in that direction.
    #[must_use]
    pub fn direction(&self, direction: Direction) -> &DirectionLook {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Reverse => &self.reverse,
        }
    }

    /// Whether the search for holders was cut short: of some connections nothing is known.
    #[must_use]
    pub fn is_cut_short(&self) -> bool {
        Direction::ALL.iter().any(|way| self.direction(*way).undecided > 0)
    }

    /// Whether there may be more to find than was found.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.is_cut_short() || self.untranslated || self.unread.is_some()
    }

    /// Why there may be more to find than was found.
    pub(crate) fn shortcoming(&self) -> LookError {
        match &self.unread {
            _ if self.is_cut_short() => LookError::CutShort,
            Some(Unread::CutShort) => LookError::CutShort,
            Some(Unread::Failed(cause)) => LookError::Unread(Arc::clone(cause)),
            None => LookError::Untranslated,
        }
    }

    /// Whether nothing can be told in that direction, or in any: the agent sees the processes of one host and the sockets
    /// of another, and whoever fits lives where it sees no sockets.
    #[must_use]
    pub fn is_out_of_sight(&self, direction: Option<Direction>) -> bool {
        let both = [&self.forward, &self.reverse];
        let all = direction.as_ref().map_or(both, |way| [self.direction(*way); 2]);
        // What is unattributed is flagged already.
        let is_open = |look: &&DirectionLook| look.maybe_elsewhere && look.unattributed.is_empty();
        self.is_displaced
            && all.iter().any(|look| look.elsewhere || is_open(look))
            && !all.iter().any(|look| look.here)
    }

    pub(crate) fn direction_mut(&mut self, direction: Direction) -> &mut DirectionLook {
        match direction {
            Direction::Forward => &mut self.forward,
            Direction::Reverse => &mut self.reverse,
        }
    }

    /// Both directions as one, for a probe that has not matched yet and so has no direction.
    #[must_use]
    pub fn undirected(&self) -> DirectionLook {
        let both = [&self.forward, &self.reverse];
        let process = match (self.forward.process, self.reverse.process) {
            (Presence::Present, _) | (_, Presence::Present) => Presence::Present,
            (Presence::Absent, Presence::Absent) => Presence::Absent,
            _ => Presence::Unknown,
        };
        DirectionLook {
            matched: both.iter().flat_map(|look| look.matched.iter().cloned()).collect(),
            unattributed: both.iter().flat_map(|look| look.unattributed.iter().copied()).collect(),
            held_by_other: both.iter().map(|look| look.held_by_other).sum(),
            addressed: both.iter().flat_map(|look| look.addressed.iter().copied()).collect(),
            unheld: both.iter().flat_map(|look| look.unheld.iter().copied()).collect(),
            connecting: both.iter().map(|look| look.connecting).sum(),
            undecided: both.iter().map(|look| look.undecided).sum(),
            process,
            elsewhere: both.iter().any(|look| look.elsewhere),
            maybe_elsewhere: both.iter().any(|look| look.maybe_elsewhere),
            here: both.iter().any(|look| look.here),
            missing: both.iter().flat_map(|look| look.missing.iter().copied()).collect(),
            translated: both.iter().flat_map(|look| look.translated.clone()).collect(),
        }
    }
}

/// Why connections of a network namespace were not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// There was no time left, or no room.
    CutShort,
    /// They could not be told: what is in the way, with its causes.
    Failed(Arc<str>),
}

/// A look that failed: nothing is known, and nothing may be reported.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The kernel did not tell which connections there are.
    #[error("connections could not be read")]
    Connections(#[source] Box<dyn Error + Send + Sync>),
    /// What was known could not be verified: there were not as many answers as questions.
    #[error("known connections could not all be looked up")]
    Incomplete,
    /// Connections that fit came and went, look after look, before it was known who holds them.
    #[error("connections are replaced faster than their holders can be found")]
    Unsettled,
    /// The time that looks may take was spent before it was known who holds a connection that fits.
    #[error(
        "the search for who holds connections was cut short after the time it may take; lengthen `interval`, or see who \
         has so many connections, processes or open files"
    )]
    CutShort,
    /// The sockets could not be told for which probes ask that count.
    #[error("sockets could not be counted: {0}")]
    Unsurveyed(Arc<str>),
    /// What a host name means is not known for certain, and without that the answer may be false.
    #[error("the host name `{name}` could not be resolved: {cause}")]
    Unresolved {
        /// The name.
        name: HostName,
        /// Why, and what to do.
        cause: Arc<str>,
    },
    /// More sockets fit than it can be found out of who holds them.
    #[error(
        "more than {MAX_CANDIDATES} sockets fit, of all probes that count together, and it is not found out who holds so many; \
         give a probe `connection` ports or addresses, or leave out its `processName`; `discovery` is not for such a host"
    )]
    Crowded,
    /// Whoever fits lives where the agent sees no sockets.
    #[error(
        "processes that fit live in another network namespace than the agent, and whether they are of its host cannot be \
         told; give the agent the host's network, or run it beside them"
    )]
    OutOfSight,
    /// The connections of a network namespace in which processes live that fit could not be told; the link may be up there.
    #[error("connections of another network namespace could not be read: {0}")]
    Unread(Arc<str>),
    /// What connections to a service are translated to could not be read, and without that the link may be up unseen.
    #[error("connections that are known by their translation (NAT) alone could not be told")]
    Untranslated,
    /// The processes could not be listed.
    #[error("processes could not be read")]
    Processes(#[source] Box<dyn Error + Send + Sync>),
}

impl LookError {
    /// Whether both say the same.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unsurveyed(one), Self::Unsurveyed(other)) | (Self::Unread(one), Self::Unread(other)) => {
                one == other
            }
            (Self::Unresolved { name, cause }, Self::Unresolved { name: other, cause: others }) => {
                (name, cause) == (other, others)
            }
            (Self::Connections(_), Self::Connections(_)) | (Self::Processes(_), Self::Processes(_)) => {
                with_causes(self) == with_causes(other)
            }
            _ => mem::discriminant(self) == mem::discriminant(other),
        }
    }

    /// Whether looks took more than they may: only then there is to be a pause.
    pub(crate) fn is_for_want_of_time(&self) -> bool {
        !matches!(self, Self::Crowded | Self::OutOfSight | Self::Unsurveyed(_) | Self::Unresolved { .. })
    }
}

/// The states that a look needs: those that count, and `SYN_SENT` for the reason of a "down".
const STATES: TcpStates = TcpStates::of(&[TcpState::Established, TcpState::SynSent]);

/// How to look.
#[derive(Clone, Copy)]
pub struct Manner<'a> {
    /// In which directions a "down" of a probe, given by its place, will be reported: processes are only counted where
    /// the answer is used.
    pub wants_reason: &'a dyn Fn(usize, Direction) -> bool,
    /// Find all owners of a connection, not just enough of them.
    pub every_holder: bool,
    /// Sockets whose holders were verified a moment ago: these need not be searched for.
    pub known: &'a HashMap<Inode, Vec<Arc<Process>>>,
    /// The moment of looking, on a clock that never goes backwards.
    pub now: Duration,
    /// The same moment, by [`Clock::since_boot`](crate::Clock::since_boot).
    pub since_boot: Duration,
    /// What looking may take.
    pub allowance: &'a Allowance<'a>,
    /// Where to begin at a probe, given by its place, that has too many: what the last look at it told.
    pub begin_with: &'a dyn Fn(usize) -> Beginning,
    /// The translations of the services ([`LookPlan::services`]), read before this look.
    pub translations: &'a Translations,
    /// Whether the translations of the services were told, all of them.
    pub with_translations: bool,
    /// Whether of a probe, given by its place, translations matter that could not be read.
    pub untranslated: &'a dyn Fn(usize) -> bool,
    /// Whether holders are inferred where they may not be read.
    pub attribution: AttributionMode,
    /// To look at every network namespace in which processes live that fit: those that have to stay attended to in any
    /// case, because connections in them are known. `None` to look at the agent's own alone.
    pub in_use: Option<&'a BTreeSet<NamespaceId>>,
    /// Then to look at those as well that have a name, whoever lives there.
    pub named: bool,
    /// Who is to be shown what he asks for beside the links, in the order in which that was planned.
    pub observers: &'a [&'a dyn Observer],
}

/// What one look found.
#[derive(Debug, Default)]
pub struct Look {
    /// Of each link, in the order in which they were planned.
    pub links: Vec<ProbeLook>,
    /// What is to be shown to observers.
    pub sight: Sight,
}

impl fmt::Debug for Manner<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Manner")
            .field("every_holder", &self.every_holder)
            .field("known", &self.known)
            .field("now", &self.now)
            .field("translations", &self.translations)
            .finish_non_exhaustive()
    }
}

/// A set of probes that are looked for together, with everything about them that can be worked out beforehand.
#[derive(Debug, Clone)]
pub struct LookPlan {
    probes: Vec<PlannedProbe>,
    by_service: HashMap<Endpoint, Vec<usize>>,
    filter: ConnectionFilter,
    selector: Arc<ProcessSelector>,
    /// All patterns of these probes.
    patterns: BTreeSet<PatternId>,
    /// What observers want.
    outlook: Outlook,
}

/// A probe, and the ids of its process patterns.
#[derive(Debug, Clone)]
pub struct PlannedProbe {
    probe: Arc<ConnectionProbe>,
    forward: PatternId,
    reverse: PatternId,
}

impl PlannedProbe {
    /// Adds the probe's patterns to those of the selector with which it will be looked for.
    pub fn new(probe: Arc<ConnectionProbe>, patterns: &mut SelectorBuilder) -> Self {
        let forward = patterns.add(probe.process(Direction::Forward));
        let reverse = patterns.add(probe.process(Direction::Reverse));
        Self { probe, forward, reverse }
    }

    /// The probe.
    #[must_use]
    pub fn probe(&self) -> &Arc<ConnectionProbe> {
        &self.probe
    }

    /// The pattern that the process on this host has to fit when the link is seen in that direction.
    #[must_use]
    pub fn pattern(&self, direction: Direction) -> PatternId {
        match direction {
            Direction::Forward => self.forward,
            Direction::Reverse => self.reverse,
        }
    }
}

/// A connection that fits a planned probe by address, in a direction.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    probe: usize,
    direction: Direction,
    connection: usize,
    pattern: PatternId,
    /// To what the destination is translated, where that is known.
    translated: Option<Endpoint>,
}

/// Where processes live that fit, beside the agent's own network namespace.
struct Attended {
    /// The namespaces that are attended to, and for whom they matter, in the order in which they are to be read.
    namespaces: Vec<(NamespaceId, BTreeSet<PatternId>)>,
    /// Those of them that are only there for their names. Of what is in them nothing counts but what matches: the connections of
    /// everybody else's pods have nothing to do with a link.
    named: BTreeSet<NamespaceId>,
    /// Why not all that have a name were read. That is nothing to links that are up.
    unnamed: Option<Unread>,
    /// Patterns that processes may fit which live in one that was not read, and why.
    unread: BTreeMap<PatternId, Unread>,
    /// Patterns that processes fit which live where the agent may not look.
    closed: BTreeSet<PatternId>,
    /// Patterns that processes fit which live where nobody looks.
    foreign: BTreeSet<PatternId>,
    /// Patterns that processes fit which live where interfaces are not told.
    blurred: BTreeSet<PatternId>,
    containers: BTreeSet<Arc<Container>>,
}

/// What is to be asked of the processes.
struct Inquiry {
    /// Sockets whose holders matter, each with the patterns that a holder has to fit to count.
    wanted: BTreeMap<Inode, BTreeSet<PatternId>>,
    /// Patterns of which it matters whether any process fits them.
    census: BTreeSet<PatternId>,
    /// The holders of sockets that need not be asked for.
    known: HashMap<Inode, Vec<Arc<Process>>>,
    /// Whether something fits that no file stands for.
    has_backlog: bool,
}

/// What the kernel told.
#[derive(Default)]
struct Dumped {
    connections: Vec<Connection>,
    /// What observers want.
    sockets: Vec<Socket>,
    /// The transports of which no socket was told to observers, and why.
    untold: BTreeMap<Transport, Arc<str>>,
}

/// What beside a connection's own endpoints tells whether it fits.
#[derive(Clone, Copy)]
struct Surroundings<'a> {
    translations: &'a Translations,
    /// Whether translations may tell of that connection. The table is of the agent's own namespace: what never leaves another
    /// cannot have passed there.
    may_have_passed: &'a dyn Fn(&Connection) -> bool,
    interface_index: &'a dyn Fn(NamespaceId, &str) -> Option<u32>,
}

/// What fits by address, and of which probes it is a part.
struct Candidates {
    taken: Vec<Candidate>,
    counting: Parts,
    named: Parts,
}

/// Of each probe, the part for which there is room; `None` where there is room for all.
type Parts = Vec<Option<Part>>;

/// Parts of what fits by address, as it is known how much that is.
fn parts(counts: &[usize], room: usize, first: impl Fn(usize) -> Option<Cookie>) -> Parts {
    let most = share(counts, room);
    let part = |(index, count): (usize, &usize)| {
        (*count > most).then(|| Part { first: first(index), room: most, ..Part::default() })
    };
    counts.iter().enumerate().map(part).collect()
}

/// A part of the connections that fit a probe by address, in the order of their cookies.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// With which it begins; `None` stands before all.
    first: Option<Cookie>,
    /// The first that there was no room for.
    next: Option<Cookie>,
    room: usize,
    left_out: LeftOut,
}

/// How many there was no room for.
#[derive(Debug, Clone, Copy, Default)]
struct LeftOut {
    forward: usize,
    reverse: usize,
}

impl LeftOut {
    fn count(&mut self, direction: Direction) {
        match direction {
            Direction::Forward => self.forward += 1,
            Direction::Reverse => self.reverse += 1,
        }
    }

    fn of(self, direction: Direction) -> usize {
        match direction {
            Direction::Forward => self.forward,
            Direction::Reverse => self.reverse,
        }
    }
}

/// How much each may have at most, so that all together have no more than there is: who wants less than that gets it all.
fn share(wants: &[usize], total: usize) -> usize {
    let mut wants: Vec<usize> = wants.iter().copied().filter(|want| *want > 0).collect();
    wants.sort_unstable();
    let (mut left, mut others) = (total, wants.len());
    for want in wants {
        let equal = left / others.max(1);
        if want > equal {
            return equal.max(1);
        }
        left -= want;
        others -= 1;
    }
    total
}

impl LookPlan {
    /// Plans looks for these probes, and for observers with these clauses. The selector is the one that came of the patterns all
    /// of them were added to.
    #[must_use]
    pub fn new(
        probes: Vec<PlannedProbe>,
        observers: impl IntoIterator<Item = Vec<SocketClause>>,
        selector: Arc<ProcessSelector>,
    ) -> Self {
        let outlook = Outlook::new(observers);
        let mut by_service: HashMap<Endpoint, Vec<usize>> = HashMap::new();
        for (index, planned) in probes.iter().enumerate() {
            by_service.entry(planned.probe.service()).or_default().push(index);
        }
        let filter = ConnectionFilter::new(STATES, by_service.keys().copied());
        let patterns =
            probes.iter().flat_map(|planned| Direction::ALL.map(|way| planned.pattern(way))).collect();
        Self { probes, by_service, filter, selector, patterns, outlook }
    }

    /// The services that the probes ask for, sorted, each once.
    #[must_use]
    pub fn services(&self) -> &[Endpoint] {
        self.filter.endpoints()
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the connections or the processes could not be read.
    pub fn look<C: ConnAdapter, P: ProcessAdapter>(
        &self,
        connections: &mut C,
        processes: &mut P,
        manner: &Manner<'_>,
    ) -> Result<Look, LookError> {
        let translations = manner.translations;
        let wider = (!translations.backends().is_empty()).then(|| {
            let endpoints = self.services().iter().chain(translations.backends());
            ConnectionFilter::new(STATES, endpoints.copied())
        });
        let filter = wider.as_ref().unwrap_or(&self.filter);
        let mut attended = match manner.in_use {
            Some(in_use) if !self.probes.is_empty() => {
                Some(self.attend(connections, processes, manner, in_use)?)
            }
            _ => None,
        };
        let Dumped { connections: dumped, sockets, untold } =
            self.dump(connections, filter, &mut attended, manner)?;
        let nameless = BTreeSet::new();
        let named = attended.as_ref().map_or(&nameless, |attended| &attended.named);
        let is_whole = attended.as_ref().is_none_or(|attended| attended.unread.is_empty());
        let (certain, doubtful) = settle(translations, &dumped, named, is_whole).unzip();
        let translations = certain.as_ref().unwrap_or(translations);
        let doubtful: HashSet<Endpoint> = doubtful.unwrap_or_default();
        // Nor does it tell of those that are only there for their names.
        let may_have_passed = |connection: &Connection| {
            connection.namespace == NamespaceId::OWN
                || !(named.contains(&connection.namespace)
                    || [connection.local, connection.remote].iter().any(|end| is_of_one_host(end.ip())))
        };
        let host = Surroundings {
            translations,
            may_have_passed: &may_have_passed,
            interface_index: &|namespace, name| connections.interface_index(namespace, name),
        };
        let fitting = self.find_candidates(&dumped, &host, named, manner.begin_with);
        let candidates = fitting.taken;
        let Inquiry { mut wanted, mut census, known, has_backlog } =
            self.inquire(&dumped, &candidates, named, manner);
        let (sight, Asked { wanted: asked, counted, measured, located: asked_after }) =
            self.outlook.sort(sockets, &untold, manner.observers, &manner.allowance.for_search());
        for (inode, patterns) in asked {
            wanted.entry(inode).or_default().extend(patterns);
        }
        census.extend(&counted);
        let of_links = Some(&self.patterns).filter(|_| manner.in_use.is_none());
        let located = match of_links {
            // There may be thousands of patterns, and nobody but links.
            Some(patterns) if asked_after.is_empty() => Cow::Borrowed(patterns),
            patterns => Cow::Owned(patterns.into_iter().flatten().chain(&asked_after).copied().collect()),
        };
        let asks_nothing = wanted.is_empty() && census.is_empty() && asked_after.is_empty();
        let mut scan = if asks_nothing && !has_backlog {
            HolderScan::default()
        } else {
            let query = HolderQuery {
                selector: &self.selector,
                wanted: &wanted,
                census: &census,
                counted: &counted,
                measured: &measured,
                located: &located,
                every_holder: manner.every_holder,
                now: manner.now,
                allowance: &manner.allowance.for_search(),
            };
            processes.find_holders(&query).map_err(|error| LookError::Processes(Box::new(error)))?
        };
        for (inode, owners) in known {
            let holders = scan.holders.entry(inode).or_default();
            for owner in owners {
                if !holders.iter().any(|holder| holder.pid == owner.pid) {
                    holders.push(owner);
                }
            }
        }
        let mut looks = self.decide(&dumped, &candidates, &census, &scan, named);
        if let Some(attended) = attended {
            self.note_attended(attended, &mut looks);
        }
        if manner.attribution == AttributionMode::Inferred {
            let pattern =
                |probe, way| self.probes.get(probe).map(|planned: &PlannedProbe| planned.pattern(way));
            infer::attribute(&mut looks, pattern, &self.selector, (connections, processes), manner)?;
        }
        let parts = fitting.counting.into_iter().zip(fitting.named);
        for (index, (look, (part, part_of_named))) in looks.iter_mut().zip(parts).enumerate() {
            let is_doubtful =
                self.probes.get(index).is_some_and(|planned| doubtful.contains(&planned.probe.service()));
            look.untranslated = is_doubtful || (manner.untranslated)(index);
            look.with_translations = manner.with_translations && !is_doubtful;
            // A search that was cut short has not seen all who could hold these: it goes on with the same.
            let goes_on = look.is_cut_short();
            let next = |part: &Part| if goes_on { part.first } else { part.next };
            look.next = Beginning {
                counting: part.as_ref().and_then(next),
                named: part_of_named.as_ref().and_then(next),
            };
            if let Some(part) = part {
                look.forward.undecided += part.left_out.of(Direction::Forward);
                look.reverse.undecided += part.left_out.of(Direction::Reverse);
            }
            // As if there had been no time for the rest, which is nothing to links that are up.
            if part_of_named.is_some() && !look.forward.is_up() && !look.reverse.is_up() {
                look.unread.get_or_insert(Unread::CutShort);
            }
        }
        Ok(Look { links: looks, sight: sight.with(scan, manner.since_boot) })
    }

    /// What is wanted of the agent's own network namespace: connections that the filter lets through, and what observers ask for,
    /// or why that could not be told.
    /// Of the namespaces that are attended to the connections alone; it is noted which could not be read.
    fn dump<C: ConnAdapter>(
        &self,
        connections: &mut C,
        filter: &ConnectionFilter,
        attended: &mut Option<Attended>,
        manner: &Manner<'_>,
    ) -> Result<Dumped, LookError> {
        let Dumped { connections: mut dumped, sockets, untold } =
            self.dump_own(connections, filter).map_err(|error| LookError::Connections(Box::new(error)))?;
        let own = dumped.len();
        if let Some(Attended { namespaces, named, unnamed, unread, .. }) = attended {
            for (namespace, patterns) in namespaces {
                // Each takes what all sockets of the host take, and users may make as many as they like.
                let found = if manner.allowance.is_spent() {
                    Err(Unread::CutShort)
                } else {
                    connections
                        .dump_in(*namespace, filter)
                        .map_err(|error| Unread::Failed(with_causes(&error).into()))
                };
                let cause = match found {
                    Ok(found) if dumped.len() + found.len() <= MAX_DUMPED => {
                        dumped.extend(found);
                        continue;
                    }
                    Ok(_) => Unread::CutShort,
                    Err(cause) => cause,
                };
                if named.contains(namespace) {
                    unnamed.get_or_insert(cause);
                } else {
                    note_unread(unread, patterns, &cause);
                }
            }
        }
        if dumped.len() > own {
            dumped.sort_unstable_by_key(|connection| (connection.cookie, connection.namespace));
        }
        Ok(Dumped { connections: dumped, sockets, untold })
    }

    fn dump_own<C: ConnAdapter>(
        &self,
        connections: &mut C,
        filter: &ConnectionFilter,
    ) -> Result<Dumped, C::Error> {
        let clauses = self.outlook.clauses();
        let wanted = Some(filter).filter(|_| !self.probes.is_empty());
        let dump =
            |connections: &mut C| wanted.map_or_else(|| Ok(Vec::new()), |filter| connections.dump(filter));
        if clauses.all().is_empty() {
            return Ok(Dumped { connections: dump(connections)?, ..Dumped::default() });
        }
        let mut dumped = match connections.survey(&SocketFilter { connections: wanted, clauses }) {
            Ok(SocketSurvey { connections, sockets, untold }) => {
                let untold =
                    untold.iter().map(|(transport, error)| (*transport, with_causes(error).into())).collect();
                Dumped { connections, sockets, untold }
            }
            Err(error) => {
                let cause: Arc<str> = with_causes(&error).into();
                let untold = Transport::ALL.map(|transport| (transport, Arc::clone(&cause))).into();
                Dumped { untold, ..Dumped::default() }
            }
        };
        // That sockets cannot be counted is nothing to links, nor to what counts processes.
        if dumped.untold.contains_key(&Transport::Tcp) {
            dumped.connections = dump(connections)?;
        }
        Ok(dumped)
    }

    /// What has to be asked about who holds what fits by address, and about whom else.
    fn inquire(
        &self,
        dumped: &[Connection],
        candidates: &[Candidate],
        named: &BTreeSet<NamespaceId>,
        manner: &Manner<'_>,
    ) -> Inquiry {
        let established =
            |candidate: &&Candidate| is_state(dumped, candidate.connection, TcpState::Established);

        let mut wanted: BTreeMap<Inode, BTreeSet<PatternId>> = BTreeMap::new();
        let mut known: HashMap<Inode, Vec<Arc<Process>>> = HashMap::new();
        let mut has_candidate: BTreeSet<(usize, Direction)> = BTreeSet::new();
        let mut has_backlog = false;
        for candidate in candidates.iter().filter(established) {
            let Some(connection) = dumped.get(candidate.connection) else { continue };
            let counts = !named.contains(&connection.namespace);
            if counts {
                has_candidate.insert((candidate.probe, candidate.direction));
            }
            let Some(inode) = connection.inode else {
                has_backlog |= counts;
                continue;
            };
            match manner.known.get(&inode) {
                Some(owners) if owners.iter().any(|owner| fits(owner, candidate.pattern)) => {
                    known.insert(inode, owners.clone());
                }
                _ => {
                    wanted.entry(inode).or_default().insert(candidate.pattern);
                }
            }
        }
        let mut census = BTreeSet::new();
        for (index, planned) in self.probes.iter().enumerate() {
            let nothing = Direction::ALL.iter().all(|way| !has_candidate.contains(&(index, *way)));
            for direction in Direction::ALL {
                let wants = nothing
                    || (!has_candidate.contains(&(index, direction))
                        && (manner.wants_reason)(index, direction));
                if wants {
                    census.insert(planned.pattern(direction));
                }
            }
        }
        Inquiry { wanted, census, known, has_backlog }
    }

    /// Attends to the network namespaces in which processes live that fit.
    fn attend<C: ConnAdapter, P: ProcessAdapter>(
        &self,
        connections: &mut C,
        processes: &mut P,
        manner: &Manner<'_>,
        in_use: &BTreeSet<NamespaceId>,
    ) -> Result<Attended, LookError> {
        let query = NamespaceQuery {
            selector: &self.selector,
            patterns: &self.patterns,
            named: manner.named,
            now: manner.now,
            allowance: &manner.allowance.for_search(),
        };
        let scan =
            processes.find_namespaces(&query).map_err(|error| LookError::Processes(Box::new(error)))?;
        let inhabited = scan.inhabited.iter().map(|inhabited| &inhabited.namespace);
        let namespaces: Vec<Namespace> = inhabited.chain(&scan.named).cloned().collect();
        let refused = connections
            .attend(&namespaces, in_use)
            .map_err(|error| LookError::Connections(Box::new(error)))?;
        let unentered = connections.unentered();
        let (mut closed, mut blurred) = (scan.closed, BTreeSet::new());
        let mut lived_in: BTreeMap<NamespaceId, BTreeSet<PatternId>> = BTreeMap::new();
        for Inhabited { namespace, patterns } in scan.inhabited {
            if refused.contains(&namespace.id) {
                closed.extend(patterns);
                continue;
            }
            if unentered.contains(&namespace.id) {
                blurred.extend(&patterns);
            }
            lived_in.insert(namespace.id, patterns);
        }
        let named = scan.named.into_iter().map(|namespace| namespace.id);
        let mut named: Vec<NamespaceId> =
            named.filter(|id| !refused.contains(id) && !in_use.contains(id)).collect();
        // Those in which connections are known come first, and each of the others is first at times: where there is no time for
        // all, none is left out for good.
        let everybody = |id: NamespaceId| (id, self.patterns.clone());
        let mut namespaces: Vec<(NamespaceId, BTreeSet<PatternId>)> = in_use
            .iter()
            .map(|id| lived_in.remove(id).map_or_else(|| everybody(*id), |patterns| (*id, patterns)))
            .collect();
        let mut others: Vec<(NamespaceId, BTreeSet<PatternId>)> = lived_in.into_iter().collect();
        rotate(&mut others, manner.now);
        rotate(&mut named, manner.now);
        namespaces.append(&mut others);
        namespaces.extend(named.iter().map(|id| (*id, BTreeSet::new())));
        let named = named.into_iter().collect();
        let cut =
            self.patterns.iter().filter(|_| scan.is_cut_short).map(|pattern| (*pattern, Unread::CutShort));
        let unread = cut.collect();
        Ok(Attended {
            namespaces,
            named,
            unnamed: scan.named_are_part.then_some(Unread::CutShort),
            unread,
            closed,
            foreign: scan.foreign,
            blurred,
            containers: scan.containers,
        })
    }

    /// Takes in where those live who fit.
    fn note_attended(&self, attended: Attended, looks: &mut [ProbeLook]) {
        let Attended { unnamed, unread, closed, foreign, blurred, containers, .. } = attended;
        let containers = Arc::new(containers);
        for (look, planned) in looks.iter_mut().zip(&self.probes) {
            look.containers = Some(Arc::clone(&containers));
            if !look.forward.is_up() && !look.reverse.is_up() {
                look.unread.clone_from(&unnamed);
            }
            for direction in Direction::ALL {
                let pattern = planned.pattern(direction);
                look.direction_mut(direction).elsewhere |= foreign.contains(&pattern);
                look.unread = look.unread.take().or_else(|| unread.get(&pattern).cloned());
                if closed.contains(&pattern) || (planned.probe.has_zone() && blurred.contains(&pattern)) {
                    look.is_displaced = true;
                    look.direction_mut(direction).elsewhere = true;
                }
            }
        }
    }

    /// The connections that fit by address, and where they are too many, a part of those of the probes that have most. Those that
    /// are only there for the name of their network namespace take no room from the others.
    fn find_candidates(
        &self,
        dumped: &[Connection],
        host: &Surroundings<'_>,
        named: &BTreeSet<NamespaceId>,
        begin_with: &dyn Fn(usize) -> Beginning,
    ) -> Candidates {
        let is_named = |connection: &Connection| named.contains(&connection.namespace);
        let mut taken = Vec::new();
        let mut counts = [vec![0_usize; self.probes.len()], vec![0_usize; self.probes.len()]];
        self.each_candidate(dumped, host, |candidate, connection| {
            let [counting, of_named] = &mut counts;
            let counts = if is_named(connection) { of_named } else { counting };
            if let Some(count) = counts.get_mut(candidate.probe) {
                *count += 1;
            }
            if taken.len() <= MAX_CANDIDATES + MAX_NAMED_CANDIDATES {
                taken.push(candidate);
            }
        });
        let [counting, of_named] = &counts;
        let mut counting = parts(counting, MAX_CANDIDATES, |index| begin_with(index).counting);
        let mut of_named = parts(of_named, MAX_NAMED_CANDIDATES, |index| begin_with(index).named);
        if counting.iter().chain(&of_named).all(Option::is_none) {
            return Candidates { taken, counting, named: of_named };
        }
        taken.clear();
        // Those from the first on, and then, from the beginning, as many as there is room for.
        for is_second_round in [false, true] {
            self.each_candidate(dumped, host, |candidate, connection| {
                let cookie = Some(connection.cookie);
                let parts = if is_named(connection) { &mut of_named } else { &mut counting };
                match parts.get_mut(candidate.probe).and_then(Option::as_mut) {
                    None if is_second_round => {}
                    None => taken.push(candidate),
                    Some(part) if (cookie < part.first) != is_second_round => {}
                    Some(part) if part.room > 0 => {
                        part.room -= 1;
                        taken.push(candidate);
                    }
                    Some(part) => {
                        part.next = part.next.or(cookie);
                        part.left_out.count(candidate.direction);
                    }
                }
            });
        }
        Candidates { taken, counting, named: of_named }
    }

    fn each_candidate(
        &self,
        dumped: &[Connection],
        host: &Surroundings<'_>,
        mut visit: impl FnMut(Candidate, &Connection),
    ) {
        let Surroundings { translations, may_have_passed, interface_index } = *host;
        for (connection_index, connection) in dumped.iter().enumerate() {
            let mut visit_all = |service: Endpoint, direction: Direction, translated: Option<Endpoint>| {
                for index in self.by_service.get(&service).into_iter().flatten().copied() {
                    let Some(planned) = self.probes.get(index) else { continue };
                    let interface = |name: &str| interface_index(connection.namespace, name);
                    if planned.probe.match_but_service(connection, direction, interface) {
                        let candidate = Candidate {
                            probe: index,
                            direction,
                            connection: connection_index,
                            pattern: planned.pattern(direction),
                            translated,
                        };
                        visit(candidate, connection);
                    }
                }
            };
            let may_have_passed = may_have_passed(connection);
            for direction in Direction::ALL {
                let service = connection.service_end(direction);
                let translated = match direction {
                    Direction::Forward => translations.backend(connection).filter(|_| may_have_passed),
                    Direction::Reverse => None,
                };
                visit_all(service, direction, translated);
            }
            for service in translations.services(connection).filter(|_| may_have_passed) {
                visit_all(service, Direction::Reverse, Some(connection.local));
            }
        }
    }

    fn decide(
        &self,
        dumped: &[Connection],
        candidates: &[Candidate],
        census: &BTreeSet<PatternId>,
        scan: &HolderScan,
        named: &BTreeSet<NamespaceId>,
    ) -> Vec<ProbeLook> {
        let mut looks = vec![ProbeLook::default(); self.probes.len()];
        for candidate in candidates {
            let Some(connection) = dumped.get(candidate.connection) else { continue };
            let Some(look) = looks.get_mut(candidate.probe) else { continue };
            let look = look.direction_mut(candidate.direction);
            let is_nobodys = || matches!(match_holders(connection, candidate.pattern, scan), Holding::Other);
            if named.contains(&connection.namespace)
                && (connection.state != TcpState::Established || is_nobodys())
            {
                continue;
            }
            match connection.state {
                TcpState::Established => {
                    look.addressed.insert(connection.cookie);
                    if connection.inode.is_some_and(|inode| !scan.holders.contains_key(&inode)) {
                        look.unheld.insert(connection.cookie);
                    }
                    // Also where it is not known yet that it matches: that may be inferred.
                    look.translated.extend(candidate.translated.map(|end| (connection.cookie, end)));
                    match match_holders(connection, candidate.pattern, scan) {
                        Holding::Fits(owners) => {
                            let attribution = Attribution::Holder;
                            look.matched.push(MatchedConnection {
                                connection: *connection,
                                owners,
                                attribution,
                            });
                        }
                        Holding::Other => look.held_by_other += 1,
                        Holding::Undecided => look.undecided += 1,
                        Holding::Unknown(missing) => {
                            look.unattributed.push(*connection);
                            look.missing.extend(missing);
                        }
                    }
                }
                TcpState::SynSent => look.connecting += 1,
                // The filter lets nothing else through; if it did, no other state counts.
                _ => {}
            }
        }
        for (look, planned) in looks.iter_mut().zip(&self.probes) {
            look.is_displaced = scan.is_displaced;
            for direction in Direction::ALL {
                let pattern = planned.pattern(direction);
                // Whom a search came across without being asked is no answer.
                let is_asked = scan.is_displaced || census.contains(&pattern);
                look.direction_mut(direction).elsewhere = is_asked && scan.elsewhere.contains(&pattern);
                look.direction_mut(direction).maybe_elsewhere = scan.maybe_elsewhere.contains(&pattern);
                look.direction_mut(direction).here = scan.here.contains(&pattern);
                look.direction_mut(direction).process = if !census.contains(&pattern) {
                    Presence::Unknown
                } else if scan.present.contains(&pattern) {
                    Presence::Present
                } else if scan.uncertain.contains(&pattern) {
                    Presence::Unknown
                } else {
                    Presence::Absent
                };
            }
        }
        looks
    }
}

/// Brings another to the front at another time.
fn rotate<T>(items: &mut [T], now: Duration) {
    let turn = now.as_millis().checked_rem(items.len().try_into().unwrap_or(1)).unwrap_or_default();
    items.rotate_left(usize::try_from(turn).unwrap_or_default());
}

fn note_unread(unread: &mut BTreeMap<PatternId, Unread>, patterns: &BTreeSet<PatternId>, cause: &Unread) {
    for pattern in patterns {
        unread.entry(*pattern).or_insert_with(|| cause.clone());
    }
}

/// Whether an address means another host, or another interface, wherever it is used.
fn is_of_one_host(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// The translations that can be told to be of one connection, and the services of the others; `None` where all can.
///
/// One table tells of them, that of the agent's own namespace, and of endpoints alone: where two namespaces have the same, it is
/// not known of which. What was not read may have any.
fn settle(
    translations: &Translations,
    dumped: &[Connection],
    named: &BTreeSet<NamespaceId>,
    is_whole: bool,
) -> Option<(Translations, HashSet<Endpoint>)> {
    if translations.backends().is_empty() {
        return None;
    }
    if !is_whole {
        return Some(translations.without_any());
    }
    let twins = find_twins(dumped, named);
    (!twins.is_empty()).then(|| translations.without(&twins))
}

/// The endpoints, local and remote, of connections in more than one network namespace, but for those that are only there for
/// their names.
fn find_twins(dumped: &[Connection], named: &BTreeSet<NamespaceId>) -> HashSet<(Endpoint, Endpoint)> {
    let mut seen: HashMap<(Endpoint, Endpoint), NamespaceId> = HashMap::new();
    let mut twins = HashSet::new();
    for connection in dumped.iter().filter(|connection| !named.contains(&connection.namespace)) {
        let ends = (connection.local, connection.remote);
        if *seen.entry(ends).or_insert(connection.namespace) != connection.namespace {
            twins.insert(ends);
        }
    }
    twins
}

/// Who holds an ESTABLISHED connection, as far as a pattern is concerned.
pub(crate) enum Holding {
    /// Processes that fit.
    Fits(Vec<Arc<Process>>),
    /// Nobody who fits, for certain.
    Other,
    /// That is not known yet.
    Undecided,
    /// That may not be known, for want of these capabilities.
    Unknown(BTreeSet<Capability>),
}

pub(crate) fn match_holders(connection: &Connection, pattern: PatternId, scan: &HolderScan) -> Holding {
    // A socket for which no file stands is in a listener's backlog: nobody holds it yet.
    let Some(inode) = connection.inode else { return Holding::Other };
    let holders = scan.holders.get(&inode).map(Vec::as_slice).unwrap_or_default();
    // Whose network another user may have made, he may have made its connections as well.
    let counts = |holder: &Arc<Process>| connection.namespace == NamespaceId::OWN || !holder.is_stranger;
    let fitting = holders.iter().filter(|holder| fits(holder, pattern) && counts(holder));
    let owners: Vec<Arc<Process>> = fitting.cloned().collect();
    if !owners.is_empty() {
        return Holding::Fits(owners);
    }
    if scan.undecided.contains(&inode) {
        return Holding::Undecided;
    }
    match scan.obscured.get(&pattern) {
        None => Holding::Other,
        // Somebody else is known to hold it, and whoever is out of sight is not known to fit.
        Some(obscured) if !obscured.certain && !holders.is_empty() => Holding::Other,
        Some(obscured) => Holding::Unknown(obscured.missing.clone()),
    }
}

fn fits(process: &Process, pattern: PatternId) -> bool {
    process.fits.binary_search(&pattern).is_ok()
}

fn is_state(dumped: &[Connection], index: usize, state: TcpState) -> bool {
    dumped.get(index).is_some_and(|connection| connection.state == state)
}

#[cfg(test)]
mod tests;
