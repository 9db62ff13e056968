//! What the running agent has given up, and that it still does all that it is there for.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};
use vms_agent_tests::agent::BOTH;
use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::scrape::{ENDPOINT, Scrape};
use vms_agent_tests::skip::Need;
use vms_agent_tests::tls::{Certificates, Gate};
use vms_agent_tests::watched::{self, FORWARD, UP};
use vms_agent_tests::{
    Agent, AgentCommand, Collector, Number, Points, Privileges, Protocol, Scene, config, eventually, needs,
};

/// Who holds the connections.
const OWNER: u32 = 61_011;
/// Whom the agent runs as.
const AGENT: u32 = 61_012;

/// `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH`, as `/proc/PID/status` shows them.
const THE_TWO: &str = "0000000000080004";
const NONE: &str = "0000000000000000";

/// A link, and agents that need a sandbox to watch it.
struct Watched(watched::Watched);

impl Deref for Watched {
    type Target = watched::Watched;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Watched {
    /// The link's processes are that user's.
    #[track_caller]
    fn of_user(uid: u32) -> Self {
        Self(watched::Watched::of_user(uid))
    }

    fn config(&self) -> Value {
        let mut config = config(&[self.probe("link")]);
        config["sandbox"] = json!("required");
        config
    }

    fn agent(&self, privileges: Privileges) -> AgentCommand<'_> {
        self.command().config(&self.config()).privileges(privileges)
    }

    /// Waits until the agent has found who holds the link.
    #[track_caller]
    fn wait_for_owner(&self, agent: &Agent) {
        agent.wait_for_log(&["link is up", "forward", &format!("[{}]", self.link.client.pid())]);
        assert_eq!(agent.log_with(&["not_permitted"]), Vec::<String>::new());
    }
}

/// The threads of an agent: name, and a field of its status.
fn threads(agent: &Agent, field: &str) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid().as_raw_nonzero())).unwrap();
    tasks
        .filter_map(|task| {
            // One that has ended meanwhile has no rights any more.
            let status = fs::read_to_string(task.unwrap().path().join("status")).ok()?;
            let value = |field: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
                line.map(|value| value.trim().to_owned())
            };
            Some((value("Name")?, value(field)?))
        })
        .collect()
}

#[test]
fn each_thread_of_a_running_agent_keeps_what_it_needs_and_no_more() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    for privileges in [Privileges::Root, Privileges::User(AGENT, BOTH), Privileges::User(AGENT, &[])] {
        let watched = Watched::of_user(OWNER);
        let collector = Collector::start(&watched.host, Protocol::Grpc);
        let agent = watched
            .agent(privileges)
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")
            .variable("VMS_SELF_TELEMETRY__TRACES", "true")
            .start();
        collector.wait_for_anything();
        let given = if privileges == Privileges::User(AGENT, &[]) { NONE } else { THE_TWO };
        assert!(threads(&agent, "Name").len() >= 4, "measuring, runtime, name service, traces");
        for field in ["CapEff", "CapPrm"] {
            for (thread, capabilities) in threads(&agent, field) {
                let kept = if thread == "vms-measuring" { given } else { NONE };
                assert_eq!(capabilities, kept, "{field} of {thread}");
            }
        }
        for (field, wanted) in
            [("CapInh", NONE), ("CapAmb", NONE), ("CapBnd", given), ("NoNewPrivs", "1"), ("Seccomp", "2")]
        {
            for (thread, value) in threads(&agent, field) {
                assert_eq!(value, wanted, "{field} of {thread}");
            }
        }
        let process = PathBuf::from(format!("/proc/{}", agent.pid().as_raw_nonzero()));
        let limits = fs::read_to_string(process.join("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        // What cannot be dumped is root's, whoever runs it (proc_pid_environ(5)).
        assert_eq!(fs::metadata(process.join("environ")).unwrap().uid(), 0);
        agent.wait_for_log(&["the sandbox is complete"]);
    }
}

#[test]
fn the_link_of_another_user_is_attributed_with_everything_given_up() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    for privileges in [Privileges::Root, Privileges::User(AGENT, BOTH)] {
        let watched = Watched::of_user(OWNER);
        let collector = Collector::start(&watched.host, Protocol::Grpc);
        let mut agent = watched
            .agent(privileges)
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")
            .start();
        watched.wait_for_owner(&agent);
        collector.wait_for_value(UP, FORWARD, 1, 0);
        for point in collector.series("vms.connection_mon.unattributed", FORWARD) {
            assert_eq!(point.value, Number::Int(0), "{privileges:?}");
        }
        agent.stop();
    }
}

