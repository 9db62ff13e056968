//! Sockets of every kind, as a survey tells them, and beside what `ss` tells.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use proptest::prelude::*;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_linger, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with};
use vms_core::socket::{
    EndClause, Families, PortRange, Socket, SocketClause, SocketClauses, SocketFilter, SocketSurvey,
    Transport,
};

use super::*;

fn survey(connections: Option<&ConnectionFilter>, clauses: &[SocketClause]) -> SocketSurvey<Error> {
    let clauses = SocketClauses::new(clauses.to_vec());
    let mut sock_diag = SockDiag::open(Path::new("/proc")).unwrap();
    whole(sock_diag.survey(&SocketFilter { connections, clauses: &clauses }))
}

/// A survey of which every protocol was told.
fn whole(surveyed: Result<SocketSurvey<Error>, Error>) -> SocketSurvey<Error> {
    let found = surveyed.unwrap();
    assert!(found.untold.is_empty(), "{:?}", found.untold);
    found
}

fn any(transport: Transport, states: &[TcpState]) -> SocketClause {
    SocketClause {
        transport,
        families: Families::BOTH,
        states: TcpStates::of(states),
        local: EndClause::default(),
        remote: EndClause::default(),
    }
}

fn at_port(port: u16) -> EndClause {
    EndClause { ports: vec![PortRange::port(port)], ..EndClause::default() }
}

/// Sockets in these states that have the port at their local end, each with its cookie.
fn at_local_port(transport: Transport, states: &[TcpState], port: u16) -> Vec<Socket> {
    survey(None, &[SocketClause { local: at_port(port), ..any(transport, states) }]).sockets
}

/// A network namespace in which packets can be dropped.
fn on_a_quiet_host(test: impl FnOnce() + Send) {
    if !geteuid().is_root() || ip("-Version").is_err() || nft("list tables").is_err() {
        return skip("needs root, iproute2 and nft, to have a network of its own and to drop packets in it");
    }
    on_another_host(|| {
        for step in ["link set lo up", "address add fd00::1/128 dev lo nodad"] {
            let done = ip(step).unwrap();
            assert!(done.status.success(), "ip {step}: {done:?}");
        }
        test();
    });
}

#[expect(clippy::disallowed_methods, reason = "packets are dropped by a program")]
fn nft(rules: &str) -> io::Result<Output> {
    Command::new("nft").arg(rules).output()
}

/// From now on what leaves and fits the rule is lost.
fn lose(rule: &str) {
    let rules = format!("table inet t {{ chain c {{ type filter hook output priority 0; {rule} drop; }}; }}");
    let done = nft(&rules).unwrap();
    assert!(done.status.success(), "{done:?}");
}

fn tcp_socket(address: SocketAddr, flags: SocketFlags) -> OwnedFd {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None).unwrap()
}

fn bound_to(address: SocketAddr) -> OwnedFd {
    let socket = tcp_socket(address, SocketFlags::empty());
    bind(&socket, &address).unwrap();
    socket
}

fn port_of(socket: &OwnedFd) -> u16 {
    SocketAddr::try_from(getsockname(socket).unwrap()).unwrap().port()
}

/// A connection attempt that is not waited for.
fn begin(address: SocketAddr) -> OwnedFd {
    let socket = tcp_socket(address, SocketFlags::NONBLOCK);
    assert_eq!(connect(&socket, &address), Err(rustix::io::Errno::INPROGRESS));
    socket
}

/// Asks until the answer is there: the other end of a connection learns a moment later.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

/// The one socket in that state at that local port is the one given, and it is in no other state.
#[track_caller]
fn assert_state(socket: impl AsFd, port: u16, state: TcpState) {
    let cookie = Cookie(socket_cookie(socket).unwrap());
    let states_of = |states: &[TcpState]| -> Vec<TcpState> {
        let found = at_local_port(Transport::Tcp, states, port);
        let own = found.iter().filter(|socket| socket.connection.cookie == cookie);
        own.map(|socket| socket.connection.state).collect()
    };
    eventually(state.as_str(), || states_of(&[state]) == [state]);
    assert_eq!(states_of(&TcpState::ALL), [state]);
    let others: Vec<TcpState> = TcpState::ALL.into_iter().filter(|other| *other != state).collect();
    assert_eq!(states_of(&others), []);
}

