//! What the judgment rests on: plain values, so that it can be tested without such a host.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use vms_core::infer::{AttributionMode, InferenceLack};
use vms_core::namespace::Namespaces;
use vms_core::process::{Capability, Known, Pid};
use vms_export::{ExportError, SpoolCondition};
use vms_process::HiddenProcesses;

use crate::config::SandboxMode;

/// Everything that was found out.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// This process.
    pub(crate) own: Credentials,
    /// Whether its user namespace is the host's; `None` when it could not be read.
    pub(crate) initial_user_namespace: Option<bool>,
    /// How it was started.
    pub(crate) setting: Setting,
    /// This binary.
    pub(crate) executable: PathBuf,
    /// What the configured /proc shows.
    pub(crate) processes: ProcessFacts,
    /// Other processes of the agent that run now.
    pub(crate) agents: Vec<RunningAgent>,
    /// The network namespaces.
    pub(crate) network: NetworkFacts,
    /// `uname -r`.
    pub(crate) kernel_release: String,
    /// `kernel.yama.ptrace_scope`; `None` where Yama is not in the kernel.
    pub(crate) yama: Option<u8>,
    /// Whether the kernel gave its sockets away.
    pub(crate) sockets: Result<(), Refusal>,
    /// Whether the kernel told the translations of connections; `None` where nobody asks for them.
    pub(crate) conntrack: Option<Result<(), Refusal>>,
    /// Whether the collector took an empty request; its address. `None` when nothing is exported.
    pub(crate) collector: Option<Result<String, CollectorProblem>>,
    /// Where metrics can be scraped, and why the agent could not listen there; `None` where it is not to.
    pub(crate) scrapes: Option<(SocketAddr, Result<(), String>)>,
    /// The spool's directory, and whether it can be used; `None` where none is configured.
    pub(crate) spool: Option<(PathBuf, SpoolCondition)>,
    /// What is configured.
    pub(crate) probes: Vec<ProbeFacts>,
    /// What is known of each link at this moment.
    pub(crate) links: Result<Vec<LinkFacts>, Refusal>,
    /// What the running agent can give up.
    pub(crate) sandbox: SandboxFacts,
    /// Whether holders can be inferred that may not be read.
    pub(crate) inference: InferenceFacts,
    /// Whose connections are configured to be looked at.
    pub(crate) namespaces: Namespaces,
}

/// What `/proc/PID/status` says about a process's rights (`fs/proc/array.c`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The effective user.
    pub(crate) uid: u32,
    /// The file system group, and the supplementary ones.
    pub(crate) groups: Vec<u32>,
    /// `CapEff`: what counts.
    pub(crate) effective: CapabilitySet,
    /// `CapPrm`: what could be made effective.
    pub(crate) permitted: CapabilitySet,
    /// `CapBnd`: what could be gained by executing a file.
    pub(crate) bounding: CapabilitySet,
    /// Executing a file gains nothing (`PR_SET_NO_NEW_PRIVS`).
    pub(crate) no_new_privs: bool,
    /// System calls are filtered (seccomp mode 2).
    pub(crate) seccomp_filter: bool,
}

/// What the kernel has for a sandbox, and what is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SandboxFacts {
    /// `sandbox`.
    pub(crate) mode: SandboxMode,
    /// System calls can be filtered.
    pub(crate) seccomp: bool,
    /// Files can be restricted.
    pub(crate) landlock: bool,
}

/// What there is to infer holders by, and what is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InferenceFacts {
    /// `attribution`.
    pub(crate) mode: AttributionMode,
    /// What stands in the way.
    pub(crate) lacks: BTreeSet<InferenceLack>,
}

/// A set of capabilities, one bit each (`include/uapi/linux/capability.h`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CapabilitySet(pub(crate) u64);

impl CapabilitySet {
    /// `CAP_DAC_OVERRIDE`: all that `CAP_DAC_READ_SEARCH` allows, and writing. Default containers have it.
    const DAC_OVERRIDE: u32 = 1;

    /// Whether the set allows what the agent needs that capability for.
    pub(crate) fn allows(self, capability: Capability) -> bool {
        match capability {
            Capability::DacReadSearch => self.bit(2) || self.bit(Self::DAC_OVERRIDE),
            Capability::SysPtrace => self.bit(19),
        }
    }

    /// Whether the set allows to enter network namespaces.
    pub(crate) fn allows_entering(self) -> bool {
        self.bit(21)
    }

    /// The capabilities that the agent needs and the set lacks.
    pub(crate) fn missing(self) -> Vec<Capability> {
        Capability::ALL.into_iter().filter(|capability| !self.allows(*capability)).collect()
    }

    /// Whether `CAP_NET_ADMIN` is in the set.
    pub(crate) fn has_net_admin(self) -> bool {
        self.bit(12)
    }

    fn bit(self, number: u32) -> bool {
        self.0 >> number & 1 == 1
    }
}

/// How a process was started: it decides what a fix looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Setting {
    /// By systemd, as this unit.
    Service(String),
    /// By a container engine.
    Container,
    /// By Kubernetes.
    Kubernetes,
    /// By hand, or in some other way.
    Plain,
}

impl Setting {
    /// In a container of any kind.
    pub(crate) fn is_contained(&self) -> bool {
        matches!(self, Self::Container | Self::Kubernetes)
    }
}

