//! Probes that one look answers: what is to be seen for them, and what they make of it.
//!
//! A link has a memory of connections and is verified between looks ([`crate::link`]). Everything else is an [`Observer`]: it
//! says which sockets and processes it has to be shown, all of which are looked for together ([`crate::look`]), and tells what
//! it saw. Another kind of probe is another implementer.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::adapter::NameAdapter;
use crate::discovery::Map;
use crate::look::LookError;
use crate::metric::DataPoint;
use crate::name::Resolved;
use crate::process::{Capability, HolderScan, PatternId, ProcessSelector};
use crate::socket::{Families, Socket, SocketClause};
use crate::usage::Usage;

/// A probe that one look answers.
pub trait Observer: fmt::Debug + Send {
    /// Takes note of the ids that the patterns of its probe have from now on.
    fn adopt(&mut self, selector: &ProcessSelector);

    /// Takes note of what host names mean now, where its probe has any. Returns whether its clauses are others since.
    fn resolve(&mut self, _names: &dyn NameAdapter) -> bool {
        false
    }

    /// The sockets that it has to be shown: those that any of these wants.
    fn clauses(&self) -> Vec<SocketClause> {
        Vec::new()
    }

    /// What it has to know of processes.
    fn ask(&self) -> Question;

    /// Makes an answer of what was seen, and keeps it. What seems to have gone down is not believed at once: connections
    /// that are replaced while the kernel walks its table can be missed by one look.
    ///
    /// # Errors
    /// When what was seen does not tell the answer. Then there is none.
    fn take_in(&mut self, seen: &Seen<'_>) -> Result<Taken, LookError>;

    /// Tells the answer that was taken in last.
    fn report(&mut self, time: SystemTime, emit: &mut dyn FnMut(DataPoint));

    /// The answer that was taken in last.
    fn finding(&self) -> Option<Finding>;

    /// Of how much the agent was not permitted to learn whether it counts.
    fn unattributed(&self) -> u64;

    /// The capabilities whose absence is to blame for that.
    fn missing(&self) -> BTreeSet<Capability>;
}

/// What a probe found that one look answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// How many there are of what is counted.
    Standing(Standing),
    /// What was discovered.
    Map(Map),
}

/// What an observer has to know of processes.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Patterns that whoever holds a socket has to fit for it to count. Where there is none, it is nothing to the observer who
    /// holds the sockets, nor which they are: it is told their number.
    pub holders: BTreeSet<PatternId>,
    /// Patterns of which it matters how many processes fit them.
    pub counted: BTreeSet<PatternId>,
    /// Of these, patterns of which it matters what the processes use that fit them.
    pub measured: BTreeSet<PatternId>,
}

/// How many sockets there are, and by the versions of IP that they serve: what serves both is in both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Number {
    /// All of them.
    pub all: u64,
    /// Those that serve IPv4.
    pub ipv4: u64,
    /// Those that serve IPv6.
    pub ipv6: u64,
}

impl Number {
    /// Counts one more.
    pub(crate) fn add(&mut self, families: Families) {
        self.all += 1;
        self.ipv4 += u64::from(families.ipv4);
        self.ipv6 += u64::from(families.ipv6);
    }
}

/// What one look saw.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// How many sockets there are that one of the observer's clauses wants.
    pub number: Number,
    /// Those of them that somebody can hold, because a file stands for them, where the observer asked who does.
    pub sockets: &'a [&'a Socket],
    /// What was asked of the processes.
    pub scan: &'a HolderScan,
    /// When the look began, by [`Clock::since_boot`](crate::Clock::since_boot): before any process was looked at.
    pub began: Duration,
    /// Whether this is a second look, after one that was doubted.
    pub is_second: bool,
}

impl Seen<'_> {
    /// Whether nothing can be told of the sockets of processes that fit, because these live where the agent sees none.
    ///
    /// # Errors
    /// Then.
    pub(crate) fn require_sight(&self, pattern: PatternId) -> Result<(), LookError> {
        let scan = self.scan;
        let is_elsewhere = scan.elsewhere.contains(&pattern) || scan.maybe_elsewhere.contains(&pattern);
        let is_hidden = scan.is_displaced && is_elsewhere && !scan.here.contains(&pattern);
        if is_hidden { Err(LookError::OutOfSight) } else { Ok(()) }
    }
}

/// What became of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is to be looked at again before it is believed.
    Doubt,
    /// It was taken in, and changed the status or not.
    Answer(Option<StatusChange>),
}

/// How a probe stands that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// There are as many as there should be.
    Up,
    /// There are too few.
    Down,
    /// There are too many.
    Warning,
}

impl Status {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Warning];

    /// The value of the `state` attribute.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Warning => "warning",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// How many are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Fewer are too few.
    pub least: u64,
    /// More are too many.
    pub most: Option<u64>,
}

impl Bounds {
    /// How it stands with so many.
    #[must_use]
    pub fn status(self, count: u64) -> Status {
        if count < self.least {
            Status::Down
        } else if self.most.is_some_and(|most| count > most) {
            Status::Warning
        } else {
            Status::Up
        }
    }
}

/// What was counted, and how that compares with what is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// How it stands.
    pub status: Status,
    /// What was counted.
    pub count: u64,
    /// How many more there may be, of which the agent was not permitted to learn whether they count.
    pub unattributed: u64,
    /// The capabilities whose absence is to blame for that.
    pub missing: BTreeSet<Capability>,
    /// What host names of the probe were taken for.
    pub resolved: Vec<Resolved>,
    /// What the processes use that were counted, where that was asked for and could be read.
    pub usage: Option<Usage>,
}

/// A change of a probe's status, told once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange {
    /// The name of the probe.
    pub name: Arc<str>,
    /// What is counted, in the plural.
    pub what: &'static str,
    /// How it stands now.
    pub standing: Standing,
    /// What is expected.
    pub bounds: Bounds,
}

/// What counts over time: the last answer, and whether another changes it.
#[derive(Debug)]
pub(crate) struct Tally {
    name: Arc<str>,
    what: &'static str,
    bounds: Bounds,
    standing: Option<Standing>,
}

impl Tally {
    pub(crate) fn new(name: &Arc<str>, what: &'static str, bounds: Bounds) -> Self {
        Self { name: Arc::clone(name), what, bounds, standing: None }
    }

    pub(crate) fn standing(&self) -> Option<&Standing> {
        self.standing.as_ref()
    }

    pub(crate) fn unattributed(&self) -> u64 {
        self.standing.as_ref().map_or(0, |standing| standing.unattributed)
    }

    pub(crate) fn missing(&self) -> BTreeSet<Capability> {
        self.standing.as_ref().map(|standing| standing.missing.clone()).unwrap_or_default()
    }

    /// Takes in what was counted.
    pub(crate) fn take_in(
        &mut self,
        count: u64,
        unattributed: u64,
        missing: BTreeSet<Capability>,
        is_second: bool,
    ) -> Taken {
        let status = self.bounds.status(count);
        let before = self.standing.as_ref().map(|standing| standing.status);
        if status == Status::Down && before != Some(Status::Down) && !is_second {
            return Taken::Doubt;
        }
        let standing = Standing { status, count, unattributed, missing, resolved: Vec::new(), usage: None };
        self.standing = Some(standing.clone());
        let has_changed = before != Some(status);
        Taken::Answer(has_changed.then(|| StatusChange {
            name: Arc::clone(&self.name),
            what: self.what,
            standing,
            bounds: self.bounds,
        }))
    }
}
