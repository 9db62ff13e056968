//! A /proc made of plain files, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tempfile::TempDir;
use vms_core::allowance::Allowance;
use vms_core::connection::Inode;
use vms_core::process::{HolderQuery, NameGlob, PatternId, ProcessPattern, ProcessSelector};

use crate::privileges::Privileges;
use crate::reader::ProcReader;

/// When questions are asked, where a test does not say.
pub(crate) const START: Duration = Duration::from_secs(1000);

/// The directory, removed at the end.
pub(crate) struct TestProc(TempDir);

/// One process in it.
pub(crate) struct TestProcess(PathBuf);

impl TestProc {
    /// An empty one that hides nothing.
    pub(crate) fn new() -> Self {
        let proc = Self(TempDir::new().unwrap());
        proc.mount_options("rw");
        proc
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Lets it appear as mounted with these options.
    pub(crate) fn mount_options(&self, options: &str) {
        let device = fs::metadata(self.path()).unwrap().dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        fs::create_dir_all(self.path().join("self")).unwrap();
        let line = format!("22 27 {major}:{minor} / /proc rw,relatime shared:5 - proc proc {options}\n");
        fs::write(self.path().join("self/mountinfo"), line).unwrap();
    }

    /// A process that runs `/usr/bin/NAME`, and holds nothing.
    pub(crate) fn process(&self, pid: u32, name: &str) -> TestProcess {
        let path = self.path().join(pid.to_string());
        fs::create_dir_all(path.join("fd")).unwrap();
        let process = TestProcess(path);
        let comm: String = name.chars().take(15).collect();
        process
            .comm(format!("{comm}\n").as_bytes())
            .cmdline(format!("{name}\0--daemon\0").as_bytes())
            .exe(format!("/usr/bin/{name}"))
            .stat(b'S', 0x0040_0000)
    }

    /// Lets the agent live in a network namespace.
    pub(crate) fn own_network(&self, network: &Network) {
        TestProcess(self.path().join("self")).network(network);
    }

    /// The agent itself, living there.
    pub(crate) fn agent(&self, pid: u32, network: &Network) -> TestProcess {
        fs::rename(self.path().join("self"), self.path().join(pid.to_string())).unwrap();
        std::os::unix::fs::symlink(pid.to_string(), self.path().join("self")).unwrap();
        self.process(pid, "vms-agent").network(network)
    }

    pub(crate) fn remove(&self, pid: u32) {
        fs::remove_dir_all(self.path().join(pid.to_string())).unwrap();
    }

    pub(crate) fn rename(&self, pid: u32, to: &str) {
        fs::rename(self.path().join(pid.to_string()), self.path().join(to)).unwrap();
    }

    /// Does `action` in mid-scan: at the moment at which that process's comm is read, which then is `comm`.
    pub(crate) fn when_comm_is_read(
        &self,
        pid: u32,
        comm: &'static [u8],
        action: impl FnOnce() + Send + 'static,
    ) -> thread::JoinHandle<()> {
        // The pipe has a second name, which stays when the process is renamed.
        let pipe = self.path().join(format!("pipe-{pid}"));
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let name = self.path().join(pid.to_string()).join("comm");
        fs::remove_file(&name).unwrap();
        fs::hard_link(&pipe, name).unwrap();
        thread::spawn(move || {
            // Waits for the reader.
            let mut fifo = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
            action();
            fifo.write_all(comm).unwrap();
        })
    }

    /// A reader that nothing is withheld from.
    pub(crate) fn reader(&self) -> ProcReader {
        self.reader_with(privileged())
    }

    pub(crate) fn reader_with(&self, privileges: Privileges) -> ProcReader {
        ProcReader::open(self.path(), privileges).unwrap()
    }
}

impl Drop for TestProc {
    /// Makes everything removable again, for a thread to which modes apply.
    fn drop(&mut self) {
        for entry in fs::read_dir(self.path()).unwrap() {
            let path = entry.unwrap().path();
            for directory in [path.clone(), path.join("fd")] {
                if directory.is_dir() {
                    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
                }
            }
        }
    }
}

impl TestProcess {
    pub(crate) fn comm(self, comm: &[u8]) -> Self {
        fs::write(self.0.join("comm"), comm).unwrap();
        self
    }

