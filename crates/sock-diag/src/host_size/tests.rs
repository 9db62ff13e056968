use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SOCKSTAT: &str = "sockets: used 20\n\
    TCP: inuse 1 orphan 0 tw 3 alloc 100302 mem 69\n\
    UDP: inuse 0 mem 0\n\
    UDPLITE: inuse 0\n\
    RAW: inuse 0\n\
    FRAG: inuse 0 memory 0\n";

#[test]
fn the_sockets_of_all_namespaces_are_those_allocated() {
    assert_eq!(parse_host_sockets(SOCKSTAT.as_bytes()), Some(100_302));
}

#[test]
fn what_does_not_say_how_many_says_nothing() {
    for text in [
        "",
        "UDP: inuse 3 alloc 7\n",
        "TCP: inuse 1 orphan 0 tw 0\n",
        "TCP: alloc",
        "TCP: alloc many",
        "TCP: alloc -1 mem 0",
        "TCP: alloc 4294967296",
        "TCP6: alloc 5",
    ] {
        assert_eq!(parse_host_sockets(text.as_bytes()), None, "{text}");
    }
    assert_eq!(parse_host_sockets(b"\xff\nTCP: alloc 5\n\xff"), Some(5));
    assert_eq!(parse_host_sockets(b"TCP: \xff alloc 5"), None);
}

#[test]
fn a_host_that_does_not_tell_is_taken_for_a_large_one() {
    assert_eq!(read_host_sockets(Path::new("/nonesuch/net/sockstat")), ASSUMED_SOCKETS);
    assert_eq!(read_host_sockets(Path::new("/proc/self/comm")), ASSUMED_SOCKETS);
    assert_eq!(read_host_sockets(Path::new("/proc/self")), ASSUMED_SOCKETS);
}

#[test]
fn sockets_of_both_families_are_counted() {
    let sockets = || read_host_sockets(Path::new("/proc/self/net/sockstat"));
    let listen = |_index| {
        let inet = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        (inet, TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap())
    };
    // Everybody's sockets count: others may close as many at the same time, but not each time.
    let counted = (0..50).any(|_attempt| {
        let before = sockets();
        let listeners: Vec<_> = (0..100).map(listen).collect();
        let after = sockets();
        drop(listeners);
        (before + 190..before + 300).contains(&after)
    });
    assert!(counted);
}

proptest! {
    #[test]
    fn no_bytes_panic(start in 0..400_usize, bytes in vec(any::<u8>(), 0..40)) {
        let mut text = SOCKSTAT.as_bytes().to_vec();
        let start = start.min(text.len());
        text.splice(start..(start + bytes.len()).min(SOCKSTAT.len()), bytes.iter().copied());
        for text in [text.as_slice(), &bytes] {
            if let Some(sockets) = parse_host_sockets(text) {
                prop_assert!(String::from_utf8_lossy(text).contains(&sockets.to_string()));
            }
        }
    }
}
