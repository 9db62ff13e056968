//! A connection as the kernel tells it: two endpoints, a state, and what identifies its socket.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;

use crate::address::Endpoint;
use crate::namespace::NamespaceId;

/// On which end of a link this host sees itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// This host holds the source end: the remote endpoint is the destination service.
    Forward,
    /// This host holds the destination end: the local endpoint is the destination service.
    Reverse,
}

impl Direction {
    /// Both directions, in the order in which they are reported.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Reverse];

    /// The value of the `direction` attribute.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// The state of a TCP socket (`include/net/tcp_states.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcpState {
    /// Data can flow. The only state in which a link is up.
    Established,
    /// A SYN was sent and is not answered yet.
    SynSent,
    /// A SYN was received and answered.
    SynReceived,
    /// Closed on this side, the FIN not yet acknowledged.
    FinWait1,
    /// Closed on this side, waiting for the peer's FIN.
    FinWait2,
    /// Closed on both sides, kept for late segments; no process holds it.
    TimeWait,
    /// Not connected.
    Close,
    /// Closed by the peer, not yet on this side.
    CloseWait,
    /// Closed by the peer and then here, the FIN not yet acknowledged.
    LastAck,
    /// Waiting for connections.
    Listen,
    /// Closed on both sides at once.
    Closing,
    /// A request socket of a listener, before it is a connection.
    NewSynReceived,
    /// Bound, and never connected (since Linux 6.8).
    BoundInactive,
}

impl TcpState {
    /// Every state, in the kernel's order.
    pub const ALL: [Self; 13] = [
        Self::Established,
        Self::SynSent,
        Self::SynReceived,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynReceived,
        Self::BoundInactive,
    ];

    /// The kernel's number of the state.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Established => 1,
            Self::SynSent => 2,
            Self::SynReceived => 3,
            Self::FinWait1 => 4,
            Self::FinWait2 => 5,
            Self::TimeWait => 6,
            Self::Close => 7,
            Self::CloseWait => 8,
            Self::LastAck => 9,
            Self::Listen => 10,
            Self::Closing => 11,
            Self::NewSynReceived => 12,
            Self::BoundInactive => 13,
        }
    }

    /// The name that RFC 9293 (section 3.3.2) has for the state, and where it has none, the kernel.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Close => "CLOSED",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
            Self::NewSynReceived => "NEW-SYN-RECV",
            Self::BoundInactive => "BOUND-INACTIVE",
        }
    }

    /// The state with that name, in the spelling of RFC 9293, of `ss` or of the kernel, in upper or lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase().replace('_', "-");
        let also = |state: Self| match state {
            Self::Established => "ESTAB",
            Self::SynReceived => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT1",
            Self::FinWait2 => "FIN-WAIT2",
            Self::Close => "CLOSE",
            Self::Listen => "LISTENING",
            Self::NewSynReceived => "NEW-SYN-RECEIVED",
            other => other.as_str(),
        };
        // Of UDP, what `ss` calls so has no peer.
        let name = if name == "UNCONN" || name == "UNCONNECTED" { "CLOSED" } else { name.as_str() };
        Self::ALL.into_iter().find(|state| name == state.as_str() || name == also(*state))
    }

    /// The state with that number, or `None` for a number that this version does not know.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }
}

/// A set of TCP states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpStates(u32);

impl TcpStates {
    /// The set of the states given.
    #[must_use]
    pub const fn of(states: &[TcpState]) -> Self {
        let mut bits = 0;
        let mut rest = states;
        while let [first, others @ ..] = rest {
            bits |= 1 << first.number();
            rest = others;
        }
        Self(bits)
    }

    /// The states that are in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The states that are in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the state is in the set.
    #[must_use]
    pub const fn contains(self, state: TcpState) -> bool {
        self.0 & (1 << state.number()) != 0
    }

    /// One bit a state, `1 << number`: what `idiag_states` takes (`include/uapi/linux/inet_diag.h`).
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// The inode of a socket: the number in `/proc/PID/fd/N -> socket:[inode]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode(NonZeroU64);

impl Inode {
    /// The inode with that number. The kernel's 0 means that no file stands for the socket: `None`.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// The number of a cgroup of version 2: the inode of its directory (`cgroup_id`, `include/linux/cgroup.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId(NonZeroU64);

impl CgroupId {
    /// The root's, which the kernel also gives to sockets that it can give no other: it says nothing about who made them.
    const ROOT: u64 = 1;

