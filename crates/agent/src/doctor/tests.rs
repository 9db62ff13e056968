use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use vms_core::infer::{AttributionMode, InferenceLack};
use vms_core::namespace::Namespaces;
use vms_core::process::{Capability, Known, Pid};
use vms_export::SpoolCondition;
use vms_process::{HiddenProcesses, HidePid};

use super::evaluate::evaluate;
use super::facts::{
    CapabilitySet, CollectorProblem, Credentials, ExecutableFacts, Facts, ForeignLook, InferenceFacts,
    LinkFacts, NetworkFacts, PidView, ProbeFacts, ProcessFacts, Refusal, RunningAgent, SandboxFacts, Setting,
    Subject,
};
use super::*;
use crate::config::SandboxMode;

const SYS_PTRACE: u64 = 1 << 19;
const DAC_READ_SEARCH: u64 = 1 << 2;
const DAC_OVERRIDE: u64 = 1 << 1;
const BOTH: u64 = SYS_PTRACE | DAC_READ_SEARCH;

fn credentials(uid: u32, effective: u64) -> Credentials {
    Credentials {
        uid,
        groups: vec![uid],
        effective: CapabilitySet(effective),
        permitted: CapabilitySet(effective),
        bounding: CapabilitySet(u64::MAX),
        no_new_privs: false,
        seccomp_filter: false,
    }
}

/// A host on which all is well.
fn sound() -> Facts {
    Facts {
        own: credentials(998, BOTH),
        initial_user_namespace: Some(true),
        setting: Setting::Plain,
        executable: "/usr/bin/vms-agent".into(),
        processes: ProcessFacts {
            root: "/proc".into(),
            is_procfs: Ok(true),
            visible: 300,
            others: 295,
            view: PidView::Host,
            hidden: None,
            foreign: ForeignLook { tried: 32, unlisted: 0, unread: 0 },
        },
        agents: Vec::new(),
        network: NetworkFacts { own: Some("net:[1]".to_owned()), first: Some("net:[1]".to_owned()) },
        kernel_release: "6.1.0-18-amd64".to_owned(),
        yama: Some(1),
        sockets: Ok(()),
        conntrack: None,
        collector: Some(Ok("http://localhost:4317".to_owned())),
        scrapes: None,
        spool: Some(("/var/lib/vms-agent".into(), SpoolCondition::InUse("812".to_owned()))),
        probes: vec![ProbeFacts {
            name: "orders-db".to_owned(),
            service: "192.0.2.1:5432".to_owned(),
            service_ip: "192.0.2.1".parse().unwrap(),
            is_local: false,
            executables: Vec::new(),
        }],
        links: Ok(vec![link("orders-db", 0, &[])]),
        sandbox: SandboxFacts { mode: SandboxMode::Auto, seccomp: true, landlock: true },
        inference: InferenceFacts { mode: AttributionMode::Strict, lacks: BTreeSet::new() },
        namespaces: Namespaces::Own,
    }
}

fn link(name: &str, unattributed: usize, missing: &[Capability]) -> LinkFacts {
    LinkFacts::new(name.to_owned(), unattributed, missing.iter().copied().collect())
}

/// A running agent that has given up all that it can do without.
fn restrained(effective: u64) -> RunningAgent {
    RunningAgent {
        pid: Pid(812),
        credentials: Credentials { no_new_privs: true, seccomp_filter: true, ..credentials(998, effective) },
        setting: Setting::Service("links".to_owned()),
        dumps_core: Some(false),
    }
}

/// What is found on a host that differs from a sound one in this.
fn found(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = sound();
    change(&mut facts);
    evaluate(&facts)
}

/// The one finding that is not ok.
fn lack(change: impl FnOnce(&mut Facts)) -> (Area, Level, String, String) {
    let mut lacks: Vec<_> = found(change).into_iter().filter(|finding| finding.level != Level::Ok).collect();
    assert_eq!(lacks.len(), 1, "{lacks:#?}");
    let Finding { area, level, what, fix, .. } = lacks.remove(0);
    (area, level, what, fix.unwrap_or_default())
}

#[test]
fn a_sound_host_has_nothing_to_fix_in_any_area() {
    let findings = evaluate(&sound());
    assert!(
        findings.iter().all(|finding| finding.level == Level::Ok && finding.fix.is_none()),
        "{findings:#?}"
    );
    for area in
        [Area::Privileges, Area::Processes, Area::Network, Area::Kernel, Area::Collector, Area::Probes]
    {
        assert!(findings.iter().any(|finding| finding.area == area), "{area:?}");
    }
}

