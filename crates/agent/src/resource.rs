//! The resource: what tells one agent's data from another's (OpenTelemetry semantic conventions, "Resource").
//!
//! What cannot be known is left out. What is configured goes before what is found out.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rustix::system::uname;
use uuid::Uuid;
use vms_process::container::{Pod, match_container_id, match_pod, parse_cgroup_paths, parse_mounts};

/// What a resource is made of.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// The configured name of the service; goes before a `service.name` among the attributes.
    pub(crate) service_name: Option<&'a str>,
    /// Configured attributes. One with an empty value keeps the attribute from being sent at all.
    pub(crate) attributes: &'a BTreeMap<String, String>,
    /// Looks up a variable of the environment.
    pub(crate) environment: &'a dyn Fn(&str) -> Option<String>,
    /// The root of the file system: `/`, but for tests.
    pub(crate) root: &'a Path,
    /// The root of procfs.
    pub(crate) proc_root: &'a Path,
}

/// The name of the service where none is configured.
const SERVICE_NAME: &str = "vms-agent";

/// Attributes that only the pod's manifest can tell (Kubernetes downward API), each with the variable that always
/// means it, and one that is customary for it but may mean something else outside of Kubernetes.
const POD_VARIABLES: [(&str, &str, Option<&str>); 6] = [
    ("k8s.cluster.name", "K8S_CLUSTER_NAME", None),
    ("k8s.container.name", "K8S_CONTAINER_NAME", None),
    ("k8s.namespace.name", "K8S_NAMESPACE_NAME", Some("POD_NAMESPACE")),
    ("k8s.node.name", "K8S_NODE_NAME", Some("NODE_NAME")),
    ("k8s.pod.name", "K8S_POD_NAME", Some("POD_NAME")),
    ("k8s.pod.uid", "K8S_POD_UID", Some("POD_UID")),
];

/// Where Kubernetes mounts the namespace of a pod that has a service account.
const NAMESPACE_FILE: &str = "var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Where a host keeps its id (`machine-id(5)`), in the order of the semantic conventions.
const MACHINE_ID_FILES: [&str; 2] = ["etc/machine-id", "var/lib/dbus/machine-id"];

/// Where a distribution describes itself (`os-release(5)`).
const OS_RELEASE_FILES: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// The attributes of the resource, sorted by key.
pub(crate) fn detect(sources: &Sources<'_>) -> Vec<(String, String)> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            found.insert(key.to_owned(), value);
        }
    };

    let uname = uname();
    set("host.name", parse_c_str(uname.nodename()).map(str::to_owned));
    set("host.arch", parse_c_str(uname.machine()).map(|machine| parse_arch(machine).to_owned()));
    set("os.type", Some("linux".to_owned()));
    let os_release = read_first(sources.root, &OS_RELEASE_FILES).unwrap_or_default();
    set("os.name", parse_os_release(&os_release, "NAME"));
    // An image from scratch has no release of its own: then the kernel's is what is known of the system.
    let kernel = || uname.release().to_str().ok().map(str::to_owned);
    set("os.version", parse_os_release(&os_release, "VERSION_ID").or_else(kernel));
    set("os.description", parse_os_release(&os_release, "PRETTY_NAME"));

    let surroundings = Surroundings::read(sources);
    set("container.id", surroundings.container_id.clone());
    set("host.id", surroundings.host_id.clone());
    for (key, value) in &surroundings.pod {
        set(key, Some(value.clone()));
    }

    set("service.name", Some(SERVICE_NAME.to_owned()));
    set("service.version", Some(env!("CARGO_PKG_VERSION").to_owned()));
    set("service.instance.id", Some(surroundings.instance_id().to_string()));
    for (key, value) in sources.attributes {
        found.insert(key.clone(), value.clone());
    }
    if let Some(name) = sources.service_name {
        found.insert("service.name".to_owned(), name.to_owned());
    }
    found.retain(|_, value| !value.is_empty());
    found.into_iter().collect()
}

/// What the agent runs in.
#[derive(Debug, Default)]
struct Surroundings {
    in_container: bool,
    container_id: Option<String>,
    host_id: Option<String>,
    /// The attributes of the pod, as far as they are known.
    pod: BTreeMap<&'static str, String>,
}

impl Surroundings {
    fn read(sources: &Sources<'_>) -> Self {
        let this_process = sources.proc_root.join("self");
        let cgroups = read(&this_process.join("cgroup")).unwrap_or_default();
        let cgroups = parse_cgroup_paths(&cgroups);
        let mountinfo = read(&this_process.join("mountinfo")).unwrap_or_default();
        let mounts = parse_mounts(&mountinfo);

        let variable = |name: &str| (sources.environment)(name).filter(|value| !value.is_empty());
        let namespace = read(&sources.root.join(NAMESPACE_FILE))
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty());
        let seen = match_pod(&cgroups, &mounts);
        let in_kubernetes =
            seen.is_some() || namespace.is_some() || variable("KUBERNETES_SERVICE_HOST").is_some();

