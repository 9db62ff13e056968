//! Reading /proc through directory descriptors.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::num::NonZeroU32;
use std::ops::{ControlFlow, Range};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, RawDir, SeekFrom, fstat, major, minor, openat, readlinkat_raw, seek, statat,
};
use rustix::io::Errno;
use rustix::param::{clock_ticks_per_second, page_size};
use vms_core::allowance::Allowance;
use vms_core::connection::Inode;
use vms_core::namespace::SocketTables;
use vms_core::process::{Container, Known, Pid, ProcessNames, ProcessUsage};

use crate::container::parse_container;
use crate::error::ProcessError;
use crate::network::NetworkNamespace;
use crate::parse::{
    Device, HiddenProcesses, StatUsage, TaskKind, Units, parse_argv0, parse_comm, parse_decimal,
    parse_executable, parse_hidden_processes, parse_namespace_link, parse_pid, parse_socket_link,
    parse_task_kind, parse_usage,
};
use crate::privileges::Refusal;

/// A /proc, kept open.
#[derive(Debug)]
pub(crate) struct Procfs {
    root: OwnedFd,
    path: PathBuf,
    units: Units,
}

/// A process in the listing of a /proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) pid: Pid,
    /// The inode of its directory, which the kernel makes for each process anew (`fs/proc/base.c`).
    pub(crate) inode: u64,
}

/// One process, kept hold of: every step fails once it is gone, even if another has its number by then.
#[derive(Debug)]
pub(crate) struct ProcessDir(OwnedFd);

/// A process that was entered, and its names.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) dir: ProcessDir,
    /// Of the living thread, where there is one.
    pub(crate) names: Names,
    /// Where its first thread has exited, one that lives.
    pub(crate) thread: Option<ProcessDir>,
}

/// The names of a process, as read.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) comm: Known<Vec<u8>>,
    pub(crate) argv0: Known<Vec<u8>>,
    pub(crate) executable: Known<PathBuf>,
}

/// Why a step of looking at a process did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It is gone.
    Vanished,
    /// The kernel does not show it.
    Refused(Refusal),
    /// The agent has no descriptors or memory left, which says nothing about the process.
    Exhausted(Errno),
}

/// Whether a process runs a program, and what it uses then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It is a part of the kernel, or all of its threads have exited.
    Idle,
    /// It runs. What it uses is `None` where that cannot be made out.
    Running(Option<StatUsage>),
}

/// How far a process's descriptors were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of them.
    Whole,
    /// Up to where the visitor stopped.
    Part,
    /// Up to that descriptor, which is the next: no time was left.
    Cut(u32),
}

/// Room for directory entries: some thousand descriptors a call.
const SCRATCH_BYTES: usize = 32 * 1024;
/// The kernel's names for its own threads can be longer than 15 bytes, up to 64 (`fs/proc/array.c`).
const COMM_BYTES: usize = 256;
/// The longest path, with its NUL (`PATH_MAX`): what does not fit is no path to a program.
const ARGV0_BYTES: usize = 4096;
/// What a file is read by that is read whole: the `status` of a process has half of it.
const WHOLE_BYTES: usize = 4096;
/// Threads of a process whose first has no memory any more among which one is looked for that has: each but those about to exit.
const THREADS_ASKED: usize = 32;
/// 52 numbers of at most 20 digits, and a name.
const STAT_BYTES: usize = 2048;
/// A dozen hierarchies, each with the path of a container in a pod.
const CGROUP_BYTES: usize = 8 * 1024;
/// The length of the longest text that names a socket is 29: longer links are of something else.
const SOCKET_LINK_BYTES: usize = 64;
/// The entries of a directory that are not its own.
const DOTS: u64 = 2;
/// `fd/`, ten digits, and a NUL.
const DESCRIPTOR_PATH_BYTES: usize = 14;
/// Some ten thousand mounts.
const MOUNTINFO_BYTES: u64 = 16 * 1024 * 1024;

