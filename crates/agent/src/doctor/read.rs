//! The looking: every fact from a file, below roots that are passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vms_core::address::{ServiceIp, Zone};
use vms_core::infer::{AttributionMode, InferenceLack};
use vms_core::namespace::Namespaces;
use vms_core::probe::ConnectionProbe;
use vms_core::process::{Known, Pid};
use vms_export::SpoolCondition;
use vms_process::HiddenProcesses;
use vms_process::parse::parse_cgroup;

use super::facts::{
    CapabilitySet, CollectorProblem, Credentials, ExecutableFacts, Facts, ForeignLook, InferenceFacts,
    LinkFacts, NetworkFacts, PidView, ProbeFacts, ProcessFacts, Refusal, RunningAgent, SandboxFacts, Setting,
};
use crate::config::SandboxMode;
use crate::patience;
use crate::sandbox;

/// How long the disk of the spool may take.
const DISK_ANSWERS: Duration = Duration::from_secs(3);

/// Where to look.
pub(crate) struct Sources<'a> {
    /// `/`: where container engines leave their marks, and executables are looked up.
    pub(crate) root: &'a Path,
    /// The /proc in which this process is `self`: `/proc`.
    pub(crate) own_proc: &'a Path,
    /// The configured /proc, whose processes are watched; the same, or `/host/proc`.
    pub(crate) proc_root: &'a Path,
    /// The environment.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// This binary.
    pub(crate) executable: PathBuf,
    /// Which processes the configured /proc hides, where that could be read.
    pub(crate) hidden: Option<HiddenProcesses>,
    /// The spool's directory, where there is to be one.
    pub(crate) spool: Option<&'a Path>,
    /// What is configured to be measured.
    pub(crate) probes: &'a [Arc<ConnectionProbe>],
    /// What is configured to be given up.
    pub(crate) sandbox: SandboxMode,
    /// Whether holders are to be inferred.
    pub(crate) attribution: AttributionMode,
    /// What the configured /proc lacks for that.
    pub(crate) inference: BTreeSet<InferenceLack>,
    /// Whose connections are configured to be looked at.
    pub(crate) namespaces: Namespaces,
}

/// Looks at everything. Nothing is changed, and no connection is opened here: whether the kernel tells its sockets
/// (`sockets`), what is known of the links (`links`), and whether the collector takes metrics (`collector`) is tried by the caller's means.
pub(crate) fn read_facts(
    sources: &Sources<'_>,
    sockets: &mut dyn FnMut() -> Result<(), Refusal>,
    links: &mut dyn FnMut() -> Result<Vec<LinkFacts>, Refusal>,
    collector: Option<Result<String, CollectorProblem>>,
) -> Facts {
    let own_dir = sources.own_proc.join("self");
    let own_status = read_text(&own_dir.join("status"));
    let own = parse_status(&own_status).credentials;
    let processes = read_processes(sources.proc_root);
    let own_network = read_link_text(&own_dir.join("ns/net"));
    let setting = read_setting(sources, &own_dir);
    Facts {
        initial_user_namespace: read_link_text(&own_dir.join("ns/user"))
            .map(|link| link == FIRST_USER_NAMESPACE),
        executable: sources.executable.clone(),
        agents: read_agents(sources, &processes),
        network: NetworkFacts {
            first: read_first_network(sources.proc_root, &processes)
                .or_else(|| compare_first_network(sources, own_network.as_deref()?)),
            own: own_network,
        },
        kernel_release: read_text(&sources.own_proc.join("sys/kernel/osrelease")).trim().to_owned(),
        yama: read_text(&sources.own_proc.join("sys/kernel/yama/ptrace_scope")).trim().parse().ok(),
        sockets: sockets(),
        // That takes a right which not everybody wants to give: it is tried by the caller's means.
        conntrack: None,
        collector,
        // As are translations.
        scrapes: None,
        spool: sources.spool.map(|directory| (directory.to_owned(), examine_spool(directory))),
        links: links(),
        probes: sources.probes.iter().map(|probe| read_probe(sources, &setting, probe)).collect(),
        sandbox: SandboxFacts {
            mode: sources.sandbox,
            // Since Linux 4.14; absent without CONFIG_SECCOMP_FILTER.
            seccomp: sources.own_proc.join("sys/kernel/seccomp/actions_avail").exists(),
            landlock: sandbox::supports_landlock(),
        },
        inference: read_inference(sources, &processes),
        processes: read_process_facts(sources, &processes, &own),
        namespaces: sources.namespaces,
        setting,
        own,
    }
}

/// `user:[...]` and `pid:[...]` of the host: fixed inode numbers (`include/linux/proc_ns.h`, since 3.8; in
/// `include/uapi/linux/nsfs.h` since 6.18).
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Processes of other users that are looked into at the most: enough to notice a rule, soon done on a large host.
const FOREIGN_LOOKS: usize = 32;

