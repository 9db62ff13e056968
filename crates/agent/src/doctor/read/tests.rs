use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{CapabilitySet as ThreadCapabilities, CapabilitySets, capabilities, set_capabilities};
use vms_core::probe::MatchedSourceLabels;
use vms_core::process::{Capability, ProcessPattern};

use super::*;

const NOBODY: &str =
    "Name:\tjava\nPPid:\t1\nUid:\t1001\t1001\t1001\t1001\nGid:\t1001\t1001\t1001\t1001\nGroups:\t27 \n";

/// A root file system with a /proc, and perhaps a /host/proc, made of plain files.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.file("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
        host.process("proc", 1, "Name:\tsystemd\nPPid:\t0\nUid:\t0\t0\t0\t0\n");
        host.own("proc", 40, "1000", "40");
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        symlink(target, self.path(path)).unwrap();
    }

    fn process(&self, proc: &str, pid: u32, status: &str) {
        self.file(&format!("{proc}/{pid}/status"), status);
        fs::create_dir_all(self.path(&format!("{proc}/{pid}/fd"))).unwrap();
    }

    /// This process, in PID namespaces as listed by `NSpid`.
    fn own(&self, proc: &str, pid: u32, uid: &str, ns_pids: &str) {
        let status = format!(
            "Name:\tvms-agent\nPPid:\t1\nNSpid:\t{ns_pids}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t5\t5\t5\t7\nGroups:\t20 24\n\
             CapPrm:\t0000000000080000\nCapEff:\t0000000000000004\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\n"
        );
        self.process(proc, pid, &status);
        self.link(&format!("{proc}/self"), &pid.to_string());
        self.link(&format!("{proc}/{pid}/ns/user"), FIRST_USER_NAMESPACE);
        self.link(&format!("{proc}/{pid}/ns/pid"), FIRST_PID_NAMESPACE);
        self.link(&format!("{proc}/{pid}/ns/net"), "net:[4026531840]");
    }

    fn facts(&self, proc_root: &str, variables: &[&str], probes: &[Arc<ConnectionProbe>]) -> Facts {
        let (proc, proc_root) = (self.path("proc"), self.path(proc_root));
        let sources = Sources {
            spool: None,
            root: self.0.path(),
            own_proc: &proc,
            proc_root: &proc_root,
            variable: &|name| variables.contains(&name).then(|| "x".to_owned()),
            executable: "/usr/bin/vms-agent".into(),
            hidden: None,
            probes,
            sandbox: SandboxMode::Auto,
            attribution: AttributionMode::Inferred,
            inference: BTreeSet::new(),
            namespaces: Namespaces::Own,
        };
        read_facts(&sources, &mut || Ok(()), &mut || Ok(Vec::new()), None)
    }
}

fn probe(dest_ip: &str, executable: Option<&str>, dest_executable: Option<&str>) -> Arc<ConnectionProbe> {
    let process = |executable: Option<&str>| ProcessPattern {
        name: "java".parse().unwrap(),
        executable: executable.map(PathBuf::from),
    };
    Arc::new(ConnectionProbe {
        name: Arc::from("orders-db"),
        source_process: process(executable),
        dest_process: process(dest_executable.or(executable)),
        dest_ip: dest_ip.parse().unwrap(),
        dest_port: 5432,
        source_ip: None,
        source_port: None,
        interval: Duration::from_secs(15),
        matched_source_labels: MatchedSourceLabels::None,
    })
}

#[test]
fn own_credentials_come_from_the_status_file() {
    let facts = Host::new().facts("proc", &[], &[]);
    assert_eq!(
        facts.own,
        Credentials {
            uid: 1000,
            groups: vec![7, 20, 24],
            effective: CapabilitySet(1 << 2),
            permitted: CapabilitySet(1 << 19),
            bounding: CapabilitySet(0x1ff_ffff_ffff),
            no_new_privs: true,
            seccomp_filter: true,
        }
    );
    assert_eq!(facts.own.effective.missing(), [Capability::SysPtrace]);
    assert_eq!(facts.initial_user_namespace, Some(true));
    assert_eq!(facts.kernel_release, "6.1.0-18-amd64");
    assert_eq!(facts.setting, Setting::Plain);
}