/// A buffer for [`Procfs::read_processes`] and [`ProcessDir::read_descriptors`].
pub(crate) fn scratch() -> Vec<u8> {
    Vec::with_capacity(SCRATCH_BYTES)
}

impl Procfs {
    pub(crate) fn open(path: &Path) -> Result<Self, ProcessError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| listing_error(path, errno))?;
        let units = Units {
            ticks_a_second: clock_ticks_per_second(),
            page_bytes: u64::try_from(page_size()).unwrap_or(u64::MAX),
        };
        Ok(Self { root, path: path.to_owned(), units })
    }

    /// The processes that /proc shows, in the order of their numbers.
    pub(crate) fn read_processes(&self, scratch: &mut Vec<u8>) -> Result<Vec<Listed>, ProcessError> {
        seek(&self.root, SeekFrom::Start(0)).map_err(|errno| listing_error(&self.path, errno))?;
        let mut listed = Vec::new();
        let mut entries = RawDir::new(&self.root, scratch.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| listing_error(&self.path, errno))?;
            let pid = parse_pid(entry.file_name().to_bytes());
            listed.extend(pid.map(|pid| Listed { pid, inode: entry.ino() }));
        }
        listed.sort_unstable_by_key(|process| process.pid);
        if listed.is_empty() {
            return Err(ProcessError::Unsupported { path: self.path.clone() });
        }
        Ok(listed)
    }

    /// Takes hold of a process.
    pub(crate) fn open_process(&self, pid: Pid) -> Result<ProcessDir, Obstacle> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.root, pid.to_string(), flags, Mode::empty()) {
            Ok(dir) => Ok(ProcessDir(dir)),
            // A file with a number for a name: no process.
            Err(Errno::NOTDIR) => Err(Obstacle::Vanished),
            Err(errno) => Err(obstacle(errno, Refusal::Enter)),
        }
    }

    /// Takes hold of the agent's own process, as this /proc numbers it.
    pub(crate) fn open_self(&self) -> Result<ProcessDir, Obstacle> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(&self.root, c"self", flags, Mode::empty());
        dir.map(ProcessDir).map_err(|errno| obstacle(errno, Refusal::Enter))
    }

    /// The number that this /proc gives to the agent; `None` where it is in none of its PID namespaces.
    pub(crate) fn read_self(&self) -> Option<Pid> {
        let link = rustix::fs::readlinkat(&self.root, c"self", Vec::new()).ok()?;
        parse_pid(link.as_bytes())
    }

    /// Takes hold of the first process that this /proc numbers, from which all others stem.
    pub(crate) fn open_first(&self) -> Result<ProcessDir, Obstacle> {
        self.open_process(Pid(1))
    }

    /// Opens a process and reads its names. Where its first thread has exited and others live on, those of one that
    /// lives: the kernel shows the first as a zombie without executable and descriptors, and the sockets are held.
    pub(crate) fn enter(&self, pid: Pid) -> Result<(ProcessDir, Names), Obstacle> {
        let Entered { dir, names, thread } = self.enter_whole(pid)?;
        Ok((thread.unwrap_or(dir), names))
    }

    /// The same, and the process beside its thread.
    pub(crate) fn enter_whole(&self, pid: Pid) -> Result<Entered, Obstacle> {
        let dir = self.open_process(pid)?;
        let names = dir.read_names()?;
        if names.executable == Known::Absent
            && dir.read_task_kind() == Ok(TaskKind::Dead)
            && let Some(thread) = dir.open_living_thread()?
        {
            let names = thread.read_names()?;
            return Ok(Entered { dir, names, thread: Some(thread) });
        }
        Ok(Entered { dir, names, thread: None })
    }

    /// Whether a listed process runs, and what it uses; `None` when its number was given to another since, or it cannot be told
    /// whether it was.
    pub(crate) fn read_activity(&self, listed: Listed) -> Result<Option<Activity>, Obstacle> {
        let dir = self.open_process(listed.pid)?;
        let inode = fstat(&dir.0).map_err(|errno| dir.obstacle(errno, Refusal::Enter))?.st_ino;
        if inode == listed.inode { dir.read_activity().map(Some) } else { Ok(None) }
    }

    /// What the kernel told, in units of its own.
    pub(crate) fn in_units(&self, usage: StatUsage, pid: Pid) -> ProcessUsage {
        usage.of(pid, self.units)
    }

    /// Whether that process runs a program: it is no part of the kernel, and not all of its threads have exited.
    pub(crate) fn read_is_running(&self, pid: Pid) -> Result<bool, Obstacle> {
        // One call for most: who has an executable has memory, and neither the kernel's threads nor the dead have any.
        match readlinkat_raw(&self.root, format!("{pid}/exe"), &mut [0; SOCKET_LINK_BYTES]) {
            Ok(_) => return Ok(true),
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {
                return Err(Obstacle::Exhausted(errno));
            }
            Err(_) => {}
        }
        let dir = self.open_process(pid)?;
        match dir.read_task_kind()? {
            TaskKind::User => Ok(true),
            TaskKind::Kernel => Ok(false),
            TaskKind::Dead => Ok(dir.open_living_thread()?.is_some()),
        }
    }

    /// Which processes this /proc hides.
    pub(crate) fn read_hidden_processes(&self) -> Result<HiddenProcesses, ProcessError> {
        let path = self.path.join("self/mountinfo");
        let io_error = |source: io::Error| ProcessError::Io { path: path.clone(), source };
        let device = fstat(&self.root).map_err(|errno| io_error(errno.into()))?.st_dev;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.root, c"self/mountinfo", flags, Mode::empty())
            .map_err(|errno| io_error(errno.into()))?;
        let mut mountinfo = Vec::new();
        File::from(file).take(MOUNTINFO_BYTES).read_to_end(&mut mountinfo).map_err(io_error)?;
        let device = Device { major: major(device), minor: minor(device) };
        parse_hidden_processes(&mountinfo, device)
            .ok_or(ProcessError::Malformed { path, what: "no readable line about this /proc" })
    }

    /// A file of a process, whole; `None` when it is longer than `limit`.
    pub(crate) fn read_file(&self, pid: Pid, name: &str, limit: usize) -> Result<Option<Vec<u8>>, Obstacle> {
        read_whole(&self.root, &format!("{pid}/{name}"), limit)
            .map_err(|errno| obstacle(errno, Refusal::Enter))
    }

    /// A file of the reader itself, whole; `None` when it cannot be read, or is too long.
    pub(crate) fn read_own_file(&self, name: &str) -> Option<Vec<u8>> {
        let limit = usize::try_from(MOUNTINFO_BYTES).unwrap_or(usize::MAX);
        read_whole(&self.root, &format!("self/{name}"), limit).ok().flatten()
    }

    /// Where a link of the reader itself leads.
    pub(crate) fn read_own_link(&self, name: &str) -> Option<Vec<u8>> {
        let link = rustix::fs::readlinkat(&self.root, format!("self/{name}"), Vec::new());
        link.ok().map(std::ffi::CString::into_bytes)
    }

    /// Opens a directory as the host's first process has it, and where it may not be seen through that as the agent does.
    pub(crate) fn open_host_directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |root: &str| openat(&self.root, format!("{root}/root/{path}"), flags, Mode::empty());
        open("1").or_else(|_| open("self"))
    }

    /// The failure of a step that says nothing about any process.
    pub(crate) fn out_of_descriptors(&self, errno: Errno) -> ProcessError {
        ProcessError::Io { path: self.path.clone(), source: errno.into() }
    }

    /// The failure of a step that says nothing about the process it was about.
    pub(crate) fn exhausted(&self, pid: Pid, errno: Errno) -> ProcessError {
        ProcessError::Io { path: self.path.join(pid.to_string()), source: errno.into() }
    }
}

