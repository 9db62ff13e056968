use proptest::prelude::*;

use super::*;
use crate::process::Pid;

/// A process by its number, its start, and its CPU time in user mode and in the kernel, in hundredths of a second.
fn process(pid: u32, started: u64, user: u64, system: u64) -> ProcessUsage {
    let ticks = |ticks: u64| Duration::from_millis(ticks * 10);
    ProcessUsage {
        pid: Pid(pid),
        started: ticks(started),
        user: ticks(user),
        system: ticks(system),
        resident_bytes: 4096,
        virtual_bytes: 8192,
    }
}

/// A meter, and looks at it, each at a moment in hundredths of a second.
#[derive(Default)]
struct Looks(Meter);

impl Looks {
    /// The totals after a look at these processes.
    fn at(&mut self, began: u64, processes: &[ProcessUsage]) -> (u64, u64) {
        self.0.take_in(Some(processes), Duration::from_millis(began * 10));
        self.total()
    }

    fn total(&self) -> (u64, u64) {
        let ticks = |time: Duration| u64::try_from(time.as_millis()).unwrap() / 10;
        (ticks(self.0.total().user), ticks(self.0.total().system))
    }
}

#[test]
fn what_was_used_before_the_first_look_does_not_count_and_what_is_added_does() {
    let mut looks = Looks::default();
    assert_eq!(looks.at(1_000, &[process(7, 10, 500, 60), process(8, 20, 40, 3)]), (0, 0));
    assert_eq!(looks.at(1_100, &[process(7, 10, 510, 60), process(8, 20, 41, 5)]), (11, 2));
    assert_eq!(looks.at(1_200, &[process(8, 20, 41, 5), process(7, 10, 511, 61)]), (12, 3), "in any order");
}

#[test]
fn a_process_that_began_after_the_last_look_counts_with_all_that_it_used() {
    let mut looks = Looks::default();
    assert_eq!(looks.at(1_000, &[]), (0, 0));
    assert_eq!(looks.at(1_100, &[process(7, 1_050, 30, 4)]), (30, 4));
    // The start is told to a tick, and rounded down.
    assert_eq!(looks.at(1_200, &[process(7, 1_050, 30, 4), process(8, 1_100, 5, 1)]), (35, 5));
}

#[test]
fn one_that_begins_to_fit_while_it_runs_counts_from_then_on() {
    let mut looks = Looks::default();
    looks.at(1_000, &[]);
    assert_eq!(looks.at(1_100, &[process(7, 900, 9_000, 800)]), (0, 0));
    assert_eq!(looks.at(1_200, &[process(7, 900, 9_003, 801)]), (3, 1));
    assert_eq!(looks.at(1_300, &[]), (3, 1), "it ceased to fit");
    assert_eq!(looks.at(1_400, &[process(7, 900, 9_900, 900)]), (3, 1), "and fits again");
}

#[test]
fn an_end_takes_nothing_away_and_a_number_that_is_given_again_is_another_process() {
    let mut looks = Looks::default();
    looks.at(1_000, &[process(7, 10, 100, 10), process(8, 10, 100, 10)]);
    assert_eq!(looks.at(1_100, &[process(7, 10, 150, 15), process(8, 10, 100, 10)]), (50, 5));
    assert_eq!(looks.at(1_200, &[process(8, 10, 101, 10)]), (51, 5));
    // Less than its predecessor had, and all of it new.
    assert_eq!(looks.at(1_300, &[process(7, 1_250, 20, 2), process(8, 10, 101, 10)]), (71, 7));
    // More than its predecessor had: not the difference, but all.
    assert_eq!(looks.at(1_400, &[process(7, 1_350, 30, 3), process(8, 10, 101, 10)]), (101, 10));
    // One that was renamed, under the number of one that is gone.
    assert_eq!(looks.at(1_500, &[process(7, 5, 9_999, 999), process(8, 10, 101, 10)]), (101, 10));
}

#[test]
fn a_reading_that_falls_takes_nothing_away_and_is_not_counted_twice_when_it_is_made_up_for() {
    let mut looks = Looks::default();
    looks.at(1_000, &[process(7, 10, 100, 50)]);
    assert_eq!(looks.at(1_100, &[process(7, 10, 90, 60)]), (0, 10));
    assert_eq!(looks.at(1_200, &[process(7, 10, 100, 60)]), (0, 10));
    assert_eq!(looks.at(1_300, &[process(7, 10, 101, 60)]), (1, 10));
}