#[test]
fn a_missing_capability_is_fixed_in_the_way_of_the_setting() {
    let fix = |uid, setting: Setting, effective| {
        let (area, level, what, fix) = lack(|facts| {
            facts.own = credentials(uid, effective);
            facts.setting = setting;
        });
        assert_eq!((area, level), (Area::Privileges, Level::Warn));
        assert!(what.contains("up is 0 while unattributed is above 0"), "{what}");
        fix
    };
    let service = || Setting::Service("links".to_owned());
    assert_eq!(
        fix(1000, Setting::Plain, 0),
        "sudo setcap cap_sys_ptrace,cap_dac_read_search=ep /usr/bin/vms-agent"
    );
    assert_eq!(
        fix(1000, Setting::Plain, SYS_PTRACE),
        "sudo setcap cap_dac_read_search=ep /usr/bin/vms-agent"
    );
    assert_eq!(
        fix(998, service(), 0),
        "sudo systemctl edit links, under [Service]: AmbientCapabilities=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH"
    );
    assert_eq!(fix(0, Setting::Container, 0), "--cap-add=SYS_PTRACE --cap-add=DAC_READ_SEARCH");
    assert_eq!(fix(0, Setting::Container, DAC_OVERRIDE), "--cap-add=SYS_PTRACE");
    assert_eq!(fix(7, Setting::Container, DAC_READ_SEARCH), "--cap-add=SYS_PTRACE --user=0");
    assert_eq!(
        fix(0, Setting::Kubernetes, 0),
        "securityContext.capabilities.add: [SYS_PTRACE, DAC_READ_SEARCH]"
    );
}

#[test]
fn setcap_is_not_advised_where_it_would_have_no_effect() {
    let (_, _, what, fix) = lack(|facts| {
        facts.own = Credentials { no_new_privs: true, ..credentials(1000, 0) };
    });
    assert!(what.contains("no_new_privs"), "{what}");
    assert!(fix.contains("systemd-run") && !fix.contains("setcap "), "{fix}");

    let (_, _, what, fix) = lack(|facts| {
        facts.own = Credentials { bounding: CapabilitySet(0), ..credentials(1000, 0) };
    });
    assert!(what.contains("bounding set forbids"), "{what}");
    assert!(fix.contains("systemd-run") && !fix.contains("setcap "), "{fix}");

    let (_, _, what, _) = lack(|facts| {
        facts.own = Credentials { permitted: CapabilitySet(BOTH), ..credentials(1000, 0) };
    });
    assert!(what.contains("permitted, but not effective"), "{what}");

    let (_, _, _, fix) = lack(|facts| {
        facts.own = Credentials { bounding: CapabilitySet(0), ..credentials(998, 0) };
        facts.setting = Setting::Service("vms-agent".to_owned());
    });
    assert!(fix.contains("CapabilityBoundingSet=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH"), "{fix}");
}

#[test]
fn a_path_that_a_shell_would_take_apart_is_quoted() {
    let (_, _, _, fix) = lack(|facts| {
        facts.own = credentials(1000, 0);
        facts.executable = "/opt/my tools/it's/vms-agent".into();
    });
    assert!(fix.ends_with(r"=ep '/opt/my tools/it'\''s/vms-agent'"), "{fix}");
}

#[test]
fn dac_override_does_what_dac_read_search_does() {
    let findings = found(|facts| facts.own = credentials(0, SYS_PTRACE | DAC_OVERRIDE));
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
}

#[test]
fn the_running_agent_is_judged_rather_than_the_shell_that_asks() {
    let agent = restrained;
    let findings = found(|facts| {
        facts.own = credentials(1000, 0);
        facts.agents = vec![agent(BOTH)];
    });
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");

    let (_, level, what, fix) = lack(|facts| facts.agents = vec![agent(SYS_PTRACE)]);
    assert_eq!(level, Level::Warn);
    assert!(what.contains("PID 812, uid 998") && what.contains("lacks CAP_DAC_READ_SEARCH"), "{what}");
    assert!(fix.starts_with("sudo systemctl edit links"), "the agent's own setting counts: {fix}");
}

#[test]
fn what_a_running_agent_has_not_given_up_is_told_with_what_to_do() {
    type Change = fn(&mut RunningAgent);
    let changes: [(Change, &str); 4] = [
        (|agent| agent.credentials.permitted = CapabilitySet(BOTH | DAC_OVERRIDE), "capabilities"),
        (|agent| agent.credentials.no_new_privs = false, "could gain rights"),
        (|agent| agent.dumps_core = Some(true), "could be dumped"),
        (|agent| agent.credentials.seccomp_filter = false, "system calls are not filtered"),
    ];
    for (change, expected) in changes {
        let (area, level, what, fix) = lack(|facts| {
            let mut agent = restrained(BOTH);
            change(&mut agent);
            facts.agents = vec![agent];
        });
        assert_eq!((area, level), (Area::Sandbox, Level::Warn));
        assert!(what.contains("PID 812") && what.contains(expected), "{what}");
        assert!(fix.starts_with("sandbox: auto; "), "{fix}");
    }
    let findings = found(|facts| facts.agents = vec![restrained(BOTH)]);
    assert!(
        findings
            .iter()
            .any(|finding| finding.what.contains("keeps no capability beyond those that it needs"))
    );
}