#[test]
fn a_directory_of_files_is_not_taken_for_a_procfs() {
    let host = Host::new();
    assert_eq!(host.facts("proc", &[], &[]).processes.is_procfs, Ok(false));
    let missing = host.facts("host/proc", &[], &[]).processes;
    assert_eq!(missing.is_procfs.unwrap_err().errno, Some(rustix::io::Errno::NOENT.raw_os_error()));
    assert_eq!((missing.visible, missing.view), (0, PidView::Unknown));
}

#[test]
fn the_hosts_processes_are_told_from_those_of_a_container() {
    let host = Host::new();
    assert_eq!(host.facts("proc", &[], &[]).processes.view, PidView::Host);

    fs::remove_file(host.path("proc/40/ns/pid")).unwrap();
    host.link("proc/40/ns/pid", "pid:[4026532700]");
    assert_eq!(host.facts("proc", &[], &[]).processes.view, PidView::OwnNamespace);

    host.own("host/proc", 9040, "1000", "9040 40");
    host.process("host/proc", 812, NOBODY);
    let outer = host.facts("host/proc", &[], &[]).processes;
    assert_eq!((outer.view, outer.visible, outer.others), (PidView::Outer, 2, 1));
}

#[test]
fn neither_this_process_nor_its_ancestors_are_others() {
    let host = Host::new();
    let alone = host.facts("proc", &[], &[]).processes;
    assert_eq!((alone.visible, alone.others), (2, 0));
    host.process("proc", 50, NOBODY);
    host.file("proc/cmdline", "not a process");
    let facts = host.facts("proc", &[], &[]).processes;
    assert_eq!((facts.visible, facts.others), (3, 1));
}

#[test]
fn the_running_agent_is_found_with_its_rights_and_its_unit() {
    let host = Host::new();
    let status = "Name:\tvms-agent\nPPid:\t1\nUid:\t998\t998\t998\t998\nCapEff:\t0000000000080004\n";
    host.process("proc", 812, status);
    host.file("proc/812/cgroup", "0::/system.slice/links.service\n");
    let agents = host.facts("proc", &[], &[]).agents;
    assert_eq!(agents.len(), 1, "this process is not one of them: {agents:?}");
    assert_eq!(agents[0].pid, Pid(812));
    assert_eq!(agents[0].credentials.uid, 998);
    assert!(agents[0].credentials.effective.missing().is_empty());
    assert_eq!(agents[0].setting, Setting::Service("links".to_owned()));
    assert_eq!(agents[0].dumps_core, None);
}

#[test]
fn an_agent_has_the_rights_of_its_most_capable_thread_and_the_restrictions_that_all_threads_have() {
    let host = Host::new();
    let status = |effective: &str, seccomp: u8| {
        format!(
            "Name:\tvms-agent\nPPid:\t1\nUid:\t998\t998\t998\t998\nCapEff:\t{effective}\nNoNewPrivs:\t1\nSeccomp:\t{seccomp}\n"
        )
    };
    host.process("proc", 812, &status("0000000000000000", 2));
    host.file("proc/812/task/812/status", &status("0000000000000000", 2));
    host.file("proc/812/task/813/status", &status("0000000000080004", 2));
    host.file(
        "proc/812/limits",
        "Limit  Soft Limit  Hard Limit  Units\nMax core file size        0      0      bytes\n",
    );
    let agents = host.facts("proc", &[], &[]).agents;
    assert!(agents[0].credentials.effective.missing().is_empty());
    assert!(agents[0].credentials.no_new_privs && agents[0].credentials.seccomp_filter);
    assert_eq!(agents[0].dumps_core, Some(false));

    host.file("proc/812/task/814/status", &status("0000000000000000", 0));
    assert!(!host.facts("proc", &[], &[]).agents[0].credentials.seccomp_filter);
}

#[test]
fn the_kernels_threads_tell_the_hosts_network_namespace_when_pid_1_does_not() {
    let host = Host::new();
    assert_eq!(host.facts("proc", &[], &[]).network.first, None);
    host.process("proc", 2, "Name:\tkthreadd\nPPid:\t0\n");
    host.link("proc/2/ns/net", "net:[7]");
    assert_eq!(host.facts("proc", &[], &[]).network.first.as_deref(), Some("net:[7]"));
    host.link("proc/1/ns/net", "net:[8]");
    assert_eq!(host.facts("proc", &[], &[]).network.first.as_deref(), Some("net:[8]"));
    fs::remove_file(host.path("proc/1/ns/net")).unwrap();
    host.process("proc", 2, "Name:\tjava\nPPid:\t1\n");
    assert_eq!(host.facts("proc", &[], &[]).network.first, None, "in a container PID 2 is anybody");
}

