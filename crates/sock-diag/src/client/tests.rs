use std::collections::VecDeque;
use std::io;

use proptest::prelude::*;
use vms_core::connection::{Cookie, TcpState, TcpStates};
use vms_netlink::codec::{Messages, Reply};
use vms_netlink::script::Event::{Answer, Forgery, Misdirected, Oversized, ReceiveError, Stale};
use vms_netlink::script::{Event, Script, Sent, done, done_with, message, overrun, refusal};

use super::*;
use crate::bytecode::Precision;

/// A host on which every program pays.
const LARGE_HOST: u32 = 1_000_000;

impl<T: Transport> Client<T> {
    fn dump_large(&mut self, filter: &ConnectionFilter) -> Result<Vec<Connection>, Error> {
        self.dump(filter, || LARGE_HOST)
    }
}

/// An established IPv6 socket to port 5432 of `::remote`, flagged.
fn socket_with(cookie: u32, remote: u8, flags: u16) -> Vec<u8> {
    let mut payload = [0; 72];
    payload[0] = 10;
    payload[1] = 1;
    payload[4..6].copy_from_slice(&40_000_u16.to_be_bytes());
    payload[6..8].copy_from_slice(&5432_u16.to_be_bytes());
    payload[23] = 99;
    payload[39] = remote;
    payload[44..48].copy_from_slice(&cookie.to_ne_bytes());
    message(20, flags, &payload)
}

fn socket(cookie: u32) -> Vec<u8> {
    socket_with(cookie, 1, 2)
}

fn client(exchanges: impl IntoIterator<Item = Vec<Event>>) -> Client<Script> {
    Client::new(Scope::new(Script::new(exchanges).open_line()))
}

fn filter_for(endpoints: &[&str]) -> ConnectionFilter {
    let endpoints = endpoints.iter().map(|text| {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint::new(address.ip(), address.port())
    });
    ConnectionFilter::new(TcpStates::of(&[TcpState::Established]), endpoints)
}

/// Asks for IPv6 only: one exchange.
fn filter() -> ConnectionFilter {
    filter_for(&["[::1]:5432"])
}

fn cookies(connections: &[Connection]) -> Vec<u64> {
    connections.iter().map(|connection| connection.cookie.0).collect()
}

#[test]
fn without_an_endpoint_or_a_state_the_kernel_is_not_asked() {
    let mut client = client([]);
    assert!(client.dump_large(&filter_for(&[])).unwrap().is_empty());
    let no_state = ConnectionFilter::new(TcpStates::of(&[]), filter().endpoints().iter().copied());
    assert!(client.dump_large(&no_state).unwrap().is_empty());
}

#[test]
fn ipv4_sockets_are_asked_for_only_where_an_ipv4_endpoint_is_and_mapped_ones_always() {
    let families = |endpoints: &[&str]| {
        let exchanges = (0..2).map(|_| vec![Answer(done())]);
        let mut client = client(exchanges);
        client.dump_large(&filter_for(endpoints)).unwrap();
        client.scope.line.transport.requests.iter().map(|request| request[16]).collect::<Vec<u8>>()
    };
    assert_eq!(families(&["[::1]:5432"]), [10]);
    assert_eq!(families(&["127.0.0.1:5432"]), [2, 10]);
    assert_eq!(families(&["127.0.0.1:5432", "[::1]:5432"]), [2, 10]);
}

#[test]
fn what_was_not_asked_for_is_left_out() {
    let mut client = client([vec![Answer(socket_with(1, 2, 2)), Answer(socket(2)), Answer(done())]]);
    assert_eq!(cookies(&client.dump_large(&filter()).unwrap()), [2]);
}

#[test]
fn a_socket_that_comes_twice_is_returned_once() {
    let mut client = client([vec![Answer(socket(2)), Answer(socket(1)), Answer(socket(2)), Answer(done())]]);
    assert_eq!(cookies(&client.dump_large(&filter()).unwrap()), [1, 2]);
}

#[test]
fn an_interrupted_dump_starts_over_on_a_new_socket_and_forgets_what_had_come() {
    let interrupted = vec![Answer(socket(9)), Answer(socket_with(8, 1, 2 | 0x10))];
    let mut client = client([interrupted, vec![Answer(socket(1)), Answer(done())]]);
    assert_eq!(cookies(&client.dump_large(&filter()).unwrap()), [1]);
    assert_eq!(client.scope.line.transport.reopened, 1);
}

#[test]
fn an_interrupted_second_dump_does_not_lose_what_the_first_found() {
    // The fixture's addresses are IPv6; the first request asks for AF_INET sockets all the same.
    let mut client = client([
        vec![Answer(socket(1)), Answer(done())],
        vec![Answer(socket(9)), ReceiveError(Errno::NOBUFS)],
        vec![Answer(socket(2)), Answer(done())],
    ]);
    let found = client.dump_large(&filter_for(&["127.0.0.1:5432", "[::1]:5432"])).unwrap();
    assert_eq!(cookies(&found), [1, 2]);
}

