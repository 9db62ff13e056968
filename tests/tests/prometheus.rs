//! What Prometheus finds when it scrapes a running agent, and that nobody who scrapes moves a cycle.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use vms_agent_tests::agent::BOTH;
use vms_agent_tests::deadline::{now, unix_nanoseconds};
use vms_agent_tests::scrape::{ENDPOINT, OPEN_METRICS, Scrape, Series, connect};
use vms_agent_tests::skip::Need;
use vms_agent_tests::watched::{self, FORWARD, UP, assert_no_gap};
use vms_agent_tests::{
    AgentCommand, Collector, Metronome, Namespace, Number, Point, Points, Privileges, Protocol, Scene,
    Watched, config, eventually, needs, probe, program,
};

/// Whom the agent runs as.
const AGENT: u32 = 61_012;

const UP_SCRAPED: &str = "vms_connection_mon_up_ratio";
const AGE: &str = "vms_agent_scrape_data_age_seconds";

/// That configuration, for an agent that can be scraped and insists on its sandbox.
fn scraped(mut config: Value) -> Value {
    let keys = config.as_object_mut().unwrap();
    keys.insert("prometheus".to_owned(), json!({ "listen": ENDPOINT }));
    keys.insert("sandbox".to_owned(), json!("required"));
    config
}

fn agent(watched: &Watched) -> AgentCommand<'_> {
    watched.command().config(&scraped(config(&[watched.probe("link")])))
}

/// Scrapes until the link is up.
#[track_caller]
fn wait_for_up(host: &Namespace) -> Scrape {
    eventually("the link to be scraped as up", || {
        let scrape = Scrape::try_of(host, "").ok()?;
        (scrape.value(UP_SCRAPED, FORWARD) == Some(1.0)).then_some(scrape)
    })
}

/// The series that a pushed point is scraped as: what the compatibility rules make of it, said once more.
fn series_of(point: &Point) -> Series {
    let mut name = point.name.replace('.', "_");
    name.push_str(match (point.unit.as_str(), point.kind.as_str()) {
        ("s", _) => "_seconds",
        ("By", _) => "_bytes",
        ("1", "gauge") => "_ratio",
        _ => "",
    });
    name.push_str(match point.kind.as_str() {
        "counter" => "_total",
        "histogram" => "_count",
        _ => "",
    });
    let labels = point.attributes.iter();
    (name, labels.map(|(key, value)| (key.replace('.', "_"), value.trim_matches('"').to_owned())).collect())
}

#[test]
fn what_is_scraped_is_what_is_pushed() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    for privileges in [Privileges::Root, Privileges::User(AGENT, BOTH)] {
        let watched = Watched::new();
        let collector = Collector::start(&watched.host, Protocol::Grpc);
        let mut agent = agent(&watched).privileges(privileges).start();
        agent.wait_for_log(&["the sandbox is complete"]);
        agent.wait_for_log(&[&format!("http://{ENDPOINT}/metrics")]);
        collector.wait_for_value(UP, FORWARD, 1, 0);
        let since = unix_nanoseconds();
        collector.wait_for_points("process.memory.usage", &[], 2, since);
        for accept in ["", OPEN_METRICS] {
            let scrape = Scrape::of(&watched.host, accept);
            let samples = scrape.samples();
            // What a link has, and what the agent tells of itself, are the same each cycle.
            let points: Vec<Point> =
                collector.points().into_iter().filter(|point| point.time >= since).collect();
            let pushed: BTreeSet<Series> = points.iter().map(series_of).collect();
            let is_more = |name: &str| {
                name == "target_info" || name == AGE || name.ends_with("_bucket") || name.ends_with("_sum")
            };
            let told: BTreeSet<Series> = samples.keys().filter(|(name, _)| !is_more(name)).cloned().collect();
            assert_eq!(told, pushed, "{privileges:?} {accept}");
            for point in &points {
                let steady = ["up", "status", "connections", "unattributed", "walk.age"]
                    .iter()
                    .any(|name| point.name == format!("vms.connection_mon.{name}"));
                if let (true, Number::Int(value)) = (steady, point.value) {
                    assert_eq!(samples[&series_of(point)], value.to_string(), "{point:#?}");
                }
            }
            let info = samples.keys().find(|(name, _)| name == "target_info").unwrap();
            let resource: BTreeMap<String, String> = points[0]
                .resource
                .iter()
                .map(|(key, value)| (key.replace('.', "_"), value.trim_matches('"').to_owned()))
                .collect();
            assert_eq!(info.1, resource);
            for statistic in ["min", "max"] {
                let age = scrape.value(AGE, &[("statistic", statistic)]).unwrap();
                assert!((0.0..5.0).contains(&age), "{statistic} {age}");
            }
            assert_eq!(scrape.body.ends_with("\n# EOF\n"), !accept.is_empty());
            let kind = if accept.is_empty() {
                "text/plain; version=0.0.4"
            } else {
                "openmetrics-text; version=1.0.0"
            };
            assert!(scrape.head.contains(kind), "{}", scrape.head);
        }
        agent.stop();
    }
}

