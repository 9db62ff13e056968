//! Tests that cannot run here say so; in CI, where they have to, that is a failure.

use std::io::Write;

/// Says why the test under way is left out; with `VMS_TESTS_FAIL_ON_SKIP=1` panics instead.
#[track_caller]
pub(crate) fn skip(lack: &str) {
    #[expect(clippy::disallowed_methods, reason = "how strict to be is told by the environment")]
    let fail = std::env::var_os("VMS_TESTS_FAIL_ON_SKIP").is_some_and(|value| value == "1");
    assert!(!fail, "SKIPPED: {lack} (VMS_TESTS_FAIL_ON_SKIP=1)");
    let (thread, mut stderr) = (std::thread::current(), std::io::stderr());
    // Not through print!, which the test runner keeps to itself when a test passes.
    writeln!(stderr, "SKIPPED: {}: {lack}", thread.name().unwrap_or("a test")).unwrap();
}
