//! Asks the kernel, as often as it takes, and lets through only what was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::netlink::SOCK_DIAG;
use vms_core::ConnAdapter;
use vms_core::address::Endpoint;
use vms_core::connection::{Connection, ConnectionFilter};
use vms_core::health::Sighting;
use vms_core::namespace::{Approach, Namespace, NamespaceId};
use vms_core::socket::{SocketFilter, SocketSurvey, Transport as Protocol};
use vms_netlink::{ATTEMPTS, Answers, Ended, Exchange, Line, NetlinkSocket, Operation, Transport};

use crate::bytecode::Precision;
use crate::codec::{DumpRequest, Family, LookupRequest, Sightings, Sockets};
use crate::error::{Error, classify};
use crate::home::{Abroad, Home};
use crate::host_size::read_host_sockets;
use crate::plan::{Experience, Plan};
use crate::tables::Tables;
use crate::walk::SurveyPlan;

mod survey;

/// How many sockets one dump may tell of in one attempt, asked for or not. To read that many takes half a second.
pub(crate) const MAX_TOLD: u32 = 1 << 20;

/// How many connections one dump may find: of 80 bytes each.
pub(crate) const MAX_FOUND: usize = 1 << 18;

/// How many lookups go to the kernel in one send. It answers them all before the send returns: the socket's receive
/// buffer has to hold the answers, each of which is charged with up to 2,304 bytes of the 212,992 that are usual.
const LOOKUPS_AT_ONCE: usize = 64;

/// By how much fewer lookups go in one send after answers did not find room.
const FEWER_LOOKUPS: usize = 4;

/// After how many sends in a row that were as large as may be, and whose answers all found room, twice as many lookups
/// go in one. What was short may have been the host's memory, for a moment. Where it is the socket's buffer, and stays
/// so, one exchange in some hundreds is for nothing.
const SENDS_BEFORE_MORE: u32 = 256;

/// Sets of endpoints whose plans are kept beside the present one. Each holds 9 KiB for a few endpoints, and at most
/// 8 KiB and 4 programs of 64 KiB beside the endpoints themselves.
const EARLIER_PLANS: usize = 7;

/// The TCP connections of the network namespace of the thread that opened it, and of those that are attended to beside.
///
/// Needs no capability, but `CAP_SYS_ADMIN` to enter other namespaces: each has a socket of its own, opened in it once.
/// Those that are not entered are read from their tables. The socket is kept from one dump to the next; after a failure it
/// is opened anew, by the thread that dumps next, which has to be in the same network namespace.
#[derive(Debug)]
pub struct SockDiag {
    client: Client<NetlinkSocket<Option<Abroad>>>,
    sockstat: PathBuf,
    /// Where it was opened; `None` where no other namespace is attended to.
    home: Option<Arc<Home>>,
    abroad: BTreeMap<NamespaceId, Scope<NetlinkSocket<Option<Abroad>>>>,
    /// Those that are not entered.
    tables: BTreeMap<NamespaceId, Tables>,
}

impl SockDiag {
    /// Opens the netlink socket.
    ///
    /// `proc_root` is where `/proc` is. Its `net/sockstat` is read before each dump, to choose what costs the kernel
    /// least on a host of that size; where it cannot be read, the host is taken for a large one.
    ///
    /// # Errors
    /// [`Error::PermissionMissing`] or [`Error::Unsupported`] where this host does not allow or have it,
    /// [`Error::Io`] where it lacks file descriptors or memory.
    pub fn open(proc_root: &Path) -> Result<Self, Error> {
        let line = open(None).map_err(|errno| classify(Protocol::Tcp, Operation::Open, errno))?;
        let sockstat = proc_root.join("net/sockstat");
        Ok(Self {
            client: Client::new(Scope::new(line)),
            sockstat,
            home: None,
            abroad: BTreeMap::new(),
            tables: BTreeMap::new(),
        })
    }

    /// The same, and able to attend to other network namespaces.
    ///
    /// # Errors
    /// As [`SockDiag::open`]; and where `thread-self/ns/net` below `proc_root`, by which the thread comes back, cannot be opened.
    pub fn open_for_all_namespaces(proc_root: &Path) -> Result<Self, Error> {
        let home = Home::open(proc_root).map_err(|errno| classify(Protocol::Tcp, Operation::Enter, errno))?;
        Ok(Self { home: Some(Arc::new(home)), ..Self::open(proc_root)? })
    }

    /// Nothing is asked for while the thread is where it could not come back from: a socket that is opened anew would
    /// tell of that place.
    fn come_back(&self) -> Result<(), Error> {
        let home = self.home.as_ref();
        home.map_or(Ok(()), |home| home.come_back())
            .map_err(|errno| classify(Protocol::Tcp, Operation::Enter, errno))
    }
}

impl ConnAdapter for SockDiag {
    type Error = Error;