/// So many sockets at that port are in the state, none of which has a file.
#[track_caller]
fn assert_without_file(port: u16, state: TcpState) {
    eventually(state.as_str(), || {
        let found = at_local_port(Transport::Tcp, &[state], port);
        matches!(found[..], [Socket { connection: Connection { inode: None, .. }, .. }])
    });
}

fn client_port(link: &Link) -> u16 {
    link.source().port()
}

#[test]
fn a_tcp_socket_is_found_in_each_state_and_in_no_other() {
    on_a_quiet_host(|| {
        for ip in ["127.0.0.1", "::1"] {
            let link = Link::new(ip, ip);
            assert_state(&link.listener, link.service().port(), TcpState::Listen);
            assert_state(&link.client, client_port(&link), TcpState::Established);
            link.client.shutdown(Shutdown::Write).unwrap();
            assert_state(&link.client, client_port(&link), TcpState::FinWait2);
            assert_state(&link.server, link.service().port(), TcpState::CloseWait);
            // Without a holder it waits among those of TIME-WAIT.
            let port = client_port(&link);
            drop(link.client);
            assert_without_file(port, TcpState::FinWait2);
            drop(link.server);
            assert_without_file(port, TcpState::TimeWait);
        }
    });
}

#[test]
fn a_tcp_socket_is_found_in_states_that_last_only_while_packets_are_lost() {
    on_a_quiet_host(|| {
        for ip in ["127.0.0.1", "::1"] {
            let muted = Link::new(ip, ip);
            let port = muted.service().port();
            let closing = TcpStream::connect(muted.listener.local_addr().unwrap()).unwrap();
            let closing_server = muted.listener.accept().unwrap().0;
            let last = TcpStream::connect(muted.listener.local_addr().unwrap()).unwrap();
            let last_server = muted.listener.accept().unwrap().0;
            last_server.shutdown(Shutdown::Write).unwrap();
            let silent = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
            let silent_address = silent.local_addr().unwrap();
            assert_state(&last, last.local_addr().unwrap().port(), TcpState::CloseWait);
            lose(&format!("tcp dport {port}"));
            lose(&format!("tcp sport {}", silent_address.port()));

            for client in [&muted.client, &closing, &last] {
                client.shutdown(Shutdown::Write).unwrap();
            }
            closing_server.shutdown(Shutdown::Write).unwrap();
            assert_state(&muted.client, client_port(&muted), TcpState::FinWait1);
            assert_state(&closing, closing.local_addr().unwrap().port(), TcpState::Closing);
            assert_state(&last, last.local_addr().unwrap().port(), TcpState::LastAck);

            let attempt = begin(silent_address);
            assert_state(&attempt, port_of(&attempt), TcpState::SynSent);
            assert_without_file(silent_address.port(), TcpState::SynReceived);
        }
    });
}

#[test]
fn a_bound_socket_is_told_by_whether_it_ever_had_a_peer() {
    on_a_quiet_host(|| {
        for ip in ["127.0.0.1", "::1"] {
            let address = SocketAddr::new(ip.parse().unwrap(), 0);
            let never = bound_to(address);
            // Since Linux 6.8.
            if at_local_port(Transport::Tcp, &TcpState::ALL, port_of(&never)).is_empty() {
                return skip("needs a kernel that tells of bound sockets");
            }
            assert_state(&never, port_of(&never), TcpState::BoundInactive);

            let listener = TcpListener::bind(address).unwrap();
            // The port is its own for as long as it lives, since it asked for this one.
            let lost = bound_to(SocketAddr::new(address.ip(), 7000));
            connect(&lost, &listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
            drop(server);
            assert_state(&lost, port_of(&lost), TcpState::Close);
        }
    });
}

/// A socket for IPv6 alone.
fn v6_only(address: &str, kind: SocketType) -> OwnedFd {
    let address: SocketAddr = address.parse().unwrap();
    let socket = socket_with(AddressFamily::INET6, kind, SocketFlags::CLOEXEC, None).unwrap();
    set_ipv6_v6only(&socket, true).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &address).unwrap();
    if kind == SocketType::STREAM {
        listen(&socket, 8).unwrap();
    }
    socket
}

