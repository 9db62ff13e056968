//! The soak itself is tried, for as long as a test may take.

use vms_agent_tests::skip::Need;
use vms_agent_tests::{needs, program};

#[test]
fn a_short_soak_finds_nothing() {
    needs!(Need::Agent);
    let mut soak = program::command(env!("CARGO_BIN_EXE_vms-soak"));
    soak.args(["--minutes", "0.35", "--links", "60"]);
    let output = program::output(&mut soak);
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    assert!(said.contains("| no false answer |"), "{said}");
}
