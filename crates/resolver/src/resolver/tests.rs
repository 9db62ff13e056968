use std::fs;
use std::net::IpAddr;

use tempfile::TempDir;
use vms_core::socket::Families;

use super::*;

/// Longer than any of it takes.
const LONG: Duration = Duration::from_mins(1);

/// A resolver by these lines of a hosts file, and no name server.
fn resolver(hosts: &str) -> (TempDir, Resolver) {
    let directory = TempDir::new().unwrap();
    let files =
        Files { hosts: directory.path().join("hosts"), resolv_conf: directory.path().join("resolv.conf") };
    fs::write(&files.hosts, hosts).unwrap();
    // Port 53 of that address is nobody's.
    fs::write(&files.resolv_conf, "nameserver 127.0.0.99\noptions timeout:1 attempts:1\n").unwrap();
    (directory, Resolver::new(files))
}

fn queries(names: &[&str]) -> BTreeSet<NameQuery> {
    let query = |name: &&str| NameQuery { name: name.parse().unwrap(), families: Families::BOTH };
    names.iter().map(query).collect()
}

fn addresses(resolver: &Resolver, name: &str) -> Result<Vec<IpAddr>, String> {
    match resolver.resolution(queries(&[name]).first().unwrap()) {
        Resolution::Known(known) => Ok(known.addresses.to_vec()),
        Resolution::Unknown(cause) => Err(cause.to_string()),
    }
}

#[test]
fn what_is_wanted_is_known_once_it_was_waited_for_and_the_rest_is_not() {
    let (_directory, resolver) = resolver("10.0.0.1 a.test\n10.0.0.2 b.test\n");
    assert!(resolver.wait(Duration::ZERO), "nothing is wanted");
    resolver.want(&queries(&["a.test"])).unwrap();
    assert!(resolver.wait(LONG));
    assert_eq!(addresses(&resolver, "a.test"), Ok(vec![[10, 0, 0, 1].into()]));
    assert!(addresses(&resolver, "b.test").is_err());
    // Beside a name that nobody knows, and more than are asked for at a time.
    let many: Vec<String> = (0..3 * AT_ONCE).map(|number| format!("host{number}.test")).collect();
    let mut more: Vec<&str> = many.iter().map(String::as_str).collect();
    more.push("b.test");
    resolver.want_also(&queries(&more)).unwrap();
    assert!(resolver.wait(LONG));
    assert_eq!(addresses(&resolver.clone(), "b.test"), Ok(vec![[10, 0, 0, 2].into()]));
    assert!(addresses(&resolver, "a.test").is_ok());
    let cause = addresses(&resolver, "host0.test").unwrap_err();
    assert!(cause.contains("see whether the name servers in /etc/resolv.conf answer"), "{cause}");
    resolver.want(&queries(&["b.test"])).unwrap();
    assert!(addresses(&resolver, "a.test").is_err(), "it is wanted no longer");
}

#[test]
fn nobody_is_waited_for_longer_than_is_said() {
    let (directory, resolver) = resolver("");
    // Reading it takes until somebody writes.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        directory.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    fs::rename(directory.path().join("pipe"), directory.path().join("hosts")).unwrap();
    resolver.want(&queries(&["a.test"])).unwrap();
    assert!(!resolver.wait(Duration::from_millis(50)));
    assert!(addresses(&resolver, "a.test").unwrap_err().contains("not been answered yet"));
    fs::write(directory.path().join("hosts"), "10.0.0.1 a.test\n").unwrap();
    assert!(resolver.wait(LONG));
    assert!(addresses(&resolver, "a.test").is_ok());
}

#[test]
fn the_thread_ends_with_the_last_who_asks() {
    let (_directory, resolver) = resolver("10.0.0.1 a.test\n");
    resolver.want(&queries(&["a.test"])).unwrap();
    let other = resolver.clone();
    let shared = Arc::downgrade(&resolver.0.shared);
    drop(resolver);
    assert!(other.wait(LONG) && addresses(&other, "a.test").is_ok());
    drop(other);
    let waiting = tokio::time::Instant::now();
    while shared.upgrade().is_some() {
        assert!(waiting.elapsed() < LONG, "it goes on");
        thread::sleep(Duration::from_millis(1));
    }
}
