//! What the running agent gives up: all that it can do without.
//!
//! Two kinds of threads do different things, so they keep different rights (capabilities, Landlock and seccomp are the
//! thread's, and what it starts inherits them):
//!
//! - The measuring thread looks into processes and asks the kernel for sockets, and where that is configured for
//!   translations. It keeps the capabilities, and can open no file for writing and no connection to anywhere.
//!   With `namespaces: all` it keeps `CAP_SYS_ADMIN` as well, to enter network namespaces, and no others.
//! - The runtime's threads send, resolve names, and read the configuration again. They cannot look into processes, and
//!   see only the files that this takes. No socket can be made to listen; from one that does already, for scrapes,
//!   connections are accepted.
//!
//! Landlock is for the latter alone: a thread that it restricts may not look into any process outside, so that on the
//! measuring thread every link would be unattributed.
//!
//! Threads share their memory. Who runs code of his own in one can reach the other; what is refused here are mistakes,
//! confused paths, and the cheap next steps after a break-in.

use std::fmt;
use std::os::fd::RawFd;

use anyhow::bail;
use tracing::{info, warn};
use vms_core::namespace::Namespaces;

use crate::config::{ConntrackMode, SandboxMode};

mod files;
mod places;
mod privileges;
mod syscalls;

pub(crate) use files::supports_landlock;
pub(crate) use places::Places;
pub(crate) use privileges::kept;

/// One kind of restriction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Capabilities beyond those that measuring takes.
    Capabilities,
    /// Gaining rights by starting a program.
    NewPrivileges,
    /// Memory written to disk, or read by others.
    CoreDumps,
    /// System calls that the agent does not make.
    SystemCalls,
    /// Files that the runtime's threads do not use.
    Files,
}

impl Layer {
    /// What is still possible without it.
    pub(crate) fn left_open(self) -> &'static str {
        match self {
            Self::Capabilities => "capabilities that the agent does not need stay with it",
            Self::NewPrivileges => "a program that the agent started could gain rights",
            Self::CoreDumps => "the agent's memory, which holds secrets, could be dumped",
            Self::SystemCalls => "system calls are not filtered",
            Self::Files => "files are not restricted beyond their permissions",
        }
    }

    /// What to do about it.
    pub(crate) fn fix(self) -> &'static str {
        match self {
            Self::Capabilities => {
                "start it with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH alone, as the systemd unit does (and CAP_NET_ADMIN \
                 for `conntrack: auto`)"
            }
            Self::NewPrivileges => {
                "set NoNewPrivileges=yes in the unit, or allowPrivilegeEscalation: false in the Pod"
            }
            Self::CoreDumps => "set LimitCORE=0 in the unit, or `ulimit -c 0`",
            Self::SystemCalls => {
                "use a kernel with CONFIG_SECCOMP_FILTER, and a container engine that permits seccomp(2)"
            }
            Self::Files => {
                "use Linux 5.13 or later with `landlock` in its list of security modules (lsm=), and a container engine \
                 that permits landlock_create_ruleset(2)"
            }
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Capabilities => "capabilities",
            Self::NewPrivileges => "no_new_privs",
            Self::CoreDumps => "core dumps",
            Self::SystemCalls => "seccomp",
            Self::Files => "Landlock",
        })
    }
}

/// A restriction that could not be put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lack {
    pub(crate) layer: Layer,
    /// What the kernel said.
    pub(crate) reason: String,
}

impl Lack {
    fn new(layer: Layer, reason: impl fmt::Display) -> Self {
        Self { layer, reason: reason.to_string() }
    }
}

/// What is configured that takes more rights than the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extras {
    /// Whether translations are read.
    pub(crate) conntrack: ConntrackMode,
    /// Whose connections are looked at.
    pub(crate) namespaces: Namespaces,
    /// The socket at which the agent listens already, where it does.
    pub(crate) listener: Option<RawFd>,
}

/// The way into the sandbox, one step for each kind of thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sandbox {
    mode: SandboxMode,
    extras: Extras,
}

impl Sandbox {
    pub(crate) fn new(mode: SandboxMode, extras: Extras) -> Self {
        Self { mode, extras }
    }

    /// For the whole process. Has to be called while it has one thread: capabilities are each thread's own.
    pub(crate) fn enter_process(self) -> Vec<Lack> {
        self.unless_off(|| privileges::restrict_process(kept(self.extras)))
    }

    /// For the measuring thread, as the first that it does.
    pub(crate) fn enter_measuring(self) -> Vec<Lack> {
        self.unless_off(|| Vec::from_iter(syscalls::restrict_measuring(self.extras)))
    }

    /// For the calling thread and all that it starts; after the measuring thread was started.
    pub(crate) fn enter_runtime(self, places: &Places) -> Vec<Lack> {
        self.unless_off(|| {
            let lacks = [
                privileges::restrict_runtime(&places.to_read_again),
                files::restrict(places),
                // Last: it refuses what the others are made with.
                syscalls::restrict_runtime(self.extras),
            ];
            lacks.into_iter().flatten().collect()
        })
    }

    /// Tells what could not be given up, once.
    ///
    /// # Errors
    /// When it had to be (`sandbox: required`).
    pub(crate) fn settle(self, lacks: &[Lack]) -> anyhow::Result<()> {
        if self.mode == SandboxMode::Off {
            warn!(
                "the sandbox is off: the agent keeps every right that it was started with; remove `sandbox: off`"
            );
            return Ok(());
        }
        if self.mode == SandboxMode::Required && !lacks.is_empty() {
            let all: Vec<String> = lacks
                .iter()
                .map(|lack| format!("{}: {}; {}", lack.layer, lack.reason, lack.layer.fix()))
                .collect();
            bail!("the sandbox cannot be made, and `sandbox: required` asks for it: {}", all.join("; "));
        }
        for lack in lacks {
            let (layer, advice) = (lack.layer, lack.layer.fix());
            warn!(%layer, reason = lack.reason, advice, "{}", layer.left_open());
        }
        if lacks.is_empty() {
            info!("the sandbox is complete");
        }
        Ok(())
    }

    fn unless_off(self, enter: impl FnOnce() -> Vec<Lack>) -> Vec<Lack> {
        if self.mode == SandboxMode::Off { Vec::new() } else { enter() }
    }
}

/// Words for a reload that was refused because the sandbox does not let a file be read, or a directory be used.
///
/// Rules cannot be widened once they are in force, so a file that was not configured at the start is out of reach.
pub(crate) fn explain_refusal(refusal: &str) -> Option<&'static str> {
    // The number is what every layer above prints of an io::Error.
    refusal.contains("(os error 13)").then_some(
        "a running agent may use only the directories that its configuration named when it started: restart it to \
         let it use others",
    )
}

#[cfg(test)]
mod tests;
