use std::collections::BTreeSet;
use std::time::Duration;

use vms_core::address::Endpoint;
use vms_core::connection::{Cookie, Inode, TcpState, TcpStates};
use vms_core::discovery::{DiscoveryProbe, Edge, Listener, Map};
use vms_core::look::{DirectionLook, LookError, Presence};
use vms_core::namespace::NamespaceId;
use vms_core::observer::{Bounds, Finding, Standing, Status};
use vms_core::presence::PresenceProbe;
use vms_core::probe::{MatchedSourceLabels, Probe};
use vms_core::process::{Capability, Pid, PodName, Process, ProcessPattern};
use vms_core::socket::{EndClause, Families, SocketClause, Transport};
use vms_core::usage::Usage;
use vms_core::watch::WatchProbe;

use super::*;

fn probe() -> Arc<ConnectionProbe> {
    let pattern = ProcessPattern { name: "orders".parse().unwrap(), executable: None };
    Arc::new(ConnectionProbe {
        name: "orders-db".into(),
        source_process: pattern.clone(),
        dest_process: pattern,
        dest_ip: "10.0.0.1".parse().unwrap(),
        dest_port: 5432,
        source_ip: None,
        source_port: Some(40000),
        interval: Duration::from_secs(15),
        matched_source_labels: MatchedSourceLabels::None,
    })
}

fn up() -> ProbeLook {
    let process = |pid| {
        Arc::new(Process {
            pid: Pid(pid),
            name: "orders".to_owned(),
            executable: Some("/opt/orders".into()),
            fits: Vec::new(),
            container: None,
            is_stranger: false,
        })
    };
    let connection = Connection {
        local: Endpoint::new("10.0.0.9".parse().unwrap(), 40000),
        remote: Endpoint::new("10.0.0.1".parse().unwrap(), 5432),
        state: TcpState::Established,
        interface: 0,
        inode: Inode::new(7),
        cookie: Cookie(7),
        uid: 0,
        cgroup: None,
        namespace: NamespaceId::OWN,
    };
    let matched = vec![MatchedConnection {
        connection,
        owners: vec![process(813), process(812)],
        attribution: Attribution::Holder,
    }];
    ProbeLook { forward: DirectionLook { matched, ..DirectionLook::default() }, ..ProbeLook::default() }
}

fn down() -> ProbeLook {
    let absent = DirectionLook { process: Presence::Absent, ..DirectionLook::default() };
    ProbeLook { forward: absent.clone(), reverse: absent, ..ProbeLook::default() }
}

#[test]
fn json_has_the_documented_fields() {
    let mut out = Vec::new();
    write_json(
        &rows(&[(probe(), up()), (probe(), down())], AttributionMode::Strict),
        &Others::default(),
        &mut out,
    )
    .unwrap();
    let told: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let expected = serde_json::json!([
        {
            "name": "orders-db", "direction": "forward", "up": 1, "status": "up", "connections": 1,
            "unattributed": 0,
            "owners": [
                {"pid": 812, "name": "orders", "executable": "/opt/orders"},
                {"pid": 813, "name": "orders", "executable": "/opt/orders"},
            ],
            "dest_ip": "10.0.0.1", "dest_port": 5432, "source_port": 40000,
        },
        {
            "name": "orders-db", "direction": null, "up": 0, "status": "down", "reason": "process_absent",
            "connections": 0, "unattributed": 0, "owners": [],
            "dest_ip": "10.0.0.1", "dest_port": 5432, "source_port": 40000,
        },
    ]);
    assert_eq!(told, expected);
}

#[test]
fn the_table_says_what_to_do_about_what_is_down() {
    let mut out = Vec::new();
    write_table(
        &rows(&[(probe(), up()), (probe(), down())], AttributionMode::Strict),
        &Others::default(),
        &mut out,
    )
    .unwrap();
    let told = String::from_utf8(anstream::adapter::strip_bytes(&out).into_vec()).unwrap();
    insta::assert_snapshot!(told);
}

