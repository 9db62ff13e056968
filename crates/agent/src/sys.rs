//! What the C library has no safe name for: the only `unsafe` of the project.

/// What is free beyond this at the top of the heap goes back to the kernel at once, in bytes, and what is larger has a mapping
/// of its own.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 128 * 1024;

/// Keeps what is free from growing. To be called before the first thread is started.
///
/// glibc has defaults for programs that allocate much on many threads: each thread gets a pool, in which what is free no other
/// uses; and once a large block was freed, blocks of its size come from the pools, which from then on keep twice as much at
/// their ends. An agent would keep what the worst outage so far took, once a thread. These are the parameters' initial
/// values (mallopt(3)); to set them keeps them from growing. The few threads of an agent do not get into one another's way.
pub(crate) fn bound_free_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE_BYTES), (libc::M_TRIM_THRESHOLD, LARGE_BYTES)]
    {
        #[expect(unsafe_code, reason = "no crate sets these parameters")]
        // SAFETY: mallopt(3) takes two numbers, and changes nothing but when malloc(3) gets memory and gives it back.
        let is_set = unsafe { libc::mallopt(parameter, value) } == 1;
        debug_assert!(is_set, "the C library knows the parameter");
    }
}

/// Gives the kernel back what is free between blocks that are in use: of a configuration, or of an outage, that is over.
pub(crate) fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no crate calls it")]
    // SAFETY: malloc_trim(3) may be called at any time by any thread, and touches only what is free.
    let _was_any = unsafe { libc::malloc_trim(0) };
}
