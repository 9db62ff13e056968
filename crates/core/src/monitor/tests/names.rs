//! Watches whose addresses are those of host names.

use std::net::IpAddr;
use std::sync::Mutex;

use proptest::collection::vec;
use proptest::prelude::*;

use super::observers::{host, one, values_of, watch};
use super::*;
use crate::adapter::NameAdapter;
use crate::look::LookError;
use crate::metric::AttributeValue;
use crate::name::{HostName, NameQuery, Resolution, Resolved};
use crate::observer::Finding;
use crate::socket::Families;
use crate::watch::WatchProbe;

/// What names mean, as a test says.
#[derive(Debug, Clone, Default)]
struct Names(Arc<Mutex<BTreeMap<HostName, Resolution>>>);

impl Names {
    fn set(&self, name: &str, addresses: &[&str]) {
        self.resolve(name, addresses, None);
    }

    /// Addresses that may be others by now.
    fn set_overdue(&self, name: &str, addresses: &[&str]) {
        self.resolve(name, addresses, Some("nobody answers"));
    }

    fn resolve(&self, name: &str, addresses: &[&str], overdue: Option<&str>) {
        let name: HostName = name.parse().unwrap();
        let resolved = Resolved {
            name: name.clone(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            age: Duration::from_secs(7),
            overdue: overdue.map(Into::into),
        };
        self.0.lock().unwrap().insert(name, Resolution::Known(resolved));
    }

    fn unset(&self, name: &str) {
        self.0.lock().unwrap().insert(name.parse().unwrap(), Resolution::Unknown("nobody knows".into()));
    }
}

impl NameAdapter for Names {
    fn resolution(&self, query: &NameQuery) -> Resolution {
        assert_eq!(query.families, Families::BOTH, "those of the probe");
        let unknown = || Resolution::Unknown("nobody asked".into());
        self.0.lock().unwrap().get(&query.name).cloned().unwrap_or_else(unknown)
    }
}

/// A watch of port 80 at the addresses of these hosts, and a host with sockets of 10.0.0.1.
fn named(local: &[&str], remote: &[&str], least: u64) -> (Names, Monitor<Host, Host, Manual>) {
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    let probe = WatchProbe {
        local_names: names(local),
        remote_names: names(remote),
        ..watch("a", 80, None, (least, None))
    };
    let mut monitor = one(&host(&[(80, 1), (80, 2)]), probe);
    let names = Names::default();
    monitor.set_names(Box::new(names.clone()));
    (names, monitor)
}

/// As [`named`], of too many as well.
fn limited(least: u64, most: u64) -> (Names, Monitor<Host, Host, Manual>) {
    let probe = WatchProbe {
        local_names: vec!["svc.test".parse().unwrap()],
        ..watch("a", 80, None, (least, Some(most)))
    };
    let mut monitor = one(&host(&[(80, 1), (80, 2)]), probe);
    let names = Names::default();
    monitor.set_names(Box::new(names.clone()));
    (names, monitor)
}

fn counts(told: &Told) -> Vec<i64> {
    values_of(told, &metric::WATCH_COUNT)
}

/// The name that is not known, and why.
fn unresolved(told: &Told) -> (String, String) {
    match &told.cycle.failures[0].error {
        LookError::Unresolved { name, cause } => (name.to_string(), cause.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sockets_count_at_the_addresses_that_a_name_has_now() {
    let (names, mut monitor) = named(&["svc.test"], &[], 0);
    for (addresses, count) in [
        (vec!["10.0.0.1"], 2),
        (vec!["10.0.0.9", "2001:db8::1"], 0),
        (vec!["10.0.0.9", "10.0.0.1"], 2),
        (vec!["::ffff:10.0.0.1"], 2),
    ] {
        names.set("svc.test", &addresses);
        assert_eq!(counts(&monitor.tell(&[0])), [count], "{addresses:?}");
    }
    let (names, mut monitor) = named(&[], &["peer.test"], 0);
    names.set("peer.test", &["10.0.0.2"]);
    assert_eq!(counts(&monitor.tell(&[0])), [2]);
    names.set("peer.test", &["10.0.0.1"]);
    assert_eq!(counts(&monitor.tell(&[0])), [0]);
}

#[test]
fn a_name_that_is_not_known_fails_and_counts_neither_nothing_nor_everything() {
    for (local, remote) in [(vec!["svc.test"], vec![]), (vec![], vec!["svc.test"])] {
        let (names, mut monitor) = named(&local, &remote, 0);
        let told = monitor.tell(&[0]);
        assert!(told.points.is_empty() && told.standings.is_empty());
        assert_eq!(unresolved(&told), ("svc.test".to_owned(), "nobody asked".to_owned()));
        names.set("svc.test", &["10.0.0.1", "10.0.0.2"]);
        assert_eq!(counts(&monitor.tell(&[0])), [2]);
        names.unset("svc.test");
        let told = monitor.tell(&[0]);
        assert!(told.points.is_empty());
        assert_eq!(unresolved(&told).1, "nobody knows");
        assert_eq!(monitor.outcomes().failed, 2);
    }
}

#[test]
fn of_several_names_and_addresses_all_have_to_be_known() {
    let (names, mut monitor) = named(&["svc.test", "other.test"], &[], 0);
    names.set("svc.test", &["10.0.0.1"]);
    assert_eq!(unresolved(&monitor.tell(&[0])).0, "other.test");
    names.set("other.test", &["10.0.0.9"]);
    assert_eq!(counts(&monitor.tell(&[0])), [2]);
}

#[test]
fn without_a_resolver_nothing_is_counted() {
    let probe =
        WatchProbe { local_names: vec!["svc.test".parse().unwrap()], ..watch("a", 80, None, (0, None)) };
    let mut monitor = one(&host(&[(80, 1)]), probe);
    assert!(monitor.tell(&[0]).points.is_empty());
}

#[test]
fn by_addresses_that_may_have_changed_a_watch_is_up_and_never_down() {
    let (names, mut monitor) = named(&["svc.test"], &[], 1);
    names.set("svc.test", &["10.0.0.1"]);
    assert_eq!(values_of(&monitor.tell(&[0]), &metric::WATCH_UP), [1]);
    names.set_overdue("svc.test", &["10.0.0.1"]);
    assert_eq!(values_of(&monitor.tell(&[0]), &metric::WATCH_UP), [1]);
    monitor.connections.sockets.clear();
    let told = monitor.tell(&[0]);
    assert!(told.points.is_empty(), "it may be up at another address");
    assert_eq!(unresolved(&told).1, "nobody answers");
    names.set("svc.test", &["10.0.0.1"]);
    assert_eq!(values_of(&monitor.tell(&[0]), &metric::WATCH_UP), [0]);
    // Nor is one told to have come down that was never up.
    let (names, mut monitor) = named(&["svc.test"], &[], 3);
    names.set_overdue("svc.test", &["10.0.0.1"]);
    assert!(monitor.tell(&[0]).points.is_empty());
}

#[test]
fn by_addresses_that_may_have_changed_there_are_never_few_enough() {
    let (names, mut monitor) = limited(0, 1);
    for (addresses, overdue, count) in [
        (vec!["10.0.0.9"], false, Some(0)),
        (vec!["10.0.0.9"], true, None),
        (vec!["10.0.0.1"], false, Some(2)),
        // Too many they are already.
        (vec!["10.0.0.1"], true, Some(2)),
    ] {
        names.resolve("svc.test", &addresses, overdue.then_some("late"));
        assert_eq!(counts(&monitor.tell(&[0])), Vec::from_iter(count), "{addresses:?} {overdue}");
    }
}

#[test]
fn what_was_doubted_at_other_addresses_is_no_first_look() {
    let (names, mut monitor) = named(&["svc.test"], &[], 1);
    names.set("svc.test", &["10.0.0.1"]);
    monitor.tell(&[0]);
    // Doubted, and broken off before it was looked at again.
    monitor.observer_doubts.insert(0);
    names.set("svc.test", &["10.0.0.9"]);
    let before = monitor.effort().walks[&WalkReason::Count];
    assert_eq!(values_of(&monitor.tell(&[0]), &metric::WATCH_UP), [0]);
    assert_eq!(monitor.effort().walks[&WalkReason::Count] - before, 2, "it took a second look");
}

#[test]
fn addresses_without_end_make_no_series_without_end() {
    let (names, mut monitor) = named(&["svc.test"], &[], 0);
    let mut series = BTreeSet::new();
    for round in 0_u16..40 {
        let addresses: Vec<String> = (0_u16..64).map(|host| format!("10.1.{round}.{host}")).collect();
        names.set("svc.test", &addresses.iter().map(String::as_str).collect::<Vec<_>>());
        let told = monitor.tell(&[0]);
        let resolved = told.points.iter().filter(|point| point.metric.name == metric::WATCH_RESOLVED.name);
        series.extend(resolved.map(|point| format!("{:?}", &point.attributes[..])));
    }
    assert_eq!(series.len(), 1_000);
}

#[test]
fn what_a_name_was_taken_for_is_told() {
    let (names, mut monitor) = named(&["svc.test"], &["peer.test"], 1);
    names.set("svc.test", &["10.0.0.1"]);
    names.set("peer.test", &["10.0.0.2", "10.0.0.3"]);
    let told = monitor.tell(&[0]);
    let resolved: Vec<String> = told
        .points
        .iter()
        .filter(|point| point.metric.name == metric::WATCH_RESOLVED.name)
        .map(|point| {
            assert_eq!(point.value, Value::Double(7.0));
            let texts: Vec<String> = point
                .attributes
                .iter()
                .map(|attribute| match &attribute.value {
                    AttributeValue::Str(text) => format!("{}={text}", attribute.key),
                    AttributeValue::Int(number) => panic!("{number}"),
                })
                .collect();
            texts.join(" ")
        })
        .collect();
    assert_eq!(
        resolved,
        [
            "name=a dns.question.name=svc.test network.local.address=10.0.0.1",
            "name=a dns.question.name=peer.test network.peer.address=10.0.0.2",
            "name=a dns.question.name=peer.test network.peer.address=10.0.0.3",
        ]
    );
    let checked = monitor.check().unwrap();
    let Ok(Finding::Standing(standing)) = &checked.others[0].1 else { panic!("{checked:?}") };
    assert_eq!(standing.resolved.len(), 2);
}

#[test]
fn a_reload_of_the_same_watch_keeps_what_its_names_mean() {
    let (names, mut monitor) = named(&["svc.test"], &[], 0);
    names.set("svc.test", &["10.0.0.1"]);
    let probe = monitor.observers[0].0.clone();
    assert_eq!(counts(&monitor.tell(&[0])), [2]);
    monitor.replace_probes([probe]).unwrap();
    assert_eq!(counts(&monitor.tell(&[0])), [2]);
    names.set("svc.test", &["10.0.0.9"]);
    assert_eq!(counts(&monitor.tell(&[0])), [0]);
}

#[test]
fn names_are_those_of_hosts() {
    for text in
        ["a", "localhost", "Db-1.example.com", "_tcp.svc", "x.", "1.2.3.4a", "a.b.c.d", &"a".repeat(63)]
    {
        let name: HostName = text.parse().unwrap();
        assert_eq!(name.as_str(), text.to_ascii_lowercase());
    }
    let long = [&"a".repeat(63); 4].map(String::as_str).join(".");
    for text in
        ["", ".", "a..b", ".a", "-a", "a-", "a b", "a/8", "ä", "1.2.3", "a.1", "a:1", &"a".repeat(64), &long]
    {
        assert!(text.parse::<HostName>().is_err(), "{text:?}");
    }
}

/// What one of two names means in a cycle; `None` where nobody knows.
type Meaning = Option<(BTreeSet<u8>, bool)>;

proptest! {
    /// On any course of resolutions, what is told is what a naive count of it says, or nothing.
    #[test]
    fn what_is_told_is_true_for_what_names_mean(
        sockets in vec((0_u8..4, 0_u8..4), 0..8),
        course in vec(
            proptest::array::uniform2(proptest::option::weighted(0.8, (proptest::collection::btree_set(0_u8..4, 1..3), proptest::bool::weighted(0.2)))),
            1..6,
        ),
        least in 0_u64..3,
    ) {
        let (names, mut monitor) = named(&["svc.test"], &["peer.test"], least);
        let ip = |host: u8| IpAddr::from([10, 0, 0, host]);
        let template = monitor.connections.sockets[0];
        monitor.connections.sockets = (1..).zip(&sockets).map(|(inode, (local, remote))| {
            let mut socket = template;
            socket.connection.local = Endpoint::new(ip(*local), 80);
            socket.connection.remote = Endpoint::new(ip(*remote), 1_000);
            (socket.connection.cookie, socket.connection.inode) = (Cookie(inode), Inode::new(inode));
            socket
        }).collect();
        for meanings in course {
            for (name, meaning) in ["svc.test", "peer.test"].into_iter().zip(&meanings) {
                let texts = |hosts: &BTreeSet<u8>| hosts.iter().map(|host| ip(*host).to_string()).collect::<Vec<_>>();
                match meaning {
                    None => names.unset(name),
                    Some((hosts, overdue)) => {
                        let texts = texts(hosts);
                        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                        names.resolve(name, &texts, overdue.then_some("late"));
                    }
                }
            }
            let told = monitor.tell(&[0]);
            let [local, remote]: &[Meaning; 2] = &meanings;
            let expected = match (local, remote) {
                (Some((local, local_late)), Some((remote, remote_late))) => {
                    let counted = sockets.iter().filter(|(own, peer)| local.contains(own) && remote.contains(peer));
                    let count = u64::try_from(counted.count()).unwrap();
                    let is_false = count < least && (*local_late || *remote_late);
                    (!is_false).then_some(i64::try_from(count).unwrap())
                }
                _ => None,
            };
            prop_assert_eq!(counts(&told), Vec::from_iter(expected));
        }
    }
}