#[test]
fn a_spool_that_cannot_be_used_is_told_with_how_to_give_the_agent_one() {
    let problem = "Read-only file system (os error 30)".to_owned();
    let (area, level, what, fix) = lack(|facts| {
        facts.spool = Some(("/var/lib/vms-agent".into(), SpoolCondition::Unusable(problem)));
    });
    assert_eq!((area, level), (Area::Collector, Level::Warn));
    assert!(what.contains("/var/lib/vms-agent cannot be used (Read-only file system"), "{what}");
    assert!(fix.contains("StateDirectory=") && fix.contains("VMS_EXPORT__SPOOL__DIRECTORY"), "{fix}");
}

#[test]
fn what_the_kernel_lacks_for_the_sandbox_is_told_and_so_is_that_it_is_off() {
    let (_, _, what, fix) = lack(|facts| facts.sandbox.landlock = false);
    assert!(what.contains("no Landlock") && fix.contains("Linux 5.13"), "{what}: {fix}");
    let (_, _, what, fix) = lack(|facts| facts.sandbox.seccomp = false);
    assert!(what.contains("no seccomp") && fix.contains("CONFIG_SECCOMP_FILTER"), "{what}: {fix}");
    let (_, _, what, fix) = lack(|facts| facts.sandbox.mode = SandboxMode::Off);
    assert!(what.contains("sandbox: off"), "{what}");
    assert_eq!(fix, "sandbox: auto");
}

#[test]
fn capabilities_inside_a_user_namespace_are_not_mistaken_for_real_ones() {
    let (area, level, what, fix) = lack(|facts| {
        facts.initial_user_namespace = Some(false);
        facts.setting = Setting::Container;
    });
    assert_eq!((area, level), (Area::Privileges, Level::Warn));
    assert!(what.contains("user namespace"), "{what}");
    assert!(fix.contains("--userns=host"), "{fix}");
    assert!(
        found(|facts| facts.initial_user_namespace = None).iter().all(|finding| finding.level == Level::Ok),
        "what could not be read is no complaint"
    );
}

#[test]
fn what_a_security_module_forbids_in_spite_of_capabilities_is_noticed() {
    let (area, _, what, fix) = lack(|facts| {
        facts.processes.foreign = ForeignLook { tried: 9, unlisted: 0, unread: 7 };
        facts.setting = Setting::Container;
    });
    assert_eq!(area, Area::Privileges);
    assert!(what.starts_with("7 of 9"), "{what}");
    assert!(fix.contains("apparmor=unconfined"), "{fix}");
    let (_, _, what, _) = lack(|facts| {
        facts.processes.foreign = ForeignLook { tried: 9, unlisted: 7, unread: 2 };
        facts.own = credentials(1000, 0);
    });
    assert!(what.contains("lacks"), "without capabilities the lack of them is the reason: {what}");
    let each = "of 9 processes that were tried 9 are out of reach: 7 for want of CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, \
                2 for want of CAP_SYS_PTRACE";
    assert!(what.ends_with(each), "{what}");
}

#[test]
fn what_restricts_others_and_not_the_agent_is_told_as_such() {
    let told = |change: fn(&mut Facts), part: &str| {
        let findings = found(change);
        let of_kernel = findings.iter().filter(|finding| finding.area == Area::Kernel);
        of_kernel.filter(|finding| finding.level == Level::Ok && finding.what.contains(part)).count()
    };
    assert_eq!(told(|facts| facts.yama = Some(2), "ptrace_scope=2"), 1);
    assert_eq!(told(|facts| facts.yama = None, "ptrace_scope"), 0);
    assert_eq!(told(|facts| facts.own.seccomp_filter = true, "seccomp"), 1);
    assert_eq!(told(|_| {}, "seccomp"), 0);
}

