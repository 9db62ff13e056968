//! What a cycle in which nothing happens costs, in instructions: unlike time, a count is the same on a busy machine.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use vms_agent_tests::skip::Need;
use vms_agent_tests::{Namespace, Scene, environment, needs, program};

/// Cycles of the shorter and of the longer run: their difference leaves out the start and the walk of the first cycle.
const CYCLES: (u64, u64) = (2, 102);

/// Instructions in user mode that one link may take in one cycle, verified and its twenty points encoded: twice of what was
/// counted (36,700 with `opt-level = 1`, as tests are built).
const A_LINK: u64 = 74_000;

/// Instructions of a cycle beside those of its links: twice of what was counted (12,700).
const A_CYCLE: u64 = 25_400;

/// What callgrind counts of a run.
fn count(host: &Namespace, scene: &Scene, links: u64, cycles: u64) -> u64 {
    let steady = environment::steady_program().expect("needs!(Need::Steady)");
    let counts = scene.path().join(format!("counts-{links}-{cycles}"));
    // The host's own /proc: in that of the machine, processes come and go.
    let script = "mount -t proc proc /proc && exec \"$@\"";
    let mut command = program::command("unshare");
    command.args(["--mount", "--", "sh", "-c", script, "sh"]);
    command.args(["valgrind", "--tool=callgrind", &format!("--callgrind-out-file={}", counts.display())]);
    command.arg(steady).args(["--links", &links.to_string(), "--cycles", &cycles.to_string()]);
    let output = host.inside(|| program::output(&mut command));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    let collected =
        told.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
    collected.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count: {told}"))
}

#[test]
fn a_cycle_in_which_nothing_happens_takes_few_instructions_a_link() {
    needs!(Need::Steady, Need::Tool("valgrind"));
    let (scene, host) = (Scene::new(), Namespace::new());
    let of_cycle = |links| {
        let (fewer, more) = CYCLES;
        (count(&host, &scene, links, more) - count(&host, &scene, links, fewer)) / (more - fewer)
    };
    // One link beside few, for what a cycle takes without any is little beside what many take.
    let (one, some, many) = (of_cycle(1), of_cycle(11), of_cycle(111));
    let (a_link, of_many) = ((some - one) / 10, (many - some) / 100);
    let a_cycle = one.saturating_sub(a_link);
    let counted = format!("{a_link} instructions a link, {of_many} of many, and {a_cycle} a cycle");
    assert!(a_link <= A_LINK && of_many <= A_LINK, "{counted}");
    assert!(a_cycle <= A_CYCLE, "{counted}");
}
