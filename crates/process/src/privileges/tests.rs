use super::*;

fn missing(sys_ptrace: bool, dac_read_search: bool, refusal: Refusal) -> Vec<Capability> {
    let privileges = Privileges { sys_ptrace, dac_read_search, groups: BTreeSet::new() };
    privileges.missing(refusal).into_iter().collect()
}

#[test]
fn a_refusal_names_what_guards_the_step_and_what_the_next_one_would_need() {
    use Capability::{DacReadSearch, SysPtrace};
    assert_eq!(missing(false, false, Refusal::ListDescriptors), [SysPtrace, DacReadSearch]);
    assert_eq!(missing(true, false, Refusal::ListDescriptors), [DacReadSearch]);
    assert_eq!(missing(false, true, Refusal::ReadDescriptor), [SysPtrace]);
    assert_eq!(missing(false, false, Refusal::Enter), [SysPtrace, DacReadSearch]);
    assert_eq!(missing(false, true, Refusal::Enter), [SysPtrace]);
}

#[test]
fn a_refusal_in_spite_of_both_capabilities_is_for_want_of_none() {
    for refusal in [Refusal::Enter, Refusal::ListDescriptors, Refusal::ReadDescriptor] {
        assert!(missing(true, true, refusal).is_empty());
    }
}

#[test]
fn own_groups_include_the_effective_one() {
    assert!(Privileges::read_own().unwrap().groups.contains(&getegid().as_raw()));
}