#[test]
fn an_agent_that_pushes_nowhere_can_be_scraped() {
    needs!(Need::Agent);
    let mut watched = Watched::new();
    let mut agent = agent(&watched).variable("OTEL_METRICS_EXPORTER", "none").start();
    wait_for_up(&watched.host);
    watched.link.close();
    eventually("the link to be scraped as down", || {
        let scrape = Scrape::of(&watched.host, "");
        (scrape.value(UP_SCRAPED, FORWARD) == Some(0.0)).then_some(())
    });
    agent.stop();
}

#[test]
fn a_link_that_cannot_be_measured_is_not_scraped_until_it_can_be() {
    needs!(Need::Agent);
    // An agent with the host's processes and a network of its own: what fits lives there, then only elsewhere.
    let (scene, host) = (Scene::new(), Namespace::new());
    let pod = host.pod();
    let (near, far) = (scene.program("svc"), scene.program("far"));
    let link = vms_agent_tests::Link::new((&near, &pod), (&far, &pod));
    // And another link, which is there all the time.
    let (other, end) = (scene.program("oth"), scene.program("end"));
    let stays = vms_agent_tests::Link::new((&other, &pod), (&end, &pod));
    let config = config(&[
        probe("link", &scene.name("svc"), link.service()),
        probe("stays", &scene.name("oth"), stays.service()),
    ]);
    let mut agent = AgentCommand::new(&scene, &pod)
        .config(&scraped(config))
        .variable("OTEL_METRICS_EXPORTER", "none")
        .start();
    wait_for_up(&pod);
    let elsewhere = scene.program("svc").start(&host);
    drop(link);
    agent.wait_for_log(&["links cannot be measured", "hostNetwork: true"]);
    let of_link = |scrape: &Scrape| {
        let is_of = |(_, labels): &&Series| labels.get("name").is_some_and(|name| name == "link");
        scrape.samples().keys().filter(is_of).count()
    };
    let failed: &[_] = &[("outcome", "failed")];
    let measurements = "vms_agent_measurements_total";
    let first = Scrape::of(&pod, "");
    // It may be told of once more by the cycle before.
    eventually("no series of it", || (of_link(&Scrape::of(&pod, "")) == 0).then_some(()));
    let more = eventually("more failures", || {
        let scrape = Scrape::of(&pod, "");
        assert_eq!(of_link(&scrape), 0, "no answer is no 0");
        assert_eq!(scrape.value(UP_SCRAPED, &[("name", "stays"), ("direction", "forward")]), Some(1.0));
        let count = scrape.value(measurements, failed)?;
        (count >= first.value(measurements, failed).unwrap_or_default() + 3.0).then_some(count)
    });
    assert!(more >= 3.0);
    drop(elsewhere);
    eventually("the link to be told of again", || {
        (Scrape::of(&pod, "").value(UP_SCRAPED, FORWARD) == Some(0.0)).then_some(())
    });
    agent.stop();
}

