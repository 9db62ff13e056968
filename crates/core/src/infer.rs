//! Weaker attribution, by choice: where it may not be read who holds a socket, who can.
//!
//! The kernel tells of each socket in which cgroup it was made and as which user. Where every process of that cgroup (and
//! user) that may not be looked into fits a probe, one that fits holds the socket: nobody else is left. What that rests on
//! is not always so: a socket can be handed on, and a process can change its cgroup or user after it made one. So a
//! connection that is attributed in this way says so ([`Attribution`]), and nothing is without [`AttributionMode::Inferred`].
//!
//! Who is left is found out in walks (`attribute`), together with who holds what may be read; between walks each cycle
//! asks whether those processes are still what they were (`Suspects`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::adapter::{ConnAdapter, ProcessAdapter};
use crate::allowance::Allowance;
use crate::connection::{CgroupId, Connection, Cookie, Direction, Inode};
use crate::look::{LookError, Manner, MatchedConnection, ProbeLook};
use crate::process::{PatternId, Pid, Process, ProcessSelector};
use crate::track::Tracked;

/// Processes that are named, and asked about between walks, of those that one connection is inferred to be held by.
const MAX_NAMED: usize = 16;

/// Whether holders are inferred where they may not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttributionMode {
    /// Only a process that was seen to hold a connection does.
    #[default]
    Strict,
    /// A process does that alone can.
    Inferred,
}

/// By what it is known that a process that fits holds a connection; the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribution {
    /// It was seen to.
    Holder,
    /// The socket was made in a cgroup in which nobody else can hold it.
    Cgroup,
    /// The socket was made by a user of whom no other process of the host can hold it.
    Uid,
}

impl Attribution {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 3] = [Self::Holder, Self::Cgroup, Self::Uid];

    /// The value of the `attribution` attribute.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Holder => "holder",
            Self::Cgroup => "cgroup",
            Self::Uid => "uid",
        }
    }
}

impl fmt::Display for Attribution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// How many connections are attributed by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributions {
    holder: u64,
    cgroup: u64,
    uid: u64,
}

impl Attributions {
    /// How many are by that.
    #[must_use]
    pub fn by(&self, attribution: Attribution) -> u64 {
        match attribution {
            Attribution::Holder => self.holder,
            Attribution::Cgroup => self.cgroup,
            Attribution::Uid => self.uid,
        }
    }

    /// The surest of which there is any.
    #[must_use]
    pub fn surest(&self) -> Option<Attribution> {
        Attribution::ALL.into_iter().find(|attribution| self.by(*attribution) > 0)
    }

    /// How many there are.
    pub(crate) fn total(&self) -> u64 {
        self.holder + self.cgroup + self.uid
    }

    pub(crate) fn add(&mut self, others: &Self) {
        self.holder += others.holder;
        self.cgroup += others.cgroup;
        self.uid += others.uid;
    }

    /// Takes those away that have ended.
    pub(crate) fn lose(&mut self, ended: &Self) {
        self.holder = self.holder.saturating_sub(ended.holder);
        self.cgroup = self.cgroup.saturating_sub(ended.cgroup);
        self.uid = self.uid.saturating_sub(ended.uid);
    }
}

impl Extend<Attribution> for Attributions {
    fn extend<T: IntoIterator<Item = Attribution>>(&mut self, more: T) {
        for attribution in more {
            match attribution {
                Attribution::Holder => self.holder += 1,
                Attribution::Cgroup => self.cgroup += 1,
                Attribution::Uid => self.uid += 1,
            }
        }
    }
}

impl FromIterator<Attribution> for Attributions {
    fn from_iter<T: IntoIterator<Item = Attribution>>(all: T) -> Self {
        let mut attributions = Self::default();
        attributions.extend(all);
        attributions
    }
}

/// What an inference rests on, besides that a process fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Basis {
    /// It is in that cgroup.
    Cgroup(CgroupId),
    /// It has that user among its own.
    Uid(u32),
}

