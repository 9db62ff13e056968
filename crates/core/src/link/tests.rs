use std::time::{Duration, SystemTime};

use super::*;
use crate::address::Endpoint;
use crate::connection::{Cookie, Inode, TcpState};
use crate::infer::Attribution;
use crate::look::Beginning;
use crate::namespace::NamespaceId;
use crate::process::{Pid, PodName, ProcessPattern};

fn probe(labels: MatchedSourceLabels) -> Arc<ConnectionProbe> {
    let pattern = |name: &str| ProcessPattern { name: name.parse().unwrap(), executable: None };
    Arc::new(ConnectionProbe {
        name: "orders-db".into(),
        source_process: pattern("orders"),
        dest_process: pattern("postgres"),
        dest_ip: "10.0.0.1".parse().unwrap(),
        dest_port: 5432,
        source_ip: None,
        source_port: None,
        interval: Duration::from_secs(15),
        matched_source_labels: labels,
    })
}

fn connection(source: &str, port: u16) -> Connection {
    Connection {
        local: Endpoint::new(source.parse().unwrap(), port),
        remote: Endpoint::new("10.0.0.1".parse().unwrap(), 5432),
        state: TcpState::Established,
        interface: 0,
        inode: Inode::new(u64::from(port)),
        cookie: Cookie(u64::from(port)),
        uid: 0,
        cgroup: None,
        namespace: NamespaceId::OWN,
    }
}

