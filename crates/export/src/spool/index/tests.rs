use super::*;

const HOUR: Duration = Duration::from_hours(1);
const BOUNDS: Bounds = Bounds { bytes: 10_000, age: Duration::from_hours(24) };

fn name(sequence: u64) -> Name {
    Name { sequence, unix_ms: 1_700_000_000_000, points: 10 + sequence }
}

fn entry(sequence: u64, born: Duration) -> Entry {
    Entry { name: name(sequence), disk_bytes: 4096, born_ms: signed_ms(born), is_earlier: false }
}

fn sequences(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.name.sequence).collect()
}

#[test]
fn names_are_read_as_they_are_written_and_no_others() {
    let written = name(42).to_string();
    assert_eq!(written, "00000000000000000042-1700000000000-52.otlp");
    assert_eq!(Name::parse(&written), Some(name(42)));
    for other in [
        "lock",
        "42-1700000000000-52.otlp",
        "00000000000000000042-1700000000000-+5.otlp",
        "a-b-c.otlp",
        "00000000000000000042-1700000000000-52-1.otlp",
        "99999999999999999999-1-1.otlp",
        "18446744073709551615-1-1.otlp",
        "00000000000000000042-1-18446744073709551615.otlp",
        ".otlp",
        "",
    ] {
        assert_eq!(Name::parse(other), None, "{other}");
    }
}

#[test]
fn the_oldest_make_room_and_no_more_of_them_than_needed() {
    let mut index = Index::default();
    for sequence in [3, 1, 2] {
        assert_eq!(index.make_room(0, BOUNDS), []);
        index.insert(entry(sequence, HOUR));
    }
    assert_eq!(sequences(&index.make_room(1000, BOUNDS)), [1]);
    assert_eq!((index.requests(), index.points(), index.disk_bytes()), (2, 25, 8192));
    assert_eq!(sequences(&index.make_room(20_000, BOUNDS)), [2, 3]);
}

#[test]
fn what_is_too_old_goes() {
    let mut index = Index::default();
    index.insert(entry(1, HOUR));
    index.insert(entry(2, 2 * HOUR));
    assert_eq!(index.expire(25 * HOUR, BOUNDS), []);
    assert_eq!(index.oldest_age(25 * HOUR), Some(24 * HOUR));
    assert_eq!(sequences(&index.expire(25 * HOUR + Duration::from_millis(1), BOUNDS)), [1]);
}

#[test]
fn what_is_too_old_goes_also_when_the_clock_was_set_back_between_two_runs() {
    let mut index = Index::default();
    index.insert(entry(1, 3 * HOUR));
    index.insert(entry(2, HOUR));
    index.insert(entry(3, 2 * HOUR));
    assert_eq!(index.oldest_age(25 * HOUR), Some(24 * HOUR));
    assert_eq!(sequences(&index.expire(25 * HOUR + Duration::from_millis(1), BOUNDS)), [2]);
    assert_eq!(index.next_behind(None).unwrap().name.sequence, 1, "the order of sending is that of writing");
}

#[test]
fn two_files_with_one_number_are_two_records() {
    let mut index = Index::default();
    let other = Entry { name: Name { unix_ms: 7, ..name(1) }, ..entry(1, HOUR) };
    index.insert(entry(1, HOUR));
    index.insert(other);
    assert_eq!((index.requests(), index.disk_bytes(), index.points()), (2, 8192, 22));
    assert_eq!(index.next_behind(None), Some(&other));
    assert_eq!(index.next_behind(Some(other.name)), Some(&entry(1, HOUR)));
    // The same one again.
    index.insert(other);
    assert_eq!((index.requests(), index.disk_bytes(), index.points()), (2, 8192, 22));
}

#[test]
fn a_clock_that_is_wrong_at_the_start_makes_no_record_older_than_an_hour_before_its_end() {
    let start = Duration::from_secs(5);
    let age = |wall_ms| {
        let born = born_ms(name(1), wall_ms, start, BOUNDS.age);
        Duration::from_millis(u64::try_from(signed_ms(start) - born).unwrap())
    };
    let written = name(1).unix_ms;
    assert_eq!(age(written + 3_600_000), HOUR);
    // From the future, and by a clock that is a year ahead.
    assert_eq!(age(written - 3_600_000), Duration::ZERO);
    assert_eq!(age(0), Duration::ZERO);
    assert_eq!(age(written + 365 * 24 * 3_600_000), 23 * HOUR);
    assert_eq!(age(u64::MAX), 23 * HOUR);
}

#[test]
fn the_next_record_is_found_behind_another_and_then_from_the_front_again() {
    let mut index = Index::default();
    index.insert(entry(1, HOUR));
    index.insert(entry(5, HOUR));
    let next = |behind| index.next_behind(behind).map(|entry| entry.name.sequence);
    assert_eq!(
        (next(None), next(Some(name(1))), next(Some(name(5))), next(Some(name(u64::MAX / 2)))),
        (Some(1), Some(5), Some(1), Some(1))
    );
}