#[test]
fn a_link_that_cannot_be_attributed_is_named_with_what_that_takes() {
    let lacks = |missing: &'static [Capability]| {
        move |facts: &mut Facts| facts.links = Ok(vec![link("orders-db", 2, missing)])
    };
    let (area, level, what, fix) = lack(lacks(&[Capability::SysPtrace]));
    assert_eq!((area, level), (Area::Probes, Level::Warn));
    assert!(what.starts_with("orders-db: 2 connections fit") && what.ends_with("CAP_SYS_PTRACE"), "{what}");
    assert!(fix.contains("cap_sys_ptrace"), "{fix}");
    let in_spite = found(lacks(&[]));
    let of_link = in_spite.iter().find(|finding| finding.level == Level::Warn).unwrap();
    assert!(of_link.what.contains("forbids it") && of_link.fix.is_none(), "{of_link:?}");
    let (_, level, what, fix) = lack(|facts| {
        let link = link("workers", 3, &[Capability::SysPtrace]);
        facts.links = Ok(vec![LinkFacts { subject: Subject::Processes, ..link }]);
    });
    assert!(level == Level::Warn && fix.contains("cap_sys_ptrace"), "{fix}");
    assert!(what.starts_with("workers: there are too few processes, and 3 more might fit"), "{what}");
    let beside_an_agent = found(|facts| {
        lacks(&[Capability::SysPtrace])(facts);
        facts.agents = vec![restrained(BOTH)];
    });
    assert!(beside_an_agent.iter().all(|finding| finding.level == Level::Ok), "{beside_an_agent:#?}");
    let beside_another = found(|facts| {
        lacks(&[Capability::SysPtrace])(facts);
        facts.agents = vec![restrained(DAC_READ_SEARCH)];
    });
    let warns = |finding: &&Finding| finding.area == Area::Probes && finding.level == Level::Warn;
    assert_eq!(beside_another.iter().filter(warns).count(), 1, "{beside_another:#?}");
}

#[test]
fn who_asks_by_hand_is_told_the_fix_for_each_way_to_start_the_agent() {
    let facts = |setting| Facts { own: credentials(0, 0), setting, ..sound() };
    let lacks = |setting| {
        let mut findings = fixes::evaluate(&facts(setting));
        findings.retain(|finding| finding.level != Level::Ok);
        findings
    };
    let by_hand = lacks(Setting::Plain);
    let ways = [
        ("Docker", "--cap-add=SYS_PTRACE --cap-add=DAC_READ_SEARCH"),
        ("Kubernetes", "securityContext.capabilities.add: [SYS_PTRACE, DAC_READ_SEARCH]"),
        (
            "systemd",
            "sudo systemctl edit vms-agent, under [Service]: AmbientCapabilities=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH",
        ),
    ];
    assert_eq!(by_hand[0].fix_under, ways.map(|(name, fix)| (name, fix.to_owned())).into());
    let mut text = Vec::new();
    render_text(&by_hand, &mut anstream::StripStream::new(&mut text)).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(ways.iter().all(|(_, fix)| text.contains(fix)), "{text}");
    assert!(lacks(Setting::Kubernetes)[0].fix_under.is_empty(), "a pod is told about pods");
    // Where the fix is the same everywhere, once is enough.
    let same = fixes::evaluate(&Facts { collector: Some(Err(problem())), ..facts(Setting::Plain) });
    let collector = same.iter().find(|finding| finding.area == Area::Collector && finding.fix.is_some());
    assert!(collector.unwrap().fix_under.is_empty(), "{same:#?}");
}

fn problem() -> CollectorProblem {
    CollectorProblem { text: "it is away".to_owned(), fix: Some("start it".to_owned()) }
}

#[test]
fn a_proc_root_without_a_procfs_fails() {
    for is_procfs in [Ok(false), Err(Refusal::new(&Errno::NOENT))] {
        let (area, level, what, fix) = lack(|facts| {
            facts.processes.root = "/host/proc".into();
            facts.processes.is_procfs = is_procfs;
            facts.setting = Setting::Container;
        });
        assert_eq!((area, level), (Area::Processes, Level::Fail));
        assert!(what.starts_with("/host/proc"), "{what}");
        assert_eq!(fix, "--volume=/proc:/host/proc:ro, and procRoot: /host/proc");
    }
}

#[test]
fn a_container_that_sees_only_itself_fails_and_a_sidecar_does_not() {
    let own_namespace = |others| {
        move |facts: &mut Facts| {
            facts.setting = Setting::Container;
            facts.processes.view = PidView::OwnNamespace;
            facts.processes.others = others;
        }
    };
    let (area, level, _, fix) = lack(own_namespace(0));
    assert_eq!((area, level), (Area::Processes, Level::Fail));
    assert!(fix.contains("--pid=host"), "{fix}");
    let findings = found(own_namespace(3));
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    assert!(findings.iter().any(|finding| finding.what.contains("--pid=host")), "{findings:#?}");
}

