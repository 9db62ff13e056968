//! The agent in containers, as the manifests say: podman, runc, no privilege.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests fail by panicking")]

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::skip::Need;
use vms_agent_tests::watched::UP;
use vms_agent_tests::{Engine, Image, Namespace, Pod, Points, Rotel, Scene, environment, eventually, needs};

const STATUS: &str = "vms.connection_mon.status";
const FORWARD: &[(&str, &str)] = &[("name", "orders-to-payments"), ("direction", "forward")];
const REVERSE: &[(&str, &str)] = &[("name", "orders-to-payments"), ("direction", "reverse")];

/// A manifest of deploy/kubernetes, changed as its user changes it: the pod's name, the program's arguments, the service and the
/// collector; and without the two variables that podman cannot fill, the namespace and the node.
fn sidecar(pod: &str, arguments: &[&str], service: &str) -> String {
    let path = environment::repository().join("deploy/kubernetes/sidecar/pod.yaml");
    let mut manifest = fs::read_to_string(path).unwrap();
    let mut change = |from: &str, to: &str| {
        assert!(manifest.contains(from), "the manifest has {from:?}");
        manifest = manifest.replace(from, to);
    };
    change("  name: orders\n", &format!("  name: {pod}\n"));
    let image = "      image: example.com/orders:1.0\n";
    change(image, &format!("{image}      args: {}\n", serde_json::to_string(arguments).unwrap()));
    change("destServiceIp: 10.20.0.7", &format!("destServiceIp: {service}"));
    change("http://otel-collector.observability.svc:4317", "http://127.0.0.1:4317");
    // Here who is told to end stays ended.
    change("spec:\n  share", "spec:\n  restartPolicy: Never\n  share");
    // To podman it is a volume of that name, which two pods would share.
    change("- name: spool\n", &format!("- name: spool-of-{pod}\n"));
    let mut variables = "      env:\n".to_owned();
    for (name, value) in [("VMS_INTERVAL", "1s"), ("VMS_EXPORT__BACKOFF__MAX", "1s")] {
        write!(variables, "        - name: {name}\n          value: {value}\n").unwrap();
    }
    change("      env:\n", &variables);
    for (name, field) in [("K8S_NAMESPACE_NAME", "metadata.namespace"), ("K8S_NODE_NAME", "spec.nodeName")] {
        let reference = format!("valueFrom:\n            fieldRef:\n              fieldPath: {field}\n");
        change(&format!("        - name: {name}\n          {reference}"), "");
    }
    manifest
}

/// An engine with the images that the manifests name: the agent, and a program named `orders`.
fn engine() -> Engine {
    let engine = Engine::new();
    let (agent, peer) = (environment::agent_program().unwrap(), environment::peer_program());
    let image = Image {
        name: "vms-agent:0.1.0",
        program: &agent,
        entrypoint: "/vms-agent",
        arguments: &["run"],
        user: "65532:65532",
    };
    engine.import(&image);
    let (name, entrypoint) = ("example.com/orders:1.0", "/orders");
    engine.import(&Image { name, program: &peer, entrypoint, arguments: &[], user: "0:0" });
    engine
}

/// What the kernel says of a process, from `/proc/PID/status`.
fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().to_owned()
}

/// Shows the log of a pod's agent where a test fails.
struct Told<'a>(&'a Pod<'a>);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.log("vms-agent"));
        }
    }
}

