//! Thousands of processes, and thousands of descriptors. Apart from other tests, which would see them too.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test, helpers included")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::fs::fstat;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vms_core::ProcessAdapter;
use vms_core::allowance::Allowance;
use vms_core::connection::Inode;
use vms_core::process::{HolderQuery, PatternId, Pid, ProcessPattern, ProcessSelector, VerifyQuery};
use vms_process::{Privileges, ProcReader};

#[path = "real_proc/skip.rs"]
mod skip;

const PROCESSES: usize = 2000;
const DESCRIPTORS: usize = 10_000;
/// Descriptors that the test program needs for that.
const LIMIT: u64 = 20_000;

struct Idle(Vec<Child>);

impl Idle {
    #[expect(clippy::disallowed_methods, reason = "a test that looks at processes has to start some")]
    fn start() -> Self {
        Self((0..PROCESSES).map(|_| Command::new("/bin/sleep").arg("600").spawn().unwrap()).collect())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
        }
        for child in &mut self.0 {
            child.wait().unwrap();
        }
    }
}

fn reader() -> ProcReader {
    ProcReader::open(Path::new("/proc"), Privileges::read_own().unwrap()).unwrap()
}

#[test]
fn a_second_census_or_count_of_thousands_of_processes_reads_the_names_of_new_ones_only() {
    let idle = Idle::start();
    let pattern = ProcessPattern { name: "vms-absent".parse().unwrap(), executable: None };
    let selector = ProcessSelector::new([&pattern]).unwrap();
    let wanted = BTreeMap::new();
    let census = BTreeSet::from([selector.id(&pattern).unwrap()]);
    let mut reader = reader();
    let mut ask = |milliseconds| {
        let now = Duration::from_secs(1000) + Duration::from_millis(milliseconds);
        let query = HolderQuery {
            selector: &selector,
            wanted: &wanted,
            census: &census,
            located: &census,
            counted: &BTreeSet::new(),
            measured: &BTreeSet::new(),
            every_holder: false,
            now,
            allowance: &Allowance::unlimited(),
        };
        assert!(reader.find_holders(&query).unwrap().present.is_empty());
        reader.effort().names
    };
    assert!(ask(0) >= PROCESSES);
    // Other programs may begin meanwhile, on any host.
    let again = ask(1);
    assert!(again < 50, "{again}");
    assert!(ask(60_000) >= PROCESSES);
    count_twice();
    drop(idle);
}

/// All of them are counted, and the second time by what is remembered of their names.
fn count_twice() {
    let pattern = ProcessPattern { name: "sleep".parse().unwrap(), executable: None };
    let selector = ProcessSelector::new([&pattern]).unwrap();
    let id = selector.id(&pattern).unwrap();
    let mut reader = reader();
    let mut count = |milliseconds, measured: &BTreeSet<PatternId>| {
        let query = HolderQuery {
            selector: &selector,
            wanted: &BTreeMap::new(),
            census: &BTreeSet::new(),
            located: &BTreeSet::new(),
            counted: &BTreeSet::from([id]),
            measured,
            every_holder: false,
            now: Duration::from_secs(1000) + Duration::from_millis(milliseconds),
            allowance: &Allowance::unlimited(),
        };
        let scan = reader.find_holders(&query).unwrap();
        let fitting = usize::try_from(scan.headcounts.get(&id).unwrap().fitting).unwrap();
        assert!(fitting >= PROCESSES);
        assert_eq!(scan.usages.get(&id).map(Vec::len), (!measured.is_empty()).then_some(fitting));
        reader.effort().names
    };
    assert!(count(0, &BTreeSet::new()) >= PROCESSES);
    let again = count(1, &BTreeSet::new());
    assert!(again < 50, "{again}");
    // To read what they use takes no names either.
    let again = count(2, &BTreeSet::from([id]));
    assert!(again < 50, "{again}");
}