#[test]
fn hidepid_matters_only_to_those_from_whom_it_hides() {
    let hidden = |hide_pid, exempt_group, own: Credentials| {
        found(|facts| {
            facts.processes.hidden = Some(HiddenProcesses { hide_pid, exempt_group });
            facts.own = own;
        })
        .into_iter()
        .filter(|finding| finding.area == Area::Processes)
        .find(|finding| finding.what.contains("hidepid"))
    };
    let level = |finding: Option<Finding>| finding.map(|finding| finding.level);
    assert_eq!(level(hidden(HidePid::Invisible, 0, credentials(998, 0))), Some(Level::Warn));
    assert_eq!(level(hidden(HidePid::NoAccess, 0, credentials(998, 0))), Some(Level::Warn));
    assert_eq!(level(hidden(HidePid::Invisible, 0, credentials(998, SYS_PTRACE))), Some(Level::Ok));
    assert_eq!(level(hidden(HidePid::Invisible, 998, credentials(998, 0))), Some(Level::Ok));
    assert_eq!(level(hidden(HidePid::Invisible, 30, credentials(998, 0))), Some(Level::Warn));
    assert_eq!(level(hidden(HidePid::Ptraceable, 998, credentials(998, 0))), Some(Level::Warn));
    assert_eq!(level(hidden(HidePid::Off, 0, credentials(998, 0))), None);
    assert!(hidden(HidePid::Invisible, 30, credentials(998, 0)).unwrap().fix.unwrap().contains("group 30"));
}

#[test]
fn the_hosts_processes_with_a_containers_sockets_fail() {
    for (setting, expected) in
        [(Setting::Container, "--network=host"), (Setting::Kubernetes, "hostNetwork: true")]
    {
        let (area, level, what, fix) = lack(|facts| {
            facts.setting = setting;
            facts.processes.view = PidView::Outer;
            facts.network.own = Some("net:[2]".to_owned());
        });
        assert_eq!((area, level), (Area::Network, Level::Fail));
        assert!(what.contains("this container's own"), "{what}");
        assert_eq!(fix, expected);
    }
}

#[test]
fn another_network_namespace_than_that_of_pid_1_is_told_outside_of_containers_too() {
    let (area, level, _, fix) = lack(|facts| facts.network.own = Some("net:[2]".to_owned()));
    assert_eq!((area, level), (Area::Network, Level::Warn));
    assert_eq!(fix, "sudo nsenter --net=/proc/1/ns/net /usr/bin/vms-agent run");
    let (_, _, _, fix) = lack(|facts| {
        facts.network.own = Some("net:[2]".to_owned());
        facts.setting = Setting::Service("links".to_owned());
    });
    assert!(fix.ends_with("PrivateNetwork=no"), "{fix}");
}

#[test]
fn an_unknown_network_namespace_worries_only_where_it_may_be_a_containers() {
    let (_, level, what, _) = lack(|facts| {
        facts.network.first = None;
        facts.setting = Setting::Container;
        facts.processes.view = PidView::Outer;
    });
    assert_eq!(level, Level::Warn);
    assert!(what.contains("cannot be told"), "{what}");
    let changes: [fn(&mut Facts); 3] = [
        |facts| facts.network.first = None,
        |facts| facts.network = NetworkFacts { own: None, first: None },
        |facts| {
            // The host's own, by its number.
            facts.network = NetworkFacts { own: Some("net:[4026531833]".to_owned()), first: None };
            facts.setting = Setting::Container;
        },
    ];
    for change in changes {
        let findings = found(change);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    }
}

#[test]
fn sockets_that_the_kernel_keeps_to_itself_fail_with_a_fix_for_the_reason() {
    let fix = |errno: Errno, setting: Setting| {
        let (area, level, what, fix) = lack(|facts| {
            facts.sockets = Err(Refusal::new(&errno));
            facts.setting = setting;
        });
        assert_eq!((area, level), (Area::Kernel, Level::Fail));
        assert!(what.contains("6.1.0-18-amd64"), "{what}");
        fix
    };
    assert_eq!(fix(Errno::NOENT, Setting::Plain), "sudo modprobe -a inet_diag tcp_diag");
    assert!(fix(Errno::NOENT, Setting::Container).starts_with("on the host: sudo modprobe"));
    assert!(
        fix(Errno::AFNOSUPPORT, Setting::Service("links".to_owned()))
            .contains("RestrictAddressFamilies=AF_NETLINK")
    );
    assert!(fix(Errno::PERM, Setting::Container).contains("seccomp"));
    assert!(fix(Errno::PERM, Setting::Kubernetes).contains("seccompProfile"));
    assert_eq!(fix(Errno::NOBUFS, Setting::Plain), "");
}

