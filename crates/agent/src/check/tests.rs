use std::collections::BTreeSet;
use std::time::Duration;

use vms_core::address::Endpoint;
use vms_core::connection::{Cookie, Inode, TcpState, TcpStates};
use vms_core::look::{DirectionLook, LookError, Presence};
use vms_core::namespace::NamespaceId;
use vms_core::observer::{Bounds, Finding, Standing, Status};
use vms_core::presence::PresenceProbe;
use vms_core::probe::{MatchedSourceLabels, Probe};
use vms_core::process::{Pid, PodName, Process, ProcessPattern};
use vms_core::socket::{EndClause, Families, SocketClause, Transport};
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
    write_json(&rows(&[(probe(), up()), (probe(), down())], AttributionMode::Strict), &[], &mut out).unwrap();
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
    write_table(&rows(&[(probe(), up()), (probe(), down())], AttributionMode::Strict), &[], &mut out)
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
    write_json(&rows(&[(probe(), look.clone())], AttributionMode::Strict), &[], &mut out).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let expected = serde_json::json!([{"ip": "fd00::7", "port": 8080, "connections": 1}]);
    assert_eq!(told[0]["translated"], expected);

    let mut out = Vec::new();
    write_table(&rows(&[(probe(), look)], AttributionMode::Strict), &[], &mut out).unwrap();
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
    write_json(&rows(&looks, AttributionMode::Inferred), &[], &mut out).unwrap();
    let told: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
    let of = |row: &serde_json::Value| (row["attribution"].clone(), row["inferred"].clone());
    assert_eq!(of(&told[0]), ("cgroup".into(), 1.into()));
    assert_eq!(of(&told[1]), ("holder".into(), 1.into()), "the surest of its connections");
    assert_eq!(of(&told[2]), (serde_json::Value::Null, serde_json::Value::Null));
    let mut out = Vec::new();
    write_table(&rows(&looks, AttributionMode::Inferred), &[], &mut out).unwrap();
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
    write_table(&rows, &[], &mut out).unwrap();
    let table = String::from_utf8(out).unwrap();
    let told = "orders[811] (container e72f45332012, pod 8c1b) orders[812] (container short) orders[813] \
                orders[814] (container e72f45332012, pod shop/orders-0)";
    assert!(table.contains(told), "{table}");
    let mut out = Vec::new();
    write_json(&rows, &[], &mut out).unwrap();
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
fn others() -> Vec<(Probe, Result<Finding, LookError>)> {
    let standing = |status, count, unattributed| {
        Finding::Standing(Standing {
            status,
            count,
            unattributed,
            missing: BTreeSet::new(),
            resolved: Vec::new(),
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
    let others = others();
    let (counts, unknown) = counts(&others);
    assert_eq!(counts.iter().map(Tally::is_up).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(unknown.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["lost"]);
    let mut out = Vec::new();
    write_json(&rows(&[(probe(), up())], AttributionMode::Strict), &counts, &mut out).unwrap();
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
    write_table(&[], &counts, &mut out).unwrap();
    let told = String::from_utf8(anstream::adapter::strip_bytes(&out).into_vec()).unwrap();
    let words: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["PROBE", "STATUS", "COUNTS", "COUNT", "EXPECTED"]);
    assert_eq!(words[1], ["web", "up", "tcp", "LISTEN", "local", "80", "3", "at", "least", "1"]);
    assert_eq!(words[2], ["many", "warning", "tcp", "LISTEN", "local", "80", "2", "at", "most", "1"]);
    assert_eq!(words[3], ["workers", "down", "work*", "1", "(+2", "unknown)", "2", "to", "4"]);
}
