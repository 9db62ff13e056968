//! Holders of real sockets, in the kernel's own /proc. What needs root says so and skips without.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test, helpers included")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{Gid, Uid, fstat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{WaitId, WaitIdOptions, geteuid, waitid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use tempfile::TempDir;
use vms_core::ProcessAdapter;
use vms_core::allowance::Allowance;
use vms_core::connection::Inode;
use vms_core::process::{
    Capability, HolderQuery, HolderScan, PatternId, Pid, Process, ProcessPattern, ProcessSelector,
};
use vms_process::{HidePid, Privileges, ProcReader};

use skip::skip;

#[path = "real_proc/changes.rs"]
mod changes;
#[path = "real_proc/counts.rs"]
mod counts;
#[path = "real_proc/places.rs"]
mod places;
#[path = "real_proc/skip.rs"]
mod skip;

/// A socket of which this process holds one end.
struct Socket {
    end: TcpStream,
    _peer: TcpStream,
}

impl Socket {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let end = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Self { end, _peer: listener.accept().unwrap().0 }
    }

    fn inode(&self) -> Inode {
        Inode::new(fstat(self.end.as_fd()).unwrap().st_ino).unwrap()
    }
}

/// A process of its own name, ended with the test.
struct Program {
    child: Child,
    path: PathBuf,
    _directory: TempDir,
}

impl Program {
    /// Runs a copy of `sleep` under that name for that user, with the socket as its standard input.
    fn start(name: &str, uid: Option<u32>, socket: &Socket, seconds: &str) -> Self {
        let program = Self::start_copy("/bin/sleep", name, |path| {
            let mut command = command(path);
            command.arg(seconds).stdin(Stdio::from(OwnedFd::from(socket.end.try_clone().unwrap())));
            if let Some(uid) = uid {
                command.uid(uid).gid(uid);
            }
            command
        });
        // The kernel lets the parent go on a little before it names the child.
        let comm = format!("/proc/{}/comm", program.pid());
        while fs::read_to_string(&comm).unwrap().trim_end() != name.get(..15).unwrap_or(name) {
            thread::yield_now();
        }
        program
    }

    /// Copies a program to that name, and runs it as `prepare` says.
    fn start_copy(of: &str, name: &str, prepare: impl FnOnce(&Path) -> Command) -> Self {
        // A child that another thread forks meanwhile would keep the copy open for writing, and what is written to cannot
        // be run.
        let _alone = forking_alone();
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join(name);
        fs::copy(of, &path).unwrap();
        Self { child: prepare(&path).spawn().unwrap(), path, _directory: directory }
    }

    fn pid(&self) -> Pid {
        Pid(self.child.id())
    }
}

/// Keeps other tests from forking: until it runs its program, a child holds all that this process does.
fn forking_alone() -> MutexGuard<'static, ()> {
    static FORKING: Mutex<()> = Mutex::new(());
    FORKING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "a test that looks at processes has to start some")]
fn command(program: &Path) -> Command {
    Command::new(program)
}