#[test]
fn a_kernel_that_is_too_old_is_named_and_an_unreadable_version_is_not() {
    let (area, level, what, _) = lack(|facts| facts.kernel_release = "3.10.0-1160.el7.x86_64".to_owned());
    assert_eq!((area, level), (Area::Kernel, Level::Warn));
    assert!(what.contains("4.12"), "{what}");
    for fine in ["4.12", "4.19.0-1", "5.4.0", "10.0.0", "", "weird"] {
        let findings = found(|facts| facts.kernel_release = fine.to_owned());
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{fine}");
    }
    lack(|facts| facts.kernel_release = "4.9.337".to_owned());
}

#[test]
fn a_collector_that_takes_nothing_is_told_with_what_to_do() {
    let (area, level, what, fix) = lack(|facts| {
        facts.collector = Some(Err(CollectorProblem {
            text: "http://collector:4317: connection refused".to_owned(),
            fix: Some("start the collector".to_owned()),
        }));
    });
    assert_eq!((area, level, fix.as_str()), (Area::Collector, Level::Fail, "start the collector"));
    assert_eq!(what, "the collector does not take metrics: http://collector:4317: connection refused");
    let findings = found(|facts| (facts.collector, facts.spool) = (None, None));
    assert!(!findings.iter().any(|finding| finding.area == Area::Collector), "nothing is exported");
}

/// An error made of layers, as transports make them.
#[derive(Debug)]
struct Layer(&'static str, Box<dyn Error + Send + Sync>);

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl Error for Layer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.1.as_ref())
    }
}

#[test]
fn the_error_number_is_found_below_other_errors() {
    let direct = Refusal::new(&Errno::PERM);
    assert_eq!(direct.errno, Some(Errno::PERM.raw_os_error()));
    let nested = Layer("dump", Box::new(io::Error::from_raw_os_error(Errno::NOENT.raw_os_error())));
    let nested = Refusal::new(&nested);
    assert_eq!(nested.errno, Some(Errno::NOENT.raw_os_error()));
    assert!(nested.text.starts_with("dump: "), "{}", nested.text);
}

#[test]
fn a_symbolic_link_as_an_executable_is_replaced_by_what_the_kernel_will_name() {
    let executable =
        |resolved| ExecutableFacts { key: "executablePath", path: "/usr/bin/java".into(), resolved };
    let (area, level, what, fix) = lack(|facts| {
        let jvm = PathBuf::from("/usr/lib/jvm/17/bin/java");
        facts.probes[0].executables = vec![executable(Known::Is(jvm))];
    });
    assert_eq!((area, level), (Area::Probes, Level::Warn));
    assert!(what.contains("orders-db") && what.contains("symbolic link"), "{what}");
    assert_eq!(fix, "executablePath: /usr/lib/jvm/17/bin/java");
    for resolved in [Known::Is("/usr/bin/java".into()), Known::Absent, Known::Denied] {
        let findings = found(|facts| facts.probes[0].executables = vec![executable(resolved)]);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    }
}

#[test]
fn the_direction_to_expect_follows_from_where_the_service_is() {
    let expected = |ip: &str, is_local| {
        let findings = found(|facts| {
            facts.probes[0].service_ip = ip.parse().unwrap();
            facts.probes[0].is_local = is_local;
        });
        findings.last().unwrap().what.clone()
    };
    assert!(expected("192.0.2.1", false).ends_with("expects forward here"));
    assert!(expected("192.0.2.1", true).contains("expects reverse here"));
    assert!(expected("127.0.0.1", true).ends_with("expects forward and reverse here"));
}

#[test]
fn the_exit_status_is_0_only_when_all_is_well() {
    assert_eq!(exit_status(&evaluate(&sound())), 0);
    for level in [Level::Warn, Level::Fail] {
        let finding = evaluate::lack(Area::Kernel, level, "", None);
        assert_eq!(exit_status(&[finding]), 1);
    }
}

#[test]
fn the_fix_stands_below_its_complaint_and_plain_output_has_no_styles() {
    let findings = [
        evaluate::ok(Area::Kernel, "fine"),
        evaluate::lack(Area::Privileges, Level::Warn, "lacks", "sudo it".to_owned()),
    ];
    let mut plain = anstream::StripStream::new(Vec::new());
    render_text(&findings, &mut plain).unwrap();
    assert_eq!(
        String::from_utf8(plain.into_inner()).unwrap(),
        "ok    kernel      fine\n\
         warn  privileges  lacks\n                  fix: sudo it\n\
         1 ok, 1 to improve, 0 to repair\n"
    );
    let mut styled = Vec::new();
    render_text(&findings, &mut styled).unwrap();
    assert!(String::from_utf8(styled).unwrap().contains("\x1b["));
}