#[test]
fn a_socket_among_thousands_of_descriptors_is_searched_once_and_verified_by_one_link() {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < LIMIT) {
        return skip::skip(&format!("needs {LIMIT} descriptors (ulimit -n), and may have {limit:?}"));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let null = File::open("/dev/null").unwrap();
    let _many: Vec<File> = (0..DESCRIPTORS).map(|_| null.try_clone().unwrap()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let inode = Inode::new(fstat(socket.as_fd()).unwrap().st_ino).unwrap();

    let name = std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let pattern = ProcessPattern { name: name.parse().unwrap(), executable: None };
    let selector = ProcessSelector::new([&pattern]).unwrap();
    let wanted = BTreeMap::from([(inode, BTreeSet::from([selector.id(&pattern).unwrap()]))]);
    let census = BTreeSet::new();
    let now = Duration::from_secs(1000);
    let query = HolderQuery {
        selector: &selector,
        wanted: &wanted,
        census: &census,
        located: &census,
        counted: &BTreeSet::new(),
        measured: &BTreeSet::new(),
        every_holder: false,
        now,
        allowance: &Allowance::unlimited(),
    };
    let mut reader = reader();
    let scan = reader.find_holders(&query).unwrap();
    let own_pid = Pid(std::process::id());
    assert_eq!(scan.holders[&inode].first().unwrap().pid, own_pid);

    let holdings = [(inode, own_pid)];
    let query = VerifyQuery { selector: &selector, holdings: &holdings, now };
    assert!(reader.verify_holders(&query).unwrap().remove(0).is_some());
    let effort = reader.effort();
    assert_eq!((effort.opened, effort.sockets, effort.rechecks), (0, 0, 1));

    // Moved to the end of the table: read through once.
    let moved = socket.try_clone().unwrap();
    drop(socket);
    assert!(reader.verify_holders(&query).unwrap().remove(0).is_some());
    assert_eq!(reader.effort().opened, 1);
    drop(moved);
    assert_eq!(reader.verify_holders(&query).unwrap(), [None]);
}

#[test]
fn searches_that_are_cut_short_among_thousands_of_descriptors_go_on_there_until_the_socket_is_found() {
    /// So many descriptors have the process after which the socket comes, and a third of them one search has time for.
    const BEFORE: u32 = 3_000;
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < LIMIT) {
        return skip::skip(&format!("needs {LIMIT} descriptors (ulimit -n), and may have {limit:?}"));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let null = File::open("/dev/null").unwrap();
    let _many: Vec<File> = (0..BEFORE).map(|_| null.try_clone().unwrap()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let inode = Inode::new(fstat(socket.as_fd()).unwrap().st_ino).unwrap();
    let last = rustix::io::fcntl_dupfd_cloexec(&socket, i32::try_from(BEFORE).unwrap()).unwrap();
    drop(socket);

    let name = std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let pattern = ProcessPattern { name: name.parse().unwrap(), executable: None };
    let selector = ProcessSelector::new([&pattern]).unwrap();
    let wanted = BTreeMap::from([(inode, BTreeSet::from([selector.id(&pattern).unwrap()]))]);
    let census = BTreeSet::new();
    let mut reader = reader();
    // Most searches end among the processes that come before, whose names are read for the first time.
    for search in 1..1_000 {
        let query = HolderQuery {
            selector: &selector,
            wanted: &wanted,
            census: &census,
            located: &census,
            counted: &BTreeSet::new(),
            measured: &BTreeSet::new(),
            every_holder: false,
            now: Duration::from_secs(1000),
            allowance: &Allowance::of_units(BEFORE / 3),
        };
        let scan = reader.find_holders(&query).unwrap();
        if let Some(holders) = scan.holders.get(&inode) {
            assert_eq!(
                holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(),
                [Pid(std::process::id())]
            );
            assert!(search > 2, "one search has no time for that");
            assert!(scan.undecided.is_empty());
            drop(last);
            return;
        }
        assert_eq!(scan.undecided, [inode].into(), "search {search}");
    }
    panic!("never found");
}