/// What `/proc/PID/status` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) parent: Option<Pid>,
    /// How many PID namespaces, from the procfs's own inward, the process is in.
    pub(crate) pid_namespaces: usize,
    pub(crate) credentials: Credentials,
}

pub(crate) fn parse_status(text: &str) -> Status {
    let mut status = Status::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        let numbers = || value.split_whitespace().map_while(|number| number.parse::<u32>().ok());
        let capabilities = || CapabilitySet(u64::from_str_radix(value, 16).unwrap_or(0));
        match key {
            "Name" => value.clone_into(&mut status.name),
            "PPid" => status.parent = numbers().next().map(Pid),
            "NSpid" => status.pid_namespaces = numbers().count(),
            // Real, effective, saved, file system.
            "Uid" => status.credentials.uid = numbers().nth(1).unwrap_or(0),
            "Gid" => status.credentials.groups.extend(numbers().nth(3)),
            "Groups" => status.credentials.groups.extend(numbers()),
            "CapEff" => status.credentials.effective = capabilities(),
            "CapPrm" => status.credentials.permitted = capabilities(),
            "CapBnd" => status.credentials.bounding = capabilities(),
            "NoNewPrivs" => status.credentials.no_new_privs = value == "1",
            "Seccomp" => status.credentials.seccomp_filter = value == "2",
            _ => {}
        }
    }
    status
}

fn read_processes(proc_root: &Path) -> BTreeMap<u32, Status> {
    let Ok(entries) = fs::read_dir(proc_root) else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            // One that vanishes meanwhile is no process any more.
            let text = fs::read(entry.path().join("status")).ok()?;
            Some((pid, parse_status(&String::from_utf8_lossy(&text))))
        })
        .collect()
}

/// What stands in the way of inferring holders: what was found out about processes, and whether any of them is in a cgroup by
/// which its sockets are told from those of others.
fn read_inference(sources: &Sources<'_>, processes: &BTreeMap<u32, Status>) -> InferenceFacts {
    let is_grouped = |pid: &u32| {
        let text = fs::read(sources.proc_root.join(pid.to_string()).join("cgroup")).unwrap_or_default();
        parse_cgroup(&text).is_some_and(|path| path != b"/")
    };
    let mut lacks = sources.inference.clone();
    if !processes.keys().any(is_grouped) {
        lacks.insert(InferenceLack::UntaggedSockets);
    }
    InferenceFacts { mode: sources.attribution, lacks }
}

/// A disk that does not answer is what is to be told.
fn examine_spool(directory: &Path) -> SpoolCondition {
    let directory = directory.to_owned();
    patience::within(DISK_ANSWERS, move || vms_export::examine_directory(&directory)).unwrap_or_else(|| {
        SpoolCondition::Unusable(format!("the disk has not answered for {} s", DISK_ANSWERS.as_secs()))
    })
}

fn read_process_facts(
    sources: &Sources<'_>,
    processes: &BTreeMap<u32, Status>,
    own: &Credentials,
) -> ProcessFacts {
    let root = sources.proc_root;
    let own_family = read_own_family(sources, processes);
    // The status of this process as that procfs numbers it; absent when it does not list this process.
    let seen_there = parse_status(&read_text(&root.join("self/status"))).pid_namespaces;
    let in_first =
        read_link_text(&sources.own_proc.join("self/ns/pid")).map(|link| link == FIRST_PID_NAMESPACE);
    ProcessFacts {
        root: root.to_owned(),
        is_procfs: rustix::fs::statfs(root)
            .map(|filesystem| filesystem.f_type == rustix::fs::PROC_SUPER_MAGIC)
            .map_err(|errno| Refusal::new(&errno)),
        visible: processes.len(),
        others: processes.keys().filter(|pid| !own_family.contains(pid)).count(),
        view: match (in_first, seen_there) {
            (Some(true), 1..) => PidView::Host,
            (_, 2..) => PidView::Outer,
            (Some(false), 1) => PidView::OwnNamespace,
            _ => PidView::Unknown,
        },
        hidden: sources.hidden,
        foreign: read_foreign(root, processes, own),
    }
}

/// This process and its ancestors, as the configured /proc numbers them.
fn read_own_family(sources: &Sources<'_>, processes: &BTreeMap<u32, Status>) -> Vec<u32> {
    let mut family = Vec::new();
    let mut next = read_link_text(&sources.proc_root.join("self")).and_then(|pid| pid.parse().ok());
    while let Some(pid) = next.filter(|pid| !family.contains(pid)) {
        family.push(pid);
        next = processes.get(&pid).and_then(|status| status.parent).map(|Pid(parent)| parent);
    }
    family
}