#[test]
fn an_agent_without_capabilities_gives_up_the_rest_and_sees_its_own_users_links() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let watched = Watched::of_user(AGENT);
    let mut agent =
        watched.agent(Privileges::User(AGENT, &[])).variable("OTEL_METRICS_EXPORTER", "none").start();
    watched.wait_for_owner(&agent);
    agent.wait_for_log(&["the sandbox is complete"]);
    agent.stop();
}

#[test]
fn an_agent_that_gives_up_nothing_says_so() {
    needs!(Need::Agent);
    let watched = Watched::of_user(OWNER);
    let mut agent = watched
        .agent(Privileges::Root)
        .variable("OTEL_METRICS_EXPORTER", "none")
        .variable("VMS_SANDBOX", "off")
        .start();
    watched.wait_for_owner(&agent);
    agent.wait_for_log(&["the sandbox is off"]);
    for (thread, seccomp) in threads(&agent, "Seccomp") {
        assert_eq!(seccomp, "0", "{thread}");
    }
    agent.stop();
}

fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "otlp")
}

/// Makes it read its configuration again, the so many'th time.
#[track_caller]
fn reloads(agent: &Agent, count: usize) {
    agent.signal(Signal::HUP);
    eventually("a reload", || (agent.log_with(&["configuration reloaded"]).len() == count).then_some(()));
}

#[test]
fn no_call_of_a_whole_life_is_refused() {
    needs!(Need::Agent, Need::Tool("strace"));
    let watched = Watched::of_user(OWNER);
    let mut grpc = Collector::new(Protocol::Grpc);
    let http = Collector::start(&watched.host, Protocol::Http);
    let certificates = Certificates::new(&watched.scene);
    let gate = Gate::start(&watched.host, Protocol::Http, &certificates, true);
    let trace = watched.scene.path().join("trace");
    let write = |export: Value, more: Value| {
        let mut config = watched.config();
        config["export"] = export;
        config["prometheus"] = json!({ "listen": ENDPOINT });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let _path = watched.scene.write("config.json", &config.to_string());
    };
    let command =
        watched.agent(Privileges::Root).traced(&trace).variable("VMS_EXPORT__SPOOL__MODE", "always");
    let spool = command.state_directory();
    let is_spooled = || fs::read_dir(&spool).unwrap().any(|item| is_record(&item.unwrap().path()));
    write(
        json!({ "endpoint": "http://localhost:4317", "compression": "zstd" }),
        json!({ "selfTelemetry": { "traces": true, "logs": true } }),
    );
    // What waits from an outage is kept, sent and removed, over a reload.
    let mut agent = command.start();
    agent.wait_for_log(&["link is up"]);
    assert!(Scrape::of(&watched.host, "").head.starts_with("HTTP/1.1 200"));
    eventually("records of the outage", || is_spooled().then_some(()));
    reloads(&agent, 1);
    let resumed = unix_nanoseconds();
    grpc.resume(&watched.host);
    grpc.wait_for_value(UP, FORWARD, 1, 0);
    let oldest = || grpc.series(UP, FORWARD).iter().map(|point| point.time).min();
    eventually("what was spooled", || oldest().is_some_and(|time| time < resumed).then_some(()));
    eventually("the spool to be empty", || (!is_spooled()).then_some(()));
    eventually("a span", || (!grpc.spans().is_empty()).then_some(()));
    eventually("a log record", || (!grpc.logs().is_empty()).then_some(()));

    // A name that the name service has to ask for.
    write(json!({ "endpoint": "http://collector.invalid:4317" }), json!({}));
    reloads(&agent, 2);
    agent.wait_for_log(&["collector.invalid"]);
    write(
        json!({
            "endpoint": gate.endpoint(), "protocol": "http/protobuf", "compression": "gzip",
            "tls": {
                "caFile": certificates.authority_file,
                "clientCertificateFile": certificates.client_certificate_file,
                "clientKeyFile": certificates.client_key_file,
            },
        }),
        json!({}),
    );
    reloads(&agent, 3);
    http.wait_for_value(UP, FORWARD, 1, 0);
    let _path = watched.scene.write("config.json", "{");
    agent.signal(Signal::HUP);
    agent.wait_for_log(&["is refused, the old one stays in force"]);
    agent.stop();

    let trace = fs::read_to_string(&trace).unwrap();
    for call in [
        "landlock_restrict_self",
        "seccomp(",
        "AF_INET6",
        "\"/etc/hosts\"",
        "SIGHUP",
        "rename",
        "unlink",
        "vms-spool-open",
        "accept4(",
    ] {
        assert!(trace.contains(call), "the trace tells of {call}");
    }
    let (_, sandboxed) = trace.rsplit_once("landlock_restrict_self").unwrap();
    assert!(sandboxed.contains("vms-spool-open"), "the spool is opened by a thread of the sandbox");
    let refused = |line: &&str| {
        // Processes that may not be looked into are no file of the agent's.
        let is_file = ["open", "mkdir", "rename", "unlink"].iter().any(|call| line.contains(call));
        line.contains("= -1 EPERM") || (is_file && line.contains("= -1 EACCES"))
    };
    let refused: Vec<&str> = trace.lines().filter(refused).collect();
    assert_eq!(refused, Vec::<&str>::new());
}

