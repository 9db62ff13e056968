use insta::assert_snapshot;
use vms_core::probe::Probe;
use vms_core::socket::{Families, Transport};
use vms_core::watch::WatchProbe;

use super::super::{Overrides, Sources, load};
use super::*;
use crate::environment::Environment;

/// The example in the README of `cnxwatch_exporter`.
const README_EXAMPLE: &str = r#"sockets:
  - name: hostname-grafana
    srcHost: "::"
    port: 3000
    status: listen
    protocol: tcp6
  - name: ssh-from-localhost
    srcHost: 127.0.0.1
    dstHost: 127.0.0.1
    dstPort: 22
    status: established
"#;

fn imported(text: &str) -> Imported {
    import(text, Path::new("cnxwatch.yml")).unwrap()
}

/// The probes of what was imported, as this agent reads them.
fn loaded(yaml: &str) -> Vec<Arc<WatchProbe>> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    std::fs::write(&file, yaml).unwrap();
    let environment = Environment::default();
    let sources =
        Sources { file: Some(&file), cnxwatch: None, environment: &environment, flags: Overrides::default() };
    let loaded = load(&sources).unwrap_or_else(|errors| panic!("{errors}\n{yaml}"));
    assert_eq!(loaded.warnings, [""; 0], "{yaml}");
    let probes = loaded.config.probes.into_iter().map(|probe| match probe {
        Probe::Watch(watch) => watch,
        other => panic!("{other:?}"),
    });
    probes.collect()
}

/// One socket of these fields: the settings that it becomes, but for the name, and the comments.
fn one(fields: &str) -> (String, Vec<String>) {
    let Imported { yaml, refused } = imported(&format!("sockets:\n  - {{name: x, {fields}}}\n"));
    assert!(refused.is_none(), "{fields}: {}", refused.unwrap());
    assert_eq!(loaded(&yaml).len(), 1);
    let (_, probe) = yaml.split_once("  - type: connection\n").unwrap();
    let (comments, settings): (Vec<&str>, Vec<&str>) =
        probe.lines().map(str::trim).partition(|line| line.starts_with('#'));
    assert_eq!(settings[0], "name: x");
    (settings[1..].join(", "), comments.into_iter().map(str::to_owned).collect())
}

fn refusals(text: &str) -> String {
    imported(text).refused.expect("something is refused").to_string()
}

#[test]
fn the_example_of_its_readme_is_imported_and_loads() {
    let Imported { yaml, refused } = imported(README_EXAMPLE);
    assert!(refused.is_none());
    assert_snapshot!("readme-example", yaml);
    let probes = loaded(&yaml);
    let [grafana, ssh] = probes.as_slice() else { panic!() };
    assert_eq!((&*grafana.name, grafana.clause.transport), ("hostname-grafana", Transport::Tcp));
    assert_eq!(grafana.clause.families, Families::IPV6);
    assert!(grafana.clause.local.exact);
    assert_eq!((&*ssh.name, ssh.clause.families), ("ssh-from-localhost", Families::IPV4));
    assert_eq!(ssh.clause.remote.ports, ["22".parse().unwrap()]);
}