#[test]
fn json_is_an_array_of_findings() {
    let mut output = Vec::new();
    render_json(&found(|facts| facts.own = credentials(1000, 0)), &mut output).unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(findings[0]["area"], "privileges");
    assert_eq!(findings[0]["level"], "warn");
    assert!(findings[0]["what"].as_str().unwrap().contains(Capability::SysPtrace.as_str()));
    assert!(findings[0]["fix"].as_str().unwrap().starts_with("sudo setcap"));
    assert_eq!(findings[1]["fix"], serde_json::Value::Null);
}

#[test]
fn what_keeps_conntrack_from_being_read_is_fixed_in_the_way_of_the_setting() {
    const NET_ADMIN: u64 = 1 << 12;
    let refused = |errno: Errno| Some(Err(Refusal::new(&errno)));
    let fix = |errno, setting: Setting, uid, bounding| {
        let (area, level, what, fix) = lack(|facts| {
            facts.conntrack = refused(errno);
            facts.setting = setting;
            facts.own = credentials(uid, BOTH);
            facts.own.bounding = CapabilitySet(bounding);
        });
        assert_eq!(level, Level::Warn);
        assert!(what.contains("are not seen at the server's end"), "{what}");
        (area, fix)
    };
    let service = || Setting::Service("links".to_owned());
    let ambient = "sudo systemctl edit links, under [Service]: AmbientCapabilities=CAP_NET_ADMIN";
    for (setting, uid, bounding, expected) in [
        (service(), 998, u64::MAX, ambient.to_owned()),
        (service(), 998, BOTH, format!("{ambient} and CapabilityBoundingSet=CAP_NET_ADMIN")),
        (Setting::Container, 0, BOTH, "--cap-add=NET_ADMIN".to_owned()),
        (Setting::Container, 7, BOTH, "--cap-add=NET_ADMIN --user=0".to_owned()),
        (Setting::Kubernetes, 0, BOTH, "securityContext.capabilities.add: [NET_ADMIN]".to_owned()),
        (
            Setting::Plain,
            1000,
            u64::MAX,
            "sudo setcap cap_sys_ptrace,cap_dac_read_search,cap_net_admin=ep /usr/bin/vms-agent".to_owned(),
        ),
    ] {
        assert_eq!(fix(Errno::PERM, setting, uid, bounding), (Area::Privileges, expected));
    }
    assert!(fix(Errno::PERM, Setting::Plain, 1000, BOTH).1.contains("systemd-run"));
    assert!(fix(Errno::ACCESS, service(), 0, BOTH).1.contains("netlink_netfilter_socket"));
    for errno in [Errno::INVAL, Errno::PROTONOSUPPORT] {
        let module = "sudo modprobe nf_conntrack_netlink";
        assert_eq!(fix(errno, service(), 0, BOTH), (Area::Kernel, module.to_owned()));
        assert_eq!(fix(errno, Setting::Container, 0, BOTH).1, format!("on the host: {module}"));
    }

    // Of the running agent it counts what that one may.
    let agent = |effective| {
        found(|facts| {
            facts.conntrack = refused(Errno::PERM);
            facts.agents = vec![restrained(effective)];
        })
    };
    assert!(agent(BOTH | NET_ADMIN).iter().all(|finding| finding.level == Level::Ok));
    let lacks = agent(BOTH).into_iter().filter(|finding| finding.level != Level::Ok).collect::<Vec<_>>();
    assert_eq!(lacks.len(), 1, "{lacks:#?}");
    assert_eq!(lacks[0].fix.as_deref(), Some(ambient));
    // Without the setting, it is a right too many.
    let (area, ..) = lack(|facts| facts.agents = vec![restrained(BOTH | NET_ADMIN)]);
    assert_eq!(area, Area::Sandbox);
    assert!(
        found(|facts| facts.conntrack = Some(Ok(())))
            .iter()
            .any(|finding| finding.what.contains("conntrack"))
    );
}

#[test]
fn weaker_attribution_is_named_where_it_would_help_and_elsewhere_what_is_in_its_way() {
    let hints = |change: &dyn Fn(&mut Facts)| {
        let findings = found(|facts| change(facts));
        let is_hint = |finding: &&Finding| finding.what.contains("inferred` would tell");
        findings.iter().filter(is_hint).count()
    };
    assert_eq!(hints(&|_| {}), 0, "everything may be read");
    assert_eq!(hints(&|facts| facts.own = credentials(998, SYS_PTRACE)), 1);
    assert_eq!(hints(&|facts| facts.agents = vec![restrained(DAC_READ_SEARCH)]), 1);
    assert_eq!(
        hints(&|facts| {
            facts.own = credentials(998, 0);
            facts.inference.lacks.insert(InferenceLack::NoCgroups);
        }),
        0
    );
    let findings = found(|facts| {
        facts.own = credentials(998, 0);
        facts.inference.lacks.insert(InferenceLack::NoCgroups);
    });
    let says_why = |finding: &Finding| {
        finding.what.contains("would not help by cgroups here, as no hierarchy of cgroups of version 2")
    };
    assert!(findings.iter().any(says_why), "{findings:#?}");
}

