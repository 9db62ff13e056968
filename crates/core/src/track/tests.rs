use std::net::Ipv4Addr;

use super::*;
use crate::address::Endpoint;
use crate::connection::Inode;
use crate::namespace::NamespaceId;
use crate::process::{Pid, ProcessPattern, ProcessSelector};

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn connection(number: u16) -> Connection {
    Connection {
        local: Endpoint::new(Ipv4Addr::LOCALHOST.into(), number),
        remote: Endpoint::new(Ipv4Addr::LOCALHOST.into(), 5432),
        state: TcpState::Established,
        interface: 0,
        inode: Inode::new(number.into()),
        cookie: Cookie(number.into()),
        uid: 0,
        cgroup: None,
        namespace: NamespaceId::OWN,
    }
}

fn pattern() -> PatternId {
    let pattern = ProcessPattern { name: "app".parse().unwrap(), executable: None };
    ProcessSelector::new([&pattern]).unwrap().id(&pattern).unwrap()
}

fn owner() -> Arc<Process> {
    Arc::new(Process {
        pid: Pid(1),
        name: "app".into(),
        executable: None,
        fits: vec![pattern()],
        container: None,
        is_stranger: false,
    })
}

fn admit(track: &mut Track, number: u16, now: Duration, past: Past) {
    let new = connection(number);
    track.admit(new, new.inode.unwrap(), &[owner()], now, past);
}

/// Verifies every connection: those in `vitals` are there, the others are gone.
fn verify(track: &mut Track, now: Duration, vitals: &[(u16, Vitals)]) -> u64 {
    let sightings: Vec<Option<Sighting>> = track
        .connections()
        .iter()
        .map(|tracked| {
            let found =
                vitals.iter().find(|(number, _)| tracked.connection().cookie == Cookie((*number).into()));
            found.map(|(_, vitals)| Sighting { connection: *tracked.connection(), vitals: Some(*vitals) })
        })
        .collect();
    let mut sightings = sightings.iter();
    track.verify(pattern(), now, || sightings.next().unwrap().as_ref(), || Some(owner()))
}

fn carried(sent: u64, received: u64, retransmits: u64) -> Vitals {
    Vitals { sent_bytes: sent, received_bytes: received, retransmits, ..Vitals::default() }
}

#[test]
fn counters_never_go_backwards_when_connections_come_and_go() {
    let mut track = Track::default();
    admit(&mut track, 1, seconds(0), Past::Addressed);
    verify(&mut track, seconds(0), &[(1, carried(1_000, 2_000, 3))]);
    assert_eq!(
        track.totals(),
        Totals::default(),
        "what it carried before the series began is not the series'"
    );
    verify(&mut track, seconds(1), &[(1, carried(1_100, 2_010, 4))]);
    let so_far = Totals { reconnects: 0, retransmits: 1, sent_bytes: 100, received_bytes: 10 };
    assert_eq!(track.totals(), so_far);

    assert_eq!(verify(&mut track, seconds(2), &[]), 1);
    assert_eq!(track.totals(), so_far, "its end takes nothing away");
    admit(&mut track, 2, seconds(3), Past::Unseen);
    verify(&mut track, seconds(3), &[(2, carried(5, 6, 0))]);
    let replaced = Totals { reconnects: 1, retransmits: 1, sent_bytes: 105, received_bytes: 16 };
    assert_eq!(track.totals(), replaced, "a younger connection counts from its beginning");
    admit(&mut track, 3, seconds(4), Past::Unseen);
    assert_eq!(track.totals().reconnects, 1, "one more is no replacement");
}

#[test]
fn a_successor_on_the_same_endpoints_or_in_another_state_is_not_the_connection() {
    for change in [
        |connection: &mut Connection| connection.cookie = Cookie(99),
        |connection: &mut Connection| connection.state = TcpState::CloseWait,
        |connection: &mut Connection| connection.inode = None,
        |connection: &mut Connection| connection.remote = connection.local,
    ] {
        let mut track = Track::default();
        admit(&mut track, 1, seconds(0), Past::Addressed);
        let mut other = connection(1);
        change(&mut other);
        let sighting = Sighting { connection: other, vitals: None };
        track.verify(pattern(), seconds(1), || Some(&sighting), || Some(owner()));
        assert!(track.connections().is_empty());
    }
}