#[test]
fn what_a_destination_is_translated_to_is_told_with_how_many_go_there() {
    let mut look = up();
    let end = Endpoint::new("fd00::7".parse().unwrap(), 8080);
    look.forward.translated.insert(Cookie(7), end);
    let mut out = Vec::new();
    write_json(&rows(&[(probe(), look.clone())], AttributionMode::Strict), &Others::default(), &mut out)
        .unwrap();
    let told: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let expected = serde_json::json!([{"ip": "fd00::7", "port": 8080, "connections": 1}]);
    assert_eq!(told[0]["translated"], expected);

    let mut out = Vec::new();
    write_table(&rows(&[(probe(), look)], AttributionMode::Strict), &Others::default(), &mut out).unwrap();
    let told = String::from_utf8(anstream::adapter::strip_bytes(&out).into_vec()).unwrap();
    assert!(told.contains("10.0.0.1:5432 -> [fd00::7]:8080"), "{told}");
}

#[test]
fn what_is_inferred_is_told_as_such_where_it_may_be() {
    let mut inferred = up();
    inferred.forward.matched[0].attribution = Attribution::Cgroup;
    let mut mixed = inferred.clone();
    mixed.forward.matched.extend(up().forward.matched);
    let looks = [(probe(), inferred), (probe(), mixed), (probe(), down())];
    let mut out = Vec::new();
    write_json(&rows(&looks, AttributionMode::Inferred), &Others::default(), &mut out).unwrap();
    let told: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
    let of = |row: &serde_json::Value| (row["attribution"].clone(), row["inferred"].clone());
    assert_eq!(of(&told[0]), ("cgroup".into(), 1.into()));
    assert_eq!(of(&told[1]), ("holder".into(), 1.into()), "the surest of its connections");
    assert_eq!(of(&told[2]), (serde_json::Value::Null, serde_json::Value::Null));
    let mut out = Vec::new();
    write_table(&rows(&looks, AttributionMode::Inferred), &Others::default(), &mut out).unwrap();
    let table = String::from_utf8(out).unwrap();
    assert!(table.contains("1 (1 inferred)") && table.contains("orders[813] (by cgroup)"), "{table}");
    assert!(table.contains("2 (1 inferred)"), "{table}");
}

#[test]
fn the_container_and_the_pod_of_an_owner_stand_beside_its_number() {
    let mut look = up();
    let of = |id: Option<&str>, pod: Option<&str>, name: Option<&str>| {
        let pod_name = name.map(|name| Arc::new(PodName { namespace: "shop".into(), name: name.into() }));
        let container = Container { id: id.map(Arc::from), pod_uid: pod.map(Arc::from), pod_name };
        Some(Arc::new(container))
    };
    let owners = &mut look.forward.matched[0].owners;
    let id = "e72f453320124d18eb835d05a10d393b95dd584ed6d1bea161717a290a357aa6";
    let places = [
        of(Some(id), Some("8c1b"), None),
        of(Some("short"), None, None),
        None,
        of(Some(id), Some("8c1b"), Some("orders-0")),
    ];
    *owners = places
        .into_iter()
        .zip(&*owners.iter().cycle().take(4).cloned().collect::<Vec<_>>())
        .zip(811..)
        .map(|((container, owner), pid)| {
            Arc::new(Process { pid: Pid(pid), container, ..owner.as_ref().clone() })
        })
        .collect();
    let rows = rows(&[(probe(), look)], AttributionMode::Strict);
    let mut out = Vec::new();
    write_table(&rows, &Others::default(), &mut out).unwrap();
    let table = String::from_utf8(out).unwrap();
    let told = "orders[811] (container e72f45332012, pod 8c1b) orders[812] (container short) orders[813] \
                orders[814] (container e72f45332012, pod shop/orders-0)";
    assert!(table.contains(told), "{table}");
    let mut out = Vec::new();
    write_json(&rows, &Others::default(), &mut out).unwrap();
    let told: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
    assert_eq!(told[0]["owners"][0]["container_id"], id);
    assert_eq!(told[0]["owners"][2].get("container_id"), None);
    let pod =
        |owner: usize| ["pod_uid", "pod_name", "pod_namespace"].map(|key| told[0]["owners"][owner].get(key));
    assert_eq!(pod(0).map(|value| value.and_then(serde_json::Value::as_str)), [Some("8c1b"), None, None]);
    assert_eq!(
        pod(3).map(|value| value.and_then(serde_json::Value::as_str)),
        [Some("8c1b"), Some("orders-0"), Some("shop")]
    );
}

