//! What a reader that remembers notices of processes that change, and when.

use std::io::{Read, Write};

use vms_core::process::VerifyQuery;

use super::*;

/// A reader, and one pattern that is asked about again and again.
struct Watch {
    reader: ProcReader,
    selector: ProcessSelector,
    id: PatternId,
    now: Duration,
}

impl Watch {
    fn new(name: &str) -> Self {
        let pattern = ProcessPattern { name: name.parse().unwrap(), executable: None };
        let selector = ProcessSelector::new([&pattern]).unwrap();
        let id = selector.id(&pattern).unwrap();
        Self { reader: reader("/proc"), selector, id, now: Duration::from_secs(1000) }
    }

    fn later(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self
    }

    /// Who holds the socket and fits.
    fn holders(&mut self, inode: Inode) -> Vec<Pid> {
        let wanted = BTreeMap::from([(inode, BTreeSet::from([self.id]))]);
        let (census, now) = (BTreeSet::new(), self.now);
        let query = HolderQuery {
            selector: &self.selector,
            wanted: &wanted,
            census: &census,
            located: &census,
            counted: &BTreeSet::new(),
            measured: &BTreeSet::new(),
            every_holder: false,
            now,
            allowance: &Allowance::unlimited(),
        };
        let scan = self.reader.find_holders(&query).unwrap();
        Answer { id: self.id, scan }.pids(inode)
    }

    /// Whether anyone fits.
    fn is_present(&mut self) -> bool {
        let (wanted, census) = (BTreeMap::new(), BTreeSet::from([self.id]));
        let query = HolderQuery {
            selector: &self.selector,
            wanted: &wanted,
            census: &census,
            located: &census,
            counted: &BTreeSet::new(),
            measured: &BTreeSet::new(),
            every_holder: false,
            now: self.now,
            allowance: &Allowance::unlimited(),
        };
        self.reader.find_holders(&query).unwrap().present.contains(&self.id)
    }

    /// The process, if it holds the socket still.
    fn verify(&mut self, inode: Inode, pid: Pid) -> Option<std::sync::Arc<Process>> {
        let query = VerifyQuery { selector: &self.selector, holdings: &[(inode, pid)], now: self.now };
        self.reader.verify_holders(&query).unwrap().remove(0)
    }
}

/// A shell that runs a program of another name when it is told to, and keeps two sockets.
struct Transformer {
    program: Program,
    go: std::process::ChildStdin,
    started: std::process::ChildStdout,
}

