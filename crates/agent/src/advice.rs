//! What to do about a link that is down: the same words in the log and in `vms-agent check`.

use vms_core::connection::Direction;
use vms_core::infer::InferenceLack;
use vms_core::look::{DownReason, LookError};
use vms_core::namespace::Namespaces;
use vms_core::probe::{ConnectionProbe, MatchedSourceLabels};

/// The advice for a link that is down for that reason.
pub(crate) fn for_down(probe: &ConnectionProbe, direction: Option<Direction>, reason: DownReason) -> String {
    let service = probe.service();
    let process = processes(probe, direction);
    match reason {
        DownReason::NotPermitted => {
            "a connection is there, and who holds it may not be read: run `vms-agent doctor` for the fix"
                .into()
        }
        DownReason::HeldByOther => format!(
            "a connection is there, and no process matching {process} holds it: see `ss -tnp`; correct processName or \
             executablePath, or see why the service does not accept it"
        ),
        DownReason::ProcessAbsent => {
            format!("no process matches {process}: start it, or correct processName or executablePath")
        }
        DownReason::Connecting => format!(
            "{service} does not answer: see that the service listens and that no firewall drops the packets"
        ),
        DownReason::OtherNamespace => format!(
            "no connection with {service} is in the agent's network namespace, and a process matching {process} lives in \
             another, whose connections are not seen: set `namespaces: all`, or run an agent beside the process"
        ),
        DownReason::NoConnection => {
            format!("no ESTABLISHED connection with {service}: see the service, and the log of {process}")
        }
    }
}

/// What to do about probes that could not be measured, as the end of a sentence: nothing where the error says so itself.
pub(crate) fn for_failure(error: &LookError) -> &'static str {
    match error {
        LookError::CutShort | LookError::Crowded | LookError::OutOfSight | LookError::Unresolved { .. } => "",
        LookError::Unsettled => ": see what opens connections to the service anew all the time",
        LookError::Connections(_)
        | LookError::Incomplete
        | LookError::Unsurveyed(_)
        | LookError::Unread(_)
        | LookError::Untranslated
        | LookError::Processes(_) => "; run `vms-agent doctor`",
    }
}

/// Why holders cannot be inferred.
pub(crate) fn for_lack(lack: InferenceLack) -> &'static str {
    match lack {
        InferenceLack::UntaggedSockets => {
            "the kernel tells of no socket in which cgroup it was made, but for the root: services are in no cgroups of \
             version 2, or Linux is older than 5.8"
        }
        InferenceLack::NoCgroups => "no hierarchy of cgroups of version 2 is mounted that the agent can read",
        InferenceLack::PartOfCgroups => {
            "only a part of the hierarchy of cgroups is mounted where the agent sees it, and the cgroups of some processes are in \
             none of it"
        }
        InferenceLack::HiddenProcesses => "/proc hides processes (hidepid), so that nobody can be excluded",
        InferenceLack::ForeignNumbers => {
            "the /proc that is read numbers processes otherwise than the agent's PID namespace, so that those of a cgroup \
             cannot be told"
        }
        InferenceLack::OwnProcesses => {
            "not all processes of the host can be seen, so that nobody can be excluded by his user"
        }
    }
}

/// What to do about a probe that has more sources than it may have series.
pub(crate) fn for_limit(probe: &ConnectionProbe) -> &'static str {
    match probe.matched_source_labels {
        MatchedSourceLabels::None => {
            "split the probe, by process or source, so that fewer containers fit each"
        }
        MatchedSourceLabels::Ip => "set `matchedSourceLabels: none`, or split the probe by process or source",
        MatchedSourceLabels::IpPort => {
            "set `matchedSourceLabels: ip` or `none`, or split the probe by process or source"
        }
    }
}

/// What to do about links that are out of sight: the agent sees whoever fits, and not where they live.
pub(crate) fn for_out_of_sight(namespaces: Namespaces) -> &'static str {
    match namespaces {
        Namespaces::Own => OUT_OF_SIGHT,
        Namespaces::All => BARRED,
    }
}

/// What it means that network namespaces are not entered.
pub(crate) const UNENTERED: &str = "other network namespaces may not be entered: their connections are read from /proc/PID/net/tcp \
    in each cycle, which takes longer, tells nothing of how links there fare, and cannot tell interfaces apart; grant CAP_SYS_ADMIN \
    (systemd also: `RestrictNamespaces=net`)";

const BARRED: &str = "a process that fits lives in a network namespace that the agent may not enter: grant CAP_SYS_ADMIN beside \
    CAP_SYS_PTRACE (systemd also: `RestrictNamespaces=net`), or set `namespaces: own` and run an agent beside it";

const OUT_OF_SIGHT: &str = "the agent has a network namespace of its own, and those that fit live in others, where \
    it sees no connection: run it in the host's (Kubernetes: `hostNetwork: true`; a container: `--network=host`), or set \
    `namespaces: all`";

/// The patterns that a process on this host would have to fit.
fn processes(probe: &ConnectionProbe, direction: Option<Direction>) -> String {
    let pattern = |direction| {
        let pattern = probe.process(direction);
        match &pattern.executable {
            Some(executable) => format!("`{}` ({})", pattern.name, executable.display()),
            None => format!("`{}`", pattern.name),
        }
    };
    match direction {
        Some(direction) => pattern(direction),
        None if probe.source_process == probe.dest_process => pattern(Direction::Forward),
        None => format!("{} or {}", pattern(Direction::Forward), pattern(Direction::Reverse)),
    }
}

#[cfg(test)]
mod tests;