/// What a watch and a count of processes found.
fn found() -> Vec<(Probe, Result<Finding, LookError>)> {
    let standing = |status, count, unattributed| {
        Finding::Standing(Standing {
            status,
            count,
            unattributed,
            missing: BTreeSet::new(),
            resolved: Vec::new(),
            usage: None,
        })
    };
    let watch = |name: &str, bounds| {
        Probe::Watch(Arc::new(WatchProbe {
            name: name.into(),
            process: None,
            clause: SocketClause {
                transport: Transport::Tcp,
                families: Families::BOTH,
                states: TcpStates::of(&[TcpState::Listen]),
                local: EndClause::default(),
                remote: EndClause::default(),
            },
            local_names: Vec::new(),
            remote_names: Vec::new(),
            bounds,
            by_family: false,
            interval: Duration::from_secs(1),
            labels: vec![("proto", "tcp".into()), ("states", "LISTEN".into()), ("local_port", "80".into())],
        }))
    };
    let presence = Probe::Presence(Arc::new(PresenceProbe {
        name: "workers".into(),
        process: ProcessPattern { name: "work*".parse().unwrap(), executable: None },
        bounds: Bounds { least: 2, most: Some(4) },
        resources: false,
        interval: Duration::from_secs(1),
    }));
    vec![
        (watch("web", Bounds { least: 1, most: None }), Ok(standing(Status::Up, 3, 0))),
        (watch("many", Bounds { least: 0, most: Some(1) }), Ok(standing(Status::Warning, 2, 0))),
        (presence, Ok(standing(Status::Down, 1, 2))),
        (watch("lost", Bounds { least: 1, most: None }), Err(LookError::CutShort)),
    ]
}

#[test]
fn what_is_counted_has_lines_of_its_own_in_either_format() {
    let found = found();
    let (others, unknown) = others(&found);
    assert_eq!(others.tallies.iter().map(Tally::is_up).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(unknown.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["lost"]);
    let mut out = Vec::new();
    write_json(&rows(&[(probe(), up())], AttributionMode::Strict), &others, &mut out).unwrap();
    let told: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
    assert_eq!(told.len(), 4);
    assert_eq!(
        told[3],
        serde_json::json!({
            "name": "workers", "type": "process_mon", "up": 0, "status": "down", "count": 1, "unattributed": 2,
            "min_count": 2, "max_count": 4,
        })
    );
    let mut out = Vec::new();
    write_table(&[], &others, &mut out).unwrap();
    let told = String::from_utf8(anstream::adapter::strip_bytes(&out).into_vec()).unwrap();
    let words: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["PROBE", "STATUS", "COUNTS", "COUNT", "EXPECTED"]);
    assert_eq!(words[1], ["web", "up", "tcp", "LISTEN", "local", "80", "3", "at", "least", "1"]);
    assert_eq!(words[2], ["many", "warning", "tcp", "LISTEN", "local", "80", "2", "at", "most", "1"]);
    assert_eq!(words[3], ["workers", "down", "work*", "1", "(+2", "unknown)", "2", "to", "4"]);
}

/// The table and the JSON of what was found.
fn told(found: &[(Probe, Result<Finding, LookError>)]) -> (String, serde_json::Value) {
    let (others, _) = others(found);
    let (mut table, mut json) = (Vec::new(), Vec::new());
    write_table(&[], &others, &mut table).unwrap();
    write_json(&[], &others, &mut json).unwrap();
    let table = String::from_utf8(anstream::adapter::strip_bytes(&table).into_vec()).unwrap();
    (table, serde_json::from_slice(&json).unwrap())
}

fn workers(resources: bool, standing: Standing) -> (Probe, Result<Finding, LookError>) {
    let probe = PresenceProbe {
        name: "workers".into(),
        process: ProcessPattern { name: "work*".parse().unwrap(), executable: None },
        bounds: Bounds { least: 2, most: None },
        resources,
        interval: Duration::from_secs(1),
    };
    (Probe::Presence(Arc::new(probe)), Ok(Finding::Standing(standing)))
}

fn enough() -> Standing {
    Standing {
        status: Status::Up,
        count: 2,
        unattributed: 5,
        missing: BTreeSet::new(),
        resolved: Vec::new(),
        usage: None,
    }
}

