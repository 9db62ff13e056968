use std::fs;

use tempfile::TempDir;

use super::*;

const MACHINE: &str = "fdbf79e8af94cb7f9e8df36789187052";
const CONTAINER: &str = "e72f453320124d18eb835d05a10d393b95dd584ed6d1bea161717a290a357aa6";
const POD: &str = "8c1b3f6e-7d52-4c1c-9f0e-3f2b7a9d5e10";

const OS_RELEASE: &str = "# a comment\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\n\
                          VERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nID=debian\n";

/// A file system, an environment and a configuration.
struct Host {
    root: TempDir,
    environment: BTreeMap<&'static str, &'static str>,
    attributes: BTreeMap<String, String>,
    service_name: Option<&'static str>,
}

impl Host {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        Self { root, environment: BTreeMap::new(), attributes: BTreeMap::new(), service_name: None }
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn cgroup(self, path: &str) -> Self {
        self.file("proc/self/cgroup", &format!("0::{path}\n"))
    }

    fn mount(self, root: &str, point: &str) -> Self {
        self.file("proc/self/mountinfo", &format!("9 1 8:1 {root} {point} rw,relatime - ext4 /dev/sda1 rw\n"))
    }

    fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.insert(name, value);
        self
    }

    fn attribute(mut self, key: &str, value: &str) -> Self {
        self.attributes.insert(key.to_owned(), value.to_owned());
        self
    }

    fn detect(&self) -> BTreeMap<String, String> {
        let found = detect(&Sources {
            service_name: self.service_name,
            attributes: &self.attributes,
            environment: &|name| self.environment.get(name).map(|value| (*value).to_owned()),
            root: self.root.path(),
            proc_root: &self.root.path().join("proc"),
        });
        assert!(found.is_sorted(), "{found:?}");
        assert!(found.iter().all(|(_, value)| !value.is_empty()), "{found:?}");
        found.into_iter().collect()
    }

    fn instance(&self) -> String {
        self.detect().remove("service.instance.id").unwrap()
    }
}

fn plain_host() -> Host {
    Host::new()
        .file("etc/machine-id", &format!("{MACHINE}\n"))
        .file("etc/os-release", OS_RELEASE)
        .cgroup("/system.slice/x.service")
}

#[test]
fn a_host_tells_its_id_and_its_distribution() {
    let found = plain_host().detect();
    let get = |key: &str| found.get(key).map(String::as_str);
    assert_eq!(get("service.name"), Some("vms-agent"));
    assert_eq!(get("service.version"), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(get("host.id"), Some(MACHINE));
    assert_eq!(get("host.name"), uname().nodename().to_str().ok());
    assert_eq!(get("host.arch"), Some(parse_arch(uname().machine().to_str().unwrap())));
    assert_eq!(get("os.type"), Some("linux"));
    assert_eq!(get("os.name"), Some("Debian GNU/Linux"));
    assert_eq!(get("os.version"), Some("12"));
    assert_eq!(get("os.description"), Some("Debian GNU/Linux 12 (bookworm)"));
    assert!(!found.keys().any(|key| key.starts_with("k8s.") || key.starts_with("container.")));
}

#[test]
fn what_cannot_be_known_is_left_out() {
    let found = Host::new().detect();
    let keys: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "host.arch",
            "host.name",
            "os.type",
            "os.version",
            "service.instance.id",
            "service.name",
            "service.version"
        ]
    );
}

#[test]
fn the_instance_survives_a_restart_where_something_tells_it_apart() {
    let pod = || Host::new().mount(&format!("/pods/{POD}/containers/agent/5e8d1c0f"), "/dev/termination-log");
    let container = || Host::new().cgroup(&format!("/docker/{CONTAINER}"));
    let mut instances = Vec::new();
    let makers: [&dyn Fn() -> Host; 3] = [&plain_host, &pod, &container];
    for make in makers {
        assert_eq!(make().instance(), make().instance());
        assert_eq!(Uuid::parse_str(&make().instance()).unwrap().get_version_num(), 5);
        instances.push(make().instance());
    }
    instances.sort_unstable();
    instances.dedup();
    assert_eq!(instances.len(), 3);
    // In the namespace that the semantic conventions give.
    let namespace = Uuid::parse_str("4d63009a-8d0f-11ee-aad7-4c796ed8e320").unwrap();
    let expected = Uuid::new_v5(&namespace, format!("host/{MACHINE}").as_bytes());
    assert_eq!(plain_host().instance(), expected.to_string());
}

#[test]
fn the_instance_survives_kubernetes_restarting_the_container() {
    let restarted = |id: &str| Host::new().cgroup(&format!("/kubepods/pod{POD}/{id}")).instance();
    assert_eq!(restarted(CONTAINER), restarted(&CONTAINER.replace('e', "f")));
}

#[test]
fn the_instance_is_random_where_nothing_tells_it_apart() {
    let host = Host::new();
    assert_ne!(host.instance(), host.instance());
    // The host's id would be the same for every container of the host.
    let container = Host::new()
        .file("run/.containerenv", "")
        .mount("/etc/machine-id", "/etc/machine-id")
        .file("etc/machine-id", MACHINE)
        .cgroup("/");
    assert_eq!(container.detect().get("host.id").map(String::as_str), Some(MACHINE));
    assert_ne!(container.instance(), container.instance());
}

