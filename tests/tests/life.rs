//! How the agent lives with the system around it: health checks, a service manager, configurations that are swapped.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::process::Signal;
use serde_json::json;
use vms_agent_tests::deadline::{eventually, now, unix_nanoseconds};
use vms_agent_tests::scrape::{self, Scrape};
use vms_agent_tests::skip::Need;
use vms_agent_tests::watched::{FORWARD, UP, assert_no_gap, times};
use vms_agent_tests::{
    Agent, AgentCommand, Collector, Hung, Metronome, Namespace, Points, Protocol, Scene, Watched, config,
    needs, probe,
};

/// An agent that measures each 200 ms and sends nothing.
fn quiet_agent<'a>(scene: &'a Scene, host: &'a Namespace) -> AgentCommand<'a> {
    let nobody = probe("link", &scene.name("nobody"), "127.0.0.1:9".parse().unwrap());
    AgentCommand::new(scene, host).config(&config(&[nobody])).variable("OTEL_METRICS_EXPORTER", "none")
}

/// Stops the measuring thread, and no other, until dropped: as if the kernel did not let it go.
struct Frozen(Pid);

impl Frozen {
    #[track_caller]
    fn measuring_thread(agent: &Agent) -> Self {
        let tasks = format!("/proc/{}/task", agent.pid().as_raw_nonzero());
        let is_measuring = |task: &Path| {
            fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == "vms-measuring")
        };
        let task = eventually("the measuring thread", || {
            let tasks = fs::read_dir(&tasks).unwrap();
            tasks.map(|task| task.unwrap().path()).find(|task| is_measuring(task))
        });
        let thread = Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap());
        ptrace::attach(thread).unwrap();
        waitpid(thread, Some(nix::sys::wait::WaitPidFlag::__WALL)).unwrap();
        Self(thread)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // An agent that is gone needs no thawing.
        ptrace::detach(self.0, None).ok();
    }
}

#[test]
fn what_was_measured_is_not_scraped_for_long_after_measuring_stops_and_its_age_goes_on() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let mut config = config(&[watched.probe("link")]);
    config["prometheus"] = json!({ "listen": scrape::ENDPOINT });
    let mut agent = watched.command().config(&config).variable("OTEL_METRICS_EXPORTER", "none").start();
    let up = |scrape: &Scrape| scrape.value("vms_connection_mon_up_ratio", FORWARD);
    let age = |scrape: &Scrape| scrape.value("vms_agent_scrape_data_age_seconds", &[("statistic", "min")]);
    let scrape = || Scrape::of(&watched.host, "");
    agent.wait_for_log(&["metrics can be scraped"]);
    eventually("the link as up", || (up(&scrape()) == Some(1.0)).then_some(()));
    let frozen = Frozen::measuring_thread(&agent);
    let last = eventually("nothing that was measured", || {
        let scrape = scrape();
        let mut names = scrape.samples().into_keys().map(|(name, _)| name);
        let others = ["target_info", "vms_agent_scrape_data_age_seconds"];
        names.all(|name| others.contains(&name.as_str())).then_some(scrape)
    });
    // An interval of 200 ms, and ten seconds.
    let stopped = age(&last).unwrap();
    assert!((10.0..15.0).contains(&stopped), "{stopped}");
    drop(frozen);
    eventually("the link as up again", || {
        let scrape = scrape();
        (up(&scrape) == Some(1.0) && age(&scrape).unwrap() < 1.0).then_some(())
    });
    agent.stop();
}

#[test]
fn health_fails_when_measuring_stops_and_only_then() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let command = quiet_agent(&scene, &host);
    let health = |max_age: &str| {
        let output = command.output(&["health", "--max-age", max_age]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), said)
    };
    let (status, said) = health("1m");
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("no agent has left a heartbeat") && said.contains("vms-agent run"), "{said}");

    let mut agent = command.start();
    eventually("a first cycle", || {
        let (status, said) = health("2s");
        (status == 0 && !said.contains("after 0 cycles")).then_some(())
    });

    // The rest of the agent goes on: it is the measuring that counts.
    let frozen = Frozen::measuring_thread(&agent);
    eventually("the end of health", || (health("1s").0 == 1).then_some(()));
    let (_, said) = health("1s");
    assert!(said.contains("has not come round to measuring for"), "{said}");
    drop(frozen);
    eventually("health again", || (health("1s").0 == 0).then_some(()));

    agent.signal(Signal::KILL);
    agent.wait();
    let (status, said) = health("1m");
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("has ended"), "{said}");
}

#[test]
fn health_needs_no_valid_configuration() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let mut agent = quiet_agent(&scene, &host).start();
    let broken = AgentCommand::new(&scene, &host).config_text("broken.yaml", "probes: [");
    eventually("health", || (broken.output(&["health"]).status.code() == Some(0)).then_some(()));
    agent.stop();
}