impl ProcessDir {
    /// The names by which the process is known at this moment.
    pub(crate) fn read_names(&self) -> Result<Names, Obstacle> {
        let comm = match known(self.read_text(c"comm", COMM_BYTES, b'\n'))? {
            Known::Is(text) => Known::Is(parse_comm(&text).to_vec()),
            Known::Absent => Known::Absent,
            Known::Denied => Known::Denied,
        };
        let argv0 = match known(self.read_text(c"cmdline", ARGV0_BYTES, 0))? {
            Known::Is(text) => parse_argv0(&text).map_or(Known::Absent, |name| Known::Is(name.to_vec())),
            Known::Absent => Known::Absent,
            Known::Denied => Known::Denied,
        };
        let executable = self.read_executable(argv0 == Known::Absent)?;
        Ok(Names { comm, argv0, executable })
    }

    /// What kind of process it is. Where that cannot be made out, one like any other.
    pub(crate) fn read_task_kind(&self) -> Result<TaskKind, Obstacle> {
        let stat = self.read_text(c"stat", STAT_BYTES, b'\n')?;
        Ok(parse_task_kind(&stat).unwrap_or(TaskKind::User))
    }

    /// Whether the process runs, and what it uses.
    pub(crate) fn read_activity(&self) -> Result<Activity, Obstacle> {
        let stat = self.read_text(c"stat", STAT_BYTES, b'\n')?;
        let kind = parse_task_kind(&stat).unwrap_or(TaskKind::User);
        let usage = parse_usage(&stat);
        let has_memory = |usage: &StatUsage| usage.virtual_bytes > 0;
        match kind {
            TaskKind::Kernel => return Ok(Activity::Idle),
            TaskKind::User if usage.as_ref().is_none_or(has_memory) => return Ok(Activity::Running(usage)),
            TaskKind::User | TaskKind::Dead => {}
        }
        // Its first thread has exited, or is about to, and has let go of its memory: others may still have it. The times of the
        // whole process are told there all the same.
        let (mut is_running, mut asked) = (kind == TaskKind::User, 0);
        let thread = self.find_thread(|thread| {
            if parse_task_kind(thread).unwrap_or(TaskKind::User) != TaskKind::User {
                return None;
            }
            (is_running, asked) = (true, asked + 1);
            let memory = parse_usage(thread).filter(has_memory);
            (memory.is_some() || asked == THREADS_ASKED).then_some(memory)
        })?;
        if !is_running {
            return Ok(Activity::Idle);
        }
        let usage = match thread {
            Some((_, memory)) => memory.zip(usage).map(|(memory, usage)| StatUsage {
                virtual_bytes: memory.virtual_bytes,
                resident_pages: memory.resident_pages,
                ..usage
            }),
            // No thread has any: it is about to exit.
            None => usage,
        };
        Ok(Activity::Running(usage))
    }