impl Basis {
    fn of(attribution: Attribution, connection: &Connection) -> Option<Self> {
        match attribution {
            Attribution::Holder => None,
            Attribution::Cgroup => connection.cgroup.map(Self::Cgroup),
            Attribution::Uid => Some(Self::Uid(connection.uid)),
        }
    }
}

/// Why holders cannot be inferred on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InferenceLack {
    /// The kernel tells no cgroup of a socket, or only the root.
    UntaggedSockets,
    /// No hierarchy of cgroups of version 2 is mounted where the agent sees it.
    NoCgroups,
    /// Only a part of the hierarchy is mounted where the agent sees it.
    PartOfCgroups,
    /// A /proc hides processes, so that nobody can be excluded.
    HiddenProcesses,
    /// The processes are numbered otherwise than the agent is: those of a cgroup cannot be told.
    ForeignNumbers,
    /// Not all processes of the host can be seen, so that nobody can be excluded by his user.
    OwnProcesses,
}

/// What the agent asks about processes that may not be looked into.
#[derive(Debug, Clone, Copy)]
pub struct OutsiderQuery<'a> {
    /// The patterns that ids refer to.
    pub selector: &'a ProcessSelector,
    /// The cgroups in question.
    pub cgroups: &'a BTreeSet<CgroupId>,
    /// The users in question.
    pub uids: &'a BTreeSet<u32>,
    /// The sockets in question: who may be looked into and holds none of them is out of the question.
    pub sockets: &'a HashSet<Inode>,
    /// The moment of asking, on a clock that never goes backwards.
    pub now: Duration,
    /// The time that it may take. What is not known when it is spent is left out.
    pub allowance: &'a Allowance<'a>,
}

/// A process that may hold a socket, for it may not be looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outsider {
    /// The process, and what it fits for certain.
    pub process: Arc<Process>,
    /// The users that it can act as without a privilege (real, effective, saved, of the file system); `None` where the
    /// kernel does not tell.
    pub uids: Option<[u32; 4]>,
}

impl Outsider {
    fn may_be(&self, uid: u32) -> bool {
        self.uids.is_none_or(|uids| uids.contains(&uid))
    }
}

/// What is known of processes that may not be looked into.
#[derive(Debug, Clone, Default)]
pub struct OutsiderScan {
    /// All such processes of a cgroup, in the order of their numbers. One of which they could not all be told is not in it.
    pub by_cgroup: HashMap<CgroupId, Vec<Outsider>>,
    /// All such processes of the host that have, or might have, a user. One of whom they could not all be told is not in it.
    pub by_uid: HashMap<u32, Vec<Outsider>>,
    /// Sockets that were found meanwhile, in a process that may be looked into.
    pub seen: HashSet<Inode>,
    /// What this host lacks.
    pub lacks: BTreeSet<InferenceLack>,
}

/// What the agent asks about processes by which it inferred.
#[derive(Debug, Clone, Copy)]
pub struct SuspectQuery<'a> {
    /// The patterns that ids refer to.
    pub selector: &'a ProcessSelector,
    /// The processes, each with what the inference rests on.
    pub suspects: &'a [(Pid, Basis)],
    /// The moment of asking, on a clock that never goes backwards.
    pub now: Duration,
}

/// A connection that nobody was seen to hold, as a part of what was looked for.
#[derive(Debug, Clone, Copy)]
struct Open {
    probe: usize,
    direction: Direction,
    connection: Connection,
    pattern: PatternId,
}

/// A connection that only processes that fit can hold.
struct Inferred {
    attribution: Attribution,
    owners: Vec<Arc<Process>>,
}

