use proptest::prelude::*;

use super::*;

#[test]
fn percentages_are_read_to_the_millionth() {
    for (text, parts) in [
        ("0%", 0),
        ("0.5%", 5_000),
        ("0.5 %", 5_000),
        ("100%", 1_000_000),
        ("1.2500000%", 12_500),
        ("0.0001%", 1),
    ] {
        assert_eq!(text.parse(), Ok(PercentText { parts_per_million: parts }), "{text}");
    }
}

#[test]
fn what_is_no_percentage_is_told_from_one_that_cannot_be() {
    for (text, error) in [
        ("0.5", PercentError::NoSign),
        ("", PercentError::Malformed),
        ("%", PercentError::Malformed),
        (".5%", PercentError::Malformed),
        ("5.%", PercentError::Malformed),
        ("-1%", PercentError::Malformed),
        ("1e3%", PercentError::Malformed),
        ("0.5  %", PercentError::Malformed),
        ("0.00001%", PercentError::TooFine),
        ("100.0001%", PercentError::TooMuch),
        ("99999999999%", PercentError::TooMuch),
    ] {
        assert_eq!(text.parse::<PercentText>(), Err(error), "{text}");
    }
}

proptest! {
    #[test]
    fn every_percentage_is_read_as_it_is_written(parts_per_million in 0_u32..=1_000_000) {
        let percent = PercentText { parts_per_million };
        prop_assert_eq!(percent.to_string().parse(), Ok(percent));
    }
}