fn assert_unprivileged(pod: &Pod<'_>) {
    let pid = pod.pid("vms-agent");
    for (field, value) in [
        ("Uid", "10001"),
        ("CapPrm", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(status(pid, field), value, "{field}");
    }
}

fn log_has(pod: &Pod<'_>, texts: &[&str]) -> Option<()> {
    let log = pod.log("vms-agent");
    log.lines().any(|line| texts.iter().all(|text| line.contains(text))).then_some(())
}

#[test]
fn sidecars_see_a_link_of_their_pods_from_both_ends() {
    needs!(Need::Agent, Need::Rotel, Need::Containers);
    let (scene, other_scene, engine) = (Scene::new(), Scene::new(), engine());
    let service = "10.11.12.2";
    // One configuration, on both hosts of the link.
    let client = engine.play("client", &sidecar("client", &["call", "10.11.12.2:8443"], service));
    let server = engine.play("server", &sidecar("server", &["serve", "0.0.0.0:8443"], service));
    let (here, there): (Namespace, Namespace) = (client.host("orders", 1), server.host("orders", 2));
    let _told = [Told(&client), Told(&server)];
    let (near, far) = (Rotel::start(&scene, &here), Rotel::start(&other_scene, &there));
    let began = unix_nanoseconds();
    here.join(&there);
    let forward = near.wait_for_value(UP, FORWARD, 1, began);
    let reverse = far.wait_for_value(UP, REVERSE, 1, began);
    for (point, pod, name) in [(forward, &client, "client"), (reverse, &server, "server")] {
        let resource = |key: &str| point.resource.get(key).map(|value| value.trim_matches('"').to_owned());
        assert_eq!(resource("k8s.pod.name").as_deref(), Some(name));
        assert_eq!(resource("k8s.pod.uid").map(|uid| uid.len()), Some(64), "podman's uid of a pod");
        assert_eq!(resource("container.id"), Some(pod.container_id("vms-agent")));
        assert_unprivileged(pod);
        let health = pod.exec("vms-agent", &["/vms-agent", "health"]);
        assert!(health.status.success(), "{health:?}");
        log_has(pod, &["the sandbox is complete"]).unwrap();
        assert_eq!(log_has(pod, &["cannot be used"]), None, "{}", pod.log("vms-agent"));
    }

    // The collector is away: what is measured goes to the volume.
    drop(far);
    eventually("the outage to be told", || log_has(&server, &["WARN", "4317"]));
    let ended = unix_nanoseconds();
    assert_eq!(server.stop("orders"), 128 + 15, "ended by SIGTERM");
    let down = near.wait_for_value(STATUS, &[FORWARD[0], FORWARD[1], ("state", "down")], 1, ended);
    assert!(down.time > ended);
    let far = Rotel::start(&other_scene, &there);
    far.wait_for_value(UP, REVERSE, 0, ended);
    assert!(!far.series(UP, REVERSE).is_empty());
    for pod in [&client, &server] {
        assert_eq!(pod.stop("vms-agent"), 0, "{}", pod.log("vms-agent"));
    }
}

/// `vms-agent check` in a container of its own that shares the network and the processes of another.
fn check(engine: &Engine, beside: &str, options: &[&str]) -> (Option<i32>, Value) {
    let beside = format!("container:{beside}");
    let probes = json!([{
        "type": "connection_mon",
        "name": "link",
        "processName": "orders",
        "destServiceIp": "127.0.0.1",
        "destServicePort": 8443,
    }]);
    let probes = format!("VMS_PROBES={probes}");
    let shares =
        ["--network", &beside, "--pid", &beside, "--read-only", "--env", &probes, "--cap-drop", "all"];
    let output = engine.run(&[&shares, options].concat(), "vms-agent:0.1.0", &["check", "--format", "json"]);
    let rows: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), rows)
}

#[test]
fn a_sidecar_of_another_user_says_what_it_may_not_see_and_sees_it_with_both_capabilities() {
    needs!(Need::Agent, Need::Containers);
    let engine = engine();
    engine.start(
        "app",
        &["--user", "10001", "--network", "none"],
        "example.com/orders:1.0",
        &["loop", "127.0.0.1:8443"],
    );
    let both = ["--cap-add", "sys_ptrace", "--cap-add", "dac_read_search"];
    let seen = |(code, rows): (Option<i32>, Value)| {
        let ups: Vec<bool> =
            rows.as_array().unwrap().iter().map(|row| row["up"] == 1 || row["up"] == true).collect();
        (code, ups)
    };
    let everything = (Some(0), vec![true, true]);
    eventually("the link", || {
        (seen(check(&engine, "app", &["--user", "10001"])) == everything).then_some(())
    });
    for user in ["0", "10002"] {
        let user = ["--user", user];
        let (code, rows) = check(&engine, "app", &user);
        assert_eq!(code, Some(1), "{rows:#}");
        for row in rows.as_array().unwrap() {
            assert_eq!(row["reason"], "not_permitted", "{rows:#}");
        }
        assert_eq!(seen(check(&engine, "app", &[user.as_slice(), &both].concat())), everything, "{user:?}");
    }
}