    /// The directory of a thread that lives, of a process whose first thread has exited: names and descriptors are
    /// then shown there only. `None` where no other thread is left.
    fn open_living_thread(&self) -> Result<Option<Self>, Obstacle> {
        let lives =
            |stat: &[u8]| (parse_task_kind(stat).unwrap_or(TaskKind::User) == TaskKind::User).then_some(());
        Ok(self.find_thread(lives)?.map(|(thread, ())| thread))
    }

    /// The first thread of whose `stat` something is picked, and that.
    fn find_thread<T>(
        &self,
        mut pick: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<(Self, T)>, Obstacle> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tasks = openat(&self.0, c"task", flags, Mode::empty())
            .map_err(|errno| self.obstacle(errno, Refusal::Enter))?;
        for entry in Dir::read_from(&tasks).map_err(|errno| self.obstacle(errno, Refusal::Enter))? {
            let entry = entry.map_err(|errno| self.obstacle(errno, Refusal::Enter))?;
            if parse_pid(entry.file_name().to_bytes()).is_none() {
                continue;
            }
            let Ok(thread) = openat(&tasks, entry.file_name(), flags, Mode::empty()) else { continue };
            let thread = Self(thread);
            let picked = thread.read_text(c"stat", STAT_BYTES, b'\n').ok().and_then(|stat| pick(&stat));
            if let Some(picked) = picked {
                return Ok(Some((thread, picked)));
            }
        }
        Ok(None)
    }

