use super::*;
use proptest::prelude::*;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn the_cadence_does_not_drift_however_late_each_look_begins() {
    let mut schedule = Schedule::new(ms(0), ms(300), [ms(1000)]);
    for (turn, lateness) in [0, 3, 49, 12, 7].into_iter().enumerate() {
        let expected = ms(300 + 1000 * u64::try_from(turn).unwrap());
        assert_eq!(schedule.next(), Some(expected));
        let due = schedule.take_due(expected + ms(lateness)).unwrap();
        assert_eq!((due.at, due.late, due.skipped), (expected, false, 0));
    }
}

#[test]
fn intervals_that_divide_each_other_share_a_look() {
    let mut schedule = Schedule::new(ms(10), ms(123_456), [ms(15_000), ms(5_000), ms(15_000)]);
    let mut looks = Vec::new();
    for _ in 0..6 {
        let next = schedule.next().unwrap();
        looks.push(schedule.take_due(next).unwrap().entries);
    }
    assert_eq!(looks.iter().filter(|entries| **entries == [0, 1, 2]).count(), 2);
    assert_eq!(looks.iter().filter(|entries| **entries == [1]).count(), 4);
}

#[test]
fn an_overrun_skips_and_counts_and_never_piles_up() {
    let mut schedule = Schedule::new(ms(0), ms(0), [ms(100)]);
    assert_eq!(schedule.take_due(ms(0)).unwrap().skipped, 0);
    let due = schedule.take_due(ms(450)).unwrap();
    assert_eq!((due.at, due.skipped, due.late), (ms(400), 3, true));
    assert_eq!(schedule.take_due(ms(460)), None, "what was skipped is not made up for");
    assert_eq!(schedule.next(), Some(ms(500)));
}

#[test]
fn lateness_counts_from_five_percent_of_the_interval() {
    let mut schedule = Schedule::new(ms(0), ms(0), [ms(100)]);
    assert!(!schedule.take_due(ms(5)).unwrap().late);
    assert!(schedule.take_due(ms(106)).unwrap().late);
}

#[test]
fn a_schedule_made_anew_in_mid_run_keeps_the_cadence() {
    let before = Schedule::new(ms(0), ms(700), [ms(1000)]);
    let after = Schedule::new(ms(5_100), ms(700), [ms(1000), ms(200)]);
    assert_eq!(before.next(), Some(ms(700)));
    assert_eq!(after.groups[&ms(1000)].next, ms(5_700));
}

#[test]
fn what_falls_due_while_a_schedule_is_made_anew_is_not_left_out() {
    let mut before = Schedule::new(ms(0), ms(700), [ms(1000)]);
    before.take_due(ms(710)).unwrap();
    let mut after = before.remade(ms(1_720), ms(700), [ms(1000), ms(1000)]);
    let due = after.take_due(ms(1_720)).unwrap();
    assert_eq!((due.at, due.entries, due.skipped), (ms(1_700), vec![0, 1], 0));
    // What is not due yet is no earlier for it.
    assert_eq!(after.remade(ms(2_000), ms(700), [ms(1000)]).next(), Some(ms(2_700)));
}

#[test]
fn nothing_scheduled_is_never_due() {
    let mut schedule = Schedule::new(ms(0), ms(0), []);
    assert_eq!(schedule.next(), None);
    assert_eq!(schedule.take_due(ms(u64::MAX / 2)), None);
}

proptest! {
    #[test]
    fn every_entry_falls_due_on_its_own_grid_and_none_is_lost(
        phase in 0_u64..100_000,
        start in 0_u64..1_000_000,
        intervals in proptest::collection::vec(1_u64..5_000, 1..6),
        delays in proptest::collection::vec(0_u64..20_000, 1..40),
    ) {
        let mut schedule = Schedule::new(ms(start), ms(phase), intervals.iter().copied().map(ms));
        let mut now = start;
        let mut served = vec![0_u64; intervals.len()];
        let mut skipped = 0;
        for delay in delays {
            now += delay;
            if let Some(due) = schedule.take_due(ms(now)) {
                skipped += due.skipped;
                for entry in due.entries {
                    served[entry] += 1;
                }
            }
            prop_assert!(schedule.next().unwrap() > ms(now));
        }
        let mut distinct = intervals.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let moments = |interval: u64| {
            let remainder = phase % interval;
            let until = |end: u64| if end < remainder { 0 } else { (end - remainder) / interval + 1 };
            until(now) - start.checked_sub(1).map_or(0, until)
        };
        let total: u64 = distinct.iter().map(|interval| moments(*interval)).sum();
        let served_groups: u64 = distinct
            .iter()
            .map(|interval| served[intervals.iter().position(|other| other == interval).unwrap()])
            .sum();
        prop_assert_eq!(served_groups + skipped, total);
    }
}
