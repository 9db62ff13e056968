//! Lookups of single connections.

use super::*;

use vms_core::namespace::NamespaceId;

use Event::AnswerTo;

/// The connection of [`socket_with`].
fn connection(cookie: u32, remote: u8) -> Connection {
    let endpoint = |last, port| Endpoint::new(std::net::Ipv6Addr::from(u128::from(last)).into(), port);
    Connection {
        local: endpoint(99_u8, 40_000),
        remote: endpoint(remote, 5432),
        state: TcpState::Established,
        interface: 0,
        inode: None,
        cookie: Cookie(cookie.into()),
        uid: 0,
        cgroup: None,
        namespace: NamespaceId::OWN,
    }
}

fn connections(count: u32) -> Vec<Connection> {
    (0..count).map(|cookie| connection(cookie, 1)).collect()
}

/// The answers to the requests of one send, for the sockets with these cookies.
fn answers(cookies: std::ops::Range<u32>) -> Vec<Event> {
    (0..).zip(cookies).map(|(index, cookie)| AnswerTo(index, socket_with(cookie, 1, 0))).collect()
}

fn gone(index: u32) -> Event {
    AnswerTo(index, refusal(2))
}

/// The cookies of those found, in order.
fn found(sightings: &[Option<Sighting>]) -> Vec<Option<u64>> {
    sightings.iter().map(|sighting| sighting.map(|sighting| sighting.connection.cookie.0)).collect()
}

fn requests(client: &Client<Script>) -> Vec<usize> {
    client.scope.line.transport.requests.iter().map(|request| request.len() / 72).collect()
}

#[test]
fn nothing_is_asked_for_nothing() {
    assert!(client([]).lookup(&[]).unwrap().is_empty());
}

#[test]
fn sixty_four_requests_go_in_one_send_each_with_its_number_and_the_answers_keep_their_order() {
    let mut client = client([answers(0..64), answers(64..128), answers(128..130)]);
    let sightings = client.lookup(&connections(130)).unwrap();
    assert_eq!(found(&sightings), (0..130).map(Some).collect::<Vec<_>>());
    assert_eq!(requests(&client), [64, 64, 2]);
    let sequences: Vec<u32> = client
        .scope
        .line
        .transport
        .requests
        .concat()
        .chunks(72)
        .map(|request| u32::from_ne_bytes(request[8..12].try_into().unwrap()))
        .collect();
    assert_eq!(sequences, (1..=130).collect::<Vec<_>>());
    assert_eq!(client.scope.line.transport.reopened, 0, "nothing is left to read: the socket is kept");
}

#[test]
fn a_socket_that_is_gone_is_none_among_the_others() {
    let events = vec![gone(0), AnswerTo(1, socket(1)), gone(2)];
    let sightings = client([events]).lookup(&connections(3)).unwrap();
    assert_eq!(found(&sightings), [None, Some(1), None]);
}

#[test]
fn any_state_is_told_and_another_socket_is_not_the_one_asked_for() {
    let mut close_wait = socket(0);
    close_wait[17] = 8;
    let sightings = client([vec![Answer(close_wait)]]).lookup(&connections(1)).unwrap();
    assert_eq!(
        sightings[0].unwrap().connection,
        Connection { state: TcpState::CloseWait, ..connection(0, 1) }
    );

    let other_port = |place: usize| {
        let mut bytes = socket(0);
        bytes[16 + place] ^= 1;
        bytes
    };
    for other in [socket(1), socket_with(0, 2, 0), other_port(5), other_port(7), other_port(8)] {
        let sightings = client([vec![Answer(other)]]).lookup(&connections(1)).unwrap();
        assert_eq!(found(&sightings), [None]);
    }
}

#[test]
fn lost_answers_are_asked_for_again_fewer_at_once_on_a_new_socket() {
    let mut client = client([
        vec![AnswerTo(0, socket(0)), ReceiveError(Errno::NOBUFS)],
        answers(0..16),
        answers(16..20),
        answers(0..16),
        answers(16..20),
    ]);
    let all = (0..20).map(Some).collect::<Vec<_>>();
    assert_eq!(found(&client.lookup(&connections(20)).unwrap()), all);
    assert_eq!(found(&client.lookup(&connections(20)).unwrap()), all);
    assert_eq!(requests(&client), [20, 16, 4, 16, 4], "once there was no room, fewer are asked for");
    assert_eq!(client.scope.line.transport.reopened, 1);
}

#[test]
fn once_many_sends_in_a_row_were_answered_more_go_at_once_again() {
    let losses = || (0..3).map(|_| vec![ReceiveError(Errno::NOBUFS)]);
    let mut client = client(losses());
    let mut ask = |lookups: u32, times: u32| {
        for _ in 0..times {
            client.scope.line.transport.exchanges.push_back(Ok(answers(0..lookups).into()));
            client.lookup(&connections(lookups)).unwrap();
        }
        client.lookups_at_once
    };
    assert_eq!(ask(1, SENDS_BEFORE_MORE - 1), 1);
    assert_eq!(
        [ask(1, 1), ask(2, SENDS_BEFORE_MORE), ask(3, 2 * SENDS_BEFORE_MORE)],
        [2, 4, 4],
        "3 are fewer"
    );
    let grown = [4, 8, 16, 32, 64].map(|lookups| ask(lookups, SENDS_BEFORE_MORE));
    assert_eq!(grown, [8, 16, 32, 64, 64]);

    client.scope.line.transport.exchanges.push_back(Ok([ReceiveError(Errno::NOBUFS)].into()));
    client.scope.line.transport.exchanges.push_back(Ok(answers(0..8).into()));
    client.lookup(&connections(8)).unwrap();
    assert_eq!(client.lookups_at_once, 16);
}

#[test]
fn lookups_that_are_always_interrupted_are_given_up() {
    let mut client = client((0..4).map(|_| vec![ReceiveError(Errno::NOBUFS)]));
    assert!(matches!(client.lookup(&connections(100)), Err(Error::Interrupted { attempts: 4 })));
    assert_eq!(requests(&client), [64, 16, 4, 1]);
}