    /// The cgroup with that number; `None` for the root, and for what is none.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).filter(|number| number.get() != Self::ROOT).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// What tells a socket from its successors: never used twice until reboot (`SO_COOKIE`, since Linux 4.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub u64);

impl Cookie {
    /// What the kernel's never begin with: it counts up from 0, and down from the end for what an interrupt makes
    /// (`gen_cookie_next`, `include/linux/cookie.h`).
    const OURS: u64 = 0b10 << 62;
    /// Of a socket for which no inode stands.
    const WITHOUT_INODE: u64 = 1 << 61;
    const PLACES: u64 = (1 << 61) - 1;

    /// Stands in where the kernel does not tell it. An inode tells a socket from the others for as long as it lives, and is
    /// given to another afterwards, so that endpoints have to be compared as well. What has none is told by its
    /// endpoints and namespace alone.
    #[must_use]
    pub fn stand_in(inode: Option<Inode>, local: Endpoint, remote: Endpoint, namespace: NamespaceId) -> Self {
        if let Some(inode) = inode {
            return Self(Self::OURS | (inode.get() & Self::PLACES));
        }
        let mut hasher = DefaultHasher::new();
        (local, remote, namespace).hash(&mut hasher);
        Self(Self::OURS | Self::WITHOUT_INODE | (hasher.finish() & Self::PLACES))
    }

    /// Whether it only stands in for one that the kernel did not tell.
    #[must_use]
    pub fn is_stand_in(self) -> bool {
        self.0 >> 62 == Self::OURS >> 62
    }
}

/// One socket of a network namespace, with both of its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The endpoint on this host.
    pub local: Endpoint,
    /// The endpoint of the peer.
    pub remote: Endpoint,
    /// The state at the time of the dump.
    pub state: TcpState,
    /// The interface that the socket is bound to, or 0. Connections between link-local addresses are bound.
    pub interface: u32,
    /// The socket's inode; `None` while no file stands for it (in a listener's backlog, or `TIME_WAIT`).
    pub inode: Option<Inode>,
    /// What tells the socket from its successors.
    pub cookie: Cookie,
    /// The user who made the socket.
    pub uid: u32,
    /// The cgroup in which the socket was made; of an accepted one, that of the listener. `None` where the kernel does
    /// not tell, or only the root.
    pub cgroup: Option<CgroupId>,
    /// In which network namespace it is. Endpoints of one mean nothing in another.
    pub namespace: NamespaceId,
}

impl Connection {
    /// The endpoint at which the destination service of a link in that direction is.
    #[must_use]
    pub fn service_end(&self, direction: Direction) -> Endpoint {
        match direction {
            Direction::Forward => self.remote,
            Direction::Reverse => self.local,
        }
    }

    /// The other end of the link.
    #[must_use]
    pub fn source_end(&self, direction: Direction) -> Endpoint {
        match direction {
            Direction::Forward => self.local,
            Direction::Reverse => self.remote,
        }
    }
}

/// Which connections a dump is to return: those in one of the states, with one of the endpoints at either end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFilter {
    states: TcpStates,
    endpoints: Vec<Endpoint>,
    index: HashSet<Endpoint>,
}

impl ConnectionFilter {
    /// A filter for connections in `states` whose local or remote end is one of `endpoints`.
    #[must_use]
    pub fn new(states: TcpStates, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let index: HashSet<Endpoint> = endpoints.into_iter().collect();
        let mut endpoints: Vec<Endpoint> = index.iter().copied().collect();
        endpoints.sort_unstable();
        Self { states, endpoints, index }
    }

    /// The states wanted.
    #[must_use]
    pub fn states(&self) -> TcpStates {
        self.states
    }

    /// The endpoints wanted, sorted, each once.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Whether the connection is wanted: the truth that an in-kernel filter may only approximate from above.
    #[must_use]
    pub fn matches(&self, connection: &Connection) -> bool {
        self.states.contains(connection.state)
            && (self.index.contains(&connection.remote) || self.index.contains(&connection.local))
    }
}

#[cfg(test)]
mod tests;
