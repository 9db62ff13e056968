use proptest::prelude::*;

use super::*;
use crate::testing::batch;

const NOW: Now = Now { wall: SystemTime::UNIX_EPOCH, monotonic: Duration::from_secs(50) };

/// Takes in a batch that is all of a cycle.
fn enqueue(ledger: &mut Ledger, batch: Batch) -> Option<Notice> {
    ledger.begin_cycle();
    ledger.enqueue(batch).pop()
}

fn failure(error_type: &'static str) -> Failure {
    Failure::exchange(error_type, "told".into(), "do this")
}

#[test]
fn an_outage_is_told_at_its_start_at_each_new_kind_of_failure_and_at_its_end() {
    let mut ledger = Ledger::new(100);
    ledger.enqueue(batch(10, 3));
    let mut told = Vec::new();
    for error_type in ["503", "503", "timeout", "503"] {
        ledger.take(false).unwrap();
        told.extend(ledger.put_back(failure(error_type), NOW));
    }
    let failing =
        |error_type| Notice::Failing { failure: failure(error_type), lost: 0, waiting: 3, place: None };
    assert_eq!(told, [failing("503"), failing("timeout")]);
    ledger.enqueue(batch(10, 4));
    ledger.take(false).unwrap();
    let later = Now { monotonic: Duration::from_secs(110), ..NOW };
    let told = ledger.accepted(Accepted::default(), later);
    assert_eq!(
        told,
        [Notice::Recovered {
            lasted: Duration::from_mins(1),
            lost: 0,
            waiting: 4,
            spooled: None,
            replaying: 0
        }]
    );
    ledger.take(false).unwrap();
    assert_eq!(ledger.accepted(Accepted::default(), later), []);
}

#[test]
fn what_an_outage_cost_is_told_at_its_end() {
    let mut ledger = Ledger::new(20);
    ledger.enqueue(batch(10, 1));
    ledger.take(false).unwrap();
    assert_eq!(
        ledger.refused(failure("401"), NOW),
        [Notice::Failing { failure: failure("401"), lost: 1, waiting: 0, place: None }]
    );
    assert_eq!(enqueue(&mut ledger, batch(20, 2)), None);
    assert_eq!(enqueue(&mut ledger, batch(20, 4)), Some(Notice::QueueFull { limit: 20 }));
    assert_eq!(enqueue(&mut ledger, batch(20, 8)), None);
    ledger.take(false).unwrap();
    let told = ledger.accepted(Accepted::default(), NOW);
    assert_eq!(
        told,
        [
            Notice::Recovered { lasted: Duration::ZERO, lost: 7, waiting: 0, spooled: None, replaying: 0 },
            Notice::QueueEmptied { lost: 6 }
        ]
    );
}

#[test]
fn points_that_cannot_be_put_into_their_form_are_counted_as_lost_and_told() {
    let mut ledger = Ledger::new(20);
    let told = ledger.lost(failure("compression"), 5, NOW);
    assert_eq!(
        told,
        Some(Notice::Failing { failure: failure("compression"), lost: 5, waiting: 0, place: None })
    );
    assert_eq!(ledger.stats(Duration::ZERO).dropped_points, [("compression".into(), 5)].into());
}

#[test]
fn a_remark_that_comes_again_is_not_told_again() {
    let mut ledger = Ledger::new(100);
    let mut answer = |rejected, message: &str| {
        ledger.enqueue(batch(1, 2));
        ledger.take(false).unwrap();
        ledger.accepted(Accepted { rejected, message: message.into(), ..Accepted::default() }, NOW)
    };
    assert_eq!(answer(1, ""), [Notice::Rejected { points: 1, message: String::new() }], "a loss is told");
    assert_eq!(answer(0, ""), []);
    assert_eq!(answer(0, "slow down"), [Notice::Remark { message: "slow down".into() }]);
    assert_eq!(answer(0, "slow down"), []);
}

#[test]
fn a_collector_that_takes_every_other_request_does_not_flood_the_log() {
    let mut ledger = Ledger::new(100);
    let mut told = Vec::new();
    for second in 0..1000 {
        ledger.enqueue(batch(1, 1));
        ledger.take(false).unwrap();
        let now = Now { monotonic: Duration::from_secs(second), ..NOW };
        told.extend(match second % 2 {
            0 => ledger.refused(failure("400"), now),
            _ => ledger.accepted(Accepted::default(), now),
        });
    }
    // And once more after ten minutes, with what was refused meanwhile.
    assert!(
        matches!(
            &told[..],
            [
                Notice::Failing { lost: 1, .. },
                Notice::Recovered { lost: 1, .. },
                Notice::Failing { lost: 1, .. },
                Notice::Recovered { lost: 1, .. },
                Notice::Refused { requests: 300, points: 300 },
            ]
        ),
        "{told:?}"
    );
    assert_eq!(ledger.stats(Duration::ZERO).dropped_points, [("400".into(), 500)].into());
}

#[test]
fn a_notice_says_what_to_do() {
    let waiting = Notice::Failing { failure: failure("503"), lost: 0, waiting: 9, place: None };
    assert_eq!(waiting.to_string(), "exchange failed: told; do this; 9 points wait, measuring goes on");
    let lost = Notice::Failing { failure: failure("401"), lost: 3, waiting: 9, place: None };
    assert_eq!(
        lost.to_string(),
        "request refused: told; do this; its 3 points are lost, measuring goes on; others like it are told \
         together while some get through"
    );
}

proptest! {
    #[test]
    fn every_point_is_sent_dropped_or_waiting(
        limit in 1usize..80,
        steps in proptest::collection::vec((0usize..40, 0u64..9, 0u8..6, 0u64..12, 0u8..3), 0..300),
    ) {
        let mut ledger = Ledger::new(limit);
        let mut enqueued = 0;
        let mut on_its_way: Option<Batch> = None;
        let mut cycle_bytes = 0;
        for (bytes, points, fate, rejected, begins) in steps {
            if begins == 0 {
                ledger.begin_cycle();
                cycle_bytes = 0;
            }
            cycle_bytes += bytes;
            enqueued += points;
            ledger.enqueue(batch(bytes, points));
            match (fate, on_its_way.take()) {
                (0, None) => on_its_way = ledger.take(false),
                (1, Some(_)) => {
                    ledger.accepted(Accepted { rejected, ..Accepted::default() }, NOW);
                }
                (2, Some(_)) => {
                    ledger.put_back(failure("503"), NOW);
                }
                (3, Some(_)) => {
                    ledger.refused(failure("404"), NOW);
                }
                (_, kept) => on_its_way = kept,
            }
            let stats = ledger.stats(Duration::ZERO);
            let dropped: u64 = stats.dropped_points.values().sum();
            prop_assert_eq!(enqueued, stats.sent_points + dropped + stats.waiting_points);
            let in_flight = on_its_way.as_ref().map_or(0, |batch| batch.body().len());
            prop_assert!(stats.waiting_bytes <= limit.max(cycle_bytes) + in_flight);
        }
    }
}