#[test]
fn a_hundred_scrapes_a_second_move_no_cycle() {
    const SCRAPES: u32 = 300;
    const APART: Duration = Duration::from_millis(10);
    needs!(Need::Agent);
    let watched = Watched::new();
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let mut agent = agent(&watched).start();
    let metronome = Metronome::start();
    wait_for_up(&watched.host);
    let began = unix_nanoseconds();
    let scraped = watched.host.inside(|| {
        let start = now();
        let scrapes: Vec<Scrape> = (1..=SCRAPES)
            .map(|number| {
                let scrape = Scrape::here(if number % 2 == 0 { OPEN_METRICS } else { "" }).unwrap();
                thread::sleep((APART * number).saturating_sub(start.elapsed()));
                scrape
            })
            .collect();
        assert!(start.elapsed() < APART * SCRAPES * 2, "{:?}", start.elapsed());
        scrapes
    });
    let ended = unix_nanoseconds();
    collector.wait_for_points(UP, FORWARD, 2, ended);
    let times: Vec<u64> =
        watched::times(&collector).into_iter().filter(|time| (began..ended).contains(time)).collect();
    // A cycle each 200 ms, whoever scrapes.
    let wanted = usize::try_from((ended - began) / 200_000_000).unwrap();
    assert!(times.len().abs_diff(wanted) <= 1, "{} cycles instead of {wanted}", times.len());
    assert_no_gap(&times, &metronome);
    for scrape in &scraped {
        assert_eq!(scrape.value(UP_SCRAPED, FORWARD), Some(1.0), "{}", scrape.body);
    }
    // They show the cycles go by, and cause none.
    let cycles = |scrape: &Scrape| scrape.value("vms_agent_cycle_duration_seconds_count", &[]).unwrap();
    let counted: BTreeSet<String> = scraped.iter().map(|scrape| cycles(scrape).to_string()).collect();
    assert!(counted.len().abs_diff(wanted) <= 2, "{} of {wanted}", counted.len());
    agent.stop();
}

#[test]
fn clients_that_do_not_get_on_move_no_cycle_and_keep_no_scrape_out() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let mut agent = agent(&watched).start();
    let metronome = Metronome::start();
    wait_for_up(&watched.host);
    let began = unix_nanoseconds();
    watched.host.inside(|| {
        let mut clients = Vec::new();
        for number in 0..100 {
            let mut client = connect().unwrap();
            match number % 4 {
                // Says nothing.
                0 => {}
                // Does not come to an end.
                1 => client.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap(),
                // Has very much to say, which need not be heard to its end.
                2 => drop(client.write_all(&b"GET /metrics HTTP/1.1\r\nX: ".repeat(4096))),
                // Does not read.
                _ => client.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap(),
            }
            clients.push(client);
        }
        for _ in 0..3 {
            let start = now();
            let scrape = Scrape::here("").unwrap();
            assert!(scrape.head.starts_with("HTTP/1.1 200"), "{}", scrape.head);
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        }
        // All of them are let go of.
        for mut client in clients {
            drop(client.read_to_end(&mut Vec::new()));
        }
    });
    let ended = unix_nanoseconds();
    collector.wait_for_points(UP, FORWARD, 2, ended);
    let times: Vec<u64> =
        watched::times(&collector).into_iter().filter(|time| (began..ended).contains(time)).collect();
    assert_no_gap(&times, &metronome);
    assert!(agent.log_with(&["WARN"]).is_empty(), "{:#?}", agent.log_with(&["WARN"]));
    agent.stop();
}

#[test]
fn an_agent_does_not_start_where_its_port_is_taken_and_says_what_to_do() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let command = agent(&watched).variable("OTEL_METRICS_EXPORTER", "none");
    let taken = watched.host.inside(|| TcpListener::bind(ENDPOINT).unwrap());
    let output = command.output(&["run"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for text in [ENDPOINT, "prometheus.listen", "stop what listens there", "in use"] {
        assert!(said.contains(text), "{said}");
    }
    let doctor = command.output(&["doctor"]);
    let found = String::from_utf8_lossy(&doctor.stdout);
    assert!(found.contains("the agent does not start"), "{found}");
    drop(taken);
    let mut agent = command.start();
    wait_for_up(&watched.host);
    let doctor = command.output(&["doctor"]);
    let found = String::from_utf8_lossy(&doctor.stdout);
    assert!(found.contains(&format!("metrics can be scraped at http://{ENDPOINT}/metrics")), "{found}");
    agent.stop();
}

#[test]
fn another_address_takes_effect_at_the_next_start_and_what_is_none_is_refused() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let command = agent(&watched).variable("OTEL_METRICS_EXPORTER", "none");
    let mut agent = command.start();
    wait_for_up(&watched.host);
    let reload = |listen: Value, probe: &str| {
        let mut config = scraped(config(&[watched.probe(probe)]));
        config["prometheus"] = json!({ "listen": listen });
        let _path = watched.scene.write("config.json", &config.to_string());
        agent.signal(Signal::HUP);
    };
    reload(json!("127.0.0.1:http"), "link");
    agent.wait_for_log(&["is refused, the old one stays in force", "prometheus.listen"]);
    reload(json!("127.0.0.1:9294"), "renamed");
    agent.wait_for_log(&["prometheus.listen takes effect at the next start"]);
    // What else is new is in force, and what is gone is gone.
    eventually("the probe by its new name", || {
        let scrape = Scrape::of(&watched.host, "");
        let of = |name| scrape.value(UP_SCRAPED, &[("name", name), ("direction", "forward")]);
        (of("renamed") == Some(1.0) && of("link").is_none()).then_some(())
    });
    // And so is the resource.
    let mut other = scraped(config(&[watched.probe("renamed")]));
    other["resource"] = json!({ "attributes": { "deployment.environment.name": "test" } });
    let _path = watched.scene.write("config.json", &other.to_string());
    agent.signal(Signal::HUP);
    eventually("the new resource", || {
        let info: &[_] = &[("deployment_environment_name", "test")];
        Scrape::of(&watched.host, "").value("target_info", info)
    });
    agent.stop();
}