impl Transformer {
    fn start(into: &str, sockets: &[&Socket; 2]) -> Self {
        // Standard input and output serve to tell when; the sockets are inherited by number.
        let mut inherited = Vec::new();
        let mut program = Program::start_copy("/bin/cat", into, |path| {
            for socket in sockets {
                let kept = socket.end.try_clone().unwrap();
                rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty()).unwrap();
                inherited.push(kept);
            }
            let mut command = command(Path::new("/bin/sh"));
            command.args(["-c", "echo started; read line; exec \"$0\"", path.to_str().unwrap()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command
        });
        drop(inherited);
        let child = &mut program.child;
        let (go, started) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut transformer = Self { program, go, started };
        transformer.wait_for("started\n");
        transformer
    }

    fn transform(&mut self) {
        self.go.write_all(b"\ncats answer\n").unwrap();
        self.wait_for("cats answer\n");
    }

    fn wait_for(&mut self, expected: &str) {
        let mut answer = vec![0; expected.len()];
        self.started.read_exact(&mut answer).unwrap();
        assert_eq!(answer, expected.as_bytes());
    }
}

#[test]
fn a_process_that_replaces_its_program_is_found_by_a_new_socket_at_once_and_counted_within_the_bound() {
    let (old, new) = (Socket::new(), Socket::new());
    let mut transformer = Transformer::start("vms-transformed", &[&old, &new]);
    let pid = transformer.program.pid();
    let mut census = Watch::new("vms-transformed");
    let mut sockets = Watch::new("vms-transformed");
    assert!(!census.is_present());
    // Looked for in vain for a minute: now it is believed for as long that nobody who fits holds it.
    assert_eq!(sockets.holders(old.inode()), []);
    assert_eq!(sockets.later(60).holders(old.inode()), []);
    transformer.transform();
    assert_eq!(sockets.later(1).holders(new.inode()), [pid]);
    assert!(census.later(60).is_present());

    let mut only_old = Watch::new("{vms-transformed,vms-other}");
    assert_eq!(only_old.holders(old.inode()), [pid]);
}

#[test]
fn a_socket_that_was_looked_for_in_vain_is_found_within_the_bound_after_its_holder_changed() {
    let (old, new) = (Socket::new(), Socket::new());
    let mut transformer = Transformer::start("vms-changed", &[&old, &new]);
    let pid = transformer.program.pid();
    let mut watch = Watch::new("vms-changed");
    assert_eq!(watch.holders(old.inode()), []);
    assert_eq!(watch.later(15).holders(old.inode()), []);
    transformer.transform();
    assert_eq!(watch.later(15).holders(old.inode()), [pid]);
}

#[test]
fn a_holder_that_renames_itself_is_told_by_its_new_name_within_the_bound() {
    let socket = Socket::new();
    let inode = socket.inode();
    let mut watch = Watch::new(&own_name());
    assert_eq!(watch.holders(inode), [own_pid()]);
    let before = fs::read_to_string("/proc/self/comm").unwrap();
    fs::write("/proc/self/comm", "vms-renamed").unwrap();
    let renamed = watch.later(30).verify(inode, own_pid());
    fs::write("/proc/self/comm", before.trim_end()).unwrap();
    assert_eq!(renamed.unwrap().name, "vms-renamed");
}

#[test]
fn a_descriptor_that_was_duplicated_holds_the_socket_on() {
    let socket = Socket::new();
    let inode = socket.inode();
    let mut watch = Watch::new(&own_name());
    assert_eq!(watch.holders(inode), [own_pid()]);
    let Socket { end, _peer } = socket;
    let duplicate = end.try_clone().unwrap();
    drop(end);
    assert!(watch.verify(inode, own_pid()).is_some());
    assert!(watch.verify(inode, own_pid()).is_some());
    let effort = watch.reader.effort();
    assert_eq!((effort.opened, effort.names, effort.rechecks), (0, 0, 1));
    drop(duplicate);
    assert_eq!(watch.verify(inode, own_pid()), None);
}

#[test]
fn a_socket_that_was_handed_on_is_found_where_it_went() {
    let socket = Socket::new();
    let inode = socket.inode();
    let mut watch = Watch::new(&format!("{{{},vms-heir}}", own_name()));
    assert_eq!(watch.holders(inode), [own_pid()]);
    let heir = Program::start("vms-heir", None, &socket, "600");
    drop(socket.end);
    assert_eq!(watch.later(1).verify(inode, own_pid()), None);
    assert_eq!(watch.holders(inode), [heir.pid()]);
    assert_eq!(watch.verify(inode, heir.pid()).unwrap().executable.as_deref(), Some(heir.path.as_path()));
}

#[test]
fn a_holder_that_is_gone_holds_nothing_and_is_not_kept() {
    let socket = Socket::new();
    let inode = socket.inode();
    let mut watch = Watch::new("vms-ending");
    let mut program = Program::start("vms-ending", None, &socket, "600");
    let pid = program.pid();
    assert_eq!(watch.holders(inode), [pid]);
    assert_eq!(watch.reader.kept_handles(), 1);
    program.child.kill().unwrap();
    let dead = rustix::process::Pid::from_child(&program.child);
    waitid(WaitId::Pid(dead), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    assert_eq!(watch.verify(inode, pid), None, "dead and not reaped");
    program.child.wait().unwrap();
    assert_eq!(watch.verify(inode, pid), None);
    assert_eq!(watch.reader.kept_handles(), 0);
}

#[test]
fn a_number_that_is_given_to_another_process_is_told_apart() {
    let next_pid = Path::new("/proc/sys/kernel/ns_last_pid");
    if fs::OpenOptions::new().write(true).open(next_pid).is_err() {
        return skip(&format!("needs to write {}", next_pid.display()));
    }
    let (socket, other) = (Socket::new(), Socket::new());
    let inode = socket.inode();
    // Other processes may take the number first: then once more.
    for _attempt in 0..200 {
        let mut census = Watch::new("vms-second");
        let mut watch = Watch::new("vms-{first,second}");
        let mut first = Program::start("vms-first", None, &socket, "600");
        let pid = first.pid();
        assert_eq!(watch.holders(inode), [pid]);
        assert!(!census.is_present());
        // Grown up, so that it need not be looked at again.
        assert!(!census.later(60).is_present());
        first.child.kill().unwrap();
        first.child.wait().unwrap();
        let holds_socket = Program::under_number(pid, "vms-second", &socket);
        let found = watch.verify(inode, pid);
        let is_present = census.later(1).is_present();
        if holds_socket.pid() != pid {
            continue;
        }
        let executable = found.unwrap().executable.clone();
        assert_eq!(executable.as_deref(), Some(holds_socket.path.as_path()), "entered anew");
        assert!(is_present, "a new process is counted at once, whatever its number");
        drop(holds_socket);
        let holds_other = Program::under_number(pid, "vms-second", &other);
        if holds_other.pid() != pid {
            continue;
        }
        assert_eq!(watch.verify(inode, pid), None);
        return;
    }
    skip("needs a moment in which no other process begins: others took each number first");
}

impl Program {
    /// Starts it, and asks the kernel to give it that number, which must be free.
    fn under_number(pid: Pid, name: &str, socket: &Socket) -> Self {
        Self::start_copy("/bin/sleep", name, |path| {
            // Last, for others to have little time to take it.
            let mut command = command(path);
            command.arg("600").stdin(Stdio::from(OwnedFd::from(socket.end.try_clone().unwrap())));
            fs::write("/proc/sys/kernel/ns_last_pid", (pid.0 - 1).to_string()).unwrap();
            command
        })
    }
}