/// What the configured /proc shows.
#[derive(Debug, Clone)]
pub(crate) struct ProcessFacts {
    /// Where it is.
    pub(crate) root: PathBuf,
    /// Whether a procfs is mounted there; the error when there is no such place.
    pub(crate) is_procfs: Result<bool, Refusal>,
    /// Processes that it lists.
    pub(crate) visible: usize,
    /// Those of them that are neither this one nor its ancestors.
    pub(crate) others: usize,
    /// Whose processes it lists.
    pub(crate) view: PidView,
    /// How it was mounted, where that was found.
    pub(crate) hidden: Option<HiddenProcesses>,
    /// What came of looking into processes that are not this user's.
    pub(crate) foreign: ForeignLook,
}

/// Whose processes a procfs lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PidView {
    /// The host's, all of them.
    Host,
    /// Those of a PID namespace that contains this one's: a host's /proc mounted into a container.
    Outer,
    /// Only those of this process's own PID namespace, which is not the host's.
    OwnNamespace,
    /// It could not be told.
    Unknown,
}

/// Attempts to learn the open files of processes of other users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ForeignLook {
    /// Processes tried.
    pub(crate) tried: usize,
    /// Those whose descriptors could not be listed.
    pub(crate) unlisted: usize,
    /// Those whose descriptors could be listed, and not read.
    pub(crate) unread: usize,
}

impl ForeignLook {
    /// Those refused.
    pub(crate) fn refused(self) -> usize {
        self.unlisted + self.unread
    }
}

/// Another process of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunningAgent {
    pub(crate) pid: Pid,
    pub(crate) credentials: Credentials,
    pub(crate) setting: Setting,
    /// Whether its memory can be dumped; `None` when that could not be read.
    pub(crate) dumps_core: Option<bool>,
}

/// In whose network namespace this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkFacts {
    /// `net:[...]` of this process.
    pub(crate) own: Option<String>,
    /// That of PID 1 in the configured /proc; `None` when it may not be read.
    pub(crate) first: Option<String>,
}

/// A collector that did not take a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CollectorProblem {
    /// What happened, with its causes.
    pub(crate) text: String,
    /// What to do, where that is known.
    pub(crate) fix: Option<String>,
}

impl From<&ExportError> for CollectorProblem {
    fn from(error: &ExportError) -> Self {
        let fix = match error {
            ExportError::Unreachable { source, .. } => Some(source.advice.to_owned()),
            _ => None,
        };
        Self { text: Refusal::new(error).text, fix }
    }
}

/// A refusal of the operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Its number, where it has one.
    pub(crate) errno: Option<i32>,
    /// What happened, with its causes.
    pub(crate) text: String,
}

impl Refusal {
    /// Takes an error apart: its text with all causes, and the error number at the bottom of it.
    pub(crate) fn new(error: &(dyn Error + 'static)) -> Self {
        let mut refusal = Self { errno: None, text: String::new() };
        let mut cause = Some(error);
        while let Some(error) = cause {
            if !refusal.text.is_empty() {
                refusal.text.push_str(": ");
            }
            refusal.text.push_str(&error.to_string());
            refusal.errno = refusal
                .errno
                .or_else(|| error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error))
                .or_else(|| error.downcast_ref::<rustix::io::Errno>().map(|errno| errno.raw_os_error()));
            cause = error.source();
        }
        refusal
    }
}

/// What matters about one probe on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeFacts {
    /// The probe.
    pub(crate) name: String,
    /// The well-known end.
    pub(crate) service: String,
    /// Its address.
    pub(crate) service_ip: IpAddr,
    /// Whether that is an address of this host.
    pub(crate) is_local: bool,
    /// Its executables, as configured.
    pub(crate) executables: Vec<ExecutableFacts>,
}

/// What a probe looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Connections, or other sockets.
    Connections,
    /// Processes.
    Processes,
}

/// What is known of a link, or of what is counted, at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkFacts {
    /// The probe.
    pub(crate) name: String,
    /// What it looks for.
    pub(crate) subject: Subject,
    /// Whether it is up in any direction.
    pub(crate) is_up: bool,
    /// ESTABLISHED connections that fit by address, whose holder may not be learned; or processes that might fit, where there
    /// are too few that do.
    pub(crate) unattributed: usize,
    /// What that would take.
    pub(crate) missing: BTreeSet<Capability>,
    /// Why nothing is known of it, where that is so.
    pub(crate) unmeasured: Option<String>,
}

impl LinkFacts {
    /// Of one that is down, and may be up by connections of which the holder may not be learned.
    pub(crate) fn new(name: String, unattributed: usize, missing: BTreeSet<Capability>) -> Self {
        let subject = Subject::Connections;
        Self { name, subject, is_up: false, unattributed, missing, unmeasured: None }
    }

    /// Of one that could not be measured.
    pub(crate) fn unmeasured(name: String, problem: String) -> Self {
        Self { unmeasured: Some(problem), ..Self::new(name, 0, BTreeSet::new()) }
    }
}

/// What a configured executable is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExecutableFacts {
    /// The configuration's key.
    pub(crate) key: &'static str,
    /// Its value.
    pub(crate) path: PathBuf,
    /// Where it leads with every symbolic link followed.
    pub(crate) resolved: Known<PathBuf>,
}
