//! Chooses which tables a survey walks, for which states, and narrowed by what. Pure.
//!
//! Each walk is of one protocol, family and table: listening sockets have a table of their own, which is small. How many
//! sockets the kernel passes there, and in that of UDP, no file tells for the whole host; it is taken to be few until a walk
//! without a program has counted them. The rest is chosen as for dumps (`plan`).

use vms_core::address::Endpoint;
use vms_core::connection::{Connection, ConnectionFilter, TcpState, TcpStates};
use vms_core::socket::{SocketClause, SocketFilter, Transport};

use crate::bytecode::{compile_clause_ports, compile_clauses};
use crate::codec::Family;
use crate::plan::{Experience, FamilyPlan, PortSet};

/// How many sockets a table has that is small on most hosts, before they were counted.
const FEW_SOCKETS: u32 = 100;

/// Where the kernel keeps sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// TCP sockets that do not listen.
    Tcp,
    /// TCP sockets that do. The kernel walks these alone where no other state is asked for.
    Listening,
    /// UDP sockets.
    Udp,
}

impl Table {
    const ALL: [Self; 3] = [Self::Tcp, Self::Listening, Self::Udp];

    pub(crate) const fn transport(self) -> Transport {
        match self {
            Self::Tcp | Self::Listening => Transport::Tcp,
            Self::Udp => Transport::Udp,
        }
    }

    /// The states to ask for, of those that are wanted.
    fn states(self, wanted: TcpStates) -> TcpStates {
        match self {
            Self::Listening => wanted.intersection(TcpStates::of(&[TcpState::Listen])),
            Self::Udp => wanted.intersection(TcpStates::of(&[TcpState::Established, TcpState::Close])),
            Self::Tcp => [
                // Kept as the former, told as the latter; the kernel itself adds the former to the latter.
                [TcpState::NewSynReceived, TcpState::SynReceived],
                // Asked for as the former, told as the latter.
                [TcpState::BoundInactive, TcpState::Close],
            ]
            .into_iter()
            .map(|both| TcpStates::of(&both))
            .filter(|both| !wanted.intersection(*both).is_empty())
            .fold(wanted.intersection(TcpStates::of(&OTHER_THAN_LISTEN)), TcpStates::union),
        }
    }
}

const OTHER_THAN_LISTEN: [TcpState; 12] = [
    TcpState::Established,
    TcpState::SynSent,
    TcpState::SynReceived,
    TcpState::FinWait1,
    TcpState::FinWait2,
    TcpState::TimeWait,
    TcpState::Close,
    TcpState::CloseWait,
    TcpState::LastAck,
    TcpState::Closing,
    TcpState::NewSynReceived,
    TcpState::BoundInactive,
];

/// One walk.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) table: Table,
    pub(crate) family: Family,
    pub(crate) states: TcpStates,
    /// Whether connections of links are among what it looks for.
    pub(crate) has_links: bool,
    pub(crate) programs: FamilyPlan,
    /// What the last walk without a program told.
    pub(crate) counted: Option<Experience>,
}

impl Walk {
    /// Among how many sockets it looks, as far as that is known before; `host_sockets` is the host's TCP sockets.
    pub(crate) fn expected_sockets(&self, host_sockets: u32) -> u32 {
        match self.table {
            Table::Tcp => host_sockets,
            Table::Listening | Table::Udp => FEW_SOCKETS,
        }
    }

    /// The socket as it is wanted of the table. The kernel tells a socket that is bound, and has never had a peer, as one that is
    /// closed.
    pub(crate) fn refine(&self, told: Connection) -> Connection {
        let was_never_connected = told.state == TcpState::Close && told.remote.port() == 0;
        let state = if self.table == Table::Tcp && was_never_connected {
            TcpState::BoundInactive
        } else {
            told.state
        };
        Connection { state, ..told }
    }
}

/// The walks for one filter, and what came of their programs. The same probes ask for the same sockets each cycle.
#[derive(Debug)]
pub(crate) struct SurveyPlan {
    clauses: Vec<SocketClause>,
    states: TcpStates,
    endpoints: Vec<Endpoint>,
    ports: PortSet,
    walks: Vec<Walk>,
}