    /// Shows each socket among the descriptors to `visit`, with the descriptor's number, until it breaks off.
    ///
    /// A descriptor that is closed meanwhile is left out. Those in `range` are read.
    pub(crate) fn read_descriptors(
        &self,
        scratch: &mut Vec<u8>,
        range: Range<u32>,
        allowance: &Allowance<'_>,
        mut visit: impl FnMut(u32, Inode) -> ControlFlow<()>,
    ) -> Result<Extent, Obstacle> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&self.0, c"fd", flags, Mode::empty())
            .map_err(|errno| self.obstacle(errno, Refusal::ListDescriptors))?;
        if range.start > 0 {
            // The kernel places descriptors behind `.` and `..` (`proc_readfd_common`).
            let position = u64::from(range.start) + DOTS;
            seek(&directory, SeekFrom::Start(position))
                .map_err(|errno| self.obstacle(errno, Refusal::ListDescriptors))?;
        }
        let mut link = [0; SOCKET_LINK_BYTES];
        let mut entries = RawDir::new(&directory, scratch.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| self.obstacle(errno, Refusal::ListDescriptors))?;
            let name = entry.file_name();
            let number = parse_decimal(name.to_bytes()).and_then(|number| u32::try_from(number).ok());
            let Some(number) = number else { continue };
            if number >= range.end {
                break;
            }
            if number < range.start {
                continue;
            }
            if allowance.is_spent_after(1) {
                return Ok(Extent::Cut(number));
            }
            let length = match readlinkat_raw(&directory, name, &mut link) {
                Ok(length) => length,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(self.obstacle(errno, Refusal::ReadDescriptor)),
            };
            if let Some(inode) = link.get(..length).and_then(parse_socket_link)
                && visit(number, inode).is_break()
            {
                return Ok(Extent::Part);
            }
        }
        Ok(Extent::Whole)
    }

    /// The network namespace of the process, in whichever way the kernel tells it.
    pub(crate) fn read_network_namespace(&self) -> Result<NetworkNamespace, Obstacle> {
        match self.read_network_inode() {
            Ok(inode) => Ok(NetworkNamespace { inode, file: None }),
            Err(Obstacle::Refused(_)) => {
                Ok(NetworkNamespace { inode: None, file: self.read_network_file()? })
            }
            Err(obstacle) => Err(obstacle),
        }
    }

    /// The network namespace of the process, in every way in which the kernel tells it, to compare with others.
    pub(crate) fn read_both_network_namespaces(&self) -> Result<NetworkNamespace, Obstacle> {
        let inode = match self.read_network_inode() {
            Err(Obstacle::Refused(_)) => None,
            told => told?,
        };
        Ok(NetworkNamespace { inode, file: self.read_network_file()? })
    }

    /// Takes hold of the network namespace of the process: its inode, and a descriptor that keeps it.
    pub(crate) fn open_network_namespace(&self) -> Result<(u64, OwnedFd), Obstacle> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.0, c"ns/net", flags, Mode::empty())
            .map_err(|errno| self.obstacle(errno, Refusal::ReadDescriptor))?;
        let inode = fstat(&file).map_err(|errno| self.obstacle(errno, Refusal::ReadDescriptor))?.st_ino;
        Ok((inode, file))
    }

    /// Takes hold of the network namespace of the process by the tables of its sockets: the inode of its `net/dev`, and the
    /// tables, which keep it. `None` where these may not be read. Takes no privilege.
    pub(crate) fn open_socket_tables(&self) -> Result<Option<(u64, SocketTables)>, Obstacle> {
        let before = self.read_network_file()?;
        let open = |name: &CStr| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            match openat(&self.0, name, flags, Mode::empty()) {
                Ok(file) => Ok(Some(file)),
                // Not there at all, or refused.
                Err(errno) => match self.obstacle(errno, Refusal::ReadDescriptor) {
                    Obstacle::Vanished if self.is_gone() => Err(Obstacle::Vanished),
                    Obstacle::Vanished => Ok(None),
                    obstacle => Err(obstacle),
                },
            }
        };
        let Some(inet) = open(c"net/tcp")? else { return Ok(None) };
        let inet6 = open(c"net/tcp6")?;
        // It may have moved on meanwhile: then it is looked at anew the next time.
        let is_same = self.read_network_file()? == before;
        Ok(before.filter(|_| is_same).map(|file| (file, SocketTables { inet, inet6 })))
    }

    fn read_network_inode(&self) -> Result<Option<NonZeroU32>, Obstacle> {
        self.read_namespace_inode(c"ns/net", b"net")
    }

    /// The user namespace of the process; `None` where that is not told.
    pub(crate) fn read_user_namespace(&self) -> Result<Option<NonZeroU32>, Obstacle> {
        match self.read_namespace_inode(c"ns/user", b"user") {
            Err(Obstacle::Refused(_)) => Ok(None),
            told => told,
        }
    }

    fn read_namespace_inode(&self, link: &CStr, kind: &[u8]) -> Result<Option<NonZeroU32>, Obstacle> {
        let mut text = [0; SOCKET_LINK_BYTES];
        match readlinkat_raw(&self.0, link, &mut text) {
            Ok(length) => Ok(text.get(..length).and_then(|text| parse_namespace_link(text, kind))),
            Err(errno) => Err(self.obstacle(errno, Refusal::ReadDescriptor)),
        }
    }

    fn read_network_file(&self) -> Result<Option<u64>, Obstacle> {
        match statat(&self.0, c"net/dev", AtFlags::empty()) {
            Ok(file) => Ok(Some(file.st_ino)),
            Err(errno) => match self.obstacle(errno, Refusal::ReadDescriptor) {
                Obstacle::Refused(_) => Ok(None),
                obstacle => Err(obstacle),
            },
        }
    }

    /// The container of the process, by its cgroups; `None` where they name none, or are not shown.
    pub(crate) fn read_container(&self) -> Option<Container> {
        // No such byte is in it: the whole file.
        let text = self.read_text(c"cgroup", CGROUP_BYTES, 0).ok()?;
        parse_container(&String::from_utf8_lossy(&text))
    }

    /// Whether that descriptor is that socket at this moment.
    pub(crate) fn holds(&self, descriptor: u32, inode: Inode) -> Result<bool, Obstacle> {
        let mut path = [0; DESCRIPTOR_PATH_BYTES];
        // There is room for any number, and for the NUL.
        let _infallible = write!(path.as_mut_slice(), "fd/{descriptor}");
        let Ok(path) = CStr::from_bytes_until_nul(&path) else { return Ok(false) };
        let mut link = [0; SOCKET_LINK_BYTES];
        match readlinkat_raw(&self.0, path, &mut link) {
            Ok(length) => Ok(link.get(..length).and_then(parse_socket_link) == Some(inode)),
            Err(Errno::NOENT | Errno::SRCH) => Ok(false),
            Err(errno) => Err(self.obstacle(errno, Refusal::ReadDescriptor)),
        }
    }

    fn read_executable(&self, without_arguments: bool) -> Result<Known<PathBuf>, Obstacle> {
        match known(self.read_link(c"exe")) {
            Ok(Known::Is(link)) => Ok(Known::Is(parse_executable(&link).to_owned())),
            // No such link: the process has no memory of its own. If it has vanished, some later step tells.
            Err(Obstacle::Vanished) => Ok(Known::Absent),
            // Refused, although there may be nothing to show: who has no arguments may have no executable.
            Ok(Known::Denied) if without_arguments => match known(self.read_task_kind().map(Some))? {
                Known::Is(Some(TaskKind::Dead | TaskKind::Kernel)) => Ok(Known::Absent),
                _ => Ok(Known::Denied),
            },
            Ok(_) => Ok(Known::Denied),
            Err(obstacle) => Err(obstacle),
        }
    }

    /// The beginning of a file: up to `limit` bytes, and not much further than the first `delimiter`.
    fn read_text(&self, name: &CStr, limit: usize, delimiter: u8) -> Result<Vec<u8>, Obstacle> {
        let file = openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| self.obstacle(errno, Refusal::Enter))?;
        let mut text = Vec::with_capacity(limit);
        while text.len() < limit {
            let before = text.len();
            let read = rustix::io::read(&file, spare_capacity(&mut text))
                .map_err(|errno| self.obstacle(errno, Refusal::Enter))?;
            if read == 0 || text.iter().skip(before).any(|byte| *byte == delimiter) {
                break;
            }
        }
        Ok(text)
    }

    /// A file, whole; `None` when it is longer than `limit`.
    pub(crate) fn read_file(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, Obstacle> {
        read_whole(&self.0, name, limit).map_err(|errno| self.obstacle(errno, Refusal::Enter))
    }

    fn read_link(&self, name: &CStr) -> Result<Vec<u8>, Obstacle> {
        rustix::fs::readlinkat(&self.0, name, Vec::new())
            .map(std::ffi::CString::into_bytes)
            .map_err(|errno| self.obstacle(errno, Refusal::Enter))
    }

    /// What an error means. The kernel also answers `EACCES` when the process goes in the middle of the call.
    fn obstacle(&self, errno: Errno, refusal: Refusal) -> Obstacle {
        match obstacle(errno, refusal) {
            Obstacle::Refused(_) if self.is_gone() => Obstacle::Vanished,
            other => other,
        }
    }

    /// Whether the process is gone.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(statat(&self.0, c"stat", AtFlags::empty()), Err(Errno::NOENT | Errno::SRCH))
    }
}

