//! The lists, and what arguments have to be where it matters. Values are the kernel's (`include/uapi`), the same on every
//! architecture unless said otherwise.

use rustix::fs::OFlags;
use seccompiler::BackendError;
use vms_core::namespace::Namespaces;

use super::super::Extras;
use super::{Process, Rules, all, is, legacy, masked, one_of};
use crate::config::ConntrackMode;

/// Memory, time, threads, signals to itself, and files that are open: what any thread does.
const SHARED: &[i64] = &[
    // Files and descriptors.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fadvise64,
    libc::SYS_ftruncate,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getrusage,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_membarrier,
    // Threads. clone3 is refused by a filter of its own, which has to be the one that speaks.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // Who and where it is.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getresuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_capget,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    // Sockets that are open.
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
];

/// What the runtime's threads do beside: connections, and files that are stored. Landlock says which files.
const RUNTIME: &[i64] = &[
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getpeername,
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pwritev,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_msync,
    libc::SYS_flock,
    libc::SYS_truncate,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_umask,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
];

/// The measuring thread's: it opens files to read them, and sockets to ask the kernel about sockets, and about their
/// translations where that is configured.
pub(super) fn measuring(process: Process, extras: Extras) -> Result<Rules, BackendError> {
    let mut rules = shared(process)?;
    let writing = OFlags::ACCMODE | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND | OFlags::TMPFILE;
    // O_TMPFILE has the bit of O_DIRECTORY, by which directories are opened.
    let writing = u64::from((writing - OFlags::DIRECTORY).bits());
    rules.insert(libc::SYS_openat, vec![all([masked(2, writing, 0)])?]);
    if let Some(open) = legacy::OPEN {
        rules.insert(open, vec![all([masked(1, writing, 0)])?]);
    }
    // And the service manager's watchdog is fed by datagrams to a local socket. Each names its receiver, so that nothing
    // has to be connected: a filter cannot see where to, and the sockets of the other threads are within reach.
    let feeding = all([is(0, UNIX), masked(1, SOCKET_KIND, DATAGRAM)])?;
    let mut sockets = vec![all([is(0, NETLINK), is(2, NETLINK_SOCK_DIAG)])?, feeding];
    if extras.conntrack == ConntrackMode::Auto {
        sockets.push(all([is(0, NETLINK), is(2, NETLINK_NETFILTER)])?);
    }
    rules.insert(libc::SYS_socket, sockets);
    if extras.namespaces == Namespaces::All {
        rules.insert(libc::SYS_setns, vec![all([is(1, NEW_NETWORK)])?]);
    }
    rules.insert(libc::SYS_mmap, vec![all([masked(2, EXECUTABLE, 0)])?]);
    rules.insert(libc::SYS_mprotect, vec![all([masked(2, EXECUTABLE, 0)])?]);
    Ok(rules)
}

/// The runtime's.
pub(super) fn runtime(process: Process, extras: Extras) -> Result<Rules, BackendError> {
    let mut rules = shared(process)?;
    for call in RUNTIME.iter().chain(legacy::RUNTIME) {
        rules.insert(*call, Vec::new());
    }
    let mut sockets = Vec::new();
    for family in [INET, INET6, UNIX] {
        for kind in [STREAM, DATAGRAM] {
            sockets.push(all([is(0, family), masked(1, SOCKET_KIND, kind)])?);
        }
    }
    // By which the C library finds out which kinds of addresses are worth asking for.
    sockets.push(all([is(0, NETLINK), is(2, NETLINK_ROUTE)])?);
    rules.insert(libc::SYS_socket, sockets);
    // The C library binds the latter. An address of that length binds no socket of IPv4 or IPv6, to no port, but a local one
    // to a name of nine or ten bytes: Landlock lets no socket be made in any directory.
    rules.insert(libc::SYS_bind, vec![all([is(2, NETLINK_ADDRESS_BYTES)])?]);
    if let Some(descriptor) = extras.listener.and_then(|descriptor| u64::try_from(descriptor).ok()) {
        rules.insert(libc::SYS_accept4, vec![all([is(0, descriptor)])?]);
    }
    rules.insert(libc::SYS_socketpair, vec![all([is(0, UNIX)])?]);
    // Modules of the name service are loaded; nothing is ever made executable that can be written.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let not_both =
            [all([masked(2, EXECUTABLE, 0)])?, all([masked(2, EXECUTABLE | WRITABLE, EXECUTABLE)])?];
        rules.insert(call, Vec::from(not_both));
    }
    Ok(rules)
}