    fn attend(
        &mut self,
        namespaces: &[Namespace],
        in_use: &BTreeSet<NamespaceId>,
    ) -> Result<BTreeSet<NamespaceId>, Error> {
        let mut refused = BTreeSet::new();
        let wanted: BTreeSet<NamespaceId> = namespaces.iter().map(|namespace| namespace.id).collect();
        let is_kept = |id: &NamespaceId| wanted.contains(id) || in_use.contains(id);
        self.abroad.retain(|id, _| is_kept(id));
        self.tables.retain(|id, _| is_kept(id));
        for Namespace { id, approach } in namespaces {
            if self.abroad.contains_key(id) || self.tables.contains_key(id) {
                continue;
            }
            let handle = match approach {
                Approach::Enter(handle) => handle,
                Approach::Read(kept) => {
                    self.tables.insert(*id, Tables { namespace: *id, kept: Arc::clone(kept) });
                    continue;
                }
            };
            let Some(home) = &self.home else {
                refused.insert(*id);
                continue;
            };
            let abroad = Abroad { home: Arc::clone(home), there: Arc::clone(handle) };
            match open(Some(abroad)) {
                Ok(line) => {
                    self.abroad.insert(*id, Scope::new(line));
                }
                // A name may be that of another kind of namespace.
                Err(Errno::PERM | Errno::ACCESS | Errno::INVAL) => {
                    refused.insert(*id);
                }
                Err(errno) => return Err(classify(Protocol::Tcp, Operation::Enter, errno)),
            }
            self.come_back()?;
        }
        Ok(refused)
    }

    fn unentered(&self) -> BTreeSet<NamespaceId> {
        self.tables.keys().copied().collect()
    }

    /// One walk of the kernel's table for `AF_INET6` sockets, and one for `AF_INET` sockets if any endpoint is
    /// IPv4; none if nothing is asked for. Sorted by cookie.
    fn dump(&mut self, filter: &ConnectionFilter) -> Result<Vec<Connection>, Error> {
        self.come_back()?;
        self.client.dump(filter, || read_host_sockets(&self.sockstat))
    }

    /// One walk for each kernel table, and family of its sockets, that can have what is asked for: TCP, listening, UDP. Both
    /// lists are sorted by cookie. A protocol of which one walk fails is not told.
    fn survey(&mut self, filter: &SocketFilter<'_>) -> Result<SocketSurvey<Error>, Error> {
        self.come_back()?;
        self.client.survey(filter, || read_host_sockets(&self.sockstat))
    }

    /// A walk costs what all sockets of the host cost, in whichever network namespace they are. Of a namespace that is not
    /// attended to nothing is told.
    fn dump_in(
        &mut self,
        namespace: NamespaceId,
        filter: &ConnectionFilter,
    ) -> Result<Vec<Connection>, Error> {
        if let Some(tables) = self.tables.get(&namespace) {
            return tables.dump(filter);
        }
        self.come_back()?;
        let Some(scope) = self.abroad.get_mut(&namespace) else { return Ok(Vec::new()) };
        let sockstat = &self.sockstat;
        let mut found =
            self.client.on(scope, |client| client.dump(filter, || read_host_sockets(sockstat)))?;
        for connection in &mut found {
            connection.namespace = namespace;
        }
        Ok(found)
    }

    /// One message each way for a connection, many of them in one send. The state may be any, also one that no dump
    /// asked for. Of a namespace that is not entered the tables are read, once.
    fn lookup(&mut self, connections: &[Connection]) -> Result<Vec<Option<Sighting>>, Error> {
        self.come_back()?;
        if connections.iter().all(|connection| connection.namespace == NamespaceId::OWN) {
            return self.client.lookup(connections);
        }
        let mut places: BTreeMap<NamespaceId, Vec<usize>> = BTreeMap::new();
        for (index, connection) in connections.iter().enumerate() {
            places.entry(connection.namespace).or_default().push(index);
        }
        let mut sightings = vec![None; connections.len()];
        for (id, indices) in places {
            let asked: Vec<Connection> =
                indices.iter().filter_map(|index| connections.get(*index)).copied().collect();
            let told = match (self.abroad.get_mut(&id), self.tables.get(&id)) {
                (Some(scope), _) => self.client.on(scope, |client| client.lookup(&asked))?,
                (None, Some(tables)) => tables.lookup(&asked)?,
                (None, None) if id == NamespaceId::OWN => self.client.lookup(&asked)?,
                // It is attended to no more: what was in it is not known, and only a walk can tell.
                (None, None) => continue,
            };
            for (index, sighting) in indices.into_iter().zip(told) {
                let Some(slot) = sightings.get_mut(index) else { continue };
                *slot = sighting.map(|sighting| Sighting {
                    connection: Connection { namespace: id, ..sighting.connection },
                    ..sighting
                });
            }
        }
        Ok(sightings)
    }

