//! A host made of plain data: the second implementer of the adapter traits, for this crate's tests.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::adapter::{ConnAdapter, ProcessAdapter, TranslationAdapter, Untold};
use crate::address::Endpoint;
use crate::allowance::Allowance;
use crate::connection::{CgroupId, Connection, ConnectionFilter, Cookie, Inode, TcpState};
use crate::health::{Sighting, Vitals};
use crate::infer::{
    AttributionMode, Basis, InferenceLack, Outsider, OutsiderQuery, OutsiderScan, SuspectQuery,
};
use crate::look::{Beginning, Manner};
use crate::namespace::{Approach, Inhabited, Namespace, NamespaceId, NamespaceQuery, NamespaceScan};
use crate::process::{
    Capability, Container, Fits, Headcount, HolderQuery, HolderScan, Known, PatternId, Pid, Process,
    ProcessNames, ProcessSelector, ProcessUsage, VerifyQuery,
};
use crate::socket::{Families, Socket, SocketFilter, SocketSurvey, Transport};
use crate::translation::{Translation, Translations};

/// A connection of the agent's own network namespace, which the number of its socket tells from every other.
fn connection(local: (&str, u16), remote: (&str, u16), state: TcpState, inode: u64) -> Connection {
    Connection {
        local: Endpoint::new(local.0.parse().unwrap(), local.1),
        remote: Endpoint::new(remote.0.parse().unwrap(), remote.1),
        state,
        interface: 0,
        inode: Inode::new(inode),
        cookie: Cookie(inode),
        uid: 0,
        cgroup: None,
        namespace: NamespaceId::OWN,
    }
}

/// An ESTABLISHED socket of TCP with that port at this host's end.
pub(crate) fn socket(port: u16, inode: u64, families: Families) -> Socket {
    let connection = connection(("10.0.0.1", port), ("10.0.0.2", 40_000), TcpState::Established, inode);
    Socket { transport: Transport::Tcp, families, connection }
}

/// What the agent may learn of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything.
    Open,
    /// Its names, not its descriptors.
    Denied,
    /// Its comm only: neither its executable nor its descriptors.
    NoExecutable,
    /// Not even that it exists; only that some are hidden.
    Hidden,
}

#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) comm: String,
    pub(crate) executable: String,
    pub(crate) access: Access,
    pub(crate) inodes: Vec<u64>,
}

impl Running {
    fn describe(&self, pid: Pid, selector: &ProcessSelector) -> Arc<Process> {
        let path = PathBuf::from(format!("/bin/{}", self.executable));
        let names = ProcessNames {
            comm: Known::Is(self.comm.as_bytes()),
            argv0: Known::Absent,
            executable: Known::Is(Path::new(&path)),
        };
        let fits = selector.fits(&names).certain;
        Arc::new(Process {
            pid,
            name: self.comm.clone(),
            executable: Some(path),
            fits,
            container: None,
            is_stranger: false,
        })
    }
}

impl Running {
    /// What it fits by the names that may be read.
    fn fits(&self, selector: &ProcessSelector) -> Fits {
        let path = PathBuf::from(format!("/bin/{}", self.executable));
        let (comm, executable) = (Known::Is(self.comm.as_bytes()), Known::Is(Path::new(&path)));
        let (comm, argv0, executable) = match self.access {
            Access::Hidden => (Known::Denied, Known::Denied, Known::Denied),
            Access::NoExecutable => (comm, Known::Absent, Known::Denied),
            Access::Open | Access::Denied => (comm, Known::Absent, executable),
        };
        selector.fits(&ProcessNames { comm, argv0, executable })
    }