#[test]
fn a_reload_that_needs_what_was_given_up_is_refused_with_what_to_do() {
    needs!(Need::Agent);
    let watched = Watched::of_user(OWNER);
    let elsewhere = Scene::new();
    let certificates = Certificates::new(&elsewhere);
    let command = watched.agent(Privileges::Root);
    let mut agent = command.start();
    watched.wait_for_owner(&agent);
    let mut config = watched.config();
    config["export"] = json!({
        "endpoint": "https://localhost:4317", "tls": { "caFile": certificates.authority_file },
    });
    let _path = watched.scene.write("config.json", &config.to_string());
    agent.signal(Signal::HUP);
    agent.wait_for_log(&["is refused, the old one stays in force", "restart it to let it use others"]);
    // Nor is a spool that can be used given up for one that cannot be reached.
    config["export"] = json!({ "spool": { "directory": elsewhere.own_directory("spool", 0) } });
    let _path = watched.scene.write("config.json", &config.to_string());
    agent.signal(Signal::HUP);
    let both =
        || agent.log_with(&["is refused, the old one stays in force", "restart it to let it use others"]);
    let told = eventually("the second refusal", || both().get(1).cloned());
    assert!(told.contains("Permission denied"), "{told}");
    agent.stop();
    // The same is no trouble at a start.
    let mut agent = command.start();
    watched.wait_for_owner(&agent);
    agent.stop();
}