#[test]
fn a_holder_that_fits_no_more_holds_nothing_and_the_connection_waits_for_a_walk() {
    let mut track = Track::default();
    admit(&mut track, 1, seconds(0), Past::Addressed);
    let sighting = Sighting { connection: connection(1), vitals: None };
    let renamed = Arc::new(Process { name: "sh".into(), fits: Vec::new(), ..owner().as_ref().clone() });
    assert_eq!(track.verify(pattern(), seconds(1), || Some(&sighting), || Some(Arc::clone(&renamed))), 0);
    assert!(!track.is_held());
    let mut again = track.clone();
    again.renew(&[(Cookie(1), [owner()].as_slice())].into(), |cookie| cookie == Cookie(1));
    assert!(again.is_held(), "a walk found who holds it");
    track.renew(&HashMap::new(), |cookie| cookie == Cookie(1));
    assert!(track.connections().is_empty(), "a walk found nobody");
}

#[test]
fn what_lives_on_in_other_hands_is_no_vacancy_and_what_comes_back_carried_nothing_for_the_link() {
    let mut track = Track::default();
    admit(&mut track, 1, seconds(0), Past::Addressed);
    verify(&mut track, seconds(0), &[(1, carried(1_000, 0, 0))]);
    verify(&mut track, seconds(1), &[(1, carried(5_000, 0, 0))]);
    track.distrust();
    track.renew(&HashMap::new(), |cookie| cookie == Cookie(1));
    admit(&mut track, 1, seconds(2), Past::Addressed);
    verify(&mut track, seconds(2), &[(1, carried(9_000, 0, 0))]);
    verify(&mut track, seconds(3), &[(1, carried(9_007, 0, 0))]);
    assert_eq!(track.totals(), Totals { sent_bytes: 4_007, ..Totals::default() });

    track.distrust();
    track.renew(&HashMap::new(), |_| false);
    admit(&mut track, 2, seconds(4), Past::Matched);
    assert_eq!(track.totals().reconnects, 0, "what only came into reach of a bound is no successor");
    admit(&mut track, 3, seconds(4), Past::Addressed);
    assert_eq!(track.totals().reconnects, 1, "what was being accepted is one");
}

#[test]
fn round_trip_times_are_summed_up_and_silence_is_that_of_the_liveliest() {
    let mut track = Track::default();
    for number in 1..=3 {
        admit(&mut track, number, seconds(u64::from(number)), Past::Addressed);
    }
    let vitals = |rtt, silent, unread| Vitals {
        rtt,
        since_data: seconds(silent),
        since_acknowledgment: seconds(silent + 1),
        unread_bytes: unread,
        ..Vitals::default()
    };
    let millis = Duration::from_millis;
    verify(
        &mut track,
        seconds(10),
        &[(1, vitals(Some(millis(1)), 9, 1)), (2, vitals(None, 4, 0)), (3, vitals(Some(millis(5)), 7, 2))],
    );
    let health = track.health(seconds(10)).unwrap();
    assert_eq!(health.rtt, Some([millis(1), millis(3), millis(5)]));
    assert_eq!((health.since_data, health.since_acknowledgment), (seconds(4), seconds(5)));
    assert_eq!((health.unread_bytes, health.acknowledgment_wait), (3, Duration::ZERO));
    assert_eq!(track.age(seconds(10)), Some(seconds(9)));
}

#[test]
fn only_what_is_owed_is_waited_for_and_no_longer_than_it_is_owed() {
    let mut track = Track::default();
    admit(&mut track, 1, seconds(0), Past::Addressed);
    let silent = |silent, owed| Vitals {
        since_acknowledgment: seconds(silent),
        unacknowledged_bytes: owed,
        ..Vitals::default()
    };
    let mut wait = |now, vitals| {
        verify(&mut track, seconds(now), &[(1, vitals)]);
        track.health(seconds(now)).unwrap().acknowledgment_wait
    };
    assert_eq!(wait(1, silent(3_600, 0)), seconds(0), "nothing is owed");
    assert_eq!(wait(2, silent(3_601, 10)), seconds(1), "an hour of silence came before what is owed now");
    assert_eq!(wait(3, silent(3_602, 10)), seconds(2));
    assert_eq!(wait(4, silent(0, 10)), seconds(0), "an acknowledgment of earlier data arrived");
    assert_eq!(wait(5, silent(0, 0)), seconds(0));
    let probing = Vitals { unanswered_probes: 2, ..silent(50, 0) };
    assert_eq!(wait(9, probing), seconds(4), "a keepalive probe is owed an answer too");
}
