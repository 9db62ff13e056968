//! Tests that cannot run here say so; in CI, where they have to, that is a failure.

use std::io::Write;

use crate::cgroup::Cgroup;
use crate::environment;
use crate::program;

/// What a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To be root: network namespaces, other users, capabilities.
    Root,
    /// A program on the `PATH`.
    Tool(&'static str),
    /// The agent, built with the profile `fast`.
    Agent,
    /// The cycles in which nothing happens, built with the profile `fast`.
    Steady,
    /// The collector rotel.
    Rotel,
    /// A hierarchy of cgroups of version 2 in which groups can be made.
    Cgroups,
    /// The machine's own PID namespace, so that all of its processes can be seen.
    WholeMachine,
    /// The kernel's packet filter, and its tool.
    PacketFilter,
    /// The library that shows a program another time of day.
    FakeTime,
    /// A file as a block device with ext4 on it, and the tools for that.
    LoopDevice,
    /// A container engine, and a runtime for it.
    Containers,
}

impl Need {
    fn lack(self) -> Option<String> {
        let lacks = match self {
            Self::Root => !rustix::process::geteuid().is_root(),
            Self::Tool(name) => !has_tool(name),
            Self::Agent => environment::agent_program().is_none(),
            Self::Steady => environment::steady_program().is_none(),
            Self::Rotel => environment::rotel_program().is_none(),
            Self::Cgroups => !Cgroup::can_be_made(),
            Self::WholeMachine => !is_first_pid_namespace(),
            Self::PacketFilter => !has_tool("nft"),
            Self::FakeTime => environment::fake_time_library().is_none(),
            Self::LoopDevice => !has_tool("mkfs.ext4") || !has_loop_device(),
            Self::Containers => !["podman", "runc", "catatonit"].into_iter().all(has_tool),
        };
        lacks.then(|| match self {
            Self::Root => "needs root".to_owned(),
            Self::Tool(name) => format!("needs the program {name}"),
            Self::Agent => "needs the agent: cargo build --profile fast -p vms-agent".to_owned(),
            Self::Steady => "needs vms-steady: cargo build --profile fast -p vms-bench".to_owned(),
            Self::Rotel => "needs the collector rotel: pip install --pre rotel".to_owned(),
            Self::Cgroups => "needs a mount of cgroup2 in which directories can be made".to_owned(),
            Self::WholeMachine => "needs the first PID namespace".to_owned(),
            Self::PacketFilter => "needs nft".to_owned(),
            Self::FakeTime => "needs libfaketime: apt-get install faketime".to_owned(),
            Self::LoopDevice => "needs mkfs.ext4, and a free loop device (losetup --find)".to_owned(),
            Self::Containers => {
                "needs podman, runc and catatonit: apt-get install podman runc catatonit".to_owned()
            }
        })
    }
}

/// Its number is fixed (`include/uapi/linux/nsfs.h`).
fn is_first_pid_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

fn has_tool(name: &str) -> bool {
    let mut search = program::command("sh");
    search.args(["-c", "command -v \"$0\"", name]);
    program::output(&mut search).status.success()
}

fn has_loop_device() -> bool {
    has_tool("losetup") && {
        let found = program::output(program::command("losetup").arg("--find"));
        let device = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        found.status.success() && std::path::Path::new(&device).exists()
    }
}

/// Whether a test has to be left out. Says why; with `VMS_TESTS_FAIL_ON_SKIP=1` panics instead.
#[track_caller]
#[must_use]
pub fn skipped(test: &str, needs: &[Need]) -> bool {
    let Some(lack) = needs.iter().find_map(|need| need.lack()) else { return false };
    let fail = environment::variable("VMS_TESTS_FAIL_ON_SKIP").is_some_and(|value| value == "1");
    assert!(!fail, "SKIPPED: {lack} (VMS_TESTS_FAIL_ON_SKIP=1)");
    // Not through print!, which the test runner keeps to itself when a test passes.
    writeln!(std::io::stderr(), "SKIPPED: {test}: {lack}").expect("stderr is open");
    true
}

/// Leaves the test unless everything named is there: root and iproute2 always, and what is given.
#[macro_export]
macro_rules! needs {
    ($($need:expr),* $(,)?) => {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        if $crate::skip::skipped(&test, &[
            $crate::skip::Need::Root,
            $crate::skip::Need::Tool("ip"),
            $crate::skip::Need::Tool("ss"),
            $($need),*
        ]) {
            return;
        }
    };
}
