//! The one place that reads the environment: where things are, and how strict to be.

use std::ffi::OsString;
use std::path::PathBuf;

/// The variable, unless unset or empty.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The directory above `debug`, `release` and `fast`, found from where this test was built.
#[must_use]
pub fn target_directory() -> PathBuf {
    profile_directory().parent().expect("a profile has a directory of its own").to_path_buf()
}

/// The helper program that holds sockets, built beside this test.
#[must_use]
pub fn peer_program() -> PathBuf {
    profile_directory().join("vms-test-peer")
}

/// TARGET/debug, where this is TARGET/debug/deps/links-0123456789abcdef or a program in TARGET/debug itself.
fn profile_directory() -> PathBuf {
    let this = std::env::current_exe().expect("a test knows its own path");
    let directory = this.parent().expect("a program lies in a directory");
    let is_deps = directory.file_name().is_some_and(|name| name == "deps");
    let profile = if is_deps { directory.parent() } else { Some(directory) };
    profile.expect("a test lies in TARGET/PROFILE").to_path_buf()
}

/// The agent under test: `VMS_AGENT_BIN`, or what the profile `fast` built.
#[must_use]
pub fn agent_program() -> Option<PathBuf> {
    fast_program("VMS_AGENT_BIN", "vms-agent")
}

/// Cycles in which nothing happens, to count instructions of: `VMS_STEADY_BIN`, or what the profile `fast` built.
#[must_use]
pub fn steady_program() -> Option<PathBuf> {
    fast_program("VMS_STEADY_BIN", "vms-steady")
}

fn fast_program(named_by: &str, name: &str) -> Option<PathBuf> {
    let path = variable(named_by).map_or_else(|| target_directory().join("fast").join(name), PathBuf::from);
    path.is_file().then_some(path)
}

/// The collector rotel: `ROTEL_AGENT`, or what pip put into the repository's `.venv`.
#[must_use]
pub fn rotel_program() -> Option<PathBuf> {
    if let Some(path) = variable("ROTEL_AGENT") {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let library = repository().join(".venv/lib");
    let pythons = std::fs::read_dir(library).ok()?;
    pythons
        .filter_map(Result::ok)
        .map(|python| python.path().join("site-packages/rotel/rotel-agent"))
        .find(|path| path.is_file())
}

/// The top of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the repository").to_path_buf()
}

/// The library that shows a program another time of day, where it is installed as Debian does.
#[must_use]
pub fn fake_time_library() -> Option<PathBuf> {
    let libraries = std::fs::read_dir("/usr/lib").ok()?;
    let candidates = libraries.flatten().map(|item| item.path().join("faketime/libfaketimeMT.so.1"));
    candidates.into_iter().find(|path| path.exists())
}