impl SurveyPlan {
    pub(crate) fn new(filter: &SocketFilter<'_>) -> Self {
        let (states, endpoints) = asked(filter.connections);
        let clauses = filter.clauses.all();
        let mut walks = Vec::new();
        for table in Table::ALL {
            let wanted: Vec<Wanted<'_>> = [Family::Inet, Family::Inet6]
                .into_iter()
                .filter_map(|family| Wanted::of(table, family, clauses, states, endpoints))
                .collect();
            let dumps = u32::try_from(wanted.len()).unwrap_or(1);
            walks.extend(wanted.into_iter().map(|wanted| wanted.plan(table, dumps)));
        }
        Self {
            clauses: clauses.to_vec(),
            states,
            endpoints: endpoints.to_vec(),
            ports: PortSet::new(endpoints),
            walks,
        }
    }

    /// Whether it is for that.
    pub(crate) fn fits(&self, filter: &SocketFilter<'_>) -> bool {
        (self.states, self.endpoints.as_slice()) == asked(filter.connections)
            && self.clauses == filter.clauses.all()
    }

    /// Whether a connection's endpoint has a port of the connection. Told quickly; where none has, none is its end.
    pub(crate) fn has_port_of(&self, connection: &Connection) -> bool {
        self.ports.contains(connection.remote.port()) || self.ports.contains(connection.local.port())
    }

    /// In the order in which they are to be made.
    pub(crate) fn walks(&self) -> &[Walk] {
        &self.walks
    }

    pub(crate) fn walks_mut(&mut self) -> &mut [Walk] {
        &mut self.walks
    }
}

/// What of a survey is asked for as connections of links.
fn asked(connections: Option<&ConnectionFilter>) -> (TcpStates, &[Endpoint]) {
    connections.map_or((TcpStates::default(), &[]), |filter| (filter.states(), filter.endpoints()))
}

/// What is asked for that can be in one table, on sockets of one family.
struct Wanted<'a> {
    family: Family,
    states: TcpStates,
    clauses: Vec<&'a SocketClause>,
    endpoints: Vec<Endpoint>,
}

impl<'a> Wanted<'a> {
    /// `None` where nothing is.
    fn of(
        table: Table,
        family: Family,
        clauses: &'a [SocketClause],
        of_links: TcpStates,
        endpoints: &[Endpoint],
    ) -> Option<Self> {
        let clauses: Vec<&SocketClause> = clauses
            .iter()
            .filter(|clause| clause.transport == table.transport() && can_match(clause, family))
            .filter(|clause| !table.states(clause.states).is_empty())
            .collect();
        let has_links = table.transport() == Transport::Tcp && !table.states(of_links).is_empty();
        let endpoints: Vec<Endpoint> = endpoints
            .iter()
            .copied()
            .filter(|endpoint| has_links && (family == Family::Inet6 || endpoint.ip().is_ipv4()))
            .collect();
        let of_links = if endpoints.is_empty() { TcpStates::default() } else { table.states(of_links) };
        let states = clauses.iter().fold(of_links, |all, clause| all.union(table.states(clause.states)));
        (!states.is_empty()).then_some(Self { family, states, clauses, endpoints })
    }

    /// A walk for it, where the sockets of the host are divided among so many.
    fn plan(self, table: Table, walks: u32) -> Walk {
        let Self { family, states, clauses, endpoints } = self;
        let exact = compile_clauses(family, &clauses, &endpoints);
        let ports = compile_clause_ports(family, &clauses, &endpoints);
        Walk {
            table,
            family,
            states,
            has_links: !endpoints.is_empty(),
            programs: FamilyPlan::of(exact, ports, walks),
            counted: None,
        }
    }
}

/// Whether a socket of the family can be wanted. An `AF_INET6` socket can serve either version, or both.
fn can_match(clause: &SocketClause, family: Family) -> bool {
    match family {
        Family::Inet6 => clause.families.ipv4 || clause.families.ipv6,
        Family::Inet => {
            clause.families.ipv4
                && [&clause.local, &clause.remote].into_iter().all(|end| {
                    end.networks.is_empty() || end.networks.iter().any(|network| network.address().is_ipv4())
                })
        }
    }
}