impl Names {
    /// Of a process into which nobody may look.
    pub(crate) const DENIED: Self =
        Self { comm: Known::Denied, argv0: Known::Denied, executable: Known::Denied };

    pub(crate) fn known(&self) -> ProcessNames<'_> {
        ProcessNames {
            comm: as_deref(&self.comm),
            argv0: as_deref(&self.argv0),
            executable: as_deref(&self.executable),
        }
    }
}

/// A file below a directory, whole; `None` when it is longer than `limit`.
pub(crate) fn read_whole(directory: &OwnedFd, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Errno> {
    let file = openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(WHOLE_BYTES);
    while text.len() <= limit {
        text.reserve(WHOLE_BYTES);
        if rustix::io::read(&file, spare_capacity(&mut text))? == 0 {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

fn as_deref<T: std::ops::Deref>(known: &Known<T>) -> Known<&T::Target> {
    match known {
        Known::Is(value) => Known::Is(value),
        Known::Absent => Known::Absent,
        Known::Denied => Known::Denied,
    }
}

/// A refusal is an answer; the other obstacles remain obstacles.
fn known<T>(outcome: Result<T, Obstacle>) -> Result<Known<T>, Obstacle> {
    match outcome {
        Ok(value) => Ok(Known::Is(value)),
        Err(Obstacle::Refused(_)) => Ok(Known::Denied),
        Err(obstacle) => Err(obstacle),
    }
}

fn obstacle(errno: Errno, refusal: Refusal) -> Obstacle {
    match errno {
        Errno::NOENT | Errno::SRCH => Obstacle::Vanished,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => Obstacle::Exhausted(errno),
        // Only hidepid answers so, whatever is asked for.
        Errno::PERM => Obstacle::Refused(Refusal::Enter),
        // EACCES, and what a process can arrange to cause, such as an executable with too long a path.
        _ => Obstacle::Refused(refusal),
    }
}

fn listing_error(path: &Path, errno: Errno) -> ProcessError {
    let path = path.to_owned();
    match errno {
        Errno::ACCESS | Errno::PERM => ProcessError::PermissionMissing { path, source: errno.into() },
        _ => ProcessError::Io { path, source: errno.into() },
    }
}

#[cfg(test)]
mod tests;
