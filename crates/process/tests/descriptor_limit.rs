//! The limit of open descriptors is that of this whole process, so its test is alone in its program.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vms_process::{Privileges, ProcReader};

/// What is of use: 4096 handles, and as many descriptors and 1024 for all else.
const OF_USE: u64 = 9216;

#[test]
fn the_soft_limit_is_raised_to_what_is_of_use_within_the_hard_one_and_never_lowered() {
    let at_first = getrlimit(Resource::Nofile);
    let after_opening = |current, maximum| {
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
        drop(ProcReader::open(Path::new("/proc"), Privileges::read_own().unwrap()).unwrap());
        getrlimit(Resource::Nofile)
    };
    let maximum = at_first.maximum;
    let raised = Rlimit { current: Some(maximum.map_or(OF_USE, |most| most.min(OF_USE))), maximum };
    assert_eq!(after_opening(Some(64), maximum), raised);
    let unchanged = Rlimit { current: maximum, maximum };
    assert_eq!(after_opening(maximum, maximum), unchanged, "never lowered, nor raised above the hard limit");
    let below = Rlimit { current: Some(100), maximum: Some(100) };
    assert_eq!(after_opening(Some(64), Some(100)), below);
}