#[test]
fn files_of_a_network_namespace_tell_it_where_nobody_may_look_into_pid_1() {
    let host = Host::new();
    host.file("proc/40/net/dev", "");
    fs::create_dir_all(host.path("proc/1/net")).unwrap();
    fs::hard_link(host.path("proc/40/net/dev"), host.path("proc/1/net/dev")).unwrap();
    let network = host.facts("proc", &[], &[]).network;
    assert_eq!(network.first, network.own);
    fs::remove_file(host.path("proc/1/net/dev")).unwrap();
    host.file("proc/1/net/dev", "");
    let network = host.facts("proc", &[], &[]).network;
    assert!(network.first.is_some() && network.first != network.own);
}

#[test]
fn the_setting_is_recognized_by_the_marks_it_leaves() {
    let host = Host::new();
    let setting = |variables: &[&str]| host.facts("proc", variables, &[]).setting;
    assert_eq!(setting(&["INVOCATION_ID"]), Setting::Service("vms-agent".to_owned()));
    assert_eq!(setting(&["container"]), Setting::Container);
    assert_eq!(setting(&["KUBERNETES_SERVICE_HOST", "container"]), Setting::Kubernetes);
    host.file(".dockerenv", "");
    assert_eq!(setting(&["INVOCATION_ID"]), Setting::Container);

    for (cgroup, expected) in [
        ("0::/kubepods.slice/kubepods-pod7.slice/cri-containerd-9.scope", Some(Setting::Kubernetes)),
        ("12:pids:/docker/0123\n0::/", Some(Setting::Container)),
        ("0::/machine.slice/libpod-0123.scope", Some(Setting::Container)),
        ("0::/system.slice/vms-agent.service", Some(Setting::Service("vms-agent".to_owned()))),
        ("0::/user.slice/user-1000.slice/session-3.scope", None),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/term.service", None),
        ("0::/", None),
        ("", None),
    ] {
        assert_eq!(match_cgroup(cgroup), expected, "{cgroup}");
    }
}

#[test]
fn every_symbolic_link_on_the_way_to_an_executable_is_followed_below_the_root() {
    let host = Host::new();
    host.file("usr/lib/jvm/17/bin/java", "");
    host.link("bin", "usr/bin");
    host.link("usr/bin/java", "/etc/alternatives/java");
    host.link("etc/alternatives/java", "../../usr/lib/jvm/17/bin/java");
    host.link("loop", "loop");
    host.file("usr/bin/nginx", "");
    let resolved = |executable: &str| {
        let facts = host.facts("proc", &[], &[probe("192.0.2.1", Some(executable), None)]);
        assert_eq!(facts.probes[0].executables.len(), 1);
        facts.probes[0].executables[0].resolved.clone()
    };
    assert_eq!(resolved("/bin/java"), Known::Is("/usr/lib/jvm/17/bin/java".into()));
    assert_eq!(resolved("/usr/bin/nginx"), Known::Is("/usr/bin/nginx".into()));
    assert_eq!(resolved("/usr/bin/absent"), Known::Absent);
    assert_eq!(resolved("/usr/bin/nginx/x"), Known::Absent);
    assert_eq!(resolved("/loop"), Known::Denied);
}

#[test]
fn executables_of_the_host_are_looked_up_in_the_host() {
    let host = Host::new();
    host.file("usr/bin/only-in-container", "");
    host.own("host/proc", 9040, "1000", "9040 40");
    host.file("host/proc/1/root/opt/app-2/bin/app", "");
    host.link("host/proc/1/root/opt/app", "/opt/app-2");
    let probes = [probe("192.0.2.1", Some("/opt/app/bin/app"), Some("/usr/bin/only-in-container"))];
    let executables = host.facts("host/proc", &["container"], &probes).probes.remove(0).executables;
    assert_eq!(executables[0].resolved, Known::Is("/opt/app-2/bin/app".into()));
    assert_eq!((executables[1].key, &executables[1].resolved), ("destExecutablePath", &Known::Absent));
}

