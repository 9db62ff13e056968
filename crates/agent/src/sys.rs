//! What the C library has no safe name for: the only `unsafe` of the project.

/// Makes all threads share one pool of memory. Has to be called before the first of them is started.
///
/// glibc gives threads pools of their own, up to eight a core, and what is free in one no other uses: each thread that once
/// held a large request, or read a configuration, would keep as much. The few threads of an agent do not get into one
/// another's way.
pub(crate) fn share_one_pool() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no crate sets this parameter")]
    // SAFETY: mallopt(3) takes two numbers, and changes nothing but how many pools malloc(3) makes.
    let is_shared = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 1;
    #[cfg(target_env = "gnu")]
    debug_assert!(is_shared, "the C library knows the parameter");
}