#[test]
fn what_a_socket_without_a_peer_serves_is_told_for_both_protocols() {
    on_a_quiet_host(|| {
        let listeners = ["0.0.0.0:7000", "[::]:7001", "[::1]:7003", "[::ffff:127.0.0.1]:7004"]
            .map(|address| TcpListener::bind(address).unwrap());
        let only = v6_only("[::]:7002", SocketType::STREAM);
        let udp = ["0.0.0.0:7000", "[::]:7001", "[::1]:7003", "[::ffff:127.0.0.1]:7004"]
            .map(|address| UdpSocket::bind(address).unwrap());
        let udp_only = v6_only("[::]:7002", SocketType::DGRAM);
        for (transport, state) in [(Transport::Tcp, TcpState::Listen), (Transport::Udp, TcpState::Close)] {
            let families: Vec<Families> = (7000..=7004)
                .map(|port| match at_local_port(transport, &[state], port)[..] {
                    [socket] => socket.families,
                    ref others => panic!("{others:?}"),
                })
                .collect();
            let expected = [Families::IPV4, Families::BOTH, Families::IPV6, Families::IPV6, Families::IPV4];
            assert_eq!(families, expected);
            // Who stands for an address: on every address of a family that has it, or on it.
            let ports = |ip: &str, exact| -> Vec<u16> {
                let local = EndClause { networks: vec![ip.parse().unwrap()], exact, ..EndClause::default() };
                let found = survey(None, &[SocketClause { local, ..any(transport, &[state]) }]).sockets;
                let mut ports: Vec<u16> = found.iter().map(|one| one.connection.local.port()).collect();
                ports.sort_unstable();
                ports
            };
            assert_eq!(ports("127.0.0.1", false), [7000, 7001, 7004]);
            assert_eq!(ports("127.0.0.1", true), [7004]);
            assert_eq!(ports("::1", false), [7001, 7002, 7003]);
            assert_eq!(ports("::1", true), [7003]);
            assert_eq!(ports("0.0.0.0", true), [7000]);
            assert_eq!(ports("::", true), [7001, 7002]);
        }
        drop((listeners, only, udp, udp_only));
    });
}

#[test]
fn a_udp_socket_is_established_once_it_has_a_peer() {
    on_a_quiet_host(|| {
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let [server, client] = [(); 2].map(|()| UdpSocket::bind((ip, 0)).unwrap());
            let server_port = server.local_addr().unwrap().port();
            client.connect(server.local_addr().unwrap()).unwrap();
            let both = [TcpState::Established, TcpState::Close];
            let cookies_in = |states: &[TcpState]| -> Vec<Cookie> {
                let local = SocketClause { local: at_port(server_port), ..any(Transport::Udp, states) };
                let remote = SocketClause { remote: at_port(server_port), ..any(Transport::Udp, states) };
                survey(None, &[local, remote]).sockets.iter().map(|socket| socket.connection.cookie).collect()
            };
            let [server, client] = [&server, &client].map(|socket| Cookie(socket_cookie(socket).unwrap()));
            assert_eq!(cookies_in(&[TcpState::Established]), [client]);
            assert_eq!(cookies_in(&[TcpState::Close]), [server]);
            assert_eq!(cookies_in(&both).len(), 2);
            assert_eq!(at_local_port(Transport::Tcp, &TcpState::ALL, server_port), []);
        }
    });
}

#[test]
fn connections_of_a_survey_are_those_of_a_dump() {
    let links = [Link::new("127.0.0.1", "127.0.0.1"), Link::new("::1", "::1"), Link::new("::", "127.0.0.1")];
    let filter = ConnectionFilter::new(ESTABLISHED, links.iter().map(Link::service));
    let dumped = dump(ESTABLISHED, filter.endpoints().iter().copied());
    assert_eq!(dumped.len(), 6);
    let listening = links.each_ref().map(|link| SocketClause {
        local: at_port(link.service().port()),
        ..any(Transport::Tcp, &[TcpState::Listen])
    });
    let established = any(Transport::Tcp, &[TcpState::Established]);
    for clauses in
        [listening.to_vec(), vec![established], vec![any(Transport::Udp, &[TcpState::Established])]]
    {
        assert_eq!(survey(Some(&filter), &clauses).connections, dumped);
    }
    let mut listeners: Vec<u16> = survey(Some(&filter), &listening)
        .sockets
        .iter()
        .map(|socket| socket.connection.local.port())
        .collect();
    let mut ports = links.each_ref().map(|link| link.service().port());
    listeners.sort_unstable();
    ports.sort_unstable();
    assert_eq!(listeners, ports);
}

