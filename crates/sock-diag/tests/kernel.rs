//! Against the real kernel, over loopback and without privilege: what is found and what is not.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::sockopt::socket_cookie;
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, set_capabilities};
use vms_core::ConnAdapter;
use vms_core::address::Endpoint;
use vms_core::connection::{Connection, ConnectionFilter, Cookie, Inode, TcpState, TcpStates};
use vms_core::health::Sighting;
use vms_core::namespace::{Approach, Namespace, NamespaceId};
use vms_sock_diag::{Error, SockDiag};

#[path = "kernel/survey.rs"]
mod survey;

const ESTABLISHED: TcpStates = TcpStates::of(&[TcpState::Established]);

/// A listener and one connection to it, both ends in this process.
struct Link {
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Link {
    fn new(bind: &str, connect: &str) -> Self {
        let bind: IpAddr = bind.parse().unwrap();
        let connect: IpAddr = connect.parse().unwrap();
        let listener = TcpListener::bind((bind, 0)).unwrap();
        let client = TcpStream::connect((connect, listener.local_addr().unwrap().port())).unwrap();
        let (server, _) = listener.accept().unwrap();
        Self { listener, client, server }
    }

    /// The well-known end.
    fn service(&self) -> Endpoint {
        endpoint(self.client.peer_addr().unwrap())
    }

    /// The end with the ephemeral port.
    fn source(&self) -> Endpoint {
        endpoint(self.client.local_addr().unwrap())
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(address.ip(), address.port())
}

fn dump(states: TcpStates, endpoints: impl IntoIterator<Item = Endpoint>) -> Vec<Connection> {
    SockDiag::open(Path::new("/proc")).unwrap().dump(&ConnectionFilter::new(states, endpoints)).unwrap()
}

fn of_socket(connections: &[Connection], socket: impl AsFd) -> Vec<Connection> {
    let cookie = Cookie(socket_cookie(socket).unwrap());
    // The cgroup is that of whoever runs the tests.
    let of_socket = connections.iter().filter(|connection| connection.cookie == cookie);
    of_socket.map(|connection| Connection { cgroup: None, ..*connection }).collect()
}

fn inode_of(socket: &impl AsRawFd) -> Option<Inode> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    let number = link.to_str().unwrap().strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap();
    Inode::new(number.parse().unwrap())
}

/// Both sockets of the link are found whichever of its ends is asked for, and nothing else at the service.
fn assert_found_from_both_ends(link: &Link) {
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    for asked in [link.service(), link.source()] {
        let found = dump(ESTABLISHED, [asked]);
        let client = Connection {
            local: link.source(),
            remote: link.service(),
            state: TcpState::Established,
            interface: 0,
            inode: inode_of(&link.client),
            cookie: Cookie(socket_cookie(&link.client).unwrap()),
            uid,
            cgroup: None,
            namespace: NamespaceId::OWN,
        };
        let server = Connection {
            local: link.service(),
            remote: link.source(),
            inode: inode_of(&link.server),
            cookie: Cookie(socket_cookie(&link.server).unwrap()),
            ..client
        };
        assert_eq!(of_socket(&found, &link.client), [client]);
        assert_eq!(of_socket(&found, &link.server), [server]);
        // The ephemeral port may serve another connection as well, to somewhere else.
        let others = found.iter().filter(|other| ![client.cookie, server.cookie].contains(&other.cookie));
        assert!(asked == link.source() || others.count() == 0, "{found:?}");
    }
}

#[test]
fn an_ipv4_connection_is_found_from_both_ends() {
    assert_found_from_both_ends(&Link::new("127.0.0.1", "127.0.0.1"));
}

#[test]
fn an_ipv6_connection_is_found_from_both_ends() {
    assert_found_from_both_ends(&Link::new("::1", "::1"));
}

#[test]
fn a_dual_stack_server_and_its_ipv4_client_are_found_by_their_ipv4_endpoints() {
    let link = Link::new("::", "127.0.0.1");
    assert!(link.server.local_addr().unwrap().is_ipv6(), "the server's socket is AF_INET6");
    assert_found_from_both_ends(&link);
}

#[test]
fn a_client_with_a_mapped_socket_is_found_by_its_ipv4_endpoints() {
    let link = Link::new("127.0.0.1", "::ffff:127.0.0.1");
    assert!(link.client.peer_addr().unwrap().is_ipv6(), "the client's socket is AF_INET6");
    assert_found_from_both_ends(&link);
}

#[test]
fn ipv4_ipv6_and_mapped_connections_are_found_together() {
    let links = [Link::new("127.0.0.1", "127.0.0.1"), Link::new("::1", "::1"), Link::new("::", "127.0.0.1")];
    let found = dump(ESTABLISHED, links.iter().map(Link::service));
    assert_eq!(found.len(), 6, "{found:?}");
    for link in &links {
        assert_eq!(of_socket(&found, &link.client).len(), 1);
        assert_eq!(of_socket(&found, &link.server).len(), 1);
    }
}

#[test]
fn another_address_or_port_is_not_found() {
    let link = Link::new("127.0.0.1", "127.0.0.1");
    let service = link.service();
    let other_address = Endpoint::new(Ipv4Addr::new(127, 0, 0, 2).into(), service.port());
    let other_family = Endpoint::new(Ipv6Addr::LOCALHOST.into(), service.port());
    assert!(dump(ESTABLISHED, [other_address, other_family]).is_empty());
}

#[test]
fn a_listener_is_found_only_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = endpoint(listener.local_addr().unwrap());
    let all_but_listen = TcpStates::of(
        &TcpState::ALL.into_iter().filter(|state| *state != TcpState::Listen).collect::<Vec<_>>(),
    );
    assert!(dump(all_but_listen, [service]).is_empty());
    let found = dump(TcpStates::of(&[TcpState::Listen]), [service]);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].state, found[0].local), (TcpState::Listen, service));
}