#[test]
fn what_cnxwatch_could_find_is_counted_as_there() {
    for (fields, expected, comments) in [
        (
            "host: 10.0.0.1, port: 80",
            "localAddress: \"10.0.0.1\", localPort: 80, protocol: tcp4, states: LISTEN, exact: true",
            &["As cnxwatch: only what is bound"][..],
        ),
        // Both spellings, numbers as text, and the longer one first.
        (
            "srcHost: 10.0.0.1, host: 10.0.0.2, srcPort: '80', port: 81, status: listen, protocol: tcp",
            "localAddress: \"10.0.0.1\", localPort: 80, protocol: tcp4, states: LISTEN, exact: true",
            &["passes over host \"10.0.0.2\"", "passes over port \"81\"", "As cnxwatch"],
        ),
        (
            "srcHost: '', host: 10.0.0.2, srcPort: , port: 81",
            "localAddress: \"10.0.0.2\", localPort: 81, protocol: tcp4, states: LISTEN, exact: true",
            &["As cnxwatch"],
        ),
        // Any is one literal address of listeners.
        (
            "host: '*', port: 22",
            "localAddress: \"0.0.0.0\", localPort: 22, protocol: tcp4, states: LISTEN, exact: true",
            &["host * is 0.0.0.0 to cnxwatch, and no other", "As cnxwatch"],
        ),
        (
            "srcHost: ANY, port: 22, protocol: tcp6",
            "localAddress: \"::\", localPort: 22, protocol: tcp6, states: LISTEN, exact: true",
            &["srcHost * is :: to cnxwatch, and no other", "As cnxwatch"],
        ),
        (
            "host: '::', port: 22, protocol: tcp6, dstHost: '*', dstPort: 0",
            "localAddress: \"::\", localPort: 22, protocol: tcp6, states: LISTEN, exact: true",
            &["As cnxwatch"],
        ),
        // Names: of whichever version their addresses are, unless something else says.
        (
            "host: localhost, port: 80",
            "localAddress: localhost, localPort: 80, protocol: tcp, states: LISTEN, exact: true",
            &["cnxwatch looks a name up once", "To cnxwatch tcp is IPv4", "As cnxwatch"],
        ),
        (
            "srcHost: 10.0.0.1, dstHost: DB.example.com, dstPort: 5432, status: established",
            "localAddress: \"10.0.0.1\", remoteAddress: db.example.com, remotePort: 5432, protocol: tcp4, states: ESTABLISHED",
            &["cnxwatch looks a name up once", "dual-stack programs count as well"],
        ),
        (
            "srcHost: a.test, dstHost: b.test, protocol: tcp6, status: established",
            "localAddress: a.test, remoteAddress: b.test, protocol: tcp6, states: ESTABLISHED",
            &["cnxwatch looks a name up once", "cnxwatch looks a name up once"],
        ),
        // An IPv4 address of an IPv6 socket.
        (
            "srcHost: 10.0.0.1, dstHost: '::ffff:10.0.0.2', dstPort: 5432, protocol: tcp6, status: established",
            "localAddress: \"10.0.0.1\", remoteAddress: \"10.0.0.2\", remotePort: 5432, protocol: tcp4, states: ESTABLISHED",
            &["here IPv4 sockets count as well"],
        ),
        (
            "srcHost: '2001:db8::1', dstHost: '2001:db8::2', dstPort: 5432, protocol: tcp6, status: established",
            "localAddress: \"2001:db8::1\", remoteAddress: \"2001:db8::2\", remotePort: 5432, protocol: tcp6, states: ESTABLISHED",
            &[],
        ),
        (
            "srcHost: 10.0.0.1, dstHost: 10.0.0.2, dstPort: 53, protocol: udp, status: established",
            "localAddress: \"10.0.0.1\", remoteAddress: \"10.0.0.2\", remotePort: 53, protocol: udp4, states: ESTABLISHED",
            &["cnxwatch has those under udp6 alone"],
        ),
        (
            "host: 10.0.0.1, port: 80, process: 'java.*'",
            "processName: \"java*\", localAddress: \"10.0.0.1\", localPort: 80, protocol: tcp4, states: LISTEN, exact: true",
            &["\"^java.*$\" with comm alone", "As cnxwatch"],
        ),
        (
            "host: 10.0.0.1, port: 80, processName: 'java.*', proto: tcp6",
            "localAddress: \"10.0.0.1\", localPort: 80, protocol: tcp4, states: LISTEN, exact: true",
            &[
                "passes over processName \"java.*\"",
                "no field \"proto\", and passes over \"tcp6\"",
                "As cnxwatch",
            ],
        ),
    ] {
        assert_one(fields, expected, comments);
    }
}

#[test]
fn what_cnxwatch_could_never_find_becomes_what_was_meant() {
    for (fields, expected, comments) in [
        // No connection has an unspecified address.
        (
            "dstHost: 10.0.0.2, dstPort: 5432, status: established",
            "remoteAddress: \"10.0.0.2\", remotePort: 5432, protocol: tcp4, states: ESTABLISHED",
            &["Where no srcHost is named cnxwatch wants 0.0.0.0 at this end", "under tcp6 alone"][..],
        ),
        (
            "host: '2001:db8::1', port: 443, protocol: tcp6, status: established",
            "localAddress: \"2001:db8::1\", localPort: 443, protocol: tcp6, states: ESTABLISHED",
            &["Where no dstHost is named cnxwatch wants :: at the other end"],
        ),
        (
            "host: '*', dstHost: 0.0.0.0, port: 443, status: established",
            "localPort: 443, protocol: tcp4, states: ESTABLISHED",
            &["wants 0.0.0.0 at this end", "wants 0.0.0.0 at the other end", "under tcp6 alone"],
        ),
        // Only the tables of tcp, tcp6, udp and udp6 are read.
        (
            "host: 10.0.0.1, port: 80, protocol: tcp4",
            "localAddress: \"10.0.0.1\", localPort: 80, protocol: tcp4, states: LISTEN, exact: true",
            &["cnxwatch takes tcp4, and then never tells of it", "As cnxwatch"],
        ),
        (
            "host: '::1', port: 80",
            "localAddress: \"::1\", localPort: 80, protocol: tcp6, states: LISTEN, exact: true",
            &["To cnxwatch tcp is IPv4, so that it tells 0 for an IPv6 address", "As cnxwatch"],
        ),
        (
            "host: '*', port: 53, protocol: udp",
            "localAddress: \"0.0.0.0\", localPort: 53, protocol: udp4, states: unconnected, exact: true",
            &["host * is 0.0.0.0", "UDP has no listen", "As cnxwatch"],
        ),
        // It would not even start.
        (
            "port: 80",
            "localPort: 80, protocol: tcp4, states: LISTEN",
            &["Without host cnxwatch does not start"],
        ),
        (
            "host: 10.0.0.1, port: 0",
            "localAddress: \"10.0.0.1\", protocol: tcp4, states: LISTEN, exact: true",
            &["Without port cnxwatch does not start", "As cnxwatch"],
        ),
    ] {
        assert_one(fields, expected, comments);
    }
}

