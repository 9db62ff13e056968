//! The judgment: from facts to findings, each lack with its fix.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use vms_core::namespace::Namespaces;
use vms_core::process::{Capability, Known};
use vms_export::SpoolCondition;
use vms_process::{HiddenProcesses, HidePid};

use super::facts::{
    Credentials, Facts, ForeignLook, NetworkFacts, PidView, ProbeFacts, ProcessFacts, Refusal, Setting,
};
use super::{Area, Finding, Level, conntrack, inference, links, restraint, scrapes};
use crate::host::kernel_version;

/// The inode number of the first network namespace, fixed since Linux 6.18 (`include/uapi/linux/nsfs.h`).
/// Earlier kernels number it like any other, from 0xF0000000 upward.
const FIRST_NETWORK_NAMESPACE: &str = "net:[4026531833]";

/// Judges, most fundamental things first within each area.
pub(crate) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(evaluate_privileges(facts));
    findings.extend(inference::evaluate(facts));
    findings.extend(evaluate_processes(&facts.processes, &facts.own, &facts.setting));
    findings.push(match facts.namespaces {
        Namespaces::Own => {
            evaluate_network(&facts.network, &facts.processes, &facts.setting, &facts.executable)
        }
        Namespaces::All => evaluate_all_networks(facts),
    });
    findings.extend(evaluate_kernel(facts));
    findings.extend(conntrack::evaluate(facts));
    findings.extend(evaluate_collector(facts));
    findings.extend(evaluate_spool(facts));
    findings.extend(scrapes::evaluate(facts));
    findings.extend(restraint::evaluate(facts));
    for probe in &facts.probes {
        findings.extend(evaluate_probe(probe));
    }
    findings.extend(links::evaluate(facts));
    findings
}

pub(super) fn ok(area: Area, what: impl Into<String>) -> Finding {
    Finding { area, level: Level::Ok, what: what.into(), fix: None, fix_under: BTreeMap::new() }
}

pub(super) fn lack(
    area: Area,
    level: Level,
    what: impl Into<String>,
    fix: impl Into<Option<String>>,
) -> Finding {
    Finding { area, level, what: what.into(), fix: fix.into(), fix_under: BTreeMap::new() }
}

fn evaluate_privileges(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let missing = facts.own.effective.missing();
    let uid = facts.own.uid;
    if !missing.is_empty() {
        let lacks = format!("this process (uid {uid}) lacks {}", join(&missing, " and "));
        findings.push(if facts.agents.is_empty() {
            lack(
                Area::Privileges,
                Level::Warn,
                format!(
                    "{lacks}: {UNATTRIBUTED}{}{}",
                    why_missing(&facts.own, &missing),
                    out_of_reach(facts.processes.foreign, &missing)
                ),
                grant(&facts.own, &missing, &facts.setting, &facts.executable),
            )
        } else {
            ok(Area::Privileges, format!("{lacks}, which does not matter to the running agent"))
        });
    } else if facts.initial_user_namespace == Some(false) {
        let fix = match facts.setting {
            Setting::Kubernetes => "in the pod: hostUsers: true",
            Setting::Service(_) => "in the unit, under [Service]: PrivateUsers=no",
            Setting::Container => "start the container as root, with --userns=host",
            Setting::Plain => "start it outside of the user namespace",
        };
        findings.push(lack(
            Area::Privileges,
            Level::Warn,
            "this process has its capabilities only inside its own user namespace: links held by processes outside of it cannot be attributed",
            fix.to_owned(),
        ));
    } else {
        findings.push(ok(
            Area::Privileges,
            format!("this process (uid {uid}) has the capabilities to look into every process"),
        ));
        findings.extend(evaluate_foreign_look(facts));
    }
    for agent in &facts.agents {
        let missing = agent.credentials.effective.missing();
        let who = format!("the running agent (PID {}, uid {})", agent.pid, agent.credentials.uid);
        findings.push(if missing.is_empty() {
            ok(Area::Privileges, format!("{who} has the capabilities to look into every process"))
        } else {
            lack(
                Area::Privileges,
                Level::Warn,
                format!(
                    "{who} lacks {}: {UNATTRIBUTED}{}",
                    join(&missing, " and "),
                    why_missing(&agent.credentials, &missing)
                ),
                grant(&agent.credentials, &missing, &agent.setting, &facts.executable),
            )
        });
    }
    findings
}

const UNATTRIBUTED: &str =
    "links held by other users' processes cannot be attributed (up is 0 while unattributed is above 0)";