#[test]
fn a_half_closed_connection_is_no_longer_established_at_either_end() {
    let mut link = Link::new("127.0.0.1", "127.0.0.1");
    link.server.shutdown(Shutdown::Write).unwrap();
    // The end of the stream has arrived, and is acknowledged with what is sent back.
    assert_eq!(link.client.read(&mut [0; 8]).unwrap(), 0);
    link.client.write_all(b"x").unwrap();
    assert_eq!(link.server.read(&mut [0; 8]).unwrap(), 1);

    assert!(dump(ESTABLISHED, [link.service()]).is_empty());
    let half_closed = TcpStates::of(&[TcpState::CloseWait, TcpState::FinWait2]);
    let found = dump(half_closed, [link.service()]);
    assert_eq!(of_socket(&found, &link.client)[0].state, TcpState::CloseWait);
    assert_eq!(of_socket(&found, &link.server)[0].state, TcpState::FinWait2);
}

#[test]
fn a_connection_that_nobody_has_accepted_has_no_inode() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let found = dump(ESTABLISHED, [endpoint(listener.local_addr().unwrap())]);
    assert_eq!(found.len(), 2);
    assert_eq!(of_socket(&found, &client)[0].inode, inode_of(&client));
    let waiting = found.iter().find(|connection| connection.local == endpoint(client.peer_addr().unwrap()));
    assert_eq!(waiting.unwrap().inode, None);
}

#[test]
fn one_socket_serves_many_dumps_and_follows_the_connection() {
    let mut sock_diag = SockDiag::open(Path::new("/proc")).unwrap();
    let link = Link::new("127.0.0.1", "127.0.0.1");
    let filter = ConnectionFilter::new(ESTABLISHED, [link.service()]);
    for _ in 0..50 {
        assert_eq!(sock_diag.dump(&filter).unwrap().len(), 2);
    }
    drop(link);
    assert!(sock_diag.dump(&filter).unwrap().is_empty());
}

