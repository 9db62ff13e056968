use super::*;

const LEAST: Duration = Duration::from_millis(100);
const FAST: Duration = Duration::from_millis(5);

#[tokio::test(start_paused = true)]
async fn replaying_begins_slowly_and_gets_faster_down_to_the_least_pause() {
    let now = Instant::now();
    let mut pace = Pace::new(LEAST, now);
    assert_eq!(pace.next(), now + FIRST_PAUSE);
    let pauses: Vec<u128> = std::iter::repeat_with(|| {
        pace.succeeded(true, FAST, now);
        (pace.next() - now).as_millis()
    })
    .take(5)
    .collect();
    assert_eq!(pauses, [500, 250, 125, 100, 100]);
    let slow = Duration::from_secs(3);
    pace.succeeded(true, slow, now);
    assert_eq!(pace.next(), now + slow);
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_one_request_may_be_tried_and_then_it_begins_slowly_again() {
    let now = Instant::now();
    let mut pace = Pace::new(LEAST, now);
    pace.succeeded(true, FAST, now);
    pace.failed(now);
    assert_eq!(pace.next(), now);
    pace.succeeded(false, FAST, now);
    assert_eq!(pace.next(), now + FIRST_PAUSE);
    // More live data does not push it off.
    pace.succeeded(false, FAST, now + LEAST);
    assert_eq!(pace.next(), now + FIRST_PAUSE);
}
