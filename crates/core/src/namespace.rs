//! Network namespaces: which there are that matter, and what stands for one.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::allowance::Allowance;
use crate::process::{Container, PatternId, ProcessSelector};

/// Whose connections are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// Those of the agent's own network namespace.
    #[default]
    Own,
    /// Those of every network namespace in which a process lives that fits a probe, and of the agent's own; for links that are
    /// not up by these also of those that have a name.
    All,
}

/// Tells a network namespace from the others that there are at the same time.
///
/// The number of another is the inode to which `/proc/PID/ns/net` leads, or where namespaces are not entered, that of
/// `/proc/PID/net/dev`, of which each has its own. The kernel gives either anew once the namespace is gone, so it says
/// nothing about one of which no [`Namespace`] is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId(pub u64);

impl NamespaceId {
    /// The agent's own.
    pub const OWN: Self = Self(0);
}

/// A network namespace other than the agent's own, kept hold of: it lasts for as long as this does.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// Its id.
    pub id: NamespaceId,
    /// How its sockets are reached.
    pub approach: Approach,
}

/// How the sockets of a network namespace are reached. Either keeps the namespace.
#[derive(Debug, Clone)]
pub enum Approach {
    /// By entering it: what setns(2) takes.
    Enter(Arc<OwnedFd>),
    /// By reading its tables, which takes no privilege, more time, and tells less of each socket.
    Read(Arc<SocketTables>),
}

/// The tables of a network namespace's TCP sockets, as text. Read from the start, an open one tells of its namespace anew,
/// whatever became of the process by which it was found.
#[derive(Debug)]
pub struct SocketTables {
    /// `/proc/PID/net/tcp`.
    pub inet: OwnedFd,
    /// `/proc/PID/net/tcp6`; `None` on a host without IPv6.
    pub inet6: Option<OwnedFd>,
}

/// A network namespace, and the patterns that processes fit which live in it.
#[derive(Debug, Clone)]
pub struct Inhabited {
    /// The namespace.
    pub namespace: Namespace,
    /// The patterns, of those asked for.
    pub patterns: BTreeSet<PatternId>,
}

/// What the agent asks about where processes live.
#[derive(Debug, Clone, Copy)]
pub struct NamespaceQuery<'a> {
    /// The patterns that ids refer to.
    pub selector: &'a ProcessSelector,
    /// Those that matter.
    pub patterns: &'a BTreeSet<PatternId>,
    /// Whether those are wanted as well that have a name, in `/run/netns`, and in which nobody lives who fits.
    pub named: bool,
    /// The moment of asking, on a clock that never goes backwards.
    pub now: Duration,
    /// What finding it out may take.
    pub allowance: &'a Allowance<'a>,
}

/// What was found out about where processes live.
#[derive(Debug, Default)]
pub struct NamespaceScan {
    /// The namespaces, other than the agent's own, in which processes live that fit, or might; sorted by id.
    pub inhabited: Vec<Inhabited>,
    /// Where they are wanted, those that have a name and are neither the agent's own nor inhabited, as far as they may be
    /// entered and there is room for them: a process that lives elsewhere may hold sockets of them. Sorted by id.
    pub named: Vec<Namespace>,
    /// There are more of those, for which there was no room. Others have it the next time.
    pub named_are_part: bool,
    /// Patterns that a process certainly fits of which it may not be learned where it lives, or that lives where the agent
    /// may not follow. All, where processes are hidden.
    pub closed: BTreeSet<PatternId>,
    /// Patterns that processes fit, or might, which live in another network namespace and are of another user namespace than the
    /// agent. Any user can make both, and in them whatever connections he likes: they are not looked at.
    pub foreign: BTreeSet<PatternId>,
    /// The containers of processes that fit and live in another network namespace than the agent.
    pub containers: BTreeSet<Arc<Container>>,
    /// The allowance was spent before all processes were looked at: there may be more of all that. The next scan goes on with
    /// the others.
    pub is_cut_short: bool,
}