fn up(connections: &[Connection]) -> ProbeLook {
    let owner = Arc::new(Process {
        pid: Pid(812),
        name: "orders".into(),
        executable: None,
        fits: Vec::new(),
        container: None,
        is_stranger: false,
    });
    let addressed = connections.iter().map(|connection| connection.cookie).collect();
    let matched = connections
        .iter()
        .map(|connection| MatchedConnection {
            connection: *connection,
            owners: vec![Arc::clone(&owner)],
            attribution: Attribution::Holder,
        })
        .collect();
    ProbeLook {
        forward: DirectionLook { matched, addressed, ..DirectionLook::default() },
        ..ProbeLook::default()
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The points as text: metric, the attributes that tell them apart, value.
fn tell(link: &mut Link, look: &ProbeLook, seconds: u64) -> (Vec<String>, Vec<LinkChange>) {
    let (mut points, mut changes) = (Vec::new(), Vec::new());
    let moment = Moment { wall: at(seconds), monotonic: Duration::from_secs(seconds) };
    // What was known was not verified: the look alone counts.
    link.distrust();
    link.absorb(look, moment, usize::MAX, &mut changes);
    link.report(moment, false, &mut |point| points.push(point));
    points.retain(|point| point.metric != &metric::WALK_AGE);
    let told = points.iter().map(|point| {
        assert_eq!(point.time, at(seconds));
        let attributes = point.attributes.iter().cloned().chain(point.extra.map(Attribute::from));
        let shown = attributes.filter(|attribute| {
            let told = ["direction", "source_ip", "source_port", "container.id", "state", "reason"];
            told.contains(&attribute.key) || attribute.key.starts_with("k8s.")
        });
        let shown: Vec<String> = shown
            .map(|attribute| match &attribute.value {
                AttributeValue::Str(text) => text.to_string(),
                AttributeValue::Int(number) => number.to_string(),
            })
            .collect();
        let Value::Int(value) = point.value else { unreachable!("links have integer points") };
        let name = point.metric.name.trim_start_matches("vms.connection_mon.");
        format!("{name}{{{}}} {value}", shown.join(","))
    });
    (told.collect(), changes)
}

#[test]
fn a_probe_that_never_matched_has_one_point_without_direction() {
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    let (points, changes) = tell(&mut link, &ProbeLook::default(), 1);
    assert_eq!(
        points,
        [
            "up{} 0",
            "status{up} 0",
            "status{down} 1",
            "connections{} 0",
            "unattributed{} 0",
            "down_reason{no_connection} 1"
        ]
    );
    assert_eq!((changes.len(), changes[0].up, changes[0].direction), (1, false, None));
    let (_, changes) = tell(&mut link, &ProbeLook::default(), 2);
    assert_eq!(changes, [], "a status that stays is not told again");
}

#[test]
fn a_series_goes_on_at_zero_when_the_link_drops_and_comes_back_under_the_same_name() {
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    tell(&mut link, &ProbeLook::default(), 1);
    let (points, changes) = tell(&mut link, &up(&[connection("10.0.0.9", 40000)]), 2);
    assert_eq!(
        points,
        [
            "up{forward} 1",
            "status{forward,up} 1",
            "status{forward,down} 0",
            "connections{forward} 1",
            "unattributed{forward} 0"
        ]
    );
    assert_eq!((changes.len(), changes[0].up, changes[0].owners[0].pid), (1, true, Pid(812)));

    for second in 3..6 {
        let (points, changes) = tell(&mut link, &ProbeLook::default(), second);
        assert_eq!(points[0], "up{forward} 0");
        assert_eq!(points[5], "down_reason{forward,no_connection} 1");
        assert_eq!(changes.len(), usize::from(second == 3), "told once");
        for change in changes {
            assert_eq!((change.reason, change.owners[0].pid), (Some(DownReason::NoConnection), Pid(812)));
        }
    }
    let (points, changes) = tell(&mut link, &up(&[connection("10.0.0.9", 40001)]), 6);
    assert_eq!((points[0].as_str(), changes.len()), ("up{forward} 1", 1));
}

#[test]
fn the_process_name_is_that_of_the_direction() {
    let names = |direction| {
        let attributes =
            link_attributes(&probe(MatchedSourceLabels::None), direction, &MatchedSource::default());
        attributes.iter().find(|attribute| attribute.key == "process_name").unwrap().value.clone()
    };
    assert_eq!(names(None), AttributeValue::from("orders"));
    assert_eq!(names(Some(Direction::Forward)), AttributeValue::from("orders"));
    assert_eq!(names(Some(Direction::Reverse)), AttributeValue::from("postgres"));
}

#[test]
fn sources_that_matched_have_series_of_their_own_that_go_on() {
    let mut link = Link::new(probe(MatchedSourceLabels::Ip));
    let both = up(&[connection("10.0.0.8", 1), connection("10.0.0.9", 2), connection("10.0.0.9", 3)]);
    let (points, _) = tell(&mut link, &both, 1);
    assert!(points.contains(&"connections{10.0.0.8,forward} 1".to_owned()), "{points:?}");
    assert!(points.contains(&"connections{10.0.0.9,forward} 2".to_owned()), "{points:?}");
    let (points, changes) = tell(&mut link, &up(&[connection("10.0.0.9", 3)]), 2);
    assert!(points.contains(&"up{10.0.0.8,forward} 0".to_owned()), "{points:?}");
    assert!(points.contains(&"up{10.0.0.9,forward} 1".to_owned()), "{points:?}");
    assert_eq!((changes.len(), changes[0].source.ip), (1, Some("10.0.0.8".parse().unwrap())));

    let mut link = Link::new(probe(MatchedSourceLabels::IpPort));
    let (points, _) = tell(&mut link, &up(&[connection("10.0.0.9", 2)]), 1);
    assert_eq!(points[0], "up{10.0.0.9,2,forward} 1");
}

/// Connections from that many ports of one address.
fn ports(count: usize) -> Vec<Connection> {
    (1..).take(count).map(|port| connection("10.0.0.9", port)).collect()
}

#[test]
fn sources_are_bounded_and_the_longest_down_makes_room() {
    let mut link = Link::new(probe(MatchedSourceLabels::IpPort));
    let all = ports(MAX_SOURCES);
    tell(&mut link, &up(&all), 1);
    tell(&mut link, &up(&all[1..]), 2);
    tell(&mut link, &up(&all[2..]), 3);
    let mut one_more = all[2..].to_vec();
    one_more.push(connection("10.0.0.9", 60_000));
    let (points, _) = tell(&mut link, &up(&one_more), 4);
    assert_eq!(link.series.len(), MAX_SOURCES);
    assert!(points.contains(&"up{10.0.0.9,60000,forward} 1".to_owned()));
    assert!(points.contains(&"up{10.0.0.9,2,forward} 0".to_owned()));
    assert!(!points.iter().any(|point| point.contains("{10.0.0.9,1,forward}")));
}

#[test]
fn a_source_that_comes_back_keeps_its_series_when_another_needs_room() {
    let mut link = Link::new(probe(MatchedSourceLabels::IpPort));
    let all = ports(MAX_SOURCES);
    tell(&mut link, &up(&all), 1);
    tell(&mut link, &up(&all[1..]), 2);
    let mut back = all.clone();
    back.push(connection("10.0.0.8", 1));
    let (points, _) = tell(&mut link, &up(&back), 3);
    assert!(points.contains(&"up{10.0.0.9,1,forward} 1".to_owned()), "it is up and has a series");
}

#[test]
fn sources_without_a_series_are_counted_and_each_once() {
    let mut link = Link::new(probe(MatchedSourceLabels::IpPort));
    let all = ports(MAX_SOURCES + 3);
    tell(&mut link, &up(&all[..MAX_SOURCES]), 1);
    assert_eq!((link.unreported(), link.is_limited()), (0, false), "as many as there may be");
    // The same source has two connections, in two network namespaces.
    let mut found = all.clone();
    found.push(Connection { cookie: Cookie(70_000), namespace: NamespaceId(7), ..all[MAX_SOURCES] });
    let (points, _) = tell(&mut link, &up(&found), 2);
    assert_eq!((link.unreported(), link.is_limited()), (3, true));
    assert!(points.iter().all(|point| !point.contains("{10.0.0.9,1001,")), "nothing else tells of it");
    let (points, _) = tell(&mut link, &up(&all[3..]), 3);
    assert_eq!(link.unreported(), 3, "those that end are told down before they make room");
    assert!(points.contains(&"up{10.0.0.9,1,forward} 0".to_owned()));
    tell(&mut link, &up(&all[3..]), 4);
    assert_eq!(link.unreported(), 0);
}

#[test]
fn a_probe_that_tells_no_sources_apart_is_never_limited() {
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    let mut look = up(&ports(MAX_SOURCES + 3));
    look.reverse.unattributed = ports(MAX_SOURCES + 3);
    tell(&mut link, &look, 1);
    assert_eq!((link.series.len(), link.flagged.len(), link.unreported()), (1, 1, 0));
}

#[test]
fn the_bound_is_only_told_to_be_out_of_the_way_once_it_has_been_for_a_while() {
    let mut link = Link::new(probe(MatchedSourceLabels::IpPort));
    let all = ports(MAX_SOURCES + 1);
    let limited = |link: &mut Link, found: &[Connection], seconds| {
        tell(link, &up(found), seconds);
        link.is_limited()
    };
    assert!(limited(&mut link, &all, 1));
    let quiet = UNLIMITED_AFTER.as_secs();
    assert!(limited(&mut link, &all[1..], 2), "there is room from the next walk on");
    assert!(limited(&mut link, &all[1..], 3) && link.unreported() == 0, "what is counted is of now");
    assert!(limited(&mut link, &all, quiet), "another is beyond it");
    assert!(limited(&mut link, &all[1..], quiet + 1));
    assert!(limited(&mut link, &all[1..], 2 * quiet - 1));
    assert!(!limited(&mut link, &all[1..], 2 * quiet));
}

#[test]
fn a_look_that_left_some_out_takes_nothing_from_the_count() {
    let mut link = Link::new(probe(MatchedSourceLabels::IpPort));
    let all = ports(MAX_SOURCES + 3);
    tell(&mut link, &up(&all), 1);
    let mut part = up(&all[..=MAX_SOURCES]);
    part.forward.undecided = 2;
    tell(&mut link, &part, 2);
    assert_eq!(link.unreported(), 3);
    tell(&mut link, &up(&all[..=MAX_SOURCES]), 3);
    assert_eq!(link.unreported(), 1);
}

#[test]
fn unattributed_sources_beyond_the_bound_are_counted_until_others_make_room() {
    let mut link = Link::new(probe(MatchedSourceLabels::IpPort));
    let hidden = ports(MAX_SOURCES + 2);
    let look = |unattributed: &[Connection]| {
        let mut look = up(&[connection("10.0.0.8", 1)]);
        look.reverse.unattributed = unattributed.to_vec();
        look
    };
    // In reverse the source is the remote end: of all of these the same one.
    let forward = |unattributed: &[Connection]| {
        let mut look = look(&[]);
        look.forward.unattributed = unattributed.to_vec();
        look
    };
    tell(&mut link, &look(&hidden), 1);
    assert_eq!((link.flagged.len(), link.unreported()), (1, 0));
    let (points, _) = tell(&mut link, &forward(&hidden), 2);
    assert_eq!(link.unreported(), 3, "the one in reverse was told not to be 0 before");
    assert!(points.contains(&"unattributed{10.0.0.1,5432,reverse} 0".to_owned()));
    let (points, _) = tell(&mut link, &forward(&hidden), 3);
    assert_eq!((link.flagged.len(), link.unreported()), (MAX_SOURCES, 2));
    assert!(!points.iter().any(|point| point.ends_with("reverse} 0")), "it made room");
    let (points, _) = tell(&mut link, &forward(&hidden[2..]), 4);
    assert_eq!(link.unreported(), 2);
    assert!(points.contains(&"unattributed{10.0.0.9,1,forward} 0".to_owned()), "told before it goes");
    let (points, _) = tell(&mut link, &forward(&hidden[2..]), 5);
    assert_eq!((link.flagged.len(), link.unreported()), (MAX_SOURCES, 0));
    assert!(points.contains(&"unattributed{10.0.0.9,1002,forward} 1".to_owned()));
}

#[test]
fn what_may_not_be_attributed_is_flagged_beside_a_down_and_beside_an_up() {
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    let hidden = DirectionLook { unattributed: vec![connection("10.0.0.9", 5)], ..DirectionLook::default() };
    let (points, _) = tell(&mut link, &ProbeLook { forward: hidden.clone(), ..ProbeLook::default() }, 1);
    assert_eq!(points[4..], ["unattributed{} 1", "down_reason{not_permitted} 1"]);

    let mut seen = up(&[connection("10.0.0.9", 6)]);
    seen.reverse = hidden;
    let (points, _) = tell(&mut link, &seen, 2);
    assert_eq!(points.last().unwrap(), "unattributed{reverse} 1");
    assert!(!points.iter().any(|point| point.starts_with("up{reverse}")), "it has not matched");
    let (points, _) = tell(&mut link, &up(&[connection("10.0.0.9", 6)]), 3);
    assert_eq!(points.last().unwrap(), "unattributed{reverse} 0", "a flag that was raised is taken back");
}

#[test]
fn what_is_tracked_is_bounded_and_each_series_has_one_before_any_has_two() {
    let busy = (1..1_500).map(|port| connection("10.0.0.8", port));
    let all: Vec<Connection> = busy.chain([connection("10.0.0.9", 2_000)]).collect();
    let moment = Moment { wall: at(1), monotonic: Duration::from_secs(1) };

    let mut link = Link::new(probe(MatchedSourceLabels::Ip));
    link.absorb(&up(&all), moment, usize::MAX, &mut Vec::new());
    assert_eq!(link.tracked().count(), MAX_TRACKED_A_PROBE);
    assert_eq!(link.untracked(), Untracked { by_probe: 1_500 - 1_024, by_agent: 0 });
    assert!(
        link.tracked().any(|tracked| tracked.connection().local.port() == 2_000),
        "the other source's only one"
    );

    let mut link = Link::new(probe(MatchedSourceLabels::Ip));
    link.absorb(&up(&all), moment, 2, &mut Vec::new());
    assert_eq!((link.tracked().count(), link.untracked()), (2, Untracked { by_probe: 0, by_agent: 1_498 }));
    assert!(link.is_settled(), "one for each");

    let mut link = Link::new(probe(MatchedSourceLabels::Ip));
    link.absorb(&up(&all), moment, 0, &mut Vec::new());
    assert_eq!(link.untracked(), Untracked { by_probe: 0, by_agent: 1_498 });
    assert!(link.is_settled(), "whatever the bounds, the end of each source's last connection is seen");
}

#[test]
fn a_connection_that_comes_into_reach_of_a_bound_is_no_reconnect() {
    let all: Vec<Connection> = (1..=3).map(|port| connection("10.0.0.8", port)).collect();
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    let reconnects =
        |link: &Link| link.series.values().map(|series| series.track.totals().reconnects).sum::<u64>();
    for (second, (found, room)) in (1..).zip([(&all[..2], 1), (&all[1..2], 1), (&all[1..], 9)]) {
        link.distrust();
        let moment = Moment { wall: at(second), monotonic: Duration::from_secs(second) };
        link.absorb(&up(found), moment, room, &mut Vec::new());
        assert_eq!(reconnects(&link), u64::from(second == 3), "only the third connection is new");
    }
}

#[test]
fn what_a_look_left_out_is_not_taken_for_gone_nor_for_new() {
    let one = connection("10.0.0.9", 1);
    for (next, reconnects, past) in [(None, 1, Past::Unseen), (Some(Cookie(2)), 0, Past::Addressed)] {
        let mut link = Link::new(probe(MatchedSourceLabels::None));
        tell(&mut link, &up(&[one, connection("10.0.0.9", 3)]), 1);
        tell(
            &mut link,
            &ProbeLook {
                next: Beginning { counting: next, named: None },
                ..up(&[connection("10.0.0.9", 3)])
            },
            2,
        );
        assert_eq!(link.past(Direction::Forward, Cookie(2)), past);
        tell(&mut link, &up(&[one, connection("10.0.0.9", 3)]), 3);
        let told: u64 = link.series.values().map(|series| series.track.totals().reconnects).sum();
        assert_eq!(told, reconnects, "{next:?}");
    }
}

/// A connection that a process in that container holds, in that network namespace.
fn contained(number: u64, container: Option<&str>, pod: Option<&str>) -> MatchedConnection {
    let text = |text: &str| Arc::from(text);
    let container =
        container.map(|id| Container { id: Some(text(id)), pod_uid: pod.map(text), pod_name: None });
    let owner = Process {
        pid: Pid(u32::try_from(number).unwrap()),
        name: "orders".into(),
        executable: None,
        fits: Vec::new(),
        container: container.map(Arc::new),
        is_stranger: false,
    };
    MatchedConnection {
        connection: Connection {
            cookie: Cookie(number),
            inode: Inode::new(number),
            namespace: NamespaceId(number),
            ..connection("10.0.0.9", 40_000)
        },
        owners: vec![Arc::new(owner)],
        attribution: Attribution::Holder,
    }
}

/// A look at all network namespaces that found these connections, with processes that fit in these containers.
fn look_everywhere(matched: &[MatchedConnection], containers: &[&MatchedConnection]) -> ProbeLook {
    let containers = containers.iter().filter_map(|matched| matched.owners[0].container.clone()).collect();
    let addressed = matched.iter().map(|matched| matched.connection.cookie).collect();
    ProbeLook {
        forward: DirectionLook { matched: matched.to_vec(), addressed, ..DirectionLook::default() },
        containers: Some(Arc::new(containers)),
        ..ProbeLook::default()
    }
}

fn ups(told: &[String]) -> Vec<&str> {
    told.iter().filter_map(|point| point.strip_prefix("up")).collect()
}

#[test]
fn each_container_with_a_network_of_its_own_has_a_series() {
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    let [one, other] = [contained(1, Some("c1"), Some("p1")), contained(2, Some("c2"), None)];
    let mut host = contained(3, Some("c3"), None);
    host.connection.namespace = NamespaceId::OWN;
    let unnamed = contained(4, None, None);
    let all = [one.clone(), other.clone(), host, unnamed];
    let (points, changes) = tell(&mut link, &look_everywhere(&all, &[&one, &other]), 1);
    assert_eq!(ups(&points).len(), 3, "{points:#?}");
    for told in ["{c1,p1,forward} 1", "{c2,forward} 1", "{forward} 1"] {
        assert!(ups(&points).contains(&told), "{points:#?}");
    }
    assert!(points.contains(&"connections{forward} 2".to_owned()), "one here, and one without a name");
    let containers: Vec<bool> = changes.iter().map(|change| change.source.container.is_some()).collect();
    assert_eq!(containers.iter().filter(|named| **named).count(), 2);
    // One that ends goes on at 0; the others are no reason for it.
    let (points, changes) = tell(&mut link, &look_everywhere(&all[1..], &[&one, &other]), 2);
    let down = "{c1,p1,forward} 0";
    assert!(ups(&points).contains(&down), "{points:#?}");
    assert_eq!((changes.len(), changes[0].reason), (1, Some(DownReason::NoConnection)));
}

/// The same in a pod that is called so.
fn called(matched: &MatchedConnection, name: &str) -> MatchedConnection {
    let owner = matched.owners[0].as_ref().clone();
    let pod_name = PodName { namespace: "shop".into(), name: name.into() };
    let container =
        owner.container.as_deref().map(|one| Container { pod_name: Some(Arc::new(pod_name)), ..one.clone() });
    let owner = Process { container: container.map(Arc::new), ..owner };
    MatchedConnection { owners: vec![Arc::new(owner)], ..matched.clone() }
}

#[test]
fn the_name_of_a_pod_is_told_where_it_is_known_when_the_series_begins() {
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    let unnamed = contained(1, Some("c1"), Some("p1"));
    let named = called(&contained(2, Some("c2"), Some("p2")), "orders-0");
    let (points, _) = tell(&mut link, &look_everywhere(&[unnamed.clone(), named.clone()], &[]), 1);
    assert_eq!(ups(&points), ["{c1,p1,forward} 1", "{c2,p2,orders-0,shop,forward} 1"]);
}

#[test]
fn a_name_that_becomes_known_or_unknown_later_splits_no_series_and_keeps_none_from_ending() {
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    let (first, second) = (contained(1, Some("c1"), Some("p1")), contained(2, Some("c2"), Some("p2")));
    let (first_named, second_named) = (called(&first, "orders-0"), called(&second, "orders-1"));
    let (earlier, later) = ([first.clone(), second_named.clone()], [first_named.clone(), second.clone()]);
    for (seconds, now) in (1..).zip([&earlier, &later, &earlier, &later]) {
        let (points, changes) = tell(&mut link, &look_everywhere(now, &[&now[0], &now[1]]), seconds);
        assert_eq!(ups(&points), ["{c1,p1,forward} 1", "{c2,p2,orders-1,shop,forward} 1"]);
        assert_eq!(changes.len(), if seconds == 1 { 2 } else { 0 });
    }
    // Under whichever name it is seen: a container that is there keeps its series, and one that is gone ends it.
    let gone = GONE_SERIES.as_secs();
    for (turn, there, left) in [(1, &first, 2), (2, &first_named, 1), (3, &first, 1)] {
        let (points, _) = tell(&mut link, &look_everywhere(&[], &[there]), turn * gone);
        assert_eq!(ups(&points).len(), left, "{points:#?}");
        assert!(ups(&points).contains(&"{c1,p1,forward} 0"), "{points:#?}");
    }
}

#[test]
fn a_series_ends_a_while_after_its_container_unless_it_is_the_last() {
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    let [one, other] = [contained(1, Some("c1"), None), contained(2, Some("c2"), None)];
    tell(&mut link, &look_everywhere(&[one.clone(), other.clone()], &[&one, &other]), 0);
    let gone = GONE_SERIES.as_secs();
    let count = |link: &mut Link, containers: &[&MatchedConnection], seconds| {
        let (points, _) = tell(link, &look_everywhere(&[], containers), seconds);
        ups(&points).len()
    };
    // Down while its container is there: that is for the one who is to be woken.
    assert_eq!(count(&mut link, &[&one, &other], 2 * gone), 2);
    assert_eq!(count(&mut link, &[&other], 3 * gone), 2, "it never just disappears");
    assert_eq!(count(&mut link, &[&one, &other], 4 * gone - 1), 2, "it came back");
    assert_eq!(count(&mut link, &[&other], 4 * gone), 2);
    assert_eq!(count(&mut link, &[&other], 5 * gone - 1), 2);
    assert_eq!(count(&mut link, &[&other], 5 * gone), 1);
    assert_eq!(count(&mut link, &[], 6 * gone), 1);
    assert_eq!(count(&mut link, &[], 8 * gone), 1, "the last one stays");
    let (points, _) = tell(&mut link, &look_everywhere(std::slice::from_ref(&one), &[&one]), 9 * gone);
    assert_eq!(ups(&points), ["{c1,forward} 1"], "until another takes its place");
}

#[test]
fn the_last_series_of_each_direction_stays() {
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    let [client, server] = [contained(1, Some("c1"), None), contained(2, Some("c2"), None)];
    let both = |clients: &[MatchedConnection], containers: &[&MatchedConnection]| {
        let mut look = look_everywhere(clients, containers);
        look.reverse.matched.push(server.clone());
        look.reverse.addressed.insert(server.connection.cookie);
        look
    };
    tell(&mut link, &both(std::slice::from_ref(&client), &[&client, &server]), 0);
    for turn in 1..5 {
        let (points, _) = tell(&mut link, &both(&[], &[&server]), turn * GONE_SERIES.as_secs());
        let mut told = ups(&points);
        told.sort_unstable();
        assert_eq!(
            told,
            ["{c1,forward} 0", "{c2,reverse} 1"],
            "the client is down, whatever becomes of its pod"
        );
    }
}

#[test]
fn what_is_not_attributed_flags_every_container_in_which_it_may_be_held() {
    let mut link = Link::new(probe(MatchedSourceLabels::None));
    let one = contained(1, Some("c1"), None);
    tell(&mut link, &look_everywhere(std::slice::from_ref(&one), &[&one]), 1);
    let mut look = look_everywhere(&[], &[&one]);
    look.forward.unattributed.push(one.connection);
    let (points, changes) = tell(&mut link, &look, 2);
    assert_eq!(changes[0].reason, Some(DownReason::NotPermitted));
    assert!(points.contains(&"unattributed{c1,forward} 1".to_owned()), "{points:#?}");
}