#[test]
fn a_connection_is_found_among_any_number_of_endpoints() {
    let links = [Link::new("127.0.0.1", "127.0.0.1"), Link::new("::1", "::1"), Link::new("::", "127.0.0.1")];
    let services: Vec<Endpoint> = links.iter().map(Link::service).collect();
    // Spread over all ports and 250 addresses, then all at the port of one of the services.
    let spread = |index: u16| {
        let last = u8::try_from(index % 250).unwrap();
        let ip = if index.is_multiple_of(2) {
            Ipv4Addr::new(192, 0, 2, last).into()
        } else {
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()))
        };
        Endpoint::new(ip, index.wrapping_mul(3))
    };
    let one_port = |index: u16| {
        let [high, low] = index.to_be_bytes();
        Endpoint::new(Ipv4Addr::new(198, 18, high, low).into(), services[0].port())
    };
    let mut sock_diag = SockDiag::open(Path::new("/proc")).unwrap();
    for count in [0, 1, 100, 500, 1000, 5000, 20_000] {
        let spread: Vec<Endpoint> = (0..count).map(spread).collect();
        let one_port: Vec<Endpoint> = (0..count).map(one_port).collect();
        for others in [spread, one_port] {
            let filter =
                ConnectionFilter::new(ESTABLISHED, others.into_iter().chain(services.iter().copied()));
            // The first dump may go without a program, to count the sockets.
            for _ in 0..2 {
                let found = sock_diag.dump(&filter).unwrap();
                assert_eq!(found.len(), 6, "{count}: {found:?}");
            }
        }
    }
}

#[test]
fn where_the_size_of_the_host_is_not_told_connections_are_found_all_the_same() {
    let link = Link::new("127.0.0.1", "127.0.0.1");
    let mut sock_diag = SockDiag::open(Path::new("/nonesuch")).unwrap();
    assert_eq!(sock_diag.dump(&ConnectionFilter::new(ESTABLISHED, [link.service()])).unwrap().len(), 2);
}

#[test]
fn a_reply_of_many_pieces_is_complete() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // About 100 bytes a socket in pieces of 32 KiB at most.
    let links: Vec<(TcpStream, TcpStream)> =
        (0..450).map(|_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0)).collect();
    let found = dump(ESTABLISHED, [endpoint(address)]);
    assert_eq!(found.len(), 2 * links.len());
    for (client, server) in &links {
        assert_eq!(of_socket(&found, client).len(), 1);
        assert_eq!(of_socket(&found, server).len(), 1);
    }
}

#[test]
fn a_standing_connection_is_found_once_in_each_dump_while_others_come_and_go() {
    let link = Link::new("127.0.0.1", "127.0.0.1");
    let address = link.listener.local_addr().unwrap();
    let enough = AtomicBool::new(false);
    let mut sock_diag = SockDiag::open(Path::new("/proc")).unwrap();
    let filter = ConnectionFilter::new(ESTABLISHED, [endpoint(address)]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                drop((TcpStream::connect(address).unwrap(), link.listener.accept().unwrap()));
            }
        });
        let found: Vec<_> = (0..100).map(|_| sock_diag.dump(&filter)).collect();
        enough.store(true, Ordering::Relaxed);
        for found in found {
            let found = found.unwrap();
            assert_eq!(of_socket(&found, &link.client).len(), 1);
            assert_eq!(of_socket(&found, &link.server).len(), 1);
        }
    });
}

/// The sockets of both ends, as a dump tells them: the client's, then the server's.
fn both_ends(link: &Link) -> [Connection; 2] {
    let found = dump(ESTABLISHED, [link.service()]);
    [of_socket(&found, &link.client)[0], of_socket(&found, &link.server)[0]]
}

fn lookup(connections: &[Connection]) -> Vec<Option<Sighting>> {
    SockDiag::open(Path::new("/proc")).unwrap().lookup(connections).unwrap()
}