/// Tries to learn the open files of processes, other users' first: opening the directory takes one capability, reading
/// a link in it the other. A process of the agent's own user can be out of reach as well, by what it may do itself.
fn read_foreign(proc_root: &Path, processes: &BTreeMap<u32, Status>, own: &Credentials) -> ForeignLook {
    let mut look = ForeignLook::default();
    let foreign = |status: &Status| status.credentials.uid != own.uid;
    let (others, own_users): (Vec<_>, Vec<_>) = processes.iter().partition(|(_, status)| foreign(status));
    for (pid, _) in others.into_iter().chain(own_users) {
        if look.tried == FOREIGN_LOOKS {
            break;
        }
        let is_refused = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        let mut listed = match fs::read_dir(proc_root.join(pid.to_string()).join("fd")) {
            Ok(listed) => listed,
            Err(error) => {
                look.tried += usize::from(is_refused(&error));
                look.unlisted += usize::from(is_refused(&error));
                continue;
            }
        };
        match listed.next().map(|entry| fs::read_link(entry?.path())) {
            Some(Ok(_)) => look.tried += 1,
            Some(Err(error)) if is_refused(&error) => {
                look.tried += 1;
                look.unread += 1;
            }
            // No open files, or gone.
            None | Some(Err(_)) => {}
        }
    }
    look
}

/// The network namespace of PID 1, or of the kernel's threads, which never leave the host's: some hosts let nobody
/// look into PID 1.
fn read_first_network(proc_root: &Path, processes: &BTreeMap<u32, Status>) -> Option<String> {
    read_link_text(&proc_root.join("1/ns/net")).or_else(|| {
        processes.get(&2).filter(|second| second.name == "kthreadd")?;
        read_link_text(&proc_root.join("2/ns/net"))
    })
}

/// The same where nobody may look into it: below `/proc/PID/net` are files that the kernel makes once for each network
/// namespace (`fs/proc/proc_net.c`), so that their inodes tell whether it is that of this process.
fn compare_first_network(sources: &Sources<'_>, own: &str) -> Option<String> {
    let file = |process: PathBuf| Some(fs::metadata(process.join("net/dev")).ok()?.ino());
    let (this, first) = (file(sources.own_proc.join("self"))?, file(sources.proc_root.join("1"))?);
    Some(if this == first { own.to_owned() } else { "another".to_owned() })
}

fn read_agents(sources: &Sources<'_>, processes: &BTreeMap<u32, Status>) -> Vec<RunningAgent> {
    let own = read_link_text(&sources.proc_root.join("self"));
    processes
        .iter()
        .filter(|(pid, status)| status.name == "vms-agent" && own != Some(pid.to_string()))
        .map(|(pid, status)| {
            let directory = sources.proc_root.join(pid.to_string());
            RunningAgent {
                pid: Pid(*pid),
                credentials: read_most_capable(&directory).unwrap_or_else(|| status.credentials.clone()),
                dumps_core: read_dumps_core(&directory),
                setting: match_cgroup(&read_text(&directory.join("cgroup"))).unwrap_or(Setting::Plain),
            }
        })
        .collect()
}

/// The rights of the thread of a process that has most of them: of a running agent only the one that measures keeps its
/// capabilities. What one thread lacks in restrictions, the process lacks.
fn read_most_capable(process: &Path) -> Option<Credentials> {
    let tasks = fs::read_dir(process.join("task")).ok()?.flatten();
    let threads = tasks.map(|task| parse_status(&read_text(&task.path().join("status"))).credentials);
    threads.reduce(|most, thread| {
        let no_new_privs = most.no_new_privs && thread.no_new_privs;
        let seccomp_filter = most.seccomp_filter && thread.seccomp_filter;
        let more =
            if thread.effective.0.count_ones() > most.effective.0.count_ones() { thread } else { most };
        Credentials { no_new_privs, seccomp_filter, ..more }
    })
}

/// Whether the kernel would write the memory of a process to a file (`/proc/PID/limits`).
fn read_dumps_core(process: &Path) -> Option<bool> {
    let text = read_text(&process.join("limits"));
    let limit = text.lines().find_map(|line| line.strip_prefix("Max core file size"))?;
    Some(limit.split_whitespace().next()? != "0")
}

