use vms_core::socket::{
    EndClause, Families, Socket, SocketClause, SocketClauses, SocketFilter, SocketSurvey,
    Transport as Protocol,
};
use vms_netlink::script::attribute;

use super::*;

const NO_CLAUSES: fn() -> SocketClauses = || SocketClauses::new(Vec::new());
const CLOSING: [TcpState; 2] = [TcpState::CloseWait, TcpState::LastAck];

fn clause(protocol: Protocol, states: &[TcpState]) -> SocketClause {
    SocketClause {
        transport: protocol,
        families: Families::BOTH,
        states: TcpStates::of(states),
        local: EndClause::default(),
        remote: EndClause::default(),
    }
}

/// Those whose remote port is that of [`socket`].
fn to_5432(clause: SocketClause) -> SocketClause {
    SocketClause {
        remote: EndClause { ports: vec!["5432".parse().unwrap()], ..EndClause::default() },
        ..clause
    }
}

/// What a request asks for: protocol, family and states.
fn asked(request: &[u8]) -> (u8, u8, u32) {
    (request[17], request[16], u32::from_ne_bytes(request[20..24].try_into().unwrap()))
}

fn bits(states: &[TcpState]) -> u32 {
    states.iter().fold(0, |bits, state| bits | 1 << state.number())
}

/// The requests that are made.
fn requests(connections: Option<&ConnectionFilter>, clauses: Vec<SocketClause>) -> Vec<(u8, u8, u32)> {
    let mut client = client((0..8).map(|_| vec![Answer(done())]));
    let clauses = SocketClauses::new(clauses);
    let found = client.survey(&SocketFilter { connections, clauses: &clauses }, || LARGE_HOST).unwrap();
    assert!(found.connections.is_empty() && found.sockets.is_empty());
    client.scope.line.transport.requests.iter().map(|request| asked(request)).collect()
}

fn survey(
    client: &mut Client<Script>,
    connections: Option<&ConnectionFilter>,
    clauses: &[SocketClause],
) -> Result<SocketSurvey<Error>, Error> {
    let clauses = SocketClauses::new(clauses.to_vec());
    client.survey(&SocketFilter { connections, clauses: &clauses }, || LARGE_HOST)
}

/// Why sockets of that protocol could not be told, when nothing was told of it.
fn untold(found: Result<SocketSurvey<Error>, Error>, protocol: Protocol) -> Error {
    let mut found = found.unwrap();
    assert!(found.sockets.iter().all(|socket| socket.transport != protocol));
    assert!(protocol != Protocol::Tcp || found.connections.is_empty());
    found.untold.remove(&protocol).expect("it could not be told")
}

/// A socket of the state between `local` and port 5432 of `::1`.
fn socket_in(cookie: u32, state: TcpState, local: [u8; 16], attributes: &[u8]) -> Vec<u8> {
    let mut payload = socket(cookie)[16..88].to_vec();
    payload[1] = state.number();
    payload[8..24].copy_from_slice(&local);
    message(20, 2, &[&payload, attributes].concat())
}

fn socket_cookies(found: &SocketSurvey<Error>) -> Vec<u64> {
    found.sockets.iter().map(|socket| socket.connection.cookie.0).collect()
}

