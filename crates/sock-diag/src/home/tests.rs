//! These take root, which makes the namespaces, and say so without.

use std::io::Write;
use std::process::Command;

use rustix::net::netlink::SOCK_DIAG;
use rustix::process::geteuid;
use rustix::thread::UnshareFlags;
use vms_netlink::{NetlinkSocket, Transport};

use super::*;

/// The name of an interface that only one namespace has.
const SIGN: &str = "vmssign";

#[expect(clippy::disallowed_methods, reason = "interfaces are made by a program")]
fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
}

/// Runs the test on a thread that is at home in a network namespace of its own, with another one to visit.
#[expect(deprecated, reason = "what is unsafe about it concerns UnshareFlags::FILES alone")]
fn with_another(test: impl FnOnce(OwnedFd) + Send) {
    if !geteuid().is_root() {
        let mut stderr = std::io::stderr();
        return writeln!(stderr, "SKIPPED: needs root, for network namespaces").unwrap();
    }
    let work = || {
        rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
        ip(&format!("link add {SIGN} type veth peer name vmspeer"));
        let there = File::open("/proc/thread-self/ns/net").unwrap().into();
        rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
        test(there);
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap());
}

fn place() -> std::path::PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap()
}

#[test]
fn a_socket_serves_its_namespace_also_when_it_is_opened_anew_and_the_thread_stays() {
    with_another(|there| {
        let (home, before) = (Home::open(Path::new("/proc")).unwrap(), place());
        let abroad = Abroad { home: Arc::new(home), there: Arc::new(there) };
        let mut socket = NetlinkSocket::new(SOCK_DIAG, abroad);
        for _anew in 0..2 {
            socket.reopen().unwrap();
            assert!(socket.interface_index(SIGN).is_some());
            assert_eq!(place(), before);
        }
        let mut at_home = NetlinkSocket::new(SOCK_DIAG, ());
        at_home.reopen().unwrap();
        assert!(at_home.interface_index("lo").is_some() && at_home.interface_index(SIGN).is_none());
    });
}

#[test]
fn a_thread_that_cannot_come_back_does_nothing_until_it_can() {
    with_another(|there| {
        // What is no namespace cannot be entered.
        let nowhere = File::open("/dev/null").unwrap().into();
        let home = Arc::new(Home { own: nowhere, is_away: AtomicBool::new(false) });
        let abroad = Abroad { home: Arc::clone(&home), there: Arc::new(there) };
        home.come_back().unwrap();
        assert!(abroad.visit(|| Ok(())).is_err());
        assert!(home.come_back().is_err());
        let mut is_done = false;
        let visited = abroad.visit(|| {
            is_done = true;
            Ok(())
        });
        assert!(visited.is_err() && !is_done);
    });
}

#[test]
fn what_cannot_be_entered_leaves_the_thread_at_home() {
    with_another(|_there| {
        let (home, before) = (Arc::new(Home::open(Path::new("/proc")).unwrap()), place());
        let nowhere = File::open("/dev/null").unwrap().into();
        let abroad = Abroad { home: Arc::clone(&home), there: Arc::new(nowhere) };
        assert!(abroad.visit(|| Ok(())).is_err());
        home.come_back().unwrap();
        assert_eq!(place(), before);
    });
}
