//! Two speeds against one, on the real kernel: whatever happens to connections and processes, a monitor that mostly
//! verifies what it knows and a look by one that never saw the host before say the same.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use vms_agent_tests::peer::{Listener, Program};
use vms_agent_tests::{Namespace, Peer, Scene, Stream, environment, eventually, namespace, needs, program};
use vms_core::Clock;
use vms_core::budget::CpuShare;
use vms_core::connection::Direction;
use vms_core::metric::{self, AttributeValue, DataPoint, Value};
use vms_core::monitor::{Monitor, Terms, WALK_BOUND, WalkReason};
use vms_core::probe::{ConnectionProbe, MatchedSourceLabels};
use vms_core::process::ProcessPattern;
use vms_process::{Privileges, ProcReader};
use vms_sock_diag::SockDiag;

/// Steps of a run; `VMS_ORACLE_STEPS` makes it longer, `VMS_ORACLE_SEED` another one.
const STEPS: u64 = 400;
const SEED: u64 = 20_231_117;
/// How old the names of a holder may be when it is verified, as `vms-process` has it.
const HOLDERS_NAMES_BOUND: Duration = Duration::from_secs(30);
/// How old the names of other processes may be, and what was concluded from them.
const NAMES_BOUND: Duration = Duration::from_mins(1);
/// What passes at a time: longer than the one bound, than the other, and than twice that.
const PAUSES: [Duration; 3] = [Duration::from_secs(35), Duration::from_secs(65), Duration::from_secs(130)];

/// Time that passes as the test says, in seconds.
#[derive(Clone, Default)]
struct Manual(Arc<AtomicU64>);

impl Manual {
    fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for Manual {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.monotonic()
    }

    fn since_boot(&self) -> Duration {
        self.monotonic()
    }

    fn cpu(&self) -> Duration {
        Duration::ZERO
    }
}

/// The same numbers each time (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound.max(1)).expect("small")).expect("small")
    }
}

/// A connection that may have lost either end.
struct Connection {
    holder: usize,
    client: Stream,
    server: Option<Stream>,
    made: Duration,
    /// Whether a child may hold it as well.
    is_shared: bool,
}

/// What the programs are called: the probe looks for the first.
const STEMS: [&str; 2] = ["app", "web"];
/// How clients are called when they start.
const NAMES: [usize; 4] = [0, 0, 1, 1];

/// What happens next, where that is settled.
enum Planned {
    Pause(Duration),
    Connect(usize),
    Rename(usize),
    RenameOfHolder,
}

struct World {
    scene: Scene,
    host: Namespace,
    programs: [Program; 2],
    clients: Vec<Peer>,
    /// The place in `STEMS` of the name that each client has.
    names: [usize; 4],
    server: Peer,
    listener: Listener,
    connections: Vec<Connection>,
    /// Processes that obey no more: they hold what they took along.
    become_others: Vec<Peer>,
    mailboxes: u64,
    /// The last comes first.
    planned: Vec<Planned>,
    clock: Manual,
    /// When a process was renamed last, or replaced its program.
    renamed: Option<Duration>,
}

impl World {
    fn new(clock: Manual) -> Self {
        let (scene, host) = (Scene::new(), Namespace::new());
        let programs = STEMS.map(|stem| scene.program(stem));
        let mut server = scene.program("far").start(&host);
        let listener = server.listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let clients = NAMES.map(|name| programs[name].start(&host)).into();
        Self {
            scene,
            host,
            programs,
            clients,
            names: NAMES,
            server,
            listener,
            connections: Vec::new(),
            become_others: Vec::new(),
            mailboxes: 0,
            planned: Vec::new(),
            clock,
            renamed: None,
        }
    }

    fn probe(&self) -> ConnectionProbe {
        let pattern = |stem: &str| ProcessPattern {
            name: self.scene.name(stem).parse().expect("a name"),
            executable: None,
        };
        ConnectionProbe {
            name: "link".into(),
            source_process: pattern("app"),
            dest_process: pattern("far"),
            dest_ip: self.listener.address.ip().into(),
            dest_port: self.listener.address.port(),
            source_ip: None,
            source_port: None,
            interval: Duration::from_secs(1),
            matched_source_labels: MatchedSourceLabels::None,
        }
    }