/// Capabilities say what should be possible; this, what is.
///
/// Yama (`kernel.yama.ptrace_scope`) is not among the suspects: it restricts attaching only, not the reading of
/// links in /proc (`security/yama/yama_lsm.c`).
fn evaluate_foreign_look(facts: &Facts) -> Option<Finding> {
    let look = facts.processes.foreign;
    if look.refused() == 0 {
        return None;
    }
    let fix = match facts.setting {
        Setting::Container => {
            Some("--security-opt=apparmor=unconfined (or, with SELinux, --security-opt=label=disable)")
        }
        Setting::Kubernetes => Some("securityContext.appArmorProfile.type: Unconfined"),
        Setting::Service(_) | Setting::Plain => None,
    };
    Some(lack(
        Area::Privileges,
        Level::Warn,
        format!(
            "{} of {} processes of other users could not be looked into in spite of both capabilities: a security module (AppArmor, SELinux) or their user namespace forbids it",
            look.refused(),
            look.tried
        ),
        fix.map(str::to_owned),
    ))
}

/// How many processes each capability would bring within reach.
///
/// To list a process's descriptors takes the one for directories, and to read them then the other as well.
fn out_of_reach(look: ForeignLook, missing: &[Capability]) -> String {
    let ForeignLook { tried, unlisted, unread } = look;
    if look.refused() == 0 {
        return String::new();
    }
    let mut parts = Vec::new();
    if unlisted > 0 {
        parts.push(format!("{unlisted} for want of {}", join(missing, " and ")));
    }
    if unread > 0 {
        parts.push(format!("{unread} for want of {}", Capability::SysPtrace));
    }
    format!(
        "; of {tried} processes that were tried {} are out of reach: {}",
        look.refused(),
        parts.join(", ")
    )
}

/// What stands in the way of a capability, beyond that nobody gave it.
fn why_missing(credentials: &Credentials, missing: &[Capability]) -> &'static str {
    if missing.iter().all(|capability| credentials.permitted.allows(*capability)) {
        "; what is missing is permitted, but not effective"
    } else if missing.iter().any(|capability| !credentials.bounding.allows(*capability)) {
        "; the bounding set forbids it"
    } else if credentials.no_new_privs {
        "; no_new_privs is set, so setcap would not help"
    } else {
        ""
    }
}

pub(super) fn grant(
    credentials: &Credentials,
    missing: &[Capability],
    setting: &Setting,
    executable: &Path,
) -> String {
    let names = join(missing, " ");
    let unbounded = missing.iter().all(|capability| credentials.bounding.allows(*capability));
    match setting {
        Setting::Service(unit) => {
            let also = if unbounded { String::new() } else { format!(" and CapabilityBoundingSet={names}") };
            format!("sudo systemctl edit {unit}, under [Service]: AmbientCapabilities={names}{also}")
        }
        // An engine gives added capabilities to root only: another user would have to gain them from the file.
        Setting::Container => {
            let user = if credentials.uid == 0 { "" } else { " --user=0" };
            let adds: Vec<_> =
                missing.iter().map(|capability| format!("--cap-add={}", short(*capability))).collect();
            format!("{}{user}", adds.join(" "))
        }
        Setting::Kubernetes => {
            let user = if credentials.uid == 0 { "" } else { " and runAsUser: 0" };
            let adds: Vec<_> = missing.iter().map(|capability| short(*capability)).collect();
            format!("securityContext.capabilities.add: [{}]{user}", adds.join(", "))
        }
        Setting::Plain if unbounded && !credentials.no_new_privs => {
            format!("sudo setcap {}=ep {}", names.to_ascii_lowercase().replace(' ', ","), quote(executable))
        }
        Setting::Plain => format!(
            "start it from systemd, free of what restricts this shell: sudo systemd-run --pty --uid={} --property=AmbientCapabilities=\"{names}\" {}",
            credentials.uid,
            quote(executable)
        ),
    }
}

fn short(capability: Capability) -> &'static str {
    capability.as_str().trim_start_matches("CAP_")
}

pub(super) fn join(capabilities: &[Capability], separator: &str) -> String {
    capabilities.iter().map(|capability| capability.as_str()).collect::<Vec<_>>().join(separator)
}

