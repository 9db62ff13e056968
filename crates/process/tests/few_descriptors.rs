//! An agent that may have few descriptors open. The limit is that of this whole process, so it is alone in its program.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test, helpers included")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::fstat;
use rustix::process::{Resource, Rlimit, setrlimit};
use vms_core::ProcessAdapter;
use vms_core::allowance::Allowance;
use vms_core::connection::Inode;
use vms_core::process::{HolderQuery, Pid, ProcessPattern, ProcessSelector, VerifyQuery};
use vms_process::{Privileges, ProcReader};

const DESCRIPTORS: u64 = 64;
const HOLDERS: usize = 50;

struct Holders(Vec<Child>);

impl Holders {
    #[expect(clippy::disallowed_methods, reason = "a test that looks at processes has to start some")]
    fn start(socket: &TcpStream) -> Self {
        let start = |_| {
            let stdin = Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
            Command::new("/bin/sleep").arg("600").stdin(stdin).spawn().unwrap()
        };
        Self((0..HOLDERS).map(start).collect())
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

#[test]
fn more_holders_than_descriptors_are_all_verified_and_leave_descriptors_to_others() {
    // The hard limit too: the reader raises the other.
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let inode = Inode::new(fstat(socket.as_fd()).unwrap().st_ino).unwrap();
    let children = Holders::start(&socket);
    let pids: Vec<Pid> = children.0.iter().map(|child| Pid(child.id())).collect();

    let pattern = ProcessPattern { name: "sleep".parse().unwrap(), executable: None };
    let selector = ProcessSelector::new([&pattern]).unwrap();
    let id = selector.id(&pattern).unwrap();
    let wanted = BTreeMap::from([(inode, BTreeSet::from([id]))]);
    let census = BTreeSet::new();
    let now = Duration::from_secs(1000);
    let query = HolderQuery {
        selector: &selector,
        wanted: &wanted,
        census: &census,
        located: &census,
        counted: &BTreeSet::new(),
        measured: &BTreeSet::new(),
        every_holder: true,
        now,
        allowance: &Allowance::unlimited(),
    };
    let mut reader = ProcReader::open(Path::new("/proc"), Privileges::read_own().unwrap()).unwrap();
    let scan = reader.find_holders(&query).unwrap();
    assert_eq!(scan.holders[&inode].len(), HOLDERS);
    assert_eq!(reader.kept_handles(), 32);

    let holdings: Vec<(Inode, Pid)> = pids.iter().map(|pid| (inode, *pid)).collect();
    let query = VerifyQuery { selector: &selector, holdings: &holdings, now };
    let is_verified = |reader: &mut ProcReader| {
        let verified = reader.verify_holders(&query).unwrap();
        verified.into_iter().map(|process| process.unwrap().pid).eq(pids.iter().copied())
    };
    assert!(is_verified(&mut reader));
    assert_eq!((reader.effort().opened, reader.kept_handles()), (HOLDERS - 32, 32));

    // Others take all that is left.
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    assert!(is_verified(&mut reader));
    assert_eq!(reader.kept_handles(), 16, "half of what was too many");
    drop(taken);
    assert!(is_verified(&mut reader));
}