/// Attributes what a look left unattributed, as far as only processes that fit are left to hold it.
///
/// # Errors
/// When the processes could not be listed.
pub(crate) fn attribute<C: ConnAdapter, P: ProcessAdapter>(
    looks: &mut [ProbeLook],
    pattern: impl Fn(usize, Direction) -> Option<PatternId>,
    selector: &ProcessSelector,
    (connections, processes): (&mut C, &mut P),
    manner: &Manner<'_>,
) -> Result<(), LookError> {
    let mut open = find_open(looks, pattern);
    if open.is_empty() {
        return Ok(());
    }
    let sockets: HashSet<Inode> = open.iter().filter_map(|open| open.connection.inode).collect();
    let allowance = manner.allowance.part(1);
    let mut ask = |cgroups: &BTreeSet<CgroupId>, uids: &BTreeSet<u32>| {
        let query = OutsiderQuery {
            selector,
            cgroups,
            uids,
            sockets: &sockets,
            now: manner.now,
            allowance: &allowance,
        };
        processes.find_outsiders(&query).map_err(|error| LookError::Processes(Box::new(error)))
    };
    let mut inferred: Vec<(Open, Inferred)> = Vec::new();
    let mut lacks = BTreeSet::new();

    let cgroups: BTreeSet<CgroupId> = open.iter().filter_map(|open| open.connection.cgroup).collect();
    // Where it is known who is in the cgroup in which a socket was made, its user says nothing that goes before that.
    let mut settled: Vec<Open> = Vec::new();
    if cgroups.is_empty() {
        lacks.insert(InferenceLack::UntaggedSockets);
    } else {
        let scan = ask(&cgroups, &BTreeSet::new())?;
        lacks.extend(&scan.lacks);
        infer_all(&mut open, &scan, Attribution::Cgroup, &mut inferred);
        let is_told =
            |open: &Open| open.connection.cgroup.is_some_and(|cgroup| scan.by_cgroup.contains_key(&cgroup));
        settled = open.iter().copied().filter(is_told).collect();
        open.retain(|open| !is_told(open));
    }
    let uids: BTreeSet<u32> = open.iter().map(|open| open.connection.uid).collect();
    if !uids.is_empty() {
        let scan = ask(&BTreeSet::new(), &uids)?;
        lacks.extend(&scan.lacks);
        infer_all(&mut open, &scan, Attribution::Uid, &mut inferred);
    }

    for Open { probe, .. } in open.iter().chain(&settled) {
        if let Some(look) = looks.get_mut(*probe) {
            look.lacks.extend(&lacks);
        }
    }
    retain_alive(&mut inferred, connections);
    take_in(looks, inferred, manner.every_holder);
    Ok(())
}

/// The connections that fit by address, and that nobody who may be looked into holds.
fn find_open(looks: &[ProbeLook], pattern: impl Fn(usize, Direction) -> Option<PatternId>) -> Vec<Open> {
    let mut open = Vec::new();
    for (probe, look) in looks.iter().enumerate() {
        for direction in Direction::ALL {
            let Some(pattern) = pattern(probe, direction) else { continue };
            let look = look.direction(direction);
            // What somebody is known to hold may have a second holder; that is nothing to be inferred.
            let unheld =
                look.unattributed.iter().filter(|connection| look.unheld.contains(&connection.cookie));
            open.extend(unheld.map(|connection| Open { probe, direction, connection: *connection, pattern }));
        }
    }
    open
}

/// Moves those that can be inferred by that.
fn infer_all(
    open: &mut Vec<Open>,
    scan: &OutsiderScan,
    attribution: Attribution,
    inferred: &mut Vec<(Open, Inferred)>,
) {
    open.retain(|open| {
        if open.connection.inode.is_some_and(|inode| scan.seen.contains(&inode)) {
            return true;
        }
        let outsiders = match Basis::of(attribution, &open.connection) {
            Some(Basis::Cgroup(cgroup)) => scan.by_cgroup.get(&cgroup),
            Some(Basis::Uid(uid)) => scan.by_uid.get(&uid),
            None => None,
        };
        match outsiders.and_then(|outsiders| match_left(outsiders, open.connection.uid, open.pattern)) {
            Some(owners) => {
                inferred.push((*open, Inferred { attribution, owners }));
                false
            }
            None => true,
        }
    });
}

/// Those who are left to hold a socket of that user, if all of them fit for certain, and one of them has that user for certain.
fn match_left(outsiders: &[Outsider], uid: u32, pattern: PatternId) -> Option<Vec<Arc<Process>>> {
    let left = || outsiders.iter().filter(|outsider| outsider.may_be(uid));
    let all_fit = left().all(|outsider| outsider.process.fits.binary_search(&pattern).is_ok());
    let is_any_known = left().any(|outsider| outsider.uids.is_some());
    (all_fit && is_any_known).then(|| left().map(|outsider| Arc::clone(&outsider.process)).collect())
}

