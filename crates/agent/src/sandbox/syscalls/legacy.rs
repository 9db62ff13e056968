//! System calls that only architectures older than the generic table have; newer ones do the same by the calls that
//! follow them (`openat` for `open`).

/// For the measuring thread as well.
#[cfg(target_arch = "x86_64")]
pub(super) const SHARED: &[i64] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
];

/// For the runtime's threads.
#[cfg(target_arch = "x86_64")]
pub(super) const RUNTIME: &[i64] = &[
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_eventfd,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_utimes,
];

/// `open`, whose flags are its second argument.
#[cfg(target_arch = "x86_64")]
pub(super) const OPEN: Option<i64> = Some(libc::SYS_open);

#[cfg(not(target_arch = "x86_64"))]
pub(super) const SHARED: &[i64] = &[];
/// `renameat` of the generic table, by which glibc renames there, and for which the crate libc has no name.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const RUNTIME: &[i64] = &[38];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const OPEN: Option<i64> = None;
