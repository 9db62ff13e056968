//! The metrics are an interface: what the agent sends, what the code defines, what the golden file holds and what the
//! README says are the same.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::json;
use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Answer, ContainerGroup, Link, Namespace, Points, Privileges, Protocol, Responder, Scene,
    config, environment, eventually, nat, needs, probe, probe_with, program,
};
use vms_core::metric::{ALL, Kind, LINK_ATTRIBUTES, Metric, SCRAPE_DATA_AGE, WATCH_ATTRIBUTES};

/// Whom the agent runs as.
const AGENT: u32 = 61_012;

fn golden_file() -> PathBuf {
    environment::repository().join("tests/golden/metrics.txt")
}

/// What there is to know about a metric, as the golden file writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    unit: String,
    kind: String,
    description: String,
    attributes: BTreeSet<String>,
}

impl From<&Metric> for Entry {
    fn from(metric: &Metric) -> Self {
        let kind = match metric.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::UpDownCounter => "updowncounter",
            Kind::Histogram(_) => "histogram",
        };
        Self {
            unit: metric.unit.to_owned(),
            kind: kind.to_owned(),
            description: metric.description.to_owned(),
            attributes: metric.attributes.iter().map(|&key| key.to_owned()).collect(),
        }
    }
}

fn defined() -> BTreeMap<String, Entry> {
    ALL.iter().map(|&metric| (metric.name.to_owned(), metric.into())).collect()
}

/// What is sent: all but what only scrapes tell.
fn sent() -> BTreeMap<String, Entry> {
    let mut sent = defined();
    sent.remove(SCRAPE_DATA_AGE.name);
    sent
}

fn render(entries: &BTreeMap<String, Entry>) -> String {
    let mut text =
        String::from("# UPDATE_GOLDEN=1 cargo test -p vms-agent-tests --test golden writes this file.\n");
    for (name, entry) in entries {
        let mut attributes: Vec<&str> = entry.attributes.iter().map(String::as_str).collect();
        if attributes.is_empty() {
            attributes.push("none");
        }
        write!(
            text,
            "\n{name}\n  unit         {}\n  type         {}\n  attributes   {}\n  description  {}\n",
            entry.unit,
            entry.kind,
            attributes.join(" "),
            entry.description
        )
        .expect("a string takes everything");
    }
    text
}

#[test]
fn the_code_defines_what_the_golden_file_holds() {
    let defined = render(&defined());
    if environment::variable("UPDATE_GOLDEN").is_some() {
        fs::write(golden_file(), &defined).expect("the golden file can be written");
    }
    let golden = fs::read_to_string(golden_file()).expect("the golden file can be read");
    assert_eq!(defined, golden, "a changed metric breaks the dashboards of its users");
}