fn shared(process: Process) -> Result<Rules, BackendError> {
    let mut rules: Rules = SHARED.iter().chain(legacy::SHARED).map(|call| (*call, Vec::new())).collect();
    // Threads: of this process, and of its namespaces.
    rules.insert(libc::SYS_clone, vec![all([masked(0, THREAD | NEW_NAMESPACES, THREAD)])?]);
    rules.insert(libc::SYS_prctl, one_of(0, &PROCESS_OPTIONS)?);
    rules.insert(libc::SYS_prlimit64, vec![all([is(0, 0)])?]);
    // abort(3).
    rules.insert(libc::SYS_tgkill, vec![all([is(0, process.pid)])?]);
    rules.insert(libc::SYS_fcntl, one_of(1, &DESCRIPTOR_COMMANDS)?);
    rules.insert(libc::SYS_ioctl, one_of(1, &DEVICE_COMMANDS)?);
    Ok(rules)
}

/// Families of addresses (`AF_*`), and protocols of netlink.
const UNIX: u64 = 1;
const INET: u64 = 2;
const INET6: u64 = 10;
const NETLINK: u64 = 16;
const NETLINK_ROUTE: u64 = 0;
const NETLINK_SOCK_DIAG: u64 = 4;
const NETLINK_NETFILTER: u64 = 12;
/// `sizeof(struct sockaddr_nl)` (`include/uapi/linux/netlink.h`): a family and padding of 2 bytes each, a port id and a mask of
/// groups of 4 bytes each. The kernel takes no address of IPv4 of less than 16 bytes, and none of IPv6 of less than 24.
const NETLINK_ADDRESS_BYTES: u64 = 12;

/// `SOCK_STREAM`, `SOCK_DGRAM`, and the mask without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
const SOCKET_KIND: u64 = 0xf;

/// `PROT_WRITE` and `PROT_EXEC`.
const WRITABLE: u64 = 0x2;
const EXECUTABLE: u64 = 0x4;

/// `CLONE_THREAD`, which takes `CLONE_VM` and `CLONE_SIGHAND` with it.
const THREAD: u64 = 0x0001_0000;
/// `CLONE_NEWNS`, `CLONE_NEWCGROUP`, `CLONE_NEWUTS`, `CLONE_NEWIPC`, `CLONE_NEWUSER`, `CLONE_NEWPID` and `CLONE_NEWNET`.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// `CLONE_NEWNET` alone.
const NEW_NETWORK: u64 = 0x4000_0000;

/// `PR_GET_DUMPABLE`, `PR_SET_NAME`, `PR_GET_NAME`, `PR_CAPBSET_READ`, `PR_GET_NO_NEW_PRIVS`, `PR_SET_VMA` (names of
/// memory areas) and `PR_GET_AUXV`.
const PROCESS_OPTIONS: [u64; 7] = [3, 15, 16, 23, 39, 0x5356_4d41, 0x4155_5856];

/// `F_DUPFD` to `F_SETLKW`, `F_OFD_GETLK` to `F_OFD_SETLKW`, and `F_DUPFD_CLOEXEC`. Not those that make the kernel send
/// signals (`F_SETOWN`, `F_SETSIG`).
const DESCRIPTOR_COMMANDS: [u64; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030];

/// `TCGETS`, `TIOCGWINSZ`, `FIONREAD`, `FIONBIO` and `FIOCLEX`: whether a descriptor is a terminal and how wide, and
/// whether it blocks. Not `TIOCSTI`, which types into a terminal.
const DEVICE_COMMANDS: [u64; 5] = [0x5401, 0x5413, 0x541b, 0x5421, 0x5451];