#[test]
fn the_machine_id_of_an_image_is_not_the_hosts() {
    let image = || Host::new().file("etc/machine-id", MACHINE).cgroup(&format!("/docker/{CONTAINER}"));
    assert_eq!(image().detect().get("host.id"), None);
    assert_eq!(image().mount("/etc/machine-id", "/etc/machine-id").detect()["host.id"], MACHINE);
    let marked = Host::new().file("etc/machine-id", MACHINE).file("run/.containerenv", "");
    assert_eq!(marked.detect().get("host.id"), None);
    let virtual_machine = plain_host().file(".dockerenv", "");
    assert_eq!(virtual_machine.detect()["host.id"], MACHINE);
}

#[test]
fn the_second_machine_id_counts_where_the_first_is_not_made_yet() {
    let host = Host::new().file("etc/machine-id", "uninitialized\n").file("var/lib/dbus/machine-id", MACHINE);
    assert_eq!(host.detect()["host.id"], MACHINE);
}

#[test]
fn the_downward_api_names_the_pod() {
    let host = Host::new()
        .variable("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        .variable("K8S_POD_NAME", "agent-x7k2p")
        .variable("POD_NAME", "not this one")
        .variable("POD_UID", POD)
        .variable("POD_NAMESPACE", "monitoring")
        .variable("NODE_NAME", "node-3")
        .variable("K8S_CONTAINER_NAME", "agent")
        .variable("K8S_CLUSTER_NAME", "")
        .file("var/run/secrets/kubernetes.io/serviceaccount/namespace", "from-the-file");
    let found = host.detect();
    let pod: Vec<(&str, &str)> = found
        .iter()
        .filter(|(key, _)| key.starts_with("k8s."))
        .map(|(key, value)| (&**key, &**value))
        .collect();
    assert_eq!(
        pod,
        [
            ("k8s.container.name", "agent"),
            ("k8s.namespace.name", "monitoring"),
            ("k8s.node.name", "node-3"),
            ("k8s.pod.name", "agent-x7k2p"),
            ("k8s.pod.uid", POD),
        ]
    );
}

#[test]
fn the_namespace_comes_from_the_service_account_where_no_variable_tells() {
    let host = Host::new().file("var/run/secrets/kubernetes.io/serviceaccount/namespace", "monitoring\n");
    assert_eq!(host.detect()["k8s.namespace.name"], "monitoring");
}

#[test]
fn outside_of_kubernetes_a_customary_variable_means_nothing() {
    let found =
        plain_host().variable("NODE_NAME", "a build server").variable("K8S_CLUSTER_NAME", "edge").detect();
    assert_eq!(found.get("k8s.node.name"), None);
    assert_eq!(found["k8s.cluster.name"], "edge");
}

#[test]
fn what_is_configured_goes_before_what_is_found() {
    let mut host = plain_host()
        .attribute("service.name", "from attributes")
        .attribute("service.instance.id", "blue")
        .attribute("host.name", "web-1")
        .attribute("os.description", "")
        .attribute("team", "payments");
    let found = host.detect();
    assert_eq!(found["service.name"], "from attributes");
    assert_eq!(found["service.instance.id"], "blue");
    assert_eq!(found["host.name"], "web-1");
    assert_eq!(found["team"], "payments");
    assert_eq!(found.get("os.description"), None);
    host.service_name = Some("from its own setting");
    assert_eq!(host.detect()["service.name"], "from its own setting");
}

#[test]
fn architectures_have_the_names_of_the_conventions() {
    for (machine, name) in [
        ("x86_64", "amd64"),
        ("aarch64", "arm64"),
        ("armv7l", "arm32"),
        ("i686", "x86"),
        ("ppc64le", "ppc64"),
        ("s390x", "s390x"),
        ("riscv64", "riscv64"),
    ] {
        assert_eq!(parse_arch(machine), name);
    }
}

#[test]
fn os_release_is_read_as_a_shell_would() {
    let text = "NAME='Arch Linux'\nID_LIKE=\"a \\\"b\\\" \\$c\"\nVERSION_ID=1\nVERSION_ID=2\nEMPTY=\"\"\n#BUILD_ID=x\n";
    let value = |key| parse_os_release(text, key);
    assert_eq!(value("NAME").as_deref(), Some("Arch Linux"));
    assert_eq!(value("ID_LIKE").as_deref(), Some("a \"b\" $c"));
    assert_eq!(value("VERSION_ID").as_deref(), Some("2"));
    assert_eq!(value("VERSION"), None);
    assert_eq!(value("EMPTY"), None);
    assert_eq!(value("BUILD_ID"), None);
}

#[test]
fn a_machine_id_that_is_none_is_refused() {
    assert_eq!(parse_machine_id(&format!("{}\n", MACHINE.to_uppercase())).as_deref(), Some(MACHINE));
    for text in [
        "",
        "\n",
        "uninitialized\n",
        "00000000000000000000000000000000",
        "fdbf79e8",
        "zdbf79e8af94cb7f9e8df36789187052",
    ] {
        assert_eq!(parse_machine_id(text), None, "{text}");
    }
}
