use proptest::prelude::*;

use super::*;

fn milliseconds(text: &str) -> Result<u128, DurationError> {
    text.parse::<DurationText>().map(|duration| duration.0.as_millis())
}

#[test]
fn whole_units_add_up() {
    assert_eq!(milliseconds("15s"), Ok(15_000));
    assert_eq!(milliseconds("1m30s"), Ok(90_000));
    assert_eq!(milliseconds("500ms"), Ok(500));
    assert_eq!(milliseconds("1h1m1s1ms"), Ok(3_661_001));
}

#[test]
fn anything_but_whole_units_is_refused_with_its_reason() {
    assert_eq!(milliseconds("15"), Err(DurationError::NoUnit));
    assert_eq!(milliseconds("1m30"), Err(DurationError::NoUnit));
    assert_eq!(milliseconds("30s1m"), Err(DurationError::Order));
    assert_eq!(milliseconds("1s1s"), Err(DurationError::Order));
    assert_eq!(milliseconds("99999999999999999999s"), Err(DurationError::Overflow));
    assert_eq!(milliseconds("9999999999999999999h"), Err(DurationError::Overflow));
    for text in ["", "s", "-1s", "+1s", "1.5s", "1 s", " 1s", "1d", "1S", "1sec", "1s ", "1µs", "1s-"] {
        assert_eq!(milliseconds(text), Err(DurationError::Malformed), "{text:?}");
    }
}

proptest! {
    #[test]
    fn what_is_printed_reads_as_the_same_duration(milliseconds in 0..=u64::MAX) {
        let duration = DurationText(Duration::from_millis(milliseconds));
        prop_assert_eq!(duration.to_string().parse::<DurationText>(), Ok(duration));
    }

    #[test]
    fn no_text_panics(text in ".*") {
        let _read = text.parse::<DurationText>();
    }
}