#[test]
fn what_weaker_attribution_lacks_is_told_where_it_is_chosen() {
    let told = |lacks: &[InferenceLack], setting: Setting| {
        let findings = found(|facts| {
            facts.own = credentials(998, 0);
            facts.setting = setting;
            facts.inference.mode = AttributionMode::Inferred;
            facts.inference.lacks = lacks.iter().copied().collect();
        });
        let of = |finding: &&Finding| finding.what.contains("inferred");
        let finding = findings.iter().find(of).unwrap();
        (finding.level, finding.what.clone(), finding.fix.clone().unwrap_or_default())
    };
    let (level, what, _) = told(&[], Setting::Plain);
    assert_eq!((level, what.contains("by its cgroup, or by its user")), (Level::Ok, true), "{what}");
    let (level, what, _) = told(&[InferenceLack::OwnProcesses], Setting::Kubernetes);
    assert_eq!((level, what.contains("user")), (Level::Ok, false), "a sidecar: {what}");
    let (level, what, fix) = told(&[InferenceLack::NoCgroups], Setting::Container);
    assert_eq!((level, what.contains("by their user alone")), (Level::Warn, true), "{what}");
    assert!(fix.contains("/sys/fs/cgroup"), "{fix}");
    let (_, what, fix) = told(&[InferenceLack::HiddenProcesses], Setting::Plain);
    assert!(what.contains("no link can be inferred") && fix.contains("CAP_SYS_PTRACE"), "{what} {fix}");
    let (_, _, fix) =
        told(&[InferenceLack::ForeignNumbers, InferenceLack::OwnProcesses], Setting::Kubernetes);
    assert!(fix.contains("hostPID: true"), "{fix}");
}

#[test]
fn all_namespaces_take_a_third_capability_and_make_no_difference_of_the_agents_own() {
    const SYS_ADMIN: u64 = 1 << 21;
    let all = |effective| {
        move |facts: &mut Facts| {
            facts.namespaces = Namespaces::All;
            facts.own = credentials(998, effective);
            facts.network.own = Some("net:[2]".to_owned());
        }
    };
    let findings = found(all(BOTH | SYS_ADMIN));
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    let (area, level, what, fix) = lack(all(BOTH));
    assert_eq!((area, level), (Area::Network, Level::Warn));
    assert!(what.contains("CAP_SYS_ADMIN is missing"), "{what}");
    assert!(fix.ends_with("or namespaces: own"), "{fix}");

    let agent = |effective| {
        move |facts: &mut Facts| {
            facts.namespaces = Namespaces::All;
            facts.agents = vec![restrained(effective)];
        }
    };
    let findings = found(agent(BOTH | SYS_ADMIN));
    assert!(
        findings.iter().all(|finding| finding.level == Level::Ok),
        "the running agent matters: {findings:#?}"
    );
    let (.., fix) = lack(agent(BOTH));
    assert!(fix.contains("systemctl edit links") && fix.contains("RestrictNamespaces=net"), "{fix}");
    let (area, ..) = lack(|facts| facts.agents = vec![restrained(BOTH | SYS_ADMIN)]);
    assert_eq!(area, Area::Sandbox, "more than it needs with `namespaces: own`");
}

#[test]
fn where_metrics_can_be_scraped_is_told_with_who_can_and_what_keeps_it_from_being() {
    let found = |address: &str, listened: Result<(), &str>| {
        let listened = listened.map_err(str::to_owned);
        found(|facts| facts.scrapes = Some((address.parse().unwrap(), listened.clone())))
    };
    let local = found("127.0.0.1:9293", Ok(()));
    let told = local.iter().find(|finding| finding.what.contains("http://127.0.0.1:9293/metrics")).unwrap();
    assert_eq!((told.area, told.level), (Area::Collector, Level::Ok));
    for address in ["0.0.0.0:9293", "[::]:9293", "192.0.2.7:9293"] {
        let open = found(address, Ok(()));
        let told = open.iter().find(|finding| finding.what.contains("nobody is asked who he is")).unwrap();
        assert_eq!(told.level, Level::Warn, "{address}");
        assert!(told.fix.as_ref().unwrap().contains("127.0.0.1:9293"), "{told:?}");
    }
    let taken = found("127.0.0.1:9293", Err("Address already in use (os error 98)"));
    let told = taken.iter().find(|finding| finding.level == Level::Fail).unwrap();
    assert!(told.what.contains("the agent does not start") && told.what.contains("in use"), "{told:?}");
}