    fn interface_index(&self, namespace: NamespaceId, name: &str) -> Option<u32> {
        if self.tables.contains_key(&namespace) {
            return None;
        }
        let scope = self.abroad.get(&namespace).unwrap_or(&self.client.scope);
        scope.line.transport.interface_index(name)
    }
}

/// A line of `sock_diag` to that place, or to where the thread is.
fn open(place: Option<Abroad>) -> Result<Line<NetlinkSocket<Option<Abroad>>>, Errno> {
    Line::open(NetlinkSocket::new(SOCK_DIAG, place))
}

/// A network namespace that the kernel is asked about.
#[derive(Debug)]
struct Scope<T> {
    line: Line<T>,
    /// How many `AF_INET` and `AF_INET6` sockets the last dumps without a program told.
    counted: [Option<Experience>; 2],
}

/// The protocol, apart from the socket.
#[derive(Debug)]
struct Client<T> {
    scope: Scope<T>,
    exchange: Exchange,
    plan: Plan,
    /// Those used before, the latest first.
    earlier: Vec<Plan>,
    /// Those of surveys, the latest first.
    surveys: Vec<SurveyPlan>,
    /// How many lookups go in one send.
    lookups_at_once: usize,
    /// How many sends of so many were answered in full since that changed.
    full_sends: u32,
    /// What a dump may tell of.
    room: Room,
}

/// How many sockets a dump may tell of.
#[derive(Debug, Clone, Copy)]
struct Room {
    told: u32,
    found: usize,
}

/// How an exchange ended that may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Every socket was told.
    Complete {
        /// How many there were, asked for or not.
        told: u32,
    },
    /// The kernel broke it off, or cannot vouch for it.
    Interrupted,
    /// The kernel does not take the program.
    ProgramRefused,
}

impl<T> Scope<T> {
    fn new(line: Line<T>) -> Self {
        Self { line, counted: [None; 2] }
    }
}

impl<T: Transport> Client<T> {
    fn new(scope: Scope<T>) -> Self {
        Self {
            scope,
            exchange: Exchange::default(),
            plan: Plan::default(),
            earlier: Vec::new(),
            surveys: Vec::new(),
            lookups_at_once: LOOKUPS_AT_ONCE,
            full_sends: 0,
            room: Room { told: MAX_TOLD, found: MAX_FOUND },
        }
    }

    fn dump(
        &mut self,
        filter: &ConnectionFilter,
        host_sockets: impl FnOnce() -> u32,
    ) -> Result<Vec<Connection>, Error> {
        let mut found = Vec::new();
        if filter.endpoints().is_empty() || filter.states().bits() == 0 {
            return Ok(found);
        }
        self.choose_plan(filter.endpoints());
        let host_sockets = host_sockets();
        if filter.endpoints().iter().any(|endpoint| endpoint.ip().is_ipv4()) {
            self.dump_family(Family::Inet, filter, host_sockets, &mut found)?;
        }
        self.dump_family(Family::Inet6, filter, host_sockets, &mut found)?;
        // Where two pieces of a dump meet within a hash chain that grew in between, a socket comes twice.
        found.sort_unstable_by_key(|connection| connection.cookie);
        found.dedup_by_key(|connection| connection.cookie);
        Ok(found)
    }

    /// Asks about another namespace, with all else that is known.
    fn on<R>(&mut self, scope: &mut Scope<T>, ask: impl FnOnce(&mut Self) -> R) -> R {
        std::mem::swap(&mut self.scope, scope);
        let outcome = ask(self);
        std::mem::swap(&mut self.scope, scope);
        outcome
    }

    /// Compiles, unless these endpoints were asked for before: probes with different intervals take turns.
    fn choose_plan(&mut self, endpoints: &[Endpoint]) {
        if self.plan.endpoints() == endpoints {
            return;
        }
        let known = self.earlier.iter().position(|plan| plan.endpoints() == endpoints);
        let next = match known {
            Some(index) => self.earlier.remove(index),
            None => Plan::new(endpoints),
        };
        let last = std::mem::replace(&mut self.plan, next);
        self.earlier.insert(0, last);
        self.earlier.truncate(EARLIER_PLANS);
    }

    fn dump_family(
        &mut self,
        family: Family,
        filter: &ConnectionFilter,
        host_sockets: u32,
        found: &mut Vec<Connection>,
    ) -> Result<(), Error> {
        let found_before = found.len();
        for _attempt in 0..ATTEMPTS {
            found.truncate(found_before);
            let counted = *self.counted_mut(family);
            let precision = self.plan.family(family).choose(host_sockets, counted);
            match self.exchange(family, filter, precision, found)? {
                Outcome::Complete { told } => {
                    let experience = Experience { told, host_sockets };
                    match precision {
                        None => *self.counted_mut(family) = Some(experience),
                        Some(Precision::Ports) => self.plan.family_mut(family).learn(experience),
                        // It told what was asked for, whatever else there is.
                        Some(Precision::Exact) => {}
                    }
                    return Ok(());
                }
                Outcome::Interrupted => {}
                Outcome::ProgramRefused => self.plan.family_mut(family).discard(precision),
            }
        }
        Err(Error::Interrupted { attempts: ATTEMPTS })
    }