/// What the manifest of the node agent grants, as podman's options; with that directory in place of the kubelet's.
fn granted(pod_logs: &Path) -> Vec<String> {
    let path = environment::repository().join("deploy/kubernetes/node-agent/daemonset.yaml");
    let manifest = fs::read_to_string(path).unwrap();
    let line = |start: &str| {
        let mut lines = manifest.lines().map(str::trim_start);
        lines
            .find_map(|line| line.strip_prefix(start))
            .unwrap_or_else(|| panic!("the manifest has {start:?}"))
    };
    assert_eq!(line("runAsUser: "), "0");
    assert_eq!(line("drop: "), "[ALL]");
    assert_eq!([line("readOnlyRootFilesystem: "), line("hostPID: ")], ["true", "true"]);
    let added = line("add: ").trim_matches(['[', ']']).split(", ").map(|name| format!("--cap-add={name}"));
    let variable = manifest.split_once("name: VMS_NAMESPACES\n").unwrap().1;
    let value = variable.trim_start().strip_prefix("value: ").unwrap().lines().next().unwrap();
    let variable = format!("--env=VMS_NAMESPACES={value}");
    assert_eq!([line("path: "), line("readOnly: ")], ["/var/log/pods", "true"]);
    let volume = format!("--volume={}:{}:ro", pod_logs.display(), line("mountPath: "));
    added.chain([variable, volume]).collect()
}

#[test]
fn a_node_agent_sees_the_links_of_pods_from_both_ends() {
    needs!(Need::Agent, Need::Rotel, Need::Containers);
    let (scene, engine, node) = (Scene::new(), engine(), Namespace::new());
    let client = engine.play("client", &sidecar("client", &["call", "10.11.12.2:8443"], "10.11.12.2"));
    let server = engine.play("server", &sidecar("server", &["serve", "0.0.0.0:8443"], "10.11.12.2"));
    let received = Rotel::start(&scene, &node);
    let network = format!("--network=ns:/run/netns/{}", node.name());
    let probe = |name: &str, ip: &str| {
        json!({
            "type": "connection_mon",
            "name": name,
            "processName": "orders",
            "destServiceIp": ip,
            "destServicePort": 8443,
        })
    };
    let probes = json!([probe("orders-to-payments", "10.11.12.2"), probe("within-pod", "127.0.0.1")]);
    let probes = format!("--env=VMS_PROBES={probes}");
    // One of a pod as the kubelet makes them: its directory first, and its cgroup.
    let uid = "8c1b3f6e-7d52-4c1c-9f0e-3f2b7a9d5e10";
    let pod_logs = scene.public_directory("pods");
    fs::set_permissions(&pod_logs, Permissions::from_mode(0o750)).unwrap();
    let granted = granted(&pod_logs);
    let mut options =
        vec![network.as_str(), &probes, "--env=VMS_INTERVAL=1s", "--env=VMS_EXPORT__BACKOFF__MAX=1s"];
    options.extend([
        "--pid=host",
        "--user=0:0",
        "--read-only",
        "--security-opt=no-new-privileges",
        "--cap-drop=all",
    ]);
    options.extend(granted.iter().map(String::as_str));
    engine.start("node-agent", &options, "vms-agent:0.1.0", &["run"]);
    client.host("orders", 1).join(&server.host("orders", 2));
    fs::create_dir(pod_logs.join(format!("shop_orders-0_{uid}"))).unwrap();
    let parent = format!("--cgroup-parent=/kubepods/burstable/pod{uid}");
    let program = ("example.com/orders:1.0", ["loop", "127.0.0.1:8443"]);
    engine.start("of-a-pod", &[&parent, "--network=none"], program.0, &program.1);
    let named = [
        ("name", "within-pod"),
        ("direction", "forward"),
        ("k8s.pod.uid", uid),
        ("k8s.pod.name", "orders-0"),
        ("k8s.namespace.name", "shop"),
    ];
    let seen =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| received.wait_for_value(UP, &named, 1, 0)));
    assert!(seen.is_ok(), "{}", engine.log("node-agent"));
    for (link, pod) in [(FORWARD, &client), (REVERSE, &server)] {
        let id = pod.container_id("orders");
        let of_pod = [link, &[("container.id", id.as_str())]].concat();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            received.wait_for_value(UP, &of_pod, 1, 0)
        }));
        assert!(seen.is_ok(), "{}", engine.log("node-agent"));
    }
    // The server goes: its client is told down, by the name of its container.
    let ended = unix_nanoseconds();
    assert_eq!(server.stop("orders"), 128 + 15, "ended by SIGTERM");
    let client_id = client.container_id("orders");
    received.wait_for_value(UP, &[FORWARD, &[("container.id", client_id.as_str())]].concat(), 0, ended);
}