    pub(crate) fn cmdline(self, cmdline: &[u8]) -> Self {
        fs::write(self.0.join("cmdline"), cmdline).unwrap();
        self
    }

    pub(crate) fn exe(self, target: impl AsRef<Path>) -> Self {
        self.link("exe", target.as_ref())
    }

    /// Without executable, arguments and descriptors: a kernel thread or a dead process, by these.
    pub(crate) fn bare(self, state: u8, flags: u32) -> Self {
        fs::remove_file(self.0.join("exe")).unwrap();
        self.cmdline(b"").stat(state, flags)
    }

    pub(crate) fn stat(self, state: u8, flags: u32) -> Self {
        // What is dead has no memory any more.
        self.stat_line(state, flags, [0; 3], if state == b'Z' { [0; 2] } else { [8192, 1] })
    }

    /// Has used so many ticks in user mode and in the kernel and started at that one, and has so many bytes of virtual memory
    /// and pages of resident.
    pub(crate) fn uses(self, times: [u64; 3], memory: [u64; 2]) -> Self {
        self.stat_line(b'S', 0x0040_0000, times, memory)
    }

    pub(crate) fn stat_line(self, state: u8, flags: u32, times: [u64; 3], memory: [u64; 2]) -> Self {
        let ([user, system, start], [virtual_bytes, pages]) = (times, memory);
        let state = char::from(state);
        let (before, between) = (format!("1 1 1 0 -1 {flags} 9 9 9 9"), "99999 99999 20 0 1 0");
        let memory = format!("{virtual_bytes} {pages} 18446744073709551615 1 1 0 0");
        let line = format!("1 (a) S (name) {state} {before} {user} {system} {between} {start} {memory}\n");
        fs::write(self.0.join("stat"), line).unwrap();
        self
    }

    /// Lets it live in a network namespace.
    pub(crate) fn network(self, network: &Network) -> Self {
        for directory in ["ns", "net"] {
            fs::create_dir_all(self.0.join(directory)).unwrap();
        }
        let file = self.0.join("net/dev");
        if file.exists() {
            fs::remove_file(&file).unwrap();
        }
        fs::hard_link(network.file.path(), file).unwrap();
        self.link("ns/net", Path::new(&format!("net:[{}]", network.inode)))
    }

    pub(crate) fn socket(self, descriptor: u32, inode: u64) -> Self {
        self.descriptor(descriptor, format!("socket:[{inode}]"))
    }

    pub(crate) fn descriptor(self, descriptor: u32, target: impl AsRef<Path>) -> Self {
        self.link(&format!("fd/{descriptor}"), target.as_ref())
    }

    pub(crate) fn close(self, descriptor: u32) -> Self {
        fs::remove_file(self.0.join(format!("fd/{descriptor}"))).unwrap();
        self
    }

    /// Sets the permissions of one of its entries, `""` for itself: what the kernel's checks look like.
    pub(crate) fn mode(self, entry: &str, mode: u32) -> Self {
        fs::set_permissions(self.0.join(entry), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn link(self, name: &str, target: &Path) -> Self {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => symlink(target, path).unwrap(),
        }
        self
    }
}

/// A network namespace.
pub(crate) struct Network {
    inode: u64,
    /// Stands for its `net/dev`, by its inode.
    file: tempfile::NamedTempFile,
}

impl Network {
    pub(crate) fn new(inode: u64) -> Self {
        Self { inode, file: tempfile::NamedTempFile::new().unwrap() }
    }
}

/// Both capabilities.
pub(crate) fn privileged() -> Privileges {
    Privileges { sys_ptrace: true, dac_read_search: true, groups: BTreeSet::from([0]) }
}

/// Neither capability, and an ordinary group.
pub(crate) fn unprivileged() -> Privileges {
    Privileges { sys_ptrace: false, dac_read_search: false, groups: BTreeSet::from([1000]) }
}

/// Runs `test` on a thread to which the modes of files apply, even if root runs it.
pub(crate) fn without_overriding_modes<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let confined = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        set_capabilities(None, sets).unwrap();
        test()
    };
    thread::scope(|scope| scope.spawn(confined).join().unwrap())
}