    fn counted_mut(&mut self, family: Family) -> &mut Option<Experience> {
        let [inet, inet6] = &mut self.scope.counted;
        match family {
            Family::Inet => inet,
            Family::Inet6 => inet6,
        }
    }

    fn lookup(&mut self, connections: &[Connection]) -> Result<Vec<Option<Sighting>>, Error> {
        let mut sightings = Vec::with_capacity(connections.len());
        let mut attempts = 0;
        while let Some(asked @ [_, ..]) = connections.get(sightings.len()..) {
            let batch = asked.split_at_checked(self.lookups_at_once).map_or(asked, |(batch, _)| batch);
            let sightings_before = sightings.len();
            let answers = self.exchange.ask::<Sightings, _, _>(
                &mut self.scope.line,
                batch,
                |sequence, connection, out| LookupRequest { sequence, connection }.encode(out),
                |connection, answer| {
                    sightings.push(match answer {
                        Ok(sighting) => Some(sighting).filter(|told| is_same(&told.connection, connection)),
                        // As every kernel does that has cookies. It also says so when `tcp_diag` was unloaded since the
                        // dump; the next dump then fails.
                        Err(Errno::NOENT) => None,
                        Err(errno) => return Err(errno),
                    });
                    Ok(())
                },
            )?;
            match answers {
                Answers::All => {
                    self.note_room_for(batch.len());
                    attempts = 0;
                }
                Answers::Lost => {
                    sightings.truncate(sightings_before);
                    self.lookups_at_once = (self.lookups_at_once / FEWER_LOOKUPS).max(1);
                    self.full_sends = 0;
                    attempts += 1;
                    if attempts == ATTEMPTS {
                        return Err(Error::Interrupted { attempts });
                    }
                }
            }
        }
        Ok(sightings)
    }

    /// Takes in that the answers to so many lookups found room. That of fewer than could be sent says nothing about more.
    fn note_room_for(&mut self, lookups: usize) {
        if self.lookups_at_once == LOOKUPS_AT_ONCE || lookups < self.lookups_at_once {
            return;
        }
        self.full_sends += 1;
        if self.full_sends == SENDS_BEFORE_MORE {
            self.full_sends = 0;
            self.lookups_at_once = (self.lookups_at_once * 2).min(LOOKUPS_AT_ONCE);
        }
    }

    /// One request and all of its reply.
    fn exchange(
        &mut self,
        family: Family,
        filter: &ConnectionFilter,
        precision: Option<Precision>,
        found: &mut Vec<Connection>,
    ) -> Result<Outcome, Error> {
        let program = self.plan.family(family).program(precision);
        let ended = self.exchange.dump::<Sockets, _, _>(
            &mut self.scope.line,
            self.room.told,
            |sequence, out| {
                let (transport, states) = (Protocol::Tcp, filter.states());
                DumpRequest { sequence, transport, family, states, program }.encode(out)
            },
            |connection| {
                // The program may have let through more than was asked for. Of most of that the port tells.
                if self.plan.has_port_of(&connection) && filter.matches(&connection) {
                    if found.len() >= self.room.found {
                        return ControlFlow::Break(Error::TooMany);
                    }
                    found.push(connection);
                }
                ControlFlow::Continue(())
            },
        )?;
        conclude(ended, Protocol::Tcp, program)
    }
}

/// How an exchange with that program ended.
fn conclude(ended: Ended<Error>, protocol: Protocol, program: &[u8]) -> Result<Outcome, Error> {
    match ended {
        Ended::Complete { told } => Ok(Outcome::Complete { told }),
        Ended::Interrupted => Ok(Outcome::Interrupted),
        // Not taken, or more than the socket's send buffer, which the host's administrator may have made small.
        Ended::Failed { operation: Operation::Request, errno: Errno::INVAL | Errno::MSGSIZE }
            if !program.is_empty() =>
        {
            Ok(Outcome::ProgramRefused)
        }
        Ended::Failed { operation, errno } => Err(classify(protocol, operation, errno)),
        Ended::Stopped(error) => Err(error),
    }
}

/// Whether the socket told is the one that was asked for, whatever has become of it.
pub(crate) fn is_same(told: &Connection, asked: &Connection) -> bool {
    (told.cookie, told.local, told.remote) == (asked.cookie, asked.local, asked.remote)
}

#[cfg(test)]
mod tests;