/// Both ends are found again as the dump told them, with every byte counted at the right end.
fn assert_found_again(mut link: Link) {
    let ends = both_ends(&link);
    link.client.write_all(&[7; 10_000]).unwrap();
    link.server.read_exact(&mut [0; 9_000]).unwrap();
    link.server.write_all(&[7; 300]).unwrap();
    link.client.read_exact(&mut [0; 300]).unwrap();

    let sightings = lookup(&ends);
    let [Some(client), Some(server)] = sightings[..] else { panic!("{sightings:?}") };
    assert_eq!([client.connection, server.connection], ends);
    let (client, server) = (client.vitals.unwrap(), server.vitals.unwrap());
    assert_eq!((client.sent_bytes, client.received_bytes), (10_000, 300));
    assert_eq!((server.sent_bytes, server.received_bytes), (300, 10_000));
    assert_eq!((client.unread_bytes, server.unread_bytes), (0, 1_000));
    assert_eq!((client.unsent_bytes, client.unacknowledged_bytes), (0, 0), "the answer acknowledged all");
    for vitals in [client, server] {
        assert!(vitals.rtt.is_some_and(|rtt| rtt < Duration::from_secs(5)), "{vitals:?}");
        assert!(vitals.since_data < Duration::from_mins(1), "{vitals:?}");
        assert!(vitals.since_acknowledgment < Duration::from_mins(1), "{vitals:?}");
        assert_eq!(vitals.unanswered_probes, 0);
        // A machine that stands still for a moment sends again.
        assert!(vitals.retransmits < 10, "{vitals:?}");
    }
}

#[test]
fn an_ipv4_connection_is_found_again() {
    assert_found_again(Link::new("127.0.0.1", "127.0.0.1"));
}

#[test]
fn an_ipv6_connection_is_found_again() {
    assert_found_again(Link::new("::1", "::1"));
}

#[test]
fn connections_with_mapped_addresses_are_found_again() {
    assert_found_again(Link::new("::", "127.0.0.1"));
    assert_found_again(Link::new("127.0.0.1", "::ffff:127.0.0.1"));
}

/// Says why the test under way is left out; with `VMS_TESTS_FAIL_ON_SKIP=1` panics instead.
#[track_caller]
fn skip(lack: &str) {
    #[expect(clippy::disallowed_methods, reason = "how strict to be is told by the environment")]
    let fail = std::env::var_os("VMS_TESTS_FAIL_ON_SKIP").is_some_and(|value| value == "1");
    assert!(!fail, "SKIPPED: {lack} (VMS_TESTS_FAIL_ON_SKIP=1)");
    let (thread, mut stderr) = (std::thread::current(), std::io::stderr());
    // Not through print!, which the test runner keeps to itself when a test passes.
    writeln!(stderr, "SKIPPED: {}: {lack}", thread.name().unwrap_or("a test")).unwrap();
}

/// Runs the test on a thread of its own in a network namespace of its own, which is gone with the thread. Sockets that
/// are made there, and programs that are started there, belong to it.
#[expect(deprecated, reason = "what is unsafe about it concerns UnshareFlags::FILES alone")]
fn on_another_host(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let test = scope.spawn(|| {
            rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
            test();
        });
        test.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Runs iproute2.
#[expect(clippy::disallowed_methods, reason = "interfaces are made by a program")]
fn ip(words: &str) -> io::Result<Output> {
    Command::new("ip").args(words.split(' ')).output()
}

#[test]
fn a_connection_bound_to_an_interface_is_found_again() {
    if !geteuid().is_root() || ip("-Version").is_err() {
        return skip("needs root and iproute2, to have an interface of its own");
    }
    on_another_host(|| {
        // A link-local address: its connections are bound to its interface. Usable at once: duplicate address
        // detection would take a second.
        for step in [
            "link set lo up",
            "link add eth0 type veth peer name eth1",
            "link set eth0 addrgenmode none",
            "link set eth0 up",
            "link set eth1 up",
            "address add fe80::1/64 dev eth0 nodad",
        ] {
            let done = ip(step).unwrap();
            assert!(done.status.success(), "ip {step}: {done:?}");
        }
        let index =
            SockDiag::open(Path::new("/proc")).unwrap().interface_index(NamespaceId::OWN, "eth0").unwrap();
        let bind = SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        let listener = TcpListener::bind(bind).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let link = Link { listener, client, server };
        let ends = both_ends(&link);
        assert!(ends.iter().all(|end| end.interface == index), "{ends:?}");
        let elsewhere = ends.map(|end| Connection { interface: index + 1000, ..end });
        assert_eq!(lookup(&elsewhere), [None, None]);
        assert_found_again(link);
    });
}

#[test]
fn a_socket_with_another_cookie_is_not_the_one_asked_for() {
    let link = Link::new("127.0.0.1", "127.0.0.1");
    let [client, server] = both_ends(&link);
    let successor = Connection { cookie: Cookie(client.cookie.0 + 1_000_000), ..client };
    let swapped = Connection { cookie: client.cookie, ..server };
    let sightings = lookup(&[successor, client, swapped, server]);
    assert_eq!(sightings.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false, true]);
}

