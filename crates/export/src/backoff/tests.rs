use proptest::prelude::*;

use super::*;

const BACKOFF: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(30) };

#[test]
fn waits_double_up_to_the_largest() {
    let longest: Vec<u64> =
        (1..=7).map(|failures| wait(BACKOFF, failures, None, JITTER_STEPS).as_secs()).collect();
    assert_eq!(longest, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn what_the_collector_asks_for_is_a_least_and_an_hour_the_most() {
    let day = Duration::from_hours(24);
    assert_eq!(wait(BACKOFF, 1, Some(Duration::from_secs(90)), 0), Duration::from_secs(90));
    assert_eq!(wait(BACKOFF, 6, Some(Duration::from_secs(1)), 0), Duration::from_secs(15));
    assert_eq!(wait(BACKOFF, 1, Some(day), 0), MAX_WAIT);
}

proptest! {
    #[test]
    fn no_configuration_and_no_collector_makes_it_panic_or_wait_beyond_the_bound(
        initial: Duration, max: Duration, failures: u32, asked: Option<Duration>, jitter in 0..=JITTER_STEPS,
    ) {
        let waited = wait(Backoff { initial, max }, failures, asked, jitter);
        prop_assert!(waited <= MAX_WAIT + MAX_WAIT / 10);
        prop_assert!(waited >= asked.unwrap_or_default().min(MAX_WAIT));
    }

    #[test]
    fn jitter_stays_in_the_upper_half(failures in 1u32..100, jitter in 0..=JITTER_STEPS) {
        let longest = wait(BACKOFF, failures, None, JITTER_STEPS);
        let waited = wait(BACKOFF, failures, None, jitter);
        prop_assert!(waited >= longest / 2 && waited <= longest);
    }
}