    /// Lets something happen. Returns what, and how long it takes.
    fn step(&mut self, dice: &mut Dice) -> (String, Duration) {
        let planned = self.planned.pop().or_else(|| match dice.below(26) {
            pause @ (0 | 1) => Some(Planned::Pause(PAUSES[pause])),
            2 => {
                // What nobody held who fits is asked for long; then he who holds it fits, and the bound passes.
                self.planned = vec![Planned::Pause(PAUSES[1]), Planned::RenameOfHolder];
                Some(Planned::Pause(PAUSES[2]))
            }
            3 | 4 if self.connections.len() < 6 => {
                // What he who connects fitted was read just before he was renamed.
                let client = dice.below(self.clients.len());
                self.planned = vec![Planned::Connect(client), Planned::Rename(client)];
                Some(Planned::Connect(client))
            }
            _ => None,
        });
        let what = match planned {
            Some(Planned::Pause(pause)) => return (format!("{pause:?} pass"), pause),
            Some(Planned::Connect(client)) => self.connect(client, None),
            Some(Planned::Rename(client)) => self.rename(client),
            Some(Planned::RenameOfHolder) => {
                let connection = self.connections.get(dice.below(self.connections.len()));
                self.rename(connection.map_or(0, |connection| connection.holder))
            }
            None => self.happen(dice),
        };
        (what, Duration::from_secs(1))
    }

    fn happen(&mut self, dice: &mut Dice) -> String {
        let (client, other) = (dice.below(self.clients.len()), dice.below(self.clients.len()));
        let connection = dice.below(self.connections.len());
        let is_there = !self.connections.is_empty();
        match dice.below(19) {
            0..=3 if self.connections.len() < 6 => self.connect(client, None),
            4 | 5 if is_there => {
                let gone = self.connections.swap_remove(connection);
                self.close(&gone);
                "close".to_owned()
            }
            6 if is_there => {
                if let Some(server) = self.connections[connection].server.take() {
                    self.server.close(server);
                }
                "close the server's end".to_owned()
            }
            7 | 8 if is_there && !self.connections[connection].is_shared => {
                let gone = self.connections.swap_remove(connection);
                self.close(&gone);
                self.connect(gone.holder, Some(gone.client.local)) + " on the same endpoints as before"
            }
            9 | 10 if is_there => {
                let held = &self.connections[connection];
                let (from, stream) = (held.holder, held.client);
                if from == other {
                    return "nothing".to_owned();
                }
                self.mailboxes += 1;
                let mailbox = self.scene.path().join(format!("mailbox{}", self.mailboxes));
                self.clients[other].mailbox(&mailbox);
                self.clients[from].give(stream, &mailbox);
                let taken = self.clients[other].take();
                self.clients[from].close(stream);
                let held = &mut self.connections[connection];
                (held.holder, held.client) = (other, taken);
                format!("pass from {from} to {other}")
            }
            11 if is_there => {
                let held = &mut self.connections[connection];
                held.is_shared = true;
                let program = self.programs[dice.below(2)].clone();
                self.clients[held.holder].child(held.client, &program);
                format!("fork {} into {}", held.holder, program.path().display())
            }
            12 if is_there => {
                let gone = self.connections.swap_remove(connection);
                let program = self.programs[dice.below(2)].clone();
                let successor = self.start(gone.holder);
                let mut changed = std::mem::replace(&mut self.clients[gone.holder], successor);
                changed.exec(gone.client, &program);
                eventually("the other program", || (changed.executable() == program.path()).then_some(()));
                self.become_others.push(changed);
                self.renamed = Some(self.clock.monotonic());
                self.connections.retain(|connection| connection.holder != gone.holder);
                format!("exec {} into {}", gone.holder, program.path().display())
            }
            13 if !self.become_others.is_empty() => {
                self.become_others.swap_remove(0);
                "end one that became another".to_owned()
            }
            14 => self.rename(client),
            15 => {
                let successor = self.start(client);
                drop(std::mem::replace(&mut self.clients[client], successor));
                self.connections.retain(|connection| connection.holder != client);
                format!("restart {client}")
            }
            _ => "nothing".to_owned(),
        }
    }