#[test]
fn what_processes_use_is_told_where_it_was_asked() {
    let usage = Usage {
        user: Duration::from_millis(61_500),
        system: Duration::from_millis(250),
        resident_bytes: 3 * 1_073_741_824 / 2,
        virtual_bytes: 1 << 40,
    };
    let (table, json) = told(&[workers(true, Standing { usage: Some(usage), ..enough() })]);
    assert!(table.lines().next().unwrap().ends_with("EXPECTED    USES"), "{table}");
    assert!(table.contains("at least 2  1.5 GiB, 61.8 s of CPU"), "{table}");
    assert_eq!(
        json[0],
        serde_json::json!({
            "name": "workers", "type": "process_mon", "up": 1, "status": "up", "count": 2, "unattributed": 5,
            "min_count": 2, "cpu_user_seconds": 61.5, "cpu_system_seconds": 0.25, "memory_usage_bytes": 1_610_612_736_u64,
            "memory_virtual_bytes": 1_099_511_627_776_u64,
        })
    );
    let (table, json) = told(&[workers(true, enough())]);
    assert!(table.contains("could not be read") && json[0].get("cpu_user_seconds").is_none(), "{table}");
    let (table, _) = told(&[workers(false, enough())]);
    assert!(!table.contains("USES") && !table.contains("could not be read"), "{table}");
    assert_eq!(table.lines().count(), 2, "there are enough, whoever else might fit: {table}");
}

#[test]
fn memory_is_told_in_the_unit_in_which_it_is_read_best() {
    for (bytes, told_as) in [
        (0, "0.0 KiB"),
        (1_536, "1.5 KiB"),
        (1_048_575, "1023.9 KiB"),
        (1_048_576, "1.0 MiB"),
        (u64::MAX, "16777215.9 TiB"),
    ] {
        let usage = Usage { resident_bytes: bytes, ..Usage::default() };
        let (table, _) = told(&[workers(true, Standing { usage: Some(usage), ..enough() })]);
        assert!(table.contains(&format!("  {told_as}, 0.0 s of CPU")), "{table}");
    }
}

#[test]
fn where_a_capability_could_show_that_there_are_enough_it_is_named() {
    let missing = BTreeSet::from([Capability::SysPtrace]);
    let standing = Standing { status: Status::Down, count: 1, missing, ..enough() };
    let (table, json) = told(&[workers(false, standing)]);
    let last = table.lines().last().unwrap();
    assert!(last.starts_with("workers: of 5 more") && last.contains("grant CAP_SYS_PTRACE"), "{table}");
    assert_eq!(json[0]["missing"], serde_json::json!(["CAP_SYS_PTRACE"]));
}

#[test]
fn a_probe_that_discovers_has_a_line_that_says_how_to_see_what() {
    let map = |missing: &[Capability]| {
        let listener =
            |port| Listener { process: "web".into(), at: Endpoint::new([0, 0, 0, 0].into(), port) };
        let edge = |port| Edge {
            process: "web".into(),
            direction: Direction::Forward,
            service: Endpoint::new([10, 0, 0, 1].into(), port),
        };
        Map {
            listeners: [(listener(80), 2)].into(),
            edges: [(edge(5432), 3), (edge(6379), 4)].into(),
            unattributed: missing.len().try_into().unwrap(),
            missing: missing.iter().copied().collect(),
        }
    };
    let probe = |globs: &[&str]| {
        let processes =
            globs.iter().map(|glob| ProcessPattern { name: glob.parse().unwrap(), executable: None });
        Probe::Discovery(Arc::new(DiscoveryProbe {
            name: "tier".into(),
            processes: processes.collect(),
            most: 10,
            interval: Duration::from_secs(1),
        }))
    };
    let (table, json) = told(&[(probe(&["nginx", "it's {a,b}*"]), Ok(Finding::Map(map(&[]))))]);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["PROBE", "ENDPOINTS", "EDGES", "CONNECTIONS", "LISTED", "BY"]);
    assert_eq!(words[1][..6], ["tier", "1", "2", "7", "vms-agent", "discover"]);
    assert!(table.trim_end().ends_with(r"vms-agent discover nginx 'it'\''s {a,b}*'"), "{table}");
    assert_eq!(
        json,
        serde_json::json!([{
            "name": "tier", "type": "discovery", "endpoints": 1, "edges": 2, "connections": 7, "unattributed": 0,
        }])
    );
    let (table, json) =
        told(&[workers(false, enough()), (probe(&["*"]), Ok(Finding::Map(map(&Capability::ALL))))]);
    assert!(table.contains("7 (+2 unknown)  vms-agent discover\n"), "{table}");
    assert!(table.contains("at least 2\n\nPROBE"), "a line between them: {table}");
    assert!(table.trim_end().contains("grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"), "{table}");
    assert_eq!(json[1]["missing"], serde_json::json!(["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]));
}
