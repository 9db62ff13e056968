use vms_core::namespace::Namespaces;

use super::*;
use crate::config::ConntrackMode;

const PLAIN: Extras = Extras { conntrack: ConntrackMode::Off, namespaces: Namespaces::Own, listener: None };

fn all_lists(process: Process) -> [Rules; 4] {
    let measuring = |extras| list::measuring(process, extras).unwrap();
    let conntrack = Extras { conntrack: ConntrackMode::Auto, ..PLAIN };
    let namespaces = Extras { namespaces: Namespaces::All, ..PLAIN };
    [measuring(PLAIN), measuring(conntrack), measuring(namespaces), list::runtime(process, PLAIN).unwrap()]
}

#[test]
fn the_filters_fit_the_kernel_on_every_architecture_with_a_list() {
    let process = Process { pid: 812 };
    for name in ["x86_64", "aarch64"] {
        let architecture: TargetArch = name.try_into().unwrap();
        for rules in all_lists(process) {
            let filter =
                SeccompFilter::new(rules, SeccompAction::Errno(1), SeccompAction::Allow, architecture)
                    .unwrap();
            let program: BpfProgram = filter.try_into().unwrap();
            // BPF_MAXINSNS.
            assert!(program.len() <= 4096, "{name}: {}", program.len());
        }
    }
    assert!(architecture().is_some(), "and this is one of them");
}

#[test]
fn no_list_holds_a_call_that_starts_programs_or_listens_or_reaches_into_the_kernel() {
    let process = Process { pid: 812 };
    let never = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_bpf,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_keyctl,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_perf_event_open,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_kill,
        libc::SYS_pidfd_getfd,
        libc::SYS_capset,
        libc::SYS_setuid,
        libc::SYS_open_by_handle_at,
        libc::SYS_seccomp,
    ];
    let [plain, conntrack, _, runtime] = all_lists(process);
    for rules in [plain, conntrack, runtime] {
        for call in never {
            assert!(!rules.contains_key(&call), "{call}");
        }
    }
    let measuring = list::measuring(process, Extras { conntrack: ConntrackMode::Auto, ..PLAIN }).unwrap();
    for call in
        [libc::SYS_connect, libc::SYS_bind, libc::SYS_unlinkat, libc::SYS_renameat2, libc::SYS_mkdirat]
    {
        assert!(!measuring.contains_key(&call), "the measuring thread: {call}");
    }
}

#[test]
fn only_the_thread_that_measures_in_all_network_namespaces_may_enter_one() {
    let process = Process { pid: 812 };
    let own = list::measuring(process, PLAIN).unwrap();
    let mut all = list::measuring(process, Extras { namespaces: Namespaces::All, ..PLAIN }).unwrap();
    let rules = all.remove(&libc::SYS_setns).unwrap();
    assert_eq!(rules.len(), 1, "and no namespace of another kind");
    assert_eq!(all, own);
}

#[test]
fn only_an_agent_that_listens_accepts_and_at_that_one_socket() {
    let process = Process { pid: 812 };
    let listens = Extras { listener: Some(7), ..PLAIN };
    let without = list::runtime(process, PLAIN).unwrap();
    let mut with = list::runtime(process, listens).unwrap();
    let rules = with.remove(&libc::SYS_accept4).unwrap();
    assert_eq!(rules, one_of(0, &[7]).unwrap());
    assert_eq!(with, without, "and nothing else is added");
    let measuring = list::measuring(process, listens).unwrap();
    assert_eq!(measuring, list::measuring(process, PLAIN).unwrap());
}
