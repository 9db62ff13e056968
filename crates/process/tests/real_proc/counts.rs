//! How many processes fit, as the kernel shows them.

use std::io::{BufRead, BufReader, Write};

use vms_core::process::{Headcount, ProcessUsage};

use super::*;

/// A reader, and one pattern of which is asked again and again how many fit it.
struct Count {
    reader: ProcReader,
    selector: ProcessSelector,
    id: PatternId,
    measured: BTreeSet<PatternId>,
    now: Duration,
}

impl Count {
    fn new(name: &str, reader: ProcReader) -> Self {
        let pattern = ProcessPattern { name: name.parse().unwrap(), executable: None };
        let selector = ProcessSelector::new([&pattern]).unwrap();
        let id = selector.id(&pattern).unwrap();
        Self { reader, selector, id, measured: BTreeSet::new(), now: Duration::from_secs(1000) }
    }

    /// The same, and what the processes use.
    fn of_usage(name: &str, reader: ProcReader) -> Self {
        let count = Self::new(name, reader);
        Self { measured: BTreeSet::from([count.id]), ..count }
    }

    fn later(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self
    }

    fn scan(&mut self) -> HolderScan {
        let query = HolderQuery {
            selector: &self.selector,
            wanted: &BTreeMap::new(),
            census: &BTreeSet::new(),
            located: &BTreeSet::new(),
            counted: &BTreeSet::from([self.id]),
            measured: &self.measured,
            every_holder: false,
            now: self.now,
            allowance: &Allowance::unlimited(),
        };
        self.reader.find_holders(&query).unwrap()
    }

    fn headcount(&mut self) -> Headcount {
        *self.scan().headcounts.get(&self.id).unwrap()
    }

    /// What each process uses that fits, in the order of their numbers.
    fn usages(&mut self) -> Vec<ProcessUsage> {
        self.scan().usages.remove(&self.id).unwrap()
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

fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / procfs::ticks_per_second())
}

/// What a reader sees that this project did not write.
fn shown(program: &Program) -> ProcessUsage {
    let stat = procfs::process::Process::new(program.pid().0.try_into().unwrap()).unwrap().stat().unwrap();
    ProcessUsage {
        pid: program.pid(),
        started: ticks(stat.starttime),
        user: ticks(stat.utime),
        system: ticks(stat.stime),
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
    }
}

#[test]
fn what_processes_use_is_what_another_reader_sees() {
    let socket = Socket::new();
    let mut copies: Vec<Program> =
        (0..3).map(|_| Program::start("vms-usage", None, &socket, "600")).collect();
    copies.sort_by_key(Program::pid);
    let mut count = Count::of_usage("vms-usage", reader("/proc"));
    for round in 0..3 {
        // They sleep: between two equal readings nothing changes.
        for attempt in 0.. {
            let before: Vec<ProcessUsage> = copies.iter().map(shown).collect();
            let used = count.later(1).usages();
            let after: Vec<ProcessUsage> = copies.iter().map(shown).collect();
            if before == after {
                assert_eq!(used, before);
                break;
            }
            assert!(attempt < 1000, "they sleep");
        }
        let effort = count.reader.effort();
        assert!(round == 0 || effort.usages == 3, "{effort:?}");
        assert_eq!((effort.sockets, effort.rechecks), (0, 0));
    }
    kill_without_waiting(&mut copies[1]);
    let pids: Vec<Pid> = count.later(1).usages().into_iter().map(|used| used.pid).collect();
    assert_eq!(pids, [copies[0].pid(), copies[2].pid()], "dead, and not waited for");
}

#[test]
fn a_process_that_replaces_its_program_keeps_its_start_and_what_it_has_used() {
    // What the second program is called, the kernel shows by its comm at once.
    let mut shell = Shell::start("vms-used-before", "/bin/cat");
    let mut count = Count::of_usage("{vms-used-before,cat}", reader("/proc"));
    let used =
        |count: &mut Count, pid| count.later(60).usages().into_iter().find(|used| used.pid == pid).unwrap();
    let pid = shell.program.pid();
    let before = used(&mut count, pid);
    shell.go_on(b"\nthe answer of cat\n");
    let after = used(&mut count, pid);
    assert_eq!(after.started, before.started);
    assert!(after.user >= before.user && after.system >= before.system, "{before:?} {after:?}");
}

#[test]
fn cpu_time_is_that_of_all_threads_and_of_those_that_have_exited() {
    let name = own_name();
    let mut count = Count::of_usage(&name, reader("/proc"));
    let own = |count: &mut Count| {
        let own = count.later(1).usages().into_iter().find(|used| used.pid == own_pid()).unwrap();
        own.user + own.system
    };
    let used_by_thread = || -> Duration {
        rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().unwrap()
    };
    let before = own(&mut count);
    let burn = || {
        let mut work = 0_u64;
        while used_by_thread() < Duration::from_millis(200) {
            work = std::hint::black_box(work + 1);
        }
    };
    thread::scope(|scope| {
        scope.spawn(burn);
        scope.spawn(burn);
    });
    // Rounded to ticks in each mode, and each thread's rest is its own.
    assert!(own(&mut count).saturating_sub(before) >= Duration::from_millis(360));
}

#[test]
fn what_another_users_processes_use_everybody_may_read_who_is_shown_them() {
    if !is_root_or_skips("reading another user's processes") {
        return;
    }
    let socket = Socket::new();
    let mut copies: Vec<Program> =
        (0..2).map(|_| Program::start("vms-used-else", Some(SOMEBODY), &socket, "600")).collect();
    copies.sort_by_key(Program::pid);
    let denying = MountedProc::new(c"hidepid=1");
    with_privileges(NOBODY, CapabilitySet::empty(), || {
        let mut count = Count::of_usage("vms-used-else", reader("/proc"));
        for _ in 0..2 {
            let used = count.later(1).usages();
            let pids: Vec<Pid> = used.iter().map(|used| used.pid).collect();
            assert_eq!(pids, [copies[0].pid(), copies[1].pid()]);
            assert!(used.iter().all(|used| used.resident_bytes > 0 && !used.started.is_zero()), "{used:?}");
        }
        let mut denied = Count::of_usage("vms-used-else", reader(denying.path()));
        assert_eq!(denied.usages(), [], "those who might fit are in no sum");
        let scan = denied.scan();
        assert_eq!(scan.nameless, BTreeSet::from([Capability::SysPtrace]));
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
    // Of its first thread, which has none any more, the kernel shows no memory.
    let shown = procfs::process::Process::new(headless.pid().0.try_into().unwrap()).unwrap().stat().unwrap();
    assert_eq!((shown.vsize, shown.rss), (0, 0));
    let mut usage = Count::of_usage("vms-headless", reader("/proc"));
    for _ in 0..2 {
        let [used] = usage.later(1).usages().try_into().unwrap();
        assert!(used.virtual_bytes > 0 && used.resident_bytes > 0, "{used:?}");
        assert_eq!(used.started, ticks(shown.starttime));
    }
    drop(headless.child.stdin.take());
    let pid = rustix::process::Pid::from_child(&headless.child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    assert_eq!(count.later(1).fitting(), 0);
}