/// A question about the holders of sockets.
pub(crate) struct Question {
    selector: ProcessSelector,
    ids: Vec<PatternId>,
    wanted: BTreeMap<Inode, BTreeSet<PatternId>>,
    census: BTreeSet<PatternId>,
    located: BTreeSet<PatternId>,
    counted: BTreeSet<PatternId>,
    measured: BTreeSet<PatternId>,
    every_holder: bool,
    now: Duration,
    allowance: Allowance<'static>,
}

impl Question {
    /// About these patterns: `NAME`, or `NAME=EXECUTABLE`.
    pub(crate) fn new(patterns: &[&str]) -> Self {
        let patterns: Vec<ProcessPattern> = patterns
            .iter()
            .map(|text| {
                let (name, executable) = match text.split_once('=') {
                    Some((name, executable)) => (name, Some(PathBuf::from(executable))),
                    None => (*text, None),
                };
                ProcessPattern { name: name.parse::<NameGlob>().unwrap(), executable }
            })
            .collect();
        let selector = ProcessSelector::new(&patterns).unwrap();
        let ids = patterns.iter().map(|pattern| selector.id(pattern).unwrap()).collect();
        Self {
            selector,
            ids,
            wanted: BTreeMap::new(),
            census: BTreeSet::new(),
            located: BTreeSet::new(),
            counted: BTreeSet::new(),
            measured: BTreeSet::new(),
            every_holder: false,
            now: START,
            allowance: Allowance::unlimited(),
        }
    }

    /// Asks who of those that fit these patterns, by their places, holds that socket.
    pub(crate) fn wants(mut self, inode: u64, patterns: &[usize]) -> Self {
        let ids = patterns.iter().map(|index| self.ids[*index]);
        self.wanted.entry(Inode::new(inode).unwrap()).or_default().extend(ids);
        self
    }

    /// Asks whether anyone fits that pattern.
    pub(crate) fn counts(mut self, pattern: usize) -> Self {
        self.census.insert(self.ids[pattern]);
        self
    }

    /// Asks where those live that fit that pattern, should the agent be displaced.
    pub(crate) fn locates(mut self, pattern: usize) -> Self {
        self.located.insert(self.ids[pattern]);
        self
    }

    /// Asks how many processes fit that pattern.
    pub(crate) fn asks_how_many(mut self, pattern: usize) -> Self {
        self.counted.insert(self.ids[pattern]);
        self
    }

    /// Asks how many processes fit that pattern, and what they use.
    pub(crate) fn asks_what_is_used(mut self, pattern: usize) -> Self {
        self.measured.insert(self.ids[pattern]);
        self.asks_how_many(pattern)
    }

    pub(crate) fn every_holder(mut self) -> Self {
        self.every_holder = true;
        self
    }

    /// Asks nothing yet, about the same patterns under the same ids.
    pub(crate) fn about_nothing(self) -> Self {
        Self {
            wanted: BTreeMap::new(),
            census: BTreeSet::new(),
            counted: BTreeSet::new(),
            measured: BTreeSet::new(),
            ..self
        }
    }

    /// Asks for what can be found with so many units of work.
    pub(crate) fn within(self, units: u32) -> Self {
        Self { allowance: Allowance::of_units(units), ..self }
    }

    /// Asks at that time after [`START`].
    pub(crate) fn at(&mut self, since_start: Duration) -> &Self {
        self.now = START + since_start;
        self
    }

    pub(crate) fn selector(&self) -> &ProcessSelector {
        &self.selector
    }

    pub(crate) fn id(&self, pattern: usize) -> PatternId {
        self.ids[pattern]
    }

    pub(crate) fn query(&self) -> HolderQuery<'_> {
        HolderQuery {
            selector: &self.selector,
            wanted: &self.wanted,
            census: &self.census,
            located: &self.located,
            counted: &self.counted,
            measured: &self.measured,
            every_holder: self.every_holder,
            now: self.now,
            allowance: &self.allowance,
        }
    }
}
