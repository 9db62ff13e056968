//! The probe `discovery`: where processes listen, and whom they are connected with, although nobody declared it.
//!
//! Who listens is the service: a connection is seen `reverse` where a socket of this host listens at its local end, and
//! `forward` everywhere else. Ports say nothing about it: a high one may be a service, a low one a client.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::address::Endpoint;
use crate::connection::{Direction, TcpState, TcpStates};
use crate::look::{Holding, LookError, match_holders};
use crate::metric::{self, Attribute, AttributeSet, AttributeValue, DataPoint, Metric};
use crate::observer::{Finding, Observer, Question, Seen, Taken};
use crate::process::{Capability, PatternId, Process, ProcessPattern, ProcessSelector};
use crate::socket::{EndClause, Families, Socket, SocketClause, Transport};

/// Asks where processes listen, and whom they are connected with: the probe `discovery`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryProbe {
    /// Identifies the probe; unique among probes.
    pub name: Arc<str>,
    /// Only sockets count that a process holds which fits one of these.
    pub processes: Vec<ProcessPattern>,
    /// How many endpoints and edges have a series of their own at most; those with most connections go first.
    pub most: usize,
    /// How often to look.
    pub interval: Duration,
}

/// Where a process listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// The name of the process.
    pub process: Arc<str>,
    /// Where it listens.
    pub at: Endpoint,
}

/// What connects a process with a service, in either direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// The name of the process on this host.
    pub process: Arc<str>,
    /// Whether it is the one that serves.
    pub direction: Direction,
    /// Where the service is.
    pub service: Endpoint,
}

/// What one look discovered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map {
    /// Where processes listen, and with how many sockets.
    pub listeners: BTreeMap<Listener, u64>,
    /// The edges, and of how many connections each is.
    pub edges: BTreeMap<Edge, u64>,
    /// Sockets of which the agent was not permitted to learn who holds them.
    pub unattributed: u64,
    /// The capabilities whose absence is to blame for that.
    pub missing: BTreeSet<Capability>,
}

/// A probe `discovery`, and what it discovered last.
#[derive(Debug)]
pub struct Discovery {
    probe: Arc<DiscoveryProbe>,
    patterns: Vec<PatternId>,
    map: Option<Map>,
    attributes: Arc<AttributeSet>,
    /// Of the series that were told last.
    of_listeners: HashMap<Listener, Arc<AttributeSet>>,
    of_edges: HashMap<Edge, Arc<AttributeSet>>,
}

const STATES: TcpStates = TcpStates::of(&[TcpState::Listen, TcpState::Established]);

impl Discovery {
    /// A probe of which nothing is known yet.
    #[must_use]
    pub fn new(probe: Arc<DiscoveryProbe>) -> Self {
        let attributes = Arc::new(AttributeSet::new([name(&probe)]));
        let (of_listeners, of_edges) = (HashMap::new(), HashMap::new());
        Self { probe, patterns: Vec::new(), map: None, attributes, of_listeners, of_edges }
    }

    /// The process that fits and holds the socket; `None` where another does.
    fn holder(
        &self,
        socket: &Socket,
        seen: &Seen<'_>,
        map: &mut Map,
    ) -> Result<Option<Arc<Process>>, LookError> {
        let (mut is_unknown, mut lacking) = (false, BTreeSet::new());
        for pattern in &self.patterns {
            match match_holders(&socket.connection, *pattern, seen.scan) {
                Holding::Fits(owners) => return Ok(owners.into_iter().min_by_key(|owner| owner.pid)),
                Holding::Other => {}
                Holding::Undecided => return Err(LookError::CutShort),
                Holding::Unknown(missing) => {
                    is_unknown = true;
                    lacking.extend(missing);
                }
            }
        }
        map.unattributed += u64::from(is_unknown);
        map.missing.extend(lacking);
        Ok(None)
    }

    fn point(&self, metric: &'static Metric, value: usize, time: SystemTime) -> DataPoint {
        DataPoint::count(metric, &self.attributes, None, u64::try_from(value).unwrap_or(u64::MAX), time)
    }
}

impl Observer for Discovery {
    fn adopt(&mut self, selector: &ProcessSelector) {
        self.patterns = self.probe.processes.iter().filter_map(|pattern| selector.id(pattern)).collect();
    }

    fn clauses(&self) -> Vec<SocketClause> {
        let (local, remote) = (EndClause::default(), EndClause::default());
        vec![SocketClause {
            transport: Transport::Tcp,
            families: Families::BOTH,
            states: STATES,
            local,
            remote,
        }]
    }

    fn ask(&self) -> Question {
        Question { holders: self.patterns.iter().copied().collect(), ..Question::default() }
    }

    fn take_in(&mut self, seen: &Seen<'_>) -> Result<Taken, LookError> {
        for pattern in &self.patterns {
            seen.require_sight(*pattern)?;
        }
        let listening = Listening::of(seen.sockets);
        let mut map = Map::default();
        for socket in seen.sockets {
            let Some(holder) = self.holder(socket, seen, &mut map)? else { continue };
            let process = known_name(&holder);
            let local = socket.connection.local;
            if socket.connection.state == TcpState::Listen {
                *map.listeners.entry(Listener { process, at: local }).or_default() += 1;
                continue;
            }
            let (direction, service) = if listening.at(local) {
                (Direction::Reverse, local)
            } else {
                (Direction::Forward, socket.connection.remote)
            };
            *map.edges.entry(Edge { process, direction, service }).or_default() += 1;
        }
        self.map = Some(map);
        Ok(Taken::Answer(None))
    }

