use std::time::SystemTime;

use super::*;

/// Clocks that the test sets, and that count how often the CPU time was read.
#[derive(Default)]
struct Manual {
    cpu: Cell<Duration>,
    now: Cell<Duration>,
    readings: Cell<u32>,
}

impl Clock for Manual {
    fn monotonic(&self) -> Duration {
        self.now.get()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn since_boot(&self) -> Duration {
        self.monotonic()
    }

    fn cpu(&self) -> Duration {
        self.readings.set(self.readings.get() + 1);
        self.cpu.get()
    }
}

#[test]
fn it_ends_by_cpu_time_and_by_the_time_that_passes() {
    for (interval, cpu, elapsed) in
        [(100, 500, 750), (1_000, 500, 750), (4_000, 1_000, 3_000), (60_000, 4_000, 45_000)]
    {
        let [interval, cpu, elapsed] = [interval, cpu, elapsed].map(Duration::from_millis);
        for (used, passed, spent) in [
            (cpu.mul_f64(0.99), elapsed.mul_f64(0.99), false),
            (cpu, Duration::ZERO, true),
            (Duration::ZERO, elapsed, true),
        ] {
            let clock = Manual::default();
            let allowance = Allowance::of_interval(interval, &clock);
            clock.cpu.set(used);
            clock.now.set(passed);
            assert_eq!(allowance.is_spent(), spent, "{interval:?}: {used:?} in {passed:?}");
        }
    }
}

#[test]
fn the_clocks_are_read_once_in_a_thousand_units() {
    let clock = Manual::default();
    let allowance = Allowance::of_interval(Duration::from_secs(1), &clock);
    let before = clock.readings.get();
    for _ in 0..10_240 {
        assert!(!allowance.is_spent_after(1));
    }
    assert!((1..=11).contains(&(clock.readings.get() - before)), "{}", clock.readings.get());
    clock.cpu.set(Duration::from_secs(1));
    assert!((0..=UNITS_A_READING).any(|_| allowance.is_spent_after(1)));
    assert!(allowance.is_spent_after(1), "it stays spent");
}

#[test]
fn a_search_after_a_costly_dump_has_half_of_the_whole() {
    let clock = Manual::default();
    let allowance = Allowance::of_interval(Duration::from_secs(4), &clock);
    clock.cpu.set(Duration::from_millis(900));
    let search = allowance.for_search();
    clock.cpu.set(Duration::from_millis(1_399));
    assert!(!search.is_spent());
    clock.cpu.set(Duration::from_millis(1_400));
    assert!(search.is_spent());
    assert!(allowance.is_spent());
}