    /// As it is known to whoever may not look into it.
    fn describe_outsider(&self, pid: Pid, selector: &ProcessSelector) -> Arc<Process> {
        if self.access != Access::NoExecutable {
            return self.describe(pid, selector);
        }
        let names = ProcessNames {
            comm: Known::Is(self.comm.as_bytes()),
            argv0: Known::Absent,
            executable: Known::Denied,
        };
        let fits = selector.fits(&names).certain;
        Arc::new(Process {
            pid,
            name: self.comm.clone(),
            executable: None,
            fits,
            container: None,
            is_stranger: false,
        })
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    connections: Vec<Connection>,
    processes: Vec<Running>,
    broken_dumps: usize,
    /// Transports of which the kernel tells nothing to watches.
    pub(crate) untold: BTreeSet<Transport>,
    /// Sockets that watches are for.
    pub(crate) sockets: Vec<Socket>,
    /// Connections that only a second dump finds.
    pub(crate) late: Vec<Connection>,
    pub(crate) dumps: usize,
    pub(crate) lookups: usize,
    pub(crate) broken_lookups: usize,
    pub(crate) vitals: HashMap<Cookie, Vitals>,
    /// What further dumps find, the next one last.
    pub(crate) replacements: Vec<Vec<Connection>>,
    /// How many processes a search may look into before it is cut short.
    pub(crate) patience: Option<usize>,
    /// A reading of CPU time, and what each dump adds to it.
    pub(crate) cost: Option<(Rc<Cell<Duration>>, Duration)>,
    /// The cgroup and the user of a process, by its place; without them nothing can be inferred of it.
    pub(crate) origins: HashMap<usize, (u64, u32)>,
    /// How often it can be told of nobody who could hold a socket.
    pub(crate) confused: usize,
    /// Processes, by their places, that live in another network namespace than the agent.
    pub(crate) elsewhere: BTreeSet<usize>,
    pub(crate) is_displaced: bool,
    /// The network namespaces of processes, by their places, that do not live in the agent's own.
    pub(crate) homes: BTreeMap<usize, NamespaceId>,
    /// Those of which it is not told where they live.
    pub(crate) homeless: BTreeSet<usize>,
    /// Processes, by their places, of another user namespace than the agent.
    pub(crate) strangers: BTreeSet<usize>,
    /// The containers of processes, by their places.
    pub(crate) containers: BTreeMap<usize, Arc<Container>>,
    /// Network namespaces that have names.
    pub(crate) named: BTreeSet<NamespaceId>,
    /// Those of which the connections cannot be told.
    pub(crate) broken: BTreeSet<NamespaceId>,
    /// Network namespaces that the agent may not enter.
    pub(crate) barred: BTreeSet<NamespaceId>,
    /// Network namespaces that are attended to.
    pub(crate) attended: BTreeSet<NamespaceId>,
    /// Those that are attended to without being entered.
    pub(crate) unentered: BTreeSet<NamespaceId>,
    /// What processes use, by their places. Of others it cannot be read.
    pub(crate) usages: BTreeMap<usize, ProcessUsage>,
}

#[derive(Debug, thiserror::Error)]
#[error("refused")]
pub(crate) struct Refused;

/// Looks in the plainest manner: without limit or memory, and inferring nothing. A test puts what it wants in its place.
pub(crate) fn with_manner<R>(look: impl FnOnce(Manner<'_>) -> R) -> R {
    look(Manner {
        wants_reason: &|_, _| true,
        every_holder: false,
        known: &HashMap::new(),
        now: Duration::ZERO,
        since_boot: Duration::ZERO,
        allowance: &Allowance::unlimited(),
        begin_with: &|_| Beginning::default(),
        translations: &Translations::default(),
        with_translations: false,
        untranslated: &|_| false,
        attribution: AttributionMode::Strict,
        in_use: None,
        named: false,
        observers: &[],
    })
}

impl Host {
    pub(crate) fn of(processes: Vec<Running>, connections: Vec<Connection>) -> Self {
        Self { connections, processes, ..Self::default() }
    }

    pub(crate) fn connections(&self) -> &[Connection] {
        &self.connections
    }

    pub(crate) fn processes(&self) -> &[Running] {
        &self.processes
    }

    pub(crate) fn run(&mut self, name: &str, access: Access, inodes: &[u64]) {
        let (comm, executable) = (name.to_owned(), name.to_owned());
        self.processes.push(Running { comm, executable, access, inodes: inodes.to_vec() });
    }

    pub(crate) fn process_mut(&mut self, index: usize) -> &mut Running {
        &mut self.processes[index]
    }

    /// The connection at that place, counted round.
    pub(crate) fn connection_mut(&mut self, place: usize) -> Option<&mut Connection> {
        let count = self.connections.len().max(1);
        self.connections.get_mut(place % count)
    }

    pub(crate) fn close(&mut self, place: usize) {
        if !self.connections.is_empty() {
            let closed = self.connections.remove(place % self.connections.len());
            for process in &mut self.processes {
                process.inodes.retain(|inode| closed.inode != Inode::new(*inode));
            }
        }
    }

    pub(crate) fn permit_all(&mut self) {
        for process in &mut self.processes {
            process.access = Access::Open;
        }
    }

    pub(crate) fn connect(&mut self, local: (&str, u16), remote: (&str, u16), state: TcpState, inode: u64) {
        self.connections.push(connection(local, remote, state, inode));
    }

    /// Makes that process of that cgroup and user.
    pub(crate) fn place(&mut self, index: usize, cgroup: u64, uid: u32) {
        self.origins.insert(index, (cgroup, uid));
    }

    /// Connects as a process does that has a place: its socket is made there.
    pub(crate) fn connect_as(&mut self, index: usize, local: (&str, u16), remote: (&str, u16), inode: u64) {
        self.connect(local, remote, TcpState::Established, inode);
        if let (Some((cgroup, uid)), Some(made)) = (self.origins.get(&index), self.connections.last_mut()) {
            made.cgroup = CgroupId::new(*cgroup);
            made.uid = *uid;
        }
    }

    /// The last connection is in that network namespace.
    pub(crate) fn move_last(&mut self, namespace: NamespaceId) {
        if let Some(connection) = self.connections.last_mut() {
            connection.namespace = namespace;
        }
    }

    fn in_container(&self, process: &Process, index: usize) -> Arc<Process> {
        let container = self.containers.get(&index).cloned();
        let is_stranger = self.strangers.contains(&index);
        Arc::new(Process { container, is_stranger, ..process.clone() })
    }

    pub(crate) fn disconnect_last(&mut self) {
        self.connections.pop();
    }

    pub(crate) fn disconnect_all(&mut self) -> Vec<Connection> {
        std::mem::take(&mut self.connections)
    }

    pub(crate) fn break_dumps(&mut self, dumps: usize) {
        self.broken_dumps = dumps;
    }
}

impl ConnAdapter for Host {
    type Error = Refused;

    fn attend(
        &mut self,
        namespaces: &[Namespace],
        in_use: &BTreeSet<NamespaceId>,
    ) -> Result<BTreeSet<NamespaceId>, Refused> {
        let ids: BTreeSet<NamespaceId> = namespaces.iter().map(|namespace| namespace.id).collect();
        self.attended.retain(|id| in_use.contains(id));
        self.attended.extend(&ids - &self.barred);
        Ok(&ids & &self.barred)
    }

    fn unentered(&self) -> BTreeSet<NamespaceId> {
        &self.unentered & &self.attended
    }

    fn dump(&mut self, filter: &ConnectionFilter) -> Result<Vec<Connection>, Refused> {
        self.dumps += 1;
        if let Some((cpu, cost)) = &self.cost {
            cpu.set(cpu.get() + *cost);
        }
        if self.broken_dumps > 0 {
            self.broken_dumps -= 1;
            return Err(Refused);
        }
        if let Some(next) = self.replacements.pop() {
            return Ok(next.into_iter().filter(|connection| filter.matches(connection)).collect());
        }
        let is_own = |connection: &Connection| connection.namespace == NamespaceId::OWN;
        let seen = self.connections.iter().copied().filter(is_own);
        let found = seen.filter(|connection| filter.matches(connection)).collect();
        self.connections.append(&mut self.late);
        Ok(found)
    }

    fn survey(&mut self, filter: &SocketFilter<'_>) -> Result<SocketSurvey<Refused>, Refused> {
        let asked: BTreeSet<Transport> = filter.clauses.all().iter().map(|clause| clause.transport).collect();
        let untold = &asked & &self.untold;
        let connections = match filter.connections {
            Some(_) if untold.contains(&Transport::Tcp) => Vec::new(),
            Some(connections) => self.dump(connections)?,
            None if self.broken_dumps > 0 => {
                self.broken_dumps -= 1;
                return Err(Refused);
            }
            None => Vec::new(),
        };
        let told = self.sockets.iter().filter(|socket| !untold.contains(&socket.transport));
        let sockets = told.filter(|socket| filter.clauses.want(socket)).copied().collect();
        let untold = untold.into_iter().map(|transport| (transport, Refused)).collect();
        Ok(SocketSurvey { connections, sockets, untold })
    }

    fn dump_in(
        &mut self,
        namespace: NamespaceId,
        filter: &ConnectionFilter,
    ) -> Result<Vec<Connection>, Refused> {
        if let Some((cpu, cost)) = &self.cost {
            cpu.set(cpu.get() + *cost);
        }
        if self.broken.contains(&namespace) {
            return Err(Refused);
        }
        let is_there = |connection: &&Connection| {
            connection.namespace == namespace && self.attended.contains(&namespace)
        };
        let seen = self.connections.iter().filter(is_there).copied();
        Ok(seen.filter(|connection| filter.matches(connection)).collect())
    }

    fn lookup(&mut self, connections: &[Connection]) -> Result<Vec<Option<Sighting>>, Refused> {
        self.lookups += 1;
        if self.broken_lookups > 0 {
            self.broken_lookups -= 1;
            return Err(Refused);
        }
        let find = |wanted: &Connection| {
            let is_it =
                |known: &&Connection| (known.namespace, known.cookie) == (wanted.namespace, wanted.cookie);
            self.connections.iter().find(is_it)
        };
        let sight = |known: &Connection| Sighting {
            connection: *known,
            vitals: self.vitals.get(&known.cookie).copied(),
        };
        Ok(connections.iter().map(|wanted| find(wanted).map(sight)).collect())
    }

    fn interface_index(&self, _namespace: NamespaceId, _name: &str) -> Option<u32> {
        None
    }
}

impl ProcessAdapter for Host {
    type Error = Refused;

    fn find_namespaces(&mut self, query: &NamespaceQuery<'_>) -> Result<NamespaceScan, Refused> {
        let mut scan = NamespaceScan::default();
        let mut inhabited: BTreeMap<NamespaceId, BTreeSet<PatternId>> = BTreeMap::new();
        for (index, running) in self.processes.iter().enumerate() {
            let fits = running.describe(Pid(0), query.selector).fits.clone();
            let fits = fits.into_iter().filter(|id| query.patterns.contains(id));
            if self.homeless.contains(&index) {
                scan.closed.extend(fits);
            } else if let Some(home) = self.homes.get(&index) {
                let container = self.containers.get(&index).cloned();
                scan.containers.extend(container.filter(|_| fits.clone().next().is_some()));
                inhabited.entry(*home).or_default().extend(fits);
            }
        }
        let approach = || Approach::Enter(Arc::new(File::open("/dev/null").unwrap().into()));
        inhabited.retain(|_, patterns| !patterns.is_empty());
        let named = self.named.iter().filter(|id| query.named && !inhabited.contains_key(id));
        scan.named = named.map(|id| Namespace { id: *id, approach: approach() }).collect();
        for (id, patterns) in inhabited {
            scan.inhabited.push(Inhabited { namespace: Namespace { id, approach: approach() }, patterns });
        }
        Ok(scan)
    }

    fn find_holders(&mut self, query: &HolderQuery<'_>) -> Result<HolderScan, Refused> {
        let mut scan = HolderScan { is_displaced: self.is_displaced, ..HolderScan::default() };
        let mut needed: BTreeSet<PatternId> = query.wanted.values().flatten().copied().collect();
        needed.extend(query.census);
        let mut settled: HashMap<Inode, BTreeSet<PatternId>> = HashMap::new();
        let is_settled =
            |settled: &HashMap<Inode, BTreeSet<PatternId>>, inode: &Inode, patterns: &BTreeSet<PatternId>| {
                settled.get(inode).is_some_and(|found| patterns.is_subset(found))
            };
        for (index, running) in self.processes.iter().enumerate() {
            if self.patience.is_some_and(|patience| index >= patience) || query.allowance.is_spent() {
                let open =
                    query.wanted.iter().filter(|(inode, patterns)| !is_settled(&settled, inode, patterns));
                scan.undecided = open.map(|(inode, _)| *inode).collect();
                scan.uncertain.extend(query.census.iter().filter(|id| !scan.present.contains(id)));
                if self.is_displaced {
                    scan.elsewhere.extend(query.located);
                }
                break;
            }
            let fits = running.fits(query.selector);
            scan.present.extend(fits.certain.iter().filter(|id| needed.contains(id)));
            scan.uncertain.extend(fits.possible.iter().filter(|id| needed.contains(id)));
            if self.elsewhere.contains(&index) {
                let asked = |id: &&PatternId| self.is_displaced || query.census.contains(id);
                scan.elsewhere.extend(fits.certain.iter().filter(asked));
            } else if self.is_displaced {
                scan.here.extend(fits.certain.iter().filter(|id| query.located.contains(id)));
            }
            if running.access != Access::Open {
                for id in &fits.certain {
                    let obscured = scan.obscured.entry(*id).or_default();
                    obscured.certain = true;
                    obscured.missing.insert(Capability::SysPtrace);
                }
                for id in &fits.possible {
                    scan.obscured.entry(*id).or_default().missing.insert(Capability::SysPtrace);
                }
                continue;
            }
            let process = running.describe(Pid(u32::try_from(index).unwrap() + 1), query.selector);
            let process = self.in_container(&process, index);
            for inode in running.inodes.iter().filter_map(|inode| Inode::new(*inode)) {
                let Some(patterns) = query.wanted.get(&inode) else { continue };
                if self.is_displaced {
                    scan.here.extend(process.fits.iter().filter(|id| patterns.contains(id)));
                }
                let found = settled.entry(inode).or_default();
                if query.every_holder || !patterns.is_subset(found) {
                    found.extend(&process.fits);
                    scan.holders.entry(inode).or_default().push(Arc::clone(&process));
                }
            }
        }
        for pattern in query.counted {
            let fits = self.processes.iter().map(|running| running.fits(query.selector));
            let (mut headcount, mut usages) = (Headcount::default(), Some(Vec::new()));
            for (index, fits) in fits.enumerate() {
                if fits.certain.contains(pattern) {
                    headcount.fitting += 1;
                    let usage = self.usages.get(&index);
                    usages = usages.zip(usage).map(|(usages, usage)| [usages, vec![*usage]].concat());
                } else if fits.possible.contains(pattern) {
                    headcount.possible += 1;
                    scan.nameless.insert(Capability::SysPtrace);
                }
            }
            scan.headcounts.insert(*pattern, headcount);
            if query.measured.contains(pattern) {
                scan.usages.extend(usages.map(|usages| (*pattern, usages)));
            }
        }
        let here = &scan.here;
        scan.elsewhere.retain(|id| query.census.contains(id) || !here.contains(id));
        Ok(scan)
    }

    fn verify_holders(&mut self, query: &VerifyQuery<'_>) -> Result<Vec<Option<Arc<Process>>>, Refused> {
        let verify = |(inode, pid): &(Inode, Pid)| {
            let running = self.processes.get(usize::try_from(pid.0).unwrap() - 1)?;
            let holds = running.access == Access::Open && running.inodes.contains(&inode.get());
            let index = usize::try_from(pid.0).unwrap() - 1;
            holds.then(|| self.in_container(&running.describe(*pid, query.selector), index))
        };
        Ok(query.holdings.iter().map(verify).collect())
    }

    fn find_outsiders(&mut self, query: &OutsiderQuery<'_>) -> Result<OutsiderScan, Refused> {
        let mut scan = OutsiderScan::default();
        if self.confused > 0 {
            self.confused -= 1;
            return Ok(scan);
        }
        if self.processes.iter().any(|running| running.access == Access::Hidden) {
            scan.lacks.insert(InferenceLack::HiddenProcesses);
            return Ok(scan);
        }
        let outsiders = |is_there: &dyn Fn(u64, u32) -> bool| -> Vec<Outsider> {
            let all = self.processes.iter().enumerate();
            all.filter(|(_, running)| running.access != Access::Open)
                .filter_map(|(index, running)| {
                    let (cgroup, uid) = *self.origins.get(&index)?;
                    let process =
                        running.describe_outsider(Pid(u32::try_from(index).ok()? + 1), query.selector);
                    is_there(cgroup, uid).then_some(Outsider { process, uids: Some([uid; 4]) })
                })
                .collect()
        };
        for cgroup in query.cgroups {
            scan.by_cgroup.insert(*cgroup, outsiders(&|known, _| known == cgroup.get()));
        }
        for uid in query.uids {
            scan.by_uid.insert(*uid, outsiders(&|_, known| known == *uid));
        }
        Ok(scan)
    }

    fn verify_suspects(&mut self, query: &SuspectQuery<'_>) -> Result<Vec<Option<Arc<Process>>>, Refused> {
        let verify = |(pid, basis): &(Pid, Basis)| {
            let index = usize::try_from(pid.0).unwrap() - 1;
            let (cgroup, uid) = *self.origins.get(&index)?;
            let is_there = match basis {
                Basis::Cgroup(wanted) => wanted.get() == cgroup,
                Basis::Uid(wanted) => *wanted == uid,
            };
            let running = self.processes.get(index)?;
            is_there.then(|| running.describe_outsider(*pid, query.selector))
        };
        Ok(query.suspects.iter().map(verify).collect())
    }
}

/// A translating kernel, whose table is changed from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nat(pub(crate) Rc<RefCell<NatTable>>);

#[derive(Debug, Default)]
pub(crate) struct NatTable {
    pub(crate) translations: Vec<Translation>,
    /// Why nothing is told; `None` where it is.
    pub(crate) untold: Option<fn(Box<dyn std::error::Error + Send + Sync>) -> Untold>,
    pub(crate) reads: usize,
    /// Asked for this service, it tells nothing.
    pub(crate) fails_for: Option<Endpoint>,
    /// A reading of CPU time, and what each attempt to read adds to it.
    pub(crate) cost: Option<(Rc<Cell<Duration>>, Duration)>,
}

impl TranslationAdapter for Nat {
    fn translations(&mut self, services: &[Endpoint]) -> Result<Vec<Translation>, Untold> {
        let mut table = self.0.borrow_mut();
        table.reads += 1;
        if let Some((cpu, cost)) = &table.cost {
            cpu.set(cpu.get() + *cost);
        }
        if table.fails_for.is_some_and(|service| services.contains(&service)) {
            return Err(Untold::Failed(Box::new(Refused)));
        }
        if let Some(untold) = table.untold {
            return Err(untold(Box::new(Refused)));
        }
        let asked = table.translations.iter().filter(|known| services.contains(&known.service));
        Ok(asked.copied().collect())
    }
}
