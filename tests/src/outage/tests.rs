use std::time::Duration;

use super::{ATTEMPTS, Attempt, settle};

const QUIET: (bool, bool) = (false, false);
const BUSY: (bool, bool) = (true, true);
const CONTENDED: (bool, bool) = (false, true);

/// Settles with attempts that pass or not on such a machine, and returns how many were made.
fn settled(attempts: &[(bool, (bool, bool))]) -> (Result<(), String>, usize) {
    let mut made = 0;
    let settled = settle(|| {
        let (passes, (is_busy, is_contended)) = attempts[made];
        made += 1;
        let outcome = if passes { Ok(()) } else { Err(format!("failure {made}")) };
        Attempt { outcome, stalled: Duration::from_millis(300), is_busy, is_contended }
    });
    (settled, made)
}

#[test]
fn a_row_passes_or_fails_by_the_first_attempt_that_proves_something() {
    assert_eq!(settled(&[(true, QUIET)]), (Ok(()), 1));
    assert_eq!(settled(&[(true, BUSY), (false, BUSY), (true, QUIET)]), (Ok(()), 3));
    assert_eq!(settled(&[(true, BUSY), (false, QUIET)]), (Err("failure 2".to_owned()), 2));
    assert_eq!(settled(&[(false, CONTENDED), (true, CONTENDED)]), (Ok(()), 2));
}

#[test]
fn a_row_fails_that_no_attempt_proved_and_tells_what_each_came_to() {
    let (settled, made) = settled(&[(true, BUSY), (false, BUSY), (false, CONTENDED)]);
    let told = settled.unwrap_err();
    assert_eq!(made, ATTEMPTS);
    for part in ["too busy 3 times", "processors: passed, but not all", "processors: failure 3"] {
        assert!(told.contains(part), "{told}");
    }
}