/// What is compared of a socket.
type Line = (TcpState, [bool; 2], Endpoint, Endpoint);

fn line_of(socket: &Socket) -> Line {
    let Socket { families, connection, .. } = socket;
    (connection.state, [families.ipv4, families.ipv6], connection.local, connection.remote)
}

/// What `ss` tells of the sockets of one protocol. It shows an address that stands for all of both versions as `*`.
#[expect(clippy::disallowed_methods, reason = "the other implementation is a program")]
fn ss(transport: Transport) -> Vec<Socket> {
    let protocol = if transport == Transport::Tcp { "-t" } else { "-u" };
    let shown = Command::new("ss").args(["-H", "-a", "-n", protocol]).output().unwrap();
    assert!(shown.status.success(), "{shown:?}");
    let end = |text: &str| {
        let (address, port) = text.rsplit_once(':').unwrap();
        let address = address.split('%').next().unwrap().trim_start_matches('[').trim_end_matches(']');
        let raw: IpAddr =
            if address == "*" { Ipv6Addr::UNSPECIFIED.into() } else { address.parse().unwrap() };
        (address.to_owned(), raw, Endpoint::new(raw, port.parse().unwrap_or(0)))
    };
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ((text, raw, local), (_, _, remote)) = (end(words[3]), end(words[4]));
        let families = match raw.to_canonical() {
            IpAddr::V4(_) => Families::IPV4,
            IpAddr::V6(_) if text == "*" => Families::BOTH,
            IpAddr::V6(_) => Families::IPV6,
        };
        let connection = Connection {
            local,
            remote,
            state: TcpState::from_name(words[0]).unwrap_or_else(|| panic!("{line}")),
            interface: 0,
            inode: None,
            cookie: Cookie(0),
            uid: 0,
            cgroup: None,
            namespace: NamespaceId::OWN,
        };
        Socket { transport, families, connection }
    };
    String::from_utf8(shown.stdout).unwrap().lines().map(socket).collect()
}

/// Sockets that live as long as it does.
#[derive(Default)]
struct World {
    listeners: Vec<TcpListener>,
    links: Vec<(TcpStream, TcpStream)>,
    others: Vec<OwnedFd>,
    udp: Vec<UdpSocket>,
}

impl World {
    /// Makes or changes one, unless what it takes is not there, or taken.
    fn act(&mut self, kind: u8, pick: usize) {
        let port = 7000 + u16::try_from(pick / 7 % 8).unwrap();
        let address =
            ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "fd00::1", "::", "::ffff:127.0.0.1"][pick % 7];
        let address = SocketAddr::new(address.parse().unwrap(), port);
        match kind {
            0 | 1 => self.listeners.extend(TcpListener::bind(address)),
            2..=4 if !self.listeners.is_empty() => {
                let listener = &self.listeners[pick % self.listeners.len()];
                let bound = listener.local_addr().unwrap();
                let near = ["127.0.0.1", "::1", "::ffff:127.0.0.2"][pick % 3].parse().unwrap();
                let ip = if bound.ip().is_unspecified() { near } else { bound.ip() };
                if let Ok(client) = TcpStream::connect((ip, bound.port())) {
                    // Another may listen there for the other version of IP.
                    listener.set_nonblocking(true).unwrap();
                    self.links.extend(listener.accept().map(|(server, _)| (client, server)));
                }
            }
            5 if !self.links.is_empty() => {
                let (client, server) = &self.links[pick % self.links.len()];
                // A second time it has no effect, or is an error.
                let _shut = if pick.is_multiple_of(2) { client } else { server }.shutdown(Shutdown::Write);
            }
            6 if !self.links.is_empty() => drop(self.links.swap_remove(pick % self.links.len())),
            7 => self.udp.extend(UdpSocket::bind(address)),
            8 if !self.udp.is_empty() => {
                let _unreachable = self.udp[pick % self.udp.len()].connect(address);
            }
            9 => {
                let kind = if pick.is_multiple_of(2) { SocketType::STREAM } else { SocketType::DGRAM };
                let only = socket_with(AddressFamily::INET6, kind, SocketFlags::CLOEXEC, None).unwrap();
                set_ipv6_v6only(&only, true).unwrap();
                if bind(&only, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).is_ok() {
                    if kind == SocketType::STREAM {
                        listen(&only, 8).unwrap();
                    }
                    self.others.push(only);
                }
            }
            _ => {}
        }
    }
}