        let Pod { uid, container_name } = seen.unwrap_or_default();
        let mut pod: BTreeMap<&'static str, String> = BTreeMap::new();
        let files =
            [("k8s.pod.uid", uid), ("k8s.container.name", container_name), ("k8s.namespace.name", namespace)];
        pod.extend(files.into_iter().filter_map(|(key, value)| Some((key, value?))));
        for (key, own, customary) in POD_VARIABLES {
            let customary = customary.filter(|_| in_kubernetes);
            let value = variable(own).or_else(|| customary.and_then(variable));
            pod.extend(value.map(|value| (key, value)));
        }

        let container_id = match_container_id(&cgroups, &mounts, in_kubernetes);
        // Docker's /.dockerenv marks no container: it stays in an image that is made into a virtual machine's.
        let marked = sources.root.join("run/.containerenv").exists();
        let in_container = container_id.is_some() || in_kubernetes || marked;
        let host_id = MACHINE_ID_FILES
            .iter()
            // In a container the file belongs to the image, and to all its containers, unless it was mounted there.
            .filter(|file| {
                !in_container || mounts.iter().any(|mount| mount.point.trim_start_matches('/') == **file)
            })
            .filter_map(|file| read(&sources.root.join(file)))
            .find_map(|text| parse_machine_id(&text));
        Self { in_container, container_id, host_id, pod }
    }

    /// Tells this agent from every other of the same name.
    ///
    /// It stays the same when the agent restarts, as long as what it runs in stays the same: with a new id each time,
    /// every restart would begin new series in the back end and leave the old ones to go stale. The parts may be
    /// confidential and are hashed, as the semantic conventions of `service.instance.id` ask, in their namespace.
    /// Two agents that share all the parts, such as two on one host, need the attribute configured.
    fn instance_id(&self) -> Uuid {
        const NAMESPACE: Uuid = Uuid::from_u128(0x4d63_009a_8d0f_11ee_aad7_4c79_6ed8_e320);
        let identity = if let Some(uid) = self.pod.get("k8s.pod.uid") {
            // A container's id changes when Kubernetes restarts it; the pod and its name in it do not.
            let container = self.pod.get("k8s.container.name").map_or("", String::as_str);
            Some(format!("pod/{uid}/{container}"))
        } else if let Some(id) = &self.container_id {
            Some(format!("container/{id}"))
        } else {
            // Of a container that is not known, no more than the host would tell, and a host has several.
            self.host_id.as_ref().filter(|_| !self.in_container).map(|id| format!("host/{id}"))
        };
        identity.map_or_else(Uuid::new_v4, |identity| Uuid::new_v5(&NAMESPACE, identity.as_bytes()))
    }
}

/// The first of the files that there is.
fn read_first(root: &Path, files: &[&str]) -> Option<String> {
    files.iter().find_map(|file| read(&root.join(file)))
}

/// The text of a file; `None` when there is none, or none that may be read.
fn read(path: &Path) -> Option<String> {
    match std::fs::read(path) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(path = %path.display(), %error, "a file that describes the resource cannot be read");
            }
            None
        }
    }
}

fn parse_c_str(text: &std::ffi::CStr) -> Option<&str> {
    // What the kernel says where nobody has set a name.
    text.to_str().ok().filter(|text| *text != "(none)")
}

/// The architecture by its name in the semantic conventions (`host.arch`); one without a name there by its own.
fn parse_arch(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" | "aarch64_be" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "x86",
        "ppc" => "ppc32",
        "ppc64" | "ppc64le" => "ppc64",
        arm if arm.starts_with("armv") => "arm32",
        other => other,
    }
}

/// The id of a host, unless it is still to be made (`machine-id(5)`: then it is empty or `uninitialized`).
pub(crate) fn parse_machine_id(text: &str) -> Option<String> {
    let id = text.trim();
    let valid = id.len() == 32
        && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        && id.bytes().any(|byte| byte != b'0');
    valid.then(|| id.to_ascii_lowercase())
}

/// The value of a key in `os-release(5)`: assignments in the manner of a shell, the last one counts.
pub(crate) fn parse_os_release(text: &str, key: &str) -> Option<String> {
    let mut values = text.lines().rev().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    values.next().map(parse_shell_word).filter(|value| !value.is_empty())
}

/// A word as a shell reads it, without expansions.
fn parse_shell_word(text: &str) -> String {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            (None | Some('"'), '\\') => word.extend(characters.next()),
            (_, other) => word.push(other),
        }
    }
    word
}

#[cfg(test)]
mod tests;