fn read_setting(sources: &Sources<'_>, own_dir: &Path) -> Setting {
    if (sources.variable)("KUBERNETES_SERVICE_HOST").is_some() {
        return Setting::Kubernetes;
    }
    let marked = ["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|mark| sources.root.join(mark.trim_start_matches('/')).exists());
    // Set by podman, systemd-nspawn and LXC (systemd's "Container Interface").
    if marked || (sources.variable)("container").is_some_and(|value| !value.is_empty()) {
        return Setting::Container;
    }
    let by_cgroup = match_cgroup(&read_text(&own_dir.join("cgroup")));
    by_cgroup.unwrap_or_else(|| match (sources.variable)("INVOCATION_ID") {
        Some(_) => Setting::Service("vms-agent".to_owned()),
        None => Setting::Plain,
    })
}

/// What `/proc/PID/cgroup` gives away, as `HIERARCHY:CONTROLLERS:PATH` (cgroups(7)).
fn match_cgroup(text: &str) -> Option<Setting> {
    let paths = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    if paths().any(|path| path.contains("kubepods")) {
        return Some(Setting::Kubernetes);
    }
    if paths().any(|path| {
        ["docker", "libpod", "containerd", "crio", "lxc"].iter().any(|engine| path.contains(engine))
    }) {
        return Some(Setting::Container);
    }
    // A shell's session is a scope; below user@.service are the user's own services, which have no capabilities
    // to give away.
    paths().find_map(|path| {
        let unit = path.rsplit('/').next().filter(|unit| unit.ends_with(".service"))?;
        if path.contains("user@") {
            None
        } else {
            Some(Setting::Service(unit.trim_end_matches(".service").to_owned()))
        }
    })
}

fn read_probe(sources: &Sources<'_>, setting: &Setting, probe: &ConnectionProbe) -> ProbeFacts {
    let mut executables = Vec::new();
    let configured = [
        ("executablePath", &probe.source_process.executable),
        ("destExecutablePath", &probe.dest_process.executable),
    ];
    for (key, path) in configured {
        let Some(path) = path else { continue };
        // Where the dest end has none of its own, it is the source's.
        if !executables.iter().any(|known: &ExecutableFacts| known.path == *path) {
            let resolved = read_executable(sources, setting, path);
            executables.push(ExecutableFacts { key, path: path.clone(), resolved });
        }
    }
    ProbeFacts {
        name: probe.name.to_string(),
        service: probe.service().to_string(),
        service_ip: probe.dest_ip.ip(),
        is_local: read_is_local(sources, &probe.dest_ip),
        executables,
    }
}

/// Looks an executable up in the file system of the processes that are watched.
fn read_executable(sources: &Sources<'_>, setting: &Setting, path: &Path) -> Known<PathBuf> {
    let is_shared_proc = sources.proc_root == sources.own_proc;
    let resolved = if is_shared_proc {
        read_resolved(sources.root, path)
    } else {
        read_resolved(&sources.proc_root.join("1/root"), path)
    };
    match resolved {
        Ok(resolved) => Known::Is(resolved),
        // A container's own files say nothing about those of its neighbors.
        Err(_) if is_shared_proc && setting.is_contained() => Known::Denied,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Known::Absent
        }
        Err(_) => Known::Denied,
    }
}

/// Symbolic links that are followed in one path: the kernel's own limit (`path_resolution(7)`).
const LINKS: usize = 40;

/// Where a path leads with every symbolic link followed, as seen from `root`.
///
/// By hand, because an absolute link below `/host/proc/1/root` has to stay below it.
fn read_resolved(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut links = 0;
    let mut resolved = PathBuf::from("/");
    let mut todo: Vec<_> = components(path);
    while let Some(component) = todo.pop() {
        if component == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&component);
        let on_host = root.join(next.strip_prefix("/").unwrap_or(&next));
        if !fs::symlink_metadata(&on_host)?.is_symlink() {
            resolved = next;
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err(io::Error::from(rustix::io::Errno::LOOP));
        }
        let target = fs::read_link(&on_host)?;
        if target.is_absolute() {
            resolved = PathBuf::from("/");
        }
        todo.extend(components(&target));
    }
    Ok(resolved)
}

/// The names on the way, the last one first.
fn components(path: &Path) -> Vec<std::ffi::OsString> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    names.rev().map(|part| part.as_os_str().to_owned()).collect()
}

/// Whether an address is one of this network namespace's: only then a socket can be bound to it.
fn read_is_local(sources: &Sources<'_>, address: &ServiceIp) -> bool {
    let to_bind = match address.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip, 0)),
        IpAddr::V6(ip) => {
            let scope = match address.zone() {
                None => Some(0),
                Some(Zone::Index(index)) => Some(*index),
                Some(Zone::Name(name)) => {
                    let file = sources.root.join("sys/class/net").join(&**name).join("ifindex");
                    read_text(&file).trim().parse().ok()
                }
            };
            SocketAddrV6::new(ip, 0, 0, scope.unwrap_or(0)).into()
        }
    };
    UdpSocket::bind(to_bind).is_ok()
}

/// Empty when it cannot be read: each fact has its own way to be unknown.
fn read_text(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn read_link_text(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.into_os_string().into_string().ok()
}

#[cfg(test)]
mod tests;