#[test]
fn the_readme_describes_every_metric_as_it_is() {
    let readme =
        fs::read_to_string(environment::repository().join("README.md")).expect("the README can be read");
    let rows = readme
        .lines()
        .skip_while(|line| !line.starts_with("| Metric | Unit | Type | Attributes | Meaning |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let described: BTreeMap<String, Entry> = rows.map(parse_row).collect();
    assert_eq!(described, defined());
}

/// `| `name` | `unit` | Gauge | *link*, `state` | Meaning. |`
fn parse_row(row: &str) -> (String, Entry) {
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [name, unit, kind, attributes, meaning] = cells.as_slice() else { panic!("five cells: {row}") };
    let code = |cell: &str| cell.trim_matches('`').to_owned();
    let attributes = attributes.split(',').map(str::trim).flat_map(|attribute| match attribute {
        "*link*" => LINK_ATTRIBUTES.iter().map(|&key| key.to_owned()).collect(),
        "*watch*" => WATCH_ATTRIBUTES.iter().map(|&key| key.to_owned()).collect(),
        "–" => Vec::new(),
        attribute => vec![code(attribute)],
    });
    let entry = Entry {
        unit: code(unit),
        kind: kind.to_lowercase(),
        description: (*meaning).to_owned(),
        attributes: attributes.collect(),
    };
    (code(name), entry)
}

#[test]
fn a_running_agent_sends_every_metric_with_every_attribute_and_no_other() {
    needs!(Need::Agent, Need::PacketFilter, Need::Tool("setpriv"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let own = scene.program("own").user(AGENT);
    let mut link = Link::new((&own, &host), (&own, &host));
    let roots = scene.program("root");
    let hidden = Link::new((&roots, &host), (&roots, &host));
    // One request has to be sent again, one is lost.
    let responder =
        Responder::start(&host, Protocol::Grpc, &[Answer::Unavailable, Answer::Accept, Answer::Invalid]);
    // And one through an address that is translated.
    let service = SocketAddr::from(([10, 96, 0, 10], 80));
    let listen = SocketAddr::from(([127, 0, 0, 1], 8080));
    nat::translate(&host, "output", &[nat::to_backend(service, listen)]);
    host.run(program::command("ip").args(["route", "add", "10.96.0.10", "dev", "lo"]));
    let _served = Link::over(own.start(&host), own.start(&host), listen, |_| service);
    let probes = [
        probe_with("served", &scene.name("own"), service, &json!({"matchedSourceLabels": "ip_port"})),
        probe_with("own", &scene.name("own"), link.service(), &json!({"matchedSourceLabels": "ip_port"})),
        probe("hidden", &scene.name("root"), hidden.service()),
        json!({
            "type": "connection", "name": "watch", "processName": scene.name("own"), "localAddress": "127.0.0.1",
            "localPort": "1-65535", "remoteAddress": "127.0.0.0/8", "remotePort": "1-65535", "perFamily": true,
        }),
        json!({
            "type": "connection", "name": "named", "localAddress": "localhost", "remoteAddress": "localhost", "protocol": "tcp4",
        }),
        json!({ "type": "process_mon", "name": "presence", "processName": scene.name("own"), "resources": true }),
        json!({ "type": "discovery", "name": "discovery", "processName": scene.name("own") }),
    ];
    let mut config = config(&probes);
    config["conntrack"] = json!("auto");
    let mut agent = AgentCommand::new(&scene, &host)
        .config(&with_inference(config))
        .privileges(Privileges::User(AGENT, &["net_admin"]))
        .start();
    let own: &[_] = &[("name", "own"), ("direction", "forward")];
    let up = responder.wait_for_points("vms.connection_mon.up", own, 1, 0);
    link.close();
    let last = up.last().expect("one at least").time;
    responder.wait_for_value("vms.connection_mon.up", own, 0, last);
    let reloads = "vms.agent.config.reloads";
    agent.signal(Signal::HUP);
    responder.wait_for_value(reloads, &[("outcome", "applied")], 1, 0);
    let _written = scene.write("config.json", "{}");
    agent.signal(Signal::HUP);
    responder.wait_for_value(reloads, &[("outcome", "refused")], 1, 0);

    tell_of_a_container(&scene, &host, &responder);

    let missing = || {
        let collected = collect(&responder);
        let mut missing = Vec::new();
        for (name, entry) in sent() {
            match collected.get(&name) {
                None => missing.push(name),
                Some(collected) => {
                    for attribute in entry.attributes.difference(&collected.attributes) {
                        missing.push(format!("{name} {attribute}"));
                    }
                }
            }
        }
        missing
    };
    let complete = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("everything to be sent", || missing().is_empty().then_some(()));
    }));
    assert!(complete.is_ok(), "never sent: {:#?}", missing());
    agent.stop();
    assert_eq!(render(&collect(&responder)), render(&sent()));
}

/// There is a metric of it.
fn with_inference(mut config: serde_json::Value) -> serde_json::Value {
    let keys = config.as_object_mut().expect("a configuration is an object");
    keys.insert("attribution".to_owned(), json!("inferred"));
    config
}

/// Lets an agent of all network namespaces tell of a link that a container had, through a translated address, and has no more.
#[track_caller]
fn tell_of_a_container(scene: &Scene, host: &Namespace, responder: &Responder) {
    const ID: &str = "e72f453320124d18eb835d05a10d393b95dd584ed6d1bea161717a290a357aa6";
    const UID: &str = "8c1b3f6e-7d52-4c1c-9f0e-3f2b7a9d5e10";
    let group = ContainerGroup::new(&format!("pod{UID}/{ID}"));
    let pod = host.pod();
    host.join(&pod);
    let service = SocketAddr::from(([10, 96, 0, 11], 80));
    let listen = SocketAddr::new(pod.ipv4(), 8080);
    let rule = nat::to_backend(service, listen);
    host.run(program::command("nft").arg(format!("add rule inet vmst_nat output {rule}")));
    host.run(program::command("ip").args(["route", "add", "10.96.0.11", "dev", "eth0"]));
    let (client, server) = (scene.program("far").start(host), scene.program("pod").start(&pod));
    let mut link = Link::over(client, server, listen, |_| service);
    group.admit(&link.server);
    let probe = probe_with("pod", "nobody", service, &json!({"destProcessName": scene.name("pod")}));
    let mut config = config(&[probe]);
    let keys = config.as_object_mut().expect("keys and values");
    let logs = scene.public_directory("pods");
    fs::create_dir(logs.join(format!("shop_orders-0_{UID}"))).expect("the directory is ours");
    let settings = [("namespaces", json!("all")), ("conntrack", json!("auto")), ("podLogsRoot", json!(logs))];
    keys.extend(settings.map(|(key, value)| (key.to_owned(), value)));
    let agent = AgentCommand::new(scene, host).config_text("all.json", &with_inference(config).to_string());
    let mut agent = agent.variable("OTEL_SERVICE_NAME", "of-all").start();
    let contained: &[_] = &[("name", "pod"), ("container.id", ID)];
    let up = responder.wait_for_points("vms.connection_mon.up", contained, 1, 0);
    link.close();
    let last = up.last().expect("one at least").time;
    responder.wait_for_value("vms.connection_mon.up", contained, 0, last);
    agent.stop();
    drop(link);
}

/// Each metric as it was sent, with every attribute that any of its points carried.
fn collect(responder: &Responder) -> BTreeMap<String, Entry> {
    let mut sent: BTreeMap<String, Entry> = BTreeMap::new();
    for point in responder.points() {
        let keys: BTreeSet<String> = point.attributes.into_keys().collect();
        let entry = sent.entry(point.name).or_insert_with(|| Entry {
            unit: point.unit.clone(),
            kind: point.kind.clone(),
            description: point.description.clone(),
            attributes: BTreeSet::new(),
        });
        assert_eq!(
            (&entry.unit, &entry.kind, &entry.description),
            (&point.unit, &point.kind, &point.description),
            "a metric is always described alike"
        );
        entry.attributes.extend(keys);
    }
    sent
}