/// For a shell, when it needs that.
pub(super) fn quote(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.chars().all(|character| character.is_ascii_alphanumeric() || "/._-+".contains(character)) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn evaluate_processes(facts: &ProcessFacts, own: &Credentials, setting: &Setting) -> Vec<Finding> {
    let root = facts.root.display();
    let mount = match setting {
        Setting::Container => Some("--volume=/proc:/host/proc:ro, and procRoot: /host/proc"),
        Setting::Kubernetes => {
            Some("a hostPath volume of /proc mounted at /host/proc, and procRoot: /host/proc")
        }
        Setting::Service(_) | Setting::Plain => Some("procRoot: /proc"),
    };
    match &facts.is_procfs {
        Err(refusal) => {
            let what = format!("{root} cannot be read: {}", refusal.text);
            return vec![lack(Area::Processes, Level::Fail, what, mount.map(str::to_owned))];
        }
        Ok(false) => {
            let what = format!("{root} is no procfs: no process will be found there");
            return vec![lack(Area::Processes, Level::Fail, what, mount.map(str::to_owned))];
        }
        Ok(true) => {}
    }
    let mut findings = Vec::new();
    let visible = match facts.visible {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    let share = match setting {
        Setting::Kubernetes => "hostPID: true (all of the host) or shareProcessNamespace: true (this pod)",
        Setting::Container => "--pid=host (all of the host) or --pid=container:NAME (one container)",
        Setting::Service(_) | Setting::Plain => "start it in the PID namespace of the processes to watch",
    };
    findings.push(match facts.view {
        PidView::OwnNamespace if facts.others == 0 => lack(
            Area::Processes,
            Level::Fail,
            format!("{root} shows no process but this one: it has a PID namespace of its own"),
            share.to_owned(),
        ),
        PidView::OwnNamespace => ok(
            Area::Processes,
            format!(
                "{visible} in {root}, those of this PID namespace only: right for a sidecar; for more, {share}"
            ),
        ),
        PidView::Host => ok(Area::Processes, format!("{visible} in {root}, the host's")),
        PidView::Outer => {
            ok(Area::Processes, format!("{visible} in {root}, from outside of this container"))
        }
        PidView::Unknown => ok(Area::Processes, format!("{visible} in {root}")),
    });
    findings.extend(facts.hidden.as_ref().and_then(|hidden| evaluate_hidepid(*hidden, own, setting)));
    findings
}

fn evaluate_hidepid(hidden: HiddenProcesses, own: &Credentials, setting: &Setting) -> Option<Finding> {
    let (hides, by_group) = match hidden.hide_pid {
        HidePid::Off => return None,
        HidePid::NoAccess => ("keeps other users' processes from being read", true),
        HidePid::Ptraceable => ("hides processes that may not be traced", false),
        HidePid::Invisible => ("hides other users' processes", true),
    };
    let mode = hidden.hide_pid.as_str();
    // `has_pid_permissions()` in fs/proc/base.c: a member of the group, or who may trace the process.
    if own.effective.allows(Capability::SysPtrace) {
        return Some(ok(Area::Processes, format!("hidepid={mode} {hides}, but not from CAP_SYS_PTRACE")));
    }
    let group = by_group.then_some(hidden.exempt_group);
    if let Some(gid) = group.filter(|gid| own.groups.contains(gid)) {
        return Some(ok(Area::Processes, format!("hidepid={mode} {hides}, but not from group {gid}")));
    }
    // Group 0 is the kernel's default: to join it is no fix.
    let fix = match (setting, group.filter(|gid| *gid != 0)) {
        (Setting::Service(unit), Some(gid)) => {
            format!("sudo systemctl edit {unit}, under [Service]: SupplementaryGroups={gid}")
        }
        (Setting::Service(unit), None) => {
            format!(
                "sudo systemctl edit {unit}, under [Service]: AmbientCapabilities=CAP_SYS_PTRACE and ProtectProc=default"
            )
        }
        (_, Some(gid)) => format!("start it with group {gid}, or grant CAP_SYS_PTRACE"),
        (_, None) => "grant CAP_SYS_PTRACE, which sees through it".to_owned(),
    };
    let what = format!("hidepid={mode} {hides}: probes for them will say process_absent or not_permitted");
    Some(lack(Area::Processes, Level::Warn, what, fix))
}

fn evaluate_network(
    facts: &NetworkFacts,
    processes: &ProcessFacts,
    setting: &Setting,
    executable: &Path,
) -> Finding {
    let Some(own) = &facts.own else {
        return ok(Area::Network, "the network namespace of this process cannot be read");
    };
    match &facts.first {
        Some(first) if first == own => ok(Area::Network, "this process sees the sockets that PID 1 sees"),
        None if own == FIRST_NETWORK_NAMESPACE => {
            ok(Area::Network, "this process sees the sockets of the host")
        }
        None if setting.is_contained() && processes.view != PidView::OwnNamespace => lack(
            Area::Network,
            Level::Warn,
            "whether this process sees the host's sockets or only its container's cannot be told: PID 1 may not be looked into",
            share_network(setting, executable),
        ),
        None => ok(
            Area::Network,
            "this process sees the sockets of its network namespace; it may not look whether that is PID 1's",
        ),
        // The processes are somebody else's, the sockets are not: nothing will ever fit.
        Some(_) if processes.view == PidView::Outer || setting.is_contained() => lack(
            Area::Network,
            Level::Fail,
            format!(
                "the processes in {} are the host's, but the sockets that are seen are this container's own: probes for processes that live elsewhere fail",
                processes.root.display()
            ),
            share_network(setting, executable),
        ),
        Some(_) => lack(
            Area::Network,
            Level::Warn,
            "this process is in another network namespace than PID 1: it sees the sockets of its own only, and probes for processes that live elsewhere fail",
            share_network(setting, executable),
        ),
    }
}

/// With `namespaces: all`, in which network the agent is makes no difference, but whether it may enter the others. A
/// running agent is the one that matters.
fn evaluate_all_networks(facts: &Facts) -> Finding {
    let agents: Vec<_> = facts.agents.iter().map(|agent| (&agent.credentials, &agent.setting)).collect();
    let own = [(&facts.own, &facts.setting)];
    let judged = if agents.is_empty() { own.as_slice() } else { agents.as_slice() };
    let Some((_, setting)) = judged.iter().find(|(credentials, _)| !credentials.effective.allows_entering())
    else {
        return ok(
            Area::Network,
            "the sockets of every network namespace are seen in which a process lives that fits (`namespaces: all`)",
        );
    };
    let fix = match setting {
        Setting::Service(unit) => format!(
            "sudo systemctl edit {unit}, under [Service]: AmbientCapabilities=CAP_SYS_ADMIN, CapabilityBoundingSet=CAP_SYS_ADMIN and RestrictNamespaces=net"
        ),
        Setting::Container => "--cap-add=SYS_ADMIN".to_owned(),
        Setting::Kubernetes => "securityContext.capabilities.add: [SYS_ADMIN]".to_owned(),
        Setting::Plain => "start it as root, or with CAP_SYS_ADMIN".to_owned(),
    };
    lack(
        Area::Network,
        Level::Warn,
        "CAP_SYS_ADMIN is missing, by which network namespaces are entered (`namespaces: all`): connections in others are read from /proc/PID/net/tcp, which is slower and tells no link health",
        format!("{fix}; or namespaces: own"),
    )
}

fn share_network(setting: &Setting, executable: &Path) -> String {
    match setting {
        Setting::Kubernetes => "hostNetwork: true".to_owned(),
        Setting::Container => "--network=host".to_owned(),
        Setting::Service(unit) => {
            format!("sudo systemctl edit {unit}, under [Service]: PrivateNetwork=no")
        }
        Setting::Plain => format!("sudo nsenter --net=/proc/1/ns/net {} run", quote(executable)),
    }
}

/// Linux 4.12 has all that the agent builds on: sockets with cookies (4.1), filters on dumps, ambient
/// capabilities (4.3).
const OLDEST_KERNEL: (u32, u32) = (4, 12);

fn evaluate_kernel(facts: &Facts) -> Vec<Finding> {
    let release = &facts.kernel_release;
    let mut findings = Vec::new();
    if kernel_version(release).is_some_and(|version| version < OLDEST_KERNEL) {
        let (major, minor) = OLDEST_KERNEL;
        findings.push(lack(
            Area::Kernel,
            Level::Warn,
            format!("Linux {release} is older than {major}.{minor}, the oldest that the agent is meant for"),
            Some(format!("update the kernel to {major}.{minor} or later")),
        ));
    }
    findings.push(match &facts.sockets {
        Ok(()) => ok(Area::Kernel, format!("Linux {release} tells its TCP sockets (sock_diag)")),
        Err(refusal) => lack(
            Area::Kernel,
            Level::Fail,
            format!("Linux {release} does not tell its TCP sockets: {}", refusal.text),
            fix_sockets(refusal, &facts.own, &facts.setting),
        ),
    });
    // `security/yama/yama_lsm.c` looks at PTRACE_MODE_ATTACH alone; links in /proc are read with PTRACE_MODE_READ.
    findings.extend(facts.yama.filter(|scope| *scope > 0).map(|scope| {
        let what = format!(
            "Yama (kernel.yama.ptrace_scope={scope}) restricts debuggers, and nothing that the agent does"
        );
        ok(Area::Kernel, what)
    }));
    if facts.own.seccomp_filter {
        let what = "system calls of this process are filtered (seccomp) by whoever started it";
        findings.push(ok(Area::Kernel, what));
    }
    findings
}

fn fix_sockets(refusal: &Refusal, own: &Credentials, setting: &Setting) -> Option<String> {
    use rustix::io::Errno;

    let errno = Errno::from_raw_os_error(refusal.errno?);
    match errno {
        Errno::NOENT | Errno::PROTONOSUPPORT | Errno::OPNOTSUPP if setting.is_contained() => {
            Some("on the host: sudo modprobe -a inet_diag tcp_diag".to_owned())
        }
        Errno::NOENT | Errno::PROTONOSUPPORT | Errno::OPNOTSUPP => {
            Some("sudo modprobe -a inet_diag tcp_diag".to_owned())
        }
        Errno::AFNOSUPPORT | Errno::PERM | Errno::ACCESS => Some(match setting {
            Setting::Service(unit) => format!(
                "sudo systemctl edit {unit}, under [Service]: RestrictAddressFamilies=AF_NETLINK AF_INET AF_INET6 AF_UNIX"
            ),
            Setting::Container => {
                "--security-opt=seccomp=unconfined, or a profile that allows AF_NETLINK sockets".to_owned()
            }
            Setting::Kubernetes => {
                "securityContext.seccompProfile.type: Unconfined, or a profile that allows AF_NETLINK sockets"
                    .to_owned()
            }
            Setting::Plain if own.seccomp_filter => {
                "start it without the seccomp filter, or allow AF_NETLINK sockets in it".to_owned()
            }
            Setting::Plain => "allow netlink_tcpdiag_socket in the policy of the security module".to_owned(),
        }),
        _ => None,
    }
}

fn evaluate_spool(facts: &Facts) -> Option<Finding> {
    let (directory, condition) = facts.spool.as_ref()?;
    let directory = directory.display();
    Some(match condition {
        SpoolCondition::Usable => {
            ok(Area::Collector, format!("what the collector does not take waits in {directory}"))
        }
        SpoolCondition::InUse(holder) => ok(
            Area::Collector,
            format!("what the collector does not take waits in {directory}, which process {holder} uses"),
        ),
        SpoolCondition::Unusable(problem) => lack(
            Area::Collector,
            Level::Warn,
            format!(
                "{directory} cannot be used ({problem}): what the collector does not take waits in memory, and ends with \
                 the agent"
            ),
            "systemd: StateDirectory=vms-agent; a container: mount a volume there, or name another by \
             VMS_EXPORT__SPOOL__DIRECTORY"
                .to_owned(),
        ),
    })
}

fn evaluate_collector(facts: &Facts) -> Option<Finding> {
    Some(match facts.collector.as_ref()? {
        Ok(endpoint) => ok(Area::Collector, format!("{endpoint} takes metrics")),
        Err(problem) => lack(
            Area::Collector,
            Level::Fail,
            format!("the collector does not take metrics: {}", problem.text),
            problem.fix.clone(),
        ),
    })
}

fn evaluate_probe(probe: &ProbeFacts) -> Vec<Finding> {
    let ProbeFacts { name, service, .. } = probe;
    let expectation = if is_loopback(probe.service_ip) {
        format!("{name}: {service} is loopback; expects forward and reverse here")
    } else if probe.is_local {
        format!(
            "{name}: {service} is this host; expects reverse here (and forward from processes of this host)"
        )
    } else {
        format!("{name}: {service} is another host; expects forward here")
    };
    let mut findings = vec![ok(Area::Probes, expectation)];
    for executable in &probe.executables {
        let (key, path) = (executable.key, executable.path.display());
        match &executable.resolved {
            Known::Is(resolved) if *resolved != executable.path => findings.push(lack(
                Area::Probes,
                Level::Warn,
                format!(
                    "{name}: {key} {path} is a symbolic link or leads over one; the kernel names the resolved path, so no process will fit"
                ),
                Some(format!("{key}: {}", resolved.display())),
            )),
            Known::Is(_) | Known::Denied => {}
            Known::Absent => findings.push(ok(
                Area::Probes,
                format!("{name}: {key} {path} is not on this host: right where only the other end runs it"),
            )),
        }
    }
    findings
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