fn assert_one(fields: &str, expected: &str, comments: &[&str]) {
    let (settings, told) = one(fields);
    assert_eq!(settings, expected, "{fields}");
    assert_eq!(told.len(), comments.len(), "{fields}: {told:#?}");
    for (told, comment) in told.iter().zip(comments) {
        assert!(told.contains(comment), "{fields}: {told}");
    }
}

#[test]
fn what_cannot_be_said_is_refused_all_at_once_with_line_and_name_beside_what_can() {
    let text = r#"sockets:
  - name: wrapped
    host: 10.0.0.1
    port: 83617
  - name: named
    srcHost: db..example
    srcPort: ssh
    dstHost: -db.example.com
    dstPort: -1
    status: Established
    protocol: tpc
    process: "[a-z]+d"
  - name: fine
    host: 10.0.0.1
    port: 80
  - host: 10.0.0.0/8
    port: 80.5
  - name: families
    srcHost: 10.0.0.1
    dstHost: ::1
    dstPort: 1
    status: established
  - name: peer
    host: 10.0.0.1
    port: 80
    dstHost: 10.0.0.2
    dstPort: 80
  - name: [list]
    host: {map: 1}
  - 17
socket: []
"#;
    let Imported { yaml, refused } = imported(text);
    assert_snapshot!("refused", format!("{yaml}\n---\n{}", refused.unwrap()));
    assert_eq!(loaded(&yaml).len(), 1);
}

#[test]
fn names_that_are_there_twice_are_told_apart() {
    let socket = |name: &str| format!("  - {{name: {name}, host: 10.0.0.1, port: 80}}\n");
    let text = format!("sockets:\n{}{}{}{}", socket("a"), socket("a-2"), socket("a"), socket("a"));
    let yaml = imported(&text).yaml;
    let names: Vec<String> = loaded(&yaml).iter().map(|probe| probe.name.to_string()).collect();
    assert_eq!(names, ["a", "a-2", "a-3", "a-4"]);
    assert_eq!(yaml.matches("# Names are unique here: another socket is \"a\" as well.").count(), 2);
}

#[test]
fn names_mean_the_same_whatever_is_in_them() {
    for name in ["${env:HOME} $$", "a: b # c", "12", "null", "'", "\\\"", "\n# x"] {
        let text = format!(
            "sockets:\n  - {{name: {}, host: 10.0.0.1, port: 80}}\n",
            serde_json::to_string(name).unwrap()
        );
        assert_eq!(&*loaded(&imported(&text).yaml)[0].name, name);
    }
}

#[test]
fn what_was_written_there_breaks_out_of_no_comment() {
    let text = "sockets:\n  - {name: a, host: 10.0.0.1, port: 80, \"x\\n  - y\": \"\\e[31m\\nprobes: 1\", processName: \"a\\nb: c\"}\n  - {name: \"b\\nc: d\", host: \"\\e[2J\\nx\", port: 1}\n";
    let yaml = imported(text).yaml;
    assert!(!yaml.contains('\u{1b}'), "{yaml}");
    assert_eq!(loaded(&yaml).len(), 1);
}

#[test]
fn a_file_without_sockets_that_can_be_read_is_refused() {
    for (text, problem) in [
        ("", "sockets: no sockets are configured"),
        ("sockets: []", "sockets: no sockets are configured"),
        ("sockets: 1", "sockets: no sockets are configured"),
        ("socket: []", "did you mean `sockets`?"),
        ("sockets: [{name: 1.10, host: '*', port: 1}]", "name = \"1.1\": a number: put it in quotes"),
    ] {
        let refused = refusals(text);
        assert!(refused.contains(problem), "{text}: {refused}");
    }
    let error = import("a: [", Path::new("cnxwatch.yml")).unwrap_err().to_string();
    assert!(error.contains("cnxwatch.yml") && error.contains("not YAML"), "{error}");
    let error = import_file(Path::new("/nonesuch/config.yml")).unwrap_err().to_string();
    assert!(error.contains("/nonesuch/config.yml: cannot be read: No such file"), "{error}");
}
