//! How many processes fit, as the kernel shows them.

use std::io::{BufRead, BufReader, Write};

use vms_core::process::Headcount;

use super::*;

/// A reader, and one pattern of which is asked again and again how many fit it.
struct Count {
    reader: ProcReader,
    selector: ProcessSelector,
    id: PatternId,
    now: Duration,
}

impl Count {
    fn new(name: &str, reader: ProcReader) -> Self {
        let pattern = ProcessPattern { name: name.parse().unwrap(), executable: None };
        let selector = ProcessSelector::new([&pattern]).unwrap();
        let id = selector.id(&pattern).unwrap();
        Self { reader, selector, id, now: Duration::from_secs(1000) }
    }

    fn later(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self
    }

    fn headcount(&mut self) -> Headcount {
        let query = HolderQuery {
            selector: &self.selector,
            wanted: &BTreeMap::new(),
            census: &BTreeSet::new(),
            located: &BTreeSet::new(),
            counted: &BTreeSet::from([self.id]),
            measured: &BTreeSet::new(),
            every_holder: false,
            now: self.now,
            allowance: &Allowance::unlimited(),
        };
        *self.reader.find_holders(&query).unwrap().headcounts.get(&self.id).unwrap()
    }

    fn fitting(&mut self) -> u64 {
        self.headcount().fitting
    }
}