#[test]
fn two_agents_do_not_share_a_heartbeat() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let command = quiet_agent(&scene, &host);
    let mut first = command.start();
    // By the name that the host's own PID namespace has for it.
    let alive = || {
        let said = String::from_utf8(command.output(&["health"]).stdout).unwrap();
        said.strip_prefix("alive: PID ").and_then(|rest| rest.split(' ').next()).map(str::to_owned)
    };
    let pid = eventually("health", alive);
    let mut second = command.start();
    second.wait_for_log(&["started"]);
    assert_eq!(alive(), Some(pid));
    second.stop();
    first.stop();
}

/// What a service manager hears.
struct Manager(UnixDatagram);

impl Manager {
    fn new(scene: &Scene) -> Self {
        let socket = UnixDatagram::bind(scene.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self(socket)
    }

    fn hear(&self) -> Option<String> {
        let mut buffer = [0; 1024];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    #[track_caller]
    fn wait_for(&self, word: &str) -> String {
        eventually(word, || self.hear().filter(|heard| heard.lines().any(|line| line == word)))
    }

    /// How often it is told of life within a time.
    fn fed_within(&self, time: Duration) -> usize {
        let start = now();
        let mut fed = 0;
        while start.elapsed() < time {
            fed += usize::from(self.hear().is_some_and(|heard| heard.contains("WATCHDOG=1")));
        }
        fed
    }
}

#[test]
fn a_service_manager_is_told_of_the_whole_life_and_the_watchdog_is_fed_by_the_measuring_alone() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let manager = Manager::new(&scene);
    let mut agent = quiet_agent(&scene, &host)
        .variable("NOTIFY_SOCKET", scene.path().join("notify").to_str().unwrap())
        .variable("WATCHDOG_USEC", "500000")
        // Between two cycles there is more than the watchdog's patience.
        .variable("VMS_INTERVAL", "1h")
        .start();
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=measuring 1 probe"), "{ready}");
    assert!(manager.fed_within(Duration::from_secs(2)) >= 6);

    let frozen = Frozen::measuring_thread(&agent);
    manager.fed_within(Duration::from_millis(200));
    assert_eq!(manager.fed_within(Duration::from_secs(1)), 0, "the watchdog bites");
    drop(frozen);
    manager.wait_for("WATCHDOG=1");

    agent.signal(Signal::HUP);
    let reloading = manager.wait_for("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_for("READY=1");
    // A refused reload is over as well.
    let _path = scene.write("config.json", "{");
    agent.signal(Signal::HUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    agent.signal(Signal::TERM);
    manager.wait_for("STOPPING=1");
    assert_eq!(agent.wait().code(), Some(0));
}

/// Swaps the files of a directory as the kubelet does: by leading the link `..data` elsewhere.
fn swap(mount: &Path, version: &str, files: &[(&str, &str)]) {
    let directory = mount.join(format!("..{version}"));
    fs::create_dir(&directory).unwrap();
    for (name, content) in files {
        fs::write(directory.join(name), content).unwrap();
        if !mount.join(name).is_symlink() {
            symlink(format!("..data/{name}"), mount.join(name)).unwrap();
        }
    }
    symlink(format!("..{version}"), mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
}

#[test]
fn a_config_map_that_is_swapped_is_reloaded_without_a_signal() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let (mount, secrets) = (scene.path().join("config"), scene.path().join("secrets"));
    fs::create_dir(&mount).unwrap();
    fs::create_dir(&secrets).unwrap();
    let nobody = |name: &str| probe(name, &scene.name("nobody"), "127.0.0.1:9".parse().unwrap());
    let document = |names: &[&str]| {
        let probes: Vec<_> = names.iter().map(|name| nobody(name)).collect();
        let token = format!("${{file:{}}}", secrets.join("token").display());
        json!({"interval": "1h", "probes": probes, "export": {"headers": {"x-token": token}}}).to_string()
    };
    swap(&secrets, "1", &[("token", "first")]);
    swap(&mount, "1", &[("config.json", &document(&["one"]))]);
    let config = mount.join("config.json");
    let mut agent = AgentCommand::new(&scene, &host)
        .variable("VMS_CONFIG", config.to_str().unwrap())
        .variable("OTEL_METRICS_EXPORTER", "none")
        .start();
    agent.wait_for_log(&["started"]);

    swap(&mount, "2", &[("config.json", &document(&["one", "two"]))]);
    agent.wait_for_log(&["configuration reloaded", "\"probes\":2"]);
    // What is wrong is refused, and what follows is looked at all the same.
    swap(&mount, "3", &[("config.json", "{")]);
    agent.wait_for_log(&["refused", "the old one stays in force"]);
    swap(&mount, "4", &[("config.json", &document(&["one", "two", "three"]))]);
    agent.wait_for_log(&["configuration reloaded", "\"probes\":3"]);
    // A secret that is swapped alone is a new configuration too.
    let reloads = || agent.log_with(&["configuration reloaded"]).len();
    let before = reloads();
    swap(&secrets, "2", &[("token", "second")]);
    eventually("a reload for the secret", || (reloads() == before + 1).then_some(()));
    agent.stop();
}

/// Probes of a configuration that takes some ten MiB to read.
const MANY: usize = 4000;

#[test]
fn what_a_large_configuration_took_is_given_back_with_it() {
    needs!(Need::Agent);
    let (scene, host) = (Scene::new(), Namespace::new());
    let mount = scene.path().join("config");
    fs::create_dir(&mount).unwrap();
    let document = |count: usize| {
        let service = "127.0.0.1:9".parse().unwrap();
        let probes: Vec<_> =
            (0..count).map(|link| probe(&format!("{link}"), &scene.name("nobody"), service)).collect();
        json!({"interval": "1h", "probes": probes, "export": {"exporter": "none"}}).to_string()
    };
    swap(&mount, "1", &[("config.json", &document(1))]);
    let mut agent = AgentCommand::new(&scene, &host).config_file(mount.join("config.json")).start();
    agent.wait_for_log(&["started"]);
    // What a first reload takes for good is not the large configuration's.
    swap(&mount, "2", &[("config.json", &document(2))]);
    agent.wait_for_log(&["configuration reloaded", "\"probes\":2,"]);
    let before = agent.usage().own_kib;
    swap(&mount, "3", &[("config.json", &document(MANY))]);
    agent.wait_for_log(&["configuration reloaded", &format!("\"probes\":{MANY}")]);
    let with_many = agent.usage().own_kib;
    swap(&mount, "4", &[("config.json", &document(1))]);
    agent.wait_for_log(&["configuration reloaded", "\"probes\":1,"]);
    assert!(with_many > before + 2048, "{with_many} KiB with many probes, {before} KiB with one");
    eventually("the memory to be given back", || (agent.usage().own_kib < before + 1024).then_some(()));
    agent.stop();
}

/// The libraries that carry requests are quiet unless they are named.
const EVERYTHING: &str = "trace,h2=trace,hyper_util=trace";

#[test]
fn nobody_waits_for_who_reads_the_log_and_what_is_lost_of_it_is_told() {
    needs!(Need::Agent);
    let (watched, metronome) = (Watched::new(), Metronome::start());
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let (mut agent, log) = watched.agent().variable("VMS_LOG__LEVEL", EVERYTHING).start_unread();
    // The pipe first, then the lines that wait behind it.
    eventually("a full pipe", || (log.bytes() > 2048).then_some(()));
    let full = unix_nanoseconds();
    let later = full + 5_000_000_000;
    let point = collector.wait_for_points(UP, FORWARD, 20, later).pop().unwrap();
    assert!(point.time > later);
    assert_no_gap(times(&collector).range(full..), &metronome);
    log.read(&mut agent);
    agent.wait_for_log(&["WARN", "lines of this log are lost", "log.level"]);
    agent.stop();
}

#[test]
fn an_agent_ends_in_time_also_when_nobody_reads_its_log() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let _collector = Collector::start(&watched.host, Protocol::Grpc);
    let (mut agent, log) = watched.agent().variable("VMS_LOG__LEVEL", EVERYTHING).start_unread();
    eventually("a full pipe", || (log.bytes() > 2048).then_some(()));
    // What is lost is the log alone.
    let began = now();
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    drop(log);
}

#[test]
fn files_that_never_answer_hold_up_a_reload_and_nothing_else() {
    needs!(Need::Agent);
    let (watched, metronome) = (Watched::new(), Metronome::start());
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let directory = watched.scene.own_directory("files", 0);
    let hung = watched.scene.own_directory("hung", 0);
    let _hung = Hung::on(&hung);
    let lead = |name: &str, to: &Path| {
        symlink(to, directory.join("new")).unwrap();
        fs::rename(directory.join("new"), directory.join(name)).unwrap();
    };
    let document = |tls: bool| {
        let mut document = config(&[watched.probe("link")]);
        if tls {
            let ca = directory.join("ca.pem");
            document["export"] = json!({"endpoint": "https://127.0.0.1:4317", "tls": {"caFile": ca}});
        }
        document.to_string()
    };
    for way in ["certificate", "configuration"] {
        fs::write(directory.join("plain.json"), document(false)).unwrap();
        fs::write(directory.join("tls.json"), document(true)).unwrap();
        lead("config.json", Path::new("plain.json"));
        let mut agent = watched.command().config_file(directory.join("config.json")).start();
        agent.wait_for_log(&["link is up"]);
        let began = unix_nanoseconds();
        if way == "certificate" {
            lead("ca.pem", &hung.join("ca.pem"));
            lead("config.json", Path::new("tls.json"));
        } else {
            lead("config.json", &hung.join("config.json"));
            agent.signal(Signal::HUP);
        }
        agent.wait_for_log(&["WARN", "still being read after 10 s", "reload again"]);
        let told = unix_nanoseconds();
        collector.wait_for_points(UP, FORWARD, 5, told);
        assert_no_gap(times(&collector).range(began..), &metronome);
        assert_eq!(agent.log_with(&["still being read"]).len(), 1, "told once");
        // The next one is read, if that can be.
        lead("config.json", Path::new("plain.json"));
        agent.signal(Signal::HUP);
        agent.wait_for_log(&["configuration reloaded"]);
        lead("config.json", &hung.join("config.json"));
        agent.signal(Signal::HUP);
        let took = agent.stop();
        assert!(took < Duration::from_secs(3), "{way}: stopped after {took:?}");
    }
}
