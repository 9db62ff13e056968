//! In which network namespace a process lives: in the agent's, or elsewhere.
//!
//! The kernel tells it in two ways. `/proc/PID/ns/net` leads to the namespace's inode, for those who may look into the
//! process. And below `/proc/PID/net` there are files of the namespace, made once for each (`fs/proc/proc_net.c`): the
//! inode of one of them tells the same to everybody, as long as the namespace lives.

use std::num::NonZeroU32;

use vms_core::process::Pid;

use crate::procfs::{ProcessDir, Procfs};

/// What the kernel tells of a network namespace. It may be nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NetworkNamespace {
    /// Its inode, as in `net:[4026531833]`.
    pub(crate) inode: Option<NonZeroU32>,
    /// The inode of its `net/dev`.
    pub(crate) file: Option<u64>,
}

/// Where a process lives, as seen from the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// That was not asked.
    #[default]
    Unread,
    /// The kernel does not tell.
    Untold,
    /// In the agent's network namespace.
    Here,
    /// In another.
    Elsewhere,
}

/// In which network namespace the agent is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Surroundings {
    own: NetworkNamespace,
    /// The agent's user namespace, as far as it is told.
    users: Option<NonZeroU32>,
    /// The agent, as this /proc numbers it.
    agent: Option<Pid>,
    /// It is not known to be that of the first process, which is the host's: the kernel may have told of the former only.
    pub(crate) is_displaced: bool,
    /// All network namespaces are looked at, so that nobody lives out of sight.
    pub(crate) is_surveyed: bool,
}

impl NetworkNamespace {
    fn is_known(self) -> bool {
        self.inode.is_some() || self.file.is_some()
    }

    /// Whether both are the same; `None` where that cannot be told.
    fn is_same(self, other: Self) -> Option<bool> {
        let by_inode = self.inode.zip(other.inode).map(|(one, another)| one == another);
        by_inode.or_else(|| self.file.zip(other.file).map(|(one, another)| one == another))
    }
}

impl Surroundings {
    /// Those of an agent that reads this /proc. Its thread may leave the namespace for a moment, its first one never does.
    pub(crate) fn read(procfs: &Procfs) -> Self {
        let this = procfs.open_self();
        let users = this.as_ref().ok().and_then(|this| this.read_user_namespace().ok().flatten());
        let own = this.and_then(|own| own.read_both_network_namespaces()).unwrap_or_default();
        let agent = procfs.read_self();
        let first = procfs.open_first().and_then(|first| first.read_both_network_namespaces());
        let is_displaced = own.is_known() && own.is_same(first.unwrap_or_default()) != Some(true);
        Self { own, users, agent, is_displaced, is_surveyed: false }
    }

    /// The same for an agent that looks at all network namespaces.
    pub(crate) fn surveyed(self) -> Self {
        Self { is_displaced: false, is_surveyed: true, ..self }
    }

    /// Whether it matters that somebody lives elsewhere, and can be told at all.
    pub(crate) fn are_known(&self) -> bool {
        self.own.is_known() && !self.is_surveyed
    }

    /// Whether a process is of another user namespace than the agent: who made that may have made its network as well.
    pub(crate) fn is_stranger(&self, users: Option<NonZeroU32>) -> bool {
        self.users.zip(users).is_some_and(|(own, other)| own != other)
    }

    /// Whether that is of a process of another user namespace, as far as it is told.
    pub(crate) fn is_strangers(&self, dir: &ProcessDir) -> bool {
        self.is_stranger(dir.read_user_namespace().ok().flatten())
    }

    /// The inode of the agent's own network namespace, where that is told.
    pub(crate) fn own_inode(&self) -> Option<NonZeroU32> {
        self.own.inode
    }

    /// The agent itself, where it is told which process that is.
    pub(crate) fn agent(&self) -> Option<Pid> {
        self.agent
    }

    /// Whether that process is the agent itself.
    pub(crate) fn is_agent(&self, pid: Pid) -> bool {
        self.agent == Some(pid)
    }

    /// Where a process lives, of whose namespace that is told.
    pub(crate) fn locate(&self, namespace: NetworkNamespace) -> Whereabouts {
        match self.own.is_same(namespace) {
            Some(true) => Whereabouts::Here,
            Some(false) => Whereabouts::Elsewhere,
            None => Whereabouts::Untold,
        }
    }
}