#[test]
fn doctor_judges_what_a_running_agent_has_given_up() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let watched = Watched::of_user(OWNER);
    let command = watched.agent(Privileges::Root).variable("OTEL_METRICS_EXPORTER", "none");
    // On this host, which has a PID namespace of its own, there is no other.
    let findings = || -> Vec<(String, String)> {
        let output = command.output(&["doctor", "--format", "json"]);
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let of_agent =
            findings.iter().filter(|finding| text(finding, "what").starts_with("the running agent (PID"));
        of_agent.map(|finding| (text(finding, "level"), text(finding, "what"))).collect()
    };
    let agent = command.start();
    watched.wait_for_owner(&agent);
    let found = findings();
    assert!(found.iter().all(|(level, _)| level == "ok"), "{found:#?}");
    assert!(
        found.iter().any(|(_, what)| what.contains("no capability beyond those that it needs")),
        "{found:#?}"
    );
    assert!(found.iter().any(|(_, what)| what.contains("to look into every process")), "{found:#?}");
    drop(agent);

    let agent = watched
        .agent(Privileges::Root)
        .variable("OTEL_METRICS_EXPORTER", "none")
        .variable("VMS_SANDBOX", "off")
        .start();
    watched.wait_for_owner(&agent);
    let found = findings();
    for open in ["system calls are not filtered", "capabilities that the agent does not need"] {
        assert!(found.iter().any(|(level, what)| level == "warn" && what.contains(open)), "{found:#?}");
    }
}

#[test]
fn configurations_that_are_no_files_are_refused_without_being_waited_for() {
    needs!(Need::Agent);
    let watched = Watched::of_user(OWNER);
    let fifo = watched.scene.path().join("pipe.yaml");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let zero = watched.scene.path().join("zero.yaml");
    std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
    for file in [&fifo, &zero] {
        assert_refused(&watched, &["validate", "--config", file.to_str().unwrap()], "not a regular file");
    }
    for (name, text) in [
        ("nested.yaml", "[".repeat(200_000)),
        ("nested.json", "[".repeat(200_000)),
        ("zero.json", r#"{"export": {"headers": {"x": "${file:/dev/zero}"}}}"#.to_owned()),
        ("fifo.json", r#"{"export": {"headers": {"x": "${file:pipe.yaml}"}}}"#.to_owned()),
    ] {
        let file = watched.scene.write(name, &text);
        assert_refused(&watched, &["validate", "--config", file.to_str().unwrap()], "");
    }
    // Nine levels of nine aliases are a thousand million values.
    let levels: Vec<String> = (1..=9)
        .map(|level| format!("l{level}: &l{level} [{}]", vec![format!("*l{}", level - 1); 9].join(", ")))
        .collect();
    let aliases = watched.scene.write("aliases.yaml", &format!("l0: &l0 x\n{}\n", levels.join("\n")));
    assert_refused(&watched, &["validate", "--config", aliases.to_str().unwrap()], "");
}

/// The agent says what is wrong, and ends by itself with the status of a wrong configuration.
#[track_caller]
fn assert_refused(watched: &Watched, arguments: &[&str], expected: &str) {
    let output = AgentCommand::new(&watched.scene, &watched.host).output(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(2),
        "{arguments:?}: {}",
        said.chars().take(500).collect::<String>()
    );
    assert!(said.contains(expected), "{arguments:?}: {said}");
    assert!(said.len() < 64 << 10, "{arguments:?}: {} bytes", said.len());
}

/// `CAP_NET_ADMIN` beside the two.
const THE_THREE: &str = "0000000000081004";

#[test]
fn the_right_to_read_conntrack_is_kept_where_it_is_asked_for_by_the_measuring_thread_alone() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let three: &[&str] = &["sys_ptrace", "dac_read_search", "net_admin"];
    for privileges in [Privileges::Root, Privileges::User(AGENT, three)] {
        for (conntrack, wanted) in [("auto", THE_THREE), ("off", THE_TWO)] {
            let watched = Watched::of_user(OWNER);
            let mut config = watched.config();
            config["conntrack"] = json!(conntrack);
            let agent = watched
                .command()
                .config(&config)
                .privileges(privileges)
                .variable("OTEL_METRICS_EXPORTER", "none")
                .start();
            watched.wait_for_owner(&agent);
            for (thread, capabilities) in threads(&agent, "CapPrm") {
                let kept = if thread == "vms-measuring" { wanted } else { NONE };
                assert_eq!(capabilities, kept, "{conntrack}: {thread}");
            }
            assert_eq!(agent.log_with(&["NAT"]), Vec::<String>::new());
        }
    }
}