#[test]
fn a_dump_that_is_always_interrupted_is_given_up() {
    let mut client = client((0..4).map(|_| vec![ReceiveError(Errno::NOBUFS)]));
    assert!(matches!(client.dump_large(&filter()), Err(Error::Interrupted { attempts: 4 })));
}

#[test]
fn after_a_failure_the_socket_is_not_used_again() {
    let broken_off = || vec![Answer(socket(1)), ReceiveError(Errno::AGAIN)];
    let mut client = client([broken_off(), vec![Answer(socket(2)), Answer(done())]]);
    let Err(Error::Io { operation: Operation::Reply, source }) = client.dump_large(&filter()) else {
        panic!()
    };
    assert_eq!(source.kind(), io::ErrorKind::TimedOut);
    assert_eq!(cookies(&client.dump_large(&filter()).unwrap()), [2]);
    assert_eq!(client.scope.line.transport.reopened, 1);
}

#[test]
fn a_reply_that_makes_no_sense_is_malformed() {
    let mut client = client([vec![Answer(socket(1)), Oversized]]);
    assert!(matches!(client.dump_large(&filter()), Err(Error::Malformed(_))));
}

#[test]
fn an_errno_in_the_verdict_or_the_end_becomes_what_the_caller_can_do() {
    let error = |event| client([vec![event]]).dump_large(&filter()).unwrap_err();
    let request = Operation::Request;
    for errno in [1, 13] {
        let error = error(Answer(refusal(errno)));
        assert!(
            matches!(&error, Error::PermissionMissing { operation, .. } if *operation == request),
            "{error}"
        );
    }
    for errno in [2, 95] {
        let error = error(Answer(refusal(errno)));
        assert!(matches!(&error, Error::Unsupported { operation, .. } if *operation == request), "{error}");
    }
    let error_at_end = error(Answer(done_with(12)));
    assert!(matches!(&error_at_end, Error::Io { operation: Operation::Reply, source }
        if source.raw_os_error() == Some(12)));
    assert!(matches!(error(Answer(done_with(2))), Error::Unsupported { operation: Operation::Reply, .. }));
}

#[test]
fn a_host_that_forbids_or_lacks_the_socket_is_told_apart() {
    let error = |errno| {
        let mut client = client([]);
        client.scope.line = Line::new(Script::default());
        client.scope.line.transport.open_error = Some(errno);
        client.dump_large(&filter()).unwrap_err()
    };
    let forbidden = [Errno::PERM, Errno::ACCESS, Errno::AFNOSUPPORT].map(error);
    assert!(forbidden.iter().all(|error| matches!(error, Error::PermissionMissing { .. })), "{forbidden:?}");
    assert!(matches!(error(Errno::PROTONOSUPPORT), Error::Unsupported { operation: Operation::Open, .. }));
    assert!(matches!(error(Errno::MFILE), Error::Io { operation: Operation::Open, .. }));
}

#[test]
fn a_kernel_that_refuses_the_program_is_asked_without_one_from_then_on() {
    let refusals: [fn() -> Sent; 2] = [|| Ok(VecDeque::from([Answer(refusal(22))])), || Err(Errno::MSGSIZE)];
    for refuse in refusals {
        let mut client = client([
            vec![Answer(socket_with(9, 2, 2)), Answer(socket(1)), Answer(done())],
            vec![Answer(socket(2)), Answer(done())],
        ]);
        client.scope.line.transport.exchanges.push_front(refuse());
        assert_eq!(cookies(&client.dump_large(&filter()).unwrap()), [1], "still filtered here");
        assert_eq!(cookies(&client.dump_large(&filter()).unwrap()), [2]);
        let lengths: Vec<usize> = client.scope.line.transport.requests.iter().map(Vec::len).collect();
        assert!(lengths[0] > 72, "the first request had a program");
        assert_eq!(lengths[1..], [72, 72]);
    }
}

#[test]
fn a_refusal_without_a_program_is_an_error() {
    let mut client = client([vec![Answer(refusal(22))], vec![Answer(refusal(22))]]);
    assert!(matches!(client.dump_large(&filter()), Err(Error::Io { operation: Operation::Request, .. })));
}

#[test]
fn programs_follow_the_endpoints() {
    let mut client = client((0..6).map(|_| vec![Answer(done())]));
    let program_bytes = |request: &Vec<u8>| request[72..].to_vec();
    for endpoints in [&["[::1]:5432"][..], &["[::1]:5432"], &["[::1]:5433"]] {
        client.dump_large(&filter_for(endpoints)).unwrap();
    }
    let programs: Vec<Vec<u8>> = client.scope.line.transport.requests.iter().map(program_bytes).collect();
    assert_eq!(programs[0], programs[1]);
    assert_ne!(programs[1], programs[2]);
}

