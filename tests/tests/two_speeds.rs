//! Two speeds against one, on the real kernel: whatever happens to connections and processes, a monitor that mostly
//! verifies what it knows and a look by one that never saw the host before say the same.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use vms_agent_tests::peer::{Listener, Program};
use vms_agent_tests::{Namespace, Peer, Scene, Stream, environment, eventually, namespace, needs};
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
/// Longer than any name is believed without being read again.
const NAMES_ARE_OLD: Duration = Duration::from_secs(130);

/// Time that passes as the test says.
#[derive(Clone, Default)]
struct Manual(Rc<Cell<Duration>>);

impl Clock for Manual {
    fn monotonic(&self) -> Duration {
        self.0.get()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.get()
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
    /// Whether a child may hold it as well.
    is_shared: bool,
}

struct World {
    scene: Scene,
    host: Namespace,
    programs: [Program; 2],
    clients: Vec<Peer>,
    server: Peer,
    listener: Listener,
    connections: Vec<Connection>,
    /// Processes that obey no more: they hold what they took along.
    become_others: Vec<Peer>,
    mailboxes: u64,
}

impl World {
    fn new() -> Self {
        let (scene, host) = (Scene::new(), Namespace::new());
        let programs = [scene.program("app"), scene.program("web")];
        let mut server = scene.program("far").start(&host);
        let listener = server.listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let clients = [0, 0, 1, 1].map(|program: usize| programs[program].start(&host)).into();
        Self {
            scene,
            host,
            programs,
            clients,
            server,
            listener,
            connections: Vec::new(),
            become_others: Vec::new(),
            mailboxes: 0,
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

    /// Lets something happen. Returns what, and whether a name has changed that may be believed for a while.
    fn step(&mut self, dice: &mut Dice) -> (String, bool) {
        let (client, other) = (dice.below(self.clients.len()), dice.below(self.clients.len()));
        let connection = dice.below(self.connections.len());
        let is_there = !self.connections.is_empty();
        match dice.below(20) {
            0..=3 if self.connections.len() < 6 => {
                self.connect(client, None);
                (format!("connect {client}"), false)
            }
            4 | 5 if is_there => {
                let gone = self.connections.swap_remove(connection);
                self.close(&gone);
                ("close".to_owned(), false)
            }
            6 if is_there => {
                if let Some(server) = self.connections[connection].server.take() {
                    self.server.close(server);
                }
                ("close the server's end".to_owned(), false)
            }
            7 | 8 if is_there && !self.connections[connection].is_shared => {
                let gone = self.connections.swap_remove(connection);
                self.close(&gone);
                self.connect(gone.holder, Some(gone.client.local));
                ("replace on the same endpoints".to_owned(), false)
            }
            9 | 10 if is_there => {
                let held = &self.connections[connection];
                let (from, stream) = (held.holder, held.client);
                if from == other {
                    return ("nothing".to_owned(), false);
                }
                self.mailboxes += 1;
                let mailbox = self.scene.path().join(format!("mailbox{}", self.mailboxes));
                self.clients[other].mailbox(&mailbox);
                self.clients[from].give(stream, &mailbox);
                let taken = self.clients[other].take();
                self.clients[from].close(stream);
                let held = &mut self.connections[connection];
                (held.holder, held.client) = (other, taken);
                (format!("pass from {from} to {other}"), false)
            }
            11 if is_there => {
                let held = &mut self.connections[connection];
                held.is_shared = true;
                let program = self.programs[dice.below(2)].clone();
                self.clients[held.holder].child(held.client, &program);
                (format!("fork {} into {}", held.holder, program.path().display()), false)
            }
            12 if is_there => {
                let gone = self.connections.swap_remove(connection);
                let program = self.programs[dice.below(2)].clone();
                let successor = self.programs[gone.holder / 2].start(&self.host);
                let mut changed = std::mem::replace(&mut self.clients[gone.holder], successor);
                changed.exec(gone.client, &program);
                self.become_others.push(changed);
                self.connections.retain(|connection| connection.holder != gone.holder);
                (format!("exec {} into {}", gone.holder, program.path().display()), true)
            }
            13 if !self.become_others.is_empty() => {
                self.become_others.swap_remove(0);
                ("end one that became another".to_owned(), false)
            }
            14 => {
                let stem = ["app", "web"][dice.below(2)];
                let name = self.scene.name(stem);
                self.clients[client].rename(&name);
                (format!("rename {client} to {name}"), true)
            }
            15 => {
                let successor = self.programs[client / 2].start(&self.host);
                drop(std::mem::replace(&mut self.clients[client], successor));
                self.connections.retain(|connection| connection.holder != client);
                (format!("restart {client}"), false)
            }
            _ => ("nothing".to_owned(), false),
        }
    }

    fn connect(&mut self, holder: usize, from: Option<SocketAddr>) {
        let client = match from {
            Some(local) => self.clients[holder].connect_from(self.listener.address, local),
            None => self.clients[holder].connect(self.listener.address),
        };
        let server = Some(self.server.accept(self.listener));
        self.connections.push(Connection { holder, client, server, is_shared: false });
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

fn monitor(probe: &ConnectionProbe, clock: &Manual, parts_per_million: u32) -> RealMonitor {
    let root = Path::new("/proc");
    let connections = SockDiag::open(root).expect("this kernel has sock_diag");
    let processes = ProcReader::open(root, Privileges::read_own().expect("capabilities")).expect("a /proc");
    let terms = Terms { cpu_budget: CpuShare::from_parts_per_million(parts_per_million), ..Terms::default() };
    Monitor::new(connections, processes, clock.clone(), vec![probe.clone()], terms).expect("two patterns")
}

/// Whether the link is up in each direction, and by how many connections.
fn measure(monitor: &mut RealMonitor) -> BTreeMap<Direction, (bool, i64)> {
    let mut points: Vec<DataPoint> = Vec::new();
    let cycle = monitor.measure(&[0], &mut |point| points.push(point));
    assert!(cycle.failure.is_none(), "{:?}", cycle.failure);
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
    let mut world = World::new();
    let entrance = world.host.entrance();
    let probe = world.probe();
    let run = move || {
        namespace::enter(&entrance);
        let clock = Manual::default();
        let mut rich = monitor(&probe, &clock, 1_000_000);
        let mut poor = monitor(&probe, &clock, 0);
        let mut dice = Dice(seed);
        let mut up_since: BTreeMap<Direction, Duration> = BTreeMap::new();
        for step in 0..steps {
            let (what, renamed) = world.step(&mut dice);
            let passes = if renamed { NAMES_ARE_OLD } else { Duration::from_secs(1) };
            clock.0.set(clock.0.get() + passes);
            let context = format!("seed {seed}, step {step}: {what}");
            let (truth, told, poor) = eventually(&context, || {
                let before = measure(&mut monitor(&probe, &clock, 0));
                let (rich, poor) = (measure(&mut rich), measure(&mut poor));
                let after = measure(&mut monitor(&probe, &clock, 0));
                // A FIN may still be under way: what changed in between is nothing to agree upon.
                (before == after).then_some((before, rich, poor))
            });
            assert_eq!(told, truth, "a walk in every cycle; {context}");
            for (direction, (up, _)) in truth {
                let (told, _) = poor[&direction];
                let since =
                    if up { *up_since.entry(direction).or_insert(clock.0.get()) } else { Duration::MAX };
                if !up {
                    up_since.remove(&direction);
                }
                assert!(up || !told, "a false up, {direction}; {context}");
                let late = clock.0.get().saturating_sub(since) >= WALK_BOUND;
                assert!(told || !up || !late, "a down that has ended, {direction}; {context}");
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
