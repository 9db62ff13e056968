use super::*;

const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

#[test]
fn a_share_is_of_the_time_that_passes() {
    assert_eq!(CpuShare::default().of(Duration::from_secs(1)), millis(5));
    assert_eq!(CpuShare::from_parts_per_million(1_000_000).of(millis(7)), millis(7));
    assert_eq!(CpuShare::from_parts_per_million(u32::MAX), CpuShare::from_parts_per_million(1_000_000));
}

#[test]
fn what_walks_take_is_on_average_no_more_than_the_share() {
    for cost in [millis(1), millis(90), millis(290)] {
        let mut budget = Budget::new(CpuShare::default(), Duration::ZERO);
        let mut spent = Duration::ZERO;
        let end = Duration::from_hours(1);
        let mut now = Duration::ZERO;
        while now < end {
            now += millis(100);
            if budget.allows(now) {
                budget.pay(cost);
                spent += cost;
            }
        }
        let share = CpuShare::default().of(end);
        assert!(spent <= share + cost, "{spent:?} of {share:?}");
        let cycles = share.min(cost * 36_000);
        assert!(spent + 2 * cost >= cycles, "the share is used: {spent:?} of {cycles:?}");
    }
}

#[test]
fn nothing_is_earned_by_an_empty_share_and_little_is_saved_up() {
    let mut none = Budget::new(CpuShare::from_parts_per_million(0), Duration::ZERO);
    assert!(!none.allows(Duration::from_secs(1_000_000)));

    let mut idle = Budget::new(CpuShare::default(), Duration::ZERO);
    assert!(idle.allows(Duration::from_hours(1)));
    idle.pay(millis(51));
    assert!(!idle.allows(Duration::from_hours(1)), "ten seconds' share was saved, not an hour's");
    assert!(idle.allows(Duration::from_secs(3_601)));
}

#[test]
fn a_time_of_costly_walks_leaves_no_debt_that_outlasts_it_by_more_than_a_minute() {
    let mut budget = Budget::new(CpuShare::default(), Duration::ZERO);
    // A link flapped for ten minutes, and each time was walked for at once.
    for second in 1..=600 {
        budget.allows(Duration::from_secs(second));
        budget.pay(millis(100));
    }
    assert!(!budget.allows(Duration::from_secs(659)));
    assert!(budget.allows(Duration::from_secs(661)));
}
