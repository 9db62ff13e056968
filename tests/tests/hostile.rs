//! What a user without rights can do to the agent who takes as many sockets, files, processes and names as he gets: not make
//! it lie, and not make it take more time or memory than it says.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{sleep, spawn};
use std::time::Duration;

use serde_json::json;
use vms_agent_tests::deadline::{now, unix_nanoseconds};
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    Agent, AgentCommand, Collector, Namespace, Number, Points, Protocol, Scene, environment, needs, probe,
    program,
};

const UP: &str = "vms.connection_mon.up";
const NOBODY: u32 = 65_534;
/// The service that is watched.
const PORT: u16 = 9_000;
/// How long the agent is watched under attack, and after the link has ended.
const WATCHED: Duration = Duration::from_secs(7);
const AFTER_THE_END: Duration = Duration::from_secs(3);
/// In how much time at most attackers have what they want.
const TAKEN: Duration = Duration::from_mins(1);
/// In how much time at most a link that ended is noticed: two cycles, and what they may take.
const NOTICED: Duration = Duration::from_millis(2_500);

/// In what the kernel tells CPU time (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Looks take half of a processor's time at most while they are cut short; what comes beside them is little.
const MOST_CPU: f64 = 0.6;
/// Beside that: the start.
const START_CPU: Duration = Duration::from_millis(500);
/// What a walk may take, in seconds: half a second, the search half of that in any case, and what comes after it.
const LONGEST_WALK: f64 = 0.8;
/// The unit file grants 64 MiB.
const MOST_MEMORY_KIB: u64 = 40 * 1024;
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// One at a time, for they would attack each other.
fn alone() -> MutexGuard<'static, ()> {
    static ATTACKING: Mutex<()> = Mutex::new(());
    ATTACKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number for every day, or with `VMS_HOSTILE_FULL=1` the other.
fn scale<T>(usual: T, full: T) -> T {
    if environment::variable("VMS_HOSTILE_FULL").is_some_and(|value| value == "1") { full } else { usual }
}

/// A program that holds what it took until it is dropped.
struct Attacker(Child);

impl Attacker {
    /// Starts one of a user without rights, under that name.
    fn start(scene: &Scene, host: &Namespace, name: &str, words: &[&str]) -> Self {
        // Apart from the programs of the link, which may have the same name.
        let path = format!("attackers/{name}");
        let path = scene.install(env!("CARGO_BIN_EXE_vms-test-attacker").as_ref(), &path);
        let mut command = program::command(path);
        command.args(words).uid(NOBODY).gid(NOBODY).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(host.spawn(&mut command).expect("the attacker starts"))
    }