#[test]
fn a_closed_connection_is_gone_or_told_in_its_other_state() {
    let link = Link::new("127.0.0.1", "127.0.0.1");
    let ends = both_ends(&link);
    let Link { listener, client, mut server } = link;
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0, "the end of the stream has arrived");
    let sightings = lookup(&ends);
    let server_end = sightings[1].expect("its process holds it still");
    assert_eq!(server_end.connection, Connection { state: TcpState::CloseWait, ..ends[1] });
    assert!(server_end.vitals.is_some());
    assert!(
        sightings[0].is_none_or(|client| client.connection.state != TcpState::Established),
        "{sightings:?}"
    );

    drop((listener, server));
    let sightings = lookup(&ends);
    assert_eq!(sightings[1], None, "closed at both ends, here second");
    assert!(
        sightings[0]
            .is_none_or(|client| client.connection.state == TcpState::TimeWait && client.vitals.is_none())
    );
}

#[test]
fn a_thousand_lookups_in_one_call_keep_their_order() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let links: Vec<(TcpStream, TcpStream)> =
        (0..250).map(|_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0)).collect();
    let mut found = dump(ESTABLISHED, [endpoint(address)]);
    assert_eq!(found.len(), 500);
    // Each second one is gone, and the order is none that the kernel knows.
    found.sort_unstable_by_key(|connection| connection.cookie.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let asked: Vec<Connection> = found
        .iter()
        .flat_map(|connection| [*connection, Connection { cookie: Cookie(u64::MAX), ..*connection }])
        .collect();
    let mut sock_diag = SockDiag::open(Path::new("/proc")).unwrap();
    for _ in 0..2 {
        let sightings = sock_diag.lookup(&asked).unwrap();
        assert_eq!(sightings.len(), 1_000);
        for (pair, connection) in sightings.chunks(2).zip(&found) {
            assert_eq!(pair[0].unwrap().connection, *connection);
            assert_eq!(pair[1], None);
        }
    }
    assert_eq!(sock_diag.dump(&ConnectionFilter::new(ESTABLISHED, [endpoint(address)])).unwrap().len(), 500);
    drop(links);
}

#[test]
fn what_is_not_acknowledged_is_told_apart_from_what_is_not_sent() {
    let mut link = Link::new("127.0.0.1", "127.0.0.1");
    let ends = both_ends(&link);
    link.client.set_nonblocking(true).unwrap();
    // Until the reader's buffer and then the writer's are full.
    let mut written = 0;
    while let Ok(bytes) = link.client.write(&[7; 16_384]) {
        written += u64::try_from(bytes).unwrap();
    }
    let client = lookup(&ends)[0].unwrap().vitals.unwrap();
    assert!(client.unsent_bytes > 0, "{client:?}");
    assert_eq!(client.sent_bytes + client.unsent_bytes, written, "{client:?}");
}

#[test]
fn interfaces_are_known_by_name() {
    let sock_diag = SockDiag::open(Path::new("/proc")).unwrap();
    let index = std::fs::read_to_string("/sys/class/net/lo/ifindex").unwrap();
    assert_eq!(sock_diag.interface_index(NamespaceId::OWN, "lo"), Some(index.trim().parse().unwrap()));
    for absent in ["", "nonesuch0", "a-name-that-is-longer-than-any", "l\0o"] {
        assert_eq!(sock_diag.interface_index(NamespaceId::OWN, absent), None, "{absent:?}");
    }
}