mod lookup;
mod survey;

/// 5,000 endpoints at 200 ports, none beside another, with that of [`socket`] among them.
fn many() -> ConnectionFilter {
    let ip = |index: u16| std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, index, 1);
    let endpoints = (0..5000).map(|index| Endpoint::new(ip(index).into(), 5432 + index % 200 * 2));
    ConnectionFilter::new(TcpStates::of(&[TcpState::Established]), endpoints)
}

#[test]
fn a_small_host_is_asked_without_a_program_and_a_large_one_with_it() {
    let mut client =
        client((0..4).map(|_| vec![Answer(socket_with(9, 2, 2)), Answer(socket(1)), Answer(done())]));
    for host_sockets in [100, 100_000, 100, 100_000] {
        assert_eq!(cookies(&client.dump(&many(), || host_sockets).unwrap()), [1], "filtered here");
    }
    let filtered: Vec<bool> =
        client.scope.line.transport.requests.iter().map(|request| request.len() > 72).collect();
    assert_eq!(filtered, [false, true, false, true]);
}

#[test]
fn a_program_that_lets_most_sockets_through_is_not_used_again() {
    let busy = (0..1_900).map(|index| Answer(socket(index))).chain([Answer(done())]).collect();
    let quiet = || vec![Answer(socket(1)), Answer(done())];
    let mut client = client([quiet(), busy, quiet(), quiet()]);
    for _look in 0..4 {
        client.dump(&many(), || 2_000).unwrap();
    }
    let filtered: Vec<bool> =
        client.scope.line.transport.requests.iter().map(|request| request.len() > 72).collect();
    assert_eq!(filtered, [true, true, false, false]);
}

#[test]
fn where_a_program_is_dear_the_sockets_are_counted_by_a_dump_without_one_and_again_when_the_host_has_changed()
{
    let told = |count| (0..count).map(|index| Answer(socket(index))).chain([Answer(done())]).collect();
    let mut client = client([told(2_000), told(1), told(1), told(9_000), told(1)]);
    let ip = |index: u16| std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, index, 1);
    let endpoints = (0..300).map(|index| Endpoint::new(ip(index).into(), 5432 + index * 2));
    let filter = ConnectionFilter::new(TcpStates::of(&[TcpState::Established]), endpoints);
    for host_sockets in [3_000, 3_000, 4_000, 9_000, 9_000] {
        client.dump(&filter, || host_sockets).unwrap();
    }
    let filtered: Vec<bool> =
        client.scope.line.transport.requests.iter().map(|request| request.len() > 72).collect();
    assert_eq!(filtered, [false, true, true, false, true]);
}

/// Against the real kernel, from inside: which of its answers came about by which program.
mod real {
    use super::*;

    fn endpoints(count: u16, ip: &str) -> ConnectionFilter {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        let endpoints = (0..count).map(|index| Endpoint::new(ip, 1024 + index));
        ConnectionFilter::new(TcpStates::of(&[TcpState::Established]), endpoints)
    }

    #[test]
    fn the_kernel_takes_every_program_and_none_is_dropped() {
        let mut client = Client::new(Scope::new(open(None).unwrap()));
        let precisions = [Some(Precision::Exact), Some(Precision::Ports), None];
        let programs = |client: &Client<NetlinkSocket<Option<Abroad>>>| {
            let of_family =
                |family| precisions.map(|precision| client.plan.family(family).program(precision).len());
            [of_family(Family::Inet), of_family(Family::Inet6)]
        };
        for ip in ["192.0.2.1", "2001:db8::1"] {
            for count in [1, 2, 5, 10, 100, 500, 800, 1100, 1600, 5000, 20_000, 60_000] {
                let filter = endpoints(count, ip);
                client.choose_plan(filter.endpoints());
                let compiled = programs(&client);
                for family in [Family::Inet, Family::Inet6] {
                    for precision in precisions {
                        let mut found = Vec::new();
                        let outcome = client.exchange(family, &filter, precision, &mut found).unwrap();
                        assert!(matches!(outcome, Outcome::Complete { .. }), "{count} {precision:?}");
                    }
                }
                for host_sockets in [0, 1_000, 100_000] {
                    assert!(client.dump(&filter, || host_sockets).unwrap().is_empty());
                }
                assert_eq!(programs(&client), compiled, "{count}: none was refused");
                let [exact, ports, _] = compiled[1];
                assert!(exact > 0 || (ports > 0 && count > 800), "{count}");
            }
        }
    }