    /// Another process in the place of that client.
    fn start(&mut self, client: usize) -> Peer {
        self.names[client] = NAMES[client];
        self.programs[NAMES[client]].start(&self.host)
    }

    /// Gives the client the name that it has not.
    fn rename(&mut self, client: usize) -> String {
        self.names[client] = 1 - self.names[client];
        let name = self.scene.name(STEMS[self.names[client]]);
        self.clients[client].rename(&name);
        self.renamed = Some(self.clock.monotonic());
        format!("rename {client} to {name}")
    }

    fn connect(&mut self, holder: usize, from: Option<SocketAddr>) -> String {
        let client = match from {
            Some(local) => self.clients[holder].connect_from(self.listener.address, local),
            None => self.clients[holder].connect(self.listener.address),
        };
        let server = Some(self.server.accept(self.listener));
        let made = self.clock.monotonic();
        self.connections.push(Connection { holder, client, server, made, is_shared: false });
        format!("connect {holder}")
    }

    /// How many connections have to be told at once: who holds what was made after the last change of a name is told
    /// by the name that he has.
    fn certain(&self) -> usize {
        let is_certain = |connection: &&Connection| {
            connection.server.is_some()
                && self.names[connection.holder] == 0
                && self.renamed.is_none_or(|renamed| renamed < connection.made)
        };
        self.connections.iter().filter(is_certain).count()
    }

    /// How many connections may be told by a name that their holder has no more, when names are that old at most.
    fn misnamed(&self, bound: Duration) -> usize {
        let is_remembered = |renamed: &Duration| self.clock.monotonic() < *renamed + bound;
        let Some(renamed) = self.renamed.filter(is_remembered) else { return 0 };
        let old = self.connections.iter().filter(|connection| connection.made <= renamed);
        old.count() + self.become_others.len()
    }

    /// The server goes first, so that the endpoints can be used again.
    fn close(&mut self, connection: &Connection) {
        if let Some(server) = connection.server {
            self.server.close(server);
        }
        self.clients[connection.holder].close(connection.client);
    }
}

type RealMonitor = Monitor<SockDiag, ProcReader, Manual>;

/// The /proc of a host, seen from without: in that of the machine there may be thousands of others. It is there while
/// what mounted it runs, which ends with the host.
fn proc_of(host: &Namespace) -> PathBuf {
    let mut mount = program::command("unshare");
    mount.args(["--mount", "--", "sh", "-c", "mount -t proc proc /proc && exec sleep infinity"]);
    let mut holder = host.spawn(&mut mount).expect("unshare starts");
    let root = PathBuf::from(format!("/proc/{}/root/proc", holder.id()));
    // Before, it is that of the machine, in which the first process is another.
    let first = || fs::read_to_string(root.join("1/comm")).ok();
    let others = fs::read_to_string("/proc/1/comm").ok();
    eventually("the /proc of the host", || first().filter(|_| first() != others));
    std::thread::spawn(move || holder.wait());
    root
}

fn monitor(root: &Path, probe: &ConnectionProbe, clock: &Manual, parts_per_million: u32) -> RealMonitor {
    let connections = SockDiag::open(Path::new("/proc")).expect("this kernel has sock_diag");
    let processes = ProcReader::open(root, Privileges::read_own().expect("capabilities")).expect("a /proc");
    let terms = Terms { cpu_budget: CpuShare::from_parts_per_million(parts_per_million), ..Terms::default() };
    Monitor::new(connections, processes, clock.clone(), vec![probe.clone()], terms).expect("two patterns")
}

