//! Which container, and which pod, a process runs in: told by its cgroups and its mounts.
//!
//! Where the cgroup namespace is private, as is usual with cgroup v2, the cgroup says nothing, and the files that the
//! engine mounts into each container have to do. They need care: containers that share a network also share
//! `/etc/hosts` and `/etc/resolv.conf`, and within a pod everything of the kind belongs to the pod's sandbox.

use std::sync::Arc;

use uuid::Uuid;
use vms_core::process::{Container, PodName};

/// A mount, as in `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount<'a> {
    /// What of its file system is mounted.
    pub root: &'a str,
    /// Where it is mounted.
    pub point: &'a str,
}

/// The pod that a process runs in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its uid.
    pub uid: Option<String>,
    /// The name that its container has in it.
    pub container_name: Option<String>,
}

/// The mounts of a process. Blanks and the like in paths stay in their octal form, `\040`.
#[must_use]
pub fn parse_mounts(mountinfo: &str) -> Vec<Mount<'_>> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some(Mount { root: fields.nth(3)?, point: fields.next()? })
    });
    mounts.collect()
}

/// The cgroups of a process, one a hierarchy, as in `/proc/PID/cgroup` (`cgroups(7)`).
#[must_use]
pub fn parse_cgroup_paths(cgroup: &str) -> Vec<&str> {
    cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect()
}

/// The container that `/proc/PID/cgroup` names, which any process shows to all.
#[must_use]
pub fn parse_container(cgroup: &str) -> Option<Container> {
    let cgroups = parse_cgroup_paths(cgroup);
    let id = match_container_id(&cgroups, &[], true).map(Arc::from);
    let pod_uid = match_pod(&cgroups, &[]).and_then(|pod| pod.uid).map(Arc::from);
    (id.is_some() || pod_uid.is_some()).then_some(Container { id, pod_uid, pod_name: None })
}

/// The uid of a pod, and what it is called, by the name of the directory of its logs: `NAMESPACE_NAME_UID`
/// (`BuildPodLogsDirectory`, kubernetes `pkg/kubelet/kuberuntime/helpers.go`).
///
/// A namespace is a label of the DNS, and a name a series of such labels (RFC 1123): neither can have the `_` in it.
#[must_use]
pub fn parse_pod_directory(name: &[u8]) -> Option<(&str, PodName)> {
    let mut parts = std::str::from_utf8(name).ok()?.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let is_pod = parts.next().is_none()
        && namespace.len() <= 63
        && is_dns_label(namespace)
        && name.len() <= 253
        && name.split('.').all(is_dns_label)
        && is_pod_uid(uid);
    is_pod.then(|| (uid, PodName { namespace: namespace.into(), name: name.into() }))
}

/// The id of the container.
///
/// Within Kubernetes only cgroups are asked: the mounts would tell the id of the pod's sandbox.
#[must_use]
pub fn match_container_id(cgroups: &[&str], mounts: &[Mount<'_>], in_kubernetes: bool) -> Option<String> {
    let by_cgroup = cgroups.iter().find_map(|path| path.rsplit('/').find_map(match_container_scope));
    let by_mount = || {
        // Podman tells every container about itself in the first; the second is Docker's best.
        ["/run/.containerenv", "/etc/hostname"].into_iter().find_map(|point| {
            let mount = mounts.iter().find(|mount| mount.point == point)?;
            mount.root.rsplit('/').find(|component| is_container_id(component))
        })
    };
    by_cgroup.or_else(|| by_mount().filter(|_| !in_kubernetes)).map(str::to_owned)
}

/// The pod, as far as cgroups and the mounts of the kubelet tell.
#[must_use]
pub fn match_pod(cgroups: &[&str], mounts: &[Mount<'_>]) -> Option<Pod> {
    let mounted = |point: &str| {
        let mount = mounts.iter().find(|mount| mount.point == point)?;
        // .../pods/UID/etc-hosts, .../pods/UID/containers/NAME/FILE
        let mut components = mount.root.split('/').skip_while(|component| *component != "pods").skip(1);
        let uid = components.next().filter(|uid| is_pod_uid(uid))?;
        let container_name =
            components.next().filter(|part| *part == "containers").and_then(|_| components.next());
        Some(Pod { uid: Some(uid.to_owned()), container_name: container_name.map(str::to_owned) })
    };
    mounted("/dev/termination-log").or_else(|| mounted("/etc/hosts")).or_else(|| {
        let uid = cgroups.iter().find_map(|path| path.rsplit('/').find_map(match_pod_slice))?;
        Some(Pod { uid: Some(uid), container_name: None })
    })
}

/// The id in the name of a container's cgroup: `ID`, `docker-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`,
/// `cri-containerd-ID.scope`, `SLICE:cri-containerd:ID`.
fn match_container_scope(component: &str) -> Option<&str> {
    // The cgroup of a container's monitor carries the container's id, and the container is not in it.
    if component.contains("conmon") {
        return None;
    }
    let name = component.strip_suffix(".scope").unwrap_or(component);
    name.rsplit(['-', ':']).next().filter(|id| is_container_id(id))
}

/// The uid in the name of a pod's cgroup: `podUID`, `kubepods-burstable-podUID.slice` with `_` in the uid.
fn match_pod_slice(component: &str) -> Option<String> {
    let slice = component.split(':').next().unwrap_or(component);
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let (before, uid) = name.rsplit_once("pod")?;
    let uid = uid.replace('_', "-");
    ((before.is_empty() || before.ends_with('-')) && is_pod_uid(&uid)).then_some(uid)
}

/// Docker, containerd, CRI-O and Podman all take 256 random bits.
fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether it is a label of the DNS, of whatever length: Kubernetes bounds that of whole names alone.
fn is_dns_label(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A UUID; or, for a pod from a file on the node, the hash of that file.
fn is_pod_uid(text: &str) -> bool {
    matches!(text.len(), 32 | 36) && Uuid::try_parse(text).is_ok()
}

#[cfg(test)]
mod tests;
