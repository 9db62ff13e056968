//! Doors to the agent's decoders, for `tests/fuzz` alone: its modules are otherwise its own.

use vms_process::container;

use crate::doctor::read;
use crate::resource;

pub use crate::config::fuzzing::{
    Accepted, Document, Format, Loader, TextKind, parse_document, parse_endpoint, substitute,
};

/// What `/proc/PID/status` says, as far as `doctor` wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `Name`.
    pub name: String,
    /// `PPid`.
    pub parent: Option<u32>,
    /// How many numbers `NSpid` has.
    pub pid_namespaces: usize,
    /// The effective user.
    pub uid: u32,
    /// The file system group, and the supplementary ones.
    pub groups: Vec<u32>,
    /// `CapEff`, `CapPrm` and `CapBnd`.
    pub capabilities: [u64; 3],
}

/// Parses a `/proc/PID/status`.
#[must_use]
pub fn parse_status(text: &str) -> Status {
    let read::Status { name, parent, pid_namespaces, credentials } = read::parse_status(text);
    let capabilities = [credentials.effective, credentials.permitted, credentials.bounding];
    Status {
        name,
        parent: parent.map(|pid| pid.0),
        pid_namespaces,
        uid: credentials.uid,
        groups: credentials.groups,
        capabilities: capabilities.map(|set| set.0),
    }
}

/// What a process's cgroups and mounts tell about where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The paths of its cgroups.
    pub cgroups: Vec<String>,
    /// What of its file system each mount shows, and where.
    pub mounts: Vec<(String, String)>,
    /// The id of its container.
    pub container_id: Option<String>,
    /// The uid of its pod.
    pub pod_uid: Option<String>,
}

/// Parses a `/proc/PID/cgroup` and a `/proc/PID/mountinfo`.
#[must_use]
pub fn find_surroundings(cgroup: &str, mountinfo: &str) -> Surroundings {
    let cgroups = container::parse_cgroup_paths(cgroup);
    let mounts = container::parse_mounts(mountinfo);
    let pod = container::match_pod(&cgroups, &mounts);
    Surroundings {
        container_id: container::match_container_id(&cgroups, &mounts, pod.is_some()),
        pod_uid: pod.and_then(|pod| pod.uid),
        mounts: mounts.iter().map(|mount| (mount.root.to_owned(), mount.point.to_owned())).collect(),
        cgroups: cgroups.into_iter().map(str::to_owned).collect(),
    }
}

/// The value of a key in an `os-release`.
#[must_use]
pub fn parse_os_release(text: &str, key: &str) -> Option<String> {
    resource::parse_os_release(text, key)
}

/// The id in a `machine-id`.
#[must_use]
pub fn parse_machine_id(text: &str) -> Option<String> {
    resource::parse_machine_id(text)
}