fn any_end() -> impl Strategy<Value = EndClause> {
    let networks = prop::sample::select(vec![
        "127.0.0.0/8",
        "127.0.0.2",
        "::1",
        "fd00::/8",
        "0.0.0.0",
        "::",
        "0.0.0.0/0",
        "::/0",
        "::/64",
        "192.0.2.0/24",
    ]);
    let ports = prop::sample::select(vec![
        "7000",
        "7003",
        "7001-7002",
        "7004-7010",
        "1-65535",
        "1-7005",
        "32768-65535",
        "9",
    ]);
    let networks = prop_oneof![1 => Just(Vec::new()), 1 => prop::collection::vec(networks, 1..3)];
    let ports = prop_oneof![1 => Just(Vec::new()), 2 => prop::collection::vec(ports, 1..3)];
    (networks, ports, any_bool()).prop_map(|(networks, ports, exact)| EndClause {
        networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
        ports: ports.iter().map(|text| text.parse().unwrap()).collect(),
        exact,
    })
}

fn any_bool() -> impl Strategy<Value = bool> {
    proptest::bool::ANY
}

fn any_clause() -> impl Strategy<Value = SocketClause> {
    let states = prop_oneof![
        1 => Just(TcpState::ALL.to_vec()),
        3 => prop::collection::vec(prop::sample::select(TcpState::ALL.to_vec()), 1..5),
        1 => Just(vec![TcpState::Listen, TcpState::Close]),
    ];
    let families = prop::sample::select(vec![Families::IPV4, Families::IPV6, Families::BOTH]);
    let remote = prop_oneof![1 => Just(EndClause::default()), 1 => any_end()];
    (any_bool(), families, states, any_end(), remote).prop_map(|(is_tcp, families, states, local, remote)| {
        let transport = if is_tcp { Transport::Tcp } else { Transport::Udp };
        SocketClause { families, local, remote, ..any(transport, &states) }
    })
}

/// The same as `ss`, for each clause and for all together.
fn assert_as_ss(clauses: &[SocketClause]) {
    let both = || Transport::ALL.map(ss).concat();
    let lines = |sockets: &[Socket]| -> Vec<Line> {
        let mut lines: Vec<Line> = sockets.iter().map(line_of).collect();
        lines.sort_by_key(|line| (line.0.number(), line.1, line.2, line.3));
        lines
    };
    let mut sock_diag = SockDiag::open(Path::new("/proc")).unwrap();
    let asked: Vec<SocketClauses> = clauses
        .iter()
        .map(|clause| vec![clause.clone()])
        .chain([clauses.to_vec()])
        .map(SocketClauses::new)
        .collect();
    // Until nothing moves while they are asked.
    eventually("ss tells the same before and after", || {
        let before = both();
        let found: Vec<SocketSurvey<Error>> = asked
            .iter()
            .map(|clauses| whole(sock_diag.survey(&SocketFilter { connections: None, clauses })))
            .collect();
        if lines(&before) != lines(&both()) {
            return false;
        }
        for (clauses, found) in asked.iter().zip(found) {
            let wanted: Vec<Socket> = before.iter().copied().filter(|socket| clauses.want(socket)).collect();
            assert_eq!(lines(&found.sockets), lines(&wanted), "{:?}", clauses.all());
        }
        true
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn of_a_random_world_a_survey_tells_what_ss_tells(
        actions in prop::collection::vec((0..10_u8, 0..10_000_usize), 40..120),
        clauses in prop::collection::vec(any_clause(), 40),
    ) {
        on_a_quiet_host(|| {
            let mut world = World::default();
            for (kind, pick) in actions {
                world.act(kind, pick);
            }
            assert_as_ss(&clauses);
        });
    }
}