/// Ends a process, and leaves it to be waited for.
fn kill_without_waiting(program: &mut Program) {
    program.child.kill().unwrap();
    let pid = rustix::process::Pid::from_child(&program.child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
}

#[test]
fn copies_of_a_program_are_counted_as_they_begin_and_end() {
    let socket = Socket::new();
    let start = || Program::start("vms-copies", None, &socket, "600");
    let mut count = Count::new("vms-copies", reader("/proc"));
    assert_eq!(count.fitting(), 0);
    let mut copies: Vec<Program> = (0..5).map(|_| start()).collect();
    assert_eq!(count.later(1).fitting(), 5);
    drop(copies.split_off(3));
    assert_eq!(count.later(1).fitting(), 3);
    kill_without_waiting(&mut copies[0]);
    assert_eq!(count.later(1).fitting(), 2, "dead, and not waited for");
    copies.remove(0);
    copies.push(start());
    assert_eq!(count.later(1).fitting(), 3);
    for _ in 0..2 {
        assert_eq!(count.later(60).fitting(), 3);
    }
    let effort = count.reader.effort();
    assert_eq!((effort.sockets, effort.rechecks), (0, 0));
}

#[test]
fn a_count_is_what_a_reader_sees_that_this_project_did_not_write() {
    let socket = Socket::new();
    let _copies: Vec<Program> = (0..3).map(|_| Program::start("vms-of-many", None, &socket, "600")).collect();
    let others = || {
        let runs = |process: &procfs::process::Process| {
            let is_kernel = |flags| flags & 0x0020_0000 != 0;
            let of_kernel = process.stat().is_ok_and(|stat| is_kernel(stat.flags));
            let mut threads = process.tasks().into_iter().flatten().flatten();
            !of_kernel && threads.any(|thread| thread.stat().is_ok_and(|stat| stat.state != 'Z'))
        };
        let processes = procfs::process::all_processes().unwrap().flatten();
        processes.filter(runs).map(|process| process.pid()).collect::<Vec<_>>()
    };
    let mut count = Count::new("*", reader("/proc"));
    // Tests beside this one start and end processes.
    for _attempt in 0..1000 {
        let before = others();
        let fitting = count.fitting();
        if before == others() {
            assert!(before.len() >= 4);
            assert_eq!(fitting, u64::try_from(before.len()).unwrap());
            return;
        }
    }
    skip("needs a moment in which no process begins or ends");
}

/// A shell of a name of its own, which runs something else when it is told to.
struct Shell {
    program: Program,
    output: BufReader<std::process::ChildStdout>,
}

impl Shell {
    fn start(name: &str, then: &str) -> Self {
        let mut program = Program::start_copy("/bin/sh", name, |path| {
            let mut command = command(path);
            command.args(["-c", &format!("echo started; read line; exec {then}")]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command
        });
        let output = BufReader::new(program.child.stdout.take().unwrap());
        let mut shell = Self { program, output };
        shell.wait();
        shell
    }

    /// Waits until it says something.
    fn wait(&mut self) {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0);
    }

    fn go_on(&mut self, input: &[u8]) {
        self.program.child.stdin.as_mut().unwrap().write_all(input).unwrap();
        self.wait();
    }
}

#[test]
fn who_replaces_his_program_counts_no_more_within_the_bound() {
    let mut shells = [0; 2].map(|_| Shell::start("vms-replaced", "/bin/cat"));
    let mut count = Count::new("vms-replaced", reader("/proc"));
    assert_eq!(count.fitting(), 2);
    shells[0].go_on(b"\nthe answer of cat\n");
    assert_eq!(count.later(60).fitting(), 1);
}

#[test]
fn another_users_processes_are_counted_by_comm_and_hidden_ones_may_fit() {
    if !is_root_or_skips("counting another user's processes") {
        return;
    }
    let socket = Socket::new();
    let mut copies: Vec<Program> =
        (0..3).map(|_| Program::start("vms-others", Some(SOMEBODY), &socket, "600")).collect();
    let hiding = MountedProc::new(c"hidepid=2");
    let denying = MountedProc::new(c"hidepid=1");
    let count_in = |root| Count::new("vms-others", reader(root));
    with_privileges(NOBODY, CapabilitySet::empty(), || {
        let mut count = count_in("/proc");
        for _ in 0..2 {
            assert_eq!(count.later(1).fitting(), 3);
        }
        let effort = count.reader.effort();
        assert!(effort.glances >= 3 && effort.sockets == 0, "{effort:?}");
        let of_hiding = count_in(hiding.path()).headcount();
        assert!(of_hiding.fitting == 0 && of_hiding.possible > 0, "{of_hiding:?}");
        let of_denying = count_in(denying.path()).headcount();
        assert!(of_denying.fitting == 0 && of_denying.possible >= 3, "{of_denying:?}");
    });
    let mut capable = count_in(hiding.path());
    assert_eq!(capable.fitting(), 3);
    kill_without_waiting(&mut copies[0]);
    assert_eq!(capable.later(1).fitting(), 2);
    with_privileges(NOBODY, CapabilitySet::empty(), || {
        assert_eq!(count_in("/proc").fitting(), 2, "who is dead, everybody is told");
    });
}

/// A process of two threads, of which the first exits, and the other when it is told to.
const HEADLESS: &str = r"
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
static void *go_on(void *nothing) {
    char byte;
    while (read(0, &byte, 1) > 0) {}
    exit(0);
}
int main(void) {
    pthread_t thread;
    if (pthread_create(&thread, 0, go_on, 0) != 0) return 1;
    pthread_exit(0);
}
";

#[test]
fn a_process_counts_once_whatever_its_threads_and_as_long_as_one_lives() {
    let directory = TempDir::new().unwrap();
    let (source, built) = (directory.path().join("headless.c"), directory.path().join("headless"));
    fs::write(&source, HEADLESS).unwrap();
    let mut compiler = command(Path::new("cc"));
    compiler.arg("-pthread").arg("-o").arg(&built).arg(&source);
    let spawned = {
        let _alone = forking_alone();
        compiler.spawn()
    };
    let status = spawned.and_then(|mut compiler| compiler.wait());
    if !status.is_ok_and(|status| status.success()) {
        return skip("needs a C compiler");
    }
    let mut headless = Program::start_copy(built.to_str().unwrap(), "vms-headless", |path| {
        let mut command = command(path);
        command.stdin(Stdio::piped());
        command
    });
    let status = format!("/proc/{}/stat", headless.pid());
    while !fs::read_to_string(&status).unwrap().contains(") Z ") {
        thread::yield_now();
    }
    let mut count = Count::new("vms-headless", reader("/proc"));
    for _ in 0..3 {
        assert_eq!(count.later(1).fitting(), 1);
    }
    drop(headless.child.stdin.take());
    let pid = rustix::process::Pid::from_child(&headless.child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    assert_eq!(count.later(1).fitting(), 0);
}