impl Drop for Program {
    fn drop(&mut self) {
        // Some tests have ended it already.
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// Asks who holds these sockets and fits that name, and optionally that executable.
fn ask(reader: &mut ProcReader, name: &str, executable: Option<&Path>, inodes: &[Inode]) -> Answer {
    let pattern = ProcessPattern { name: name.parse().unwrap(), executable: executable.map(Path::to_owned) };
    let selector = ProcessSelector::new([&pattern]).unwrap();
    let id = selector.id(&pattern).unwrap();
    let census = BTreeSet::from([id]);
    let wanted: BTreeMap<Inode, BTreeSet<PatternId>> =
        inodes.iter().map(|inode| (*inode, census.clone())).collect();
    let query = HolderQuery {
        selector: &selector,
        wanted: &wanted,
        census: &census,
        located: &census,
        counted: &BTreeSet::new(),
        measured: &BTreeSet::new(),
        every_holder: true,
        now: Duration::ZERO,
        allowance: &Allowance::unlimited(),
    };
    Answer { id, scan: reader.find_holders(&query).unwrap() }
}

struct Answer {
    id: PatternId,
    scan: HolderScan,
}

impl Answer {
    /// The holders that fit. Others are told as well, where some process cannot be looked into.
    fn holders(&self, inode: Inode) -> Vec<&Process> {
        let holders = self.scan.holders.get(&inode).into_iter().flatten().map(AsRef::as_ref);
        holders.filter(|process| process.fits.contains(&self.id)).collect()
    }

    /// Whether a process that certainly fits could not be looked into. Ones that might fit can be on any host:
    /// not even root may look at everything in a virtual machine of somebody else's making.
    fn is_certainly_obscured(&self) -> bool {
        self.scan.obscured.values().any(|obscured| obscured.certain)
    }

    fn pids(&self, inode: Inode) -> Vec<Pid> {
        self.holders(inode).into_iter().map(|process| process.pid).collect()
    }
}

fn reader(root: &str) -> ProcReader {
    ProcReader::open(Path::new(root), Privileges::read_own().unwrap()).unwrap()
}

fn own_pid() -> Pid {
    Pid(std::process::id())
}

/// The name of this test program, which holds no character that is special in a pattern.
fn own_name() -> String {
    std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

fn is_root_or_skips(test: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        skip(&format!("{test} needs root"));
    }
    root
}

/// Runs `test` on a thread of user `uid` with these capabilities and no others. The kernel keeps both by thread.
fn with_privileges<T: Send>(uid: u32, kept: CapabilitySet, test: impl FnOnce() -> T + Send) -> T {
    let confined = || {
        set_keep_capabilities(true).unwrap();
        set_thread_groups(&[]).unwrap();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        set_thread_res_gid(Some(gid), Some(gid), Some(gid)).unwrap();
        set_thread_res_uid(Some(uid), Some(uid), Some(uid)).unwrap();
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).unwrap();
        test()
    };
    thread::scope(|scope| scope.spawn(confined).join().unwrap())
}

const NOBODY: u32 = 65534;
const SOMEBODY: u32 = 1234;

#[test]
fn an_own_socket_is_found_in_the_own_process() {
    let socket = Socket::new();
    let executable = std::env::current_exe().unwrap();
    let answer = ask(&mut reader("/proc"), &own_name(), Some(&executable), &[socket.inode()]);
    let holders = answer.holders(socket.inode());
    assert_eq!(answer.pids(socket.inode()), [own_pid()]);
    assert_eq!(holders[0].executable.as_deref(), Some(executable.as_path()));
}

#[test]
fn a_child_that_inherits_a_socket_holds_it_as_well() {
    let socket = Socket::new();
    let child = Program::start("vms-inheriting-child", None, &socket, "600");
    let mut reader = reader("/proc");
    let of_child = ask(&mut reader, "vms-INHERITING-c*", Some(&child.path), &[socket.inode()]);
    assert_eq!(of_child.pids(socket.inode()), [child.pid()]);
    assert_eq!(of_child.holders(socket.inode())[0].name, "vms-inheriting-");
    let mut both = [own_pid(), child.pid()];
    both.sort_unstable();
    let either = format!("{{{},vms-inheriting-child}}", own_name());
    let of_both = ask(&mut reader, &either, None, &[socket.inode()]);
    assert_eq!(of_both.pids(socket.inode()), both);
}

#[test]
fn a_holder_whose_binary_was_removed_keeps_its_path() {
    let socket = Socket::new();
    let child = Program::start("vms-removed-binary", None, &socket, "600");
    fs::remove_file(&child.path).unwrap();
    let answer = ask(&mut reader("/proc"), "vms-removed-binary", Some(&child.path), &[socket.inode()]);
    assert_eq!(answer.pids(socket.inode()), [child.pid()]);
}

#[test]
fn a_process_that_is_dead_and_not_reaped_is_absent() {
    let socket = Socket::new();
    let child = Program::start("vms-zombie", None, &socket, "0");
    let pid = rustix::process::Pid::from_child(&child.child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    let answer = ask(&mut reader("/proc"), "vms-zombie", None, &[socket.inode()]);
    assert_eq!(answer.pids(socket.inode()), []);
    assert!(answer.scan.present.is_empty() && !answer.is_certainly_obscured());
}

#[test]
fn a_reader_that_this_project_did_not_write_sees_the_same_holders() {
    let held = || -> HashSet<(Inode, Pid)> {
        let mut held = HashSet::new();
        for process in procfs::process::all_processes().unwrap().flatten() {
            for descriptor in process.fd().into_iter().flatten().flatten() {
                if let procfs::process::FDTarget::Socket(inode) = descriptor.target {
                    held.extend(Inode::new(inode).map(|inode| (inode, Pid(process.pid().unsigned_abs()))));
                }
            }
        }
        held
    };
    let _socket = Socket::new();
    let _alone = forking_alone();
    let before = held();
    let inodes: Vec<Inode> = before.iter().map(|(inode, _)| *inode).collect();
    let answer = ask(&mut reader("/proc"), "*", None, &inodes);
    let after = held();
    assert!(before.intersection(&after).any(|(_, pid)| *pid == own_pid()));
    for (inode, pid) in before.intersection(&after) {
        assert!(answer.pids(*inode).contains(pid), "{pid} holds {inode:?}");
    }
    for (inode, holders) in &answer.scan.holders {
        for holder in holders {
            let seen = [(*inode, holder.pid)];
            assert!(seen.iter().any(|pair| before.contains(pair) || after.contains(pair)), "{seen:?}");
        }
    }
}

#[test]
fn another_users_process_is_told_by_who_has_both_capabilities_and_by_nobody_else() {
    if !is_root_or_skips("looking at another user's process") {
        return;
    }
    let socket = Socket::new();
    let child = Program::start("vms-other-user", Some(SOMEBODY), &socket, "600");
    let name = "vms-other-user";
    let ptrace = CapabilitySet::SYS_PTRACE;
    let dac = CapabilitySet::DAC_READ_SEARCH;
    let override_modes = CapabilitySet::DAC_OVERRIDE;
    let both = vec![Capability::SysPtrace, Capability::DacReadSearch];
    // A user, what it may, and what is said to be missing of a process that certainly fits, as far as names tell.
    let cases = [
        (NOBODY, CapabilitySet::empty(), false, both),
        (NOBODY, ptrace, true, vec![Capability::DacReadSearch]),
        (NOBODY, dac, false, vec![Capability::SysPtrace]),
        (0, override_modes, false, vec![Capability::SysPtrace]),
        (NOBODY, ptrace | dac, true, vec![]),
        (SOMEBODY, CapabilitySet::empty(), true, vec![]),
    ];
    for (uid, kept, executable_known, missing) in cases {
        let inode = socket.inode();
        let (plain, with_executable) = with_privileges(uid, kept, || {
            let mut reader = reader("/proc");
            (ask(&mut reader, name, None, &[inode]), ask(&mut reader, name, Some(&child.path), &[inode]))
        });
        let case = format!("uid {uid} with {kept:?}");
        for (answer, pattern_has_executable) in [(plain, false), (with_executable, true)] {
            let Answer { id, scan } = &answer;
            let certain = executable_known || !pattern_has_executable;
            if missing.is_empty() {
                assert_eq!(answer.pids(inode), [child.pid()], "{case}");
                assert!(scan.present.contains(id), "{case}");
                continue;
            }
            assert!(answer.pids(inode).is_empty(), "{case}");
            assert_eq!(scan.present.contains(id), certain, "{case}");
            assert_eq!(scan.uncertain.contains(id), !certain, "{case}");
            let obscured = &scan.obscured[id];
            assert_eq!(obscured.certain, certain, "{case}");
            assert_eq!(obscured.missing.iter().copied().collect::<Vec<_>>(), missing, "{case}");
        }
    }
}

#[test]
fn without_privilege_the_dead_and_the_kernel_obscure_nothing() {
    if !is_root_or_skips("leaving another user's dead process behind") {
        return;
    }
    let socket = Socket::new();
    let child = Program::start("vms-other-zombie", Some(SOMEBODY), &socket, "0");
    let pid = rustix::process::Pid::from_child(&child.child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    let inode = socket.inode();
    let ask = |name: &'static str| {
        with_privileges(NOBODY, CapabilitySet::empty(), move || {
            ask(&mut reader("/proc"), name, None, &[inode])
        })
    };
    let of_zombie = ask("vms-other-zombie");
    assert!(of_zombie.scan.present.is_empty() && !of_zombie.is_certainly_obscured());
    let of_kernel = ask("{kthreadd,kworker*}");
    assert!(!of_kernel.is_certainly_obscured());
}

/// A /proc of its own, mounted with some options.
struct MountedProc(TempDir);

impl MountedProc {
    fn new(options: &std::ffi::CStr) -> Self {
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        mount("proc", directory.path(), "proc", MountFlags::empty(), options).unwrap();
        Self(directory)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

impl Drop for MountedProc {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_proc_that_hides_processes_is_seen_to_hide_them() {
    if !is_root_or_skips("mounting a /proc") {
        return;
    }
    let socket = Socket::new();
    let inode = socket.inode();
    let _child = Program::start("vms-hidden", Some(SOMEBODY), &socket, "600");
    for (options, expected, missing) in [
        (c"hidepid=1,gid=77", HidePid::NoAccess, vec![Capability::SysPtrace, Capability::DacReadSearch]),
        (c"hidepid=2,gid=77", HidePid::Invisible, vec![Capability::SysPtrace]),
        (c"hidepid=4,gid=77", HidePid::Ptraceable, vec![Capability::SysPtrace]),
    ] {
        let proc = MountedProc::new(options);
        let hidden = reader(proc.path()).hidden_processes().unwrap();
        assert_eq!((hidden.hide_pid, hidden.exempt_group), (expected, 77));
        let answer = with_privileges(NOBODY, CapabilitySet::empty(), || {
            ask(&mut reader(proc.path()), "vms-hidden", None, &[inode])
        });
        assert!(answer.scan.present.is_empty(), "{options:?}");
        assert!(answer.scan.uncertain.contains(&answer.id), "{options:?}");
        let obscured = &answer.scan.obscured[&answer.id];
        assert!(!obscured.certain, "{options:?}");
        assert_eq!(obscured.missing.iter().copied().collect::<Vec<_>>(), missing, "{options:?}");

        let capable = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
        let answer =
            with_privileges(NOBODY, capable, || ask(&mut reader(proc.path()), "vms-hidden", None, &[inode]));
        assert_eq!(answer.pids(inode).len(), 1, "{options:?}");
    }
    let proc = MountedProc::new(c"");
    assert_eq!(reader(proc.path()).hidden_processes().unwrap().hide_pid, HidePid::Off);
}