    #[test]
    fn the_answers_to_as_many_lookups_as_go_at_once_find_room_in_the_socket() {
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        let links: Vec<_> = (0..LOOKUPS_AT_ONCE)
            .map(|_| (std::net::TcpStream::connect(address).unwrap(), listener.accept().unwrap()))
            .collect();
        let mut client = Client::new(Scope::new(open(None).unwrap()));
        let established = TcpStates::of(&[TcpState::Established]);
        let filter = ConnectionFilter::new(established, [Endpoint::new(address.ip(), address.port())]);
        let found = client.dump_large(&filter).unwrap();
        assert_eq!(found.len(), 2 * links.len());
        assert!(client.lookup(&found).unwrap().iter().all(Option::is_some));
        assert_eq!(client.lookups_at_once, LOOKUPS_AT_ONCE);
    }
}

#[test]
fn a_dump_that_tells_of_more_than_there_is_room_for_fails_and_tells_of_nothing() {
    let sockets = |count: u32| (1..=count).map(|cookie| Event::Answer(socket(cookie))).collect::<Vec<_>>();
    for (told, found) in [(3, usize::MAX), (u32::MAX, 3)] {
        let mut client = client([sockets(8), vec![Event::Answer(done())]]);
        client.room = Room { told, found };
        let outcome = client.dump_large(&filter());
        assert!(matches!(outcome, Err(Error::TooMany)), "{outcome:?}");
        client.room = Room { told: MAX_TOLD, found: MAX_FOUND };
        assert!(client.dump_large(&filter()).unwrap().is_empty());
        assert_eq!(
            client.scope.line.transport.reopened, 1,
            "what was still to come is not taken for the next answer"
        );
    }
}

/// One thing that a kernel may do, or somebody in its name; a message may be bent at one place, or cut.
fn an_event() -> impl Strategy<Value = Event> {
    let told = prop_oneof![
        6 => (0_u32..4, 1_u8..3, prop::bool::weighted(0.05)).prop_map(|(cookie, remote, interrupted)| {
            socket_with(cookie, remote, 2 | if interrupted { 0x10 } else { 0 })
        }),
        2 => Just(done()),
        1 => prop_oneof![Just(2), Just(11), Just(22), Just(105)].prop_map(refusal),
        1 => Just(done_with(105)),
        1 => Just(overrun()),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ];
    let bent = (told, prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>())), 0_usize..8);
    let bent = bent.prop_map(|(mut bytes, change, cut)| {
        if let Some((place, byte)) = change
            && !bytes.is_empty()
        {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if cut == 0 {
            bytes.truncate(bytes.len() / 2);
        }
        bytes
    });
    prop_oneof![
        12 => bent.clone().prop_map(Answer),
        1 => bent.clone().prop_map(Forgery),
        1 => bent.clone().prop_map(Stale),
        1 => bent.clone().prop_map(Misdirected),
        2 => (0_u32..4, bent).prop_map(|(index, bytes)| Event::AnswerTo(index, bytes)),
        1 => Just(Oversized),
        1 => Just(ReceiveError(Errno::NOBUFS)),
    ]
}

/// What a kernel does, and then nothing more.
fn a_conversation() -> impl Strategy<Value = VecDeque<Sent>> {
    let exchange = prop::collection::vec(an_event(), 0..8).prop_map(|events| {
        Ok(events.into_iter().chain([ReceiveError(Errno::AGAIN)]).collect::<VecDeque<Event>>())
    });
    let attempts = usize::try_from(ATTEMPTS).unwrap();
    let exchange = prop_oneof![9 => exchange, 1 => Just(()).prop_map(|()| Err(Errno::NOBUFS))];
    prop::collection::vec(exchange, 8 * attempts).prop_map(VecDeque::from)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_the_kernel_says_a_dump_and_lookups_end_and_tell_only_what_was_asked_for(
        exchanges in a_conversation(),
    ) {
        let mut client = client([]);
        client.scope.line.transport.exchanges = exchanges;
        client.scope.line.transport.forgets = true;
        let wanted = filter();
        if let Ok(found) = client.dump_large(&wanted) {
            prop_assert!(found.iter().all(|connection| wanted.matches(connection)), "{found:?}");
            prop_assert!(found.windows(2).all(|pair| pair[0].cookie < pair[1].cookie), "each once: {found:?}");
        }
        let asked = [1, 2, 3].map(|cookie| {
            let datagram = socket(cookie);
            match Messages::new(&datagram).next().unwrap().unwrap().decode::<Sockets>().unwrap() {
                Reply::Told(connection) => connection,
                other => unreachable!("{other:?}"),
            }
        });
        if let Ok(sightings) = client.lookup(&asked) {
            prop_assert_eq!(sightings.len(), asked.len());
            for (sighting, asked) in sightings.iter().zip(&asked) {
                let told = sighting.as_ref().map(|sighting| sighting.connection.cookie);
                prop_assert!(told.is_none_or(|told| told == asked.cookie));
            }
        }
    }
}