/// Whether the link is up in each direction, and by how many connections.
fn measure(monitor: &mut RealMonitor) -> BTreeMap<Direction, (bool, i64)> {
    let mut points: Vec<DataPoint> = Vec::new();
    let cycle = monitor.measure(&[0], &mut |point| points.push(point));
    assert!(cycle.failures.is_empty(), "{:?}", cycle.failures);
    let value = |metric: &metric::Metric, direction: Direction| {
        let way = AttributeValue::from(direction.as_str());
        let point = points.iter().find(|point| {
            point.metric == metric && point.attributes.iter().any(|attribute| attribute.value == way)
        })?;
        if let Value::Int(value) = point.value { Some(value) } else { None }
    };
    Direction::ALL
        .into_iter()
        .map(|way| {
            let up = value(&metric::UP, way).unwrap_or(0) == 1;
            (way, (up, value(&metric::CONNECTIONS, way).unwrap_or(0)))
        })
        .collect()
}

fn number(variable: &str, default: u64) -> u64 {
    environment::variable(variable)
        .map_or(default, |text| text.to_str().and_then(|text| text.parse().ok()).expect("a number"))
}

#[test]
fn both_speeds_agree_with_a_first_look_whatever_happens_to_connections_and_processes() {
    needs!();
    let (steps, seed) = (number("VMS_ORACLE_STEPS", STEPS), number("VMS_ORACLE_SEED", SEED));
    let clock = Manual::default();
    let mut world = World::new(clock.clone());
    let entrance = world.host.entrance();
    let probe = world.probe();
    let root = proc_of(&world.host);
    let run = move || {
        namespace::enter(&entrance);
        let mut rich = monitor(&root, &probe, &clock, 1_000_000);
        let mut poor = monitor(&root, &probe, &clock, 0);
        let mut dice = Dice(seed);
        let mut up_since: BTreeMap<Direction, Duration> = BTreeMap::new();
        for step in 0..steps {
            let (what, passes) = world.step(&mut dice);
            clock.pass(passes);
            let now = clock.monotonic();
            let context = format!("seed {seed}, step {step}: {what}");
            let (truth, told, poor) = eventually(&context, || {
                let before = measure(&mut monitor(&root, &probe, &clock, 0));
                let (rich, poor) = (measure(&mut rich), measure(&mut poor));
                let after = measure(&mut monitor(&root, &probe, &clock, 0));
                // A FIN may still be under way: what changed in between is nothing to agree upon.
                (before == after).then_some((before, rich, poor))
            });
            for (direction, (up, connections)) in truth {
                // The server keeps its name.
                let may_be_misnamed = direction == Direction::Forward;
                let misnamed = |bound| if may_be_misnamed { world.misnamed(bound) } else { 0 };
                let (told_up, told_connections) = told[&direction];
                let context = format!("{direction}; {context}");
                let differ = usize::try_from(told_connections.abs_diff(connections)).expect("few");
                let certain = if may_be_misnamed { world.certain() } else { 0 };
                let is_told = usize::try_from(told_connections).is_ok_and(|told| told >= certain);
                assert!(is_told, "a walk in every cycle: {told_connections}, not {certain}, {context}");
                assert!(
                    differ <= misnamed(NAMES_BOUND),
                    "a walk in every cycle: {told_connections} for {connections}, {context}"
                );
                assert_eq!(told_up, told_connections > 0, "a walk in every cycle, {context}");

                let (told, _) = poor[&direction];
                assert!(up || !told || misnamed(HOLDERS_NAMES_BOUND) > 0, "a false up, {context}");
                if !up {
                    up_since.remove(&direction);
                    continue;
                }
                let mut since = *up_since.entry(direction).or_insert(now);
                if let Some(renamed) = world.renamed.filter(|_| may_be_misnamed) {
                    since = since.max(renamed + NAMES_BOUND);
                }
                let late = now.saturating_sub(since) >= WALK_BOUND;
                assert!(told || !late, "a down that has ended, {context}");
            }
        }
        let walks = poor.effort().walks;
        assert_eq!(walks.get(&WalkReason::Budget), None, "{walks:?}");
        assert_eq!(walks.get(&WalkReason::Unverified), None, "{walks:?}");
        assert!(walks.values().sum::<u64>() < steps / 2, "most cycles need no walk: {walks:?}");
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(()) => {}
        Err(panic) => std::panic::resume_unwind(panic),
    });
}