    /// Waits until it has what it wants.
    #[track_caller]
    fn wait(mut self) -> Self {
        let stdout = self.0.stdout.take().expect("stdout is piped");
        let (sender, said) = channel();
        spawn(move || {
            let mut line = String::new();
            // The end of the program says as much as a line that is not the one that is wanted.
            BufReader::new(stdout).read_line(&mut line).ok();
            sender.send(line).ok();
        });
        assert_eq!(said.recv_timeout(TAKEN).as_deref(), Ok("ok\n"), "the attacker has what it wants");
        self
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _dead_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

/// A link, and another of the same service that does not exist.
struct Watched {
    scene: Scene,
    near: Namespace,
    _far: Namespace,
    collector: Collector,
    service: SocketAddr,
    _acceptors: Vec<Attacker>,
}

impl Watched {
    fn new() -> Self {
        let (scene, (near, far)) = (Scene::new(), Namespace::pair());
        let service = SocketAddr::new(far.ipv4(), PORT);
        let acceptors = (0..scale(4, 8))
            .map(|_| Attacker::start(&scene, &far, &scene.name("srv"), &["accept", &service.to_string()]))
            .collect::<Vec<_>>();
        let acceptors = acceptors.into_iter().map(Attacker::wait).collect();
        let collector = Collector::start(&near, Protocol::Grpc);
        Self { scene, near, _far: far, collector, service, _acceptors: acceptors }
    }

    fn attack(&self, name: &str, words: &[&str]) -> Attacker {
        Attacker::start(&self.scene, &self.near, &self.scene.name(name), words)
    }

    fn agent(&self) -> Agent {
        let probes = ["app", "gone"].map(|stem| probe(stem, &self.scene.name(stem), self.service));
        AgentCommand::new(&self.scene, &self.near)
            .config(&json!({ "interval": "1s", "probes": probes }))
            .variable("OTEL_EXPORTER_OTLP_PROTOCOL", Protocol::Grpc.name())
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", Protocol::Grpc.endpoint())
            .start()
    }

    /// The values of that link's points, measured from then on.
    fn told(&self, name: &str, since: u64) -> Vec<i64> {
        let points = self.collector.series(UP, &[("name", name)]);
        let since = points.into_iter().filter(|point| point.time >= since);
        since.map(|point| point.value.as_int()).collect()
    }

    /// The last that the agent counted.
    fn count(&self, metric: &str, attributes: &[(&str, &str)]) -> i64 {
        let last = self.collector.series(metric, attributes).pop();
        last.map_or(0, |point| match point.value {
            Number::Int(count) => count,
            Number::Double(_) => 0,
        })
    }

    /// The most CPU time that walks took from one count to the next, which is a cycle.
    fn longest_walk(&self) -> f64 {
        let counts =
            self.collector.series("vms.agent.walk.cpu.time", &[]).into_iter().map(|point| {
                match point.value {
                    Number::Double(count) => count,
                    Number::Int(_) => 0.0,
                }
            });
        let counts: Vec<f64> = [0.0].into_iter().chain(counts).collect();
        counts.iter().zip(counts.iter().skip(1)).map(|(before, after)| after - before).fold(0.0, f64::max)
    }

    /// Makes the link during an attack, so that its holder is found last, watches an agent that starts then, ends the link,
    /// and stops the agent. Returns how often the link was told.
    fn withstand(self, what: &str) -> usize {
        let mut client = self.scene.program("app").start(&self.near);
        let end = client.connect(self.service);
        let began = now();
        let mut agent = self.agent();
        sleep(WATCHED);
        let (early, first) = (self.told("app", 0), cpu(&agent));
        client.close(end);
        let ended = unix_nanoseconds();
        sleep(NOTICED + AFTER_THE_END);
        let (used, elapsed) = (cpu(&agent), began.elapsed());
        let memory = peak_memory(&agent);
        let late = ended + u64::try_from(NOTICED.as_nanos()).expect("short");
        let (late, gone) = (self.told("app", late), self.told("gone", 0));
        let failed = self.count("vms.agent.measurements", &[("outcome", "failed")]);
        let skipped = self.count("vms.agent.cycles.skipped", &[]);
        let (late_cycles, walk) = (self.count("vms.agent.cycles.late", &[]), self.longest_walk());
        let is_running = agent.is_running();
        let stopped = agent.stop();
        let report = format!(
            "{what}: up {early:?}, after its end {late:?}, the other {gone:?}, failed {failed}, CPU {first:?} and {used:?} \
             in {elapsed:?}, {walk:.3} s for a walk, {memory} KiB, late {late_cycles}, skipped {skipped}, stopped in {stopped:?}"
        );
        #[expect(clippy::print_stderr, reason = "with --nocapture, the figures")]
        {
            eprintln!("{report}");
        }
        assert!(is_running, "{report}");
        assert!(early.iter().all(|up| *up == 1), "a link that is there is never down: {report}");
        assert!(late.iter().all(|up| *up == 0), "a link that ended is not up: {report}");
        assert!(!late.is_empty() || failed > 0, "its end is told, or that it cannot be: {report}");
        assert!(gone.iter().all(|up| *up == 0), "a link that is not there is never up: {report}");
        // Each cycle tells of each link, or counts it as failed.
        let told = i64::try_from(early.len() + gone.len()).expect("few");
        assert!(told + failed >= 12, "told or failed: {report}");
        let bound = START_CPU + elapsed.mul_f64(MOST_CPU);
        assert!(used <= bound, "at most {bound:?}: {report}");
        assert!(memory <= MOST_MEMORY_KIB, "at most {MOST_MEMORY_KIB} KiB: {report}");
        assert!(walk <= LONGEST_WALK, "at most {LONGEST_WALK} s for a walk: {report}");
        assert!(skipped <= 1 && late_cycles <= 3, "{report}");
        assert!(stopped <= STOPS_WITHIN, "{report}");
        early.len()
    }
}

/// The CPU time that the agent has used, in user mode and for it in the kernel (`proc_pid_stat(5)`).
fn cpu(agent: &Agent) -> Duration {
    let stat =
        fs::read_to_string(format!("/proc/{}/stat", agent.pid().as_raw_nonzero())).expect("the agent runs");
    let (_, after_name) = stat.rsplit_once(')').expect("a name");
    let ticks =
        after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks"));
    TICK * u32::try_from(ticks.sum::<u64>()).expect("less than a year")
}

/// The most memory that the agent ever had, in KiB.
fn peak_memory(agent: &Agent) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", agent.pid().as_raw_nonzero())).expect("the agent runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a program has memory");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn more_connections_than_can_be_looked_at_make_no_link_lie_and_cost_no_more_than_is_stated() {
    needs!(Need::Agent);
    let _alone = alone();
    let watched = Watched::new();
    let (attackers, each) = scale((2_u8, 16_000), (6, 17_000));
    let flood: Vec<Attacker> = (0..attackers)
        .map(|number| {
            let local = IpAddr::from(Ipv4Addr::new(10, 11, 12, 100 + number));
            let words = ["address", "add", &format!("{local}/24"), "dev", "eth0"];
            watched.near.run(program::command("ip").args(words));
            watched.attack(
                "evil",
                &["connect", &watched.service.to_string(), &local.to_string(), &each.to_string()],
            )
        })
        .collect();
    let _flood: Vec<Attacker> = flood.into_iter().map(Attacker::wait).collect();
    let told = watched.withstand("connections");
    assert!(told > 0 || scale(false, true), "the link is found after some looks");
}

#[test]
fn files_in_processes_whose_name_fits_make_no_link_lie_and_cost_no_more_than_is_stated() {
    needs!(Need::Agent);
    let _alone = alone();
    let watched = Watched::new();
    let flood: Vec<Attacker> = (0..scale(20, 40))
        .map(|_| watched.attack("app", &["open", &scale(9_000, 19_900).to_string()]))
        .collect();
    let _flood: Vec<Attacker> = flood.into_iter().map(Attacker::wait).collect();
    let told = watched.withstand("files");
    assert!(told > 0 || scale(false, true), "the link is found after some cuts");
}

#[test]
fn processes_that_take_and_drop_the_name_make_no_link_lie_and_cost_no_more_than_is_stated() {
    needs!(Need::Agent);
    let _alone = alone();
    let watched = Watched::new();
    let crowd =
        (0..2).map(|_| watched.attack("evil", &["start", &scale(1_000, 10_000).to_string(), "small"]));
    let names = ["app", "gone"].map(|stem| watched.scene.name(stem));
    let turncoats =
        names.iter().cycle().take(20).map(|name| watched.attack("evil", &["rename", name, "evil"]));
    let all: Vec<Attacker> = crowd.chain(turncoats).collect();
    let _all: Vec<Attacker> = all.into_iter().map(Attacker::wait).collect();
    let told = watched.withstand("processes");
    assert!(told > 0, "the link is found in the end");
}

#[test]
fn a_megabyte_of_arguments_makes_no_link_lie_and_costs_no_more_than_is_stated() {
    needs!(Need::Agent);
    let _alone = alone();
    let watched = Watched::new();
    let crowd: Vec<Attacker> =
        (0..2).map(|_| watched.attack("app", &["start", &scale(100, 500).to_string(), "large"])).collect();
    let _crowd: Vec<Attacker> = crowd.into_iter().map(Attacker::wait).collect();
    let told = watched.withstand("arguments");
    assert!(told > 0, "the link is found in the end");
}