    fn report(&mut self, time: SystemTime, emit: &mut dyn FnMut(DataPoint)) {
        let Some(map) = &self.map else { return };
        let probe = &self.probe;
        let mut listeners: Vec<(&Listener, u64)> =
            map.listeners.iter().map(|(key, count)| (key, *count)).collect();
        let mut edges: Vec<(&Edge, u64)> = map.edges.iter().map(|(key, count)| (key, *count)).collect();
        // What was told before goes on, where there is room for it; of the others those of most connections come first.
        edges.sort_by_key(|(edge, count)| (!self.of_edges.contains_key(*edge), std::cmp::Reverse(*count)));
        let omitted = (listeners.len() + edges.len()).saturating_sub(probe.most);
        listeners.truncate(probe.most);
        edges.truncate(probe.most - listeners.len());
        let of_listeners = listeners.iter().map(|(listener, _)| {
            let known = self.of_listeners.get(*listener).cloned();
            ((*listener).clone(), known.unwrap_or_else(|| listener_attributes(probe, listener)))
        });
        let of_listeners: HashMap<Listener, Arc<AttributeSet>> = of_listeners.collect();
        let of_edges = edges.iter().map(|(edge, _)| {
            let known = self.of_edges.get(*edge).cloned();
            ((*edge).clone(), known.unwrap_or_else(|| edge_attributes(probe, edge)))
        });
        let of_edges: HashMap<Edge, Arc<AttributeSet>> = of_edges.collect();
        for (listener, count) in listeners {
            if let Some(attributes) = of_listeners.get(listener) {
                emit(DataPoint::count(&metric::DISCOVERY_LISTENING, attributes, None, count, time));
            }
        }
        for (edge, count) in edges {
            if let Some(attributes) = of_edges.get(edge) {
                emit(DataPoint::count(&metric::DISCOVERY_CONNECTIONS, attributes, None, count, time));
            }
        }
        emit(self.point(&metric::DISCOVERY_ENDPOINTS, map.listeners.len(), time));
        emit(self.point(&metric::DISCOVERY_EDGES, map.edges.len(), time));
        emit(self.point(&metric::DISCOVERY_OMITTED, omitted, time));
        let established = map.edges.values().sum();
        emit(DataPoint::count(&metric::DISCOVERY_ESTABLISHED, &self.attributes, None, established, time));
        emit(DataPoint::count(
            &metric::DISCOVERY_UNATTRIBUTED,
            &self.attributes,
            None,
            map.unattributed,
            time,
        ));
        (self.of_listeners, self.of_edges) = (of_listeners, of_edges);
    }

    fn finding(&self) -> Option<Finding> {
        self.map.clone().map(Finding::Map)
    }

    fn unattributed(&self) -> u64 {
        self.map.as_ref().map_or(0, |map| map.unattributed)
    }

    fn missing(&self) -> BTreeSet<Capability> {
        self.map.as_ref().map(|map| map.missing.clone()).unwrap_or_default()
    }
}

/// Where sockets of this host listen.
struct Listening {
    /// Ports on which one listens on each address of these families.
    anywhere: HashMap<u16, Families>,
    at: BTreeSet<Endpoint>,
}

impl Listening {
    fn of(sockets: &[&Socket]) -> Self {
        let (mut anywhere, mut at) = (HashMap::new(), BTreeSet::new());
        for socket in sockets.iter().filter(|socket| socket.connection.state == TcpState::Listen) {
            let local = socket.connection.local;
            if local.ip().is_unspecified() {
                let families: &mut Families =
                    anywhere.entry(local.port()).or_insert(Families { ipv4: false, ipv6: false });
                families.ipv4 |= socket.families.ipv4;
                families.ipv6 |= socket.families.ipv6;
            } else {
                at.insert(local);
            }
        }
        Self { anywhere, at }
    }

    fn at(&self, end: Endpoint) -> bool {
        let is_anywhere = |families: &Families| families.serves(end.ip());
        self.at.contains(&end) || self.anywhere.get(&end.port()).is_some_and(is_anywhere)
    }
}

/// By what a process is known best: its program, and where that is not told what it calls itself.
fn known_name(process: &Process) -> Arc<str> {
    let program = process.executable.as_deref().and_then(std::path::Path::file_name);
    program.map_or_else(|| process.name.as_str().into(), |program| program.to_string_lossy().as_ref().into())
}

fn name(probe: &DiscoveryProbe) -> Attribute {
    Attribute { key: "name", value: AttributeValue::Str(Arc::clone(&probe.name)) }
}

fn text(key: &'static str, ip: IpAddr) -> Attribute {
    Attribute { key, value: AttributeValue::Str(ip.to_string().into()) }
}

fn process(name: &Arc<str>) -> Attribute {
    Attribute { key: "process_name", value: AttributeValue::Str(Arc::clone(name)) }
}

fn listener_attributes(probe: &DiscoveryProbe, listener: &Listener) -> Arc<AttributeSet> {
    let Listener { process: holder, at } = listener;
    let port = Attribute::new("local_port", at.port());
    Arc::new(AttributeSet::new([name(probe), process(holder), text("local_address", at.ip()), port]))
}

fn edge_attributes(probe: &DiscoveryProbe, edge: &Edge) -> Arc<AttributeSet> {
    let Edge { process: holder, direction, service } = edge;
    Arc::new(AttributeSet::new([
        name(probe),
        process(holder),
        text("dest_ip", service.ip()),
        Attribute::new("dest_port", service.port()),
        Attribute::new("direction", direction.as_str()),
    ]))
}
