use vms_core::discovery::{Edge, Listener, Map};

use super::*;
use crate::config::{Overrides, Sources};
use crate::environment::Environment;

fn end(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(address.ip(), address.port())
}

fn map(edges: &[(&str, Direction, &str, u64)]) -> Map {
    let edge = |(process, direction, service, count): &(&str, Direction, &str, u64)| {
        (Edge { process: (*process).into(), direction: *direction, service: end(service) }, *count)
    };
    let listeners = [(Listener { process: "db".into(), at: end("0.0.0.0:5432") }, 1)].into();
    Map { listeners, edges: edges.iter().map(edge).collect(), ..Map::default() }
}

fn printed(print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    print(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

const FORWARD: Direction = Direction::Forward;
const REVERSE: Direction = Direction::Reverse;

#[test]
fn a_table_has_the_listeners_and_the_edges_and_what_may_not_be_known() {
    let mut map = map(&[("web", FORWARD, "10.0.0.2:5432", 3), ("db", REVERSE, "[fd00::1]:5432", 1)]);
    map.unattributed = 2;
    map.missing.insert(vms_core::process::Capability::SysPtrace);
    let text = printed(|out| write_table(&map, out));
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(words.contains(&vec!["db", "0.0.0.0:5432"]), "{text}");
    assert!(words.contains(&vec!["web", "forward", "10.0.0.2:5432", "3"]), "{text}");
    assert!(words.contains(&vec!["db", "reverse", "[fd00::1]:5432", "1"]), "{text}");
    assert!(text.contains("of 2 more sockets") && text.contains("grant CAP_SYS_PTRACE"), "{text}");
}

#[test]
fn a_configuration_has_a_probe_for_each_client_of_a_service() {
    let map = map(&[
        // Another host's service, with two clients here.
        ("web", FORWARD, "10.0.0.2:5432", 3),
        ("cron", FORWARD, "10.0.0.2:5432", 1),
        // A service of this host, with clients elsewhere.
        ("db", REVERSE, "10.0.0.1:5433", 1),
        // Both here, the service in two programs.
        ("we[b]", FORWARD, "127.0.0.1:80", 1),
        ("a", REVERSE, "127.0.0.1:80", 1),
        ("b", REVERSE, "127.0.0.1:80", 1),
    ]);
    let probes: Vec<(String, String, String)> = probes(&map)
        .into_iter()
        .map(|probe| (probe.client, probe.server, probe.service.to_string()))
        .collect();
    let expected = [
        ("*", "db", "10.0.0.1:5433"),
        ("cron", "*", "10.0.0.2:5432"),
        ("web", "*", "10.0.0.2:5432"),
        ("we\\[b\\]", "{a,b}", "127.0.0.1:80"),
    ];
    assert_eq!(probes, expected.map(|(client, server, at)| (client.into(), server.into(), at.into())));
}

/// The probes of that configuration.
fn loaded(text: &str) -> Vec<Probe> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    std::fs::write(&file, text).unwrap();
    let environment = Environment::from([("X", "y")]);
    let sources =
        Sources { file: Some(&file), cnxwatch: None, environment: &environment, flags: Overrides::default() };
    crate::config::load(&sources).unwrap().config.probes
}

/// Whether a process that is called so would fit.
fn fits(glob: &NameGlob, name: &[u8]) -> bool {
    let pattern = ProcessPattern { name: glob.clone(), executable: None };
    let selector = vms_core::process::ProcessSelector::new([&pattern]).unwrap();
    let names = vms_core::process::ProcessNames {
        comm: vms_core::process::Known::Is(name),
        argv0: vms_core::process::Known::Absent,
        executable: vms_core::process::Known::Absent,
    };
    !selector.fits(&names).certain.is_empty()
}

#[test]
fn a_name_that_is_no_utf_8_is_emitted_as_a_glob_that_it_fits() {
    // Bytes that cannot be, a character that was cut off where a comm ends, and the one that stands for either.
    let names: [&[u8]; 4] = [b"a\xff\xfeb", b"$h\xf0\x9f\x98", "c\u{fffd}".as_bytes(), b"\xc3"];
    let services = ["10.0.0.2:1", "10.0.0.2:2", "10.0.0.2:3", "10.0.0.2:4"];
    let lossy = names.map(String::from_utf8_lossy);
    let edges: Vec<_> =
        lossy.iter().zip(services).map(|(name, service)| (name.as_ref(), FORWARD, service, 1)).collect();
    let text = printed(|out| write_config(&map(&edges), out));
    assert!(text.contains("# A * within a name stands for bytes that are not UTF-8.\n"), "{text}");
    let probes = loaded(&text);
    let links: Vec<_> = probes.iter().filter_map(Probe::link).collect();
    assert_eq!(links.len(), names.len(), "{text}");
    for (link, name) in links.iter().zip(names) {
        assert!(fits(&link.source_process.name, name), "{name:?}: {text}");
    }
    // And no other, as far as that can be said.
    for (link, other) in links.iter().zip(["ac", "xg", "b"]) {
        assert!(!fits(&link.source_process.name, other.as_bytes()), "{other}: {text}");
    }
    // Beside one of which nothing can be said, every name fits.
    let map = map(&[
        ("\u{fffd}", REVERSE, "10.0.0.1:1", 1),
        ("a", REVERSE, "10.0.0.1:1", 1),
        ("", FORWARD, "10.0.0.3:1", 1),
    ]);
    let text = printed(|out| write_config(&map, out));
    let probes = loaded(&text);
    let links: Vec<_> = probes.iter().filter_map(Probe::link).collect();
    assert_eq!(links[0].dest_process.name, NameGlob::any(), "{text}");
    assert_eq!(links[1].source_process.name, NameGlob::any(), "{text}");
}

#[test]
fn json_has_what_the_table_has_and_is_harmless_to_a_terminal() {
    let mut map = map(&[("w\u{9b}31m\u{202e}eb", FORWARD, "10.0.0.2:5432", 3)]);
    map.unattributed = 2;
    map.missing.extend(vms_core::process::Capability::ALL);
    let text = printed(|out| write_json(&map, out));
    assert!(!text.replace('\n', "").contains(terminal::is_unsafe), "{text:?}");
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = serde_json::json!({
        "listeners": [{ "process": "db", "address": "0.0.0.0", "port": 5432 }],
        "edges": [{
            "process": "w\u{9b}31m\u{202e}eb",
            "direction": "forward",
            "dest_ip": "10.0.0.2",
            "dest_port": 5432,
            "connections": 3,
        }],
        "unattributed": 2,
        "missing": ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"],
    });
    assert_eq!(told, expected);
}

#[test]
fn what_is_emitted_is_a_configuration_whatever_processes_are_called() {
    let hostile = "${env:X} a\": {x}, 'b\\\n- c: \u{7}\u{9b}\u{85}\u{2028}\u{202e}\u{feff}# d";
    let map = map(&[
        (hostile, FORWARD, "10.0.0.2:5432", 1),
        ("db", REVERSE, "[fe80::1]:5433", 1),
        ("a,b", REVERSE, "10.0.0.1:1", 1),
        ("{c}", REVERSE, "10.0.0.1:1", 1),
    ]);
    let text = printed(|out| write_config(&map, out));
    assert!(!text.replace('\n', "").contains(terminal::is_unsafe), "{text:?}");
    let loaded = loaded(&text);
    assert_eq!(loaded.len(), 3, "{text}");
    let links: Vec<_> = loaded.iter().filter_map(Probe::link).collect();
    let of = |port: u16| links.iter().find(|link| link.dest_port == port).unwrap();
    assert!(fits(&of(5432).source_process.name, hostile.as_bytes()));
    for (name, is_fitting) in [("a,b", true), ("{c}", true), ("a", false), ("c", false)] {
        assert_eq!(fits(&of(1).dest_process.name, name.as_bytes()), is_fitting, "{name}");
    }
}

#[test]
fn without_a_link_there_is_nothing_to_configure_and_that_is_said() {
    let text = printed(|out| write_config(&Map::default(), out));
    assert!(text.contains("There was none"), "{text}");
    let text = printed(|out| write_table(&Map::default(), out));
    assert_eq!(text, "no process was seen that listens or is connected\n");
}

#[test]
fn probes_have_names_of_their_own_however_long_programs_are_called() {
    let long = "x".repeat(255);
    let map = map(&[(&long, FORWARD, "10.0.0.2:5432", 1), (&long, FORWARD, "10.0.0.3:5432", 1)]);
    let names: Vec<String> = probes(&map).into_iter().map(|probe| probe.name).collect();
    assert!(names[0] != names[1] && names.iter().all(|name| name.chars().count() <= MAX_NAME), "{names:?}");
}

#[test]
fn a_configuration_says_that_links_are_missing_in_it() {
    let mut map = map(&[]);
    map.unattributed = 3;
    let text = printed(|out| write_config(&map, out));
    assert!(text.contains("# Links are missing: of 3 more sockets"), "{text}");
}