#[test]
fn without_being_configured_nothing_listens() {
    needs!(Need::Agent);
    let watched = Watched::new();
    let mut agent = watched.agent().variable("OTEL_METRICS_EXPORTER", "none").start();
    agent.wait_for_log(&["link is up"]);
    let error = Scrape::try_of(&watched.host, "").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    agent.stop();
}

/// Prometheus' own reader, and its opinion on names: the OpenTelemetry conventions call the number of descriptors `count`, and
/// that name is kept.
#[test]
fn promtool_reads_what_is_scraped_and_has_nothing_to_say_but_of_a_name_that_the_conventions_have() {
    const OF_THE_CONVENTIONS: &str = "process_unix_file_descriptor_count ";
    /// Read without fault, and something to say.
    const ADVICE: i32 = 3;
    needs!(Need::Agent, Need::Tool("promtool"));
    let watched = Watched::new();
    let collector = Collector::start(&watched.host, Protocol::Grpc);
    let mut agent = agent(&watched).start();
    collector.wait_for_points("process.memory.usage", &[], 2, 0);
    wait_for_up(&watched.host);
    let scrapes = [Scrape::of(&watched.host, ""), Scrape::compressed(&watched.host)];
    agent.stop();
    assert!(scrapes[1].head.contains("content-encoding: gzip"), "{}", scrapes[1].head);
    for scrape in scrapes {
        let mut command = program::command("promtool");
        command.args(["check", "metrics"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut promtool = command.spawn().unwrap();
        promtool.stdin.take().unwrap().write_all(scrape.body.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let others: Vec<&str> =
            said.lines().filter(|line| !line.is_empty() && !line.starts_with(OF_THE_CONVENTIONS)).collect();
        assert_eq!(others, Vec::<&str>::new(), "{}", scrape.body);
        assert!([0, ADVICE].contains(&output.status.code().unwrap()), "{}: {said}", output.status);
    }
}

/// What people and Prometheus use to look at it, each in its own words.
#[test]
fn curl_reads_it_by_address_and_by_localhost_compressed_and_not_and_by_no_other_name() {
    needs!(Need::Agent, Need::Tool("curl"));
    let watched = Watched::new();
    let mut agent = agent(&watched).variable("OTEL_METRICS_EXPORTER", "none").start();
    wait_for_up(&watched.host);
    let curl = |arguments: &[&str]| {
        let mut command = program::command("curl");
        command.args(["--silent", "--show-error", "--max-time", "10", "--noproxy", "*"]).args(arguments);
        let output = watched.host.inside(|| command.output().unwrap());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let port = ENDPOINT.split(':').next_back().unwrap();
    let by_name = format!("http://localhost:{port}/metrics");
    let by_address = format!("http://{ENDPOINT}/metrics");
    for arguments in [&[][..], &["--compressed"], &["--http1.0"]] {
        for url in [&by_address, &by_name] {
            let told = curl(&[arguments, &["--ipv4", url]].concat());
            assert!(told.contains("\nvms_connection_mon_up_ratio{"), "{arguments:?} {url}: {told}");
            assert!(told.contains("\nvms_agent_scrape_data_age_seconds{"), "{arguments:?} {url}: {told}");
        }
    }
    let rebound = format!("page.example:{port}:127.0.0.1");
    let told = curl(&["--resolve", &rebound, &format!("http://page.example:{port}/metrics")]);
    assert!(told.contains("scrape it as 127.0.0.1") && !told.contains("vms_connection_mon"), "{told}");
    agent.stop();
}