/// Another network namespace, made and left by a thread; what `make` makes there stays there.
#[expect(deprecated, reason = "what is unsafe about it concerns UnshareFlags::FILES alone")]
fn abroad<T: Send>(number: u64, make: impl FnOnce() -> T + Send) -> (Namespace, T) {
    let build = || {
        rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
        assert!(ip("link set lo up").unwrap().status.success());
        let handle = File::open("/proc/thread-self/ns/net").unwrap();
        (Namespace { id: NamespaceId(number), approach: Approach::Enter(Arc::new(handle.into())) }, make())
    };
    std::thread::scope(|scope| scope.spawn(build).join().unwrap())
}

fn own_namespace() -> PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap()
}

#[test]
fn connections_of_other_network_namespaces_are_told_apart_and_looked_up_where_they_are() {
    if !geteuid().is_root() {
        return skip("needs root, for network namespaces");
    }
    on_another_host(|| {
        // The same two endpoints in each.
        let twin = || {
            let listener = TcpListener::bind("127.0.0.1:7000").unwrap();
            let client = TcpStream::connect("127.0.0.1:7000").unwrap();
            (listener.accept().unwrap().0, client, listener)
        };
        let service = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 7000);
        let filter = ConnectionFilter::new(ESTABLISHED, [service]);
        assert!(ip("link set lo up").unwrap().status.success());
        let own = twin();
        let twins = [abroad(1, twin), abroad(2, twin)];
        let namespaces = twins.each_ref().map(|(namespace, _)| namespace.clone());
        let before = own_namespace();
        let mut sock_diag = SockDiag::open_for_all_namespaces(Path::new("/proc")).unwrap();
        let none = BTreeSet::new();
        assert_eq!(sock_diag.attend(&namespaces, &none).unwrap(), none);
        assert_eq!(own_namespace(), before, "the thread is back");

        let everywhere = |sock_diag: &mut SockDiag| {
            let mut found = sock_diag.dump(&filter).unwrap();
            for id in [1, 2] {
                found.extend(sock_diag.dump_in(NamespaceId(id), &filter).unwrap());
            }
            found
        };
        let found = everywhere(&mut sock_diag);
        for (namespace, client) in
            [(NamespaceId::OWN, &own.1), (NamespaceId(1), &twins[0].1.1), (NamespaceId(2), &twins[1].1.1)]
        {
            let of_client = of_socket(&found, client);
            assert_eq!(of_client.iter().map(|one| one.namespace).collect::<Vec<_>>(), [namespace]);
            assert_eq!(found.iter().filter(|one| one.namespace == namespace).count(), 2, "and its other end");
        }
        let sightings = sock_diag.lookup(&found).unwrap();
        assert!(sightings.iter().zip(&found).all(|(seen, known)| seen.unwrap().connection == *known));

        // Asked for where it is not, a socket is not found, whatever else has its endpoints there.
        let moved: Vec<Connection> = found
            .iter()
            .map(|known| Connection { namespace: NamespaceId((known.namespace.0 + 1) % 3), ..*known })
            .collect();
        assert!(sock_diag.lookup(&moved).unwrap().iter().all(Option::is_none));
        assert!(sock_diag.interface_index(NamespaceId(1), "lo").is_some());

        sock_diag.attend(&[], &BTreeSet::from([NamespaceId(2)])).unwrap();
        let mut left: Vec<u64> = everywhere(&mut sock_diag).iter().map(|one| one.namespace.0).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 0, 2, 2], "in use");
        let sightings = sock_diag.lookup(&found).unwrap();
        assert_eq!(sightings.iter().flatten().count(), 4, "what is attended to no more is not found");
    });
}

#[test]
fn a_thread_that_may_not_enter_other_network_namespaces_says_which() {
    if !geteuid().is_root() {
        return skip("needs root, for network namespaces");
    }
    on_another_host(|| {
        let (namespace, ()) = abroad(1, || ());
        let mut sock_diag = SockDiag::open_for_all_namespaces(Path::new("/proc")).unwrap();
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, sets).unwrap();
        let refused = sock_diag.attend(&[namespace], &BTreeSet::new()).unwrap();
        assert_eq!(refused, [NamespaceId(1)].into());
        sock_diag
            .dump(&ConnectionFilter::new(ESTABLISHED, [Endpoint::new(Ipv4Addr::LOCALHOST.into(), 1)]))
            .unwrap();
    });
}