#[test]
fn a_containers_own_files_do_not_tell_that_an_executable_is_absent() {
    let probes = [probe("192.0.2.1", Some("/opt/app"), None)];
    let executables = Host::new().facts("proc", &["container"], &probes).probes.remove(0).executables;
    assert_eq!(executables[0].resolved, Known::Denied);
}

#[test]
fn addresses_of_this_host_are_told_from_those_of_others() {
    let host = Host::new();
    let is_local = |ip: &str| host.facts("proc", &[], &[probe(ip, None, None)]).probes[0].is_local;
    assert!(is_local("127.0.0.1"));
    assert!(is_local("127.8.9.10"));
    assert!(!is_local("192.0.2.1"), "documentation addresses (RFC 5737) are nobody's");
    assert!(!is_local("2001:db8::1"));
    assert!(!is_local("fe80::1%absent0"));
}

/// Reads the real /proc on a thread of its own, whose rights are `keep`.
fn real_facts_with(keep: ThreadCapabilities) -> Facts {
    std::thread::spawn(move || {
        let held = capabilities(None).unwrap();
        let reduced = CapabilitySets { effective: held.effective & keep, ..held };
        set_capabilities(None, reduced).unwrap();
        // `self` is the process; the thread has to be looked at instead.
        let view = tempfile::tempdir().unwrap();
        symlink("/proc/thread-self", view.path().join("self")).unwrap();
        symlink("/proc/sys", view.path().join("sys")).unwrap();
        let sources = Sources {
            spool: None,
            root: Path::new("/"),
            own_proc: view.path(),
            proc_root: Path::new("/proc"),
            variable: &|_| None,
            executable: "/usr/bin/vms-agent".into(),
            hidden: None,
            probes: &[],
            sandbox: SandboxMode::Auto,
            attribution: AttributionMode::Inferred,
            inference: BTreeSet::new(),
            namespaces: Namespaces::Own,
        };
        read_facts(&sources, &mut || Ok(()), &mut || Ok(Vec::new()), None)
    })
    .join()
    .unwrap()
}

#[test]
fn the_real_proc_is_read() {
    let facts = real_facts_with(ThreadCapabilities::all());
    assert_eq!(facts.processes.is_procfs, Ok(true));
    assert!(facts.processes.visible >= 1);
    assert_eq!(facts.own.uid, rustix::process::geteuid().as_raw());
    assert!(facts.network.own.is_some_and(|link| link.starts_with("net:[")));
    assert!(!facts.kernel_release.is_empty());
}

/// A process of another user; ended when dropped.
struct Stranger(std::process::Child);

impl Stranger {
    #[expect(clippy::disallowed_methods, reason = "a process of another user has to come from somewhere")]
    fn start() -> Self {
        use std::os::unix::process::CommandExt as _;
        Self(std::process::Command::new("sleep").arg("60").uid(65534).spawn().unwrap())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn losing_the_capabilities_is_noticed_on_the_real_proc() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can start a process as another user");
        return;
    }
    let _stranger = Stranger::start();
    let with_all = real_facts_with(ThreadCapabilities::all());
    assert!(with_all.own.effective.missing().is_empty());
    assert!(
        with_all.processes.foreign.refused() < with_all.processes.foreign.tried,
        "{:?}",
        with_all.processes
    );

    for kept in
        [ThreadCapabilities::empty(), ThreadCapabilities::SYS_PTRACE, ThreadCapabilities::DAC_READ_SEARCH]
    {
        let facts = real_facts_with(kept);
        assert_eq!(facts.own.effective.missing().len(), if kept.is_empty() { 2 } else { 1 });
        let look = facts.processes.foreign;
        assert!(look.refused() > 0, "each of the two alone is not enough: {look:?}");
    }
}

#[test]
fn sockets_can_be_told_apart_where_some_process_is_in_a_cgroup_of_its_own() {
    let root = Host::new();
    let cgroup = |text: &str| {
        root.file("proc/7/status", "Name:\tapp\n");
        root.file("proc/7/cgroup", text);
        root.facts("proc", &[], &[]).inference.lacks
    };
    let untagged = BTreeSet::from([InferenceLack::UntaggedSockets]);
    assert_eq!(cgroup("4:memory:/app\n0::/\n"), untagged);
    assert_eq!(cgroup("4:memory:/app\n"), untagged);
    assert_eq!(cgroup("0::/app.service\n"), BTreeSet::new());
    assert_eq!(cgroup("0::/../app\n"), BTreeSet::new());
}