/// Leaves out what has ended since it was dumped: who was left after that need not be who held it.
fn retain_alive<C: ConnAdapter>(inferred: &mut Vec<(Open, Inferred)>, connections: &mut C) {
    if inferred.is_empty() {
        return;
    }
    let asked: Vec<Connection> = inferred.iter().map(|(open, _)| open.connection).collect();
    // Where that cannot be asked, nothing is known to be there.
    let sightings = connections.lookup(&asked).unwrap_or_default();
    let mut sightings = sightings.into_iter();
    inferred.retain(|(open, _)| {
        let sighting = sightings.next().flatten();
        sighting.is_some_and(|sighting| sighting.connection == open.connection)
    });
}

fn take_in(looks: &mut [ProbeLook], inferred: Vec<(Open, Inferred)>, every_holder: bool) {
    let mut found: BTreeMap<(usize, Direction), HashMap<Cookie, Inferred>> = BTreeMap::new();
    for (open, inferred) in inferred {
        found.entry((open.probe, open.direction)).or_default().insert(open.connection.cookie, inferred);
    }
    for ((probe, direction), mut found) in found {
        let Some(look) = looks.get_mut(probe) else { continue };
        let look = look.direction_mut(direction);
        let unattributed = std::mem::take(&mut look.unattributed);
        for connection in unattributed {
            match found.remove(&connection.cookie) {
                None => look.unattributed.push(connection),
                Some(Inferred { attribution, mut owners }) => {
                    if !every_holder {
                        owners.truncate(MAX_NAMED);
                    }
                    look.unheld.remove(&connection.cookie);
                    look.matched.push(MatchedConnection { connection, owners, attribution });
                }
            }
        }
    }
}

/// The processes that connections were inferred to be held by, each asked about once.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    known: HashMap<(Pid, Basis), Option<Arc<Process>>>,
}

impl Suspects {
    /// Asks about the owners of these connections, as far as they are inferred.
    ///
    /// # Errors
    /// When nothing can be told of any process.
    pub(crate) fn ask<'a, P: ProcessAdapter>(
        tracked: impl Iterator<Item = &'a Tracked>,
        processes: &mut P,
        selector: &ProcessSelector,
        now: Duration,
    ) -> Result<Self, LookError> {
        let mut suspects: BTreeSet<(Pid, Basis)> = BTreeSet::new();
        for tracked in tracked {
            if let Some(basis) = basis_of(tracked) {
                suspects.extend(tracked.owners().iter().map(|owner| (owner.pid, basis)));
            }
        }
        if suspects.is_empty() {
            return Ok(Self::default());
        }
        let suspects: Vec<(Pid, Basis)> = suspects.into_iter().collect();
        let query = SuspectQuery { selector, suspects: &suspects, now };
        let verified = processes.verify_suspects(&query);
        let verified = verified.map_err(|error| LookError::Processes(Box::new(error)))?;
        if verified.len() == suspects.len() {
            Ok(Self { known: suspects.into_iter().zip(verified).collect() })
        } else {
            Err(LookError::Incomplete)
        }
    }

    /// The owners of a connection as they are now, in order; `held` answers for those that were seen to hold it.
    pub(crate) fn owners(
        &self,
        tracked: &Tracked,
        mut held: impl FnMut() -> Option<Arc<Process>>,
    ) -> Vec<Option<Arc<Process>>> {
        let basis = basis_of(tracked);
        let verify = |owner: &Arc<Process>| match basis {
            None => held(),
            Some(basis) => self.known.get(&(owner.pid, basis)).cloned().flatten(),
        };
        tracked.owners().iter().map(verify).collect()
    }
}

/// What it rests on that the connection is held; `None` where its holder was seen.
fn basis_of(tracked: &Tracked) -> Option<Basis> {
    Basis::of(tracked.attribution(), tracked.connection())
}

#[cfg(test)]
mod tests;