#[test]
fn a_look_that_tells_nothing_leaves_a_gap_that_the_next_fills() {
    let mut looks = Looks::default();
    looks.at(1_000, &[process(7, 10, 100, 10)]);
    assert!(looks.0.present().is_some());
    looks.0.take_in(None, Duration::from_secs(11));
    assert_eq!((looks.0.present(), looks.total()), (None, (0, 0)));
    assert_eq!(looks.at(1_200, &[process(7, 10, 120, 10), process(8, 1_050, 4, 0)]), (24, 0));
}

#[test]
fn memory_is_that_of_the_processes_of_now_and_absurd_numbers_stay_in_bounds() {
    let mut looks = Looks::default();
    looks.at(1_000, &[process(7, 10, 1, 1), process(8, 10, 1, 1)]);
    let both = Usage {
        user: Duration::from_millis(20),
        system: Duration::from_millis(20),
        resident_bytes: 8192,
        virtual_bytes: 16384,
    };
    assert_eq!(looks.0.present(), Some(both));
    looks.at(1_100, &[]);
    assert_eq!(looks.0.present(), Some(Usage::default()));
    let most = ProcessUsage {
        user: Duration::MAX,
        system: Duration::MAX,
        started: Duration::MAX,
        resident_bytes: u64::MAX,
        virtual_bytes: u64::MAX,
        ..process(1, 0, 0, 0)
    };
    looks.0.take_in(Some(&[most, ProcessUsage { pid: Pid(2), ..most }]), Duration::from_secs(12));
    assert_eq!(looks.0.total(), CpuTime { user: Duration::MAX, system: Duration::MAX });
    assert_eq!(looks.0.present().unwrap().resident_bytes, u64::MAX);
}

/// A step in the life of one process of a few: it works, replaces its program or name, or ends and is followed by another.
#[derive(Debug, Clone)]
enum Step {
    Work { place: usize, ticks: u64 },
    Rename { place: usize },
    Replace { place: usize },
    Look,
    FailedLook,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_usize, 0..500_u64).prop_map(|(place, ticks)| Step::Work { place, ticks }),
        1 => (0..4_usize).prop_map(|place| Step::Rename { place }),
        1 => (0..4_usize).prop_map(|place| Step::Replace { place }),
        3 => Just(Step::Look),
        1 => Just(Step::FailedLook),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    /// Beside a world that knows when each hundredth of a second was used, and by whom.
    #[test]
    fn the_total_never_goes_backwards_and_never_tells_of_more_than_was_used_since_the_first_look(steps in steps()) {
        // Each has the same few numbers, in turn: a start, CPU time, and whether it fits.
        let mut world: Vec<(u64, u64, bool)> = (0..4).map(|place| (place, 1_000 * place, place % 2 == 0)).collect();
        let (mut now, mut looks, mut used, mut has_begun, mut before) = (10_000, Looks::default(), 0, false, 0);
        for step in steps {
            now += 100;
            match step {
                Step::Work { place, ticks } => {
                    world[place].1 += ticks;
                    used += if has_begun { ticks } else { 0 };
                }
                Step::Rename { place } => world[place].2 = !world[place].2,
                Step::Replace { place } => world[place] = (now, 0, true),
                Step::FailedLook => looks.0.take_in(None, Duration::from_millis(now * 10)),
                Step::Look => {
                    let fit = world.iter().enumerate().filter(|(_, (_, _, fits))| *fits);
                    let fit: Vec<ProcessUsage> = fit
                        .map(|(place, (started, ticks, _))| process(u32::try_from(place).unwrap(), *started, *ticks, 0))
                        .collect();
                    let (total, _) = looks.at(now, &fit);
                    prop_assert!(total >= before && total <= used, "{before} {total} {used}");
                    has_begun = true;
                    before = total;
                }
            }
        }
    }

    #[test]
    fn where_all_fit_and_none_ends_nothing_that_was_used_is_left_out(work in proptest::collection::vec((0..4_usize, 0..500_u64), 0..50)) {
        let (mut ticks, mut looks, mut used) = ([7, 70, 700, 0], Looks::default(), 0);
        let all = |ticks: [u64; 4]| -> Vec<ProcessUsage> {
            (0..4).zip(ticks).map(|(pid, ticks)| process(pid, 5, 0, ticks)).collect()
        };
        looks.at(1_000, &all(ticks));
        for (now, (place, more)) in (1_100..).step_by(100).zip(work) {
            ticks[place] += more;
            used += more;
            prop_assert_eq!(looks.at(now, &all(ticks)), (0, used));
        }
    }
}