#[test]
fn only_tables_that_can_have_what_is_asked_for_are_walked_once_a_family() {
    use TcpState::{
        BoundInactive, Close, CloseWait, Established, LastAck, Listen, NewSynReceived, SynReceived, TimeWait,
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let both = |protocol, states: &[TcpState]| [(protocol, 2, bits(states)), (protocol, 10, bits(states))];
    let listening = clause(tcp, &[Listen]);
    assert_eq!(requests(None, Vec::new()), []);
    assert_eq!(requests(None, vec![listening.clone()]), both(6, &[Listen]));
    assert_eq!(requests(None, vec![clause(udp, &[Established, Close])]), both(17, &[Established, Close]));
    assert_eq!(requests(None, vec![clause(udp, &[Close, Listen, TimeWait])]), both(17, &[Close]));
    assert_eq!(requests(None, vec![clause(udp, &[Listen])]), []);
    assert_eq!(requests(None, vec![clause(tcp, &[])]), []);
    assert_eq!(
        requests(None, vec![clause(tcp, &[Listen, TimeWait]), clause(tcp, &CLOSING)]),
        [both(6, &[TimeWait, CloseWait, LastAck]), both(6, &[Listen])].concat()
    );
    assert_eq!(requests(None, vec![clause(tcp, &[SynReceived])]), both(6, &[SynReceived, NewSynReceived]));
    for state in [Close, BoundInactive] {
        assert_eq!(requests(None, vec![clause(tcp, &[state])]), both(6, &[Close, BoundInactive]));
    }
    // Beside connections: what both want is walked once.
    let filter = filter_for(&["127.0.0.1:5432"]);
    let established = clause(tcp, &[Established]);
    assert_eq!(requests(Some(&filter), Vec::new()), both(6, &[Established]));
    assert_eq!(requests(Some(&filter), vec![established.clone()]), both(6, &[Established]));
    assert_eq!(
        requests(Some(&filter), vec![listening]),
        [both(6, &[Established]), both(6, &[Listen])].concat()
    );
    assert_eq!(
        requests(Some(&filter), vec![clause(udp, &[Close])]),
        [both(6, &[Established]), both(17, &[Close])].concat()
    );
    let no_endpoint = filter_for(&[]);
    assert_eq!(requests(Some(&no_endpoint), vec![clause(udp, &[Close])]), both(17, &[Close]));
}

#[test]
fn ipv4_sockets_are_asked_for_only_where_a_clause_or_an_endpoint_can_want_one() {
    let families = |connections, clause| -> Vec<u8> {
        requests(connections, vec![clause]).into_iter().map(|(_, family, _)| family).collect()
    };
    let any = clause(Protocol::Tcp, &[TcpState::Established]);
    let of = |families| SocketClause { families, ..any.clone() };
    assert_eq!(families(None, of(Families::IPV4)), [2, 10], "mapped addresses are on AF_INET6 sockets");
    assert_eq!(families(None, of(Families::IPV6)), [10]);
    let nothing = Families { ipv4: false, ipv6: false };
    assert_eq!(families(None, of(nothing)), []);
    let within = |networks: &[&str]| SocketClause {
        remote: EndClause {
            networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
            ..EndClause::default()
        },
        ..any.clone()
    };
    assert_eq!(families(None, within(&["fd00::/8"])), [10]);
    assert_eq!(families(None, within(&["fd00::/8", "10.0.0.0/8"])), [2, 10]);
    let [ipv4, ipv6] = ["127.0.0.1:5432", "[::1]:5432"].map(|address| filter_for(&[address]));
    assert_eq!(families(Some(&ipv4), of(Families::IPV6)), [2, 10]);
    assert_eq!(families(Some(&ipv6), of(Families::IPV6)), [10]);
}

#[test]
fn each_socket_goes_to_those_who_asked_for_it() {
    let ipv6 = Families::IPV6;
    let established =
        to_5432(SocketClause { families: ipv6, ..clause(Protocol::Tcp, &[TcpState::Established]) });
    let closing = SocketClause { families: ipv6, ..clause(Protocol::Tcp, &CLOSING) };
    let local = socket(1)[24..40].try_into().unwrap();
    let told = [
        Answer(socket(3)),
        Answer(socket_with(2, 2, 2)),
        Answer(socket_in(1, TcpState::CloseWait, local, &[])),
        Answer(socket(3)),
        Answer(done()),
    ];
    let mut client = client([told.to_vec(), told.to_vec()]);
    let found = survey(&mut client, Some(&filter()), &[established.clone(), closing.clone()]).unwrap();
    assert_eq!(cookies(&found.connections), [3], "to ::1, and ESTABLISHED");
    assert_eq!(socket_cookies(&found), [1, 2, 3], "each once, and to any address");
    assert!(found.sockets.iter().all(|socket| (socket.transport, socket.families) == (Protocol::Tcp, ipv6)));
    let found = survey(&mut client, None, &[closing]).unwrap();
    assert!(found.connections.is_empty());
    assert_eq!(socket_cookies(&found), [1]);
}

#[test]
fn a_udp_socket_is_no_connection_of_a_link() {
    let udp = SocketClause { families: Families::IPV6, ..clause(Protocol::Udp, &[TcpState::Established]) };
    let mut client = client([vec![Answer(done())], vec![Answer(socket(1)), Answer(done())]]);
    let found = survey(&mut client, Some(&filter()), &[udp]).unwrap();
    assert!(found.connections.is_empty());
    let [Socket { transport: Protocol::Udp, .. }] = found.sockets[..] else { panic!("{found:?}") };
}

#[test]
fn what_a_listener_serves_decides_whether_it_is_wanted() {
    let any = [0; 16];
    let [v6_only, dual_stack] =
        [1, 0].map(|value| socket_in(10 + u32::from(value), TcpState::Listen, any, &attribute(11, &[value])));
    let listening = SocketClause { families: Families::IPV4, ..clause(Protocol::Tcp, &[TcpState::Listen]) };
    let mut client =
        client([vec![Answer(done())], vec![Answer(v6_only), Answer(dual_stack), Answer(done())]]);
    let found = survey(&mut client, None, &[listening]).unwrap();
    assert_eq!(socket_cookies(&found), [10]);
    assert_eq!(found.sockets[0].families, Families::BOTH);
}

#[test]
fn a_bound_socket_that_never_had_a_peer_is_told_from_one_that_lost_it() {
    let local = socket(1)[24..40].try_into().unwrap();
    let lost = socket_in(1, TcpState::Close, local, &[]);
    let mut never = socket_in(2, TcpState::Close, local, &[]);
    never[16 + 6..16 + 8].fill(0);
    for (state, cookie) in [(TcpState::Close, 1), (TcpState::BoundInactive, 2)] {
        let wanted = SocketClause { families: Families::IPV6, ..clause(Protocol::Tcp, &[state]) };
        let mut client = client([vec![Answer(lost.clone()), Answer(never.clone()), Answer(done())]]);
        let found = survey(&mut client, None, &[wanted]).unwrap();
        assert_eq!(socket_cookies(&found), [cookie]);
        assert_eq!(found.sockets[0].connection.state, state);
    }
    let unconnected = SocketClause { families: Families::IPV6, ..clause(Protocol::Udp, &[TcpState::Close]) };
    let mut client = client([vec![Answer(never), Answer(done())]]);
    assert_eq!(
        socket_cookies(&survey(&mut client, None, &[unconnected]).unwrap()),
        [2],
        "of UDP it is CLOSE"
    );
}

#[test]
fn a_selective_clause_is_asked_for_with_a_program_and_one_that_takes_any_ends_without() {
    let has_program = |clauses: Vec<SocketClause>| -> Vec<bool> {
        let mut client = client((0..4).map(|_| vec![Answer(done())]));
        survey(&mut client, None, &clauses).unwrap();
        client.scope.line.transport.requests.iter().map(|request| request.len() > 72).collect()
    };
    let any = clause(Protocol::Tcp, &[TcpState::Established]);
    let some = to_5432(any.clone());
    assert_eq!(has_program(vec![some.clone()]), [true, true]);
    assert_eq!(has_program(vec![any.clone()]), [false, false]);
    assert_eq!(has_program(vec![any.clone(), some.clone()]), [false, false]);
    // Each table has a program of its own.
    let listening = to_5432(clause(Protocol::Tcp, &[TcpState::Listen]));
    assert_eq!(has_program(vec![any, listening]), [false, false, true, true]);
    let udp = to_5432(clause(Protocol::Udp, &[TcpState::Established]));
    assert_eq!(has_program(vec![udp]), [true, true]);
}

#[test]
fn a_kernel_that_refuses_the_program_of_a_survey_is_asked_without_it_from_then_on() {
    let wanted =
        to_5432(SocketClause { families: Families::IPV6, ..clause(Protocol::Tcp, &[TcpState::Established]) });
    let refused = || vec![Answer(refusal(22))];
    // One that spells the clause out, and one that tells its ports.
    let mut client =
        client([refused(), refused(), vec![Answer(socket(1)), Answer(done())], vec![Answer(done())]]);
    assert_eq!(socket_cookies(&survey(&mut client, None, std::slice::from_ref(&wanted)).unwrap()), [1]);
    survey(&mut client, None, &[wanted]).unwrap();
    let lengths: Vec<usize> = client.scope.line.transport.requests.iter().map(Vec::len).collect();
    assert!(lengths[0] > 72 && lengths[1] > 72);
    assert_eq!(lengths[2..], [72, 72]);
}

#[test]
fn an_interrupted_walk_starts_over_and_loses_nothing_of_those_before() {
    let clauses = [clause(Protocol::Tcp, &[TcpState::Established])];
    let mut client = client([
        vec![Answer(socket(1)), Answer(done())],
        vec![Answer(socket(9)), Answer(socket_with(8, 1, 2 | 0x10))],
        vec![Answer(socket(2)), ReceiveError(Errno::NOBUFS)],
        vec![Answer(socket(3)), Answer(done())],
    ]);
    let found = survey(&mut client, Some(&filter_for(&["127.0.0.1:1", "[::1]:5432"])), &clauses).unwrap();
    assert_eq!((cookies(&found.connections), socket_cookies(&found)), (vec![1, 3], vec![1, 3]));
}

#[test]
fn a_walk_that_is_always_interrupted_is_given_up() {
    let mut client = client((0..4).map(|_| vec![ReceiveError(Errno::NOBUFS)]));
    let found = survey(&mut client, None, &[clause(Protocol::Udp, &[TcpState::Close])]);
    let error = untold(found, Protocol::Udp);
    assert!(matches!(error, Error::Interrupted { attempts: 4 }), "{error:?}");
}

#[test]
fn a_kernel_without_udp_says_so_and_what_to_do_and_tells_of_no_empty_host() {
    for event in [Answer(done_with(2)), Answer(refusal(2))] {
        let mut client = client([vec![event]]);
        let found = survey(&mut client, None, &[clause(Protocol::Udp, &[TcpState::Close])]);
        let error = untold(found, Protocol::Udp);
        assert!(matches!(error, Error::Unsupported { transport: Protocol::Udp, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("modprobe udp_diag") && text.contains("CONFIG_INET_UDP_DIAG"), "{text}");
    }
    let mut client = client([vec![Answer(done_with(2))]]);
    let found = survey(&mut client, None, &[clause(Protocol::Tcp, &[TcpState::Listen])]);
    let error = untold(found, Protocol::Tcp);
    assert!(error.to_string().contains("modprobe tcp_diag"), "{error}");
}

#[test]
fn what_one_protocol_does_not_tell_is_nothing_to_the_other() {
    let ipv6 = |clause| SocketClause { families: Families::IPV6, ..clause };
    let clauses = [
        ipv6(clause(Protocol::Tcp, &[TcpState::Established, TcpState::Listen])),
        ipv6(clause(Protocol::Udp, &[TcpState::Established])),
    ];
    let told = |cookie| vec![Answer(socket(cookie)), Answer(done())];
    let refused = || vec![Answer(refusal(2))];
    let mut without_udp = client([told(1), vec![Answer(done())], refused()]);
    let mut found = survey(&mut without_udp, Some(&filter()), &clauses).unwrap();
    assert_eq!((cookies(&found.connections), socket_cookies(&found)), (vec![1], vec![1]));
    assert!(matches!(found.untold.remove(&Protocol::Udp), Some(Error::Unsupported { .. })));
    assert!(found.untold.is_empty());
    // What was told of a protocol before it failed is not all of it.
    let mut without_listeners = client([told(1), refused(), told(2)]);
    let mut found = survey(&mut without_listeners, Some(&filter()), &clauses).unwrap();
    assert_eq!((cookies(&found.connections), socket_cookies(&found)), (vec![], vec![2]));
    assert!(matches!(found.untold.remove(&Protocol::Tcp), Some(Error::Unsupported { .. })));
    assert!(found.untold.is_empty());
    // Of one that has failed nothing more is asked.
    let mut without_tcp = client([refused(), told(2)]);
    let found = survey(&mut without_tcp, Some(&filter()), &clauses).unwrap();
    assert_eq!(socket_cookies(&found), [2]);
    assert_eq!(without_tcp.scope.line.transport.requests.len(), 2);
}

#[test]
fn a_survey_that_tells_of_more_than_there_is_room_for_fails_and_tells_of_nothing() {
    let told = || (1..=8).map(|cookie| Answer(socket(cookie))).collect::<Vec<_>>();
    let established =
        SocketClause { families: Families::IPV6, ..clause(Protocol::Tcp, &[TcpState::Established]) };
    let closing = SocketClause { families: Families::IPV6, ..clause(Protocol::Tcp, &CLOSING) };
    for (told_room, found, clause) in
        [(3, usize::MAX, &established), (u32::MAX, 3, &established), (u32::MAX, 3, &closing)]
    {
        let mut client = client([told()]);
        client.room = Room { told: told_room, found };
        let found = survey(&mut client, Some(&filter()), std::slice::from_ref(clause));
        let error = untold(found, Protocol::Tcp);
        assert!(matches!(error, Error::TooMany), "{error:?}");
    }
}

#[test]
fn without_clauses_a_survey_is_a_dump() {
    let answers = || vec![Answer(socket_with(9, 2, 2)), Answer(socket(1)), Answer(done())];
    let mut client = client([answers(), answers()]);
    let dumped = client.dump_large(&filter()).unwrap();
    let found = survey(&mut client, Some(&filter()), &[]).unwrap();
    assert_eq!((found.connections, found.sockets), (dumped, Vec::new()));
    assert!(found.untold.is_empty());
    let requests = &client.scope.line.transport.requests;
    assert_eq!(requests[0][16..], requests[1][16..]);
    let nothing = client.survey(&SocketFilter { connections: None, clauses: &NO_CLAUSES() }, || LARGE_HOST);
    assert!(nothing.unwrap().connections.is_empty());
}

#[test]
fn what_a_walk_without_a_program_counted_decides_about_the_next() {
    let port =
        |port: u16| EndClause { ports: vec![port.to_string().parse().unwrap()], ..EndClause::default() };
    let listening = SocketClause { families: Families::IPV6, ..clause(Protocol::Tcp, &[TcpState::Listen]) };
    let wanted: Vec<SocketClause> =
        (0..300).map(|index| SocketClause { local: port(10_000 + index * 3), ..listening.clone() }).collect();
    let told = |count: u32| -> Vec<Event> {
        (0..count).map(|cookie| Answer(socket(cookie))).chain([Answer(done())]).collect()
    };
    let mut client = client([told(50), told(9_000), told(50)]);
    for _look in 0..3 {
        survey(&mut client, None, &wanted).unwrap();
    }
    let filtered: Vec<bool> =
        client.scope.line.transport.requests.iter().map(|request| request.len() > 72).collect();
    assert_eq!(
        filtered,
        [false, false, true],
        "the audit costs more than a few listeners that are let through"
    );
}

/// Against the real kernel, from inside: it takes every program.
#[test]
fn the_kernel_takes_every_program_for_clauses() {
    let end = |index: u16| EndClause {
        networks: ["10.0.0.0/8", "2001:db8::/33", "0.0.0.0", "::/0"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
        ports: vec![format!("{}-{}", 1000 + index * 5, 1001 + index * 5).parse().unwrap()],
        exact: index.is_multiple_of(2),
    };
    let states = [TcpState::Established, TcpState::Listen];
    let mut client = Client::new(Scope::new(open(None).unwrap()));
    for count in [1, 2, 10, 50, 150, 1000] {
        for protocol in Protocol::ALL {
            let clauses = (0..count).map(|index| SocketClause {
                local: end(index),
                remote: if index % 3 == 0 { end(index) } else { EndClause::default() },
                ..clause(protocol, &states)
            });
            let clauses = SocketClauses::new(clauses.collect());
            let connections = filter_for(&["192.0.2.1:1", "[2001:db8::1]:2"]);
            let filter = SocketFilter { connections: Some(&connections), clauses: &clauses };
            let plan = SurveyPlan::new(&filter);
            let mut programs = 0;
            for walk in plan.walks() {
                for precision in [Some(Precision::Exact), Some(Precision::Ports), None] {
                    programs += usize::from(!walk.programs.program(precision).is_empty());
                    let mut found = SocketSurvey::default();
                    let outcome = client.exchange_walk(&plan, walk, &filter, precision, &mut found).unwrap();
                    assert!(matches!(outcome, Outcome::Complete { .. }), "{count} {precision:?}");
                }
            }
            assert!(programs >= plan.walks().len(), "by ports at least: {programs}");
        }
    }
}

#[test]
fn a_program_for_ports_is_judged_by_what_it_lets_through_in_vain() {
    let wanted: Vec<SocketClause> = (0..80_u16)
        .map(|index| SocketClause {
            families: Families::IPV6,
            remote: EndClause {
                ports: vec![(5432 + index * 3).to_string().parse().unwrap()],
                ..EndClause::default()
            },
            ..clause(Protocol::Tcp, &[TcpState::Established])
        })
        .collect();
    // At a port between those that are wanted, and at one of them.
    let beside = |cookie: u32| {
        let mut told = socket(cookie);
        told[16 + 6..16 + 8].copy_from_slice(&5433_u16.to_be_bytes());
        told
    };
    let told = |tell: &dyn Fn(u32) -> Vec<u8>| -> Vec<Event> {
        (0..1_900).map(|cookie| Answer(tell(cookie))).chain([Answer(done())]).collect()
    };
    let is_used_again = |tell: &dyn Fn(u32) -> Vec<u8>| {
        let mut client = client([told(tell), told(tell)]);
        let clauses = SocketClauses::new(wanted.clone());
        let asked = SocketFilter { connections: None, clauses: &clauses };
        for _look in 0..2 {
            client.survey(&asked, || 2_000).unwrap();
        }
        let requests = &client.scope.line.transport.requests;
        assert!(requests[0].len() > 72);
        requests[0][16..] == requests[1][16..]
    };
    assert!(is_used_again(&socket));
    assert!(!is_used_again(&beside));
}

fn a_clause() -> impl Strategy<Value = SocketClause> {
    let states = prop::collection::vec(prop::sample::select(TcpState::ALL.to_vec()), 1..6);
    let families = prop::sample::select(vec![Families::IPV4, Families::IPV6, Families::BOTH]);
    (any::<bool>(), any::<bool>(), families, states).prop_map(|(is_udp, has_port, families, states)| {
        let protocol = if is_udp { Protocol::Udp } else { Protocol::Tcp };
        let clause = SocketClause { families, ..clause(protocol, &states) };
        if has_port { to_5432(clause) } else { clause }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_the_kernel_says_a_survey_ends_and_tells_only_what_was_asked_for(
        exchanges in prop::collection::vec(a_conversation(), 3),
        clauses in prop::collection::vec(a_clause(), 0..4),
        has_links in any::<bool>(),
    ) {
        let mut client = client([]);
        client.scope.line.transport.exchanges = exchanges.into_iter().flatten().collect();
        client.scope.line.transport.forgets = true;
        let wanted = filter();
        let clauses = SocketClauses::new(clauses);
        let asked = SocketFilter { connections: has_links.then_some(&wanted), clauses: &clauses };
        if let Ok(found) = client.survey(&asked, || LARGE_HOST) {
            prop_assert!(found.connections.iter().all(|connection| has_links && wanted.matches(connection)));
            prop_assert!(found.connections.windows(2).all(|pair| pair[0].cookie < pair[1].cookie));
            prop_assert!(found.sockets.iter().all(|socket| clauses.want(socket)));
            let in_order = |pair: &[Socket]| pair[0].connection.cookie < pair[1].connection.cookie;
            prop_assert!(found.sockets.windows(2).all(in_order));
            let untold = |transport: Protocol| found.untold.contains_key(&transport);
            prop_assert!(!found.sockets.iter().any(|socket| untold(socket.transport)));
            prop_assert!(found.connections.is_empty() || !untold(Protocol::Tcp));
        }
    }
}
